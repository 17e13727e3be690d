//! Bits rot. A node whose files are damaged says which file and where, and nothing is silently lost: what its
//! peers have it gets from them, otherwise it does not start. Its neighbours go on.

use std::path::{Path, PathBuf};

use crate::harness::{Cluster, eventually};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn files_with(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = files_below(dir);
    found.retain(|path| path.extension().is_some_and(|it| it == extension));
    found
}

/// A stopped node that has acknowledged values `damage-me-0` to `damage-me-9`, one by one.
pub(crate) fn stopped_node() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap", "--log", "off"]);
    put_values(&cluster, "damage-me", 0..10);
    cluster.take(1).kill();
    cluster
}

fn put_values(cluster: &Cluster, value: &str, numbers: std::ops::Range<u32>) {
    let client = cluster.client();
    cluster.runtime.block_on(async {
        for number in numbers {
            client.put(format!("key-{number}"), format!("{value}-{number}")).await.unwrap();
        }
    });
}

/// The log file of node 1 that holds a value, and where in it.
pub(crate) fn find_in_log(cluster: &Cluster, needle: &str) -> (PathBuf, usize) {
    find_in_log_of(cluster, 1, needle)
}

fn find_in_log_of(cluster: &Cluster, node: u64, needle: &str) -> (PathBuf, usize) {
    for path in files_with(&cluster.dir(node), "wal") {
        let bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()) {
            return (path, at);
        }
    }
    panic!("{needle} is in no log file of {}", cluster.dir(node).display());
}

/// A value that a majority has acknowledged is damaged in the log of one of them: that one says so, starts, gets it
/// back from the leader, and is then as good as any: with one of the others gone it is needed for every write.
#[test]
fn flipped_bit_in_the_log_of_one_of_three_is_named_and_what_it_cost_comes_back() {
    let mut cluster = Cluster::of_three(&[]);
    put_values(&cluster, "damage-me", 0..10);
    let leader = cluster.wait_for_leader(None);
    let damaged = if leader == 3 { 2 } else { 3 };
    let last = cluster.status(leader).unwrap().last_index;
    eventually("it has everything", || (cluster.status(damaged)?.applied_index >= last).then_some(()));
    cluster.take(damaged).kill();
    let (path, at) = find_in_log_of(&cluster, damaged, "damage-me-4");
    flip(&path, at);
    cluster.restart_with(damaged, &["--log", "error"]);
    let file = path.file_name().unwrap().to_str().unwrap();
    eventually("the damage is named", || {
        let log = std::fs::read_to_string(cluster.log(damaged)).unwrap();
        log.lines()
            .any(|line| {
                line.contains(file) && line.contains("are damaged") && line.contains("damaged at byte ")
            })
            .then_some(())
    });
    eventually("it has it all again", || (cluster.status(damaged)?.last_index >= last).then_some(()));
    let other = (1..=3).find(|node| ![leader, damaged].contains(node)).unwrap();
    cluster.take(other).kill();
    cluster.quorate(&["put", "needs", "the damaged one"]).expect_ok();
    cluster.take(damaged).kill();
    cluster.restart(damaged);
    cluster.wait_for_leader(None);
    for number in 0..10 {
        let value = cluster.quorate(&["get", &format!("key-{number}")]).expect_ok().text();
        assert_eq!(value, format!("damage-me-{number}"));
    }
}

#[test]
fn flipped_bit_in_the_log_of_a_single_node_is_named_with_file_and_offset() {
    let cluster = stopped_node();
    let (path, at) = find_in_log(&cluster, "damage-me-4");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(&path, &bytes).unwrap();

    let finished = cluster.restart_in_vain(1);
    let line = finished.expect_failure(10);
    let file = path.file_name().unwrap().to_str().unwrap();
    assert!(line.contains(file) && line.contains("damaged at byte "), "{line}");
    assert_eq!(line.matches(file).count(), 1, "said once: {line}");
    assert!(line.contains("the only voter") && line.contains("backup"), "says what to do: {line}");
    assert!(std::fs::read(&path).unwrap() == bytes, "a damaged file is left for whoever looks at it");
}

#[test]
fn log_cut_in_the_middle_is_named_with_file_and_offset() {
    let cluster = stopped_node();
    let (path, at) = find_in_log(&cluster, "damage-me-4");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(at as u64).unwrap();

    let finished = cluster.restart_in_vain(1);
    let line = finished.expect_failure(10);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(line.contains(name) && line.contains("damaged at byte "), "{line}");
}

#[test]
fn missing_log_file_is_noticed() {
    let cluster = stopped_node();
    let (path, _) = find_in_log(&cluster, "damage-me-4");
    std::fs::remove_file(&path).unwrap();
    let finished = cluster.restart_in_vain(1);
    let line = finished.expect_failure(10);
    assert!(line.contains("has lost its log") && line.contains("wal/"), "{line}");
}

