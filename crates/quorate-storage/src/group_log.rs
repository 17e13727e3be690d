//! The rules of one group's log, without its entries: what a write may do, and what is known after.
//!
//!   base membership   compacted            term runs, memberships           last
//!         │               │                 │1        │2    │3               │
//!   ──────┴───────────────┴─────────────────┴─────────┴─────┴────────────────┴──► index
//!
//! * `check` accepts a write exactly if it may be applied; `apply` never fails and, for bytes read
//!   back from disk, tolerates that what came before the first segment is not known.
//! * `term_runs` holds the first position of every run of equal terms after `compacted`.
//!
//! Both stores use it, so that they agree on every rule. Not here: where entries are.

use std::sync::Arc;

use quorate_core::{Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, Membership, ReplicaId, Term};

use crate::log_store::{GroupState, GroupWrite};

/// What is known of one group, apart from its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupLog {
    /// 0 until it is said.
    pub(crate) replica: ReplicaId,
    pub(crate) hard_state: HardState,
    pub(crate) compacted: LogId,
    /// The membership in effect at `compacted` and where it was written.
    pub(crate) base: Option<(LogId, Arc<Membership>)>,
    pub(crate) term_runs: Vec<LogId>,
    pub(crate) last: LogIndex,
    /// Membership entries after `compacted`, ascending.
    pub(crate) memberships: Vec<(LogId, Arc<Membership>)>,
    /// Acknowledged entries up to here are lost; 0 as soon as the log reaches that far again.
    pub(crate) lost_until: LogIndex,
}

impl GroupLog {
    /// The shape handed to the outside.
    pub(crate) fn state(&self, group: GroupId) -> GroupState {
        GroupState {
            group,
            replica: self.replica,
            hard_state: self.hard_state,
            compacted: self.compacted,
            term_runs: self.term_runs.clone(),
            last: self.last,
            memberships: self.base.iter().chain(&self.memberships).cloned().collect(),
            damaged: None,
            lost_until: self.lost_until,
        }
    }

