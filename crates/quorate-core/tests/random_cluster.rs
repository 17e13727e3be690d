//! Fear, in small: clusters of cores under random loss, delay, duplication, reordering and crashes,
//! whose members change meanwhile: one by one, several at once, with learners and witnesses.
//! After every step: one leader a term, logs that match, commits that never change.
#![expect(clippy::unwrap_used, reason = "a test")]
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    Config, Entry, EntryPayload, Fetch, HardState, LogId, LogIndex, Member, MemberRole, Membership,
    MembershipChange, MembershipTransition, Message, MonoTime, NodeId, Persist, RaftEvent, RawNode,
    ReadOutcome, ReadTicket, ReplicaId, Restored, RoleName, SnapshotMeta, SnapshotOutcome, Term,
};

struct Rng(u64);
impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a replica's disk holds: exactly the writes that were reported durable.
#[derive(Clone)]
struct Disk {
    hard: HardState,
    compacted: LogId,
    entries: Vec<Entry>,
    membership: (LogId, Arc<Membership>),
}

impl Disk {
    fn write(&mut self, persist: &Persist) {
        if let (Some(to), Some(membership)) = (persist.reset_to, &persist.reset_membership) {
            self.compacted = to;
            self.entries.clear();
            self.membership = membership.clone();
        }
        if let Some(from) = persist.truncate_from {
            self.entries.retain(|entry| entry.index() < from);
        }
        for entry in &persist.entries {
            assert_eq!(entry.index().0, self.last().0 + 1, "a write leaves a gap");
            self.entries.push(entry.clone());
        }
        if let Some(hard) = persist.hard_state {
            assert!(hard.term >= self.hard.term, "terms on disk fall");
            self.hard = hard;
        }
    }
    fn last(&self) -> LogIndex {
        self.entries.last().map_or(self.compacted.index, Entry::index)
    }
    fn compact(&mut self, through: LogId, membership: (LogId, Arc<Membership>)) {
        self.entries.retain(|entry| entry.index() > through.index);
        self.compacted = through;
        self.membership = membership;
    }
    fn restored(&self, applied: LogIndex) -> Restored {
        let mut term_runs: Vec<LogId> = Vec::new();
        let mut memberships = vec![self.membership.clone()];
        for entry in &self.entries {
            if term_runs.last().is_none_or(|run| run.term < entry.term()) {
                term_runs.push(entry.id);
            }
            if let quorate_core::EntryPayload::Membership(membership) = &entry.payload {
                memberships.push((entry.id, Arc::clone(membership)));
            }
        }
        let last = self.last();
        let hard_state = self.hard;
        let compacted = self.compacted;
        Restored { hard_state, compacted, term_runs, last, memberships, applied, ..Restored::default() }
    }
}

struct Node {
    core: RawNode,
    disk: Disk,
    writing: Vec<Persist>,
    applied: LogIndex,
    witness: bool,
}

struct Cluster {
    rng: Rng,
    now: u64,
    nodes: BTreeMap<ReplicaId, Node>,
    wire: Vec<Message>,
    committed: BTreeMap<LogIndex, Entry>,
    leaders: BTreeMap<Term, ReplicaId>,
    commits_seen: u64,
    snapshots: u64,
    reads: BTreeMap<u64, LogIndex>,
    reads_done: u64,
    next_read: u64,
    leased: u64,
    rested: u64,
    /// Nothing reaches it or leaves it.
    isolated: Option<ReplicaId>,
    loss: u64,
    /// The newest members that anybody has applied.
    members: Arc<Membership>,
    members_at: LogIndex,
    /// The entry that gave a new replica its id, committed or not.
    given: BTreeMap<ReplicaId, LogId>,
    /// Memberships applied, and those of them that were joint.
    changes: u64,
    joint: u64,
    witnessed: u64,
    seed: u64,
    /// Whether its members change.
    changing: bool,
}

const fn adds(change: &MembershipChange) -> bool {
    match change {
        MembershipChange::AddLearner { .. }
        | MembershipChange::AddVoter { .. }
        | MembershipChange::AddWitness { .. }
        | MembershipChange::Join { .. } => true,
        MembershipChange::Promote(_)
        | MembershipChange::PromoteOnceCaughtUp(_)
        | MembershipChange::Demote(_)
        | MembershipChange::Remove(_)
        | MembershipChange::SetAddresses { .. } => false,
    }
}

