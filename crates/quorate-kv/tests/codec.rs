//! The encoding of commands, queries and answers: what is on disks and wires already must stay readable.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use proptest::prelude::*;
use quorate_kv::{Condition, Item, KvAnswer, KvCommand, KvQuery, KvResponse};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

trait Decode: Sized {
    fn decoded(bytes: &Bytes) -> Result<Self, quorate_kv::DecodeError>;
    fn encoded(&self) -> Bytes;
}

macro_rules! decode {
    ($($name:ident),*) => {$(
        impl Decode for $name {
            fn decoded(bytes: &Bytes) -> Result<Self, quorate_kv::DecodeError> {
                Self::decode(bytes)
            }
            fn encoded(&self) -> Bytes {
                self.encode()
            }
        }
    )*};
}
decode!(KvCommand, KvResponse, KvQuery, KvAnswer);

/// Encodes, compares with the bytes written down here, and decodes them again.
fn golden<T: Decode + PartialEq + std::fmt::Debug>(value: &T, expected: &str) {
    let encoded = value.encoded();
    assert_eq!(hex(&encoded), expected.replace(' ', ""), "{value:?}");
    assert_eq!(T::decoded(&encoded).as_ref(), Ok(value));
}

#[test]
fn commands_keep_their_bytes() {
    let (key, value) = (bytes("k"), bytes("vw"));
    golden(
        &KvCommand::Put { key: key.clone(), value: value.clone(), condition: Condition::Any },
        "01 01 01 6b 02 7677 00",
    );
    golden(
        &KvCommand::Put { key: key.clone(), value: Bytes::new(), condition: Condition::Absent },
        "01 01 01 6b 00 01",
    );
    golden(
        &KvCommand::Delete { key: key.clone(), condition: Condition::Version(258) },
        "01 02 01 6b 02 0201000000000000",
    );
    golden(&KvCommand::Delete { key: key.clone(), condition: Condition::Present }, "01 02 01 6b 04");
    golden(&KvCommand::Delete { key, condition: Condition::Value(value) }, "01 02 01 6b 03 02 7677");
}

#[test]
fn responses_keep_their_bytes() {
    golden(&KvResponse::Done { version: 7, previous: None }, "01 11 0700000000000000 00");
    golden(&KvResponse::Done { version: 7, previous: Some(5) }, "01 11 0700000000000000 01 0500000000000000");
    golden(&KvResponse::ConditionFailed { current: None }, "01 12 00");
    golden(&KvResponse::ConditionFailed { current: Some(9) }, "01 12 01 0900000000000000");
    golden(&KvResponse::Malformed, "01 1f");
}

#[test]
fn queries_keep_their_bytes() {
    golden(&KvQuery::Get { key: bytes("k") }, "01 21 01 6b");
    golden(
        &KvQuery::Scan { start: bytes("a"), end: Some(bytes("b")), limit: 10, bytes_max: 1024 },
        "01 22 01 61 01 01 62 0a00000000000000 0004000000000000",
    );
    golden(
        &KvQuery::Scan { start: Bytes::new(), end: None, limit: u32::MAX, bytes_max: u64::MAX },
        "01 22 00 00 ffffffff00000000 ffffffffffffffff",
    );
}

#[test]
fn answers_keep_their_bytes() {
    let item = Item { key: bytes("k"), value: bytes("v"), version: 3 };
    golden(&KvAnswer::Value(None), "01 31 00");
    golden(&KvAnswer::Value(Some(item.clone())), "01 31 01 01 6b 01 76 0300000000000000");
    golden(
        &KvAnswer::Page { items: vec![item], next: Some(bytes("l")) },
        "01 32 0100000000000000 01 6b 01 76 0300000000000000 01 01 6c",
    );
    golden(&KvAnswer::Malformed, "01 3f");
}

#[test]
fn a_long_value_has_a_length_of_several_bytes() {
    let value = Bytes::from(vec![1; 300]);
    let command = KvCommand::Put { key: bytes("k"), value, condition: Condition::Any };
    assert!(hex(&command.encode()).starts_with("0101016bac02"));
}

