//! What is inside batch and move records. Little-endian; entries and memberships in the one
//! encoding of `quorate-core`; docs/formats.md has the bytes.
//!
//! Every entry carries its own checksum, because readers fetch entries without the record around
//! them. It serves a second time when the checksum of a body does not hold (`salvage_batch`,
//! `salvage_move`): put in the place of the bytes of every entry that is not what was written, the
//! entries' checksums must lead to that of the body. If they do, those entries are all that is
//! damaged; what the body says of hard states, positions and other groups is as it was written.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, Membership, ReplicaId, Term, decode_entry,
    decode_membership, encode_entry, encode_membership,
};

use super::record::{u32_at, u64_at};
use crate::group_log::GroupLog;
use crate::log_store::{GroupWrite, LogBatch};

/// Length and checksum in front of an entry's bytes.
pub(super) const ENTRY_HEADER_BYTES: usize = 8;

const REMOVE: u8 = 1;
const REPLICA: u8 = 2;
const RESET: u8 = 4;
const TRUNCATE: u8 = 8;
const HARD_STATE: u8 = 16;
const COMPACT: u8 = 32;
const ENTRIES: u8 = 64;
const LOST_UNTIL: u8 = 128;

/// In a move: the membership at the compacted position follows.
const HAS_BASE: u8 = 1;
/// In a move: how far acknowledged entries are lost follows.
const HAS_LOST_UNTIL: u8 = 2;

/// Where an entry is: offset (in the record's bytes, or in the segment) and length, header
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) offset: u32,
    pub(super) bytes: u32,
}

/// A group's part of a batch, with the places of its entries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoggedWrite {
    pub(super) write: GroupWrite,
    pub(super) spots: Vec<Spot>,
    /// Which of the entries could not be read: only their places are known.
    pub(super) holes: Vec<usize>,
}

/// A group's part of a move: everything known of it, and some of its entries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MovedGroup {
    pub(super) group: GroupId,
    pub(super) log: GroupLog,
    pub(super) entries: Vec<(LogIndex, Spot)>,
    /// Entries that could not be read: `None` where not even the index can be told.
    pub(super) holes: Vec<(Option<LogIndex>, Spot)>,
}

/// Stands for an entry that cannot be read.
const UNKNOWN: Entry = Entry { id: LogId { term: Term(0), index: LogIndex(0) }, payload: EntryPayload::Noop };

/// The body does not fit into a record.
#[derive(Debug)]
pub(super) struct TooLarge;

impl LogBatch {
    /// Its bytes, as the WAL writes them (docs/formats.md, "Batch"): for stores of others. `None`: more than 4 GiB.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        encode_batch(self, &mut bytes).ok()?;
        Some(bytes)
    }

    /// The batch that `encode` has made these bytes of. Entries have checksums, everything else has not.
    ///
    /// # Errors
    /// What does not hold, for [`Damage::what`](crate::Damage::what).
    pub fn decode(bytes: &Bytes) -> Result<Self, &'static str> {
        let writes = decode_batch(bytes, 0)?;
        Ok(Self { groups: writes.into_iter().map(|logged| logged.write).collect() })
    }
}

/// Appends the body of a batch to `out`; the spots are offsets into `out`.
pub(super) fn encode_batch(batch: &LogBatch, out: &mut Vec<u8>) -> Result<Vec<Vec<Spot>>, TooLarge> {
    put_count(out, batch.groups.len())?;
    let mut spots = Vec::with_capacity(batch.groups.len());
    for write in &batch.groups {
        spots.push(encode_write(write, out)?);
    }
    Ok(spots)
}

fn encode_write(write: &GroupWrite, out: &mut Vec<u8>) -> Result<Vec<Spot>, TooLarge> {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    put_u64(out, write.group.0);
    out.push(
        flag(write.remove, REMOVE)
            | flag(write.replica.is_some(), REPLICA)
            | flag(write.reset_to.is_some(), RESET)
            | flag(write.truncate_from.is_some(), TRUNCATE)
            | flag(write.hard_state.is_some(), HARD_STATE)
            | flag(write.compact_to.is_some(), COMPACT)
            | flag(!write.entries.is_empty(), ENTRIES)
            | flag(write.lost_until.is_some(), LOST_UNTIL),
    );
    if let Some(replica) = write.replica {
        put_u64(out, replica.0);
    }
    if let Some(reset) = &write.reset_to {
        put_position(out, reset)?;
    }
    if let Some(from) = write.truncate_from {
        put_u64(out, from.0);
    }
    if let Some(hard_state) = &write.hard_state {
        put_hard_state(out, hard_state);
    }
    if let Some(compact) = &write.compact_to {
        put_position(out, compact)?;
    }
    let mut spots = Vec::with_capacity(write.entries.len());
    if !write.entries.is_empty() {
        put_count(out, write.entries.len())?;
    }
    for entry in &write.entries {
        let start = out.len();
        out.extend_from_slice(&[0; ENTRY_HEADER_BYTES]);
        encode_entry(entry, out);
        spots.push(seal_entry(out, start)?);
    }
    if let Some(until) = write.lost_until {
        put_u64(out, until.0);
    }
    Ok(spots)
}

