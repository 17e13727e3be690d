//! The bytes of requests passed on to a leader, and of its answers. Part of [`crate::encode_peer_message`].
//!
//! ```text
//!   request   from · to · term · number (u64 each) · kind:u8 · by kind:
//!               0 plain     command…
//!               1 session   session:u64 · sequence:u64 · acked_below:u64 · command…
//!               2 key       fingerprint:u64 · key (u8 length) · command…
//!               3 open      5 barrier
//!               4 version   version:u32 · 0, 1, 2 or 6 as here
//!               6 extended  length:u32 · extension · 0, 1 or 2 as above
//!   answer    from · to · number (u64 each) · verdict:u8 · by verdict:
//!               0 applied   term:u64 · index:u64 · response…
//!               1 session opened  session:u64        4 too large  bytes:u64 · bytes_max:u64
//!               2 not the leader  3 busy  5 unknown  6 session expired  7 acknowledged  8 key reused  9 malformed
//!               10 unsupported  version:u32 · supported:u32
//! ```

use bytes::Bytes;
use quorate_core::{DecodeError, ReplicaId, Term};

use crate::bytes_reader::{BytesReader, put_bytes, put_log_id, put_u64};
use crate::command::{kind_of, put_command, read_command, read_extension};
use crate::peer::{Forward, ForwardReply, ForwardVerdict};
use crate::request::{LeaderRequest, Proposal, SessionId};

const OPEN: u8 = 3;
const VERSION: u8 = 4;
const BARRIER: u8 = 5;
const EXTENDED: u8 = 6;

const APPLIED: u8 = 0;
const SESSION_OPENED: u8 = 1;
const NOT_LEADER: u8 = 2;
const BUSY: u8 = 3;
const TOO_LARGE: u8 = 4;
const UNKNOWN: u8 = 5;
const SESSION_EXPIRED: u8 = 6;
const ACKNOWLEDGED: u8 = 7;
const KEY_REUSED: u8 = 8;
const MALFORMED: u8 = 9;
const UNSUPPORTED: u8 = 10;

pub(crate) fn put_forward(forward: &Forward, out: &mut Vec<u8>) {
    for number in [forward.from.0, forward.to.0, forward.term.0, forward.number] {
        put_u64(out, number);
    }
    match &forward.request {
        LeaderRequest::OpenSession => out.push(OPEN),
        LeaderRequest::Barrier => out.push(BARRIER),
        LeaderRequest::Propose(proposal) => put_proposal(proposal, out),
        LeaderRequest::ProposeVersion { version, proposal } => {
            out.push(VERSION);
            out.extend_from_slice(&version.to_le_bytes());
            put_proposal(proposal, out);
        }
    }
}

fn put_proposal(proposal: &Proposal, out: &mut Vec<u8>) {
    if !proposal.extension.is_empty() {
        out.push(EXTENDED);
        put_bytes(out, &proposal.extension);
    }
    out.push(kind_of(&proposal.dedupe));
    put_command(proposal, out);
}

pub(crate) fn read_forward(reader: &mut BytesReader) -> Result<Forward, DecodeError> {
    let from = ReplicaId(reader.u64("the sender")?);
    let to = ReplicaId(reader.u64("the receiver")?);
    let term = Term(reader.u64("a term")?);
    let number = reader.u64("a number")?;
    let request = match reader.u8("the kind of a request")? {
        OPEN => {
            reader.end()?;
            LeaderRequest::OpenSession
        }
        BARRIER => {
            reader.end()?;
            LeaderRequest::Barrier
        }
        VERSION => {
            let version = reader.u32("a version of commands")?;
            let kind = reader.u8("the kind of a command")?;
            LeaderRequest::ProposeVersion { version, proposal: read_proposal(kind, reader)? }
        }
        kind => LeaderRequest::Propose(read_proposal(kind, reader)?),
    };
    Ok(Forward { from, to, term, number, request })
}

fn read_proposal(kind: u8, reader: &mut BytesReader) -> Result<Proposal, DecodeError> {
    let (extension, kind) = match kind {
        EXTENDED => (read_extension(reader)?, reader.u8("the kind of a command")?),
        kind => (Bytes::new(), kind),
    };
    let proposal = read_command(kind, reader)?.ok_or_else(|| reader.fail("the kind of a request"))?;
    Ok(Proposal { extension, ..proposal })
}

pub(crate) fn put_forward_reply(reply: &ForwardReply, out: &mut Vec<u8>) {
    for number in [reply.from.0, reply.to.0, reply.number] {
        put_u64(out, number);
    }
    match &reply.verdict {
        ForwardVerdict::Applied { id, response } => {
            out.push(APPLIED);
            put_log_id(out, *id);
            out.extend_from_slice(response);
        }
        ForwardVerdict::SessionOpened { session } => {
            out.push(SESSION_OPENED);
            put_u64(out, session.0);
        }
        ForwardVerdict::TooLarge { bytes, bytes_max } => {
            out.push(TOO_LARGE);
            put_u64(out, *bytes);
            put_u64(out, *bytes_max);
        }
        ForwardVerdict::Unsupported { version, supported } => {
            out.push(UNSUPPORTED);
            out.extend_from_slice(&version.to_le_bytes());
            out.extend_from_slice(&supported.to_le_bytes());
        }
        ForwardVerdict::NotLeader => out.push(NOT_LEADER),
        ForwardVerdict::Busy => out.push(BUSY),
        ForwardVerdict::OutcomeUnknown => out.push(UNKNOWN),
        ForwardVerdict::SessionExpired => out.push(SESSION_EXPIRED),
        ForwardVerdict::AlreadyAcknowledged => out.push(ACKNOWLEDGED),
        ForwardVerdict::KeyReused => out.push(KEY_REUSED),
        ForwardVerdict::Malformed => out.push(MALFORMED),
    }
}

pub(crate) fn read_forward_reply(reader: &mut BytesReader) -> Result<ForwardReply, DecodeError> {
    let from = ReplicaId(reader.u64("the sender")?);
    let to = ReplicaId(reader.u64("the receiver")?);
    let number = reader.u64("a number")?;
    let verdict = match reader.u8("a verdict")? {
        APPLIED => {
            let id = reader.log_id("a position")?;
            let response = reader.rest();
            return Ok(ForwardReply { from, to, number, verdict: ForwardVerdict::Applied { id, response } });
        }
        SESSION_OPENED => ForwardVerdict::SessionOpened { session: SessionId(reader.u64("a session")?) },
        TOO_LARGE => {
            ForwardVerdict::TooLarge { bytes: reader.u64("a size")?, bytes_max: reader.u64("a limit")? }
        }
        NOT_LEADER => ForwardVerdict::NotLeader,
        BUSY => ForwardVerdict::Busy,
        UNKNOWN => ForwardVerdict::OutcomeUnknown,
        SESSION_EXPIRED => ForwardVerdict::SessionExpired,
        ACKNOWLEDGED => ForwardVerdict::AlreadyAcknowledged,
        KEY_REUSED => ForwardVerdict::KeyReused,
        MALFORMED => ForwardVerdict::Malformed,
        UNSUPPORTED => ForwardVerdict::Unsupported {
            version: reader.u32("a version of commands")?,
            supported: reader.u32("a version of commands")?,
        },
        _ => return Err(reader.fail("a verdict")),
    };
    reader.end()?;
    Ok(ForwardReply { from, to, number, verdict })
}
