//! Space put by for a full disk: a file that is there only to be given up.
//!
//! ```text
//!   held ──── no space for a segment ────► spent: entries are refused, promises and compaction go on
//!     ▲                                      │    in the space that became free; snapshots use it, too
//!     └── there is space for it again ───────┘
//! ```
//!
//! * While it is spent the log takes no entries, so that what it freed is left for what makes room: snapshots, then
//!   compaction, then dropping segments.
//! * It is taken back before entries are taken again: whoever freed just a little does not make the log swing
//!   to and fro.
//! * Nothing in it means anything. A build that knows nothing of it leaves it alone.

use std::path::PathBuf;

use super::segment::{SegmentDirectory, failed, failed_or_full};
use crate::error::LogError;

/// Its file, next to the segments.
pub(super) const NAME: &str = "reserve";

/// The reserve of one log.
pub(super) struct Reserve {
    /// 0: there is none.
    bytes: u64,
    is_held: bool,
}

impl Reserve {
    /// Takes the reserve if there is space, and gives one up that is not wanted any more.
    pub(super) fn open(directory: &SegmentDirectory, bytes: u64) -> Result<Self, LogError> {
        let mut reserve = Self { bytes, is_held: false };
        let path = path_of(directory);
        let exists = directory.disk.exists(&path).map_err(|source| failed("looking for", &path, source))?;
        if bytes > 0 {
            reserve.hold(directory)?;
        } else if exists {
            reserve.is_held = true;
            reserve.release(directory)?;
        }
        Ok(reserve)
    }

    /// Takes the space; `false` if there is not enough.
    pub(super) fn hold(&mut self, directory: &SegmentDirectory) -> Result<bool, LogError> {
        let path = path_of(directory);
        let disk = &directory.disk;
        let taken = disk.exists(&path).and_then(|exists| {
            let file = if exists { disk.open(&path)? } else { disk.create(&path)? };
            if file.size()? > self.bytes {
                file.set_size(self.bytes)?;
            }
            file.allocate(self.bytes)
        });
        match taken.map_err(|source| failed_or_full("reserving", &path, source)) {
            Ok(()) => self.is_held = true,
            Err(LogError::NoSpace { .. }) => {
                // Part of it may have been taken.
                self.is_held = true;
                self.release(directory)?;
            }
            Err(error) => return Err(error),
        }
        Ok(self.is_held)
    }

    /// Gives the space up, if it is held.
    pub(super) fn release(&mut self, directory: &SegmentDirectory) -> Result<(), LogError> {
        if self.is_held {
            let path = path_of(directory);
            self.is_held = false;
            let removed =
                directory.disk.remove(&path).and_then(|()| directory.disk.sync_dir(&directory.directory));
            removed.map_err(|source| failed("releasing", &path, source))?;
        }
        Ok(())
    }

    /// It was given up: nothing but what makes room is written.
    pub(super) const fn is_spent(&self) -> bool {
        self.bytes > 0 && !self.is_held
    }

    pub(super) const fn held_bytes(&self) -> u64 {
        if self.is_held { self.bytes } else { 0 }
    }
}

fn path_of(directory: &SegmentDirectory) -> PathBuf {
    directory.directory.join(NAME)
}
