//! The cases for [`SnapshotStore`].

use quorate_core::{GroupId, LogId, SnapshotMeta};

use super::members;
use crate::error::SnapshotError;
use crate::snapshot_store::{SnapshotInfo, SnapshotReader, SnapshotStore};

/// A store that a test can close and open again.
pub trait SnapshotStoreUnderTest {
    /// The store as it is now.
    fn store(&mut self) -> &mut dyn SnapshotStore;
    /// Closes the store and opens what it left. Where the store has no outside, nothing.
    fn reopen(&mut self);
    /// Fails the power and opens what is left; see the log store's.
    fn crash(&mut self, seed: u64);
}

/// Makes a fresh, empty store.
pub type NewSnapshotStore<'a> = dyn FnMut() -> Box<dyn SnapshotStoreUnderTest> + 'a;

/// A case: its name and its body.
pub type SnapshotStoreCase = (&'static str, fn(&mut dyn SnapshotStoreUnderTest));

/// Runs every case on a fresh store.
pub fn run(new: &mut NewSnapshotStore<'_>) {
    for (name, case) in cases() {
        eprintln!("conformance: {name}");
        case(&mut *new());
    }
}

/// All cases, to be run one by one.
#[must_use]
pub fn cases() -> &'static [SnapshotStoreCase] {
    &[
        ("what was written is read back", what_was_written_is_read_back),
        ("an unfinished snapshot never exists", an_unfinished_snapshot_never_exists),
        ("a finished snapshot survives a crash", a_finished_snapshot_survives_a_crash),
        ("retain keeps the newest", retain_keeps_the_newest),
        ("a snapshot that is not there is missing", a_snapshot_that_is_not_there_is_missing),
        ("a snapshot written again replaces the first", a_snapshot_written_again_replaces_the_first),
    ]
}

/// Runs the cases for a store that keeps nothing: it takes content, never says that a snapshot exists,
/// and has none afterwards.
pub fn run_discarding(new: &mut NewSnapshotStore<'_>) {
    for (name, case) in discarding_cases() {
        eprintln!("conformance: {name}");
        case(&mut *new());
    }
}

/// The cases of [`run_discarding`], to be run one by one.
#[must_use]
pub fn discarding_cases() -> &'static [SnapshotStoreCase] {
    &[
        ("an unfinished snapshot never exists", an_unfinished_snapshot_never_exists),
        ("a snapshot that is thrown away is not said to exist", a_snapshot_thrown_away_is_not_said_to_exist),
    ]
}

fn meta(term: u64, index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last: LogId::new(term, index),
        membership: members(index),
        membership_id: LogId::new(1, 1),
    }
}

/// Content of `bytes` bytes that is nowhere the same.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251).to_le_bytes()[0] ^ (at / 1000).to_le_bytes()[0]).collect()
}

fn save(store: &dyn SnapshotStore, group: u64, meta: &SnapshotMeta, content: &[u8]) -> SnapshotInfo {
    let mut writer = store.create(GroupId(group), meta).expect("a snapshot can be started");
    for part in content.chunks(10_007) {
        writer.write(part).expect("content is taken");
    }
    assert_eq!(writer.written(), content.len() as u64);
    let info = writer.finish().expect("a snapshot can be finished");
    assert_eq!((info.group, &info.meta, info.bytes), (GroupId(group), meta, content.len() as u64));
    info
}

fn read_all(reader: &mut dyn SnapshotReader, step: usize) -> Vec<u8> {
    let mut found = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        let count = reader.read_at(found.len() as u64, &mut buffer).expect("content is readable");
        if count == 0 {
            return found;
        }
        found.extend_from_slice(&buffer[..count]);
    }
}

fn what_was_written_is_read_back(test: &mut dyn SnapshotStoreUnderTest) {
    let sizes = [0, 1, 65_535, 65_536, 65_537, 300_000];
    for (size, index) in sizes.into_iter().zip(1..) {
        save(test.store(), 3, &meta(2, index), &content(size));
    }
    save(test.store(), 4, &meta(9, 9), b"other");
    for _ in 0..2 {
        let found = test.store().list(GroupId(3)).expect("a listing");
        assert_eq!(
            found.iter().map(|info| info.meta.clone()).collect::<Vec<_>>(),
            (1..=6).map(|i| meta(2, i)).collect::<Vec<_>>()
        );
        for (info, size) in found.iter().zip(sizes) {
            let mut reader = test.store().open(info).expect("a listed snapshot can be opened");
            assert_eq!(reader.info(), info);
            for step in [size + 10, 4096, 70_001] {
                assert!(
                    read_all(&mut *reader, step) == content(size),
                    "content of {size} bytes, step {step}"
                );
            }
            let mut one = [0];
            assert_eq!(reader.read_at(size as u64 + 5, &mut one).expect("beyond the end is empty"), 0);
        }
        test.reopen();
    }
}

