//! Why an input was not taken: one enum per input, one variant per thing the caller can do about it.

use std::fmt;

use crate::config::ConfigError;
use crate::types::{LogId, ReplicaId};

/// Why a replica cannot be built from what was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreError {
    /// The configuration is not valid.
    Config(ConfigError),
    /// What was read back contradicts itself.
    Inconsistent(&'static str),
}

/// Why a message was refused. State is unchanged but for a newer term where Raft allows one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rejected {
    /// Addressed to another replica.
    WrongReceiver,
    /// The sender is not the replica the transport says it is.
    ForgedSender,
    /// Of an older term than this replica's; answered where that helps the sender.
    OldTerm,
    /// Of another recovery epoch.
    OldEpoch,
    /// Term or index beyond what can ever be reached.
    OutOfRange,
    /// Entries with gaps, falling terms, of a later term than the message, or with commands on a witness, or
    /// without them elsewhere.
    MalformedEntries,
    /// Would replace a committed entry: the sender is not a correct replica of this group.
    ContradictsCommitted,
    /// A second leader in one term.
    TwoLeaders,
    /// From a replica that is not a member.
    UnknownSender,
    /// Only the leader of the current term may say this.
    NotFromLeader,
    /// An answer to nothing that was asked.
    Unexpected,
    /// A membership that could never be valid.
    InvalidMembership,
    /// Too much is waiting already.
    Busy,
}

/// Why a proposal was not taken. It was **not** appended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProposeError {
    /// Ask the leader.
    NotLeader {
        /// The leader this replica knows.
        leader: Option<ReplicaId>,
    },
    /// Leadership is being handed over: retry soon, there or here.
    Transferring {
        /// Whom it is handed to.
        to: ReplicaId,
    },
    /// Too many bytes are waiting to be committed: back off.
    Busy {
        /// Bytes waiting.
        uncommitted_bytes: u64,
    },
    /// Too many committed bytes are not applied (or not durable) here yet: back off, or lead elsewhere.
    ApplyBehind {
        /// Bytes waiting.
        unapplied_bytes: u64,
    },
    /// The command is larger than `Config::command_bytes_max`.
    TooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        bytes_max: u64,
    },
}

/// Why a membership change was not taken. Nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeError {
    /// Ask the leader, or retry: see the cause.
    Propose(ProposeError),
    /// An earlier change is not committed yet (thesis §4.1): retry when it is.
    InProgress {
        /// The position of the earlier change.
        pending: LogId,
    },
    /// No entry of this leader's own term is committed yet (Ongaro 2015): retry at once.
    NotReady,
    /// The membership is not the one the caller expected.
    Changed {
        /// The position of the membership in effect.
        membership_id: LogId,
    },
    /// Old and new voters decide together until the joint state is left: leave it first.
    Joint {
        /// The position of the joint membership.
        membership_id: LogId,
    },
    /// There is no joint state to leave.
    NotJoint,
    /// The node hosts a member of the group already.
    AlreadyMember {
        /// That member.
        replica: ReplicaId,
    },
    /// No such member.
    NotMember,
    /// It is that already.
    NothingToDo,
    /// The learner is not caught up yet.
    LearnerBehind {
        /// How many entries it is missing.
        missing: u64,
    },
    /// The last voter cannot leave.
    LastVoter,
    /// Too many members or a malformed address.
    Invalid {
        /// What is wrong.
        what: &'static str,
    },
}

/// Why a read was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader is known: retry later.
    NoLeader,
    /// Too many reads are waiting.
    Busy,
    /// A witness keeps no data: read elsewhere.
    Witness,
}

/// Why leadership is not being handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferError {
    /// Ask the leader.
    NotLeader {
        /// The leader this replica knows.
        leader: Option<ReplicaId>,
    },
    /// The target is not a member of the group.
    NotMember,
    /// The target is a member that may not lead (a learner, or one that is leaving).
    NotVoter,
    /// The target already leads.
    AlreadyLeader,
    /// Another transfer is under way.
    InProgress {
        /// Its target.
        to: ReplicaId,
    },
    /// The target was not heard within an election timeout.
    Unreachable,
}

/// Why no snapshot was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotRequestError {
    /// This replica leads: nobody has a newer one. Hand leadership over first.
    Leads,
    /// It was asked for already.
    InProgress,
    /// There is no other member.
    NobodyToAsk,
    /// A witness has nothing that a snapshot could replace.
    Witness,
}

