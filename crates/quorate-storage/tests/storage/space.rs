//! Full disks, failing syncs, and what becomes of old segments.

use std::path::Path;
use std::sync::{Arc, Mutex};

use quorate_core::{GroupId, HardState, LogIndex, Term};
use quorate_storage::conformance::LogModel;
use quorate_storage::{Disk, DiskFault, GroupWrite, LogBatch, LogError, LogStore, MemDisk, Wal, WalConfig};

use crate::crash_points::{batch, compaction, entries};

fn config() -> WalConfig {
    WalConfig { segment_bytes: 8192, fill_ahead_bytes: 1000, salt: 3, ..WalConfig::default() }
}

fn open(disk: &MemDisk) -> Wal {
    Wal::open(Arc::new(disk.clone()), Path::new("wal"), config()).unwrap()
}

/// Writes each batch in one flush; what their completions said.
fn write(wal: &mut Wal, batches: Vec<LogBatch>) -> Vec<Result<(), LogError>> {
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    for batch in batches {
        let outcomes = Arc::clone(&outcomes);
        wal.write(batch, true, Box::new(move |result| outcomes.lock().unwrap().push(result)));
    }
    drop(wal.flush());
    std::mem::take(&mut *outcomes.lock().unwrap())
}

fn write_one(wal: &mut Wal, model: &mut LogModel, write: GroupWrite) -> Result<(), LogError> {
    let batch = batch([write]);
    let outcome = self::write(wal, vec![batch.clone()]).remove(0);
    if outcome.is_ok() {
        model.apply(&batch);
    }
    outcome
}

/// The disk is full when a segment is needed: the batch is refused, everything else goes on,
/// compaction makes room, and then the same batch is taken.
#[test]
fn full_disk_refuses_batches_until_compaction_makes_room() {
    let disk = MemDisk::new();
    disk.set_capacity(Some(3 * 8192));
    let (mut wal, mut model) = (open(&disk), LogModel::default());
    let mut index = 1;
    let refused = loop {
        match write_one(&mut wal, &mut model, entries(1, 1, index..=index, 900)) {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::NoSpace { .. }), "{refused}");
    assert!(index > 15, "three segments were filled first: {index}");
    // Again and again, and nothing has changed.
    for _ in 0..3 {
        let again = write_one(&mut wal, &mut model, entries(1, 1, index..=index, 900));
        assert!(matches!(again, Err(LogError::NoSpace { .. })), "{again:?}");
    }
    model.compare(&wal).unwrap();
    // Small promises still fit, and so does compaction, without any new space.
    let vote = HardState { term: Term(9), ..HardState::default() };
    let vote = GroupWrite { group: GroupId(1), hard_state: Some(vote), ..GroupWrite::default() };
    write_one(&mut wal, &mut model, vote).unwrap();
    write_one(&mut wal, &mut model, compaction(1, 1, index - 2)).unwrap();
    wal.flush().unwrap();
    write_one(&mut wal, &mut model, entries(1, 1, index..=index, 900)).unwrap();
    for index in index + 1..index + 40 {
        write_one(&mut wal, &mut model, entries(1, 1, index..=index, 900)).unwrap();
        write_one(&mut wal, &mut model, compaction(1, 1, index)).unwrap();
    }
    model.compare(&wal).unwrap();
    drop(wal);
    model.compare(&open(&disk)).unwrap();
}

fn vote(term: u64) -> GroupWrite {
    let hard_state = Some(HardState { term: Term(term), ..HardState::default() });
    GroupWrite { group: GroupId(1), hard_state, ..GroupWrite::default() }
}

/// A full disk with a reserve: entries are refused and everything that must go on does, however long it lasts. When
/// space returns, the log takes entries again by itself.
#[test]
fn full_disk_means_no_entries_until_there_is_space_for_the_reserve_again() {
    let disk = MemDisk::new();
    let (reserve, other) = (Path::new("wal/reserve"), Path::new("other"));
    disk.set_capacity(Some(5 * 8192));
    let config = WalConfig { reserve_bytes: 1, ..config() };
    let open = || Wal::open(Arc::new(disk.clone()), Path::new("wal"), config).unwrap();
    let (mut wal, mut model) = (open(), LogModel::default());
    assert_eq!(disk.contents(reserve).unwrap().len(), 8192, "at least a segment");
    let mut index = 1;
    let refused = loop {
        match write_one(&mut wal, &mut model, entries(1, 1, index..=index, 900)) {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::NoSpace { .. }), "{refused}");
    assert!(wal.stats().is_full && !disk.exists(reserve).unwrap());
    // What the reserve gave is there for others: a snapshot takes half of it, which keeps the reserve away.
    let file = disk.create(other).unwrap();
    file.allocate(4096).unwrap();
    let small = write_one(&mut wal, &mut model, entries(1, 1, index..=index, 1));
    assert!(matches!(small, Err(LogError::NoSpace { .. })), "not even a small one: {small:?}");
    disk.remove(other).unwrap();
    // Terms and votes for as long as it lasts, more than fit behind the entries.
    for term in 2..60 {
        write_one(&mut wal, &mut model, vote(term)).unwrap();
        if term == 30 {
            drop(wal);
            wal = open();
        }
    }
    let still = write_one(&mut wal, &mut model, entries(1, 1, index..=index, 1));
    assert!(matches!(still, Err(LogError::NoSpace { .. })), "{still:?}");
    model.compare(&wal).unwrap();
    // Compaction makes room by itself.
    write_one(&mut wal, &mut model, compaction(1, 1, index - 1)).unwrap();
    while wal.stats().segments > 2 {
        wal.flush().unwrap();
    }
    write_one(&mut wal, &mut model, entries(1, 1, index..=index, 900)).unwrap();
    assert!(!wal.stats().is_full && disk.exists(reserve).unwrap());
    // Nobody wants it any more: the space is given back.
    drop(wal);
    model.compare(&self::open(&disk)).unwrap();
    assert!(!disk.exists(reserve).unwrap());
}

