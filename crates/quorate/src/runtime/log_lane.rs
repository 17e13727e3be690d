//! Where the writes of the log are done: by a thread of their own, or, when the store never waits,
//! at once.
//!
//! ```text
//!   host thread ──► mailbox ──► log thread: write, sync ──► completions to the host's mailbox
//!   host thread ──► write ──► completions, in the same turn          (`LogStore::may_wait` says no)
//! ```
//!
//! * Two wake-ups of a thread cost more than a write to memory: without them a message is answered
//!   in the turn in which it came.
//! * The host thread still never waits for a disk: a store that may wait, or one beside a disk
//!   whose space is watched, has the thread.

use std::sync::Arc;

use quorate_core::GroupId;
use quorate_host::{Event, LogTask, LogWriter};
use quorate_storage::LogError;

use crate::runtime::disk_space::SpaceGuard;
use crate::runtime::gauge::Gauge;
use crate::runtime::host_thread::Shared;
use crate::runtime::mailbox::Mailbox;
use crate::runtime::workers::{LogInput, failure_of, failure_within};
use crate::transport::entry_bytes;

/// The host's end of the log.
pub(crate) enum LogLane {
    /// For the log thread.
    Thread(Arc<Mailbox<LogInput>>),
    /// A store that never waits.
    Here(Box<LogWriter>),
}

/// What the log thread works with.
pub(crate) struct LogThread {
    pub(crate) writer: LogWriter,
    pub(crate) space: SpaceGuard,
}

impl LogLane {
    /// The lane for a store, and what is for the thread if it needs one.
    pub(crate) fn new(writer: LogWriter, mut space: SpaceGuard) -> (Self, Option<LogThread>) {
        // The first look shows whether there is anything to look at.
        if !writer.may_wait() && !space.is_low() && space.look_within().is_none() {
            return (Self::Here(Box::new(writer)), None);
        }
        (Self::Thread(Arc::new(Mailbox::new())), Some(LogThread { writer, space }))
    }

    /// What the log thread reads, if there is one.
    pub(crate) fn mailbox(&self) -> Option<Arc<Mailbox<LogInput>>> {
        match self {
            Self::Thread(mailbox) => Some(Arc::clone(mailbox)),
            Self::Here(_) => None,
        }
    }

    /// Has `tasks` written, which wait in the backlogs of their groups; returns the completions of
    /// those that have been written already.
    pub(crate) fn write<'a>(
        &mut self,
        tasks: Vec<LogTask>,
        shared: &Shared,
        backlog: impl Fn(GroupId) -> &'a Arc<Gauge>,
    ) -> Vec<Event> {
        match self {
            Self::Thread(mailbox) => {
                mailbox.push_all(tasks.into_iter().map(|task| {
                    let bytes = task.write.entries.iter().map(entry_bytes).sum();
                    LogInput::Task { permit: backlog(task.write.group).take(bytes), task }
                }));
                Vec::new()
            }
            Self::Here(writer) => {
                writer.submit(tasks);
                let events = writer.step();
                shared.set_log_figures(writer.stats(), None);
                if let Some(reason) = failure_within(&events) {
                    shared.fail(reason);
                }
                events
            }
        }
    }

    /// Writes for a group that is not open; `None` when that is not done here.
    pub(crate) fn write_now(&mut self, task: &LogTask, shared: &Shared) -> Option<Result<(), LogError>> {
        let Self::Here(writer) = self else { return None };
        let result = writer.write_now(task);
        shared.set_log_figures(writer.stats(), None);
        if let Some(reason) = failure_of(&result) {
            shared.fail(reason);
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::NodeId;
    use quorate_storage::{
        DataDir, GroupState, Identity, LogBatch, LogReader, LogStats, LogStore, MemDisk, MemLogStore,
        WriteDone,
    };

    use super::*;

    /// Like any store that somebody else wrote: it does not say whether it waits.
    #[derive(Default)]
    struct SaysNothing(MemLogStore);

    impl LogStore for SaysNothing {
        fn groups(&self) -> Vec<GroupState> {
            self.0.groups()
        }
        fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
            self.0.write(batch, must_sync, done);
        }
        fn flush(&mut self) -> Result<(), LogError> {
            self.0.flush()
        }
        fn reader(&self) -> Arc<dyn LogReader> {
            self.0.reader()
        }
        fn stats(&self) -> LogStats {
            self.0.stats()
        }
    }

    fn has_thread(store: Box<dyn LogStore>, capacity: Option<u64>) -> bool {
        let disk = MemDisk::new();
        disk.set_capacity(capacity);
        let identity = Identity { cluster: 1, node: NodeId(1), incarnation: 1 };
        let directory = DataDir::open(Arc::new(disk), identity).unwrap();
        let (lane, thread) = LogLane::new(LogWriter::new(store), SpaceGuard::new(&directory, None));
        assert_eq!(lane.mailbox().is_some(), thread.is_some());
        thread.is_some()
    }

    #[test]
    fn only_a_log_that_never_waits_is_written_by_the_host_thread() {
        assert!(!has_thread(Box::new(MemLogStore::new()), None));
        assert!(has_thread(Box::new(SaysNothing::default()), None));
        assert!(has_thread(Box::new(MemLogStore::new()), Some(1 << 20)), "somebody has to look at the disk");
    }
}
