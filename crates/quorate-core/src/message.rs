//! What replicas of one group say to each other. Local events (ticks, completed writes, reports)
//! are methods of `RawNode`, never messages: nobody can forge them.

use std::sync::Arc;

use crate::entries::Entries;
use crate::entry::Entry;
use crate::membership::Membership;
use crate::types::{LogId, LogIndex, ReplicaId, Term};

/// One message between two replicas of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// The sender. The transport vouches for the node behind it.
    pub from: ReplicaId,
    /// The receiver.
    pub to: ReplicaId,
    /// The sender's term; for `PreVote` the term it would campaign in.
    pub term: Term,
    /// The recovery epoch of the sender's membership (0 until a forced recovery).
    pub epoch: u64,
    /// What it says.
    pub body: MessageBody,
}

impl Message {
    /// Whom the sender gives its vote in `term` by saying this: a candidate itself, a voter the candidate.
    #[must_use]
    pub const fn vote(&self) -> Option<ReplicaId> {
        match self.body {
            MessageBody::Vote(_) => Some(self.from),
            MessageBody::VoteReply { granted: true } => Some(self.to),
            MessageBody::VoteReply { granted: false }
            | MessageBody::PreVote(_)
            | MessageBody::PreVoteReply { .. }
            | MessageBody::Append(_)
            | MessageBody::AppendReply(_)
            | MessageBody::Heartbeat { .. }
            | MessageBody::HeartbeatReply { .. }
            | MessageBody::InstallSnapshot(_)
            | MessageBody::Quiesce { .. }
            | MessageBody::RequestSnapshot { .. }
            | MessageBody::TimeoutNow
            | MessageBody::ReadIndex { .. }
            | MessageBody::ReadIndexReply { .. } => None,
        }
    }

    /// The entries it carries: those of an append.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        if let MessageBody::Append(append) = &self.body { &append.entries } else { &[] }
    }
}

/// The content of a [`Message`], one variant per kind and only the fields that kind has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MessageBody {
    /// "Would you vote for me?" Changes nobody's term (thesis §9.6).
    PreVote(VoteRequest),
    /// Answer to `PreVote`. A grant carries the asked term, a refusal the voter's own.
    PreVoteReply {
        /// Whether the voter would grant its vote.
        granted: bool,
    },
    /// "Vote for me in this term" (Raft §5.2).
    Vote(VoteRequest),
    /// Answer to `Vote`; leaves only when the vote is durable.
    VoteReply {
        /// Whether the vote was granted.
        granted: bool,
    },
    /// New entries, a probe (no entries), or news of the commit index (Raft §5.3).
    Append(Append),
    /// Answer to `Append` and to `InstallSnapshot`; an acceptance leaves only when it is durable.
    AppendReply(AppendReply),
    /// "I am still leading."
    Heartbeat {
        /// `min(match, commit)` of the receiver: never more than it is known to hold.
        commit: LogIndex,
        /// The newest read round (0: none).
        read_round: u64,
    },
    /// "Nothing happens, and everybody has the log up to `last`: wait for nobody until you hear of me or of a
    /// campaign." Answered like a heartbeat; of another round by who does not agree.
    Quiesce {
        /// The last entry, committed.
        last: LogId,
        /// The round to answer.
        round: u64,
    },
    /// A follower whose state machine cannot go on asks its leader for a snapshot.
    RequestSnapshot {
        /// An older one does not help.
        at_least: LogIndex,
    },
    /// Answer to `Heartbeat` and `Quiesce`.
    HeartbeatReply {
        /// The round of the heartbeat answered.
        read_round: u64,
        /// The follower's last position that is durable and known to equal the leader's log in
        /// this term: a leader that thought more was there asks with an append.
        last: LogId,
    },
    /// The snapshot with this metadata has been streamed and staged at the receiver, which now
    /// may switch to it. Made by the receiving driver from the stream's header.
    InstallSnapshot(SnapshotMeta),
    /// "Campaign now, without asking first": the last step of a leadership transfer (thesis §3.10).
    TimeoutNow,
    /// A follower asks where a linearizable read may be served (thesis §6.4).
    ReadIndex {
        /// The follower's own number for the request, echoed in the reply.
        request: u64,
    },
    /// Answer to `ReadIndex`.
    ReadIndexReply {
        /// The number of the request.
        request: u64,
        /// Serve after applying up to here; `None` when the asked replica cannot say (not leader).
        index: Option<LogIndex>,
    },
}

/// What a candidate says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VoteRequest {
    /// The last entry of the candidate's log.
    pub last: LogId,
    /// The leader asked for this election (a transfer): voters need not wait out their leader.
    pub transfer: bool,
}

/// Entries that follow `prev`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Append {
    /// The entry just before `entries`.
    pub prev: LogId,
    /// Contiguous entries from `prev.index + 1` on.
    pub entries: Entries,
    /// The leader's commit index. The follower believes it only up to what this append proves.
    pub commit: LogIndex,
    /// The newest read round (0: none).
    pub read_round: u64,
}

/// A follower's answer to an append or a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppendReply {
    /// Everything up to `matched` is durable here and equals the leader's log.
    Accepted {
        /// The highest index known to match.
        matched: LogIndex,
        /// The read round of the append answered.
        read_round: u64,
    },
    /// `prev` is not in this log.
    Rejected {
        /// The index of the `prev` that was refused.
        prev: LogIndex,
        /// The highest position of this log that could match: the last entry at or below `prev`
        /// whose term is not above `prev`'s.
        hint: LogId,
        /// The last entry of this log.
        last: LogIndex,
    },
}

/// What a snapshot is: the state after applying everything up to `last`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotMeta {
    /// The last entry the snapshot covers.
    pub last: LogId,
    /// The members **at `last`** (not the newest ones).
    pub membership: Arc<Membership>,
    /// The entry that appended `membership`.
    pub membership_id: LogId,
}

impl SnapshotMeta {
    /// Whether there could be such a snapshot: of something, with the members of an entry that it covers.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        let (last, members) = (self.last, self.membership_id);
        let covered = members == last || (members.index < last.index && members.term <= last.term);
        last.index > LogIndex(0) && covered
    }
}
