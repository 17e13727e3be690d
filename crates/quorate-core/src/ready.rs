//! What the core wants done. The caller takes a [`Ready`], does its lanes in any order and in
//! parallel, and reports each lane's completion; messages that promise something stay inside the
//! core until the write that makes the promise true is reported (`RawNode::on_persisted`).
//!
//! Entries are shared between lanes and used again by themselves; the lists are when the caller fills the same `Ready` again
//! (`RawNode::ready_into`). Such a caller makes a busy core allocate nothing.

use std::sync::Arc;

use crate::entries::Entries;
use crate::event::{RaftEvent, ReadFailure};
use crate::membership::Membership;
use crate::message::{Message, SnapshotMeta};
use crate::types::{HardState, LogId, LogIndex, ReplicaId};

/// The number of one write. Later writes have larger tokens; reporting one reports all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistToken(pub u64);

/// The caller's own name for a read it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadTicket(pub u64);

/// Everything to do now, by lane.
#[derive(Debug, Default)]
pub struct Ready {
    /// One atomic write. Writes must become durable in the order they were handed out.
    pub persist: Option<Persist>,
    /// Messages that may leave now, in order per receiver.
    pub send: Vec<Message>,
    /// Replace the state machine's state with this staged snapshot, before `apply`. Handed out only
    /// after the log's reset to it is durable. Report `on_applied(meta.last.index)`.
    pub restore: Option<SnapshotMeta>,
    /// Committed and locally durable entries to apply, contiguous after everything handed out
    /// before. Report `on_applied` (in steps if you like).
    pub apply: Entries,
    /// Reads that are decided.
    pub reads: Vec<ReadOutcome>,
    /// Older entries the core needs from the log, or snapshots to stream.
    pub fetch: Vec<Fetch>,
    /// What happened, for logs, metrics and tests. Never drives behaviour.
    pub events: Vec<RaftEvent>,
}

/// One atomic write to the log store. Order of meaning: reset, truncate, append, hard state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Report this to `on_persisted` once the write is durable.
    pub token: PersistToken,
    /// Drop the whole log; it now starts after this position (a snapshot covers it).
    pub reset_to: Option<LogId>,
    /// The membership at `reset_to`, and the position of its entry (present iff `reset_to` is).
    pub reset_membership: Option<(LogId, Arc<Membership>)>,
    /// Drop entries from this index on.
    pub truncate_from: Option<LogIndex>,
    /// Entries to append, contiguous after what is then the last.
    pub entries: Entries,
    /// The new hard state, when it changed.
    pub hard_state: Option<HardState>,
    /// False when only the commit hint changed: no sync is needed and nothing waits for it.
    pub must_sync: bool,
}

/// A decided read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadOutcome {
    /// Serve it once everything up to `index` is applied.
    At {
        /// The caller's name for it.
        ticket: ReadTicket,
        /// What must be applied first.
        index: LogIndex,
    },
    /// It cannot be served now; ask again.
    Failed {
        /// The caller's name for it.
        ticket: ReadTicket,
        /// Why not.
        reason: ReadFailure,
    },
}

/// Something only the caller's disk can give.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fetch {
    /// Read entries `from..to` (half-open), up to about `bytes_max` payload bytes but at least
    /// one, and give them to `on_fetched`.
    Entries {
        /// First index wanted.
        from: LogIndex,
        /// One past the last.
        to: LogIndex,
        /// Where to stop.
        bytes_max: u64,
    },
    /// Stream a snapshot whose last index is at least `at_least` to `to`, then call
    /// `report_snapshot`.
    SendSnapshot {
        /// The follower.
        to: ReplicaId,
        /// The log starts after this; an older snapshot does not help.
        at_least: LogIndex,
    },
}

/// A longer list is not kept inside, so that one burst does not cost memory for ever.
const ROOM_MAX: usize = 1024;

/// Hands out what is in `inside`, and keeps the room of `outside` to fill; what is still in that is forgotten.
pub(crate) fn exchange<T>(inside: &mut Vec<T>, outside: &mut Vec<T>) {
    if !outside.is_empty() {
        outside.clear();
    }
    if inside.is_empty() {
        return;
    }
    std::mem::swap(inside, outside);
    if inside.capacity() > ROOM_MAX {
        *inside = Vec::new();
    }
}
