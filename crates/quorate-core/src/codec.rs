//! The one encoding of entries, memberships and messages, for disk and wire. Little-endian,
//! fixed-width where hot, every length checked before it is believed.
//!
//! ```text
//!   entry       kind:u8 term:u64 index:u64 payload…            (payload runs to the end of the frame)
//!   membership  epoch:u64 next_replica:u64 count:u16 member*   (bits 15 and 14 of count: joint)
//!   member      id:u64 node:u64 role:u8 (length:u16 bytes…)    twice: peer address, client address
//!                               (bits 7 and 6 of role, in a joint membership: outgoing, leaving)
//!   snapshot    last:position membership_id:position membership…
//!   message     kind:u8 from:u64 to:u64 term:u64 epoch:u64 body…
//!   position    term:u64 index:u64
//! ```
//!
//! * A frame around these bytes says how long they are and which version they have; it belongs to
//!   the file or the connection.
//! * One value has one encoding: members ascend, flags are 0 or 1, nothing follows the end.
//! * Decoding allocates at most in proportion to the bytes given.
//!
//! Not here: whether what was decoded makes sense to a replica (`gate.rs`).

use std::sync::Arc;

use bytes::Bytes;

use crate::entry::{Entry, EntryPayload};
use crate::joint::Joint;
use crate::membership::{ADDRESS_BYTES_MAX, MEMBERS_MAX, Member, MemberRole, Membership};
use crate::message::{Append, AppendReply, Message, MessageBody, SnapshotMeta, VoteRequest};
use crate::types::{LogId, LogIndex, NodeId, ReplicaId, Term};

/// Why bytes are not what they should be. Says where (offset from the start of the input).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Offset in bytes.
    pub offset: usize,
    /// What was expected there.
    pub expected: &'static str,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at byte {}: expected {}", self.offset, self.expected)
    }
}
impl std::error::Error for DecodeError {}

const ENTRY_NOOP: u8 = 1;
const ENTRY_COMMAND: u8 = 2;
const ENTRY_MEMBERSHIP: u8 = 3;
const ENTRY_WITHHELD: u8 = 4;
/// Kind, term and index.
const ENTRY_HEAD_BYTES: usize = 17;

const ROLE_VOTER: u8 = 1;
const ROLE_LEARNER: u8 = 2;
/// A learner that the leader promotes once it has caught up.
const ROLE_JOINING: u8 = 3;
const ROLE_WITNESS: u8 = 4;
/// The member votes on the old side of a joint state.
const OUTGOING: u8 = 0x80;
/// The member is one until the joint state is left.
const LEAVING: u8 = 0x40;

/// In the count of members: a joint state that is left automatically, or by somebody.
const JOINT_AUTOMATIC: u16 = 0x8000;
const JOINT_EXPLICIT: u16 = 0x4000;

const PRE_VOTE: u8 = 1;
const PRE_VOTE_REPLY: u8 = 2;
const VOTE: u8 = 3;
const VOTE_REPLY: u8 = 4;
const APPEND: u8 = 5;
const APPEND_ACCEPTED: u8 = 6;
const APPEND_REJECTED: u8 = 7;
const HEARTBEAT: u8 = 8;
const HEARTBEAT_REPLY: u8 = 9;
const INSTALL_SNAPSHOT: u8 = 10;
const TIMEOUT_NOW: u8 = 11;
const READ_INDEX: u8 = 12;
const READ_INDEX_REPLY: u8 = 13;
const QUIESCE: u8 = 14;
const REQUEST_SNAPSHOT: u8 = 15;

/// Appends the encoding of `entry` to `out`.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.push(match entry.payload {
        EntryPayload::Noop => ENTRY_NOOP,
        EntryPayload::Command(_) => ENTRY_COMMAND,
        EntryPayload::Membership(_) => ENTRY_MEMBERSHIP,
        EntryPayload::Withheld => ENTRY_WITHHELD,
    });
    put_log_id(entry.id, out);
    match &entry.payload {
        EntryPayload::Noop | EntryPayload::Withheld => {}
        EntryPayload::Command(command) => out.extend_from_slice(command),
        EntryPayload::Membership(membership) => encode_membership(membership, out),
    }
}

