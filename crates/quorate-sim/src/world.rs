//! The world: nodes, network, users, an operator and a fault injector, moved one step at a time.
//!
//! ```text
//!            ┌──────────────────────── Agenda ────────────────────────┐
//!            │ turn n1 │ log step n2 │ deliver →n3 │ client 2 │ crash … │   the earliest goes next
//!            └────┬───────────────────────────────────────────────────┘
//!                 ▼
//!          one step of one node ──► its work ──► invariants ──► new steps
//! ```
//!
//! * A step runs alone and at one moment; a step that uses a disk ends later, and what it says is delivered
//!   then, unless the node died in between.
//! * The work of a turn is checked before it has any effect.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_core::{GroupId, NodeId, RoleName, Term};
use quorate_host::{
    Answer, ApplyTask, Consistency, Event, Host, PeerBody, Request, RequestError, Ticket, Work,
    decode_peer_message, encode_peer_message,
};

use crate::agenda::Agenda;
use crate::client::Client;
use crate::coverage::Coverage;
use crate::disk::INJECTED;
use crate::invariants::{Checked, Invariants, Violation, require};
use crate::linearizability::History;
use crate::network::{Fate, Network};
use crate::node::{Asker, NEW_BUILD, Node};
use crate::report::Fault;
use crate::rng::Rng;
use crate::seams::{Seams, wrapped};
use crate::swarm::Swarm;
use crate::trace::{Short, Trace};
use crate::watched_machine::SharedWitness;
use crate::workload::Workload;

pub(crate) const MILLISECOND: u64 = 1_000_000;

/// One of `SAMPLE` promises and acknowledgements is checked against a recovered copy of the disks.
const SAMPLE: u64 = 40;

/// How a replica says that its build is too old.
pub(crate) const NEEDS_NEWER_BUILD: &str = "newer build";

/// A moment's work of somebody.
pub(crate) enum Step {
    /// The host looks at its inbox.
    Turn(NodeId, u64),
    /// The host's deadline.
    Tick(NodeId, u64),
    LogWriter(NodeId, u64),
    Applier(NodeId, u64),
    Fetcher(NodeId, u64),
    Snapshotter(NodeId, u64),
    /// A step function has ended and says this.
    Ended(NodeId, u64, Lane, Vec<Event>),
    /// A message arrives.
    Deliver {
        from: NodeId,
        to: NodeId,
        /// Of the pair (`Network::connection`).
        connection: u64,
        /// The sender's directory.
        incarnation: u64,
        bytes: Bytes,
    },
    /// A question arrives at a node.
    Asked {
        node: NodeId,
        asker: Asker,
        group: GroupId,
        request: Request,
    },
    /// An answer arrives at who asked.
    Answered(Asker, Result<Answer, RequestError>),
    ClientMoves(usize),
    ClientWaitedLongEnough {
        client: usize,
        attempt: u64,
    },
    OperatorMoves,
    FaultInjectorMoves,
    Boot(NodeId),
    /// A node that had an empty disk gets its own again.
    DiskComesBack(NodeId),
    /// A copy of a node's disk takes the place of the disk.
    BackupIsPutIn(NodeId),
    /// Something that was broken for a while is whole again.
    Heal,
    /// The world looks whether everything has come to rest.
    Look,
}

/// The step functions that run beside a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Log,
    Apply,
    Fetch,
    Snapshot,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) swarm: Swarm,
    pub(crate) seams: Seams,
    pub(crate) workload: Option<Workload>,
    pub(crate) agenda: Agenda<Step>,
    pub(crate) network: Network,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) clients: Vec<Client>,
    pub(crate) history: History,
    pub(crate) invariants: Invariants,
    pub(crate) witnesses: BTreeMap<GroupId, SharedWitness>,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    pub(crate) rng: Rng,
    /// Every move of the fault injector has chances of its own, so that leaving one out does not change the others.
    pub(crate) fault_rng: Rng,
    /// What the fault injector has done: number and moment of each move.
    pub(crate) faults: Vec<Fault>,
    /// Whether bits rot and reads go wrong.
    pub(crate) rots: bool,
    /// The one node that loses something, if one does.
    pub(crate) damaged_node: Option<NodeId>,
    /// What became of disks in the wrong machine.
    pub(crate) swaps: Vec<&'static str>,
    /// Which directory a node, with a directory of its own, knows another one by: for ever, on disk.
    pub(crate) known_directories: BTreeMap<(NodeId, NodeId, u64), u64>,
    /// How often it has moved, those moves included that are left out.
    pub(crate) moves: u64,
    pub(crate) only_faults: Option<BTreeSet<u64>>,
    /// The faults are over: everything must come to rest.
    pub(crate) calm: bool,
    pub(crate) rested: bool,
    pub(crate) next_ticket: u64,
    pub(crate) steps: u64,
}

