//! What is kept per entry of one group: one item for each index of a contiguous run.
//!
//!   compacted   first                       next
//!       │         │                          │
//!   ────┴─────────┴──────────────────────────┴────►  index
//!
//! The WAL keeps locations in it, the in-memory store the entries themselves.

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;
use std::ops::RangeFull;

use quorate_core::LogIndex;

/// Items for the indexes `first..next`.
#[derive(Clone, Debug)]
pub(crate) struct EntryWindow<T> {
    first: LogIndex,
    items: VecDeque<T>,
}

/// An item was to be placed where it would leave a hole nobody could fill.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooFar;

impl<T> EntryWindow<T> {
    /// Empty; the next item belongs after `compacted`.
    pub(crate) const fn after(compacted: LogIndex) -> Self {
        Self { first: compacted.next(), items: VecDeque::new() }
    }

    pub(crate) const fn first(&self) -> LogIndex {
        self.first
    }

    /// One past the last index.
    pub(crate) fn next(&self) -> LogIndex {
        LogIndex(self.first.0 + self.items.len() as u64)
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<&T> {
        self.items.get(usize::try_from(index.0.checked_sub(self.first.0)?).ok()?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LogIndex, &T)> {
        (self.first.0..).map(LogIndex).zip(&self.items)
    }

    /// Appends the item of index `next()`.
    pub(crate) fn push(&mut self, item: T) {
        self.items.push_back(item);
    }

    /// Drops everything; the next item belongs after `compacted`.
    pub(crate) fn reset(&mut self, compacted: LogIndex) -> Drain<'_, T> {
        self.first = compacted.next();
        self.items.drain(RangeFull)
    }

    /// Drops the items at and after `from`.
    pub(crate) fn truncate_from(&mut self, from: LogIndex) -> Drain<'_, T> {
        let keep = usize::try_from(from.0.saturating_sub(self.first.0)).unwrap_or(usize::MAX);
        if self.first > from {
            self.first = from;
        }
        let keep = keep.min(self.items.len());
        self.items.drain(keep..)
    }

    /// Drops the items up to and including `to`.
    pub(crate) fn compact_to(&mut self, to: LogIndex) -> Drain<'_, T> {
        let drop = usize::try_from((to.0 + 1).saturating_sub(self.first.0)).unwrap_or(usize::MAX);
        let drop = drop.min(self.items.len());
        self.first = if drop == self.items.len() {
            LogIndex((self.first.0 + drop as u64).max(to.0 + 1))
        } else {
            LogIndex(self.first.0 + drop as u64)
        };
        self.items.drain(..drop)
    }
}

impl<T: Copy> EntryWindow<T> {
    /// Puts the item of `index`, which may be in the window, after it, or before it; places in
    /// between are filled with `hole`. Returns what was there.
    pub(crate) fn place(&mut self, index: LogIndex, item: T, hole: T) -> Result<Option<T>, TooFar> {
        /// More entries than are ever missing for a while.
        const HOLES_MAX: u64 = 1 << 26;
        if self.items.is_empty() {
            self.first = index;
        }
        if index.0 > self.next().0 + HOLES_MAX || index.0 + HOLES_MAX < self.first.0 {
            return Err(TooFar);
        }
        while self.first > index {
            self.items.push_front(hole);
            self.first = self.first.previous();
        }
        while self.next() < index {
            self.items.push_back(hole);
        }
        if index == self.next() {
            self.items.push_back(item);
            return Ok(None);
        }
        let position = usize::try_from(index.0 - self.first.0).map_err(|_| TooFar)?;
        Ok(self.items.get_mut(position).map(|slot| std::mem::replace(slot, item)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(first: u64, items: &[char]) -> EntryWindow<char> {
        let mut window = EntryWindow::after(LogIndex(first - 1));
        items.iter().for_each(|item| window.push(*item));
        window
    }

    fn shown(window: &EntryWindow<char>) -> String {
        format!("{}:{}", window.first(), window.items.iter().collect::<String>())
    }

    #[test]
    fn truncation_and_compaction_cut_the_ends_and_may_miss_the_window() {
        let mut w = window(5, &['e', 'f', 'g', 'h']);
        assert_eq!(w.truncate_from(LogIndex(8)).collect::<String>(), "h");
        assert_eq!(w.truncate_from(LogIndex(9)).count(), 0);
        assert_eq!(w.compact_to(LogIndex(4)).count(), 0);
        assert_eq!(w.compact_to(LogIndex(5)).collect::<String>(), "e");
        assert_eq!(shown(&w), "6:fg");
        assert_eq!(w.compact_to(LogIndex(9)).count(), 2);
        assert_eq!(shown(&w), "10:");
        assert_eq!(w.truncate_from(LogIndex(3)).count(), 0);
        assert_eq!(shown(&w), "3:");
    }

    #[test]
    fn items_placed_outside_the_window_leave_holes_until_they_are_filled() {
        let mut w = window(5, &['e', 'f']);
        assert_eq!(w.place(LogIndex(3), 'c', '.'), Ok(Some('.')));
        assert_eq!(shown(&w), "3:c.ef");
        assert_eq!(w.place(LogIndex(4), 'd', '.'), Ok(Some('.')));
        assert_eq!(w.place(LogIndex(5), 'E', '.'), Ok(Some('e')));
        assert_eq!(w.place(LogIndex(7), 'g', '.'), Ok(None));
        assert_eq!(shown(&w), "3:cdEfg");
        assert_eq!(w.place(LogIndex(9), 'i', '.'), Ok(None));
        assert_eq!(shown(&w), "3:cdEfg.i");
        assert_eq!(w.place(LogIndex(1 << 40), 'x', '.'), Err(TooFar));
    }
}
