//! A data directory belongs to one node of one cluster and to one process at a time.

use std::path::Path;
use std::sync::Arc;

use quorate_core::NodeId;
use quorate_storage::{
    DataDir, DataDirError, Disk, DiskFault, Identity, KnownPeers, LogKind, LogStore, MemDisk, OsDisk,
    SnapshotKind, Wal, WalConfig, write_now,
};

use crate::crash_points::{batch, entries};

const MINE: Identity = Identity { cluster: 0xC0FFEE, node: NodeId(3), incarnation: 77 };

fn open(disk: &MemDisk, identity: Identity) -> Result<DataDir, DataDirError> {
    DataDir::open(Arc::new(disk.clone()), identity)
}

#[test]
fn a_directory_keeps_its_identity() {
    let disk = MemDisk::new();
    assert_eq!(DataDir::inspect(&disk).unwrap(), None);
    let first = open(&disk, MINE).unwrap();
    assert!(first.is_new());
    drop(first);
    // The next start draws another incarnation; the directory's own wins.
    let second = open(&disk, Identity { incarnation: 5, ..MINE }).unwrap();
    assert!(!second.is_new());
    assert_eq!(second.identity(), MINE);
    assert_eq!(DataDir::inspect(&disk).unwrap(), Some(MINE));
    let names = disk.list(Path::new("")).unwrap();
    assert_eq!(names, ["NODE", "engine", "snapshots", "wal"]);
}

#[test]
fn another_cluster_or_node_is_refused() {
    let disk = MemDisk::new();
    drop(open(&disk, MINE).unwrap());
    let error = open(&disk, Identity { cluster: 1, ..MINE }).map(drop).unwrap_err();
    assert!(matches!(error, DataDirError::OtherCluster { found: 0xC0FFEE, expected: 1 }), "{error}");
    let error = open(&disk, Identity { node: NodeId(4), ..MINE }).map(drop).unwrap_err();
    assert!(error.to_string().contains("belongs to node 3, not to node 4"), "{error}");
    // A refusal does not hold the lock.
    open(&disk, MINE).unwrap();
}

#[test]
fn a_second_process_is_told_who_holds_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(OsDisk::new(directory.path().join("new/data")));
    let held = DataDir::open(disk.clone(), MINE).unwrap();
    let error = DataDir::open(disk.clone(), MINE).map(drop).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(error, DataDirError::InUse { holder_pid: Some(holder) } if holder == pid), "{error}");
    assert!(error.to_string().contains(&format!("by process {pid}")), "{error}");
    drop(held);
    DataDir::open(disk, MINE).unwrap();
}

#[test]
fn a_file_in_place_of_the_directory_is_named_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for root in [file.clone(), file.join("below")] {
        let error = DataDir::open(Arc::new(OsDisk::new(&root)), MINE).map(drop).unwrap_err();
        assert!(matches!(error, DataDirError::NotADirectory), "{}: {error}", root.display());
    }
}

/// A node that looked for its log in another place would find none, and vote again where it has voted.
#[test]
fn a_directory_keeps_its_kind_of_log() {
    let disk = MemDisk::new();
    let open_as = |name| {
        let kind = LogKind::new(name).unwrap();
        DataDir::open_with(Arc::new(disk.clone()), MINE, kind).map(drop)
    };
    open_as("redb").unwrap();
    assert_eq!(disk.list(Path::new("")).unwrap(), ["NODE", "engine", "log", "snapshots"]);
    let error = open(&disk, MINE).map(drop).unwrap_err().to_string();
    assert!(error.contains("keeps its log as `redb`, not as `wal`: start with `redb`"), "{error}");
    assert!(matches!(open_as("mine"), Err(DataDirError::OtherLog { .. })));
    assert!(!disk.exists(Path::new("wal")).unwrap(), "a refusal leaves nothing behind");
    open_as("redb").unwrap();
    assert_eq!(DataDir::read(&disk).unwrap(), Some((MINE, LogKind::new("redb").unwrap())));
    disk.create(Path::new("snapshots/x.snap")).unwrap();
    let lost = open_as("redb").unwrap_err();
    assert!(lost.to_string().contains("has lost its log (there is none in log/)"), "{lost}");
}

