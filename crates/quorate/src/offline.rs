//! A data directory without its node: what is in it, and going on when a quorum is lost for good.
//!
//! ```text
//!   has_existing_state, inspect ──► look            lock ─► open the log ─► read
//!   recover_cluster ──► dry run, then for good      lock ─► backup ─► open the log ─► one synced write
//! ```
//!
//! * The directory is locked meanwhile: a node that runs there, or starts, is noticed.
//! * Looking changes nothing that counts. Opening the log finishes what an interrupted start would have finished.
//! * A recovered group has the next recovery epoch: a replica that was not recovered is not heard by it any more,
//!   and comes back only under a new id, with nothing.
//!
//! Everything here blocks on the disk. Not here: which recovery makes sense (`force_recovery` of `quorate-core`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::{
    ForcedRecovery, GroupId, HardState, LogId, Membership, NodeId, RecoveryAudit, RecoveryRefused, ReplicaId,
    force_recovery,
};
use quorate_host::{LogTask, RecoverError, recover_log};
use quorate_storage::{
    DataDir, DataDirError, FileSnapshotStore, GroupState, GroupWrite, LogBatch, LogError, LogStore as _,
    OsDisk, SnapshotError, SnapshotInfo, SnapshotStore as _, Wal, WalConfig, write_now,
};

use crate::config::ClusterId;

/// A data directory cannot be looked at or recovered. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// In use by a node, newer, or damaged.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// No node has ever been here.
    #[error("{} is not the data directory of a node", .0.display())]
    Nobodys(PathBuf),
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
    /// Copy the log here first; nothing may be there yet. Putting the copy back undoes the recovery, as long as
    /// the node has not been started.
    pub backup: Option<PathBuf>,
}

/// What is open of a directory.
struct Opened {
    wal: Wal,
    snapshots: FileSnapshotStore,
    /// Last: only when the others are closed may another process take it.
    directory: DataDir,
}

/// Whether a node has kept anything of any group in `directory`.
///
/// # Errors
/// See [`OfflineError`].
pub fn has_existing_state(directory: impl AsRef<Path>) -> Result<bool, OfflineError> {
    match inspect(directory) {
        Ok(inspection) => Ok(!inspection.groups.is_empty()),
        Err(OfflineError::Nobodys(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is in `directory`, without starting a node there.
///
/// # Errors
/// See [`OfflineError`].
pub fn inspect(directory: impl AsRef<Path>) -> Result<Inspection, OfflineError> {
    let Opened { wal, snapshots, directory } = Opened::open(take(directory.as_ref())?)?;
    let identity = directory.identity();
    let group = |state: &GroupState| {
        let (restored, _) = recover_log(state, &snapshots)?;
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
    let groups = wal.groups().iter().map(group).collect::<Result<_, OfflineError>>()?;
    Ok(Inspection { cluster: ClusterId(identity.cluster), node: identity.node, groups })
}

/// Lets the replica in `directory` go on alone after a majority of its group is lost for good; the audit says what
/// that costs, and should be kept. Stop every node of the group first; recover **one**, the one with the longest log
/// (see [`inspect`]); afterwards start it and add the others again, under new ids and with nothing.
///
/// # Errors
/// See [`OfflineError`]. `Refused`: with the reason.
pub fn recover_cluster(
    directory: impl AsRef<Path>,
    group: GroupId,
    asked: ForcedRecovery,
    options: &RecoverOptions,
) -> Result<RecoveryAudit, OfflineError> {
    let path = directory.as_ref();
    let directory = take(path)?;
    let backup = options.backup.as_ref().filter(|_| !options.dry_run);
    if let Some(backup) = backup {
        back_up(&path.join(directory.wal()), backup)
            .map_err(|source| OfflineError::Backup { path: backup.clone(), source })?;
    }
    let plan = Opened::open(directory).and_then(|opened| plan(opened, group, asked));
    let (mut opened, writes, audit) = plan.inspect_err(|_| {
        // Nothing was written: a second attempt shall find its place free. If it cannot go, that one says so.
        if let Some(backup) = backup {
            drop(fs::remove_dir_all(backup));
        }
    })?;
    if !options.dry_run {
        for write in writes {
            write_now(&mut opened.wal, LogBatch { groups: vec![write] }, true)?;
        }
    }
    Ok(audit)
}

fn plan(
    opened: Opened,
    group: GroupId,
    asked: ForcedRecovery,
) -> Result<(Opened, Vec<GroupWrite>, RecoveryAudit), OfflineError> {
    let state = opened.wal.reader().state(group).ok_or(OfflineError::NoGroup(group))?;
    if state.replica != asked.survivor {
        return Err(OfflineError::OtherReplica { found: state.replica, asked: asked.survivor });
    }
    let (restored, fix) = recover_log(&state, &opened.snapshots)?;
    let recovered = force_recovery(&restored, asked).map_err(OfflineError::Refused)?;
    let task = LogTask::persist(group, recovered.persist);
    let writes = fix.into_iter().chain([task]).map(|task| task.write).collect();
    Ok((opened, writes, recovered.audit))
}

/// Takes the directory of whoever it belongs to.
fn take(path: &Path) -> Result<DataDir, OfflineError> {
    let disk = Arc::new(OsDisk::new(path));
    let identity = DataDir::inspect(&*disk)?.ok_or_else(|| OfflineError::Nobodys(path.to_owned()))?;
    Ok(DataDir::open(disk, identity)?)
}

impl Opened {
    fn open(directory: DataDir) -> Result<Self, OfflineError> {
        let config = WalConfig { salt: directory.identity().incarnation, ..WalConfig::default() };
        let wal = Wal::open(directory.disk(), &directory.wal(), config)?;
        let snapshots = FileSnapshotStore::open(directory.disk(), &directory.snapshots())?;
        Ok(Self { wal, snapshots, directory })
    }
}

/// Copies the files of `from` into the new directory `to`, durably.
fn back_up(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let copy = to.join(entry.file_name());
            fs::copy(entry.path(), &copy)?;
            fs::File::open(&copy)?.sync_all()?;
        }
    }
    fs::File::open(to)?.sync_all()
}