/// Fills in the length and checksum of the entry that starts at `start` and ends at the end.
fn seal_entry(out: &mut [u8], start: usize) -> Result<Spot, TooLarge> {
    let offset = u32::try_from(start).map_err(|_| TooLarge)?;
    let bytes = u32::try_from(out.len() - start).map_err(|_| TooLarge)?;
    let (header, body) = out[start..].split_at_mut(ENTRY_HEADER_BYTES);
    let body_bytes = u32::try_from(body.len()).map_err(|_| TooLarge)?;
    header[..4].copy_from_slice(&body_bytes.to_le_bytes());
    header[4..].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    Ok(Spot { offset, bytes })
}

/// Starts the body of a move: after `moved` are durable, segments below `floor` are not needed.
pub(super) fn start_move(out: &mut Vec<u8>, floor: u64) {
    put_u64(out, floor);
}

/// Appends a group to the body of a move. `entries` are whole items, header included, as they were
/// read from where they are now.
pub(super) fn encode_moved(
    group: GroupId,
    log: &GroupLog,
    entries: &[(LogIndex, Bytes)],
    out: &mut Vec<u8>,
) -> Result<Vec<(LogIndex, Spot)>, TooLarge> {
    put_u64(out, group.0);
    put_u64(out, log.replica.0);
    put_hard_state(out, &log.hard_state);
    put_log_id(out, log.compacted);
    let is_lost = log.lost_until > LogIndex(0);
    out.push(if log.base.is_some() { HAS_BASE } else { 0 } | if is_lost { HAS_LOST_UNTIL } else { 0 });
    if let Some((id, membership)) = &log.base {
        put_membership(out, *id, membership)?;
    }
    if is_lost {
        put_u64(out, log.lost_until.0);
    }
    put_u64(out, log.last.0);
    put_count(out, log.term_runs.len())?;
    log.term_runs.iter().for_each(|run| put_log_id(out, *run));
    put_count(out, log.memberships.len())?;
    for (id, membership) in &log.memberships {
        put_membership(out, *id, membership)?;
    }
    put_count(out, entries.len())?;
    let mut spots = Vec::with_capacity(entries.len());
    for (index, item) in entries {
        let offset = u32::try_from(out.len()).map_err(|_| TooLarge)?;
        let bytes = u32::try_from(item.len()).map_err(|_| TooLarge)?;
        out.extend_from_slice(item);
        spots.push((*index, Spot { offset, bytes }));
    }
    Ok(spots)
}

/// Decodes a batch; `at` is where the body starts in the segment, the spots are offsets there.
pub(super) fn decode_batch(body: &Bytes, at: u64) -> Result<Vec<LoggedWrite>, &'static str> {
    Cursor::new(body, at).batch()
}

/// The batch in a body whose checksum does not hold, if only entries are damaged.
pub(super) fn salvage_batch(body: &Bytes, at: u64, body_crc: u32) -> Result<Vec<LoggedWrite>, &'static str> {
    let mut cursor = Cursor { holes: Some(Vec::new()), ..Cursor::new(body, at) };
    let writes = cursor.batch()?;
    cursor.vouch(body_crc)?;
    Ok(writes)
}

/// The move in a body whose checksum does not hold, if only entries are damaged.
pub(super) fn salvage_move(
    body: &Bytes,
    at: u64,
    body_crc: u32,
) -> Result<(u64, Vec<MovedGroup>), &'static str> {
    let mut cursor = Cursor { holes: Some(Vec::new()), ..Cursor::new(body, at) };
    let moved = cursor.moves()?;
    cursor.vouch(body_crc)?;
    Ok(moved)
}

/// Decodes a move: its floor and its groups.
pub(super) fn decode_move(body: &Bytes, at: u64) -> Result<(u64, Vec<MovedGroup>), &'static str> {
    Cursor::new(body, at).moves()
}

