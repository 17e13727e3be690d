//! What a log store is, in the plainest way: maps, and no durability.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, Membership, ReplicaId, Term};

use super::{Chance, members};
use crate::log_store::{GroupState, GroupWrite, LogBatch, LogReader, LogStore};

/// The groups and logs that valid batches lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogModel {
    groups: BTreeMap<GroupId, ModelGroup>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ModelGroup {
    replica: ReplicaId,
    hard_state: HardState,
    compacted: LogId,
    base: Option<(LogId, Arc<Membership>)>,
    entries: BTreeMap<LogIndex, Entry>,
    lost_until: LogIndex,
}

impl LogModel {
    /// Does what a valid batch says.
    pub fn apply(&mut self, batch: &LogBatch) {
        for write in &batch.groups {
            if write.remove {
                self.groups.remove(&write.group);
            } else {
                self.groups.entry(write.group).or_default().apply(write);
            }
        }
    }

    /// What `LogStore::groups` must say.
    #[must_use]
    pub fn states(&self) -> Vec<GroupState> {
        self.groups.iter().map(|(id, group)| group.state(*id)).collect()
    }

    /// An entry of a group's log.
    #[must_use]
    pub fn entry(&self, group: GroupId, index: LogIndex) -> Option<&Entry> {
        self.groups.get(&group)?.entries.get(&index)
    }

    /// The difference between `store` and the model, if there is one.
    ///
    /// # Errors
    /// What differs, in words.
    pub fn compare(&self, store: &dyn LogStore) -> Result<(), String> {
        let (expected, found) = (self.states(), store.groups());
        if expected != found {
            return Err(format!("expected the groups {expected:#?}, found {found:#?}"));
        }
        let reader = store.reader();
        for (id, group) in &self.groups {
            if reader.state(*id) != Some(group.state(*id)) {
                return Err(format!("the reader sees another state of group {id}: {:?}", reader.state(*id)));
            }
            self.compare_entries(&*reader, *id, 1 << 30)?;
            self.compare_entries(&*reader, *id, 0)?;
        }
        Ok(())
    }

    /// Compares all entries of a group, read in pieces of `bytes_max`.
    fn compare_entries(&self, reader: &dyn LogReader, id: GroupId, bytes_max: u64) -> Result<(), String> {
        let Some(group) = self.groups.get(&id) else { return Ok(()) };
        let Range { mut start, end } = group.range();
        while start < end {
            let found = reader
                .read(id, start..end, bytes_max)
                .map_err(|error| format!("reading {start}..{end} of group {id} failed: {error}"))?;
            if found.is_empty() {
                return Err(format!("reading {start}..{end} of group {id} gave nothing"));
            }
            for entry in found {
                if group.entries.get(&start) != Some(&entry) {
                    let expected = group.entries.get(&start);
                    return Err(format!(
                        "entry {start} of group {id}: expected {expected:?}, found {entry:?}"
                    ));
                }
                start = start.next();
            }
        }
        Ok(())
    }

    /// A valid batch of up to three groups that does a bit of everything.
    pub(super) fn random_batch(&self, chance: &mut Chance) -> LogBatch {
        let mut groups: BTreeMap<GroupId, GroupWrite> = BTreeMap::new();
        for _ in 0..=chance.below(2) {
            let id = GroupId(chance.below(4) + 1);
            let group = self.groups.get(&id).cloned().unwrap_or_default();
            groups.insert(id, group.random_write(id, chance));
        }
        LogBatch { groups: groups.into_values().collect() }
    }
}

impl ModelGroup {
    fn range(&self) -> Range<LogIndex> {
        let first = self.compacted.index.next();
        first..LogIndex(first.0 + self.entries.len() as u64)
    }

    fn last(&self) -> LogId {
        self.entries.values().next_back().map_or(self.compacted, |entry| entry.id)
    }

    fn apply(&mut self, write: &GroupWrite) {
        self.replica = write.replica.unwrap_or(self.replica);
        if let Some((position, id, membership)) = &write.reset_to {
            self.entries.clear();
            self.compacted = *position;
            self.base = Some((*id, Arc::clone(membership)));
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|index, _| *index < from);
        }
        for entry in &write.entries {
            self.entries.insert(entry.index(), entry.clone());
        }
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some((position, id, membership)) = &write.compact_to
            && position.index > self.compacted.index
        {
            self.entries.retain(|index, _| *index > position.index);
            self.compacted = *position;
            self.base = Some((*id, Arc::clone(membership)));
        }
        self.lost_until = write.lost_until.unwrap_or(self.lost_until);
        if self.lost_until <= self.last().index {
            self.lost_until = LogIndex(0);
        }
    }

    fn state(&self, group: GroupId) -> GroupState {
        let mut term_runs: Vec<LogId> = Vec::new();
        let mut memberships: Vec<(LogId, Arc<Membership>)> = self.base.iter().cloned().collect();
        for entry in self.entries.values() {
            if term_runs.last().map(|run| run.term) != Some(entry.term()) {
                term_runs.push(entry.id);
            }
            if let EntryPayload::Membership(membership) = &entry.payload {
                memberships.push((entry.id, Arc::clone(membership)));
            }
        }
        GroupState {
            group,
            replica: self.replica,
            hard_state: self.hard_state,
            compacted: self.compacted,
            term_runs,
            last: self.last().index,
            memberships,
            damaged: None,
            lost_until: self.lost_until,
        }
    }

    fn random_write(&self, group: GroupId, chance: &mut Chance) -> GroupWrite {
        let mut write = GroupWrite { group, ..GroupWrite::default() };
        if chance.once_in(40) {
            return GroupWrite { remove: true, ..write };
        }
        if self.replica == ReplicaId(0) {
            write.replica = Some(ReplicaId(chance.below(5) + 1));
        }
        let mut after = self.clone();
        if chance.once_in(25) {
            let last = self.last();
            let position = LogId::new(last.term.0 + 1, last.index.0 + chance.below(20));
            write.reset_to = Some((position, position, members(position.index.0)));
        }
        if chance.once_in(6) {
            after.apply(&write);
            let Range { start, end } = after.range();
            write.truncate_from = Some(LogIndex(start.0 + chance.below(end.0 - start.0 + 2)));
        }
        after.apply(&write);
        let mut last = after.last();
        let mut entries = Vec::new();
        for _ in 0..chance.below(5) {
            let term = Term(last.term.0.max(1) + u64::from(chance.once_in(5)));
            last = LogId { term, index: last.index.next() };
            entries.push(random_entry(last, chance));
        }
        write.entries = entries.into();
        if chance.once_in(2) {
            let vote = if chance.once_in(2) { Some(ReplicaId(chance.below(3) + 1)) } else { None };
            write.hard_state = Some(HardState { term: last.term, vote, commit: last.index });
        }
        after.apply(&write);
        if chance.once_in(5)
            && let Some(entry) = after.entries.values().nth(super::log_store::index(chance.below(12)))
        {
            write.compact_to = Some((entry.id, LogId::default(), members(entry.id.index.0)));
        }
        write
    }
}

fn random_entry(id: LogId, chance: &mut Chance) -> Entry {
    let payload = match chance.below(12) {
        0 => EntryPayload::Noop,
        1 => EntryPayload::Membership(members(chance.below(9))),
        2 => EntryPayload::Command(Bytes::from(vec![id.index.0.to_le_bytes()[0]; 2000])),
        _ => EntryPayload::Command(Bytes::from(format!("command {id} {:x}", chance.next()))),
    };
    Entry { id, payload }
}
