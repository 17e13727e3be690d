//! One walk over all segments, record by record, that writes nothing and does not stop at damage.
//!
//! ```text
//!   fits ──► Record          does not fit ──► Broken ──► goes on at the next header that validates
//!                                               │
//!                             last segment, and no record from behind says "synced": Torn, the end
//! ```
//!
//! The same rules as opening (`recovery`): header, body, chain and sequence fit; a segment ends where its
//! successor says. A header validates only in its own segment at its own offset, so what is found behind
//! a damaged stretch is what was written there.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::WalToolError;
use crate::disk::Disk;
use crate::error::{Damage, LogError};
use crate::wal::record::{ALIGNMENT, HEADER_BYTES, Place, RecordHeader, RecordKind};
use crate::wal::recovery::{Record, Walk, Window, missing_segment};
use crate::wal::segment::{self, RECORDS_START, Segment, SegmentHeader, read_header};

/// Stretches of zeros this long are skipped in one go.
static ZEROS: [u8; 4096] = [0; 4096];

const SHORT: &str = "the segment is shorter than it was made";

/// A segment whose header is whole.
pub(super) struct Opened {
    pub(super) segment: Arc<Segment>,
    pub(super) header: SegmentHeader,
    pub(super) crc: u32,
    /// The file is shorter than it was made.
    pub(super) is_short: bool,
}