/// Decodes exactly one entry; payloads share `bytes`.
///
/// # Errors
/// What is wrong, and where.
pub fn decode_entry(bytes: &Bytes) -> Result<Entry, DecodeError> {
    let mut reader = Reader { bytes, at: 0, end: bytes.len() };
    let entry = reader.entry()?;
    reader.finish(entry)
}

/// The length of the encoding of `entry` in bytes.
#[must_use]
pub fn encoded_entry_len(entry: &Entry) -> usize {
    ENTRY_HEAD_BYTES
        + match &entry.payload {
            EntryPayload::Noop | EntryPayload::Withheld => 0,
            EntryPayload::Command(command) => command.len(),
            EntryPayload::Membership(membership) => encoded_membership_len(membership),
        }
}

/// Appends the encoding of `membership` to `out`.
///
/// # Panics
/// Never: memberships are bounded by [`MEMBERS_MAX`] and [`ADDRESS_BYTES_MAX`] when they are made.
pub fn encode_membership(membership: &Membership, out: &mut Vec<u8>) {
    put_u64(membership.epoch, out);
    put_u64(membership.next_replica, out);
    let count =
        u16::try_from(membership.members.len()).expect("a membership has at most MEMBERS_MAX members");
    let joint = match membership.joint() {
        None => 0,
        Some(joint) if joint.automatic => JOINT_AUTOMATIC,
        Some(_) => JOINT_EXPLICIT,
    };
    out.extend_from_slice(&(count | joint).to_le_bytes());
    for (id, member) in &membership.members {
        put_u64(id.0, out);
        put_u64(member.node.0, out);
        out.push(role_byte(membership, *id, member));
        for address in [&member.peer_address, &member.client_address] {
            let length =
                u16::try_from(address.len()).expect("an address has at most ADDRESS_BYTES_MAX bytes");
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(address.as_bytes());
        }
    }
}

fn role_byte(membership: &Membership, id: ReplicaId, member: &Member) -> u8 {
    let role = match member.role {
        MemberRole::Voter => ROLE_VOTER,
        MemberRole::Witness => ROLE_WITNESS,
        MemberRole::Learner if membership.is_joining(id) => ROLE_JOINING,
        MemberRole::Learner => ROLE_LEARNER,
    };
    let outgoing = membership.joint().is_some_and(|joint| joint.outgoing.contains(&id));
    let leaving = membership.is_leaving(id);
    role | if outgoing { OUTGOING } else { 0 } | if leaving { LEAVING } else { 0 }
}

fn encoded_membership_len(membership: &Membership) -> usize {
    let member =
        |member: &Member| 8 + 8 + 1 + 2 + member.peer_address.len() + 2 + member.client_address.len();
    8 + 8 + 2 + membership.members.values().map(member).sum::<usize>()
}

/// Decodes exactly one membership.
///
/// # Errors
/// What is wrong, and where.
pub fn decode_membership(bytes: &Bytes) -> Result<Membership, DecodeError> {
    let mut reader = Reader { bytes, at: 0, end: bytes.len() };
    let membership = reader.membership()?;
    reader.finish(membership)
}

/// Appends the encoding of `meta` to `out`.
pub fn encode_snapshot_meta(meta: &SnapshotMeta, out: &mut Vec<u8>) {
    put_log_id(meta.last, out);
    put_log_id(meta.membership_id, out);
    encode_membership(&meta.membership, out);
}

/// Decodes exactly one snapshot description.
///
/// # Errors
/// What is wrong, and where.
pub fn decode_snapshot_meta(bytes: &Bytes) -> Result<SnapshotMeta, DecodeError> {
    let mut reader = Reader { bytes, at: 0, end: bytes.len() };
    let meta = reader.snapshot_meta()?;
    reader.finish(meta)
}

