//! One node: the code that ships, on a virtual disk, with its step functions not looped by threads but waiting to
//! be called.
//!
//! ```text
//!                 ┌───────── inbox ◄──────────────┬──────────┬──────────┐
//!                 ▼                               │          │          │
//!   messages ──► Host ──► log ──► LogWriter ──────┘          │          │
//!                 │  └──► applies ──► Applier ───────────────┘          │
//!                 └─────► fetches, snapshots ──► LogFetcher, Snapshotter┘
//! ```
//!
//! * What is on the disk outlives the process; everything in [`Running`] dies with it.
//! * A node starts the way the product starts: data directory, log, snapshots, recovery of every group, host.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use quorate_core::{GroupId, MonoTime, NodeId, ReplicaId, Term};
use quorate_host::{
    Applier, ApplyTask, Event, FetchTask, Host, HostConfig, LogFetcher, LogWriter, Now, Snapshotter,
    StateMachine, Ticket, bootstrap_batch, join_batch, recover_group,
};
use quorate_kv::{KvStateMachine, MemEngine, MemEngineDisk};
use quorate_storage::{
    DataDir, Disk, FileSnapshotStore, GroupState, GroupWrite, Identity, LogBatch, LogReader, LogStore,
    SnapshotStore, Wal, WalConfig, write_now,
};

use crate::disk::SimDisk;
use crate::disk_image::{Crash, CrashDamage, Image};
use crate::invariants::{Durable, Invariants, Violation};
use crate::rng::Rng;
use crate::seams::{Assignment, Assignments, Seams, wrapped};
use crate::strange_disks::{Backup, Rot};
use crate::swarm::Swarm;
use crate::watched_machine::{SharedWitness, WatchedMachine};
use crate::workload::Workload;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Client { client: usize, attempt: u64 },
    Operator { group: GroupId },
}

/// What every build understands, and what only the newer one does.
pub(crate) const OLD_BUILD: u32 = 1;
pub(crate) const NEW_BUILD: u32 = 2;

/// A node's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// When the speed was last set, by the world's clock and by its own.
    anchor_world: u64,
    anchor_own: u64,
    /// Parts per million that it runs fast or slow.
    drift_ppm: i64,
    unix_millis_at_start: u64,
}

impl Clock {
    /// Clocks that are set anew, as a starting machine does.
    pub(crate) const fn starting(world_nanos: u64, own_nanos: u64, drift_ppm: i64, unix_millis: u64) -> Self {
        Self {
            anchor_world: world_nanos,
            anchor_own: own_nanos,
            drift_ppm,
            unix_millis_at_start: unix_millis - own_nanos / 1_000_000,
        }
    }

    fn mono(&self, world_nanos: u64) -> u64 {
        let passed = i128::from(world_nanos.saturating_sub(self.anchor_world));
        let drifted = passed + passed * i128::from(self.drift_ppm) / 1_000_000;
        self.anchor_own + u64::try_from(drifted).unwrap_or(0)
    }

    /// What the node's clocks say at this moment of the world.
    pub(crate) fn read(&self, world_nanos: u64) -> Now {
        let mono = self.mono(world_nanos);
        Now { mono: MonoTime(mono), unix_millis: self.unix_millis_at_start + mono / 1_000_000 }
    }

    /// The monotonic clock goes at another speed from now on.
    pub(crate) fn set_drift(&mut self, world_nanos: u64, drift_ppm: i64) {
        (self.anchor_own, self.anchor_world) = (self.mono(world_nanos), world_nanos);
        self.drift_ppm = drift_ppm;
    }

    /// The monotonic clock jumps ahead, as after a suspension of the machine.
    pub(crate) const fn jump(&mut self, nanos: u64) {
        self.anchor_own += nanos;
    }

    /// Somebody sets the wall clock.
    pub(crate) const fn set_wall(&mut self, by_millis: i64) {
        self.unix_millis_at_start = self.unix_millis_at_start.saturating_add_signed(by_millis);
    }

    /// The first moment of the world at which the node's clock says at least `deadline`.
    pub(crate) fn world_time(&self, deadline: MonoTime) -> u64 {
        let drifted = i128::from(deadline.0.saturating_sub(self.anchor_own));
        let world = drifted * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        self.anchor_world.saturating_add(u64::try_from(world + 1).unwrap_or(u64::MAX))
    }
}

