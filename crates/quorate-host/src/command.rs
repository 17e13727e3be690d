//! What goes into an entry: the user's command with the leader's clock and what tells a repeat.
//!
//! ```text
//!   version:u8 = 1 · kind:u8 · unix_millis:u64 · by kind:
//!     0 plain     command…
//!     1 session   session:u64 · sequence:u64 · acked_below:u64 · command…
//!     2 key       fingerprint:u64 · key (u8 length) · command…
//!     3 open
//!   version:u8 = 2 · kind:u8 · unix_millis:u64 · by kind:
//!     4 gate      version of commands:u32
//!     5 piece     of a state from outside:u64 · offset:u64 · data…    offset 2^64-1, no data: it is abandoned
//!     6 install   a state from outside:u64 · bytes:u64 · crc32c:u32
//!   version:u8 = 3 · kind:u8 · unix_millis:u64 · by kind:
//!     7 limits    of sessions: bytes, idle millis, millis a key is kept, bytes of a response, bytes from outside: u64 each
//!   version:u8 = 4 · kind:u8 · unix_millis:u64 · by kind:
//!     8 extended  length:u32, not 0 · extension · kind 0, 1 or 2:u8 · as there
//! ```
//!
//! A new kind is a new version: a replica that does not know it stops. (Builds that do not know an abandoned
//! state refuse the piece as too large, and forget the state when it is idle.)

use bytes::Bytes;
use quorate_core::DecodeError;

use crate::bytes_reader::{BytesReader, put_bytes, put_u64};
use crate::config::SessionConfig;
use crate::request::{Dedupe, Proposal, SessionId};

const VERSION: u8 = 1;
const SECOND_VERSION: u8 = 2;
const THIRD_VERSION: u8 = 3;
const FOURTH_VERSION: u8 = 4;
const PLAIN: u8 = 0;
const SESSION: u8 = 1;
const KEY: u8 = 2;
const OPEN: u8 = 3;
const GATE: u8 = 4;
const PIECE: u8 = 5;
const INSTALL: u8 = 6;
const LIMITS: u8 = 7;
const EXTENDED: u8 = 8;

/// The offset of a piece that says that there are no more.
const ABANDONED: u64 = u64::MAX;

/// The longest idempotency key in bytes.
pub(crate) const KEY_BYTES_MAX: usize = 255;
/// The most bytes that are added to a user's command.
pub(crate) const ENVELOPE_BYTES_MAX: u64 = 10 + 5 + 9 + KEY_BYTES_MAX as u64;

/// A command as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoggedCommand {
    /// The leader's clock; never falls along the log.
    pub(crate) unix_millis: u64,
    pub(crate) kind: LoggedKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoggedKind {
    Open,
    /// From here on commands may have this version.
    Gate {
        version: u32,
    },
    /// The next piece of a state from outside.
    Piece {
        restore: u64,
        offset: u64,
        data: Bytes,
    },
    /// Nobody goes on with a state from outside.
    Abandon {
        restore: u64,
    },
    /// All pieces together are the state from here on.
    Install {
        restore: u64,
        bytes: u64,
        crc: u32,
    },
    /// From here on the session table has these limits.
    Limits(SessionConfig),
    Command(Proposal),
}

