//! The list of planted bugs and the places in the product name the same, and no product build can contain one.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

fn listed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(workspace().join("crates/quorate-sim/planted.txt")).unwrap();
    text.lines().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
}

#[test]
fn every_planted_bug_is_listed_and_has_a_place() {
    let mut all = Vec::new();
    for name in ["quorate-core", "quorate-storage", "quorate-host", "quorate-kv"] {
        sources(&workspace().join("crates").join(name).join("src"), &mut all);
    }
    let mut planted = BTreeSet::new();
    for (_, text) in all.iter().filter(|(path, _)| !path.ends_with("planted.rs")) {
        for piece in text.split("planted(").skip(1) {
            let name = piece.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
            planted.insert(name.expect("planted() takes a name in quotes").0.to_owned());
        }
    }
    assert_eq!(planted, listed());
    assert!(planted.len() >= 36, "{} bugs are planted", planted.len());
}

/// Only `cargo xtask mutants` may turn the bugs on, and it builds into a folder of its own.
#[test]
fn nothing_else_builds_with_planted_bugs() {
    let mut all = Vec::new();
    sources(&workspace().join("crates"), &mut all);
    for file in ["Cargo.toml", ".cargo/config.toml", ".ci/run"] {
        all.push((workspace().join(file), std::fs::read_to_string(workspace().join(file)).unwrap()));
    }
    let allowed = ["planted.rs", "mutants.rs", "planted_bugs.rs"];
    for (path, text) in all {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let lines =
            text.lines().filter(|line| line.contains("quorate_mutants") && !line.contains("check-cfg"));
        assert!(allowed.contains(&name.as_str()) || lines.count() == 0, "{} turns bugs on", path.display());
    }
}
