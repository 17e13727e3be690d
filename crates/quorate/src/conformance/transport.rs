//! What every [`Transport`] must do.
//!
//! Implement [`Fabric`] for a transport and call [`run`] in a test. A check that fails panics with
//! what was expected. Losing messages is allowed in general, but not between two nodes that are up
//! and have a quiet network, which is what these checks give it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    Append, Entry, EntryPayload, GroupId, LogId, LogIndex, Message, MessageBody, NodeId, ReplicaId,
    SnapshotMeta, Term,
};
use quorate_host::{Outbound, PeerBody, PeerMessage, SnapshotChunk};
use tokio::sync::mpsc;

use crate::transport::{Inbound, Transport};

/// Makes transports that can reach each other.
pub trait Fabric {
    /// A transport for `node`, not started. When there was one before, this is the same node after a
    /// restart.
    fn transport(&mut self, node: NodeId) -> impl Future<Output = Arc<dyn Transport>>;
}

/// How long a check waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any test lets arrive before it looks; beyond it messages are refused, as a full node refuses them.
const SEEN_MAX: usize = 16_384;
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

/// Runs all checks, each on new transports from `fabric()`.
///
/// # Panics
/// When a check fails.
pub async fn run<F: Fabric>(mut fabric: impl FnMut() -> F) {
    messages_arrive_unchanged_and_in_order(&mut fabric()).await;
    both_directions_work_at_once(&mut fabric()).await;
    an_address_is_learned_from_who_connects(&mut fabric()).await;
    an_absent_node_is_reported(&mut fabric()).await;
    a_restarted_node_is_reached_again(&mut fabric()).await;
    a_stopped_transport_is_silent(&mut fabric()).await;
}

/// Numbered messages in three lanes, and one of several megabytes: all there, in order per lane.
async fn messages_arrive_unchanged_and_in_order<F: Fabric>(fabric: &mut F) {
    const COUNT: u64 = 200;
    let (a, _a_seen) = start(fabric, A).await;
    let (b, mut b_seen) = start(fabric, B).await;
    let mut sent = Vec::new();
    for number in 1..=COUNT {
        sent.push(heartbeat(number));
        sent.push(append(number, 100));
        sent.push(chunk(number, 100));
    }
    sent.push(append(COUNT + 1, 3 << 20));
    sent.push(chunk(COUNT + 1, 3 << 20));
    for part in sent.chunks(7) {
        a.send(part.iter().map(|message| to(B, &*b, message.clone())).collect());
    }
    let mut seen = Vec::new();
    while seen.len() < sent.len() {
        let (from, message) = b_seen.next("every message must arrive").await;
        assert_eq!(from, A, "the sender must be named");
        seen.push(message);
    }
    for lane in [quorate_host::Lane::Control, quorate_host::Lane::Append, quorate_host::Lane::Bulk] {
        let of_lane = |messages: &[PeerMessage]| -> Vec<PeerMessage> {
            messages.iter().filter(|message| message.lane() == lane).cloned().collect()
        };
        assert!(of_lane(&sent) == of_lane(&seen), "lane {lane:?} must be unchanged and in order");
    }
    stop([a, b]).await;
}

async fn both_directions_work_at_once<F: Fabric>(fabric: &mut F) {
    let (a, mut a_seen) = start(fabric, A).await;
    let (b, mut b_seen) = start(fabric, B).await;
    for number in 1..=20 {
        a.send(vec![to(B, &*b, heartbeat(number))]);
        b.send(vec![to(A, &*a, heartbeat(100 + number))]);
    }
    for number in 1..=20 {
        assert_eq!(b_seen.next("A to B").await, (A, heartbeat(number)));
        assert_eq!(a_seen.next("B to A").await, (B, heartbeat(100 + number)));
    }
    stop([a, b]).await;
}

/// A joining learner must answer a leader it has no membership to find in.
async fn an_address_is_learned_from_who_connects<F: Fabric>(fabric: &mut F) {
    let (a, mut a_seen) = start(fabric, A).await;
    let (b, mut b_seen) = start(fabric, B).await;
    a.send(vec![to(B, &*b, heartbeat(1))]);
    assert_eq!(b_seen.next("the first message").await, (A, heartbeat(1)));
    b.send(vec![Outbound { address: String::new(), ..to(A, &*a, heartbeat(2)) }]);
    assert_eq!(a_seen.next("the answer without an address").await, (B, heartbeat(2)));
    stop([a, b]).await;
}

async fn an_absent_node_is_reported<F: Fabric>(fabric: &mut F) {
    let (a, mut a_seen) = start(fabric, A).await;
    let message = heartbeat(1);
    let lane = message.lane();
    a.send(vec![Outbound { to: B, address: "127.0.0.1:1".to_owned(), lane, message }]);
    assert_eq!(a_seen.next_unreachable().await, B, "an absent node must be reported");
    stop([a]).await;
}

