//! The applier: runs every group's state machine, a task at a time.
//!
//! A machine that fails or panics stops its own replica with the reason; its neighbours go on.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use quorate_core::{Entry, EntryPayload, GroupId, LogId};
use quorate_storage::{SnapshotInfo, SnapshotReader, SnapshotStore};

use crate::event::{Applied, ApplyTask, Event};
use crate::request::{Answer, RequestError};
use crate::sessions::Sessions;
use crate::state_machine::MachineError;

/// A state machine with its sessions, ready to go on.
pub struct RecoveredMachine {
    /// The group.
    pub group: GroupId,
    pub(crate) sessions: Sessions,
    pub(crate) applied: LogId,
}

/// Runs the state machines, each wrapped in its session table.
pub struct Applier {
    snapshots: Arc<dyn SnapshotStore>,
    machines: BTreeMap<GroupId, RecoveredMachine>,
}

impl Applier {
    /// An applier without machines that reads snapshots from `snapshots`.
    #[must_use]
    pub fn new(snapshots: Arc<dyn SnapshotStore>) -> Self {
        Self { snapshots, machines: BTreeMap::new() }
    }

    /// Adds a machine recovered by [`recover_group`](crate::recover_group).
    pub fn add(&mut self, machine: RecoveredMachine) {
        self.machines.insert(machine.group, machine);
    }

    /// Does one task. A panic of the machine is caught and stops its replica only.
    pub fn step(&mut self, task: ApplyTask) -> Vec<Event> {
        let group = task.group();
        if let ApplyTask::Remove { .. } = task {
            self.machines.remove(&group);
            return Vec::new();
        }
        let Some(machine) = self.machines.get_mut(&group) else { return Vec::new() };
        let snapshots = Arc::clone(&self.snapshots);
        let outcome = catch_unwind(AssertUnwindSafe(|| machine.run(task, &*snapshots)));
        let applied = match outcome {
            Ok(Ok(applied)) => applied,
            Ok(Err(error)) => Applied::Failed { group, reason: describe(&error) },
            Err(panic) => Applied::Failed {
                group,
                reason: format!("the state machine panicked: {}", panic_text(&*panic)),
            },
        };
        if let Applied::Failed { .. } = applied {
            self.machines.remove(&group);
        }
        vec![Event::Applied(applied)]
    }
}

impl ApplyTask {
    pub(crate) const fn group(&self) -> GroupId {
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

/// An error with its causes, on one line.
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

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

impl RecoveredMachine {
    fn run(&mut self, task: ApplyTask, snapshots: &dyn SnapshotStore) -> Result<Applied, MachineError> {
        let group = self.group;
        Ok(match task {
            ApplyTask::Apply { entries, .. } => self.apply(&entries)?,
            ApplyTask::Restore { snapshot, .. } => {
                self.restore(snapshots, &snapshot)?;
                Applied::Restored { group, last: snapshot.meta.last }
            }
            ApplyTask::Query { ticket, request, .. } => {
                let response = self.sessions.query(&request)?;
                Applied::Query {
                    group,
                    ticket,
                    answer: Answer::Queried { applied: self.applied.index, response },
                }
            }
            ApplyTask::Capture { meta, .. } => {
                assert!(meta.last == self.applied, "a snapshot is taken elsewhere than it says");
                Applied::Captured { group, meta, source: self.sessions.snapshot()? }
            }
            ApplyTask::Flush { .. } => Applied::Flushed { group, durable: self.sessions.flush()? },
            ApplyTask::Remove { .. } => unreachable!("done by the applier"),
        })
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<Applied, MachineError> {
        let mut responses: Vec<(LogId, Result<Answer, RequestError>)> = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            // A durable machine may be ahead of what its replica knew to be applied.
            if entry.index() <= self.applied.index {
                continue;
            }
            assert!(entry.index() == self.applied.index.next(), "entries are applied in order");
            if let EntryPayload::Command(command) = &entry.payload {
                bytes += command.len() as u64;
                responses.push((entry.id, self.sessions.apply(entry.id, command)?));
            }
            self.applied = entry.id;
        }
        self.sessions.commit(self.applied)?;
        let through = entries.last().map_or(self.applied.index, Entry::index);
        Ok(Applied::Entries { group: self.group, through, responses, bytes })
    }

    pub(crate) fn restore(
        &mut self,
        snapshots: &dyn SnapshotStore,
        info: &SnapshotInfo,
    ) -> Result<(), MachineError> {
        let reader = snapshots
            .open(info)
            .map_err(|error| MachineError::with("its snapshot cannot be opened", error))?;
        let mut content = Content { reader, at: 0 };
        self.sessions.restore(&mut content, info.meta.last)?;
        self.applied = info.meta.last;
        Ok(())
    }
}

/// A snapshot's content as a stream.
struct Content {
    reader: Box<dyn SnapshotReader>,
    at: u64,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read_at(self.at, buffer).map_err(io::Error::other)?;
        self.at += count as u64;
        Ok(count)
    }
}
