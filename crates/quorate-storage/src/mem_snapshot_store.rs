//! Snapshots in memory, for tests and for groups that need no disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_core::{GroupId, LogIndex, SnapshotMeta};

use crate::error::SnapshotError;
use crate::snapshot_store::{SnapshotInfo, SnapshotReader, SnapshotStore, SnapshotWriter};

type Snapshots = BTreeMap<(GroupId, LogIndex), (SnapshotInfo, Bytes)>;

/// A [`SnapshotStore`] that lives in memory. Clones share the same snapshots.
#[derive(Clone, Default)]
pub struct MemSnapshotStore {
    snapshots: Arc<Mutex<Snapshots>>,
}

impl MemSnapshotStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotStore for MemSnapshotStore {
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, SnapshotError> {
        Ok(Box::new(MemWriter { store: self.clone(), group, meta: meta.clone(), content: Vec::new() }))
    }

    fn list(&self, group: GroupId) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let snapshots = self.snapshots();
        let found = snapshots.range((group, LogIndex(0))..=(group, LogIndex(u64::MAX)));
        Ok(found.map(|(_, (info, _))| info.clone()).collect())
    }

    fn open(&self, info: &SnapshotInfo) -> Result<Box<dyn SnapshotReader>, SnapshotError> {
        let (group, index) = (info.group, info.meta.last.index);
        let snapshots = self.snapshots();
        let (info, content) =
            snapshots.get(&(group, index)).ok_or(SnapshotError::Missing { group, index })?.clone();
        Ok(Box::new(MemReader { info, content }))
    }

    fn retain(&self, group: GroupId, keep: usize) -> Result<(), SnapshotError> {
        let mut snapshots = self.snapshots();
        let found = snapshots.range((group, LogIndex(0))..=(group, LogIndex(u64::MAX)));
        let keys: Vec<_> = found.map(|(key, _)| *key).collect();
        for key in &keys[..keys.len().saturating_sub(keep)] {
            snapshots.remove(key);
        }
        Ok(())
    }
}

struct MemWriter {
    store: MemSnapshotStore,
    group: GroupId,
    meta: SnapshotMeta,
    content: Vec<u8>,
}

impl SnapshotWriter for MemWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.content.extend_from_slice(bytes);
        Ok(())
    }

    fn written(&self) -> u64 {
        self.content.len() as u64
    }

    fn finish(self: Box<Self>) -> Result<SnapshotInfo, SnapshotError> {
        let info = SnapshotInfo { group: self.group, meta: self.meta, bytes: self.content.len() as u64 };
        let key = (info.group, info.meta.last.index);
        self.store.snapshots().insert(key, (info.clone(), Bytes::from(self.content)));
        Ok(info)
    }
}

struct MemReader {
    info: SnapshotInfo,
    content: Bytes,
}

impl SnapshotReader for MemReader {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, SnapshotError> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.content.len());
        let count = buffer.len().min(self.content.len() - from);
        buffer[..count].copy_from_slice(&self.content[from..from + count]);
        Ok(count)
    }

    fn info(&self) -> &SnapshotInfo {
        &self.info
    }
}
