//! Opening a log: one scan over all segments rebuilds the index and decides what the end means.
//!
//!   sealed segments, each ending exactly where the next one says        the last one
//!   ┌──────────────────────┐ ┌──────────────────────┐ ┌──────────────┬─────────┬───────────────┐
//!   │ records …            │ │ records …            │ │ records …    │ torn?   │ never written │
//!   └──────────────────────┘ └──────────────────────┘ └──────────────┴─────────┴───────────────┘
//!
//! Records are read in order as long as header, body, chain and sequence fit. In a segment that has
//! a successor, anything else is damage. In the last one the log ends at the first record that does
//! not fit, and the rest of the file is searched: a record from behind that says "everything up to
//! here, or beyond, was synced" proves that acknowledged data is gone: damage. Without such a
//! witness the records from there on belong to writes whose sync never returned: a torn tail,
//! dropped, and records behind it erased.
//!
//! The writer leaves a mark after every sync, so there is a witness for all acknowledged data
//! unless the power failed before the mark reached the disk (it is not synced by itself): in that
//! window alone, damage to the last write cannot be told from a torn tail.
//!
//! A damaged record whose header is whole may be damaged in its entries alone: then what it says is used
//! but for them, and the damage is that of a group, not of the log (see `salvage`).
//!
//! What is kept is durable before anything is built on it. It may have been in memory only, and after a
//! failed sync even marked clean there, so that another sync would do nothing: what no record vouches
//! for is written again, then synced.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::GroupId;

use super::body::{LoggedWrite, decode_batch, decode_move};
use super::index::Index;
use super::record::{ALIGNMENT, HEADER_BYTES, Place, RecordHeader, RecordKind};
use super::salvage::Salvaged;
use super::segment::{RECORDS_START, Segment, SegmentDirectory, SegmentHeader, index};
use super::tail::Tail;
use crate::error::{Damage, LogError};
use quorate_core::planted::planted;

/// How much is read at once, in bytes.
const WINDOW_BYTES: u64 = 256 * 1024;

/// Stretches of zeros this long are skipped in one go when the tail is searched.
static ZEROS: [u8; 4096] = [0; 4096];

/// What opening an existing log has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments scanned.
    pub segments: u64,
    /// Records read.
    pub records: u64,
    /// Where in the last segment records that were not whole, or stood behind one, were dropped, as
    /// far as they could still be recognised.
    pub torn_at: Option<u64>,
    /// Records in which entries, and nothing else, are damaged. Whose, the groups' states say.
    pub records_damaged: u64,
}

/// Reads every segment in `numbers` (ascending, not empty).
pub(super) fn recover(
    directory: &SegmentDirectory,
    numbers: &[u64],
) -> Result<(Tail, Index, RecoveryReport), LogError> {
    let mut opened = Vec::with_capacity(numbers.len());
    for pair in numbers.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(missing(directory, pair[0] + 1));
        }
    }
    for number in numbers {
        opened.push(directory.open_segment(*number)?);
    }
    let mut scan = Scan::default();
    let successors: Vec<Option<SegmentHeader>> =
        opened.iter().skip(1).map(|(_, header, _)| Some(*header)).chain([None]).collect();
    let mut last = None;
    for ((segment, header, segment_crc), successor) in opened.into_iter().zip(successors) {
        let segment = Arc::new(segment);
        scan.index.add_segment(Arc::clone(&segment));
        scan.floor = scan.floor.max(header.floor);
        scan.next_sequence = header.first_sequence;
        // A segment is made when everything before it is synced.
        scan.unproven.clear();
        let walk = Walk { segment: &segment, segment_crc };
        let end = scan.segment(&walk, successor.as_ref())?;
        scan.report.segments += 1;
        last = Some((segment, header, segment_crc, end));
    }
    let Some((segment, header, segment_crc, end)) = last else {
        return Err(missing(directory, 1));
    };
    let first = numbers.first().copied().unwrap_or(1);
    scan.check(first, |number| directory.path_of(number)).map_err(LogError::Damaged)?;
    // Nothing is changed in a log that is refused.
    scan.settle_tail(&Walk { segment: &segment, segment_crc }, &end)?;
    let durable = scan.next_sequence - 1;
    let tail = Tail {
        segment,
        segment_crc,
        salt: header.salt,
        offset: end.offset,
        chain: end.chain,
        next_sequence: scan.next_sequence,
        durable,
        marked: if end.is_marked { durable } else { 0 },
        filled: end.offset,
        floor: scan.floor,
    };
    Ok((tail, scan.index, scan.report))
}