/// Appends the encoding of `message` to `out`.
///
/// # Panics
/// When an append holds an entry of 4 GiB or more, which `Config::command_bytes_max` prevents.
pub fn encode_message(message: &Message, out: &mut Vec<u8>) {
    out.push(message_kind(&message.body));
    put_u64(message.from.0, out);
    put_u64(message.to.0, out);
    put_u64(message.term.0, out);
    put_u64(message.epoch, out);
    match &message.body {
        MessageBody::PreVote(request) | MessageBody::Vote(request) => {
            put_log_id(request.last, out);
            out.push(u8::from(request.transfer));
        }
        MessageBody::PreVoteReply { granted } | MessageBody::VoteReply { granted } => {
            out.push(u8::from(*granted));
        }
        MessageBody::Append(append) => put_append(append, out),
        MessageBody::AppendReply(AppendReply::Accepted { matched, read_round }) => {
            put_u64(matched.0, out);
            put_u64(*read_round, out);
        }
        MessageBody::AppendReply(AppendReply::Rejected { prev, hint, last }) => {
            put_u64(prev.0, out);
            put_log_id(*hint, out);
            put_u64(last.0, out);
        }
        MessageBody::Heartbeat { commit, read_round } => {
            put_u64(commit.0, out);
            put_u64(*read_round, out);
        }
        MessageBody::HeartbeatReply { read_round, last } => {
            put_u64(*read_round, out);
            put_log_id(*last, out);
        }
        MessageBody::InstallSnapshot(meta) => encode_snapshot_meta(meta, out),
        MessageBody::Quiesce { last, round } => {
            put_log_id(*last, out);
            put_u64(*round, out);
        }
        MessageBody::RequestSnapshot { at_least } => put_u64(at_least.0, out),
        MessageBody::TimeoutNow => {}
        MessageBody::ReadIndex { request } => put_u64(*request, out),
        MessageBody::ReadIndexReply { request, index } => {
            put_u64(*request, out);
            out.push(u8::from(index.is_some()));
            if let Some(index) = index {
                put_u64(index.0, out);
            }
        }
    }
}

/// Decodes exactly one message; payloads share `bytes`.
///
/// # Errors
/// What is wrong, and where.
pub fn decode_message(bytes: &Bytes) -> Result<Message, DecodeError> {
    let mut reader = Reader { bytes, at: 0, end: bytes.len() };
    let kind = reader.u8("a kind of message")?;
    let from = ReplicaId(reader.u64("a sender")?);
    let to = ReplicaId(reader.u64("a receiver")?);
    let term = Term(reader.u64("a term")?);
    let epoch = reader.u64("an epoch")?;
    let body = reader.body(kind)?;
    reader.finish(Message { from, to, term, epoch, body })
}

const fn message_kind(body: &MessageBody) -> u8 {
    match body {
        MessageBody::PreVote(_) => PRE_VOTE,
        MessageBody::PreVoteReply { .. } => PRE_VOTE_REPLY,
        MessageBody::Vote(_) => VOTE,
        MessageBody::VoteReply { .. } => VOTE_REPLY,
        MessageBody::Append(_) => APPEND,
        MessageBody::AppendReply(AppendReply::Accepted { .. }) => APPEND_ACCEPTED,
        MessageBody::AppendReply(AppendReply::Rejected { .. }) => APPEND_REJECTED,
        MessageBody::Heartbeat { .. } => HEARTBEAT,
        MessageBody::HeartbeatReply { .. } => HEARTBEAT_REPLY,
        MessageBody::InstallSnapshot(_) => INSTALL_SNAPSHOT,
        MessageBody::Quiesce { .. } => QUIESCE,
        MessageBody::RequestSnapshot { .. } => REQUEST_SNAPSHOT,
        MessageBody::TimeoutNow => TIMEOUT_NOW,
        MessageBody::ReadIndex { .. } => READ_INDEX,
        MessageBody::ReadIndexReply { .. } => READ_INDEX_REPLY,
    }
}

fn put_append(append: &Append, out: &mut Vec<u8>) {
    put_log_id(append.prev, out);
    put_u64(append.commit.0, out);
    put_u64(append.read_round, out);
    let count = u32::try_from(append.entries.len()).expect("an append is bounded by append_bytes_max");
    out.extend_from_slice(&count.to_le_bytes());
    for entry in &append.entries {
        let length =
            u32::try_from(encoded_entry_len(entry)).expect("an entry is bounded by command_bytes_max");
        out.extend_from_slice(&length.to_le_bytes());
        encode_entry(entry, out);
    }
}

fn put_u64(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_log_id(id: LogId, out: &mut Vec<u8>) {
    put_u64(id.term.0, out);
    put_u64(id.index.0, out);
}

/// Reads `bytes[at..end]` front to back.
struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
    end: usize,
}

