//! The first thing a newcomer sees, end to end.

use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Finished, PATIENCE, Ports, eventually, finish, is_alive, lines_of, program, signal, wait,
};

/// A running demo, without a terminal.
struct Demo {
    child: Child,
    dir: String,
    endpoints: String,
    banner: Vec<String>,
    _lines: mpsc::Receiver<String>,
}

impl Demo {
    fn start(ports: &Ports, dir: &std::path::Path, more: &[&str]) -> Self {
        let mut command = program();
        command.args(["demo", "--port-base", &ports.base.to_string(), "--dir"]).arg(dir).args(more);
        let begun = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let mut banner: Vec<String> = Vec::new();
        while !banner.iter().any(|line| line.contains("demo ctl")) {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                drop(child.kill());
                panic!("the demo says no more than {banner:?}: {:?}", child.wait());
            };
            banner.push(line);
        }
        eprintln!("the demo was ready after {:?}", begun.elapsed());
        let endpoints: Vec<String> = (1..=3).map(|node| ports.client(node)).collect();
        Self { child, dir: dir.display().to_string(), endpoints: endpoints.join(","), banner, _lines: lines }
    }

    fn ctl(&self, words: &[&str]) -> Finished {
        let mut command = program();
        command.args(["demo", "ctl", "--dir", &self.dir]).args(words);
        finish(command, b"")
    }

    fn quorate(&self, arguments: &[&str]) -> Finished {
        let mut command = program();
        command.args(arguments).env("QUORATE_ENDPOINTS", &self.endpoints);
        finish(command, b"")
    }

    fn status(&self) -> Value {
        self.quorate(&["status", "-o", "json"]).json()
    }

    fn leader(&self) -> Option<u64> {
        self.status()["leader"].as_u64()
    }

    /// The processes of the nodes, as `status` shows them.
    fn pids(&self) -> Vec<u32> {
        let table = self.ctl(&["status"]).expect_ok().text();
        let rows = table.lines().skip(1).take_while(|line| !line.is_empty());
        rows.filter_map(|row| {
            row.split_whitespace().find_map(|cell| cell.parse::<u32>().ok().filter(|n| *n > 99))
        })
        .collect()
    }

    fn stop(mut self, how: Signal) -> Option<i32> {
        signal(self.child.id(), how);
        wait(&mut self.child).code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn demo_shows_a_cluster_that_survives_what_its_user_does_to_it() {
    let (ports, scratch) = (Ports::lease(), tempfile::tempdir().unwrap());
    let demo = Demo::start(&ports, &scratch.path().join("demo"), &[]);
    let banner = demo.banner.join("\n");
    assert!(banner.contains("leader") && banner.contains("follower"), "{banner}");
    assert!(banner.contains(&format!("http://{}/v1/kv", ports.client(1))), "{banner}");
    demo.quorate(&["put", "k", "1"]).expect_ok();

    let leader = demo.leader().unwrap();
    let killed = demo.ctl(&["kill", &leader.to_string()]).expect_ok().text();
    assert!(killed.contains("SIGKILL"), "{killed}");
    demo.quorate(&["put", "k", "2"]).expect_ok();
    assert!(demo.ctl(&["kill", &leader.to_string()]).expect_failure(7).contains("is not running"));
    demo.ctl(&["restart", &leader.to_string()]).expect_ok();
    eventually("everybody is back", || (demo.status()["health"] == "healthy").then_some(()));

    let added = demo.ctl(&["add"]).expect_ok().text();
    assert!(added.starts_with("Node 4 runs"), "{added}");
    eventually("node 4 votes", || {
        let status = demo.status();
        let voters = status["nodes"].as_array()?.iter().filter(|node| node["voter"] == true).count();
        (voters == 4).then_some(())
    });
    assert_eq!(demo.quorate(&["get", "k"]).expect_ok().text(), "2");

    // SIGTERM stops everything; the same directory continues with all four.
    let pids = demo.pids();
    assert_eq!(pids.len(), 4);
    assert_eq!(demo.stop(Signal::TERM), Some(0));
    assert!(pids.iter().all(|pid| !is_alive(*pid)), "{pids:?}");
    let again = Demo::start(&ports, &scratch.path().join("demo"), &[]);
    assert_eq!(again.quorate(&["get", "k"]).expect_ok().text(), "2");
    assert_eq!(again.pids().len(), 4);
    assert_eq!(again.stop(Signal::INT), Some(0));
}

#[test]
fn partitioned_leader_is_replaced_and_follows_after_the_partition_heals() {
    let (ports, scratch) = (Ports::lease(), tempfile::tempdir().unwrap());
    let demo = Demo::start(&ports, &scratch.path().join("demo"), &["--nodes", "3"]);
    demo.quorate(&["put", "k", "before"]).expect_ok();
    let old = demo.leader().unwrap();
    let said = demo.ctl(&["partition", &old.to_string()]).expect_ok().text();
    assert_eq!(said, format!("The network is partitioned {old} | the others.\n"));
    let new = eventually("the others have a leader", || demo.leader().filter(|leader| *leader != old));
    demo.quorate(&["put", "k", "during"]).expect_ok();

    // Alone it cannot serve what must be the newest, and says so.
    let alone = ["get", "k", "--timeout", "1s", "--endpoints", &ports.client(old)];
    assert_eq!(demo.quorate(&alone).code, Some(5));

    assert_eq!(demo.ctl(&["heal"]).expect_ok().text(), "The network is healthy.\n");
    eventually("the old leader follows", || {
        let status = demo.status();
        let node = status["nodes"].as_array()?.iter().find(|node| node["id"] == old)?.clone();
        (node["lag"] == 0 && node["role"] == "follower" && status["health"] == "healthy").then_some(())
    });
    assert_eq!(demo.quorate(&["get", "k"]).expect_ok().text(), "during");

    let slowed = demo.ctl(&["slow", &new.to_string(), "20ms"]).expect_ok().text();
    assert_eq!(slowed, format!("The network is node {new} slowed by 20ms.\n"));
    demo.quorate(&["put", "k", "slowly"]).expect_ok();
    assert_eq!(demo.stop(Signal::TERM), Some(0));
}

/// Without a majority nobody can add a node: the prompt says so at once, and no number is used up.
#[test]
fn demo_without_a_majority_refuses_to_grow_at_once() {
    let (ports, scratch) = (Ports::lease(), tempfile::tempdir().unwrap());
    let demo = Demo::start(&ports, &scratch.path().join("demo"), &["--nodes", "2"]);
    demo.ctl(&["kill", "2"]).expect_ok();
    let refused = eventually("nobody leads any more", || {
        (demo.leader().is_none()).then(|| demo.ctl(&["add"])).filter(|added| added.code == Some(7))
    });
    assert!(refused.expect_failure(7).contains("nobody leads"), "{refused:?}");
    demo.ctl(&["restart", "2"]).expect_ok();
    // On a busy machine a first leader may be gone again by the time it is asked.
    let added = eventually("somebody leads again", || {
        demo.leader().map(|_| demo.ctl(&["add"])).filter(|added| added.code != Some(7))
    });
    assert!(added.expect_ok().text().starts_with("Node 3 runs"));
}

#[test]
fn nodes_do_not_outlive_a_demo_that_is_killed() {
    let (ports, scratch) = (Ports::lease(), tempfile::tempdir().unwrap());
    let dir = scratch.path().join("demo");
    let demo = Demo::start(&ports, &dir, &["--nodes", "2"]);
    demo.quorate(&["put", "k", "v"]).expect_ok();
    let pids = demo.pids();
    assert_eq!(pids.len(), 2);
    let mut second = program();
    second.args(["demo", "--dir"]).arg(&dir);
    assert!(finish(second, b"").expect_failure(9).contains("another demo is running"));

    drop(demo);
    eventually("the nodes are gone", || pids.iter().all(|pid| !is_alive(*pid)).then_some(()));
    let again = Demo::start(&ports, &dir, &[]);
    assert_eq!(again.quorate(&["get", "k"]).expect_ok().text(), "v");
}

#[test]
fn demo_without_a_directory_leaves_nothing_behind() {
    let (ports, scratch) = (Ports::lease(), tempfile::tempdir().unwrap());
    let mut command = program();
    command.args(["demo", "--nodes", "1", "--port-base", &ports.base.to_string()]);
    command.env("TMPDIR", scratch.path()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    while !lines.recv_timeout(PATIENCE).unwrap().contains("demo ctl") {}
    signal(child.id(), Signal::TERM);
    assert_eq!(wait(&mut child).code(), Some(0));
    let left: Vec<_> =
        std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The empty register of demos stays.
    assert!(left.iter().all(|path| std::fs::read_dir(path).unwrap().next().is_none()), "{left:?}");
}
