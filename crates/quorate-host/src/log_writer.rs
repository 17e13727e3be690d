//! The log writer. Step 6 of the write path: everything that waits, of all groups, becomes durable
//! with one sync; then the completions go back to the host.
//!
//! Previous: `quorate-core/src/leader.rs`. Next: `quorate-core/src/follower.rs`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_core::{GroupId, PersistToken};
use quorate_storage::{LogBatch, LogError, LogStats, LogStore};

use crate::event::{Event, LogTask, LogWritten};

/// Turns everything that waits into as few batches as order allows, and one sync.
pub struct LogWriter {
    store: Box<dyn LogStore>,
    tasks: VecDeque<LogTask>,
    /// Filled by the store's completions.
    done: Arc<Mutex<Vec<LogWritten>>>,
}

impl LogWriter {
    /// A writer on `store`.
    #[must_use]
    pub fn new(store: Box<dyn LogStore>) -> Self {
        Self { store, tasks: VecDeque::new(), done: Arc::default() }
    }

    /// Submits tasks (cheap, no I/O). A group's tasks are written in the order of submission.
    pub fn submit(&mut self, tasks: Vec<LogTask>) {
        self.tasks.extend(tasks);
    }

    /// Writes and syncs everything submitted: blocks on the disk. Returns the completions.
    pub fn step(&mut self) -> Vec<Event> {
        while !self.tasks.is_empty() {
            self.write_round();
        }
        // An error of the flush reaches every batch through its completion.
        let failed = self.store.flush().err();
        let mut done = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        if let (Some(error), true) = (failed, done.is_empty()) {
            let (group, token) = (GroupId(0), None);
            done.push(LogWritten { group, token, result: Err(error) });
        }
        done.into_iter().map(Event::LogWritten).collect()
    }

    /// Writes one batch: the next task of each group, as far as they are in front.
    fn write_round(&mut self) {
        let mut batch = LogBatch::default();
        let mut waiting: Vec<(GroupId, Option<PersistToken>)> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut must_sync = false;
        while let Some(task) = self.tasks.pop_front_if(|task| seen.insert(task.write.group)) {
            must_sync |= task.must_sync;
            waiting.push((task.write.group, task.token));
            batch.groups.push(task.write);
        }
        let done = Arc::clone(&self.done);
        let complete = move |result: Result<(), LogError>| {
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.extend(waiting.into_iter().map(|(group, token)| LogWritten {
                group,
                token,
                result: result.clone(),
            }));
        };
        self.store.write(batch, must_sync, Box::new(complete));
    }

    /// Figures of the store.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.store.stats()
    }
}
