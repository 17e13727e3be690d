//! Snapshots as files, one each.
//!
//!   create ─► x.tmp ─ write ─► chunks ─ finish ─► footer ─► sync ─► rename to x.snap ─► sync names
//!
//!   │ header │ crc │ chunk 0, crc │ chunk 1, crc │ … │ length, crc │
//!
//! * The name says group, index and term, so a listing needs only the headers.
//! * A file with a final name was complete and durable before it got it: whatever does not fit is
//!   damage.
//! * Content is read chunk by chunk, and each chunk is verified before any byte of it is returned.
//! * Leftovers of interrupted writers are removed when the store is opened.
//! * What is staged (`staging.rs`) lies beside them, and is no snapshot.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quorate_core::planted::planted;
use quorate_core::{GroupId, LogIndex, SnapshotMeta, decode_snapshot_meta, encode_snapshot_meta};

use crate::disk::{Disk, DiskFile};
use crate::error::{Damage, SnapshotError};
use crate::snapshot_store::{SnapshotInfo, SnapshotReader, SnapshotStore, SnapshotWriter, read_to_end};
use crate::staging::{self, Staging};

const MAGIC: &[u8; 8] = b"QUORSNAP";
const FORMAT_VERSION: u32 = 1;
/// magic, version, chunk bytes, group, length of meta.
const FIXED_BYTES: usize = 28;
const CRC_BYTES: u64 = 4;
/// The length of the content, magic again, crc.
const FOOTER_BYTES: u64 = 20;
const FOOTER_MAGIC: &[u8; 8] = b"QUOREND\n";
/// The most that a header's meta may take, in bytes (64 members with their addresses are far
/// below).
const META_BYTES_MAX: u32 = 1 << 20;
/// How much content one checksum covers, in bytes.
const CHUNK_BYTES: u32 = 64 * 1024;
/// The largest chunk that is believed, in bytes.
const CHUNK_BYTES_MAX: u32 = 16 << 20;

const SUFFIX: &str = ".snap";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// The durable [`SnapshotStore`].
pub struct FileSnapshotStore {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    chunk_bytes: u32,
    /// Numbers the temporary files, so that two writers of one snapshot do not meet.
    next_temporary: AtomicU64,
    /// Finished snapshots, by group and last index. A damaged one is listed only by its damage.
    snapshots: Mutex<BTreeMap<(GroupId, LogIndex), Known>>,
}

#[derive(Clone, PartialEq)]
struct Known {
    path: PathBuf,
    /// What it is, or why it cannot be used.
    info: Result<SnapshotInfo, Damage>,
}

