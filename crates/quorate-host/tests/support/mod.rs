//! Hosts in one thread: a FIFO network, logs in memory, a journal as the state machine, and a
//! trace of what each does.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use quorate_core::LogId;
use quorate_core::{
    AppendReply, GroupId, Member, MemberRole, Membership, MessageBody, MonoTime, NodeId, RaftEvent,
    ReplicaId, RoleName,
};
use quorate_host::{
    Answer, Applier, ApplyTask, BatchEnd, Command, Consistency, Dedupe, Event, GroupConfig, GroupSetup, Host,
    HostConfig, LogFetcher, LogTask, LogWriter, MachineError, Now, OpenError, Outbound, PeerBody, Proposal,
    Recovered, Request, RequestError, SnapshotSource, SnapshotTask, Snapshotter, StateMachine, Ticket, Work,
    bootstrap_batch, recover_group,
};
use quorate_storage::{
    GroupState, LogBatch, LogError, LogReader, LogStats, LogStore, MemDisk, MemLogStore, MemSnapshotStore,
    SnapshotStore, Wal, WalConfig, WriteDone,
};

pub const GROUP: GroupId = GroupId(1);

/// Counts and remembers: the response is how many commands came before, and the command.
#[derive(Default)]
pub struct Journal {
    commands: Vec<Bytes>,
    disk: Option<Arc<Mutex<Stored>>>,
    /// What it understands.
    version: u32,
}

/// What an on-disk journal has on its disk.
#[derive(Clone, Default)]
pub struct Stored {
    pub commands: Vec<Bytes>,
    pub applied: LogId,
    pub records: BTreeMap<Bytes, Bytes>,
}

impl Journal {
    fn store(&self, batch: BatchEnd<'_>) {
        let Some(disk) = &self.disk else { return };
        let mut disk = disk.lock().unwrap();
        disk.commands.clone_from(&self.commands);
        disk.applied = batch.applied;
        for (key, value) in batch.records {
            match value {
                Some(value) => drop(disk.records.insert(key.clone(), value.clone())),
                None => drop(disk.records.remove(key)),
            }
        }
    }
}

impl StateMachine for Journal {
    fn supported_version(&self) -> u32 {
        self.version.max(1)
    }
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
    fn restore(&mut self, content: &mut dyn Read, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        let mut text = String::new();
        content.read_to_string(&mut text).unwrap();
        self.commands = text.lines().map(|line| Bytes::from(line.to_owned())).collect();
        if let Some(disk) = &self.disk {
            disk.lock().unwrap().records.clear();
        }
        self.store(batch);
        Ok(())
    }
    fn commit(&mut self, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        self.store(batch);
        Ok(())
    }
    fn recovered(&mut self) -> Result<Recovered, MachineError> {
        let Some(disk) = &self.disk else { return Ok(Recovered::default()) };
        let disk = disk.lock().unwrap().clone();
        self.commands = disk.commands;
        Ok(Recovered { applied: disk.applied, records: disk.records.into_iter().collect() })
    }
    fn is_durable(&self) -> bool {
        self.disk.is_some()
    }
    fn flush(&mut self) -> Result<LogId, MachineError> {
        Ok(self.disk.as_ref().map(|disk| disk.lock().unwrap().applied).unwrap_or_default())
    }
}

pub struct View(VecDeque<Bytes>);
impl SnapshotSource for View {
    fn next_chunk(&mut self, _: usize) -> Result<Option<Bytes>, MachineError> {
        let line = self.0.pop_front();
        assert!(line.as_deref() != Some(b"view panics"), "told to");
        Ok(line.map(|line| [&line[..], b"\n"].concat().into()))
    }
}

/// What a node's disk does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disk {
    #[default]
    Works,
    /// Nothing comes back.
    Hangs,
    Full,
    Fails,
}

/// A log that outlives its host and can be made to fail.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<(Inner, Disk)>>);

/// What a log is kept in.
struct Inner(Box<dyn LogStore>);

impl Default for Inner {
    fn default() -> Self {
        Self(Box::new(MemLogStore::default()))
    }
}

