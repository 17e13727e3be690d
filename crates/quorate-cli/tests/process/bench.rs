//! `quorate bench`: figures that add up, on a cluster of its own and on one that runs.

use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, finish, lines_of, program, quorate, signal, wait};

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// What the nodes counted themselves.
fn answered(json: &Value, operation: &str) -> u64 {
    let nodes = json["nodes"].as_array().unwrap().iter();
    nodes.filter_map(|node| node["answered"][operation].as_u64()).sum()
}

#[test]
fn cluster_of_its_own_is_measured_and_goes_away() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, report) = (scratch.path().join("data"), scratch.path().join("run.html"));
    let mut command = program();
    command.args(["bench", "--seconds", "1", "--warmup", "0.3", "--json", "--in-flight", "16"]);
    command.arg("--dir").arg(&dir).arg("--report").arg(&report);
    let finished = finish(command, b"").expect_ok();
    assert!(finished.stderr.contains("started 3 nodes in "), "{finished:?}");
    assert!(!finished.stderr.contains('\r'), "no line for people where there is no terminal");
    let json = finished.json();

    let done = json["operations"].as_u64().unwrap();
    assert!(done >= 1 && json["failed"] == 0, "{json}");
    let rate = done as f64 / number(&json["seconds"]);
    assert!((rate - number(&json["operations_per_second"])).abs() < 0.01 * rate, "{json}");
    assert_eq!(json["by_operation"][0]["operations"], done);
    let timeline = json["timeline"].as_array().unwrap().iter();
    assert_eq!(timeline.map(|window| window["operations"].as_u64().unwrap()).sum::<u64>(), done);
    // A key of `bench/` and 12 digits, and a value of 128 bytes.
    assert_eq!(json["payload_bytes"], done * (18 + 128));
    let latency = &json["latency_microseconds"];
    let rising = ["min", "p50", "p90", "p99", "p99_9", "max"].map(|name| number(&latency[name]));
    assert!(rising.is_sorted() && rising[0] > 0.0, "{latency}");

    assert_eq!(json["nodes"].as_array().unwrap().len(), 3);
    for node in json["nodes"].as_array().unwrap() {
        assert!(number(&node["log_syncs_per_write"]) > 0.0, "{node}");
        assert!(number(&node["log_bytes_per_payload_byte"]) > 1.0, "what is written is in the log: {node}");
        assert!(number(&node["cpu_microseconds_per_operation"]) > 0.0, "{node}");
    }
    assert!(number(&json["log_syncs_per_write"]) > 0.0);
    // Two counts of the same thing, by the one who asked and by those who answered.
    assert_eq!(answered(&json, "put"), done, "{json}");

    let page = std::fs::read_to_string(&report).unwrap();
    assert!(page.contains("</html>") && page.contains(&format!("<td>{done}</td>")), "{page}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "the nodes' data went away");
}

#[test]
fn running_cluster_is_measured_over_stream_and_unary_calls() {
    let cluster = Cluster::of_three(&[]);
    let common = ["bench", "--seconds", "0.5", "--warmup", "0", "--keys", "50", "--json"];
    let mixed = ["--mix", "read=2,write=1,stale=1,lease=1", "--in-flight", "8", "--connections", "2"];
    for more in [&[][..], &["--unary"][..]] {
        let finished = cluster.quorate(&[&common[..], &mixed[..], more].concat()).expect_ok();
        assert_eq!(finished.stderr, "");
        let json = finished.json();
        assert_eq!((&json["failed"], &json["not_found"]), (&0.into(), &0.into()), "{json}");
        let kinds: Vec<&str> = json["by_operation"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|it| it["operation"].as_str())
            .collect();
        assert_eq!(kinds, ["write", "linearizable", "lease", "stale"]);
        let of = |kind: usize| json["by_operation"][kind]["operations"].as_u64().unwrap();
        assert_eq!(answered(&json, "put"), of(0), "{json}");
        assert_eq!(answered(&json, "get"), of(1) + of(2) + of(3), "{json}");
    }
    // The table for people, in open loop: every operation begins that was to begin.
    let open = ["--rate", "50", "--seconds", "1", "--distribution", "zipf", "--value-bytes", "10..20"];
    let text = cluster.quorate(&[&["bench", "--warmup", "0"][..], &open[..]].concat()).expect_ok().text();
    assert!(
        text.starts_with("Open loop, 50 operations a second, at most 64 in flight over 4 connections"),
        "{text}"
    );
    let row: Vec<&str> =
        text.lines().find(|line| line.starts_with("write ")).unwrap().split_whitespace().collect();
    assert_eq!((row[2], row[3]), ("50", "0"), "{text}");
    assert!(text.contains("SYNCS/WRITE") && text.contains("leader") && text.contains("follower"), "{text}");
}