impl FileSnapshotStore {
    /// Opens the store in `directory`, creating it if it is missing.
    ///
    /// # Errors
    /// The disk cannot be read, or leftovers cannot be removed. A damaged snapshot is no error
    /// here, but when it is opened.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path) -> Result<Self, SnapshotError> {
        Self::open_with_chunks(disk, directory, CHUNK_BYTES)
    }

    fn open_with_chunks(
        disk: Arc<dyn Disk>,
        directory: &Path,
        chunk_bytes: u32,
    ) -> Result<Self, SnapshotError> {
        let failing = |source| failed("opening", directory, source);
        disk.create_dir_all(directory).map_err(failing)?;
        let mut snapshots: BTreeMap<_, Known> = BTreeMap::new();
        for name in disk.list(directory).map_err(failing)? {
            let path = directory.join(&name);
            if name.ends_with(TEMPORARY_SUFFIX) {
                disk.remove(&path).map_err(|source| failed("removing", &path, source))?;
            } else if let Some(key) = key_of(&name) {
                let info = match FileReader::open(&*disk, &path, key) {
                    Ok(reader) => Ok(reader.info),
                    Err(SnapshotError::Damaged(damage)) => Err(damage),
                    Err(error) => return Err(error),
                };
                // Names ascend: of two terms at one index the later one stays, if it is good.
                let is_good = info.is_ok();
                if is_good || !snapshots.contains_key(&key) {
                    let before = snapshots.insert(key, Known { path, info });
                    if let Some(before) = before {
                        let removed = disk.remove(&before.path);
                        removed.map_err(|source| failed("removing", &before.path, source))?;
                    }
                }
            }
        }
        // What a crash left of the names is how it stays from here on.
        disk.sync_dir(directory).map_err(failing)?;
        let shared = Shared {
            disk,
            directory: directory.to_owned(),
            chunk_bytes,
            next_temporary: AtomicU64::new(0),
            snapshots: Mutex::new(snapshots),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Snapshots that cannot be used, by group. They stay until `retain` removes them.
    #[must_use]
    pub fn damaged(&self) -> Vec<(GroupId, Damage)> {
        let snapshots = self.shared.snapshots();
        snapshots
            .iter()
            .filter_map(|((group, _), known)| Some((*group, known.info.as_ref().err()?.clone())))
            .collect()
    }
}

impl FileSnapshotStore {
    /// What is wrong with a file, or nothing. One that is gone is not damaged: a newer one took its place.
    fn read_whole(&self, path: &Path, key: (GroupId, LogIndex)) -> Result<Result<(), Damage>, SnapshotError> {
        let read = FileReader::open(&*self.shared.disk, path, key);
        match read.and_then(|reader| read_to_end(Box::new(reader))) {
            Ok(()) => Ok(Ok(())),
            Err(SnapshotError::Damaged(damage)) => Ok(Err(damage)),
            Err(SnapshotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Ok(())),
            Err(error) => Err(error),
        }
    }
}

impl Shared {
    fn snapshots(&self) -> MutexGuard<'_, BTreeMap<(GroupId, LogIndex), Known>> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_group(&self, group: GroupId) -> Vec<(LogIndex, Known)> {
        let snapshots = self.snapshots();
        let found = snapshots.range((group, LogIndex(0))..=(group, LogIndex(u64::MAX)));
        found.map(|((_, index), known)| (*index, known.clone())).collect()
    }
}

impl SnapshotStore for FileSnapshotStore {
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, SnapshotError> {
        let shared = Arc::clone(&self.shared);
        let number = shared.next_temporary.fetch_add(1, Ordering::Relaxed);
        let name = name_of(group, meta);
        let path = shared.directory.join(format!("{name}.{number}{TEMPORARY_SUFFIX}"));
        let file = shared.disk.create(&path).map_err(|source| failed("creating", &path, source))?;
        let mut writer = FileWriter {
            shared,
            group,
            meta: meta.clone(),
            path,
            file,
            offset: 0,
            content_bytes: 0,
            chunk: Vec::new(),
            seed: 0,
            is_finished: false,
        };
        writer.put_header()?;
        Ok(Box::new(writer))
    }

