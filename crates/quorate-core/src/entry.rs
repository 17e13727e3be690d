//! A record of the log.

use std::sync::Arc;

use bytes::Bytes;

use crate::membership::Membership;
use crate::types::{LogId, LogIndex, Term};

/// One record of a group's log. Cheap to clone: payloads are reference-counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Where it stands and which term wrote it.
    pub id: LogId,
    /// What it says.
    pub payload: EntryPayload,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EntryPayload {
    /// Nothing: what a new leader commits to learn what is committed (Raft §8), and a barrier.
    Noop,
    /// A command for the state machine, opaque to Raft.
    Command(Bytes),
    /// The members from this position on (in effect as soon as it is appended, thesis §4.1).
    Membership(Arc<Membership>),
    /// A command, on a witness: that it was there, not what it said.
    Withheld,
}

impl Entry {
    /// The entry's index.
    #[must_use]
    pub const fn index(&self) -> LogIndex {
        self.id.index
    }
    /// The entry's term.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.id.term
    }
}