/// The entry in an item as it is on disk (header included), if its checksum holds.
pub(super) fn decode_item(item: &Bytes) -> Result<Entry, &'static str> {
    if item.len() < ENTRY_HEADER_BYTES || u32_at(item, 0) as usize != item.len() - ENTRY_HEADER_BYTES {
        return Err("an entry of another length is here");
    }
    let bytes = item.slice(ENTRY_HEADER_BYTES..);
    if crc32c::crc32c(&bytes) != u32_at(item, 4) {
        return Err("the checksum of an entry does not hold");
    }
    decode_entry(&bytes).map_err(|_| "an entry cannot be decoded")
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) -> Result<(), TooLarge> {
    let count = u32::try_from(count).map_err(|_| TooLarge)?;
    out.extend_from_slice(&count.to_le_bytes());
    Ok(())
}

fn put_log_id(out: &mut Vec<u8>, id: LogId) {
    put_u64(out, id.term.0);
    put_u64(out, id.index.0);
}

fn put_hard_state(out: &mut Vec<u8>, state: &HardState) {
    put_u64(out, state.term.0);
    out.push(u8::from(state.vote.is_some()));
    put_u64(out, state.vote.map_or(0, |vote| vote.0));
    put_u64(out, state.commit.0);
}

fn put_membership(out: &mut Vec<u8>, id: LogId, membership: &Membership) -> Result<(), TooLarge> {
    put_log_id(out, id);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    encode_membership(membership, out);
    let bytes = u32::try_from(out.len() - start - 4).map_err(|_| TooLarge)?;
    out[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
    Ok(())
}

fn put_position(out: &mut Vec<u8>, position: &(LogId, LogId, Arc<Membership>)) -> Result<(), TooLarge> {
    put_log_id(out, position.0);
    put_membership(out, position.1, &position.2)
}

/// Walks over a body; every read is checked against its end.
struct Cursor<'a> {
    body: &'a Bytes,
    position: usize,
    /// Where the body starts in the segment.
    at: u64,
    /// The bytes of entries that are not what was written, and the checksums they should have.
    /// `None`: none are tolerated.
    holes: Option<Vec<(Range<usize>, u32)>>,
}

const SHORT: &str = "a record's body ends too early";

impl<'a> Cursor<'a> {
    const fn new(body: &'a Bytes, at: u64) -> Self {
        Self { body, position: 0, at, holes: None }
    }

