//! `SnapshotStore`: finished snapshots, each a checksummed stream of bytes with a description.

use quorate_core::{GroupId, SnapshotMeta};

use crate::error::SnapshotError;

/// A finished snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The group.
    pub group: GroupId,
    /// What it covers.
    pub meta: SnapshotMeta,
    /// The length of its content in bytes.
    pub bytes: u64,
}

/// Keeps snapshots of many groups.
///
/// # Contract
/// * A snapshot exists once `SnapshotWriter::finish` returned `Ok`, and then survives any crash; before that, it never
///   exists, and what was written is cleaned up at the next open.
/// * An older snapshot is removed only by `retain`, after a newer one is durable.
/// * Every byte read was verified against its checksum.
#[expect(clippy::missing_errors_doc, reason = "SnapshotError says it for all")]
pub trait SnapshotStore: Send + Sync {
    /// Starts a new snapshot of `group`.
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, SnapshotError>;
    /// Finished snapshots of `group`, oldest first.
    fn list(&self, group: GroupId) -> Result<Vec<SnapshotInfo>, SnapshotError>;
    /// Opens the snapshot of `group` whose last index is `info.meta.last`.
    fn open(&self, info: &SnapshotInfo) -> Result<Box<dyn SnapshotReader>, SnapshotError>;
    /// Removes all but the newest `keep` snapshots of `group` (at least one is kept; 0 removes all of a removed group).
    fn retain(&self, group: GroupId, keep: usize) -> Result<(), SnapshotError>;
}

/// A snapshot being written. Dropping it abandons it.
#[expect(clippy::missing_errors_doc, reason = "SnapshotError says it for all")]
pub trait SnapshotWriter: Send {
    /// Appends content.
    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError>;
    /// Content written so far in bytes.
    fn written(&self) -> u64;
    /// Makes it durable and visible.
    fn finish(self: Box<Self>) -> Result<SnapshotInfo, SnapshotError>;
}

/// A snapshot being read; content is verified chunk by chunk before it is returned.
#[expect(clippy::missing_errors_doc, reason = "SnapshotError says it for all")]
pub trait SnapshotReader: Send {
    /// Reads content at `offset`, up to `buffer.len()` bytes; 0 at the end.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, SnapshotError>;
    /// What it is.
    fn info(&self) -> &SnapshotInfo;
}
