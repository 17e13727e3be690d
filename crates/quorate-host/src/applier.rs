//! The applier: runs the state machines, each behind its session table.
//!
//! ```text
//!   ApplyTask::Apply ──► decode ──► sessions ──► machine.apply     per command
//!                                     then one machine.commit      per batch, with the session records
//!   ApplyTask::Query ──► machine.query      in the order of the lane: sees everything applied before it
//!   ApplyTask::Capture ──► ContentSource    a view; the snapshotter reads it out later
//! ```
//!
//! * Every command goes to its machine once, in log order, or is answered from the session table.
//! * A machine that fails or panics is dropped and its group reports `Applied::Failed`; tasks for
//!   it are ignored from then on. The other groups do not notice.
//! * Not here: when to do any of this (`replica.rs`), and on which threads
//!   (`quorate/src/runtime/apply_pool.rs`).

use std::collections::BTreeMap;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::planted::planted;
use quorate_core::{Entry, EntryPayload, GroupId, LogId, SnapshotMeta};
use quorate_storage::{SnapshotInfo, SnapshotStore};

use crate::command::{LoggedCommand, LoggedKind};
use crate::config::SessionConfig;
use crate::event::{Applied, ApplyTask, Event, SnapshotEvent};
use crate::incoming::{self, Filling, Incoming, Piece, Place};
use crate::request::{Answer, Proposal, RequestError, Ticket};
use crate::sessions::{Sessions, Verdict};
use crate::snapshot_content::{ContentReader, ContentSource, SessionSection};
use crate::state_machine::{BatchEnd, Command, MachineError, SnapshotSource, StateMachine};

/// Runs the state machines, each wrapped in its session table: [`RecoveredMachine::step`] for each
/// of many groups, on one thread.
pub struct Applier {
    snapshots: Arc<dyn SnapshotStore>,
    machines: BTreeMap<GroupId, MachinePlace>,
}

/// Where a group's state machine is, while there is one. In a box: the leaves of a tree are half
/// empty.
pub type MachinePlace = Option<Box<RecoveredMachine>>;

/// A state machine with its sessions, ready to go on.
pub struct RecoveredMachine {
    /// The group.
    pub group: GroupId,
    pub(crate) machine: Box<dyn StateMachine>,
    pub(crate) sessions: Sessions,
    pub(crate) incoming: Incoming,
    pub(crate) applied: LogId,
}

impl std::fmt::Debug for RecoveredMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecoveredMachine")
            .field("group", &self.group)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl Applier {
    /// An applier without machines that reads snapshots from `snapshots`.
    #[must_use]
    pub fn new(snapshots: Arc<dyn SnapshotStore>) -> Self {
        Self { snapshots, machines: BTreeMap::new() }
    }

    /// Adds a machine recovered by [`recover_group`](crate::recover_group).
    pub fn add(&mut self, machine: RecoveredMachine) {
        self.machines.insert(machine.group, Some(Box::new(machine)));
    }

    /// Does one task. A panic of the machine is caught and stops its replica only.
    pub fn step(&mut self, task: ApplyTask) -> Vec<Event> {
        let group = task.group();
        let place = self.machines.entry(group).or_default();
        let events = RecoveredMachine::step(place, task, &*self.snapshots);
        if place.is_none() {
            self.machines.remove(&group);
        }
        events
    }
}

impl ApplyTask {
    /// Whose task it is.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        match self {
            Self::Apply { group, .. }
            | Self::Restore { group, .. }
            | Self::Query { group, .. }
            | Self::Capture { group, .. }
            | Self::Flush { group }
            | Self::Remove { group } => *group,
        }
    }
}

impl RecoveredMachine {
    /// Does one task of the group whose machine is in `place`; nothing without one. A panic of the
    /// machine is caught. A machine that fails, panics or is removed is dropped: `place` is empty
    /// then.
    ///
    /// This is all there is to the lane of one group. The tasks of a group go through here one
    /// after the other, in the order they were given out; groups know nothing of each other, and
    /// may be on different threads.
    pub fn step(place: &mut MachinePlace, task: ApplyTask, snapshots: &dyn SnapshotStore) -> Vec<Event> {
        let group = task.group();
        if let ApplyTask::Remove { .. } = task {
            Self::discard(place.take());
            return vec![Event::Applied(Applied::Removed { group })];
        }
        let Some(machine) = place else { return Vec::new() };
        if let ApplyTask::Capture { meta, .. } = &task
            && meta.last.index < machine.applied.index
        {
            // A machine on disk that is ahead of a log that has lost its end: later, when that is back.
            let reason = format!("the state machine is at {} already", machine.applied);
            return vec![Event::Snapshot(SnapshotEvent::SaveFailed { group, reason })];
        }
        // The machine is not used again after a panic, so what it left half done is never seen.
        let result = catch_unwind(AssertUnwindSafe(|| machine.run(task, snapshots)));
        let failure = match result {
            Ok(Ok(applied)) => return vec![Event::Applied(applied)],
            Ok(Err(error)) => describe(&error),
            Err(panic) => format!("the state machine panicked: {}", panic_text(&*panic)),
        };
        Self::discard(place.take());
        vec![Event::Applied(Applied::Failed { group, reason: failure })]
    }

