//! A stored snapshot that is damaged while a follower needs it: the stream says so, and the next one works.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use quorate_core::{GroupId, LogId, Member, MemberRole, Membership, NodeId, ReplicaId, SnapshotMeta, Term};
use quorate_host::{
    Event, HostConfig, PeerBody, SendOutcome, SnapshotAck, SnapshotChunk, SnapshotEvent, SnapshotSend,
    SnapshotTask, SnapshotVerdict, Snapshotter,
};
use quorate_storage::{FileSnapshotStore, MemDisk, SnapshotInfo, SnapshotStore, read_to_end};

const GROUP: GroupId = GroupId(1);
const FILE: &str = "snapshots/00000000000000000001-00000000000000000020-00000000000000000003.snap";

fn save(store: &FileSnapshotStore) -> SnapshotInfo {
    let member = |node| Member {
        node: NodeId(node),
        role: MemberRole::Voter,
        peer_address: String::new(),
        client_address: String::new(),
    };
    let meta = SnapshotMeta {
        last: LogId::new(3, 20),
        membership: Arc::new(Membership::initial(vec![member(1), member(2)]).unwrap()),
        membership_id: LogId::new(0, 1),
    };
    let mut writer = store.create(GROUP, &meta).unwrap();
    writer.write(&[b'x'; 1000]).unwrap();
    writer.finish().unwrap()
}

/// Sends `snapshot` to a follower that acknowledges everything, and says how that ended.
fn stream(store: &Arc<FileSnapshotStore>, snapshot: &SnapshotInfo) -> SendOutcome {
    let mut snapshotter =
        Snapshotter::new(&HostConfig::default(), Arc::clone(store) as Arc<dyn SnapshotStore>);
    let (leader, follower, last) = (ReplicaId(1), ReplicaId(2), snapshot.meta.last);
    snapshotter.submit(SnapshotTask::Send(SnapshotSend {
        group: GROUP,
        snapshot: snapshot.clone(),
        from: leader,
        to: follower,
        node: NodeId(2),
        address: String::new(),
        term: Term(3),
        epoch: 0,
        chunk_bytes: 1000,
        window_bytes: 1000,
    }));
    let mut next_offset = 0;
    for _ in 0..100 {
        for event in snapshotter.step() {
            if let Event::Snapshot(SnapshotEvent::SendEnded { outcome, .. }) = event {
                return outcome;
            }
            let Event::Snapshot(SnapshotEvent::Send { message, .. }) = event else { continue };
            let PeerBody::SnapshotChunk(chunk) = message.body else { panic!() };
            next_offset += chunk.data.len() as u64;
            let verdict = SnapshotVerdict::Taken;
            let ack = SnapshotAck { from: follower, to: leader, last, next_offset, verdict };
            snapshotter.submit(SnapshotTask::Acked { group: GROUP, ack });
        }
    }
    panic!("the stream did not end");
}

/// The error was dropped once: the leader took another snapshot and nobody learned why.
#[test]
fn damaged_snapshot_ends_its_stream_with_file_and_offset_and_can_be_taken_again() {
    let disk = MemDisk::new();
    let store = Arc::new(FileSnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap());
    let snapshot = save(&store);
    assert_eq!(stream(&store, &snapshot), SendOutcome::Complete);

    let path = Path::new(FILE);
    let mut bytes = disk.contents(path).unwrap();
    let at = bytes.iter().position(|byte| *byte == b'x').unwrap();
    bytes[at + 500] ^= 1;
    disk.overwrite(path, bytes);
    let outcome = stream(&store, &snapshot);
    let SendOutcome::Unreadable { reason } = &outcome else { panic!("{outcome:?}") };
    assert!(reason.contains(FILE) && reason.contains("damaged at byte"), "{reason}");

    // Nothing was written since: the new one is of the same position and replaces the damaged one.
    let again = save(&store);
    assert_eq!(stream(&store, &again), SendOutcome::Complete);
}

/// A follower has the snapshot that its leader announces, and a bit of it has changed since. It was taken for received;
/// restoring it stopped the replica, and so it went again after every start.
#[test]
fn damaged_snapshot_is_not_taken_for_the_one_that_a_leader_announces() {
    let disk = MemDisk::new();
    let store = Arc::new(FileSnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap());
    let snapshot = save(&store);
    let mut bytes = disk.contents(Path::new(FILE)).unwrap();
    let at = bytes.iter().position(|byte| *byte == b'x').unwrap();
    bytes[at + 500] ^= 1;
    disk.overwrite(Path::new(FILE), bytes);

    let mut snapshotter =
        Snapshotter::new(&HostConfig::default(), Arc::clone(&store) as Arc<dyn SnapshotStore>);
    let mut receive = |offset: usize, data: &[u8]| {
        let chunk = SnapshotChunk {
            from: ReplicaId(1),
            to: ReplicaId(2),
            term: Term(3),
            epoch: 0,
            meta: snapshot.meta.clone(),
            bytes: 1000,
            offset: offset as u64,
            data: data.to_vec().into(),
        };
        snapshotter.submit(SnapshotTask::Receive { group: GROUP, node: NodeId(1), chunk });
        let staged = |event: &Event| matches!(event, Event::Snapshot(SnapshotEvent::Staged { .. }));
        snapshotter.step().iter().any(staged)
    };
    // The leader asks first how much is there.
    assert!(!receive(0, b""), "it is not all there");
    assert!(!receive(0, &[b'x'; 600]));
    assert!(receive(600, &[b'x'; 400]), "now it is");
    read_to_end(store.open(&snapshot).unwrap()).unwrap();
    // A whole one is not sent again.
    assert!(receive(0, b""));
}
