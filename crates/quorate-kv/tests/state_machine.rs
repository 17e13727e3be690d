//! What commands mean, told as stories and compared with a plain map.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_core::LogId;
use quorate_host::{BatchEnd, Command, StateMachine};
use quorate_kv::{
    Condition, Item, KEY_BYTES_CAP, KvAnswer, KvCommand, KvQuery, KvResponse, KvStateMachine, MemEngine,
    MemEngineDisk,
};

/// A store with its position in the log.
struct Store {
    machine: KvStateMachine,
    index: u64,
}

impl Store {
    fn volatile() -> Self {
        Self { machine: KvStateMachine::new(Box::new(MemEngine::volatile())), index: 0 }
    }

    fn on(disk: &MemEngineDisk) -> Self {
        let mut machine = KvStateMachine::new(Box::new(MemEngine::open(disk)));
        let index = machine.recovered().unwrap().applied.index.0;
        Self { machine, index }
    }

    /// Applies without ending the batch.
    fn apply_bytes(&mut self, data: &Bytes) -> Bytes {
        self.index += 1;
        self.machine
            .apply(Command { id: LogId::new(1, self.index), unix_millis: 0, data, extension: &Bytes::new() })
            .unwrap()
    }

    fn apply(&mut self, command: &KvCommand) -> KvResponse {
        KvResponse::decode(&self.apply_bytes(&command.encode())).unwrap()
    }

    fn commit(&mut self) {
        self.machine.commit(BatchEnd { applied: LogId::new(1, self.index), records: &[] }).unwrap();
    }

    fn query(&self, query: &KvQuery) -> KvAnswer {
        KvAnswer::decode(&self.machine.query(&query.encode()).unwrap()).unwrap()
    }

    fn get(&self, key: &str) -> Option<Item> {
        let KvAnswer::Value(item) = self.query(&KvQuery::Get { key: text(key) }) else {
            panic!("not a value")
        };
        item
    }

    fn scan(&self, start: &str, end: Option<&str>, limit: u32, bytes_max: u64) -> (Vec<Item>, Option<Bytes>) {
        let query = KvQuery::Scan { start: text(start), end: end.map(text), limit, bytes_max };
        let KvAnswer::Page { items, next } = self.query(&query) else { panic!("not a page") };
        (items, next)
    }

    fn all(&self) -> Vec<Item> {
        self.scan("", None, u32::MAX, u64::MAX).0
    }

    fn snapshot(&mut self, chunk_bytes: usize) -> Vec<u8> {
        let mut source = self.machine.snapshot().unwrap();
        let mut content = Vec::new();
        while let Some(chunk) = source.next_chunk(chunk_bytes).unwrap() {
            assert!(
                !chunk.is_empty() && chunk.len() <= chunk_bytes.max(1),
                "chunks are as long as asked for"
            );
            content.extend_from_slice(&chunk);
        }
        content
    }

    fn restore(&mut self, mut content: &[u8], index: u64) -> Result<(), String> {
        let end = BatchEnd { applied: LogId::new(1, index), records: &[] };
        let restored = self.machine.restore(&mut content, end);
        restored.map_err(|error| std::error::Error::source(&error).unwrap().to_string())?;
        self.index = index;
        Ok(())
    }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str, condition: Condition) -> KvCommand {
    KvCommand::Put { key: text(key), value: text(value), condition }
}

fn delete(key: &str, condition: Condition) -> KvCommand {
    KvCommand::Delete { key: text(key), condition }
}

const fn done(version: u64, previous: Option<u64>) -> KvResponse {
    KvResponse::Done { version, previous }
}

const fn failed(current: Option<u64>) -> KvResponse {
    KvResponse::ConditionFailed { current }
}

