//! A few replicas, their disks, the links between them, and a clock. All that is said arrives at once, unless the
//! link is cut or the test holds it back; writes are durable at once, unless the disk is stalled.
//!
//! Checked after every step: one leader per term, and nothing committed is ever replaced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    Config, Entry, EntryPayload, Fetch, HardState, LogId, LogIndex, Member, MemberRole, Membership, Message,
    MessageBody, MonoTime, NodeId, Persist, RawNode, ReadOutcome, ReadTicket, Ready, Rejected, ReplicaId,
    Restored, RoleName, SnapshotOutcome, Term,
};

#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) hard: HardState,
    pub(crate) compacted: LogId,
    pub(crate) memberships: Vec<(LogId, Arc<Membership>)>,
    pub(crate) entries: Vec<Entry>,
}

impl Disk {
    pub(crate) fn last(&self) -> LogIndex {
        self.entries.last().map_or(self.compacted.index, Entry::index)
    }

    fn write(&mut self, persist: &Persist) {
        if let (Some(to), Some(membership)) = (persist.reset_to, &persist.reset_membership) {
            self.compacted = to;
            self.entries.clear();
            self.memberships = vec![membership.clone()];
        }
        if let Some(from) = persist.truncate_from {
            self.entries.retain(|entry| entry.index() < from);
            self.memberships.retain(|(id, _)| id.index < from);
        }
        for entry in &*persist.entries {
            assert_eq!(entry.index(), self.last().next(), "a write leaves a gap");
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.memberships.push((entry.id, Arc::clone(membership)));
            }
            self.entries.push(entry.clone());
        }
        if let Some(hard) = persist.hard_state {
            assert!(hard.term >= self.hard.term, "the term on disk falls");
            self.hard = hard;
        }
    }

    pub(crate) fn restored(&self) -> Restored {
        let mut term_runs: Vec<LogId> = Vec::new();
        for entry in &self.entries {
            if term_runs.last().is_none_or(|run| run.term < entry.term()) {
                term_runs.push(entry.id);
            }
        }
        Restored {
            hard_state: self.hard,
            compacted: self.compacted,
            term_runs,
            last: self.last(),
            memberships: self.memberships.clone(),
            applied: self.compacted.index,
            ..Restored::default()
        }
    }
}

pub(crate) struct Node {
    pub(crate) core: RawNode,
    pub(crate) disk: Disk,
    pub(crate) stalled: bool,
    pub(crate) down: bool,
    writing: VecDeque<Persist>,
    pub(crate) applied: Vec<LogId>,
    pub(crate) reads: Vec<ReadOutcome>,
    pub(crate) refused: Vec<Rejected>,
}

pub(crate) struct Group {
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) configs: BTreeMap<u64, Config>,
    pub(crate) millis: u64,
    cut: BTreeSet<(u64, u64)>,
    /// Messages of these kinds wait in `held`.
    pub(crate) hold: fn(&Message) -> bool,
    pub(crate) held: Vec<Message>,
    leaders: BTreeMap<Term, u64>,
    committed: BTreeMap<LogIndex, Entry>,
}

pub(crate) fn membership(voters: u64) -> Membership {
    let member = |node| Member {
        node: NodeId(node),
        role: MemberRole::Voter,
        peer_address: String::new(),
        client_address: String::new(),
    };
    Membership::initial((1..=voters).map(member).collect()).unwrap()
}

/// A log of entries of these terms, one each, from index 1 on.
pub(crate) fn log(terms: &[u64]) -> Vec<Entry> {
    let entry =
        |(index, term): (u64, &u64)| Entry { id: LogId::new(*term, index), payload: EntryPayload::Noop };
    (1..).zip(terms).map(entry).collect()
}

impl Group {
    pub(crate) fn new(voters: u64) -> Self {
        Self::with(voters, |_| {})
    }

    pub(crate) fn with(voters: u64, change: impl Fn(&mut Config)) -> Self {
        Self::from_logs(&vec![(0, &[][..]); usize::try_from(voters).unwrap()], change)
    }

