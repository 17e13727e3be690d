//! The log as the core sees it: recent entries in memory, terms of everything since the snapshot.
//!
//! ```text
//!   compacted        window start      applied   committed   persisted      last
//!      │ (on disk only)   │               │          │           │            │
//!   ───┴──────────────────┴───────────────┴──────────┴───────────┴────────────┴──►  index
//! ```
//!
//! * Indexes are contiguous; terms never decrease.
//! * The term of every index from `compacted` to `last` is known without a disk (runs of equal terms).
//! * `commit <= last`. A committed entry is never replaced (asserted).
//! * An entry leaves the window only when it is persisted; it comes back through `Fetch::Entries`.
//!
//! Not here: who may append (roles), durability gating (`shared.rs`).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::entry::{Entry, EntryPayload};
use crate::error::RestoreError;
use crate::membership::Membership;
use crate::raw_node::Restored;
use crate::types::{LogId, LogIndex, Term};

/// The payload bytes of an entry, as all byte limits count them.
pub(crate) fn payload_bytes(entry: &Entry) -> u64 {
    match &entry.payload {
        EntryPayload::Noop => 0,
        EntryPayload::Command(command) => command.len() as u64,
        EntryPayload::Membership(membership) => 64 * membership.members.len() as u64,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    compacted: LogId,
    /// First position of each run of equal terms after `compacted`.
    runs: VecDeque<LogId>,
    last: LogIndex,
    /// The newest entries, ending at `last`.
    window: VecDeque<Entry>,
    window_bytes: u64,
    window_bytes_max: u64,
    /// Ascending; the first is the one in effect at `compacted` (absent in an empty joining log).
    memberships: VecDeque<(LogId, Arc<Membership>)>,
    nobody: Arc<Membership>,
    pub(crate) commit: LogIndex,
    pub(crate) persisted: LogIndex,
}

impl Log {
    pub(crate) fn restore(restored: &Restored, window_bytes_max: u64) -> Result<Self, RestoreError> {
        let Restored { hard_state, compacted, term_runs, last, memberships, applied } = restored;
        let inconsistent = |what| Err(RestoreError::Inconsistent(what));
        if *last < compacted.index {
            return inconsistent("the log ends before it starts");
        }
        if *applied > *last {
            return inconsistent("the state machine has applied entries that the log does not hold");
        }
        if *last > compacted.index && term_runs.first().is_none_or(|run| run.index != compacted.index.next())
        {
            return inconsistent("the terms of the log do not start where the log starts");
        }
        let ordered =
            term_runs.windows(2).all(|two| two[0].term < two[1].term && two[0].index < two[1].index);
        if !ordered || term_runs.first().is_some_and(|run| run.term < compacted.term) {
            return inconsistent("terms fall along the log");
        }
        if term_runs.last().is_some_and(|run| run.index > *last || run.term > hard_state.term) {
            return inconsistent("the log holds a term that the hard state does not know");
        }
        if !memberships.windows(2).all(|two| two[0].0.index < two[1].0.index) {
            return inconsistent("memberships are out of order");
        }
        let commit = hard_state.commit.max(compacted.index).max(*applied).min(*last);
        Ok(Self {
            compacted: *compacted,
            runs: term_runs.iter().copied().collect(),
            last: *last,
            window: VecDeque::new(),
            window_bytes: 0,
            window_bytes_max,
            memberships: memberships.iter().cloned().collect(),
            nobody: Arc::default(),
            commit,
            persisted: *last,
        })
    }

    pub(crate) const fn compacted(&self) -> LogId {
        self.compacted
    }

    pub(crate) fn last(&self) -> LogId {
        let term = self.runs.back().map_or(self.compacted.term, |run| run.term);
        LogId { term, index: self.last }
    }

    /// The term at `index`, from `compacted` to `last`.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        if index < self.compacted.index || index > self.last {
            return None;
        }
        let after = self.runs.partition_point(|run| run.index <= index);
        Some(self.runs[after - 1].term)
    }

    pub(crate) fn id_at(&self, index: LogIndex) -> Option<LogId> {
        self.term_at(index).map(|term| LogId { term, index })
    }

    pub(crate) fn contains(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The highest position at or below `bound.index` whose term is not above `bound.term`: the
    /// only places where a log that holds `bound` and this one can still agree (Raft §5.3, end).
    pub(crate) fn last_not_above(&self, bound: LogId) -> LogId {
        let mut index = bound.index.min(self.last);
        while index > self.compacted.index {
            let run = self.runs[self.runs.partition_point(|run| run.index <= index) - 1];
            if run.term <= bound.term {
                return LogId { term: run.term, index };
            }
            index = run.index.previous();
        }
        self.compacted
    }

    /// Appends after `last`.
    pub(crate) fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert!(entry.index() == last.index.next(), "append leaves a gap: {:?} after {last:?}", entry.id);
        assert!(entry.term() >= last.term, "terms fall: {:?} after {last:?}", entry.id);
        if entry.term() > last.term || self.runs.is_empty() {
            self.runs.push_back(entry.id);
        }
        if let EntryPayload::Membership(membership) = &entry.payload {
            self.memberships.push_back((entry.id, Arc::clone(membership)));
        }
        self.last = entry.index();
        self.window_bytes += payload_bytes(&entry);
        self.window.push_back(entry);
    }

    /// Drops entries from `from` on.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.commit, "a committed entry would be replaced: {from:?} <= {:?}", self.commit);
        while self.window.back().is_some_and(|entry| entry.index() >= from) {
            if let Some(entry) = self.window.pop_back() {
                self.window_bytes -= payload_bytes(&entry);
            }
        }
        while self.runs.back().is_some_and(|run| run.index >= from) {
            self.runs.pop_back();
        }
        while self.memberships.back().is_some_and(|(id, _)| id.index >= from) {
            self.memberships.pop_back();
        }
        self.last = from.previous();
        self.persisted = self.persisted.min(self.last);
    }

    /// Forgets everything: the log now starts after `to`, which a snapshot covers.
    pub(crate) fn reset(&mut self, to: LogId, membership_id: LogId, membership: Arc<Membership>) {
        assert!(to.index > self.commit, "a snapshot would undo commits: {to:?}");
        self.compacted = to;
        self.runs.clear();
        self.window.clear();
        self.window_bytes = 0;
        self.last = to.index;
        self.commit = to.index;
        self.persisted = self.persisted.min(to.index);
        self.memberships.clear();
        self.memberships.push_back((membership_id, membership));
    }

    /// The log's start moves up to `through`.
    pub(crate) fn compact(&mut self, through: LogId) {
        while self.window.front().is_some_and(|entry| entry.index() <= through.index) {
            if let Some(entry) = self.window.pop_front() {
                self.window_bytes -= payload_bytes(&entry);
            }
        }
        while self.runs.get(1).is_some_and(|run| run.index <= through.index.next()) {
            self.runs.pop_front();
        }
        if through.index == self.last {
            self.runs.clear();
        } else if let Some(run) = self.runs.front_mut() {
            run.index = run.index.max(through.index.next());
        }
        while self.memberships.get(1).is_some_and(|(id, _)| id.index <= through.index) {
            self.memberships.pop_front();
        }
        self.compacted = through;
    }

    /// Lets entries go that the disk has, oldest first, until the window is within its limit.
    pub(crate) fn shrink_window(&mut self) {
        while self.window_bytes > self.window_bytes_max
            && self.window.front().is_some_and(|entry| entry.index() <= self.persisted)
        {
            if let Some(entry) = self.window.pop_front() {
                self.window_bytes -= payload_bytes(&entry);
            }
        }
    }

    /// Entries from `from` to `through` that are in the window, at least one, up to `bytes_max`;
    /// `None` when `from` is not in the window.
    pub(crate) fn window_slice(
        &self,
        from: LogIndex,
        through: LogIndex,
        bytes_max: u64,
    ) -> Option<Vec<Entry>> {
        let first = self.window.front()?.index();
        if from < first || from > self.last {
            return None;
        }
        let skip = usize::try_from(from.0 - first.0).ok()?;
        let mut bytes = 0;
        let entries = self.window.range(skip..).take_while(|entry| {
            bytes += payload_bytes(entry);
            entry.index() <= through && (bytes <= bytes_max || entry.index() == from)
        });
        Some(entries.cloned().collect())
    }

    /// The newest membership and where it was appended.
    pub(crate) fn membership(&self) -> (LogId, &Arc<Membership>) {
        self.memberships.back().map_or((LogId::default(), &self.nobody), |(id, membership)| (*id, membership))
    }

    /// The membership in effect at `index`.
    pub(crate) fn membership_at(&self, index: LogIndex) -> Option<(LogId, Arc<Membership>)> {
        let after = self.memberships.partition_point(|(id, _)| id.index <= index);
        self.memberships.get(after.checked_sub(1)?).cloned()
    }
}
