//! Damage to entries is damage of the group they belong to: it is found when they are read and when the log is
//! opened, it is told with group, indexes, file and offset, and the other groups do not notice.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::{GroupId, LogId, LogIndex, Membership, ReplicaId};
use quorate_storage::conformance::LogModel;
use quorate_storage::{
    DamagedEntries, Disk, GroupState, GroupWrite, LogBatch, LogError, LogStore, MemDisk, Wal, WalConfig,
};

use crate::crash_points::{batch, compaction, entries};

fn config() -> WalConfig {
    WalConfig { segment_bytes: 4096, fill_ahead_bytes: 500, salt: 3, ..WalConfig::default() }
}

fn open(disk: &MemDisk) -> Result<Wal, LogError> {
    Wal::open(Arc::new(disk.clone()), Path::new("wal"), config())
}

fn write(wal: &mut Wal, model: &mut LogModel, batch: LogBatch) {
    model.apply(&batch);
    wal.write(batch, true, Box::new(|result| result.unwrap()));
    wal.flush().unwrap();
}

/// Two groups write together, ten times; group 1's commands are long, and command `n` is `n` again and again.
fn two_groups(disk: &MemDisk) -> (Wal, LogModel) {
    let (mut wal, mut model) = (open(disk).unwrap(), LogModel::default());
    for n in 1..=10 {
        write(&mut wal, &mut model, batch([entries(1, 1, n..=n, 500), entries(2, 2, n..=n, 50)]));
    }
    (wal, model)
}

/// Flips a bit in the middle of group 1's entry `n`, wherever that is; says where.
fn rot(disk: &MemDisk, n: u8) -> (PathBuf, usize) {
    for name in disk.list(Path::new("wal")).unwrap() {
        let path = Path::new("wal").join(name);
        let mut contents = disk.contents(&path).unwrap();
        if let Some(at) = contents.windows(450).position(|bytes| bytes == [n; 450]) {
            contents[at + 200] ^= 4;
            disk.overwrite(&path, contents);
            return (path, at + 200);
        }
    }
    panic!("entry {n} is in no segment")
}

fn state(wal: &Wal, group: u64) -> GroupState {
    wal.reader().state(GroupId(group)).unwrap()
}

/// Group 2 is as if nothing had happened, by state and by entries.
fn group_2_is_whole(wal: &Wal, model: &LogModel) {
    assert_eq!(state(wal, 2), model.states()[1]);
    let all = model.states()[1].compacted.index.next()..LogIndex(11);
    assert_eq!(
        wal.reader().read(GroupId(2), all.clone(), 1 << 20).unwrap().len() as u64,
        all.end.0 - all.start.0
    );
}

#[track_caller]
fn expect_damage(found: Option<&DamagedEntries>, indexes: (u64, u64), path: &Path, at: usize) {
    let found = found.expect("the damage is known");
    assert_eq!((found.group, found.first.0, found.last.0), (GroupId(1), indexes.0, indexes.1), "{found}");
    assert_eq!(found.damage.path, path);
    assert!((at - 300..=at).contains(&usize::try_from(found.damage.offset).unwrap()), "{found}, not at {at}");
}

/// The bit flips under a running node, between write and fetch.
#[test]
fn entry_that_rots_under_a_reader_is_an_error_and_never_served() {
    let disk = MemDisk::new();
    let (wal, model) = two_groups(&disk);
    let reader = wal.reader();
    assert_eq!(reader.read(GroupId(1), LogIndex(1)..LogIndex(11), 1 << 20).unwrap().len(), 10);
    let (path, at) = rot(&disk, 4);
    let error = reader.read(GroupId(1), LogIndex(1)..LogIndex(11), 1 << 20).unwrap_err();
    let LogError::DamagedEntries(damaged) = &error else { panic!("{error}") };
    expect_damage(Some(damaged), (4, 4), &path, at);
    let text = error.to_string();
    assert!(
        text.contains("group 1: the log's entries 4 to 4") && text.contains(&path.display().to_string()),
        "{text}"
    );
    // Whoever opens the group again is told; what can be read is read.
    expect_damage(state(&wal, 1).damaged.as_ref(), (4, 4), &path, at);
    assert_eq!(wal.stats().damaged_entries, 1);
    assert_eq!(reader.read(GroupId(1), LogIndex(5)..LogIndex(11), 1 << 20).unwrap().len(), 6);
    group_2_is_whole(&wal, &model);
}