/// A process.
pub(crate) struct Running {
    pub(crate) host: Host,
    pub(crate) log_writer: LogWriter,
    pub(crate) log_reader: Arc<dyn LogReader>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) applier: Applier,
    pub(crate) fetcher: LogFetcher,
    pub(crate) snapshotter: Snapshotter,
    pub(crate) replicas: BTreeMap<GroupId, ReplicaId>,
    pub(crate) inbox: VecDeque<Event>,
    pub(crate) turn_planned: bool,
    pub(crate) tick_planned_at: Option<u64>,
    pub(crate) log_waiting: usize,
    pub(crate) log_busy: bool,
    pub(crate) applies: VecDeque<ApplyTask>,
    pub(crate) apply_busy: bool,
    pub(crate) fetches: VecDeque<FetchTask>,
    pub(crate) fetch_busy: bool,
    pub(crate) snapshot_busy: bool,
    pub(crate) askers: BTreeMap<Ticket, Asker>,
    /// Linearizable reads asked of a leader: when, and in which term it led.
    pub(crate) reads: BTreeMap<Ticket, (u64, Term)>,
    /// A group of its log lacked entries when it started.
    pub(crate) gave_up_entries: bool,
    _data_dir: DataDir,
}

/// Why a node did not start.
#[derive(Debug)]
pub(crate) enum BootError {
    /// The disk failed on purpose: try again.
    Injected,
    /// It should have.
    Violation(Violation),
}

/// One node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) disk: SimDisk,
    engines: BTreeMap<GroupId, MemEngineDisk>,
    pub(crate) assignments: Assignments,
    /// Counts starts; steps of an earlier life are void.
    pub(crate) life: u64,
    pub(crate) running: Option<Running>,
    pub(crate) paused_until: u64,
    pub(crate) clock: Clock,
    /// Which build of the program it starts: the newest version of commands that its machines understand.
    pub(crate) build: u32,
    /// Of its data directory; 0 before the first start.
    pub(crate) incarnation: u64,
    /// When its start has ended, or will have: before that nobody reaches it.
    pub(crate) up_at: u64,
    /// A bit that has changed since the node stopped.
    pub(crate) rot: Option<Rot>,
    /// A copy of its disk that is to come back.
    pub(crate) backup: Option<Backup>,
    /// What was there before an old copy was put in its place, until a start succeeds.
    pub(crate) replaced: Option<(Image, BTreeMap<GroupId, MemEngineDisk>)>,
    /// It may have lost what it said it has.
    pub(crate) was_damaged: bool,
    /// Its own disk, while an empty one is in its place.
    pub(crate) kept_disk: Option<(SimDisk, BTreeMap<GroupId, MemEngineDisk>)>,
}

/// What a starting node is given.
pub(crate) struct Surroundings<'a> {
    pub(crate) swarm: &'a Swarm,
    pub(crate) seams: &'a Seams,
    pub(crate) workload: Option<&'a Workload>,
    pub(crate) witnesses: &'a BTreeMap<GroupId, SharedWitness>,
    pub(crate) invariants: &'a mut Invariants,
}

impl Node {
    pub(crate) fn new(id: NodeId, disk: SimDisk) -> Self {
        Self {
            id,
            disk,
            engines: BTreeMap::new(),
            assignments: Assignments::new(),
            life: 0,
            running: None,
            paused_until: 0,
            clock: Clock::default(),
            build: OLD_BUILD,
            incarnation: 0,
            up_at: 0,
            rot: None,
            backup: None,
            replaced: None,
            was_damaged: false,
            kept_disk: None,
        }
    }

    /// Another disk is put in place of the node's own.
    pub(crate) fn take_disk(&mut self, disk: SimDisk) {
        let own = std::mem::replace(&mut self.disk, disk);
        self.kept_disk = Some((own, std::mem::take(&mut self.engines)));
    }

    /// An older content of its disk. Machines on disk, which were not copied, begin anew.
    pub(crate) fn put_in(&mut self, image: Image) {
        let empty = self.engines.keys().map(|group| (*group, MemEngineDisk::new())).collect();
        self.replaced = Some((self.disk.image(), std::mem::replace(&mut self.engines, empty)));
        self.disk.put_image(image);
    }

    /// What was put in is taken out again. `false`: nothing was.
    pub(crate) fn take_out(&mut self) -> bool {
        let Some((image, engines)) = self.replaced.take() else { return false };
        self.disk.put_image(image);
        self.engines = engines;
        true
    }

    /// The node's own disk is put back.
    pub(crate) fn bring_disk_back(&mut self) {
        if let Some((disk, engines)) = self.kept_disk.take() {
            (self.disk, self.engines) = (disk, engines);
        }
    }

    /// Whether its peers reach a process there.
    pub(crate) const fn is_up(&self, now: u64) -> bool {
        self.running.is_some() && self.up_at <= now
    }

    /// Whether it is who its peers take it for: nothing is expected of a node with an empty disk.
    pub(crate) const fn is_itself(&self) -> bool {
        self.kept_disk.is_none()
    }

