//! What users ask of a group, and what they get.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    ChangeError, LogId, LogIndex, MembershipChange, MembershipTransition, NodeId, ReplicaId, Term,
};

use crate::config::GroupConfig;

/// The shell's name for a request; every ticket is answered exactly once. Numbers from 2^63 on are the host's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A client session: the log index of the entry that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// How a command is kept from being applied twice when it is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dedupe {
    /// Not at all.
    None,
    /// By a session: each command of a session has its own number, from 1 on.
    Session {
        /// The session.
        session: SessionId,
        /// The command's number.
        sequence: u64,
        /// The client has the answers to all numbers below this one.
        acked_below: u64,
    },
    /// By a key of the client's choice, remembered for a time.
    Key {
        /// The key, at most 255 bytes.
        key: Bytes,
        /// A digest of the request: the same key with another request is an error.
        fingerprint: u64,
    },
}

/// A command on its way into the log, and what goes along with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The command.
    pub command: Bytes,
    /// How a repeat is told.
    pub dedupe: Dedupe,
    /// Not part of the command: what a layer between the user and the state machine has to say of it
    /// ([`Command::extension`](crate::Command::extension)). Empty: nothing. Command and extension together have at most
    /// `Config::command_bytes_max` bytes.
    pub extension: Bytes,
}

impl Proposal {
    /// A command without an extension.
    #[must_use]
    pub fn new(command: impl Into<Bytes>, dedupe: Dedupe) -> Self {
        Self { command: command.into(), dedupe, extension: Bytes::new() }
    }

    /// How many bytes of the user's it holds: of the command and of its extension.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.command.len() + self.extension.len()
    }
}

/// What a follower may pass on to its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderRequest {
    /// Replicate and apply a command.
    Propose(Proposal),
    /// Replicate and apply a command of this version of commands, if every member's state machine understands it.
    ProposeVersion {
        /// The version.
        version: u32,
        /// The command.
        proposal: Proposal,
    },
    /// Open a client session.
    OpenSession,
    /// Commit an empty entry and wait until it is applied at the leader.
    Barrier,
}

impl LeaderRequest {
    /// The command, of those that have one.
    #[must_use]
    pub const fn proposal(&self) -> Option<&Proposal> {
        match self {
            Self::Propose(proposal) | Self::ProposeVersion { proposal, .. } => Some(proposal),
            Self::OpenSession | Self::Barrier => None,
        }
    }
}

impl From<LeaderRequest> for Request {
    fn from(request: LeaderRequest) -> Self {
        match request {
            LeaderRequest::Propose(proposal) => Self::Propose(proposal),
            LeaderRequest::ProposeVersion { version, proposal } => Self::ProposeVersion { version, proposal },
            LeaderRequest::OpenSession => Self::OpenSession,
            LeaderRequest::Barrier => Self::Barrier,
        }
    }
}

