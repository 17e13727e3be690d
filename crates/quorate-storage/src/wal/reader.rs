//! Reads of entries from any thread: locations are looked up under the lock, files are read outside
//! of it, every entry's checksum and position are verified.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use quorate_core::{Entry, GroupId, LogIndex};

use super::body::decode_item;
use super::index::{Index, Location};
use super::segment::Segment;
use crate::error::{DamagedEntries, LogError};
use crate::log_store::{GroupState, LogReader};

/// Entries this close to each other are fetched with one read, in bytes.
const GAP_BYTES_MAX: u64 = 4096;
/// One read is not larger than this, unless one entry is.
const READ_BYTES_MAX: u64 = 1 << 20;

/// The reader handed out by the WAL.
pub(super) struct WalReader {
    pub(super) index: Arc<RwLock<Index>>,
}

/// Neighbouring entries in one segment.
struct Span {
    segment: Arc<Segment>,
    start: u64,
    end: u64,
    entries: Vec<(LogIndex, Location)>,
}

impl WalReader {
    /// Looks up where the entries are; takes as many as fit `bytes_max`, at least one.
    fn locate(&self, group: GroupId, range: &Range<LogIndex>, bytes_max: u64) -> Result<Vec<Span>, LogError> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let out_of_range = |index| LogError::OutOfRange { group, index };
        let found = index.groups.get(&group).ok_or_else(|| out_of_range(range.start))?;
        if range.start <= found.log.compacted.index {
            return Err(LogError::Compacted { group, index: range.start });
        }
        if range.end > found.entries.next() {
            return Err(out_of_range(range.start.max(found.entries.next())));
        }
        let mut spans: Vec<Span> = Vec::new();
        let mut bytes = 0;
        for at in (range.start.0..range.end.0).map(LogIndex) {
            let location = *found.entries.get(at).ok_or_else(|| out_of_range(at))?;
            if location == Location::HOLE
                && let Some(damaged) = index.state(group).and_then(|state| state.damaged)
            {
                return Err(LogError::DamagedEntries(damaged));
            }
            bytes += u64::from(location.spot.bytes);
            if bytes > bytes_max && !spans.is_empty() {
                break;
            }
            match spans.last_mut() {
                Some(span) if span.accepts(&location) => {
                    span.end = location.end();
                    span.entries.push((at, location));
                }
                Some(_) | None => {
                    let used = index.segments.get(&location.segment).ok_or_else(|| out_of_range(at))?;
                    spans.push(Span {
                        segment: Arc::clone(&used.segment),
                        start: location.start(),
                        end: location.end(),
                        entries: vec![(at, location)],
                    });
                }
            }
        }
        Ok(spans)
    }

    /// Remembers damage, so that whoever opens the group the next time knows of it.
    fn note(&self, group: GroupId, unread: Unread) -> LogError {
        let Unread { at, location, error } = unread;
        let LogError::Damaged(damage) = error else { return error };
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.note_rot(group, at, location, damage.what);
        LogError::DamagedEntries(DamagedEntries { group, first: at, last: at, damage })
    }
}

impl LogReader for WalReader {
    fn read(&self, group: GroupId, range: Range<LogIndex>, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        for span in self.locate(group, &range, bytes_max)? {
            span.read(&mut entries).map_err(|unread| self.note(group, unread))?;
        }
        Ok(entries)
    }

    fn state(&self, group: GroupId) -> Option<GroupState> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.state(group)
    }
}

/// An entry that could not be read.
struct Unread {
    at: LogIndex,
    location: Location,
    error: LogError,
}

impl Location {
    fn start(&self) -> u64 {
        u64::from(self.spot.offset)
    }

    fn end(&self) -> u64 {
        self.start() + u64::from(self.spot.bytes)
    }
}

impl Span {
    fn accepts(&self, next: &Location) -> bool {
        next.segment == self.segment.number
            && next.start() >= self.end
            && next.start() - self.end <= GAP_BYTES_MAX
            && next.end() - self.start <= READ_BYTES_MAX
    }

    fn read(&self, entries: &mut Vec<Entry>) -> Result<(), Unread> {
        let unread = |(at, location): (LogIndex, Location), error| Unread { at, location, error };
        let first = self.entries.first().copied().unwrap_or((LogIndex(0), Location::HOLE));
        let bytes = read_exact(&self.segment, self.start, self.end - self.start);
        let bytes = bytes.map_err(|error| unread(first, error))?;
        for (index, location) in &self.entries {
            let from = super::segment::index(location.start() - self.start);
            let item = bytes.slice(from..from + location.spot.bytes as usize);
            let damaged = |what| unread((*index, *location), self.segment.damaged(location.start(), what));
            let entry = decode_item(&item).map_err(damaged)?;
            if entry.index() != *index {
                return Err(damaged("an entry with another index is here"));
            }
            entries.push(entry);
        }
        Ok(())
    }
}

/// Reads `count` bytes; a file that ends before is damaged.
pub(super) fn read_exact(segment: &Segment, offset: u64, count: u64) -> Result<Bytes, LogError> {
    let mut bytes = vec![0; super::segment::index(count)];
    let found =
        segment.file.read_at(&mut bytes, offset).map_err(|source| segment.failed("reading", source))?;
    if found < bytes.len() {
        return Err(segment.damaged(offset + found as u64, "the file ends inside a record"));
    }
    Ok(Bytes::from(bytes))
}

/// Reads one entry's item as it is on disk and verifies it.
pub(super) fn read_item(segment: &Segment, location: &Location) -> Result<Bytes, LogError> {
    let item = read_exact(segment, location.start(), u64::from(location.spot.bytes))?;
    decode_item(&item).map_err(|what| segment.damaged(location.start(), what))?;
    Ok(item)
}
