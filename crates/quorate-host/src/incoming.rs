//! A state from outside on its way into a group: its pieces, as they come through the log, until all are there.
//!
//! ```text
//!   Piece(7, 0, …) ──► Piece(7, 4096, …) ──► … ──► Install(7, length, checksum) ──► machine.restore
//!        │  └── staged, beside the snapshots               └── does not fit: refused, nothing changes
//!        └── another id begins at 0, Abandon(7), a long silence: what was there goes
//! ```
//!
//! * Replicated state like the sessions: every replica holds the same pieces at the same position of the log,
//!   also after a snapshot or a restart, so that all of them install the same bytes at the same entry or none
//!   does.
//! * In memory there is one piece. The bytes are staged by the snapshot store ([`Staging`]); how many count, and their
//!   checksum, is replicated. A replica whose staged bytes turn out to be others stops instead of installing them.
//! * Bounded by `SessionConfig::restore_bytes_max`. What nobody went on with for `idle_max` goes.
//! * A machine with a disk of its own may come back as it was some batches ago, so that what is staged is
//!   only removed when the machine says that it will not need it again. A machine in memory gets the pieces
//!   from the log or a snapshot again.
//!
//! ```text
//!   key                 value, after version:u8 = 1
//!   "i"                 id:u64 bytes:u64 used_millis:u64, and if the pieces are staged on a disk: crc32c:u32 name:u64
//!   "i" offset:u64be    a piece: in snapshots, and with a machine whose snapshot store keeps nothing
//! ```

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{DecodeError, GroupId, LogIndex};
use quorate_storage::{SnapshotStore, Staging};

use crate::bytes_reader::{BytesReader, put_bytes, put_u64};
use crate::request::RequestError;
use crate::sessions::Records;
use crate::state_machine::MachineError;

const RECORD: u8 = b'i';
const VERSION: u8 = 1;
/// How much of it is in memory at a time, and in one record of a snapshot.
const PIECE_BYTES: u64 = 256 << 10;

/// What has come of a state from outside.
#[derive(Default)]
pub(crate) struct Incoming {
    /// In a box: groups are many, and restores are rare.
    arriving: Option<Box<Arriving>>,
    /// Records of the machine that are out of date: the first one, those of pieces, those that go.
    head_changed: bool,
    unrecorded: Vec<(u64, usize)>,
    forgotten: Vec<Bytes>,
    /// Not needed any more, unless the machine comes back as it was before.
    retired: Vec<Arc<dyn Staging>>,
}

struct Arriving {
    id: u64,
    bytes: u64,
    crc: u32,
    used_millis: u64,
    /// Under which name it is staged: the position at which it began here.
    name: u64,
    /// None: it is not there any more, which counts only if it is to be installed.
    staged: Option<Arc<dyn Staging>>,
    /// Pieces that the machine has records of.
    recorded: Vec<u64>,
}

/// A piece, with the limits as of its entry.
pub(crate) struct Piece {
    pub(crate) restore: u64,
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    pub(crate) at: LogIndex,
    pub(crate) unix_millis: u64,
    pub(crate) bytes_max: u64,
}

/// Where a group stages.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) store: &'a dyn SnapshotStore,
    pub(crate) group: GroupId,
}

/// Whether a record is one of these.
pub(crate) fn is_record(key: &[u8]) -> bool {
    key.first() == Some(&RECORD)
}

impl Place<'_> {
    fn stage(self, name: u64) -> Result<Arc<dyn Staging>, MachineError> {
        self.store.stage(self.group, name).map_err(not_staged)
    }
}

impl Incoming {
    /// A piece came.
    pub(crate) fn take_piece(
        &mut self,
        place: Place<'_>,
        piece: &Piece,
    ) -> Result<Result<(), RequestError>, MachineError> {
        let bytes = piece.offset.saturating_add(piece.data.len() as u64);
        if bytes > piece.bytes_max {
            return Ok(Err(RequestError::TooLarge { bytes, bytes_max: piece.bytes_max }));
        }
        let known = self.arriving.as_ref().filter(|known| known.id == piece.restore);
        match known {
            None if piece.offset == 0 => {
                self.drop_arriving();
                self.arriving = Some(Box::new(Arriving::begin(place, piece.restore, piece.at.0)?));
            }
            Some(known) if known.bytes == piece.offset => {}
            Some(known) if bytes <= known.bytes && known.holds(piece)? => return Ok(Ok(())),
            Some(_) | None => {
                let what = "another state from outside took its place".to_owned();
                return Ok(Err(RequestError::Snapshot { what }));
            }
        }
        if let Some(arriving) = &mut self.arriving {
            arriving.used_millis = piece.unix_millis;
            arriving.append(&piece.data)?;
            self.head_changed = true;
            if !arriving.is_durable() {
                self.unrecorded.push((piece.offset, piece.data.len()));
            }
        }
        Ok(Ok(()))
    }

