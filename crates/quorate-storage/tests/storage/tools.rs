//! Looking at logs from outside, healthy ones and damaged ones, and cutting them by consent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::{GroupId, HardState, LogIndex, NodeId, ReplicaId, Term};
use quorate_storage::conformance::LogModel;
use quorate_storage::wal_tools::{
    DumpItem, DumpedKind, RepairConsent, RepairError, RepairPlan, WalToolError, dump, plan_repair, repair,
    statistics, verify,
};
use quorate_storage::{
    DataDir, DataDirError, Disk, GroupWrite, Identity, LogBatch, LogError, LogStore, MemDisk, Wal, WalConfig,
};

use crate::crash_points::{batch, compaction, entries};

const WAL: &str = "wal";

fn config() -> WalConfig {
    WalConfig { segment_bytes: 4096, fill_ahead_bytes: 500, salt: 3, ..WalConfig::default() }
}

fn open(disk: &MemDisk) -> Result<Wal, LogError> {
    Wal::open(Arc::new(disk.clone()), Path::new(WAL), config())
}

fn data_dir(disk: &MemDisk) -> DataDir {
    let identity = Identity { cluster: 1, node: NodeId(1), incarnation: 3 };
    DataDir::open(Arc::new(disk.clone()), identity).unwrap()
}

/// A log that is written batch by batch, and what it was after each.
struct Written {
    disk: MemDisk,
    wal: Wal,
    models: Vec<LogModel>,
}

impl Written {
    fn new() -> Self {
        let disk = MemDisk::new();
        drop(data_dir(&disk));
        let wal = open(&disk).unwrap();
        Self { disk, wal, models: vec![LogModel::default()] }
    }

    fn write(&mut self, batch: LogBatch, must_sync: bool) {
        let mut model = self.models.last().unwrap().clone();
        model.apply(&batch);
        self.models.push(model);
        self.wal.write(batch, must_sync, Box::new(|result| result.unwrap()));
        self.wal.flush().unwrap();
    }

    /// Three segments of two groups, everything acknowledged.
    fn three_segments() -> Self {
        let mut log = Self::new();
        for n in 1..=9 {
            log.write(batch([entries(1, 1, n..=n, 640), entries(2, 2, n..=n, 90)]), true);
        }
        let vote = HardState { term: Term(2), vote: Some(ReplicaId(7)), commit: LogIndex(5) };
        log.write(batch([compaction(2, 2, 7), GroupWrite { hard_state: Some(vote), ..write_of(1) }]), true);
        assert_eq!(log.wal.stats().segments, 3);
        log
    }

    fn stop(self) -> (MemDisk, Vec<LogModel>) {
        drop(self.wal);
        (self.disk, self.models)
    }
}

fn write_of(group: u64) -> GroupWrite {
    GroupWrite { group: GroupId(group), ..GroupWrite::default() }
}

fn segment(number: u64) -> PathBuf {
    PathBuf::from(format!("{WAL}/{number:016}.wal"))
}

/// Everything in the directory, to see that nothing was changed.
fn image(disk: &MemDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list(Path::new(WAL)).unwrap();
    let contents = |name: &String| disk.contents(&Path::new(WAL).join(name)).unwrap();
    names.iter().map(|name| (name.clone(), contents(name))).collect()
}

fn flip(disk: &MemDisk, path: &Path, at: usize) {
    let mut bytes = disk.contents(path).unwrap();
    bytes[at] ^= 1 << (at % 8);
    disk.overwrite(path, bytes);
}

/// Where the entry of a group is on disk.
fn place_of(disk: &MemDisk, group: u64, index: u64) -> (PathBuf, usize) {
    let mut found = None;
    dump(disk, Path::new(WAL), &mut |item| {
        if let DumpItem::Record(record) = item {
            for part in record.groups.iter().filter(|part| part.group == GroupId(group)) {
                for entry in part.entries.iter().filter(|entry| entry.entry.index() == LogIndex(index)) {
                    found = Some((record.path.clone(), usize::try_from(entry.offset).unwrap()));
                }
            }
        }
        true
    })
    .unwrap();
    found.unwrap()
}