impl LoggedCommand {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(40 + self.command_len());
        out.push(match &self.kind {
            LoggedKind::Gate { .. }
            | LoggedKind::Piece { .. }
            | LoggedKind::Abandon { .. }
            | LoggedKind::Install { .. } => SECOND_VERSION,
            LoggedKind::Limits(_) => THIRD_VERSION,
            LoggedKind::Command(proposal) if !proposal.extension.is_empty() => FOURTH_VERSION,
            LoggedKind::Open | LoggedKind::Command(_) => VERSION,
        });
        out.push(match &self.kind {
            LoggedKind::Open => OPEN,
            LoggedKind::Gate { .. } => GATE,
            LoggedKind::Piece { .. } | LoggedKind::Abandon { .. } => PIECE,
            LoggedKind::Install { .. } => INSTALL,
            LoggedKind::Limits(_) => LIMITS,
            LoggedKind::Command(proposal) if !proposal.extension.is_empty() => EXTENDED,
            LoggedKind::Command(proposal) => kind_of(&proposal.dedupe),
        });
        put_u64(&mut out, self.unix_millis);
        if let LoggedKind::Gate { version } = &self.kind {
            out.extend_from_slice(&version.to_le_bytes());
        }
        if let LoggedKind::Piece { restore, offset, data } = &self.kind {
            put_u64(&mut out, *restore);
            put_u64(&mut out, *offset);
            out.extend_from_slice(data);
        }
        if let LoggedKind::Abandon { restore } = &self.kind {
            put_u64(&mut out, *restore);
            put_u64(&mut out, ABANDONED);
        }
        if let LoggedKind::Install { restore, bytes, crc } = &self.kind {
            put_u64(&mut out, *restore);
            put_u64(&mut out, *bytes);
            out.extend_from_slice(&crc.to_le_bytes());
        }
        if let LoggedKind::Limits(limits) = &self.kind {
            limits.encode(&mut out);
        }
        if let LoggedKind::Command(proposal) = &self.kind {
            if !proposal.extension.is_empty() {
                put_bytes(&mut out, &proposal.extension);
                out.push(kind_of(&proposal.dedupe));
            }
            put_command(proposal, &mut out);
        }
        out.into()
    }

    fn command_len(&self) -> usize {
        match &self.kind {
            LoggedKind::Open
            | LoggedKind::Gate { .. }
            | LoggedKind::Abandon { .. }
            | LoggedKind::Install { .. }
            | LoggedKind::Limits(_) => 0,
            LoggedKind::Piece { data, .. } => data.len(),
            LoggedKind::Command(proposal) => proposal.bytes() + KEY_BYTES_MAX,
        }
    }

    /// The version of a command that a newer build wrote. Passing over it would make this replica differ from
    /// those that understand it.
    pub(crate) fn newer_version(bytes: &Bytes) -> Option<u8> {
        bytes.first().copied().filter(|version| *version > FOURTH_VERSION)
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = BytesReader::new(bytes);
        let version = reader.u8("a command")?;
        if !(VERSION..=FOURTH_VERSION).contains(&version) {
            return Err(DecodeError { offset: 0, expected: "a command of version 1 to 4" });
        }
        let kind = reader.u8("the kind of a command")?;
        let unix_millis = reader.u64("a clock")?;
        let no_such_kind = DecodeError { offset: 1, expected: "the kind of a command" };
        let kind = match (version, kind) {
            (VERSION, OPEN) => LoggedKind::Open,
            (VERSION, kind) => LoggedKind::Command(read_command(kind, &mut reader)?.ok_or(no_such_kind)?),
            (SECOND_VERSION, PIECE) => {
                let (restore, offset) = (reader.u64("a state from outside")?, reader.u64("an offset")?);
                let data = reader.rest();
                if offset == ABANDONED && data.is_empty() {
                    LoggedKind::Abandon { restore }
                } else {
                    LoggedKind::Piece { restore, offset, data }
                }
            }
            (SECOND_VERSION, INSTALL) => {
                let (restore, bytes) = (reader.u64("a state from outside")?, reader.u64("a length")?);
                LoggedKind::Install { restore, bytes, crc: reader.u32("a checksum")? }
            }
            (SECOND_VERSION, GATE) => LoggedKind::Gate { version: reader.u32("a version of commands")? },
            (THIRD_VERSION, LIMITS) => LoggedKind::Limits(SessionConfig::decode(&mut reader)?),
            (FOURTH_VERSION, EXTENDED) => {
                let extension = read_extension(&mut reader)?;
                let kind = reader.u8("the kind of a command")?;
                let proposal = read_command(kind, &mut reader)?.ok_or(no_such_kind)?;
                LoggedKind::Command(Proposal { extension, ..proposal })
            }
            _ => return Err(no_such_kind),
        };
        reader.end()?;
        Ok(Self { unix_millis, kind })
    }
}

/// Which kind of command it is by what tells its repeats.
pub(crate) fn kind_of(dedupe: &Dedupe) -> u8 {
    match dedupe {
        Dedupe::None => PLAIN,
        Dedupe::Session { .. } => SESSION,
        Dedupe::Key { .. } => KEY,
    }
}

/// What follows the kind of a command, to the end; without its extension.
pub(crate) fn put_command(proposal: &Proposal, out: &mut Vec<u8>) {
    match &proposal.dedupe {
        Dedupe::None => {}
        Dedupe::Session { session, sequence, acked_below } => {
            put_u64(out, session.0);
            put_u64(out, *sequence);
            put_u64(out, *acked_below);
        }
        Dedupe::Key { key, fingerprint } => {
            put_u64(out, *fingerprint);
            out.push(u8::try_from(key.len()).expect("keys are checked before they are proposed"));
            out.extend_from_slice(key);
        }
    }
    out.extend_from_slice(&proposal.command);
}

