//! Whom a node has met stays known: after a restart, a power failure, a full disk.

use std::path::Path;
use std::sync::Arc;

use quorate_core::NodeId;
use quorate_storage::{DataDirError, DiskFault, KnownPeers, MemDisk, RecogniseError};

const PEERS: &str = "PEERS";

fn open(disk: &MemDisk) -> KnownPeers {
    KnownPeers::open(Arc::new(disk.clone())).unwrap()
}

/// A wiped directory under an old id is told apart, also by those who have been restarted meanwhile.
#[test]
fn another_directory_under_a_known_id_is_refused_after_a_restart() {
    let disk = MemDisk::new();
    let mut peers = open(&disk);
    peers.recognise(NodeId(2), 22).unwrap();
    peers.recognise(NodeId(3), 33).unwrap();
    drop(peers);
    disk.crash(1);
    let mut peers = open(&disk);
    let operations = disk.operations();
    peers.recognise(NodeId(3), 33).unwrap();
    assert_eq!(disk.operations(), operations, "who is known is not written again");
    let error = peers.recognise(NodeId(3), 34).unwrap_err();
    assert!(matches!(error, RecogniseError::OtherDirectory { node: NodeId(3) }), "{error}");
    peers.recognise(NodeId(4), 44).unwrap();
    let error = open(&disk).recognise(NodeId(2), 23).unwrap_err();
    assert!(matches!(error, RecogniseError::OtherDirectory { node: NodeId(2) }), "{error}");
}

/// What was said yes to is known after a power failure at any moment; what was not, may be either.
#[test]
fn power_failure_at_every_operation_keeps_everyone_accepted() {
    let meet_two = |disk: &MemDisk| -> [bool; 2] {
        let mut peers = open(disk);
        [peers.recognise(NodeId(2), 22).is_ok(), peers.recognise(NodeId(3), 33).is_ok()]
    };
    let counting = MemDisk::new();
    drop(open(&counting));
    let first = counting.operations();
    meet_two(&counting);
    for operation in first..counting.operations() - first {
        for seed in 0..4 {
            let disk = MemDisk::new();
            disk.fail_at(operation, DiskFault::PowerFailure);
            let accepted = meet_two(&disk);
            assert!(!accepted[1], "operation {operation} did not fail");
            disk.crash(seed);
            let other = open(&disk).recognise(NodeId(2), 99);
            assert!(!accepted[0] || other.is_err(), "{operation}/{seed}");
        }
    }
}

/// The disk fails once; the node that was refused then is let in when it comes again.
#[test]
fn disk_error_refuses_and_the_next_contact_is_noted() {
    for fault in [DiskFault::Error, DiskFault::NoSpace, DiskFault::SyncError] {
        let counting = MemDisk::new();
        open(&counting).recognise(NodeId(2), 22).unwrap();
        let mut failures = 0;
        for operation in 1..counting.operations() {
            let disk = MemDisk::new();
            let mut peers = open(&disk);
            disk.fail_at(operation, fault);
            if let Err(error) = peers.recognise(NodeId(2), 22) {
                assert!(matches!(error, RecogniseError::Io(_)), "{error}");
                failures += 1;
                peers.recognise(NodeId(2), 22).unwrap();
            }
            drop(peers);
            disk.crash(operation);
            open(&disk).recognise(NodeId(2), 23).unwrap_err();
        }
        assert!(failures > 0, "{fault:?}");
    }
}

#[test]
fn any_damaged_byte_is_an_error() {
    let disk = MemDisk::new();
    let mut peers = open(&disk);
    peers.recognise(NodeId(2), 22).unwrap();
    peers.recognise(NodeId(3), 33).unwrap();
    let path = Path::new(PEERS);
    let whole = disk.contents(path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        for damaged in [flipped, whole[..at].to_vec(), [&whole[..], &[0]].concat()] {
            disk.overwrite(path, damaged);
            let error = KnownPeers::open(Arc::new(disk.clone())).map(drop).unwrap_err();
            let told = matches!(error, DataDirError::PeersDamaged { .. } | DataDirError::Version { .. });
            assert!(told, "{error}");
        }
    }
    disk.overwrite(path, whole);
    open(&disk).recognise(NodeId(3), 34).unwrap_err();
}