/// The story of an operator who drops a setting: the snapshots below which the log was compacted are there,
/// and nobody finds them.
#[test]
fn a_directory_keeps_its_kind_of_snapshot_store() {
    let kind = |name| SnapshotKind::new(name).unwrap();
    let disk = MemDisk::new();
    let claim = |name| open(&disk, MINE).and_then(|mut directory| directory.claim_snapshots(kind(name)));
    claim("files").unwrap();
    let plain = disk.contents(Path::new("NODE")).unwrap();
    assert_eq!(plain.len(), 48, "what older builds read");
    // Without a snapshot there is nothing to lose.
    claim("mine").unwrap();
    let refused = claim("files").unwrap_err().to_string();
    assert!(
        refused.contains("keeps its snapshots as `mine`, not as `files`: start with `mine`"),
        "{refused}"
    );
    assert!(matches!(claim("discard"), Err(DataDirError::OtherSnapshots { .. })));
    claim("mine").unwrap();
    assert_eq!(*open(&disk, MINE).unwrap().snapshot_kind(), kind("mine"));
    assert_eq!(DataDir::read(&disk).unwrap(), Some((MINE, LogKind::default())));
    // A directory of a build that noted nothing, with snapshots.
    disk.overwrite(Path::new("NODE"), plain.clone());
    disk.create(&Path::new("snapshots").join(format!("{0:020}-{0:020}-{0:020}.snap", 1))).unwrap();
    disk.create(Path::new("wal/0000000000000001.wal")).unwrap();
    for name in ["discard", "mine"] {
        assert!(matches!(claim(name), Err(DataDirError::OtherSnapshots { .. })), "{name}");
    }
    claim("files").unwrap();
    assert_eq!(disk.contents(Path::new("NODE")).unwrap(), plain, "a refusal changes nothing");
}

/// Where none were kept, none are lost.
#[test]
fn a_directory_that_kept_no_snapshots_takes_any_store() {
    let kind = |name| SnapshotKind::new(name).unwrap();
    let disk = MemDisk::new();
    for name in ["discard", "files", "discard", "mine"] {
        open(&disk, MINE).unwrap().claim_snapshots(kind(name)).unwrap();
        for _ in 0..2 {
            assert_eq!(*open(&disk, MINE).unwrap().snapshot_kind(), kind(name));
            disk.crash(7);
        }
    }
}

#[test]
fn kinds_of_log_have_short_plain_names() {
    for name in ["wal", "redb", "my-log_2", &"x".repeat(32)] {
        assert_eq!(LogKind::new(name).unwrap().name(), name);
    }
    for name in ["", "WAL", "a b", "../x", "\u{e9}", &"x".repeat(33)] {
        assert_eq!(LogKind::new(name), None, "{name}");
    }
}

#[test]
fn any_damaged_byte_of_the_identity_is_an_error() {
    for (log, snapshots) in [("wal", "files"), ("redb", "files"), ("wal", "mine"), ("redb", "discard")] {
        let (log, snapshots) = (LogKind::new(log).unwrap(), SnapshotKind::new(snapshots).unwrap());
        damage_every_byte_of_the_identity(log, snapshots);
    }
}

fn damage_every_byte_of_the_identity(kind: LogKind, snapshots: SnapshotKind) {
    let disk = MemDisk::new();
    let open = || DataDir::open_with(Arc::new(disk.clone()), MINE, kind.clone());
    open().unwrap().claim_snapshots(snapshots).unwrap();
    let node = Path::new("NODE");
    let whole = disk.contents(node).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        for damaged in [flipped, whole[..at].to_vec(), [&whole[..], &[0]].concat()] {
            disk.overwrite(node, damaged);
            let error = open().map(drop).unwrap_err();
            assert!(matches!(error, DataDirError::Damaged { .. } | DataDirError::Version { .. }), "{error}");
        }
    }
}

