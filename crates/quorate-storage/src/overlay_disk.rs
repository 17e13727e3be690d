//! Looking without touching: what is written goes to memory, and the disk below stays as it is.
//!
//! ```text
//!   a store that opens ── write ──► pages and names in memory ─┐
//!                    ◄─── read ─────────────────────────────── ┴◄── everything else: the disk below
//! ```
//!
//! * Opening a log cuts torn ends, makes missing files and syncs. Over this disk it can do all of that, and nobody
//!   sees it but the store.
//! * The lock is taken below, for looking: whoever uses the directory is noticed.
//! * Files below are opened when they are first asked for, and read when they are read.
//!
//! Not here: anything durable. The memory it takes is what the store writes, in whole pages.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile, DiskLock};

const PAGE_BYTES: usize = 4096;

/// A [`Disk`] over another one that it never changes.
#[derive(Clone)]
pub struct OverlayDisk {
    below: Arc<dyn Disk>,
    names: Arc<Mutex<Names>>,
}

#[derive(Default)]
struct Names {
    /// Files that were opened or made here; none: removed.
    files: BTreeMap<PathBuf, Option<OverlayFile>>,
    directories: BTreeSet<PathBuf>,
}

impl OverlayDisk {
    /// Looks at `below`.
    #[must_use]
    pub fn new(below: Arc<dyn Disk>) -> Self {
        Self { below, names: Arc::default() }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, names: &mut Names, path: &Path) -> io::Result<OverlayFile> {
        if let Some(known) = names.files.get(path) {
            return known.clone().ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let file = OverlayFile::over(self.below.open(path)?)?;
        names.files.insert(path.to_owned(), Some(file.clone()));
        Ok(file)
    }

    fn is_there(&self, names: &Names, path: &Path) -> io::Result<bool> {
        if names.directories.contains(path) {
            return Ok(true);
        }
        names.files.get(path).map_or_else(|| self.below.exists(path), |known| Ok(known.is_some()))
    }
}

impl Disk for OverlayDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut names = self.names();
        if self.is_there(&names, path)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = OverlayFile::default();
        names.files.insert(path.to_owned(), Some(file.clone()));
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.find(&mut self.names(), path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names();
        let file = self.find(&mut names, from)?;
        names.files.insert(from.to_owned(), None);
        names.files.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names();
        if !self.is_there(&names, path)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        names.files.insert(path.to_owned(), None);
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let names = self.names();
        let found = match self.below.list(directory) {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && names.directories.contains(directory) =>
            {
                Vec::new()
            }
            found => found?,
        };
        let mut found: BTreeSet<String> = found.into_iter().collect();
        let in_here = |path: &Path| {
            let is_here = path.parent() == Some(directory);
            path.file_name().filter(|_| is_here)?.to_str().map(str::to_owned)
        };
        for (path, known) in &names.files {
            match (in_here(path), known) {
                (Some(name), Some(_)) => drop(found.insert(name)),
                (Some(name), None) => drop(found.remove(&name)),
                (None, _) => {}
            }
        }
        found.extend(names.directories.iter().filter_map(|path| in_here(path)));
        Ok(found.into_iter().collect())
    }

    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        let above = directory.ancestors().filter(|path| !path.as_os_str().is_empty());
        self.names().directories.extend(above.map(Path::to_owned));
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.is_there(&self.names(), path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.below.lock_to_look(path)
    }
}

