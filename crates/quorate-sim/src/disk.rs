//! A virtual disk behind the seam that the product's storage uses ([`quorate_storage::Disk`]).
//!
//! It takes virtual time, forgets what was not synced when the power goes, tears writes at sectors, may run out of
//! space and may fail a sync. What is remembered and how it is lost is [`crate::disk_image`].
//!
//! * A step function that uses the disk runs between [`SimDisk::begin`] and [`SimDisk::end`]: each
//!   operation in between moves the disk's clock, and the step has ended, for the rest of the world, at
//!   the time `end` returns.
//! * Every start of a node gets a new handle ([`SimDisk::handle`]); a crash makes older handles useless, so
//!   nothing that a dead process still owns can touch the disk.

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use quorate_storage::wal_tools::{self, DumpItem};
use quorate_storage::{DataDir, Disk, DiskFile, DiskLock};

use crate::disk_image::{
    Crash, CrashDamage, Directory, File, FileOperation, Image, Inode, NameOperation, ROOT,
};
use crate::rng::Rng;
use crate::strange_disks::Rot;

/// What a failure on purpose says, so that one by mistake is told from it.
pub(crate) const INJECTED: &str = "injected:";

/// How slow and how faulty a disk is. Times in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct DiskProfile {
    /// A write takes up to this long.
    pub write_nanos_max: u64,
    /// A sync takes up to this long.
    pub sync_nanos_max: u64,
    /// How often, in a thousand syncs, one takes a hundred times as long.
    pub slow_sync_permille: u64,
    /// How often, in a hundred thousand syncs, one fails.
    pub failed_sync_per_100k: u64,
    /// How often, in a hundred thousand writes, one fails; of these, half have written a part.
    pub failed_write_per_100k: u64,
    /// How often, in a hundred thousand reads, one fails.
    pub failed_read_per_100k: u64,
    /// How often, in a hundred thousand reads, one returns what stands elsewhere in the file.
    pub misread_per_100k: u64,
    /// How often, in a thousand allocations and writes that make a file longer, there is no space.
    pub no_space_permille: u64,
    /// The file system has been mounted read-only: nothing can be changed.
    pub read_only: bool,
}

impl DiskProfile {
    /// Quick and without faults.
    pub const GOOD: Self = Self {
        write_nanos_max: 50_000,
        sync_nanos_max: 2_000_000,
        slow_sync_permille: 0,
        failed_sync_per_100k: 0,
        failed_write_per_100k: 0,
        failed_read_per_100k: 0,
        misread_per_100k: 0,
        no_space_permille: 0,
        read_only: false,
    };
}

/// What a disk has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Syncs of files and directories.
    pub syncs: u64,
    /// Syncs that failed on purpose.
    pub failed_syncs: u64,
    /// Writes that failed on purpose, those that wrote a part included.
    pub failed_writes: u64,
    /// Writes that failed on purpose after writing a part.
    pub short_writes: u64,
    /// Reads that failed on purpose.
    pub failed_reads: u64,
    /// Reads that returned what stands elsewhere.
    pub misreads: u64,
    /// Allocations, and writes that make a file longer, refused on purpose.
    pub refused_allocations: u64,
    /// Changes refused because the disk is read-only.
    pub refused_changes: u64,
}

impl DiskCounters {
    /// How many operations failed on purpose.
    #[must_use]
    pub const fn injected(&self) -> u64 {
        self.failed_syncs
            + self.failed_writes
            + self.failed_reads
            + self.misreads
            + self.refused_allocations
            + self.refused_changes
    }
}

struct State {
    image: Image,
    /// When the step that runs now began: everything that ended before it is past.
    step_began: u64,
    clock: u64,
    generation: u64,
    locks: BTreeSet<PathBuf>,
    profile: DiskProfile,
    rng: Rng,
    counters: DiskCounters,
}

type Shared = Arc<Mutex<State>>;

