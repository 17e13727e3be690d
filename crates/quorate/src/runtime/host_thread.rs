//! The host thread: everything that has happened since the last turn goes in, everything there is
//! to do comes out.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_core::{GroupId, Membership, MonoTime, NodeId, RaftEvent};
use quorate_host::{
    Answer, Applied, ApplyTask, DiskHealth, Event, Fetched, GroupSetup, Host, HostConfig, LogTask, Now,
    OpenError, PeerMessage, Request, RequestError, SendOutcome, SnapshotEvent, SnapshotTask, Ticket, Work,
};
use quorate_storage::{LogError, LogStats, SnapshotStore};
use tokio::sync::{oneshot, watch};

use crate::feed::{GroupFeed, GroupOutlet};
use crate::runtime::apply_pool::{ApplyInput, ApplyPool};
use crate::runtime::clock::Clock;
use crate::runtime::event_log::EventLog;
use crate::runtime::gauge::{Gauge, Permit};
use crate::runtime::helping::HELP_BYTES_MAX;
use crate::runtime::log_lane::LogLane;
use crate::runtime::mailbox::Mailbox;
use crate::runtime::workers::ReadInput;
use crate::transport::{Inbound, Transport, entry_bytes, message_bytes};

/// A host that names no deadline is asked again after this long.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Where the answer to a request goes.
pub(crate) type Reply = oneshot::Sender<Result<Answer, RequestError>>;
/// Answers of the host.
type Replies = Vec<(Ticket, Result<Answer, RequestError>)>;
/// Who waits to open a group.
type Reserved = oneshot::Sender<Result<(), OpenError>>;

/// For the host thread.
pub(crate) enum HostInput {
    /// Something happened.
    Event(Event),
    /// Older entries, whose bytes count as waiting until they are handed on.
    Fetched { fetched: Fetched, permit: Permit },
    /// A message from a peer.
    Received { from: NodeId, message: PeerMessage, permit: Permit },
    /// A user asks something.
    Request { group: GroupId, request: Request, asked: MonoTime, reply: Reply, permit: Permit },
    /// Somebody is about to read what is on disk of a group, to open it: answered when no replica here can change
    /// that any more.
    Reserve { group: GroupId, reply: Reserved },
    /// Write to the log for a group that is not open; only where there is no log thread.
    WriteLog { task: Box<LogTask>, reply: oneshot::Sender<Result<(), LogError>> },
    /// Start a replica.
    Open { setup: Box<GroupSetup>, reply: oneshot::Sender<Result<GroupFeed, OpenError>> },
    /// Stop a replica; the reply is dropped when it has stopped.
    Close { group: GroupId, reply: oneshot::Sender<Infallible> },
    /// Stop the node.
    Stop { reason: String },
}

/// What the threads and handles of a node share.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) clock: Clock,
    pub(crate) frame_bytes_max: usize,
    pub(crate) mailbox: Arc<Mailbox<HostInput>>,
    /// Requests that wait for the host thread, of all groups.
    pub(crate) requests: Arc<Gauge>,
    /// Messages that wait for the host thread.
    pub(crate) inbound: Arc<Gauge>,
    /// What waits for the disk and the state machines.
    pub(crate) backlog: Arc<Gauge>,
    pub(crate) log_figures: Mutex<LogFigures>,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) event_log: EventLog,
    /// Why the node has stopped by itself.
    pub(crate) failure: watch::Sender<Option<String>>,
    /// From the first turn to the last; whoever has the lock may do one. See `helping.rs`.
    pub(crate) host: Mutex<Option<HostThread>>,
}

/// What the log's thread says of itself.
#[derive(Clone, Copy, Default)]
pub(crate) struct LogFigures {
    pub(crate) stats: LogStats,
    /// On the disk, if that is known.
    pub(crate) disk_free_bytes: Option<u64>,
}

impl Shared {
    pub(crate) fn set_log_figures(&self, stats: LogStats, disk_free_bytes: Option<u64>) {
        // Also after a panic elsewhere: what is inside is plain figures.
        let mut figures = self.log_figures.lock().unwrap_or_else(PoisonError::into_inner);
        *figures = LogFigures { stats, disk_free_bytes };
    }

    pub(crate) fn log_figures(&self) -> LogFigures {
        *self.log_figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node cannot go on.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(node = %self.node, "this node stops: {reason}");
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            if first {
                *failure = Some(reason.clone());
            }
            first
        });
        // When the host thread has ended already there is nothing left to stop.
        drop(self.mailbox.push(HostInput::Stop { reason }));
    }
}