fn an_unfinished_snapshot_never_exists(test: &mut dyn SnapshotStoreUnderTest) {
    let mut writer = test.store().create(GroupId(1), &meta(1, 5)).expect("a snapshot can be started");
    writer.write(&content(200_000)).expect("content is taken");
    let nothing = |test: &mut dyn SnapshotStoreUnderTest| {
        assert_eq!(test.store().list(GroupId(1)).expect("a listing"), []);
    };
    nothing(test);
    drop(writer);
    nothing(test);
    let mut writer = test.store().create(GroupId(1), &meta(1, 6)).expect("a snapshot can be started");
    writer.write(&content(200_000)).expect("content is taken");
    for seed in 0..4 {
        test.crash(seed);
        nothing(test);
    }
    test.reopen();
    nothing(test);
    drop(writer);
}

fn a_finished_snapshot_survives_a_crash(test: &mut dyn SnapshotStoreUnderTest) {
    for seed in 0..8 {
        let info = save(test.store(), 1, &meta(1, seed + 1), &content(100_000));
        test.crash(seed);
        let found = test.store().list(GroupId(1)).expect("a listing");
        assert_eq!(found.last(), Some(&info));
        let mut reader = test.store().open(&info).expect("it can be opened");
        assert!(read_all(&mut *reader, 50_000) == content(100_000), "the content is whole");
    }
}

fn retain_keeps_the_newest(test: &mut dyn SnapshotStoreUnderTest) {
    for index in [5, 7, 100, 1000] {
        save(test.store(), 1, &meta(1, index), b"x");
        save(test.store(), 2, &meta(1, index), b"x");
    }
    let indexes = |test: &mut dyn SnapshotStoreUnderTest, group| {
        let found = test.store().list(GroupId(group)).expect("a listing");
        found.iter().map(|info| info.meta.last.index.0).collect::<Vec<_>>()
    };
    test.store().retain(GroupId(1), 9).expect("nothing to do");
    assert_eq!(indexes(test, 1), [5, 7, 100, 1000]);
    test.store().retain(GroupId(1), 2).expect("old ones can be removed");
    assert_eq!(indexes(test, 1), [100, 1000]);
    test.store().retain(GroupId(1), 1).expect("old ones can be removed");
    test.reopen();
    assert_eq!(indexes(test, 1), [1000]);
    test.store().retain(GroupId(1), 0).expect("all can be removed");
    test.reopen();
    assert_eq!(indexes(test, 1), []);
    assert_eq!(indexes(test, 2), [5, 7, 100, 1000]);
}

fn a_snapshot_that_is_not_there_is_missing(test: &mut dyn SnapshotStoreUnderTest) {
    let info = save(test.store(), 1, &meta(1, 5), b"x");
    test.store().retain(GroupId(1), 0).expect("all can be removed");
    let opened = test.store().open(&info).map(drop);
    assert!(matches!(opened, Err(SnapshotError::Missing { .. })), "it came to {opened:?}");
}

fn a_snapshot_written_again_replaces_the_first(test: &mut dyn SnapshotStoreUnderTest) {
    save(test.store(), 1, &meta(1, 5), b"first");
    let info = save(test.store(), 1, &meta(1, 5), b"second");
    test.reopen();
    let mut reader = test.store().open(&info).expect("it can be opened");
    assert_eq!(read_all(&mut *reader, 100), b"second");
    assert_eq!(test.store().list(GroupId(1)).expect("a listing"), [info]);
    // A recovery by force may come to the same index in another term.
    let info = save(test.store(), 1, &meta(2, 5), b"third");
    for _ in 0..2 {
        assert_eq!(test.store().list(GroupId(1)).expect("a listing"), std::slice::from_ref(&info));
        test.reopen();
    }
}

fn a_snapshot_thrown_away_is_not_said_to_exist(test: &mut dyn SnapshotStoreUnderTest) {
    for index in 1..4 {
        let mut writer = test.store().create(GroupId(1), &meta(1, index)).expect("a snapshot can be started");
        writer.write(&content(100_000)).expect("content is taken");
        assert_eq!(writer.written(), 100_000);
        // Who hears Ok compacts the log.
        let finished = writer.finish();
        assert!(
            matches!(finished, Err(SnapshotError::Discarded { group: GroupId(1), index: at }) if at.0 == index),
            "it came to {finished:?}"
        );
        let info = SnapshotInfo { group: GroupId(1), meta: meta(1, index), bytes: 100_000 };
        for _ in 0..2 {
            assert_eq!(test.store().list(GroupId(1)).expect("a listing"), []);
            let opened = test.store().open(&info).map(drop);
            assert!(matches!(opened, Err(SnapshotError::Missing { .. })), "it came to {opened:?}");
            assert_eq!(test.store().verify(GroupId(1)).expect("nothing to read"), []);
            test.store().retain(GroupId(1), 0).expect("nothing to do");
            test.crash(index);
        }
    }
}
