//! A large log is opened: once through, from front to back, in memory that does not grow with it.
//!
//! How long that takes on a disk is measured elsewhere (docs/bench). What does not depend on the machine
//! is here: how many bytes are read, and how much memory there is at most meanwhile.

#![expect(clippy::unwrap_used, reason = "a test; a failure names the line")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use quorate_core::{Entry, EntryPayload, GroupId, LogId, LogIndex, ReplicaId};
use quorate_storage::{
    Disk, DiskFile, DiskLock, GroupWrite, LogBatch, LogStore, MemDisk, Wal, WalConfig, write_now,
};

const SEGMENT_BYTES: u64 = 32 << 10;
const ENTRY_BYTES: usize = 4 << 10;

struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static MOST_BYTES: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    let live = LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST_BYTES.fetch_max(live, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: every call is the system allocator's; counting changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts what is read.
struct Counted(MemDisk, Arc<AtomicU64>);

struct CountedFile(Box<dyn DiskFile>, Arc<AtomicU64>);

impl Counted {
    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(CountedFile(file, Arc::clone(&self.1)))
    }
}

impl Disk for Counted {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.0.create(path)?))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.0.open(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.list(directory)
    }
    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.0.create_dir_all(directory)
    }
    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.0.sync_dir(directory)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.0.lock(path)
    }
}

impl DiskFile for CountedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.0.read_at(buffer, offset)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_size(size)
    }
    fn allocate(&self, size: u64) -> io::Result<()> {
        self.0.allocate(size)
    }
}

fn config() -> WalConfig {
    WalConfig { segment_bytes: SEGMENT_BYTES, fill_ahead_bytes: 0, salt: 3, ..WalConfig::default() }
}

/// Writes a log of so many entries, and opens it again: its bytes, those that were read, and the most
/// that was allocated at a time.
fn write_and_open(entries: u64) -> (u64, u64, usize) {
    let (disk, read) = (MemDisk::new(), Arc::<AtomicU64>::default());
    let mut wal = Wal::open(Arc::new(disk.clone()), Path::new("wal"), config()).unwrap();
    for index in 1..=entries {
        let payload = EntryPayload::Command(Bytes::from(vec![7; ENTRY_BYTES]));
        let entry = Entry { id: LogId::new(1, index), payload };
        let replica = (index == 1).then_some(ReplicaId(1));
        let write =
            GroupWrite { group: GroupId(1), replica, entries: vec![entry].into(), ..GroupWrite::default() };
        write_now(&mut wal, LogBatch { groups: vec![write] }, true).unwrap();
    }
    drop(wal);
    let names = disk.list(Path::new("wal")).unwrap();
    let bytes =
        names.iter().map(|name| disk.open(&Path::new("wal").join(name)).unwrap().size().unwrap()).sum();
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    MOST_BYTES.store(before, Ordering::Relaxed);
    let counted = Counted(disk, Arc::clone(&read));
    let wal = Wal::open(Arc::new(counted), Path::new("wal"), config()).unwrap();
    let most = MOST_BYTES.load(Ordering::Relaxed) - before;
    assert_eq!(wal.reader().state(GroupId(1)).unwrap().last, LogIndex(entries));
    (bytes, read.load(Ordering::Relaxed), most)
}

#[test]
fn a_log_of_many_segments_is_opened_in_one_pass_and_little_memory() {
    let (bytes, read, most) = write_and_open(1000);
    let (twice_bytes, twice_read, twice_most) = write_and_open(2000);
    assert!(bytes > 100 * SEGMENT_BYTES && twice_bytes > bytes * 19 / 10);
    for (bytes, read) in [(bytes, read), (twice_bytes, twice_read)] {
        assert!(read >= bytes / 2 && read <= bytes + bytes / 4, "{read} bytes were read of {bytes}");
    }
    assert!(twice_read <= read * 21 / 10, "{read} bytes, of twice as much {twice_read}");
    // Windows and buffers; of each record and each segment, where it is.
    for (bytes, most) in [(bytes, most), (twice_bytes, twice_most)] {
        let cap = (1 << 20) + bytes / 20;
        assert!((most as u64) < cap, "{most} bytes of memory for a log of {bytes}");
    }
}
