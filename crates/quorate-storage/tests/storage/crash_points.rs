//! The power fails at every operation that changes the disk, in workloads that append, rotate,
//! truncate, compact, drop and recycle. What was acknowledged is there afterwards; what is there is
//! the state after some batch; opening once more changes nothing.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_core::{
    Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, Membership, ReplicaId, SnapshotMeta, Term,
};
use quorate_storage::conformance::LogModel;
use quorate_storage::{
    Disk, DiskFault, FileSnapshotStore, GroupWrite, LogBatch, LogError, LogStore, MemDisk, SnapshotError,
    SnapshotStore, Wal, WalConfig,
};

fn config() -> WalConfig {
    WalConfig {
        segment_bytes: 4096,
        recycled_segments_max: 1,
        log_bytes_max: 3 * 4096,
        fill_ahead_bytes: 600,
        salt: 0x5a17,
        ..WalConfig::default()
    }
}

pub(crate) fn entries(
    group: u64,
    term: u64,
    indexes: std::ops::RangeInclusive<u64>,
    bytes: usize,
) -> GroupWrite {
    let entry = |index: u64| Entry {
        id: LogId::new(term, index),
        payload: EntryPayload::Command(Bytes::from(vec![index.to_le_bytes()[0]; bytes])),
    };
    GroupWrite { group: GroupId(group), entries: indexes.map(entry).collect(), ..GroupWrite::default() }
}

pub(crate) fn compaction(group: u64, term: u64, index: u64) -> GroupWrite {
    let members = Arc::new(Membership::default());
    let compact_to = Some((LogId::new(term, index), LogId::default(), members));
    GroupWrite { group: GroupId(group), compact_to, ..GroupWrite::default() }
}

fn hard_state(group: u64, term: u64) -> GroupWrite {
    let hard_state = HardState { term: Term(term), vote: Some(ReplicaId(1)), commit: LogIndex(term) };
    GroupWrite { group: GroupId(group), hard_state: Some(hard_state), ..GroupWrite::default() }
}

pub(crate) fn batch(groups: impl Into<Vec<GroupWrite>>) -> LogBatch {
    LogBatch { groups: groups.into() }
}

/// Each inner list is one flush.
type Workload = Vec<Vec<(LogBatch, bool)>>;

/// Appends of several batches per flush, some without sync, over several segments.
fn appends() -> Workload {
    let flush = |n: u64| {
        vec![
            (batch([entries(1, 1, n * 3 + 1..=n * 3 + 2, 150), entries(2, 1, n + 1..=n + 1, 40)]), true),
            (batch([hard_state(2, n + 1)]), false),
            (batch([entries(1, 1, n * 3 + 3..=n * 3 + 3, 400)]), true),
        ]
    };
    (0..12).map(flush).collect()
}

/// Conflicting tails are replaced again and again.
fn truncations() -> Workload {
    let mut flushes = vec![vec![(batch([entries(1, 1, 1..=10, 100)]), true)]];
    for n in 0..14_u64 {
        let from = 10 - n % 7;
        let replace = GroupWrite { truncate_from: Some(LogIndex(from)), ..entries(1, n + 2, from..=10, 60) };
        flushes.push(vec![(batch([replace]), true), (batch([hard_state(1, n + 2)]), n % 2 == 0)]);
    }
    flushes
}

/// One busy group is compacted while others idle: segments are moved out of, dropped and recycled.
fn compactions() -> Workload {
    let first = batch([
        GroupWrite { replica: Some(ReplicaId(7)), ..hard_state(2, 3) },
        entries(3, 2, 1..=3, 50),
        compaction(4, 0, 0),
    ]);
    let mut flushes = vec![vec![(first, true)]];
    for n in 0..24_u64 {
        let mut flush = vec![(batch([entries(1, 1, n * 4 + 1..=n * 4 + 4, 200)]), true)];
        if n > 1 {
            flush.push((batch([compaction(1, 1, n * 4 - 2)]), n % 3 == 0));
        }
        if n == 14 {
            flush.push((
                batch([GroupWrite { remove: true, group: GroupId(3), ..GroupWrite::default() }]),
                true,
            ));
        }
        flushes.push(flush);
    }
    flushes
}

/// A group that lags holds old segments until there are too many of them.
fn laggard() -> Workload {
    let mut flushes = vec![vec![(batch([entries(9, 1, 1..=6, 250)]), true)]];
    for n in 0..16_u64 {
        let mut flush = vec![(batch([entries(1, 1, n * 3 + 1..=n * 3 + 3, 300)]), true)];
        if n > 0 {
            flush.push((batch([compaction(1, 1, n * 3)]), true));
        }
        flushes.push(flush);
    }
    flushes
}

struct Run {
    /// The model after each batch, the empty one first.
    models: Vec<LogModel>,
    /// How many of the batches must be there.
    acknowledged: usize,
}