    fn list(&self, group: GroupId) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        Ok(self.shared.of_group(group).into_iter().filter_map(|(_, known)| known.info.ok()).collect())
    }

    fn open(&self, info: &SnapshotInfo) -> Result<Box<dyn SnapshotReader>, SnapshotError> {
        let key = (info.group, info.meta.last.index);
        let known = self.shared.snapshots().get(&key).cloned();
        let missing = SnapshotError::Missing { group: key.0, index: key.1 };
        let known = known.ok_or(missing)?;
        known.info.map_err(SnapshotError::Damaged)?;
        Ok(Box::new(FileReader::open(&*self.shared.disk, &known.path, key)?))
    }

    fn retain(&self, group: GroupId, keep: usize) -> Result<(), SnapshotError> {
        let found = self.shared.of_group(group);
        // Damaged ones do not count as kept: the newest good ones are.
        let good: Vec<LogIndex> =
            found.iter().filter(|(_, known)| known.info.is_ok()).map(|(index, _)| *index).collect();
        let Some(oldest_kept) = (if keep == 0 {
            Some(LogIndex(u64::MAX))
        } else {
            good.get(good.len().saturating_sub(keep)).copied()
        }) else {
            return Ok(());
        };
        let mut is_removed = false;
        for (index, known) in found.into_iter().filter(|(index, _)| *index < oldest_kept) {
            let removed = self.shared.disk.remove(&known.path);
            removed.map_err(|source| failed("removing", &known.path, source))?;
            self.shared.snapshots().remove(&(group, index));
            is_removed = true;
        }
        if is_removed {
            let synced = self.shared.disk.sync_dir(&self.shared.directory);
            synced.map_err(|source| failed("syncing", &self.shared.directory, source))?;
        }
        if keep == 0 { self.clear_staged(group, None) } else { Ok(()) }
    }

    fn verify(&self, group: GroupId) -> Result<Vec<Damage>, SnapshotError> {
        for (index, known) in self.shared.of_group(group) {
            if known.info.is_ok()
                && let Err(damage) = self.read_whole(&known.path, (group, index))?
            {
                let mut snapshots = self.shared.snapshots();
                // Unless it has been removed or replaced while we read.
                if let Some(same) = snapshots.get_mut(&(group, index)).filter(|same| **same == known) {
                    same.info = Err(damage);
                }
            }
        }
        Ok(self.shared.of_group(group).into_iter().filter_map(|(_, known)| known.info.err()).collect())
    }

    fn stage(&self, group: GroupId, name: u64) -> Result<Arc<dyn Staging>, SnapshotError> {
        staging::stage(&self.shared.disk, &self.shared.directory, group, name)
    }

    fn clear_staged(&self, group: GroupId, keep: Option<u64>) -> Result<(), SnapshotError> {
        staging::clear(&*self.shared.disk, &self.shared.directory, group, keep)
    }
}

fn failed(doing: &str, path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Io { context: format!("{doing} {}", path.display()), source: Arc::new(source) }
}

fn name_of(group: GroupId, meta: &SnapshotMeta) -> String {
    format!("{:020}-{:020}-{:020}", group.0, meta.last.index.0, meta.last.term.0)
}

/// Whether a file of this name is a finished snapshot.
pub(crate) fn is_snapshot_file(name: &str) -> bool {
    key_of(name).is_some()
}

fn key_of(name: &str) -> Option<(GroupId, LogIndex)> {
    let mut numbers = name.strip_suffix(SUFFIX)?.split('-').map(|digits| digits.parse::<u64>().ok());
    let key = (GroupId(numbers.next()??), LogIndex(numbers.next()??));
    numbers.next()??;
    numbers.next().is_none().then_some(key)
}

struct FileWriter {
    shared: Arc<Shared>,
    group: GroupId,
    meta: SnapshotMeta,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Where the next chunk goes.
    offset: u64,
    content_bytes: u64,
    /// Content that is not a whole chunk yet.
    chunk: Vec<u8>,
    /// The header's checksum, which seeds those of the chunks.
    seed: u32,
    is_finished: bool,
}

impl FileWriter {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let written = self.file.write_at(bytes, self.offset);
        written.map_err(|source| failed("writing", &self.path, source))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn put_header(&mut self) -> Result<(), SnapshotError> {
        let mut header = Vec::with_capacity(FIXED_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        header.extend_from_slice(&self.shared.chunk_bytes.to_le_bytes());
        header.extend_from_slice(&self.group.0.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        encode_snapshot_meta(&self.meta, &mut header);
        let meta_bytes = u32::try_from(header.len() - FIXED_BYTES).unwrap_or(u32::MAX);
        header[24..28].copy_from_slice(&meta_bytes.to_le_bytes());
        self.seed = crc32c::crc32c(&header);
        header.extend_from_slice(&self.seed.to_le_bytes());
        self.put(&header)
    }

    fn put_chunk(&mut self) -> Result<(), SnapshotError> {
        let number = (self.content_bytes - 1) / u64::from(self.shared.chunk_bytes);
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.extend_from_slice(&chunk_crc(self.seed, number, &chunk).to_le_bytes());
        self.put(&chunk)?;
        chunk.clear();
        self.chunk = chunk;
        Ok(())
    }

    fn put_footer(&mut self) -> Result<(), SnapshotError> {
        let mut footer = Vec::with_capacity(index(FOOTER_BYTES));
        footer.extend_from_slice(&self.content_bytes.to_le_bytes());
        footer.extend_from_slice(FOOTER_MAGIC);
        footer.extend_from_slice(&crc32c::crc32c_append(self.seed, &footer).to_le_bytes());
        self.put(&footer)
    }
}

/// A chunk's checksum also says which chunk of which snapshot it is.
fn chunk_crc(seed: u32, number: u64, content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &number.to_le_bytes()), content)
}