fn config(id: ReplicaId, seed: u64, witness: bool) -> Config {
    let mut config = if witness { Config::witness(id) } else { Config::new(id) };
    config.seed = seed ^ (id.0 << 32);
    config.window_bytes_max = 200;
    config.append_bytes_max = 64;
    config.inflight_messages_max = 4;
    // Clocks differ by at most 4 % both ways: by less than 100 ms in the second of an election timeout.
    config.leader_lease = seed.is_multiple_of(2);
    config.apply_unpersisted = seed % 5 == 1;
    config.lazy_commit_news = seed % 5 == 2;
    if seed % 5 == 3 && id.0 > 1 {
        config.election_delay = config.election_timeout;
    }
    config.quiesce_after = (seed % 4 < 2).then_some(Duration::from_millis(200));
    config
}

impl Cluster {
    fn new(seed: u64, voters: u64) -> Self {
        let member = |n| Member {
            node: NodeId(n),
            role: MemberRole::Voter,
            peer_address: String::new(),
            client_address: String::new(),
        };
        let membership = Arc::new(Membership::initial((1..=voters).map(member).collect()).unwrap());
        let disk = Disk {
            hard: HardState { term: Term(1), vote: None, commit: LogIndex(1) },
            compacted: LogId::new(1, 1),
            entries: Vec::new(),
            membership: (LogId::new(1, 1), Arc::clone(&membership)),
        };
        let nodes = (1..=voters).map(ReplicaId).map(|id| {
            let core =
                RawNode::new(config(id, seed, false), disk.restored(LogIndex(1)), MonoTime(0)).unwrap();
            let (disk, writing, applied) = (disk.clone(), Vec::new(), LogIndex(1));
            (id, Node { core, disk, writing, applied, witness: false })
        });
        Self {
            rng: Rng(seed),
            now: 0,
            nodes: nodes.collect(),
            wire: Vec::new(),
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            commits_seen: 0,
            snapshots: 0,
            reads: BTreeMap::new(),
            reads_done: 0,
            next_read: 0,
            leased: 0,
            rested: 0,
            isolated: None,
            loss: if seed >= 80 { 2 } else { 10 },
            members: membership,
            members_at: LogIndex(1),
            given: BTreeMap::new(),
            changes: 0,
            joint: 0,
            witnessed: 0,
            seed,
            changing: seed >= 80,
        }
    }

    /// What the clock of `id` shows: each has a speed of its own.
    fn time(&self, id: ReplicaId) -> MonoTime {
        MonoTime(self.now * 10_000 * (96 + id.0 * 3 % 9))
    }

    fn any(&mut self) -> ReplicaId {
        let at = usize::try_from(self.rng.below(self.nodes.len() as u64)).unwrap();
        *self.nodes.keys().nth(at).unwrap()
    }

    fn step(&mut self) {
        let id = self.any();
        let now = self.time(id);
        // Now and then nobody asks for anything.
        let calm = self.now % 4_000 > 2_500;
        match self.rng.below(100) {
            0..20 => {
                self.now += self.rng.below(60);
                let now = self.time(id);
                self.nodes.get_mut(&id).unwrap().core.tick(now);
            }
            57..60 if self.changing => self.change(),
            20..60 => self.deliver(),
            60..72 | 90..96 if calm => self.persist(id),
            60..72 => {
                let command = Bytes::from(vec![7; usize::try_from(self.rng.below(60)).unwrap()]);
                drop(self.nodes.get_mut(&id).unwrap().core.propose(now, command));
            }
            72..90 => self.persist(id),
            90..94 => self.read(id),
            94..96 => self.compact(id),
            96..97 => drop(self.nodes.get_mut(&id).unwrap().core.transfer_leadership(now, None)),
            97..98 if !self.changing || self.rng.below(3) == 0 => self.crash(id),
            99 if self.rng.below(4) == 0 => drop(self.nodes.get_mut(&id).unwrap().core.request_snapshot(now)),
            98..99 if calm => self.nodes.get_mut(&id).unwrap().core.wake(now),
            98..99 if !self.changing || self.rng.below(3) == 0 => self.isolate(),
            _ => self.nodes.get_mut(&id).unwrap().core.report_unreachable(ReplicaId(1)),
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.drain(id);
        }
        self.check();
    }

    fn deliver(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let at = usize::try_from(self.rng.below(self.wire.len() as u64)).unwrap();
        let duplicate = self.rng.below(10) == 0;
        let message: Message = if duplicate { self.wire[at].clone() } else { self.wire.swap_remove(at) };
        let cut_off = self.isolated.is_some_and(|id| [message.from, message.to].contains(&id));
        if cut_off || self.rng.below(100) < self.loss {
            return;
        }
        let now = self.time(message.to);
        if let Some(node) = self.nodes.get_mut(&message.to) {
            node.core.step(now, message.from, message).ok();
        }
    }