    /// All of it, checked, if it is there; it is not kept any longer.
    pub(crate) fn take_whole(
        &mut self,
        id: u64,
        bytes: u64,
        crc: u32,
    ) -> Result<Result<impl Read + use<>, RequestError>, MachineError> {
        let is_whole = |arriving: &&Arriving| (arriving.id, arriving.bytes, arriving.crc) == (id, bytes, crc);
        let Some(arriving) = self.arriving.as_deref().filter(is_whole) else {
            let what = "the state from outside is not there as a whole: bring it again".to_owned();
            return Ok(Err(RequestError::Snapshot { what }));
        };
        let staged = arriving.verified()?;
        self.drop_arriving();
        Ok(Ok(Content { staged, offset: 0, bytes }))
    }

    /// Whoever brought it does not go on.
    pub(crate) fn abandon(&mut self, id: u64) {
        if self.arriving.as_ref().is_some_and(|arriving| arriving.id == id) {
            self.drop_arriving();
        }
    }

    /// The group's clock moved on.
    pub(crate) fn advance(&mut self, unix_millis: u64, idle_max_millis: u64) {
        let is_idle =
            |arriving: &Arriving| arriving.used_millis.saturating_add(idle_max_millis) < unix_millis;
        if self.arriving.as_deref().is_some_and(is_idle) {
            self.drop_arriving();
        }
    }

    fn drop_arriving(&mut self) {
        let Some(arriving) = self.arriving.take() else { return };
        self.head_changed = true;
        self.unrecorded.clear();
        self.forgotten.extend(arriving.recorded.into_iter().map(piece_key));
        self.retired.extend(arriving.staged);
    }

    /// The records that changed, for a machine that keeps them. What they count on is durable.
    pub(crate) fn take_records(&mut self) -> Result<Records, MachineError> {
        let mut records: Records = self.forgotten.drain(..).map(|key| (key, None)).collect();
        if !std::mem::take(&mut self.head_changed) {
            return Ok(records);
        }
        let Some(arriving) = &mut self.arriving else {
            records.push((head_key(), None));
            return Ok(records);
        };
        if let Some(staged) = arriving.staged.as_ref().filter(|staged| staged.is_durable()) {
            staged.sync().map_err(not_staged)?;
        }
        records.push((head_key(), Some(arriving.head(arriving.is_durable()))));
        for (offset, length) in self.unrecorded.drain(..) {
            let value = piece_value(&arriving.read(offset, length)?);
            records.push((piece_key(offset), Some(value)));
            arriving.recorded.push(offset);
        }
        Ok(records)
    }

    /// The machine keeps no records, and what it had it gets again.
    pub(crate) fn discard_records(&mut self) {
        self.head_changed = false;
        self.unrecorded.clear();
        self.forgotten.clear();
        self.discard_retired();
    }

    pub(crate) fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// The machine will not come back as it was before.
    pub(crate) fn discard_retired(&mut self) {
        self.retired.drain(..).for_each(|staged| staged.discard());
    }

    /// Another one takes its place, once the machine has taken the snapshot that brings it.
    pub(crate) fn replace(&mut self, other: Self) {
        self.drop_arriving();
        let retired = std::mem::take(&mut self.retired);
        *self = Self { retired, ..other };
    }

    /// As of now, for a snapshot.
    pub(crate) fn view(&self) -> Option<IncomingView> {
        let arriving = self.arriving.as_ref()?;
        Some(IncomingView {
            head: arriving.head(false),
            staged: arriving.staged.clone(),
            bytes: arriving.bytes,
            crc: arriving.crc,
            crc_read: 0,
            next: Some(0),
        })
    }

