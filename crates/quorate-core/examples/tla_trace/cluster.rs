//! A small deterministic cluster that keeps everything its replicas tell, in the order in which it
//! happened. No snapshots and no changes of members: the specification sees those differently.
//!
//! * Everybody starts with the members at `BASE`, as from a snapshot: in the specification a group
//!   never has an empty log.
//! * Between two calls everything settles: writes become durable, messages arrive, entries are applied.
//! * A replica is stopped only when all is settled, so that its disk holds what it has told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    Config, Entry, Fetch, HardState, LogId, LogIndex, Member, MemberRole, Membership, Message, MonoTime,
    NodeId, Persist, RaftEvent, RawNode, ReplicaId, Restored, RoleName, Term,
};

/// Where every log starts: its members are committed.
const BASE: LogId = LogId::new(1, 1);

/// One thing that a replica told, or its state when it started.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// It started with this.
    Started(Start),
    /// Something happened.
    Event(RaftEvent),
}

/// What a replica's status says when it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) term: Term,
    pub(crate) vote: Option<ReplicaId>,
    pub(crate) commit: LogIndex,
    pub(crate) last: LogIndex,
}

struct Replica {
    core: RawNode,
    hard_state: HardState,
    entries: Vec<Entry>,
}

/// See the module.
pub(crate) struct Cluster {
    replicas: BTreeMap<ReplicaId, Replica>,
    wire: VecDeque<Message>,
    cut_off: BTreeSet<ReplicaId>,
    members: Arc<Membership>,
    config: Config,
    now: MonoTime,
    pub(crate) told: Vec<(ReplicaId, Told)>,
}

impl Cluster {
    /// `voters` new replicas that behave like `config`.
    pub(crate) fn new(voters: u64, config: Config) -> Self {
        let member = |node| Member {
            node: NodeId(node),
            role: MemberRole::Voter,
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = Membership::initial((1..=voters).map(member).collect()).expect("up to 64 voters");
        let mut cluster = Self {
            replicas: BTreeMap::new(),
            wire: VecDeque::new(),
            cut_off: BTreeSet::new(),
            members: Arc::new(members),
            config,
            now: MonoTime(0),
            told: Vec::new(),
        };
        for id in (1..=voters).map(ReplicaId) {
            let hard_state = HardState { term: BASE.term, vote: None, commit: BASE.index };
            cluster.start(id, hard_state, Vec::new(), BASE.index);
        }
        cluster
    }

    fn start(&mut self, id: ReplicaId, hard_state: HardState, entries: Vec<Entry>, applied: LogIndex) {
        let mut term_runs: Vec<LogId> = Vec::new();
        for entry in &entries {
            if term_runs.last().is_none_or(|run| run.term != entry.term()) {
                term_runs.push(entry.id);
            }
        }
        let restored = Restored {
            hard_state,
            compacted: BASE,
            term_runs,
            last: entries.last().map_or(BASE.index, Entry::index),
            memberships: vec![(BASE, Arc::clone(&self.members))],
            applied,
            ..Restored::default()
        };
        let config = Config { id, seed: self.config.seed ^ id.0, ..self.config.clone() };
        let core = RawNode::new(config, restored, self.now).expect("what was written can be read back");
        let status = core.status();
        let start =
            Start { term: status.term, vote: status.vote, commit: status.commit, last: status.last.index };
        self.told.push((id, Told::Started(start)));
        self.replicas.insert(id, Replica { core, hard_state, entries });
        self.settle();
    }

    /// The replicas, by id.
    pub(crate) fn cores(&self) -> impl Iterator<Item = (ReplicaId, &RawNode)> + '_ {
        self.replicas.iter().map(|(id, replica)| (*id, &replica.core))
    }

