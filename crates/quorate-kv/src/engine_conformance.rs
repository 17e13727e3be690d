//! What every [`Engine`] must do, as tests that any implementation can run.
//!
//! ```text
//!   for each scenario:   wipe ──► open ──► write, scan, flush ──► crash ──► open ──► compare
//! ```
//!
//! A scenario that fails panics with the rule that was broken.
//!
//! Not here: how an engine is crashed. The implementation says so, and what is lost by it.

use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_core::{LogId, LogIndex};
use quorate_host::{BatchEnd, MachineError};

use crate::command::Item;
use crate::engine::{Changes, Engine, EngineView, KeyRange, Stored};

/// One storage that can be emptied, opened and crashed.
pub trait EngineUnderTest {
    /// Goes on with an empty storage. Nothing is open.
    fn wipe(&mut self);

    /// Opens the storage; the engine opened before is dropped.
    ///
    /// # Errors
    /// Fails the suite.
    fn open(&mut self) -> Result<Box<dyn Engine>, MachineError>;

    /// Stops as rudely as it can. The engine that was open is dropped, its result ignored.
    fn crash(&mut self) -> CrashKind;
}

/// What [`EngineUnderTest::crash`] can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The process is gone, what it wrote is there.
    ProcessOnly,
    /// Writes that were not synced may be gone, newest first.
    UnsyncedWritesLost,
}

type Scenario = fn(&mut dyn EngineUnderTest) -> Result<(), MachineError>;

/// Runs every scenario.
///
/// # Errors
/// An engine failed where it must not.
///
/// # Panics
/// A rule is broken; the message says which.
pub fn check_engine(engine: &mut dyn EngineUnderTest) -> Result<(), MachineError> {
    let scenarios: [Scenario; 10] = [
        a_new_engine_is_empty,
        a_batch_sets_replaces_and_removes,
        a_scan_is_half_open_in_key_order_and_stops_when_told,
        any_bytes_are_kept,
        host_records_live_beside_the_items,
        a_view_is_frozen_while_writes_go_on,
        a_crash_leaves_the_state_after_some_batch_not_before_the_flush,
        replacing_leaves_nothing_of_before,
        an_interrupted_replacement_is_noticed,
        a_replacement_survives_a_crash_whole_or_not_at_all,
    ];
    for scenario in scenarios {
        engine.wipe();
        scenario(engine)?;
    }
    Ok(())
}

fn item(key: &'static [u8], value: &'static [u8], version: u64) -> Item {
    Item { key: Bytes::from_static(key), value: Bytes::from_static(value), version }
}

fn applied(index: u64) -> LogId {
    LogId::new(3, index)
}

fn end(index: u64) -> BatchEnd<'static> {
    BatchEnd { applied: applied(index), records: &[] }
}

fn set(items: &[Item]) -> Changes {
    let stored = |item: &Item| Stored { value: item.value.clone(), version: item.version };
    items.iter().map(|item| (item.key.clone(), Some(stored(item)))).collect()
}

fn remove(key: &'static [u8]) -> Changes {
    Changes::from([(Bytes::from_static(key), None)])
}

fn all(view: &(impl EngineView + ?Sized)) -> Result<Vec<Item>, MachineError> {
    within(view, &KeyRange::all())
}

fn within(view: &(impl EngineView + ?Sized), range: &KeyRange) -> Result<Vec<Item>, MachineError> {
    let mut items = Vec::new();
    view.scan(range, &mut |item| {
        items.push(item);
        ControlFlow::Continue(())
    })?;
    Ok(items)
}

fn replace(engine: &mut dyn Engine, items: &[Item], end: BatchEnd<'_>) -> Result<(), MachineError> {
    engine.replace_all(&mut items.iter().cloned().map(Ok), end)
}

fn a_new_engine_is_empty(under_test: &mut dyn EngineUnderTest) -> Result<(), MachineError> {
    let mut engine = under_test.open()?;
    let recovered = engine.recovered()?;
    assert_eq!(recovered.applied, LogId::default(), "a new engine holds nothing");
    assert!(recovered.records.is_empty(), "a new engine has no records");
    assert_eq!(engine.get(b"a")?, None);
    assert_eq!(all(&*engine)?, vec![]);
    assert_eq!(engine.flush()?, LogId::default(), "nothing is applied, nothing is durable");
    Ok(())
}

fn a_batch_sets_replaces_and_removes(under_test: &mut dyn EngineUnderTest) -> Result<(), MachineError> {
    let mut engine = under_test.open()?;
    engine.write(&set(&[item(b"a", b"1", 1), item(b"b", b"2", 2)]), end(2))?;
    let mut changes = set(&[item(b"a", b"3", 3)]);
    changes.extend(remove(b"b"));
    changes.extend(remove(b"never there"));
    engine.write(&changes, end(4))?;
    assert_eq!(engine.get(b"a")?, Some(Stored { value: Bytes::from_static(b"3"), version: 3 }));
    assert_eq!(engine.get(b"b")?, None, "a removed key is gone");
    assert_eq!(all(&*engine)?, vec![item(b"a", b"3", 3)]);
    assert_eq!(engine.recovered()?.applied, applied(4), "the applied position is that of the last batch");
    engine.write(&Changes::new(), end(5))?;
    assert_eq!(engine.recovered()?.applied, applied(5), "a batch without changes moves it too");
    Ok(())
}

