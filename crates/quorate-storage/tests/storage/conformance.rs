//! Every store passes the conformance suite.

use std::path::Path;
use std::sync::Arc;

use quorate_storage::conformance::{LogStoreUnderTest, SnapshotStoreUnderTest, log_store, snapshot_store};
use quorate_storage::{
    DiscardSnapshotStore, Disk, FileSnapshotStore, LogStore, MemDisk, MemLogStore, MemSnapshotStore, OsDisk,
    SnapshotStore, Wal, WalConfig,
};

/// Tiny segments, so that every case meets rotation and cleaning.
fn tiny() -> WalConfig {
    WalConfig {
        segment_bytes: 4096,
        log_bytes_max: 6 * 4096,
        fill_ahead_bytes: 1024,
        salt: 7,
        ..WalConfig::default()
    }
}

struct InMemory(MemLogStore);

impl LogStoreUnderTest for InMemory {
    fn store(&mut self) -> &mut dyn LogStore {
        &mut self.0
    }
    fn reopen(&mut self) {}
    fn crash(&mut self, _seed: u64) {
        self.0.crash();
    }
}

/// A log on a disk; a crash of a real disk is only the end of the process.
struct OnDisk {
    disk: Arc<dyn Disk>,
    faults: Option<MemDisk>,
    config: WalConfig,
    wal: Option<Wal>,
    _directory: Option<tempfile::TempDir>,
}

impl OnDisk {
    fn new(disk: Arc<dyn Disk>, config: WalConfig) -> Self {
        let mut new = Self { disk, faults: None, config, wal: None, _directory: None };
        new.reopen();
        new
    }
}

impl LogStoreUnderTest for OnDisk {
    fn store(&mut self) -> &mut dyn LogStore {
        self.wal.as_mut().unwrap()
    }
    fn reopen(&mut self) {
        self.wal = None;
        self.wal = Some(Wal::open(Arc::clone(&self.disk), Path::new("wal"), self.config).unwrap());
    }
    fn crash(&mut self, seed: u64) {
        self.wal = None;
        if let Some(faults) = &self.faults {
            faults.crash(seed);
        }
        self.reopen();
    }
}

#[test]
fn memory_log_conforms() {
    log_store::run(&mut || Box::new(InMemory(MemLogStore::with_crashes())));
}

#[test]
fn wal_on_a_real_disk_conforms() {
    log_store::run(&mut || {
        let directory = tempfile::tempdir().unwrap();
        let config = WalConfig { segment_bytes: 256 * 1024, ..tiny() };
        let mut new = OnDisk::new(Arc::new(OsDisk::new(directory.path())), config);
        new._directory = Some(directory);
        Box::new(new)
    });
}

#[test]
fn wal_on_a_forgetful_disk_conforms_with_tiny_segments() {
    log_store::run(&mut || {
        let disk = MemDisk::new();
        let mut new = OnDisk::new(Arc::new(disk.clone()), tiny());
        new.faults = Some(disk);
        Box::new(new)
    });
}

/// Long, and under configurations that clean early, late, a little or a lot.
#[test]
fn wal_is_what_the_model_says_through_thousands_of_random_batches() {
    for seed in 0..8 {
        let disk = MemDisk::new();
        let config = WalConfig {
            log_bytes_max: (2 + seed % 7) * 4096,
            move_bytes_max: 256 << (seed % 8),
            recycled_segments_max: usize::from(seed % 2 == 0),
            fill_ahead_bytes: seed % 5 * 300,
            ..tiny()
        };
        let mut new = OnDisk::new(Arc::new(disk.clone()), config);
        new.faults = Some(disk);
        eprintln!("seed {seed}");
        log_store::random_batches(&mut new, seed, 1000);
    }
}

struct MemorySnapshots(MemSnapshotStore);

impl SnapshotStoreUnderTest for MemorySnapshots {
    fn store(&mut self) -> &mut dyn SnapshotStore {
        &mut self.0
    }
    fn reopen(&mut self) {}
    fn crash(&mut self, _seed: u64) {}
}

struct FileSnapshots {
    disk: Arc<dyn Disk>,
    faults: Option<MemDisk>,
    store: Option<FileSnapshotStore>,
    _directory: Option<tempfile::TempDir>,
}

impl SnapshotStoreUnderTest for FileSnapshots {
    fn store(&mut self) -> &mut dyn SnapshotStore {
        self.store.as_mut().unwrap()
    }
    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(FileSnapshotStore::open(Arc::clone(&self.disk), Path::new("snapshots")).unwrap());
    }
    fn crash(&mut self, seed: u64) {
        self.store = None;
        if let Some(faults) = &self.faults {
            faults.crash(seed);
        }
        self.reopen();
    }
}

struct NoSnapshots(DiscardSnapshotStore);

impl SnapshotStoreUnderTest for NoSnapshots {
    fn store(&mut self) -> &mut dyn SnapshotStore {
        &mut self.0
    }
    fn reopen(&mut self) {}
    fn crash(&mut self, _seed: u64) {}
}

#[test]
fn discarding_store_conforms_as_far_as_it_can() {
    snapshot_store::run_discarding(&mut || Box::new(NoSnapshots(DiscardSnapshotStore::new())));
}

#[test]
fn memory_snapshots_conform() {
    snapshot_store::run(&mut || Box::new(MemorySnapshots(MemSnapshotStore::new())));
}

#[test]
fn file_snapshots_conform_on_a_real_disk() {
    snapshot_store::run(&mut || {
        let directory = tempfile::tempdir().unwrap();
        let disk = Arc::new(OsDisk::new(directory.path()));
        let mut new = FileSnapshots { disk, faults: None, store: None, _directory: Some(directory) };
        new.reopen();
        Box::new(new)
    });
}

#[test]
fn file_snapshots_conform_on_a_forgetful_disk() {
    snapshot_store::run(&mut || {
        let disk = MemDisk::new();
        let faults = Some(disk.clone());
        let mut new = FileSnapshots { disk: Arc::new(disk), faults, store: None, _directory: None };
        new.reopen();
        Box::new(new)
    });
}