    /// Drops a machine: even that may panic in one that is already broken; the others go on.
    pub fn discard(machine: MachinePlace) {
        drop(catch_unwind(AssertUnwindSafe(|| drop(machine))));
    }

    fn run(&mut self, task: ApplyTask, snapshots: &dyn SnapshotStore) -> Result<Applied, MachineError> {
        match task {
            ApplyTask::Apply { group, entries } => self.apply(Place { store: snapshots, group }, &entries),
            ApplyTask::Restore { group, snapshot } => {
                self.restore(snapshots, &snapshot)?;
                let active_version = self.sessions.active_version();
                let limits = self.sessions.limits().clone();
                Ok(Applied::Restored { group, last: self.applied, active_version, limits })
            }
            ApplyTask::Query { group, ticket, request } => self.query(group, ticket, &request),
            ApplyTask::Capture { group, meta } => self.capture(group, meta),
            ApplyTask::Flush { group } => Ok(Applied::Flushed { group, durable: self.machine.flush()? }),
            ApplyTask::Remove { .. } => Err(MachineError::new("removed")),
        }
    }

    fn apply(&mut self, place: Place<'_>, entries: &[Entry]) -> Result<Applied, MachineError> {
        let mut responses = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            if entry.index() <= self.applied.index {
                continue;
            }
            if entry.index() != self.applied.index.next() {
                let reason = format!("entry {} was given after {}", entry.id, self.applied);
                return Err(MachineError::new(reason));
            }
            self.applied = entry.id;
            match &entry.payload {
                EntryPayload::Noop | EntryPayload::Membership(_) | EntryPayload::Withheld => {}
                EntryPayload::Command(payload) => {
                    bytes += payload.len() as u64;
                    responses.push((entry.id, self.apply_command(place, entry.id, payload)?));
                }
            }
        }
        self.commit()?;
        let through = entries.last().map_or(self.applied.index, Entry::index);
        let active_version = self.sessions.active_version();
        let limits = self.sessions.limits().clone();
        let group = place.group;
        Ok(Applied::Entries { group, through, responses, bytes, active_version, limits })
    }

    /// Ends a batch.
    fn commit(&mut self) -> Result<(), MachineError> {
        if !self.machine.is_durable() {
            self.sessions.discard_records();
            self.incoming.discard_records();
            return self.machine.commit(BatchEnd { applied: self.applied, records: &[] });
        }
        let mut records = self.sessions.take_records(self.applied.index);
        records.extend(self.incoming.take_records()?);
        self.machine.commit(BatchEnd { applied: self.applied, records: &records })?;
        if self.incoming.has_retired() && self.machine.flush()?.index >= self.applied.index {
            self.incoming.discard_retired();
        }
        Ok(())
    }

    /// The answer to one command, or why the machine failed.
    fn apply_command(
        &mut self,
        place: Place<'_>,
        id: LogId,
        payload: &Bytes,
    ) -> Result<Result<Answer, RequestError>, MachineError> {
        if let Some(version) = LoggedCommand::newer_version(payload) {
            let reason =
                format!("entry {id} is a command of version {version}: this node needs a newer build");
            return Err(MachineError::new(reason));
        }
        // Written by something else. Refused alike on every replica.
        let Ok(logged) = LoggedCommand::decode(payload) else {
            return Ok(Err(RequestError::Malformed));
        };
        if let LoggedKind::Limits(limits) = &logged.kind {
            // Before the clock: what is over by the old limits need not be by the new ones.
            self.sessions.set_limits(limits.clone());
        }
        self.sessions.advance(logged.unix_millis);
        self.incoming.advance(self.sessions.unix_millis(), self.sessions.idle_max_millis());
        let Proposal { command: data, dedupe, extension } = match logged.kind {
            LoggedKind::Limits(_) => return Ok(Ok(Answer::Applied { id, response: Bytes::new() })),
            LoggedKind::Open => return Ok(Ok(self.sessions.open(id))),
            LoggedKind::Piece { restore, offset, data } => {
                let unix_millis = self.sessions.unix_millis();
                let bytes_max = self.sessions.limits().restore_bytes_max;
                let piece = Piece { restore, offset, data, at: id.index, unix_millis, bytes_max };
                let taken = self.incoming.take_piece(place, &piece)?;
                return Ok(taken.map(|()| Answer::Applied { id, response: Bytes::new() }));
            }
            LoggedKind::Abandon { restore } => {
                self.incoming.abandon(restore);
                return Ok(Ok(Answer::Applied { id, response: Bytes::new() }));
            }
            LoggedKind::Install { restore, bytes, crc } => {
                return match self.incoming.take_whole(restore, bytes, crc)? {
                    Ok(content) => self.install(id, content),
                    Err(refused) => Ok(Err(refused)),
                };
            }
            LoggedKind::Gate { version } => {
                self.sessions.open_gate(version);
                self.check_version()?;
                return Ok(Ok(Answer::Applied { id, response: Bytes::new() }));
            }
            LoggedKind::Command(proposal) => proposal,
        };
        if let Verdict::Answer(answer) = self.sessions.check(id, &dedupe) {
            return Ok(answer);
        }
        let unix_millis = self.sessions.unix_millis();
        let response = self.machine.apply(Command { id, unix_millis, data: &data, extension: &extension })?;
        self.sessions.keep(id, &dedupe, &response);
        Ok(Ok(Answer::Applied { id, response }))
    }

    /// Replaces the machine's state by one from outside; clients keep their sessions.
    fn install(
        &mut self,
        id: LogId,
        mut content: impl Read,
    ) -> Result<Result<Answer, RequestError>, MachineError> {
        let mut records: Vec<_> =
            self.sessions.records().into_iter().map(|(key, value)| (key, Some(value))).collect();
        records.extend(self.incoming.take_records()?);
        self.machine
            .restore(&mut content, BatchEnd { applied: id, records: &records })
            .map_err(|error| MachineError::with(format!("the state from outside at {id}"), error))?;
        self.sessions.set_saved(id.index);
        Ok(Ok(Answer::Applied { id, response: Bytes::new() }))
    }

    /// Whether the machine understands what the group uses.
    pub(crate) fn check_version(&self) -> Result<(), MachineError> {
        let (active, supported) = (self.sessions.active_version(), self.machine.supported_version());
        if active > supported {
            return Err(MachineError::new(format!(
                "the group uses commands of version {active}, the state machine of this build understands {supported}: \
                 start a newer build on this node"
            )));
        }
        Ok(())
    }

    fn query(&self, group: GroupId, ticket: Ticket, request: &[u8]) -> Result<Applied, MachineError> {
        let response = self.machine.query(request)?;
        Ok(Applied::Query {
            group,
            ticket,
            answer: Answer::Queried { applied: self.applied.index, response },
        })
    }

    fn capture(&mut self, group: GroupId, meta: SnapshotMeta) -> Result<Applied, MachineError> {
        if meta.last != self.applied {
            let reason = format!("asked for a view at {} but at {}", meta.last, self.applied);
            return Err(MachineError::new(reason));
        }
        let source = self.machine.snapshot()?;
        let source: Box<dyn SnapshotSource> = Box::new(ContentSource::new(
            &if planted("sessions_not_in_snapshots") { Vec::new() } else { self.sessions.records() },
            self.incoming.view(),
            source,
        ));
        Ok(Applied::Captured { group, meta, source })
    }

    /// Replaces sessions and machine by a stored snapshot.
    pub(crate) fn restore(
        &mut self,
        snapshots: &dyn SnapshotStore,
        snapshot: &SnapshotInfo,
    ) -> Result<(), MachineError> {
        let last = snapshot.meta.last;
        let reader = snapshots
            .open(snapshot)
            .map_err(|error| MachineError::with(format!("snapshot at {last} cannot be opened"), error))?;
        let mut content = ContentReader::new(reader);
        let (stored, filling) =
            read_section(&mut content, Place { store: snapshots, group: snapshot.group }, last)?;
        self.sessions = Sessions::from_records(SessionConfig::default(), &stored)
            .map_err(|error| MachineError::with(format!("sessions of the snapshot at {last}"), error))?;
        self.sessions.set_saved(last.index);
        self.check_version()?;
        let mut incoming = filling.finish()?;
        let mut records: Vec<_> = stored.into_iter().map(|(key, value)| (key, Some(value))).collect();
        if self.machine.is_durable() {
            records.extend(incoming.take_records()?);
        }
        self.machine.restore(&mut content, BatchEnd { applied: last, records: &records })?;
        self.incoming.replace(incoming);
        self.applied = last;
        Ok(())
    }
}

/// The records of sessions in a snapshot, and a state from outside that was on its way.
fn read_section<'a>(
    content: &mut ContentReader,
    place: Place<'a>,
    last: LogId,
) -> Result<(Vec<(Bytes, Bytes)>, Filling<'a>), MachineError> {
    let unreadable = |error| MachineError::with(format!("snapshot at {last} cannot be read"), error);
    let mut section = SessionSection::open(content).map_err(unreadable)?;
    let (mut stored, mut filling) = (Vec::new(), Filling::new(place, last.index));
    while let Some((key, value)) = section.next().map_err(unreadable)? {
        if incoming::is_record(&key) {
            filling.record(&key, &value)?;
        } else {
            stored.push((key, value));
        }
    }
    Ok((stored, filling))
}

/// An error with its causes in one line.
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
