//! `docs/from-etcd-raft.md` leaves no name out, and the names it gives for them exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const PAGE: &str = "docs/from-etcd-raft.md";

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(PAGE)).expect(PAGE)
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

#[test]
fn every_name_of_the_others_is_on_the_page() {
    let page = page();
    let named: BTreeSet<&str> = spans(&page).flat_map(identifiers).collect();
    let missing: Vec<&str> =
        include_str!("etcd_raft_names.txt").lines().filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "{PAGE} does not say what becomes of {missing:?}");
}

#[test]
fn the_names_given_for_them_exist() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../quorate-core/src");
    let source: String = fs::read_dir(core)
        .expect("the core's source")
        .map(|file| fs::read_to_string(file.expect("a file").path()).expect("readable"))
        .collect();
    let known: BTreeSet<&str> = identifiers(&source).collect();
    let page = page();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    // The first column is theirs.
    let ours = rows.filter_map(|row| row.get(2..)?.split_once(" | ")).flat_map(|(_, ours)| spans(ours));
    let unknown: Vec<&str> = ours
        .filter(|span| span.contains("::") && !span.starts_with("quorate::"))
        .filter(|span| identifiers(span).any(|name| !known.contains(name)))
        .collect();
    assert!(unknown.is_empty(), "{PAGE} names what does not exist: {unknown:?}");
}