/// A stopped node with a snapshot, which it took for another one that joined, and fewer than all its entries
/// in the log.
fn stopped_node_with_a_snapshot() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::new();
    let policy = ["--snapshot-entries", "20", "--snapshot-trailing-entries", "1", "--log", "off"];
    cluster.start(1, &[&["--bootstrap"][..], &policy[..]].concat());
    put_values(&cluster, "value", 0..50);
    eventually("the log was compacted", || (cluster.status(1)?.compacted_index > 10).then_some(()));
    let join = cluster.endpoints();
    cluster.start(2, &[&["--join", &join, "--learner"][..], &policy[..]].concat());
    eventually("the learner has it all", || (cluster.status(2)?.applied_index > 50).then_some(()));
    let snapshot = files_with(&cluster.dir(1), "snap").pop().unwrap();
    cluster.take(2).kill();
    cluster.take(1).kill();
    (cluster, snapshot)
}

pub(crate) fn flip(path: &Path, at: usize) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, &bytes).unwrap();
    bytes
}

/// The node has its data in the engine too, so it goes on without the snapshot; it says so, and makes a new
/// one for whoever needs it.
#[test]
fn damaged_snapshot_that_is_not_needed_is_named_and_replaced() {
    let (mut cluster, snapshot) = stopped_node_with_a_snapshot();
    let damaged = flip(&snapshot, 300);
    cluster.restart_with(1, &["--log", "error"]);
    let name = snapshot.file_name().unwrap().to_str().unwrap();
    eventually("the damage is named", || {
        let log = std::fs::read_to_string(cluster.log(1)).unwrap();
        log.lines().any(|line| line.contains(name) && line.contains("damaged at byte ")).then_some(())
    });
    eventually("a new snapshot takes its place", || {
        let newest = files_with(&cluster.dir(1), "snap").pop()?;
        (std::fs::read(newest).ok()? != damaged).then_some(())
    });
    assert_eq!(cluster.quorate(&["get", "key-7"]).expect_ok().text(), "value-7");
    assert_eq!(cluster.quorate(&["get", "key-49"]).expect_ok().text(), "value-49");
}

/// Without the engine's files the snapshot is the only copy of what the log does not hold any more.
#[test]
fn damaged_snapshot_that_is_needed_is_named_with_file_and_offset() {
    for damage in [20, 300, usize::MAX] {
        let (cluster, snapshot) = stopped_node_with_a_snapshot();
        std::fs::remove_dir_all(cluster.dir(1).join("engine")).unwrap();
        if damage == usize::MAX {
            std::fs::OpenOptions::new().write(true).open(&snapshot).unwrap().set_len(400).unwrap();
        } else {
            flip(&snapshot, damage);
        }
        let finished = cluster.restart_in_vain(1);
        let line = finished.expect_failure(10);
        let file = snapshot.file_name().unwrap().to_str().unwrap();
        assert!(line.contains(file) && line.contains("damaged at byte "), "{line}");
        assert_eq!(line.matches("damaged at byte ").count(), 1, "said once: {line}");
    }
}

#[test]
fn damaged_engine_is_named_and_says_what_to_do() {
    let cluster = stopped_node();
    let journal = files_with(&cluster.dir(1).join("engine"), "jnl").remove(0);
    let bytes = std::fs::read(&journal).unwrap();
    let needle = b"damage-me-4";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    let damaged = flip(&journal, at);

    let finished = cluster.restart_in_vain(1);
    let line = finished.expect_failure(10);
    let engine = cluster.dir(1).join("engine").display().to_string();
    assert!(line.contains(&engine) && line.contains("its files are damaged, replace this node"), "{line}");
    assert!(std::fs::read(&journal).unwrap() == damaged, "left for whoever looks at it");
}

/// Any byte of any file of the engine: the node says that it is damaged, or it has every value.
#[test]
fn damaged_engine_never_costs_an_acknowledged_value() {
    let mut cluster = stopped_node();
    let engine = cluster.dir(1).join("engine");
    let whole: Vec<(PathBuf, Vec<u8>)> = files_below(&engine)
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect();
    for (path, bytes) in &whole {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for at in [used / 3, used.saturating_sub(1)] {
            if used == 0 {
                continue;
            }
            flip(path, at);
            let what = format!("{} at byte {at}", path.display());
            match cluster.try_restart(1) {
                Ok(()) => {
                    for number in 0..10 {
                        let value = cluster.quorate(&["get", &format!("key-{number}")]).expect_ok().text();
                        assert_eq!(value, format!("damage-me-{number}"), "{what}");
                    }
                    cluster.take(1).kill();
                }
                Err(finished) => {
                    let line = finished.expect_failure(10);
                    assert!(line.contains("damaged"), "{what}: {line}");
                }
            }
            std::fs::remove_dir_all(&engine).unwrap();
            for (path, bytes) in &whole {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
        }
    }
}
