//! Who may have how many of the process's file descriptors, so that no one's connections take those
//! of another.
//!
//! ```text
//!   RLIMIT_NOFILE │ log, engine, outbound │ peers │ strangers (peer port) │ refusals │ clients … │
//! ```
//!
//! * Clients get what the others leave, and no more than 4,096 unless more is asked for. Peers and
//!   files are never short because of clients.
//! * The program raises its soft limit before (`serve`); this only reads it. Several servers in one
//!   process do not know of each other.

use rustix::process::{Resource, getrlimit};

use crate::config::ServerConfig;
use crate::listener::TOLD_MAX;
use crate::server::StartError;

/// Connections of clients, where nobody says how many.
const CLIENTS_DEFAULT: usize = 4096;
/// Fewer descriptors are enough for a few clients only.
const ENOUGH: usize = 256;

/// How many connections of each kind there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Of clients.
    pub(crate) clients: usize,
    /// Of peers, to this node.
    pub(crate) peers: usize,
    /// At the peer port, of whoever has not said who it is.
    pub(crate) strangers: usize,
}

impl Shares {
    /// What `limit` descriptors are enough for.
    fn of(limit: usize) -> Self {
        let files = (limit / 2).min(256);
        let (peers, strangers) = ((limit / 8).clamp(8, 1024), (limit / 16).clamp(4, 256));
        let clients = limit.saturating_sub(files + peers + strangers + TOLD_MAX).max(4);
        Self { clients, peers, strangers }
    }

    /// What a server may have, with as many clients as it asks for.
    ///
    /// # Errors
    /// That is more than there are descriptors for.
    pub(crate) fn new(config: &ServerConfig) -> Result<Self, StartError> {
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if limit < ENOUGH {
            tracing::warn!("this process may open {limit} files only; {ENOUGH} are needed (ulimit -n)");
        }
        let shares = Self::of(limit);
        let clients = match config.limits.connections_max {
            None => shares.clients.min(CLIENTS_DEFAULT),
            Some(asked) if asked <= shares.clients => asked,
            Some(asked) => {
                return Err(StartError::InvalidConfig {
                    flag: "--client-connections-max",
                    problem: format!(
                        "this process may open {limit} files, which is enough for {} connections of clients, not for \
                         {asked}: raise the limit (ulimit -n, LimitNOFILE=) or write a smaller number",
                        shares.clients
                    ),
                });
            }
        };
        Ok(Self { clients, ..shares })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_something_and_together_it_is_not_more_than_there_is() {
        for limit in [64, 256, 1024, 4096, 1 << 20] {
            let Shares { clients, peers, strangers } = Shares::of(limit);
            assert!(clients >= 4 && peers >= 8 && strangers >= 4, "{limit}");
            let rest = limit - (clients + peers + strangers + TOLD_MAX);
            assert!(rest >= (limit / 2).min(256), "{limit}: {rest} are left for files");
        }
        assert_eq!(Shares::of(1024), Shares { clients: 560, peers: 128, strangers: 64 });
        assert_eq!(Shares::of(16).clients, 4, "whatever it is");
    }
}
