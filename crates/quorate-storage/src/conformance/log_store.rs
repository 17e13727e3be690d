//! The cases for [`LogStore`].

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_core::{Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, ReplicaId};

use super::{Chance, LogModel, members};
use crate::error::LogError;
use crate::log_store::{GroupState, GroupWrite, LogBatch, LogStore};

/// A store that a test can close and open again.
pub trait LogStoreUnderTest {
    /// The store as it is now.
    fn store(&mut self) -> &mut dyn LogStore;
    /// Closes the store (without a flush) and opens what it left. Where the store has no outside,
    /// nothing.
    fn reopen(&mut self);
    /// Fails the power: closes the store, forgets what was not durable (`seed` decides what of it
    /// survives, if anything), and opens what is left.
    fn crash(&mut self, seed: u64);
}

/// Makes a fresh, empty store.
pub type NewLogStore<'a> = dyn FnMut() -> Box<dyn LogStoreUnderTest> + 'a;

/// A case: its name and its body.
pub type LogStoreCase = (&'static str, fn(&mut dyn LogStoreUnderTest));

/// Runs every case on a fresh store.
pub fn run(new: &mut NewLogStore<'_>) {
    for (name, case) in cases() {
        eprintln!("conformance: {name}");
        case(&mut *new());
    }
}

/// All cases, to be run one by one.
#[must_use]
pub fn cases() -> &'static [LogStoreCase] {
    &[
        ("an empty store knows no group", an_empty_store_knows_no_group),
        ("what was written is read back", what_was_written_is_read_back),
        ("completions come in order and only from flush", completions_come_in_order_and_only_from_flush),
        ("reads keep to range and limit", reads_keep_to_range_and_limit),
        ("truncation makes room for other entries", truncation_makes_room_for_other_entries),
        ("compaction hides what it covers", compaction_hides_what_it_covers),
        ("a reset starts the log anew", a_reset_starts_the_log_anew),
        ("a removed group is gone and may come back", a_removed_group_is_gone_and_may_come_back),
        ("a batch that breaks a rule changes nothing", a_batch_that_breaks_a_rule_changes_nothing),
        ("the replica of a group is set once", the_replica_of_a_group_is_set_once),
        ("a crash forgets only what was not acknowledged", a_crash_forgets_only_what_was_not_acknowledged),
        ("a sync covers everything before it", a_sync_covers_everything_before_it),
        ("random batches, reopened and crashed", random_batches_reopened_and_crashed),
    ]
}

/// A group's write in a batch of its own.
fn alone(write: GroupWrite) -> LogBatch {
    LogBatch { groups: vec![write] }
}

fn command(term: u64, index: u64) -> Entry {
    let command = format!("{index} in term {term}");
    Entry { id: LogId::new(term, index), payload: EntryPayload::Command(Bytes::from(command)) }
}

/// A write of commands `first..=last` in one term.
fn commands(group: u64, term: u64, first: u64, last: u64) -> GroupWrite {
    let entries = (first..=last).map(|index| command(term, index)).collect();
    GroupWrite { group: GroupId(group), entries, ..GroupWrite::default() }
}

/// Writes one batch and returns what its completion said.
fn try_write(store: &mut dyn LogStore, batch: LogBatch, must_sync: bool) -> Result<(), LogError> {
    let outcome = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&outcome);
    store.write(
        batch,
        must_sync,
        Box::new(move |result| *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result)),
    );
    store.flush().expect("the store works");
    outcome.lock().unwrap_or_else(PoisonError::into_inner).take().expect("flush completes every batch")
}

/// Writes batches one by one, to the store and to the model.
fn write_all(test: &mut dyn LogStoreUnderTest, model: &mut LogModel, writes: Vec<GroupWrite>) {
    for write in writes {
        let batch = alone(write);
        model.apply(&batch);
        try_write(test.store(), batch, true).expect("a valid batch is written");
    }
}

/// The store is what the model says, also after it was reopened.
fn same(test: &mut dyn LogStoreUnderTest, model: &LogModel) {
    model.compare(test.store()).unwrap_or_else(|difference| panic!("before reopening: {difference}"));
    test.reopen();
    model.compare(test.store()).unwrap_or_else(|difference| panic!("after reopening: {difference}"));
}