    /// The process ends, or the power goes.
    pub(crate) fn crash(&mut self, crash: Crash, now: u64, rng: &mut Rng) -> CrashDamage {
        let damage = self.disk.crash(crash, now);
        for engine in self.engines.values() {
            let unsynced = engine.unsynced_batches() as u64;
            engine.crash(usize::try_from(rng.below(unsynced + 1)).unwrap_or(0));
        }
        self.running = None;
        self.life += 1;
        damage
    }

    /// Starts the process. What it does on the disk takes until `self.disk.end()`.
    pub(crate) fn boot(&mut self, now: u64, around: &mut Surroundings<'_>) -> Result<(), BootError> {
        let injected = |node: &Self| node.disk.counters().injected();
        let before = injected(self);
        self.disk.begin(now);
        let disk = self.disk.clone();
        let started = disk.reading_right(|| self.start(now, around));
        match started {
            Ok(running) => {
                self.up_at = self.disk.end();
                self.running = Some(running);
                Ok(())
            }
            Err(_) if injected(self) > before => Err(BootError::Injected),
            Err(violation) => Err(BootError::Violation(violation)),
        }
    }

    fn start(&mut self, now: u64, around: &mut Surroundings<'_>) -> Result<Running, Violation> {
        let recovery = |error: &dyn std::fmt::Display| {
            Violation::new("a node starts again", format!("{:?}: {error}", self.id))
        };
        let disk: Arc<dyn Disk> = wrapped(around.seams.disk.as_ref(), Arc::new(self.disk.handle()));
        let data_dir = DataDir::open(disk, identity(self.id, self.life)).map_err(|error| recovery(&error))?;
        let incarnation = data_dir.identity().incarnation;
        let wal = Wal::open(data_dir.disk(), &data_dir.wal(), wal_config(around.swarm))
            .map_err(|error| recovery(&error))?;
        data_dir.note_log().map_err(|error| recovery(&error))?;
        let snapshots = FileSnapshotStore::open(data_dir.disk(), &data_dir.snapshots())
            .map_err(|error| recovery(&error))?;
        if let Some((group, damage)) = snapshots.damaged().first()
            && !self.was_damaged
        {
            return Err(recovery(&format_args!("{group:?}: {damage}")));
        }
        let snapshots: Arc<dyn SnapshotStore> = Arc::new(snapshots);
        let mut store = wrapped(around.seams.store.as_ref(), Box::new(wal) as Box<dyn LogStore>);
        for (group, assignment) in &self.assignments {
            settle_assignment(*group, assignment, &mut *store, &*snapshots, &mut self.engines)
                .map_err(|error| recovery(&error))?;
        }
        let states = store.groups();
        let gave_up_entries = states.iter().any(|state| state.damaged.is_some());
        let mut running = Running::new(self.id, store, snapshots, data_dir, &around.swarm.host);
        for state in states {
            self.open_group(now, &state, &mut running, around).map_err(|error| match error {
                Refused::Violation(violation) => violation,
                Refused::Error(error) => recovery(&error),
            })?;
        }
        running.gave_up_entries = gave_up_entries;
        self.incarnation = incarnation;
        Ok(running)
    }

