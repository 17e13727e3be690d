//! The store's content as a stream: what a snapshot holds.
//!
//! ```text
//!   "QKV" 1 │ item │ item │ … │ end
//!   item: 1, key, value (each: length, bytes), version (u64)       keys strictly ascending
//!   end:  0, number of items (u64)                                 and then nothing
//! ```
//! Lengths are LEB128 in their shortest form, numbers little-endian.
//!
//! * The stream is cut into chunks anywhere; a chunk is never longer than asked for.
//! * Reading believes nothing: order, sizes and versions are checked, a stream that is cut short has no end.
//!   Memory grows with the bytes that are there, not with what a length claims.
//!
//! Not here: checksums (the snapshot's file and transport have them), the host's own part.

use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_core::LogIndex;
use quorate_host::{MachineError, SnapshotSource};

use crate::codec::write_length;
use crate::command::Item;
use crate::engine::{EngineView, KeyRange};
use crate::limits::{KEY_BYTES_CAP, VALUE_BYTES_CAP};

const HEADER: &[u8; 4] = b"QKV\x01";
const TAG_END: u8 = 0;
const TAG_ITEM: u8 = 1;
/// How much is read at a time, in bytes.
const READ_BYTES: usize = 256 << 10;

/// Writes a frozen view out, piece by piece.
pub(super) struct KvSnapshot {
    view: Box<dyn EngineView>,
    /// Encoded and not handed out yet.
    pending: BytesMut,
    /// The first key that is not encoded yet; `None`: the end is.
    next: Option<Bytes>,
    items: u64,
}

impl KvSnapshot {
    pub(super) fn new(view: Box<dyn EngineView>) -> Self {
        Self { view, pending: BytesMut::from(&HEADER[..]), next: Some(Bytes::new()), items: 0 }
    }

    /// Encodes items from `start` on until `bytes_wanted` are pending.
    fn encode_more(&mut self, start: Bytes, bytes_wanted: usize) -> Result<(), MachineError> {
        let Self { view, pending, next, items } = self;
        *next = None;
        let mut length = Vec::new();
        view.scan(&KeyRange::from(start), &mut |item| {
            if pending.len() >= bytes_wanted {
                *next = Some(item.key);
                return ControlFlow::Break(());
            }
            encode_item(&item, &mut length, pending);
            *items += 1;
            ControlFlow::Continue(())
        })?;
        if next.is_none() {
            pending.put_u8(TAG_END);
            pending.put_u64_le(*items);
        }
        Ok(())
    }
}

impl SnapshotSource for KvSnapshot {
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, MachineError> {
        let bytes_wanted = bytes_max.max(1);
        if self.pending.len() < bytes_wanted
            && let Some(start) = self.next.take()
        {
            self.encode_more(start, bytes_wanted)?;
        }
        if self.pending.is_empty() {
            return Ok(None);
        }
        let bytes = self.pending.len().min(bytes_wanted);
        Ok(Some(self.pending.split_to(bytes).freeze()))
    }
}

/// `length`: room for one.
fn encode_item(item: &Item, length: &mut Vec<u8>, out: &mut BytesMut) {
    out.reserve(item.bytes() + 30);
    out.put_u8(TAG_ITEM);
    for bytes in [&item.key, &item.value] {
        length.clear();
        write_length(bytes.len(), length);
        out.put_slice(length);
        out.put_slice(bytes);
    }
    out.put_u64_le(item.version);
}

/// A snapshot's content is not what it should be.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("the content cannot be read at byte {offset}")]
    Read {
        offset: u64,
        #[source]
        source: std::io::Error,
    },
    #[error("at byte {offset} of the content: expected {expected}")]
    Unexpected { offset: u64, expected: &'static str },
}

impl From<Damage> for MachineError {
    fn from(damage: Damage) -> Self {
        Self::with("the snapshot cannot be restored", damage)
    }
}

/// The items of a stream, checked. Ends after the stream's end or the first error.
pub(super) struct SnapshotItems<'a> {
    content: BufReader<&'a mut dyn Read>,
    offset: u64,
    /// The newest version that can be in it: the index up to which the snapshot goes.
    newest: LogIndex,
    items: u64,
    progress: Progress,
}

enum Progress {
    Start,
    /// The key before.
    After(Bytes),
    Ended,
}

