//! Every byte of a log or a snapshot is flipped, every file is cut at every offset: what comes back
//! is the same data, the same data without a tail that was never acknowledged, or an error that
//! names the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::{GroupId, LogId, LogIndex, Membership, SnapshotMeta};
use quorate_storage::conformance::{DamageOutcome, LogModel, judge_damage};
use quorate_storage::wal_tools::{self, DumpItem, DumpedKind, DumpedRecord};
use quorate_storage::{
    Damage, Disk, FileSnapshotStore, LogBatch, LogError, LogStore, MemDisk, SnapshotError, SnapshotStore,
    Wal, WalConfig,
};

use crate::crash_points::{batch, compaction, entries};

fn config() -> WalConfig {
    WalConfig { segment_bytes: 4096, fill_ahead_bytes: 500, salt: 3, ..WalConfig::default() }
}

fn open(disk: &MemDisk) -> Result<Wal, LogError> {
    Wal::open(Arc::new(disk.clone()), Path::new("wal"), config())
}

fn write(wal: &mut Wal, model: &mut LogModel, batch: LogBatch, must_sync: bool) {
    model.apply(&batch);
    wal.write(batch, must_sync, Box::new(|result| result.unwrap()));
    wal.flush().unwrap();
}

/// Three segments of two groups, everything acknowledged.
fn small_log() -> (MemDisk, Wal, LogModel) {
    let disk = MemDisk::new();
    let mut wal = open(&disk).unwrap();
    let mut model = LogModel::default();
    for n in 0..9_u64 {
        write(
            &mut wal,
            &mut model,
            batch([entries(1, 1, n + 1..=n + 1, 700), entries(2, 2, n + 1..=n + 1, 90)]),
            true,
        );
    }
    write(&mut wal, &mut model, batch([compaction(2, 2, 7)]), true);
    assert_eq!(wal.stats().segments, 3);
    (disk, wal, model)
}

fn files(disk: &MemDisk, directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(directory);
    disk.list(directory).unwrap().iter().map(|name| directory.join(name)).collect()
}

/// Every variant of the disk with one byte flipped, and every one with a file cut.
fn every_damage(disk: &MemDisk, directory: &str, mut visit: impl FnMut(&MemDisk, &Path, u64, &str)) {
    for path in files(disk, directory) {
        let contents = disk.contents(&path).unwrap();
        let damaged = disk.copy();
        for at in 0..contents.len() {
            let mut flipped = contents.clone();
            flipped[at] ^= 1 << (at % 8);
            damaged.overwrite(&path, flipped);
            visit(&damaged.copy(), &path, at as u64, "flipped");
        }
        // Cutting inside a stretch of zeros is all the same: every seventh offset will do.
        for at in (0..contents.len()).filter(|at| contents[*at] != 0 || at % 7 == 0) {
            damaged.overwrite(&path, contents[..at].to_vec());
            visit(&damaged.copy(), &path, at as u64, "cut");
        }
    }
}

/// An error names the file, and an offset at or before the damage.
fn check_damage(damage: &Damage, path: &Path, at: u64) {
    assert!(damage.path == path && damage.offset <= at, "byte {at} of {} led to: {damage}", path.display());
}

#[test]
fn any_damaged_byte_of_an_acknowledged_log_is_harmless_or_an_error() {
    let (disk, wal, model) = small_log();
    drop(wal);
    let mut seen: BTreeMap<DamageOutcome, u32> = BTreeMap::new();
    every_damage(&disk, "wal", |disk, path, at, how| {
        let opened = open(disk);
        let opened = opened.as_ref().map(|wal| wal as &dyn LogStore);
        let outcome = judge_damage(opened, &model, path, at)
            .unwrap_or_else(|what| panic!("byte {at} of {} {how}: {what}", path.display()));
        assert!(how == "flipped" || outcome != DamageOutcome::Harmless, "a cut file never goes unnoticed");
        *seen.entry(outcome).or_default() += 1;
    });
    let of = |outcome| seen.get(&outcome).copied().unwrap_or(0);
    assert!(
        of(DamageOutcome::Refused) > 8000
            && of(DamageOutcome::Harmless) > 1000
            && of(DamageOutcome::OneEntry) > 5000,
        "all happen: {seen:?}"
    );
}