#[test]
fn healthy_log_is_verified_and_counted_beside_the_node_that_writes_it() {
    let log = Written::three_segments();
    let before = image(&log.disk);
    let found = verify(&log.disk, Path::new(WAL)).unwrap();
    assert!(found.is_clean() && found.torn_tail.is_none(), "{found:?}");
    assert_eq!(found.segments, 3);
    let figures = statistics(&log.disk, Path::new(WAL)).unwrap();
    assert_eq!(figures.damage, None);
    let [one, two] = figures.groups.as_slice() else { panic!("{figures:?}") };
    assert_eq!((one.entries, one.range), (9, Some((LogIndex(1), LogIndex(9)))));
    assert_eq!((one.hard_state.term, one.hard_state.vote), (Term(2), Some(ReplicaId(7))));
    assert_eq!(
        (two.entries, two.range, two.compacted.index),
        (2, Some((LogIndex(8), LogIndex(9))), LogIndex(7))
    );
    assert!(one.live_bytes > 9 * 640 && one.dead_bytes == 0, "{one:?}");
    assert!(two.live_bytes > 180 && two.dead_bytes > 7 * 90, "{two:?}");
    let live: u64 = figures.segments.iter().map(|segment| segment.live_bytes).sum();
    assert_eq!(live, one.live_bytes + two.live_bytes);
    for segment in &figures.segments {
        assert_eq!(segment.live_bytes + segment.dead_bytes + segment.free_bytes + 512, segment.bytes);
    }
    assert!(image(&log.disk) == before, "looking changes nothing");
}

#[test]
fn dump_names_every_record_and_every_entry() {
    let (disk, _) = Written::three_segments().stop();
    let (mut segments, mut batches, mut listed) = (0, 0, BTreeSet::new());
    dump(&disk, Path::new(WAL), &mut |item| {
        match item {
            DumpItem::Segment { .. } => segments += 1,
            DumpItem::Record(record) => {
                assert!(record.checksum_holds && record.offset >= 512 && record.bytes >= 40);
                batches += u64::from(record.kind == DumpedKind::Batch);
                for part in record.groups {
                    for entry in part.entries {
                        assert_eq!(entry.kind(), "command");
                        assert!(entry.offset > record.offset && entry.bytes < record.bytes);
                        listed.insert((part.group.0, entry.entry.index().0));
                    }
                }
            }
            other @ (DumpItem::Damage(_) | DumpItem::TornTail(_) | _) => panic!("{other:?}"),
        }
        true
    })
    .unwrap();
    assert_eq!((segments, batches, listed.len()), (3, 10, 18));
    let mut items = 0;
    let count = &mut |_| {
        items += 1;
        items < 2
    };
    dump(&disk, Path::new(WAL), count).unwrap();
    assert_eq!(items, 2, "it stops when it is told to");
}

#[test]
fn two_damages_are_both_named_and_what_is_between_them_is_dumped() {
    let (disk, _) = Written::three_segments().stop();
    let (first, first_at) = place_of(&disk, 1, 2);
    let (second, second_at) = place_of(&disk, 1, 6);
    flip(&disk, &first, first_at + 100);
    flip(&disk, &second, second_at + 100);
    assert_ne!(first, second);
    let found = verify(&disk, Path::new(WAL)).unwrap();
    let [one, two] = found.damages.as_slice() else { panic!("{found:?}") };
    for (damage, path, at) in [(one, &first, first_at), (two, &second, second_at)] {
        assert!(
            damage.path == *path && damage.offset < at as u64 && damage.offset + 100 > at as u64,
            "{damage}"
        );
    }
    let (mut listed, mut broken) = (BTreeSet::new(), 0);
    dump(&disk, Path::new(WAL), &mut |item| {
        if let DumpItem::Record(record) = item {
            broken += u64::from(!record.checksum_holds);
            let parts = record.groups.into_iter().filter(|part| part.group == GroupId(1));
            listed.extend(parts.flat_map(|part| part.entries).map(|entry| entry.entry.index().0));
        }
        true
    })
    .unwrap();
    assert_eq!((broken, listed), (2, BTreeSet::from([1, 3, 4, 5, 7, 8, 9])));
    let figures = statistics(&disk, Path::new(WAL)).unwrap();
    assert_eq!(figures.damage.as_ref(), Some(one), "the figures are of what is before the damage");
    assert_eq!(figures.groups[0].entries, 1);
}

