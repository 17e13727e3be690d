//! The event stream is complete, and the trace made from it is one that the specification's checker
//! can read (`docs/tla.md`): the right fields, in an order in which things can have happened.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

#[path = "../examples/tla_trace/cluster.rs"]
mod cluster;
#[path = "../examples/tla_trace/story.rs"]
mod story;
#[path = "../examples/tla_trace/writer.rs"]
mod writer;

use std::collections::BTreeMap;

use cluster::{Cluster, Told};
use quorate_core::{EventDetail, RaftEvent, RoleName};
use serde_json::Value;
use writer::Writer;

const VOTERS: u64 = 3;
const SEEDS: std::ops::Range<u64> = 0..30;

fn written(cluster: &Cluster) -> Writer {
    let mut writer = Writer::new(VOTERS);
    for (id, told) in &cluster.told {
        writer.take(*id, told);
    }
    writer
}

fn lines(seed: u64) -> Vec<Value> {
    let writer = written(&story::run(seed, VOTERS, 30, EventDetail::Trace));
    writer.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("{path} in {value}"))
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {value}"))
}

/// Nothing that a status says is missing from the events, at any moment of a run.
#[test]
fn a_replicas_state_can_be_rebuilt_from_its_events() {
    for seed in SEEDS {
        for steps in 0..8 {
            let cluster = story::run(seed, VOTERS, steps * 4, EventDetail::Trace);
            let writer = written(&cluster);
            for (id, core) in cluster.cores() {
                let (status, shadow) = (core.status(), writer.shadow(id).unwrap());
                let role = match status.role {
                    RoleName::PreCandidate => RoleName::Follower,
                    role @ (RoleName::Follower | RoleName::Candidate | RoleName::Leader) => role,
                };
                assert_eq!(
                    (shadow.term, shadow.vote, shadow.commit, shadow.last, shadow.role),
                    (status.term, status.vote, status.commit, status.last.index, role),
                    "replica {id} of seed {seed} after {steps} steps"
                );
            }
        }
    }
}

/// Events drive nothing: a core that says more does the same.
#[test]
fn what_is_told_changes_nothing() {
    for seed in SEEDS {
        let ends = |events| -> Vec<String> {
            let run = story::run(seed, VOTERS, 30, events);
            run.cores().map(|(_, core)| format!("{:?}", core.status())).collect()
        };
        assert_eq!(ends(EventDetail::Changes), ends(EventDetail::Trace), "seed {seed}");
    }
}

#[test]
fn every_line_has_the_fields_that_the_checker_reads() {
    for line in SEEDS.flat_map(lines) {
        assert_eq!(text(&line, "/tag"), "trace");
        let (name, nid) = (text(&line, "/event/name"), text(&line, "/event/nid"));
        assert!(nid.parse::<u64>().unwrap() > 0);
        number(&line, "/event/state/term");
        number(&line, "/event/state/commit");
        number(&line, "/event/log");
        text(&line, "/event/state/vote").parse::<u64>().unwrap();
        let role = text(&line, "/event/role");
        assert!(["StateFollower", "StateCandidate", "StateLeader"].contains(&role), "{role}");
        assert_eq!(line.pointer("/event/conf").unwrap(), &serde_json::json!([["1", "2", "3"], []]));
        let kinds: &[&str] = match name {
            "SendAppendEntriesRequest" | "ReceiveAppendEntriesRequest" => &["MsgApp", "MsgHeartbeat"],
            "SendAppendEntriesResponse" | "ReceiveAppendEntriesResponse" => {
                &["MsgAppResp", "MsgHeartbeatResp"]
            }
            "SendRequestVoteRequest" | "ReceiveRequestVoteRequest" => &["MsgVote"],
            "SendRequestVoteResponse" | "ReceiveRequestVoteResponse" => &["MsgVoteResp"],
            "InitState" | "BecomeFollower" | "BecomeCandidate" | "BecomeLeader" | "Replicate" | "Commit"
            | "Ready" => {
                assert!(line.pointer("/event/msg").is_none());
                continue;
            }
            _ => panic!("{name} is no step of the specification"),
        };
        assert!(kinds.contains(&text(&line, "/event/msg/type")), "{line}");
        for field in ["from", "to", "vote"] {
            text(&line, &format!("/event/msg/{field}")).parse::<u64>().unwrap();
        }
        for field in ["term", "entries", "logTerm", "index", "commit", "rejectHint"] {
            number(&line, &format!("/event/msg/{field}"));
        }
        assert!(line.pointer("/event/msg/reject").unwrap().is_boolean());
        let said_by = if name.starts_with("Send") { "/event/msg/from" } else { "/event/msg/to" };
        assert_eq!(text(&line, said_by), nid);
    }
}

