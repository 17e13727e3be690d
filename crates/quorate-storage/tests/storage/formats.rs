//! The bytes on disk, against fixtures that docs/formats.md explains. A change here is a change of
//! format: it needs a new version, or old directories cannot be read.
//!
//! `UPDATE_GOLDENFILES=1` writes the fixtures; then read the difference.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, Member, MemberRole, Membership, NodeId,
    ReplicaId, SnapshotMeta, Term,
};
use quorate_storage::conformance::LogModel;
use quorate_storage::{
    DataDir, Disk, FileSnapshotStore, GroupWrite, Identity, KnownPeers, LogBatch, LogKind, LogStore, MemDisk,
    SnapshotKind, SnapshotStore, Wal, WalConfig,
};

fn members() -> Arc<Membership> {
    let member = |node, role| Member {
        node: NodeId(node),
        role,
        peer_address: format!("n{node}:7001"),
        client_address: format!("n{node}:8001"),
    };
    let members = vec![member(1, MemberRole::Voter), member(2, MemberRole::Learner)];
    Arc::new(Membership::initial(members).unwrap())
}

/// Sixteen bytes a line, like `hexdump -C`; `*` stands for lines like the one before.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut before: Option<&[u8]> = None;
    let mut is_squeezed = false;
    for (line, row) in bytes.chunks(16).enumerate() {
        if before == Some(row) {
            if !is_squeezed {
                text.push_str("*\n");
            }
            is_squeezed = true;
            continue;
        }
        (before, is_squeezed) = (Some(row), false);
        write!(text, "{:08x} ", line * 16).unwrap();
        for byte in row {
            write!(text, " {byte:02x}").unwrap();
        }
        let shown = row.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' });
        writeln!(text, "  |{}|", shown.collect::<String>()).unwrap();
    }
    writeln!(text, "{:08x}", bytes.len()).unwrap();
    text
}