/// Every byte flipped, every file cut: verifying says damaged exactly when opening does, and writes nothing.
#[test]
fn verifying_and_opening_agree_on_every_damage() {
    let (disk, _) = Written::three_segments().stop();
    let (mut damaged, mut of_groups, mut given_up, mut clean) = (0, 0, 0, 0);
    for (name, whole) in image(&disk) {
        let path = Path::new(WAL).join(&name);
        for at in (0..whole.len()).step_by(7) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            let cut = whole[..at].to_vec();
            let cut = (at % 5 == 0).then_some(("cut", cut));
            for (how, bytes) in [("flipped", flipped)].into_iter().chain(cut) {
                let disk = disk.copy();
                disk.overwrite(&path, bytes.clone());
                let found = verify(&disk, Path::new(WAL));
                assert!(disk.contents(&path).unwrap() == bytes, "verifying writes nothing");
                let opened = open(&disk).map(|wal| {
                    let lacks_some = wal.groups().iter().any(|group| group.damaged.is_some());
                    (wal.recovery().records_damaged, lacks_some)
                });
                match (opened, found) {
                    (Ok((0, _)), Ok(found)) => {
                        assert!(
                            found.is_clean() && found.given_up.is_empty(),
                            "byte {at} of {name} {how}: {found:?}"
                        );
                        clean += 1;
                    }
                    // Of an entry that was compacted.
                    (Ok((_, false)), Ok(found)) => {
                        let named = found.given_up.iter().any(|given_up| given_up.damage.path == path);
                        assert!(found.is_clean() && named, "byte {at} of {name} {how}: {found:?}");
                        assert_eq!(plan_repair(&disk, Path::new(WAL)).unwrap(), None);
                        given_up += 1;
                    }
                    // Damage of one group, which does not keep the log from being opened.
                    (Ok((_, true)), Ok(found)) => {
                        let named = found.damages.iter().any(|damage| damage.path == path);
                        assert!(named, "byte {at} of {name} {how}: {found:?}");
                        of_groups += 1;
                    }
                    (Err(LogError::Damaged(said)), Ok(found)) => {
                        let named = found.damages.iter().any(|damage| damage.path == said.path);
                        assert!(named, "byte {at} of {name} {how}: {said}, but {found:?}");
                        damaged += 1;
                    }
                    (Err(LogError::Version { .. }), Err(WalToolError::Log(LogError::Version { .. }))) => {}
                    (opened, found) => panic!("byte {at} of {name} {how}: {opened:?}, but {found:?}"),
                }
            }
        }
    }
    let counts = [damaged, of_groups, given_up, clean];
    assert!(damaged > 500 && of_groups > 500 && given_up > 50 && clean > 100, "all happen: {counts:?}");
}

#[test]
fn torn_tail_is_no_damage_and_there_is_nothing_to_repair() {
    let mut log = Written::new();
    log.write(batch([entries(1, 1, 1..=3, 50)]), true);
    log.write(batch([entries(1, 1, 4..=6, 50)]), false);
    let (disk, _) = log.stop();
    let (path, at) = place_of(&disk, 1, 5);
    flip(&disk, &path, at + 20);
    let found = verify(&disk, Path::new(WAL)).unwrap();
    assert!(found.is_clean(), "{found:?}");
    let torn = found.torn_tail.unwrap();
    assert!(torn.path == path && torn.offset < at as u64 && torn.bytes > 150, "{torn:?}");
    assert_eq!(plan_repair(&disk, Path::new(WAL)).unwrap(), None);
    let consent = RepairConsent { segment: 1, offset: torn.offset, groups: 0, entries: 0 };
    assert!(matches!(repair(&data_dir(&disk), &consent), Err(RepairError::Healthy)));
    assert_eq!(open(&disk).unwrap().recovery().torn_at, Some(torn.offset));
}

#[test]
fn there_is_no_log_where_there_is_none() {
    let disk = MemDisk::new();
    let none = verify(&disk, Path::new(WAL)).unwrap_err();
    assert!(matches!(none, WalToolError::NoLog(_)), "{none}");
}

#[test]
fn a_missing_segment_is_named_and_the_rest_is_read() {
    let (disk, _) = Written::three_segments().stop();
    disk.remove(&segment(2)).unwrap();
    let found = verify(&disk, Path::new(WAL)).unwrap();
    assert_eq!((found.damages[0].path.clone(), found.segments), (segment(2), 2));
}

