//! `docs/from-hashicorp.md` and `docs/from-openraft.md` leave no name out, and the names they give for them exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const HASHICORP: &str = "docs/from-hashicorp.md";
const OPENRAFT: &str = "docs/from-openraft.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The identifiers in a text.
fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty())
}

/// What stands in backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The cells of the rows of all tables.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = page.lines().filter(|line| line.starts_with("| "));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect())
}

fn every_name_is_on(page: &str, names: &str) {
    let text = fs::read_to_string(root().join(page)).expect(page);
    // Theirs is the first column: what our own names happen to contain does not count.
    let named: BTreeSet<&str> = rows(&text)
        .flat_map(|row| spans(row[0]).flat_map(|span| identifiers(span).chain([span])).collect::<Vec<_>>())
        .collect();
    let missing: Vec<&str> = names.lines().filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "{page} does not say what becomes of {missing:?}");
}

#[test]
fn every_name_of_hashicorp_raft_is_on_its_page() {
    every_name_is_on(HASHICORP, include_str!("hashicorp_raft_names.txt"));
}

#[test]
fn every_name_of_openraft_is_on_its_page() {
    every_name_is_on(OPENRAFT, include_str!("openraft_names.txt"));
}

/// The identifiers of each source file.
fn sources() -> Vec<BTreeSet<String>> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).expect("readable");
                sources.push(identifiers(&text).map(str::to_owned).collect());
            }
        }
    }
    sources
}

/// `Type::name` stands for both words in one file. (`CoreConfig` is what the library calls the core's `Config`.)
#[test]
fn the_names_given_for_them_exist() {
    let sources = sources();
    let exists = |span: &str| {
        let span = span.replace("CoreConfig::", "Config::");
        sources.iter().any(|known| identifiers(&span).all(|name| known.contains(name)))
    };
    for page in [HASHICORP, OPENRAFT] {
        let text = fs::read_to_string(root().join(page)).expect(page);
        let ours = rows(&text).filter_map(|row| row.get(1).copied());
        let unknown: Vec<&str> =
            ours.flat_map(spans).filter(|span| !span.contains(['/', ' ', '-']) && !exists(span)).collect();
        assert!(unknown.is_empty(), "{page} names what does not exist: {unknown:?}");
    }
}