#[test]
fn damaged_entries_are_told_as_a_range_of_their_group_when_the_log_is_opened() {
    let disk = MemDisk::new();
    let (wal, model) = two_groups(&disk);
    drop(wal);
    let (path, at) = rot(&disk, 4);
    rot(&disk, 7);
    let wal = open(&disk).unwrap();
    assert_eq!(wal.recovery().records_damaged, 2);
    let found = state(&wal, 1);
    expect_damage(found.damaged.as_ref(), (4, 7), &path, at);
    assert_eq!((found.last, found.hard_state), (LogIndex(10), model.states()[0].hard_state));
    let read = wal.reader().read(GroupId(1), LogIndex(4)..LogIndex(5), 1 << 20);
    assert!(matches!(read, Err(LogError::DamagedEntries(_))), "{read:?}");
    group_2_is_whole(&wal, &model);
}

/// What the entries of others say about the first one of a write is not there: the log before it says where it was.
#[test]
fn first_and_only_entry_of_a_write_gets_its_place_from_the_log_before_it() {
    for n in [1, 2, 10] {
        let disk = MemDisk::new();
        let (mut wal, mut model) = (open(&disk).unwrap(), LogModel::default());
        let replica = Some(ReplicaId(1));
        let first = GroupWrite { replica, ..entries(1, 1, 1..=1, 500) };
        write(&mut wal, &mut model, batch([first, entries(2, 2, 1..=1, 50)]));
        for n in 2..=10 {
            write(&mut wal, &mut model, batch([entries(1, 1, n..=n, 500), entries(2, 2, n..=n, 50)]));
        }
        drop(wal);
        let (path, at) = rot(&disk, n);
        let wal = open(&disk).unwrap();
        expect_damage(state(&wal, 1).damaged.as_ref(), (n.into(), n.into()), &path, at);
        group_2_is_whole(&wal, &model);
    }
}

/// What the group lost is remembered, through restarts and through the end of the segment that said so, until
/// the log reaches that far again.
#[test]
fn what_a_group_has_lost_is_remembered_until_it_has_it_back() {
    let disk = MemDisk::new();
    let (wal, mut model) = two_groups(&disk);
    drop(wal);
    rot(&disk, 4);
    let mut wal = open(&disk).unwrap();
    let cut = GroupWrite {
        group: GroupId(1),
        truncate_from: Some(LogIndex(4)),
        lost_until: Some(LogIndex(10)),
        ..GroupWrite::default()
    };
    write(&mut wal, &mut model, batch([cut]));
    assert_eq!((state(&wal, 1).damaged, state(&wal, 1).lost_until), (None, LogIndex(10)));
    model.compare(&wal).unwrap();
    write(&mut wal, &mut model, batch([entries(1, 3, 4..=9, 500)]));
    // Group 2 writes on until the segments that said so are gone.
    for n in 11..200 {
        write(&mut wal, &mut model, batch([entries(2, 2, n..=n, 200)]));
        write(&mut wal, &mut model, batch([compaction(2, 2, n)]));
    }
    assert!(!disk.list(Path::new("wal")).unwrap().contains(&"0000000000000003.wal".to_owned()), "dropped");
    model.compare(&wal).unwrap();
    drop(wal);
    let mut wal = open(&disk).unwrap();
    model.compare(&wal).unwrap();
    assert_eq!(state(&wal, 1).lost_until, LogIndex(10));
    write(&mut wal, &mut model, batch([entries(1, 3, 10..=10, 500)]));
    assert_eq!(state(&wal, 1).lost_until, LogIndex(0));
    model.compare(&wal).unwrap();
    drop(wal);
    model.compare(&open(&disk).unwrap()).unwrap();
}

/// Entries that rot before they are moved keep their segment, and nothing else stands still for long: once the
/// group has given them up, old segments go again.
#[test]
fn damaged_entries_hold_their_segment_until_they_are_given_up() {
    let disk = MemDisk::new();
    let (mut wal, mut model) = two_groups(&disk);
    rot(&disk, 2);
    let busy = |wal: &mut Wal, model: &mut LogModel, from: u64| {
        for n in from..from + 60 {
            write(wal, model, batch([entries(2, 2, n..=n, 200)]));
            write(wal, model, batch([compaction(2, 2, n)]));
        }
    };
    busy(&mut wal, &mut model, 11);
    assert_eq!(state(&wal, 1).damaged.map(|damaged| damaged.first), Some(LogIndex(2)), "found by moving");
    assert!(disk.list(Path::new("wal")).unwrap().contains(&"0000000000000001.wal".to_owned()), "kept");
    let reset = GroupWrite {
        group: GroupId(1),
        reset_to: Some((LogId::new(1, 10), LogId::default(), Arc::new(Membership::default()))),
        ..GroupWrite::default()
    };
    write(&mut wal, &mut model, batch([reset]));
    busy(&mut wal, &mut model, 71);
    assert_eq!(state(&wal, 1).damaged, None);
    assert!(wal.stats().segments < 8, "{:?}", wal.stats());
    model.compare(&wal).unwrap();
}

