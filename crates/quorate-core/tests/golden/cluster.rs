//! A cluster of cores in one thread, with a network, disks and a clock that a script controls.
//!
//! Between commands everything settles: writes become durable, messages arrive, entries are applied;
//! unless the script takes a lane into its own hands (`auto deliver=off persist=off apply=off fetch=off`).
//! After every settling the cluster checks that no two replicas applied different entries and that
//! no term had two leaders.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use quorate_core::{
    Config, Entry, Fetch, LogIndex, Member, MemberRole, Membership, Message, MessageBody, MonoTime, NodeId,
    Persist, RawNode, Ready, RecoveryAudit, ReplicaId, RoleName, SnapshotOutcome, Term,
};

use crate::disk::Disk;
use crate::trace;

pub(crate) struct Node {
    pub(crate) core: RawNode,
    pub(crate) disk: Disk,
    pub(crate) config: Config,
    pub(crate) writing: VecDeque<Persist>,
    pub(crate) applying: Vec<LogIndex>,
    fetching: Vec<Fetch>,
    pub(crate) applied: LogIndex,
}

#[derive(Clone, Copy)]
pub(crate) struct Auto {
    pub(crate) deliver: bool,
    pub(crate) persist: bool,
    pub(crate) apply: bool,
    pub(crate) fetch: bool,
}

pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<ReplicaId, Node>,
    /// Replicas that are down, with their disks.
    pub(crate) down: BTreeMap<ReplicaId, Node>,
    pub(crate) wire: VecDeque<Message>,
    pub(crate) cuts: BTreeSet<(ReplicaId, ReplicaId)>,
    pub(crate) auto: Auto,
    /// Replicas whose writes the script makes durable.
    pub(crate) slow_disks: BTreeSet<ReplicaId>,
    pub(crate) show_heartbeats: bool,
    /// Also events that the messages tell already.
    pub(crate) show_events: bool,
    pub(crate) now_millis: u64,
    pub(crate) out: String,
    /// By recovery epoch: what is left behind may go its own way, but nobody follows it.
    agreed: BTreeMap<(u64, LogIndex), Entry>,
    leaders: BTreeMap<(u64, Term), ReplicaId>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            down: BTreeMap::new(),
            wire: VecDeque::new(),
            cuts: BTreeSet::new(),
            auto: Auto { deliver: true, persist: true, apply: true, fetch: true },
            slow_disks: BTreeSet::new(),
            show_heartbeats: false,
            show_events: false,
            now_millis: 0,
            out: String::new(),
            agreed: BTreeMap::new(),
            leaders: BTreeMap::new(),
        }
    }
}

impl Cluster {
    pub(crate) fn now(&self) -> MonoTime {
        MonoTime::from_millis(self.now_millis)
    }

    pub(crate) fn say(&mut self, line: impl AsRef<str>) {
        writeln!(self.out, "{}", line.as_ref()).unwrap();
    }

    pub(crate) fn initial(voters: u64, learners: u64) -> Membership {
        let member = |node: u64| Member {
            node: NodeId(node),
            role: if node <= voters { MemberRole::Voter } else { MemberRole::Learner },
            peer_address: format!("n{node}:1"),
            client_address: String::new(),
        };
        Membership::initial((1..=voters + learners).map(member).collect()).unwrap()
    }

    pub(crate) fn start(&mut self, config: Config, disk: Disk, applied: LogIndex) {
        let core = RawNode::new(config.clone(), disk.restored(applied), self.now()).unwrap();
        let id = config.id;
        let (writing, applying, fetching) = (VecDeque::new(), Vec::new(), Vec::new());
        self.nodes.insert(id, Node { core, disk, config, writing, applying, fetching, applied });
    }

