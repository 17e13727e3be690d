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
    made: VecDeque<Chunk>,
    received: VecDeque<Chunk>,
}

/// A chunk and which entries it holds.
#[derive(Debug)]
struct Chunk {
    entries: Arc<Vec<Entry>>,
    first: LogIndex,
    /// Before `first` when it is empty.
    last: LogIndex,
}

impl Chunk {
    fn new(entries: Arc<Vec<Entry>>) -> Self {
        let first = entries.first().map_or(LogIndex(1), Entry::index);
        let last = entries.last().map_or(LogIndex(0), Entry::index);
        Self { entries, first, last }
    }

    /// The entries from `from` to `to` (both included), if they are all here.
    fn part(&self, from: LogIndex, to: LogIndex) -> Option<Entries> {
        if from < self.first || to > self.last {
            return None;
        }
        let start = usize::try_from(from.0 - self.first.0).ok()?;
        let end = usize::try_from(to.0 - self.first.0).ok()? + 1;
        Some(Entries::part(&self.entries, start..end))
    }

    fn is_held_by_others(&self) -> bool {
        Arc::strong_count(&self.entries) > 1
    }
}

impl Chunks {
    /// The entries from `from` to `to` (both included), if they are in one chunk.
    pub(crate) fn find(&self, from: LogIndex, to: LogIndex) -> Option<Entries> {
        let mut chunks = self.made.iter().rev().chain(self.received.iter().rev());
        chunks.find_map(|chunk| chunk.part(from, to))
    }

    /// Puts entries of the window into a chunk.
    pub(crate) fn make<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) -> Entries {
        let mut chunk = self.unused();
        if let Some(list) = Arc::get_mut(&mut chunk) {
            list.clear();
            list.extend(entries.cloned());
        } else {
            chunk = Arc::new(entries.cloned().collect());
        }
        let all = Entries::part(&chunk, 0..chunk.len());
        self.made.push_back(Chunk::new(chunk));
        all
    }

    /// Remembers what a leader sent, once the window holds all of it.
    pub(crate) fn keep_received(&mut self, entries: &Entries) {
        let Some(chunk) = entries.whole_chunk() else { return };
        if self.received.len() == RECEIVED_MAX {
            self.received.pop_front();
        }
        self.received.push_back(Chunk::new(Arc::clone(chunk)));
    }

    /// A chunk to fill. There is room for it among those made.
    fn unused(&mut self) -> Arc<Vec<Entry>> {
        if self.made.len() < MADE_MAX {
            return Arc::default();
        }
        let free =
            |chunk: &Chunk| !chunk.is_held_by_others() && chunk.entries.capacity() <= REUSED_ENTRIES_MAX;
        let oldest = self.made.iter().position(free);
        let taken = self.made.remove(oldest.unwrap_or(0));
        taken.filter(|_| oldest.is_some()).map(|chunk| chunk.entries).unwrap_or_default()
    }

    /// The log lost everything from `from` on.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        let stays = |chunk: &Chunk| chunk.last < from;
        self.made.retain(stays);
        self.received.retain(stays);
    }

    /// The window starts at `start` now.
    pub(crate) fn forget_before(&mut self, start: LogIndex) {
        self.received.retain(|chunk| chunk.last >= start);
        self.made.retain_mut(|chunk| {
            if chunk.last >= start || chunk.last < chunk.first {
                return true;
            }
            // Its payloads go now, its room is used again.
            let Some(list) = Arc::get_mut(&mut chunk.entries) else { return false };
            list.clear();
            (chunk.first, chunk.last) = (LogIndex(1), LogIndex(0));
            true
        });
    }
}