#[test]
fn a_version_is_the_log_index_and_never_comes_back_for_a_key() {
    let mut store = Store::volatile();
    assert_eq!(store.apply(&put("a", "1", Condition::Any)), done(1, None));
    assert_eq!(store.apply(&put("a", "1", Condition::Any)), done(2, Some(1)));
    store.commit();
    assert_eq!(store.get("a"), Some(Item { key: text("a"), value: text("1"), version: 2 }));
    assert_eq!(store.apply(&delete("a", Condition::Any)), done(3, Some(2)));
    assert_eq!(store.apply(&delete("a", Condition::Any)), done(4, None), "there is nothing left to delete");
    assert_eq!(store.apply(&put("a", "1", Condition::Version(2))), failed(None));
    assert_eq!(store.apply(&put("a", "1", Condition::Absent)), done(6, None));
    store.commit();
    assert_eq!(store.get("a").unwrap().version, 6);
}

#[test]
fn what_must_be_there_is_changed_and_never_made() {
    let mut store = Store::volatile();
    assert_eq!(store.apply(&put("a", "1", Condition::Present)), failed(None));
    assert_eq!(store.apply(&delete("a", Condition::Present)), failed(None));
    assert_eq!(store.apply(&put("a", "1", Condition::Absent)), done(3, None));
    assert_eq!(store.apply(&put("a", "2", Condition::Present)), done(4, Some(3)));
    assert_eq!(store.apply(&delete("a", Condition::Present)), done(5, Some(4)));
    assert_eq!(store.get("a"), None);
}

#[test]
fn a_chain_of_swaps_works_inside_one_batch() {
    let mut store = Store::volatile();
    assert_eq!(store.apply(&put("a", "one", Condition::Absent)), done(1, None));
    assert_eq!(store.apply(&put("a", "two", Condition::Value(text("one")))), done(2, Some(1)));
    assert_eq!(store.apply(&put("a", "three", Condition::Version(2))), done(3, Some(2)));
    assert_eq!(store.apply(&put("a", "lost", Condition::Version(2))), failed(Some(3)));
    assert_eq!(store.apply(&put("a", "lost", Condition::Value(text("two")))), failed(Some(3)));
    assert_eq!(store.apply(&put("a", "lost", Condition::Absent)), failed(Some(3)));
    assert_eq!(store.get("a").unwrap().value, text("three"), "seen before the batch ends");
    assert_eq!(store.apply(&delete("a", Condition::Version(3))), done(7, Some(3)));
    assert_eq!(store.get("a"), None);
    store.commit();
    assert_eq!(store.all(), vec![]);
}

#[test]
fn a_command_that_makes_no_sense_changes_nothing_and_is_answered() {
    let mut store = Store::volatile();
    let long = |bytes: usize| KvCommand::Put {
        key: vec![1; bytes].into(),
        value: Bytes::new(),
        condition: Condition::Any,
    };
    for data in [text(""), text("garbage"), KvQuery::Get { key: text("a") }.encode(), long(0).encode()] {
        assert_eq!(KvResponse::decode(&store.apply_bytes(&data)).unwrap(), KvResponse::Malformed);
    }
    assert_eq!(store.apply(&long(KEY_BYTES_CAP + 1)), KvResponse::Malformed);
    assert_eq!(store.apply(&long(KEY_BYTES_CAP)), done(6, None), "the longest key is a key");
    store.commit();
    assert_eq!(store.all().len(), 1);
    let answer = |request: &[u8]| KvAnswer::decode(&store.machine.query(request).unwrap()).unwrap();
    assert_eq!(answer(b"garbage"), KvAnswer::Malformed);
    assert_eq!(answer(&KvQuery::Get { key: Bytes::new() }.encode()), KvAnswer::Malformed);
}

