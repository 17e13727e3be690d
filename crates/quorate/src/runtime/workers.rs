//! The threads behind the host that have a mailbox: they do what may block, and report back to the
//! host's. (State machines run in `apply_pool.rs`.)

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::GroupId;
use quorate_host::{Event, FetchTask, LogFetcher, LogTask, SnapshotTask, Snapshotter};
use quorate_storage::{LogError, SnapshotError};
use tokio::sync::oneshot;

use crate::runtime::apply_pool::ApplyPool;
use crate::runtime::gauge::{Gauge, Permit};
use crate::runtime::host_thread::{HostInput, Shared};
use crate::runtime::log_lane::LogThread;
use crate::runtime::mailbox::Mailbox;
use crate::transport::entry_bytes;

/// For the log thread.
pub(crate) enum LogInput {
    /// The completion goes to the host.
    Task { task: LogTask, permit: Permit },
    /// The completion goes to whoever asked; the host does not know the group yet (or any more).
    Asked { task: LogTask, reply: oneshot::Sender<Result<(), LogError>> },
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
pub(crate) fn log_loop(thread: LogThread, mailbox: &Mailbox<LogInput>, shared: &Shared) {
    let LogThread { mut writer, mut space } = thread;
    let mut inputs = Vec::new();
    loop {
        writer.set_low_on_space(space.is_low());
        shared.set_log_figures(writer.stats(), space.free_bytes());
        let is_open = match space.look_within() {
            Some(within) => {
                mailbox.take_within(&mut inputs, within);
                !inputs.is_empty() || !mailbox.is_closed()
            }
            None => mailbox.take(&mut inputs),
        };
        if !is_open {
            return;
        }
        writer.set_low_on_space(space.is_low());
        let mut asked = Vec::new();
        let mut permits = Vec::with_capacity(inputs.len());
        let mut tasks = Vec::with_capacity(inputs.len());
        for input in inputs.drain(..) {
            match input {
                LogInput::Task { task, permit } => {
                    tasks.push(task);
                    permits.push(permit);
                }
                LogInput::Asked { task, reply } => asked.push((task, reply)),
            }
        }
        writer.submit(tasks);
        let events = writer.step();
        drop(permits);
        let mut failure = complete(events, asked.is_empty() && mailbox.is_empty(), shared);
        // Asked for by somebody who waits, rarely: one at a time, so that each gets its own result.
        for (task, reply) in asked {
            let result = writer.write_now(&task);
            failure = failure.or_else(|| failure_of(&result));
            // Whoever asked may have given up.
            drop(reply.send(result));
        }
        if let Some(reason) = failure {
            // Nothing is known about the disk any more: the node must not promise anything again.
            shared.fail(reason);
        }
    }
}

/// Tells the host what has been written; the reason when the log has failed for good.
fn complete(events: Vec<Event>, is_idle: bool, shared: &Shared) -> Option<String> {
    let failure = failure_within(&events);
    shared.bring_events(events, is_idle);
    failure
}

/// Why the log has failed for good, if one of its completions says so.
pub(crate) fn failure_within(events: &[Event]) -> Option<String> {
    events.iter().find_map(|event| match event {
        Event::LogWritten(written) => failure_of(&written.result),
        Event::Tick
        | Event::Received { .. }
        | Event::Request { .. }
        | Event::Unreachable { .. }
        | Event::Applied(_)
        | Event::Fetched(_)
        | Event::Snapshot(_) => None,
    })
}

pub(crate) fn failure_of(result: &Result<(), LogError>) -> Option<String> {
    let Err(error @ LogError::Failed { .. }) = result else { return None };
    Some(error.to_string())
}

/// How long older entries wait for room before that is looked for again.
const ROOM_WAIT: Duration = Duration::from_millis(2);

/// Older entries to be read. They are not read before there is room for them in the backlog: after a restart every
/// group asks for its own, and nothing else would bound them together.
#[derive(Default)]
pub(crate) struct FetchQueue {
    waiting: VecDeque<FetchTask>,
}

impl FetchQueue {
    /// Reads what there is room for; says whether everything that waited has been read.
    fn step(&mut self, fetcher: &mut LogFetcher, backlog: &Arc<Gauge>, mailbox: &Mailbox<HostInput>) -> bool {
        while !backlog.is_full() {
            let Some(task) = self.waiting.pop_front() else { break };
            if let Event::Fetched(fetched) = fetcher.step(task) {
                let bytes = fetched.result.iter().flatten().map(entry_bytes).sum();
                mailbox.push_all([HostInput::Fetched { fetched, permit: backlog.take(bytes) }]);
            }
        }
        self.waiting.is_empty()
    }
}

/// Reads older entries as soon as there is room for them, and takes turns between them and pieces of snapshots.
pub(crate) fn read_loop(
    mut fetcher: LogFetcher,
    mut snapshotter: Snapshotter,
    mailbox: &Mailbox<ReadInput>,
    shared: &Shared,
) {
    let mut fetches = FetchQueue::default();
    let mut is_all_read = true;
    let mut inputs = Vec::new();
    loop {
        if snapshotter.has_work() {
            mailbox.take_within(&mut inputs, Duration::ZERO);
        } else if !is_all_read && !mailbox.is_closed() {
            mailbox.take_within(&mut inputs, ROOM_WAIT);
        } else if !mailbox.take(&mut inputs) {
            return;
        }
        for input in inputs.drain(..) {
            match input {
                ReadInput::Fetch(task) => fetches.waiting.push_back(task),
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
        is_all_read = fetches.step(&mut fetcher, &shared.backlog, &shared.mailbox);
        if snapshotter.has_work() {
            if mailbox.is_closed() {
                return;
            }
            let events = snapshotter.step();
            shared.mailbox.push_all(events.into_iter().map(HostInput::Event));
        }
    }
}

/// Where a thread finds its work.
pub(crate) trait WorkPlace: Send + Sync + 'static {
    /// The thread has ended: what it leaves undone must not be waited for.
    fn abandon(&self);
}

impl<T: Send + 'static> WorkPlace for Mailbox<T> {
    fn abandon(&self) {
        Self::abandon(self);
    }
}

impl WorkPlace for ApplyPool {
    /// The others do what is left, and end.
    fn abandon(&self) {
        self.close();
    }
}

/// Ends a thread's part in the node however it ends: a panic (of ours, or of a transport or store of the user's) must
/// not leave a node that looks alive, nor anybody who waits for what lies in the thread's mailbox.
pub(crate) struct ThreadGuard<T: WorkPlace> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: &'static str,
    pub(crate) place: Arc<T>,
}

