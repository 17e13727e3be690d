//! What nodes say to each other: the messages of all groups, and snapshot streams.

use bytes::Bytes;
use quorate_core::{
    DecodeError, GroupId, LogId, Message, ReplicaId, SnapshotMeta, Term, decode_message,
    decode_snapshot_meta, encode_message, encode_snapshot_meta,
};

use crate::bytes_reader::{BytesReader, put_bytes, put_log_id, put_u64};
use crate::forward_codec::{put_forward, put_forward_reply, read_forward, read_forward_reply};
use crate::request::{LeaderRequest, SessionId};

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
    /// A request of a follower's user, for the leader.
    Forward(Forward),
    /// Its answer.
    ForwardReply(ForwardReply),
    /// Which versions of commands a member's state machine understands.
    Version(VersionNote),
    /// The sender's node is there, and vouches for the groups that it leads at rest. Of no group in particular.
    Beat(Beat),
}

/// Groups are divided into so many parts by their number: see [`Beat`].
pub(crate) const PARTS: usize = 16;

/// For each part of the groups (their number modulo 16) that the sender leads at rest with a member on the receiver's
/// node: the exclusive or of a mark for each, made of its number and its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    pub(crate) digest: [u64; PARTS],
}

/// A member tells its leader which versions of commands it understands, or the leader that it has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionNote {
    /// The sender.
    pub from: ReplicaId,
    /// The receiver.
    pub to: ReplicaId,
    /// The leader's term.
    pub term: Term,
    /// The newest version that the member understands.
    pub supported: u32,
    /// Whether the leader says this.
    pub is_answer: bool,
}

/// A request that a follower passes on to the leader of a term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The follower.
    pub from: ReplicaId,
    /// The leader.
    pub to: ReplicaId,
    /// The term it leads in.
    pub term: Term,
    /// The follower's number for it, higher than all before.
    pub number: u64,
    /// What is asked.
    pub request: LeaderRequest,
}

/// The answer to a [`Forward`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardReply {
    /// Who answers.
    pub from: ReplicaId,
    /// The follower.
    pub to: ReplicaId,
    /// The follower's number for the request.
    pub number: u64,
    /// The answer.
    pub verdict: ForwardVerdict,
}

/// What became of a request that was passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardVerdict {
    /// It was applied.
    Applied {
        /// There.
        id: LogId,
        /// The state machine's response.
        response: Bytes,
    },
    /// The session is open.
    SessionOpened {
        /// Its id.
        session: SessionId,
    },
    /// As the error of that name.
    NotLeader,
    /// As the error of that name.
    Busy,
    /// As the error of that name.
    TooLarge {
        /// Size in bytes.
        bytes: u64,
        /// Limit in bytes.
        bytes_max: u64,
    },
    /// As the error of that name.
    OutcomeUnknown,
    /// As the error of that name.
    SessionExpired,
    /// As the error of that name.
    AlreadyAcknowledged,
    /// As the error of that name.
    KeyReused,
    /// As the error of that name.
    Malformed,
    /// As the error of that name.
    Unsupported {
        /// The command's version.
        version: u32,
        /// The newest version that all members are known to understand.
        supported: u32,
    },
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
    /// The piece; an empty one at offset 0 asks where to begin.
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
    /// What became of the piece.
    pub verdict: SnapshotVerdict,
}

/// What became of a piece of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotVerdict {
    /// It was taken, now or before.
    Taken,
    /// The follower will not take the snapshot (no space, damaged, superseded): stop.
    Refused,
    /// What is before it did not arrive: go back to the offset wanted.
    Gap,
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
                | quorate_core::MessageBody::Quiesce { .. }
                | quorate_core::MessageBody::RequestSnapshot { .. }
                | quorate_core::MessageBody::TimeoutNow
                | quorate_core::MessageBody::ReadIndex { .. }
                | quorate_core::MessageBody::ReadIndexReply { .. } => Lane::Control,
            },
            PeerBody::SnapshotAck(_) | PeerBody::Version(_) | PeerBody::Beat(_) => Lane::Control,
            PeerBody::SnapshotChunk(_) => Lane::Bulk,
            PeerBody::Forward(_) | PeerBody::ForwardReply(_) => Lane::Append,
        }
    }
}