#[test]
fn a_scan_comes_in_pages_that_join_without_gap_or_repeat() {
    let mut store = Store::volatile();
    for key in ["a", "b", "c", "d", "e"] {
        store.apply(&put(key, "12345", Condition::Any));
    }
    store.commit();
    let keys = |page: &(Vec<Item>, Option<Bytes>)| -> (String, Option<Bytes>) {
        let keys = page.0.iter().map(|item| str::from_utf8(&item.key).unwrap());
        (keys.collect(), page.1.clone())
    };
    assert_eq!(keys(&store.scan("a", Some("e"), 2, 1000)), ("ab".into(), Some(text("c"))));
    assert_eq!(keys(&store.scan("c", Some("e"), 2, 1000)), ("cd".into(), None), "the end is not asked for");
    assert_eq!(
        keys(&store.scan("", None, 100, 12)),
        ("ab".into(), Some(text("c"))),
        "12 bytes hold two items"
    );
    assert_eq!(keys(&store.scan("", None, 100, 11)), ("a".into(), Some(text("b"))));
    assert_eq!(keys(&store.scan("", None, 0, 0)), ("a".into(), Some(text("b"))), "a page is never empty");
    assert_eq!(keys(&store.scan("x", Some("b"), 9, 9)), (String::new(), None));
}

#[test]
fn a_scan_inside_a_batch_sees_what_is_staged() {
    let mut store = Store::volatile();
    for key in ["b", "d", "f"] {
        store.apply(&put(key, "old", Condition::Any));
    }
    store.commit();
    store.apply(&put("a", "new", Condition::Any));
    store.apply(&delete("b", Condition::Any));
    store.apply(&put("d", "new", Condition::Any));
    store.apply(&put("e", "new", Condition::Any));
    store.apply(&put("g", "new", Condition::Any));
    let staged: Vec<_> = store.all().into_iter().map(|item| (item.key, item.value)).collect();
    let expected = [("a", "new"), ("d", "new"), ("e", "new"), ("f", "old"), ("g", "new")];
    assert_eq!(staged, expected.map(|(key, value)| (text(key), text(value))));
    for limit in 1..=5 {
        let (items, next) = store.scan("", None, limit, 1000);
        assert_eq!(items.len(), limit as usize);
        assert_eq!(next, expected.get(limit as usize).map(|(key, _)| text(key)));
    }
    let before = store.all();
    store.commit();
    assert_eq!(store.all(), before, "ending the batch changes nothing that is seen");
}

#[test]
fn a_snapshot_is_of_one_moment_and_restores_to_the_same_state() {
    let mut store = Store::volatile();
    for number in 0..500 {
        store.apply(&put(&format!("key {number}"), &"v".repeat(number), Condition::Any));
    }
    store.commit();
    let at = (store.all(), store.index);
    let mut source = store.machine.snapshot().unwrap();
    let mut content = Vec::new();
    let mut number = 0;
    while let Some(chunk) = source.next_chunk(1000).unwrap() {
        content.extend_from_slice(&chunk);
        store.apply(&put(&format!("key {number}"), "later", Condition::Any));
        store.apply(&put(&format!("later {number}"), "later", Condition::Any));
        store.commit();
        number += 1;
    }
    let mut other = Store::volatile();
    other.apply(&put("of before", "x", Condition::Any));
    other.commit();
    other.restore(&content, at.1).unwrap();
    assert_eq!(other.all(), at.0);
    assert_eq!(other.machine.recovered().unwrap().applied, LogId::new(1, at.1));
    for chunk_bytes in [0, 1, 7, 1 << 20] {
        assert_eq!(other.snapshot(chunk_bytes), content, "chunks do not change the stream");
    }
}

/// Whatever is read at a time: values that begin in one such piece and end in another, and one that is longer than any.
#[test]
fn values_longer_than_what_is_read_at_a_time_are_restored_and_checked() {
    let mut store = Store::volatile();
    for number in 0..12 {
        let length = if number == 7 { 700_000 } else { 90_000 + number };
        let value: String = (0..length).map(|at| char::from(b'a' + ((at * 7 + number) % 23) as u8)).collect();
        store.apply(&put(&format!("key {number:02}"), &value, Condition::Any));
    }
    store.commit();
    let content = store.snapshot(1 << 20);
    let mut other = Store::volatile();
    other.restore(&content, 12).unwrap();
    assert_eq!(other.all(), store.all());
    for cut in [100_000, 262_144, 300_000, 900_000, content.len() - 1] {
        assert!(Store::volatile().restore(&content[..cut], 12).is_err(), "cut at {cut}");
    }
}

