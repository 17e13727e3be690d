//! The log in a single file: conformance, crashes, faults at every operation, and damage.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_core::{Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, ReplicaId, Term};
use quorate_storage::conformance::{LogStoreUnderTest, log_store};
use quorate_storage::{
    Disk, DiskFault, GroupState, GroupWrite, LogBatch, LogError, LogStore, MemDisk, OsDisk, RedbConfig,
    RedbLogStore,
};

const FILE: &str = "log.redb";

fn open(disk: &Arc<dyn Disk>) -> Result<RedbLogStore, LogError> {
    RedbLogStore::open(Arc::clone(disk), Path::new(FILE), RedbConfig { cache_bytes: 1 << 20 })
}

struct OneFile {
    disk: Arc<dyn Disk>,
    faults: Option<MemDisk>,
    store: Option<RedbLogStore>,
    _directory: Option<tempfile::TempDir>,
}

impl OneFile {
    fn forgetful() -> Self {
        let memory = MemDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let store = Some(open(&disk).unwrap());
        Self { disk, faults: Some(memory), store, _directory: None }
    }
}

impl LogStoreUnderTest for OneFile {
    fn store(&mut self) -> &mut dyn LogStore {
        self.store.as_mut().unwrap()
    }
    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(open(&self.disk).unwrap());
    }
    fn crash(&mut self, seed: u64) {
        // The power goes first: closing a database writes, and that must not count.
        if let Some(faults) = &self.faults {
            faults.crash(seed);
        }
        self.reopen();
    }
}

#[test]
fn redb_on_a_real_disk_conforms() {
    log_store::run(&mut || {
        let directory = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(directory.path()));
        let store = Some(open(&disk).unwrap());
        Box::new(OneFile { disk, faults: None, store, _directory: Some(directory) })
    });
}

#[test]
fn redb_on_a_forgetful_disk_conforms() {
    log_store::run(&mut || Box::new(OneFile::forgetful()));
}

#[test]
fn redb_is_what_the_model_says_through_random_batches_and_crashes() {
    for seed in 100..104 {
        eprintln!("seed {seed}");
        log_store::random_batches(&mut OneFile::forgetful(), seed, 300);
    }
}

/// Three groups' worth of votes and entries, numbered by `round`.
fn batch(round: u64) -> LogBatch {
    let write = |group: u64| GroupWrite {
        group: GroupId(group),
        entries: vec![Entry {
            id: LogId::new(1, round),
            payload: EntryPayload::Command(Bytes::from(vec![group.to_le_bytes()[0]; 700])),
        }]
        .into(),
        hard_state: Some(HardState { term: Term(round), vote: Some(ReplicaId(group)), commit: LogIndex(0) }),
        ..GroupWrite::default()
    };
    LogBatch { groups: (1..=3).map(write).collect() }
}

/// Writes one batch; what its completion and the flush said.
fn write(store: &mut RedbLogStore, batch: LogBatch) -> (Option<Result<(), LogError>>, Result<(), LogError>) {
    let outcome = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&outcome);
    store.write(batch, true, Box::new(move |result| *slot.lock().unwrap() = Some(result)));
    let flushed = store.flush();
    (outcome.lock().unwrap().take(), flushed)
}

/// The power fails at every operation in turn: every acknowledged batch is there afterwards, in all
/// groups, and the batch that was being written is there whole or not at all.
#[test]
fn power_failure_at_every_operation_loses_nothing_acknowledged() {
    for operation in 0.. {
        let memory = MemDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        memory.fail_at(operation, DiskFault::PowerFailure);
        let mut acknowledged = 0;
        if let Ok(mut store) = open(&disk) {
            for round in 1..=4 {
                match write(&mut store, batch(round)) {
                    (Some(Ok(())), Ok(())) => acknowledged = round,
                    (Some(Err(LogError::Failed { context, .. })), Err(LogError::Failed { .. })) => {
                        assert!(context.contains(FILE), "{context}");
                        break;
                    }
                    other => panic!("operation {operation}: {other:?}"),
                }
            }
            memory.crash(operation);
        } else {
            memory.crash(operation);
        }
        let store = open(&disk).unwrap_or_else(|error| panic!("operation {operation}: {error}"));
        let groups = store.groups();
        let last = groups.first().map_or(0, |group| group.last.0);
        assert!(
            (acknowledged..=acknowledged + 1).contains(&last),
            "operation {operation}: {last} for {acknowledged}"
        );
        for group in &groups {
            assert_eq!((group.last.0, group.hard_state.term.0), (last, last), "operation {operation}");
        }
        if acknowledged == 4 {
            return;
        }
    }
}