#[test]
fn a_newer_format_is_refused_as_such() {
    let disk = MemDisk::new();
    drop(open(&disk, MINE).unwrap());
    let mut newer = disk.contents(Path::new("NODE")).unwrap();
    newer[8] = 4;
    disk.overwrite(Path::new("NODE"), newer);
    let error = open(&disk, MINE).map(drop).unwrap_err();
    assert!(matches!(error, DataDirError::Version { found: 4, known: 3 }), "{error}");
}

/// Somebody deletes NODE: a log without an identity is not a fresh directory.
#[test]
fn a_log_without_an_identity_is_refused() {
    let disk = MemDisk::new();
    let directory = open(&disk, MINE).unwrap();
    drop(Wal::open(directory.disk(), &directory.wal(), WalConfig::default()).unwrap());
    drop(directory);
    disk.remove(Path::new("NODE")).unwrap();
    let error = open(&disk, MINE).map(drop).unwrap_err();
    assert!(matches!(error, DataDirError::NoIdentity { .. }), "{error}");
}

/// Somebody deletes the log: a node that starts without it would vote again in terms it has voted in.
#[test]
fn a_directory_that_lost_its_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(OsDisk::new(directory.path()));
    drop(DataDir::open(disk.clone(), MINE).unwrap());
    drop(DataDir::open(disk.clone(), MINE).expect("the first start was interrupted before the log was made"));
    disk.create(Path::new("snapshots/x.snap")).unwrap();
    let error = DataDir::open(disk.clone(), MINE).map(drop).unwrap_err();
    assert!(matches!(error, DataDirError::LostLog { .. }), "{error}");
    std::fs::remove_dir_all(directory.path().join("snapshots")).unwrap();
    std::fs::remove_dir_all(directory.path().join("wal")).unwrap();
    let error = DataDir::open(disk, MINE).map(drop).unwrap_err();
    assert!(matches!(error, DataDirError::LostLog { .. }), "{error}");
}

#[test]
fn power_failure_at_every_operation_of_the_first_start_leaves_a_usable_directory() {
    let disk = MemDisk::new();
    drop(open(&disk, MINE).unwrap());
    for operation in 0..disk.operations() {
        for seed in 0..8 {
            let disk = MemDisk::new();
            disk.fail_at(operation, DiskFault::PowerFailure);
            assert!(open(&disk, MINE).is_err());
            disk.crash(seed);
            let other = Identity { incarnation: 6, ..MINE };
            let opened = open(&disk, other).unwrap_or_else(|error| panic!("{operation}/{seed}: {error}"));
            let expected = if opened.is_new() { other } else { MINE };
            assert_eq!(opened.identity(), expected);
        }
    }
}

/// Opens the directory and its log as a node does, with as small a log as there is.
fn start(disk: &MemDisk) -> Result<(DataDir, Wal), String> {
    let directory = open(disk, MINE).map_err(|error| error.to_string())?;
    let config = WalConfig { segment_bytes: 4096, reserve_bytes: 4096, ..WalConfig::default() };
    let wal = Wal::open(directory.disk(), &directory.wal(), config).map_err(|error| error.to_string())?;
    directory.note_log().map_err(|error| error.to_string())?;
    Ok((directory, wal))
}

/// Somebody tidies up and removes the files of the log; no snapshot was taken yet.
fn remove_segments(disk: &MemDisk) {
    for name in disk.list(Path::new("wal")).unwrap_or_default() {
        if name.ends_with(".wal") {
            disk.remove(&Path::new("wal").join(name)).unwrap();
        }
    }
}

/// A node without snapshots, the only file of whose log was deleted, took its directory for that of a first
/// start that was interrupted: it forgot its vote and its entries, and said nothing.
#[test]
fn a_log_that_was_there_once_is_missed() {
    let disk = MemDisk::new();
    drop(start(&disk).unwrap());
    remove_segments(&disk);
    for _ in 0..2 {
        let error = open(&disk, MINE).map(drop).unwrap_err();
        assert!(matches!(error, DataDirError::LostLog { directory: "wal" }), "{error}");
        assert!(error.to_string().contains("put its files back"), "{error}");
    }
    // The reserve of a full disk is no log; nor is its absence an excuse.
    disk.remove(Path::new("wal/reserve")).unwrap();
    open(&disk, MINE).map(drop).unwrap_err();
}