#[test]
fn the_stream_of_a_snapshot_keeps_its_bytes() {
    let mut store = Store::volatile();
    assert_eq!(store.snapshot(100), b"QKV\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00");
    store.apply(&put("k", "vw", Condition::Any));
    store.commit();
    let expected = b"QKV\x01\x01\x01k\x02vw\x01\0\0\0\0\0\0\0\x00\x01\0\0\0\0\0\0\0";
    assert_eq!(store.snapshot(100), expected);
}

#[test]
fn a_damaged_snapshot_is_refused_and_says_where() {
    let mut store = Store::volatile();
    for key in ["a", "b", "c"] {
        store.apply(&put(key, "value", Condition::Any));
    }
    store.commit();
    let content = store.snapshot(1000);
    for cut in 0..content.len() {
        assert!(Store::volatile().restore(&content[..cut], 3).is_err(), "cut at {cut}");
    }
    let mut longer = content.clone();
    longer.push(0);
    let error = Store::volatile().restore(&longer, 3).unwrap_err();
    assert!(error.contains(&format!("at byte {}", content.len())), "{error}");
    let error = Store::volatile().restore(&content, 2).unwrap_err();
    assert!(error.contains("a version not newer than the snapshot"), "{error}");
    let mut swapped = content.clone();
    swapped[6] = b'x';
    let error = Store::volatile().restore(&swapped, 3).unwrap_err();
    assert!(error.contains("a key behind the one before"), "{error}");
    for position in 0..content.len() {
        let mut flipped = content.clone();
        flipped[position] ^= 0x80;
        // Not every flip can be seen here (a value is any bytes; the file has checksums), none may panic.
        drop(Store::volatile().restore(&flipped, 3));
    }
}

#[test]
fn after_a_crash_the_log_is_applied_again_from_what_was_flushed() {
    let disk = MemEngineDisk::new();
    let mut store = Store::on(&disk);
    store.apply(&put("a", "1", Condition::Any));
    store.commit();
    assert!(store.machine.is_durable());
    assert_eq!(store.machine.flush().unwrap(), LogId::new(1, 1));
    store.apply(&put("a", "2", Condition::Version(1)));
    store.commit();
    disk.crash(0);
    let mut store = Store::on(&disk);
    assert_eq!(store.index, 1, "the unsynced batch is gone, and the machine knows");
    assert_eq!(store.get("a").unwrap().value, text("1"));
    assert_eq!(
        store.apply(&put("a", "2", Condition::Version(1))),
        done(2, Some(1)),
        "the same response again"
    );
}

#[test]
fn a_restore_that_failed_leaves_a_machine_that_asks_for_it_again() {
    let disk = MemEngineDisk::new();
    let mut store = Store::on(&disk);
    store.apply(&put("a", "1", Condition::Any));
    store.commit();
    let content = store.snapshot(1000);
    assert!(store.restore(&content[..content.len() - 1], 5).is_err());
    drop(store);
    let mut store = Store::on(&disk);
    assert_eq!(store.machine.recovered().unwrap().applied, LogId::default());
    store.restore(&content, 5).unwrap();
    assert_eq!(store.get("a").unwrap().version, 1);
}

#[derive(Clone, Debug)]
struct Step {
    command: KvCommand,
    ends_batch: bool,
}

