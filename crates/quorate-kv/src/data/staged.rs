//! What has been applied and is not in the engine yet: the batch that is being applied, and whole batches before it.
//!
//! ```text
//!   apply ──► changes ──────────┐
//!   commit ─► records, applied  ├──► get, scan      a later command sees the earlier ones
//!             written (a cache) │
//!             engine ───────────┘
//!   spill ──► one engine write of everything that is complete; `changes` become `written`
//! ```
//!
//! * The engine gets whole batches, in order, several in one atomic write: what it holds is always the state after
//!   some batch. What it does not hold yet, the log does: nothing is dropped from the log that was not flushed.
//! * A key that changes often and a record that comes and goes reach the engine once, or never.
//! * `changes` and `written` are bounded by the bytes that were handed in since the last spill, so that a restart
//!   never has more than that to apply again.
//! * For a key that is in `changes` or `written`, the engine is not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use quorate_core::LogId;
use quorate_host::{BatchEnd, MachineError, Recovered};

use crate::command::Item;
use crate::engine::{Changes, Engine, EngineView, KeyRange, Stored, Visit};

/// What a change costs besides its bytes.
const CHANGE_BYTES: usize = 64;

/// Changes on top of an engine.
#[derive(Default)]
pub(super) struct Staged {
    changes: Changes,
    /// The host's records that changed.
    records: BTreeMap<Bytes, Option<Bytes>>,
    /// The keys of the records that the engine has.
    records_below: BTreeSet<Bytes>,
    /// The end of the last whole batch.
    applied: LogId,
    /// What was handed in since the last spill.
    bytes: usize,
    /// Whether a batch has begun and not ended.
    in_batch: bool,
    /// Whether a batch has ended since the last spill.
    is_behind: bool,
    /// What the last spill wrote.
    written: Changes,
}

impl Staged {
    /// What the engine was found with.
    pub(super) fn on_recovered(&mut self, recovered: &Recovered) {
        self.applied = recovered.applied;
        self.records_below = recovered.records.iter().map(|(key, _)| key.clone()).collect();
    }

    /// The engine's content was replaced, or is about to be.
    pub(super) fn on_replaced(&mut self, end: BatchEnd<'_>) {
        let kept = end.records.iter().filter(|(_, record)| record.is_some());
        let records_below = kept.map(|(key, _)| key.clone()).collect();
        *self = Self { applied: end.applied, records_below, ..Self::default() };
    }

    /// What was handed in since the last spill.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the engine has less than was applied.
    pub(super) const fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Whether a batch has begun and not ended.
    pub(super) const fn is_in_batch(&self) -> bool {
        self.in_batch
    }

    pub(super) fn set(&mut self, key: Bytes, change: Option<Stored>) {
        self.in_batch = true;
        self.bytes += CHANGE_BYTES + key.len() + change.as_ref().map_or(0, |stored| stored.value.len());
        self.changes.insert(key, change);
    }

    /// The batch is complete.
    pub(super) fn end_batch(&mut self, end: BatchEnd<'_>) {
        for (key, record) in end.records {
            self.bytes += CHANGE_BYTES + key.len() + record.as_ref().map_or(0, Bytes::len);
            if record.is_some() || self.records_below.contains(key) {
                self.records.insert(key.clone(), record.clone());
            } else {
                // Nobody below has it: it came and went.
                self.records.remove(key);
            }
        }
        self.applied = end.applied;
        (self.in_batch, self.is_behind) = (false, true);
    }

    /// Writes everything to the engine, in one step. Between batches only.
    pub(super) fn spill(&mut self, engine: &mut dyn Engine) -> Result<(), MachineError> {
        assert!(!self.in_batch, "half a batch is not written");
        if !self.is_behind {
            return Ok(());
        }
        let records: Vec<_> = std::mem::take(&mut self.records).into_iter().collect();
        engine.write(&self.changes, BatchEnd { applied: self.applied, records: &records })?;
        for (key, record) in records {
            if record.is_some() {
                self.records_below.insert(key);
            } else {
                self.records_below.remove(&key);
            }
        }
        self.written = std::mem::take(&mut self.changes);
        (self.bytes, self.is_behind) = (0, false);
        Ok(())
    }

    pub(super) fn get(&self, below: &dyn EngineView, key: &[u8]) -> Result<Option<Stored>, MachineError> {
        match self.changes.get(key).or_else(|| self.written.get(key)) {
            Some(change) => Ok(change.clone()),
            None => below.get(key),
        }
    }

    /// Like a scan of the engine, had the changes been written.
    pub(super) fn scan(
        &self,
        below: &dyn EngineView,
        range: &KeyRange,
        visit: Visit<'_>,
    ) -> Result<(), MachineError> {
        if range.is_empty() {
            return Ok(());
        }
        let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut changes = self.changes.range::<[u8], _>((Bound::Included(&*range.start), end)).peekable();
        let mut flow = ControlFlow::Continue(());
        below.scan(range, &mut |item| {
            // Staged keys up to this one come first; the same key staged replaces it.
            while let Some((key, change)) = changes.next_if(|(key, _)| **key <= item.key) {
                flow = show(key, change.as_ref(), visit);
                if flow.is_break() || *key == item.key {
                    return flow;
                }
            }
            flow = visit(item);
            flow
        })?;
        while flow.is_continue()
            && let Some((key, change)) = changes.next()
        {
            flow = show(key, change.as_ref(), visit);
        }
        Ok(())
    }
}

fn show(key: &Bytes, change: Option<&Stored>, visit: Visit<'_>) -> ControlFlow<()> {
    let Some(Stored { value, version }) = change else { return ControlFlow::Continue(()) };
    visit(Item { key: key.clone(), value: value.clone(), version: *version })
}