/// Runs a workload until it ends or the power fails.
fn run(disk: &MemDisk, workload: &Workload) -> Run {
    let mut run = Run { models: vec![LogModel::default()], acknowledged: 0 };
    let Ok(mut wal) = Wal::open(Arc::new(disk.clone()), Path::new("wal"), config()) else { return run };
    for flush in workload {
        let acknowledged = Arc::new(Mutex::new(run.acknowledged));
        for (batch, must_sync) in flush {
            let mut model = run.models.last().unwrap().clone();
            model.apply(batch);
            run.models.push(model);
            let number = run.models.len() - 1;
            let acknowledged = Arc::clone(&acknowledged);
            let must_sync = *must_sync;
            let done = move |result: Result<(), LogError>| {
                if result.is_ok() && must_sync {
                    *acknowledged.lock().unwrap() = number;
                }
            };
            wal.write(batch.clone(), must_sync, Box::new(done));
        }
        let flushed = wal.flush();
        run.acknowledged = *acknowledged.lock().unwrap();
        if flushed.is_err() {
            assert!(wal.flush().is_err(), "a failed log stays failed");
            return run;
        }
    }
    run
}

/// Which of the possible states `wal` is in.
fn find(wal: &Wal, run: &Run) -> usize {
    let possible = run.acknowledged..run.models.len();
    // Equal models may follow each other; the last that fits is as good as any.
    possible.clone().rev().find(|number| run.models[*number].compare(wal).is_ok()).unwrap_or_else(|| {
        let first = run.models[run.acknowledged].compare(wal);
        panic!("the log is in none of the states {possible:?}; to the acknowledged one: {first:?}")
    })
}

/// How many outcomes of a power cut at one operation are tried: all four workloads together come to 20,000
/// crash states.
const OUTCOMES: u64 = 12;

/// Cuts the power at every operation, with several outcomes of each cut, and says how many crash states were recovered.
fn crash_everywhere(workload: &Workload) -> u64 {
    let mut states = 0;
    let disk = MemDisk::new();
    let whole = run(&disk, workload);
    assert_eq!(whole.models.len() - 1, workload.iter().map(Vec::len).sum::<usize>());
    for operation in 0..disk.operations() {
        let failed = MemDisk::new();
        failed.fail_at(operation, DiskFault::PowerFailure);
        let run = run(&failed, workload);
        for seed in operation * OUTCOMES..(operation + 1) * OUTCOMES {
            let disk = failed.fork();
            disk.crash(seed);
            let place = format!("operation {operation}, seed {seed}");
            let open = || Wal::open(Arc::new(disk.clone()), Path::new("wal"), config());
            let wal = open().unwrap_or_else(|error| panic!("{place}: {error}"));
            let found = find(&wal, &run);
            drop(wal);
            // What was recovered is durable: the next failure, whatever it keeps, cannot change it.
            disk.crash(seed + 2);
            let mut wal = open().unwrap_or_else(|error| panic!("{place}, again: {error}"));
            let again = run.models[found].compare(&wal);
            again.unwrap_or_else(|difference| panic!("{place}, again: {difference}"));
            let mut model = run.models[found].clone();
            let more = batch([entries(77, 1, 1..=1, 10)]);
            model.apply(&more);
            wal.write(more, true, Box::new(|result| result.unwrap()));
            wal.flush().unwrap();
            drop(wal);
            disk.crash(seed);
            let wal = open().unwrap_or_else(|error| panic!("{place}, after more: {error}"));
            model.compare(&wal).unwrap_or_else(|difference| panic!("{place}, after more: {difference}"));
            states += 3;
        }
    }
    states
}

#[test]
fn power_failure_at_every_operation_of_appends_keeps_what_was_acknowledged() {
    assert!(crash_everywhere(&appends()) >= 4_100);
}

#[test]
fn power_failure_at_every_operation_of_truncations_keeps_what_was_acknowledged() {
    assert!(crash_everywhere(&truncations()) >= 3_300);
}

#[test]
fn power_failure_at_every_operation_of_compactions_keeps_what_was_acknowledged() {
    assert!(crash_everywhere(&compactions()) >= 7_500);
}

#[test]
fn power_failure_at_every_operation_with_a_laggard_keeps_what_was_acknowledged() {
    assert!(crash_everywhere(&laggard()) >= 5_500);
}

/// The workloads above are worth their time only if they meet what they are about.
#[test]
fn workloads_rotate_move_drop_and_recycle() {
    for (workload, segments_max) in [(appends(), 9), (compactions(), 4), (laggard(), 5)] {
        let disk = MemDisk::new();
        run(&disk, &workload);
        let wal = Wal::open(Arc::new(disk.clone()), Path::new("wal"), config()).unwrap();
        let newest = quorate_storage::Disk::list(&disk, Path::new("wal")).unwrap();
        let newest = newest.iter().rev().find(|name| name.ends_with(".wal")).unwrap().clone();
        let newest: u64 = newest.trim_end_matches(".wal").parse().unwrap();
        assert!(newest >= 4, "the workload rotates: {newest}");
        assert!(wal.stats().segments <= segments_max, "{:?} of {newest}", wal.stats());
        if segments_max < 9 {
            assert!(wal.stats().segments < newest, "segments are dropped");
        }
    }
}

