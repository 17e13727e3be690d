//! What nodes say to each other: the messages of all groups, and snapshot streams.

use bytes::Bytes;
use quorate_core::{GroupId, Message, ReplicaId, SnapshotMeta, Term};

/// A message between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMessage {
    /// The group it belongs to.
    pub group: GroupId,
    /// What it says.
    pub body: PeerBody,
}

/// The content of a [`PeerMessage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerBody {
    /// From core to core.
    Raft(Message),
    /// A piece of a snapshot.
    SnapshotChunk(SnapshotChunk),
    /// Answer to a piece.
    SnapshotAck(SnapshotAck),
}

/// A piece of a snapshot on its way to a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The leader.
    pub from: ReplicaId,
    /// The follower.
    pub to: ReplicaId,
    /// The leader's term.
    pub term: Term,
    /// The leader's recovery epoch.
    pub epoch: u64,
    /// Which snapshot.
    pub meta: SnapshotMeta,
    /// The length of its content in bytes.
    pub bytes: u64,
    /// Where this piece belongs.
    pub offset: u64,
    /// The piece; an empty one at offset 0 asks where to resume.
    pub data: Bytes,
}

/// A follower's answer to a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotAck {
    /// The follower.
    pub from: ReplicaId,
    /// The leader.
    pub to: ReplicaId,
    /// The last entry the snapshot covers: names the stream.
    pub last: quorate_core::LogId,
    /// The follower holds everything below this offset and wants what follows.
    pub next_offset: u64,
    /// The follower will not take it (no space, damaged, superseded): stop.
    pub refused: bool,
}

/// Which connection and which place in its queue a message gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes, replies, reads: first on the consensus connection.
    Control,
    /// Appends: on the consensus connection behind `Control`, in order.
    Append,
    /// Snapshot pieces: on the bulk connection.
    Bulk,
}

impl PeerMessage {
    /// The lane of this message.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match &self.body {
            PeerBody::Raft(message) => match &message.body {
                quorate_core::MessageBody::Append(append) if !append.entries.is_empty() => Lane::Append,
                quorate_core::MessageBody::Append(_)
                | quorate_core::MessageBody::PreVote(_)
                | quorate_core::MessageBody::PreVoteReply { .. }
                | quorate_core::MessageBody::Vote(_)
                | quorate_core::MessageBody::VoteReply { .. }
                | quorate_core::MessageBody::AppendReply(_)
                | quorate_core::MessageBody::Heartbeat { .. }
                | quorate_core::MessageBody::HeartbeatReply { .. }
                | quorate_core::MessageBody::InstallSnapshot(_)
                | quorate_core::MessageBody::TimeoutNow
                | quorate_core::MessageBody::ReadIndex { .. }
                | quorate_core::MessageBody::ReadIndexReply { .. } => Lane::Control,
            },
            PeerBody::SnapshotAck(_) => Lane::Control,
            PeerBody::SnapshotChunk(_) => Lane::Bulk,
        }
    }
}

/// Appends the encoding of `message` to `out`.
pub fn encode_peer_message(message: &PeerMessage, out: &mut Vec<u8>) {
    unimplemented!("{message:?}{out:?}")
}
/// Decodes exactly one message; payloads share `bytes`.
///
/// # Errors
/// What is wrong, and where.
pub fn decode_peer_message(bytes: &Bytes) -> Result<PeerMessage, quorate_core::DecodeError> {
    unimplemented!("{bytes:?}")
}
