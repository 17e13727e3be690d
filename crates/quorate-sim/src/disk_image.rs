//! What is on a virtual disk: what a program sees, what would surely survive a power cut, and the
//! operations in between.
//!
//! ```text
//!   durable ──(write, set size)──(write)──[sync]──(write)──(write)──► visible
//!      │        folded into durable at the ▲        lost, kept, or torn by sector
//!      │        time stamp of the sync ────┘        when the power goes
//! ```
//!
//! * Every operation carries the virtual time at which it ends. A step function runs in one go but
//!   takes virtual time: a crash in the middle of that time undoes the operations after it, syncs included.
//!   That is how a write *in flight* exists across a crash in one thread.
//! * File content becomes durable by a sync of the file, names by a sync of the directory; neither implies the other.
//! * A sector (512 bytes) is written as a whole or not at all; sectors are written in any order.

use std::collections::BTreeMap;

use crate::rng::Rng;

/// The unit that a power cut cannot tear, in bytes.
pub(crate) const SECTOR_BYTES: usize = 512;

/// The root directory.
pub(crate) const ROOT: u64 = 0;

/// How a machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process ends (`kill -9`): what was written stays visible, synced or not.
    Process,
    /// The power goes: whatever was not synced is lost, kept or torn.
    Power,
}

/// What a crash did to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrashDamage {
    /// Operations of a step in flight that never happened.
    pub undone_operations: u64,
    /// Unsynced writes of which nothing survived.
    pub lost_writes: u64,
    /// Unsynced writes of which some sectors survived and some did not.
    pub torn_writes: u64,
    /// Names created, renamed or removed that were as before after the crash.
    pub lost_names: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum FileOperation {
    Write { offset: usize, bytes: Vec<u8> },
    SetSize { size: usize },
    Sync,
}

#[derive(Clone, Debug)]
pub(crate) enum NameOperation {
    Link {
        name: String,
        inode: u64,
    },
    Unlink {
        name: String,
    },
    /// Of this file: never of another that had the name before, should the removal of that one be lost.
    Rename {
        from: String,
        to: String,
        inode: u64,
    },
    Sync,
}

#[derive(Clone, Debug)]
struct Stamped<T> {
    at: u64,
    operation: T,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Stamped<FileOperation>>,
    /// A sync has failed: what is visible below the pending operations, which may not be durable. The kernel takes it
    /// for clean: no later sync writes it, and only the power, or chance, makes it forget.
    cached: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    pub(crate) names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    pending: Vec<Stamped<NameOperation>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Inode {
    File(File),
    Directory(Directory),
}

/// All files and directories.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
}

impl Image {
    pub(crate) fn new() -> Self {
        let root = Inode::Directory(Directory::default());
        Self { inodes: BTreeMap::from([(ROOT, root)]), next_inode: ROOT + 1 }
    }

    pub(crate) fn add(&mut self, inode: Inode) -> u64 {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, inode);
        id
    }

    /// Only what would surely survive a power cut at `now`.
    pub(crate) fn durable_at(&self, now: u64) -> Self {
        let durable = |inode: &Inode| match inode {
            Inode::File(file) => Inode::File(file.durable_at(now)),
            Inode::Directory(directory) => Inode::Directory(directory.durable_at(now)),
        };
        let inodes = self.inodes.iter().map(|(id, inode)| (*id, durable(inode))).collect();
        Self { inodes, next_inode: self.next_inode }
    }

    /// The machine stops at `now`.
    pub(crate) fn crash(&mut self, crash: Crash, now: u64, rng: &mut Rng) -> CrashDamage {
        let mut damage = CrashDamage::default();
        let style = Style::draw(rng);
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::File(file) => {
                    damage.undone_operations += file.undo_after(now);
                    file.settle(now);
                    match crash {
                        Crash::Process if file.cached.is_some() && rng.chance(300) => file.forget_cached(),
                        Crash::Process => {}
                        Crash::Power => file.lose_power(style, rng, &mut damage),
                    }
                }
                Inode::Directory(directory) => {
                    damage.undone_operations += directory.undo_after(now);
                    directory.settle(now);
                    match crash {
                        Crash::Process => {}
                        Crash::Power => directory.lose_power(style, rng, &mut damage),
                    }
                }
            }
        }
        self.forget_unreachable();
        damage
    }

    fn forget_unreachable(&mut self) {
        let mut reachable = BTreeMap::from([(ROOT, ())]);
        let mut open = vec![ROOT];
        while let Some(id) = open.pop() {
            if let Some(Inode::Directory(directory)) = self.inodes.get(&id) {
                // What is only durable may come back after the next crash, and so may what a pending operation names.
                let named = directory.pending.iter().filter_map(|stamped| match &stamped.operation {
                    NameOperation::Link { inode, .. } => Some(inode),
                    NameOperation::Unlink { .. } | NameOperation::Rename { .. } | NameOperation::Sync => None,
                });
                for inode in directory.names.values().chain(directory.durable.values()).chain(named) {
                    if reachable.insert(*inode, ()).is_none() {
                        open.push(*inode);
                    }
                }
            }
        }
        self.inodes.retain(|id, _| reachable.contains_key(id));
    }
}

