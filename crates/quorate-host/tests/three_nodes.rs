//! Three hosts in one thread: a FIFO network, logs in memory, a map as the state machine.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    GroupId, Member, MemberRole, Membership, MembershipChange, MonoTime, NodeId, ReplicaId, RoleName,
};
use quorate_host::{
    Answer, Applier, BatchEnd, Command, Consistency, Dedupe, Event, GroupConfig, GroupSetup, Host,
    LogFetcher, LogWriter, MachineError, Now, Outbound, Request, RequestError, SnapshotSource, Snapshotter,
    StateMachine, Ticket, bootstrap_batch, join_batch, recover_group,
};
use quorate_storage::{LogStore, MemLogStore, MemSnapshotStore, SnapshotStore};

const GROUP: GroupId = GroupId(1);

/// Counts and remembers: the response is how many commands came before, and the command.
#[derive(Default)]
struct Journal {
    commands: Vec<Bytes>,
}

impl StateMachine for Journal {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        assert!(&command.data[..] != b"panic", "told to");
        let response = format!("{} {}", self.commands.len(), String::from_utf8_lossy(command.data));
        self.commands.push(command.data.clone());
        Ok(response.into())
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.commands.len().to_string().into())
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(View(self.commands.clone().into())))
    }
    fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        let mut text = String::new();
        content.read_to_string(&mut text).unwrap();
        self.commands = text.lines().map(|line| Bytes::from(line.to_owned())).collect();
        Ok(())
    }
}

struct View(VecDeque<Bytes>);
impl SnapshotSource for View {
    fn next_chunk(&mut self, _: usize) -> Result<Option<Bytes>, MachineError> {
        Ok(self.0.pop_front().map(|line| [&line[..], b"\n"].concat().into()))
    }
}

struct Node {
    host: Host,
    writer: LogWriter,
    applier: Applier,
    fetcher: LogFetcher,
    snapshotter: Snapshotter,
}

struct Cluster {
    now: u64,
    nodes: BTreeMap<NodeId, Node>,
    wire: VecDeque<(NodeId, Outbound)>,
    cut: Vec<NodeId>,
    replies: BTreeMap<Ticket, Result<Answer, RequestError>>,
    next_ticket: u64,
    config: GroupConfig,
}

fn member(n: u64) -> Member {
    let (peer_address, client_address) = (format!("peer:{n}"), format!("client:{n}"));
    Member { node: NodeId(n), role: MemberRole::Voter, peer_address, client_address }
}

impl Cluster {
    fn new(nodes: u64) -> Self {
        let mut config = GroupConfig::default();
        config.snapshots.entries = 20;
        config.snapshots.trailing_entries = 2;
        let mut cluster = Self {
            now: 1000,
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            cut: Vec::new(),
            replies: BTreeMap::new(),
            next_ticket: 1,
            config,
        };
        let membership = Arc::new(Membership::initial((1..=nodes).map(member).collect()).unwrap());
        for n in 1..=nodes {
            cluster.start(n, bootstrap_batch(GROUP, ReplicaId(n), &membership), Vec::new());
        }
        cluster
    }

    fn time(&self) -> Now {
        Now { mono: MonoTime::from_millis(self.now), unix_millis: self.now }
    }

    fn start(&mut self, n: u64, first: quorate_storage::LogBatch, seeds: Vec<(ReplicaId, NodeId, String)>) {
        let mut store = MemLogStore::default();
        store.write(first, true, Box::new(|result| result.unwrap()));
        store.flush().unwrap();
        let snapshots: Arc<dyn SnapshotStore> = Arc::new(MemSnapshotStore::default());
        let state = store.groups().remove(0);
        let recovered =
            recover_group(&state, &*snapshots, Box::new(Journal::default()), &self.config.sessions).unwrap();
        let reader = store.reader();
        let mut node = Node {
            host: Host::new(NodeId(n)),
            writer: LogWriter::new(Box::new(store)),
            applier: Applier::new(Arc::clone(&snapshots)),
            fetcher: LogFetcher::new(reader),
            snapshotter: Snapshotter::new(NodeId(n), snapshots),
        };
        node.applier.add(recovered.machine);
        let setup = GroupSetup {
            group: GROUP,
            replica: recovered.replica,
            config: self.config.clone(),
            restored: recovered.restored,
            snapshot: recovered.snapshot,
            durable_machine: recovered.durable_machine,
            seeds,
        };
        node.host.open_group(self.time(), setup).unwrap();
        self.nodes.insert(NodeId(n), node);
    }

