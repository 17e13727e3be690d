//! Opening what a node keeps: the data directory, the log, the snapshots.
//!
//! ```text
//!   DataDir::open ──► lock, identity, kind of log ──► LogStoreKind ──► Box<dyn LogStore>
//!                                                └──► SnapshotStoreKind ──► Arc<dyn SnapshotStore>
//! ```
//!
//! * Stores are opened only once the directory is taken: nobody else uses their files.
//! * The directory notes the kind of its log when it is made, and of its snapshots when they are first used,
//!   and is refused to any other kind afterwards.
//! * Term, vote and entries are one store, because they are one write ([`LogStore::write`]): a vote that could be
//!   durable without the term it was given in would be a vote given twice.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_storage::{
    DataDir, DataDirError, DiscardSnapshotStore, Disk, FileSnapshotStore, Identity, KnownPeers, LogError,
    LogKind, LogStore, MemDisk, MemLogStore, MemSnapshotStore, OsDisk, SnapshotError, SnapshotKind,
    SnapshotStore, Wal, WalConfig,
};
#[cfg(feature = "redb")]
use quorate_storage::{RedbConfig, RedbLogStore};

use crate::config::{ConfigError, NodeConfig, Storage};

/// Where a store keeps its files.
#[derive(Clone)]
pub struct StorePlace {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) root: Option<PathBuf>,
    pub(crate) directory: PathBuf,
    pub(crate) incarnation: u64,
    pub(crate) is_only_looking: bool,
}

impl StorePlace {
    /// The disk to use. A store that does all its work through it works on any disk, and may be looked at without
    /// being changed.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// The store's own directory on that disk. It exists.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The same directory in the file system, for stores that open files themselves; `None` if the disk is none of the
    /// operating system's.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        Some(self.root.as_ref()?.join(&self.directory))
    }

    /// Drawn at random when the data directory was made.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Nothing may be changed: this is an inspection or a dry run. The disk keeps what is written to it in memory; a
    /// store that opens files itself must open them for reading, or fail.
    #[must_use]
    pub fn is_only_looking(&self) -> bool {
        self.is_only_looking
    }
}

impl fmt::Debug for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorePlace").field("root", &self.root).field("directory", &self.directory).finish()
    }
}

type OpenLog = dyn Fn(&StorePlace) -> Result<Box<dyn LogStore>, LogError> + Send + Sync;
type OpenSnapshots = dyn Fn(&StorePlace) -> Result<Arc<dyn SnapshotStore>, SnapshotError> + Send + Sync;

/// A kind of log store: its name, and how it is opened.
///
/// It holds hard states as well (HashiCorp's `StableStore`): term, vote and entries of a batch are one atomic write.
#[derive(Clone)]
pub struct LogStoreKind {
    name: String,
    /// None: in memory.
    open: Option<Arc<OpenLog>>,
}

impl LogStoreKind {
    /// The write-ahead log, in segments; the default in a directory. (`salt` is filled in.)
    #[must_use]
    pub fn wal(config: WalConfig) -> Self {
        Self::custom(LogKind::WAL, move |place| {
            let config = WalConfig { salt: place.incarnation(), ..config };
            Ok(Box::new(Wal::open(place.disk(), place.directory(), config)?))
        })
    }

    /// A single file, for small and quiet logs.
    #[cfg(feature = "redb")]
    #[must_use]
    pub fn redb(config: RedbConfig) -> Self {
        Self::custom(LogKind::REDB, move |place| {
            let path = place.directory().join("log.redb");
            Ok(Box::new(RedbLogStore::open(place.disk(), &path, config)?))
        })
    }

    /// In memory, gone when the node stops; the default without a directory, and refused in one.
    #[must_use]
    pub fn memory() -> Self {
        Self { name: "memory".to_owned(), open: None }
    }

