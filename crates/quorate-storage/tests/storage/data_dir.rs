//! A data directory belongs to one node of one cluster and to one process at a time.

use std::path::Path;
use std::sync::Arc;

use quorate_core::NodeId;
use quorate_storage::{
    DataDir, DataDirError, Disk, DiskFault, Identity, LogKind, MemDisk, OsDisk, Wal, WalConfig,
};

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
    assert!(lost.to_string().contains("has lost its log (log/)"), "{lost}");
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
    for kind in ["wal", "redb"] {
        damage_every_byte_of_the_identity(LogKind::new(kind).unwrap());
    }
}

fn damage_every_byte_of_the_identity(kind: LogKind) {
    let disk = MemDisk::new();
    let open = || DataDir::open_with(Arc::new(disk.clone()), MINE, kind.clone());
    drop(open().unwrap());
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
    newer[8] = 3;
    disk.overwrite(Path::new("NODE"), newer);
    let error = open(&disk, MINE).map(drop).unwrap_err();
    assert!(matches!(error, DataDirError::Version { found: 3, known: 2 }), "{error}");
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