#[test]
fn interrupt_ends_the_run_early_with_the_figures_so_far() {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap"]);
    cluster.wait_for_leader(None);
    let mut command = cluster.command(&["bench", "--seconds", "600", "--warmup", "0", "--json"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    // Once keys arrive, the measurement has begun.
    crate::harness::eventually("load arrives", || {
        let found = cluster.quorate(&["scan", "bench/0", "bench/1", "--limit", "1", "-o", "json"]);
        (found.code == Some(0) && !found.json()["items"].as_array()?.is_empty()).then_some(())
    });
    signal(child.id(), rustix::process::Signal::INT);
    let json: Value = serde_json::from_str(&lines.recv_timeout(PATIENCE).unwrap()).unwrap();
    assert_eq!(wait(&mut child).code(), Some(0));
    assert_eq!(json["interrupted"], true);
    assert!(json["operations"].as_u64().unwrap() >= 1 && number(&json["seconds"]) < 60.0, "{json}");
}

#[test]
fn misuse_says_what_to_do() {
    let wrong: [(&[&str], &str); 12] = [
        (&["--in-flight", "0"], "say 1 to 4096"),
        (&["--in-flight", "5000"], "say 1 to 4096"),
        (&["--in-flight", "2", "--connections", "3"], "say 1 to 2"),
        (&["--mix", "reed=1"], "read=90,write=10"),
        (&["--distribution", "gauss"], "uniform"),
        (&["--value-bytes", "20..10"], "FROM..TO"),
        (&["--rate", "0"], "a second"),
        (&["--rate", "fast"], "--rate"),
        (&["--seconds", "0"], "more than 0"),
        (&["--seconds", "soon"], "for example 30"),
        (&["--endpoints", "127.0.0.1:1", "--nodes", "3"], "leave --endpoints out"),
        (&["--report", "/no/such/folder/run.html"], "name a file in a folder that exists"),
    ];
    for (arguments, says) in wrong {
        let finished = quorate(&[&["bench"][..], arguments].concat());
        let line = finished.expect_failure(2);
        assert!(line.contains(says), "{arguments:?}: {line}");
        assert_eq!(finished.stdout, b"");
    }
    let nobody = quorate(&["bench", "--endpoints", "127.0.0.1:1", "--timeout", "300ms", "--seconds", "1"]);
    assert!(nobody.expect_failure(5).contains("check that the cluster runs"), "{nobody:?}");
    let help = quorate(&["bench", "--help"]).expect_ok().text();
    for flag in ["--mix", "--in-flight", "--connections", "--rate", "--report", "--json", "--unary"] {
        assert!(help.contains(flag), "{help}");
    }
}

#[test]
fn no_success_is_no_success() {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap", "--value-bytes-max", "1KiB"]);
    cluster.wait_for_leader(None);
    let arguments = ["bench", "--seconds", "0.2", "--warmup", "0", "--value-bytes", "4KiB", "--json"];
    let finished = cluster.quorate(&arguments);
    let line = finished.expect_failure(1);
    assert!(line.starts_with("no operation succeeded") && line.contains("too_large"), "{line}");
    assert_eq!(finished.json()["operations"], 0);
}
