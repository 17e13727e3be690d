//! The linearizability checker against histories whose verdict is known, against a slow and simple
//! checker, and against the clock.
//!
//! A history is written one operation a line: client, interval (an end of `?`: no outcome), operation, outcome.
//! `-` is an absent value. Every line is about key `k` unless the key is written as `key:operation`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use quorate_sim::linearizability::{History, Operation, Outcome, Violation};

fn value(word: &str) -> Option<Bytes> {
    (word != "-").then(|| Bytes::copy_from_slice(word.as_bytes()))
}

fn parse(text: &str) -> History {
    let mut history = History::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let client = words[0].trim_start_matches('c').parse().unwrap();
        let (call, end) = words[1].split_once("..").unwrap();
        let (key, name) = words[2].split_once(':').unwrap_or(("k", words[2]));
        let key = Bytes::copy_from_slice(key.as_bytes());
        let arguments = &words[3..];
        let operation = match name {
            "get" => Operation::Get { key },
            "put" => Operation::Put { key, value: value(arguments[0]).unwrap() },
            "delete" => Operation::Delete { key },
            "swap" => Operation::Swap { key, expected: value(arguments[0]), value: value(arguments[1]) },
            _ => panic!("unknown operation in {line}"),
        };
        let id = history.invoke(client, operation, call.parse().unwrap());
        if end == "?" {
            continue;
        }
        let outcome = match *arguments.last().unwrap_or(&"done") {
            "refused" => Outcome::Refused,
            "failed" => Outcome::NotApplied,
            word if name == "get" => Outcome::Found(value(word)),
            _ => Outcome::Done,
        };
        history.complete(id, outcome, end.parse().unwrap());
    }
    history
}

#[track_caller]
fn good(text: &str) {
    if let Err(violation) = parse(text).check() {
        panic!("should be linearizable: {violation}");
    }
}

#[track_caller]
fn bad(text: &str) -> String {
    let Err(violation) = parse(text).check() else { panic!("should not be linearizable") };
    assert!(matches!(violation, Violation::NotLinearizable(_)), "{violation}");
    violation.to_string()
}

#[test]
fn nothing_happened() {
    good("");
    assert!(History::new().is_empty());
}

#[test]
fn one_client_reads_what_it_wrote() {
    good("c1 0..1 get -  \n c1 2..3 put 1  \n c1 4..5 get 1  \n c1 6..7 delete  \n c1 8..9 get -");
}

#[test]
fn a_stale_read_is_found() {
    let text = bad("c1 0..1 put 1  \n c1 2..3 put 2  \n c2 4..5 get 1");
    assert!(text.contains("client 2 [4, 5] get: found \"1\""), "{text}");
}

#[test]
fn a_read_during_a_write_may_see_either() {
    good("c1 0..1 put 1  \n c1 2..9 put 2  \n c2 3..4 get 1  \n c2 5..6 get 2");
    good("c1 0..1 put 1  \n c1 2..9 put 2  \n c2 3..4 get 2  \n c3 3..4 get 1");
}

#[test]
fn two_reads_during_a_write_must_not_go_back() {
    bad("c1 0..1 put 1  \n c1 2..9 put 2  \n c2 3..4 get 2  \n c3 5..6 get 1");
}

#[test]
fn a_lost_write_is_found() {
    bad("c1 0..1 put 1  \n c2 2..3 get -");
}

#[test]
fn a_lost_update_by_two_swaps_is_found() {
    bad("c1 0..1 put 1  \n c1 2..5 swap 1 2  \n c2 3..6 swap 1 3");
    good("c1 0..1 put 1  \n c1 2..5 swap 1 2  \n c2 3..6 swap 1 3 refused");
}

#[test]
fn two_creations_of_one_key_are_found() {
    bad("c1 0..5 swap - 1  \n c2 0..5 swap - 2");
    good("c1 0..5 swap - 1  \n c2 0..5 swap - 2 \n c3 0..5 delete");
}

#[test]
fn a_write_applied_twice_is_found() {
    bad("c1 0..1 put 1  \n c2 2..3 put 2  \n c3 4..5 get 1");
    // It was retried after an unknown outcome: each of the two attempts may count once, not more.
    good("c1 0..? put 1  \n c2 2..3 put 2  \n c3 4..5 get 1 \n c3 6..7 get 1");
    bad("c1 0..? put 1  \n c2 2..3 put 2  \n c3 4..5 get 1 \n c2 6..7 put 3 \n c3 8..9 get 1");
}

#[test]
fn an_unknown_write_may_be_seen_at_once_later_or_never() {
    good("c1 0..? put 1  \n c2 1..2 get 1");
    good("c1 0..? put 1  \n c2 1..2 get -  \n c2 3..4 get -  \n c2 90..91 get 1");
    good("c1 0..? put 1  \n c2 1..2 get -  \n c2 90..91 get -");
}

