//! The write-ahead log: one sequence of records for all groups of a node, in segment files.
//!
//!   write(batch) ─► queue ─► flush: check, encode ─► one write ─► one sync ─► index ─► done
//!                                         │
//!                                         └─ segment full: sync, make the next one, go on there
//!
//! * One batch is one record, so it is there whole or not at all.
//! * The index changes, and completions are called, only after the sync, in the order of `write`.
//! * After any failed write or sync the log refuses everything (nothing is known about the file
//!   then). Only running out of space for a new segment is survivable: nothing was touched, the
//!   batch gets `NoSpace`.
//! * Old segments are dropped from the front as compaction empties them. State of idle groups and
//!   entries of lagging ones are moved to the end of the log first. A group that lags holds
//!   segments back only as long as moving its entries would cost more than it frees (see
//!   `cleaning`).
//!
//! Files: `record` (frames), `body` (contents), `segment` (files), `tail` (the end of the log),
//! `flush` (one round of batches), `index` (what is live), `cleaning` (dropping segments),
//! `reserve` (space for a full disk), `recovery` (opening), `salvage` (damaged entries), `reader` (reads),
//! `tools` (looking from outside, repair).

mod body;
mod cleaning;
mod flush;
mod index;
mod reader;
mod record;
mod recovery;
mod reserve;
mod salvage;
mod segment;
mod tail;
pub mod tools;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

pub use self::recovery::RecoveryReport;

use self::cleaning::Cleaner;
use self::flush::Queued;
use self::index::Index;
use self::reader::WalReader;
use self::reserve::Reserve;
use self::segment::{SegmentDirectory, SegmentHeader};
use self::tail::Tail;
use crate::disk::Disk;
use crate::error::LogError;
use crate::log_store::{GroupState, LogBatch, LogReader, LogStats, LogStore, WriteDone};

/// What a file in the directory of a WAL says of it by its name.
pub(crate) mod names {
    /// It is a segment.
    pub(crate) fn is_segment(name: &str) -> bool {
        super::segment::number_of(name).is_some()
    }

    /// There is, or was, a segment next to it.
    pub(crate) fn is_beside_segments(name: &str) -> bool {
        super::segment::is_beside_segments(name)
    }
}

/// How the log uses the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// The length of a segment in bytes; a batch that is larger gets a segment of its own size. At
    /// least 4 KiB and at most 1 GiB; values outside are brought to the nearest bound.
    pub segment_bytes: u64,
    /// How many files of dropped segments are kept for reuse.
    pub recycled_segments_max: usize,
    /// Segments that are live to a quarter at most are dropped at once, but no more of them at a
    /// time than have this much live data together, in bytes.
    pub move_bytes_max: u64,
    /// A log whose live data is at most a quarter of it is shortened from the front at the cost of
    /// moving what is live there (the entries of groups that lag); one that takes more than this, in bytes,
    /// already when its live data is at most half of it.
    pub log_bytes_max: u64,
    /// New segments are filled with zeros this far ahead of the end, in bytes, so that a sync need
    /// not write file system metadata.
    pub fill_ahead_bytes: u64,
    /// A file of this size is put by for a full disk, in bytes; 0: none. When there is no space for a new segment it is
    /// released, and no entries are taken until there is space for it again; terms, votes and compaction go on, in the
    /// space that became free, and so does whatever else frees space. Brought up to the length of a segment.
    pub reserve_bytes: u64,
    /// Anything that differs between data directories (their incarnation): makes the log's
    /// checksums unguessable for those who choose what is stored, and worthless in another
    /// directory.
    pub salt: u64,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            recycled_segments_max: 2,
            move_bytes_max: 4 << 20,
            log_bytes_max: 2 << 30,
            fill_ahead_bytes: 1 << 20,
            reserve_bytes: 0,
            salt: 0,
        }
    }
}

/// The durable [`LogStore`].
pub struct Wal {
    config: WalConfig,
    directory: SegmentDirectory,
    index: Arc<RwLock<Index>>,
    tail: Tail,
    queue: Vec<Queued>,
    /// Set once, by the first write or sync that fails.
    failed: Option<LogError>,
    cleaner: Cleaner,
    reserve: Reserve,
    stats: LogStats,
    report: RecoveryReport,
}

impl Wal {
    /// Opens the log in `directory`, creating it if there is none.
    ///
    /// # Errors
    /// `Damaged`: acknowledged data is not what was written, and it is more than entries of some groups (those
    /// are in [`GroupState::damaged`]). `Version`: files of another version.
    /// `NoSpace`, `Failed`: the disk does not take what opening has to write.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path, config: WalConfig) -> Result<Self, LogError> {
        let config = WalConfig { segment_bytes: config.segment_bytes.clamp(4096, 1 << 30), ..config };
        let (mut directory, numbers) =
            SegmentDirectory::open(disk, directory, config.segment_bytes, config.recycled_segments_max)?;
        let (tail, index, report) = if numbers.is_empty() {
            let header = SegmentHeader::first(config.salt, config.segment_bytes);
            let created = directory.create_segment(&header)?;
            let mut index = Index::default();
            index.add_segment(Arc::clone(&created.segment));
            (Tail::new(created, &header), index, RecoveryReport::default())
        } else {
            recovery::recover(&directory, &numbers)?
        };
        let reserve_bytes = match config.reserve_bytes {
            0 => 0,
            bytes => bytes.max(config.segment_bytes),
        };
        let reserve = Reserve::open(&directory, reserve_bytes)?;
        let mut wal = Self {
            config,
            directory,
            index: Arc::new(RwLock::new(index)),
            tail,
            queue: Vec::new(),
            failed: None,
            cleaner: Cleaner::Idle,
            reserve,
            stats: LogStats::default(),
            report,
        };
        wal.put_mark()?;
        Ok(wal)
    }

    /// What opening has found.
    #[must_use]
    pub const fn recovery(&self) -> RecoveryReport {
        self.report
    }
}

impl LogStore for Wal {
    fn groups(&self) -> Vec<GroupState> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).states()
    }

    fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
        self.queue.push(Queued { batch, must_sync, done });
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.flush_queue()
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(WalReader { index: Arc::clone(&self.index) })
    }

    fn set_low_on_space(&mut self, is_low: bool) {
        self.directory.is_low = is_low;
    }

    fn stats(&self) -> LogStats {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let segments = index.segments.values().map(|used| used.segment.bytes);
        LogStats {
            bytes_on_disk: segments.sum::<u64>() + self.directory.free_bytes() + self.reserve.held_bytes(),
            is_full: self.reserve.is_spent(),
            segments: index.segments.len() as u64,
            damaged_entries: index.rotten_entries(),
            ..self.stats
        }
    }
}
