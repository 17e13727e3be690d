//! The bytes of requests passed on to a leader, and of its answers. Part of [`crate::encode_peer_message`].
//!
//! ```text
//!   request   from · to · term · number (u64 each) · kind:u8 · by kind:
//!               0 plain     command…
//!               1 session   session:u64 · sequence:u64 · acked_below:u64 · command…
//!               2 key       fingerprint:u64 · key (u8 length) · command…
//!               3 open      5 barrier
//!               4 version   version:u32 · 0, 1 or 2 as above
//!   answer    from · to · number (u64 each) · verdict:u8 · by verdict:
//!               0 applied   term:u64 · index:u64 · response…
//!               1 session opened  session:u64        4 too large  bytes:u64 · bytes_max:u64
//!               2 not the leader  3 busy  5 unknown  6 session expired  7 acknowledged  8 key reused  9 malformed
//!               10 unsupported  version:u32 · supported:u32
//! ```

use bytes::Bytes;
use quorate_core::{DecodeError, ReplicaId, Term};

use crate::bytes_reader::{BytesReader, put_log_id, put_u64};
use crate::command::KEY_BYTES_MAX;
use crate::peer::{Forward, ForwardReply, ForwardVerdict};
use crate::request::{Dedupe, LeaderRequest, SessionId};

const PLAIN: u8 = 0;
const SESSION: u8 = 1;
const KEY: u8 = 2;
const OPEN: u8 = 3;
const VERSION: u8 = 4;
const BARRIER: u8 = 5;

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
        LeaderRequest::Propose { command, dedupe } => put_command(command, dedupe, out),
        LeaderRequest::ProposeVersion { version, command, dedupe } => {
            out.push(VERSION);
            out.extend_from_slice(&version.to_le_bytes());
            put_command(command, dedupe, out);
        }
    }
}

fn put_command(command: &Bytes, dedupe: &Dedupe, out: &mut Vec<u8>) {
    match dedupe {
        Dedupe::None => out.push(PLAIN),
        Dedupe::Session { session, sequence, acked_below } => {
            out.push(SESSION);
            put_u64(out, session.0);
            put_u64(out, *sequence);
            put_u64(out, *acked_below);
        }
        Dedupe::Key { key, fingerprint } => {
            out.push(KEY);
            put_u64(out, *fingerprint);
            out.push(u8::try_from(key.len()).expect("keys are checked before they are passed on"));
            out.extend_from_slice(key);
        }
    }
    out.extend_from_slice(command);
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
            let (command, dedupe) = read_command(kind, reader)?;
            LeaderRequest::ProposeVersion { version, command, dedupe }
        }
        kind => {
            let (command, dedupe) = read_command(kind, reader)?;
            LeaderRequest::Propose { command, dedupe }
        }
    };
    Ok(Forward { from, to, term, number, request })
}

fn read_command(kind: u8, reader: &mut BytesReader) -> Result<(Bytes, Dedupe), DecodeError> {
    let dedupe = match kind {
        PLAIN => Dedupe::None,
        SESSION => Dedupe::Session {
            session: SessionId(reader.u64("a session")?),
            sequence: reader.u64("a sequence number")?,
            acked_below: reader.u64("a sequence number")?,
        },
        KEY => {
            let fingerprint = reader.u64("a fingerprint")?;
            let length = usize::from(reader.u8("the length of a key")?);
            debug_assert!(length <= KEY_BYTES_MAX, "a byte says no more");
            let mut rest = reader.rest();
            if rest.len() < length {
                return Err(reader.fail("a key"));
            }
            let key = rest.split_to(length);
            return Ok((rest, Dedupe::Key { key, fingerprint }));
        }
        _ => return Err(reader.fail("the kind of a request")),
    };
    Ok((reader.rest(), dedupe))
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
