//! Hosts in one thread: a FIFO network, logs in memory, a journal as the state machine, and a
//! trace of what each does.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    AppendReply, GroupId, Member, MemberRole, Membership, MessageBody, MonoTime, NodeId, RaftEvent,
    ReplicaId, RoleName,
};
use quorate_host::{
    Answer, Applier, ApplyTask, BatchEnd, Command, Consistency, Dedupe, Event, GroupConfig, GroupSetup, Host,
    LogFetcher, LogWriter, MachineError, Now, Outbound, PeerBody, Request, RequestError, SnapshotSource,
    Snapshotter, StateMachine, Ticket, Work, bootstrap_batch, recover_group,
};
use quorate_storage::{LogStore, MemLogStore, MemSnapshotStore, SnapshotStore};

pub const GROUP: GroupId = GroupId(1);

/// Counts and remembers: the response is how many commands came before, and the command.
#[derive(Default)]
pub struct Journal {
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

pub struct View(VecDeque<Bytes>);
impl SnapshotSource for View {
    fn next_chunk(&mut self, _: usize) -> Result<Option<Bytes>, MachineError> {
        Ok(self.0.pop_front().map(|line| [&line[..], b"\n"].concat().into()))
    }
}

pub struct Node {
    pub host: Host,
    writer: LogWriter,
    applier: Applier,
    fetcher: LogFetcher,
    snapshotter: Snapshotter,
}

pub struct Cluster {
    pub now: u64,
    pub nodes: BTreeMap<NodeId, Node>,
    wire: VecDeque<(NodeId, Outbound)>,
    pub cut: Vec<NodeId>,
    replies: BTreeMap<Ticket, Result<Answer, RequestError>>,
    next_ticket: u64,
    pub config: GroupConfig,
    /// What happened, when asked for.
    pub trace: Option<Vec<String>>,
}

pub fn member(n: u64) -> Member {
    let (peer_address, client_address) = (format!("peer:{n}"), format!("client:{n}"));
    Member { node: NodeId(n), role: MemberRole::Voter, peer_address, client_address }
}

impl Cluster {
    pub fn new(nodes: u64) -> Self {
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
            trace: None,
        };
        let membership = Arc::new(Membership::initial((1..=nodes).map(member).collect()).unwrap());
        for n in 1..=nodes {
            cluster.start(n, bootstrap_batch(GROUP, ReplicaId(n), &membership), Vec::new());
        }
        cluster
    }

    pub fn time(&self) -> Now {
        Now { mono: MonoTime::from_millis(self.now), unix_millis: self.now }
    }

    pub fn start(
        &mut self,
        n: u64,
        first: quorate_storage::LogBatch,
        seeds: Vec<(ReplicaId, NodeId, String)>,
    ) {
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
    pub fn settle(&mut self) {
        loop {
            let now = self.time();
            let mut idle = true;
            for (id, node) in &mut self.nodes {
                let mut work = node.host.take_work();
                if let Some(trace) = &mut self.trace {
                    note(trace, *id, &work);
                }
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

    pub fn pass(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            self.now += 10;
            let now = self.time();
            self.nodes.values_mut().for_each(|node| node.host.on_event(now, Event::Tick));
            self.settle();
        }
    }

    pub fn leader(&mut self) -> NodeId {
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

    pub fn ask(&mut self, node: NodeId, request: Request) -> Ticket {
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

    pub fn reply(&mut self, ticket: Ticket) -> Result<Answer, RequestError> {
        for _ in 0..1000 {
            if let Some(reply) = self.replies.remove(&ticket) {
                return reply;
            }
            self.pass(50);
        }
        panic!("never answered");
    }

    pub fn request(&mut self, node: NodeId, request: Request) -> Result<Answer, RequestError> {
        let ticket = self.ask(node, request);
        self.reply(ticket)
    }
}

pub fn propose(command: &str) -> Request {
    Request::Propose { command: command.to_owned().into(), dedupe: Dedupe::None }
}

pub fn query() -> Request {
    Request::Query { request: Bytes::new(), consistency: Consistency::Linearizable }
}

pub fn text(answer: Result<Answer, RequestError>) -> String {
    let (Answer::Applied { response, .. } | Answer::Queried { response, .. }) = answer.unwrap() else {
        panic!("neither applied nor queried")
    };
    String::from_utf8(response.to_vec()).unwrap()
}

/// One line for everything a write passes through.
fn note(trace: &mut Vec<String>, node: NodeId, work: &Work) {
    for task in &work.log {
        for entry in &task.write.entries {
            trace.push(format!("{node:?} log_writer.rs     writes {}, one sync", entry.id));
        }
    }
    for outbound in &work.send {
        let PeerBody::Raft(message) = &outbound.message.body else { continue };
        let to = outbound.to;
        if let MessageBody::Append(append) = &message.body {
            let ids: Vec<String> = append.entries.iter().map(|entry| entry.id.to_string()).collect();
            let (prev, commit, ids) = (append.prev, append.commit, ids.join(" "));
            trace.push(format!(
                "{node:?} leader.rs         append after {prev} [{ids}] commit {commit} -> {to:?}"
            ));
        }
        if let MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) = &message.body {
            trace.push(format!("{node:?} follower.rs       has {matched} on disk -> {to:?}"));
        }
    }
    for (_, event) in &work.events {
        if let RaftEvent::Committed { index } = event {
            trace.push(format!("{node:?} core              commits up to {index}"));
        }
    }
    for task in &work.apply {
        if let ApplyTask::Apply { entries, .. } = task {
            let ids: Vec<String> = entries.iter().map(|entry| entry.id.to_string()).collect();
            trace.push(format!("{node:?} state_machine.rs  applies {}", ids.join(" ")));
        }
    }
    for (_, reply) in &work.replies {
        if let Ok(Answer::Applied { id, .. }) = reply {
            trace.push(format!("{node:?} replica.rs        answers the ticket: applied at {id}"));
        }
    }
}