/// How a power cut treats what was not synced. Whole disks differ in this, so one style per cut.
#[derive(Clone, Copy, Debug)]
enum Style {
    /// Nothing survives.
    Lose,
    /// Everything survives.
    Keep,
    /// A prefix in the order of writing survives; the last write of it may be torn.
    Prefix,
    /// Any subset of sectors and names survives.
    Scatter,
}

impl Style {
    const fn draw(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 => Self::Lose,
            1 => Self::Keep,
            2 | 3 => Self::Prefix,
            _ => Self::Scatter,
        }
    }
}

impl File {
    pub(crate) fn push(&mut self, at: u64, operation: FileOperation) {
        apply_to(&mut self.content, &operation);
        self.pending.push(Stamped { at, operation });
    }

    /// A sync that failed: the dirty data may or may not be on disk, and no later sync tries again. The
    /// program goes on seeing it, and so may one that starts later.
    pub(crate) fn fail_sync(&mut self, rng: &mut Rng) {
        let mut damage = CrashDamage::default();
        let visible = self.content.clone();
        self.settle(u64::MAX);
        self.lose_power(Style::Scatter, rng, &mut damage);
        self.cached = Some(visible.clone());
        self.content = visible;
    }

    /// Bytes change by themselves, on the medium, after everything has got there.
    pub(crate) fn rot(&mut self, offset: usize, bytes: &[u8]) {
        self.pending.clear();
        self.cached = None;
        if let Some(place) = self.content.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.durable.clone_from(&self.content);
    }

    /// Some whole sector: where it is, and what it holds.
    pub(crate) fn sector(&self, rng: &mut Rng) -> Option<(usize, Vec<u8>)> {
        let sectors = self.content.len() / SECTOR_BYTES;
        let offset = usize::try_from(rng.below(sectors as u64)).ok()? * SECTOR_BYTES;
        Some((offset, self.content.get(offset..offset + SECTOR_BYTES)?.to_vec()))
    }

    /// The kernel drops pages that it takes for clean.
    fn forget_cached(&mut self) {
        if self.cached.take().is_some() {
            self.show_pending();
        }
    }

    fn show_pending(&mut self) {
        self.content.clone_from(self.cached.as_ref().unwrap_or(&self.durable));
        for stamped in &self.pending {
            apply_to(&mut self.content, &stamped.operation);
        }
    }

    /// Makes syncs that have ended by `now` true.
    pub(crate) fn settle(&mut self, now: u64) {
        let ended = synced(&self.pending, now, |operation| matches!(operation, FileOperation::Sync)).len();
        if ended > 0 {
            for stamped in self.pending.drain(..ended) {
                apply_to(&mut self.durable, &stamped.operation);
                if let Some(cached) = &mut self.cached {
                    apply_to(cached, &stamped.operation);
                }
            }
        }
    }

    fn undo_after(&mut self, now: u64) -> u64 {
        let before = self.pending.len();
        self.pending.retain(|stamped| stamped.at <= now);
        let undone = before - self.pending.len();
        if undone > 0 {
            self.show_pending();
        }
        undone as u64
    }

    /// What a power cut at `now` surely leaves of the file.
    fn durable_at(&self, now: u64) -> Self {
        let mut content = self.durable.clone();
        for stamped in synced(&self.pending, now, |operation| matches!(operation, FileOperation::Sync)) {
            apply_to(&mut content, &stamped.operation);
        }
        Self { content, ..Self::default() }
    }

