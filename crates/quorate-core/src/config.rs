//! The configuration of one group's core.

use std::time::Duration;

use crate::event::EventDetail;
use crate::types::ReplicaId;

/// The longest delay of a replica's campaigns, in election timeouts.
pub(crate) const DELAY_TIMEOUTS_MAX: u32 = 10;

/// How a replica behaves. All replicas of a group should agree on the timings.
///
/// Limits in bytes count an entry as its encoding (`encoded_entry_len`: payload and 17 bytes), so
/// that entries without payload are bounded too; `command_bytes_max` counts the command alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// This replica.
    pub id: ReplicaId,
    /// T: a follower that hears nothing from a leader for a time drawn from T to 2T campaigns; a
    /// leader that hears nothing from a quorum for T steps down. Default 1 s.
    pub election_timeout: Duration,
    /// How much longer than others this replica waits before it campaigns: its priority. 0 (the default)
    /// for replicas that should lead; one `election_timeout` more keeps a replica behind those as long as
    /// one of them can win. At most ten times `election_timeout`: when nobody else can, it leads.
    #[doc(alias = "priority")]
    pub election_delay: Duration,
    /// After how long without anything to do a leader asks its group to rest: no heartbeats, no deadlines
    /// (`next_deadline` is `MonoTime::NEVER`), until something happens. The caller then has to tell its replicas
    /// with `RawNode::wake` when the node of their leader is lost. Default `None`: never.
    pub quiesce_after: Option<Duration>,
    /// How often an idle leader speaks. Default 100 ms; at most a third of `election_timeout`.
    pub heartbeat_interval: Duration,
    /// Ask before campaigning, so that a partitioned replica does not raise terms. Default on.
    pub pre_vote: bool,
    /// Step down without a quorum; voters stay with a leader they hear. Default on.
    pub check_quorum: bool,
    /// Whether reads may be served from a lease (`RawNode::read_lease`): voters then promise not to vote
    /// for anybody for T after they heard a leader, also across a restart. Needs `check_quorum`. Switch it on
    /// on every replica of the group, with the same `election_timeout`, before anybody asks for a
    /// leased read. Default off.
    #[doc(alias = "LeaseBased")]
    pub leader_lease: bool,
    /// The most by which two replicas' clocks may differ in what they call one `election_timeout`;
    /// leases are shorter by this. Below `election_timeout`. Default 100 ms. A clock that is worse than this makes
    /// stale leased reads possible; rounds do not depend on clocks.
    pub lease_drift_max: Duration,
    /// This replica votes and keeps no data, from its first start to its last. Made by
    /// [`witness`](Self::witness); the members must say the same.
    pub witness: bool,
    /// The seed of the election timeouts. Give each replica its own.
    pub seed: u64,
    /// The most payload bytes in one append message; one entry always fits. Default 1 MiB.
    pub append_bytes_max: u64,
    /// The most appends in flight to one follower. Default 256.
    pub inflight_messages_max: usize,
    /// The most payload bytes in flight to one follower (one message may overshoot). Default 8 MiB.
    pub inflight_bytes_max: u64,
    /// The most payload bytes proposed and not yet committed; beyond it proposals are `Busy`.
    /// Default 64 MiB.
    pub uncommitted_bytes_max: u64,
    /// The most payload bytes of this leader's own proposals that are committed and not yet applied (and durable)
    /// here; beyond it proposals are refused with `ApplyBehind`. What a leader keeps in memory is
    /// bounded by this, `uncommitted_bytes_max` and `window_bytes_max` together. Default 256 MiB.
    pub unapplied_bytes_max: u64,
    /// Hand out committed entries before they are durable here. Safe: a quorum holds them. But the
    /// state machine must not outlive the log: what it makes durable by itself has to wait until
    /// `Status::persisted` is there, or a restart finds it ahead of its log, which is refused. Default off: only
    /// entries that are durable here are applied.
    #[doc(alias = "max_apply_unpersisted_log_limit")]
    pub apply_unpersisted: bool,
    /// How long streaming a snapshot may take before the caller reports how it ended; then it counts as
    /// failed and is offered again. At least `election_timeout`. Default 1 h.
    pub snapshot_timeout: Duration,
    /// Let news of the commit index travel with the next append or the next due heartbeat, instead of at
    /// once: fewer messages, later applies on followers. Default off.
    #[doc(alias = "skip_bcast_commit")]
    pub lazy_commit_news: bool,
    /// The most payload bytes handed out for apply and not yet reported applied (one entry always
    /// fits). Default 16 MiB.
    pub apply_bytes_max: u64,
    /// The most payload bytes of entries kept in memory behind the persisted and applied ones for
    /// followers that lag. Default 16 MiB. Older ones are asked for through `Ready::fetch`.
    pub window_bytes_max: u64,
    /// The most waiting reads; beyond it reads are `Busy`. Default 65,536.
    pub reads_max: usize,
    /// The largest command in bytes; a larger one is refused. Default 8 MiB.
    pub command_bytes_max: u64,
    /// How much of what happens is told in `Ready::events`. Default `Steps`.
    pub events: EventDetail,
}

