//! Both transports pass the conformance suite.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate::conformance::transport::{Fabric, run};
use quorate::{
    ClusterId, GroupId, Identity, Inbound, MemoryNetwork, MemoryTransport, NodeId, Outbound, PeerBody,
    PeerMessage, TcpTransport, Transport, TransportConfig,
};
use quorate_core::{LogIndex, Message, MessageBody, ReplicaId, Term};

impl Fabric for Memory {
    async fn transport(&mut self, node: NodeId) -> Arc<dyn Transport> {
        Arc::new(self.0.transport(node))
    }
}
struct Memory(MemoryNetwork);

/// Nodes on loopback; a restarted one listens where it did before.
#[derive(Default)]
struct Tcp {
    addresses: BTreeMap<NodeId, String>,
    started: u64,
}

impl Fabric for Tcp {
    async fn transport(&mut self, node: NodeId) -> Arc<dyn Transport> {
        self.started += 1;
        let identity = Identity { cluster: ClusterId(9), node, incarnation: node.0, started: self.started };
        let listen = self.addresses.get(&node).cloned().unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let transport =
            TcpTransport::bind(&listen, None, identity, TransportConfig::default()).await.unwrap();
        self.addresses.insert(node, transport.address().to_string());
        Arc::new(transport)
    }
}

#[tokio::test]
async fn the_network_in_memory_conforms() {
    run(|| Memory(MemoryNetwork::new(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_conforms() {
    run(Tcp::default).await;
}

/// Notes who sent which number.
#[derive(Default)]
struct Notebook(Mutex<Vec<(NodeId, u64)>>);

impl Notebook {
    fn take(&self) -> Vec<(NodeId, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Inbound for Notebook {
    fn received(&self, from: NodeId, message: PeerMessage) -> bool {
        let PeerBody::Raft(Message { body: MessageBody::Heartbeat { read_round, .. }, .. }) = message.body
        else {
            return false;
        };
        self.0.lock().unwrap().push((from, read_round));
        true
    }
    fn unreachable(&self, _: NodeId) {}
}

/// `COUNT` numbered messages to one node.
const COUNT: u64 = 200;

fn say(from: &MemoryTransport, to: NodeId) {
    let message = |number| {
        let body = MessageBody::Heartbeat { commit: LogIndex(0), read_round: number };
        let message = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(1), epoch: 0, body };
        let message = PeerMessage { group: GroupId(1), body: PeerBody::Raft(message) };
        Outbound { to, address: String::new(), lane: message.lane(), message }
    };
    from.send((0..COUNT).map(message).collect());
}

/// Every fault that a network in memory promises is one that happens, in the direction that was asked for, and ends.
#[tokio::test]
async fn a_network_in_memory_loses_delays_and_cuts_as_told() {
    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);
    let network = MemoryNetwork::new(3);
    let (a, b) = (network.transport(A), network.transport(B));
    let (at_a, at_b) = (Arc::new(Notebook::default()), Arc::new(Notebook::default()));
    a.start(Arc::clone(&at_a) as Arc<dyn Inbound>);
    b.start(Arc::clone(&at_b) as Arc<dyn Inbound>);
    // What arrives on either side when both speak.
    let both_speak = || {
        say(&a, B);
        say(&b, A);
        (at_a.take(), at_b.take())
    };
    let all_of = |from| (0..COUNT).map(|number| (from, number)).collect::<Vec<_>>();
    let (from_a, from_b) = (all_of(A), all_of(B));
    assert_eq!(both_speak(), (from_b.clone(), from_a.clone()), "without faults everything comes, in order");

    network.block(A, B);
    assert_eq!(both_speak(), (from_b.clone(), vec![]), "one way");
    assert!(!a.peers()[0].connected && b.peers()[0].connected);
    network.block(B, A);
    assert_eq!(both_speak(), (vec![], vec![]), "the other way, too");
    network.heal();
    network.isolate(B);
    assert_eq!(both_speak(), (vec![], vec![]), "both ways at once");
    network.heal();
    assert_eq!(both_speak(), (from_b.clone(), from_a.clone()), "and it heals");

    network.lose(300);
    let (at_a_now, at_b_now) = both_speak();
    for arrived in [at_a_now.len(), at_b_now.len()] {
        assert!(
            (100..180).contains(&arrived),
            "{arrived} of {COUNT} have arrived, and three in ten are lost"
        );
    }
    assert!(at_b_now.is_sorted(), "what is not lost keeps its order");
    network.lose(0);

    let (least, most) = (Duration::from_millis(20), Duration::from_millis(60));
    network.delay(Some(least..=most));
    let began = Instant::now();
    say(&a, B);
    assert_eq!(at_b.take(), vec![], "nothing is there at once");
    let mut late = Vec::new();
    let mut pause = tokio::time::interval(Duration::from_millis(1));
    while late.len() < from_a.len() {
        pause.tick().await;
        let news = at_b.take();
        assert!(news.is_empty() || began.elapsed() >= least, "too early");
        late.extend(news);
        assert!(began.elapsed() < Duration::from_secs(20), "{} of {COUNT} have arrived", late.len());
    }
    assert!(!late.is_sorted(), "they overtake each other");
    late.sort_unstable();
    assert_eq!(late, from_a, "and all of them come");
    // What is on its way when a cut begins is lost, too: what a third node says later is there first.
    let c = network.transport(C);
    c.start(Arc::new(Notebook::default()));
    say(&a, B);
    network.block(A, B);
    network.delay(Some(most..=most));
    say(&c, B);
    let mut after = Vec::new();
    while after.len() < from_a.len() {
        pause.tick().await;
        after.extend(at_b.take());
        assert!(began.elapsed() < Duration::from_secs(20), "{} of {COUNT} have arrived", after.len());
    }
    assert_eq!(after, all_of(C));
}