fn missing(directory: &SegmentDirectory, number: u64) -> LogError {
    LogError::Damaged(missing_segment(directory.path_of(number)))
}

/// A segment that is not there, though others around it are.
pub(super) fn missing_segment(path: PathBuf) -> Damage {
    Damage { path, offset: 0, what: "this segment is missing: the log has others around it" }
}

#[derive(Default)]
pub(super) struct Scan {
    pub(super) index: Index,
    pub(super) floor: u64,
    next_sequence: u64,
    /// Records of the segment that no record says were synced: sequence and offset.
    unproven: VecDeque<(u64, u64)>,
    /// Groups that moves with damaged entries spoke of: segment and offset of the first of these, and of how
    /// many not even the index is known.
    pub(super) holes: BTreeMap<GroupId, ((u64, u64), u64)>,
    /// Groups of which damaged entries without a place were left out, and no move has said yet what they need.
    pub(super) homeless: BTreeMap<GroupId, (u64, u64)>,
    /// Entries that were left out of damaged records.
    pub(super) salvaged: Vec<Salvaged>,
    pub(super) report: RecoveryReport,
}

struct End {
    offset: u64,
    chain: u32,
    is_marked: bool,
    /// In the last segment: up to where it must be erased, which is `offset` if nothing is torn.
    torn_until: u64,
}

impl Scan {
    /// Scans one segment, which ends where `successor` says, or wherever its records end.
    fn segment(&mut self, walk: &Walk<'_>, successor: Option<&SegmentHeader>) -> Result<End, LogError> {
        let mut window = Window::new(walk.segment);
        let mut end = End { offset: RECORDS_START, chain: walk.segment_crc, is_marked: false, torn_until: 0 };
        loop {
            if successor.is_some_and(|next| u64::from(next.previous_end) == end.offset) {
                break;
            }
            let found = walk.framed(&mut window, end.offset)?;
            let fits = found.filter(|record| {
                record.header.previous == end.chain && record.header.sequence == self.next_sequence
            });
            let Some(record) = fits else { break };
            if !record.is_whole {
                let witness = successor.is_some() || {
                    let rest = walk.rest(&mut window, end.offset)?;
                    rest.durable >= self.next_sequence
                };
                // More than entries is damaged: what follows finds the words for it.
                if !witness || self.salvage(walk.segment, &record, end.offset).is_err() {
                    break;
                }
            }
            if record.header.kind == RecordKind::Seal {
                if successor.is_none() {
                    return Err(walk
                        .segment
                        .damaged(end.offset, "the log goes on in a segment that is missing"));
                }
                break;
            }
            if record.is_whole {
                self.apply(walk.segment, &record, end.offset)?;
            }
            while self.unproven.front().is_some_and(|(sequence, _)| *sequence <= record.header.durable) {
                self.unproven.pop_front();
            }
            self.unproven.push_back((self.next_sequence, end.offset));
            end.offset += record.header.framed_bytes();
            end.chain = record.crc;
            end.is_marked =
                record.header.kind == RecordKind::Mark && record.header.durable + 1 == record.header.sequence;
            self.next_sequence += 1;
            self.report.records += 1;
        }
        match successor {
            Some(next) => {
                let is_whole = u64::from(next.previous_end) == end.offset
                    && next.previous_crc == end.chain
                    && next.first_sequence == self.next_sequence;
                if !is_whole {
                    return Err(walk
                        .segment
                        .damaged(end.offset, "a record is damaged and more records follow it"));
                }
            }
            None => end.torn_until = self.judge_tail(walk, &mut window, end.offset)?,
        }
        Ok(end)
    }

