//! Snapshots on their way to followers that are far behind.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_core::{NodeId, ReplicaId, Term};
use quorate_host::{
    Answer, Event, HostConfig, Outbound, PeerBody, PeerMessage, Request, RequestError, SnapshotChunk,
    SnapshotTask, SnapshotVerdict, Snapshotter,
};
use quorate_storage::{MemSnapshotStore, SnapshotStore};
use support::{Cluster, GROUP, propose, text};

const CHUNK_BYTES: usize = 64;
const WINDOW_BYTES: u64 = 256;

/// What went over the wire of the streams.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Seen>>);

#[derive(Clone, Copy, Debug)]
struct Piece {
    from: ReplicaId,
    to: ReplicaId,
    offset: u64,
    bytes: u64,
}

#[derive(Default)]
struct Seen {
    pieces: Vec<Piece>,
    acked: u64,
    /// The most bytes that were under way.
    window: u64,
    gaps: usize,
}

impl Wire {
    /// Looks at everything, and loses what `loses` says, given how many pieces and answers came before.
    fn watch(&self, cluster: &mut Cluster, mut loses: impl FnMut(u64) -> bool + 'static) {
        let wire = self.clone();
        let mut count = 0;
        cluster.loses = Some(Box::new(move |outbound: &Outbound| {
            let mut seen = wire.0.lock().unwrap();
            match &outbound.message.body {
                PeerBody::SnapshotChunk(chunk) => {
                    let bytes = chunk.data.len() as u64;
                    let SnapshotChunk { from, to, offset, .. } = *chunk;
                    seen.pieces.push(Piece { from, to, offset, bytes });
                    let under_way = (chunk.offset + bytes).saturating_sub(seen.acked);
                    seen.window = seen.window.max(under_way);
                }
                PeerBody::SnapshotAck(ack) => {
                    seen.acked = ack.next_offset;
                    seen.gaps += usize::from(ack.verdict == SnapshotVerdict::Gap);
                }
                PeerBody::Raft(_)
                | PeerBody::Forward(_)
                | PeerBody::ForwardReply(_)
                | PeerBody::Version(_)
                | PeerBody::Beat(_) => return false,
            }
            count += 1;
            loses(count)
        }));
    }
    fn bytes(&self) -> u64 {
        self.0.lock().unwrap().pieces.iter().map(|piece| piece.bytes).sum()
    }
    fn pieces(&self) -> usize {
        self.0.lock().unwrap().pieces.len()
    }
}

fn small_pieces(cluster: &mut Cluster) {
    cluster.config.snapshots.chunk_bytes = CHUNK_BYTES;
    cluster.config.snapshots.window_bytes = WINDOW_BYTES;
}

/// Cuts nodes off and writes so much that only a snapshot helps them. Returns the leader.
fn leave_behind(cluster: &mut Cluster, nodes: &[NodeId]) -> NodeId {
    cluster.request(NodeId(1), Request::Campaign).unwrap();
    let leader = cluster.leader();
    cluster.request(leader, propose("first")).unwrap();
    cluster.cut = nodes.to_vec();
    for n in 0..80 {
        cluster.request(leader, propose(&format!("{n} and some more to fill the pieces"))).unwrap();
    }
    assert!(cluster.status(leader).compacted.index.0 > 20);
    leader
}

fn is_caught_up(cluster: &Cluster, node: NodeId, leader: NodeId) -> bool {
    cluster.status(node).applied == cluster.status(leader).applied
}

fn pass_until(cluster: &mut Cluster, millis_max: u64, mut met: impl FnMut(&Cluster) -> bool) -> u64 {
    let start = cluster.now;
    while !met(cluster) {
        assert!(cluster.now - start < millis_max, "not within {millis_max} ms");
        cluster.pass(10);
    }
    cluster.now - start
}

#[test]
fn pieces_and_window_are_as_large_as_configured() {
    let mut cluster = Cluster::with(3, small_pieces);
    let leader = leave_behind(&mut cluster, &[NodeId(3)]);
    let wire = Wire::default();
    wire.watch(&mut cluster, |_| false);
    cluster.cut.clear();
    pass_until(&mut cluster, 3000, |cluster| is_caught_up(cluster, NodeId(3), leader));
    let seen = wire.0.lock().unwrap();
    assert!(seen.pieces.len() > 30, "{:?}", seen.pieces);
    assert!(seen.pieces.iter().all(|piece| piece.bytes <= CHUNK_BYTES as u64), "{:?}", seen.pieces);
    assert!(seen.window > CHUNK_BYTES as u64 && seen.window <= WINDOW_BYTES, "{}", seen.window);
    let total: u64 = seen.pieces.iter().map(|piece| piece.bytes).sum();
    let last = seen.pieces.iter().map(|piece| piece.offset + piece.bytes).max();
    assert_eq!(last, Some(total), "nothing was sent twice");
}