    /// Does everything there is to do at this moment.
    fn settle(&mut self) {
        loop {
            let now = self.time();
            let mut idle = true;
            for (id, node) in &mut self.nodes {
                let mut work = node.host.take_work();
                let mut events = Vec::new();
                self.replies.extend(work.replies.drain(..));
                self.wire.extend(work.send.drain(..).map(|outbound| (*id, outbound)));
                if !work.log.is_empty() {
                    node.writer.submit(work.log);
                    events.extend(node.writer.step());
                }
                events.extend(work.apply.into_iter().flat_map(|task| node.applier.step(task)));
                events.extend(work.fetch.into_iter().map(|task| node.fetcher.step(task)));
                work.snapshots.into_iter().for_each(|task| node.snapshotter.submit(task));
                while node.snapshotter.has_work() {
                    events.extend(node.snapshotter.step());
                }
                idle &= events.is_empty();
                events.into_iter().for_each(|event| node.host.on_event(now, event));
            }
            for (from, outbound) in std::mem::take(&mut self.wire) {
                idle = false;
                if self.cut.contains(&from) || self.cut.contains(&outbound.to) {
                    continue;
                }
                let mut bytes = Vec::new();
                quorate_host::encode_peer_message(&outbound.message, &mut bytes);
                let message = quorate_host::decode_peer_message(&bytes.into()).unwrap();
                assert_eq!(message, outbound.message);
                if let Some(node) = self.nodes.get_mut(&outbound.to) {
                    node.host.on_event(now, Event::Received { from, message });
                }
            }
            if idle {
                return;
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            self.now += 10;
            let now = self.time();
            self.nodes.values_mut().for_each(|node| node.host.on_event(now, Event::Tick));
            self.settle();
        }
    }

    fn leader(&mut self) -> NodeId {
        for _ in 0..1000 {
            let cut = self.cut.clone();
            let leads = |node: &&NodeId| {
                self.nodes[*node].host.status(GROUP).is_some_and(|status| status.role == RoleName::Leader)
            };
            if let Some(node) = self.nodes.keys().filter(|node| !cut.contains(node)).find(leads) {
                return *node;
            }
            self.pass(50);
        }
        panic!("nobody leads");
    }

    fn ask(&mut self, node: NodeId, request: Request) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let now = self.time();
        self.nodes
            .get_mut(&node)
            .unwrap()
            .host
            .on_event(now, Event::Request { group: GROUP, ticket, request });
        self.settle();
        ticket
    }

    fn reply(&mut self, ticket: Ticket) -> Result<Answer, RequestError> {
        for _ in 0..1000 {
            if let Some(reply) = self.replies.remove(&ticket) {
                return reply;
            }
            self.pass(50);
        }
        panic!("never answered");
    }

    fn request(&mut self, node: NodeId, request: Request) -> Result<Answer, RequestError> {
        let ticket = self.ask(node, request);
        self.reply(ticket)
    }
}

fn propose(command: &str) -> Request {
    Request::Propose { command: command.to_owned().into(), dedupe: Dedupe::None }
}

fn query() -> Request {
    Request::Query { request: Bytes::new(), consistency: Consistency::Linearizable }
}

fn text(answer: Result<Answer, RequestError>) -> String {
    let (Answer::Applied { response, .. } | Answer::Queried { response, .. }) = answer.unwrap() else {
        panic!("neither applied nor queried")
    };
    String::from_utf8(response.to_vec()).unwrap()
}

