//! A data directory without its node: what is in it, and going on when a quorum is lost for good.
//!
//! ```text
//!   has_existing_state, inspect, dry run ──► look at the stores through an `OverlayDisk` ──► read
//!   recover ──► dry run ──► lock ─► backup of the log ─► open the log ─► one synced write
//! ```
//!
//! * The directory is locked meanwhile: a node that runs there, or starts, is noticed.
//! * Looking changes nothing: what opening a store would write stays in memory.
//! * A recovery changes the log and nothing else, and only if its dry run has found nothing against it.
//! * The directory says which kind of log it has. The kinds in this crate are known here, others must be given.
//! * A recovered group has the next recovery epoch: a replica that was not recovered is not heard by it any more,
//!   and comes back only under a new id, with nothing.
//!
//! Everything here blocks on the disk. Not here: which recovery makes sense (`force_recovery` of `quorate-core`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::{
    ForcedRecovery, GroupId, HardState, LogId, LogIndex, Membership, NodeId, RecoveryAudit, RecoveryRefused,
    ReplicaId, force_recovery,
};
use quorate_host::{LogTask, RecoverError, recover_log};
use quorate_storage::{
    DataDir, DataDirError, Disk, GroupState, GroupWrite, LogBatch, LogError, LogKind, LogStore, OsDisk,
    OverlayDisk, SnapshotError, SnapshotInfo, SnapshotStore, WalConfig, write_now,
};

use crate::config::ClusterId;
use crate::stores::{LogStoreKind, SnapshotStoreKind, StorePlace, named};

/// A data directory cannot be looked at or recovered. Unless the disk failed under the recovery itself, nothing has
/// changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// In use by a node, newer, or damaged.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// No node has ever been here.
    #[error("{} is not the data directory of a node", .0.display())]
    Nobodys(PathBuf),
    /// Its log is of a kind that is not in this build and was not given.
    #[error(
        "the data directory keeps its log as `{0}`: give that store to `Offline::log_store`, or build with the feature of that name"
    )]
    UnknownLog(LogKind),
    /// The log is damaged or cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshots cannot be read.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// Log and snapshots contradict each other.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// There is no such group in the directory.
    #[error("group {0} is not in this directory")]
    NoGroup(GroupId),
    /// Another replica of the group lives in this directory than the survivor that was named.
    #[error("replica {found} lives here, not replica {asked}")]
    OtherReplica {
        /// The one that lives here.
        found: ReplicaId,
        /// The survivor that was named.
        asked: ReplicaId,
    },
    /// The recovery would make no sense.
    #[error("not recovered: {0}")]
    Refused(RecoveryRefused),
    /// The backup could not be made.
    #[error("the backup {} could not be made: {source}", path.display())]
    Backup {
        /// Where it should have been.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// What is in a data directory.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The node it belongs to.
    pub node: NodeId,
    /// Which store its log is in.
    pub log_kind: LogKind,
    /// Its groups, ascending.
    pub groups: Vec<GroupInspection>,
}

/// What is known of one group on disk.
#[derive(Clone, Debug)]
pub struct GroupInspection {
    /// The group.
    pub group: GroupId,
    /// The replica that lives here.
    pub replica: ReplicaId,
    /// Its term, vote, and what it knows to be committed.
    pub hard_state: HardState,
    /// The log starts after this.
    pub compacted: LogId,
    /// The last entry.
    pub last: LogId,
    /// The newest membership in log or snapshot, committed or not (empty: it has joined and heard nothing yet).
    pub membership: Arc<Membership>,
    /// The position of its entry.
    pub membership_id: LogId,
    /// The snapshots, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
}

/// How to recover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoverOptions {
    /// Only say what would be done.
    pub dry_run: bool,
    /// First copy what the recovery changes, the log, and `NODE`, which says whose it is, here; nothing may be there
    /// yet. Putting the log of the copy in the place of the directory's undoes the recovery, as long as the node has
    /// not been started.
    pub backup: Option<PathBuf>,
}

/// A data directory whose node does not run, and what its stores are.
#[derive(Clone)]
pub struct Offline {
    disk: Arc<dyn Disk>,
    /// Where it is in the file system.
    root: Option<PathBuf>,
    logs: Vec<LogStoreKind>,
    snapshots: SnapshotStoreKind,
}