impl std::ops::Deref for Inner {
    type Target = dyn LogStore;
    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl std::ops::DerefMut for Inner {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, (Inner, Disk)> {
        self.0.lock().unwrap()
    }
    /// Opens the WAL on `disk`, as after a restart of the process.
    fn open(&self, disk: &MemDisk) {
        let config = WalConfig { segment_bytes: 16 << 10, ..WalConfig::default() };
        let mut inner = self.lock();
        inner.0 = Inner::default();
        let wal = Wal::open(Arc::new(disk.clone()), std::path::Path::new("wal"), config);
        inner.0 = Inner(Box::new(wal.unwrap()));
    }
    pub fn set(&self, disk: Disk) {
        self.lock().1 = disk;
    }
    fn hangs(&self) -> bool {
        self.lock().1 == Disk::Hangs
    }
    pub fn syncs(&self) -> u64 {
        self.lock().0.stats().syncs
    }
}

impl LogStore for Log {
    fn groups(&self) -> Vec<GroupState> {
        self.lock().0.groups()
    }
    fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
        let mut inner = self.lock();
        let context = "told to".to_owned();
        let source = Arc::new(std::io::Error::other("told to"));
        match inner.1 {
            Disk::Works | Disk::Hangs => inner.0.write(batch, must_sync, done),
            Disk::Full => done(Err(LogError::NoSpace { context })),
            Disk::Fails => done(Err(LogError::Failed { context, source })),
        }
    }
    fn flush(&mut self) -> Result<(), LogError> {
        self.lock().0.flush()
    }
    fn reader(&self) -> Arc<dyn LogReader> {
        self.lock().0.reader()
    }
    fn stats(&self) -> LogStats {
        self.lock().0.stats()
    }
}

/// What survives a restart of a node.
#[derive(Clone, Default)]
pub struct Data {
    pub log: Log,
    /// `Some`: the log is a WAL on it.
    pub disk: Option<MemDisk>,
    pub snapshots: MemSnapshotStore,
    /// `Some`: the machine is an on-disk one and this is its disk.
    pub journal: Option<Arc<Mutex<Stored>>>,
}

pub struct Node {
    pub host: Host,
    pub data: Data,
    writer: LogWriter,
    applier: Applier,
    fetcher: LogFetcher,
    snapshotter: Snapshotter,
    /// Writes that a hung disk has not taken.
    waiting: Vec<LogTask>,
}

/// Whether a message is lost on its way.
pub type Loses = Box<dyn FnMut(&Outbound) -> bool>;

pub struct Cluster {
    pub now: u64,
    pub nodes: BTreeMap<NodeId, Node>,
    wire: VecDeque<(NodeId, Outbound)>,
    pub cut: Vec<NodeId>,
    replies: BTreeMap<Ticket, Result<Answer, RequestError>>,
    answered: BTreeSet<Ticket>,
    /// Replicas that stopped, and why.
    pub stopped: Vec<(NodeId, GroupId, String)>,
    /// Whether machines keep their own state.
    pub durable: bool,
    /// Whether logs are WALs, each on a disk in memory.
    pub wal: bool,
    next_ticket: u64,
    /// The version that each node's machine understands, if not 1.
    pub builds: BTreeMap<NodeId, u32>,
    /// How many snapshots were written.
    pub saves: usize,
    /// What the nodes told.
    pub events: Vec<(NodeId, RaftEvent)>,
    pub config: GroupConfig,
    pub host_config: HostConfig,
    /// Whether a message is lost on its way.
    pub loses: Option<Loses>,
    /// What happened, when asked for.
    pub trace: Option<Vec<String>>,
}

pub fn member(n: u64) -> Member {
    let (peer_address, client_address) = (format!("peer:{n}"), format!("client:{n}"));
    Member { node: NodeId(n), role: MemberRole::Voter, peer_address, client_address }
}

impl Cluster {
    pub fn new(nodes: u64) -> Self {
        Self::with(nodes, |_| {})
    }

    /// A cluster that is changed before its nodes start.
    pub fn with(nodes: u64, change: impl FnOnce(&mut Self)) -> Self {
        let mut config = GroupConfig::default();
        config.snapshots.entries = 20;
        config.snapshots.trailing_entries = 2;
        let mut cluster = Self {
            now: 1000,
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            cut: Vec::new(),
            replies: BTreeMap::new(),
            answered: BTreeSet::new(),
            stopped: Vec::new(),
            durable: false,
            wal: false,
            next_ticket: 1,
            saves: 0,
            builds: BTreeMap::new(),
            events: Vec::new(),
            config,
            host_config: HostConfig::default(),
            loses: None,
            trace: None,
        };
        change(&mut cluster);
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
        let mut data = Data::default();
        if self.durable {
            data.journal = Some(Arc::default());
        }
        if self.wal {
            let disk = MemDisk::new();
            data.log.open(&disk);
            data.disk = Some(disk);
        }
        data.log.write(first, true, Box::new(|result| result.unwrap()));
        data.log.flush().unwrap();
        self.open(n, data, seeds);
    }