/// What the walk meets, in the order of the log.
pub(super) enum Step<'a> {
    /// A segment begins.
    Segment(&'a Opened),
    /// A whole record in its place.
    Record { opened: &'a Opened, offset: u64, record: &'a Record },
    /// What should be a record, and is not.
    Broken { opened: &'a Opened, broken: Broken },
    /// A segment that is missing, or whose header is damaged.
    Unreadable(Damage),
    /// The records of a segment end.
    End { opened: &'a Opened, end: Position },
}

/// A stretch that is no record.
pub(super) struct Broken {
    pub(super) offset: u64,
    /// A record in its place whose header is whole and whose body is not.
    pub(super) record: Option<Record>,
    /// Its header, if that alone is whole.
    pub(super) header: Option<RecordHeader>,
    /// Where the next header stands, or the last one that was recognised ends.
    pub(super) until: u64,
    /// What does not hold; `None`: a torn tail, whose sync never returned.
    pub(super) damage: Option<&'static str>,
}

/// Where a record goes and what it must say.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub(super) offset: u64,
    pub(super) chain: u32,
    pub(super) sequence: u64,
}

/// Says whether to go on.
type Visit<'v> = &'v mut dyn FnMut(Step<'_>) -> bool;

/// The numbers of the segments in `directory`, ascending; at least one.
pub(super) fn numbers(disk: &dyn Disk, directory: &Path) -> Result<Vec<u64>, WalToolError> {
    let names = match disk.list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(WalToolError::unreadable(directory))?,
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    numbers.sort_unstable();
    if numbers.is_empty() { Err(WalToolError::NoLog(directory.to_owned())) } else { Ok(numbers) }
}

/// Walks over all segments.
pub(super) fn walk(disk: &dyn Disk, directory: &Path, visit: Visit<'_>) -> Result<(), WalToolError> {
    let numbers = numbers(disk, directory)?;
    let mut found = Vec::with_capacity(numbers.len());
    for number in &numbers {
        found.push(open(disk, &directory.join(segment::name_of(*number)), *number)?);
    }
    for (position, (number, opened)) in numbers.iter().zip(&found).enumerate() {
        let before = position.checked_sub(1).and_then(|before| numbers.get(before));
        if let Some(gap) = before.map(|before| before + 1).filter(|expected| expected != number)
            && !visit(Step::Unreadable(missing_segment(directory.join(segment::name_of(gap)))))
        {
            return Ok(());
        }
        let opened = match opened {
            Ok(opened) => opened,
            Err(damage) => {
                if !visit(Step::Unreadable(damage.clone())) {
                    return Ok(());
                }
                continue;
            }
        };
        let next = match (found.get(position + 1), numbers.get(position + 1)) {
            (Some(Ok(next)), Some(after)) if *after == number + 1 => Next::Known(&next.header),
            (Some(_), _) => Next::Unknown,
            (None, _) => Next::Nothing,
        };
        if !(SegmentWalk { opened, next }).run(visit)? {
            return Ok(());
        }
    }
    Ok(())
}

/// `Err`: its header is damaged.
fn open(disk: &dyn Disk, path: &Path, number: u64) -> Result<Result<Opened, Damage>, WalToolError> {
    let unreadable = WalToolError::unreadable(path);
    let file = disk.open(path).map_err(&unreadable)?;
    let size = file.size().map_err(&unreadable)?;
    let (header, crc) = match read_header(&*file, path, number) {
        Ok(read) => read,
        Err(error) => return damage_of(error).map(Err),
    };
    let segment = Segment { number, path: path.to_owned(), file, bytes: header.segment_bytes.min(size) };
    let is_short = size < header.segment_bytes;
    Ok(Ok(Opened { segment: Arc::new(segment), header, crc, is_short }))
}

/// The damage that an error of the log's own code is, or the error of a tool.
fn damage_of(error: LogError) -> Result<Damage, WalToolError> {
    if let LogError::Damaged(damage) = error { Ok(damage) } else { Err(WalToolError::of(error)) }
}

/// The segment after one.
enum Next<'a> {
    Known(&'a SegmentHeader),
    /// There is one, but it does not say where this one ends.
    Unknown,
    Nothing,
}

struct SegmentWalk<'a> {
    opened: &'a Opened,
    next: Next<'a>,
}

impl SegmentWalk<'_> {
    fn run(&self, visit: Visit<'_>) -> Result<bool, WalToolError> {
        let opened = self.opened;
        let records = Walk { segment: &opened.segment, segment_crc: opened.crc };
        let mut window = Window::new(&opened.segment);
        let sequence = opened.header.first_sequence;
        let mut at = Position { offset: RECORDS_START, chain: opened.crc, sequence };
        let mut goes_on = visit(Step::Segment(opened));
        let mut is_damaged = false;
        while goes_on {
            if let Next::Known(next) = self.next
                && u64::from(next.previous_end) == at.offset
            {
                if next.previous_crc != at.chain || next.first_sequence != at.sequence {
                    is_damaged = true;
                    goes_on = visit(self.broken(at.offset, "the next segment does not continue this one"));
                }
                break;
            }
            let record = records.framed(&mut window, at.offset).map_err(WalToolError::of)?;
            let fits = record
                .filter(|record| record.header.previous == at.chain && record.header.sequence == at.sequence);
            match fits {
                Some(record) if record.is_whole && record.header.kind == RecordKind::Seal => {
                    if let Some(damage) = self.misplaced_seal() {
                        is_damaged = true;
                        goes_on = visit(self.broken(at.offset, damage));
                    }
                    break;
                }
                Some(record) if record.is_whole => {
                    goes_on = visit(Step::Record { opened, offset: at.offset, record: &record });
                    at.pass(&record);
                }
                record => {
                    let Some((broken, resumed)) = self.judge(&mut window, at)? else { break };
                    let broken = Broken { record, ..broken };
                    is_damaged |= broken.damage.is_some();
                    goes_on = visit(Step::Broken { opened, broken });
                    let Some(resumed) = resumed else { break };
                    at = resumed;
                }
            }
        }
        if opened.is_short && !is_damaged {
            goes_on = goes_on && visit(self.broken(at.offset, SHORT));
        }
        Ok(goes_on && visit(Step::End { opened, end: at }))
    }

    fn misplaced_seal(&self) -> Option<&'static str> {
        match self.next {
            Next::Known(_) => Some("the segment ends before the next one says"),
            Next::Unknown => None,
            Next::Nothing => Some("the log goes on in a segment that is missing"),
        }
    }

    fn broken(&self, offset: u64, damage: &'static str) -> Step<'_> {
        let broken = Broken { offset, record: None, header: None, until: offset, damage: Some(damage) };
        Step::Broken { opened: self.opened, broken }
    }

    /// What it means that no record fits at `at`, and where to go on. `None`: the log just ends here.
    fn judge(
        &self,
        window: &mut Window<'_>,
        at: Position,
    ) -> Result<Option<(Broken, Option<Position>)>, WalToolError> {
        let header = self.header_at(window, at.offset)?;
        let from = at.offset + header.map_or(ALIGNMENT, |header| header.framed_bytes());
        let resumed = self.next_header(window, from)?;
        let damage = match self.next {
            Next::Known(_) => Some("a record is damaged and more records follow it"),
            // Everything before a segment was synced when that was made.
            Next::Unknown if header.is_some() || resumed.is_some() => {
                Some("a record is damaged and another segment follows it")
            }
            Next::Unknown | Next::Nothing if self.opened.is_short => Some(SHORT),
            Next::Unknown => None,
            Next::Nothing if self.is_witnessed(window, at)? => {
                Some("a record is damaged and acknowledged records follow it")
            }
            Next::Nothing => None,
        };
        let is_torn = damage.is_none();
        if is_torn && header.is_none() && resumed.is_none() {
            return Ok(None);
        }
        let until = match resumed {
            Some((offset, _)) if !is_torn => offset,
            _ => self.end_of_the_recognised(window, at.offset)?,
        };
        let broken = Broken { offset: at.offset, record: None, header, until, damage };
        let resumed = resumed.filter(|_| !is_torn).map(|(offset, header)| Position {
            offset,
            chain: header.previous,
            sequence: header.sequence,
        });
        Ok(Some((broken, resumed)))
    }

    fn header_at(&self, window: &mut Window<'_>, offset: u64) -> Result<Option<RecordHeader>, WalToolError> {
        if offset + HEADER_BYTES as u64 > self.opened.segment.bytes {
            return Ok(None);
        }
        let bytes = window.bytes(offset, HEADER_BYTES as u64).map_err(WalToolError::of)?;
        let place = Place { segment_crc: self.opened.crc, offset };
        Ok(RecordHeader::decode(bytes, place).map(|(header, _)| header))
    }

    /// The first header at `from` or behind it.
    fn next_header(
        &self,
        window: &mut Window<'_>,
        from: u64,
    ) -> Result<Option<(u64, RecordHeader)>, WalToolError> {
        let bytes_max = self.opened.segment.bytes;
        let mut at = from;
        while at + HEADER_BYTES as u64 <= bytes_max {
            let zeros = ZEROS.len() as u64;
            if at + zeros <= bytes_max
                && window.bytes(at, zeros).map_err(WalToolError::of)? == ZEROS.as_slice()
            {
                // A header that begins at the very end of them is looked at in the next round.
                at += zeros - HEADER_BYTES as u64;
                continue;
            }
            // Cheap tests first: nearly everything here is zeros or an older life of the file.
            if window.bytes(at, HEADER_BYTES as u64).map_err(WalToolError::of)?[32] != 0
                && let Some(header) = self.header_at(window, at)?
            {
                return Ok(Some((at, header)));
            }
            at += ALIGNMENT;
        }
        Ok(None)
    }

    /// Whether a record from here on says that the one at `at` was synced.
    fn is_witnessed(&self, window: &mut Window<'_>, at: Position) -> Result<bool, WalToolError> {
        let mut from = at.offset;
        while let Some((offset, header)) = self.next_header(window, from)? {
            if header.durable >= at.sequence {
                return Ok(true);
            }
            from = offset + ALIGNMENT;
        }
        Ok(false)
    }

    fn end_of_the_recognised(&self, window: &mut Window<'_>, offset: u64) -> Result<u64, WalToolError> {
        let (mut from, mut end) = (offset, offset);
        while let Some((offset, header)) = self.next_header(window, from)? {
            end = (offset + header.framed_bytes()).min(self.opened.segment.bytes);
            from = offset + ALIGNMENT;
        }
        Ok(end)
    }
}

impl Position {
    pub(super) fn pass(&mut self, record: &Record) {
        self.offset += record.header.framed_bytes();
        self.chain = record.crc;
        self.sequence += 1;
    }
}
