//! A view of the core for people and policies. Borrows; allocates nothing.

use std::fmt;
use std::sync::Arc;

use crate::event::RoleName;
use crate::membership::Membership;
use crate::raw_node::RawNode;
use crate::role::Role;
use crate::types::{LogId, LogIndex, MonoTime, ReplicaId, Term};

/// What the core looks like now.
#[derive(Clone, Copy, Debug)]
pub struct Status<'a> {
    /// This replica.
    pub id: ReplicaId,
    /// Its role.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// Its vote in the term.
    pub vote: Option<ReplicaId>,
    /// The leader it knows.
    pub leader: Option<ReplicaId>,
    /// The log starts after this.
    pub compacted: LogId,
    /// The last entry.
    pub last: LogId,
    /// The highest index on this replica's disk.
    pub persisted: LogIndex,
    /// The highest committed index it knows.
    pub commit: LogIndex,
    /// The highest index handed out to apply.
    pub handed: LogIndex,
    /// The highest index reported applied.
    pub applied: LogIndex,
    /// The newest membership (appended, perhaps not committed).
    pub membership: &'a Arc<Membership>,
    /// The position of its entry.
    pub membership_id: LogId,
    /// Whom leadership is being handed to.
    pub transfer_to: Option<ReplicaId>,
    /// Whether it rests (`Config::quiesce_after`).
    pub quiescent: bool,
    /// Payload bytes proposed and not committed (on a leader).
    pub uncommitted_bytes: u64,
    /// Reads that wait for an answer here.
    pub reads_waiting: usize,
    /// The newest round of reads in this term (on a leader; 0: none yet).
    pub read_round: u64,
    /// Payload bytes that this leader proposed, committed and not yet applied and durable here.
    pub unapplied_bytes: u64,
    pub(crate) core: Core<'a>,
}

/// The replica itself, for what is worked out only when somebody asks.
#[derive(Clone, Copy)]
pub(crate) struct Core<'a>(pub(crate) &'a RawNode);

impl fmt::Debug for Core<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawNode")
    }
}

impl Status<'_> {
    /// Until when this leader may serve reads from its lease, if it may now.
    pub fn lease_until(&self) -> Option<MonoTime> {
        match &self.core.0.role {
            Role::Leader(leader) => leader.lease_until(&self.core.0.shared),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// Whether it would campaign: a voter that holds everything it ever acknowledged.
    pub fn may_campaign(&self) -> bool {
        self.core.0.shared.may_campaign()
    }

    /// When it acts, if nothing is heard until then: a follower or candidate campaigns; a leader that
    /// checks its quorum steps down (`None` if it does not).
    pub fn patience_ends(&self) -> Option<MonoTime> {
        match &self.core.0.role {
            Role::Leader(leader) => leader.quorum_deadline(&self.core.0.shared),
            Role::Follower(follower) => follower.deadline,
            Role::Candidate(candidate) => Some(candidate.deadline),
        }
    }
}

/// What a leader knows of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressStatus {
    /// Known to match up to here.
    pub matched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// How it is fed.
    pub state: ProgressName,
    /// Heard from within the last election timeout.
    pub recently_active: bool,
    /// Nothing is sent to it before it answers: a probe is out, the window is full, or it waits for
    /// a snapshot.
    pub paused: bool,
    /// Appends sent and not answered.
    pub inflight_messages: usize,
    /// Bytes of entries in them.
    pub inflight_bytes: u64,
    /// The index that the snapshot it waits for has to reach.
    pub pending_snapshot: Option<LogIndex>,
    /// It was removed, and is only being told so.
    pub departing: bool,
    /// Of a learner that is to be promoted: the round of catching up it is in, from 1.
    pub catch_up_round: Option<u32>,
}

/// How a leader feeds a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProgressName {
    /// Looking for the last common entry, one message at a time.
    Probe,
    /// Streaming.
    Replicate,
    /// Waiting for a snapshot to be installed.
    Snapshot,
}
