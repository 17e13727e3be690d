//! Bits rot. A node whose files are damaged says which file and where, and does not start; nothing is
//! silently lost. Its neighbours go on.

use std::path::{Path, PathBuf};

use crate::harness::Cluster;

fn files_with(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, extension));
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A stopped node that has acknowledged values `damage-me-0` to `damage-me-9`, one by one.
fn stopped_node() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.start(1, &["--bootstrap", "--log", "off"]);
    let client = cluster.client();
    cluster.runtime.block_on(async {
        for number in 0..10 {
            client.put(format!("key-{number}"), format!("damage-me-{number}")).await.unwrap();
        }
    });
    cluster.take(1).kill();
    cluster
}

/// The log file that holds a value, and where in it.
fn find_in_log(cluster: &Cluster, needle: &str) -> (PathBuf, usize) {
    for path in files_with(&cluster.dir(1), "wal") {
        let bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle.as_bytes()) {
            return (path, at);
        }
    }
    panic!("{needle} is in no log file of {}", cluster.dir(1).display());
}

#[test]
fn flipped_bit_in_the_log_is_named_with_file_and_offset() {
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
    assert!(matches!(finished.code, Some(9 | 10)), "{finished:?}");
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
}