fn an_empty_store_knows_no_group(test: &mut dyn LogStoreUnderTest) {
    same(test, &LogModel::default());
    let reader = test.store().reader();
    assert!(reader.state(GroupId(1)).is_none(), "an unknown group has no state");
    let read = reader.read(GroupId(1), LogIndex(1)..LogIndex(2), 1 << 20);
    assert!(matches!(read, Err(LogError::OutOfRange { .. })), "an unknown group has no entries: {read:?}");
}

fn what_was_written_is_read_back(test: &mut dyn LogStoreUnderTest) {
    let mut model = LogModel::default();
    let membership = Entry { id: LogId::new(2, 5), payload: EntryPayload::Membership(members(1)) };
    let noop = Entry { id: LogId::new(3, 6), payload: EntryPayload::Noop };
    let large = EntryPayload::Command(Bytes::from(vec![7; 300_000]));
    let writes = vec![
        commands(1, 1, 1, 4),
        commands(9, 4, 1, 100),
        GroupWrite { group: GroupId(1), entries: vec![membership, noop].into(), ..GroupWrite::default() },
        GroupWrite {
            group: GroupId(1),
            entries: vec![Entry { id: LogId::new(3, 7), payload: large }].into(),
            hard_state: Some(HardState {
                term: quorate_core::Term(3),
                vote: Some(ReplicaId(2)),
                commit: LogIndex(4),
            }),
            ..GroupWrite::default()
        },
        GroupWrite { group: GroupId(4), ..GroupWrite::default() },
    ];
    write_all(test, &mut model, writes);
    same(test, &model);
    same(test, &model);
}

fn completions_come_in_order_and_only_from_flush(test: &mut dyn LogStoreUnderTest) {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = || order.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let store = test.store();
    // The third breaks a rule: it keeps its place.
    let batches = [commands(1, 1, 1, 1), commands(2, 1, 1, 1), commands(1, 1, 9, 9), commands(1, 1, 2, 3)];
    for (number, write) in batches.into_iter().enumerate() {
        let order = Arc::clone(&order);
        let done = move |result: Result<(), LogError>| {
            order.lock().unwrap_or_else(PoisonError::into_inner).push((number, result.is_ok()));
        };
        store.write(alone(write), number != 1, Box::new(done));
    }
    assert_eq!(seen(), [], "nothing completes before flush");
    store.flush().expect("the store works");
    assert_eq!(seen(), [(0, true), (1, true), (2, false), (3, true)]);
    store.flush().expect("an empty flush is fine");
    assert_eq!(seen().len(), 4, "a completion is called once");
    let state = store.reader().state(GroupId(1)).expect("the group exists");
    assert_eq!(state.last, LogIndex(3));
}

fn reads_keep_to_range_and_limit(test: &mut dyn LogStoreUnderTest) {
    let mut model = LogModel::default();
    write_all(test, &mut model, vec![commands(1, 1, 1, 10)]);
    let reader = test.store().reader();
    let read = |from, to, limit| reader.read(GroupId(1), LogIndex(from)..LogIndex(to), limit);
    let count = |from, to, limit| read(from, to, limit).expect("in range").len();
    assert_eq!(count(1, 11, 1 << 20), 10);
    assert_eq!(count(4, 6, 1 << 20), 2);
    assert_eq!(count(4, 4, 1 << 20), 0, "an empty range is empty");
    assert_eq!(count(1, 11, 0), 1, "at least one entry, however small the limit");
    let some = count(1, 11, 150);
    assert!((1..10).contains(&some), "the limit ends the read: {some}");
    assert!(matches!(read(10, 12, 1 << 20), Err(LogError::OutOfRange { .. })), "beyond the last");
    assert!(matches!(read(11, 12, 1 << 20), Err(LogError::OutOfRange { .. })), "beyond the last");
    assert!(matches!(read(0, 2, 1 << 20), Err(LogError::Compacted { .. })), "before the first");
}