/// Numbers that look random (`SplitMix64`).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A lost piece once stopped its stream for ten election timeouts.
#[test]
fn lost_pieces_and_answers_cost_round_trips_and_heartbeats() {
    for (lost_percent, millis_max) in [(10, 1_500), (30, 6_000), (50, 40_000)] {
        let loses = move |count: u64| mixed(count) % 100 < lost_percent;
        let mut cluster = Cluster::with(3, small_pieces);
        let leader = leave_behind(&mut cluster, &[NodeId(3)]);
        let wire = Wire::default();
        wire.watch(&mut cluster, loses);
        cluster.cut.clear();
        let took = pass_until(&mut cluster, 60_000, |cluster| is_caught_up(cluster, NodeId(3), leader));
        let seen = wire.0.lock().unwrap();
        assert!(seen.gaps > 0, "{lost_percent} % lost: the follower saw no gap");
        assert!(took < millis_max, "{lost_percent} % lost: {took} ms, {} pieces", seen.pieces.len());
    }
}

#[test]
fn interrupted_stream_goes_on_where_it_stopped() {
    let mut cluster = Cluster::with(3, |cluster| {
        small_pieces(cluster);
        cluster.host_config.snapshot_bytes_per_second = Some(1000);
    });
    let leader = leave_behind(&mut cluster, &[NodeId(3)]);
    let wire = Wire::default();
    wire.watch(&mut cluster, |_| false);
    cluster.cut.clear();
    pass_until(&mut cluster, 5000, |_| wire.bytes() > 1000);
    let before = wire.bytes();
    cluster.cut.push(NodeId(3));
    // Longer than a stream that stands still lives.
    cluster.pass(30_000);
    let lost = wire.bytes() - before;
    assert!(lost < 3000, "{lost} bytes into a cut link");
    cluster.cut.clear();
    let again = wire.bytes();
    pass_until(&mut cluster, 10_000, |cluster| is_caught_up(cluster, NodeId(3), leader));
    let snapshot = cluster.nodes[&leader].data.snapshots.list(GROUP).unwrap().pop().unwrap();
    assert!(snapshot.bytes > 2000, "{}", snapshot.bytes);
    let rest = wire.bytes() - again;
    assert!(rest <= snapshot.bytes - 1000 + WINDOW_BYTES, "{rest} of {} bytes", snapshot.bytes);
}

#[test]
fn streams_beyond_the_limit_wait_for_their_turn() {
    let mut cluster = Cluster::with(5, |cluster| {
        small_pieces(cluster);
        cluster.host_config.snapshot_sends_max = 1;
    });
    let behind = [NodeId(4), NodeId(5)];
    let leader = leave_behind(&mut cluster, &behind);
    let wire = Wire::default();
    wire.watch(&mut cluster, |_| false);
    cluster.cut.clear();
    pass_until(&mut cluster, 5000, |cluster| behind.iter().all(|node| is_caught_up(cluster, *node, leader)));
    let seen = wire.0.lock().unwrap();
    let turns = seen.pieces.chunk_by(|a, b| a.to == b.to).count();
    assert_eq!(turns, 2, "one after the other: {:?}", seen.pieces);
}

#[test]
fn bytes_per_second_are_limited_and_the_stream_is_not_given_up() {
    let mut cluster = Cluster::with(3, |cluster| {
        small_pieces(cluster);
        cluster.host_config.snapshot_bytes_per_second = Some(200);
    });
    let leader = leave_behind(&mut cluster, &[NodeId(3)]);
    let wire = Wire::default();
    wire.watch(&mut cluster, |_| false);
    cluster.cut.clear();
    let took = pass_until(&mut cluster, 60_000, |cluster| is_caught_up(cluster, NodeId(3), leader));
    let fair = wire.bytes() * 1000 / 200;
    assert!((fair * 9 / 10..=fair + 1500).contains(&took), "{took} ms for {} bytes", wire.bytes());
    let begun = wire.0.lock().unwrap().pieces.iter().filter(|piece| piece.offset == 0).count();
    assert_eq!(begun, 2, "a question and a piece: it was one stream");
}