const RAFT: u8 = 1;
const SNAPSHOT_CHUNK: u8 = 2;
const SNAPSHOT_ACK: u8 = 3;
const FORWARD: u8 = 4;
const FORWARD_REPLY: u8 = 5;
const VERSION_NOTE: u8 = 6;
const BEAT: u8 = 7;

/// Appends the encoding of `message` to `out`: kind, group, and by kind the core's message or the
/// fields of a piece or an answer in order.
pub fn encode_peer_message(message: &PeerMessage, out: &mut Vec<u8>) {
    out.push(match &message.body {
        PeerBody::Raft(_) => RAFT,
        PeerBody::SnapshotChunk(_) => SNAPSHOT_CHUNK,
        PeerBody::SnapshotAck(_) => SNAPSHOT_ACK,
        PeerBody::Forward(_) => FORWARD,
        PeerBody::ForwardReply(_) => FORWARD_REPLY,
        PeerBody::Version(_) => VERSION_NOTE,
        PeerBody::Beat(_) => BEAT,
    });
    put_u64(out, message.group.0);
    match &message.body {
        PeerBody::Raft(message) => encode_message(message, out),
        PeerBody::SnapshotChunk(chunk) => {
            put_u64(out, chunk.from.0);
            put_u64(out, chunk.to.0);
            put_u64(out, chunk.term.0);
            put_u64(out, chunk.epoch);
            put_u64(out, chunk.bytes);
            put_u64(out, chunk.offset);
            let mut meta = Vec::new();
            encode_snapshot_meta(&chunk.meta, &mut meta);
            put_bytes(out, &meta);
            out.extend_from_slice(&chunk.data);
        }
        PeerBody::SnapshotAck(ack) => {
            put_u64(out, ack.from.0);
            put_u64(out, ack.to.0);
            put_log_id(out, ack.last);
            put_u64(out, ack.next_offset);
            out.push(match ack.verdict {
                SnapshotVerdict::Taken => 0,
                SnapshotVerdict::Refused => 1,
                SnapshotVerdict::Gap => 2,
            });
        }
        PeerBody::Forward(forward) => put_forward(forward, out),
        PeerBody::ForwardReply(reply) => put_forward_reply(reply, out),
        PeerBody::Version(note) => {
            for number in [note.from.0, note.to.0, note.term.0, u64::from(note.supported)] {
                put_u64(out, number);
            }
            out.push(u8::from(note.is_answer));
        }
        PeerBody::Beat(beat) => beat.digest.iter().for_each(|part| put_u64(out, *part)),
    }
}

/// Decodes exactly one message; payloads share `bytes`.
///
/// # Errors
/// What is wrong, and where.
pub fn decode_peer_message(bytes: &Bytes) -> Result<PeerMessage, DecodeError> {
    let mut reader = BytesReader::new(bytes);
    let kind = reader.u8("a peer message")?;
    let group = GroupId(reader.u64("a group")?);
    let body = match kind {
        RAFT => PeerBody::Raft(within(reader.at(), decode_message(&reader.rest()))?),
        SNAPSHOT_CHUNK => {
            let from = ReplicaId(reader.u64("the sender")?);
            let to = ReplicaId(reader.u64("the receiver")?);
            let term = Term(reader.u64("a term")?);
            let epoch = reader.u64("a recovery epoch")?;
            let length = reader.u64("a length")?;
            let offset = reader.u64("an offset")?;
            let meta = reader.bytes("a snapshot's description")?;
            let meta = within(reader.at() - meta.len(), decode_snapshot_meta(&meta))?;
            let data = reader.rest();
            PeerBody::SnapshotChunk(SnapshotChunk {
                from,
                to,
                term,
                epoch,
                meta,
                bytes: length,
                offset,
                data,
            })
        }
        SNAPSHOT_ACK => {
            let from = ReplicaId(reader.u64("the sender")?);
            let to = ReplicaId(reader.u64("the receiver")?);
            let last = reader.log_id("a position")?;
            let next_offset = reader.u64("an offset")?;
            let verdict = match reader.u8("a verdict")? {
                0 => SnapshotVerdict::Taken,
                1 => SnapshotVerdict::Refused,
                2 => SnapshotVerdict::Gap,
                _ => return Err(reader.fail("a verdict")),
            };
            reader.end()?;
            PeerBody::SnapshotAck(SnapshotAck { from, to, last, next_offset, verdict })
        }
        FORWARD => PeerBody::Forward(read_forward(&mut reader)?),
        FORWARD_REPLY => PeerBody::ForwardReply(read_forward_reply(&mut reader)?),
        VERSION_NOTE => {
            let from = ReplicaId(reader.u64("the sender")?);
            let to = ReplicaId(reader.u64("the receiver")?);
            let term = Term(reader.u64("a term")?);
            let supported = u32::try_from(reader.u64("a version")?);
            let supported = supported.map_err(|_large| reader.fail("a version"))?;
            let is_answer = reader.flag("whether it is an answer")?;
            reader.end()?;
            PeerBody::Version(VersionNote { from, to, term, supported, is_answer })
        }
        BEAT => {
            let mut digest = [0; PARTS];
            for part in &mut digest {
                *part = reader.u64("a digest")?;
            }
            reader.end()?;
            PeerBody::Beat(Beat { digest })
        }
        _ => return Err(DecodeError { offset: 0, expected: "the kind of a peer message" }),
    };
    Ok(PeerMessage { group, body })
}

