//! What a user of the library takes in: few crates of others, and no C code unless TLS is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The most crates of others that `quorate` may bring, build dependencies included.
const CRATES_MAX: usize = 45;
/// The same with every feature there is.
const CRATES_MAX_WITH_ALL: usize = 50;
/// Crates that build or look for code in other languages.
const COMPILERS: &[&str] = &["cc", "cmake", "bindgen", "pkg-config", "vcpkg", "autotools"];

#[test]
fn the_library_brings_few_crates_of_others() {
    let most =
        [("", CRATES_MAX), ("redb", CRATES_MAX), ("tls", CRATES_MAX), ("redb,tls", CRATES_MAX_WITH_ALL)];
    for (features, most) in most {
        let found = crates_of_others(features);
        let message = format!("with the features [{features}] there are {} of them: {found:?}", found.len());
        assert!((10..=most).contains(&found.len()), "{message}");
    }
}

#[test]
fn there_is_no_c_code_without_tls() {
    for features in ["", "redb"] {
        assert_eq!(foreign(features), BTreeSet::new(), "with the features [{features}]");
    }
    // What is looked for can be found: ring brings it along.
    assert!(foreign("tls").contains("ring"));
}

/// The crates that link code in other languages, or build it.
fn foreign(features: &str) -> BTreeSet<String> {
    let links = links();
    let is_foreign = |name: &String| COMPILERS.contains(&name.as_str()) || links.contains_key(name);
    crates_of_others(features).into_iter().filter(is_foreign).collect()
}

/// What `quorate` needs on this system, tests not counted.
fn crates_of_others(features: &str) -> BTreeSet<String> {
    let tree = ["tree", "--package", "quorate", "--features", features, "--edges", "normal,build"];
    let output = cargo(&[&tree[..], &["--prefix", "none", "--format", "{p}"]].concat());
    let names = output.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| !name.starts_with("quorate")).map(str::to_owned).collect()
}

/// The native library that a crate links, by the crate's name.
fn links() -> BTreeMap<String, String> {
    let metadata = cargo(&["metadata", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let linked = packages.iter().filter_map(|package| {
        Some((package["name"].as_str()?.to_owned(), package["links"].as_str()?.to_owned()))
    });
    linked.collect()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints text")
}