/// What is open of a directory.
struct Opened {
    log: Box<dyn LogStore>,
    snapshots: Arc<dyn SnapshotStore>,
    /// Last: only when the others are closed may another process take it.
    directory: DataDir,
}

/// Whether a node has kept anything of any group in `directory`.
///
/// # Errors
/// See [`OfflineError`].
pub fn has_existing_state(directory: impl AsRef<Path>) -> Result<bool, OfflineError> {
    Offline::at(directory).has_existing_state()
}

/// What is in `directory`, without starting a node there.
///
/// # Errors
/// See [`OfflineError`].
pub fn inspect(directory: impl AsRef<Path>) -> Result<Inspection, OfflineError> {
    Offline::at(directory).inspect()
}

/// Lets the replica in `directory` go on alone after a majority of its group is lost for good: see
/// [`Offline::recover_cluster`].
///
/// # Errors
/// See [`OfflineError`]. `Refused`: with the reason.
pub fn recover_cluster(
    directory: impl AsRef<Path>,
    group: GroupId,
    asked: ForcedRecovery,
    options: &RecoverOptions,
) -> Result<RecoveryAudit, OfflineError> {
    Offline::at(directory).recover_cluster(group, asked, options)
}

impl Offline {
    /// The data directory at a path.
    #[must_use]
    pub fn at(directory: impl AsRef<Path>) -> Self {
        let root = directory.as_ref().to_owned();
        Self { root: Some(root.clone()), ..Self::on(Arc::new(OsDisk::new(root))) }
    }