    /// Everything in flight takes its course.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut quiet = true;
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                while self.nodes[&id].core.has_ready() {
                    quiet = false;
                    let ready = self.nodes.get_mut(&id).unwrap().core.ready();
                    self.take(id, ready);
                }
                quiet &= !(self.is_disk_fast(id) && self.persist(id));
                quiet &= !(self.auto.apply && self.apply(id));
                quiet &= !(self.auto.fetch && self.fetch(id));
            }
            if self.auto.deliver
                && let Some(message) = self.wire.pop_front()
            {
                quiet = false;
                self.deliver(message);
            }
            self.check();
            if quiet {
                return;
            }
        }
        panic!("the cluster does not come to rest:\n{}", self.out);
    }

    fn is_disk_fast(&self, id: ReplicaId) -> bool {
        self.auto.persist && !self.slow_disks.contains(&id)
    }

    fn take(&mut self, id: ReplicaId, ready: Ready) {
        for event in &ready.events {
            if self.show_events || trace::is_plain(event) {
                self.say(format!("{id} {}", trace::event(event)));
            }
        }
        for read in &ready.reads {
            self.say(format!("{id} {}", trace::read(read)));
        }
        self.send(id, ready.send);
        let shown = !self.is_disk_fast(id);
        let node = self.nodes.get_mut(&id).unwrap();
        if let Some(persist) = &ready.persist
            && shown
            && persist.must_sync
        {
            let what = trace::entries(&persist.entries);
            let term = persist.hard_state.map_or(String::new(), |hard| format!(" t{}", hard.term));
            writeln!(self.out, "{id} writes #{}{term} [{what}]", persist.token.0).unwrap();
        }
        node.writing.extend(ready.persist);
        node.fetching.extend(ready.fetch);
        if let Some(meta) = ready.restore {
            node.applied = meta.last.index;
            node.applying.push(meta.last.index);
            self.say(format!("{id} restores {}", meta.last));
        }
        let node = self.nodes.get_mut(&id).unwrap();
        let epoch = node.core.status().membership.epoch();
        let mut commands = Vec::new();
        for entry in ready.apply {
            assert_eq!(entry.index(), node.applied.next(), "{id} applies with a gap");
            node.applied = entry.index();
            node.applying.push(entry.index());
            commands.push(trace::entry(&entry));
            let agreed = self.agreed.entry((epoch, entry.index())).or_insert_with(|| entry.clone());
            assert_eq!(*agreed, entry, "{id} applies something else");
        }
        if !commands.is_empty() {
            self.say(format!("{id} applies {}", commands.join(" ")));
        }
    }

    /// Shows messages that say the same once, with all their receivers.
    fn send(&mut self, id: ReplicaId, messages: Vec<Message>) {
        let mut lines: Vec<(String, String)> = Vec::new();
        for message in messages {
            if self.show_heartbeats || !trace::is_heartbeat(&message) {
                let said = format!("{id}@t{} {}", message.term, trace::body(&message.body));
                let lost = self.cuts.contains(&(message.from, message.to));
                let receiver = format!(" →{}{}", message.to, if lost { "✗" } else { "" });
                match lines.iter_mut().find(|(line, _)| *line == said) {
                    Some((_, receivers)) => receivers.push_str(&receiver),
                    None => lines.push((said, receiver)),
                }
            }
            self.wire.push_back(message);
        }
        for (said, receivers) in lines {
            self.say(format!("{said} {receivers}"));
        }
    }

    pub(crate) fn deliver(&mut self, message: Message) {
        let now = self.now();
        if self.cuts.contains(&(message.from, message.to)) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&message.to) {
            node.core.step(now, message.from, message).ok();
        }
    }

    pub(crate) fn persist(&mut self, id: ReplicaId) -> bool {
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let Some(persist) = node.writing.pop_front() else { return false };
        node.disk.write(&persist);
        node.core.on_persisted(now, persist.token);
        true
    }

    pub(crate) fn apply(&mut self, id: ReplicaId) -> bool {
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let Some(index) = node.applying.pop() else { return false };
        node.applying.clear();
        node.core.on_applied(now, index);
        true
    }

    pub(crate) fn fetch(&mut self, id: ReplicaId) -> bool {
        let now = self.now();
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        if node.fetching.is_empty() {
            return false;
        }
        match node.fetching.remove(0) {
            Fetch::Entries { from, to, bytes_max } => {
                let entries = node.disk.read(from, to, bytes_max);
                node.core.on_fetched(now, from, entries.clone());
                self.say(format!("{id} reads {from}..{to} from its disk: {}", entries.len()));
            }
            Fetch::SendSnapshot { to, at_least } => {
                assert!(node.core.status().applied >= at_least, "the snapshot is too old");
                let lost = self.cuts.contains(&(id, to)) || !self.nodes.contains_key(&to);
                let outcome = if lost { SnapshotOutcome::Failed } else { SnapshotOutcome::Sent };
                let core = &mut self.nodes.get_mut(&id).unwrap().core;
                core.report_snapshot(now, to, outcome);
                self.snapshot(id, to);
            }
        }
        true
    }

    /// `from` sends `to` a snapshot of what it has applied.
    pub(crate) fn snapshot(&mut self, from: ReplicaId, to: ReplicaId) {
        let core = &self.nodes[&from].core;
        let meta = core.snapshot_meta(core.status().applied).unwrap();
        let (term, epoch) = (core.status().term, core.status().membership.epoch());
        self.send(from, vec![Message { from, to, term, epoch, body: MessageBody::InstallSnapshot(meta) }]);
    }

    /// A forced recovery: the group goes on from what the survivor has. What others agree on
    /// belongs to another epoch.
    pub(crate) fn agree_anew(&mut self, audit: &RecoveryAudit) {
        let (before, after) = (audit.before.1.epoch(), audit.after.1.epoch());
        let kept = self.agreed.range((before, LogIndex(0))..=(before, audit.last.index));
        let kept: Vec<_> = kept.map(|((_, index), entry)| ((after, *index), entry.clone())).collect();
        self.agreed.extend(kept);
    }

    /// Lets `millis` pass for everybody, 50 at a time.
    pub(crate) fn pass(&mut self, millis: u64) {
        let end = self.now_millis + millis;
        while self.now_millis < end {
            self.now_millis = (self.now_millis + 50).min(end);
            let now = self.now();
            for node in self.nodes.values_mut() {
                node.core.tick(now);
            }
            self.settle();
        }
    }

    /// The leader of the newest term.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        let leads = |node: &&Node| node.core.status().role == RoleName::Leader;
        self.nodes
            .values()
            .filter(leads)
            .max_by_key(|node| node.core.status().term)
            .map(|node| node.config.id)
    }

    fn check(&mut self) {
        for (id, node) in &self.nodes {
            let status = node.core.status();
            assert!(status.applied <= status.commit && status.commit <= status.last.index);
            if status.role == RoleName::Leader {
                let leader = self.leaders.entry((status.membership.epoch(), status.term)).or_insert(*id);
                assert_eq!(leader, id, "two leaders in t{}", status.term);
            }
        }
    }
}
