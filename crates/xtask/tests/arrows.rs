//! The arrows between the crates, as a table. A crate that gains a dependency on another crate of
//! the workspace, or a library crate that gains one outside its list, fails here: then either the
//! change is wrong, or this table, ARCHITECTURE.md and a page in docs/decisions change with it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crate → the workspace crates it may use in production code.
const ARROWS: &[(&str, &[&str])] = &[
    ("quorate-core", &[]),
    ("quorate-storage", &["quorate-core"]),
    ("quorate-host", &["quorate-core", "quorate-storage"]),
    ("quorate", &["quorate-core", "quorate-storage", "quorate-host"]),
    ("quorate-kv", &["quorate-core", "quorate-host"]),
    ("quorate-sim", &["quorate-core", "quorate-storage", "quorate-host", "quorate-kv"]),
    ("quorate-client", &["quorate-kv"]),
    ("quorate-server", &["quorate", "quorate-kv", "quorate-client"]),
    ("quorate-load", &["quorate-client"]),
    ("quorate-cli", &["quorate-server", "quorate-client", "quorate-load", "quorate-sim"]),
    ("xtask", &[]),
    ("raftexample", &["quorate"]),
];

/// Crates that must stay free of anything that does I/O or runs tasks, with all they may use.
const CLOSED: &[(&str, &[&str])] = &[
    ("quorate-core", &["bytes"]),
    ("quorate-storage", &["bytes", "crc32c", "redb", "rustix", "thiserror"]),
    ("quorate-host", &["bytes", "crc32c", "thiserror"]),
    ("quorate-kv", &["bytes", "thiserror"]),
    ("quorate-sim", &["bytes", "thiserror"]),
];

#[test]
fn arrows_point_down_only() {
    let packages = packages();
    let table: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let names: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    assert_eq!(names, table.keys().copied().collect(), "crates and table differ: update ARROWS");
    for (name, uses) in &packages {
        for used in uses.iter().filter(|used| packages.contains_key(*used)) {
            assert!(
                table[name.as_str()].contains(used.as_str()),
                "{name} -> {used} is not an allowed arrow: see ARCHITECTURE.md"
            );
        }
    }
}

#[test]
fn deterministic_crates_use_nothing_else() {
    let packages = packages();
    for (name, allowed) in CLOSED {
        for used in packages[*name].iter().filter(|used| !packages.contains_key(*used)) {
            assert!(allowed.contains(&used.as_str()), "{name} -> {used}: this crate does no I/O of its own");
        }
    }
}

/// Package → the names of its normal and build dependencies.
fn packages() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a name").to_owned();
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let uses = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), uses)
        })
        .collect()
}
