//! A disk in memory that forgets what was not synced, tears writes and fails on demand.
//!
//!   write ─► current bytes (what reads see) ── sync_data ─► durable bytes
//!   create, rename, remove ─► current names ── sync_dir ──► durable names
//!
//! * `crash(seed)` keeps of every unsynced write an arbitrary set of 512-byte sectors, of every
//!   unsynced name change an arbitrary subset; handles from before the crash are dead afterwards.
//! * A sector is atomic: it holds what some prefix of the writes to it left there.
//! * Directories themselves are durable at once (a simplification).
//! * A fault is injected at the n-th operation that changes something, counted from creation.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile, DiskLock, DiskSpace};

/// The unit that reaches the disk whole or not at all, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// What happens at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The power fails: this and every later operation fails until [`MemDisk::crash`].
    PowerFailure,
    /// The operation fails with an I/O error, once. A failed sync drops what it should have made
    /// durable and reports nothing ever after, as Linux does.
    Error,
    /// Like `Error`, but only if the operation syncs the data of a file; others succeed. (A file
    /// system that cannot sync names has lost its journal and takes no more writes.)
    SyncError,
    /// The operation fails because the disk is full, once (only where space is needed; others
    /// succeed).
    NoSpace,
}

/// An in-memory [`Disk`] with faults. Clones share the same disk.
#[derive(Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    files: Vec<FileState>,
    directories: std::collections::BTreeSet<PathBuf>,
    current: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    /// Name changes not synced yet, oldest first.
    changes: Vec<NameChange>,
    locks: std::collections::BTreeSet<PathBuf>,
    /// Raised by every crash; handles of an older life are dead.
    life: u64,
    operations: u64,
    faults: BTreeMap<u64, DiskFault>,
    dark: bool,
    /// Space for file contents, in bytes, if limited.
    capacity_bytes: Option<u64>,
}

#[derive(Clone, Default)]
struct FileState {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone)]
enum Pending {
    Write { offset: u64, bytes: Vec<u8> },
    Size(u64),
}

/// One atomic change of names: each name and the file it then stands for.
#[derive(Clone)]
struct NameChange {
    set: Vec<(PathBuf, Option<usize>)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Space,
    Sync,
    Nothing,
}

/// A small generator (SplitMix64), so that a seed decides everything.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// How much of what was not synced survives.
#[derive(Clone, Copy)]
enum Survival {
    Nothing,
    Everything,
    Some,
}

impl Survival {
    fn keeps(self, chance: &mut Chance) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Some => chance.next() & 1 == 1,
        }
    }
    /// How many of `count` writes to a sector reached it.
    fn prefix(self, count: u64, chance: &mut Chance) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Everything => count,
            Self::Some => chance.below(count + 1),
        }
    }
}

impl MemDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many changing operations were asked for so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Injects `fault` at the operation that is number `operation`, counted from 0.
    pub fn fail_at(&self, operation: u64, fault: DiskFault) {
        self.state().faults.insert(operation, fault);
    }

    /// Limits the space for file contents; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Fails the power and restores it: of what was not synced, `seed` decides what survives (seeds
    /// divisible by 4 keep nothing, those one above everything). Injected faults are cleared.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state();
        let state = &mut *state;
        let mut chance = Chance(seed);
        let survival = match seed % 4 {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            _ => Survival::Some,
        };
        for file in &mut state.files {
            file.crash(survival, &mut chance);
        }
        for change in std::mem::take(&mut state.changes) {
            if survival.keeps(&mut chance) {
                change.apply(&mut state.durable);
            }
        }
        state.current = state.durable.clone();
        state.locks.clear();
        state.faults.clear();
        state.life += 1;
        state.dark = false;
    }

    /// A copy of the disk with all that is not durable yet: to try several crashes at one moment.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.state().clone())) }
    }

    /// A copy of what is on the disk now as if it were all durable (to try several endings).
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.state();
        let files = state.files.iter().map(|file| FileState {
            current: file.current.clone(),
            durable: file.current.clone(),
            pending: Vec::new(),
        });
        let copy = State {
            files: files.collect(),
            directories: state.directories.clone(),
            current: state.current.clone(),
            durable: state.current.clone(),
            ..State::default()
        };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// The contents of a file.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.files.get(*state.current.get(path)?)?.current.clone())
    }

    /// Replaces the contents of a file, durably: damage done behind everybody's back.
    pub fn overwrite(&self, path: &Path, contents: Vec<u8>) {
        let mut state = self.state();
        let found = state.current.get(path).copied();
        let file = found.unwrap_or(state.files.len());
        let contents = FileState { current: contents.clone(), durable: contents, pending: Vec::new() };
        match state.files.get_mut(file) {
            Some(slot) => *slot = contents,
            None => state.files.push(contents),
        }
        state.current.insert(path.to_owned(), file);
        state.durable.insert(path.to_owned(), file);
    }
}