    /// What a machine with a disk of its own remembers at the start. Removes what nobody remembers.
    pub(crate) fn recover(
        place: Place<'_>,
        records: &[(Bytes, Bytes)],
        at: LogIndex,
    ) -> Result<Self, MachineError> {
        let mut filling = Filling::new(place, at);
        let head = records.iter().find(|(key, _)| key == &head_key());
        let head = head.map(|(_, value)| Head::decode(value)).transpose().map_err(damaged)?;
        let on_disk = head.as_ref().and_then(|head| head.on_disk.map(|(crc, name)| (head, crc, name)));
        place.store.clear_staged(place.group, on_disk.map(|(_, _, name)| name)).map_err(not_staged)?;
        let Some((head, crc, name)) = on_disk else {
            for (key, value) in records {
                filling.record(key, value)?;
            }
            let mut incoming = filling.finish()?;
            if let Some(arriving) = &mut incoming.arriving {
                arriving.recorded = incoming.unrecorded.drain(..).map(|(offset, _)| offset).collect();
            }
            incoming.head_changed = false;
            return Ok(incoming);
        };
        let Head { id, bytes, used_millis, .. } = *head;
        let mut arriving = Arriving { id, bytes, crc, used_millis, name, staged: None, recorded: Vec::new() };
        arriving.staged = Some(place.stage(name)?);
        // What is damaged or gone matters only if it is installed.
        if arriving.verified().is_err() {
            arriving.staged = None;
        }
        Ok(Self { arriving: Some(Box::new(arriving)), ..Self::default() })
    }
}

impl Arriving {
    fn begin(place: Place<'_>, id: u64, name: u64) -> Result<Self, MachineError> {
        let staged = Some(place.stage(name)?);
        Ok(Self { id, bytes: 0, crc: 0, used_millis: 0, name, staged, recorded: Vec::new() })
    }

    /// Whether the pieces need no records.
    fn is_durable(&self) -> bool {
        self.staged.as_ref().is_none_or(|staged| staged.is_durable())
    }

    fn append(&mut self, data: &[u8]) -> Result<(), MachineError> {
        if let Some(staged) = &self.staged {
            staged.write_at(self.bytes, data).map_err(not_staged)?;
        }
        self.bytes += data.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, data);
        Ok(())
    }

    /// Whether a piece is a repeat. What is lost here cannot be compared: the others say.
    fn holds(&self, piece: &Piece) -> Result<bool, MachineError> {
        Ok(self.staged.is_none() || self.read(piece.offset, piece.data.len())? == piece.data)
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, MachineError> {
        let staged = self.staged.as_ref().ok_or_else(lost)?;
        read(&**staged, offset, length)
    }

    /// What is staged, if it is what came.
    fn verified(&self) -> Result<Arc<dyn Staging>, MachineError> {
        let staged = self.staged.as_ref().ok_or_else(lost)?;
        let (mut offset, mut crc) = (0, 0);
        while offset < self.bytes {
            let piece = read(&**staged, offset, piece_length(offset, self.bytes))?;
            crc = crc32c::crc32c_append(crc, &piece);
            offset += piece.len() as u64;
        }
        if crc == self.crc { Ok(Arc::clone(staged)) } else { Err(lost()) }
    }

    fn head(&self, on_disk: bool) -> Bytes {
        let mut out = vec![VERSION];
        for number in [self.id, self.bytes, self.used_millis] {
            put_u64(&mut out, number);
        }
        if on_disk {
            out.extend_from_slice(&self.crc.to_le_bytes());
            put_u64(&mut out, self.name);
        }
        out.into()
    }
}

struct Head {
    id: u64,
    bytes: u64,
    used_millis: u64,
    on_disk: Option<(u32, u64)>,
}

impl Head {
    fn decode(value: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = versioned(value)?;
        let (id, bytes) = (reader.u64("a state from outside")?, reader.u64("a length")?);
        let used_millis = reader.u64("a time")?;
        let on_disk = if reader.is_empty() {
            None
        } else {
            Some((reader.u32("a checksum")?, reader.u64("what it is staged as")?))
        };
        reader.end()?;
        Ok(Self { id, bytes, used_millis, on_disk })
    }
}

/// One that is read back from its records, in their order.
pub(crate) struct Filling<'a> {
    place: Place<'a>,
    at: LogIndex,
    head: Option<Head>,
    incoming: Incoming,
}

impl<'a> Filling<'a> {
    pub(crate) fn new(place: Place<'a>, at: LogIndex) -> Self {
        Self { place, at, head: None, incoming: Incoming::default() }
    }