impl Reader<'_> {
    const fn error<T>(&self, expected: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError { offset: self.at, expected })
    }
    fn finish<T>(&self, value: T) -> Result<T, DecodeError> {
        if self.at == self.end { Ok(value) } else { self.error("the end") }
    }
    fn left(&self) -> usize {
        self.end - self.at
    }
    fn take(&mut self, length: usize, expected: &'static str) -> Result<Bytes, DecodeError> {
        if self.left() < length {
            return self.error(expected);
        }
        let taken = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        Ok(taken)
    }
    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], DecodeError> {
        let end = self.end.min(self.bytes.len());
        let Some(array) = self.bytes.get(self.at..end).and_then(|rest| rest.first_chunk::<N>()) else {
            return self.error(expected);
        };
        self.at += N;
        Ok(*array)
    }
    fn u8(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(expected).map(|[byte]| byte)
    }
    fn u16(&mut self, expected: &'static str) -> Result<u16, DecodeError> {
        self.array(expected).map(u16::from_le_bytes)
    }
    fn length(&mut self, expected: &'static str) -> Result<usize, DecodeError> {
        let length = self.array(expected).map(u32::from_le_bytes)?;
        usize::try_from(length).or_else(|_| self.error(expected))
    }
    fn u64(&mut self, expected: &'static str) -> Result<u64, DecodeError> {
        self.array(expected).map(u64::from_le_bytes)
    }
    fn index(&mut self) -> Result<LogIndex, DecodeError> {
        self.u64("an index").map(LogIndex)
    }
    fn log_id(&mut self) -> Result<LogId, DecodeError> {
        let term = Term(self.u64("a term")?);
        Ok(LogId { term, index: self.index()? })
    }
    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8("0 or 1")? {
            0 => Ok(false),
            1 => Ok(true),
            _ => {
                self.at -= 1;
                self.error("0 or 1")
            }
        }
    }

    /// An entry that runs to the end.
    fn entry(&mut self) -> Result<Entry, DecodeError> {
        let kind = self.u8("a kind of entry")?;
        let id = self.log_id()?;
        let payload = match kind {
            ENTRY_NOOP => EntryPayload::Noop,
            ENTRY_WITHHELD => EntryPayload::Withheld,
            ENTRY_COMMAND => EntryPayload::Command(self.take(self.left(), "a command")?),
            ENTRY_MEMBERSHIP => EntryPayload::Membership(Arc::new(self.membership()?)),
            _ => return Err(DecodeError { offset: self.at - ENTRY_HEAD_BYTES, expected: "a kind of entry" }),
        };
        Ok(Entry { id, payload })
    }

    fn membership(&mut self) -> Result<Membership, DecodeError> {
        let epoch = self.u64("an epoch")?;
        let next_replica = self.u64("the next replica id")?;
        let count = self.u16("a number of members")?;
        let joint = match count & (JOINT_AUTOMATIC | JOINT_EXPLICIT) {
            0 => None,
            JOINT_AUTOMATIC => Some(Joint { automatic: true, ..Joint::default() }),
            JOINT_EXPLICIT => Some(Joint::default()),
            _ => return self.error("one way to leave the joint state"),
        };
        let count = usize::from(count & !(JOINT_AUTOMATIC | JOINT_EXPLICIT));
        if count > MEMBERS_MAX {
            return self.error("at most 64 members");
        }
        let mut membership = Membership { next_replica, epoch, joint, ..Membership::default() };
        for _ in 0..count {
            let id = ReplicaId(self.u64("a replica id")?);
            if membership.members.last_key_value().is_some_and(|(before, _)| *before >= id) {
                return self.error("members in ascending order");
            }
            self.member(id, &mut membership)?;
        }
        Ok(membership)
    }

    /// Reads the member `id` into `membership`.
    fn member(&mut self, id: ReplicaId, membership: &mut Membership) -> Result<(), DecodeError> {
        let node = NodeId(self.u64("a node id")?);
        let byte = self.u8("a role")?;
        let role = match byte & !(OUTGOING | LEAVING) {
            ROLE_VOTER => MemberRole::Voter,
            ROLE_WITNESS => MemberRole::Witness,
            ROLE_LEARNER => MemberRole::Learner,
            ROLE_JOINING => {
                membership.joining.insert(id);
                MemberRole::Learner
            }
            _ => return self.error("a role"),
        };
        match &mut membership.joint {
            Some(joint) => {
                joint.outgoing.extend((byte & OUTGOING != 0).then_some(id));
                joint.leaving.extend((byte & LEAVING != 0).then_some(id));
            }
            None if byte & (OUTGOING | LEAVING) != 0 => return self.error("a role outside of a joint state"),
            None => {}
        }
        let (peer_address, client_address) = (self.address()?, self.address()?);
        membership.members.insert(id, Member { node, role, peer_address, client_address });
        Ok(())
    }

    fn address(&mut self) -> Result<String, DecodeError> {
        let length = usize::from(self.u16("the length of an address")?);
        if length > ADDRESS_BYTES_MAX {
            return self.error("an address of at most 1024 bytes");
        }
        let address = self.take(length, "an address")?;
        std::str::from_utf8(&address).map(str::to_owned).or_else(|_| self.error("an address in UTF-8"))
    }

    fn snapshot_meta(&mut self) -> Result<SnapshotMeta, DecodeError> {
        let last = self.log_id()?;
        let membership_id = self.log_id()?;
        Ok(SnapshotMeta { last, membership: Arc::new(self.membership()?), membership_id })
    }

    fn body(&mut self, kind: u8) -> Result<MessageBody, DecodeError> {
        Ok(match kind {
            PRE_VOTE => MessageBody::PreVote(self.vote_request()?),
            PRE_VOTE_REPLY => MessageBody::PreVoteReply { granted: self.flag()? },
            VOTE => MessageBody::Vote(self.vote_request()?),
            VOTE_REPLY => MessageBody::VoteReply { granted: self.flag()? },
            APPEND => MessageBody::Append(self.append()?),
            APPEND_ACCEPTED => MessageBody::AppendReply(AppendReply::Accepted {
                matched: self.index()?,
                read_round: self.u64("a read round")?,
            }),
            APPEND_REJECTED => MessageBody::AppendReply(AppendReply::Rejected {
                prev: self.index()?,
                hint: self.log_id()?,
                last: self.index()?,
            }),
            HEARTBEAT => {
                MessageBody::Heartbeat { commit: self.index()?, read_round: self.u64("a read round")? }
            }
            HEARTBEAT_REPLY => {
                MessageBody::HeartbeatReply { read_round: self.u64("a read round")?, last: self.log_id()? }
            }
            INSTALL_SNAPSHOT => MessageBody::InstallSnapshot(self.snapshot_meta()?),
            QUIESCE => MessageBody::Quiesce { last: self.log_id()?, round: self.u64("a round")? },
            REQUEST_SNAPSHOT => MessageBody::RequestSnapshot { at_least: self.index()? },
            TIMEOUT_NOW => MessageBody::TimeoutNow,
            READ_INDEX => MessageBody::ReadIndex { request: self.u64("a request")? },
            READ_INDEX_REPLY => {
                let request = self.u64("a request")?;
                let index = if self.flag()? { Some(self.index()?) } else { None };
                MessageBody::ReadIndexReply { request, index }
            }
            _ => return Err(DecodeError { offset: 0, expected: "a kind of message" }),
        })
    }

    fn vote_request(&mut self) -> Result<VoteRequest, DecodeError> {
        Ok(VoteRequest { last: self.log_id()?, transfer: self.flag()? })
    }

    fn append(&mut self) -> Result<Append, DecodeError> {
        let prev = self.log_id()?;
        let commit = self.index()?;
        let read_round = self.u64("a read round")?;
        let count = self.length("a number of entries")?;
        if count > self.left() / (4 + ENTRY_HEAD_BYTES) {
            return self.error("as many entries as are said");
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let length = self.length("the length of an entry")?;
            if length > self.left() {
                return self.error("an entry");
            }
            let mut one = Reader { bytes: self.bytes, at: self.at, end: self.at + length };
            let entry = one.entry()?;
            entries.push(one.finish(entry)?);
            self.at = one.at;
        }
        Ok(Append { prev, entries: entries.into(), commit, read_round })
    }
}