#[test]
fn write_is_answered_after_it_is_applied_and_every_node_reads_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    assert_eq!(text(cluster.request(leader, propose("a"))), "0 a");
    for node in [1, 2, 3].map(NodeId) {
        assert_eq!(text(cluster.request(node, query())), "1", "at {node:?}");
    }
}

#[test]
fn repeat_in_a_session_gets_the_first_answer_and_is_not_applied_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let Ok(Answer::SessionOpened { session }) = cluster.request(leader, Request::OpenSession) else {
        panic!()
    };
    let numbered = |sequence| Request::Propose {
        command: Bytes::from_static(b"a"),
        dedupe: Dedupe::Session { session, sequence, acked_below: 1 },
    };
    let first = cluster.request(leader, numbered(1)).unwrap();
    assert_eq!(cluster.request(leader, numbered(1)).unwrap(), first);
    assert_eq!(text(cluster.request(leader, numbered(2))), "1 a");
    assert_eq!(text(cluster.request(leader, query())), "2");
}

#[test]
fn cut_off_leader_does_not_claim_that_a_write_was_not_applied() {
    let mut cluster = Cluster::new(3);
    let old = cluster.leader();
    cluster.request(old, propose("a")).unwrap();
    cluster.cut = vec![old];
    let write = cluster.ask(old, propose("b"));
    let read = cluster.ask(old, query());
    let new = cluster.leader();
    assert_ne!(old, new);
    assert_eq!(cluster.reply(write), Err(RequestError::OutcomeUnknown));
    assert!(matches!(cluster.reply(read), Err(RequestError::NotLeader { .. })));
    assert_eq!(text(cluster.request(new, propose("c"))), "1 c");
    cluster.cut.clear();
    cluster.pass(3000);
    assert_eq!(text(cluster.request(old, query())), "2");
}

#[test]
fn learner_catches_up_by_snapshot_and_is_promoted() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    for n in 0..60 {
        cluster.request(leader, propose(&n.to_string())).unwrap();
    }
    assert!(cluster.nodes[&leader].host.status(GROUP).unwrap().compacted.index.0 > 20);
    let change = MembershipChange::AddLearner {
        node: NodeId(4),
        peer_address: "peer:4".to_owned(),
        client_address: "client:4".to_owned(),
    };
    let added = cluster.request(leader, Request::ChangeMembership { change, expected: None }).unwrap();
    let Answer::MembershipChanged { replica, .. } = added else { panic!("{added:?}") };
    assert_eq!(replica, ReplicaId(4));
    cluster.start(4, join_batch(GROUP, replica), Vec::new());
    cluster.pass(2000);
    let promote = Request::ChangeMembership { change: MembershipChange::Promote(replica), expected: None };
    let leader = cluster.leader();
    cluster.request(leader, promote).unwrap();
    assert_eq!(text(cluster.request(NodeId(4), query())), "60");
    assert!(cluster.nodes[&NodeId(4)].host.status(GROUP).unwrap().snapshot.index.0 > 20);
}

#[test]
fn panic_of_a_state_machine_stops_its_replica_with_the_reason() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.leader();
    let write = cluster.ask(leader, propose("panic"));
    assert_eq!(cluster.reply(write), Err(RequestError::OutcomeUnknown));
    assert_eq!(cluster.request(leader, query()), Err(RequestError::NoGroup));
}

#[test]
fn transfer_is_answered_when_another_leads() {
    let mut cluster = Cluster::new(3);
    let old = cluster.leader();
    cluster.request(old, propose("a")).unwrap();
    let Answer::Transferred { leader } =
        cluster.request(old, Request::TransferLeadership { to: None }).unwrap()
    else {
        panic!()
    };
    assert_ne!(leader.0, old.0);
    assert_eq!(cluster.leader().0, leader.0);
}
