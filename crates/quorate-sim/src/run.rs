//! From a seed to a report.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use quorate_core::{GroupId, Member, MemberRole, Membership, NodeId, ReplicaId};

use crate::agenda::Agenda;
use crate::client::{Client, ClientSetup};
use crate::coverage::Coverage;
use crate::disk::SimDisk;
use crate::invariants::{Checked, Invariants, Violation};
use crate::linearizability::History;
use crate::network::Network;
use crate::node::Node;
use crate::operator::address;
use crate::report::{Report, Summary};
use crate::rng::Rng;
use crate::seams::{Assignment, Seams};
use crate::swarm::Swarm;
use crate::trace::Trace;
use crate::watched_machine::SharedWitness;
use crate::world::{MILLISECOND, Step, World};

/// How a seed is run. Everything but the seams and the two numbers is drawn from the seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long faults go on, in virtual milliseconds. Default 8,000.
    pub fault_millis: u64,
    /// How many things all clients together want to do. Default 150.
    pub wishes: u64,
    /// Whether to keep the whole trace (otherwise its end).
    pub keep_trace: bool,
    /// What stands between the product and the world.
    pub seams: Seams,
}

impl Default for Options {
    fn default() -> Self {
        Self { fault_millis: 8_000, wishes: 150, keep_trace: false, seams: Seams::default() }
    }
}

/// Runs one seed.
#[must_use]
pub fn run_seed(seed: u64, options: &Options) -> Report {
    let mut world = build(seed, options);
    let violation = live(&mut world, options).err();
    for node in world.nodes.values() {
        let counters = node.disk.counters();
        world.coverage.add("syncs", counters.syncs);
        world.coverage.add("syncs failed on purpose", counters.failed_syncs);
        world.coverage.add("allocations refused on purpose", counters.refused_allocations);
        world.coverage.add("writes failed on purpose", counters.failed_writes);
        world.coverage.add("writes cut short", counters.short_writes);
        world.coverage.add("reads failed on purpose", counters.failed_reads);
        world.coverage.add("changes refused by a read-only disk", counters.refused_changes);
    }
    let commands = world.witnesses.values().map(SharedWitness::commands).sum::<usize>();
    world.coverage.add("commands applied", commands as u64);
    world.coverage.add("steps", world.steps);
    Report {
        seed,
        violation,
        coverage: world.coverage,
        fingerprint: world.trace.fingerprint(),
        lines: world.trace.lines(),
        virtual_millis: world.agenda.now() / MILLISECOND,
        trace: world.trace.into_kept(),
    }
}

/// Runs many seeds, one after the other, and says after each how it went.
pub fn run_seeds(seeds: Range<u64>, options: &Options, mut after_each: impl FnMut(&Report)) -> Summary {
    let mut summary = Summary::default();
    for seed in seeds {
        let report = run_seed(seed, options);
        after_each(&report);
        summary.add(report);
    }
    summary
}

fn live(world: &mut World, options: &Options) -> Checked {
    let end = options.fault_millis * MILLISECOND;
    while world.agenda.now() < end {
        if world.step()?.is_none() {
            return Err(Violation::new("liveness", "nothing happens any more"));
        }
    }
    world.come_to_rest()?;
    world.judge()
}

fn build(seed: u64, options: &Options) -> World {
    let root = Rng::new(seed);
    let swarm = Swarm::draw(&mut root.fork("swarm"));
    let mut world = World {
        agenda: Agenda::new(root.fork("agenda")),
        network: Network::new(swarm.network, root.fork("network")),
        nodes: BTreeMap::new(),
        clients: Vec::new(),
        history: History::new(),
        invariants: Invariants::default(),
        witnesses: BTreeMap::new(),
        coverage: Coverage::default(),
        trace: Trace::new(options.keep_trace),
        rng: root.fork("world"),
        calm: false,
        rested: false,
        next_ticket: 0,
        steps: 0,
        seams: options.seams.clone(),
        swarm,
    };
    for number in 1..=world.swarm.voters + world.swarm.spares {
        let disk = SimDisk::new(world.swarm.disk, root.fork(&format!("disk {number}")));
        world.nodes.insert(NodeId(number), Node::new(NodeId(number), disk));
        world.agenda.plan_within(0, 50 * MILLISECOND, Step::Boot(NodeId(number)));
    }
    found_groups(&mut world);
    add_clients(&mut world, &root, options.wishes);
    world.agenda.plan_within(500 * MILLISECOND, 2_000 * MILLISECOND, Step::OperatorMoves);
    world.agenda.plan_within(300 * MILLISECOND, 1_500 * MILLISECOND, Step::FaultInjectorMoves);
    world
}

/// Gives the first nodes a replica of every group.
fn found_groups(world: &mut World) {
    let voters = (1..=world.swarm.voters).map(|number| Member {
        node: NodeId(number),
        role: MemberRole::Voter,
        peer_address: address(NodeId(number)),
        client_address: String::new(),
    });
    let Ok(membership) = Membership::initial(voters.collect()) else { return };
    let membership = Arc::new(membership);
    for group in (1..=world.swarm.groups).map(GroupId) {
        world.witnesses.insert(group, SharedWitness::default());
        for (replica, member) in membership.members() {
            let assignment =
                Assignment { replica, initial: Some(Arc::clone(&membership)), seeds: Vec::new() };
            if let Some(node) = world.nodes.get_mut(&member.node) {
                node.assignments.insert(group, assignment);
            }
        }
        debug_assert!(membership.get(ReplicaId(1)).is_some(), "the first member has the first id");
    }
}

fn add_clients(world: &mut World, root: &Rng, wishes: u64) {
    for number in 0..world.swarm.clients {
        let id = number + 1;
        let setup = ClientSetup {
            id,
            group: GroupId(1 + number % world.swarm.groups),
            nodes: world.nodes.keys().copied().collect(),
            keys: world.swarm.keys,
            value_bytes_max: world.swarm.value_bytes_max,
            wishes: wishes / world.swarm.clients,
        };
        let client = Client::new(setup, root.fork(&format!("client {id}")));
        world.clients.push(client);
        let position = world.clients.len() - 1;
        world.agenda.plan_within(MILLISECOND, 600 * MILLISECOND, Step::ClientMoves(position));
    }
}
