//! A summary with known figures, for the arithmetic here and for the page.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::*;
use crate::nodes::Sample;
use crate::record::{Ended, Outcome, Tallies};

/// 900 writes of 100 bytes at 1 ms, 90 at 10 ms, 10 at 100 ms, in 2 s, and 5 failures.
pub(crate) fn summary() -> Summary {
    let mut tallies = Tallies::default();
    let mut record = |count: u64, millis: u64, outcome: Outcome| {
        let latency = Duration::from_millis(millis);
        let ended = Ended { kind: Kind::Write, latency, payload_bytes: 100, outcome };
        (0..count).for_each(|_| tallies.record(&ended, Instant::now()));
    };
    record(900, 1, Outcome::Done { found: true });
    record(90, 10, Outcome::Done { found: true });
    record(10, 100, Outcome::Done { found: true });
    record(5, 1, Outcome::Failed { kind: "busy", message: "too <much>".to_owned() });
    let second = |n: u64| Duration::from_secs(n);
    let windows =
        vec![Window::of(&tallies, second(0), second(1)), Window::of(&tallies, second(1), second(2))];
    let before = Sample { leads: true, term: 2, cpu_seconds: Some(1.0), ..Sample::default() };
    let after = Sample {
        cpu_seconds: Some(1.5),
        resident_bytes: Some(10 << 20),
        log_syncs: 250,
        log_written_bytes: 130_000,
        answered: BTreeMap::from([("put".to_owned(), 1000)]),
        ..before.clone()
    };
    let silent = Node { id: 2, address: "b:1".to_owned(), before: None, after: None };
    let leader = Node { id: 1, address: "a:1".to_owned(), before: Some(before), after: Some(after) };
    let phase = Phase { tallies, windows, elapsed: second(2) };
    let cluster = ClusterOptions {
        endpoints: vec!["a:1".to_owned()],
        transport: Transport::Stream,
        timeout: second(1),
    };
    Summary::new(&Plan::default(), &cluster, phase, vec![leader, silent], false)
}

#[test]
fn figures_of_the_json_add_up() {
    let json = summary().json();
    assert_eq!((&json["operations"], &json["failed"]), (&1000.into(), &5.into()));
    assert_eq!(json["operations_per_second"], 500.0);
    let close = |value: &Value, to: f64| {
        let value = value.as_f64().unwrap();
        assert!((value - to).abs() <= to * 0.001, "{value} is not {to}");
    };
    let latency = &json["latency_microseconds"];
    close(&latency["p50"], 1_000.0);
    close(&latency["p90"], 1_000.0);
    close(&latency["p99"], 10_000.0);
    close(&latency["p99_9"], 100_000.0);
    close(&latency["mean"], 2_800.0);
    let leader = &json["nodes"][0];
    close(&leader["cpu_microseconds_per_operation"], 500.0);
    close(&leader["log_syncs_per_write"], 0.25);
    close(&leader["log_bytes_per_payload_byte"], 1.3);
    assert_eq!(leader["answered"]["put"], 1000);
    assert_eq!(leader["disk_written_bytes"], Value::Null);
    // A node that did not answer: nothing is said of it, nor of all together.
    assert_eq!(json["nodes"][1]["log_syncs"], Value::Null);
    assert_eq!(json["log_syncs_per_write"], Value::Null);
    assert_eq!(json["failures"][0]["kind"], "busy");
    assert_eq!(json["timeline"].as_array().unwrap().len(), 2);
}

#[test]
fn percentiles_that_few_operations_cannot_tell_are_left_out() {
    let summary = summary();
    let distribution = summary.distribution(&summary.all);
    let percentiles: Vec<f64> = distribution.iter().map(|(percentile, _)| *percentile).collect();
    assert!(percentiles.ends_with(&[99.75, 99.9, 100.0]), "{percentiles:?}");
    assert!(distribution.is_sorted_by_key(|(_, nanos)| *nanos));
    assert_eq!(summary.distribution(&Tally::new()), Vec::new());
}

#[test]
fn times_have_three_digits_and_a_unit() {
    let texts = [1_000, 12_345, 999_499, 999_600, 1_234_567, 87_650_000, 2_000_000_000].map(time_text);
    assert_eq!(texts, ["1.00 µs", "12.3 µs", "999 µs", "1.00 ms", "1.23 ms", "87.7 ms", "2.00 s"]);
}
