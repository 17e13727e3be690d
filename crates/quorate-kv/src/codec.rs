//! The one encoding of commands, queries and their answers, for wire and log.
//!
//! ```text
//!   ┌─────────┬─────┬────────┐    number   u64, little-endian
//!   │ version │ tag │ fields │    bytes    length (shortest LEB128), then the bytes
//!   │   u8=1  │ u8  │        │    option   u8: 0 | 1 followed by the value
//!   └─────────┴─────┴────────┘    condition u8: 0 any | 1 absent | 2 version | 3 value
//!
//!   tags: commands 0x01.. responses 0x11.. queries 0x21.. answers 0x31..
//! ```
//!
//! * One value has one encoding: what decodes, encodes to the same bytes.
//! * Tags of different types are different, so that a response is never taken for a command.
//! * Every length is checked before it is believed; nothing is allocated for bytes that are not there.
//! * Keys and values share the input: nothing is copied.

use bytes::Bytes;
use quorate_core::DecodeError;

use crate::command::{Condition, Item, KvAnswer, KvCommand, KvQuery, KvResponse};

const VERSION: u8 = 1;

const COMMAND_PUT: u8 = 0x01;
const COMMAND_DELETE: u8 = 0x02;
const RESPONSE_DONE: u8 = 0x11;
const RESPONSE_CONDITION_FAILED: u8 = 0x12;
const RESPONSE_MALFORMED: u8 = 0x1f;
const QUERY_GET: u8 = 0x21;
const QUERY_SCAN: u8 = 0x22;
const ANSWER_VALUE: u8 = 0x31;
const ANSWER_PAGE: u8 = 0x32;
const ANSWER_MALFORMED: u8 = 0x3f;

impl KvCommand {
    /// The bytes to propose.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (tag, key, value, condition) = match self {
            Self::Put { key, value, condition } => (COMMAND_PUT, key, Some(value), condition),
            Self::Delete { key, condition } => (COMMAND_DELETE, key, None, condition),
        };
        let compared = if let Condition::Value(value) = condition { value.len() } else { 8 };
        let mut writer = Writer::new(tag, key.len() + value.map_or(0, Bytes::len) + compared);
        writer.bytes(key);
        if let Some(value) = value {
            writer.bytes(value);
        }
        writer.condition(condition);
        writer.finish()
    }

    /// Reads exactly one command; its key and values share `bytes`.
    ///
    /// # Errors
    /// Says where the bytes are not what they should be.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let (mut reader, tag) = Reader::new(bytes)?;
        let command = match tag {
            COMMAND_PUT => {
                Self::Put { key: reader.bytes()?, value: reader.bytes()?, condition: reader.condition()? }
            }
            COMMAND_DELETE => Self::Delete { key: reader.bytes()?, condition: reader.condition()? },
            _ => return Err(unknown_tag("the tag of a command")),
        };
        reader.end()?;
        Ok(command)
    }
}

impl KvResponse {
    /// The bytes a state machine answers with.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Done { version, previous } => {
                let mut writer = Writer::new(RESPONSE_DONE, 17);
                writer.number(*version);
                writer.option(previous.as_ref(), |writer, previous| writer.number(*previous));
                writer.finish()
            }
            Self::ConditionFailed { current } => {
                let mut writer = Writer::new(RESPONSE_CONDITION_FAILED, 9);
                writer.option(current.as_ref(), |writer, current| writer.number(*current));
                writer.finish()
            }
            Self::Malformed => Writer::new(RESPONSE_MALFORMED, 0).finish(),
        }
    }

    /// Reads exactly one response.
    ///
    /// # Errors
    /// Says where the bytes are not what they should be.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let (mut reader, tag) = Reader::new(bytes)?;
        let response = match tag {
            RESPONSE_DONE => {
                Self::Done { version: reader.number()?, previous: reader.option(Reader::number)? }
            }
            RESPONSE_CONDITION_FAILED => Self::ConditionFailed { current: reader.option(Reader::number)? },
            RESPONSE_MALFORMED => Self::Malformed,
            _ => return Err(unknown_tag("the tag of a response")),
        };
        reader.end()?;
        Ok(response)
    }
}

impl KvQuery {
    /// The bytes to ask with.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Get { key } => {
                let mut writer = Writer::new(QUERY_GET, key.len());
                writer.bytes(key);
                writer.finish()
            }
            Self::Scan { start, end, limit, bytes_max } => {
                let mut writer =
                    Writer::new(QUERY_SCAN, start.len() + end.as_ref().map_or(0, Bytes::len) + 17);
                writer.bytes(start);
                writer.option(end.as_ref(), |writer, end| writer.bytes(end));
                writer.number(u64::from(*limit));
                writer.number(*bytes_max);
                writer.finish()
            }
        }
    }

    /// Reads exactly one query; its keys share `bytes`.
    ///
    /// # Errors
    /// Says where the bytes are not what they should be.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let (mut reader, tag) = Reader::new(bytes)?;
        let query = match tag {
            QUERY_GET => Self::Get { key: reader.bytes()? },
            QUERY_SCAN => Self::Scan {
                start: reader.bytes()?,
                end: reader.option(Reader::bytes)?,
                limit: reader.limit()?,
                bytes_max: reader.number()?,
            },
            _ => return Err(unknown_tag("the tag of a query")),
        };
        reader.end()?;
        Ok(query)
    }
}