fn within<T>(start: usize, result: Result<T, DecodeError>) -> Result<T, DecodeError> {
    result.map_err(|error| DecodeError { offset: start + error.offset, ..error })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use quorate_core::{LogId, Membership, MessageBody};

    use super::*;
    use crate::request::{Dedupe, Proposal};

    fn encoded(message: &PeerMessage) -> Bytes {
        let mut out = Vec::new();
        encode_peer_message(message, &mut out);
        Bytes::from(out)
    }

    fn examples() -> Vec<PeerMessage> {
        let meta = SnapshotMeta {
            last: LogId::new(2, 9),
            membership: Arc::new(Membership::default()),
            membership_id: LogId::new(1, 1),
        };
        let (from, to, term) = (ReplicaId(1), ReplicaId(2), Term(3));
        let body = MessageBody::TimeoutNow;
        let data = Bytes::from_static(b"data");
        [
            PeerBody::Raft(Message { from, to, term, epoch: 0, body }),
            PeerBody::SnapshotChunk(SnapshotChunk {
                from,
                to,
                term,
                epoch: 4,
                meta,
                bytes: 4,
                offset: 0,
                data,
            }),
            PeerBody::SnapshotAck(SnapshotAck {
                from: to,
                to: from,
                last: LogId::new(2, 9),
                next_offset: 4,
                verdict: SnapshotVerdict::Refused,
            }),
        ]
        .into_iter()
        .chain(forwards(from, to))
        .map(|body| PeerMessage { group: GroupId(7), body })
        .collect()
    }

    /// Each kind of request, each verdict.
    fn forwards(from: ReplicaId, to: ReplicaId) -> impl Iterator<Item = PeerBody> {
        let command = || Bytes::from_static(b"c");
        let key = Dedupe::Key { key: Bytes::from_static(b"k"), fingerprint: 9 };
        let session = Dedupe::Session { session: SessionId(5), sequence: 3, acked_below: 2 };
        let propose = |dedupe| LeaderRequest::Propose(Proposal::new(command(), dedupe));
        let version =
            LeaderRequest::ProposeVersion { version: 3, proposal: Proposal::new(command(), session.clone()) };
        let extended = LeaderRequest::Propose(Proposal {
            extension: Bytes::from_static(b"ext"),
            ..Proposal::new(command(), session.clone())
        });
        let requests = [propose(Dedupe::None), propose(session), propose(key), LeaderRequest::OpenSession];
        let requests = requests.into_iter().chain([version, LeaderRequest::Barrier, extended]);
        let requests = requests
            .map(move |request| PeerBody::Forward(Forward { from, to, term: Term(3), number: 6, request }));
        let verdicts = [
            ForwardVerdict::Applied { id: LogId::new(3, 9), response: command() },
            ForwardVerdict::SessionOpened { session: SessionId(5) },
            ForwardVerdict::NotLeader,
            ForwardVerdict::Busy,
            ForwardVerdict::TooLarge { bytes: 9, bytes_max: 8 },
            ForwardVerdict::OutcomeUnknown,
            ForwardVerdict::SessionExpired,
            ForwardVerdict::AlreadyAcknowledged,
            ForwardVerdict::KeyReused,
            ForwardVerdict::Malformed,
            ForwardVerdict::Unsupported { version: 3, supported: 2 },
        ];
        let reply =
            move |verdict| PeerBody::ForwardReply(ForwardReply { from: to, to: from, number: 6, verdict });
        let note = VersionNote { from, to, term: Term(3), supported: 2, is_answer: true };
        let digest = std::array::from_fn(|part| part as u64);
        let others = [PeerBody::Version(note), PeerBody::Beat(Beat { digest })];
        requests.chain(verdicts.map(reply)).chain(others)
    }

    #[test]
    fn golden_vectors_of_a_request_passed_on_and_of_its_answer() {
        let group = 7u64.to_le_bytes();
        let request = [1u64, 2, 3, 6].map(u64::to_le_bytes).concat();
        let session = [5u64, 3, 2].map(u64::to_le_bytes).concat();
        let expected = [&b"\x04"[..], &group, &request, b"\x01", &session, b"c"].concat();
        assert_eq!(encoded(&examples()[4]), expected);
        let answer = [2u64, 1, 6].map(u64::to_le_bytes).concat();
        let position = [3u64, 9].map(u64::to_le_bytes).concat();
        let expected = [&b"\x05"[..], &group, &answer, b"\0", &position, b"c"].concat();
        assert_eq!(encoded(&examples()[10]), expected);
        let expected = [&b"\x04"[..], &group, &request, b"\x04\x03\0\0\0\x01", &session, b"c"].concat();
        assert_eq!(encoded(&examples()[7]), expected);
        assert_eq!(encoded(&examples()[8]), [&b"\x04"[..], &group, &request, b"\x05"].concat());
        let expected = [&b"\x04"[..], &group, &request, b"\x06\x03\0\0\0ext\x01", &session, b"c"].concat();
        assert_eq!(encoded(&examples()[9]), expected);
    }

    #[test]
    fn golden_vector_of_a_beat() {
        let digest: Vec<u8> = (0..16u64).flat_map(u64::to_le_bytes).collect();
        let expected = [&b"\x07"[..], &7u64.to_le_bytes(), &digest].concat();
        assert_eq!(encoded(examples().last().unwrap()), expected);
    }

    #[test]
    fn golden_vector_of_an_acknowledgement() {
        let expected = b"\x03\x07\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\
            \x02\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x01";
        assert_eq!(encoded(&examples()[2])[..], expected[..]);
    }

    #[test]
    fn golden_vector_of_a_chunk() {
        let numbers = [1u64, 2, 3, 4, 4, 0].map(u64::to_le_bytes).concat();
        // last 9@t2, members since 1@t1, epoch 0, next replica 0, no members
        let meta = [[2u64, 9, 1, 1, 0, 0].map(u64::to_le_bytes).concat(), vec![0, 0]].concat();
        let length = 50u32.to_le_bytes();
        let head = b"\x02\x07\0\0\0\0\0\0\0";
        let expected = [&head[..], &numbers, &length, &meta, b"data"].concat();
        assert_eq!(encoded(&examples()[1]), expected);
    }

    #[test]
    fn messages_survive_the_wire_and_no_cut_is_accepted_as_another_message() {
        for message in examples() {
            let bytes = encoded(&message);
            assert_eq!(decode_peer_message(&bytes), Ok(message.clone()));
            for length in 0..bytes.len() {
                let cut = decode_peer_message(&bytes.slice(..length));
                assert_ne!(cut, Ok(message.clone()), "{length} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let bytes = Bytes::from(bytes);
            if let Ok(message) = decode_peer_message(&bytes) {
                prop_assert_eq!(encoded(&message), bytes);
            }
        }
    }
}