/// The checker's script sorts the lines as text, from the third field between colons on.
#[test]
fn lines_sort_as_text_in_the_order_in_which_they_were_written() {
    let writer = written(&story::run(1, VOTERS, 30, EventDetail::Trace));
    let key = |line: &String| line.splitn(3, ':').last().unwrap().to_owned();
    let mut sorted = writer.lines.clone();
    sorted.sort_by_key(key);
    assert_eq!(sorted, writer.lines);
    assert!(writer.lines.iter().all(|line| line.split(':').nth(2).unwrap().ends_with(",\"event\"")));
}

#[test]
fn terms_and_commit_indexes_never_go_back() {
    for seed in SEEDS {
        let mut seen: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for line in lines(seed) {
            let now = (number(&line, "/event/state/term"), number(&line, "/event/state/commit"));
            let before = seen.entry(text(&line, "/event/nid").to_owned()).or_default();
            assert!(before.0 <= now.0 && before.1 <= now.1, "seed {seed}: {line}");
            *before = now;
        }
    }
}

/// A message is received at most as often as it was sent, and only after its sender's `Ready`.
#[test]
fn what_is_received_was_sent_and_released_before() {
    for seed in SEEDS {
        let mut made: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut on_the_way: Vec<String> = Vec::new();
        for line in lines(seed) {
            let (name, nid) = (text(&line, "/event/name"), text(&line, "/event/nid").to_owned());
            let said = line.pointer("/event/msg").map(ToString::to_string);
            if name.starts_with("Send") {
                made.entry(nid).or_default().push(said.unwrap());
            } else if name.starts_with("Receive") {
                let sent = on_the_way.iter().position(|message| Some(message) == said.as_ref());
                on_the_way.swap_remove(sent.unwrap_or_else(|| panic!("seed {seed}: never sent: {line}")));
            } else if name == "Ready" {
                on_the_way.extend(made.remove(&nid).unwrap_or_default());
            }
        }
    }
}

/// The runs are worth checking: everything the specification has a step for happens in them.
#[test]
fn the_runs_show_every_step_of_the_specification() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for seed in SEEDS {
        let run = story::run(seed, VOTERS, 30, EventDetail::Trace);
        for (_, told) in &run.told {
            match told {
                Told::Started(_) => *seen.entry("a start".to_owned()).or_default() += 1,
                Told::Event(RaftEvent::Truncated { .. }) => {
                    *seen.entry("a truncation".to_owned()).or_default() += 1;
                }
                Told::Event(_) => {}
            }
        }
        for line in lines(seed) {
            let rejects = line.pointer("/event/msg/reject") == Some(&Value::Bool(true));
            let name = text(&line, "/event/name").to_owned();
            *seen.entry(if rejects { name + " (no)" } else { name }).or_default() += 1;
        }
    }
    assert!(seen["a start"] > 100 && seen["a truncation"] > 2, "{seen:?}");
    for name in ["BecomeFollower", "BecomeCandidate", "BecomeLeader", "Replicate", "Commit", "Ready"] {
        assert!(seen[name] > 100, "{name}: {seen:?}");
    }
    for name in ["AppendEntriesRequest", "AppendEntriesResponse", "RequestVoteRequest", "RequestVoteResponse"]
    {
        assert!(seen[&format!("Receive{name}")] > 100, "{name}: {seen:?}");
    }
    for name in ["AppendEntriesResponse (no)", "RequestVoteResponse (no)"] {
        assert!(seen[&format!("Receive{name}")] > 10, "{name}: {seen:?}");
    }
}
