//! The log as the core sees it: recent entries in memory, the terms of everything since the
//! snapshot, and every membership since then. The disk is somebody else's.
//!
//! ```text
//!   compacted        window starts        persisted           commit      last
//!       │  terms only      │                  │                  │          │
//!   ────┴──────────────────┴──────────────────┴──────────────────┴──────────┴──►  index
//!       runs:  t1 t1 t1 │t2 t2 t2 t2 t2 t2 │t5 t5 …      (a run of equal terms is one item)
//! ```
//!
//! * Indexes are contiguous; terms never decrease; `term_at` needs no disk.
//! * `compacted <= commit <= last`. What is committed is never replaced.
//! * `persisted` counts what is durable of *this* log: truncation takes it back. It may be before or
//!   after `commit`.
//! * The window holds a suffix of the log. Only persisted entries leave it, so that everything
//!   that is not in it can be fetched from the disk.
//! * The newest membership is in effect as soon as it is appended; truncation brings back the one before.
//!
//! Not here: what is written when (`writes.rs`), what is applied (`apply.rs`).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::aside::Aside;
use crate::chunks::Chunks;
use crate::codec::encoded_entry_len;
use crate::entries::Entries;
use crate::entry::{Entry, EntryPayload};
use crate::error::RestoreError;
use crate::membership::Membership;
use crate::message::{Append, SnapshotMeta};
use crate::planted::planted;
use crate::raw_node::Restored;
use crate::types::{LogId, LogIndex, Term};

/// See the module's picture.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    compacted: LogId,
    runs: Vec<LogId>,
    last: LogIndex,
    window: VecDeque<Entry>,
    window_bytes: u64,
    window_bytes_max: u64,
    /// What was handed out of the window lately.
    chunks: Aside<Chunks>,
    /// Never empty: the first is the one in effect at `compacted`.
    memberships: Vec<(LogId, Arc<Membership>)>,
    commit: LogIndex,
    persisted: LogIndex,
}

/// The bytes an entry counts for in every limit: its encoding.
pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    encoded_entry_len(entry) as u64
}

impl Log {
    /// Entries that no longer fit leave the window when the next ones come.
    pub(crate) const fn set_window_bytes_max(&mut self, window_bytes_max: u64) {
        self.window_bytes_max = window_bytes_max;
    }

    pub(crate) fn restore(restored: Restored, window_bytes_max: u64) -> Result<Self, RestoreError> {
        let Restored { hard_state, compacted, term_runs, last, mut memberships, applied, .. } = restored;
        let mut before = compacted;
        for (position, run) in term_runs.iter().enumerate() {
            let starts = if position == 0 { compacted.index.next() } else { run.index };
            if run.index != starts || run.index <= before.index || run.index > last {
                return Err(RestoreError::Inconsistent("the runs of terms do not cover the log"));
            }
            let rises = if position == 0 { run.term >= before.term } else { run.term > before.term };
            if !rises {
                return Err(RestoreError::Inconsistent("terms fall along the log"));
            }
            before = *run;
        }
        if last < compacted.index || (last > compacted.index && term_runs.is_empty()) {
            return Err(RestoreError::Inconsistent("the runs of terms do not cover the log"));
        }
        if before.term > hard_state.term {
            return Err(RestoreError::Inconsistent("the log holds a newer term than the hard state"));
        }
        if applied > last {
            return Err(RestoreError::Inconsistent(
                "the state machine has applied what the log does not hold",
            ));
        }
        if memberships.windows(2).any(|pair| matches!(pair, [a, b] if a.0.index >= b.0.index))
            || memberships.last().is_some_and(|(id, _)| id.index > last)
        {
            return Err(RestoreError::Inconsistent("memberships do not ascend within the log"));
        }
        if memberships.first().is_none_or(|(id, _)| id.index > compacted.index) {
            memberships.insert(0, (LogId::default(), Membership::nobody()));
        }
        let mut log = Self {
            compacted,
            runs: term_runs,
            last,
            window: VecDeque::new(),
            window_bytes: 0,
            window_bytes_max,
            chunks: Aside::default(),
            memberships,
            commit: hard_state.commit.min(last).max(applied).max(compacted.index),
            persisted: last,
        };
        log.forget_memberships_before(compacted.index);
        Ok(log)
    }

    pub(crate) const fn compacted(&self) -> LogId {
        self.compacted
    }
    pub(crate) const fn commit(&self) -> LogIndex {
        self.commit
    }
    pub(crate) const fn persisted(&self) -> LogIndex {
        self.persisted
    }
    pub(crate) const fn last_index(&self) -> LogIndex {
        self.last
    }
    pub(crate) fn last(&self) -> LogId {
        let term = self.runs.last().map_or(self.compacted.term, |run| run.term);
        LogId { term, index: self.last }
    }