fn plan(disk: &MemDisk) -> RepairPlan {
    plan_repair(disk, Path::new(WAL)).unwrap().unwrap()
}

#[test]
fn without_the_right_consent_nothing_is_changed() {
    let (disk, _) = Written::three_segments().stop();
    let (path, at) = place_of(&disk, 1, 5);
    flip(&disk, &path, at + 100);
    let before = image(&disk);
    let plan = plan(&disk);
    assert!(image(&disk) == before, "planning changes nothing");
    let right = plan.consent();
    for wrong in [
        RepairConsent { entries: right.entries - 1, ..right },
        RepairConsent { groups: right.groups + 1, ..right },
        RepairConsent { offset: right.offset + 8, ..right },
    ] {
        match repair(&data_dir(&disk), &wrong) {
            Err(RepairError::Consent(needed)) => assert_eq!(*needed, plan),
            other => panic!("{other:?}"),
        }
        assert!(image(&disk) == before);
    }
    assert_eq!(right.to_string().parse(), Ok(right));
    assert!("yes".parse::<RepairConsent>().is_err());
}

#[test]
fn repair_keeps_what_is_before_the_damage_and_names_what_is_lost() {
    let (disk, models) = Written::three_segments().stop();
    let (path, at) = place_of(&disk, 1, 5);
    flip(&disk, &path, at + 100);
    let cut_off = image(&disk);
    let plan = plan(&disk);
    assert_eq!(plan.damage.path, path);
    let [one, two] = plan.lost.as_slice() else { panic!("{plan:?}") };
    assert_eq!((one.group, one.entries, one.range), (GroupId(1), 4, Some((LogIndex(6), LogIndex(9)))));
    assert!(one.hard_state && !one.whole && !two.whole && !two.hard_state, "{plan:?}");
    let repaired = repair(&data_dir(&disk), &plan.consent()).unwrap();
    assert_eq!(repaired.plan, plan);
    for (name, bytes) in cut_off.iter().filter(|(name, _)| *name >= format!("{:016}.wal", plan.cut.0)) {
        assert!(disk.contents(&repaired.aside.join(name)).as_ref() == Some(bytes), "{name} is kept aside");
    }
    disk.crash(0);
    assert!(verify(&disk, Path::new(WAL)).unwrap().is_clean());
    let mut wal = open(&disk).unwrap();
    models[4].compare(&wal).unwrap();
    assert_eq!(wal.groups(), plan.kept);
    // And it is a log like any other.
    let mut model = models[4].clone();
    for index in 5..30 {
        let batch = batch([entries(1, 3, index..=index, 600)]);
        model.apply(&batch);
        wal.write(batch, true, Box::new(|result| result.unwrap()));
        wal.flush().unwrap();
    }
    drop(wal);
    model.compare(&open(&disk).unwrap()).unwrap();
}

/// Whatever is damaged: after a repair the log opens, is one that it once was, and says so before.
#[test]
fn a_repaired_log_is_one_that_it_once_was() {
    let (disk, models) = Written::three_segments().stop();
    let (mut repaired, mut hopeless) = (0, 0);
    for (name, whole) in image(&disk) {
        let path = Path::new(WAL).join(&name);
        for at in (0..whole.len()).step_by(59) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            for bytes in [flipped, whole[..at].to_vec()] {
                let disk = disk.copy();
                disk.overwrite(&path, bytes);
                let plan = match plan_repair(&disk, Path::new(WAL)) {
                    Ok(Some(plan)) => plan,
                    Ok(None) => continue,
                    Err(RepairError::NothingLeft) => {
                        hopeless += 1;
                        continue;
                    }
                    Err(error) => panic!("byte {at} of {name}: {error}"),
                };
                repair(&data_dir(&disk), &plan.consent()).unwrap();
                let wal = open(&disk).unwrap_or_else(|error| panic!("byte {at} of {name}: {error}"));
                assert!(models.iter().any(|model| model.compare(&wal).is_ok()), "byte {at} of {name}");
                assert_eq!(wal.groups(), plan.kept, "byte {at} of {name}");
                repaired += 1;
            }
        }
    }
    assert!(repaired > 200 && hopeless > 2, "both happen: {repaired} and {hopeless}");
}

