//! The virtual disk keeps what was synced and nothing it need not keep; the write-ahead log survives it.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use quorate_core::{Entry, EntryPayload, GroupId, LogId, LogIndex, NodeId};
use quorate_sim::{Crash, DiskProfile, Rng, SimDisk};
use quorate_storage::{DataDir, Disk, GroupWrite, Identity, LogBatch, LogStore, Wal, WalConfig};

const MILLISECOND: u64 = 1_000_000;

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(DiskProfile::GOOD, Rng::new(seed))
}

/// A disk with a durable directory for the log, as `DataDir` makes it.
fn disk_with_log(seed: u64) -> SimDisk {
    let disk = disk(seed);
    disk.handle().create_dir_all(Path::new("wal")).unwrap();
    disk.handle().sync_dir(Path::new("")).unwrap();
    disk
}

fn small_log() -> WalConfig {
    WalConfig { segment_bytes: 8192, fill_ahead_bytes: 2048, ..WalConfig::default() }
}

fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.handle().open(Path::new(path)).ok()?;
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn synced_bytes_and_names_survive_a_power_cut() {
    for seed in 0..50 {
        let disk = disk(seed);
        let file = disk.handle().create(Path::new("a")).unwrap();
        file.write_at(b"kept", 0).unwrap();
        file.sync_data().unwrap();
        disk.handle().sync_dir(Path::new("")).unwrap();
        file.write_at(b"open", 0).unwrap();
        disk.crash(Crash::Power, disk.end());
        let found = content(&disk, "a").unwrap();
        assert!(found == b"kept" || found == b"open", "{found:?}");
    }
}

#[test]
fn unsynced_writes_are_kept_lost_and_torn_by_sector() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let disk = disk(seed);
        let file = disk.handle().create(Path::new("a")).unwrap();
        file.set_size(4096).unwrap();
        file.sync_data().unwrap();
        disk.handle().sync_dir(Path::new("")).unwrap();
        file.write_at(&[1; 4096], 0).unwrap();
        disk.crash(Crash::Power, disk.end());
        let found = content(&disk, "a").unwrap();
        for sector in found.chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn");
        }
        match found.iter().filter(|byte| **byte == 1).count() {
            0 => lost += 1,
            4096 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 10 && lost > 10 && torn > 50, "kept {kept} lost {lost} torn {torn}");
}

#[test]
fn a_name_without_a_synced_directory_may_be_gone() {
    let gone = (0..100).filter(|seed| {
        let disk = disk(*seed);
        let file = disk.handle().create(Path::new("a")).unwrap();
        file.write_at(b"x", 0).unwrap();
        file.sync_data().unwrap();
        disk.crash(Crash::Power, disk.end());
        content(&disk, "a").is_none()
    });
    let gone = gone.count();
    assert!((20..90).contains(&gone), "{gone}");
}

/// A file is made, removed for want of space, and made again under the same name, then renamed. Whatever the power
/// cut forgets of that, the new name is never that of the first file.
#[test]
fn a_rename_is_of_one_file_whatever_else_is_forgotten() {
    let mut found_renamed = 0;
    for seed in 0..200 {
        let disk = disk(seed);
        let (new, named) = (Path::new("new"), Path::new("named"));
        let handle = disk.handle();
        drop(handle.create(new).unwrap());
        handle.remove(new).unwrap();
        let file = handle.create(new).unwrap();
        file.write_at(b"whole", 0).unwrap();
        file.sync_data().unwrap();
        handle.rename(new, named).unwrap();
        disk.crash(Crash::Power, disk.end());
        let found = content(&disk, "named");
        assert!(found.as_deref().is_none_or(|found| found == b"whole"), "{seed}: {found:?}");
        found_renamed += u64::from(found.is_some());
    }
    assert!(found_renamed > 10, "{found_renamed}");
}

#[test]
fn a_killed_process_loses_no_written_byte_but_what_it_was_about_to_do() {
    let disk = disk(1);
    disk.begin(10 * MILLISECOND);
    let file = disk.handle().create(Path::new("a")).unwrap();
    file.write_at(b"before", 0).unwrap();
    let between = disk.end();
    file.write_at(b"after.", 0).unwrap();
    disk.crash(Crash::Process, between);
    assert_eq!(content(&disk, "a").unwrap(), b"before");
    // It was never synced, so the next power cut may still take it.
    let copy = disk.durable_copy(between);
    assert_eq!(content(&copy, "a"), None);
}

#[test]
fn a_sync_in_flight_at_the_power_cut_has_not_happened() {
    let mut survived = 0;
    for seed in 0..100 {
        let disk = disk(seed);
        let file = disk.handle().create(Path::new("a")).unwrap();
        file.set_size(512).unwrap();
        file.sync_data().unwrap();
        disk.handle().sync_dir(Path::new("")).unwrap();
        disk.begin(disk.end());
        file.write_at(&[1; 512], 0).unwrap();
        let written = disk.end();
        file.sync_data().unwrap();
        disk.crash(Crash::Power, written);
        survived += usize::from(content(&disk, "a").unwrap() == [1; 512]);
    }
    assert!((10..90).contains(&survived), "{survived}");
}