fn a_scan_is_half_open_in_key_order_and_stops_when_told(
    under_test: &mut dyn EngineUnderTest,
) -> Result<(), MachineError> {
    let mut engine = under_test.open()?;
    let items = [item(b"a", b"1", 1), item(b"b", b"2", 2), item(b"b\0", b"3", 3), item(b"c", b"4", 4)];
    engine.write(&set(&items), end(4))?;
    let range = |start: &'static [u8], end: &'static [u8]| KeyRange {
        start: Bytes::from_static(start),
        end: Some(Bytes::from_static(end)),
    };
    assert_eq!(within(&*engine, &range(b"a", b"c"))?, items[..3], "the end is not in the range");
    assert_eq!(within(&*engine, &range(b"", b"b"))?, items[..1], "an empty start is the beginning");
    assert_eq!(within(&*engine, &KeyRange::from(Bytes::from_static(b"b\0")))?, items[2..]);
    assert_eq!(within(&*engine, &range(b"c", b"a"))?, vec![], "a range that ends first is empty");
    assert_eq!(within(&*engine, &range(b"b", b"b"))?, vec![]);
    assert_eq!(within(&*engine, &range(b"", b""))?, vec![]);
    let mut seen = Vec::new();
    engine.scan(&KeyRange::all(), &mut |item| {
        seen.push(item);
        if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    assert_eq!(seen, items[..2], "a scan stops when it is told to");
    Ok(())
}

fn any_bytes_are_kept(under_test: &mut dyn EngineUnderTest) -> Result<(), MachineError> {
    let mut engine = under_test.open()?;
    let items = vec![
        item(b"\0", b"", 1),
        item(b"\0\0", b"\0", 2),
        Item {
            key: vec![7; crate::KEY_BYTES_CAP].into(),
            value: vec![8; 3 << 20].into(),
            version: u64::MAX / 2,
        },
        item(b"\xff", b"\xff\xfe", 4),
        item(b"\xff\xff\xff", b"x", 5),
    ];
    engine.write(&set(&items), end(9))?;
    assert_eq!(all(&*engine)?, items, "keys and values are any bytes");
    engine.flush()?;
    drop(engine);
    assert_eq!(all(&*under_test.open()?)?, items, "also after opening again");
    Ok(())
}

fn host_records_live_beside_the_items(under_test: &mut dyn EngineUnderTest) -> Result<(), MachineError> {
    let mut engine = under_test.open()?;
    let key = |key: &'static [u8]| Bytes::from_static(key);
    let records =
        [(key(b"s1"), Some(key(b"one"))), (key(b"s2"), Some(key(b""))), (key(b""), Some(key(b"e")))];
    engine.write(&set(&[item(b"s1", b"v", 1)]), BatchEnd { applied: applied(1), records: &records })?;
    let records = [(key(b"s1"), None), (key(b"s3"), Some(key(b"three")))];
    engine.write(&Changes::new(), BatchEnd { applied: applied(2), records: &records })?;
    assert_eq!(all(&*engine)?, vec![item(b"s1", b"v", 1)], "records are not items");
    engine.flush()?;
    drop(engine);
    let mut found = under_test.open()?.recovered()?.records;
    found.sort();
    let expected = vec![(key(b""), key(b"e")), (key(b"s2"), key(b"")), (key(b"s3"), key(b"three"))];
    assert_eq!(found, expected, "records are set and deleted with the batch");
    Ok(())
}

fn a_view_is_frozen_while_writes_go_on(under_test: &mut dyn EngineUnderTest) -> Result<(), MachineError> {
    let mut engine = under_test.open()?;
    let before = [item(b"a", b"1", 1), item(b"b", b"2", 2)];
    engine.write(&set(&before), end(2))?;
    let view: Box<dyn EngineView> = engine.view()?;
    engine.write(&set(&[item(b"a", b"new", 3), item(b"c", b"new", 4)]), end(4))?;
    engine.write(&remove(b"b"), end(5))?;
    engine.flush()?;
    assert_eq!(all(&*view)?, before, "a view does not see later writes");
    assert_eq!(view.get(b"b")?, Some(Stored { value: Bytes::from_static(b"2"), version: 2 }));
    assert_eq!(view.get(b"c")?, None);
    assert_eq!(all(&*engine)?, vec![item(b"a", b"new", 3), item(b"c", b"new", 4)]);
    Ok(())
}

fn a_crash_leaves_the_state_after_some_batch_not_before_the_flush(
    under_test: &mut dyn EngineUnderTest,
) -> Result<(), MachineError> {
    let mut engine = under_test.open()?;
    for index in 1..=20 {
        let number = Bytes::from(index.to_string());
        let stored = Stored { value: number.clone(), version: index };
        let mut changes = Changes::from([(number.clone(), Some(stored.clone()))]);
        changes.insert(Bytes::from_static(b"last"), Some(stored));
        let records = [(Bytes::from_static(b"record"), Some(number))];
        engine.write(&changes, BatchEnd { applied: applied(index), records: &records })?;
        if index == 12 {
            let durable = if engine.is_durable() { applied(12) } else { LogId::default() };
            assert_eq!(engine.flush()?, durable, "flush says how far it is durable");
        }
    }
    let durable = engine.is_durable();
    let kind = under_test.crash();
    drop(engine);
    let engine = under_test.open()?;
    let recovered = engine.recovered()?;
    let LogIndex(last) = recovered.applied.index;
    if durable {
        assert!(last >= 12, "what was flushed is there: {last}");
        assert!(
            kind == CrashKind::UnsyncedWritesLost || last == 20,
            "a lost process loses no writes: {last}"
        );
    }
    let items = all(&*engine)?;
    assert_eq!(items.len() as u64, last + u64::from(last > 0), "exactly the batches up to {last}");
    let found = engine.get(b"last")?.map(|stored| stored.version);
    assert_eq!(found, (last > 0).then_some(last), "data and position are of the same batch");
    let record = recovered.records.first().map(|(_, record)| record.clone());
    assert_eq!(record, (last > 0).then(|| Bytes::from(last.to_string())), "and so are the records");
    Ok(())
}

fn replacing_leaves_nothing_of_before(under_test: &mut dyn EngineUnderTest) -> Result<(), MachineError> {
    let mut engine = under_test.open()?;
    let record = |name: &'static [u8]| [(Bytes::from_static(name), Some(Bytes::from_static(b"r")))];
    let old = record(b"old");
    engine.write(
        &set(&[item(b"a", b"1", 1), item(b"x", b"1", 1)]),
        BatchEnd { applied: applied(1), records: &old },
    )?;
    let view = engine.view()?;
    let items = [item(b"a", b"2", 7), item(b"m", b"", 8)];
    let new = record(b"new");
    replace(&mut *engine, &items, BatchEnd { applied: applied(9), records: &new })?;
    assert_eq!(all(&*engine)?, items, "only the new items are there");
    assert_eq!(engine.get(b"x")?, None);
    assert_eq!(all(&*view)?.len(), 2, "a view taken before stays as it was");
    drop(view);
    engine.write(&set(&[item(b"n", b"3", 10)]), end(10))?;
    engine.flush()?;
    drop(engine);
    let engine = under_test.open()?;
    let recovered = engine.recovered()?;
    assert_eq!(recovered.applied, applied(10));
    assert_eq!(recovered.records, vec![(Bytes::from_static(b"new"), Bytes::from_static(b"r"))]);
    assert_eq!(all(&*engine)?, [&items[..], &[item(b"n", b"3", 10)]].concat());
    Ok(())
}

fn an_interrupted_replacement_is_noticed(under_test: &mut dyn EngineUnderTest) -> Result<(), MachineError> {
    let mut engine = under_test.open()?;
    let records = [(Bytes::from_static(b"r"), Some(Bytes::from_static(b"r")))];
    engine.write(&set(&[item(b"a", b"1", 1)]), BatchEnd { applied: applied(1), records: &records })?;
    engine.flush()?;
    let broken = Err(MachineError::new("the stream broke"));
    let mut items = [Ok(item(b"b", b"2", 2)), broken, Ok(item(b"c", b"3", 3))].into_iter();
    assert!(engine.replace_all(&mut items, end(9)).is_err(), "a broken stream is an error");
    under_test.crash();
    drop(engine);
    let mut engine = under_test.open()?;
    let recovered = engine.recovered()?;
    assert_eq!(recovered.applied, LogId::default(), "a restore that did not finish is to be repeated");
    assert!(recovered.records.is_empty(), "its records are gone as well");
    replace(&mut *engine, &[item(b"z", b"9", 9)], end(9))?;
    assert_eq!(all(&*engine)?, vec![item(b"z", b"9", 9)], "repeating it gives a whole state");
    assert_eq!(engine.recovered()?.applied, applied(9));
    Ok(())
}

fn a_replacement_survives_a_crash_whole_or_not_at_all(
    under_test: &mut dyn EngineUnderTest,
) -> Result<(), MachineError> {
    let mut engine = under_test.open()?;
    engine.write(&set(&[item(b"a", b"1", 1)]), end(1))?;
    let numbers = (0..2_000_u64).map(|number| Item {
        key: Bytes::from(format!("{number:05}")),
        value: Bytes::from(vec![7; 100]),
        version: number + 1,
    });
    engine.replace_all(&mut numbers.map(Ok), end(5_000))?;
    under_test.crash();
    drop(engine);
    let engine = under_test.open()?;
    if engine.recovered()?.applied == LogId::default() {
        return Ok(());
    }
    assert_eq!(engine.recovered()?.applied, applied(5_000), "the replaced state, not the one before");
    assert_eq!(all(&*engine)?.len(), 2_000, "and all of it");
    Ok(())
}