fn truncation_makes_room_for_other_entries(test: &mut dyn LogStoreUnderTest) {
    let mut model = LogModel::default();
    let replace = GroupWrite { truncate_from: Some(LogIndex(4)), ..commands(1, 2, 4, 5) };
    let everything = GroupWrite { truncate_from: Some(LogIndex(1)), ..commands(2, 9, 1, 1) };
    let nothing = GroupWrite { truncate_from: Some(LogIndex(6)), ..commands(1, 2, 6, 6) };
    write_all(
        test,
        &mut model,
        vec![commands(1, 1, 1, 9), commands(2, 1, 1, 9), replace, everything, nothing],
    );
    same(test, &model);
    // Only dropping is a write, too.
    let drop = GroupWrite { group: GroupId(1), truncate_from: Some(LogIndex(3)), ..GroupWrite::default() };
    write_all(test, &mut model, vec![drop]);
    same(test, &model);
}

fn compaction(group: u64, term: u64, index: u64) -> GroupWrite {
    let compact_to = Some((LogId::new(term, index), LogId::default(), members(1)));
    GroupWrite { group: GroupId(group), compact_to, ..GroupWrite::default() }
}

fn compaction_hides_what_it_covers(test: &mut dyn LogStoreUnderTest) {
    let mut model = LogModel::default();
    let together = GroupWrite { compact_to: compaction(2, 1, 3).compact_to, ..commands(2, 1, 1, 4) };
    write_all(
        test,
        &mut model,
        vec![commands(1, 1, 1, 4), commands(1, 2, 5, 8), compaction(1, 2, 6), together],
    );
    same(test, &model);
    let reader = test.store().reader();
    let read = reader.read(GroupId(1), LogIndex(6)..LogIndex(8), 1 << 20);
    assert!(matches!(read, Err(LogError::Compacted { .. })), "compacted entries are not read: {read:?}");
    // To an older position: nothing happens. To the last: the log is empty and goes on after it.
    write_all(test, &mut model, vec![compaction(1, 1, 2), compaction(1, 2, 8)]);
    same(test, &model);
    write_all(test, &mut model, vec![commands(1, 2, 9, 9)]);
    same(test, &model);
}

fn a_reset_starts_the_log_anew(test: &mut dyn LogStoreUnderTest) {
    let mut model = LogModel::default();
    let reset = |group, term, index| GroupWrite {
        group: GroupId(group),
        reset_to: Some((LogId::new(term, index), LogId::new(term, index), members(1))),
        ..GroupWrite::default()
    };
    // Ahead of the log, behind its end, on a group that is new, and the position before the log.
    let writes = vec![
        commands(1, 1, 1, 5),
        reset(1, 3, 100),
        commands(1, 3, 101, 103),
        reset(1, 4, 102),
        reset(2, 7, 7),
        reset(3, 0, 0),
        commands(3, 1, 1, 1),
    ];
    write_all(test, &mut model, writes);
    same(test, &model);
    let with_entries = GroupWrite { reset_to: reset(2, 8, 20).reset_to, ..commands(2, 9, 21, 22) };
    write_all(test, &mut model, vec![with_entries]);
    same(test, &model);
}

fn a_removed_group_is_gone_and_may_come_back(test: &mut dyn LogStoreUnderTest) {
    let mut model = LogModel::default();
    let remove = |group| GroupWrite { group: GroupId(group), remove: true, ..GroupWrite::default() };
    write_all(test, &mut model, vec![commands(1, 5, 1, 5), commands(2, 5, 1, 5), remove(1), remove(7)]);
    same(test, &model);
    write_all(test, &mut model, vec![commands(1, 1, 1, 2)]);
    same(test, &model);
}

fn a_batch_that_breaks_a_rule_changes_nothing(test: &mut dyn LogStoreUnderTest) {
    let mut model = LogModel::default();
    write_all(test, &mut model, vec![commands(1, 2, 1, 5), compaction(1, 2, 3)]);
    let bad = [
        commands(1, 2, 7, 7),
        commands(1, 2, 5, 6),
        commands(1, 1, 6, 6),
        GroupWrite { truncate_from: Some(LogIndex(3)), ..commands(1, 2, 3, 3) },
        compaction(1, 2, 6),
        compaction(1, 1, 4),
        GroupWrite { remove: true, ..commands(1, 2, 6, 6) },
    ];
    for write in bad {
        let good = commands(2, 1, 1, 1);
        let batch = LogBatch { groups: vec![good, write.clone()] };
        let outcome = try_write(test.store(), batch, true);
        assert!(matches!(outcome, Err(LogError::Invalid { .. })), "{write:?} came to {outcome:?}");
        same(test, &model);
    }
    let twice = LogBatch { groups: vec![commands(1, 2, 6, 6), commands(1, 2, 7, 7)] };
    let outcome = try_write(test.store(), twice, true);
    assert!(matches!(outcome, Err(LogError::Invalid { .. })), "a group twice came to {outcome:?}");
    same(test, &model);
}