#[test]
fn any_damaged_byte_of_an_unacknowledged_tail_only_costs_the_tail() {
    let disk = MemDisk::new();
    let mut wal = open(&disk).unwrap();
    let mut model = LogModel::default();
    write(&mut wal, &mut model, batch([entries(1, 1, 1..=3, 50)]), true);
    let mut models = vec![model.clone()];
    for index in 4..7 {
        write(&mut wal, &mut model, batch([entries(1, 1, index..=index, 50)]), false);
        models.push(model.clone());
    }
    drop(wal);
    let mut dropped = 0;
    let disk = disk.copy();
    every_damage(&disk, "wal", |disk, path, at, how| match open(disk) {
        Ok(wal) if wal.stats().damaged_entries > 0 => {
            let damaged = wal.groups().remove(0).damaged.unwrap();
            check_damage(&damaged.damage, path, at);
            assert!(damaged.last <= LogIndex(3), "byte {at}: only what was acknowledged can be damaged");
        }
        Ok(wal) => {
            let fits = models.iter().position(|model| model.compare(&wal).is_ok());
            let fits = fits.unwrap_or_else(|| panic!("byte {at} {how}: acknowledged data is gone"));
            dropped += u32::from(fits < 3);
            assert!(fits < 3 || wal.recovery().torn_at.is_none());
        }
        Err(LogError::Damaged(damage)) => check_damage(&damage, path, at),
        Err(LogError::Version { .. }) => {}
        Err(error) => panic!("byte {at} {how}: {error}"),
    });
    assert!(dropped > 300, "a tail was dropped {dropped} times");
}

#[test]
fn readers_of_an_open_log_never_get_wrong_entries() {
    let (disk, wal, model) = small_log();
    let reader = wal.reader();
    for path in files(&disk, "wal") {
        let contents = disk.contents(&path).unwrap();
        for at in (0..contents.len()).step_by(5) {
            let mut flipped = contents.clone();
            flipped[at] ^= 0x10;
            disk.overwrite(&path, flipped);
            let read = reader.read(GroupId(1), LogIndex(1)..LogIndex(10), 1 << 20);
            match read {
                Ok(_) => {
                    model.compare(&wal).map_or_else(|what| assert!(what.contains("damaged"), "{what}"), drop)
                }
                Err(LogError::DamagedEntries(found)) => check_damage(&found.damage, &path, at as u64),
                Err(error) => panic!("{error}"),
            }
        }
        disk.overwrite(&path, contents);
    }
}

#[test]
fn a_missing_segment_is_noticed_wherever_it_was() {
    let (disk, wal, _) = small_log();
    drop(wal);
    for path in files(&disk, "wal") {
        let disk = disk.copy();
        disk.remove(&path).unwrap();
        match open(&disk).map(drop) {
            Err(LogError::Damaged(damage)) => {
                let last_before = PathBuf::from("wal/0000000000000002.wal");
                assert!(damage.path == path || damage.path == last_before, "{damage}");
            }
            other => panic!("without {}: {other:?}", path.display()),
        }
    }
}

#[test]
fn another_segment_in_place_of_one_is_noticed() {
    let (disk, wal, _) = small_log();
    drop(wal);
    let names = files(&disk, "wal");
    let disk = disk.copy();
    disk.overwrite(&names[1], disk.contents(&names[0]).unwrap());
    assert!(matches!(open(&disk).map(drop), Err(LogError::Damaged(_))));
}