#[test]
fn an_unknown_write_that_was_seen_does_not_go_away() {
    bad("c1 0..? put 1  \n c2 1..2 get 1  \n c2 3..4 get -");
}

#[test]
fn an_unknown_write_is_not_seen_before_it_began() {
    bad("c2 0..1 get 1  \n c1 2..? put 1");
}

#[test]
fn an_unknown_delete_explains_an_absent_key_once() {
    good("c1 0..1 put 1  \n c2 2..? delete  \n c1 3..4 get 1  \n c1 5..6 get -");
    bad("c1 0..1 put 1  \n c2 2..? delete  \n c1 3..4 get -  \n c1 5..6 put 2  \n c1 7..8 get -");
}

#[test]
fn a_write_that_certainly_failed_is_never_seen() {
    good("c1 0..1 put 1 failed  \n c2 2..3 get -");
    bad("c1 0..9 put 1 failed  \n c2 2..3 get 1");
}

#[test]
fn an_unknown_swap_applies_only_to_what_it_expects() {
    good("c1 0..1 put 1  \n c2 2..? swap 1 2  \n c1 3..4 get 2");
    bad("c1 0..1 put 3  \n c2 2..? swap 1 2  \n c1 3..4 get 2");
}

#[test]
fn unknown_swaps_form_a_chain() {
    good("c1 0..? swap - 1 \n c2 0..? swap 1 2 \n c3 0..? swap 2 3 \n c4 5..6 get 3");
    good("c1 0..? swap - 1 \n c2 0..? swap 1 2 \n c3 0..? swap 2 3 \n c4 5..6 get 1 \n c4 7..8 swap 3 4");
    bad("c1 0..? swap - 1 \n c3 0..? swap 2 3 \n c4 5..6 get 3");
    bad("c1 0..? swap - 1 \n c2 0..? swap 1 2 \n c4 5..6 get 2 \n c4 7..8 get 1");
}

#[test]
fn a_refused_swap_says_what_the_value_is_not() {
    bad("c1 0..1 put 1  \n c1 2..3 swap 1 2 refused");
    good("c1 0..1 put 1  \n c1 2..3 swap 2 3 refused \n c1 4..5 swap - 3 refused");
    // Of the two writes that nobody saw, the one that is refused came first, whichever ended first.
    good("c1 0..8 put 2 \n c2 0..9 put 1 \n c3 10..11 swap 1 3 refused");
    good("c1 0..9 put 2 \n c2 0..8 put 1 \n c3 10..11 swap 1 3 refused");
    bad("c1 0..9 put 2 \n c2 0..8 put 1 \n c3 10..11 swap 1 3 refused \n c3 12..13 swap 2 3 refused");
    // Only the unknown write, which nobody ever saw, explains the refusal.
    good("c1 0..1 put 1  \n c2 0..? put 9 \n c1 2..3 swap 1 2 refused");
    bad("c1 0..1 put 1  \n c2 0..? put 9 \n c1 2..3 swap 1 2 refused \n c1 4..5 get 1");
}

#[test]
fn a_value_that_nobody_wrote_is_found() {
    let text = bad("c1 0..1 put 1  \n c2 0..4 put 2 \n c2 5..6 get 7");
    assert!(text.contains("client 2 [5, 6] get: found \"7\""), "{text}");
    assert!(text.contains("client 1 [0, 1] put \"1\": done"), "what was before is shown: {text}");
}

#[test]
fn operations_that_touch_are_concurrent() {
    good("c1 0..5 put 1  \n c2 5..6 get -");
    bad("c1 0..5 put 1  \n c2 6..7 get -");
}

#[test]
fn concurrent_writes_are_seen_in_one_order_by_all() {
    bad("c1 0..9 put 1 \n c2 0..9 put 2 \n c3 10..11 get 1 \n c4 12..13 get 2");
    bad("c1 0..9 put 1 \n c2 0..9 put 2 \n c3 1..2 get 1 \n c3 3..4 get 2 \n c3 5..6 get 1");
    good("c1 0..9 put 1 \n c2 0..9 put 2 \n c3 1..2 get 1 \n c3 3..4 get 2 \n c3 10..11 get 2");
}

#[test]
fn keys_are_checked_each_for_itself() {
    good("c1 0..1 a:put 1 \n c1 2..3 b:put 2 \n c2 4..5 a:get 1 \n c2 4..5 b:get 2");
    let text = bad("c1 0..1 a:put 1 \n c1 2..3 b:put 2 \n c2 4..5 a:get 1 \n c2 4..5 b:get -");
    assert!(text.starts_with("key \"b\""), "{text}");
}