/// A handle on a virtual disk.
#[derive(Clone)]
pub struct SimDisk {
    shared: Shared,
    generation: u64,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(profile: DiskProfile, rng: Rng) -> Self {
        let state = State {
            image: Image::new(),
            step_began: 0,
            clock: 0,
            generation: 0,
            locks: BTreeSet::new(),
            profile,
            rng,
            counters: DiskCounters::default(),
        };
        Self { shared: Arc::new(Mutex::new(state)), generation: 0 }
    }

    /// A handle that works until the next crash.
    #[must_use]
    pub fn handle(&self) -> Self {
        let generation = self.state().generation;
        Self { shared: Arc::clone(&self.shared), generation }
    }

    /// A step begins: operations are stamped from `now` on.
    pub fn begin(&self, now: u64) {
        let mut state = self.state();
        state.step_began = now;
        state.clock = now;
    }

    /// When the step's last operation ended.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.state().clock
    }

    /// The machine stops at `now`; every handle taken so far is useless from here on.
    pub fn crash(&self, crash: Crash, now: u64) -> CrashDamage {
        let mut state = self.state();
        state.generation += 1;
        state.locks.clear();
        let mut rng = state.rng.fork("crash");
        state.rng.next();
        state.image.crash(crash, now, &mut rng)
    }

    /// A copy of what would surely survive a power cut at `now`, on a good disk.
    #[must_use]
    pub fn durable_copy(&self, now: u64) -> Self {
        let copy = Self::new(DiskProfile::GOOD, Rng::new(0));
        copy.state().image = self.state().image.durable_at(now);
        copy
    }

    /// Meanwhile every read returns what stands where it should.
    pub(crate) fn reading_right<T>(&self, action: impl FnOnce() -> T) -> T {
        let misread_per_100k = std::mem::take(&mut self.state().profile.misread_per_100k);
        let done = action();
        self.state().profile.misread_per_100k = misread_per_100k;
        done
    }

    /// A copy of what a program sees, on a good disk.
    pub(crate) fn sound_copy(&self) -> Self {
        let copy = Self::new(DiskProfile::GOOD, Rng::new(0));
        copy.state().image = self.state().image.clone();
        copy
    }

    /// A bit of the log or of a snapshot changes by itself. `None`: there is neither.
    pub(crate) fn rot(&self, rng: &mut Rng) -> Option<Rot> {
        let path = rng.pick(&self.files_worth_a_fault())?.clone();
        let vouched_for = self.unvouched().filter(|(newest, _)| *newest == path).map(|(_, from)| from);
        let mut state = self.state();
        let inode = state.find(Path::new(&path)).ok()?;
        let file = state.file(inode).ok()?;
        // What nobody has written yet is not worth a fault.
        let end = file.content.iter().rposition(|byte| *byte != 0)? as u64 + 1;
        let offset = usize::try_from(rng.below(end.min(vouched_for.unwrap_or(u64::MAX)))).ok()?;
        let was = *file.content.get(offset)?;
        let rot = Rot { path, inode, offset, was: vec![was], is: vec![was ^ (1 << rng.below(8))] };
        file.rot(offset, &rot.is);
        Some(rot)
    }

    /// A sector of the log or of a snapshot holds what belongs into another one: a write went to the wrong place. Never
    /// one of the newest segment, whose end nothing vouches for. `None`: there is none.
    pub(crate) fn misplace(&self, rng: &mut Rng) -> Option<Rot> {
        let mut files = self.files_worth_a_fault();
        let newest = files.iter().filter(|path| path.ends_with(".wal")).max().cloned();
        let from = rng.pick(&files)?.clone();
        files.retain(|path| Some(path) != newest.as_ref());
        let path = rng.pick(&files)?.clone();
        let mut state = self.state();
        let source = state.find(Path::new(&from)).ok()?;
        let is = state.file(source).ok()?.sector(rng)?.1;
        let inode = state.find(Path::new(&path)).ok()?;
        let file = state.file(inode).ok()?;
        let (offset, was) = file.sector(rng)?;
        if was == is {
            return None;
        }
        file.rot(offset, &is);
        Some(Rot { path, inode, offset, was, is })
    }

    /// The file in which the log ends, and where the first record begins of which no later one says that it
    /// is durable: damage to it cannot be told from a write that was cut off. `None`: there is no such
    /// record.
    fn unvouched(&self) -> Option<(String, u64)> {
        let (mut records, mut durable) = (Vec::new(), 0);
        let mut visit = |item| {
            match item {
                DumpItem::Record(record) => {
                    durable = durable.max(record.durable);
                    records.push((record.sequence, record.path, record.offset));
                }
                DumpItem::TornTail(tail) => records.push((u64::MAX, tail.path, tail.offset)),
                DumpItem::Segment { .. } | DumpItem::Damage(_) | _ => {}
            }
            true
        };
        wal_tools::dump(&self.sound_copy().handle(), Path::new(DataDir::WAL), &mut visit).ok()?;
        let (_, path, offset) = records.into_iter().find(|(sequence, ..)| *sequence > durable)?;
        Some((path.to_str()?.to_owned(), offset))
    }

    /// Segments and snapshots.
    fn files_worth_a_fault(&self) -> Vec<String> {
        let mut files = Vec::new();
        for directory in [DataDir::WAL, DataDir::SNAPSHOTS] {
            let names = self.handle().list(Path::new(directory)).unwrap_or_default();
            files.extend(names.into_iter().map(|name| format!("{directory}/{name}")));
        }
        files
    }

    /// What changed by itself changes back, unless something else has been written there.
    pub(crate) fn mend(&self, rot: &Rot) {
        if let Ok(file) = self.state().file(rot.inode)
            && file.content.get(rot.offset..rot.offset + rot.is.len()) == Some(&rot.is[..])
        {
            file.rot(rot.offset, &rot.was);
        }
    }

    /// All that is on the disk, as a copy of its files.
    pub(crate) fn image(&self) -> Image {
        self.state().image.clone()
    }

    /// All that is on the disk is replaced.
    pub(crate) fn put_image(&self, image: Image) {
        let mut state = self.state();
        state.generation += 1;
        state.locks.clear();
        state.image = image;
    }

    /// Changes how the disk behaves from here on.
    pub fn set_profile(&self, profile: DiskProfile) {
        self.state().profile = profile;
    }

    /// What the disk has done.
    #[must_use]
    pub fn counters(&self) -> DiskCounters {
        self.state().counters
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }

    /// The state, for a program that is still alive.
    fn live(&self) -> io::Result<MutexGuard<'_, State>> {
        live(&self.shared, self.generation)
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn live(shared: &Shared, generation: u64) -> io::Result<MutexGuard<'_, State>> {
    let state = lock(shared);
    if state.generation == generation {
        Ok(state)
    } else {
        Err(io::Error::other("this process is dead: its disk handle ended with it"))
    }
}