impl Shared {
    /// Room for a message; none if it must be dropped.
    fn admit(&self, bytes: usize) -> Option<Permit> {
        // Entries and snapshot pieces become work for the disk; the rest keeps the group together.
        if bytes > 1024 && self.backlog.is_full() {
            return None;
        }
        self.inbound.admit(bytes)
    }
}

impl Inbound for Shared {
    fn received(&self, from: NodeId, message: PeerMessage) -> bool {
        let Some(permit) = self.admit(message_bytes(&message)) else { return false };
        self.mailbox.push(HostInput::Received { from, message, permit }).is_ok()
    }
    fn received_here(&self, from: NodeId, message: PeerMessage) -> bool {
        let bytes = message_bytes(&message);
        let Some(permit) = self.admit(bytes) else { return false };
        let input = HostInput::Received { from, message, permit };
        if bytes > HELP_BYTES_MAX {
            return self.mailbox.push(input).is_ok();
        }
        self.bring([input]).is_ok()
    }
    fn unreachable(&self, node: NodeId) {
        // A node that has stopped does not care.
        drop(self.mailbox.push(HostInput::Event(Event::Unreachable { node })));
    }
}

/// The mailboxes and the transport that the host hands its work to.
pub(crate) struct Lanes {
    pub(crate) log: LogLane,
    pub(crate) apply: Arc<ApplyPool>,
    pub(crate) read: Arc<Mailbox<ReadInput>>,
    pub(crate) transport: Arc<dyn Transport>,
}

/// The host and what it is connected with. Mostly its own thread has it; see `helping.rs`.
pub(crate) struct HostThread {
    host: Host,
    shared: Arc<Shared>,
    lanes: Lanes,
    waiting: HashMap<Ticket, Reply>,
    next_ticket: u64,
    groups: HashMap<GroupId, GroupOutlet>,
    /// Who waits for the last writes and the state machine of a replica that is gone.
    reserving: Vec<(GroupId, Reserved)>,
    /// Groups whose status may have changed in this turn.
    touched: BTreeSet<GroupId>,
    /// The inputs of the turn under way.
    inputs: Vec<HostInput>,
    /// When the thread comes back by itself.
    sleeps_until: MonoTime,
    /// Somebody who did its turn was told to stop the node: why.
    stopping: Option<String>,
}

/// Nobody does a turn any more once the thread has ended, however it ends, and nobody is left
/// waiting for an answer.
struct EndOfTurns<'a>(&'a Shared);

impl Drop for EndOfTurns<'_> {
    fn drop(&mut self) {
        let host = self.0.host.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(host);
    }
}

impl HostThread {
    pub(crate) fn new(shared: Arc<Shared>, config: HostConfig, lanes: Lanes) -> Self {
        Self {
            host: Host::with_config(shared.node, config),
            shared,
            lanes,
            waiting: HashMap::new(),
            next_ticket: 1,
            groups: HashMap::new(),
            reserving: Vec::new(),
            touched: BTreeSet::new(),
            inputs: Vec::new(),
            sleeps_until: MonoTime::default(),
            stopping: None,
        }
    }

    /// Turns until the node stops. What is left in the mailbox is only taken by who has the lock,
    /// so that it is dealt with in its order.
    pub(crate) fn run(self, shared: &Shared) {
        let _end = EndOfTurns(shared);
        *Self::lock(shared) = Some(self);
        let mut sleep = Duration::ZERO;
        loop {
            shared.mailbox.wait_within(sleep);
            let mut place = Self::lock(shared);
            let Some(host) = place.as_mut() else { return };
            let reason = match host.stopping.take() {
                Some(reason) => Some(reason),
                None => host.turn(true),
            };
            if let Some(reason) = reason {
                host.stop(&reason);
                return;
            }
            sleep = host.plan_sleep();
        }
    }