    fn open_group(
        &self,
        now: u64,
        state: &GroupState,
        running: &mut Running,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Refused> {
        let group = state.group;
        let engine = match self.engines.get(&group) {
            Some(disk) if around.swarm.durable_machines => MemEngine::open(disk),
            Some(_) | None => MemEngine::volatile(),
        };
        let machine: Box<dyn StateMachine> = match around.workload {
            Some(workload) => workload.machine(),
            None => Box::new(KvStateMachine::new(Box::new(engine))),
        };
        let machine = wrapped(around.seams.machine.as_ref(), machine);
        let machine: Box<dyn StateMachine> = match around.witnesses.get(&group) {
            Some(witness) => {
                Box::new(WatchedMachine::new(machine, witness.clone(), around.workload.is_none(), self.build))
            }
            None => machine,
        };
        let mut config = around.swarm.group.clone();
        config.core.id = state.replica;
        config.core.seed = self.life << 32 | self.id.0 << 8 | group.0;
        let mut recovered = recover_group(state, &*running.snapshots, machine)
            .map_err(|error| Refused::Error(error.to_string()))?;
        let applied = recovered.restored.applied;
        if self.is_itself() {
            around.invariants.on_start(recovered.replica, state, applied).map_err(Refused::Violation)?;
        }
        if let Some(fix) = recovered.log_fix.take() {
            if self.is_itself() {
                if state.damaged.is_some() {
                    around.invariants.on_damage(recovered.replica, &fix.write);
                }
                around.invariants.on_log_write(recovered.replica, &fix.write).map_err(Refused::Violation)?;
            }
            // As the library does: what it says is durable before the group is there.
            running.log_writer.write_now(&fix).map_err(|error| Refused::Error(error.to_string()))?;
        }
        running.replicas.insert(group, recovered.replica);
        let seeds = self.assignments.get(&group).map(|assignment| assignment.seeds.clone());
        let (setup, machine) = recovered.into_setup(config, seeds.unwrap_or_default());
        running.applier.add(machine);
        let opened = running.host.open_group(self.clock.read(now), setup);
        opened.map_err(|error| Refused::Error(error.to_string()))
    }

    /// What the disk would surely still say after a power cut now, read by the product's own recovery.
    pub(crate) fn recovered(&self, now: u64, swarm: &Swarm) -> Result<Recovered, Violation> {
        let copy = self.disk.durable_copy(now);
        let wal = Wal::open(Arc::new(copy), std::path::Path::new(DataDir::WAL), wal_config(swarm));
        let wal = wal.map_err(|error| {
            Violation::new("a node starts again", format!("{:?}, after a power cut: {error}", self.id))
        })?;
        Ok(Recovered(wal.groups()))
    }
}

/// The groups of a log that was recovered from a copy of a disk.
pub(crate) struct Recovered(Vec<GroupState>);

impl Recovered {
    pub(crate) fn of(&self, group: GroupId) -> Durable {
        Durable(self.0.iter().find(|state| state.group == group).cloned())
    }
}

enum Refused {
    Violation(Violation),
    Error(String),
}

impl Running {
    fn new(
        node: NodeId,
        store: Box<dyn LogStore>,
        snapshots: Arc<dyn SnapshotStore>,
        data_dir: DataDir,
        config: &HostConfig,
    ) -> Self {
        let log_reader = store.reader();
        Self {
            host: Host::with_config(node, config.clone()),
            log_writer: LogWriter::new(store),
            applier: Applier::new(Arc::clone(&snapshots)),
            fetcher: LogFetcher::new(Arc::clone(&log_reader)),
            snapshotter: Snapshotter::new(config, Arc::clone(&snapshots)),
            log_reader,
            snapshots,
            replicas: BTreeMap::new(),
            inbox: VecDeque::new(),
            turn_planned: false,
            tick_planned_at: None,
            log_waiting: 0,
            log_busy: false,
            applies: VecDeque::new(),
            apply_busy: false,
            fetches: VecDeque::new(),
            fetch_busy: false,
            snapshot_busy: false,
            askers: BTreeMap::new(),
            reads: BTreeMap::new(),
            gave_up_entries: false,
            _data_dir: data_dir,
        }
    }

    /// What the log says is durable, by its own account.
    pub(crate) fn durable(&self, group: GroupId) -> Durable {
        Durable(self.log_reader.state(group))
    }
}

/// What a node says when it takes a directory; the incarnation is for one that is made in this life.
pub(crate) const fn identity(node: NodeId, life: u64) -> Identity {
    Identity { cluster: 1, node, incarnation: life << 16 | node.0 }
}

fn wal_config(swarm: &Swarm) -> WalConfig {
    WalConfig {
        segment_bytes: swarm.segment_bytes,
        recycled_segments_max: 1,
        move_bytes_max: 2_000,
        log_bytes_max: 6 * swarm.segment_bytes,
        fill_ahead_bytes: 4_096,
        reserve_bytes: 0,
        salt: 1,
    }
}

/// Makes the log say what the node should be in the group: creates the replica, or replaces one that was removed.
fn settle_assignment(
    group: GroupId,
    assignment: &Assignment,
    store: &mut dyn LogStore,
    snapshots: &dyn SnapshotStore,
    engines: &mut BTreeMap<GroupId, MemEngineDisk>,
) -> Result<(), String> {
    let existing = store.groups().into_iter().find(|state| state.group == group);
    if existing.as_ref().is_some_and(|state| state.replica == assignment.replica) {
        return Ok(());
    }
    if existing.is_some() {
        let remove = GroupWrite { group, remove: true, ..GroupWrite::default() };
        let batch = LogBatch { groups: vec![remove] };
        write_now(store, batch, true).map_err(|error| error.to_string())?;
        snapshots.retain(group, 0).map_err(|error| error.to_string())?;
    }
    engines.insert(group, MemEngineDisk::new());
    let batch = match &assignment.initial {
        Some(membership) => bootstrap_batch(group, assignment.replica, membership),
        None => join_batch(group, assignment.replica),
    };
    write_now(store, batch, true).map_err(|error| error.to_string())
}