/// What a user may ask of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Replicate and apply a command.
    Propose(Proposal),
    /// Replicate and apply a command of this version of commands, if every member's state machine understands it.
    ProposeVersion {
        /// The version.
        version: u32,
        /// The command.
        proposal: Proposal,
    },
    /// Bring the next piece of a state from outside into the log. A repeat changes nothing.
    RestorePiece {
        /// The name of the state: a number that no other one has.
        restore: u64,
        /// Where the piece belongs; at 0 another state begins, and one that was on its way is forgotten.
        offset: u64,
        /// The piece.
        data: Bytes,
    },
    /// Forget a state from outside that nobody goes on with.
    RestoreAbandon {
        /// The name of the state.
        restore: u64,
    },
    /// Replace the state machine's state by the pieces brought in, on every replica at this entry, or by
    /// nothing on any.
    RestoreInstall {
        /// The name of the state.
        restore: u64,
        /// How long it is.
        bytes: u64,
        /// The CRC-32C of it all.
        crc: u32,
    },
    /// Open a client session.
    OpenSession,
    /// Do this here if this replica leads, otherwise have the leader do it. What is applied then is applied at the
    /// leader, and here a little later.
    AtLeader(LeaderRequest),
    /// Ask the state machine.
    Query {
        /// The question.
        request: Bytes,
        /// How fresh the answer must be.
        consistency: Consistency,
    },
    /// Wait until this replica has applied all that an answer of this consistency must show.
    ReadIndex {
        /// How fresh that is.
        consistency: Consistency,
    },
    /// Have the voters confirm that this replica leads: a round that starts after the request came.
    VerifyLeader,
    /// Commit an empty entry and wait until it is applied here.
    Barrier,
    /// Change the membership by one step and wait until it is committed.
    ChangeMembership {
        /// The step.
        change: MembershipChange,
        /// Only if the membership in effect is still the one at this position.
        expected: Option<LogId>,
    },
    /// Change the membership by any number of changes in one step, through a joint state where more
    /// than one voter differs, and wait until that step is committed.
    ChangeMembers {
        /// The changes, in this order.
        changes: Vec<MembershipChange>,
        /// How old and new voters take turns.
        transition: MembershipTransition,
        /// Only if the membership in effect is still the one at this position.
        expected: Option<LogId>,
    },
    /// End a joint state and wait until that is committed.
    LeaveJoint {
        /// Only if the membership in effect is still the one at this position.
        expected: Option<LogId>,
    },
    /// Hand leadership to this replica, or to the best one, and wait until another leads.
    TransferLeadership {
        /// To whom.
        to: Option<ReplicaId>,
    },
    /// Call off the leadership transfer under way.
    AbortTransfer,
    /// Behave by this configuration from now on.
    Reconfigure {
        /// All of it. What takes effect only when a group is opened must be as it was.
        config: Box<GroupConfig>,
    },
    /// Campaign now.
    Campaign,
    /// Take a snapshot now and wait until it is durable.
    TakeSnapshot,
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// As fresh as any answer or acknowledgement given before the question was asked.
    Linearizable,
    /// The same without asking anybody, on a leader that holds a lease (`Config::leader_lease`); elsewhere as
    /// `Linearizable`. Trusts that clocks differ by no more than `Config::lease_drift_max`.
    Lease,
    /// At least as fresh as a linearizable answer of `age_max` ago, by this replica's clock: at once when it
    /// has heard from its leader for another read since, otherwise as `Linearizable`.
    Recent {
        /// How old.
        age_max: Duration,
    },
    /// Whatever this replica has applied, at once.
    Stale,
}

/// A good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The command (or barrier) was applied.
    Applied {
        /// Its position. For a repeated command, that of the first time.
        id: LogId,
        /// The state machine's response.
        response: Bytes,
    },
    /// The session is open.
    SessionOpened {
        /// Its id.
        session: SessionId,
    },
    /// The state machine's answer.
    Queried {
        /// Everything up to here had been applied.
        applied: LogIndex,
        /// The answer.
        response: Bytes,
    },
    /// Everything up to here is applied here.
    ReadIndex {
        /// The index.
        index: LogIndex,
    },
    /// This replica led in this term when the request had come.
    LeaderVerified {
        /// The term.
        term: Term,
    },
    /// The membership was committed.
    MembershipChanged {
        /// Its position.
        id: LogId,
        /// The replicas concerned, one for each change. None when a joint state was left.
        replicas: Vec<ReplicaId>,
    },
    /// Another replica leads.
    Transferred {
        /// Which.
        leader: ReplicaId,
    },
    /// The transfer was called off.
    TransferAborted {
        /// Who should have led; `None`: nothing was under way.
        to: Option<ReplicaId>,
    },
    /// The configuration is in effect.
    Reconfigured,
    /// An election was started, if this replica may.
    Campaigned,
    /// The snapshot is durable.
    SnapshotTaken {
        /// What it covers.
        last: LogId,
    },
}

/// Where to find a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    /// The leader.
    pub replica: ReplicaId,
    /// Its node.
    pub node: NodeId,
    /// Where clients reach it (may be empty).
    pub client_address: String,
}

/// Whether a request that failed had an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It had none, and will have none.
    NotApplied,
    /// It may have been applied, or may yet be.
    Unknown,
}