    fn batch(&mut self) -> Result<Vec<LoggedWrite>, &'static str> {
        let count = self.u32()?;
        let mut writes = Vec::new();
        for _ in 0..count {
            writes.push(self.write()?);
        }
        self.end()?;
        Ok(writes)
    }

    fn moves(&mut self) -> Result<(u64, Vec<MovedGroup>), &'static str> {
        let floor = self.u64()?;
        let mut groups = Vec::new();
        while self.position < self.body.len() {
            groups.push(self.moved()?);
        }
        Ok((floor, groups))
    }

    /// Everything but the holes is what was written (see the head of this file).
    fn vouch(&self, body_crc: u32) -> Result<(), &'static str> {
        let (mut crc, mut at) = (0, 0);
        for (hole, entry_crc) in self.holes.iter().flatten() {
            crc = crc32c::crc32c_append(crc, &self.body[at..hole.start]);
            crc = crc32c::crc32c_combine(crc, *entry_crc, hole.len());
            at = hole.end;
        }
        let is_whole = crc32c::crc32c_append(crc, &self.body[at..]) == body_crc;
        if is_whole { Ok(()) } else { Err("a record is damaged where it says what it is about") }
    }

    fn take(&mut self, count: usize) -> Result<Bytes, &'static str> {
        let end = self.position.checked_add(count).filter(|end| *end <= self.body.len()).ok_or(SHORT)?;
        let bytes = self.body.slice(self.position..end);
        self.position = end;
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8, &'static str> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        Ok(u32_at(&self.take(4)?, 0))
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        Ok(u64_at(&self.take(8)?, 0))
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.position == self.body.len() { Ok(()) } else { Err("a record's body is too long") }
    }

    fn log_id(&mut self) -> Result<LogId, &'static str> {
        Ok(LogId { term: Term(self.u64()?), index: self.index()? })
    }

    fn index(&mut self) -> Result<LogIndex, &'static str> {
        let index = LogIndex(self.u64()?);
        if index > LogIndex::MAX { Err("an index is out of range") } else { Ok(index) }
    }

    fn hard_state(&mut self) -> Result<HardState, &'static str> {
        let term = Term(self.u64()?);
        let has_vote = self.u8()? != 0;
        let vote = ReplicaId(self.u64()?);
        Ok(HardState { term, vote: has_vote.then_some(vote), commit: LogIndex(self.u64()?) })
    }

    fn membership(&mut self) -> Result<(LogId, Arc<Membership>), &'static str> {
        let id = self.log_id()?;
        let count = self.u32()? as usize;
        let bytes = self.take(count)?;
        let membership = decode_membership(&bytes).map_err(|_| "a membership cannot be decoded")?;
        Ok((id, Arc::new(membership)))
    }

    fn position(&mut self) -> Result<(LogId, LogId, Arc<Membership>), &'static str> {
        let position = self.log_id()?;
        let (id, membership) = self.membership()?;
        Ok((position, id, membership))
    }

    /// The next entry and its place; no entry if its bytes are not what was written.
    fn entry(&mut self) -> Result<(Option<Entry>, Spot), &'static str> {
        let start = self.position;
        let count = self.u32()? as usize;
        self.position = start;
        let item = self.take(count.saturating_add(ENTRY_HEADER_BYTES))?;
        let entry = match (decode_item(&item), &mut self.holes) {
            (Ok(entry), _) if entry.index() > LogIndex::MAX => {
                return Err("an entry's index is out of range");
            }
            (Ok(entry), _) => Some(entry),
            (Err(_), Some(holes)) => {
                holes.push((start + ENTRY_HEADER_BYTES..self.position, u32_at(&item, 4)));
                None
            }
            (Err(what), None) => return Err(what),
        };
        let too_far = "a record reaches beyond the largest segment";
        let offset = u32::try_from(self.at + start as u64).map_err(|_| too_far)?;
        let bytes = u32::try_from(item.len()).map_err(|_| too_far)?;
        Ok((entry, Spot { offset, bytes }))
    }

    fn write(&mut self) -> Result<LoggedWrite, &'static str> {
        let group = GroupId(self.u64()?);
        let flags = self.u8()?;
        let has = |flag: u8| flags & flag != 0;
        let replica = if has(REPLICA) { Some(ReplicaId(self.u64()?)) } else { None };
        let reset_to = if has(RESET) { Some(self.position()?) } else { None };
        let truncate_from = if has(TRUNCATE) { Some(self.index()?) } else { None };
        let hard_state = if has(HARD_STATE) { Some(self.hard_state()?) } else { None };
        let compact_to = if has(COMPACT) { Some(self.position()?) } else { None };
        let count = if has(ENTRIES) { self.u32()? } else { 0 };
        let (mut entries, mut spots, mut holes) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..count as usize {
            let (entry, spot) = self.entry()?;
            if entry.is_none() {
                holes.push(number);
            }
            entries.push(entry.unwrap_or(UNKNOWN));
            spots.push(spot);
        }
        let lost_until = if has(LOST_UNTIL) { Some(self.index()?) } else { None };
        let write = GroupWrite {
            group,
            remove: has(REMOVE),
            replica,
            reset_to,
            truncate_from,
            entries: entries.into(),
            hard_state,
            compact_to,
            lost_until,
        };
        Ok(LoggedWrite { write, spots, holes })
    }

    fn moved(&mut self) -> Result<MovedGroup, &'static str> {
        let group = GroupId(self.u64()?);
        let replica = ReplicaId(self.u64()?);
        let hard_state = self.hard_state()?;
        let compacted = self.log_id()?;
        let flags = self.u8()?;
        let base = if flags & HAS_BASE != 0 { Some(self.membership()?) } else { None };
        let lost_until = if flags & HAS_LOST_UNTIL != 0 { self.index()? } else { LogIndex(0) };
        let last = self.index()?;
        let mut log =
            GroupLog { replica, hard_state, compacted, base, last, lost_until, ..GroupLog::default() };
        for _ in 0..self.u32()? {
            log.term_runs.push(self.log_id()?);
        }
        for _ in 0..self.u32()? {
            log.memberships.push(self.membership()?);
        }
        let (mut entries, mut holes) = (Vec::new(), Vec::new());
        let mut next = None;
        for _ in 0..self.u32()? {
            match self.entry()? {
                (Some(entry), spot) => {
                    next = Some(entry.index().next());
                    entries.push((entry.index(), spot));
                }
                // Moved entries follow each other, but for those that were moved before.
                (None, spot) => {
                    holes.push((next, spot));
                    next = next.map(LogIndex::next);
                }
            }
        }
        Ok(MovedGroup { group, log, entries, holes })
    }
}
