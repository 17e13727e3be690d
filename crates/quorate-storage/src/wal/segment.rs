//! One file of the log: its name, its header, and how it comes into being and goes away.
//!
//! 0         8         12           16       24     32               40        48         52
//! 56      64      512
//!   │ magic   │ version │ header crc │ number │ salt │ segment bytes  │ first   │ previous │ previous │ floor │ zeros │ records …
//!   │         │         │            │        │      │                │ sequence│ end      │ crc      │       │       │
//!
//! * A file gets its name only after its header and its whole length are durable, so a named
//!   segment with a bad header, or one that is too short, is damage.
//! * The header says where the segment before it ends: nothing can be missing in between.
//! * The salt and the number make records of an earlier life of the file worthless.
//! * The header has its own sector, which is never written again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::record::{u32_at, u64_at};
use crate::disk::{Disk, DiskFile};
use crate::error::{Damage, LogError};

/// The version of the format of segments and records.
pub(super) const FORMAT_VERSION: u32 = 1;
/// Where the first record starts.
pub(super) const RECORDS_START: u64 = 512;

const MAGIC: &[u8; 8] = b"QUORWAL\n";
const HEADER_BYTES: usize = 64;
const SUFFIX: &str = ".wal";
const FREE_PREFIX: &str = "free-";
pub(super) const NEW_NAME: &str = "new.tmp";

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u64,
    pub(super) salt: u64,
    pub(super) segment_bytes: u64,
    pub(super) first_sequence: u64,
    /// Where the records of the segment before end, and the header crc of the last of them.
    pub(super) previous_end: u32,
    pub(super) previous_crc: u32,
    /// Segments below this number are not needed.
    pub(super) floor: u64,
}

impl SegmentHeader {
    /// The header of the first segment of a log.
    pub(super) const fn first(salt: u64, segment_bytes: u64) -> Self {
        Self { number: 1, salt, segment_bytes, first_sequence: 1, previous_end: 0, previous_crc: 0, floor: 1 }
    }

    /// The bytes and their checksum, which seeds every record.
    pub(super) fn encode(&self) -> ([u8; HEADER_BYTES], u32) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.segment_bytes.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.previous_crc.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.floor.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    fn decode(mut bytes: [u8; HEADER_BYTES], path: &Path) -> Result<(Self, u32), LogError> {
        let damaged = |offset, what| LogError::Damaged(Damage { path: path.to_owned(), offset, what });
        if bytes[..8] != *MAGIC {
            return Err(damaged(0, "this is not the start of a log segment"));
        }
        let version = u32_at(&bytes, 8);
        if version != FORMAT_VERSION {
            return Err(LogError::Version { path: path.to_owned(), found: version, known: FORMAT_VERSION });
        }
        let crc = u32_at(&bytes, 12);
        bytes[12..16].fill(0);
        if crc32c::crc32c(&bytes) != crc {
            return Err(damaged(12, "the checksum of the segment's header does not hold"));
        }
        let header = Self {
            number: u64_at(&bytes, 16),
            salt: u64_at(&bytes, 24),
            segment_bytes: u64_at(&bytes, 32),
            first_sequence: u64_at(&bytes, 40),
            previous_end: u32_at(&bytes, 48),
            previous_crc: u32_at(&bytes, 52),
            floor: u64_at(&bytes, 56),
        };
        Ok((header, crc))
    }
}

/// An open segment. Readers hold it while they read, so that it is not recycled under them.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) bytes: u64,
}

impl Segment {
    /// Damage in this segment.
    pub(super) fn damaged(&self, offset: u64, what: &'static str) -> LogError {
        LogError::Damaged(Damage { path: self.path.clone(), offset, what })
    }

    /// An I/O error with this segment.
    pub(super) fn failed(&self, doing: &str, source: io::Error) -> LogError {
        failed(doing, &self.path, source)
    }
}

/// A write or sync failed for good.
pub(super) fn failed(doing: &str, path: &Path, source: io::Error) -> LogError {
    LogError::Failed { context: format!("{doing} {}", path.display()), source: Arc::new(source) }
}