    /// Any other. `open` is called once the data directory is taken, and again after every restart; it
    /// blocks. The store must pass [`quorate_storage::conformance`] and keep at least one file in its
    /// directory, from when it is opened first: a directory that has had one and has none is refused, because
    /// the node would have forgotten what it promised.
    ///
    /// `name` (1 to 32 lower-case letters, digits, `-`, `_`) is noted in the data directory: stores of one name read
    /// each other's files.
    pub fn custom(
        name: impl Into<String>,
        open: impl Fn(&StorePlace) -> Result<Box<dyn LogStore>, LogError> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), open: Some(Arc::new(open)) }
    }

    pub(crate) fn kind(&self) -> Result<LogKind, ConfigError> {
        LogKind::new(&self.name).ok_or_else(|| ConfigError {
            field: "the name of the log store",
            must: "1 to 32 lower-case letters, digits, '-' and '_'".to_owned(),
        })
    }

    pub(crate) fn open(&self, place: &StorePlace) -> Result<Box<dyn LogStore>, LogError> {
        self.open
            .as_ref()
            .map_or_else(|| Ok(Box::new(MemLogStore::new()) as Box<dyn LogStore>), |open| open(place))
    }
}

impl fmt::Debug for LogStoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogStoreKind({})", self.name)
    }
}

/// A kind of snapshot store: its name, and how it is opened.
#[derive(Clone)]
pub struct SnapshotStoreKind {
    name: String,
    /// None: in memory.
    open: Option<Arc<OpenSnapshots>>,
}

impl SnapshotStoreKind {
    /// Files, one for each snapshot; the default in a directory.
    #[must_use]
    pub fn files() -> Self {
        Self::custom(SnapshotKind::FILES, |place| {
            Ok(Arc::new(FileSnapshotStore::open(place.disk(), place.directory())?))
        })
    }

    /// In memory, gone when the node stops; the default without a directory, and refused in one.
    #[must_use]
    pub fn memory() -> Self {
        Self { name: "memory".to_owned(), open: None }
    }

    /// None are kept: see [`DiscardSnapshotStore`].
    #[must_use]
    pub fn discard() -> Self {
        Self::custom(SnapshotKind::DISCARD, |_| Ok(Arc::new(DiscardSnapshotStore)))
    }

    /// Any other. `open` is called once the data directory is taken, and again after every restart; it blocks. The
    /// store must pass [`quorate_storage::conformance`].
    ///
    /// `name` (1 to 32 lower-case letters, digits, `-`, `_`) is noted in the data directory: stores of one name read
    /// each other's snapshots. One of another name is refused: it would not find what the log was compacted below.
    pub fn custom(
        name: impl Into<String>,
        open: impl Fn(&StorePlace) -> Result<Arc<dyn SnapshotStore>, SnapshotError> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), open: Some(Arc::new(open)) }
    }

    pub(crate) fn kind(&self) -> Result<SnapshotKind, ConfigError> {
        SnapshotKind::new(&self.name).ok_or_else(|| ConfigError {
            field: "the name of the snapshot store",
            must: "1 to 32 lower-case letters, digits, '-' and '_'".to_owned(),
        })
    }

    pub(crate) fn open(&self, place: &StorePlace) -> Result<Arc<dyn SnapshotStore>, SnapshotError> {
        self.open.as_ref().map_or_else(
            || Ok(Arc::new(MemSnapshotStore::new()) as Arc<dyn SnapshotStore>),
            |open| open(place),
        )
    }
}

impl fmt::Debug for SnapshotStoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotStoreKind({})", self.name)
    }
}

/// Which stores a node is to open, and on which disk.
#[derive(Clone, Default)]
pub(crate) struct StoreChoice {
    /// Instead of what the configuration says.
    pub(crate) disk: Option<Arc<dyn Disk>>,
    pub(crate) log: Option<LogStoreKind>,
    pub(crate) snapshots: Option<SnapshotStoreKind>,
}