    /// The term of the entry at `index`; `None` below the compacted position and beyond the last.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        if index < self.compacted.index || index > self.last {
            return None;
        }
        // Mostly somebody asks about the present term.
        if let Some(newest) = self.runs.last().filter(|newest| newest.index <= index) {
            return Some(newest.term);
        }
        let run = self.runs.partition_point(|first| first.index <= index).checked_sub(1)?;
        self.runs.get(run).map(|first| first.term)
    }

    /// The position at `index`, where its term is known.
    pub(crate) fn id_at(&self, index: LogIndex) -> Option<LogId> {
        self.term_at(index).map(|term| LogId { term, index })
    }

    pub(crate) fn contains(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The highest position at or below `bound.index` whose term is not above `bound.term`: where a
    /// log that ends in `bound` and this one could still agree. `None` when that is compacted.
    pub(crate) fn last_possible_match(&self, bound: LogId) -> Option<LogId> {
        let mut end = self.last.min(bound.index);
        for run in self.runs.iter().rev() {
            if run.index > end {
                continue;
            }
            if run.term <= bound.term {
                return Some(LogId { term: run.term, index: end });
            }
            end = run.index.previous();
        }
        (self.compacted.index <= bound.index && self.compacted.term <= bound.term).then_some(self.compacted)
    }

    /// Whether `append` differs from what is committed. Entries at or below the compacted position
    /// are taken to be equal: they are committed, and their terms are gone.
    pub(crate) fn contradicts_committed(&self, append: &Append) -> bool {
        let differs =
            |id: LogId| id.index <= self.commit && self.term_at(id.index).is_some_and(|t| t != id.term);
        let mut committed = append.entries.iter().take_while(|entry| entry.index() <= self.commit);
        differs(append.prev) || committed.any(|entry| differs(entry.id))
    }

    /// Whether entries may follow `prev` here: it is in the log, or covered by the snapshot.
    pub(crate) fn reaches(&self, prev: LogId) -> bool {
        prev.index < self.compacted.index || self.contains(prev)
    }

    /// Appends the entry after the last one.
    pub(crate) fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert!(entry.index() == last.index.next(), "a gap in the log: {:?} after {last:?}", entry.id);
        assert!(entry.term() >= last.term, "a falling term: {:?} after {last:?}", entry.id);
        if last.term != entry.term() || self.runs.is_empty() {
            self.runs.push(entry.id);
        }
        match &entry.payload {
            EntryPayload::Membership(membership) => self.memberships.push((entry.id, Arc::clone(membership))),
            EntryPayload::Noop | EntryPayload::Command(_) | EntryPayload::Withheld => {}
        }
        self.last = entry.index();
        self.window_bytes += entry_bytes(&entry);
        self.window.push_back(entry);
    }

    /// Drops everything from `from` on. Says whether a membership went with it.
    pub(crate) fn truncate(&mut self, from: LogIndex) -> bool {
        assert!(
            from > self.commit,
            "truncation of committed entries from {from:?}, commit {:?}",
            self.commit
        );
        while self.window.back().is_some_and(|entry| entry.index() >= from) {
            let bytes = self.window.pop_back().map_or(0, |entry| entry_bytes(&entry));
            self.window_bytes -= bytes;
        }
        self.chunks.truncate(from);
        self.runs.retain(|run| run.index < from);
        let memberships = self.memberships.len();
        self.memberships.retain(|(id, _)| id.index < from);
        self.last = self.last.min(from.previous());
        self.persisted = self.persisted.min(self.last);
        memberships != self.memberships.len()
    }

    /// The log now starts after the snapshot `meta`, and is empty. The disk does not know yet.
    pub(crate) fn reset(&mut self, meta: &SnapshotMeta) {
        assert!(meta.last.index > self.commit, "a reset to {:?}, behind commit {:?}", meta.last, self.commit);
        self.compacted = meta.last;
        self.last = meta.last.index;
        self.commit = meta.last.index;
        self.persisted = self.persisted.min(meta.last.index.previous());
        self.runs.clear();
        self.window.clear();
        self.window_bytes = 0;
        self.chunks = Aside::default();
        let stale = planted("members_of_snapshot_ignored");
        self.memberships = match self.memberships.pop().filter(|_| stale) {
            Some(kept) => vec![kept],
            None => vec![(meta.membership_id, Arc::clone(&meta.membership))],
        };
    }

    /// What is at or below `through` is about to leave the disk.
    pub(crate) fn compact(&mut self, through: LogId) {
        assert!(
            self.contains(through) && through.index <= self.commit,
            "compaction beyond commit: {through:?}"
        );
        self.forget_memberships_before(through.index);
        let next = through.index.next();
        let term = self.term_at(next);
        self.runs.retain(|run| run.index > next);
        if let Some(term) = term {
            self.runs.insert(0, LogId { term, index: next });
        }
        self.compacted = through;
        self.shrink_window(|log, front| front.index() <= log.compacted.index);
    }

    /// Keeps the one in effect at `index` and all later ones.
    fn forget_memberships_before(&mut self, index: LogIndex) {
        let after = self.memberships.partition_point(|(id, _)| id.index <= index);
        self.memberships.drain(..after.saturating_sub(1));
    }

    /// Everything up to `index` is committed.
    pub(crate) fn commit_to(&mut self, index: LogIndex) {
        assert!(index <= self.last, "commit beyond the log: {index:?} after {:?}", self.last);
        self.commit = self.commit.max(index);
    }

    /// Everything up to `index` of the present log is durable.
    pub(crate) fn persisted_to(&mut self, index: LogIndex) {
        self.persisted = self.persisted.max(index.min(self.last));
        self.shrink_window(|log, front| {
            log.window_bytes > log.window_bytes_max && front.index() <= log.persisted
        });
    }

    /// Drops entries from the front of the window while `goes` says so.
    fn shrink_window(&mut self, goes: impl Fn(&Self, &Entry) -> bool) {
        let mut start = None;
        while let Some(front) = self.window.front().filter(|front| goes(self, front)) {
            self.window_bytes -= entry_bytes(front);
            start = Some(front.index().next());
            self.window.pop_front();
        }
        if let Some(start) = start {
            self.chunks.forget_before(start);
        }
    }

    /// Keeps no entry that is durable and applied, and no more room than is needed.
    pub(crate) fn release_memory(&mut self, applied: LogIndex) {
        let needless = self.persisted.min(applied);
        self.shrink_window(|_, front| front.index() <= needless);
        self.chunks = Aside::default();
        self.window.shrink_to_fit();
        self.runs.shrink_to_fit();
        self.memberships.shrink_to_fit();
    }

    /// The first index in the window; one past the last when it is empty.
    pub(crate) fn window_start(&self) -> LogIndex {
        // It is a suffix of the log: no need to look at an entry.
        LogIndex(self.last.0 - self.window.len() as u64).next()
    }

    /// The entries of the window from `from` to `to` (both included).
    pub(crate) fn window(&self, from: LogIndex, to: LogIndex) -> impl Iterator<Item = &Entry> + '_ {
        self.window.range(self.places(from, to))
    }

    /// Where in the window the entries from `from` to `to` are.
    fn places(&self, from: LogIndex, to: LogIndex) -> Range<usize> {
        let (start, length) = (self.window_start(), self.window.len());
        let place = |index: LogIndex| usize::try_from(index.0 - start.0).unwrap_or(usize::MAX).min(length);
        if from >= start && from <= to { place(from)..place(to.next()) } else { 0..0 }
    }

    /// The same entries, to be handed out. All of them must be in the window.
    pub(crate) fn share(&mut self, from: LogIndex, to: LogIndex) -> Entries {
        if from > to {
            return Entries::new();
        }
        assert!(from >= self.window_start() && to <= self.last, "{from:?} to {to:?} is not in the window");
        if let Some(entries) = self.chunks.find(from, to) {
            return entries;
        }
        let places = self.places(from, to);
        self.chunks.make(self.window.range(places))
    }

    /// These are in the log now, as the leader sent them: they may be handed out as they are.
    pub(crate) fn keep_received(&mut self, entries: &Entries) {
        if entries.first().is_some_and(|first| first.index() >= self.window_start()) {
            self.chunks.keep_received(entries);
        }
    }

    /// The newest membership and the position of its entry.
    pub(crate) fn membership(&self) -> &(LogId, Arc<Membership>) {
        self.memberships.last().expect("there is always the membership at the compacted position")
    }

    /// The membership in effect at `index`.
    pub(crate) fn membership_at(&self, index: LogIndex) -> &(LogId, Arc<Membership>) {
        let at = self.memberships.iter().rev().find(|(id, _)| id.index <= index);
        at.or_else(|| self.memberships.first())
            .expect("there is always the membership at the compacted position")
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn empty(window_bytes_max: u64) -> Log {
        Log::restore(
            Restored { hard_state: crate::types::HardState::default(), ..Restored::default() },
            window_bytes_max,
        )
        .unwrap()
    }

    fn entry(term: u64, index: u64) -> Entry {
        let payload = if index.is_multiple_of(5) {
            EntryPayload::Membership(Arc::default())
        } else {
            EntryPayload::Command(Bytes::from_static(b"0123456789"))
        };
        Entry { id: LogId::new(term, index), payload }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append { rise: bool },
        Truncate { back: u64 },
        Persist,
        Commit,
        Compact,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => any::<bool>().prop_map(|rise| Step::Append { rise }),
            2 => (0_u64..4).prop_map(|back| Step::Truncate { back }),
            1 => Just(Step::Persist),
            1 => Just(Step::Commit),
            1 => Just(Step::Compact),
        ]
    }

    /// The terms of all entries, kept plainly.
    fn check(log: &Log, terms: &[u64]) -> Result<(), TestCaseError> {
        let (first, last) = (log.compacted().index.0, terms.len() as u64);
        prop_assert_eq!(log.last_index(), LogIndex(last));
        let term = |index: u64| index.checked_sub(1).map_or(0, |at| terms[usize::try_from(at).unwrap()]);
        for index in 0..=last + 1 {
            let known = (first..=last).contains(&index).then(|| Term(term(index)));
            prop_assert_eq!(log.term_at(LogIndex(index)), known, "at {}", index);
            for bound in 0..=term(last) + 1 {
                let expected = (first..=index.min(last)).rev().find(|at| term(*at) <= bound);
                let found = log.last_possible_match(LogId::new(bound, index)).map(|id| id.index.0);
                prop_assert_eq!(found, expected, "{}@t{}", index, bound);
            }
        }
        let window: Vec<u64> = log.window(LogIndex(0).next(), LogIndex(last)).map(|e| e.index().0).collect();
        let start = log.window_start().0;
        prop_assert!(start <= 1 || window.is_empty(), "what is not in the window is not half there");
        let suffix: Vec<u64> = log.window(log.window_start(), LogIndex(last)).map(|e| e.index().0).collect();
        prop_assert_eq!(suffix, (start..=last).collect::<Vec<_>>());
        let newest = log.membership().0.index;
        prop_assert!(newest <= log.last_index());
        prop_assert_eq!(&log.membership_at(LogIndex(last)).0.index, &newest);
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn runs_and_window_agree_with_a_plain_list(steps in prop::collection::vec(step(), 1..60)) {
            let mut log = empty(100);
            let mut terms: Vec<u64> = Vec::new();
            let mut held: Vec<(Entries, Vec<Entry>)> = Vec::new();
            for step in steps {
                let last = log.last();
                match step {
                    Step::Append { rise } => {
                        let term = last.term.0.max(1) + u64::from(rise);
                        terms.push(term);
                        log.append(entry(term, last.index.0 + 1));
                    }
                    Step::Truncate { back } => {
                        let from = LogIndex((last.index.0.saturating_sub(back)).max(log.commit().0) + 1);
                        log.truncate(from);
                        terms.truncate(usize::try_from(from.0 - 1).unwrap());
                    }
                    Step::Persist => log.persisted_to(last.index),
                    Step::Commit => {
                        log.commit_to(LogIndex(log.commit().0.midpoint(last.index.0)));
                    }
                    Step::Compact => {
                        let through = LogIndex(log.compacted().index.0.midpoint(log.commit().0));
                        log.compact(log.id_at(through).unwrap());
                    }
                }
                check(&log, &terms)?;
                // What is handed out is what the window says, and stays so while it is held.
                let (start, last) = (log.window_start(), log.last_index());
                let from = LogIndex(start.0.midpoint(last.0 + 1));
                for (from, to) in [(start, last), (from, last), (start, from.min(last))] {
                    let (shared, plain) = (log.share(from, to), log.window(from, to).cloned().collect());
                    prop_assert_eq!(&*shared, &plain);
                    held.push((shared, plain));
                }
                held.drain(..held.len().saturating_sub(20));
                prop_assert!(held.iter().all(|(shared, plain)| **shared == **plain));
            }
        }
    }

    #[test]
    fn only_what_is_durable_leaves_the_window() {
        let mut log = empty(0);
        (1..=4).for_each(|index| log.append(entry(1, index)));
        log.persisted_to(LogIndex(2));
        assert_eq!(log.window_start(), LogIndex(3));
    }

    #[test]
    fn a_contradiction_in_what_was_read_back_is_named() {
        let refused = |restored: Restored| Log::restore(restored, 0).unwrap_err();
        let hard_state = crate::types::HardState { term: Term(2), ..Default::default() };
        let runs = |runs: &[(u64, u64)]| runs.iter().map(|(term, index)| LogId::new(*term, *index)).collect();
        let log =
            |term_runs, last| Restored { hard_state, term_runs, last: LogIndex(last), ..Restored::default() };
        for restored in [
            log(runs(&[]), 3),
            log(runs(&[(1, 2)]), 3),
            log(runs(&[(2, 1), (1, 2)]), 3),
            log(runs(&[(1, 1), (2, 5)]), 3),
            log(runs(&[(3, 1)]), 3),
            Restored { applied: LogIndex(4), ..log(runs(&[(1, 1)]), 3) },
            Restored { memberships: vec![(LogId::new(1, 9), Arc::default())], ..log(runs(&[(1, 1)]), 3) },
        ] {
            assert!(matches!(refused(restored), RestoreError::Inconsistent(_)));
        }
    }
}