fn the_replica_of_a_group_is_set_once(test: &mut dyn LogStoreUnderTest) {
    let mut model = LogModel::default();
    let replica =
        |id| GroupWrite { group: GroupId(1), replica: Some(ReplicaId(id)), ..GroupWrite::default() };
    write_all(test, &mut model, vec![replica(3), commands(1, 1, 1, 1), replica(3)]);
    let outcome = try_write(test.store(), alone(replica(4)), true);
    assert!(matches!(outcome, Err(LogError::Invalid { .. })), "another replica came to {outcome:?}");
    same(test, &model);
}

fn a_crash_forgets_only_what_was_not_acknowledged(test: &mut dyn LogStoreUnderTest) {
    let mut model = LogModel::default();
    for round in 0..20_u64 {
        write_all(test, &mut model, vec![commands(1, 1, round + 1, round + 1)]);
        test.store().write(alone(commands(1, 1, round + 2, round + 4)), true, Box::new(|_| {}));
        // Queued and never flushed.
        test.crash(round);
        model.compare(test.store()).unwrap_or_else(|difference| panic!("after a crash: {difference}"));
    }
}

fn a_sync_covers_everything_before_it(test: &mut dyn LogStoreUnderTest) {
    let mut model = LogModel::default();
    for round in 0..20_u64 {
        for (group, must_sync) in [(1, false), (2, false), (3, true)] {
            let batch = alone(commands(group, 1, round + 1, round + 1));
            model.apply(&batch);
            try_write(test.store(), batch, must_sync).expect("a valid batch is written");
        }
        test.crash(round);
        model.compare(test.store()).unwrap_or_else(|difference| panic!("after a crash: {difference}"));
    }
}

fn random_batches_reopened_and_crashed(test: &mut dyn LogStoreUnderTest) {
    random_batches(test, 0, 300);
}

/// Random valid batches, with reopenings and crashes in between, compared with the model. [`run`] does
/// a few; with other seeds and more steps it is a longer test.
pub fn random_batches(test: &mut dyn LogStoreUnderTest, seed: u64, steps: usize) {
    let mut chance = Chance(seed);
    let remove = |state: GroupState| GroupWrite { remove: true, group: state.group, ..GroupWrite::default() };
    let groups = test.store().groups().into_iter().map(remove).collect();
    try_write(test.store(), LogBatch { groups }, true).expect("all groups can be removed at once");
    // What the store may be after a crash: the model at the last sync, or after any batch since.
    let mut possible = vec![LogModel::default()];
    for step in 0..steps {
        let mut model = possible.last().expect("never empty").clone();
        let batch = model.random_batch(&mut chance);
        let must_sync = !chance.once_in(4);
        model.apply(&batch);
        try_write(test.store(), batch, must_sync)
            .unwrap_or_else(|error| panic!("step {step}: a valid batch came to: {error}"));
        if must_sync {
            possible.clear();
        }
        possible.push(model);
        if chance.once_in(40) {
            test.crash(chance.next());
            let why: Vec<_> = possible.iter().map(|model| model.compare(test.store())).collect();
            possible.retain(|model| model.compare(test.store()).is_ok());
            assert!(!possible.is_empty(), "step {step}: after a crash the store is none of these: {why:?}");
            possible.truncate(1);
        } else if chance.once_in(10) {
            let model = possible.last().expect("never empty");
            let compared = model.compare(test.store());
            compared.unwrap_or_else(|difference| panic!("step {step}: {difference}"));
        }
    }
}

/// A small number as a position in memory.
pub(super) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
