//! The chunks in which the window's entries were handed out lately, so that one copy of an entry
//! serves the disk, every follower and the state machine, and memory is used again.
//!
//! ```text
//!   window   │ 5 │ 6 │ 7 │ 8 │ 9 │ 10 │ 11 │
//!   made        └─ chunk ─┘ └─── chunk ────┘        oldest first, at most MADE_MAX
//!   received                └── chunk ──┘           as a follower got it from its leader
//! ```
//!
//! * Every chunk kept says what the window says: truncation forgets what it contradicts, and what
//!   leaves the window leaves the chunks.
//! * A chunk is used again only when nobody else holds it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::entries::Entries;
use crate::entry::Entry;
use crate::types::LogIndex;

/// How many of the chunks made last are kept.
const MADE_MAX: usize = 8;
/// How many of the chunks received last are kept. Fewer than are made: in one process they are the
/// leader's, who waits for them.
const RECEIVED_MAX: usize = 2;
/// A larger chunk is not used again, so that one burst does not cost memory for ever.
const REUSED_ENTRIES_MAX: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    made: VecDeque<Arc<Vec<Entry>>>,
    received: VecDeque<Arc<Vec<Entry>>>,
}

impl Chunks {
    /// The entries from `from` to `to` (both included), if they are in one chunk.
    pub(crate) fn find(&self, from: LogIndex, to: LogIndex) -> Option<Entries> {
        let holds = |chunk: &Arc<Vec<Entry>>| {
            let first = chunk.first()?.index();
            if from < first || chunk.last()?.index() < to {
                return None;
            }
            let start = usize::try_from(from.0 - first.0).ok()?;
            let end = usize::try_from(to.0 - first.0).ok()? + 1;
            Some(Entries::part(chunk, start..end))
        };
        self.made.iter().rev().find_map(holds).or_else(|| self.received.iter().rev().find_map(holds))
    }

    /// Puts entries of the window into a chunk.
    pub(crate) fn make<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) -> Entries {
        let mut chunk = self.unused();
        let list = Arc::get_mut(&mut chunk).expect("an unused chunk has one owner");
        list.clear();
        list.extend(entries.cloned());
        let all = Entries::part(&chunk, 0..chunk.len());
        self.made.push_back(chunk);
        all
    }

    /// Remembers what a leader sent, once the window holds all of it.
    pub(crate) fn keep_received(&mut self, entries: &Entries) {
        let Some(chunk) = entries.whole_chunk() else { return };
        if self.received.len() == RECEIVED_MAX {
            self.received.pop_front();
        }
        self.received.push_back(Arc::clone(chunk));
    }

    /// A chunk that nobody else holds. There is room for it among those made.
    fn unused(&mut self) -> Arc<Vec<Entry>> {
        if self.made.len() < MADE_MAX {
            return Arc::default();
        }
        let free = |chunk: &mut Arc<Vec<Entry>>| {
            chunk.capacity() <= REUSED_ENTRIES_MAX && Arc::get_mut(chunk).is_some()
        };
        let oldest = self.made.iter_mut().position(free);
        let taken = self.made.remove(oldest.unwrap_or(0));
        taken.filter(|_| oldest.is_some()).unwrap_or_default()
    }

    /// The log lost everything from `from` on.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        let stays = |chunk: &Arc<Vec<Entry>>| chunk.last().is_none_or(|last| last.index() < from);
        self.made.retain(stays);
        self.received.retain(stays);
    }

    /// The window starts at `start` now.
    pub(crate) fn forget_before(&mut self, start: LogIndex) {
        let over = |chunk: &Arc<Vec<Entry>>| chunk.last().is_some_and(|last| last.index() < start);
        self.received.retain(|chunk| !over(chunk));
        self.made.retain_mut(|chunk| {
            if !over(chunk) {
                return true;
            }
            // Its payloads go now, its room is used again.
            let emptied = Arc::get_mut(chunk);
            emptied.is_some_and(|list| {
                list.clear();
                true
            })
        });
    }
}