    /// Replicas 1, 2, … with these terms and logs on their disks.
    pub(crate) fn from_logs(logs: &[(u64, &[u64])], change: impl Fn(&mut Config)) -> Self {
        let membership = Arc::new(membership(logs.len() as u64));
        let mut group = Self {
            nodes: BTreeMap::new(),
            configs: BTreeMap::new(),
            millis: 1,
            cut: BTreeSet::new(),
            hold: |_| false,
            held: Vec::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
        };
        for (id, (term, terms)) in (1..).zip(logs) {
            let mut config = Config::new(ReplicaId(id));
            change(&mut config);
            group.configs.insert(id, config);
            let disk = Disk {
                hard: HardState { term: Term(*term), ..HardState::default() },
                memberships: vec![(LogId::default(), Arc::clone(&membership))],
                entries: log(terms),
                ..Disk::default()
            };
            group.start(id, disk);
        }
        group
    }

    /// Starts a replica from a disk. One that is there already stops without a word.
    pub(crate) fn start(&mut self, id: u64, disk: Disk) {
        let config =
            self.configs.entry(id).or_insert_with(|| Config { ..Config::new(ReplicaId(id)) }).clone();
        let now = self.now();
        let core = RawNode::new(config, disk.restored(), now).unwrap();
        let node = Node {
            core,
            disk,
            stalled: false,
            down: false,
            writing: VecDeque::new(),
            applied: Vec::new(),
            reads: Vec::new(),
            refused: Vec::new(),
        };
        self.nodes.insert(id, node);
    }

    /// The power fails and comes back.
    pub(crate) fn restart(&mut self, id: u64) {
        let disk = self.node(id).disk.clone();
        self.start(id, disk);
        self.settle();
    }

    pub(crate) const fn now(&self) -> MonoTime {
        MonoTime::from_millis(self.millis)
    }

    pub(crate) fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(crate) fn core(&mut self, id: u64) -> &mut RawNode {
        &mut self.node(id).core
    }

    /// Nothing passes between `a` and `b`.
    pub(crate) fn cut(&mut self, a: u64, b: u64) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    pub(crate) fn cut_one_way(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub(crate) fn isolate(&mut self, id: u64) {
        for other in self.nodes.keys().copied().filter(|other| *other != id).collect::<Vec<_>>() {
            self.cut(id, other);
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn campaign(&mut self, id: u64) {
        let now = self.now();
        self.core(id).campaign(now);
        self.settle();
    }

    pub(crate) fn propose(&mut self, id: u64) -> LogId {
        let now = self.now();
        let at = self.core(id).propose(now, Bytes::from_static(b"x")).unwrap();
        self.settle();
        at
    }

    pub(crate) fn read(&mut self, id: u64, ticket: u64) {
        let now = self.now();
        self.core(id).read(now, ReadTicket(ticket)).unwrap();
        self.settle();
    }

    /// Time passes in steps of 10 ms.
    pub(crate) fn run(&mut self, millis: u64) {
        let end = self.millis + millis;
        while self.millis < end {
            self.millis += 10;
            let now = self.now();
            for node in self.nodes.values_mut().filter(|node| !node.down) {
                node.core.tick(now);
            }
            self.settle();
        }
    }

    /// Runs until somebody leads, and leads in the eyes of a quorum.
    pub(crate) fn elect(&mut self) -> u64 {
        for _ in 0..2_000 {
            self.run(10);
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("nobody is elected: {}", self.lines());
    }

    /// The leader of the highest term, if it has committed an entry of its own.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leaders = self.nodes.iter().filter(|(_, node)| !node.down && node.leads());
        let (id, node) = leaders.max_by_key(|(_, node)| node.core.status().term)?;
        let status = node.core.status();
        (node.core.term_at(status.commit) == Some(status.term)).then_some(*id)
    }

    pub(crate) fn lines(&self) -> String {
        self.nodes.values().map(|node| format!("\n{:?}", node.core.status())).collect()
    }

    /// Takes out and delivers until nothing is left to say.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            let said: Vec<Message> = self
                .nodes
                .keys()
                .copied()
                .collect::<Vec<_>>()
                .into_iter()
                .flat_map(|id| self.drain(id))
                .collect();
            if said.is_empty() {
                return self.check();
            }
            for message in said {
                if (self.hold)(&message) {
                    self.held.push(message);
                } else {
                    self.deliver(message);
                }
            }
            self.check();
        }
        panic!("they never come to rest");
    }

    pub(crate) fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        let now = self.now();
        if self.cut.contains(&(from.0, to.0)) || self.nodes.get(&from.0).is_some_and(|node| node.down) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&to.0).filter(|node| !node.down)
            && let Err(reason) = node.core.step(now, from, message)
        {
            node.refused.push(reason);
        }
    }

    /// Steps a message that the test made, and lets everybody answer.
    pub(crate) fn say(&mut self, from: u64, to: u64, term: u64, body: MessageBody) {
        let (from, to) = (ReplicaId(from), ReplicaId(to));
        self.deliver(Message { from, to, term: Term(term), epoch: 0, body });
        self.settle();
    }

    pub(crate) fn drain(&mut self, id: u64) -> Vec<Message> {
        let now = self.now();
        let node = self.nodes.get_mut(&id).unwrap();
        let mut said = Vec::new();
        while !node.down && (node.core.has_ready() || (!node.stalled && !node.writing.is_empty())) {
            let ready = node.core.ready();
            said.extend(node.take(now, ready));
        }
        said
    }

    fn check(&mut self) {
        for (id, node) in &self.nodes {
            let status = node.core.status();
            if status.role == RoleName::Leader {
                let leader = self.leaders.entry(status.term).or_insert(*id);
                assert_eq!(leader, id, "two leaders in {:?}", status.term);
            }
            for entry in node.disk.entries.iter().take_while(|entry| entry.index() <= status.applied) {
                let agreed = self.committed.entry(entry.index()).or_insert_with(|| entry.clone());
                assert_eq!(agreed, entry, "replica {id} committed something else");
            }
        }
    }
}

