//! Data directories without their nodes: the log looked at and cut, and one node that goes on alone.

use std::path::PathBuf;

use crate::damage::{find_in_log, flip, stopped_node};
use crate::harness::{Cluster, eventually, quorate};

fn dir(cluster: &Cluster, node: u64) -> String {
    cluster.dir(node).display().to_string()
}

#[test]
fn healthy_log_is_looked_at_while_its_node_runs() {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap"]);
    cluster.quorate(&["put", "key", "look-at-me"]).expect_ok();
    let dir = dir(&cluster, 1);
    let verified = quorate(&["wal", "verify", &dir, "-o", "json"]).expect_ok();
    assert!(verified.stderr.contains("what a running node writes meanwhile"), "{verified:?}");
    let found = verified.json();
    assert_eq!((found["clean"].as_bool(), found["in_use"].as_bool()), (Some(true), Some(true)), "{found}");
    let stats = quorate(&["wal", "stats", &dir, "-o", "json"]).expect_ok().json();
    let group = &stats["groups"][0];
    assert!(
        group["entries"].as_u64() >= Some(2) && group["hard_state"]["term"].as_u64() >= Some(1),
        "{stats}"
    );
    assert!(stats["segments"][0]["live_bytes"].as_u64() > Some(0), "{stats}");
    let dumped = quorate(&["wal", "dump", &dir]).expect_ok().text();
    assert!(dumped.contains(" batch ") && dumped.contains("group=1 index=2 term=2 "), "{dumped}");
    assert!(
        quorate(&["wal", "dump", &dir, "--group", "99"]).expect_ok().text().lines().count() == 1,
        "the segment"
    );
    let refused = quorate(&["wal", "repair", &dir]);
    assert!(refused.expect_failure(9).contains("in use by process"), "{refused:?}");
    // The node has noticed nothing.
    cluster.quorate(&["put", "key", "still-here"]).expect_ok();
    assert_eq!(cluster.take(1).terminate(), Some(0));
    let found = quorate(&["wal", "verify", &dir, "-o", "json"]).expect_ok();
    assert_eq!((found.json()["in_use"].as_bool(), found.stderr.as_str()), (Some(false), ""));
    let nothing = quorate(&["wal", "verify", &format!("{dir}/none")]);
    let line = nothing.expect_failure(9);
    assert!(line.contains("there is no log here") && line.contains(&format!("{dir}/none")), "{nothing:?}");
}

#[test]
fn damaged_log_is_cut_by_consent_only_and_the_node_goes_on_with_what_is_left() {
    let mut cluster = stopped_node();
    let dir = dir(&cluster, 1);
    let (path, at) = find_in_log(&cluster, "damage-me-4");
    let damaged = flip(&path, at);
    let verified = quorate(&["wal", "verify", &dir]);
    let line = verified.expect_failure(10);
    assert!(
        line.contains("damaged at byte ") && verified.text().contains("1 damaged places"),
        "{verified:?}"
    );
    let dumped = quorate(&["wal", "dump", &dir]);
    dumped.expect_failure(10);
    assert!(dumped.text().contains("checksum=WRONG") && dumped.text().contains("DAMAGED"), "{dumped:?}");

    let asked = quorate(&["wal", "repair", &dir]);
    let consent = asked.expect_failure(2).split("--consent ").nth(1).unwrap().to_owned();
    assert!(asked.text().contains("group 1 loses "), "{asked:?}");
    let other = consent.replace("groups=1", "groups=2");
    assert_ne!(other, consent);
    let refused = quorate(&["wal", "repair", &dir, "--consent", &other]);
    assert!(refused.expect_failure(7).contains(&consent), "{refused:?}");
    assert!(std::fs::read(&path).unwrap() == damaged, "nothing was changed so far");

    let repaired = quorate(&["wal", "repair", &dir, "--consent", &consent, "-o", "json"]).expect_ok().json();
    let aside = PathBuf::from(repaired["aside"].as_str().unwrap()).join(path.file_name().unwrap());
    assert!(std::fs::read(aside).unwrap() == damaged, "what was cut is kept");
    quorate(&["wal", "verify", &dir]).expect_ok();
    assert!(quorate(&["wal", "repair", &dir]).expect_ok().text().contains("Nothing is damaged"));
    // The engine may hold more than the log now: the node must say so, or go on with the beginning of the log.
    std::fs::remove_dir_all(cluster.dir(1).join("engine")).unwrap();
    cluster.restart(1);
    assert_eq!(cluster.quorate(&["get", "key-3"]).expect_ok().text(), "damage-me-3");
    cluster.quorate(&["get", "key-5"]).expect_failure(3);
    cluster.quorate(&["put", "key-5", "again"]).expect_ok();
}

