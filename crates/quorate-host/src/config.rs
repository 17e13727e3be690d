//! How a host and its replicas behave.

use std::time::Duration;

use quorate_core::{ConfigError, DecodeError};

use crate::bytes_reader::{BytesReader, put_u64};
use crate::reconfiguring::with_envelope;
use crate::snapshot_trigger::SnapshotTrigger;

/// Limits that all groups of a host share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// The most snapshots sent at a time; the others wait for their turn. Default 4.
    pub snapshot_sends_max: usize,
    /// The most bytes of snapshots sent per second, to all followers together. Default: no limit.
    pub snapshot_bytes_per_second: Option<u64>,
    /// The most bytes of received pieces that wait for the disk; beyond it pieces are dropped and
    /// sent again. Default 16 MiB.
    pub snapshot_backlog_bytes_max: usize,
    /// While less than this many bytes are free of a file system that the data directory is on, no entries
    /// are taken ([`crate::RequestError::DiskFull`]), so that whatever else writes there (state machines,
    /// snapshots) does not run out of space; they are taken again when a quarter more is free. 0: it is not
    /// looked at. Default: 64 MiB, or a sixteenth of the file system if that is less.
    pub disk_free_bytes_min: Option<u64>,
}

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
    /// The most bytes of queries waiting for an answer; beyond it `Busy`. Default 64 MiB.
    pub query_bytes_max: u64,
    /// The most bytes of requests passed on to the leader and not answered; beyond it `Busy`. Default 64 MiB.
    pub forward_bytes_max: u64,
    /// How long the leader's answer to such a request is waited for; then its outcome is unknown. Default 10 s.
    pub forward_within: Duration,
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
    /// At the latest this long after an entry was applied that no snapshot covers, and up to a quarter longer, so that
    /// replicas take turns. Default: never by time.
    pub interval: Option<Duration>,
    /// Also when this says so. Default: nobody is asked.
    pub trigger: Option<SnapshotTrigger>,
    /// How many entries below the snapshot stay in the log for followers that are a little behind. Default 1,000.
    pub trailing_entries: u64,
    /// How many snapshots to keep, at least 1. Default 2.
    pub keep: usize,
    /// The size of a piece on the wire, 1 byte to 64 MiB. Default 256 KiB.
    pub chunk_bytes: usize,
    /// The most bytes sent and not acknowledged per stream; one piece is always allowed. Default 1 MiB.
    pub window_bytes: u64,
}

/// Limits of a group's session table. The table is replicated state, and so are its limits: those of the
/// leader are the group's, from an entry of the log on. Configure all nodes alike, or they change with the
/// leader. Kept in whole milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// The most bytes the table may hold; beyond it the least recently used sessions go. Default 64 MiB.
    pub bytes_max: u64,
    /// A session unused for this long (by the leaders' clock) expires. Default 1 h.
    pub idle_max: Duration,
    /// How long an idempotency key is remembered. Default 10 min.
    pub key_retention: Duration,
    /// A response larger than this is not kept; its repeat is told that it was applied, without the response.
    /// Default 64 KiB.
    pub response_bytes_max: u64,
    /// The largest state that may be brought in from outside. It is staged on the disk of every replica while
    /// it comes, or in memory where the snapshot store has no disk. Default 64 GiB.
    pub restore_bytes_max: u64,
}

impl GroupConfig {
    /// What groups that behave alike share: everything but who this is.
    pub(crate) fn of_many(&self) -> Self {
        let core = quorate_core::Config { id: quorate_core::ReplicaId(0), ..self.core.clone() };
        Self { core, ..self.clone() }
    }
}

impl HostConfig {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        first_broken([
            (self.snapshot_sends_max > 0, "snapshot_sends_max", "above 0"),
            (
                self.snapshot_bytes_per_second.is_none_or(|rate| rate >= 64 << 10),
                "snapshot_bytes_per_second",
                "at least 64 KiB",
            ),
            (self.snapshot_backlog_bytes_max > 0, "snapshot_backlog_bytes_max", "above 0"),
        ])
    }
}

impl GroupConfig {
    /// Checks everything that can be checked before a group is opened.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // Whose it is is filled in later.
        let core = quorate_core::Config { id: quorate_core::ReplicaId(1), ..self.core.clone() };
        core.validate()?;
        with_envelope(core).validate()?;
        self.snapshots.validate()?;
        self.sessions.validate()?;
        first_broken([
            (self.requests_max > 0, "requests_max", "above 0"),
            (self.query_bytes_max > 0, "query_bytes_max", "above 0"),
            (!self.stalled_write_max.is_zero(), "stalled_write_max", "above 0"),
        ])
    }
}

impl SnapshotPolicy {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        first_broken([
            (self.keep > 0, "snapshots.keep", "above 0"),
            (
                (1..=64 << 20).contains(&self.chunk_bytes),
                "snapshots.chunk_bytes",
                "between 1 byte and 64 MiB",
            ),
            (self.window_bytes > 0, "snapshots.window_bytes", "above 0"),
            (self.interval.is_none_or(|interval| !interval.is_zero()), "snapshots.interval", "above 0"),
        ])
    }
}

impl SessionConfig {
    /// Checks every limit.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        first_broken([
            (self.bytes_max >= 4096, "sessions.bytes_max", "at least 4 KiB"),
            (self.idle_max.as_millis() > 0, "sessions.idle_max", "at least 1 ms"),
        ])
    }

    /// As the log keeps it.
    pub(crate) fn in_whole_millis(&self) -> Self {
        Self {
            idle_max: Duration::from_millis(millis(self.idle_max)),
            key_retention: Duration::from_millis(millis(self.key_retention)),
            ..self.clone()
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let (idle, retention) = (millis(self.idle_max), millis(self.key_retention));
        for number in [self.bytes_max, idle, retention, self.response_bytes_max, self.restore_bytes_max] {
            put_u64(out, number);
        }
    }

    pub(crate) fn decode(reader: &mut BytesReader) -> Result<Self, DecodeError> {
        Ok(Self {
            bytes_max: reader.u64("the bytes of sessions")?,
            idle_max: Duration::from_millis(reader.u64("how long a session lasts")?),
            key_retention: Duration::from_millis(reader.u64("how long a key lasts")?),
            response_bytes_max: reader.u64("the bytes of a response")?,
            restore_bytes_max: reader.u64("the bytes of a state from outside")?,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn first_broken<const N: usize>(rules: [(bool, &'static str, &'static str); N]) -> Result<(), ConfigError> {
    match rules.into_iter().find(|(holds, ..)| !holds) {
        None => Ok(()),
        Some((_, field, must)) => Err(ConfigError { field, must }),
    }
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            snapshot_sends_max: 4,
            snapshot_bytes_per_second: None,
            snapshot_backlog_bytes_max: 16 << 20,
            disk_free_bytes_min: None,
        }
    }
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            core: quorate_core::Config::new(quorate_core::ReplicaId(0)),
            snapshots: SnapshotPolicy::default(),
            sessions: SessionConfig::default(),
            requests_max: 65_536,
            query_bytes_max: 64 << 20,
            forward_bytes_max: 64 << 20,
            forward_within: crate::forwarding::WITHIN,
            stalled_write_max: Duration::from_secs(5),
        }
    }
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self {
            entries: 10_000,
            bytes: 64 << 20,
            interval: None,
            trigger: None,
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
            restore_bytes_max: 64 << 30,
        }
    }
}