    pub(crate) fn record(&mut self, key: &Bytes, value: &Bytes) -> Result<(), MachineError> {
        if *key == head_key() {
            self.head = Some(Head::decode(value).map_err(damaged)?);
            return Ok(());
        }
        let Some(offset) = key.get(1..).and_then(|offset| offset.try_into().ok()).map(u64::from_be_bytes)
        else {
            return Err(damaged(DecodeError { offset: 1, expected: "an offset" }));
        };
        let data = versioned(value).map_err(damaged)?.rest();
        let Some(head) = &self.head else { return Err(damaged(OUT_OF_ORDER)) };
        if self.incoming.arriving.is_none() {
            self.incoming.arriving = Some(Box::new(Arriving::begin(self.place, head.id, self.at.0)?));
        }
        let used_millis = head.used_millis;
        let arriving = self.incoming.arriving.as_mut().filter(|arriving| arriving.bytes == offset);
        let arriving = arriving.ok_or_else(|| damaged(OUT_OF_ORDER))?;
        arriving.used_millis = used_millis;
        arriving.append(&data)?;
        if !arriving.is_durable() {
            self.incoming.unrecorded.push((offset, data.len()));
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<Incoming, MachineError> {
        if let Some(arriving) = &self.incoming.arriving {
            self.incoming.head_changed = true;
            if self.head.is_none_or(|head| head.bytes != arriving.bytes) {
                return Err(damaged(DecodeError {
                    offset: 0,
                    expected: "all pieces of a state from outside",
                }));
            }
        }
        Ok(self.incoming)
    }
}

const OUT_OF_ORDER: DecodeError =
    DecodeError { offset: 0, expected: "the next piece of a state from outside" };

/// The records of what has come so far, as they stand in a snapshot; read while more comes.
pub(crate) struct IncomingView {
    head: Bytes,
    staged: Option<Arc<dyn Staging>>,
    bytes: u64,
    crc: u32,
    crc_read: u32,
    /// None: all is read.
    next: Option<u64>,
}

impl IncomingView {
    /// How long its records are.
    pub(crate) fn section_bytes(&self) -> u64 {
        let pieces = self.bytes.div_ceil(PIECE_BYTES).max(1);
        let head = 4 + 1 + 4 + self.head.len() as u64;
        head + pieces * (4 + 9 + 4 + 1) + self.bytes
    }

    /// The next records.
    pub(crate) fn next_records(&mut self) -> Result<Option<Vec<u8>>, MachineError> {
        let Some(offset) = self.next else { return Ok(None) };
        let staged = self.staged.as_ref().ok_or_else(lost)?;
        let mut out = Vec::new();
        if offset == 0 {
            put_bytes(&mut out, &head_key());
            put_bytes(&mut out, &self.head);
        }
        let piece = read(&**staged, offset, piece_length(offset, self.bytes))?;
        self.crc_read = crc32c::crc32c_append(self.crc_read, &piece);
        put_bytes(&mut out, &piece_key(offset));
        put_bytes(&mut out, &piece_value(&piece));
        let end = offset + piece.len() as u64;
        self.next = Some(end).filter(|end| *end < self.bytes);
        if self.next.is_none() && self.crc_read != self.crc {
            return Err(lost());
        }
        Ok(Some(out))
    }
}

/// All of it as a stream.
struct Content {
    staged: Arc<dyn Staging>,
    offset: u64,
    bytes: u64,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.bytes - self.offset).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.staged.read_at(self.offset, &mut buffer[..left]).map_err(io::Error::other)?;
        if count == 0 && left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        Ok(count)
    }
}

fn piece_length(offset: u64, bytes: u64) -> usize {
    usize::try_from((bytes - offset).min(PIECE_BYTES)).unwrap_or(usize::MAX)
}

fn read(staged: &dyn Staging, offset: u64, length: usize) -> Result<Vec<u8>, MachineError> {
    let mut piece = vec![0; length];
    let found = staged.read_at(offset, &mut piece).map_err(not_staged)?;
    if found == length { Ok(piece) } else { Err(lost()) }
}

fn versioned(value: &Bytes) -> Result<BytesReader, DecodeError> {
    let mut reader = BytesReader::new(value);
    if reader.u8("a record's version")? == VERSION {
        return Ok(reader);
    }
    Err(DecodeError { offset: 0, expected: "record version 1 of a state from outside" })
}

const fn head_key() -> Bytes {
    Bytes::from_static(&[RECORD])
}
fn piece_key(offset: u64) -> Bytes {
    Bytes::from([&[RECORD][..], &offset.to_be_bytes()].concat())
}
fn piece_value(data: &[u8]) -> Bytes {
    Bytes::from([&[VERSION][..], data].concat())
}

fn damaged(error: DecodeError) -> MachineError {
    MachineError::with("the records of a state from outside are damaged", error)
}
fn not_staged(error: quorate_storage::SnapshotError) -> MachineError {
    MachineError::with("staging a state from outside", error)
}
fn lost() -> MachineError {
    MachineError::new("what was staged of a state from outside is damaged or gone here")
}

#[cfg(test)]
mod tests;
