//! The real disk: files under one root directory.
//!
//! Durability is what the operating system gives: `fdatasync` for data (on macOS the standard
//! library asks for a full flush), `fsync` of the directory for names. Space is reserved with
//! `fallocate` on Linux; elsewhere, and on file systems without it, by writing zeros.
//!
//! Not here: retries. An error of a write or a sync is handed up and stops the node.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile, DiskLock, DiskSpace};

/// How much is written at once where zeros have to be written.
const ZEROS_BYTES: usize = 64 * 1024;

/// Files below a root directory.
#[derive(Clone, Debug)]
pub struct OsDisk {
    root: PathBuf,
    is_read_only: bool,
}

impl OsDisk {
    /// A disk whose paths are relative to `root`, which is created by the first `create_dir_all`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), is_read_only: false }
    }

    /// The same, but nothing can be changed through it: every attempt fails with `ReadOnlyFilesystem`. For looking
    /// at a directory that another process may be using.
    #[must_use]
    pub fn read_only(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), is_read_only: true }
    }

    fn refuse_changes(&self) -> io::Result<()> {
        if self.is_read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    fn at(&self, path: &Path) -> PathBuf {
        // Joining an empty path would add a slash at the end.
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl Disk for OsDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.refuse_changes()?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.at(path))?;
        Ok(Box::new(OsFile { file }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(!self.is_read_only).open(self.at(path))?;
        Ok(Box::new(OsFile { file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.refuse_changes()?;
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.refuse_changes()?;
        fs::remove_file(self.at(path))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at(directory))? {
            // Names that are not UTF-8 are not ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Also syncs the parent of every directory it creates: a data directory that disappears in a
    /// power failure would take everything in it along.
    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.refuse_changes()?;
        let target = self.at(directory);
        let missing: Vec<&Path> =
            target.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir()).collect();
        for path in missing.into_iter().rev() {
            match fs::create_dir(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
                Err(error) => return Err(error),
            }
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                Some(_) | None => Path::new("."),
            };
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        File::open(self.at(directory))?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.at(path).try_exists()
    }

    /// What users without privileges may still write: some file systems keep a part for the others.
    fn space(&self, directory: &Path) -> io::Result<Option<DiskSpace>> {
        let found = rustix::fs::statvfs(self.at(directory))?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let space = DiskSpace { free_bytes: bytes(found.f_bavail), total_bytes: bytes(found.f_blocks) };
        // Some file systems do not say.
        Ok((space.total_bytes > 0).then_some(space))
    }

    /// Writes the process id into the file, so that whoever is refused can say who holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.refuse_changes()?;
        let path = self.at(path);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Some(Box::new(OsLock { _file: Some(file) })))
    }

    /// Several may look at a time; a process that takes the lock meanwhile is refused. Where there is no lock file
    /// nobody has ever held it.
    fn lock_to_look(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let file = match File::open(self.at(path)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        match file.as_ref().map_or(Ok(()), File::try_lock_shared) {
            Ok(()) => Ok(Some(Box::new(OsLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The lock ends when the file is closed.
struct OsLock {
    _file: Option<File>,
}

impl DiskLock for OsLock {}

struct OsFile {
    file: File,
}

impl DiskFile for OsFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    #[cfg(target_os = "linux")]
    fn write_parts_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        // Linux takes at most 1024 parts in one call.
        const PARTS_MAX: usize = 1024;
        let mut parts = parts.to_vec();
        let mut rest: &mut [IoSlice<'_>] = &mut parts;
        let mut at = offset;
        // Empty parts at the front would make a write of 0 bytes look like a full disk.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let count = match rustix::io::pwritev(&self.file, &rest[..rest.len().min(PARTS_MAX)], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            at += count as u64;
            IoSlice::advance_slices(&mut rest, count);
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn write_parts_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        // One call is worth one copy: the parts of a batch are small.
        let joined: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.file.write_all_at(&joined, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            use rustix::io::Errno;
            match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, size) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.write_zeros_up_to(size)
    }
}

impl OsFile {
    /// The plain way to reserve space: write over everything beyond the current end.
    fn write_zeros_up_to(&self, size: u64) -> io::Result<()> {
        let zeros = vec![0_u8; ZEROS_BYTES];
        let mut at = self.size()?;
        while at < size {
            let count = usize::try_from(size - at).unwrap_or(usize::MAX).min(zeros.len());
            self.file.write_all_at(&zeros[..count], at)?;
            at += count as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, OsDisk) {
        let directory = tempfile::tempdir().unwrap();
        let disk = OsDisk::new(directory.path().join("data"));
        disk.create_dir_all(Path::new("")).unwrap();
        (directory, disk)
    }

    #[test]
    fn parts_are_written_one_after_the_other_even_very_many() {
        let (_directory, disk) = disk();
        let file = disk.create(Path::new("f")).unwrap();
        let expected: Vec<u8> = (0..5000_u32).flat_map(|n| n.to_le_bytes()).collect();
        let mut parts: Vec<IoSlice<'_>> = expected.chunks(3).map(IoSlice::new).collect();
        parts.insert(0, IoSlice::new(&[]));
        file.write_parts_at(&parts, 7).unwrap();
        let mut found = vec![0; expected.len() + 10];
        assert_eq!(file.read_at(&mut found, 7).unwrap(), expected.len());
        assert_eq!(&found[..expected.len()], &expected[..]);
    }

    #[test]
    fn reserved_space_reads_as_zeros() {
        let (_directory, disk) = disk();
        for (name, plain) in [("a", false), ("b", true)] {
            let path = Path::new(name);
            let file = OsFile {
                file: OpenOptions::new().read(true).write(true).create_new(true).open(disk.at(path)).unwrap(),
            };
            file.write_at(b"x", 0).unwrap();
            let size = 200_001;
            if plain {
                file.write_zeros_up_to(size).unwrap()
            } else {
                file.allocate(size).unwrap()
            }
            assert_eq!(file.size().unwrap(), size);
            let mut bytes = vec![1; 200_001];
            assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 200_001);
            assert_eq!(bytes[0], b'x');
            assert!(bytes[1..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn second_holder_of_a_lock_is_refused_until_the_first_lets_go() {
        let (_directory, disk) = disk();
        let path = Path::new("LOCK");
        assert!(!disk.is_locked(path).unwrap());
        let first = disk.lock(path).unwrap();
        assert!(first.is_some());
        assert!(disk.lock(path).unwrap().is_none());
        assert!(disk.is_locked(path).unwrap());
        drop(first);
        assert!(!disk.is_locked(path).unwrap());
        assert!(disk.lock(path).unwrap().is_some());
    }

    #[test]
    fn nothing_changes_through_a_disk_for_reading() {
        let (_directory, disk) = disk();
        disk.create(Path::new("a")).unwrap().write_at(b"x", 0).unwrap();
        let reading = OsDisk::read_only(&disk.root);
        let file = reading.open(Path::new("a")).unwrap();
        assert_eq!(file.size().unwrap(), 1);
        assert!(file.write_at(b"y", 0).is_err() && file.set_size(0).is_err());
        let refused = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        };
        refused(reading.create(Path::new("b")).map(drop));
        refused(reading.rename(Path::new("a"), Path::new("b")));
        refused(reading.remove(Path::new("a")));
        refused(reading.create_dir_all(Path::new("c")));
        refused(reading.lock(Path::new("LOCK")).map(drop));
        assert_eq!(disk.list(Path::new("")).unwrap(), ["a"]);
    }

    #[test]
    fn several_look_at_a_time_but_nobody_while_it_is_held() {
        let (_directory, disk) = disk();
        let path = Path::new("LOCK");
        assert!(disk.lock_to_look(path).unwrap().is_some());
        assert!(!disk.exists(path).unwrap(), "looking makes nothing");
        let held = disk.lock(path).unwrap();
        assert!(disk.lock_to_look(path).unwrap().is_none());
        drop(held);
        let (first, second) = (disk.lock_to_look(path).unwrap(), disk.lock_to_look(path).unwrap());
        assert!(first.is_some() && second.is_some());
        assert!(disk.lock(path).unwrap().is_none());
    }

    #[test]
    fn names_are_listed_sorted_and_created_once() {
        let (_directory, disk) = disk();
        disk.create_dir_all(Path::new("x/y")).unwrap();
        disk.create_dir_all(Path::new("x/y")).unwrap();
        for name in ["x/c", "x/a", "x/b"] {
            disk.create(Path::new(name)).unwrap();
        }
        let again = disk.create(Path::new("x/a")).map(drop).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.list(Path::new("x")).unwrap(), ["a", "b", "c", "y"]);
        disk.rename(Path::new("x/a"), Path::new("x/d")).unwrap();
        disk.remove(Path::new("x/b")).unwrap();
        disk.sync_dir(Path::new("x")).unwrap();
        assert!(disk.exists(Path::new("x/d")).unwrap());
        assert!(!disk.exists(Path::new("x/a")).unwrap());
    }
}
