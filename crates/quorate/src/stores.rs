//! Opening what a node keeps: the data directory, the log, the snapshots.

use std::path::PathBuf;
use std::sync::Arc;

use quorate_storage::{
    DataDir, DataDirError, FileSnapshotStore, Identity, KnownPeers, LogError, LogStore, MemLogStore,
    MemSnapshotStore, OsDisk, SnapshotError, SnapshotStore, Wal, WalConfig,
};

use crate::config::{NodeConfig, Storage};

/// An opened log, its snapshots, and the directory they are in.
pub(crate) struct Stores {
    pub(crate) log: Box<dyn LogStore>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) incarnation: u64,
    /// Whom the node has met; nobody is remembered without a directory.
    pub(crate) known_peers: Option<KnownPeers>,
    /// Held, and with it the lock, until the node has ended.
    pub(crate) directory: Option<DataDir>,
}

/// What a node keeps cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory belongs to somebody else, is in use, or cannot be read or written.
    #[error("{}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: DataDirError,
    },
    /// The log is damaged or cannot be read or written.
    #[error("{}: {source}", path.display())]
    Log {
        /// The data directory.
        path: PathBuf,
        /// The cause.
        source: LogError,
    },
    /// The snapshots cannot be read.
    #[error("{}: {source}", path.display())]
    Snapshots {
        /// The data directory.
        path: PathBuf,
        /// The cause.
        source: SnapshotError,
    },
    /// The system has no randomness to name a new directory with.
    #[error("no randomness from the system: {0}")]
    Random(std::io::Error),
}

impl Stores {
    /// Blocks on the disk.
    pub(crate) fn open(config: &NodeConfig) -> Result<Self, StoreError> {
        let incarnation =
            getrandom::u64().map_err(|error| StoreError::Random(std::io::Error::other(error)))?;
        let path = match &config.storage {
            Storage::Directory(path) => path.clone(),
            Storage::Memory => {
                let log = Box::new(MemLogStore::new());
                let snapshots = Arc::new(MemSnapshotStore::new());
                return Ok(Self { log, snapshots, incarnation, known_peers: None, directory: None });
            }
        };
        let identity = Identity { cluster: config.cluster.0, node: config.node, incarnation };
        let directory = DataDir::open(Arc::new(OsDisk::new(&path)), identity)
            .map_err(|source| StoreError::Directory { path: path.clone(), source })?;
        let incarnation = directory.identity().incarnation;
        let known_peers =
            directory.known_peers().map_err(|source| StoreError::Directory { path: path.clone(), source })?;
        let wal = WalConfig { salt: incarnation, ..config.wal };
        let log = Wal::open(directory.disk(), &directory.wal(), wal)
            .map_err(|source| StoreError::Log { path: path.clone(), source })?;
        let snapshots = FileSnapshotStore::open(directory.disk(), &directory.snapshots())
            .map_err(|source| StoreError::Snapshots { path, source })?;
        Ok(Self {
            log: Box::new(log),
            snapshots: Arc::new(snapshots),
            incarnation,
            known_peers: Some(known_peers),
            directory: Some(directory),
        })
    }
}