impl KvAnswer {
    /// The bytes a state machine answers with.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Value(item) => {
                let mut writer = Writer::new(ANSWER_VALUE, item.as_ref().map_or(1, |item| item.bytes() + 9));
                writer.option(item.as_ref(), Writer::item);
                writer.finish()
            }
            Self::Page { items, next } => {
                let bytes: usize = items.iter().map(|item| item.bytes() + 20).sum();
                let mut writer = Writer::new(ANSWER_PAGE, bytes + next.as_ref().map_or(1, Bytes::len));
                writer.number(items.len() as u64);
                for item in items {
                    writer.item(item);
                }
                writer.option(next.as_ref(), |writer, next| writer.bytes(next));
                writer.finish()
            }
            Self::Malformed => Writer::new(ANSWER_MALFORMED, 0).finish(),
        }
    }

    /// Reads exactly one answer; its keys and values share `bytes`.
    ///
    /// # Errors
    /// Says where the bytes are not what they should be.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let (mut reader, tag) = Reader::new(bytes)?;
        let answer = match tag {
            ANSWER_VALUE => Self::Value(reader.option(Reader::item)?),
            ANSWER_PAGE => {
                let count = reader.number()?;
                // Grown item by item: a count that lies costs no memory.
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(reader.item()?);
                }
                Self::Page { items, next: reader.option(Reader::bytes)? }
            }
            ANSWER_MALFORMED => Self::Malformed,
            _ => return Err(unknown_tag("the tag of an answer")),
        };
        reader.end()?;
        Ok(answer)
    }
}

const fn unknown_tag(expected: &'static str) -> DecodeError {
    DecodeError { offset: 1, expected }
}

struct Writer {
    out: Vec<u8>,
}

impl Writer {
    fn new(tag: u8, field_bytes: usize) -> Self {
        // Version, tag, and room for a few lengths.
        let mut out = Vec::with_capacity(field_bytes.saturating_add(24));
        out.extend_from_slice(&[VERSION, tag]);
        Self { out }
    }

    fn number(&mut self, number: u64) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &Bytes) {
        write_length(bytes.len(), &mut self.out);
        self.out.extend_from_slice(bytes);
    }

    fn option<T>(&mut self, option: Option<&T>, write: impl Fn(&mut Self, &T)) {
        self.out.push(u8::from(option.is_some()));
        if let Some(value) = option {
            write(self, value);
        }
    }

    fn condition(&mut self, condition: &Condition) {
        match condition {
            Condition::Any => self.out.push(0),
            Condition::Absent => self.out.push(1),
            Condition::Version(version) => {
                self.out.push(2);
                self.number(*version);
            }
            Condition::Value(value) => {
                self.out.push(3);
                self.bytes(value);
            }
            Condition::Present => self.out.push(4),
        }
    }

    fn item(&mut self, item: &Item) {
        self.bytes(&item.key);
        self.bytes(&item.value);
        self.number(item.version);
    }

    fn finish(self) -> Bytes {
        self.out.into()
    }
}

/// Appends `length` as LEB128: seven bits a byte, low ones first, the top bit says "more".
pub(crate) fn write_length(length: usize, out: &mut Vec<u8>) {
    let mut rest = length;
    while rest >= 0x80 {
        out.push(low_byte(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low_byte(rest));
}

const fn low_byte(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

struct Reader<'a> {
    bytes: &'a Bytes,
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Checks the version and returns the tag.
    fn new(bytes: &'a Bytes) -> Result<(Self, u8), DecodeError> {
        let mut reader = Self { bytes, offset: 0 };
        if reader.byte("the format version")? != VERSION {
            return Err(DecodeError { offset: 0, expected: "format version 1" });
        }
        let tag = reader.byte("a tag")?;
        Ok((reader, tag))
    }

    fn byte(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        let byte = self.bytes.get(self.offset).copied();
        let byte = byte.ok_or(DecodeError { offset: self.offset, expected })?;
        self.offset += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let error = DecodeError { offset: self.offset, expected: "a number of 8 bytes" };
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let number = rest.first_chunk::<8>().ok_or(error)?;
        self.offset += 8;
        Ok(u64::from_le_bytes(*number))
    }

    fn limit(&mut self) -> Result<u32, DecodeError> {
        let error = DecodeError { offset: self.offset, expected: "a limit of at most 32 bits" };
        u32::try_from(self.number()?).map_err(|_| error)
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        let error = DecodeError { offset: self.offset, expected: "a length in its shortest form" };
        let mut length = 0_u64;
        // Nine groups of seven bits are more than any length; a tenth could overflow.
        for shift in (0..63).step_by(7) {
            let byte = self.byte("a length")?;
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let padded = byte == 0 && shift > 0;
                return if padded { Err(error) } else { usize::try_from(length).map_err(|_| error) };
            }
        }
        Err(error)
    }

    fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.length()?;
        let error = DecodeError { offset: self.offset, expected: "as many bytes as the length says" };
        let end = self.offset.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(error)?;
        let bytes = self.bytes.slice(self.offset..end);
        self.offset = end;
        Ok(bytes)
    }

    fn option<T>(
        &mut self,
        read: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        let error = DecodeError { offset: self.offset, expected: "0 (nothing) or 1 (a value follows)" };
        match self.byte("an option")? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(error),
        }
    }

    fn condition(&mut self) -> Result<Condition, DecodeError> {
        let error = DecodeError { offset: self.offset, expected: "a condition (0 to 4)" };
        Ok(match self.byte("a condition")? {
            0 => Condition::Any,
            1 => Condition::Absent,
            2 => Condition::Version(self.number()?),
            3 => Condition::Value(self.bytes()?),
            4 => Condition::Present,
            _ => return Err(error),
        })
    }

    fn item(&mut self) -> Result<Item, DecodeError> {
        Ok(Item { key: self.bytes()?, value: self.bytes()?, version: self.number()? })
    }

    fn end(&self) -> Result<(), DecodeError> {
        if self.offset == self.bytes.len() {
            return Ok(());
        }
        Err(DecodeError { offset: self.offset, expected: "the end" })
    }
}