    fn apply(&mut self, segment: &Segment, record: &Record, offset: u64) -> Result<(), LogError> {
        let damaged = |what| segment.damaged(offset, what);
        let body_at = offset + HEADER_BYTES as u64;
        match record.header.kind {
            RecordKind::Batch => {
                let writes: Vec<LoggedWrite> = decode_batch(&record.body, body_at).map_err(damaged)?;
                for logged in &writes {
                    self.forget_what_ends(&logged.write);
                    self.index.apply(logged, segment.number).map_err(damaged)?;
                }
            }
            RecordKind::Move => {
                let (floor, groups) = decode_move(&record.body, body_at).map_err(damaged)?;
                for moved in groups {
                    self.homeless.remove(&moved.group);
                    self.index.apply_move(moved, segment.number).map_err(damaged)?;
                }
                self.floor = self.floor.max(floor);
            }
            RecordKind::Mark | RecordKind::Seal => {}
        }
        Ok(())
    }

    /// Decides what the end of the last segment means (see the head of this file): up to where what is torn
    /// can be recognised.
    fn judge_tail(&self, walk: &Walk<'_>, window: &mut Window<'_>, end: u64) -> Result<u64, LogError> {
        let rest = walk.rest(window, end)?;
        if rest.durable >= self.next_sequence {
            return Err(walk.segment.damaged(end, "a record is damaged and acknowledged records follow it"));
        }
        Ok(rest.end.min(walk.segment.bytes).max(end))
    }

    /// Erases what is torn, and makes durable what is kept.
    fn settle_tail(&mut self, walk: &Walk<'_>, end: &End) -> Result<(), LogError> {
        if end.torn_until > end.offset {
            let zeros = vec![0; index(end.torn_until - end.offset)];
            walk.segment
                .file
                .write_at(&zeros, end.offset)
                .map_err(|source| walk.segment.failed("erasing the torn end of", source))?;
            self.report.torn_at = Some(end.offset);
        }
        self.rewrite_unproven(walk, &mut Window::new(walk.segment), end.offset)?;
        walk.segment.file.sync_data().map_err(|source| walk.segment.failed("syncing", source))
    }

    /// Writes again what no record says was synced, so that the sync that follows means it.
    fn rewrite_unproven(&self, walk: &Walk<'_>, window: &mut Window<'_>, end: u64) -> Result<(), LogError> {
        let Some((_, mut at)) = self.unproven.front().copied() else { return Ok(()) };
        while at < end {
            let count = (end - at).min(WINDOW_BYTES);
            let bytes = window.bytes(at, count)?;
            let written = walk.segment.file.write_at(bytes, at);
            written.map_err(|source| walk.segment.failed("writing again the end of", source))?;
            at += count;
        }
        Ok(())
    }

    /// What must hold once everything is read, from the segment `first` on.
    pub(super) fn check(&mut self, first: u64, path_of: impl Fn(u64) -> PathBuf) -> Result<(), Damage> {
        if let Some((segment, offset)) = self.homeless.values().next().copied() {
            return Err(Damage {
                path: path_of(segment),
                offset,
                what: "an entry is damaged, and nothing says which",
            });
        }
        for (group, (place, nameless)) in std::mem::take(&mut self.holes) {
            self.index.fill_holes(group, place, nameless);
        }
        if first > self.floor.max(1) {
            return Err(missing_segment(path_of(first - 1)));
        }
        if self.index.incomplete().is_some() {
            let what = "entries of a group are in no segment";
            return Err(Damage { path: path_of(first), offset: 0, what });
        }
        Ok(())
    }
}