/// An error at every operation instead of a power failure: the log stops, and is whole when opened
/// again.
#[test]
fn io_error_at_every_operation_stops_the_log_and_loses_nothing() {
    let workload = compactions();
    let disk = MemDisk::new();
    run(&disk, &workload);
    for operation in 0..disk.operations() {
        let disk = MemDisk::new();
        disk.fail_at(operation, DiskFault::Error);
        let run = run(&disk, &workload);
        disk.crash(operation);
        let wal = Wal::open(Arc::new(disk.clone()), Path::new("wal"), config())
            .unwrap_or_else(|error| panic!("operation {operation}: {error}"));
        find(&wal, &run);
    }
}

/// After a failed sync the kernel shows a restarted process data that never reached the disk, and marks it
/// clean: syncing it again does nothing. What is recovered must survive a power failure all the same.
#[test]
fn restarted_process_makes_durable_what_a_failed_sync_left_in_memory() {
    for workload in [appends(), truncations(), compactions(), laggard()] {
        let disk = MemDisk::new();
        run(&disk, &workload);
        for operation in 0..disk.operations() {
            let disk = MemDisk::new();
            disk.fail_at(operation, DiskFault::SyncError);
            let run = run(&disk, &workload);
            let open = || Wal::open(Arc::new(disk.clone()), Path::new("wal"), config());
            let place = format!("operation {operation}");
            let mut wal = open().unwrap_or_else(|error| panic!("{place}: {error}"));
            let mut model = run.models[find(&wal, &run)].clone();
            let more = batch([entries(77, 1, 1..=1, 10)]);
            model.apply(&more);
            wal.write(more, true, Box::new(|result| result.unwrap()));
            wal.flush().unwrap();
            drop(wal);
            disk.crash(operation * 4);
            let wal = open().unwrap_or_else(|error| panic!("{place}, after a power failure: {error}"));
            let compared = model.compare(&wal);
            compared.unwrap_or_else(|difference| panic!("{place}, after a power failure: {difference}"));
        }
    }
}

/// Three snapshots are written, the older ones removed; the power fails at every operation of it.
#[test]
fn power_failure_at_every_operation_of_snapshots_keeps_the_finished_ones() {
    let save_all = |disk: &MemDisk| -> Result<u64, (u64, SnapshotError)> {
        let mut finished = 0;
        let mut run = || {
            let store = FileSnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots"))?;
            for index in 1..=3 {
                let mut writer = store.create(GroupId(1), &snapshot_meta(index))?;
                writer.write(&vec![index.to_le_bytes()[0]; 2000])?;
                writer.finish()?;
                finished = index;
                store.retain(GroupId(1), 1)?;
            }
            Ok(())
        };
        match run() {
            Ok(()) => Ok(finished),
            Err(error) => Err((finished, error)),
        }
    };
    let disk = MemDisk::new();
    save_all(&disk).unwrap();
    for operation in 0..disk.operations() {
        for seed in 0..8 {
            let disk = MemDisk::new();
            disk.fail_at(operation, DiskFault::PowerFailure);
            let finished =
                save_all(&disk).map_err(|(finished, _)| finished).unwrap_or_else(|finished| finished);
            disk.crash(seed);
            let store = FileSnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap();
            assert!(store.damaged().is_empty(), "operation {operation}, seed {seed}: {:?}", store.damaged());
            let found = store.list(GroupId(1)).unwrap();
            let newest = found.last().map_or(0, |info| info.meta.last.index.0);
            assert!(newest >= finished, "operation {operation}, seed {seed}: {newest} of {finished}");
            for info in found {
                let mut content = vec![0; 3000];
                let count = store.open(&info).unwrap().read_at(0, &mut content).unwrap();
                assert_eq!(content[..count], vec![info.meta.last.index.0.to_le_bytes()[0]; 2000]);
            }
            let names = disk.list(Path::new("snapshots")).unwrap();
            assert!(names.iter().all(|name| name.ends_with(".snap")), "leftovers: {names:?}");
        }
    }
}

fn snapshot_meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last: LogId::new(1, index),
        membership: Arc::new(Membership::default()),
        membership_id: LogId::default(),
    }
}

/// A full disk while a snapshot is written: an error, nothing left behind, the next one works.
#[test]
fn full_disk_abandons_a_snapshot_without_a_trace() {
    let disk = MemDisk::new();
    let store = FileSnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap();
    disk.set_capacity(Some(100_000));
    let mut writer = store.create(GroupId(1), &snapshot_meta(1)).unwrap();
    let error = (0..100).find_map(|_| writer.write(&[1; 10_000]).err()).unwrap();
    assert!(matches!(error, SnapshotError::Io { .. }), "{error}");
    drop(writer);
    assert!(disk.list(Path::new("snapshots")).unwrap().is_empty());
    let mut writer = store.create(GroupId(1), &snapshot_meta(2)).unwrap();
    writer.write(&[1; 70_000]).unwrap();
    writer.finish().unwrap();
}
