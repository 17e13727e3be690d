//! Which node to ask: the leader if it is known and can be reached, otherwise one after the other.
//!
//! ```text
//!   endpoints  a  b  c        no hint: a, and after each failure the next one
//!                  ▲
//!                 next        hint "c leads": c, until it fails or says otherwise
//! ```
//!
//! A hint that cannot be reached (another network, a dead leader) is not followed for a while; until then
//! requests allow being forwarded, so that any node that can be reached is enough.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ConnectError;

/// For how long an unreachable hint is not followed.
const UNREACHABLE_FOR: Duration = Duration::from_secs(1);

/// The nodes a client knows.
#[derive(Debug)]
pub(crate) struct Targets {
    endpoints: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: usize,
    leader: Option<String>,
    unreachable: Option<(String, Instant)>,
}

/// Whom to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `host:port`.
    pub(crate) address: String,
    /// Ask it to pass the request on if it does not lead; otherwise it should say who does.
    pub(crate) forward: bool,
}

impl Targets {
    pub(crate) fn new(endpoints: Vec<String>) -> Self {
        Self { endpoints, state: Mutex::default() }
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Whom to ask now.
    pub(crate) fn choose(&self, now: Instant) -> Target {
        let mut state = self.lock();
        if state.unreachable.as_ref().is_some_and(|(_, since)| now.duration_since(*since) >= UNREACHABLE_FOR)
        {
            state.unreachable = None;
        }
        let forward = state.unreachable.is_some();
        let address = match &state.leader {
            Some(leader) => leader.clone(),
            None => self.endpoints[state.next % self.endpoints.len()].clone(),
        };
        Target { address, forward }
    }

    /// `asked` says that the node at `leader` leads (empty: it does not know).
    pub(crate) fn on_not_leader(&self, asked: &str, leader: &str) {
        let mut state = self.lock();
        let followable = !leader.is_empty()
            && leader != asked
            && state.unreachable.as_ref().is_none_or(|(address, _)| address != leader);
        if followable {
            state.leader = Some(leader.to_owned());
        } else if state.leader.as_deref() == Some(asked) {
            state.leader = None;
        } else if leader.is_empty() {
            state.next = state.next.wrapping_add(1);
        }
    }

    /// `asked` cannot be reached or cannot serve.
    pub(crate) fn on_failed(&self, asked: &str, now: Instant) {
        let mut state = self.lock();
        if state.leader.as_deref() == Some(asked) {
            state.leader = None;
            state.unreachable = Some((asked.to_owned(), now));
        }
        if self.endpoints[state.next % self.endpoints.len()] == asked {
            state.next = state.next.wrapping_add(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings an endpoint into the form `host:port`.
pub(crate) fn parse_endpoint(text: &str) -> Result<String, ConnectError> {
    let wrong = |problem| ConnectError::MalformedEndpoint { endpoint: text.to_owned(), problem };
    let rest = text.trim();
    let rest = rest.strip_prefix("http://").unwrap_or(rest);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains("://") {
        return Err(wrong("only http:// is spoken"));
    }
    if rest.contains(['/', '?', '#', '@', ' ']) {
        return Err(wrong("it holds more than an address"));
    }
    let Some((host, port)) = rest.rsplit_once(':') else {
        return Err(wrong("the port is missing"));
    };
    if host.is_empty() {
        return Err(wrong("the host is missing"));
    }
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err(wrong("an IPv6 address needs brackets, e.g. [::1]:8001"));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(format!("{host}:{port}")),
        Ok(_) | Err(_) => Err(wrong("the port is not a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Targets {
        Targets::new(vec!["a:1".to_owned(), "b:1".to_owned()])
    }

    #[test]
    fn failures_move_on_and_hints_are_followed_until_they_fail() {
        let (targets, now) = (targets(), Instant::now());
        let to = |address: &str, forward| Target { address: address.to_owned(), forward };
        assert_eq!(targets.choose(now), to("a:1", false));
        targets.on_failed("a:1", now);
        assert_eq!(targets.choose(now), to("b:1", false));
        targets.on_not_leader("b:1", "c:1");
        assert_eq!(targets.choose(now), to("c:1", false));
        // The leader died: ask b again, which may forward, and do not follow its stale hint.
        targets.on_failed("c:1", now);
        assert_eq!(targets.choose(now), to("b:1", true));
        targets.on_not_leader("b:1", "c:1");
        assert_eq!(targets.choose(now), to("b:1", true));
        targets.on_not_leader("b:1", "a:1");
        assert_eq!(targets.choose(now + UNREACHABLE_FOR), to("a:1", false));
    }

    #[test]
    fn a_node_that_knows_no_leader_is_not_asked_forever() {
        let (targets, now) = (targets(), Instant::now());
        targets.on_not_leader("a:1", "");
        assert_eq!(targets.choose(now).address, "b:1");
    }

    #[test]
    fn endpoints_are_host_and_port() {
        assert_eq!(parse_endpoint(" http://127.0.0.1:8001/ ").unwrap(), "127.0.0.1:8001");
        assert_eq!(parse_endpoint("[::1]:80").unwrap(), "[::1]:80");
        for wrong in ["", "host", "host:", ":80", "host:0", "host:65536", "https://h:1", "::1:80", "h:1/path"]
        {
            let error = parse_endpoint(wrong).unwrap_err().to_string();
            assert!(error.contains("host:port"), "{wrong}: {error}");
        }
    }
}