/// How streaming a snapshot to a follower ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotOutcome {
    /// Every byte arrived; the follower will answer.
    Sent,
    /// It did not arrive; the core will ask again.
    Failed,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Inconsistent(what) => write!(f, "what was read back contradicts itself: {what}"),
        }
    }
}
impl std::error::Error for RestoreError {}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongReceiver => "addressed to another replica",
            Self::ForgedSender => "not from the replica it names",
            Self::OldTerm => "of an older term",
            Self::OldEpoch => "of another recovery epoch",
            Self::OutOfRange => "a term or index out of range",
            Self::MalformedEntries => "malformed entries",
            Self::ContradictsCommitted => "contradicts committed entries",
            Self::TwoLeaders => "from a second leader in one term",
            Self::UnknownSender => "from a replica that is not a member",
            Self::NotFromLeader => "not from the current leader",
            Self::Unexpected => "an answer to nothing that was asked",
            Self::InvalidMembership => "an invalid membership",
            Self::Busy => "too much is waiting",
        })
    }
}
impl std::error::Error for Rejected {}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => write!(f, "not the leader: ask replica {leader}"),
            Self::NotLeader { leader: None } => f.write_str("not the leader, and none is known: retry"),
            Self::Transferring { to } => write!(f, "leadership is being handed to replica {to}: retry"),
            Self::Busy { uncommitted_bytes } => {
                write!(f, "{uncommitted_bytes} bytes wait to be committed: back off")
            }
            Self::ApplyBehind { unapplied_bytes } => {
                write!(f, "{unapplied_bytes} committed bytes wait to be applied: back off")
            }
            Self::TooLarge { bytes, bytes_max } => {
                write!(f, "{bytes} bytes are over the limit of {bytes_max}")
            }
        }
    }
}
impl std::error::Error for ProposeError {}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Propose(error) => error.fmt(f),
            Self::InProgress { pending } => {
                write!(f, "the change at {pending} is not committed yet: retry when it is")
            }
            Self::NotReady => f.write_str("the leader has committed nothing in its term yet: retry at once"),
            Self::Changed { membership_id } => {
                write!(f, "the members have changed meanwhile, at {membership_id}: look again")
            }
            Self::Joint { membership_id } => {
                write!(
                    f,
                    "old and new voters decide together since {membership_id}: leave the joint state first"
                )
            }
            Self::NotJoint => f.write_str("there is no joint state to leave"),
            Self::AlreadyMember { replica } => {
                write!(f, "the node hosts a member of the group already: replica {replica}")
            }
            Self::NotMember => f.write_str("there is no such member"),
            Self::NothingToDo => f.write_str("it is that already"),
            Self::LearnerBehind { missing } => {
                write!(f, "the learner lacks {missing} entries: promote it when it has caught up")
            }
            Self::LastVoter => f.write_str("the last voter cannot leave: add another voter first"),
            Self::Invalid { what } => write!(f, "no group can have these members: {what}"),
        }
    }
}
impl std::error::Error for ChangeError {}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLeader => "no leader is known: retry",
            Self::Busy => "too many reads are waiting: back off",
            Self::Witness => "a witness keeps no data: read elsewhere",
        })
    }
}
impl std::error::Error for ReadError {}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader { leader: Some(leader) } => write!(f, "not the leader: ask replica {leader}"),
            Self::NotLeader { leader: None } => f.write_str("not the leader, and none is known: retry"),
            Self::NotMember => f.write_str("the target is not a member"),
            Self::NotVoter => f.write_str("the target may not lead"),
            Self::AlreadyLeader => f.write_str("the target leads already"),
            Self::InProgress { to } => write!(f, "leadership is being handed to replica {to}: wait for that"),
            Self::Unreachable => f.write_str("the target was not heard within an election timeout"),
        }
    }
}
impl std::error::Error for TransferError {}

impl fmt::Display for SnapshotRequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leads => "this replica leads: hand leadership over first",
            Self::InProgress => "a snapshot was asked for already",
            Self::NobodyToAsk => "there is no other member",
            Self::Witness => "a witness has nothing that a snapshot could replace",
        })
    }
}
impl std::error::Error for SnapshotRequestError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refused change was told as `LastVoter`, a name of ours.
    #[test]
    fn refused_changes_say_what_happened_in_words() {
        let at = LogId::new(2, 7);
        let changes = [
            ChangeError::Propose(ProposeError::NotLeader { leader: None }),
            ChangeError::InProgress { pending: at },
            ChangeError::NotReady,
            ChangeError::Changed { membership_id: at },
            ChangeError::Joint { membership_id: at },
            ChangeError::NotJoint,
            ChangeError::AlreadyMember { replica: ReplicaId(4) },
            ChangeError::NotMember,
            ChangeError::NothingToDo,
            ChangeError::LearnerBehind { missing: 9 },
            ChangeError::LastVoter,
            ChangeError::Invalid { what: "at most 8 new replicas in one step" },
        ];
        for change in changes {
            let (told, name) = (change.to_string(), format!("{change:?}"));
            let name = name.split([' ', '(']).next().unwrap_or_default();
            assert!(told.contains(' ') && !told.contains(name) && !told.contains('{'), "{told}");
        }
        assert_eq!(
            ChangeError::LastVoter.to_string(),
            "the last voter cannot leave: add another voter first"
        );
    }
}