    /// The term of the entry at `index`, or of the compacted position; `None` elsewhere.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.compacted.index {
            return Some(self.compacted.term);
        }
        if index < self.compacted.index || index > self.last {
            return None;
        }
        let run = self.term_runs.partition_point(|first| first.index <= index).checked_sub(1)?;
        self.term_runs.get(run).map(|first| first.term)
    }

    /// Whether `write` keeps the rules, and if not, which one it breaks.
    pub(crate) fn check(&self, write: &GroupWrite) -> Result<(), &'static str> {
        if write.remove {
            return if *write == (GroupWrite { group: write.group, remove: true, ..GroupWrite::default() }) {
                Ok(())
            } else {
                Err("a removal stands alone")
            };
        }
        if write.replica.is_some_and(|id| self.replica != ReplicaId(0) && self.replica != id) {
            return Err("the replica of a group is set once");
        }
        // Follow the positions through the write without touching anything.
        let (mut compacted, mut last) = (self.compacted, self.last_id());
        if let Some((position, membership_at, _)) = &write.reset_to {
            if membership_at.index > position.index {
                return Err("the membership of a reset is at or before its position");
            }
            if position.index > LogIndex::MAX || position.term > Term::MAX {
                return Err("positions stay below half of the range");
            }
            (compacted, last) = (*position, *position);
        }
        if let Some(from) = write.truncate_from {
            if from > LogIndex::MAX {
                return Err("positions stay below half of the range");
            }
            if from <= compacted.index {
                return Err("truncation starts after the compacted position");
            }
            if from <= last.index {
                let index = from.previous();
                let term = self.term_at(index).ok_or("truncation starts inside the log")?;
                last = LogId { term, index };
            }
        }
        if write.lost_until.is_some_and(|until| until > LogIndex::MAX) {
            return Err("positions stay below half of the range");
        }
        for entry in &write.entries {
            if entry.index() != last.index.next() {
                return Err("entries follow the last one without a gap");
            }
            if entry.term() < last.term {
                return Err("terms do not decrease");
            }
            if entry.index() > LogIndex::MAX || entry.term() > Term::MAX {
                return Err("positions stay below half of the range");
            }
            last = entry.id;
        }
        match &write.compact_to {
            Some((position, membership_at, _)) => {
                self.check_compaction(write, (compacted, last), *position, *membership_at)
            }
            None => Ok(()),
        }
    }

    fn check_compaction(
        &self,
        write: &GroupWrite,
        (compacted, last): (LogId, LogId),
        position: LogId,
        membership_at: LogId,
    ) -> Result<(), &'static str> {
        if membership_at.index > position.index {
            return Err("the membership of a compaction is at or before its position");
        }
        if position.index > last.index {
            return Err("compaction ends inside the log");
        }
        if position.index <= compacted.index {
            return Ok(());
        }
        let appended = write.entries.iter().find(|entry| entry.index() == position.index);
        let term = appended.map_or_else(|| self.term_at(position.index), |entry| Some(entry.term()));
        if term == Some(position.term) { Ok(()) } else { Err("compaction names an entry with its term") }
    }

    /// The last entry's position (the compacted one for an empty log).
    pub(crate) fn last_id(&self) -> LogId {
        let term = self.term_runs.last().map_or(self.compacted.term, |run| run.term);
        LogId { term, index: self.last }
    }

    /// Does what `write` says. A removal is the caller's: it drops the whole value.
    pub(crate) fn apply(&mut self, write: &GroupWrite) {
        if let Some(replica) = write.replica {
            self.replica = replica;
        }
        if let Some((position, membership_at, membership)) = &write.reset_to {
            self.compacted = *position;
            self.base = Some((*membership_at, Arc::clone(membership)));
            self.term_runs.clear();
            self.memberships.clear();
            self.last = position.index;
        }
        if let Some(from) = write.truncate_from
            && from <= self.last
        {
            self.term_runs.retain(|run| run.index < from);
            self.memberships.retain(|(id, _)| id.index < from);
            self.last = from.previous();
        }
        for entry in &write.entries {
            self.append(entry);
        }
        if let Some(hard_state) = write.hard_state {
            self.hard_state = hard_state;
        }
        if let Some((position, membership_at, membership)) = &write.compact_to
            && position.index > self.compacted.index
        {
            self.compact(*position, (*membership_at, Arc::clone(membership)));
        }
        self.lost_until = write.lost_until.unwrap_or(self.lost_until);
        if self.lost_until <= self.last {
            self.lost_until = LogIndex(0);
        }
    }

    fn append(&mut self, entry: &Entry) {
        if self.term_runs.last().is_none_or(|run| run.term != entry.term()) {
            self.term_runs.push(entry.id);
        }
        match &entry.payload {
            EntryPayload::Membership(membership) => self.memberships.push((entry.id, Arc::clone(membership))),
            EntryPayload::Noop | EntryPayload::Command(_) | EntryPayload::Withheld => {}
        }
        self.last = entry.index();
    }

    fn compact(&mut self, position: LogId, base: (LogId, Arc<Membership>)) {
        let next = position.index.next();
        let run = self.term_runs.partition_point(|first| first.index <= next).checked_sub(1);
        let term = run.and_then(|run| self.term_runs.get(run)).map(|first| first.term);
        self.term_runs.retain(|first| first.index > next);
        if let Some(term) = term
            && next <= self.last
        {
            self.term_runs.insert(0, LogId { term, index: next });
        }
        self.memberships.retain(|(id, _)| id.index > position.index);
        self.base = Some(base);
        self.compacted = position;
        self.last = self.last.max(position.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn command(term: u64, index: u64) -> Entry {
        Entry { id: LogId::new(term, index), payload: EntryPayload::Command(Bytes::from_static(b"x")) }
    }

    fn members() -> Arc<Membership> {
        Arc::new(Membership::default())
    }

    /// Entries 1..=6 with terms 1 1 2 2 2 4.
    fn six() -> GroupLog {
        let entries = [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5), (4, 6)];
        let write = GroupWrite {
            entries: entries.iter().map(|(term, index)| command(*term, *index)).collect(),
            ..GroupWrite::default()
        };
        let mut log = GroupLog::default();
        log.check(&write).unwrap();
        log.apply(&write);
        log
    }

    #[test]
    fn compaction_inside_a_run_keeps_its_rest() {
        let mut log = six();
        let write = GroupWrite {
            compact_to: Some((LogId::new(2, 3), LogId::new(0, 0), members())),
            ..GroupWrite::default()
        };
        log.check(&write).unwrap();
        log.apply(&write);
        assert_eq!(log.term_runs, [LogId::new(2, 4), LogId::new(4, 6)]);
        assert_eq!(log.term_at(LogIndex(3)), Some(Term(2)));
        assert_eq!(log.term_at(LogIndex(2)), None);
        assert_eq!(log.last_id(), LogId::new(4, 6));
    }

    #[test]
    fn compaction_of_everything_leaves_an_empty_log() {
        let mut log = six();
        let write = GroupWrite {
            compact_to: Some((LogId::new(4, 6), LogId::new(0, 0), members())),
            ..GroupWrite::default()
        };
        log.check(&write).unwrap();
        log.apply(&write);
        assert_eq!((log.term_runs.len(), log.last_id()), (0, LogId::new(4, 6)));
        assert!(
            log.check(&GroupWrite { entries: vec![command(4, 7)].into(), ..GroupWrite::default() }).is_ok()
        );
        assert!(
            log.check(&GroupWrite { entries: vec![command(3, 7)].into(), ..GroupWrite::default() }).is_err()
        );
    }

    #[test]
    fn truncation_and_append_in_one_write_replace_the_tail() {
        let mut log = six();
        let write = GroupWrite {
            truncate_from: Some(LogIndex(3)),
            entries: vec![command(5, 3)].into(),
            ..GroupWrite::default()
        };
        log.check(&write).unwrap();
        log.apply(&write);
        assert_eq!(log.term_runs, [LogId::new(1, 1), LogId::new(5, 3)]);
        assert_eq!(log.last, LogIndex(3));
    }

    #[test]
    fn writes_that_break_a_rule_are_named() {
        let log = six();
        let refused = |write: GroupWrite| log.check(&write).unwrap_err();
        let write = || GroupWrite::default();
        assert!(refused(GroupWrite { entries: vec![command(4, 8)].into(), ..write() }).contains("gap"));
        assert!(refused(GroupWrite { entries: vec![command(4, 6)].into(), ..write() }).contains("gap"));
        assert!(refused(GroupWrite { truncate_from: Some(LogIndex(0)), ..write() }).contains("truncation"));
        let beyond = Some((LogId::new(4, 7), LogId::default(), members()));
        assert!(refused(GroupWrite { compact_to: beyond, ..write() }).contains("inside"));
        let other_term = Some((LogId::new(3, 5), LogId::default(), members()));
        assert!(refused(GroupWrite { compact_to: other_term, ..write() }).contains("term"));
        let alone = GroupWrite { remove: true, hard_state: Some(HardState::default()), ..write() };
        assert!(refused(alone).contains("alone"));
    }
}