    /// Stops a node and starts it again with what it had on disk.
    pub fn restart(&mut self, n: NodeId) {
        let data = self.nodes.remove(&n).unwrap().data;
        if let Some(disk) = &data.disk {
            data.log.open(disk);
        }
        self.open(n.0, data, Vec::new());
    }

    pub fn open(&mut self, n: u64, data: Data, seeds: Vec<(ReplicaId, NodeId, String)>) {
        let snapshots: Arc<dyn SnapshotStore> = Arc::new(data.snapshots.clone());
        let mut node = Node {
            host: Host::with_config(NodeId(n), self.host_config.clone()),
            writer: LogWriter::new(Box::new(data.log.clone())),
            applier: Applier::new(Arc::clone(&snapshots)),
            fetcher: LogFetcher::new(data.log.reader()),
            snapshotter: Snapshotter::new(&self.host_config, Arc::clone(&snapshots)),
            waiting: Vec::new(),
            data,
        };
        for state in node.data.log.groups() {
            let setup = self.recover(&mut node, &state, seeds.clone());
            node.host.open_group(self.time(), setup).unwrap();
        }
        self.nodes.insert(NodeId(n), node);
    }

    fn recover(
        &self,
        node: &mut Node,
        state: &GroupState,
        seeds: Vec<(ReplicaId, NodeId, String)>,
    ) -> GroupSetup {
        let snapshots = node.data.snapshots.clone();
        let disk = node.data.journal.clone();
        let version = *self.builds.get(&node.host.node()).unwrap_or(&1);
        let machine = Box::new(Journal { disk, version, ..Journal::default() });
        let mut recovered = recover_group(state, &snapshots, machine).unwrap();
        if let Some(fix) = recovered.log_fix.take() {
            node.writer.write_now(&fix).unwrap();
        }
        let mut config = self.config.clone();
        config.core.id = recovered.replica;
        let (setup, machine) = recovered.into_setup(config, seeds);
        node.applier.add(machine);
        setup
    }

    /// Recovers a closed group and opens it again.
    pub fn open_group_again(&mut self, n: NodeId) -> Result<(), OpenError> {
        let mut node = self.nodes.remove(&n).unwrap();
        let state = node.data.log.groups().remove(0);
        let setup = self.recover(&mut node, &state, Vec::new());
        let opened = node.host.open_group(self.time(), setup);
        self.nodes.insert(n, node);
        opened
    }

    pub fn log(&self, node: NodeId) -> Log {
        self.nodes[&node].data.log.clone()
    }

    pub fn status(&self, node: NodeId) -> quorate_host::GroupStatus {
        self.nodes[&node].host.status(GROUP).unwrap()
    }

    /// Whether a ticket has its answer already.
    pub fn is_answered(&self, ticket: Ticket) -> bool {
        self.replies.contains_key(&ticket)
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
                for (ticket, reply) in work.replies.drain(..) {
                    assert!(self.answered.insert(ticket), "{ticket:?} was answered twice: {reply:?}");
                    self.replies.insert(ticket, reply);
                }
                self.stopped.extend(work.stopped.drain(..).map(|(group, reason)| (*id, group, reason)));
                self.events.extend(work.events.drain(..).map(|(_, event)| (*id, event)));
                self.wire.extend(work.send.drain(..).map(|outbound| (*id, outbound)));
                node.waiting.extend(work.log);
                if !node.data.log.hangs() && !node.waiting.is_empty() {
                    node.writer.submit(std::mem::take(&mut node.waiting));
                    events.extend(node.writer.step());
                }
                events.extend(work.apply.into_iter().flat_map(|task| node.applier.step(task)));
                events.extend(work.fetch.into_iter().map(|task| node.fetcher.step(task)));
                self.saves +=
                    work.snapshots.iter().filter(|task| matches!(task, SnapshotTask::Save { .. })).count();
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
                if self.loses.as_mut().is_some_and(|loses| loses(&outbound)) {
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
            // As the shells do: only when there is something to do.
            for node in self.nodes.values_mut() {
                if node.host.next_deadline().is_some_and(|deadline| deadline <= now.mono) {
                    node.host.on_event(now, Event::Tick);
                }
            }
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
        self.ask_group(node, GROUP, request)
    }

    pub fn ask_group(&mut self, node: NodeId, group: GroupId, request: Request) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let now = self.time();
        self.nodes.get_mut(&node).unwrap().host.on_event(now, Event::Request { group, ticket, request });
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
    Request::Propose(Proposal::new(command.to_owned(), Dedupe::None))
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