#[test]
fn closing_a_group_ends_its_streams() {
    let mut cluster = Cluster::with(3, |cluster| {
        small_pieces(cluster);
        cluster.host_config.snapshot_bytes_per_second = Some(500);
    });
    let leader = leave_behind(&mut cluster, &[NodeId(3)]);
    let wire = Wire::default();
    wire.watch(&mut cluster, |_| false);
    cluster.cut.clear();
    pass_until(&mut cluster, 5000, |_| wire.pieces() > 5);
    cluster.nodes.get_mut(&leader).unwrap().host.close_group(GROUP);
    cluster.settle();
    let pieces = wire.pieces();
    cluster.pass(2000);
    let seen = wire.0.lock().unwrap();
    let late = seen.pieces[pieces..].iter().filter(|piece| piece.from.0 == leader.0).count();
    assert_eq!(late, 0, "{:?}", &seen.pieces[pieces..]);
}

#[test]
fn view_that_panics_fails_its_snapshot_and_nothing_else() {
    let mut cluster = Cluster::new(1);
    let node = cluster.leader();
    cluster.request(node, propose("view panics")).unwrap();
    let failed = cluster.request(node, Request::TakeSnapshot);
    let Err(RequestError::Snapshot { what }) = failed else { panic!("{failed:?}") };
    assert_eq!(what, "reading the view panicked: told to");
    assert_eq!(text(cluster.request(node, propose("a"))), "1 a");
    assert_eq!(cluster.stopped, Vec::new());
}

#[test]
fn snapshot_of_what_is_in_one_already_is_not_written_again() {
    let mut cluster = Cluster::new(1);
    let node = cluster.leader();
    cluster.request(node, propose("a")).unwrap();
    let first = cluster.request(node, Request::TakeSnapshot).unwrap();
    assert_eq!(cluster.request(node, Request::TakeSnapshot), Ok(first.clone()));
    assert_eq!(cluster.saves, 1);
    cluster.request(node, propose("b")).unwrap();
    let Answer::SnapshotTaken { last } = first else { panic!("{first:?}") };
    let second = cluster.request(node, Request::TakeSnapshot);
    assert!(matches!(second, Ok(Answer::SnapshotTaken { last: at }) if at > last), "{second:?}");
}

/// It would be offered, and fail, for as long as nothing is written.
#[test]
fn snapshot_that_cannot_be_read_any_more_is_taken_again() {
    let mut cluster = Cluster::new(3);
    let leader = leave_behind(&mut cluster, &[NodeId(3)]);
    let Answer::SnapshotTaken { .. } = cluster.request(leader, Request::TakeSnapshot).unwrap() else {
        panic!()
    };
    cluster.nodes[&leader].data.snapshots.retain(GROUP, 0).unwrap();
    cluster.cut.clear();
    pass_until(&mut cluster, 10_000, |cluster| is_caught_up(cluster, NodeId(3), leader));
    assert_eq!(cluster.nodes[&leader].data.snapshots.list(GROUP).unwrap().len(), 1);
}

fn forged(cluster: &Cluster, change: impl FnOnce(&mut SnapshotChunk)) -> Event {
    let status = cluster.status(NodeId(2));
    let meta = quorate_core::SnapshotMeta {
        last: status.last,
        membership: Arc::clone(&status.membership),
        membership_id: status.membership_id,
    };
    let mut chunk = SnapshotChunk {
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: status.term,
        epoch: status.membership.epoch(),
        meta,
        bytes: 4,
        offset: 0,
        data: Bytes::from_static(b"data"),
    };
    change(&mut chunk);
    let message = PeerMessage { group: GROUP, body: PeerBody::SnapshotChunk(chunk) };
    Event::Received { from: NodeId(1), message }
}

