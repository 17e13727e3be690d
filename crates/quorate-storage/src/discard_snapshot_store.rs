//! Takes snapshots and throws them away, for groups that want none: tests, and state that can be
//! built again from the log alone.
//!
//! ```text
//!   create ──► write … ──► finish ──► Err(Discarded)      list: nothing, always
//! ```
//!
//! * `finish` never returns `Ok`: a snapshot that was said to exist would let the log be compacted
//!   below it, and then nothing could bring the group back. A store that says yes and keeps
//!   nothing loses data at the next restart.
//! * So the log of a group with this store is kept from its first entry on, and grows. A restart
//!   replays all of it, and a new replica is sent all of it.
//! * A replica with this store takes no snapshot from a leader either. Once the leader's log is
//!   compacted (by a store that keeps snapshots, or by a state machine that keeps its own state),
//!   it cannot catch up. Use this store on all replicas of a group or on none.

use quorate_core::{GroupId, SnapshotMeta};

use crate::error::SnapshotError;
use crate::snapshot_store::{SnapshotInfo, SnapshotReader, SnapshotStore, SnapshotWriter};

/// A [`SnapshotStore`] that keeps nothing, and says so: finishing a snapshot is
/// [`SnapshotError::Discarded`], so the log is never compacted because of one.
///
/// Switch automatic snapshots off with it; otherwise each is written for nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiscardSnapshotStore;

impl DiscardSnapshotStore {
    /// The store.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl SnapshotStore for DiscardSnapshotStore {
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, SnapshotError> {
        Ok(Box::new(Discarding { group, meta: meta.clone(), written: 0 }))
    }

    fn list(&self, _group: GroupId) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        Ok(Vec::new())
    }

    fn open(&self, info: &SnapshotInfo) -> Result<Box<dyn SnapshotReader>, SnapshotError> {
        Err(SnapshotError::Missing { group: info.group, index: info.meta.last.index })
    }

    fn retain(&self, _group: GroupId, _keep: usize) -> Result<(), SnapshotError> {
        Ok(())
    }
}

struct Discarding {
    group: GroupId,
    meta: SnapshotMeta,
    written: u64,
}

impl SnapshotWriter for Discarding {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn finish(self: Box<Self>) -> Result<SnapshotInfo, SnapshotError> {
        Err(SnapshotError::Discarded { group: self.group, index: self.meta.last.index })
    }
}
