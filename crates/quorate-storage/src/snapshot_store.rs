//! `SnapshotStore`: finished snapshots, each a checksummed stream of bytes with a description.

use std::sync::Arc;

use quorate_core::{GroupId, SnapshotMeta};

use crate::error::{Damage, SnapshotError};
use crate::staging::{MemStaging, Staging};

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
    /// Removes all but the newest `keep` snapshots of `group` (at least one is kept; 0 removes all of a removed group,
    /// and what is staged for it).
    fn retain(&self, group: GroupId, keep: usize) -> Result<(), SnapshotError>;
    /// Reads every snapshot of `group` to its end and returns what is damaged. A damaged snapshot is not
    /// listed any more. May take as long as reading a whole copy of the data.
    fn verify(&self, group: GroupId) -> Result<Vec<Damage>, SnapshotError> {
        let mut damaged = Vec::new();
        for info in self.list(group)? {
            match self.open(&info).and_then(read_to_end) {
                Ok(()) => {}
                Err(SnapshotError::Damaged(damage)) => damaged.push(damage),
                // Removed meanwhile, because there is a newer one.
                Err(SnapshotError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(damaged)
    }
    /// A place for bytes of `group` that are no snapshot: as it was left if something is staged under this name,
    /// otherwise empty. In memory where the store has none of its own. (A state from outside waits there until it is
    /// whole; a store without a place of its own holds all of it in memory.)
    fn stage(&self, group: GroupId, name: u64) -> Result<Arc<dyn Staging>, SnapshotError> {
        let _ = (group, name);
        Ok(Arc::new(MemStaging::new()))
    }
    /// Removes all that is staged for `group`, except what has this name. Called while nothing of the group is in use.
    fn clear_staged(&self, group: GroupId, keep: Option<u64>) -> Result<(), SnapshotError> {
        let _ = (group, keep);
        Ok(())
    }
}

/// Reads a snapshot to its end, which finds any damage: reading is verifying.
///
/// # Errors
/// `Damaged`, or what else keeps it from being read.
pub fn read_to_end(mut reader: Box<dyn SnapshotReader>) -> Result<(), SnapshotError> {
    let (mut offset, mut piece) = (0, vec![0; 256 << 10]);
    loop {
        let count = reader.read_at(offset, &mut piece)?;
        if count == 0 {
            return Ok(());
        }
        offset += count as u64;
    }
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