/// The first segment of a log goes, while the second one stays, in which group 1's entry `first` is damaged.
/// What is left says neither where that entry stood nor who needs it: `mend` has seen to it that nobody does.
fn lose_what_was_before_the_damage(mend: impl FnOnce(&mut Wal, &mut LogModel, u64)) {
    let disk = MemDisk::new();
    let there = |number: u64| disk.exists(&Path::new("wal").join(format!("{number:016}.wal"))).unwrap();
    let (mut wal, mut model) = (open(&disk).unwrap(), LogModel::default());
    let mut first = 0_u8;
    while !there(2) {
        first += 1;
        let n = u64::from(first);
        write(&mut wal, &mut model, batch([entries(1, 1, n..=n, 500), entries(2, 2, n..=n, 50)]));
    }
    // Somebody else needs the second segment, for ever.
    write(&mut wal, &mut model, batch([entries(9, 1, 1..=1, 1_500)]));
    drop(wal);
    let (path, _) = rot(&disk, first);
    assert_eq!(path, Path::new("wal/0000000000000002.wal"));
    wal = open(&disk).unwrap();
    let first = u64::from(first);
    mend(&mut wal, &mut model, first);
    write(&mut wal, &mut model, batch([compaction(2, 2, first - 1)]));
    for n in first + 1.. {
        assert!(n < 200, "the first segment goes: {:?}", disk.list(Path::new("wal")));
        write(&mut wal, &mut model, batch([entries(2, 2, n..=n, 1_500)]));
        if !there(1) {
            break;
        }
    }
    assert!(there(2), "the second segment stays");
    model.compare(&wal).unwrap();
    drop(wal);
    let wal = open(&disk).unwrap();
    assert_eq!(state(&wal, 1).damaged, None);
    model.compare(&wal).unwrap();
}

/// A group has given up a damaged entry and has it again. (Found by the simulator: such a log could not be opened.)
#[test]
fn entry_that_was_given_up_does_no_harm_when_the_segment_before_it_is_gone() {
    lose_what_was_before_the_damage(|wal, model, first| {
        let cut = GroupWrite {
            group: GroupId(1),
            truncate_from: Some(LogIndex(first)),
            lost_until: Some(LogIndex(first)),
            ..GroupWrite::default()
        };
        write(wal, model, batch([cut]));
        write(wal, model, batch([entries(1, 1, first..=first, 500)]));
        write(wal, model, batch([compaction(1, 1, first - 1)]));
    });
}

/// A group was removed, and came back as another replica: no move speaks of what nobody has any more. (Found by the
/// simulator as well.)
#[test]
fn damaged_entry_of_a_removed_replica_does_no_harm_when_the_segment_before_it_is_gone() {
    lose_what_was_before_the_damage(|wal, model, _| {
        let removed = GroupWrite { group: GroupId(1), remove: true, ..GroupWrite::default() };
        write(wal, model, batch([removed]));
        write(wal, model, batch([entries(1, 1, 1..=1, 50)]));
    });
}

/// A moved copy rots: the damage is that of the group whose entries were moved.
#[test]
fn damaged_copy_of_a_moved_entry_is_damage_of_its_group() {
    let disk = MemDisk::new();
    let (mut wal, mut model) = two_groups(&disk);
    for n in 11..60 {
        write(&mut wal, &mut model, batch([entries(2, 2, n..=n, 200)]));
        write(&mut wal, &mut model, batch([compaction(2, 2, n)]));
    }
    assert!(!disk.list(Path::new("wal")).unwrap().contains(&"0000000000000001.wal".to_owned()), "moved");
    drop(wal);
    for n in [3, 1] {
        let (path, at) = rot(&disk, n);
        let wal = open(&disk).unwrap();
        let damaged = state(&wal, 1).damaged;
        expect_damage(damaged.as_ref(), (n.into(), 3), &path, at);
        assert_eq!(state(&wal, 2), model.states()[1]);
    }
}

/// The last entry written, with nothing but a mark behind it that says it was synced.
#[test]
fn damage_to_the_last_acknowledged_entry_is_its_groups_and_no_torn_tail() {
    let disk = MemDisk::new();
    let (wal, model) = two_groups(&disk);
    drop(wal);
    let (path, at) = rot(&disk, 10);
    let wal = open(&disk).unwrap();
    expect_damage(state(&wal, 1).damaged.as_ref(), (10, 10), &path, at);
    assert_eq!(wal.recovery().torn_at, None);
    group_2_is_whole(&wal, &model);
}
