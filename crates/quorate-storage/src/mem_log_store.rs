//! A log store in memory: for tests, for groups that need no disk, and for simulated crashes.
//!
//!   write ──► queue ──flush──► visible table (readers)
//!                        └────► durable table (only if crashes are wanted; synced batches)
//!
//! Batches that need no sync reach the durable table with the next one that does; `crash` puts the
//! durable table back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use quorate_core::{Entry, GroupId, LogIndex};

use crate::entry_window::EntryWindow;
use crate::error::LogError;
use crate::group_log::GroupLog;
use crate::log_store::{GroupState, GroupWrite, LogBatch, LogReader, LogStats, LogStore, WriteDone};

#[derive(Clone, Debug)]
struct MemGroup {
    log: GroupLog,
    entries: EntryWindow<Entry>,
}

type Table = BTreeMap<GroupId, MemGroup>;

/// A [`LogStore`] that lives in memory.
#[derive(Default)]
pub struct MemLogStore {
    visible: Arc<MemReader>,
    /// What survives `crash`, if crashes are wanted.
    durable: Option<Table>,
    /// Completed but not synced yet.
    unsynced: Vec<LogBatch>,
    queue: Vec<(LogBatch, bool, WriteDone)>,
    stats: LogStats,
}

#[derive(Default)]
struct MemReader {
    table: RwLock<Table>,
}

impl MemLogStore {
    /// An empty store that keeps everything until it is dropped.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that can [`crash`](Self::crash).
    #[must_use]
    pub fn with_crashes() -> Self {
        Self { durable: Some(Table::new()), ..Self::default() }
    }

    /// Forgets what a power failure would forget: everything queued (its completions are never
    /// called) and every batch that no sync followed. Without [`with_crashes`](Self::with_crashes)
    /// only the queue is lost.
    pub fn crash(&mut self) {
        self.queue.clear();
        self.unsynced.clear();
        if let Some(durable) = &self.durable {
            *self.visible.table.write().unwrap_or_else(PoisonError::into_inner) = durable.clone();
        }
    }

    fn sync(&mut self) {
        self.stats.syncs += 1;
        if let Some(durable) = &mut self.durable {
            for batch in self.unsynced.drain(..) {
                apply(durable, &batch);
            }
        }
    }
}

/// Fails with the first rule that is broken.
fn check(table: &Table, batch: &LogBatch) -> Result<(), LogError> {
    let new = GroupLog::default();
    let mut named = BTreeSet::new();
    for write in &batch.groups {
        let invalid = |what| LogError::Invalid { group: write.group, what };
        if !named.insert(write.group) {
            return Err(invalid("a batch names a group once"));
        }
        table.get(&write.group).map_or(&new, |group| &group.log).check(write).map_err(invalid)?;
    }
    Ok(())
}

fn apply(table: &mut Table, batch: &LogBatch) {
    for write in &batch.groups {
        if write.remove {
            table.remove(&write.group);
            continue;
        }
        let group = table.entry(write.group).or_insert_with(|| MemGroup {
            log: GroupLog::default(),
            entries: EntryWindow::after(LogIndex(0)),
        });
        apply_to_entries(&mut group.entries, write);
        group.log.apply(write);
    }
}

fn apply_to_entries(entries: &mut EntryWindow<Entry>, write: &GroupWrite) {
    if let Some((position, _, _)) = &write.reset_to {
        drop(entries.reset(position.index));
    }
    if let Some(from) = write.truncate_from {
        drop(entries.truncate_from(from));
    }
    for entry in &write.entries {
        entries.push(entry.clone());
    }
    if let Some((position, _, _)) = &write.compact_to {
        drop(entries.compact_to(position.index));
    }
}

impl LogStore for MemLogStore {
    fn groups(&self) -> Vec<GroupState> {
        let table = self.visible.table.read().unwrap_or_else(PoisonError::into_inner);
        table.iter().map(|(group, found)| found.log.state(*group)).collect()
    }

    fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
        self.queue.push((batch, must_sync, done));
    }

    fn flush(&mut self) -> Result<(), LogError> {
        let mut outcomes = Vec::with_capacity(self.queue.len());
        let mut sync = false;
        for (batch, must_sync, done) in std::mem::take(&mut self.queue) {
            let mut table = self.visible.table.write().unwrap_or_else(PoisonError::into_inner);
            let outcome = check(&table, &batch);
            if outcome.is_ok() {
                apply(&mut table, &batch);
                self.stats.batches += 1;
                sync |= must_sync;
                if self.durable.is_some() {
                    self.unsynced.push(batch);
                }
            }
            outcomes.push((done, outcome));
        }
        if sync {
            self.sync();
        }
        for (done, outcome) in outcomes {
            done(outcome);
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::clone(&self.visible) as Arc<dyn LogReader>
    }

    fn may_wait(&self) -> bool {
        false
    }

    fn stats(&self) -> LogStats {
        self.stats
    }
}

impl LogReader for MemReader {
    fn read(&self, group: GroupId, range: Range<LogIndex>, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let out_of_range = |index| LogError::OutOfRange { group, index };
        let found = table.get(&group).ok_or_else(|| out_of_range(range.start))?;
        if range.start <= found.log.compacted.index {
            return Err(LogError::Compacted { group, index: range.start });
        }
        if range.end > found.entries.next() {
            return Err(out_of_range(range.start.max(found.entries.next())));
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for index in range.start.0..range.end.0 {
            let Some(entry) = found.entries.get(LogIndex(index)) else {
                return Err(out_of_range(LogIndex(index)));
            };
            bytes += quorate_core::encoded_entry_len(entry) as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn state(&self, group: GroupId) -> Option<GroupState> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&group).map(|found| found.log.state(group))
    }
}