#[test]
fn a_log_of_another_version_is_refused_as_such() {
    let (disk, wal, _) = small_log();
    drop(wal);
    let path = &files(&disk, "wal")[0];
    let mut contents = disk.contents(path).unwrap();
    contents[8] = 9;
    disk.overwrite(path, contents);
    let error = open(&disk).map(drop).unwrap_err();
    assert!(matches!(error, LogError::Version { found: 9, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("version 9"), "{error}");
}

/// A bit of the last acknowledged record flips after the process died: without the mark behind it,
/// this would look like a torn tail.
#[test]
fn damage_to_the_very_last_acknowledged_record_is_not_taken_for_a_torn_tail() {
    let disk = MemDisk::new();
    let mut wal = open(&disk).unwrap();
    write(&mut wal, &mut LogModel::default(), batch([entries(1, 1, 1..=1, 100)]), true);
    drop(wal);
    let path = &files(&disk, "wal")[0];
    let mut contents = disk.contents(path).unwrap();
    let last_byte = contents.windows(50).rposition(|bytes| bytes == [1; 50]).unwrap();
    contents[last_byte] ^= 1;
    disk.overwrite(path, contents);
    // Nothing in the log says where the group's entries begin, so the damage cannot be told as theirs.
    let error = open(&disk).map(drop).unwrap_err();
    assert!(matches!(error, LogError::Damaged(_)), "{error}");
}

/// Two batches of one flush; of the first nothing reached the disk, of the second everything. The oldest
/// segments go once a move says that they may. Power fails before the mark behind it, and the move is
/// damaged: nothing tells it from a torn tail, and without it the segments are missing. The log was refused,
/// and yet its tail had been erased: whoever brought the file back could not open it any more.
#[test]
fn a_log_that_is_refused_is_left_as_it_was() {
    let disk = MemDisk::new();
    let mut wal = open(&disk).unwrap();
    let mut model = LogModel::default();
    write(&mut wal, &mut model, batch([entries(2, 2, 1..=1, 90)]), true);
    let oldest = Path::new("wal/0000000000000001.wal");
    for n in 1..200 {
        write(&mut wal, &mut model, batch([entries(1, 1, n..=n, 700)]), true);
        write(&mut wal, &mut model, batch([compaction(1, 1, n)]), true);
        if !disk.exists(oldest).unwrap() {
            break;
        }
    }
    drop(wal);
    let mut moves = Vec::new();
    let mut visit = |item| {
        if let DumpItem::Record(DumpedRecord { path, offset, bytes, kind: DumpedKind::Move, .. }) = item {
            moves.push((path, offset, bytes));
        }
        true
    };
    wal_tools::dump(&disk, Path::new("wal"), &mut visit).unwrap();
    let (path, offset, bytes) = moves.pop().unwrap();
    let segments = files(&disk, "wal").into_iter().filter(|path| path.extension().is_some());
    assert_eq!(segments.max(), Some(path.clone()), "the move is in the last segment");
    let range = usize::try_from(offset).unwrap()..usize::try_from(offset + bytes).unwrap();
    let mut contents = disk.contents(&path).unwrap();
    contents[range.end..].fill(0);
    let mut refused = 0;
    for at in range {
        let mut flipped = contents.clone();
        flipped[at] ^= 1;
        let damaged = disk.copy();
        damaged.overwrite(&path, flipped.clone());
        if open(&damaged).is_err() {
            assert!(damaged.contents(&path) == Some(flipped), "byte {at}: the log was changed");
            refused += 1;
        }
    }
    assert!(refused > 20, "refused {refused} times");
}

#[test]
fn a_hole_in_the_last_unacknowledged_write_drops_what_is_behind_it() {
    let disk = MemDisk::new();
    let mut wal = open(&disk).unwrap();
    let mut model = LogModel::default();
    write(&mut wal, &mut model, batch([entries(1, 1, 1..=1, 10)]), true);
    let path = files(&disk, "wal")[0].clone();
    let before = disk.contents(&path).unwrap();
    for index in 2..=3 {
        wal.write(batch([entries(1, 1, index..=index, 1100)]), true, Box::new(|_| {}));
    }
    wal.flush().unwrap();
    drop(wal);
    let mut torn = disk.contents(&path).unwrap();
    let start = (0..torn.len()).find(|at| torn[*at] != before[*at]).unwrap();
    // The mark behind them was written after the sync: in this story it never was.
    let end = torn.windows(100).rposition(|bytes| bytes == [3; 100]).unwrap() + 100;
    let sector = (start + 1000) / 512 * 512;
    torn[start..sector].fill(0);
    torn[end.next_multiple_of(8)..].fill(0);
    disk.overwrite(&path, torn);
    let wal = open(&disk).unwrap();
    model.compare(&wal).unwrap();
    assert_eq!(wal.recovery().torn_at, Some(start as u64));
    drop(wal);
    let erased = disk.contents(&path).unwrap();
    assert!(!erased.windows(100).any(|bytes| bytes == [3; 100]), "what is behind the hole is erased");
}

/// The process dies with batches written but not synced; what the next one has read it may act on,
/// so a power failure must not take it back.
#[test]
fn what_was_recovered_once_stays() {
    let disk = MemDisk::new();
    let mut wal = open(&disk).unwrap();
    let mut model = LogModel::default();
    write(&mut wal, &mut model, batch([entries(1, 1, 1..=1, 100)]), true);
    write(&mut wal, &mut model, batch([entries(1, 1, 2..=2, 100)]), false);
    drop(wal);
    let wal = open(&disk).unwrap();
    model.compare(&wal).unwrap();
    drop(wal);
    disk.crash(0);
    model.compare(&open(&disk).unwrap()).unwrap();
}

fn snapshot_disk() -> (MemDisk, Vec<u8>) {
    let disk = MemDisk::new();
    let store = FileSnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap();
    let meta = SnapshotMeta {
        last: LogId::new(3, 9),
        membership: Arc::new(Membership::default()),
        membership_id: LogId::new(1, 2),
    };
    let content: Vec<u8> = (0..70_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    let mut writer = store.create(GroupId(5), &meta).unwrap();
    writer.write(&content).unwrap();
    writer.finish().unwrap();
    (disk, content)
}

/// Reads the one snapshot to the end.
fn read_snapshot(disk: &MemDisk) -> Result<Vec<u8>, SnapshotError> {
    let store = FileSnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots"))?;
    if let Some((_, damage)) = store.damaged().into_iter().next() {
        return Err(SnapshotError::Damaged(damage));
    }
    let info = store.list(GroupId(5))?.remove(0);
    let mut reader = store.open(&info)?;
    let mut content = vec![0; 100_000];
    let count = reader.read_at(0, &mut content)?;
    content.truncate(count);
    Ok(content)
}

#[test]
fn any_damaged_byte_of_a_snapshot_is_an_error() {
    let (disk, content) = snapshot_disk();
    assert_eq!(read_snapshot(&disk).unwrap(), content);
    let path = &files(&disk, "snapshots")[0];
    let whole = disk.contents(path).unwrap();
    // The edges byte by byte, the middle in steps.
    let near = |at: &usize| {
        *at < 200 || whole.len() - at < 100 || at.is_multiple_of(997) || (65_500..65_700).contains(at)
    };
    for at in (0..whole.len()).filter(near) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        for (how, damaged) in [("flipped", flipped), ("cut", whole[..at].to_vec())] {
            disk.overwrite(path, damaged);
            match read_snapshot(&disk) {
                Err(SnapshotError::Damaged(damage)) => assert_eq!(&damage.path, path),
                other => panic!("byte {at} {how}: {:?}", other.map(|bytes| bytes.len())),
            }
        }
    }
}

/// A snapshot rots while nobody reads it: whoever verifies it learns where, and it is not offered any more.
#[test]
fn rotten_snapshot_is_found_by_reading_it_and_not_listed_afterwards() {
    let (disk, _) = snapshot_disk();
    let store = FileSnapshotStore::open(Arc::new(disk.clone()), Path::new("snapshots")).unwrap();
    assert_eq!(store.verify(GroupId(5)).unwrap(), []);
    let path = &files(&disk, "snapshots")[0];
    let mut bytes = disk.contents(path).unwrap();
    bytes[68_000] ^= 1;
    disk.overwrite(path, bytes);
    let found = store.verify(GroupId(5)).unwrap();
    assert_eq!((found.len(), &found[0].path), (1, path));
    assert!((64 << 10..68_000).contains(&found[0].offset), "the second chunk: {found:?}");
    assert_eq!(store.list(GroupId(5)).unwrap(), []);
    assert_eq!(store.verify(GroupId(5)).unwrap(), found, "it stays known");
}