/// The last write reached the disk in part, and nobody was told that it is there.
#[test]
fn torn_tail_is_said_to_be_no_damage() {
    let cluster = stopped_node();
    let dir = dir(&cluster, 1);
    let (path, at) = find_in_log(&cluster, "damage-me-9");
    let mut bytes = std::fs::read(&path).unwrap();
    // The mark behind it was never written: the power failed before.
    let dumped = quorate(&["wal", "dump", &dir, "-o", "json"]).expect_ok().text();
    let records = dumped.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let behind = records.filter_map(|record| Some((record["offset"].as_u64()?, record["bytes"].as_u64()?)));
    let record = behind.clone().rfind(|(offset, _)| *offset < at as u64).unwrap();
    bytes[usize::try_from(record.0 + record.1).unwrap()..].fill(0);
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let verified = quorate(&["wal", "verify", &dir]).expect_ok();
    assert!(
        verified.text().contains("torn tail") && verified.text().contains("0 damaged places"),
        "{verified:?}"
    );
    assert!(quorate(&["wal", "repair", &dir]).expect_ok().text().contains("Nothing is damaged"));
    assert!(std::fs::read(&path).unwrap() == bytes);
}

/// Two of three are lost for good. The third goes on alone; one of the two that turns up after all stays out.
#[test]
fn one_node_goes_on_alone_after_two_are_lost() {
    let mut cluster = Cluster::of_three(&[]);
    for number in 0..5 {
        cluster.quorate(&["put", &format!("key-{number}"), &format!("value-{number}")]).expect_ok();
    }
    eventually("the third has it all", || {
        let all =
            (1..=3).map(|node| Some(cluster.status(node)?.applied_index)).collect::<Option<Vec<_>>>()?;
        all.iter().all(|applied| *applied == all[0]).then_some(())
    });
    for node in 1..=3 {
        cluster.take(node).kill();
    }
    let dir = dir(&cluster, 3);
    let shown = quorate(&["recover", &dir, "-o", "json"]).expect_ok().json();
    assert_eq!(
        (shown["node"].as_u64(), shown["members"].as_array().map(Vec::len)),
        (Some(3), Some(3)),
        "{shown}"
    );
    let dry = quorate(&["recover", &dir, "--lost", "1,2"]).expect_ok().text();
    assert!(dry.contains("goes on alone") && dry.contains("Nothing was changed"), "{dry}");
    let quorum = quorate(&["recover", &dir, "--lost", "1", "--left-out", "2=1@t1"]);
    assert!(quorum.expect_failure(7).contains("are a quorum"), "{quorum:?}");
    let list = cluster.scratch.path().join("peers.toml");
    std::fs::write(&list, format!("[[member]]\nid = 3\naddress = \"{}\"\n", cluster.ports.peer(3))).unwrap();
    let list = list.display().to_string();
    let backup = cluster.scratch.path().join("backup").display().to_string();
    quorate(&["recover", &dir, "--members", &list, "--for-good"]).expect_failure(2);
    let done = quorate(&["recover", &dir, "--members", &list, "--for-good", "--backup", &backup]).expect_ok();
    assert!(done.text().contains("Keep this"), "{done:?}");
    assert!(std::fs::read_dir(&backup).unwrap().count() > 0);

    cluster.restart(3);
    eventually("it leads alone", || (cluster.leader(None) == Some(3)).then_some(()));
    assert_eq!(cluster.quorate(&["get", "key-4"]).expect_ok().text(), "value-4");
    cluster.quorate(&["put", "key-5", "alone"]).expect_ok();
    // Node 1 was not lost after all. It knows what it knew, campaigns, and is not heard.
    cluster.restart(1);
    cluster.quorate(&["put", "key-6", "still-alone"]).expect_ok();
    cluster.wait_for_voters(&[3]);
    let stray = cluster.status(1).unwrap();
    assert!(!stray.ready && stray.role() != quorate_client::proto::Role::Leader, "{stray:?}");
    assert_eq!(cluster.leader(None), Some(3));
}
