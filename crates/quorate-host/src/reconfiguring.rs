//! What a replica changes while it runs.
//!
//! * Timings, the delay before it campaigns, the core's limits, the snapshot policy, and the limits of what waits here.
//! * Limits of sessions: on a leader they become the group's (`session_limits`), elsewhere when it leads.
//! * Everything else is sized when a group is opened, or is replicated state: it is refused by name, not ignored.

use std::sync::Arc;

use quorate_core::{Config, ConfigError};

use crate::command::ENVELOPE_BYTES_MAX;
use crate::config::{GroupConfig, SnapshotPolicy};
use crate::event::Now;
use crate::replica::Replica;
use crate::request::RequestError;

const AS_IT_WAS: &str = "as it was: it takes effect when the group is opened";

impl Replica {
    /// Behaves by `config` from now on, or not at all.
    pub(crate) fn reconfigure(&mut self, now: Now, config: GroupConfig) -> Result<(), RequestError> {
        let wrong = |ConfigError { field, must }| RequestError::Config { field, must };
        let of_many = config.of_many();
        if config.core.id != self.id {
            return Err(RequestError::Config { field: "core.id", must: AS_IT_WAS });
        }
        if let Some(field) = fixed_field_that_differs(&self.config, &of_many) {
            return Err(RequestError::Config { field, must: AS_IT_WAS });
        }
        config.validate().map_err(wrong)?;
        let limits = with_envelope(config.core.clone());
        self.core.set_timings(config.core.election_timeout, config.core.heartbeat_interval).map_err(wrong)?;
        self.core.set_limits(&limits).map_err(wrong)?;
        self.core.set_election_delay(config.core.election_delay);
        self.config = Arc::new(of_many);
        self.propose_session_limits(now);
        Ok(())
    }
}

/// The limits are the user's; the core counts what goes into the log.
pub(crate) const fn with_envelope(mut config: Config) -> Config {
    config.command_bytes_max = config.command_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
    config.uncommitted_bytes_max = config.uncommitted_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
    config
}

/// The first field that differs and may not.
fn fixed_field_that_differs(before: &GroupConfig, after: &GroupConfig) -> Option<&'static str> {
    let core = Config {
        election_timeout: before.core.election_timeout,
        heartbeat_interval: before.core.heartbeat_interval,
        election_delay: before.core.election_delay,
        append_bytes_max: before.core.append_bytes_max,
        inflight_messages_max: before.core.inflight_messages_max,
        inflight_bytes_max: before.core.inflight_bytes_max,
        uncommitted_bytes_max: before.core.uncommitted_bytes_max,
        unapplied_bytes_max: before.core.unapplied_bytes_max,
        snapshot_timeout: before.core.snapshot_timeout,
        apply_bytes_max: before.core.apply_bytes_max,
        window_bytes_max: before.core.window_bytes_max,
        reads_max: before.core.reads_max,
        command_bytes_max: before.core.command_bytes_max,
        ..after.core.clone()
    };
    let chunk_bytes = |snapshots: &SnapshotPolicy| snapshots.chunk_bytes;
    let same = [
        (core == before.core, "a switch of core"),
        (chunk_bytes(&after.snapshots) == chunk_bytes(&before.snapshots), "snapshots.chunk_bytes"),
    ];
    same.into_iter().find(|(same, _)| !same).map(|(_, field)| field)
}
