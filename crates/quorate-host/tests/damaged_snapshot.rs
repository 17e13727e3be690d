//! A stored snapshot that is damaged while a follower needs it: the stream says so, and the next one works.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use quorate_core::{GroupId, LogId, Member, MemberRole, Membership, NodeId, ReplicaId, SnapshotMeta, Term};
use quorate_host::{
    Event, HostConfig, PeerBody, SendOutcome, SnapshotAck, SnapshotEvent, SnapshotSend, SnapshotTask,
    SnapshotVerdict, Snapshotter,
};
use quorate_storage::{FileSnapshotStore, MemDisk, SnapshotInfo, SnapshotStore};

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