/// Few keys, few values and versions near the present, so that conditions hold about as often as not.
fn some_steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || prop::sample::select(vec!["a", "b", "bb", "c"]).prop_map(text);
    let value = || prop::sample::select(vec!["", "x", "y"]).prop_map(text);
    let condition = prop_oneof![
        3 => Just(Condition::Any),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Present),
        2 => (0..40_u64).prop_map(Condition::Version),
        2 => value().prop_map(Condition::Value),
    ];
    let step = (key(), value(), condition, any::<bool>(), any::<bool>()).prop_map(
        |(key, value, condition, is_put, ends_batch)| {
            let command = if is_put {
                KvCommand::Put { key, value, condition }
            } else {
                KvCommand::Delete { key, condition }
            };
            Step { command, ends_batch }
        },
    );
    prop::collection::vec(step, 0..60)
}

type Model = BTreeMap<Bytes, (Bytes, u64)>;

fn apply_to_model(model: &mut Model, command: &KvCommand, index: u64) -> KvResponse {
    let current = model.get(command.key()).cloned();
    let version = current.as_ref().map(|(_, version)| *version);
    let holds = match command.condition() {
        Condition::Any => true,
        Condition::Absent => current.is_none(),
        Condition::Present => current.is_some(),
        Condition::Version(wanted) => version == Some(*wanted),
        Condition::Value(wanted) => current.map(|(value, _)| value).as_ref() == Some(wanted),
    };
    if !holds {
        return failed(version);
    }
    match command {
        KvCommand::Put { key, value, .. } => drop(model.insert(key.clone(), (value.clone(), index))),
        KvCommand::Delete { key, .. } => drop(model.remove(key)),
    }
    done(index, version)
}

fn model_items(model: &Model) -> Vec<Item> {
    let item = |(key, (value, version)): (&Bytes, &(Bytes, u64))| Item {
        key: key.clone(),
        value: value.clone(),
        version: *version,
    };
    model.iter().map(item).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn the_store_does_what_a_map_does(steps in some_steps()) {
        let mut store = Store::volatile();
        let mut model = Model::new();
        for (index, step) in (1..).zip(&steps) {
            let expected = apply_to_model(&mut model, &step.command, index);
            prop_assert_eq!(store.apply(&step.command), expected);
            if step.ends_batch {
                store.commit();
            }
            prop_assert_eq!(store.all(), model_items(&model));
        }
    }

    #[test]
    fn the_batches_do_not_matter(steps in some_steps()) {
        let (mut one_by_one, mut as_cut, mut at_once) = (Store::volatile(), Store::volatile(), Store::volatile());
        for step in &steps {
            let data = step.command.encode();
            let response = one_by_one.apply_bytes(&data);
            prop_assert_eq!(&response, &as_cut.apply_bytes(&data));
            prop_assert_eq!(&response, &at_once.apply_bytes(&data));
            one_by_one.commit();
            if step.ends_batch {
                as_cut.commit();
            }
        }
        as_cut.commit();
        at_once.commit();
        let content = one_by_one.snapshot(64);
        prop_assert_eq!(&content, &as_cut.snapshot(1000));
        prop_assert_eq!(&content, &at_once.snapshot(1));
    }

    #[test]
    fn a_crash_at_any_batch_and_the_log_again_give_the_same_state(
        steps in some_steps(), flush_every in 1..10_usize, kept in 0..5_usize, crash_at in 0..60_usize,
    ) {
        let disk = MemEngineDisk::new();
        let mut store = Store::on(&disk);
        let mut expected = Store::volatile();
        let mut durable = 0;
        for (position, step) in steps.iter().enumerate() {
            expected.apply(&step.command);
            expected.commit();
            store.apply(&step.command);
            store.commit();
            if position % flush_every == 0 {
                durable = store.machine.flush().unwrap().index.0;
            }
            if position == crash_at {
                disk.crash(kept);
                store = Store::on(&disk);
                prop_assert!(store.index >= durable, "what was durable is there");
                for step in &steps[usize::try_from(store.index).unwrap()..=position] {
                    store.apply(&step.command);
                    store.commit();
                }
            }
        }
        prop_assert_eq!(store.all(), expected.all());
    }
}