fn kind(kind: io::ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, path.display().to_string())
}

impl State {
    fn spend(&mut self, nanos_max: u64) -> u64 {
        self.clock += 1 + self.rng.below(nanos_max.max(1));
        self.clock
    }

    /// Refuses a change if the disk is read-only.
    fn change(&mut self) -> io::Result<()> {
        if self.profile.read_only {
            self.counters.refused_changes += 1;
            let what = format!("{INJECTED} the file system is read-only");
            return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, what));
        }
        Ok(())
    }

    /// Refuses, sometimes, to make room.
    fn make_room(&mut self) -> io::Result<()> {
        let permille = self.profile.no_space_permille;
        if self.rng.chance(permille) {
            self.counters.refused_allocations += 1;
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("{INJECTED} no space")));
        }
        Ok(())
    }

    /// Whether something that goes wrong this often in a hundred thousand goes wrong now.
    const fn unlucky(&mut self, per_100k: u64) -> bool {
        per_100k > 0 && self.rng.below(100_000) < per_100k
    }

    fn spend_sync(&mut self) -> u64 {
        self.counters.syncs += 1;
        let slow = self.rng.chance(self.profile.slow_sync_permille);
        let nanos_max = self.profile.sync_nanos_max;
        self.spend(if slow { nanos_max.saturating_mul(100) } else { nanos_max })
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for name in names(path)? {
            let Some(Inode::Directory(directory)) = self.image.inodes.get(&at) else {
                return Err(kind(io::ErrorKind::NotADirectory, path));
            };
            at = *directory.names.get(&name).ok_or_else(|| kind(io::ErrorKind::NotFound, path))?;
        }
        Ok(at)
    }

    /// The directory that holds `path`, and the last name of it.
    fn parent(&self, path: &Path) -> io::Result<(u64, String)> {
        let mut all = names(path)?;
        let name = all.pop().ok_or_else(|| kind(io::ErrorKind::InvalidInput, path))?;
        Ok((self.find(&all.iter().collect::<PathBuf>())?, name))
    }

    fn directory(&mut self, id: u64, path: &Path) -> io::Result<&mut Directory> {
        match self.image.inodes.get_mut(&id) {
            Some(Inode::Directory(directory)) => Ok(directory),
            Some(Inode::File(_)) | None => Err(kind(io::ErrorKind::NotADirectory, path)),
        }
    }

    fn file(&mut self, id: u64) -> io::Result<&mut File> {
        match self.image.inodes.get_mut(&id) {
            Some(Inode::File(file)) => Ok(file),
            Some(Inode::Directory(_)) | None => Err(io::Error::other("not a file")),
        }
    }
}