impl<'a> SnapshotItems<'a> {
    pub(super) fn new(content: &'a mut dyn Read, newest: LogIndex) -> Self {
        Self {
            content: BufReader::with_capacity(READ_BYTES, content),
            offset: 0,
            newest,
            items: 0,
            progress: Progress::Start,
        }
    }

    fn read_item(&mut self) -> Result<Option<Item>, Damage> {
        if matches!(self.progress, Progress::Start)
            && self.read::<4>("the header of a kv snapshot")? != *HEADER
        {
            return Err(Damage::Unexpected {
                offset: 0,
                expected: "the header of a kv snapshot of version 1",
            });
        }
        let offset = self.offset;
        match self.read::<1>("an item or the end")? {
            [TAG_ITEM] => {}
            [TAG_END] => return self.read_end().map(|()| None),
            _ => return Err(Damage::Unexpected { offset, expected: "an item or the end" }),
        }
        let key = self.read_bytes(KEY_BYTES_CAP, "a key")?;
        let in_order = match &self.progress {
            Progress::Start => !key.is_empty(),
            Progress::After(previous) => key > *previous,
            Progress::Ended => false,
        };
        if !in_order {
            return Err(Damage::Unexpected { offset, expected: "a key behind the one before" });
        }
        let value = self.read_bytes(VALUE_BYTES_CAP, "a value")?;
        let version = u64::from_le_bytes(self.read::<8>("a version")?);
        if version == 0 || version > self.newest.0 {
            let expected = "a version not newer than the snapshot";
            return Err(Damage::Unexpected { offset, expected });
        }
        self.items += 1;
        self.progress = Progress::After(key.clone());
        Ok(Some(Item { key, value, version }))
    }

    fn read_end(&mut self) -> Result<(), Damage> {
        let offset = self.offset;
        if u64::from_le_bytes(self.read::<8>("the number of items")?) != self.items {
            return Err(Damage::Unexpected { offset, expected: "the number of items that came before" });
        }
        let mut behind = Vec::new();
        let read = (&mut self.content).take(1).read_to_end(&mut behind);
        read.map_err(|source| Damage::Read { offset: self.offset, source })?;
        if behind.is_empty() {
            return Ok(());
        }
        Err(Damage::Unexpected { offset: self.offset, expected: "nothing behind the end" })
    }

    fn read<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], Damage> {
        let mut bytes = [0; N];
        let offset = self.offset;
        self.content.read_exact(&mut bytes).map_err(|source| {
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                return Damage::Unexpected { offset, expected };
            }
            Damage::Read { offset, source }
        })?;
        self.offset += N as u64;
        Ok(bytes)
    }

    fn read_bytes(&mut self, bytes_max: usize, expected: &'static str) -> Result<Bytes, Damage> {
        let offset = self.offset;
        let length = self.read_length()?.filter(|length| *length <= bytes_max as u64);
        let length = length.ok_or(Damage::Unexpected { offset, expected: "a length within the caps" })?;
        let here = usize::try_from(length).ok().and_then(|length| self.content.buffer().get(..length));
        let bytes = if let Some(here) = here {
            let bytes = Bytes::copy_from_slice(here);
            self.content.consume(bytes.len());
            bytes
        } else {
            let mut bytes = Vec::new();
            let read = (&mut self.content).take(length).read_to_end(&mut bytes);
            read.map_err(|source| Damage::Read { offset: self.offset, source })?;
            if (bytes.len() as u64) < length {
                return Err(Damage::Unexpected { offset: self.offset, expected });
            }
            bytes.into()
        };
        self.offset += length;
        Ok(bytes)
    }

    /// A length; `None` when it is not in its shortest form, or longer than any can be.
    fn read_length(&mut self) -> Result<Option<u64>, Damage> {
        let mut length = 0;
        for shift in (0..63).step_by(7) {
            let [byte] = self.read::<1>("a length")?;
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((byte != 0 || shift == 0).then_some(length));
            }
        }
        Ok(None)
    }
}

impl Iterator for SnapshotItems<'_> {
    type Item = Result<Item, MachineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.progress, Progress::Ended) {
            return None;
        }
        let item = self.read_item();
        if !matches!(item, Ok(Some(_))) {
            self.progress = Progress::Ended;
        }
        item.map_err(MachineError::from).transpose()
    }
}