/// What a directory written by an older build has shows as well that there was a log.
#[test]
fn a_directory_of_an_older_build_gets_the_mark_when_it_is_opened() {
    let disk = MemDisk::new();
    drop(start(&disk).unwrap());
    disk.remove(Path::new("STARTED")).unwrap();
    let old = disk.copy();
    remove_segments(&old);
    let error = open(&old, MINE).map(drop).unwrap_err();
    assert!(matches!(error, DataDirError::LostLog { .. }), "the reserve is still there: {error}");

    drop(start(&disk).unwrap());
    assert!(disk.exists(Path::new("STARTED")).unwrap());
    remove_segments(&disk);
    disk.remove(Path::new("wal/reserve")).unwrap();
    assert!(matches!(open(&disk, MINE).map(drop), Err(DataDirError::LostLog { .. })));
}

/// A log that makes its files later, against what is asked of it, is not missed before it has any.
#[test]
fn a_log_without_files_is_not_noted() {
    let disk = MemDisk::new();
    let mine = || DataDir::open_with(Arc::new(disk.clone()), MINE, LogKind::new("mine").unwrap());
    mine().unwrap().note_log().unwrap();
    mine().unwrap();
    disk.create(Path::new("log/file")).unwrap();
    mine().unwrap().note_log().unwrap();
    disk.remove(Path::new("log/file")).unwrap();
    assert!(matches!(mine().map(drop), Err(DataDirError::LostLog { directory: "log" })));
}

/// An empty log next to files that are only made next to NODE: the directory has lost its identity as well.
#[test]
fn a_directory_that_lost_its_identity_and_its_log_is_refused() {
    for name in ["STARTED", "PEERS"] {
        let disk = MemDisk::new();
        drop(start(&disk).unwrap());
        KnownPeers::open(Arc::new(disk.clone())).unwrap().recognise(NodeId(9), 9).unwrap();
        for other in ["NODE", "wal/reserve", "STARTED", "PEERS"] {
            if other != name {
                disk.remove(Path::new(other)).unwrap();
            }
        }
        remove_segments(&disk);
        let error = open(&disk, MINE).map(drop).unwrap_err();
        assert!(error.to_string().contains(&format!("contains {name}")), "{error}");
    }
}

/// The power fails at every operation of a first start; or the disk refuses it, the node is started again,
/// and the power fails during that. The next start is a first one or goes on with the log; it is never
/// refused, and forgets nothing that was acknowledged. And whenever something was acknowledged, a log that is
/// deleted then is missed.
#[test]
fn power_failure_at_every_operation_of_the_first_start_with_its_log_is_no_loss() {
    let first_write = |disk: &MemDisk| -> Result<(), String> {
        let (_directory, mut wal) = start(disk)?;
        write_now(&mut wal, batch([entries(1, 1, 1..=1, 10)]), true).map_err(|error| error.to_string())
    };
    let counting = MemDisk::new();
    first_write(&counting).unwrap();
    let mut refused = 0;
    for operation in 0..=counting.operations() {
        for seed in 0..24 {
            let disk = MemDisk::new();
            let fault = match seed % 3 {
                0 => DiskFault::PowerFailure,
                1 => DiskFault::SyncError,
                _ => DiskFault::NoSpace,
            };
            disk.fail_at(operation, fault);
            let acknowledged = first_write(&disk).is_ok();
            let place = format!("operation {operation}, seed {seed}");
            if fault != DiskFault::PowerFailure {
                // The next start sees every name that was given, durable or not.
                disk.fail_at(disk.operations() + seed, DiskFault::PowerFailure);
                drop(start(&disk));
            }
            disk.crash(seed);
            let lost = disk.copy();
            remove_segments(&lost);
            let is_missed = open(&lost, MINE).map(drop).is_err();
            assert!(is_missed || !acknowledged, "{place}: a lost log is taken for a new one");
            refused += u64::from(is_missed);

            let (_directory, wal) = start(&disk).unwrap_or_else(|error| panic!("{place}: {error}"));
            assert!(!acknowledged || wal.groups().len() == 1, "{place}: acknowledged and forgotten");
        }
    }
    assert!(refused > 0);
}
