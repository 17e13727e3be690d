//! What happened in the core, as data: one stream for logs, metrics, golden scripts and traces.

use crate::message::Message;
use crate::types::{LogId, LogIndex, ReplicaId, Term};

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
    /// An append was refused because `prev` is not in the log.
    AppendRejected {
        /// The leader.
        leader: ReplicaId,
        /// The position it built on.
        prev: LogId,
    },
    /// The commit index moved.
    Committed {
        /// The new commit index.
        index: LogIndex,
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
    /// A message was refused.
    MessageRejected {
        /// Why.
        reason: crate::raw_node::Rejected,
        /// The message, without its entries.
        message: Box<Message>,
    },
    /// A leadership transfer ended without success.
    TransferAborted {
        /// Who should have led.
        to: ReplicaId,
    },
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