/// A bad answer. Unless [`RequestError::outcome`] is unknown, the request had and will have **no effect**.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Ask the leader.
    #[error("not the leader{}", hint_text(leader))]
    NotLeader {
        /// Who it is, as far as known.
        leader: Option<LeaderHint>,
    },
    /// Too much is waiting: back off and retry.
    #[error("busy: {what}; back off and retry")]
    Busy {
        /// What is full.
        what: &'static str,
    },
    /// The leader's disk is full: nothing is written until there is space again; reads go on. Retry, or hand
    /// leadership over.
    #[error("the disk of the leader is full: free some space there, then retry")]
    DiskFull,
    /// Larger than the limit.
    #[error("{bytes} bytes are over the limit of {bytes_max}")]
    TooLarge {
        /// Size in bytes.
        bytes: u64,
        /// Limit in bytes.
        bytes_max: u64,
    },
    /// It may or may not have been applied, or may yet be. Retry with the same session or key.
    #[error("the outcome is unknown: leadership or the node was lost before it was seen to commit")]
    OutcomeUnknown,
    /// The time given for it is over; it goes on. It may have been applied, or may yet be; a read had no effect.
    #[error("no answer within {within:?}: it may have been applied, or may yet be")]
    DeadlinePassed {
        /// The time given.
        within: Duration,
    },
    /// The session is not known (any more): expired, evicted, or never opened. Open a new one.
    #[error("the session has expired: open a new one")]
    SessionExpired,
    /// The client said it had the answer to this number already.
    #[error("the answer to this sequence number was acknowledged and forgotten")]
    AlreadyAcknowledged,
    /// The key was used for another request.
    #[error("this idempotency key was used for a different request")]
    KeyReused,
    /// The entry is no command that any build would write. Changed nothing, anywhere.
    #[error("the entry is not a command")]
    Malformed,
    /// Not every member's state machine understands commands of this version: upgrade the others first.
    #[error("commands of version {version} are not understood by every member, those of {supported} are")]
    Unsupported {
        /// The command's version.
        version: u32,
        /// The newest version that all members are known to understand.
        supported: u32,
    },
    /// The membership change was refused.
    #[error("membership change refused: {0}")]
    Change(ChangeError),
    /// The transfer was refused or did not succeed.
    #[error("leadership was not transferred: {what}")]
    Transfer {
        /// Why.
        what: &'static str,
    },
    /// A snapshot could not be taken.
    #[error("no snapshot: {what}")]
    Snapshot {
        /// Why.
        what: String,
    },
    /// The configuration cannot take effect. Nothing has changed.
    #[error("configuration: {field} must be {must}")]
    Config {
        /// The field.
        field: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// There is no such group here.
    #[error("no such group on this node")]
    NoGroup,
    /// The replica has stopped.
    #[error("the replica has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl RequestError {
    /// Whether the request had an effect. Reads never have one.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::OutcomeUnknown | Self::DeadlinePassed { .. } => Outcome::Unknown,
            Self::NotLeader { .. }
            | Self::Busy { .. }
            | Self::DiskFull
            | Self::TooLarge { .. }
            | Self::SessionExpired
            | Self::AlreadyAcknowledged
            | Self::KeyReused
            | Self::Malformed
            | Self::Unsupported { .. }
            | Self::Change(_)
            | Self::Transfer { .. }
            | Self::Snapshot { .. }
            | Self::Config { .. }
            | Self::NoGroup
            | Self::Stopped { .. } => Outcome::NotApplied,
        }
    }

    /// The request had no effect and will have none: it can be sent again, here or to another node.
    #[must_use]
    pub fn not_applied(&self) -> bool {
        self.outcome() == Outcome::NotApplied
    }

    /// The request may have been applied, or may yet be: send it again only in the same session or with
    /// the same key.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        self.outcome() == Outcome::Unknown
    }
}

fn hint_text(leader: &Option<LeaderHint>) -> String {
    match leader {
        Some(hint) if hint.client_address.is_empty() => format!(": ask node {}", hint.node),
        Some(hint) => format!(": ask node {} at {}", hint.node, hint.client_address),
        None => ": no leader is known, retry".to_owned(),
    }
}