    fn lock(shared: &Shared) -> MutexGuard<'_, Option<Self>> {
        shared.host.lock().expect("a turn that was done on another thread has panicked, and the node with it")
    }

    /// How long there is nothing to do unless something comes.
    fn plan_sleep(&mut self) -> Duration {
        let now = self.shared.clock.now().mono;
        let sleep = self.host.next_deadline().map_or(WAIT_MAX, |deadline| deadline.since(now).min(WAIT_MAX));
        self.sleeps_until = now + sleep;
        sleep
    }

    /// One turn in the place of the thread, which sleeps; whether it must come back now.
    pub(crate) fn turn_of_another(&mut self) -> bool {
        if self.stopping.is_none() {
            self.stopping = self.turn(false);
        }
        let is_early = |deadline| deadline < self.sleeps_until;
        self.stopping.is_some() || self.host.next_deadline().is_some_and(is_early)
    }

    /// One turn: takes what has come; the reason when the node shall stop.
    fn turn(&mut self, may_tick: bool) -> Option<String> {
        let mut inputs = std::mem::take(&mut self.inputs);
        self.shared.mailbox.take_now(&mut inputs);
        let now = self.shared.clock.now();
        let mut stop: Option<String> = None;
        let mut closed = Vec::new();
        for input in inputs.drain(..) {
            if let Some(reason) = &stop {
                self.turn_away(input, reason);
                continue;
            }
            match input {
                HostInput::Event(event) => {
                    self.warn(&event);
                    self.touched.extend(group_of(&event));
                    self.host.on_event(now, event);
                }
                HostInput::Fetched { fetched, permit } => {
                    self.touched.insert(fetched.group);
                    self.host.on_event(now, Event::Fetched(fetched));
                    drop(permit);
                }
                HostInput::Received { from, message, permit } => {
                    self.touched.insert(message.group);
                    self.host.on_event(now, Event::Received { from, message });
                    drop(permit);
                }
                HostInput::Request { group, request, asked, reply, permit } => {
                    self.note_queued(group, now.mono.since(asked));
                    let ticket = Ticket(self.next_ticket);
                    self.next_ticket += 1;
                    self.waiting.insert(ticket, reply);
                    self.touched.insert(group);
                    self.host.on_event(now, Event::Request { group, ticket, request });
                    drop(permit);
                }
                HostInput::Reserve { group, reply } => self.reserving.push((group, reply)),
                HostInput::WriteLog { task, reply } => {
                    if let Some(result) = self.lanes.log.write_now(&task, &self.shared) {
                        // Whoever asked may have given up.
                        drop(reply.send(result));
                    }
                }
                HostInput::Open { setup, reply } => self.open(now, *setup, reply),
                HostInput::Close { group, reply } => {
                    self.host.close_group(group);
                    self.groups.remove(&group);
                    closed.push(reply);
                }
                HostInput::Stop { reason } => stop = Some(reason),
            }
        }
        self.inputs = inputs;
        if may_tick && self.host.next_deadline().is_some_and(|deadline| deadline <= now.mono) {
            self.host.on_event(now, Event::Tick);
        }
        let replies = self.work_off(now);
        // Only now is everything that concerns the closed groups on its way, ahead of what their
        // closers do next.
        drop(closed);
        self.publish();
        // Whoever has an answer sees a status that is not older.
        self.answer(replies);
        self.answer_reserving();
        stop
    }

    fn answer_reserving(&mut self) {
        let host = &self.host;
        for (group, reply) in self.reserving.extract_if(.., |(group, _)| !host.is_leaving(*group)) {
            let answer = if host.is_open(group) { Err(OpenError::AlreadyOpen(group)) } else { Ok(()) };
            // Whoever asked may have given up.
            drop(reply.send(answer));
        }
    }

    /// One request of eight is measured.
    fn note_queued(&self, group: GroupId, waited: Duration) {
        if self.next_ticket.is_multiple_of(8)
            && let Some(outlet) = self.groups.get(&group)
        {
            outlet.note_queued(waited);
        }
    }

    /// What fails quietly, because the replica goes on without it.
    fn warn(&self, event: &Event) {
        if let Event::Snapshot(SnapshotEvent::SaveFailed { group, reason }) = event {
            tracing::warn!(node = %self.shared.node, %group, "a snapshot could not be taken: {reason}");
        }
        if let Event::Snapshot(SnapshotEvent::SendEnded { group, to, last, outcome }) = event
            && let SendOutcome::Unreadable { reason } = outcome
        {
            tracing::warn!(
                node = %self.shared.node, %group, follower = %to, snapshot = %last,
                "a snapshot cannot be read, is not used again, and another one is taken: {reason}"
            );
        }
    }

    fn open(&mut self, now: Now, setup: GroupSetup, reply: oneshot::Sender<Result<GroupFeed, OpenError>>) {
        let group = setup.group;
        let opened = self.host.open_group(now, setup).and_then(|()| {
            self.host.status(group).ok_or_else(|| OpenError::Inconsistent {
                group,
                reason: "it stopped as soon as it was opened".to_owned(),
            })
        });
        let answer = opened.map(|status| {
            self.meet(&status.membership);
            let requests = Gauge::part_of(&self.shared.requests);
            let outlet = GroupOutlet::new(status, requests, Gauge::part_of(&self.shared.backlog));
            let feed = outlet.feed().clone();
            self.groups.insert(group, outlet);
            feed
        });
        let is_open = answer.is_ok();
        if reply.send(answer).is_err() && is_open {
            // Nobody holds a handle: as if it had never been opened.
            self.host.close_group(group);
            self.groups.remove(&group);
        }
        if !is_open {
            // Its machine was made ready for nothing, and may hold files.
            let permit = self.shared.backlog.take(0);
            self.lanes.apply.push_all([ApplyInput::Task { task: ApplyTask::Remove { group }, permit }]);
        }
    }

    /// Hands out everything there is to do, but for the answers. What the log wrote in the meantime
    /// is in it.
    fn work_off(&mut self, now: Now) -> Replies {
        let mut replies = Replies::new();
        loop {
            let work = self.host.take_work();
            let written = self.dispatch(work, &mut replies);
            if written.is_empty() {
                return replies;
            }
            for event in written {
                self.host.on_event(now, event);
            }
        }
    }

    /// Hands out `work`, but for the answers; returns what the log has written already.
    fn dispatch(&mut self, work: Work, answers: &mut Replies) -> Vec<Event> {
        let Work { log, send, apply, fetch, snapshots, mut replies, events, stopped } = work;
        answers.append(&mut replies);
        self.touched.extend(log.iter().map(|task| task.write.group));
        if !send.is_empty() {
            self.touched.extend(send.iter().map(|outbound| outbound.message.group));
            // Also before a log that is written here: the others begin meanwhile.
            self.lanes.transport.send(send);
        }
        let (groups, shared) = (&self.groups, &self.shared);
        // A group that is gone has no part of its own.
        let backlog = |group: GroupId| match groups.get(&group) {
            Some(outlet) => outlet.feed().backlog(),
            None => &shared.backlog,
        };
        let written =
            if log.is_empty() { Vec::new() } else { self.lanes.log.write(log, &self.shared, backlog) };
        if !apply.is_empty() {
            self.lanes.apply.push_all(apply.into_iter().map(|task| {
                let bytes = apply_bytes(&task);
                ApplyInput::Task { permit: backlog(task.group()).take(bytes), task }
            }));
        }
        if !fetch.is_empty() || !snapshots.is_empty() {
            let fetch = fetch.into_iter().map(ReadInput::Fetch);
            let snapshots = snapshots.into_iter().map(|task| {
                let bytes = snapshot_bytes(&task);
                ReadInput::Snapshot { permit: self.shared.backlog.take(bytes), task }
            });
            self.lanes.read.push_all(fetch.chain(snapshots));
        }
        for (group, event) in events {
            self.touched.insert(group);
            self.tell(group, event);
        }
        for (group, reason) in stopped {
            tracing::error!(node = %self.shared.node, %group, "replica stopped: {reason}");
            self.touched.insert(group);
            if let Some(outlet) = self.groups.get(&group) {
                outlet.stop(reason);
            }
        }
        written
    }

    fn answer(&mut self, replies: Replies) {
        for (ticket, answer) in replies {
            if let Some(reply) = self.waiting.remove(&ticket) {
                // Whoever asked may have given up.
                drop(reply.send(answer));
            }
        }
    }

    /// Tells subscribers and the log what happened.
    fn tell(&self, group: GroupId, event: RaftEvent) {
        self.shared.event_log.take(self.shared.node, group, &event);
        if let Some(outlet) = self.groups.get(&group) {
            outlet.tell(event);
        }
    }

    /// Members get to know each other's directories before they have something to say.
    fn meet(&self, membership: &Membership) {
        let others = membership.members().filter(|(_, member)| member.node != self.shared.node);
        let others = others.map(|(_, member)| (member.node, member.peer_address.clone())).collect();
        self.lanes.transport.meet(others);
    }

    /// Shows handles what the replicas of this turn look like now.
    fn publish(&mut self) {
        for group in std::mem::take(&mut self.touched) {
            let (Some(outlet), Some(status)) = (self.groups.get(&group), self.host.status(group)) else {
                continue;
            };
            let (membership_id, disk) = outlet.feed().look(|shown| (shown.membership_id, shown.disk));
            if membership_id != status.membership_id {
                self.meet(&status.membership);
            }
            tell_disk(self.shared.node, group, disk, status.disk);
            outlet.publish(status);
        }
    }

    /// Answers everybody, then takes no more.
    fn stop(&mut self, reason: &str) {
        self.shared.mailbox.close();
        let mut late = Vec::new();
        self.shared.mailbox.take_now(&mut late);
        for input in late {
            self.turn_away(input, reason);
        }
        self.host.stop(reason);
        let replies = self.work_off(self.shared.clock.now());
        self.answer(replies);
        for (_, reply) in self.waiting.drain() {
            // A request the host has not answered may have been carried out.
            drop(reply.send(Err(RequestError::OutcomeUnknown)));
        }
        for outlet in self.groups.values() {
            outlet.stop(reason.to_owned());
        }
    }

    /// What came too late: nothing of it has had any effect.
    fn turn_away(&mut self, input: HostInput, reason: &str) {
        match input {
            HostInput::Request { reply, .. } => {
                drop(reply.send(Err(RequestError::Stopped { reason: reason.to_owned() })));
            }
            HostInput::Event(event) => self.host.on_event(self.shared.clock.now(), event),
            HostInput::Fetched { fetched, permit } => {
                self.host.on_event(self.shared.clock.now(), Event::Fetched(fetched));
                drop(permit);
            }
            // Dropping a reply's sender answers it.
            HostInput::Received { .. }
            | HostInput::Reserve { .. }
            | HostInput::WriteLog { .. }
            | HostInput::Open { .. }
            | HostInput::Close { .. }
            | HostInput::Stop { .. } => {}
        }
    }
}

