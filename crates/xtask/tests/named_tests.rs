//! Documents name tests as proof: each of them exists, and the coverage list covers what it says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const COVERAGE: &str = "docs/coverage-etcd-raft.md";

#[test]
fn tests_named_in_documents_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let known = known_names(&root);
    let mut missing = Vec::new();
    let documents = [
        COVERAGE,
        "docs/coverage-hashicorp-raft.md",
        "docs/coverage-peers-bugs.md",
        "docs/coverage-raft-paper.md",
        "docs/fault-matrix.md",
        "docs/protocol.md",
    ];
    for document in documents {
        let text = fs::read_to_string(root.join(document)).expect(document);
        for row in text.lines().filter(|line| line.starts_with('|')) {
            // The last column is the proof.
            let proof = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
            missing.extend(
                test_names(proof)
                    .filter(|name| !known.contains(*name))
                    .map(|name| format!("{document}: there is no test {name}")),
            );
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

#[test]
fn every_function_of_etcds_tests_is_covered_or_does_not_apply() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join(COVERAGE)).expect(COVERAGE);
    let (mut covered, mut other) = (0, 0);
    let mut section = "";
    for line in text.lines() {
        section = line.strip_prefix("## ").unwrap_or(section);
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [names, here] = cells.as_slice() else { continue };
        if !line.starts_with('|') || !section.contains("_test.go") && !section.starts_with("Packages") {
            continue;
        }
        if *names == "etcd's test" || names.starts_with("---") {
            continue;
        }
        let functions = names.split(", ").count();
        if here.starts_with("n/a: ") {
            other += functions;
        } else {
            assert!(test_names(here).next().is_some(), "{names}: neither a test nor why not");
            covered += functions;
        }
    }
    assert_eq!((covered, other), (229, 29), "the numbers at the top of {COVERAGE} say the same");
}

/// The words in backticks that look like the name of a test: three parts or more.
fn test_names(text: &str) -> impl Iterator<Item = &str> {
    let looks_like_a_test = |word: &&str| {
        word.split('_').filter(|part| !part.is_empty()).count() >= 3
            && word
                .chars()
                .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
    };
    text.split('`').skip(1).step_by(2).filter(looks_like_a_test)
}

/// All golden scripts and all functions of the crates.
fn known_names(root: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![root.join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if folder.ends_with("scripts") {
                names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                names.extend(functions(&path));
            }
        }
    }
    names
}

fn functions(file: &PathBuf) -> Vec<String> {
    let text = fs::read_to_string(file).expect("readable");
    let after_fn = text.split("fn ").skip(1);
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    // The searches of the exploration are made by a macro: `name sees 50_000 in …`.
    let searches = text.lines().filter_map(|line| line.split_once(" sees ").map(|(before, _)| before.trim()));
    after_fn.map(name).chain(searches.map(str::to_owned)).collect()
}