/// The names on the way to `path`.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut all = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                let name = name.to_str().ok_or_else(|| kind(io::ErrorKind::InvalidInput, path))?;
                all.push(name.to_owned());
            }
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(kind(io::ErrorKind::InvalidInput, path));
            }
        }
    }
    Ok(all)
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.live()?;
        state.change()?;
        let (parent, name) = state.parent(path)?;
        if state.directory(parent, path)?.names.contains_key(&name) {
            return Err(kind(io::ErrorKind::AlreadyExists, path));
        }
        let inode = state.image.add(Inode::File(File::default()));
        let at = state.spend(1_000);
        state.directory(parent, path)?.push(at, NameOperation::Link { name, inode });
        Ok(Box::new(SimFile { shared: Arc::clone(&self.shared), generation: self.generation, inode }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.live()?;
        let inode = state.find(path)?;
        state.file(inode)?;
        Ok(Box::new(SimFile { shared: Arc::clone(&self.shared), generation: self.generation, inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.live()?;
        state.change()?;
        let inode = state.find(from)?;
        let (from_parent, from_name) = state.parent(from)?;
        let (to_parent, to_name) = state.parent(to)?;
        let at = state.spend(1_000);
        if from_parent == to_parent {
            let operation = NameOperation::Rename { from: from_name, to: to_name, inode };
            state.directory(from_parent, from)?.push(at, operation);
        } else {
            state.directory(to_parent, to)?.push(at, NameOperation::Link { name: to_name, inode });
            state.directory(from_parent, from)?.push(at, NameOperation::Unlink { name: from_name });
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.live()?;
        state.change()?;
        state.find(path)?;
        let (parent, name) = state.parent(path)?;
        let at = state.spend(1_000);
        state.directory(parent, path)?.push(at, NameOperation::Unlink { name });
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut state = self.live()?;
        let id = state.find(directory)?;
        Ok(state.directory(id, directory)?.names.keys().cloned().collect())
    }

    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.live()?;
        let mut at = ROOT;
        for name in names(directory)? {
            let existing = state.directory(at, directory)?.names.get(&name).copied();
            at = match existing {
                Some(id) => id,
                None => {
                    state.change()?;
                    let inode = state.image.add(Inode::Directory(Directory::default()));
                    let stamp = state.spend(1_000);
                    state.directory(at, directory)?.push(stamp, NameOperation::Link { name, inode });
                    inode
                }
            };
            state.directory(at, directory)?;
        }
        Ok(())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.live()?;
        state.change()?;
        let id = state.find(directory)?;
        let past = state.step_began;
        let at = state.spend_sync();
        let per_100k = state.profile.failed_sync_per_100k;
        if state.unlucky(per_100k) {
            state.counters.failed_syncs += 1;
            return Err(io::Error::other(format!("{INJECTED} the sync of a directory failed")));
        }
        let directory = state.directory(id, directory)?;
        directory.settle(past);
        directory.push(at, NameOperation::Sync);
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.live()?.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        if !self.exists(path)? {
            drop(self.create(path)?);
        }
        let mut state = self.live()?;
        if !state.locks.insert(path.to_owned()) {
            return Ok(None);
        }
        let held =
            SimLock { shared: Arc::clone(&self.shared), generation: self.generation, path: path.to_owned() };
        Ok(Some(Box::new(held)))
    }
}

struct SimLock {
    shared: Shared,
    generation: u64,
    path: PathBuf,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = lock(&self.shared);
        // The lock of a dead process ended with it; the name may be another's by now.
        if state.generation == self.generation {
            state.locks.remove(&self.path);
        }
    }
}

struct SimFile {
    shared: Shared,
    generation: u64,
    inode: u64,
}

impl SimFile {
    fn live(&self) -> io::Result<MutexGuard<'_, State>> {
        live(&self.shared, self.generation)
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.live()?;
        let per_100k = state.profile.failed_read_per_100k;
        if state.unlucky(per_100k) {
            state.counters.failed_reads += 1;
            return Err(io::Error::other(format!("{INJECTED} the read failed")));
        }
        let misread = state.profile.misread_per_100k;
        let shift = if state.unlucky(misread) { 1 + state.rng.below(2_000) } else { 0 };
        let content = &state.file(self.inode)?.content;
        let elsewhere =
            if shift % 2 == 0 { offset.saturating_add(shift) } else { offset.saturating_sub(shift) };
        let misread = shift > 0 && elsewhere < content.len() as u64;
        let offset = if misread { elsewhere } else { offset };
        let rest = content.get(position(offset)?..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        state.counters.misreads += u64::from(misread);
        Ok(length)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.live()?;
        state.change()?;
        let offset = position(offset)?;
        if offset + bytes.len() > state.file(self.inode)?.content.len() {
            state.make_room()?;
        }
        let nanos_max = state.profile.write_nanos_max;
        let at = state.spend(nanos_max);
        let per_100k = state.profile.failed_write_per_100k;
        let fails = state.unlucky(per_100k);
        let mut written = bytes.len();
        if fails {
            state.counters.failed_writes += 1;
            let part = state.rng.below(2 * bytes.len() as u64).checked_sub(bytes.len() as u64);
            written = part.and_then(|part| usize::try_from(part).ok()).unwrap_or(0);
            state.counters.short_writes += u64::from(written > 0);
        }
        let part = bytes.get(..written).unwrap_or_default();
        if !part.is_empty() || !fails {
            let operation = FileOperation::Write { offset, bytes: part.to_vec() };
            state.file(self.inode)?.push(at, operation);
        }
        if fails { Err(io::Error::other(format!("{INJECTED} the write failed"))) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.live()?;
        state.change()?;
        let past = state.step_began;
        let at = state.spend_sync();
        if state.rng.below(100_000) < state.profile.failed_sync_per_100k {
            state.counters.failed_syncs += 1;
            let mut rng = state.rng.fork("failed sync");
            state.file(self.inode)?.fail_sync(&mut rng);
            return Err(io::Error::other(format!("{INJECTED} the sync failed")));
        }
        let file = state.file(self.inode)?;
        // Earlier steps have ended, so their syncs cannot be undone any more; those of this step can.
        file.settle(past);
        file.push(at, FileOperation::Sync);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.live()?.file(self.inode)?.content.len() as u64)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut state = self.live()?;
        state.change()?;
        let at = state.spend(1_000);
        state.file(self.inode)?.push(at, FileOperation::SetSize { size: position(size)? });
        Ok(())
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let mut state = self.live()?;
        state.change()?;
        state.make_room()?;
        let at = state.spend(1_000);
        let size = position(size)?;
        let file = state.file(self.inode)?;
        if file.content.len() < size {
            file.push(at, FileOperation::SetSize { size });
        }
        Ok(())
    }
}