impl Node {
    pub(crate) fn leads(&self) -> bool {
        self.core.status().role == RoleName::Leader
    }

    fn take(&mut self, now: MonoTime, ready: Ready) -> Vec<Message> {
        let mut said: Vec<Message> = ready.send;
        self.writing.extend(ready.persist);
        while !self.stalled
            && let Some(persist) = self.writing.pop_front()
        {
            self.disk.write(&persist);
            self.core.on_persisted(now, persist.token);
        }
        if let Some(meta) = ready.restore {
            self.applied.push(meta.last);
            self.core.on_applied(now, meta.last.index);
        }
        self.applied.extend(ready.apply.iter().map(|entry| entry.id));
        if let Some(last) = ready.apply.last() {
            self.core.on_applied(now, last.index());
        }
        self.reads.extend(ready.reads);
        for fetch in ready.fetch {
            match fetch {
                Fetch::Entries { from, to, .. } => {
                    let all = self.disk.entries.iter();
                    let wanted = all.filter(|entry| from <= entry.index() && entry.index() < to);
                    let wanted = wanted.cloned().collect();
                    self.core.on_fetched(now, from, wanted);
                }
                Fetch::SendSnapshot { to, .. } => {
                    let status = self.core.status();
                    let (from, term, applied) = (status.id, status.term, status.applied);
                    let meta = self.core.snapshot_meta(applied).unwrap();
                    let body = MessageBody::InstallSnapshot(meta);
                    said.push(Message { from, to, term, epoch: 0, body });
                    self.core.report_snapshot(now, to, SnapshotOutcome::Sent);
                }
            }
        }
        said
    }

    /// Takes a snapshot of everything it has applied, and drops that from its log.
    pub(crate) fn compact(&mut self) {
        let applied = self.core.status().applied;
        let meta = self.core.snapshot_meta(applied).unwrap();
        self.disk.entries.retain(|entry| entry.index() > applied);
        self.disk.memberships.retain(|(id, _)| id.index > applied);
        self.disk.memberships.insert(0, (meta.membership_id, Arc::clone(&meta.membership)));
        self.disk.compacted = meta.last;
        self.core.on_compacted(meta.last);
    }
}