/// One file; all handles of it share it.
#[derive(Clone, Default)]
struct OverlayFile(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    below: Option<Box<dyn DiskFile>>,
    /// How much of the file below is still to be seen.
    below_bytes: u64,
    bytes: u64,
    /// What was written, by the number of the page.
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl OverlayFile {
    fn over(below: Box<dyn DiskFile>) -> io::Result<Self> {
        let bytes = below.size()?;
        let content = Content { below: Some(below), below_bytes: bytes, bytes, pages: BTreeMap::new() };
        Ok(Self(Arc::new(Mutex::new(content))))
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The page of `offset`, and where in it.
fn place(offset: u64) -> (u64, usize) {
    // Below a page.
    let within = usize::try_from(offset % PAGE_BYTES as u64).unwrap_or(0);
    (offset / PAGE_BYTES as u64, within)
}

impl Content {
    /// Fills `buffer` with what is below, and zeros where nothing is.
    fn read_below(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        buffer.fill(0);
        let left = usize::try_from(self.below_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        if let Some(below) = self.below.as_ref().filter(|_| count > 0) {
            below.read_at(&mut buffer[..count], offset)?;
        }
        Ok(())
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = buffer.len().min(left);
        let buffer = &mut buffer[..count];
        self.read_below(buffer, offset)?;
        let (first, within) = place(offset);
        let end = offset + count as u64;
        for (number, page) in self.pages.range(first..end.div_ceil(PAGE_BYTES as u64)) {
            let (from, at) = match usize::try_from((*number - first) * PAGE_BYTES as u64) {
                Ok(0) | Err(_) => (within, 0),
                Ok(start) => (0, start - within),
            };
            let length = (PAGE_BYTES - from).min(count - at);
            buffer[at..at + length].copy_from_slice(&page[from..from + length]);
        }
        Ok(count)
    }

    fn write(&mut self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        self.bytes = self.bytes.max(offset + bytes.len() as u64);
        while !bytes.is_empty() {
            let (number, within) = place(offset);
            let length = (PAGE_BYTES - within).min(bytes.len());
            if !self.pages.contains_key(&number) {
                let mut page = vec![0; PAGE_BYTES];
                self.read_below(&mut page, number * PAGE_BYTES as u64)?;
                self.pages.insert(number, page.into_boxed_slice());
            }
            if let Some(page) = self.pages.get_mut(&number) {
                page[within..within + length].copy_from_slice(&bytes[..length]);
            }
            bytes = &bytes[length..];
            offset += length as u64;
        }
        Ok(())
    }

    fn resize(&mut self, bytes: u64) {
        if bytes < self.bytes {
            let (number, within) = place(bytes);
            self.below_bytes = self.below_bytes.min(bytes);
            drop(self.pages.split_off(&(number + 1)));
            // What is cut off does not come back with a later extension.
            if let Some(page) = self.pages.get_mut(&number) {
                page[within..].fill(0);
            }
        }
        self.bytes = bytes;
    }
}

impl DiskFile for OverlayFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.content().read(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.content().write(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.content().bytes)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.content().resize(size);
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let mut content = self.content();
        content.bytes = content.bytes.max(size);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem_disk::MemDisk;

    fn read(disk: &dyn Disk, path: &str) -> Vec<u8> {
        let file = disk.open(Path::new(path)).unwrap();
        let mut bytes = vec![0xEE; usize::try_from(file.size().unwrap()).unwrap() + 10];
        let found = file.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(found);
        bytes
    }

    #[test]
    fn names_change_above_and_not_below() {
        let below = MemDisk::new();
        below.create_dir_all(Path::new("a")).unwrap();
        for name in ["a/kept", "a/moved", "a/removed"] {
            below.create(Path::new(name)).unwrap().write_at(name.as_bytes(), 0).unwrap();
        }
        let above = OverlayDisk::new(Arc::new(below.clone()));
        above.rename(Path::new("a/moved"), Path::new("a/here")).unwrap();
        above.remove(Path::new("a/removed")).unwrap();
        above.create(Path::new("a/new")).unwrap();
        above.create_dir_all(Path::new("a/b/c")).unwrap();
        assert_eq!(above.list(Path::new("a")).unwrap(), ["b", "here", "kept", "new"]);
        assert_eq!(above.list(Path::new("a/b")).unwrap(), ["c"]);
        assert_eq!(read(&above, "a/here"), b"a/moved");
        assert!(!above.exists(Path::new("a/removed")).unwrap());
        let again = above.create(Path::new("a/kept")).map(drop).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        above.create(Path::new("a/removed")).unwrap();
        assert_eq!(read(&above, "a/removed"), b"");
        assert_eq!(below.list(Path::new("a")).unwrap(), ["kept", "moved", "removed"]);
    }

    /// Every write, cut and extension at odd places, compared with a plain vector.
    #[test]
    fn content_is_that_of_a_file_that_was_written() {
        let below = MemDisk::new();
        let original: Vec<u8> = (0..20_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        below.create(Path::new("f")).unwrap().write_at(&original, 0).unwrap();
        let above = OverlayDisk::new(Arc::new(below.clone()));
        let file = above.open(Path::new("f")).unwrap();
        let mut expected = original.clone();
        let steps = [
            (4_090, 20, 0),
            (8_192, 4_096, 0),
            (0, 0, 9_000),
            (8_990, 5, 0),
            (0, 0, 25_000),
            (19_999, 9_000, 0),
            (3, 1, 0),
            (0, 0, 4_096),
            (0, 0, 4_097),
        ];
        for (round, (offset, length, size)) in steps.into_iter().enumerate() {
            let bytes = vec![u8::try_from(round).unwrap() + 100; length];
            if length == 0 {
                file.set_size(size).unwrap();
                expected.resize(usize::try_from(size).unwrap(), 0);
            } else {
                file.write_at(&bytes, offset).unwrap();
                let end = usize::try_from(offset).unwrap() + length;
                expected.resize(expected.len().max(end), 0);
                expected[end - length..end].copy_from_slice(&bytes);
            }
            assert!(read(&above, "f") == expected, "after step {round}");
            for offset in [1, 4_095, 4_096, 8_191, 12_288] {
                let mut piece = [0xEE; 4_200];
                let found = file.read_at(&mut piece, offset as u64).unwrap();
                let rest = expected.get(offset..).unwrap_or_default();
                assert!(piece[..found] == rest[..found] && found == rest.len().min(4_200), "at {offset}");
            }
        }
        assert!(read(&below, "f") == original);
    }
}