/// The same, unless the disk is just full and nothing that matters was touched.
pub(super) fn failed_or_full(doing: &str, path: &Path, source: io::Error) -> LogError {
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        LogError::NoSpace { context: format!("{doing} {}", path.display()) }
    } else {
        failed(doing, path, source)
    }
}

/// The directory of segments and of files kept for reuse.
pub(super) struct SegmentDirectory {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    /// Files of dropped segments, all of `segment_bytes`.
    free: Vec<PathBuf>,
    segment_bytes: u64,
    free_max: usize,
    /// Nothing is kept for reuse: the disk is low on space.
    pub(super) is_low: bool,
}

/// A segment that was just made.
pub(super) struct Created {
    pub(super) segment: Arc<Segment>,
    /// The checksum of its header.
    pub(super) crc: u32,
    /// It was another segment before: all of it was written to.
    pub(super) is_reused: bool,
}

impl SegmentDirectory {
    /// Opens the directory, creating it if it is missing, and cleans up what an interrupted
    /// creation left. Also returns the numbers of the segments, ascending.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        segment_bytes: u64,
        free_max: usize,
    ) -> Result<(Self, Vec<u64>), LogError> {
        let opening = |source| failed("opening", directory, source);
        disk.create_dir_all(directory).map_err(opening)?;
        let mut opened = Self {
            disk,
            directory: directory.to_owned(),
            free: Vec::new(),
            segment_bytes,
            free_max,
            is_low: false,
        };
        let mut numbers = Vec::new();
        for name in opened.disk.list(directory).map_err(opening)? {
            let path = directory.join(&name);
            if let Some(number) = number_of(&name) {
                numbers.push(number);
            } else if name.starts_with(FREE_PREFIX) && opened.is_reusable(&path) {
                opened.free.push(path);
            } else if name == NEW_NAME || name.starts_with(FREE_PREFIX) {
                opened.disk.remove(&path).map_err(|source| failed("removing", &path, source))?;
            }
        }
        numbers.sort_unstable();
        // Whatever a crash left of names: from here on it is how it stays.
        opened.disk.sync_dir(directory).map_err(opening)?;
        Ok((opened, numbers))
    }

    fn is_reusable(&self, path: &Path) -> bool {
        let size = self.disk.open(path).and_then(|file| file.size());
        self.free.len() < self.free_max && size.is_ok_and(|size| size == self.segment_bytes)
    }

    pub(super) fn path_of(&self, number: u64) -> PathBuf {
        self.directory.join(name_of(number))
    }

    /// Opens a segment that exists and checks its header.
    pub(super) fn open_segment(&self, number: u64) -> Result<(Segment, SegmentHeader, u32), LogError> {
        let path = self.path_of(number);
        let reading = |source| failed("reading", &path, source);
        let file = self.disk.open(&path).map_err(reading)?;
        let damaged = |offset, what| LogError::Damaged(Damage { path: path.clone(), offset, what });
        let (header, crc) = read_header(&*file, &path, number)?;
        let size = file.size().map_err(reading)?;
        if size < header.segment_bytes {
            return Err(damaged(size, "the segment is shorter than it was made"));
        }
        Ok((Segment { number, path, file, bytes: header.segment_bytes }, header, crc))
    }

    /// Makes a durable, empty segment. On `NoSpace` nothing has changed.
    pub(super) fn create_segment(&mut self, header: &SegmentHeader) -> Result<Created, LogError> {
        let path = self.path_of(header.number);
        let (encoded, crc) = header.encode();
        let mut block = vec![0; index(RECORDS_START)];
        block[..HEADER_BYTES].copy_from_slice(&encoded);
        let reused = if header.segment_bytes == self.segment_bytes { self.free.pop() } else { None };
        let is_reused = reused.is_some();
        let (unnamed, file) = match reused {
            Some(free) => {
                let file = self.prepare_reused(&free, &block)?;
                (free, file)
            }
            None => {
                let new = self.directory.join(NEW_NAME);
                let file = self.prepare_new(&new, &block, header.segment_bytes)?;
                (new, file)
            }
        };
        self.disk.rename(&unnamed, &path).map_err(|source| failed("naming", &path, source))?;
        self.sync_names()?;
        let segment = Arc::new(Segment { number: header.number, path, file, bytes: header.segment_bytes });
        Ok(Created { segment, crc, is_reused })
    }

    fn prepare_reused(&self, path: &Path, block: &[u8]) -> Result<Box<dyn DiskFile>, LogError> {
        let reusing = |source| failed("reusing", path, source);
        let file = self.disk.open(path).map_err(reusing)?;
        file.write_at(block, 0).map_err(reusing)?;
        file.sync_data().map_err(reusing)?;
        Ok(file)
    }

    fn prepare_new(&self, path: &Path, block: &[u8], bytes: u64) -> Result<Box<dyn DiskFile>, LogError> {
        if self.disk.exists(path).map_err(|source| failed("creating", path, source))? {
            self.disk.remove(path).map_err(|source| failed("removing", path, source))?;
        }
        let prepared = self.disk.create(path).and_then(|file| {
            file.allocate(bytes)?;
            file.write_at(block, 0)?;
            file.sync_data()?;
            Ok(file)
        });
        prepared.map_err(|source| {
            // The file has no meaning yet. If it cannot be removed now, the next attempt does.
            drop(self.disk.remove(path));
            failed_or_full("creating", path, source)
        })
    }

    /// Takes a segment's name away. Its file is kept for reuse if nobody reads it any more.
    pub(super) fn drop_segment(&mut self, segment: Arc<Segment>) -> Result<(), LogError> {
        let path = segment.path.clone();
        let dropping = |source| failed("dropping", &path, source);
        let reusable = segment.bytes == self.segment_bytes && self.free.len() < self.free_max && !self.is_low;
        match Arc::try_unwrap(segment) {
            Ok(segment) if reusable => {
                let free = self.directory.join(format!("{FREE_PREFIX}{:016}", segment.number));
                self.disk.rename(&path, &free).map_err(dropping)?;
                self.free.push(free);
            }
            Ok(_) | Err(_) => self.disk.remove(&path).map_err(dropping)?,
        }
        self.sync_names()
    }

    fn sync_names(&self) -> Result<(), LogError> {
        self.disk.sync_dir(&self.directory).map_err(|source| failed("syncing", &self.directory, source))
    }

    /// Removes the files kept for reuse.
    pub(super) fn remove_free(&mut self) -> Result<(), LogError> {
        if self.free.is_empty() {
            return Ok(());
        }
        for path in self.free.drain(..) {
            self.disk.remove(&path).map_err(|source| failed("removing", &path, source))?;
        }
        self.sync_names()
    }

    /// Bytes in files kept for reuse.
    pub(super) fn free_bytes(&self) -> u64 {
        self.free.len() as u64 * self.segment_bytes
    }
}

