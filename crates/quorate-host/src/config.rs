//! How a host and its replicas behave.

use std::time::Duration;

/// Limits and policies of one group on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// The core's timings and windows (its `id` and `seed` are filled in).
    pub core: quorate_core::Config,
    /// When to take snapshots and drop log entries.
    pub snapshots: SnapshotPolicy,
    /// Limits of the session table.
    pub sessions: SessionConfig,
    /// The most requests waiting for an answer; beyond it `Busy`. Default 65,536.
    pub requests_max: usize,
    /// Beyond this age of the oldest unfinished log write a leader hands over or steps down. Default
    /// 5 s.
    pub stalled_write_max: Duration,
}

/// When to take snapshots and drop log entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// After this many applied entries since the last one (0: never by count). Default 10,000.
    pub entries: u64,
    /// After this many applied payload bytes since the last one (0: never by bytes). Default 64 MiB.
    pub bytes: u64,
    /// How many entries below the snapshot stay in the log for followers that are a little behind. Default 1,000.
    pub trailing_entries: u64,
    /// How many snapshots to keep. Default 2.
    pub keep: usize,
    /// The size of a piece on the wire. Default 256 KiB.
    pub chunk_bytes: usize,
    /// The most bytes sent and not acknowledged per stream. Default 1 MiB.
    pub window_bytes: u64,
}

/// Limits of a group's session table. Must be the same on all replicas: the table is replicated state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// The most bytes the table may hold; beyond it the least recently used sessions go. Default 64 MiB.
    pub bytes_max: u64,
    /// A session unused for this long (by the leaders' clock) expires. Default 1 h.
    pub idle_max: Duration,
    /// How long an idempotency key is remembered. Default 10 min.
    pub key_retention: Duration,
    /// A response larger than this is not kept; its repeat is told that it was applied, without the response. Default 64 KiB.
    pub response_bytes_max: u64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            core: quorate_core::Config::new(quorate_core::ReplicaId(0)),
            snapshots: SnapshotPolicy::default(),
            sessions: SessionConfig::default(),
            requests_max: 65_536,
            stalled_write_max: Duration::from_secs(5),
        }
    }
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self {
            entries: 10_000,
            bytes: 64 << 20,
            trailing_entries: 1_000,
            keep: 2,
            chunk_bytes: 256 << 10,
            window_bytes: 1 << 20,
        }
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            bytes_max: 64 << 20,
            idle_max: Duration::from_secs(3600),
            key_retention: Duration::from_secs(600),
            response_bytes_max: 64 << 10,
        }
    }
}
