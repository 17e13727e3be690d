//! A replica's disk: exactly the writes that were made durable.

use std::sync::Arc;

use quorate_core::{
    Entry, EntryPayload, HardState, LogId, LogIndex, Membership, Persist, Restored, SnapshotMeta,
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) compacted: LogId,
    pub(crate) membership: (LogId, Arc<Membership>),
    pub(crate) entries: Vec<Entry>,
}

impl Disk {
    pub(crate) fn new(membership: Membership) -> Self {
        Self { membership: (LogId::default(), Arc::new(membership)), ..Self::default() }
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.entries.last().map_or(self.compacted.index, Entry::index)
    }

    pub(crate) fn write(&mut self, persist: &Persist) {
        if let (Some(to), Some(membership)) = (persist.reset_to, &persist.reset_membership) {
            self.compacted = to;
            self.entries.clear();
            self.membership = membership.clone();
        }
        if let Some(from) = persist.truncate_from {
            assert!(from > self.compacted.index, "truncation below the log's start");
            self.entries.retain(|entry| entry.index() < from);
        }
        for entry in &persist.entries {
            assert_eq!(entry.index(), self.last().next(), "a write leaves a gap");
            self.entries.push(entry.clone());
        }
        if let Some(hard_state) = persist.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "the term on disk falls");
            self.hard_state = hard_state;
        }
    }

    pub(crate) fn compact(&mut self, meta: &SnapshotMeta) {
        self.entries.retain(|entry| entry.index() > meta.last.index);
        self.compacted = meta.last;
        self.membership = (meta.membership_id, Arc::clone(&meta.membership));
    }

    pub(crate) fn read(&self, from: LogIndex, to: LogIndex, bytes_max: u64) -> Vec<Entry> {
        let mut bytes = 0;
        let wanted = self.entries.iter().filter(|entry| from <= entry.index() && entry.index() < to);
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += quorate_core::encoded_entry_len(entry) as u64;
            first || bytes <= bytes_max
        };
        wanted.take_while(fits).cloned().collect()
    }

    pub(crate) fn restored(&self, applied: LogIndex) -> Restored {
        let mut term_runs: Vec<LogId> = Vec::new();
        let mut memberships = vec![self.membership.clone()];
        for entry in &self.entries {
            if term_runs.last().is_none_or(|run| run.term < entry.term()) {
                term_runs.push(entry.id);
            }
            match &entry.payload {
                EntryPayload::Membership(members) => memberships.push((entry.id, Arc::clone(members))),
                EntryPayload::Noop | EntryPayload::Command(_) | EntryPayload::Withheld => {}
            }
        }
        Restored {
            hard_state: self.hard_state,
            compacted: self.compacted,
            term_runs,
            last: self.last(),
            memberships,
            applied,
            ..Restored::default()
        }
    }
}
