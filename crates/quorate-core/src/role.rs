//! The four roles. What only a leader (or a candidate) knows lives in its variant and dies with it;
//! only `transitions.rs` moves from one to another.

use crate::candidate::Candidate;
use crate::event::{RoleName, RoleReason};
use crate::follower::Follower;
use crate::leader::Leader;
use crate::types::ReplicaId;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    Follower(Follower),
    Candidate(Candidate),
    Leader(Box<Leader>),
}

impl Role {
    pub(crate) const fn name(&self) -> RoleName {
        match self {
            Self::Follower(_) => RoleName::Follower,
            Self::Candidate(candidate) if candidate.pre => RoleName::PreCandidate,
            Self::Candidate(_) => RoleName::Candidate,
            Self::Leader(_) => RoleName::Leader,
        }
    }
}

/// What a step of a role leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    Stay,
    /// Follow `leader`, or nobody yet, in the current term.
    Follow {
        leader: Option<ReplicaId>,
        reason: RoleReason,
    },
    /// Start an election: with a pre-vote when configured, unless the leader asked for it.
    Campaign {
        transfer: bool,
        reason: RoleReason,
    },
    /// The pre-vote is won: raise the term and ask for votes.
    Elect {
        transfer: bool,
    },
    Lead,
}
