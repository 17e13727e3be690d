//! What happened in the core, as data: one stream for logs, metrics, golden scripts and traces.
//!
//! ```text
//!   Config::events    Changes ⊂ Steps (default) ⊂ Trace
//!
//!   Changes   who leads, who belongs, how members are fed, what was refused: rare in a healthy group
//!   Steps     also each move of the commit index and each round of reads: once per batch, not per entry
//!   Trace     also every entry, message and completed write: with a replica's first status, everything
//!             that its later status says can be rebuilt from it (`tests/tla_trace.rs` does)
//! ```
//!
//! * Events come in the order in which things happened, in the next [`Ready`](crate::Ready).
//! * They never drive behaviour: a core that says more does the same.
//! * What a call already answers to its caller (a refused proposal, a refused transfer) is not
//!   repeated here.
//! * Below `Trace`, only a refused message allocates.

use crate::message::Message;
use crate::raw_node::{Rejected, SnapshotOutcome};
use crate::status::ProgressName;
use crate::types::{LogId, LogIndex, ReplicaId, Term};

/// How much of what happens is put into the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventDetail {
    /// Who leads, who belongs, how members are fed, what was refused.
    Changes,
    /// Also each move of the commit index and each round of reads.
    #[default]
    Steps,
    /// Also every entry, message and completed write. Allocates for every message.
    Trace,
}

/// Something worth knowing that happened in the core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RaftEvent {
    /// The replica changed role or learned of a leader.
    RoleChanged {
        /// The new role.
        role: RoleName,
        /// The term.
        term: Term,
        /// The leader, if known.
        leader: Option<ReplicaId>,
        /// Why.
        reason: RoleReason,
    },
    /// A vote was asked for and answered.
    VoteAnswered {
        /// The candidate.
        candidate: ReplicaId,
        /// The term asked for.
        term: Term,
        /// Whether it was a pre-vote.
        pre: bool,
        /// Granted, or why not.
        refusal: Option<VoteRefusal>,
    },
    /// A candidate counted an answer to its question; its own vote when that is durable.
    VoteCounted {
        /// Who answered.
        voter: ReplicaId,
        /// Whether it was a pre-vote.
        pre: bool,
        /// What it said.
        granted: bool,
    },
    /// An append was refused because `prev` is not in the log.
    AppendRejected {
        /// The leader.
        leader: ReplicaId,
        /// The position it built on.
        prev: LogId,
    },
    /// Entries that were never committed were dropped from the log: the leader has others.
    Truncated {
        /// The first index dropped.
        from: LogIndex,
    },
    /// The commit index moved.
    Committed {
        /// The new commit index.
        index: LogIndex,
    },
    /// The log now starts later: a durable snapshot covers what went.
    Compacted {
        /// The last position dropped.
        through: LogId,
    },
    /// A membership is in effect (appended), or the one before it again (truncated).
    MembershipChanged {
        /// The position of its entry.
        log_id: LogId,
    },
    /// A follower lost entries it had acknowledged.
    FollowerLostLog {
        /// The follower.
        replica: ReplicaId,
        /// What it has now.
        last: LogId,
    },
    /// A leader feeds a member in another way.
    ProgressChanged {
        /// The member.
        replica: ReplicaId,
        /// How it was fed.
        from: ProgressName,
        /// How it is fed now.
        to: ProgressName,
        /// Known to match up to here.
        matched: LogIndex,
    },
    /// A leader asked its caller to stream a snapshot.
    SnapshotOffered {
        /// To whom.
        to: ReplicaId,
        /// Its last index is at least this.
        at_least: LogIndex,
    },
    /// The caller said how streaming a snapshot ended.
    SnapshotEnded {
        /// To whom.
        to: ReplicaId,
        /// How.
        outcome: SnapshotOutcome,
    },
    /// About another tenth of a snapshot has gone to a member, or come from a leader. The core does not tell this
    /// itself: it sees no pieces. (`quorate-host` does.)
    SnapshotProgress {
        /// The member it goes to, or the leader it comes from.
        peer: ReplicaId,
        /// Whether this replica sends it.
        sends: bool,
        /// The last entry it covers.
        last: LogId,
        /// How many bytes have arrived.
        bytes: u64,
        /// Of how many.
        bytes_total: u64,
    },
    /// A snapshot arrived.
    SnapshotReceived {
        /// The last entry it covers.
        last: LogId,
        /// What became of it.
        taken: SnapshotTaken,
    },
    /// Reads got the index they wait for.
    ReadsServed {
        /// That index.
        index: LogIndex,
        /// How many.
        reads: usize,
    },
    /// Reads failed.
    ReadsFailed {
        /// How many.
        reads: usize,
        /// Why.
        reason: ReadFailure,
    },
    /// A message was refused.
    MessageRejected {
        /// Why.
        reason: Rejected,
        /// The message, without its entries.
        message: Box<Message>,
    },
    /// A leader and its followers stopped waiting for each other, or woke (`Config::quiesce_after`).
    QuiescenceChanged {
        /// Whether the replica rests now.
        quiescent: bool,
    },
    /// A leadership transfer began.
    TransferStarted {
        /// Who shall lead.
        to: ReplicaId,
    },
    /// A leadership transfer is over.
    TransferEnded {
        /// Who should have led.
        to: ReplicaId,
        /// How it ended.
        outcome: TransferOutcome,
    },
    /// An entry was appended to the log. ([`EventDetail::Trace`])
    EntryAppended {
        /// Its position.
        id: LogId,
    },
    /// More of the present log is durable here. ([`EventDetail::Trace`])
    Persisted {
        /// Up to here.
        through: LogIndex,
    },
    /// A message was made. It leaves when what it promises is durable, perhaps merged with others.
    /// ([`EventDetail::Trace`])
    MessageSent {
        /// The message.
        message: Box<Message>,
    },
    /// A message passed the gate and is about to be handled. ([`EventDetail::Trace`])
    MessageReceived {
        /// The message.
        message: Box<Message>,
    },
    /// A `Ready` was taken; what happened before is in it. ([`EventDetail::Trace`])
    ReadyTaken,
}

