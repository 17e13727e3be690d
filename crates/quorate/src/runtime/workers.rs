//! The three threads behind the host: they do what may block, and report back to its mailbox.

use std::sync::{Arc, PoisonError};

use quorate_core::GroupId;
use quorate_host::{
    Applier, ApplyTask, Event, FetchTask, LogFetcher, LogTask, LogWriter, RecoveredMachine, SnapshotTask,
    Snapshotter,
};
use quorate_storage::{LogError, SnapshotError};
use tokio::sync::oneshot;

use crate::runtime::gauge::Permit;
use crate::runtime::host_thread::{HostInput, Shared};
use crate::runtime::mailbox::Mailbox;

/// For the log thread.
pub(crate) enum LogInput {
    /// The completion goes to the host.
    Task { task: LogTask, permit: Permit },
    /// The completion goes to whoever asked; the host does not know the group yet (or any more).
    Asked { task: LogTask, reply: oneshot::Sender<Result<(), LogError>> },
}

/// For the apply thread.
pub(crate) enum ApplyInput {
    /// A task of the host.
    Task { task: ApplyTask, permit: Permit },
    /// A group is about to be opened.
    Add(Box<RecoveredMachine>),
}

/// For the read thread.
pub(crate) enum ReadInput {
    /// Older entries.
    Fetch(FetchTask),
    /// Snapshots.
    Snapshot { task: SnapshotTask, permit: Permit },
    /// A closed group was removed from this node: its snapshots go, and nothing brings them back.
    Forget { group: GroupId, reply: oneshot::Sender<Result<(), SnapshotError>> },
}

/// Everything that waits becomes one write and one sync.
pub(crate) fn log_loop(mut writer: LogWriter, mailbox: &Mailbox<LogInput>, shared: &Shared) {
    while let Some(inputs) = mailbox.take() {
        let mut asked = Vec::new();
        let mut permits = Vec::with_capacity(inputs.len());
        let mut tasks = Vec::with_capacity(inputs.len());
        for input in inputs {
            match input {
                LogInput::Task { task, permit } => {
                    tasks.push(task);
                    permits.push(permit);
                }
                LogInput::Asked { task, reply } => asked.push((task, reply)),
            }
        }
        writer.submit(tasks);
        let mut failure = complete(writer.step(), shared);
        drop(permits);
        // Asked for by somebody who waits, rarely: one at a time, so that each gets its own result.
        for (task, reply) in asked {
            let result = writer.write_now(&task);
            failure = failure.or_else(|| failure_of(&result));
            // Whoever asked may have given up.
            drop(reply.send(result));
        }
        *shared.log_stats.lock().unwrap_or_else(PoisonError::into_inner) = writer.stats();
        if let Some(reason) = failure {
            // Nothing is known about the disk any more: the node must not promise anything again.
            shared.fail(reason);
        }
    }
}

/// Tells the host what has been written; the reason when the log has failed for good.
fn complete(events: Vec<Event>, shared: &Shared) -> Option<String> {
    let failure = events.iter().find_map(|event| match event {
        Event::LogWritten(written) => failure_of(&written.result),
        Event::Tick
        | Event::Received { .. }
        | Event::Request { .. }
        | Event::Unreachable { .. }
        | Event::Applied(_)
        | Event::Fetched(_)
        | Event::Snapshot(_) => None,
    });
    shared.mailbox.push_all(events.into_iter().map(HostInput::Event));
    failure
}

fn failure_of(result: &Result<(), LogError>) -> Option<String> {
    let Err(error @ LogError::Failed { .. }) = result else { return None };
    Some(error.to_string())
}

/// Runs the state machines.
pub(crate) fn apply_loop(mut applier: Applier, mailbox: &Mailbox<ApplyInput>, shared: &Shared) {
    while let Some(inputs) = mailbox.take() {
        for input in inputs {
            match input {
                ApplyInput::Add(machine) => applier.add(*machine),
                ApplyInput::Task { task, permit } => {
                    let events = applier.step(task);
                    drop(permit);
                    shared.mailbox.push_all(events.into_iter().map(HostInput::Event));
                }
            }
        }
    }
}

/// Reads older entries at once, and takes turns between them and pieces of snapshots.
pub(crate) fn read_loop(
    mut fetcher: LogFetcher,
    mut snapshotter: Snapshotter,
    mailbox: &Mailbox<ReadInput>,
    shared: &Shared,
) {
    loop {
        let inputs = if snapshotter.has_work() {
            mailbox.take_within(std::time::Duration::ZERO)
        } else {
            match mailbox.take() {
                Some(inputs) => inputs,
                None => return,
            }
        };
        for input in inputs {
            match input {
                ReadInput::Fetch(task) => {
                    let event = fetcher.step(task);
                    shared.mailbox.push_all([HostInput::Event(event)]);
                }
                ReadInput::Snapshot { task, permit } => {
                    snapshotter.submit(task);
                    drop(permit);
                }
                ReadInput::Forget { group, reply } => {
                    let result = snapshotter.forget(group).map(|events| {
                        shared.mailbox.push_all(events.into_iter().map(HostInput::Event));
                    });
                    // Whoever asked may have given up.
                    drop(reply.send(result));
                }
            }
        }
        if snapshotter.has_work() {
            if mailbox.is_closed() {
                return;
            }
            let events = snapshotter.step();
            shared.mailbox.push_all(events.into_iter().map(HostInput::Event));
        }
    }
}

/// Ends a thread's part in the node however it ends: a panic of ours must not leave a node that
/// looks alive.
pub(crate) struct ThreadGuard {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: &'static str,
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.fail(format!("the {} thread has panicked: a bug in this build", self.name));
        }
    }
}