/// A snapshot that is on disk is believed at the next start: it must not get there unless the core would take it.
#[test]
fn pieces_that_the_core_would_refuse_are_not_written() {
    let mut cluster = Cluster::new(3);
    cluster.request(NodeId(1), Request::Campaign).unwrap();
    cluster.leader();
    cluster.pass(300);
    let mut written = |forge: fn(&mut SnapshotChunk)| {
        let (now, event) = (cluster.time(), forged(&cluster, forge));
        let host = &mut cluster.nodes.get_mut(&NodeId(2)).unwrap().host;
        host.on_event(now, event);
        host.take_work().snapshots.len()
    };
    let forgeries: [fn(&mut SnapshotChunk); 8] = [
        |chunk| chunk.epoch += 1,
        |chunk| chunk.term = Term(0),
        |chunk| chunk.term = Term(u64::MAX),
        |chunk| chunk.to = ReplicaId(3),
        |chunk| chunk.from = ReplicaId(3),
        |chunk| chunk.meta.last.index.0 = u64::MAX,
        |chunk| chunk.meta.last.term = chunk.term.next(),
        |chunk| chunk.meta.membership_id.term = chunk.term.next(),
    ];
    for (number, forge) in forgeries.into_iter().enumerate() {
        assert_eq!(written(forge), 0, "forgery {number}");
    }
    assert_eq!(written(|_| {}), 1);
}

#[test]
fn pieces_that_wait_for_the_disk_are_bounded_in_bytes() {
    let config = HostConfig { snapshot_backlog_bytes_max: 10_000, ..HostConfig::default() };
    let store = MemSnapshotStore::new();
    let mut snapshotter = Snapshotter::new(&config, Arc::new(store.clone()));
    let cluster = Cluster::new(3);
    for _ in 0..100 {
        let Event::Received { from, message } = forged(&cluster, |chunk| {
            (chunk.bytes, chunk.data) = (10_000, vec![0; 1000].into());
        }) else {
            panic!()
        };
        let PeerBody::SnapshotChunk(chunk) = message.body else { panic!() };
        snapshotter.submit(SnapshotTask::Receive { group: GROUP, node: from, chunk });
    }
    // What must not get lost is not, however full it is.
    snapshotter.submit(SnapshotTask::Retain { group: GROUP, keep: 1 });
    let mut steps = 0;
    while snapshotter.has_work() {
        snapshotter.step();
        steps += 1;
    }
    assert_eq!(steps, 7 + 1);
}

/// A piece that waited behind the removal of its group once brought its snapshot back, for the next replica to find.
#[test]
fn nothing_that_waits_brings_back_the_snapshots_of_a_forgotten_group() {
    let store = MemSnapshotStore::new();
    let mut snapshotter = Snapshotter::new(&HostConfig::default(), Arc::new(store.clone()));
    let cluster = Cluster::new(3);
    let mut piece = |offset: u64, data: &'static [u8]| {
        let change = |chunk: &mut SnapshotChunk| {
            (chunk.bytes, chunk.offset, chunk.data) = (8, offset, Bytes::from_static(data));
        };
        let Event::Received { from, message } = forged(&cluster, change) else { panic!() };
        let PeerBody::SnapshotChunk(chunk) = message.body else { panic!() };
        snapshotter.submit(SnapshotTask::Receive { group: GROUP, node: from, chunk });
        if offset == 0 {
            snapshotter.step();
        } else {
            snapshotter.forget(GROUP).unwrap();
        }
        while snapshotter.has_work() {
            snapshotter.step();
        }
    };
    piece(0, b"half");
    piece(4, b"rest");
    assert_eq!(store.list(GROUP).unwrap(), []);
}

#[test]
fn limits_that_cannot_work_are_refused() {
    let cluster = Cluster::new(1);
    let changes: [fn(&mut quorate_host::SnapshotPolicy); 4] = [
        |policy| policy.keep = 0,
        |policy| policy.chunk_bytes = 0,
        |policy| policy.chunk_bytes = usize::MAX,
        |policy| policy.window_bytes = 0,
    ];
    for change in changes {
        let mut policy = cluster.config.snapshots.clone();
        change(&mut policy);
        assert!(policy.validate().is_err(), "{policy:?}");
    }
    for config in [
        HostConfig { snapshot_sends_max: 0, ..HostConfig::default() },
        HostConfig { snapshot_bytes_per_second: Some(0), ..HostConfig::default() },
        HostConfig { snapshot_backlog_bytes_max: 0, ..HostConfig::default() },
    ] {
        assert!(config.validate().is_err(), "{config:?}");
    }
    assert_eq!(HostConfig::default().validate(), Ok(()));
}