/// What is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// What it must be.
    pub must: &'static str,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "configuration: {} must be {}", self.field, self.must)
    }
}
impl std::error::Error for ConfigError {}

impl Config {
    /// The defaults for replica `id`, seeded with it.
    #[must_use]
    pub const fn new(id: ReplicaId) -> Self {
        Self {
            id,
            election_timeout: Duration::from_secs(1),
            election_delay: Duration::ZERO,
            quiesce_after: None,
            heartbeat_interval: Duration::from_millis(100),
            pre_vote: true,
            check_quorum: true,
            leader_lease: false,
            lease_drift_max: Duration::from_millis(100),
            witness: false,
            seed: id.0,
            append_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 8 << 20,
            uncommitted_bytes_max: 64 << 20,
            unapplied_bytes_max: 256 << 20,
            apply_unpersisted: false,
            snapshot_timeout: Duration::from_hours(1),
            lazy_commit_news: false,
            apply_bytes_max: 16 << 20,
            window_bytes_max: 16 << 20,
            reads_max: 65_536,
            command_bytes_max: 8 << 20,
            events: EventDetail::Steps,
        }
    }

    /// The defaults for replica `id` that is a witness: it votes, and keeps positions, terms and members, but no
    /// commands. It needs no state machine and no snapshots: `Ready::apply` and `Ready::restore`
    /// stay empty, and its log may be compacted up to what it reports as applied.
    #[must_use]
    pub const fn witness(id: ReplicaId) -> Self {
        Self { witness: true, ..Self::new(id) }
    }

    /// Checks every limit against the others.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_as(self.id)
    }

    /// As [`validate`](Self::validate), for a replica `id` that shares this with others.
    pub(crate) fn validate_as(&self, id: ReplicaId) -> Result<(), ConfigError> {
        let rules = [
            (id.0 > 0, "id", "above 0"),
            (!self.heartbeat_interval.is_zero(), "heartbeat_interval", "above 0"),
            (
                self.election_timeout >= self.heartbeat_interval.saturating_mul(3),
                "election_timeout",
                "at least three times heartbeat_interval",
            ),
            (self.election_timeout <= Duration::from_hours(24), "election_timeout", "at most a day"),
            (!self.leader_lease || self.check_quorum, "leader_lease", "off without check_quorum"),
            (
                !self.leader_lease || self.lease_drift_max < self.election_timeout,
                "lease_drift_max",
                "below election_timeout",
            ),
            (
                self.election_delay <= self.election_timeout.saturating_mul(DELAY_TIMEOUTS_MAX),
                "election_delay",
                "at most ten times election_timeout",
            ),
            (self.snapshot_timeout >= self.election_timeout, "snapshot_timeout", "at least election_timeout"),
            (
                self.unapplied_bytes_max >= self.command_bytes_max,
                "unapplied_bytes_max",
                "at least command_bytes_max",
            ),
            (self.command_bytes_max <= 1 << 30, "command_bytes_max", "at most 1 GiB"),
            (self.inflight_messages_max > 0, "inflight_messages_max", "above 0"),
            (self.inflight_bytes_max > 0, "inflight_bytes_max", "above 0"),
            (self.append_bytes_max > 0, "append_bytes_max", "above 0"),
            (self.apply_bytes_max > 0, "apply_bytes_max", "above 0"),
            (self.reads_max > 0, "reads_max", "above 0"),
            (
                self.uncommitted_bytes_max >= self.command_bytes_max,
                "uncommitted_bytes_max",
                "at least command_bytes_max",
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, field, must)) => Err(ConfigError { field, must }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_all_reason_are_refused() {
        let refused = |config: Config| config.validate().unwrap_err().field;
        let sane = Config::new(ReplicaId(1));
        assert_eq!(refused(Config { heartbeat_interval: Duration::MAX, ..sane.clone() }), "election_timeout");
        assert_eq!(refused(Config { election_timeout: Duration::MAX, ..sane.clone() }), "election_timeout");
        assert_eq!(refused(Config { election_delay: Duration::MAX, ..sane }), "election_delay");
    }
}