/// `line!(world, who, "format", args…)` adds to the trace.
macro_rules! note {
    ($world:expr, $who:expr, $($what:tt)+) => {
        $world.trace.line($world.agenda.now(), $who, format_args!($($what)+))
    };
}
pub(crate) use note;

/// How a node is called in the trace.
pub(crate) struct Name(pub(crate) NodeId);
impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("n{}", self.0))
    }
}

impl World {
    /// Does the next step. `None`: nothing is planned any more.
    pub(crate) fn step(&mut self) -> Result<Option<()>, Violation> {
        let Some(step) = self.agenda.next() else { return Ok(None) };
        self.steps += 1;
        match step {
            Step::Turn(node, life) => self.on_turn(node, life)?,
            Step::Tick(node, life) => self.on_tick(node, life),
            Step::LogWriter(node, life) => self.on_log_step(node, life),
            Step::Applier(node, life) => self.on_apply_step(node, life)?,
            Step::Fetcher(node, life) => self.on_fetch_step(node, life),
            Step::Snapshotter(node, life) => self.on_snapshot_step(node, life),
            Step::Ended(node, life, lane, events) => self.on_ended(node, life, lane, events)?,
            Step::Deliver { from, to, connection, incarnation, bytes } => {
                self.on_deliver(from, incarnation, to, connection, &bytes)?;
            }
            Step::Asked { node, asker, group, request } => self.on_asked(node, asker, group, request),
            Step::Answered(Asker::Client { client, attempt }, answer) => {
                self.on_client_answer(client, attempt, answer)?;
            }
            Step::Answered(Asker::Operator { group }, answer) => self.on_operator_answer(group, answer)?,
            Step::ClientMoves(client) => self.on_client_moves(client),
            Step::ClientWaitedLongEnough { client, attempt } => self.on_client_waited(client, attempt),
            Step::OperatorMoves => self.on_operator_moves(),
            Step::FaultInjectorMoves => self.on_fault_injector_moves()?,
            Step::Boot(node) => self.on_boot(node)?,
            Step::DiskComesBack(node) => self.on_disk_comes_back(node),
            Step::BackupIsPutIn(node) => self.on_backup_is_put_in(node),
            Step::Heal => self.on_heal(),
            Step::Look => self.on_look(),
        }
        Ok(Some(()))
    }

    /// The node, if it still lives that life; a paused one does the step when it wakes.
    fn awake(&mut self, id: NodeId, life: u64, step: fn(NodeId, u64) -> Step) -> Option<&mut Node> {
        let now = self.agenda.now();
        let node = self.nodes.get_mut(&id)?;
        if node.life != life || node.running.is_none() {
            return None;
        }
        if node.paused_until > now {
            let wakes_at = node.paused_until;
            self.agenda.plan(wakes_at, step(id, life));
            return None;
        }
        Some(node)
    }