/// Space that somebody else has freed is enough.
#[test]
fn log_takes_entries_again_when_somebody_frees_space() {
    let disk = MemDisk::new();
    disk.set_capacity(Some(2 * 8192));
    let config = WalConfig { reserve_bytes: 8192, ..config() };
    let mut wal = Wal::open(Arc::new(disk.clone()), Path::new("wal"), config).unwrap();
    let mut model = LogModel::default();
    let large = || entries(1, 1, 1..=1, 6000);
    assert!(write_one(&mut wal, &mut model, large()).is_ok());
    let second = || entries(1, 1, 2..=2, 6000);
    for _ in 0..3 {
        let full = write_one(&mut wal, &mut model, second());
        assert!(matches!(full, Err(LogError::NoSpace { .. })), "{full:?}");
        assert!(wal.stats().is_full);
    }
    disk.set_capacity(Some(3 * 8192));
    write_one(&mut wal, &mut model, second()).unwrap();
    assert!(!wal.stats().is_full && wal.stats().bytes_on_disk == 3 * 8192);
    model.compare(&wal).unwrap();
}

/// A batch that found no space is not overtaken by later ones of its group; other groups' small
/// batches may use the reserve.
#[test]
fn nothing_of_a_group_overtakes_a_batch_that_found_no_space() {
    let disk = MemDisk::new();
    let mut wal = open(&disk);
    disk.set_capacity(Some(8192));
    let vote = |group, term| {
        let hard_state = Some(HardState { term: Term(term), ..HardState::default() });
        batch([GroupWrite { group: GroupId(group), hard_state, ..GroupWrite::default() }])
    };
    let large = batch([entries(1, 1, 1..=1, 9000)]);
    let outcomes = write(&mut wal, vec![vote(1, 1), large, vote(1, 2), vote(2, 2)]);
    assert!(outcomes[0].is_ok() && outcomes[3].is_ok(), "{outcomes:?}");
    for outcome in &outcomes[1..3] {
        assert!(matches!(outcome, Err(LogError::NoSpace { .. })), "{outcomes:?}");
    }
    assert_eq!(wal.reader().state(GroupId(1)).unwrap().hard_state.term, Term(1));
}

#[test]
fn failed_sync_is_final_for_everything_queued_and_everything_later() {
    let disk = MemDisk::new();
    let mut wal = open(&disk);
    assert!(write(&mut wal, vec![batch([entries(1, 1, 1..=1, 10)])])[0].is_ok());
    // The next flush writes, fills ahead if it must, and syncs: the sync is the last of the three.
    let before = disk.operations();
    assert!(write(&mut wal, vec![batch([entries(1, 1, 2..=2, 10)])])[0].is_ok());
    let sync = disk.operations() - before - 2;
    disk.fail_at(disk.operations() + sync, DiskFault::Error);
    let batches = vec![batch([entries(1, 1, 3..=3, 10)]), batch([entries(2, 1, 1..=1, 10)])];
    let outcomes = write(&mut wal, batches);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(LogError::Failed { .. }))), "{outcomes:?}");
    assert_eq!(wal.reader().state(GroupId(1)).unwrap().last, LogIndex(2), "nothing of it is shown");
    let syncs = wal.stats().syncs;
    let later = write(&mut wal, vec![batch([entries(2, 1, 1..=1, 10)])]);
    assert!(matches!(later[0], Err(LogError::Failed { .. })), "{later:?}");
    assert!(wal.flush().is_err());
    assert_eq!(wal.stats().syncs, syncs, "a sync is never tried again");
}

/// One flush of many batches of many groups is one sync.
#[test]
fn a_flush_is_one_sync_however_much_is_queued() {
    let disk = MemDisk::new();
    let mut wal = open(&disk);
    let syncs = wal.stats().syncs;
    let outcomes = write(&mut wal, (1..40).map(|group| batch([entries(group, 1, 1..=2, 10)])).collect());
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(wal.stats().syncs, syncs + 1);
    assert_eq!(wal.stats().batches, 39);
}