#[test]
fn the_explanation_ends_where_it_became_impossible() {
    let text = bad(
        "c1 0..1 put 1 \n c1 2..3 put 2 \n c2 4..6 get 1 \n c3 5..9 put 3 \n c2 10..11 get 3 \n c2 12..13 get 3",
    );
    let expected = "key \"k\": nothing explains
    client 2 [4, 6] get: found \"1\"
an order that explains what ended before ends with
    client 1 [0, 1] put \"1\": done
    client 1 [2, 3] put \"2\": done
the value before it is \"2\"
other writes of what it saw, or at the same time
    client 3 [5, 9] put \"3\": done";
    assert_eq!(text, expected);
}

/// A generator of pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// One operation on one key, simple enough to try all orders.
#[derive(Clone, Debug)]
struct Simple {
    call: u64,
    end: Option<u64>,
    operation: Operation,
    outcome: Outcome,
}

/// The value after the operation if it can have had this outcome.
fn step(simple: &Simple, current: &Option<Bytes>) -> Option<Option<Bytes>> {
    match (&simple.operation, &simple.outcome) {
        (Operation::Get { .. }, Outcome::Found(found)) => (found == current).then(|| current.clone()),
        (Operation::Put { value, .. }, _) => Some(Some(value.clone())),
        (Operation::Delete { .. }, _) => Some(None),
        (Operation::Swap { expected, .. }, Outcome::Refused) => {
            (expected != current).then(|| current.clone())
        }
        (Operation::Swap { expected, value, .. }, _) => (expected == current).then(|| value.clone()),
        (Operation::Get { .. }, _) => None,
    }
}

/// Tries every order: an operation may come next if no other that is left ended before it began.
fn has_an_order(left: &[Simple], current: &Option<Bytes>) -> bool {
    if left.iter().all(|simple| simple.end.is_none()) {
        return true;
    }
    let horizon = left.iter().filter_map(|simple| simple.end).min().unwrap_or(u64::MAX);
    (0..left.len()).any(|position| {
        if left[position].call > horizon {
            return false;
        }
        let mut rest = left.to_vec();
        let next = step(&rest.remove(position), current);
        next.is_some_and(|next| has_an_order(&rest, &next))
    })
}

/// Operations on a real register at a moment inside each interval, so that the history is linearizable;
/// then, perhaps, one outcome is changed.
fn random_history(random: &mut Random, operations: u64, values: u64) -> Vec<Simple> {
    let key = Bytes::from_static(b"k");
    let mut moments: Vec<(u64, Simple)> = Vec::new();
    for _ in 0..operations {
        let moment = random.below(20) + 5;
        let (call, end) = (moment - random.below(5), moment + random.below(5));
        let mut some_value = || match random.below(values + 1) {
            0 => None,
            number => Some(Bytes::from(number.to_string())),
        };
        let (first, second) = (some_value(), some_value());
        let operation = match random.below(8) {
            0..3 => Operation::Get { key: key.clone() },
            3..5 => {
                Operation::Put { key: key.clone(), value: first.unwrap_or_else(|| Bytes::from_static(b"1")) }
            }
            5 => Operation::Delete { key: key.clone() },
            _ => Operation::Swap { key: key.clone(), expected: first, value: second },
        };
        moments.push((moment, Simple { call, end: Some(end), operation, outcome: Outcome::Done }));
    }
    moments.sort_by_key(|(moment, _)| *moment);
    let mut current = None;
    for (_, simple) in &mut moments {
        let is_unknown = random.below(4) == 0;
        let is_get = matches!(simple.operation, Operation::Get { .. });
        if is_get {
            simple.outcome = Outcome::Found(current.clone());
        } else if is_unknown {
            (simple.outcome, simple.end) = (Outcome::Unknown, None);
        }
        match step(simple, &current) {
            Some(_) if is_unknown && random.below(2) == 0 => {}
            Some(next) => current = next,
            None if is_unknown => {}
            None => simple.outcome = Outcome::Refused,
        }
    }
    if random.below(3) > 0 {
        let position = usize::try_from(random.below(operations)).unwrap();
        let simple = &mut moments[position].1;
        simple.outcome = match (&simple.operation, &simple.outcome) {
            (Operation::Get { .. }, _) => {
                Outcome::Found(Some(Bytes::from((random.below(values) + 1).to_string())))
            }
            (Operation::Swap { .. }, Outcome::Refused) => Outcome::Done,
            (Operation::Swap { .. }, Outcome::Done) => Outcome::Refused,
            (_, outcome) => outcome.clone(),
        };
    }
    moments.into_iter().map(|(_, simple)| simple).collect()
}

fn recorded(simples: &[Simple]) -> History {
    let mut history = History::new();
    for (client, simple) in (1..).zip(simples) {
        let id = history.invoke(client, simple.operation.clone(), simple.call);
        if let Some(end) = simple.end {
            history.complete(id, simple.outcome.clone(), end);
        }
    }
    history
}