    /// Puts something into a host's inbox.
    pub(crate) fn give(&mut self, id: NodeId, event: Event) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let life = node.life;
        let Some(running) = &mut node.running else { return };
        running.inbox.push_back(event);
        if !running.turn_planned {
            running.turn_planned = true;
            self.agenda.plan_within(1_000, 60_000, Step::Turn(id, life));
        }
    }

    fn on_tick(&mut self, id: NodeId, life: u64) {
        let now = self.agenda.now();
        let Some(node) = self.awake(id, life, Step::Tick) else { return };
        let Some(running) = &mut node.running else { return };
        if running.tick_planned_at.is_some_and(|at| at <= now) {
            running.tick_planned_at = None;
            self.give(id, Event::Tick);
        }
    }

    fn on_turn(&mut self, id: NodeId, life: u64) -> Checked {
        let now = self.agenda.now();
        let taken = self.rng.between(1, 8);
        let Some(node) = self.awake(id, life, Step::Turn) else { return Ok(()) };
        let clock = node.clock;
        let stamp = clock.read(now);
        let Some(running) = &mut node.running else { return Ok(()) };
        running.turn_planned = false;
        for _ in 0..taken {
            let Some(event) = running.inbox.pop_front() else { break };
            running.host.on_event(stamp, event);
        }
        let work = running.host.take_work();
        let deadline = running.host.next_deadline().map(|deadline| clock.world_time(deadline).max(now + 1));
        let tick_at = deadline.filter(|at| running.tick_planned_at.is_none_or(|planned| *at < planned));
        running.tick_planned_at = tick_at.or(running.tick_planned_at);
        running.turn_planned = !running.inbox.is_empty();
        if running.turn_planned {
            self.agenda.plan_within(1_000, 60_000, Step::Turn(id, life));
        }
        if let Some(at) = tick_at {
            self.agenda.plan(at, Step::Tick(id, life));
        }
        self.check_work(id, &work)?;
        self.check_cores(id)?;
        self.distribute(id, life, work)
    }

    /// Everything a host wants done goes to whoever does it.
    fn distribute(&mut self, id: NodeId, life: u64, work: Work) -> Checked {
        for (group, event) in &work.events {
            self.note_event(id, *group, event);
        }
        for task in &work.log {
            self.note_log_task(id, task);
        }
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else {
            return Ok(());
        };
        if !work.log.is_empty() {
            running.log_waiting += work.log.len();
            running.log_writer.submit(work.log);
        }
        running.applies.extend(work.apply);
        running.fetches.extend(work.fetch);
        for task in work.snapshots {
            running.snapshotter.submit(task);
        }
        self.plan_lanes(id, life);
        for outbound in work.send {
            self.send(id, outbound.to, &wrapped(self.seams.message.as_ref(), outbound.message))?;
        }
        for (ticket, result) in work.replies {
            self.reply(id, ticket, result)?;
        }
        for (group, reason) in work.stopped {
            self.on_stopped(id, group, &reason)?;
        }
        Ok(())
    }

    /// Plans a step of every lane that has something to do and does nothing yet.
    fn plan_lanes(&mut self, id: NodeId, life: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else { return };
        if running.log_waiting > 0 && !running.log_busy {
            running.log_busy = true;
            self.agenda.plan_within(1_000, 300_000, Step::LogWriter(id, life));
        }
        if !running.applies.is_empty() && !running.apply_busy {
            running.apply_busy = true;
            self.agenda.plan_within(1_000, 300_000, Step::Applier(id, life));
        }
        if !running.fetches.is_empty() && !running.fetch_busy {
            running.fetch_busy = true;
            self.agenda.plan_within(1_000, 300_000, Step::Fetcher(id, life));
        }
        if running.snapshotter.has_work() && !running.snapshot_busy {
            running.snapshot_busy = true;
            self.agenda.plan_within(1_000, 500_000, Step::Snapshotter(id, life));
        }
    }

    fn on_log_step(&mut self, id: NodeId, life: u64) {
        let now = self.agenda.now();
        let Some(node) = self.awake(id, life, Step::LogWriter) else { return };
        let Some(running) = &mut node.running else { return };
        running.log_waiting = 0;
        node.disk.begin(now);
        let events = running.log_writer.step();
        let end = node.disk.end();
        self.agenda.plan(end, Step::Ended(id, life, Lane::Log, events));
    }

    fn on_apply_step(&mut self, id: NodeId, life: u64) -> Checked {
        let now = self.agenda.now();
        let Some(node) = self.awake(id, life, Step::Applier) else { return Ok(()) };
        let Some(running) = &mut node.running else { return Ok(()) };
        let Some(task) = running.applies.pop_front() else {
            running.apply_busy = false;
            return Ok(());
        };
        let group = match &task {
            ApplyTask::Apply { group, .. }
            | ApplyTask::Restore { group, .. }
            | ApplyTask::Query { group, .. }
            | ApplyTask::Capture { group, .. }
            | ApplyTask::Flush { group }
            | ApplyTask::Remove { group } => *group,
        };
        node.disk.begin(now);
        let events = running.applier.step(task);
        let end = node.disk.end() + self.rng.between(1_000, 200_000);
        self.agenda.plan(end, Step::Ended(id, life, Lane::Apply, events));
        self.witnesses.get(&group).map_or(Ok(()), SharedWitness::check)
    }

    fn on_fetch_step(&mut self, id: NodeId, life: u64) {
        let now = self.agenda.now();
        let Some(node) = self.awake(id, life, Step::Fetcher) else { return };
        let Some(running) = &mut node.running else { return };
        let Some(task) = running.fetches.pop_front() else {
            running.fetch_busy = false;
            return;
        };
        let event = running.fetcher.step(task);
        let end = now + self.rng.between(1_000, 3_000_000);
        self.coverage.count("older entries fetched from the log");
        self.agenda.plan(end, Step::Ended(id, life, Lane::Fetch, vec![event]));
    }

    fn on_snapshot_step(&mut self, id: NodeId, life: u64) {
        let now = self.agenda.now();
        let Some(node) = self.awake(id, life, Step::Snapshotter) else { return };
        let Some(running) = &mut node.running else { return };
        node.disk.begin(now);
        let events = running.snapshotter.step();
        let end = node.disk.end() + 1_000;
        self.agenda.plan(end, Step::Ended(id, life, Lane::Snapshot, events));
    }

    fn on_ended(&mut self, id: NodeId, life: u64, lane: Lane, events: Vec<Event>) -> Checked {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.life == life) else { return Ok(()) };
        let Some(running) = &mut node.running else { return Ok(()) };
        match lane {
            Lane::Log => running.log_busy = false,
            Lane::Apply => running.apply_busy = false,
            Lane::Fetch => running.fetch_busy = false,
            Lane::Snapshot => running.snapshot_busy = false,
        }
        self.plan_lanes(id, life);
        for event in events {
            self.check_ended(id, &event)?;
            self.give(id, event);
        }
        Ok(())
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: &quorate_host::PeerMessage) -> Checked {
        let mut bytes = Vec::new();
        encode_peer_message(message, &mut bytes);
        let bytes = Bytes::from(bytes);
        let length = bytes.len() as u64;
        let fate = self.network.send(self.agenda.now(), from, to, message.lane(), length);
        let connection = self.network.connection(from, to);
        let incarnation = self.nodes.get(&from).map_or(0, |node| node.incarnation);
        match fate {
            Fate::Cut => {
                note!(self, Name(from), "→n{to} ✗ cut  {}", Short(message));
                self.coverage.count("messages into a cut link");
                if self.rng.chance(300) {
                    self.give(from, Event::Unreachable { node: to });
                }
            }
            Fate::Lost => {
                note!(self, Name(from), "→n{to} ✗ lost {}", Short(message));
                self.coverage.count("messages lost");
            }
            Fate::Arrives(times) => {
                let doubled = if times.len() > 1 { "×2 " } else { "" };
                note!(self, Name(from), "→n{to} {doubled}{}", Short(message));
                self.coverage.add("messages doubled", times.len() as u64 - 1);
                self.coverage.count("messages sent");
                for at in times {
                    self.agenda
                        .plan(at, Step::Deliver { from, to, connection, incarnation, bytes: bytes.clone() });
                }
            }
        }
        Ok(())
    }

    fn on_deliver(
        &mut self,
        from: NodeId,
        incarnation: u64,
        to: NodeId,
        connection: u64,
        bytes: &Bytes,
    ) -> Checked {
        if connection != self.network.connection(from, to) {
            self.on_broken_frame(from, to, bytes);
            return Ok(());
        }
        let message = decode_peer_message(bytes)
            .map_err(|error| Violation::new("messages survive the wire", error.to_string()))?;
        let now = self.agenda.now();
        let up = self.nodes.get(&to).is_some_and(|node| node.is_up(now));
        if !up || self.network.is_cut(from, to) {
            self.coverage.count("messages to nobody");
            if self.rng.chance(500) {
                self.give(from, Event::Unreachable { node: to });
            }
            return Ok(());
        }
        if !self.know_each_other(from, incarnation, to) {
            return Ok(());
        }
        if let PeerBody::SnapshotChunk(_) = &message.body {
            self.coverage.count("snapshot pieces received");
        }
        self.give(to, Event::Received { from, message });
        Ok(())
    }

    /// The connection was reset while the message was under way: a part of it has arrived.
    fn on_broken_frame(&mut self, from: NodeId, to: NodeId, bytes: &Bytes) {
        // A transport's frames have lengths and checksums; should a part get through all the same, it must do no harm.
        let length = usize::try_from(self.rng.below(bytes.len() as u64)).unwrap_or(0);
        drop(decode_peer_message(&bytes.slice(..length)));
        self.coverage.count("messages cut in the middle by a reset");
        if self.rng.chance(700) {
            self.give(from, Event::Unreachable { node: to });
        }
    }

    fn on_asked(&mut self, id: NodeId, asker: Asker, group: GroupId, request: Request) {
        let now = self.agenda.now();
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else {
            return;
        };
        running.askers.insert(ticket, asker);
        if let Request::Query { consistency: Consistency::Linearizable, .. } = &request
            && let Some(term) = leads_others(&running.host, group)
        {
            running.reads.insert(ticket, (now, term));
        }
        self.give(id, Event::Request { group, ticket, request });
    }

    fn reply(&mut self, id: NodeId, ticket: Ticket, result: Result<Answer, RequestError>) -> Checked {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) else {
            return Ok(());
        };
        let asker = running.askers.remove(&ticket);
        let Some(asker) = asker else {
            return Err(Violation::new(
                "every question has one answer",
                format!("{ticket:?} was answered twice, now with {result:?}"),
            ));
        };
        let read = running.reads.remove(&ticket);
        if let (Asker::Client { client, .. }, Ok(Answer::Queried { .. }), Some((asked_at, term))) =
            (asker, &result, read)
            && let Some(group) = self.clients.get(client).map(|client| client.group)
            && leads_others(&running.host, group) == Some(term)
            && let Some(replica) = running.replicas.get(&group)
        {
            self.invariants.on_read_confirmed(group, *replica, term, asked_at)?;
        }
        if let (Asker::Client { client, .. }, Ok(Answer::Applied { id: at, .. })) = (asker, &result)
            && let Some(group) = self.clients.get(client).map(|client| client.group)
        {
            self.invariants.on_acknowledged(group, self.agenda.now(), *at)?;
            if self.sampled() {
                self.check_durable_on_a_quorum(id, group, *at)?;
            }
        }
        let lost = !self.calm && self.rng.chance(30);
        if lost {
            self.coverage.count("answers lost on the way to a client");
        } else {
            self.agenda.plan_within(50_000, 2_000_000, Step::Answered(asker, result));
        }
        Ok(())
    }

    fn on_stopped(&mut self, id: NodeId, group: GroupId, reason: &str) -> Checked {
        note!(self, Name(id), "{group:?} stopped: {reason}");
        // Its members all had the newer build when the gate was opened; it is one that came later.
        if reason.contains(NEEDS_NEWER_BUILD) && self.upgrade(id) {
            self.coverage.count("replicas stopped because their build is too old");
            return Ok(());
        }
        require!(self.is_excuse(id, reason), "no replica gives up", "{id:?} {group:?}: {reason}");
        self.coverage.count("replicas stopped by a failed disk");
        self.stop_node(id, crate::disk_image::Crash::Process, "its disk failed");
        Ok(())
    }

    /// Whether a replica may stop for this reason: its disk failed on purpose.
    pub(crate) fn is_excuse(&self, id: NodeId, reason: &str) -> bool {
        let misread = self.nodes.get(&id).is_some_and(|node| node.disk.counters().misreads > 0);
        let is_old = self.nodes.get(&id).is_some_and(|node| node.build < NEW_BUILD);
        reason.contains(INJECTED)
            || (is_old && reason.contains(NEEDS_NEWER_BUILD))
            || (misread && reason.contains("damaged"))
    }

    /// Whether one of `SAMPLE` checks should be done the expensive way.
    pub(crate) fn sampled(&mut self) -> bool {
        self.rng.below(SAMPLE) == 0
    }
}

/// The term in which a replica of the group leads voters besides itself.
fn leads_others(host: &Host, group: GroupId) -> Option<Term> {
    let status = host.core_status(group).filter(|status| status.role == RoleName::Leader)?;
    (status.membership.voters().count() > 1).then_some(status.term)
}
