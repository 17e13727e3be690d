//! From a seed to a report.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
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
use crate::workload::Workload;
use crate::world::{MILLISECOND, Step, World};

/// How a seed is run. Everything else is drawn from the seed.
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
    /// A user's own state machine in the place of the key-value store.
    pub workload: Option<Workload>,
    /// Which of the fault injector's moves happen, by number. Default: all.
    pub only_faults: Option<BTreeSet<u64>>,
    /// What is left out.
    pub without: Without,
}

/// Sources of trouble that a run may be spared, to find out what a failure needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// Messages are neither lost nor doubled nor late.
    pub network_noise: bool,
    /// Disks neither fail nor run full, unless the fault injector says so.
    pub disk_noise: bool,
    /// Nobody changes members, moves leaders or asks for snapshots.
    pub operator: bool,
    /// What is on a disk does not change by itself, and reads return what stands where they read.
    pub damage: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fault_millis: 8_000,
            wishes: 150,
            keep_trace: false,
            seams: Seams::default(),
            workload: None,
            only_faults: None,
            without: Without::default(),
        }
    }
}

impl Options {
    /// Long runs: a minute of faults and a thousand wishes, where logs grow, wrap and are compacted many times.
    #[must_use]
    pub fn long() -> Self {
        Self { fault_millis: 60_000, wishes: 1_000, ..Self::default() }
    }
}

/// Runs one seed. A panic of the product is a violation like any other.
#[must_use]
pub fn run_seed(seed: u64, options: &Options) -> Report {
    let mut world = build(seed, options);
    let lived = catch_unwind(AssertUnwindSafe(|| live(&mut world, options)));
    let violation = match lived {
        Ok(lived) => lived.err(),
        Err(panic) => Some(Violation::new("nothing panics", panic_text(&*panic))),
    };
    for node in world.nodes.values() {
        let counters = node.disk.counters();
        world.coverage.add("syncs", counters.syncs);
        world.coverage.add("syncs failed on purpose", counters.failed_syncs);
        world.coverage.add("allocations refused on purpose", counters.refused_allocations);
        world.coverage.add("writes failed on purpose", counters.failed_writes);
        world.coverage.add("writes cut short", counters.short_writes);
        world.coverage.add("reads failed on purpose", counters.failed_reads);
        world.coverage.add("reads from the wrong place", counters.misreads);
        world.coverage.add("changes refused by a read-only disk", counters.refused_changes);
    }
    let commands = world.witnesses.values().map(SharedWitness::commands).sum::<usize>();
    world.coverage.add("commands applied", commands as u64);
    world.coverage.add("steps", world.steps);
    Report {
        seed,
        violation,
        coverage: world.coverage,
        faults: world.faults,
        replay: replay_arguments(seed, options),
        fingerprint: world.trace.fingerprint(),
        lines: world.trace.lines(),
        virtual_millis: world.agenda.now() / MILLISECOND,
        trace: world.trace.into_kept(),
    }
}

/// What to say to the simulator to get this run.
fn replay_arguments(seed: u64, options: &Options) -> String {
    let (usual, mut line) = (Options::default(), format!("--seed {seed}"));
    if options.fault_millis != usual.fault_millis {
        line += &format!(" --fault-millis {}", options.fault_millis);
    }
    if options.wishes != usual.wishes {
        line += &format!(" --wishes {}", options.wishes);
    }
    if let Some(faults) = &options.only_faults {
        let numbers: Vec<String> = faults.iter().map(u64::to_string).collect();
        line += &format!(
            " --only-faults {}",
            if faults.is_empty() { "none".to_owned() } else { numbers.join(",") }
        );
    }
    let Without { network_noise, disk_noise, operator, damage } = options.without;
    let spared =
        [(network_noise, "network"), (disk_noise, "disk"), (operator, "operator"), (damage, "damage")];
    for (without, what) in spared {
        if without {
            line += &format!(" --without {what}");
        }
    }
    line
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    text.unwrap_or("a panic without a text").to_owned()
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
    let mut swarm = Swarm::draw(&mut root.fork("swarm"));
    swarm.spare(options.without);
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
        fault_rng: root.fork("faults"),
        faults: Vec::new(),
        rots: !options.without.damage,
        damaged_node: None,
        swaps: Vec::new(),
        known_directories: BTreeMap::new(),
        moves: 0,
        only_faults: options.only_faults.clone(),
        calm: false,
        rested: false,
        next_ticket: 0,
        steps: 0,
        seams: options.seams.clone(),
        workload: options.workload.clone(),
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
            workload: world.workload.clone(),
            upgrades: world.swarm.upgrades,
        };
        let client = Client::new(setup, root.fork(&format!("client {id}")));
        world.clients.push(client);
        let position = world.clients.len() - 1;
        world.agenda.plan_within(MILLISECOND, 600 * MILLISECOND, Step::ClientMoves(position));
    }
}