/// A group's state stood in segments that are gone and was moved behind the damage: it cannot be kept.
#[test]
fn a_group_that_was_moved_behind_the_damage_is_removed_and_named() {
    let mut log = Written::new();
    log.write(batch([entries(7, 1, 1..=2, 60)]), true);
    let mut index = 1;
    while log.disk.exists(&segment(1)).unwrap() {
        log.write(batch([entries(1, 1, index..=index, 900)]), true);
        log.write(batch([compaction(1, 1, index)]), true);
        index += 1;
    }
    log.write(batch([entries(1, 1, index..=index, 100)]), true);
    let (disk, _) = log.stop();
    let mut first_record = None;
    dump(&disk, Path::new(WAL), &mut |item| {
        if let DumpItem::Record(record) = item {
            first_record.get_or_insert((record.path, record.offset));
        }
        true
    })
    .unwrap();
    // The first record that is left: everything is behind it.
    let (path, at) = first_record.unwrap();
    flip(&disk, &path, usize::try_from(at).unwrap() + 50);
    let plan = plan(&disk);
    assert!(plan.lost.iter().any(|loss| loss.group == GroupId(7) && loss.whole), "{plan:?}");
    repair(&data_dir(&disk), &plan.consent()).unwrap();
    let wal = open(&disk).unwrap();
    assert_eq!(wal.groups(), plan.kept);
    assert!(wal.groups().iter().all(|group| group.group != GroupId(7)));
}

/// The power fails at every step of a repair: the log is then still damaged, and can be repaired again, or it is whole.
#[test]
fn an_interrupted_repair_can_be_done_again() {
    let (disk, models) = Written::three_segments().stop();
    let (path, at) = place_of(&disk, 1, 3);
    flip(&disk, &path, at + 100);
    let mut finished = false;
    for operation in 0.. {
        let disk = disk.copy();
        let data = data_dir(&disk);
        disk.fail_at(disk.operations() + operation, quorate_storage::DiskFault::PowerFailure);
        let outcome = repair(&data, &plan(&disk).consent());
        disk.crash(operation);
        drop(data);
        match plan_repair(&disk, Path::new(WAL)).unwrap() {
            Some(again) => {
                assert!(outcome.is_err());
                repair(&data_dir(&disk), &again.consent()).unwrap();
            }
            None => finished = outcome.is_ok(),
        }
        models[2].compare(&open(&disk).unwrap()).unwrap_or_else(|what| panic!("step {operation}: {what}"));
        if finished {
            break;
        }
    }
    assert!(finished);
}

#[test]
fn a_directory_in_use_is_known_without_taking_it() {
    let disk = MemDisk::new();
    DataDir::check_unused(&disk).unwrap();
    let held = data_dir(&disk);
    let refused = DataDir::check_unused(&disk).unwrap_err();
    assert!(matches!(refused, DataDirError::InUse { .. }), "{refused}");
    drop(held);
    DataDir::check_unused(&disk).unwrap();
}

/// Flips a byte of a group's entry; where.
fn rot(disk: &MemDisk, group: u64, index: u64) -> (PathBuf, usize) {
    let (path, at) = place_of(disk, group, index);
    flip(disk, &path, at + 40);
    (path, at)
}

/// Where the record with an entry of a group is on disk.
fn record_of(disk: &MemDisk, group: u64, index: u64) -> (PathBuf, usize) {
    let mut found = None;
    dump(disk, Path::new(WAL), &mut |item| {
        if let DumpItem::Record(record) = item
            && let Some(part) = record.groups.iter().find(|part| part.group == GroupId(group))
            && part.entries.iter().any(|entry| entry.entry.index() == LogIndex(index))
        {
            found = Some((record.path.clone(), usize::try_from(record.offset).unwrap()));
        }
        true
    })
    .unwrap();
    found.unwrap()
}

/// What recovery writes for a group that gives up everything from `index` on.
fn give_up(group: u64, index: u64, last: u64) -> GroupWrite {
    let truncate_from = Some(LogIndex(index));
    GroupWrite { truncate_from, lost_until: Some(LogIndex(last)), ..write_of(group) }
}