/// Fifty groups write once and idle for ever, one group writes and is compacted: the log stays
/// small, the idle ones keep everything, files are used again.
#[test]
fn idle_groups_do_not_hold_old_segments() {
    let disk = MemDisk::new();
    let (mut wal, mut model) = (open(&disk), LogModel::default());
    for group in 10..60 {
        write_one(&mut wal, &mut model, entries(group, 3, 1..=2, 8)).unwrap();
    }
    for index in 1..300 {
        write_one(&mut wal, &mut model, entries(1, 1, index..=index, 500)).unwrap();
        write_one(&mut wal, &mut model, compaction(1, 1, index)).unwrap();
        assert!(wal.stats().segments <= 12, "{:?}", wal.stats());
    }
    wal.flush().unwrap();
    assert!(wal.stats().segments <= 5, "{:?}", wal.stats());
    model.compare(&wal).unwrap();
    let names = disk.list(Path::new("wal")).unwrap();
    assert!(names[0].as_str() > "0000000000000010", "old segments are gone: {names:?}");
    assert!(names.iter().any(|name| name.starts_with("free-")), "some are kept for reuse: {names:?}");
    drop(wal);
    model.compare(&open(&disk)).unwrap();
}

/// A group lags, and its entries lie between those of a busy one in many segments: the log stays a small multiple of
/// what is live in it; moving costs a fraction of what is written; and of the busy group nothing is ever moved.
#[test]
fn lagging_group_costs_a_bounded_multiple_of_what_it_holds() {
    let disk = MemDisk::new();
    let (mut wal, mut model) = (open(&disk), LogModel::default());
    let (mut live, mut written) = (0, 0);
    for index in 1..=900 {
        if index <= 60 {
            write_one(&mut wal, &mut model, entries(9, 1, index..=index, 400)).unwrap();
            live += 440;
        }
        write_one(&mut wal, &mut model, entries(1, 1, index..=index, 400)).unwrap();
        written += 440;
        if index > 5 {
            write_one(&mut wal, &mut model, compaction(1, 1, index - 5)).unwrap();
        }
        let stats = wal.stats();
        assert!(stats.bytes_on_disk <= 4 * live + 8 * 8192, "{live} live after {index}: {stats:?}");
        assert!(stats.bytes_moved <= written, "{written} written: {stats:?}");
    }
    let moved = wal.stats().bytes_moved;
    assert!(moved >= live, "what lags was moved: {moved}");
    model.compare(&wal).unwrap();
    drop(wal);
    model.compare(&open(&disk)).unwrap();

    let disk = MemDisk::new();
    let (mut wal, mut model) = (open(&disk), LogModel::default());
    for index in 1..=300 {
        write_one(&mut wal, &mut model, entries(1, 1, index..=index, 400)).unwrap();
        if index > 5 {
            write_one(&mut wal, &mut model, compaction(1, 1, index - 5)).unwrap();
        }
    }
    assert_eq!(wal.stats().bytes_moved, 0, "nobody lags: {:?}", wal.stats());
    assert!(wal.stats().segments < 5, "{:?}", wal.stats());
}

#[test]
fn a_batch_larger_than_a_segment_gets_its_own() {
    let disk = MemDisk::new();
    let (mut wal, mut model) = (open(&disk), LogModel::default());
    for index in 1..=4 {
        write_one(&mut wal, &mut model, entries(1, 1, index..=index, 30_000)).unwrap();
        write_one(&mut wal, &mut model, entries(2, 1, index..=index, 30)).unwrap();
    }
    model.compare(&wal).unwrap();
    drop(wal);
    let mut wal = open(&disk);
    model.compare(&wal).unwrap();
    write_one(&mut wal, &mut model, compaction(1, 1, 4)).unwrap();
    for index in 5..60 {
        write_one(&mut wal, &mut model, entries(1, 1, index..=index, 700)).unwrap();
        write_one(&mut wal, &mut model, compaction(1, 1, index)).unwrap();
    }
    assert!(wal.stats().bytes_on_disk < 8 * 8192, "large segments are not kept: {:?}", wal.stats());
}

#[test]
fn readers_on_other_threads_see_whole_entries_while_segments_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(quorate_storage::OsDisk::new(directory.path()));
    let mut wal = Wal::open(disk, Path::new("wal"), config()).unwrap();
    let mut model = LogModel::default();
    write_one(&mut wal, &mut model, entries(1, 1, 1..=1, 500)).unwrap();
    let reader = wal.reader();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let read_all = || {
            let mut reads = 0_u64;
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                let state = reader.state(GroupId(1)).unwrap();
                let range = state.compacted.index.next()..state.last.next();
                match reader.read(GroupId(1), range.clone(), 1 << 20) {
                    Ok(found) => {
                        reads += 1;
                        assert_eq!(found.len() as u64, range.end.0 - range.start.0);
                    }
                    Err(LogError::Compacted { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            reads
        };
        let readers = [scope.spawn(read_all), scope.spawn(read_all)];
        for index in 2..400 {
            write_one(&mut wal, &mut model, entries(1, 1, index..=index, 500)).unwrap();
            if index > 20 {
                write_one(&mut wal, &mut model, compaction(1, 1, index - 20)).unwrap();
            }
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
        for handle in readers {
            assert!(handle.join().unwrap() > 0);
        }
    });
    assert!(wal.stats().segments < 12, "{:?}", wal.stats());
}