impl SnapshotWriter for FileWriter {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        let chunk_bytes = self.shared.chunk_bytes as usize;
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(chunk_bytes - self.chunk.len()));
            self.chunk.extend_from_slice(part);
            self.content_bytes += part.len() as u64;
            if self.chunk.len() == chunk_bytes {
                self.put_chunk()?;
            }
            bytes = rest;
        }
        Ok(())
    }

    fn written(&self) -> u64 {
        self.content_bytes
    }

    fn finish(mut self: Box<Self>) -> Result<SnapshotInfo, SnapshotError> {
        if !self.chunk.is_empty() {
            self.put_chunk()?;
        }
        self.put_footer()?;
        let shared = Arc::clone(&self.shared);
        if !planted("snapshot_not_synced") {
            self.file.sync_data().map_err(|source| failed("syncing", &self.path, source))?;
        }
        let path = shared.directory.join(format!("{}{SUFFIX}", name_of(self.group, &self.meta)));
        shared.disk.rename(&self.path, &path).map_err(|source| failed("naming", &path, source))?;
        self.is_finished = true;
        let unsynced = planted("snapshot_name_not_synced");
        let synced = if unsynced { Ok(()) } else { shared.disk.sync_dir(&shared.directory) };
        synced.map_err(|source| failed("syncing", &shared.directory, source))?;
        let info = SnapshotInfo { group: self.group, meta: self.meta.clone(), bytes: self.content_bytes };
        let key = (self.group, self.meta.last.index);
        let known = Known { path: path.clone(), info: Ok(info.clone()) };
        let before = shared.snapshots().insert(key, known);
        if let Some(before) = before.filter(|before| before.path != path) {
            // The same index in another term. If this fails, the next opening of the store does it.
            drop(shared.disk.remove(&before.path));
        }
        Ok(info)
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // If this fails, the next opening of the store does it.
            drop(self.shared.disk.remove(&self.path));
        }
    }
}

struct FileReader {
    info: SnapshotInfo,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    seed: u32,
    chunk_bytes: u64,
    content_start: u64,
    /// The chunk that was read last, verified.
    chunk: Option<(u64, Bytes)>,
}