/// The node started, gave up what was damaged and got it back from its leader; the bytes are still there. It
/// was told that its log is damaged, and that cutting it would help.
#[test]
fn entries_that_were_given_up_are_named_and_no_damage() {
    let (disk, _) = Written::three_segments().stop();
    let (path, at) = rot(&disk, 1, 4);
    let found = verify(&disk, Path::new(WAL)).unwrap();
    assert_eq!((found.damages.len(), found.given_up.len()), (1, 0), "it is still needed: {found:?}");
    assert_eq!(plan(&disk).damage.path, path);
    let mut wal = open(&disk).unwrap();
    let mut write = |write: GroupWrite| {
        wal.write(batch([write]), true, Box::new(|result| result.unwrap()));
        wal.flush().unwrap();
    };
    write(give_up(1, 4, 9));
    write(entries(1, 3, 4..=9, 30));
    drop(wal);

    let found = verify(&disk, Path::new(WAL)).unwrap();
    assert!(found.is_clean(), "{found:?}");
    let [given_up] = found.given_up.as_slice() else { panic!("{found:?}") };
    assert_eq!((given_up.group, given_up.entries), (GroupId(1), 1));
    assert_eq!((given_up.range, &given_up.damage.path), (Some((LogIndex(4), LogIndex(4))), &path));
    assert!(usize::try_from(given_up.damage.offset).unwrap() <= at);
    assert_eq!(plan_repair(&disk, Path::new(WAL)).unwrap(), None);
    let figures = statistics(&disk, Path::new(WAL)).unwrap();
    assert_eq!((figures.damage, figures.groups[0].entries), (None, 9));
    let nothing = RepairConsent { segment: 1, offset: 512, groups: 1, entries: 1 };
    assert!(matches!(repair(&data_dir(&disk), &nothing), Err(RepairError::Healthy)));
}

/// Something else is damaged behind what was given up: that is where the log is cut, and the log opens with the rest.
#[test]
fn log_is_cut_behind_what_was_given_up_and_not_at_it() {
    let (disk, _) = Written::three_segments().stop();
    rot(&disk, 1, 4);
    let mut wal = open(&disk).unwrap();
    let mut write = |write: GroupWrite| {
        wal.write(batch([write]), true, Box::new(|result| result.unwrap()));
        wal.flush().unwrap();
    };
    write(give_up(1, 4, 9));
    write(entries(1, 3, 4..=9, 30));
    write(entries(2, 2, 10..=10, 10));
    drop(wal);
    // The header of a record: nothing can be told of it.
    let (path, header) = record_of(&disk, 2, 10);
    flip(&disk, &path, header);
    assert!(matches!(open(&disk).map(drop), Err(LogError::Damaged(_))));
    let found = verify(&disk, Path::new(WAL)).unwrap();
    assert_eq!((found.damages.len(), found.given_up.len()), (1, 1), "{found:?}");
    let plan = self::plan(&disk);
    assert_eq!((&plan.damage.path, plan.damage.offset), (&path, header as u64));
    repair(&data_dir(&disk), &plan.consent()).unwrap();
    let wal = open(&disk).unwrap();
    let state = wal.reader().state(GroupId(1)).unwrap();
    assert_eq!((state.last, state.damaged), (LogIndex(9), None));
    assert!(verify(&disk, Path::new(WAL)).unwrap().is_clean());
}

/// What says that an entry was given up stands behind something that is damaged: cutting there brings the
/// damage back, so the log is cut at the entry.
#[test]
fn what_was_given_up_behind_the_cut_is_damage_again() {
    let (disk, _) = Written::three_segments().stop();
    let (given_up, _) = rot(&disk, 1, 2);
    let mut wal = open(&disk).unwrap();
    let mut write = |write: GroupWrite| {
        wal.write(batch([write]), true, Box::new(|result| result.unwrap()));
        wal.flush().unwrap();
    };
    write(entries(2, 2, 10..=10, 300));
    write(give_up(1, 2, 9));
    drop(wal);
    assert!(verify(&disk, Path::new(WAL)).unwrap().is_clean());
    rot(&disk, 2, 10);
    let found = verify(&disk, Path::new(WAL)).unwrap();
    assert_eq!((found.damages.len(), found.given_up.len()), (1, 1), "{found:?}");
    let plan = self::plan(&disk);
    assert_eq!(plan.damage.path, given_up, "{plan:?}");
    repair(&data_dir(&disk), &plan.consent()).unwrap();
    let found = verify(&disk, Path::new(WAL)).unwrap();
    assert!(found.is_clean() && found.given_up.is_empty(), "{found:?}");
    drop(open(&disk).unwrap());
}
