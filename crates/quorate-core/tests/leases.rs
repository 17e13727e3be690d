//! Leases under fear: clocks of different speed, leaders cut off, answers that take seconds, voters that restart,
//! leaderships handed over, replicas told to campaign. At every moment, whoever holds a lease has committed
//! whatever anybody has: nobody could read something newer elsewhere.
#![expect(clippy::unwrap_used, reason = "a test")]
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    Config, Entry, HardState, LogId, LogIndex, Member, MemberRole, Membership, Message, MonoTime, NodeId,
    RawNode, ReplicaId, Restored, RoleName,
};

struct Rng(u64);
impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

struct Node {
    core: RawNode,
    hard_state: HardState,
    entries: Vec<Entry>,
}

struct World {
    rng: Rng,
    millis: u64,
    nodes: BTreeMap<ReplicaId, Node>,
    membership: Arc<Membership>,
    /// Messages by when they arrive.
    wire: BTreeMap<(u64, u64), Message>,
    sent: u64,
    isolated: Option<ReplicaId>,
    leased: u64,
    rested: u64,
    elections: u64,
}

/// One replica's clock: at most 4 % fast or slow.
fn clock(id: ReplicaId, millis: u64) -> MonoTime {
    MonoTime(millis * 10_000 * (96 + id.0 * 3 % 9))
}

fn start(id: ReplicaId, node: Option<&Node>, membership: &Arc<Membership>, seed: u64, now: u64) -> RawNode {
    let mut config = Config::new(id);
    (config.leader_lease, config.seed) = (true, seed);
    // Some groups rest at every opportunity.
    config.quiesce_after = (membership.members().count() == 5).then_some(Duration::from_millis(30));
    let (hard_state, entries) =
        node.map_or_else(Default::default, |node| (node.hard_state, &node.entries[..]));
    let mut term_runs: Vec<LogId> = Vec::new();
    for entry in entries {
        if term_runs.last().is_none_or(|run| run.term < entry.term()) {
            term_runs.push(entry.id);
        }
    }
    let last = entries.last().map_or(LogIndex(0), Entry::index);
    let memberships = vec![(LogId::default(), Arc::clone(membership))];
    let restored = Restored { hard_state, term_runs, last, memberships, ..Restored::default() };
    RawNode::new(config, restored, clock(id, now)).unwrap()
}

impl World {
    fn new(seed: u64, voters: u64) -> Self {
        let member = |n| Member {
            node: NodeId(n),
            role: MemberRole::Voter,
            peer_address: String::new(),
            client_address: String::new(),
        };
        let membership = Arc::new(Membership::initial((1..=voters).map(member).collect()).unwrap());
        let nodes = (1..=voters).map(ReplicaId).map(|id| {
            let core = start(id, None, &membership, seed ^ (id.0 << 32), 0);
            (id, Node { core, hard_state: HardState::default(), entries: Vec::new() })
        });
        Self {
            rng: Rng(seed),
            millis: 0,
            nodes: nodes.collect(),
            membership: Arc::clone(&membership),
            wire: BTreeMap::new(),
            sent: 0,
            isolated: None,
            leased: 0,
            rested: 0,
            elections: 0,
        }
    }

    fn disturb(&mut self) {
        let id = ReplicaId(1 + self.rng.below(self.nodes.len() as u64));
        let now = clock(id, self.millis);
        if self.rng.one_in(100) {
            // One after the other: who was away comes back when the leader is cut off.
            let leads = |(_, node): &(&ReplicaId, &Node)| node.core.status().role == RoleName::Leader;
            self.isolated = match self.rng.below(4) {
                0 => None,
                1 => Some(id),
                _ => self.nodes.iter().find(leads).map(|(id, _)| *id),
            };
        }
        if self.rng.one_in(60) {
            let seed = self.rng.below(u64::MAX >> 32);
            let core = start(id, self.nodes.get(&id), &self.membership, seed, self.millis);
            self.nodes.get_mut(&id).unwrap().core = core;
        }
        let node = self.nodes.get_mut(&id).unwrap();
        match self.rng.below(600) {
            0..40 => node.core.campaign(now),
            40..50 => node.core.forget_leader(now),
            50..150 => drop(node.core.propose(now, Bytes::from_static(b"x"))),
            150..170 => drop(node.core.transfer_leadership(now, None)),
            170..300 => drop(node.core.abort_transfer(now)),
            300..302 => node.core.wake(now),
            _ => {}
        }
    }

    fn step(&mut self) {
        self.millis += 5;
        for (id, node) in &mut self.nodes {
            node.core.tick(clock(*id, self.millis));
        }
        self.disturb();
        while let Some(first) = self.wire.first_entry().filter(|first| first.key().0 <= self.millis) {
            let message = first.remove();
            let lost = self.isolated.is_some_and(|id| [message.from, message.to].contains(&id));
            if !lost {
                let (from, to) = (message.from, message.to);
                self.nodes.get_mut(&to).unwrap().core.step(clock(to, self.millis), from, message).ok();
            }
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.drain(id);
        }
        self.check();
    }

    /// Disks are fast; messages take some milliseconds, and now and then seconds.
    fn drain(&mut self, id: ReplicaId) {
        let now = clock(id, self.millis);
        let node = self.nodes.get_mut(&id).unwrap();
        while node.core.has_ready() {
            let ready = node.core.ready();
            for message in ready.send {
                let delay = if self.rng.one_in(8) { self.rng.below(3_000) } else { self.rng.below(20) };
                self.sent += 1;
                self.wire.insert((self.millis + delay, self.sent), message);
            }
            if let Some(persist) = ready.persist {
                if let Some(from) = persist.truncate_from {
                    node.entries.retain(|entry| entry.index() < from);
                }
                node.entries.extend(persist.entries.iter().cloned());
                node.hard_state = persist.hard_state.unwrap_or(node.hard_state);
                node.core.on_persisted(now, persist.token);
            }
            if let Some(last) = ready.apply.last() {
                node.core.on_applied(now, last.index());
            }
        }
    }

    fn check(&mut self) {
        let newest = self.nodes.values().map(|node| node.core.status().commit).max().unwrap();
        for (id, node) in &self.nodes {
            let status = node.core.status();
            self.rested += u64::from(status.quiescent);
            if status.lease_until().is_some() {
                assert!(!status.quiescent, "{id:?} rests with a lease");
                self.leased += 1;
                assert_eq!(status.commit, newest, "{id:?} holds a lease at {} ms: {status:?}", self.millis);
            }
            self.elections = self.elections.max(status.term.0);
        }
    }
}

#[test]
fn whoever_holds_a_lease_has_committed_whatever_anybody_has() {
    let (mut leased, mut rested, mut elections) = (0, 0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed, 3 + seed % 2 * 2);
        for _ in 0..3_000 {
            world.step();
        }
        leased += world.leased;
        rested += world.rested;
        elections += world.elections;
    }
    // The run is worth nothing if these never happen.
    assert!(
        leased > 10_000 && rested > 1_000 && elections > 200,
        "{leased} moments with a lease, {rested} at rest, {elections} terms"
    );
}
