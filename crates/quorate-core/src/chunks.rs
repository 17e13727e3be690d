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
    /// A ring once it is full.
    made: Vec<Chunk>,
    /// Where in `made` the newest is.
    newest: usize,
    received: VecDeque<Chunk>,
    /// No chunk holds entries after this.
    last: LogIndex,
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
        let mut chunk = Self { entries, first: LogIndex(1), last: LogIndex(0) };
        chunk.note();
        chunk
    }

    /// Looks up which entries it holds.
    fn note(&mut self) {
        self.first = self.entries.first().map_or(LogIndex(1), Entry::index);
        self.last = self.entries.last().map_or(LogIndex(0), Entry::index);
    }

    /// Lets go of the entries; the room stays if nobody else holds it.
    fn empty(&mut self) {
        match Arc::get_mut(&mut self.entries) {
            Some(list) => list.clear(),
            None => self.entries = Arc::default(),
        }
        self.note();
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
        if to > self.last {
            return None;
        }
        // A leader makes its chunks, a follower receives them: mostly it is the newest of either.
        let newest = self.made.get(self.newest).and_then(|chunk| chunk.part(from, to));
        let newest = newest.or_else(|| self.received.back().and_then(|chunk| chunk.part(from, to)));
        newest.or_else(|| self.made.iter().chain(&self.received).find_map(|chunk| chunk.part(from, to)))
    }

    /// Puts entries of the window into a chunk.
    pub(crate) fn make<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) -> Entries {
        let made = self.made.len();
        self.newest = if made < MADE_MAX { made } else { (self.newest + 1) % MADE_MAX };
        if made < MADE_MAX {
            self.made.push(Chunk::new(Arc::default()));
        }
        let chunk = self.made.get_mut(self.newest).expect("the ring is not empty");
        if chunk.is_held_by_others() || chunk.entries.capacity() > REUSED_ENTRIES_MAX {
            chunk.entries = Arc::default();
        }
        let list =
            Arc::get_mut(&mut chunk.entries).expect("nobody else holds it, and there are no weak holders");
        list.clear();
        list.extend(entries.cloned());
        chunk.note();
        self.last = self.last.max(chunk.last);
        Entries::part(&chunk.entries, 0..chunk.entries.len())
    }

    /// Remembers what a leader sent, once the window holds all of it.
    pub(crate) fn keep_received(&mut self, entries: &Entries) {
        let Some(chunk) = entries.whole_chunk() else { return };
        if self.received.len() == RECEIVED_MAX {
            self.received.pop_front();
        }
        let chunk = Chunk::new(Arc::clone(chunk));
        self.last = self.last.max(chunk.last);
        self.received.push_back(chunk);
    }

    /// The log lost everything from `from` on.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        self.received.retain(|chunk| chunk.last < from);
        for chunk in self.made.iter_mut().filter(|chunk| chunk.last >= from) {
            chunk.empty();
        }
        self.last = self.last.min(from.previous());
    }

    /// The window starts at `start` now.
    pub(crate) fn forget_before(&mut self, start: LogIndex) {
        self.received.retain(|chunk| chunk.last >= start);
        // Its payloads go now, its room is used again.
        let left = |chunk: &&mut Chunk| chunk.first <= chunk.last && chunk.last < start;
        for chunk in self.made.iter_mut().filter(left) {
            chunk.empty();
        }
    }
}