    fn lose_power(&mut self, style: Style, rng: &mut Rng, damage: &mut CrashDamage) {
        self.cached = None;
        let pending = std::mem::take(&mut self.pending);
        let survivors = pending.len() as u64;
        let common_cut = match style {
            Style::Lose => Some(0),
            Style::Keep => Some(survivors),
            Style::Prefix => Some(rng.below(survivors + 1)),
            Style::Scatter => None,
        };
        // Sector s holds what it held after the first cuts[s] operations that touch it.
        let mut cuts: BTreeMap<usize, u64> = BTreeMap::new();
        let size_cut = common_cut.unwrap_or_else(|| rng.below(survivors + 1));
        for (number, stamped) in (0_u64..).zip(pending) {
            let torn_here = matches!(style, Style::Prefix) && number + 1 == size_cut && rng.chance(500);
            let mut survives = |sector: usize, rng: &mut Rng| match common_cut {
                Some(cut) => number < cut && !(torn_here && rng.chance(500)),
                None => number < *cuts.entry(sector).or_insert_with(|| rng.below(survivors + 1)),
            };
            match stamped.operation {
                FileOperation::Write { offset, bytes } => {
                    let (mut kept, mut lost) = (0_u64, 0_u64);
                    for (at, piece) in sectors(offset, &bytes) {
                        if survives(at / SECTOR_BYTES, rng) {
                            kept += 1;
                            write_at(&mut self.durable, at, piece);
                        } else {
                            lost += 1;
                        }
                    }
                    damage.torn_writes += u64::from(kept > 0 && lost > 0);
                    damage.lost_writes += u64::from(kept == 0 && lost > 0);
                }
                FileOperation::SetSize { size } => {
                    if number < size_cut {
                        self.durable.resize(size, 0);
                    }
                }
                FileOperation::Sync => {}
            }
        }
        self.content.clone_from(&self.durable);
    }
}

impl Directory {
    pub(crate) fn push(&mut self, at: u64, operation: NameOperation) {
        apply_name(&mut self.names, &operation);
        self.pending.push(Stamped { at, operation });
    }

    pub(crate) fn settle(&mut self, now: u64) {
        let ended = synced(&self.pending, now, |operation| matches!(operation, NameOperation::Sync)).len();
        for stamped in self.pending.drain(..ended) {
            apply_name(&mut self.durable, &stamped.operation);
        }
    }

    fn undo_after(&mut self, now: u64) -> u64 {
        let before = self.pending.len();
        self.pending.retain(|stamped| stamped.at <= now);
        let undone = before - self.pending.len();
        if undone > 0 {
            self.names.clone_from(&self.durable);
            for stamped in &self.pending {
                apply_name(&mut self.names, &stamped.operation);
            }
        }
        undone as u64
    }

    /// What a power cut at `now` surely leaves of the directory.
    fn durable_at(&self, now: u64) -> Self {
        let mut names = self.durable.clone();
        for stamped in synced(&self.pending, now, |operation| matches!(operation, NameOperation::Sync)) {
            apply_name(&mut names, &stamped.operation);
        }
        Self { names, ..Self::default() }
    }

    fn lose_power(&mut self, style: Style, rng: &mut Rng, damage: &mut CrashDamage) {
        let pending = std::mem::take(&mut self.pending);
        let cut = match style {
            Style::Lose => 0,
            Style::Keep | Style::Scatter => pending.len() as u64,
            Style::Prefix => rng.below(pending.len() as u64 + 1),
        };
        for (number, stamped) in (0_u64..).zip(pending) {
            let survives = number < cut && !(matches!(style, Style::Scatter) && rng.chance(500));
            if survives {
                apply_name(&mut self.durable, &stamped.operation);
            } else if !matches!(stamped.operation, NameOperation::Sync) {
                damage.lost_names += 1;
            }
        }
        self.names.clone_from(&self.durable);
    }
}

/// The operations up to the last sync that has ended by `now`.
fn synced<T>(pending: &[Stamped<T>], now: u64, is_sync: impl Fn(&T) -> bool) -> &[Stamped<T>] {
    let last = pending.iter().rposition(|stamped| stamped.at <= now && is_sync(&stamped.operation));
    last.and_then(|last| pending.get(..=last)).unwrap_or_default()
}

fn apply_to(content: &mut Vec<u8>, operation: &FileOperation) {
    match operation {
        FileOperation::Write { offset, bytes } => write_at(content, *offset, bytes),
        FileOperation::SetSize { size } => content.resize(*size, 0),
        FileOperation::Sync => {}
    }
}

fn write_at(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    if let Some(place) = content.get_mut(offset..end) {
        place.copy_from_slice(bytes);
    }
}

/// Applies a change of names; one whose source is not there (it was lost) does nothing.
fn apply_name(names: &mut BTreeMap<String, u64>, operation: &NameOperation) {
    match operation {
        NameOperation::Link { name, inode } => {
            names.insert(name.clone(), *inode);
        }
        NameOperation::Unlink { name } => {
            names.remove(name);
        }
        NameOperation::Rename { from, to, inode } => {
            if names.get(from) == Some(inode) {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
        NameOperation::Sync => {}
    }
}

/// Cuts a write at sector boundaries.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let first = (SECTOR_BYTES - offset % SECTOR_BYTES).min(bytes.len());
    let (head, tail) = bytes.split_at(first);
    let rest = tail.chunks(SECTOR_BYTES).enumerate();
    std::iter::once((offset, head))
        .filter(|(_, piece)| !piece.is_empty())
        .chain(rest.map(move |(number, piece)| (offset + first + number * SECTOR_BYTES, piece)))
}
