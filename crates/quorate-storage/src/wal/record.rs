//! The frame around everything in a segment: a header that vouches for itself and for its body.
//!
//!   0            4          8            12         16         24        32     33      40
//!   │ header crc │ body crc │ body bytes │ previous │ sequence │ durable │ kind │ zeros │ body …
//!
//! * The header crc is seeded with the crc of the segment's header (which holds the salt) and with
//!   the offset: what an earlier life of a recycled file left behind, or a record that landed in
//!   the wrong place, never validates.
//! * `previous` is the header crc of the record before: a chain, so nothing can be missing.
//! * `sequence` counts records over all segments. `durable` says up to which record everything was
//!   synced when this one was written: it is what tells damage from a torn tail (see `recovery`).

/// The length of a record's header in bytes.
pub(super) const HEADER_BYTES: usize = 40;
/// Records start at multiples of this.
pub(super) const ALIGNMENT: u64 = 8;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// A batch as the caller wrote it.
    Batch,
    /// Nothing but its `durable`: follows a sync, so that the last record is vouched for, too.
    Mark,
    /// The log goes on in the next segment.
    Seal,
    /// State of groups that was written before, moved here so that old segments can go.
    Move,
}

impl RecordKind {
    const fn code(self) -> u8 {
        match self {
            Self::Batch => 1,
            Self::Mark => 2,
            Self::Seal => 3,
            Self::Move => 4,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Batch),
            2 => Some(Self::Mark),
            3 => Some(Self::Seal),
            4 => Some(Self::Move),
            _ => None,
        }
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) body_crc: u32,
    pub(super) body_bytes: u32,
    pub(super) previous: u32,
    pub(super) sequence: u64,
    pub(super) durable: u64,
    pub(super) kind: RecordKind,
}

/// Where a record stands: what its checksum is seeded with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The checksum of the segment's header.
    pub(super) segment_crc: u32,
    /// The record's offset in the segment.
    pub(super) offset: u64,
}

impl Place {
    fn seed(self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.segment_crc.to_le_bytes()), &self.offset.to_le_bytes())
    }
}

impl RecordHeader {
    /// The bytes and the header's checksum.
    pub(super) fn encode(&self, place: Place) -> ([u8; HEADER_BYTES], u32) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[4..8].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.previous.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable.to_le_bytes());
        bytes[32] = self.kind.code();
        let crc = crc32c::crc32c_append(place.seed(), &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// The header at `place`, if the bytes are one, and its checksum.
    pub(super) fn decode(bytes: &[u8], place: Place) -> Option<(Self, u32)> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let crc = u32_at(bytes, 0);
        let kind = RecordKind::from_code(bytes[32])?;
        if crc != crc32c::crc32c_append(place.seed(), &bytes[4..]) || bytes[33..] != [0; 7] {
            return None;
        }
        let header = Self {
            body_crc: u32_at(bytes, 4),
            body_bytes: u32_at(bytes, 8),
            previous: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            durable: u64_at(bytes, 24),
            kind,
        };
        Some((header, crc))
    }

    /// The length on disk: header, body and padding.
    pub(super) fn framed_bytes(&self) -> u64 {
        framed_bytes(u64::from(self.body_bytes))
    }
}

/// The length on disk of a record with a body of `body_bytes`.
pub(super) const fn framed_bytes(body_bytes: u64) -> u64 {
    HEADER_BYTES as u64 + body_bytes.next_multiple_of(ALIGNMENT)
}

/// The little-endian number at `at`; 0 beyond the end.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// The little-endian number at `at`; 0 beyond the end.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;
    use quorate_core::{Entry, EntryPayload, GroupId, LogId, Membership};

    use super::*;
    use crate::{Disk, GroupWrite, LogBatch, MemDisk, Wal, WalConfig, write_now};

    /// A segment whose file was another one before: everything that stood in it is still there, byte for byte, behind
    /// the few records that were written since. None of it validates in its new life, at any offset, though all
    /// of it did in the old one.
    #[test]
    fn what_an_earlier_life_of_a_file_left_behind_never_validates() {
        let disk = MemDisk::new();
        let config = WalConfig { segment_bytes: 4096, fill_ahead_bytes: 4096, ..WalConfig::default() };
        let open = || Wal::open(Arc::new(disk.clone()), Path::new("wal"), config).unwrap();
        let mut wal = open();
        let mut lives: Vec<(u64, u32)> = Vec::new();
        let mut index = 0;
        // Files are given a second life from the third segment on, and a third one.
        while wal.tail.segment.number < 12 || wal.tail.offset > 1000 {
            index += 1;
            let id = LogId::new(1, index);
            let command = EntryPayload::Command(Bytes::from(vec![7; 100]));
            let write = GroupWrite {
                group: GroupId(1),
                entries: vec![Entry { id, payload: command }].into(),
                compact_to: Some((id, LogId::default(), Arc::new(Membership::default()))),
                ..GroupWrite::default()
            };
            write_now(&mut wal, LogBatch { groups: vec![write] }, true).unwrap();
            if lives.last().is_none_or(|(number, _)| *number != wal.tail.segment.number) {
                lives.push((wal.tail.segment.number, wal.tail.segment_crc));
            }
        }
        let (path, end) = (wal.tail.segment.path.clone(), wal.tail.offset);
        let contents = disk.contents(&path).unwrap();
        let valid = |segment_crc: u32| {
            let offsets = (end..contents.len() as u64 - HEADER_BYTES as u64).step_by(8);
            let headers = offsets.filter_map(|offset| {
                let bytes = contents.get(usize::try_from(offset).ok()?..)?;
                RecordHeader::decode(bytes, Place { segment_crc, offset })
            });
            headers.count()
        };
        let (newest, earlier) = lives.split_last().unwrap();
        assert!(earlier.iter().map(|(_, crc)| valid(*crc)).max() > Some(5), "an earlier life is still there");
        assert_eq!(valid(newest.1), 0, "and nothing of it counts");
        drop(wal);
        let wal = open();
        assert_eq!((wal.tail.segment.path.clone(), wal.recovery().torn_at), (path, None));
        assert!(disk.exists(Path::new("wal")).unwrap());
    }
}
