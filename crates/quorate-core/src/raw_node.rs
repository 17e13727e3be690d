//! `RawNode`: one replica of one group, inputs in, one `Ready` out.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::{Config, ConfigError};
use crate::entry::Entry;
use crate::membership::{Membership, MembershipChange};
use crate::message::{Message, SnapshotMeta};
use crate::ready::{PersistToken, ReadTicket, Ready};
use crate::status::{ProgressStatus, Status};
use crate::types::{HardState, LogId, LogIndex, MonoTime, ReplicaId, Term};

/// What a replica knew when it stopped, as read back from its log and snapshot.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The last durable hard state.
    pub hard_state: HardState,
    /// The log starts after this (0 for a log from the beginning).
    pub compacted: LogId,
    /// Runs of equal terms after `compacted`: the first position of each, ascending.
    pub term_runs: Vec<LogId>,
    /// The last index in the log (`compacted.index` when it is empty).
    pub last: LogIndex,
    /// The memberships in effect from `compacted` on, ascending by position: the one of the
    /// snapshot first (at or before `compacted`), then every membership entry in the log.
    pub memberships: Vec<(LogId, Arc<Membership>)>,
    /// What the state machine has applied.
    pub applied: LogIndex,
}

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
    /// Entries with gaps, falling terms, or of a later term than the message.
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
    /// The target is not a voter of the group.
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

/// How streaming a snapshot to a follower ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOutcome {
    /// Every byte arrived; the follower will answer.
    Sent,
    /// It did not arrive; the core will ask again.
    Failed,
}

/// One replica of one group.
#[derive(Clone, Debug)]
pub struct RawNode {}

impl RawNode {
    /// Builds a replica from what it knew when it stopped. Starts as a follower without a leader.
    pub fn new(config: Config, restored: Restored, now: MonoTime) -> Result<Self, RestoreError> {
        unimplemented!("{config:?}{restored:?}{now:?}")
    }
    /// Time has passed: timeouts, heartbeats, retries. Call at or after `next_deadline`.
    pub fn tick(&mut self, now: MonoTime) {
        unimplemented!("{now:?}")
    }
    /// When `tick` has something to do next, if nothing else happens.
    pub fn next_deadline(&self) -> MonoTime {
        unimplemented!()
    }
    /// A message arrived; the transport vouches that `from` sent it.
    pub fn step(&mut self, now: MonoTime, from: ReplicaId, message: Message) -> Result<(), Rejected> {
        unimplemented!("{now:?}{from:?}{message:?}")
    }
    /// Appends a command on the leader and starts replicating it.
    pub fn propose(&mut self, now: MonoTime, command: Bytes) -> Result<LogId, ProposeError> {
        unimplemented!("{now:?}{command:?}")
    }
    /// Appends an empty entry: once it is applied, so is everything before.
    pub fn propose_barrier(&mut self, now: MonoTime) -> Result<LogId, ProposeError> {
        unimplemented!("{now:?}")
    }
    /// Appends a membership one step away from the current one. With `expected`, only if the
    /// membership in effect is still the one at that position. `NothingToDo` etc. are typed
    /// refusals, never silent no-ops. On success: the position, and the replica concerned (the new id for
    /// `AddLearner`).
    pub fn propose_membership(
        &mut self,
        now: MonoTime,
        change: MembershipChange,
        expected: Option<LogId>,
    ) -> Result<(LogId, ReplicaId), ChangeError> {
        unimplemented!("{now:?}{change:?}{expected:?}")
    }
    /// Asks for an index at which a linearizable read may be served; the outcome is in a later
    /// `Ready::reads`. Works on followers too.
    pub fn read(&mut self, now: MonoTime, ticket: ReadTicket) -> Result<(), ReadError> {
        unimplemented!("{now:?}{ticket:?}")
    }
    /// Hands leadership to `to`, or to the most up-to-date reachable voter.
    pub fn transfer_leadership(
        &mut self,
        now: MonoTime,
        to: Option<ReplicaId>,
    ) -> Result<ReplicaId, TransferError> {
        unimplemented!("{now:?}{to:?}")
    }
    /// Starts an election now (with a pre-vote when configured). No effect on leaders and
    /// replicas that may not vote.
    pub fn campaign(&mut self, now: MonoTime) {
        unimplemented!("{now:?}")
    }
    /// A follower stops believing in its leader, so that it may grant votes at once.
    pub fn forget_leader(&mut self, now: MonoTime) {
        unimplemented!("{now:?}")
    }
    /// The transport could not deliver to `replica`: stop streaming, probe.
    pub fn report_unreachable(&mut self, replica: ReplicaId) {
        unimplemented!("{replica:?}")
    }
    /// Streaming the snapshot asked for by `Fetch::SendSnapshot` has ended.
    pub fn report_snapshot(&mut self, now: MonoTime, to: ReplicaId, outcome: SnapshotOutcome) {
        unimplemented!("{now:?}{to:?}{outcome:?}")
    }
    /// Everything up to and including the write `token` is durable.
    pub fn on_persisted(&mut self, now: MonoTime, token: PersistToken) {
        unimplemented!("{now:?}{token:?}")
    }
    /// The state machine has applied everything up to `index`.
    pub fn on_applied(&mut self, now: MonoTime, index: LogIndex) {
        unimplemented!("{now:?}{index:?}")
    }
    /// Entries asked for by `Fetch::Entries` (contiguous from the asked `from`), or an empty list
    /// when they could not be read; the core asks again when it still needs them.
    pub fn on_fetched(&mut self, now: MonoTime, from: LogIndex, entries: Vec<Entry>) {
        unimplemented!("{now:?}{from:?}{entries:?}")
    }
    /// The log's entries up to `through` are going to be dropped (a durable snapshot covers them).
    /// Ignored beyond what is applied. The write itself is the caller's.
    pub fn on_compacted(&mut self, through: LogId) {
        unimplemented!("{through:?}")
    }
    /// Whether `ready` would return anything.
    pub fn has_ready(&self) -> bool {
        unimplemented!()
    }
    /// Takes everything there is to do now. May be called again before earlier lanes completed.
    pub fn ready(&mut self) -> Ready {
        unimplemented!()
    }
    /// A view of the replica.
    pub fn status(&self) -> Status<'_> {
        unimplemented!()
    }
    /// On a leader: what it knows of every member.
    pub fn progress(&self) -> impl Iterator<Item = (ReplicaId, ProgressStatus)> + '_ {
        std::iter::empty()
    }
    /// The term of the entry at `index`, where known.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        unimplemented!("{index:?}")
    }
    /// The membership that was in effect at `index` (at or after the compacted position, at most
    /// the last): what a snapshot taken at `index` must carry.
    pub fn snapshot_meta(&self, index: LogIndex) -> Option<SnapshotMeta> {
        unimplemented!("{index:?}")
    }
}
