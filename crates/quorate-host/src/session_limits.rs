//! Limits of the session table are the group's, not a node's: they decide what is applied twice.
//!
//! ```text
//!   leader's configuration ≠ the group's limits ──► Limits entry ──► every table, at the same position
//! ```
//!
//! * A group begins with the defaults. A table follows the log alone: two nodes that are configured differently still
//!   know the same sessions.
//! * A leader brings in its own configuration, before the first command of its term, and when it is changed. What other
//!   nodes are configured with counts when they lead.
//! * Shorter limits take effect at the entry; what they end is ended there, on every replica.

use quorate_core::{RoleName, Term};

use crate::command::{LoggedCommand, LoggedKind};
use crate::config::SessionConfig;
use crate::event::Now;
use crate::replica::Replica;

/// What a replica knows of the limits of its group.
#[derive(Debug)]
pub(crate) struct SessionLimits {
    /// As of what was applied last.
    active: SessionConfig,
    /// On a leader: what it has proposed in its term, if ever. In a box: groups are many.
    proposed: Option<Box<(Term, SessionConfig)>>,
}

impl SessionLimits {
    pub(crate) const fn new(active: SessionConfig) -> Self {
        Self { active, proposed: None }
    }
}

impl Replica {
    /// Entries were applied, or a snapshot: these are the limits now.
    pub(crate) fn on_session_limits(&mut self, now: Now, active: SessionConfig) {
        self.session_limits.active = active;
        self.propose_session_limits(now);
    }

    /// A leader makes its own configuration the group's. One that cannot at the moment tries again at the next entry.
    pub(crate) fn propose_session_limits(&mut self, now: Now) {
        let status = self.core.status();
        if status.role != RoleName::Leader {
            return;
        }
        let term = status.term;
        let wanted = self.config.sessions.in_whole_millis();
        let in_force = match self.session_limits.proposed.as_deref() {
            Some((proposed_in, limits)) if *proposed_in == term => limits,
            Some(_) | None => &self.session_limits.active,
        };
        if *in_force == wanted {
            return;
        }
        self.stamp_millis = self.stamp_millis.max(now.unix_millis);
        let kind = LoggedKind::Limits(wanted.clone());
        let limits = LoggedCommand { unix_millis: self.stamp_millis, kind };
        if self.core.propose(now.mono, limits.encode()).is_ok() {
            self.session_limits.proposed = Some(Box::new((term, wanted)));
        }
    }
}