/// The name of a segment.
pub(super) fn name_of(number: u64) -> String {
    format!("{number:016}{SUFFIX}")
}

/// Whether a file of this name is only ever made next to a segment: one that is kept for reuse, or the reserve.
pub(super) fn is_beside_segments(name: &str) -> bool {
    name.starts_with(FREE_PREFIX) || name == super::reserve::NAME
}

/// The number of the segment with this name, if it is one.
pub(super) fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX)?.parse().ok()
}

/// The header of the segment `number` in `file`, and its checksum.
pub(super) fn read_header(
    file: &dyn DiskFile,
    path: &Path,
    number: u64,
) -> Result<(SegmentHeader, u32), LogError> {
    let mut bytes = [0; HEADER_BYTES];
    let damaged = |offset, what| LogError::Damaged(Damage { path: path.to_owned(), offset, what });
    let found = file.read_at(&mut bytes, 0).map_err(|source| failed("reading", path, source))?;
    if found < HEADER_BYTES {
        return Err(damaged(found as u64, "the segment ends inside its header"));
    }
    let (header, crc) = SegmentHeader::decode(bytes, path)?;
    if header.number == number {
        Ok((header, crc))
    } else {
        Err(damaged(16, "the segment carries another number"))
    }
}

/// An offset within a segment as an index into memory.
pub(super) fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