/// The bytes of a dump.
fn undump(text: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for line in text.lines().filter(|line| *line != "*") {
        let (offset, rest) = line.split_at(8);
        let offset = usize::from_str_radix(offset, 16).unwrap();
        while bytes.len() < offset {
            let repeated = bytes[bytes.len() - 16];
            bytes.push(repeated);
        }
        let row = rest.split("  |").next().unwrap();
        bytes.extend(row.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

/// Compares a file with its fixture, and returns the fixture's bytes.
fn golden(disk: &MemDisk, path: &str, fixture: &str) -> Vec<u8> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    let found = dump(&disk.contents(Path::new(path)).unwrap());
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&file, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    assert!(found == expected, "{path} differs from {fixture}; it is now:\n{found}");
    undump(&expected)
}

#[test]
fn segments_are_what_the_fixtures_say() {
    let config = WalConfig {
        segment_bytes: 4096,
        fill_ahead_bytes: 0,
        salt: 0x1122_3344_5566_7788,
        // Moves what is live out of its first segment as soon as there is a second one.
        log_bytes_max: 0,
        ..WalConfig::default()
    };
    let open = |disk: &MemDisk| Wal::open(Arc::new(disk.clone()), Path::new("wal"), config).unwrap();
    let disk = MemDisk::new();
    let (mut wal, mut model) = (open(&disk), LogModel::default());
    let mut write = |groups: Vec<GroupWrite>| {
        let batch = LogBatch { groups };
        model.apply(&batch);
        wal.write(batch, true, Box::new(|result| result.unwrap()));
        wal.flush().unwrap();
    };
    let group = |group| GroupWrite { group: GroupId(group), ..GroupWrite::default() };
    let entry = |term, index, payload| Entry { id: LogId::new(term, index), payload };
    let hard_state = HardState { term: Term(5), vote: Some(ReplicaId(2)), commit: LogIndex(2) };
    write(vec![GroupWrite {
        replica: Some(ReplicaId(2)),
        reset_to: Some((LogId::default(), LogId::default(), members())),
        hard_state: Some(hard_state),
        entries: vec![
            entry(4, 1, EntryPayload::Noop),
            entry(4, 2, EntryPayload::Command(Bytes::from_static(b"hello"))),
            entry(5, 3, EntryPayload::Membership(members())),
            entry(5, 4, EntryPayload::Noop),
        ]
        .into(),
        ..group(7)
    }]);
    write(vec![
        GroupWrite {
            truncate_from: Some(LogIndex(4)),
            compact_to: Some((LogId::new(4, 1), LogId::default(), members())),
            ..group(7)
        },
        GroupWrite { remove: true, ..group(9) },
    ]);
    // Fills the segment: the log goes on in the next one, and group 7 moves there.
    for index in 1..=2 {
        let command = EntryPayload::Command(Bytes::from(vec![0xAB; 2000]));
        let compact_to = Some((LogId::new(1, index), LogId::default(), members()));
        write(vec![GroupWrite { entries: vec![entry(1, index, command)].into(), compact_to, ..group(1) }]);
    }
    drop(wal);
    let paths = ["wal/0000000000000001.wal", "wal/0000000000000002.wal"];
    assert_eq!(disk.list(Path::new("wal")).unwrap().len(), 2);
    let copy = MemDisk::new();
    copy.create_dir_all(Path::new("wal")).unwrap();
    for (path, fixture) in paths.into_iter().zip(["segment-1.txt", "segment-2.txt"]) {
        copy.overwrite(Path::new(path), golden(&disk, path, fixture));
    }
    model.compare(&open(&copy)).unwrap();
}

#[test]
fn snapshot_is_what_the_fixture_says() {
    let open =
        |disk: &MemDisk| FileSnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap();
    let disk = MemDisk::new();
    let store = open(&disk);
    let meta =
        SnapshotMeta { last: LogId::new(4, 300), membership: members(), membership_id: LogId::new(3, 200) };
    let mut writer = store.create(GroupId(7), &meta).unwrap();
    let content = [vec![b'a'; 65_536], b"the second chunk".to_vec()].concat();
    writer.write(&content).unwrap();
    let info = writer.finish().unwrap();
    let path = "snapshots/00000000000000000007-00000000000000000300-00000000000000000004.snap";
    let copy = MemDisk::new();
    copy.create_dir_all(Path::new("snapshots")).unwrap();
    copy.overwrite(Path::new(path), golden(&disk, path, "snapshot.txt"));
    let store = open(&copy);
    assert_eq!(store.list(GroupId(7)).unwrap(), std::slice::from_ref(&info));
    let mut found = vec![0; 70_000];
    let count = store.open(&info).unwrap().read_at(0, &mut found).unwrap();
    assert!(found[..count] == content);
}

#[test]
fn node_file_is_what_the_fixture_says() {
    let identity = Identity {
        cluster: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
        node: NodeId(3),
        incarnation: 0x0123_4567_89ab_cdef,
    };
    let disk = MemDisk::new();
    drop(DataDir::open(Arc::new(disk.clone()), identity).unwrap());
    let copy = MemDisk::new();
    copy.overwrite(Path::new("NODE"), golden(&disk, "NODE", "node.txt"));
    assert_eq!(DataDir::inspect(&copy).unwrap(), Some(identity));

    let (disk, kind) = (MemDisk::new(), LogKind::new("redb").unwrap());
    drop(DataDir::open_with(Arc::new(disk.clone()), identity, kind.clone()).unwrap());
    let copy = MemDisk::new();
    copy.overwrite(Path::new("NODE"), golden(&disk, "NODE", "node-redb.txt"));
    assert_eq!(DataDir::read(&copy).unwrap(), Some((identity, kind)));

    let (disk, snapshots) = (MemDisk::new(), SnapshotKind::new(SnapshotKind::DISCARD).unwrap());
    let mut directory = DataDir::open(Arc::new(disk.clone()), identity).unwrap();
    directory.claim_snapshots(snapshots.clone()).unwrap();
    let copy = MemDisk::new();
    for name in ["wal", "snapshots"] {
        copy.create_dir_all(Path::new(name)).unwrap();
    }
    copy.overwrite(Path::new("NODE"), golden(&disk, "NODE", "node-discard.txt"));
    let directory = DataDir::open(Arc::new(copy), identity).unwrap();
    assert_eq!((directory.log_kind(), directory.snapshot_kind()), (&LogKind::default(), &snapshots));
}

#[test]
fn peers_file_is_what_the_fixture_says() {
    let disk = MemDisk::new();
    let mut peers = KnownPeers::open(Arc::new(disk.clone())).unwrap();
    peers.recognise(NodeId(2), 0x0123_4567_89ab_cdef).unwrap();
    peers.recognise(NodeId(1), 7).unwrap();
    let copy = MemDisk::new();
    copy.overwrite(Path::new("PEERS"), golden(&disk, "PEERS", "peers.txt"));
    let mut peers = KnownPeers::open(Arc::new(copy)).unwrap();
    peers.recognise(NodeId(1), 7).unwrap();
    peers.recognise(NodeId(2), 7).unwrap_err();
}