impl<T: WorkPlace> Drop for ThreadGuard<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.fail(format!("the {} thread has panicked: a bug in this build", self.name));
        }
        self.place.abandon();
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use bytes::Bytes;
    use quorate_core::{Entry, EntryPayload, LogId, LogIndex};
    use quorate_storage::{GroupState, LogReader};

    use super::*;

    /// A log of entries of a thousand bytes.
    struct Thousands;

    impl LogReader for Thousands {
        fn read(&self, _: GroupId, range: Range<LogIndex>, _: u64) -> Result<Vec<Entry>, LogError> {
            let payload = EntryPayload::Command(Bytes::from(vec![0; 1000]));
            Ok(vec![Entry { id: LogId { index: range.start, ..LogId::new(1, 1) }, payload }])
        }
        fn state(&self, _: GroupId) -> Option<GroupState> {
            None
        }
    }

    /// A node restarts, and all its groups want their entries back at the same time.
    #[test]
    fn older_entries_are_read_as_there_is_room_for_them() {
        let (backlog, mailbox) = (Gauge::new(usize::MAX, 2500), Mailbox::new());
        let (mut queue, mut fetcher) = (FetchQueue::default(), LogFetcher::new(Arc::new(Thousands)));
        let task = |group| FetchTask {
            group: GroupId(group),
            from: LogIndex(1),
            to: LogIndex(2),
            bytes_max: 1 << 20,
        };
        queue.waiting.extend((1..=7).map(task));
        let (mut read, mut taken) = (Vec::new(), Vec::new());
        for expected in [(3, false), (3, false), (1, true)] {
            let is_all = queue.step(&mut fetcher, &backlog, &mailbox);
            // Nobody has taken them yet: there is no room for more.
            assert_eq!(queue.step(&mut fetcher, &backlog, &mailbox), is_all);
            mailbox.take_within(&mut taken, Duration::ZERO);
            assert_eq!((taken.len(), is_all), expected);
            for input in taken.drain(..) {
                let HostInput::Fetched { fetched, .. } = input else { panic!("something else was read") };
                read.push(fetched.group.0);
            }
        }
        assert_eq!(read, [1, 2, 3, 4, 5, 6, 7], "in the order they were asked for");
    }
}