#[test]
fn after_a_failed_sync_everything_is_refused() {
    let memory = MemDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let mut store = open(&disk).unwrap();
    assert!(matches!(write(&mut store, batch(1)), (Some(Ok(())), Ok(()))));
    let reader = store.reader();
    let next = memory.operations();
    for operation in next..next + 100 {
        memory.fail_at(operation, DiskFault::SyncError);
    }
    assert!(matches!(
        write(&mut store, batch(2)),
        (Some(Err(LogError::Failed { .. })), Err(LogError::Failed { .. }))
    ));
    assert!(matches!(
        write(&mut store, batch(2)),
        (Some(Err(LogError::Failed { .. })), Err(LogError::Failed { .. }))
    ));
    // What was never acknowledged is not seen.
    assert_eq!(reader.state(GroupId(1)).unwrap().last, LogIndex(1));
}

/// A file with six acknowledged batches, after a clean end or after a crash.
fn written(clean: bool) -> (MemDisk, Vec<GroupState>) {
    let memory = MemDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let mut store = open(&disk).unwrap();
    for round in 1..=6 {
        assert!(matches!(write(&mut store, batch(round)), (Some(Ok(())), Ok(()))));
    }
    let groups = store.groups();
    if !clean {
        memory.crash(0);
    }
    drop(store);
    (memory, groups)
}

/// Flips bits of one byte. The store says so with the name of the file (true), or has everything that
/// was acknowledged (false).
fn is_named(memory: &MemDisk, expected: &[GroupState], offset: u64, bits: u8) -> bool {
    let copy = memory.copy();
    let file = copy.open(Path::new(FILE)).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, offset).unwrap();
    file.write_at(&[byte[0] ^ bits], offset).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(copy);
    match open(&disk) {
        Ok(store) => {
            assert_eq!(store.groups(), expected, "byte {offset}, bits {bits:#x}");
            let reader = store.reader();
            for group in 1..=3 {
                let read = reader.read(GroupId(group), LogIndex(1)..LogIndex(7), 1 << 20);
                assert_eq!(read.unwrap().len(), 6, "byte {offset}, bits {bits:#x}");
            }
            false
        }
        Err(error) => {
            assert!(error.to_string().contains(FILE), "byte {offset}, bits {bits:#x}: {error}");
            true
        }
    }
}

/// It never panics, and never forgets a vote.
#[test]
fn damage_anywhere_is_named_or_harmless() {
    for clean in [true, false] {
        let (memory, expected) = written(clean);
        let size = memory.open(Path::new(FILE)).unwrap().size().unwrap();
        let named = (0..size).step_by(509).filter(|at| is_named(&memory, &expected, *at, 0x40)).count();
        assert!(named > 10, "clean: {clean}: {named} of {size} bytes");
    }
}

/// The header says which of two commits is the last, in a bit without a checksum. After a clean end both
/// hold the same. After a crash nobody can tell: the newer of the two may be one that never finished.
#[test]
fn damage_of_the_header_is_named_or_harmless() {
    const LAST_COMMIT: (u64, u8) = (9, 1);
    for clean in [true, false] {
        let (memory, expected) = written(clean);
        for offset in (0..64).chain((64..320).step_by(11)) {
            for bits in (0..8).map(|bit| 1 << bit).filter(|bits| clean || (offset, *bits) != LAST_COMMIT) {
                is_named(&memory, &expected, offset, bits);
            }
        }
    }
}

#[test]
fn an_empty_or_foreign_file_is_not_taken_for_a_new_log() {
    for content in [&b""[..], b"not a database, whatever its name says"] {
        let memory = MemDisk::new();
        memory.create(Path::new(FILE)).unwrap().write_at(content, 0).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(memory);
        let error = open(&disk).map(drop).unwrap_err();
        assert!(matches!(&error, LogError::Damaged(damage) if damage.path == Path::new(FILE)), "{error}");
    }
}