impl State {
    /// Counts a changing operation, and fails if a fault was asked for here.
    fn begin(&mut self, need: Need) -> io::Result<()> {
        if self.dark {
            return Err(power_failure());
        }
        let operation = self.operations;
        self.operations += 1;
        match (self.faults.remove(&operation), need) {
            (Some(DiskFault::PowerFailure), _) => {
                self.dark = true;
                Err(power_failure())
            }
            (Some(DiskFault::Error), _) => Err(io::Error::other("injected error")),
            (Some(DiskFault::NoSpace), Need::Space) => Err(io::ErrorKind::StorageFull.into()),
            (Some(DiskFault::SyncError), Need::Sync) => Err(io::Error::other("injected error")),
            (Some(DiskFault::NoSpace), Need::Nothing | Need::Sync)
            | (Some(DiskFault::SyncError), Need::Nothing | Need::Space)
            | (None, _) => Ok(()),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.current
            .values()
            .filter_map(|file| self.files.get(*file))
            .map(|file| file.current.len() as u64)
            .sum()
    }

    /// Fails if growing a file by `more` bytes does not fit.
    fn reserve(&self, more: u64) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if more > 0 && self.used_bytes() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn change(&mut self, set: Vec<(PathBuf, Option<usize>)>) {
        let change = NameChange { set };
        change.apply(&mut self.current);
        self.changes.push(change);
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.current.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn require_directory(&self, directory: &Path) -> io::Result<()> {
        if directory.as_os_str().is_empty() || self.directories.contains(directory) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

fn power_failure() -> io::Error {
    io::Error::other("the power failed")
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        for (path, file) in &self.set {
            match file {
                Some(file) => names.insert(path.clone(), *file),
                None => names.remove(path),
            };
        }
    }

    fn touches(&self, directory: &Path) -> bool {
        self.set.iter().any(|(path, _)| parent(path) == directory)
    }
}

impl FileState {
    fn write(&mut self, bytes: &[u8], offset: u64) {
        overlay(&mut self.current, bytes, offset);
        self.pending.push(Pending::Write { offset, bytes: bytes.to_vec() });
    }

    fn set_size(&mut self, size: u64) {
        resize(&mut self.current, size);
        self.pending.push(Pending::Size(size));
    }

    fn sync(&mut self) {
        for pending in self.pending.drain(..) {
            match pending {
                Pending::Write { offset, bytes } => overlay(&mut self.durable, &bytes, offset),
                Pending::Size(size) => resize(&mut self.durable, size),
            }
        }
    }

    /// Per sector, some prefix of the writes to it survives; size changes survive or not.
    fn crash(&mut self, survival: Survival, chance: &mut Chance) {
        let mut writes_by_sector: BTreeMap<u64, u64> = BTreeMap::new();
        for pending in &self.pending {
            if let Pending::Write { offset, bytes } = pending {
                for sector in sectors(*offset, bytes.len() as u64) {
                    *writes_by_sector.entry(sector).or_default() += 1;
                }
            }
        }
        for count in writes_by_sector.values_mut() {
            *count = survival.prefix(*count, chance);
        }
        for pending in std::mem::take(&mut self.pending) {
            match pending {
                Pending::Size(size) => {
                    if survival.keeps(chance) {
                        resize(&mut self.durable, size);
                    }
                }
                Pending::Write { offset, bytes } => {
                    for sector in sectors(offset, bytes.len() as u64) {
                        let left = writes_by_sector.entry(sector).or_default();
                        if *left > 0 {
                            *left -= 1;
                            let start = (sector * SECTOR_BYTES).max(offset);
                            let end = ((sector + 1) * SECTOR_BYTES).min(offset + bytes.len() as u64);
                            let part = &bytes[index(start - offset)..index(end - offset)];
                            overlay(&mut self.durable, part, start);
                        }
                    }
                }
            }
        }
        self.current = self.durable.clone();
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn sectors(offset: u64, length: u64) -> std::ops::Range<u64> {
    if length == 0 { 0..0 } else { offset / SECTOR_BYTES..(offset + length).div_ceil(SECTOR_BYTES) }
}

fn resize(contents: &mut Vec<u8>, size: u64) {
    contents.resize(index(size), 0);
}

fn overlay(contents: &mut Vec<u8>, bytes: &[u8], offset: u64) {
    let (start, end) = (index(offset), index(offset) + bytes.len());
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[start..end].copy_from_slice(bytes);
}

impl Disk for MemDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.begin(Need::Space)?;
        state.require_directory(parent(path))?;
        if state.current.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(FileState::default());
        state.change(vec![(path.to_owned(), Some(file))]);
        Ok(Box::new(MemFile { disk: self.clone(), file, life: state.life }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        if state.dark {
            return Err(power_failure());
        }
        let file = state.find(path)?;
        Ok(Box::new(MemFile { disk: self.clone(), file, life: state.life }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Need::Nothing)?;
        state.require_directory(parent(to))?;
        let file = state.find(from)?;
        state.change(vec![(from.to_owned(), None), (to.to_owned(), Some(file))]);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Need::Nothing)?;
        state.find(path)?;
        state.change(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        if state.dark {
            return Err(power_failure());
        }
        state.require_directory(directory)?;
        let below = state.current.keys().chain(&state.directories);
        let mut names: Vec<String> = below
            .filter(|path| parent(path) == directory && !path.as_os_str().is_empty())
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.dark {
            return Err(power_failure());
        }
        for path in directory.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            state.directories.insert(path.to_owned());
        }
        Ok(())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state();
        let began = state.begin(Need::Nothing);
        if state.dark {
            return began;
        }
        let (synced, rest) =
            std::mem::take(&mut state.changes).into_iter().partition(|change| change.touches(directory));
        state.changes = rest;
        let synced: Vec<NameChange> = synced;
        began?;
        for change in synced {
            change.apply(&mut state.durable);
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        if state.dark {
            return Err(power_failure());
        }
        Ok(state.current.contains_key(path) || state.directories.contains(path))
    }

    fn space(&self, _directory: &Path) -> io::Result<Option<DiskSpace>> {
        let state = self.state();
        Ok(state.capacity_bytes.map(|total_bytes| DiskSpace {
            free_bytes: total_bytes.saturating_sub(state.used_bytes()),
            total_bytes,
        }))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut state = self.state();
        state.begin(Need::Nothing)?;
        if !state.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemLock { disk: self.clone(), path: path.to_owned(), life: state.life })))
    }
}

struct MemLock {
    disk: MemDisk,
    path: PathBuf,
    life: u64,
}

impl DiskLock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

struct MemFile {
    disk: MemDisk,
    file: usize,
    life: u64,
}

impl MemFile {
    /// Runs `act` on this file if its life has not ended.
    fn with<T>(&self, act: impl FnOnce(&mut State, usize) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.life != self.life || state.dark {
            return Err(power_failure());
        }
        act(&mut state, self.file)
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        self.with(|state, file| {
            state.begin(Need::Space)?;
            let now = state.files[file].current.len() as u64;
            state.reserve(size.saturating_sub(now))?;
            state.files[file].set_size(size);
            Ok(())
        })
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state, file| {
            let contents = &state.files[file].current;
            let start = index(offset).min(contents.len());
            let count = buffer.len().min(contents.len() - start);
            buffer[..count].copy_from_slice(&contents[start..start + count]);
            Ok(count)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state, file| {
            let began = state.begin(Need::Space);
            if state.dark {
                // The write was on its way when the power failed.
                state.files[file].write(bytes, offset);
            }
            began?;
            let end = offset + bytes.len() as u64;
            state.reserve(end.saturating_sub(state.files[file].current.len() as u64))?;
            state.files[file].write(bytes, offset);
            Ok(())
        })
    }

    fn write_parts_at(&self, parts: &[io::IoSlice<'_>], offset: u64) -> io::Result<()> {
        let joined: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.write_at(&joined, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, file| {
            let began = state.begin(Need::Sync);
            if began.is_err() && !state.dark {
                // The pages are marked clean although they never reached the disk.
                state.files[file].pending.clear();
            }
            began?;
            state.files[file].sync();
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|state, file| Ok(state.files[file].current.len() as u64))
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.grow(size)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let now = self.size()?;
        self.grow(size.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "d/f";

    /// A disk with one durable file of four sectors of `.`.
    fn disk() -> (MemDisk, Box<dyn DiskFile>) {
        let disk = MemDisk::new();
        disk.create_dir_all(Path::new("d")).unwrap();
        let file = disk.create(Path::new(FILE)).unwrap();
        file.write_at(&[b'.'; 4 * 512], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        (disk, file)
    }

    /// The first byte of each sector.
    fn sectors(disk: &MemDisk) -> String {
        let contents = disk.contents(Path::new(FILE)).unwrap();
        contents.chunks(512).map(|sector| char::from(sector[0])).collect()
    }

    #[test]
    fn a_crash_keeps_any_sectors_of_what_was_not_synced() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..400 {
            let (disk, file) = disk();
            file.write_at(&[b'a'; 4 * 512], 0).unwrap();
            file.write_at(&[b'b'; 512], 512).unwrap();
            assert_eq!(sectors(&disk), "abaa", "reads see everything");
            disk.crash(seed);
            seen.insert(sectors(&disk));
        }
        // Each sector is old or new, the second one also in between.
        assert_eq!(seen.len(), 2 * 3 * 2 * 2);
    }

    #[test]
    fn synced_data_and_names_survive_and_handles_do_not() {
        let (disk, file) = disk();
        file.write_at(&[b'a'; 512], 0).unwrap();
        file.sync_data().unwrap();
        disk.crash(0);
        assert_eq!(sectors(&disk), "a...");
        assert!(file.write_at(b"x", 0).is_err(), "a handle from before the crash is dead");
        disk.rename(Path::new(FILE), Path::new("d/g")).unwrap();
        disk.crash(0);
        assert!(disk.exists(Path::new(FILE)).unwrap(), "the new name was not synced");
        disk.rename(Path::new(FILE), Path::new("d/g")).unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        disk.crash(0);
        assert_eq!(disk.list(Path::new("d")).unwrap(), ["g"]);
    }

    #[test]
    fn a_failed_sync_forgets_and_does_not_say_so_again() {
        let (disk, file) = disk();
        file.write_at(&[b'a'; 512], 0).unwrap();
        disk.fail_at(disk.operations(), DiskFault::Error);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(sectors(&disk), "a...", "it still looks written");
        disk.crash(0);
        assert_eq!(sectors(&disk), "....");
    }

    #[test]
    fn a_full_disk_refuses_growth_until_space_is_freed() {
        let (disk, file) = disk();
        disk.set_capacity(Some(3000));
        let more = disk.create(Path::new("d/more")).unwrap();
        assert_eq!(more.allocate(1000).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(more.write_at(&[0; 1000], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        file.write_at(&[b'b'; 2048], 0).unwrap();
        disk.remove(Path::new(FILE)).unwrap();
        more.allocate(1000).unwrap();
    }

    #[test]
    fn a_lock_has_one_holder_and_ends_with_a_crash() {
        let (disk, _) = disk();
        let lock = Path::new("LOCK");
        let held = disk.lock(lock).unwrap();
        assert!(held.is_some() && disk.lock(lock).unwrap().is_none());
        disk.crash(0);
        let again = disk.lock(lock).unwrap();
        assert!(again.is_some());
        drop(held);
        assert!(disk.lock(lock).unwrap().is_none(), "the old holder does not free the new one's");
    }
}
