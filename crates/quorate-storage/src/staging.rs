//! `Staging`: bytes that are on their way and may never become anything.
//!
//! ```text
//!   stage(group, 7) ──► write_at … ──► sync ──► read_at …        survives a crash as far as it was synced
//!                                        └──► discard ──► gone with its last handle
//!   start ──► clear_staged(group, keep) ──► what nobody remembers is gone
//! ```
//!
//! * No part of a snapshot or of the log: whoever stages something notes elsewhere, durably, what of it counts.
//! * No checksums: whoever reads it knows what it must be.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_core::GroupId;

use crate::disk::{Disk, DiskFile};
use crate::error::SnapshotError;

/// A place for bytes that are on their way. Handles share it; dropping them leaves it as it is.
#[expect(clippy::missing_errors_doc, reason = "SnapshotError says it for all")]
pub trait Staging: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError>;
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, SnapshotError>;
    /// What was written survives a crash, if `is_durable`.
    fn sync(&self) -> Result<(), SnapshotError>;
    /// Whether it outlives the process at all.
    fn is_durable(&self) -> bool;
    /// Nobody needs it any more: it is removed when the last handle is dropped, or by the next `clear_staged`.
    fn discard(&self);
}

/// A [`Staging`] that lives in memory and dies with its last handle.
#[derive(Default)]
pub struct MemStaging {
    bytes: Mutex<Vec<u8>>,
}

impl MemStaging {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staging for MemStaging {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let mut there = self.bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = from.saturating_add(bytes.len());
        if there.len() < end {
            there.resize(end, 0);
        }
        there[from..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, SnapshotError> {
        let there = self.bytes();
        let rest = usize::try_from(offset).ok().and_then(|from| there.get(from..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn discard(&self) {}
}

const SUFFIX: &str = ".staged";

/// Opens what is staged under this name, or begins it.
pub(crate) fn stage(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    group: GroupId,
    name: u64,
) -> Result<Arc<dyn Staging>, SnapshotError> {
    let path = directory.join(format!("{:020}-{name:020}{SUFFIX}", group.0));
    let opening = |source| failed("opening", &path, source);
    let is_there = disk.exists(&path).map_err(opening)?;
    let file = if is_there { disk.open(&path) } else { disk.create(&path) }.map_err(opening)?;
    Ok(Arc::new(FileStaging {
        disk: Arc::clone(disk),
        directory: directory.to_owned(),
        path,
        file,
        is_named: AtomicBool::new(false),
        is_discarded: AtomicBool::new(false),
    }))
}

/// Removes what is staged for `group`, except `keep`. A crash may bring back what is removed; the next start removes
/// it again.
pub(crate) fn clear(
    disk: &dyn Disk,
    directory: &Path,
    group: GroupId,
    keep: Option<u64>,
) -> Result<(), SnapshotError> {
    let listed = disk.list(directory).map_err(|source| failed("listing", directory, source))?;
    for name in listed {
        if staged_as(&name).is_some_and(|(of, name)| of == group && Some(name) != keep) {
            let path = directory.join(&name);
            disk.remove(&path).map_err(|source| failed("removing", &path, source))?;
        }
    }
    Ok(())
}

fn staged_as(file: &str) -> Option<(GroupId, u64)> {
    let (group, name) = file.strip_suffix(SUFFIX)?.split_once('-')?;
    Some((GroupId(group.parse().ok()?), name.parse().ok()?))
}

/// A file of its own.
struct FileStaging {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// The name is durable.
    is_named: AtomicBool,
    is_discarded: AtomicBool,
}

impl Staging for FileStaging {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_at(bytes, offset).map_err(|source| failed("writing", &self.path, source))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, SnapshotError> {
        self.file.read_at(buffer, offset).map_err(|source| failed("reading", &self.path, source))
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        self.file.sync_data().map_err(|source| failed("syncing", &self.path, source))?;
        if !self.is_named.load(Ordering::Acquire) {
            let synced = self.disk.sync_dir(&self.directory);
            synced.map_err(|source| failed("syncing", &self.directory, source))?;
            self.is_named.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn discard(&self) {
        self.is_discarded.store(true, Ordering::Release);
    }
}

impl Drop for FileStaging {
    fn drop(&mut self) {
        if self.is_discarded.load(Ordering::Acquire) {
            // If this fails, the next start does it.
            drop(self.disk.remove(&self.path));
        }
    }
}

fn failed(doing: &str, path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Io { context: format!("{doing} {}", path.display()), source: Arc::new(source) }
}