async fn a_restarted_node_is_reached_again<F: Fabric>(fabric: &mut F) {
    let (a, _a_seen) = start(fabric, A).await;
    let (b, mut b_seen) = start(fabric, B).await;
    a.send(vec![to(B, &*b, heartbeat(1))]);
    assert_eq!(b_seen.next("the first message").await, (A, heartbeat(1)));
    b.stop().await;
    let (b, mut b_seen) = start(fabric, B).await;
    // What is sent while the other is away may be lost, so it is said again and again.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    loop {
        assert!(tokio::time::Instant::now() < deadline, "a restarted node must be reached again");
        a.send(vec![to(B, &*b, heartbeat(2))]);
        tokio::select! {
            seen = b_seen.next("the repeated message") => {
                assert_eq!(seen, (A, heartbeat(2)));
                break;
            }
            _ = pause.tick() => {}
        }
    }
    stop([a, b]).await;
}

async fn a_stopped_transport_is_silent<F: Fabric>(fabric: &mut F) {
    let (a, mut a_seen) = start(fabric, A).await;
    let (b, mut b_seen) = start(fabric, B).await;
    a.send(vec![to(B, &*b, heartbeat(1))]);
    b_seen.next("the first message").await;
    b.stop().await;
    b.send(vec![to(A, &*a, heartbeat(2))]);
    a.send(vec![to(B, &*b, heartbeat(3))]);
    assert_eq!(a_seen.next_unreachable().await, B, "the other side must be reported");
    assert!(b_seen.messages.try_recv().is_err(), "nothing may be delivered after stop");
    assert!(a_seen.messages.try_recv().is_err(), "nothing may be sent after stop");
    b.stop().await;
    stop([a]).await;
}

/// What arrived, and who could not be reached.
struct Seen {
    messages: mpsc::Receiver<(NodeId, PeerMessage)>,
    unreachable: mpsc::Receiver<NodeId>,
}

struct Recorder {
    messages: mpsc::Sender<(NodeId, PeerMessage)>,
    unreachable: mpsc::Sender<NodeId>,
}

impl Inbound for Recorder {
    fn received(&self, from: NodeId, message: PeerMessage) -> bool {
        self.messages.try_send((from, message)).is_ok()
    }
    fn unreachable(&self, node: NodeId) {
        // Nobody looks any more when the check is over.
        self.unreachable.try_send(node).unwrap_or_default();
    }
}

impl Seen {
    async fn next(&mut self, what: &str) -> (NodeId, PeerMessage) {
        match tokio::time::timeout(PATIENCE, self.messages.recv()).await {
            Ok(Some(seen)) => seen,
            Ok(None) => panic!("{what}: the transport dropped its receiver"),
            Err(_elapsed) => panic!("{what}: nothing arrived within {PATIENCE:?}"),
        }
    }
    async fn next_unreachable(&mut self) -> NodeId {
        match tokio::time::timeout(PATIENCE, self.unreachable.recv()).await {
            Ok(Some(node)) => node,
            Ok(None) => panic!("the transport dropped its receiver"),
            Err(_elapsed) => panic!("no node was reported as unreachable within {PATIENCE:?}"),
        }
    }
}

async fn start<F: Fabric>(fabric: &mut F, node: NodeId) -> (Arc<dyn Transport>, Seen) {
    let transport = fabric.transport(node).await;
    let (messages, seen_messages) = mpsc::channel(SEEN_MAX);
    let (unreachable, seen_unreachable) = mpsc::channel(SEEN_MAX);
    transport.start(Arc::new(Recorder { messages, unreachable }));
    (transport, Seen { messages: seen_messages, unreachable: seen_unreachable })
}

async fn stop<const N: usize>(transports: [Arc<dyn Transport>; N]) {
    for transport in transports {
        transport.stop().await;
    }
}

fn to(node: NodeId, transport: &dyn Transport, message: PeerMessage) -> Outbound {
    Outbound { to: node, address: transport.advertised(), lane: message.lane(), message }
}

fn raft(body: MessageBody) -> PeerMessage {
    let message = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(3), epoch: 0, body };
    PeerMessage { group: GroupId(7), body: PeerBody::Raft(message) }
}

fn heartbeat(number: u64) -> PeerMessage {
    raft(MessageBody::Heartbeat { commit: LogIndex(number), read_round: number })
}

/// Bytes that differ from place to place, so that a mix-up is seen.
fn content(number: u64, bytes: usize) -> Bytes {
    let byte = |at: usize| u8::try_from((number.wrapping_mul(31) ^ at as u64) % 251).unwrap_or_default();
    (0..bytes).map(byte).collect()
}

fn append(number: u64, bytes: usize) -> PeerMessage {
    let payload = EntryPayload::Command(content(number, bytes));
    raft(MessageBody::Append(Append {
        prev: LogId::new(3, number - 1),
        entries: vec![Entry { id: LogId::new(3, number), payload }].into(),
        commit: LogIndex(number),
        read_round: 0,
    }))
}

fn chunk(number: u64, bytes: usize) -> PeerMessage {
    let meta =
        SnapshotMeta { last: LogId::new(3, 10), membership: Arc::default(), membership_id: LogId::default() };
    let chunk = SnapshotChunk {
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(3),
        epoch: 0,
        meta,
        bytes: u64::MAX / 4,
        offset: number,
        data: content(number, bytes),
    };
    PeerMessage { group: GroupId(7), body: PeerBody::SnapshotChunk(chunk) }
}