/// The other way round; `None` if there is no command of that kind.
pub(crate) fn read_command(kind: u8, reader: &mut BytesReader) -> Result<Option<Proposal>, DecodeError> {
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
            let mut command = reader.rest();
            if command.len() < length {
                return Err(reader.fail("a key"));
            }
            let key = command.split_to(length);
            return Ok(Some(Proposal::new(command, Dedupe::Key { key, fingerprint })));
        }
        _ => return Ok(None),
    };
    Ok(Some(Proposal::new(reader.rest(), dedupe)))
}

/// Only of a command that has one: what is encoded has one form.
pub(crate) fn read_extension(reader: &mut BytesReader) -> Result<Bytes, DecodeError> {
    let extension = reader.bytes("an extension")?;
    if extension.is_empty() { Err(reader.fail("an extension that is not empty")) } else { Ok(extension) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn limits() -> SessionConfig {
        SessionConfig {
            bytes_max: 1,
            idle_max: Duration::from_millis(2),
            key_retention: Duration::from_millis(3),
            response_bytes_max: 4,
            restore_bytes_max: 5,
        }
    }

    fn examples() -> Vec<(LoggedCommand, &'static [u8])> {
        let command = |unix_millis, dedupe, command| LoggedCommand {
            unix_millis,
            kind: LoggedKind::Command(Proposal::new(Bytes::from_static(command), dedupe)),
        };
        let session = Dedupe::Session { session: SessionId(5), sequence: 3, acked_below: 2 };
        let key = Dedupe::Key { key: Bytes::from_static(b"k"), fingerprint: 9 };
        vec![
            (command(258, Dedupe::None, b"ab"), b"\x01\x00\x02\x01\0\0\0\0\0\0ab"),
            (
                command(1, session, b"x"),
                b"\x01\x01\x01\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0x",
            ),
            (
                LoggedCommand {
                    unix_millis: 1,
                    kind: LoggedKind::Command(Proposal {
                        extension: Bytes::from_static(b"ext"),
                        ..Proposal::new("ab", Dedupe::None)
                    }),
                },
                b"\x04\x08\x01\0\0\0\0\0\0\0\x03\0\0\0ext\x00ab",
            ),
            (command(1, key, b""), b"\x01\x02\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x01k"),
            (LoggedCommand { unix_millis: 0, kind: LoggedKind::Open }, b"\x01\x03\0\0\0\0\0\0\0\0"),
            (
                LoggedCommand { unix_millis: 1, kind: LoggedKind::Gate { version: 3 } },
                b"\x02\x04\x01\0\0\0\0\0\0\0\x03\0\0\0",
            ),
            (
                LoggedCommand {
                    unix_millis: 1,
                    kind: LoggedKind::Piece { restore: 7, offset: 4, data: Bytes::from_static(b"ab") },
                },
                b"\x02\x05\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0ab",
            ),
            (
                LoggedCommand { unix_millis: 1, kind: LoggedKind::Abandon { restore: 7 } },
                b"\x02\x05\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
            ),
            (
                LoggedCommand { unix_millis: 1, kind: LoggedKind::Install { restore: 7, bytes: 6, crc: 9 } },
                b"\x02\x06\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x09\0\0\0",
            ),
            (
                LoggedCommand { unix_millis: 1, kind: LoggedKind::Limits(limits()) },
                b"\x03\x07\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\
                  \x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
            ),
        ]
    }

    #[test]
    fn golden_vectors_hold_in_both_directions() {
        for (command, bytes) in examples() {
            assert_eq!(command.encode(), bytes, "{command:?}");
            assert_eq!(LoggedCommand::decode(&Bytes::from_static(bytes)), Ok(command));
        }
    }

    #[test]
    fn no_envelope_is_larger_than_the_limit_allows_for() {
        let key = Dedupe::Key { key: vec![0; KEY_BYTES_MAX].into(), fingerprint: 0 };
        let kind = LoggedKind::Command(Proposal { extension: "x".into(), ..Proposal::new("", key) });
        assert!(LoggedCommand { unix_millis: 0, kind }.encode().len() as u64 <= 1 + ENVELOPE_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_means_exactly_itself(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = bytes;
            if bytes.len() > 1 {
                bytes[0] = VERSION + bytes[0] % 4;
                bytes[1] %= 10;
            }
            let bytes = Bytes::from(bytes);
            if let Ok(command) = LoggedCommand::decode(&bytes) {
                prop_assert_eq!(command.encode(), bytes);
            }
        }
    }
}
