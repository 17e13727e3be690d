//! What a replica's disk holds: exactly the writes that were made durable, and the entries that its
//! snapshot covers (which are also the state of the state machine in it).

use std::sync::Arc;

use quorate_core::{
    Entry, EntryPayload, HardState, LogId, LogIndex, Membership, Persist, PersistToken, Restored,
};

/// See the module.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) snapshot: Vec<Entry>,
    membership: Since,
    entries: Vec<Entry>,
}

/// A membership and the position of its entry.
type Since = (LogId, Arc<Membership>);

/// A write on its way to the disk.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Write {
    pub(crate) token: PersistToken,
    reset: Option<(Vec<Entry>, Since)>,
    truncate_from: Option<LogIndex>,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
}

impl Write {
    /// `staged` is the content of the snapshot that a reset is about.
    pub(crate) fn new(persist: Persist, staged: &[Entry]) -> Self {
        Self {
            token: persist.token,
            reset: persist.reset_membership.map(|membership| (staged.to_vec(), membership)),
            truncate_from: persist.truncate_from,
            entries: persist.entries.into_vec(),
            hard_state: persist.hard_state,
        }
    }

    pub(crate) fn forget_vote(&mut self) {
        self.hard_state = self.hard_state.map(|hard_state| HardState { vote: None, ..hard_state });
    }
}

impl Disk {
    pub(crate) fn new(membership: Arc<Membership>) -> Self {
        Self {
            hard_state: HardState::default(),
            snapshot: Vec::new(),
            membership: (LogId::default(), membership),
            entries: Vec::new(),
        }
    }

    /// Everything it holds, from index 1 on.
    pub(crate) fn history(&self) -> Vec<Entry> {
        self.snapshot.iter().chain(&self.entries).cloned().collect()
    }

    pub(crate) fn last(&self) -> LogIndex {
        LogIndex((self.snapshot.len() + self.entries.len()) as u64)
    }

    pub(crate) fn compacted(&self) -> LogId {
        self.snapshot.last().map_or_else(LogId::default, |entry| entry.id)
    }

    pub(crate) fn lose_last(&mut self) {
        self.entries.pop();
    }

    pub(crate) fn write(&mut self, write: Write) {
        if let Some((snapshot, membership)) = write.reset {
            self.snapshot = snapshot;
            self.membership = membership;
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            assert!(from > self.compacted().index, "a truncation below the log's start");
            self.entries.retain(|entry| entry.index() < from);
        }
        for entry in write.entries {
            assert!(entry.index() == self.last().next(), "a write leaves a gap");
            self.entries.push(entry);
        }
        if let Some(hard_state) = write.hard_state {
            assert!(hard_state.term >= self.hard_state.term, "the term on disk falls");
            self.hard_state = hard_state;
        }
    }

    /// Takes a snapshot of everything up to `through`.
    pub(crate) fn compact(&mut self, through: LogIndex, membership: Since) {
        let mut snapshot = self.history();
        self.entries = snapshot.iter().filter(|entry| entry.index() > through).cloned().collect();
        snapshot.retain(|entry| entry.index() <= through);
        self.snapshot = snapshot;
        self.membership = membership;
    }

    pub(crate) fn restored(&self) -> Restored {
        let mut term_runs: Vec<LogId> = Vec::new();
        let mut memberships = vec![self.membership.clone()];
        for entry in &self.entries {
            if term_runs.last().is_none_or(|run| run.term < entry.term()) {
                term_runs.push(entry.id);
            }
            if let EntryPayload::Membership(membership) = &entry.payload {
                memberships.push((entry.id, Arc::clone(membership)));
            }
        }
        Restored {
            hard_state: self.hard_state,
            compacted: self.compacted(),
            term_runs,
            last: self.last(),
            memberships,
            applied: self.compacted().index,
            ..Restored::default()
        }
    }
}