#[test]
fn a_dead_process_cannot_touch_the_disk_and_its_lock_is_free() {
    let disk = disk(1);
    let old = disk.handle();
    let file = old.create(Path::new("a")).unwrap();
    let lock = old.lock(Path::new("LOCK")).unwrap();
    assert!(lock.is_some() && old.lock(Path::new("LOCK")).unwrap().is_none());
    disk.crash(Crash::Process, disk.end());
    assert!(file.write_at(b"ghost", 0).is_err() && old.create(Path::new("b")).is_err());
    let held = disk.handle().lock(Path::new("LOCK")).unwrap();
    drop(lock);
    assert!(held.is_some() && disk.handle().lock(Path::new("LOCK")).unwrap().is_none());
}

/// The write-ahead log alone, through many power cuts in the middle of its work: what was
/// completed before the cut is there, and nothing is there that was not written.
#[test]
fn the_log_keeps_what_it_completed_through_a_hundred_power_cuts() {
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let disk = disk_with_log(seed);
        let mut now = disk.end();
        let (mut acknowledged, mut written) = (0, 0);
        for life in 0..10 {
            disk.begin(now);
            let mut wal = Wal::open(Arc::new(disk.handle()), Path::new("wal"), small_log())
                .unwrap_or_else(|error| panic!("seed {seed} life {life}: {error}"));
            now = disk.end();
            let last = wal.groups().first().map_or(0, |group| group.last.0);
            assert!(
                (acknowledged..=written).contains(&last),
                "seed {seed} life {life}: {acknowledged} were completed, {last} are there"
            );
            written = last;
            let (mut began, mut ended, mut before) = (now, now, last);
            for _ in 0..rng.between(1, 20) {
                (began, before) = (ended, written);
                disk.begin(began);
                for _ in 0..rng.between(1, 4) {
                    written += 1;
                    wal.write(batch(written, &mut rng), true, Box::new(|result| result.unwrap()));
                }
                wal.flush().unwrap();
                ended = disk.end();
            }
            // Sometimes in the middle of the last flush.
            now = rng.between(began, ended);
            acknowledged = if now == ended { written } else { before };
            disk.crash(Crash::Power, now);
        }
    }
}

fn batch(index: u64, rng: &mut Rng) -> LogBatch {
    let size = usize::try_from(rng.below(900)).unwrap();
    let entry = Entry { id: LogId::new(1, index), payload: EntryPayload::Command(vec![b'x'; size].into()) };
    let write = GroupWrite { group: GroupId(1), entries: vec![entry].into(), ..GroupWrite::default() };
    LogBatch { groups: vec![write] }
}

#[test]
fn completed_entries_can_be_read_after_the_cut() {
    let disk = disk_with_log(5);
    let done = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&done);
    let mut wal = Wal::open(Arc::new(disk.handle()), Path::new("wal"), small_log()).unwrap();
    let completed = Box::new(move |_| *seen.lock().unwrap() = true);
    wal.write(batch(1, &mut Rng::new(1)), true, completed);
    wal.flush().unwrap();
    assert!(*done.lock().unwrap());
    disk.crash(Crash::Power, disk.end());
    let wal = Wal::open(Arc::new(disk.handle()), Path::new("wal"), small_log()).unwrap();
    let read = wal.reader().read(GroupId(1), LogIndex(1)..LogIndex(2), 100).unwrap();
    assert_eq!(read.len(), 1);
}

/// A node was killed during its very first start, after its names were written and before they were synced. The
/// next start found them (a killed process loses no written byte), believed them, and worked on them for a day.
/// Then the power went, and the directory was empty: votes, log and all.
#[test]
fn names_that_a_killed_first_start_left_are_durable_after_the_next_start() {
    let identity = Identity { cluster: 1, node: NodeId(1), incarnation: 7 };
    for killed_at_percent in 0..=100 {
        let disk = disk(3);
        let opened = DataDir::open(Arc::new(disk.handle()), identity).unwrap();
        let wal = Wal::open(opened.disk(), &opened.wal(), small_log()).unwrap();
        opened.note_log().unwrap();
        drop((wal, opened));
        disk.crash(Crash::Process, disk.end() * killed_at_percent / 100);
        disk.begin(disk.end());
        let opened = DataDir::open(Arc::new(disk.handle()), identity).unwrap();
        let wal = Wal::open(opened.disk(), &opened.wal(), small_log()).unwrap();
        opened.note_log().unwrap();
        drop((wal, opened));
        let copy = disk.durable_copy(disk.end());
        let found = DataDir::inspect(&copy.handle()).unwrap();
        assert_eq!(found, Some(identity), "killed after {killed_at_percent} % of the first start");
        assert_eq!(copy.handle().list(Path::new("wal")).unwrap().len(), 1);
        // Nor is it taken for one that has lost its log.
        DataDir::open(Arc::new(copy.handle()), identity).unwrap();
    }
}

/// The power went during a node's first start. A directory may keep a younger name and lose an older one: NODE was
/// there, wal/ was not, and a node that had never promised anything was told for ever that it had lost its log.
#[test]
fn a_first_start_that_the_power_cut_can_be_made_again() {
    let identity = Identity { cluster: 1, node: NodeId(1), incarnation: 7 };
    for seed in 0..20 {
        for cut_at_percent in 0..=100 {
            let disk = disk(seed);
            drop(DataDir::open(Arc::new(disk.handle()), identity).unwrap());
            disk.crash(Crash::Power, disk.end() * cut_at_percent / 100);
            disk.begin(disk.end());
            DataDir::open(Arc::new(disk.handle()), identity)
                .unwrap_or_else(|error| panic!("seed {seed}, cut after {cut_at_percent} %: {error}"));
        }
    }
}