    /// The leader of the newest term.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        let leads = self.cores().filter(|(_, core)| core.status().role == RoleName::Leader);
        leads.max_by_key(|(_, core)| core.status().term).map(|(id, _)| id)
    }

    /// Everything in flight takes its course.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut worked = false;
            for id in self.replicas.keys().copied().collect::<Vec<_>>() {
                worked |= self.work(id);
            }
            let Some(message) = self.wire.pop_front() else {
                if worked {
                    continue;
                }
                return;
            };
            let lost = self.cut_off.contains(&message.from) || self.cut_off.contains(&message.to);
            if let Some(replica) = self.replicas.get_mut(&message.to).filter(|_| !lost) {
                replica.core.step(self.now, message.from, message).ok();
            }
        }
    }

    /// Does one replica's work. Says whether there was any.
    fn work(&mut self, id: ReplicaId) -> bool {
        let now = self.now;
        let Some(replica) = self.replicas.get_mut(&id).filter(|replica| replica.core.has_ready()) else {
            return false;
        };
        let ready = replica.core.ready();
        self.told.extend(ready.events.into_iter().map(|event| (id, Told::Event(event))));
        self.wire.extend(ready.send);
        if let Some(persist) = ready.persist {
            replica.write(&persist);
            replica.core.on_persisted(now, persist.token);
        }
        if let Some(last) = ready.apply.last() {
            replica.core.on_applied(now, last.index());
        }
        for fetch in ready.fetch {
            if let Fetch::Entries { from, to, .. } = fetch {
                let wanted = |entry: &&Entry| from <= entry.index() && entry.index() < to;
                let entries = replica.entries.iter().filter(wanted).cloned().collect();
                replica.core.on_fetched(now, from, entries);
            }
        }
        true
    }

    /// Lets time pass for everybody, 50 ms at a time.
    pub(crate) fn pass(&mut self, millis: u64) {
        for _ in 0..millis / 50 {
            self.now = self.now + std::time::Duration::from_millis(50);
            for replica in self.replicas.values_mut() {
                replica.core.tick(self.now);
            }
            self.settle();
        }
    }

    /// Asks the leader, if there is one, to append `commands` commands, and the rest to follow.
    pub(crate) fn propose(&mut self, commands: u64) {
        let now = self.now;
        if let Some(replica) = self.leader().and_then(|leader| self.replicas.get_mut(&leader)) {
            for _ in 0..commands {
                replica.core.propose(now, Bytes::from_static(b"v")).ok();
            }
        }
        self.settle();
    }

    /// Starts an election at `id`.
    pub(crate) fn campaign(&mut self, id: ReplicaId) {
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.core.campaign(self.now);
        }
        self.settle();
    }

    /// The leader hands over to `to`.
    pub(crate) fn transfer(&mut self, to: ReplicaId) {
        let now = self.now;
        if let Some(replica) = self.leader().and_then(|leader| self.replicas.get_mut(&leader)) {
            replica.core.transfer_leadership(now, Some(to)).ok();
        }
        self.settle();
    }

    /// What `id` says and hears is lost from now on.
    pub(crate) fn cut_off(&mut self, id: ReplicaId) {
        self.cut_off.insert(id);
    }

    /// Nothing is lost any more.
    pub(crate) fn heal(&mut self) {
        self.cut_off.clear();
    }

    /// Whether anybody is cut off.
    pub(crate) fn is_healed(&self) -> bool {
        self.cut_off.is_empty()
    }

    /// Stops `id` and starts it again from its disk; its state machine keeps what it has applied.
    pub(crate) fn restart(&mut self, id: ReplicaId) {
        if let Some(Replica { core, hard_state, entries }) = self.replicas.remove(&id) {
            self.start(id, hard_state, entries, core.status().applied);
        }
    }
}

impl Replica {
    fn write(&mut self, persist: &Persist) {
        if let Some(from) = persist.truncate_from {
            self.entries.retain(|entry| entry.index() < from);
        }
        self.entries.extend(persist.entries.iter().cloned());
        self.hard_state = persist.hard_state.unwrap_or(self.hard_state);
    }
}
