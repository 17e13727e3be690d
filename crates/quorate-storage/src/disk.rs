//! The seam under everything that touches files. The product uses `OsDisk`; the simulator a
//! virtual disk that forgets what was not synced. Paths are relative to the data directory.
//!
//! Contract: a write is durable after `sync_data` of its file returned `Ok`; a name (created,
//! renamed, removed) is durable after `sync_dir` of its directory returned `Ok`. After any error of
//! a write or a sync nothing is known about the file, and the caller must stop (fsyncgate).

use std::io;
use std::path::Path;

/// A directory tree that one process owns.
#[expect(clippy::missing_errors_doc, reason = "every operation fails with what the system says")]
pub trait Disk: Send + Sync {
    /// Creates a new file, empty. Fails with `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Renames, replacing `to` if it exists. Durable after `sync_dir` of both directories.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted, without `.` and `..`.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory and its parents; no error if it exists.
    fn create_dir_all(&self, directory: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;
    /// Whether a file or directory of that name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// The room of the file system that a directory is on; `None` if that has no end, or cannot be known.
    fn space(&self, _directory: &Path) -> io::Result<Option<DiskSpace>> {
        Ok(None)
    }
    /// Takes the exclusive lock file `path`, created if missing. `None`: another holder lives. The
    /// lock ends when the value is dropped or the process dies.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;
    /// The same lock for somebody who only looks: excludes holders of `lock`, and changes nothing.
    fn lock_to_look(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.lock(path)
    }
    /// Whether the lock file `path` has a holder. Changes nothing if it has.
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        Ok(self.lock_to_look(path)?.is_none())
    }
}

/// How much room a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// What can still be written, in bytes.
    pub free_bytes: u64,
    /// How large it is, in bytes.
    pub total_bytes: u64,
}

/// Makes `bytes` the content of the file `path`, durably: after a crash or an error the file is there whole or as it
/// was. They are written under a temporary name first, so that nothing depends on what a failed attempt left.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("tmp");
    if disk.exists(&new)? {
        disk.remove(&new)?;
    }
    let file = disk.create(&new)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    disk.rename(&new, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("")))
}

/// A lock that is held while this value lives.
pub trait DiskLock: Send + Sync {}

/// An open file. Positions are explicit, so that readers and the writer share it.
#[expect(clippy::missing_errors_doc, reason = "every operation fails with what the system says")]
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Writes all `parts` one after the other at `offset` (vectored where the system can).
    fn write_parts_at(&self, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut at = offset;
        for part in parts {
            self.write_at(part, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }
    /// Makes written data (and the size needed to read it) durable.
    fn sync_data(&self) -> io::Result<()>;
    /// The size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) to `size`.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Reserves space up to `size` so that later writes cannot run out of it; extends with zeros.
    fn allocate(&self, size: u64) -> io::Result<()>;
}
