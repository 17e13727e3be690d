//! The end of the log: where the next record goes and what it must say.
//!
//!   durable            next
//!      │ written only    │        filled                        segment end
//!   ───┴─────────────────┴───────────┴──────────────────────────────┴───► offset
//!
//! Filling ahead with zeros means that a sync has no file system metadata to write: the blocks are
//! allocated and initialised before they are needed.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::record::{HEADER_BYTES, Place, RecordHeader, RecordKind, framed_bytes};
use super::segment::{Created, RECORDS_START, Segment, SegmentHeader, index};

/// What must be left in a segment after any other record: room for a mark and a seal.
pub(super) const CLOSING_BYTES: u64 = 2 * framed_bytes(0);

/// The end of the log.
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    /// The checksum of the segment's header.
    pub(super) segment_crc: u32,
    pub(super) salt: u64,
    /// Where the next record goes.
    pub(super) offset: u64,
    /// The checksum it continues.
    pub(super) chain: u32,
    pub(super) next_sequence: u64,
    /// Everything up to this record is synced.
    pub(super) durable: u64,
    /// The last record is this mark, if there is nothing it does not vouch for.
    pub(super) marked: u64,
    /// Up to here the file was written to before.
    pub(super) filled: u64,
    /// Segments below this are not needed.
    pub(super) floor: u64,
}

impl Tail {
    /// The end of a log that goes on in a new segment.
    pub(super) fn new(created: Created, header: &SegmentHeader) -> Self {
        let Created { segment, crc, is_reused } = created;
        Self {
            segment_crc: crc,
            salt: header.salt,
            offset: RECORDS_START,
            chain: crc,
            next_sequence: header.first_sequence,
            durable: header.first_sequence - 1,
            marked: 0,
            filled: if is_reused { segment.bytes } else { RECORDS_START },
            floor: header.floor,
            segment,
        }
    }

    /// The room left in the segment for records other than marks and seals, in bytes.
    pub(super) fn room_bytes(&self) -> u64 {
        self.segment.bytes.saturating_sub(self.offset + CLOSING_BYTES)
    }

    /// The header of the segment that follows this one, with room for a record of `framed` bytes
    /// and `reserve` more.
    pub(super) fn next_header(&self, segment_bytes: u64, framed: u64, reserve: u64) -> SegmentHeader {
        let needed = (RECORDS_START + framed + reserve + CLOSING_BYTES).next_multiple_of(4096);
        SegmentHeader {
            number: self.segment.number + 1,
            salt: self.salt,
            segment_bytes: segment_bytes.max(needed),
            first_sequence: self.next_sequence,
            // Segments are far below 4 GiB.
            previous_end: u32::try_from(self.offset).unwrap_or(u32::MAX),
            previous_crc: self.chain,
            floor: self.floor,
        }
    }

    /// Turns `record` (room for the header, then the body) into the next record of the log.
    pub(super) fn frame(&mut self, kind: RecordKind, record: &mut Vec<u8>) {
        let (bytes, crc) = self.header(kind, &record[HEADER_BYTES..]);
        record[..HEADER_BYTES].copy_from_slice(&bytes);
        record.resize(index(framed_bytes((record.len() - HEADER_BYTES) as u64)), 0);
        self.offset += record.len() as u64;
        self.chain = crc;
        self.next_sequence += 1;
    }

    fn header(&self, kind: RecordKind, body: &[u8]) -> ([u8; HEADER_BYTES], u32) {
        let header = RecordHeader {
            body_crc: crc32c::crc32c(body),
            // Callers refuse bodies of a gigabyte and more.
            body_bytes: u32::try_from(body.len()).unwrap_or(u32::MAX),
            previous: self.chain,
            sequence: self.next_sequence,
            durable: self.durable,
            kind,
        };
        header.encode(Place { segment_crc: self.segment_crc, offset: self.offset })
    }

    /// A seal for here: the log goes on in the next segment.
    pub(super) fn seal(&self) -> [u8; HEADER_BYTES] {
        self.header(RecordKind::Seal, &[]).0
    }

    /// Writes framed records that end at `offset`, and zeros behind them if the file is new there.
    pub(super) fn write(&mut self, records: &[Vec<u8>], fill_ahead_bytes: u64) -> io::Result<()> {
        let bytes: u64 = records.iter().map(|record| record.len() as u64).sum();
        let parts: Vec<IoSlice<'_>> = records.iter().map(|record| IoSlice::new(record)).collect();
        self.segment.file.write_parts_at(&parts, self.offset - bytes)?;
        if self.offset + CLOSING_BYTES > self.filled {
            let end = (self.offset + CLOSING_BYTES + fill_ahead_bytes).min(self.segment.bytes);
            let zeros = vec![0; index(end.saturating_sub(self.offset))];
            self.segment.file.write_at(&zeros, self.offset)?;
            self.filled = end;
        }
        Ok(())
    }

    /// Syncs; everything written so far is then durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.segment.file.sync_data()?;
        self.durable = self.next_sequence - 1;
        Ok(())
    }
}
