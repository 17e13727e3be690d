//! The three threads behind the host: they do what may block, and report back to its mailbox.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use quorate_core::GroupId;
use quorate_host::{
    Applier, ApplyTask, Event, FetchTask, LogFetcher, LogTask, LogWriter, LogWritten, RecoveredMachine,
    SnapshotTask, Snapshotter,
};
use quorate_storage::LogError;
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
}

/// Everything that waits becomes one write and one sync.
pub(crate) fn log_loop(mut writer: LogWriter, mailbox: &Mailbox<LogInput>, shared: &Shared) {
    while let Some(inputs) = mailbox.take() {
        let mut asked = BTreeMap::new();
        let mut permits = Vec::with_capacity(inputs.len());
        let mut tasks = Vec::with_capacity(inputs.len());
        for input in inputs {
            match input {
                LogInput::Task { task, permit } => {
                    tasks.push(task);
                    permits.push(permit);
                }
                LogInput::Asked { task, reply } => {
                    asked.insert(task.write.group, reply);
                    tasks.push(task);
                }
            }
        }
        writer.submit(tasks);
        let events = writer.step();
        *shared.log_stats.lock().unwrap_or_else(PoisonError::into_inner) = writer.stats();
        drop(permits);
        let failure = events.iter().find_map(failure_of);
        shared.mailbox.push_all(events.into_iter().filter_map(|event| answer_asked(event, &mut asked)));
        if let Some(reason) = failure {
            // Nothing is known about the disk any more: the node must not promise anything again.
            shared.fail(reason);
        }
    }
}

fn failure_of(event: &Event) -> Option<String> {
    if let Event::LogWritten(LogWritten { result: Err(error @ LogError::Failed { .. }), .. }) = event {
        Some(error.to_string())
    } else {
        None
    }
}

/// Gives a completion that was asked for to whoever asked, and returns all others.
fn answer_asked(
    event: Event,
    asked: &mut BTreeMap<GroupId, oneshot::Sender<Result<(), LogError>>>,
) -> Option<HostInput> {
    let Event::LogWritten(LogWritten { group, token: None, result }) = &event else {
        return Some(HostInput::Event(event));
    };
    let Some(reply) = asked.remove(group) else {
        return Some(HostInput::Event(event));
    };
    // Whoever asked may have given up.
    drop(reply.send(result.clone()));
    None
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
