//! Snapshots on this node's disk: which there are, and what is in them.
//!
//! What is read is the state machine's part, byte for byte what its `SnapshotSource` gave: a backup.

use std::fmt;
use std::sync::Arc;

use quorate_core::{LogId, SnapshotMeta};
use quorate_host::{RequestError, SnapshotContent};
use quorate_storage::{SnapshotError, SnapshotInfo, SnapshotStore};

use crate::raft::Raft;

/// A durable snapshot of a group on this node.
#[derive(Clone)]
pub struct StoredSnapshot {
    info: SnapshotInfo,
    store: Arc<dyn SnapshotStore>,
}

/// A stored snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadSnapshotError {
    /// It is damaged, or was replaced by newer ones meanwhile.
    #[error(transparent)]
    Store(#[from] SnapshotError),
    /// It is of a format that this build does not know, or cannot be read.
    #[error("the snapshot cannot be read: {0}")]
    Content(#[from] std::io::Error),
}

impl StoredSnapshot {
    /// What it covers.
    #[must_use]
    pub fn meta(&self) -> &SnapshotMeta {
        &self.info.meta
    }

    /// The last entry it covers: its name within the group.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.info.meta.last
    }

    /// How many bytes it has on disk, the sessions of clients included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.info.bytes
    }

    /// Opens the state machine's content. May be called any number of times, while the snapshot is kept
    /// (`SnapshotPolicy::keep`). Opening and reading wait for the disk: not for a thread of an async runtime.
    ///
    /// # Errors
    /// See [`ReadSnapshotError`].
    pub fn open(&self) -> Result<SnapshotContent, ReadSnapshotError> {
        Ok(SnapshotContent::new(self.store.open(&self.info)?)?)
    }
}

impl fmt::Debug for StoredSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

impl Raft {
    /// Takes a snapshot now, waits until it is durable, and returns it; the newest one if there is nothing new.
    ///
    /// # Errors
    /// `Snapshot`: with the reason. The replica goes on.
    pub async fn snapshot(&self) -> Result<StoredSnapshot, RequestError> {
        let last = self.take_snapshot().await?;
        let kept =
            self.snapshots().await.map_err(|error| RequestError::Snapshot { what: error.to_string() })?;
        kept.into_iter()
            .rev()
            .find(|snapshot| snapshot.id() == last)
            .ok_or_else(|| RequestError::Snapshot { what: format!("the one at {last} is gone already") })
    }

    /// The snapshots of the group on this node, oldest first.
    ///
    /// # Errors
    /// The snapshots cannot be listed.
    pub async fn snapshots(&self) -> Result<Vec<StoredSnapshot>, SnapshotError> {
        let (store, group) = (Arc::clone(&self.shared.snapshots), self.group());
        let listing = tokio::task::spawn_blocking(move || {
            let listed = store.list(group)?;
            Ok(listed.into_iter().map(|info| StoredSnapshot { info, store: Arc::clone(&store) }).collect())
        });
        // It panics only with the runtime gone, and then nobody is here.
        listing.await.unwrap_or_else(|_gone| Ok(Vec::new()))
    }
}