    /// The data directory that is the root of `disk`, as given to [`NodeBuilder::disk`](crate::NodeBuilder::disk).
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>) -> Self {
        let logs = vec![
            LogStoreKind::wal(WalConfig::default()),
            #[cfg(feature = "redb")]
            LogStoreKind::redb(quorate_storage::RedbConfig::default()),
        ];
        Self { disk, root: None, logs, snapshots: SnapshotStoreKind::files() }
    }

    /// One more kind of log that the directory may have.
    #[must_use]
    pub fn log_store(mut self, kind: LogStoreKind) -> Self {
        // The caller's comes before one of ours with the same name.
        self.logs.insert(0, kind);
        self
    }

    /// Snapshots are not in files, but here.
    #[must_use]
    pub fn snapshot_store(mut self, kind: SnapshotStoreKind) -> Self {
        self.snapshots = kind;
        self
    }

    /// Whether a node has kept anything of any group. Changes nothing.
    ///
    /// # Errors
    /// See [`OfflineError`].
    pub fn has_existing_state(&self) -> Result<bool, OfflineError> {
        match self.inspect() {
            Ok(inspection) => Ok(!inspection.groups.is_empty()),
            Err(OfflineError::Nobodys(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What is there. Changes nothing.
    ///
    /// # Errors
    /// See [`OfflineError`].
    pub fn inspect(&self) -> Result<Inspection, OfflineError> {
        let Opened { log, snapshots, directory } = self.look()?;
        let identity = directory.identity();
        let group = |state: &GroupState| {
            let (restored, _) = recover_log(state, &*snapshots)?;
            let (membership_id, membership) = restored.memberships.last().cloned().unwrap_or_default();
            let term = restored.term_runs.last().map_or(restored.compacted.term, |run| run.term);
            Ok(GroupInspection {
                group: state.group,
                replica: state.replica,
                hard_state: restored.hard_state,
                compacted: restored.compacted,
                last: LogId { term, index: restored.last },
                membership,
                membership_id,
                snapshots: snapshots.list(state.group)?,
            })
        };
        let groups = log.groups().iter().map(group).collect::<Result<_, OfflineError>>()?;
        Ok(Inspection {
            cluster: ClusterId(identity.cluster),
            node: identity.node,
            log_kind: directory.log_kind().clone(),
            groups,
        })
    }

    /// Lets the replica in the directory go on alone after a majority of its group is lost for good; the audit says
    /// what that costs, and should be kept. Stop every node of the group first; recover **one**, the one with the
    /// longest log (see [`Offline::inspect`]); afterwards start it and add the others again, under new ids and with
    /// nothing.
    ///
    /// # Errors
    /// See [`OfflineError`]. `Refused`: with the reason.
    pub fn recover_cluster(
        &self,
        group: GroupId,
        asked: ForcedRecovery,
        options: &RecoverOptions,
    ) -> Result<RecoveryAudit, OfflineError> {
        let (_, planned) = self.look()?.plan(group, asked.clone())?;
        if options.dry_run {
            return Ok(planned);
        }
        let directory = self.take(&self.disk)?;
        if let Some(backup) = &options.backup {
            self.back_up(directory.log_kind(), backup)
                .map_err(|source| OfflineError::Backup { path: backup.clone(), source })?;
        }
        let mut opened = self.open(directory, false)?;
        // Again: a node may have run there between the dry run and the lock.
        let (writes, audit) = opened.plan(group, asked)?;
        for write in writes {
            write_now(&mut *opened.log, LogBatch { groups: vec![write] }, true)?;
        }
        Ok(audit)
    }

    /// Opens everything without changing anything.
    fn look(&self) -> Result<Opened, OfflineError> {
        let below: Arc<dyn Disk> = match &self.root {
            Some(root) => Arc::new(OsDisk::read_only(root)),
            None => Arc::clone(&self.disk),
        };
        let disk: Arc<dyn Disk> = Arc::new(OverlayDisk::new(below));
        self.open(self.take(&disk)?, true)
    }

    /// Takes the directory for whoever it belongs to.
    fn take(&self, disk: &Arc<dyn Disk>) -> Result<DataDir, OfflineError> {
        let nobodys = || OfflineError::Nobodys(named(self.root.as_deref()));
        let (identity, kind) = DataDir::read(&**disk)?.ok_or_else(nobodys)?;
        Ok(DataDir::open_with(Arc::clone(disk), identity, kind)?)
    }

    fn open(&self, directory: DataDir, is_only_looking: bool) -> Result<Opened, OfflineError> {
        let kind = directory.log_kind();
        let log = self.logs.iter().find(|log| log.kind().is_ok_and(|known| known == *kind));
        let log = log.ok_or_else(|| OfflineError::UnknownLog(kind.clone()))?;
        let place = |name| StorePlace {
            disk: directory.disk(),
            root: self.root.clone(),
            directory: name,
            incarnation: directory.identity().incarnation,
            is_only_looking,
        };
        let log = log.open(&place(directory.log()))?;
        let looked_at = StorePlace {
            disk: Arc::new(OverlayDisk::new(directory.disk())),
            is_only_looking: true,
            ..place(directory.snapshots())
        };
        let snapshots = self.snapshots.open(&looked_at)?;
        Ok(Opened { log, snapshots, directory })
    }

    /// Copies what a recovery changes, and whose it is, into the new directory `to`, durably. A copy that cannot be
    /// finished is removed again.
    fn back_up(&self, kind: &LogKind, to: &Path) -> io::Result<()> {
        let Some(from) = &self.root else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this disk is not in the file system"));
        };
        fs::create_dir(to)?;
        let node = to.join("NODE");
        let copied = fs::copy(from.join("NODE"), &node)
            .and_then(|_| fs::File::open(&node)?.sync_all())
            .and_then(|()| copy_all(&from.join(kind.directory()), &to.join(kind.directory())))
            .and_then(|()| fs::File::open(to)?.sync_all());
        copied.inspect_err(|_| {
            // A second attempt shall find its place free. If it cannot go, that one says so.
            drop(fs::remove_dir_all(to));
        })
    }
}

impl Opened {
    /// What a recovery would write, and what it would cost.
    fn plan(
        &self,
        group: GroupId,
        asked: ForcedRecovery,
    ) -> Result<(Vec<GroupWrite>, RecoveryAudit), OfflineError> {
        let state = self.log.reader().state(group).ok_or(OfflineError::NoGroup(group))?;
        if state.replica != asked.survivor {
            return Err(OfflineError::OtherReplica { found: state.replica, asked: asked.survivor });
        }
        let (restored, fix) = recover_log(&state, &*self.snapshots)?;
        let recovered = force_recovery(&restored, asked).map_err(OfflineError::Refused)?;
        let mut task = LogTask::persist(group, recovered.persist);
        if restored.lost_until > LogIndex(0) {
            // Nobody is left who could give it back.
            task.write.lost_until = Some(LogIndex(0));
        }
        Ok((fix.into_iter().chain([task]).map(|task| task.write).collect(), recovered.audit))
    }
}

/// Copies a directory with everything in it, durably.
fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &copy)?;
        } else {
            fs::copy(entry.path(), &copy)?;
            fs::File::open(&copy)?.sync_all()?;
        }
    }
    fs::File::open(to)?.sync_all()
}