    /// Whoever leads changes the members: one or several, in one step or through a joint state.
    fn change(&mut self) {
        let ids: Vec<ReplicaId> = self.nodes.keys().copied().collect();
        for id in ids {
            let now = self.time(id);
            if self.nodes[&id].core.status().role != RoleName::Leader {
                continue;
            }
            let changes: Vec<_> = (0..=self.rng.below(2)).map(|_| self.any_change()).collect();
            let adds: Vec<bool> = changes.iter().map(adds).collect();
            let transition = match self.rng.below(4) {
                0 => MembershipTransition::JointExplicit,
                1 => MembershipTransition::JointImplicit,
                _ => MembershipTransition::Automatic,
            };
            let core = &mut self.nodes.get_mut(&id).unwrap().core;
            if core.leave_joint(now, None).is_err()
                && let Ok((at, concerned)) = core.propose_changes(now, changes, transition, None)
            {
                let members = Arc::clone(core.status().membership);
                for (new, _) in concerned.into_iter().zip(adds).filter(|(_, adds)| *adds) {
                    let other = self.given.insert(new, at);
                    assert_eq!(other, None, "{new:?} is given at {at} again");
                }
                self.start_new(&members);
            }
        }
    }

    fn any_change(&mut self) -> MembershipChange {
        let node = NodeId(10 + self.rng.below(20));
        let (peer_address, client_address) = (String::new(), String::new());
        let members: Vec<ReplicaId> = self.members.members().map(|(id, _)| id).collect();
        let id = members[usize::try_from(self.rng.below(members.len() as u64)).unwrap()];
        match self.rng.below(if members.len() < 5 { 7 } else { 3 }) {
            0 if !self.members.is_voter(id) => MembershipChange::PromoteOnceCaughtUp(id),
            0 if !self.members.is_witness(id) => MembershipChange::Demote(id),
            0..3 => MembershipChange::Remove(id),
            3 => MembershipChange::AddLearner { node, peer_address, client_address },
            4 => MembershipChange::AddVoter { node, peer_address, client_address },
            5 => MembershipChange::AddWitness { node, peer_address, client_address },
            _ => MembershipChange::Join { node, peer_address, client_address },
        }
    }

    /// A change was appended: replicas that are new start, with nothing.
    fn start_new(&mut self, members: &Membership) {
        for (id, member) in members.members() {
            if self.nodes.contains_key(&id) {
                continue;
            }
            let witness = member.role == MemberRole::Witness;
            let disk = Disk {
                hard: HardState::default(),
                compacted: LogId::default(),
                entries: Vec::new(),
                membership: (LogId::default(), Arc::default()),
            };
            let restored = disk.restored(LogIndex(0));
            let core = RawNode::new(config(id, self.seed, witness), restored, self.time(id)).unwrap();
            let node = Node { core, disk, writing: Vec::new(), applied: LogIndex(0), witness };
            self.nodes.insert(id, node);
        }
    }

    /// Somebody applied a membership.
    fn applied_members(&mut self, at: LogIndex, members: &Arc<Membership>) {
        if at > self.members_at {
            (self.members_at, self.members) = (at, Arc::clone(members));
            self.changes += 1;
            self.joint += u64::from(members.joint().is_some());
        }
    }

    /// Cuts a leader off for some election timeouts, or lets it back.
    fn isolate(&mut self) {
        if self.isolated.is_none() {
            let leads = |(_, node): &(&ReplicaId, &Node)| node.core.status().role == RoleName::Leader;
            self.isolated = self.nodes.iter().find(leads).map(|(id, _)| *id);
        } else if self.rng.below(3) == 0 {
            self.isolated = None;
        }
    }

    fn persist(&mut self, id: ReplicaId) {
        let now = self.time(id);
        let node = self.nodes.get_mut(&id).unwrap();
        if node.writing.is_empty() {
            return;
        }
        let persist = node.writing.remove(0);
        node.disk.write(&persist);
        node.core.on_persisted(now, persist.token);
    }