/// An opened log, its snapshots, and the directory they are in.
pub(crate) struct Stores {
    pub(crate) log: Box<dyn LogStore>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) incarnation: u64,
    /// Whom the node has met; nobody is remembered in memory.
    pub(crate) known_peers: Option<KnownPeers>,
    /// Held, and with it the lock, until the node has ended.
    pub(crate) directory: DataDir,
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

impl StoreChoice {
    /// What is to be opened for `config`, checked as far as that goes without touching a disk.
    pub(crate) fn resolve(self, config: &NodeConfig) -> Result<StorePlan, ConfigError> {
        let (disk, root, is_kept): (Arc<dyn Disk>, _, _) = match (self.disk, &config.storage) {
            (Some(disk), _) => (disk, None, true),
            (None, Storage::Directory(path)) => (Arc::new(OsDisk::new(path)), Some(path.clone()), true),
            // For what stores of the caller's may want to write; it goes with the node.
            (None, Storage::Memory) => (Arc::new(MemDisk::new()), None, false),
        };
        let (log, snapshots) = match is_kept {
            true => (LogStoreKind::wal(config.wal), SnapshotStoreKind::files()),
            false => (LogStoreKind::memory(), SnapshotStoreKind::memory()),
        };
        let (log, snapshots) = (self.log.unwrap_or(log), self.snapshots.unwrap_or(snapshots));
        if is_kept && (log.open.is_none() || snapshots.open.is_none()) {
            // After a restart the node would vote again in terms it has voted in.
            let field = if log.open.is_none() { "the log store" } else { "the snapshot store" };
            let must = "one that keeps its data, in a data directory (in memory: Storage::Memory)".to_owned();
            return Err(ConfigError { field, must });
        }
        let identity = Identity { cluster: config.cluster.0, node: config.node, incarnation: 0 };
        let (kind, snapshot_kind) = (log.kind()?, snapshots.kind()?);
        Ok(StorePlan { disk, root, identity, kind, snapshot_kind, log, snapshots, is_kept })
    }
}

/// A data directory as errors name it.
pub(crate) fn named(root: Option<&Path>) -> PathBuf {
    root.map_or_else(|| PathBuf::from("(the given disk)"), Path::to_owned)
}

/// What is to be opened, and where.
pub(crate) struct StorePlan {
    disk: Arc<dyn Disk>,
    root: Option<PathBuf>,
    /// Its incarnation is drawn when a directory is made.
    identity: Identity,
    kind: LogKind,
    snapshot_kind: SnapshotKind,
    log: LogStoreKind,
    snapshots: SnapshotStoreKind,
    /// Whether anything is there after the node has ended.
    is_kept: bool,
}

impl StorePlan {
    /// Opens everything. Blocks on the disk.
    pub(crate) fn open(self) -> Result<Stores, StoreError> {
        let incarnation =
            getrandom::u64().map_err(|error| StoreError::Random(std::io::Error::other(error)))?;
        let path = named(self.root.as_deref());
        let failed = |source| StoreError::Directory { path: path.clone(), source };
        let identity = Identity { incarnation, ..self.identity };
        let mut directory = DataDir::open_with(self.disk, identity, self.kind).map_err(failed)?;
        directory.claim_snapshots(self.snapshot_kind).map_err(failed)?;
        let known_peers = match self.is_kept {
            true => Some(directory.known_peers().map_err(failed)?),
            false => None,
        };
        let incarnation = directory.identity().incarnation;
        let place = |name| StorePlace {
            disk: directory.disk(),
            root: self.root.clone(),
            directory: name,
            incarnation,
            is_only_looking: false,
        };
        let log = self.log.open(&place(directory.log()));
        let log = log.map_err(|source| StoreError::Log { path: path.clone(), source })?;
        if self.is_kept {
            directory.note_log().map_err(failed)?;
        }
        let snapshots = self.snapshots.open(&place(directory.snapshots()));
        let snapshots = snapshots.map_err(|source| StoreError::Snapshots { path, source })?;
        Ok(Stores { log, snapshots, incarnation, known_peers, directory })
    }
}
