//! What can go wrong with logs and snapshots, by what the caller must do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use quorate_core::{GroupId, LogIndex};

/// Bytes on disk that are not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: damaged at byte {offset}: {what}", path.display())]
pub struct Damage {
    /// The file, relative to the data directory.
    pub path: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What does not hold.
    pub what: &'static str,
}

/// Entries of one group that are on disk, but not as they were written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("group {group}: the log's entries {first} to {last} are damaged ({damage})")]
pub struct DamagedEntries {
    /// The group.
    pub group: GroupId,
    /// The first entry that cannot be read.
    pub first: LogIndex,
    /// The last one. Between the two there may be some that can.
    pub last: LogIndex,
    /// Where the first one is.
    pub damage: Damage,
}

/// Why a log operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A write or sync failed: nothing is known about what is on disk. The node must stop; it may
    /// be started again once the disk works.
    #[error(
        "the log cannot be written ({context}): {source}; stop this node, check the disk, start it again"
    )]
    Failed {
        /// What was being done, with the file.
        context: String,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// No room for a new segment. Nothing was changed; try again when there is space.
    #[error("no space for the log ({context}): free some space on this disk")]
    NoSpace {
        /// What was being done, with the file.
        context: String,
    },
    /// Acknowledged data is damaged. Replicas that need it must not vote.
    #[error(
        "{0}; restore this node from its peers: remove it, then add it again with a new id and an empty directory"
    )]
    Damaged(Damage),
    /// Entries of one group are damaged; everything else in the log is as it was written.
    #[error("{0}; open the group again, or start the node again: what is lost comes from the other replicas")]
    DamagedEntries(DamagedEntries),
    /// The batch or the range breaks the rules; nothing was changed.
    #[error("group {group}: invalid write: {what}")]
    Invalid {
        /// The group.
        group: GroupId,
        /// The rule.
        what: &'static str,
    },
    /// Dropped by compaction: a snapshot has it.
    #[error("group {group}: entry {index} is compacted")]
    Compacted {
        /// The group.
        group: GroupId,
        /// The index asked for.
        index: LogIndex,
    },
    /// Never written.
    #[error("group {group}: entry {index} does not exist")]
    OutOfRange {
        /// The group.
        group: GroupId,
        /// The index asked for.
        index: LogIndex,
    },
    /// Files of a version this build does not know.
    #[error("{}: format version {found} is not supported by this build (it knows {known})", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
}

/// Why a snapshot operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The disk said no. The snapshot does not exist; everything else is as it was.
    #[error("snapshot {context}: {source}")]
    Io {
        /// What was being done, with the file.
        context: String,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// It is damaged: use another, or get one from a peer.
    #[error("{0}")]
    Damaged(Damage),
    /// There is no such snapshot (any more).
    #[error("group {group}: no snapshot at {index}")]
    Missing {
        /// The group.
        group: GroupId,
        /// The index asked for.
        index: LogIndex,
    },
    /// The store keeps no snapshots: this one was thrown away. The log must not be compacted.
    #[error(
        "group {group}: this store keeps no snapshots; the one at {index} was thrown away and the log stays"
    )]
    Discarded {
        /// The group.
        group: GroupId,
        /// The last index it covered.
        index: LogIndex,
    },
}