/// Logs when the disk stalls or fills up, and when that is over.
fn tell_disk(node: NodeId, group: GroupId, before: DiskHealth, now: DiskHealth) {
    match now {
        now if now == before => {}
        DiskHealth::Works => tracing::info!(%node, %group, "the disk of the log works again"),
        DiskHealth::Stalled => {
            tracing::warn!(%node, %group, "the disk of the log does not finish a write: a leader hands over");
        }
        DiskHealth::Full => {
            tracing::warn!(%node, %group, "the disk of the log is full: nothing is written until there is space again");
        }
    }
}

fn group_of(event: &Event) -> Option<GroupId> {
    match event {
        Event::Tick | Event::Unreachable { .. } => None,
        Event::Received { message, .. } => Some(message.group),
        Event::Request { group, .. } => Some(*group),
        Event::LogWritten(written) => Some(written.group),
        Event::Fetched(fetched) => Some(fetched.group),
        Event::Applied(
            Applied::Entries { group, .. }
            | Applied::Restored { group, .. }
            | Applied::Query { group, .. }
            | Applied::Captured { group, .. }
            | Applied::Flushed { group, .. }
            | Applied::Removed { group }
            | Applied::Failed { group, .. },
        )
        | Event::Snapshot(
            SnapshotEvent::Saved { group, .. }
            | SnapshotEvent::SaveFailed { group, .. }
            | SnapshotEvent::SendStarted { group, .. }
            | SnapshotEvent::SendEnded { group, .. }
            | SnapshotEvent::Staged { group, .. },
        ) => Some(*group),
        Event::Snapshot(SnapshotEvent::Send { .. } | SnapshotEvent::WantsBytes { .. }) => None,
    }
}

fn apply_bytes(task: &ApplyTask) -> usize {
    match task {
        ApplyTask::Apply { entries, .. } => entries.iter().map(entry_bytes).sum(),
        ApplyTask::Query { request, .. } => request.len(),
        ApplyTask::Restore { .. }
        | ApplyTask::Capture { .. }
        | ApplyTask::Flush { .. }
        | ApplyTask::Remove { .. } => 0,
    }
}

fn snapshot_bytes(task: &SnapshotTask) -> usize {
    match task {
        SnapshotTask::Receive { chunk, .. } => chunk.data.len(),
        SnapshotTask::Save { .. }
        | SnapshotTask::Send(_)
        | SnapshotTask::AskAgain { .. }
        | SnapshotTask::Allow { .. }
        | SnapshotTask::Close { .. }
        | SnapshotTask::Acked { .. }
        | SnapshotTask::CancelSend { .. }
        | SnapshotTask::Retain { .. } => 0,
    }
}