/// The four roles, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleName {
    /// Follows a leader or waits for one (learners too).
    Follower,
    /// Asks whether an election would succeed.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl std::fmt::Display for RoleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Follower => "Follower",
            Self::PreCandidate => "PreCandidate",
            Self::Candidate => "Candidate",
            Self::Leader => "Leader",
        })
    }
}

/// Why a role changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleReason {
    /// The replica (re)started.
    Started,
    /// Nothing was heard from a leader for an election timeout.
    ElectionTimeout,
    /// The caller asked for an election.
    Asked,
    /// The leader handed over.
    Transfer,
    /// A quorum granted.
    Won,
    /// A quorum refused.
    Lost,
    /// A message of a higher term arrived.
    HigherTerm,
    /// The leader of this term spoke.
    HeardLeader,
    /// A leader heard from no quorum for an election timeout.
    QuorumLost,
    /// No longer a voter.
    Removed,
    /// The caller asked to forget the leader.
    Forgot,
}

/// Why a vote was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VoteRefusal {
    /// The candidate's log is behind.
    LogBehind,
    /// Already voted for another in this term.
    AlreadyVoted,
    /// A leader was heard within the election timeout (CheckQuorum, thesis §4.2.3).
    HeardLeader,
    /// The request is of an older term.
    OldTerm,
}

/// What a replica did with a snapshot that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotTaken {
    /// Everything it covers was committed here already: acknowledged as done.
    NotNeeded,
    /// The log holds its last entry: what it covers is committed, and what follows stays.
    Kept,
    /// The log was replaced by it.
    Installed,
}

/// Why reads failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadFailure {
    /// No quorum (or, on a follower, no leader) answered within an election timeout.
    TimedOut,
    /// The replica that should have confirmed them leads no more.
    LeadershipLost,
    /// The follower that passed them on follows nobody, or another.
    LeaderChanged,
    /// The asked replica could not say.
    Refused,
}

/// How a leadership transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransferOutcome {
    /// The target was told to campaign, and this replica leads no more.
    SteppedDown,
    /// It took longer than an election timeout.
    TimedOut,
    /// Leadership was lost before the target could be told.
    LeadershipLost,
    /// The caller called it off.
    Cancelled,
    /// The transport cannot reach the target.
    Unreachable,
}

impl RaftEvent {
    /// From which level on it is put into the stream.
    #[must_use]
    pub const fn detail(&self) -> EventDetail {
        match self {
            Self::RoleChanged { .. }
            | Self::VoteAnswered { .. }
            | Self::VoteCounted { .. }
            | Self::AppendRejected { .. }
            | Self::Truncated { .. }
            | Self::Compacted { .. }
            | Self::MembershipChanged { .. }
            | Self::FollowerLostLog { .. }
            | Self::ProgressChanged { .. }
            | Self::SnapshotOffered { .. }
            | Self::SnapshotEnded { .. }
            | Self::SnapshotReceived { .. }
            | Self::ReadsFailed { .. }
            | Self::MessageRejected { .. }
            | Self::QuiescenceChanged { .. }
            | Self::TransferStarted { .. }
            | Self::TransferEnded { .. } => EventDetail::Changes,
            Self::Committed { .. } | Self::ReadsServed { .. } | Self::SnapshotProgress { .. } => {
                EventDetail::Steps
            }
            Self::EntryAppended { .. }
            | Self::Persisted { .. }
            | Self::MessageSent { .. }
            | Self::MessageReceived { .. }
            | Self::ReadyTaken => EventDetail::Trace,
        }
    }
}