impl FileReader {
    /// Checks everything but the content.
    fn open(disk: &dyn Disk, path: &Path, key: (GroupId, LogIndex)) -> Result<Self, SnapshotError> {
        let damaged =
            |offset: u64, what| SnapshotError::Damaged(Damage { path: path.to_owned(), offset, what });
        let reading = |source| failed("reading", path, source);
        let file = disk.open(path).map_err(reading)?;
        let size = file.size().map_err(reading)?;
        let fixed = read_exact(&*file, path, 0, FIXED_BYTES as u64)?;
        if fixed[..8] != *MAGIC {
            return Err(damaged(0, "this is not the start of a snapshot"));
        }
        if u32_at(&fixed, 8) != FORMAT_VERSION {
            return Err(damaged(8, "a snapshot format that this build does not know"));
        }
        let (chunk_bytes, meta_bytes) = (u32_at(&fixed, 12), u32_at(&fixed, 24));
        if meta_bytes > META_BYTES_MAX || !(1..=CHUNK_BYTES_MAX).contains(&chunk_bytes) {
            return Err(damaged(12, "the snapshot's header cannot be right"));
        }
        let meta_end = FIXED_BYTES as u64 + u64::from(meta_bytes);
        let header = read_exact(&*file, path, 0, meta_end + CRC_BYTES)?;
        let seed = u32_at(&header, index(meta_end));
        if crc32c::crc32c(&header[..index(meta_end)]) != seed {
            return Err(damaged(meta_end, "the checksum of the snapshot's header does not hold"));
        }
        let meta = decode_snapshot_meta(&header.slice(FIXED_BYTES..index(meta_end)))
            .map_err(|_| damaged(FIXED_BYTES as u64, "the snapshot's description cannot be decoded"))?;
        let group = GroupId(u64_at(&fixed, 16));
        if (group, meta.last.index) != key {
            return Err(damaged(16, "the snapshot is another one than its name says"));
        }
        let content_start = meta_end + CRC_BYTES;
        let footer_at = size.checked_sub(FOOTER_BYTES).filter(|at| *at >= content_start);
        let footer_at = footer_at.ok_or_else(|| damaged(size, "the snapshot ends too early"))?;
        let footer = read_exact(&*file, path, footer_at, FOOTER_BYTES)?;
        let bytes = u64_at(&footer, 0);
        if footer[8..16] != *FOOTER_MAGIC || crc32c::crc32c_append(seed, &footer[..16]) != u32_at(&footer, 16)
        {
            return Err(damaged(footer_at, "the snapshot does not end with its footer"));
        }
        let chunks = bytes.div_ceil(u64::from(chunk_bytes));
        if chunks.checked_mul(CRC_BYTES).and_then(|crcs| crcs.checked_add(bytes))
            != Some(footer_at - content_start)
        {
            return Err(damaged(footer_at, "the snapshot has another length than its footer says"));
        }
        let info = SnapshotInfo { group, meta, bytes };
        let (path, chunk_bytes) = (path.to_owned(), u64::from(chunk_bytes));
        Ok(Self { info, path, file, seed, chunk_bytes, content_start, chunk: None })
    }

    /// Reads and verifies chunk `number`.
    fn load(&mut self, number: u64) -> Result<(), SnapshotError> {
        if self.chunk.as_ref().is_some_and(|(loaded, _)| *loaded == number) {
            return Ok(());
        }
        let offset = self.content_start + number * (self.chunk_bytes + CRC_BYTES);
        let count = self.chunk_bytes.min(self.info.bytes - number * self.chunk_bytes);
        let bytes = read_exact(&*self.file, &self.path, offset, count + CRC_BYTES)?;
        let content = bytes.slice(..index(count));
        if chunk_crc(self.seed, number, &content) != u32_at(&bytes, index(count)) {
            let what = "the checksum of a chunk does not hold";
            return Err(SnapshotError::Damaged(Damage { path: self.path.clone(), offset, what }));
        }
        self.chunk = Some((number, content));
        Ok(())
    }
}

impl SnapshotReader for FileReader {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, SnapshotError> {
        let mut done = 0;
        while done < buffer.len() && offset + (done as u64) < self.info.bytes {
            let at = offset + done as u64;
            self.load(at / self.chunk_bytes)?;
            let Some((_, chunk)) = &self.chunk else { break };
            let part = chunk.get(index(at % self.chunk_bytes)..).unwrap_or_default();
            let count = part.len().min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&part[..count]);
            done += count;
        }
        Ok(done)
    }

    fn info(&self) -> &SnapshotInfo {
        &self.info
    }
}

fn read_exact(file: &dyn DiskFile, path: &Path, offset: u64, count: u64) -> Result<Bytes, SnapshotError> {
    let mut bytes = vec![0; index(count)];
    let found = file.read_at(&mut bytes, offset).map_err(|source| failed("reading", path, source))?;
    if found < bytes.len() {
        let (path, offset) = (path.to_owned(), offset + found as u64);
        return Err(SnapshotError::Damaged(Damage { path, offset, what: "the snapshot ends too early" }));
    }
    Ok(Bytes::from(bytes))
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}