#[test]
fn the_checker_agrees_with_trying_every_order() {
    let (mut linearizable, mut not) = (0, 0);
    for seed in 0..4_000 {
        let mut random = Random(seed);
        let (operations, values) = (2 + random.below(6), 1 + random.below(4));
        let simples = random_history(&mut random, operations, values);
        let expected = has_an_order(&simples, &None);
        let verdict = recorded(&simples).check();
        assert_eq!(verdict.is_ok(), expected, "seed {seed}: {simples:#?}\n{verdict:?}");
        if expected { linearizable += 1 } else { not += 1 }
    }
    assert!(linearizable > 500 && not > 500, "both verdicts are tried: {linearizable} and {not}");
}

/// What a last read of key 0 finds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LastRead {
    Present,
    Nonsense,
    /// The first value that was certainly put there.
    Oldest,
}

/// 16 clients, each with one operation at a time on one of `keys` keys, with unknown outcomes, and a last read.
fn long_history(operations: u64, keys: u64, seed: u64, last_read: LastRead) -> History {
    struct Client {
        free_at: u64,
    }
    let mut random = Random(seed);
    let mut clients: Vec<Client> = (0..16).map(|client| Client { free_at: client }).collect();
    let mut planned: Vec<(u64, u64, u64, u64, Operation, bool)> = Vec::new();
    for number in 0..operations {
        let (name, client) = (0..).zip(&mut clients).min_by_key(|(_, client)| client.free_at).unwrap();
        let call = client.free_at;
        let moment = call + 1 + random.below(50);
        let end = moment + 1 + random.below(50);
        client.free_at = end + 1 + random.below(3);
        let key = Bytes::from(random.below(keys).to_string());
        let unique = || Bytes::from(format!("v{number}"));
        let operation = match random.below(10) {
            0..4 => Operation::Get { key },
            4..8 => Operation::Put { key, value: unique() },
            8 => Operation::Delete { key },
            _ => Operation::Swap { key, expected: None, value: Some(unique()) },
        };
        planned.push((moment, call, end, name, operation, random.below(20) == 0));
    }
    planned.sort_by_key(|(moment, ..)| *moment);
    let mut register: std::collections::BTreeMap<Bytes, Bytes> = std::collections::BTreeMap::new();
    let mut history = History::new();
    let (mut last, mut oldest) = (0, None);
    for (_, call, end, client, operation, is_unknown) in planned {
        last = last.max(end);
        let is_applied = !is_unknown || random.below(2) == 0;
        if let Operation::Put { key, value } = &operation
            && key == "0"
            && !is_unknown
        {
            oldest.get_or_insert_with(|| value.clone());
        }
        let outcome = match &operation {
            Operation::Get { key } => Outcome::Found(register.get(key).cloned()),
            Operation::Swap { key, expected, .. } if register.get(key) != expected.as_ref() => {
                Outcome::Refused
            }
            Operation::Put { key, value } | Operation::Swap { key, value: Some(value), .. } => {
                if is_applied {
                    register.insert(key.clone(), value.clone());
                }
                Outcome::Done
            }
            Operation::Delete { key } | Operation::Swap { key, value: None, .. } => {
                if is_applied {
                    register.remove(key);
                }
                Outcome::Done
            }
        };
        let id = history.invoke(client, operation, call);
        if !is_unknown {
            history.complete(id, outcome, end);
        }
    }
    let key = Bytes::from_static(b"0");
    let found = match last_read {
        LastRead::Present => register.get(&key).cloned(),
        LastRead::Nonsense => Some(Bytes::from_static(b"never written")),
        LastRead::Oldest => oldest,
    };
    let id = history.invoke(99, Operation::Get { key }, last + 1);
    history.complete(id, Outcome::Found(found), last + 2);
    history
}

#[test]
fn five_thousand_operations_of_sixteen_clients_are_checked_quickly() {
    for (keys, seed) in [(1, 1), (1, 2), (3, 3), (10, 4), (100, 5)] {
        let history = long_history(5_000, keys, seed, LastRead::Present);
        assert_eq!(history.len(), 5_001);
        if let Err(violation) = history.check() {
            panic!("{keys} keys, seed {seed}: {violation}");
        }
    }
}

#[test]
fn one_wrong_read_after_five_thousand_operations_is_found() {
    for (operations, keys, last_read) in
        [(2_000, 1, LastRead::Nonsense), (2_000, 1, LastRead::Oldest), (5_000, 10, LastRead::Oldest)]
    {
        let Err(violation) = long_history(operations, keys, 7, last_read).check() else {
            panic!("{keys} keys: not found");
        };
        let text = violation.to_string();
        assert!(text.contains("client 99"), "{text}");
        assert!(text.lines().count() < 40, "an explanation is short: {text}");
    }
}