#[test]
fn keys_and_values_share_the_input() {
    let input =
        KvCommand::Put { key: bytes("key"), value: bytes("value"), condition: Condition::Any }.encode();
    let KvCommand::Put { value, .. } = KvCommand::decode(&input).unwrap() else { panic!("not a put") };
    let inside = input.as_ptr_range();
    assert!(inside.contains(&value.as_ptr()), "the value is a slice of the input");
}

#[test]
fn odd_bytes_are_refused_where_they_are_odd() {
    let offset = |bytes: &'static [u8]| KvCommand::decode(&Bytes::from_static(bytes)).unwrap_err().offset;
    assert_eq!(offset(b""), 0, "nothing");
    assert_eq!(offset(b"\x02\x01"), 0, "another version");
    assert_eq!(offset(b"\x01\x11"), 1, "a response is not a command");
    assert_eq!(offset(b"\x01\x02\x05k"), 3, "a key that is cut short");
    assert_eq!(offset(b"\x01\x02\x01k\x05"), 4, "an unknown condition");
    assert_eq!(offset(b"\x01\x02\x01k\x00\x00"), 5, "something behind the end");
    assert_eq!(offset(b"\x01\x02\x81\x00k\x00"), 2, "a length that is longer than it needs to be");
    assert_eq!(offset(b"\x01\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), 2, "a length beyond everything");
}

#[test]
fn a_count_that_lies_costs_no_memory() {
    let input = Bytes::from_static(b"\x01\x32\xff\xff\xff\xff\xff\xff\xff\x7f\x00");
    assert!(KvAnswer::decode(&input).is_err());
}

fn some_bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn some_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::Any),
        Just(Condition::Absent),
        Just(Condition::Present),
        any::<u64>().prop_map(Condition::Version),
        some_bytes().prop_map(Condition::Value),
    ]
}

fn some_item() -> impl Strategy<Value = Item> {
    (some_bytes(), some_bytes(), any::<u64>()).prop_map(|(key, value, version)| Item { key, value, version })
}

fn check<T: Decode + PartialEq + std::fmt::Debug>(value: &T) -> Result<(), TestCaseError> {
    let encoded = value.encoded();
    prop_assert_eq!(&T::decoded(&encoded).unwrap(), value);
    for cut in 0..encoded.len() {
        prop_assert!(T::decoded(&encoded.slice(..cut)).is_err(), "cut at {}", cut);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn everything_comes_back_and_nothing_that_is_cut_short(
        key in some_bytes(), value in some_bytes(), condition in some_condition(),
        numbers in any::<(u64, Option<u64>, u32)>(), items in prop::collection::vec(some_item(), 0..4),
        end in prop::option::of(some_bytes()),
    ) {
        let (version, previous, limit) = numbers;
        check(&KvCommand::Put { key: key.clone(), value, condition: condition.clone() })?;
        check(&KvCommand::Delete { key: key.clone(), condition })?;
        check(&KvResponse::Done { version, previous })?;
        check(&KvResponse::ConditionFailed { current: previous })?;
        check(&KvQuery::Get { key: key.clone() })?;
        check(&KvQuery::Scan { start: key, end: end.clone(), limit, bytes_max: version })?;
        check(&KvAnswer::Value(items.first().cloned()))?;
        check(&KvAnswer::Page { items, next: end })?;
    }

    #[test]
    fn garbage_is_refused_or_has_exactly_these_bytes(
        mut input in prop::collection::vec(any::<u8>(), 2..60), tag in any::<prop::sample::Index>(),
    ) {
        input[0] = 1;
        input[1] = *tag.get(&[1, 2, 0x11, 0x12, 0x1f, 0x21, 0x22, 0x31, 0x32, 0x3f]);
        let input = Bytes::from(input);
        let again = [
            KvCommand::decode(&input).map(|value| value.encode()),
            KvResponse::decode(&input).map(|value| value.encode()),
            KvQuery::decode(&input).map(|value| value.encode()),
            KvAnswer::decode(&input).map(|value| value.encode()),
        ];
        for encoded in again.into_iter().flatten() {
            prop_assert_eq!(&encoded, &input, "one value has one encoding");
        }
    }
}
