//! The writes of a batch before they reach the engine.
//!
//! ```text
//!   apply ──► staged changes ──┐
//!                              ├──► get, scan      a later command of the batch sees the earlier ones
//!             engine ──────────┘
//!   commit ──► one engine write, staged is empty again
//! ```
//!
//! * For a key that is staged, the engine is not asked.
//! * Bounded by the batch: whoever cuts the batches bounds their bytes.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use quorate_host::MachineError;

use crate::command::Item;
use crate::engine::{Changes, EngineView, KeyRange, Stored, Visit};

/// Changes on top of an engine.
#[derive(Default)]
pub(super) struct Staged {
    changes: Changes,
}

impl Staged {
    /// The changes so far, key by key.
    pub(super) const fn changes(&self) -> &Changes {
        &self.changes
    }

    pub(super) fn clear(&mut self) {
        self.changes.clear();
    }

    pub(super) fn set(&mut self, key: Bytes, change: Option<Stored>) {
        self.changes.insert(key, change);
    }

    pub(super) fn get(&self, below: &dyn EngineView, key: &[u8]) -> Result<Option<Stored>, MachineError> {
        match self.changes.get(key) {
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