    fn read(&mut self, id: ReplicaId) {
        let now = self.time(id);
        self.next_read += 1;
        let newest = self.committed.keys().next_back().copied().unwrap_or_default();
        // Only what some replica has applied (and could have answered) must be seen.
        let leased = self.rng.below(2) == 0;
        let (core, ticket) = (&mut self.nodes.get_mut(&id).unwrap().core, ReadTicket(self.next_read));
        core.tick(now);
        let status = core.status();
        self.leased += u64::from(leased && status.lease_until().is_some());
        let asked = if leased { core.read_lease(now, ticket) } else { core.read(now, ticket) };
        if asked.is_ok() {
            self.reads.insert(self.next_read, newest);
        }
    }

    fn compact(&mut self, id: ReplicaId) {
        let node = self.nodes.get_mut(&id).unwrap();
        let through = LogIndex(node.applied.0.min(node.disk.last().0));
        if through <= node.disk.compacted.index {
            return;
        }
        let Some(meta) = node.core.snapshot_meta(through) else {
            // A snapshot from the leader is being written that covers it.
            assert!(node.core.status().compacted.index > through);
            return;
        };
        node.disk.compact(meta.last, (meta.membership_id, Arc::clone(&meta.membership)));
        node.core.on_compacted(meta.last);
    }

    /// Power off: what was not written is gone.
    fn crash(&mut self, id: ReplicaId) {
        let now = self.time(id);
        let seed = self.rng.below(u64::MAX >> 32);
        let node = self.nodes.get_mut(&id).unwrap();
        node.writing.clear();
        node.applied = node.disk.compacted.index;
        node.core =
            RawNode::new(config(id, seed, node.witness), node.disk.restored(node.applied), now).unwrap();
    }

    fn drain(&mut self, id: ReplicaId) {
        let now = self.time(id);
        while self.nodes[&id].core.has_ready() {
            let node = self.nodes.get_mut(&id).unwrap();
            let ready = node.core.ready();
            node.writing.extend(ready.persist);
            self.wire.extend(ready.send);
            if let Some(meta) = ready.restore {
                self.snapshots += 1;
                node.applied = meta.last.index;
                node.core.on_applied(now, node.applied);
            }
            assert!(!node.witness || ready.apply.is_empty(), "a witness has nothing to apply");
            let mut members = Vec::new();
            for entry in ready.apply {
                assert_eq!(entry.index().0, node.applied.0 + 1, "apply leaves a gap");
                node.applied = entry.index();
                self.commits_seen += 1;
                let agreed = self.committed.entry(entry.index()).or_insert_with(|| entry.clone());
                assert_eq!(*agreed, entry, "two replicas applied different entries");
                if let EntryPayload::Membership(membership) = &entry.payload {
                    members.push((entry.index(), Arc::clone(membership)));
                }
            }
            if node.witness {
                node.applied = node.core.status().applied;
                self.witnessed = self.witnessed.max(node.applied.0);
            }
            node.core.on_applied(now, node.applied);
            let rests =
                |event: &&RaftEvent| matches!(event, RaftEvent::QuiescenceChanged { quiescent: true });
            self.rested += ready.events.iter().filter(rests).count() as u64;
            for read in ready.reads {
                let (ReadOutcome::At { ticket, .. } | ReadOutcome::Failed { ticket, .. }) = read;
                let newest = self.reads.remove(&ticket.0).expect("each read is decided once");
                if let ReadOutcome::At { index, .. } = read {
                    assert!(index >= newest, "a stale read: {index:?} < {newest:?}");
                    self.reads_done += 1;
                }
            }
            for fetch in ready.fetch {
                self.fetch(id, fetch);
            }
            for (at, members) in members {
                self.applied_members(at, &members);
            }
        }
    }

    fn fetch(&mut self, id: ReplicaId, fetch: Fetch) {
        let now = self.time(id);
        let node = self.nodes.get_mut(&id).unwrap();
        match fetch {
            Fetch::Entries { from, to, .. } => {
                let wanted = |entry: &&Entry| entry.index() >= from && entry.index() < to;
                let entries: Vec<Entry> = node.disk.entries.iter().filter(wanted).take(3).cloned().collect();
                let contiguous = entries.first().is_some_and(|entry| entry.index() == from);
                node.core.on_fetched(now, from, if contiguous { entries } else { Vec::new() });
            }
            Fetch::SendSnapshot { to, at_least } => {
                let meta = node.core.snapshot_meta(node.applied.min(node.disk.last())).unwrap();
                // A follower that asked for one may have applied more than this leader has.
                let fails = meta.last.index < at_least || self.rng.below(4) == 0;
                let outcome = if fails { SnapshotOutcome::Failed } else { SnapshotOutcome::Sent };
                let status = node.core.status();
                let message = install(id, to, status.term, meta);
                if outcome == SnapshotOutcome::Sent {
                    self.wire.push(message);
                }
                node.core.report_snapshot(now, to, outcome);
            }
        }
    }

