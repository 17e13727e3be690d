//! What a replica changes while it runs.
//!
//! * Timings, the delay before it campaigns, the snapshot policy, and the limits of what waits here.
//! * Everything else is sized when a group is opened, or is replicated state: it is refused by name, not ignored.

use quorate_core::{Config, ConfigError};

use crate::config::{GroupConfig, SnapshotPolicy};
use crate::replica::Replica;
use crate::request::RequestError;

const AS_IT_WAS: &str = "as it was: it takes effect when the group is opened";

impl Replica {
    /// Behaves by `config` from now on, or not at all.
    pub(crate) fn reconfigure(&mut self, config: GroupConfig) -> Result<(), RequestError> {
        let wrong = |ConfigError { field, must }| RequestError::Config { field, must };
        if let Some(field) = fixed_field_that_differs(&self.config, &config) {
            return Err(RequestError::Config { field, must: AS_IT_WAS });
        }
        config.snapshots.validate().map_err(wrong)?;
        config.core.validate().map_err(wrong)?;
        self.core.set_timings(config.core.election_timeout, config.core.heartbeat_interval).map_err(wrong)?;
        self.core.set_election_delay(config.core.election_delay);
        self.config = config;
        Ok(())
    }
}

/// The first field that differs and may not.
fn fixed_field_that_differs(before: &GroupConfig, after: &GroupConfig) -> Option<&'static str> {
    let core = Config {
        election_timeout: before.core.election_timeout,
        heartbeat_interval: before.core.heartbeat_interval,
        election_delay: before.core.election_delay,
        ..after.core.clone()
    };
    let chunk_bytes = |snapshots: &SnapshotPolicy| snapshots.chunk_bytes;
    let same = [
        (core == before.core, "a limit of core"),
        (after.sessions == before.sessions, "sessions"),
        (chunk_bytes(&after.snapshots) == chunk_bytes(&before.snapshots), "snapshots.chunk_bytes"),
    ];
    same.into_iter().find(|(same, _)| !same).map(|(_, field)| field)
}