/// A record that was read.
pub(super) struct Record {
    pub(super) header: RecordHeader,
    pub(super) crc: u32,
    pub(super) body: Bytes,
    /// Whether the checksum of the body holds.
    pub(super) is_whole: bool,
}

/// What is behind the first record that does not fit.
struct Rest {
    /// The latest record that some header there says was synced.
    durable: u64,
    /// Where the last of those records ends, as far as they can be recognised.
    end: u64,
}

pub(super) struct Walk<'a> {
    pub(super) segment: &'a Segment,
    pub(super) segment_crc: u32,
}

impl Walk<'_> {
    /// Searches everything from `start` on for headers of records.
    fn rest(&self, window: &mut Window<'_>, start: u64) -> Result<Rest, LogError> {
        let mut rest = Rest { durable: 0, end: start };
        let mut at = start;
        while at + HEADER_BYTES as u64 <= self.segment.bytes {
            if at + ZEROS.len() as u64 <= self.segment.bytes
                && window.bytes(at, ZEROS.len() as u64)? == ZEROS.as_slice()
            {
                // A header that begins at the very end of them is looked at in the next round.
                at += (ZEROS.len() - HEADER_BYTES) as u64;
                continue;
            }
            let bytes = window.bytes(at, HEADER_BYTES as u64)?;
            let place = Place { segment_crc: self.segment_crc, offset: at };
            // Cheap tests first: nearly everything here is zeros or an older life of the file.
            if bytes[32] != 0
                && let Some((header, _)) = RecordHeader::decode(bytes, place)
            {
                rest.durable = rest.durable.max(header.durable);
                rest.end = at + header.framed_bytes();
            }
            at += ALIGNMENT;
        }
        Ok(rest)
    }

    /// The record at `offset` if its header is whole, whatever its body; an error only if the disk cannot be read.
    pub(super) fn framed(&self, window: &mut Window<'_>, offset: u64) -> Result<Option<Record>, LogError> {
        let body_at = offset + HEADER_BYTES as u64;
        if body_at > self.segment.bytes {
            return Ok(None);
        }
        let place = Place { segment_crc: self.segment_crc, offset };
        let Some((header, crc)) = RecordHeader::decode(window.bytes(offset, HEADER_BYTES as u64)?, place)
        else {
            return Ok(None);
        };
        let body_bytes = u64::from(header.body_bytes);
        if body_at + body_bytes > self.segment.bytes {
            return Ok(None);
        }
        let body = Bytes::copy_from_slice(window.bytes(body_at, body_bytes)?);
        let is_whole = crc32c::crc32c(&body) == header.body_crc || planted("checksum_not_checked");
        Ok(Some(Record { header, crc, body, is_whole }))
    }
}

/// A sliding view of a segment, so that small records do not cost a system call each.
pub(super) struct Window<'a> {
    segment: &'a Segment,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) const fn new(segment: &'a Segment) -> Self {
        Self { segment, start: 0, buffer: Vec::new() }
    }

    /// `count` bytes at `offset`; the caller keeps them within the segment.
    pub(super) fn bytes(&mut self, offset: u64, count: u64) -> Result<&[u8], LogError> {
        let end = self.start + self.buffer.len() as u64;
        if offset < self.start || offset + count > end {
            let wanted = count.max(WINDOW_BYTES).min(self.segment.bytes.saturating_sub(offset)).max(count);
            self.buffer.resize(index(wanted), 0);
            let read = self.segment.file.read_at(&mut self.buffer, offset);
            let found = read.map_err(|source| self.segment.failed("reading", source))?;
            self.buffer.truncate(found);
            self.start = offset;
            if (found as u64) < count {
                return Err(self.segment.damaged(offset + found as u64, "the file ends early"));
            }
        }
        let from = index(offset - self.start);
        Ok(&self.buffer[from..from + index(count)])
    }
}