    fn check(&mut self) {
        for (id, node) in &self.nodes {
            let status = node.core.status();
            assert!(status.applied <= status.commit && status.commit <= status.last.index);
            let payload = |entry: &Entry| matches!(entry.payload, EntryPayload::Withheld);
            let kept = |entry: &Entry| matches!(entry.payload, EntryPayload::Command(_));
            let wrong = if node.witness {
                node.disk.entries.iter().any(kept)
            } else {
                node.disk.entries.iter().any(payload)
            };
            assert!(!wrong, "{id:?} keeps what it must not, or lacks what it must keep");
            if status.role == RoleName::Leader {
                assert!(!node.witness, "a witness leads");
                let leader = self.leaders.entry(status.term).or_insert(*id);
                assert_eq!(leader, id, "two leaders in {:?}", status.term);
                // Leader completeness: what was ever committed is in this log, with the same term.
                for (index, entry) in self.committed.range(status.compacted.index.next()..) {
                    if entry.term() < status.term {
                        assert_eq!(node.core.term_at(*index), Some(entry.term()), "{id:?} lacks {index:?}");
                    }
                }
            }
        }
    }

    fn describe(&self) -> Vec<String> {
        let line = |node: &Node| {
            let progress: Vec<_> = node.core.progress().collect();
            format!("{:?} applied {:?} {progress:?}", node.core.status(), node.applied)
        };
        self.nodes.values().map(line).collect()
    }

    /// Faults stop: a leader emerges, and everybody applies everything.
    fn heal(&mut self) {
        (self.loss, self.isolated) = (0, None);
        // Who waits for a snapshot does not campaign; where all do, only a restart ends that.
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            if !self.nodes[&id].core.status().may_campaign() {
                self.crash(id);
            }
        }
        let goal = self.commits_seen + 1;
        for round in 0.. {
            assert!(round < 3_000, "no progress after the faults stopped: {:#?}", self.describe());
            self.now += 20;
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                let now = self.time(id);
                self.nodes.get_mut(&id).unwrap().core.tick(now);
                drop(self.nodes.get_mut(&id).unwrap().core.propose(now, Bytes::from_static(b"healed")));
                self.drain(id);
                while !self.nodes[&id].writing.is_empty() {
                    self.persist(id);
                    self.drain(id);
                }
            }
            for message in std::mem::take(&mut self.wire) {
                let (to, from) = (message.to, message.from);
                let now = self.time(to);
                if let Some(node) = self.nodes.get_mut(&to) {
                    node.core.step(now, from, message).ok();
                    self.drain(to);
                }
            }
            let members = self.nodes.iter().filter(|(id, _)| self.members.get(**id).is_some());
            let applied: Vec<LogIndex> = members.map(|(_, node)| node.applied).collect();
            let spread = applied.iter().max().unwrap().0 - applied.iter().min().unwrap().0;
            if self.commits_seen > goal && spread <= 3 {
                return;
            }
        }
    }
}

fn install(from: ReplicaId, to: ReplicaId, term: Term, meta: SnapshotMeta) -> Message {
    Message { from, to, term, epoch: 0, body: quorate_core::MessageBody::InstallSnapshot(meta) }
}

#[test]
fn random_clusters_keep_every_promise() {
    let (mut commits, mut snapshots, mut reads, mut leased, mut rested, mut terms) = (0, 0, 0, 0, 0, 0);
    let (mut changes, mut joint, mut witnessed) = (0, 0, 0);
    for seed in 0..130 {
        let mut cluster = Cluster::new(seed, 1 + seed % 5);
        for _ in 0..3_000 {
            cluster.step();
        }
        cluster.heal();
        commits += cluster.commits_seen;
        snapshots += cluster.snapshots;
        reads += cluster.reads_done;
        leased += cluster.leased;
        rested += cluster.rested;
        terms += cluster.leaders.len();
        changes += cluster.changes;
        joint += cluster.joint;
        witnessed += cluster.witnessed;
    }
    // The run is worth nothing if these never happen.
    assert!(
        commits > 4_000 && snapshots > 20 && reads > 300 && leased > 60 && rested > 20 && terms > 150,
        "{commits} {snapshots} {reads} {leased} {rested} {terms}"
    );
    assert!(changes > 70 && joint > 30 && witnessed > 300, "{changes} {joint} {witnessed}");
}
