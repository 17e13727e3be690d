//! Documents are part of the product: their links lead somewhere, and the files they name exist.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn relative_links_in_documents_lead_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut broken = Vec::new();
    for document in documents(&root) {
        let text = fs::read_to_string(&document).expect("readable");
        for target in links(&text) {
            let path = target.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let file = document.parent().expect("in a folder").join(path);
            if !file.exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn the_gate_runs_the_readmes_test_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md");
    let gate = fs::read_to_string(root.join(".ci/run")).expect(".ci/run");
    let command = "cargo test --workspace";
    assert!(readme.lines().any(|line| line.trim() == command), "README.md does not give `{command}` a line");
    assert!(gate.lines().any(|line| line.trim() == command), ".ci/run does not run `{command}`");
}

#[test]
fn the_readmes_example_is_the_one_that_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md")).expect("README.md");
    let example =
        fs::read_to_string(root.join("crates/quorate/examples/kv_40_lines.rs")).expect("the example");
    let code: String =
        example.lines().skip_while(|line| line.starts_with("//!")).map(|line| format!("{line}\n")).collect();
    assert!(readme.contains(code.trim()), "README.md and crates/quorate/examples/kv_40_lines.rs differ");
    let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
    assert!(lines <= 40, "the example of 40 lines has {lines}");
}

#[test]
fn write_path_files_exist_and_name_their_neighbours() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = [
        "quorate-client/src/client.rs",
        "quorate-server/src/service.rs",
        "quorate/src/raft.rs",
        "quorate-host/src/replica.rs",
        "quorate-core/src/leader.rs",
        "quorate-host/src/log_writer.rs",
        "quorate-core/src/follower.rs",
        "quorate-kv/src/data/state_machine.rs",
    ];
    for (step, file) in path.iter().enumerate() {
        let text = fs::read_to_string(root.join("crates").join(file)).expect(file);
        let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        let before = step.checked_sub(1).map(|previous| path[previous]);
        for neighbour in before.into_iter().chain(path.get(step + 1).copied()) {
            assert!(head.contains(neighbour), "the head of {file} does not name {neighbour}");
        }
    }
}

/// The Markdown files of the root and of docs/.
fn documents(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("docs")];
    let top = fs::read_dir(root).expect("the root").map(|entry| entry.expect("an entry").path());
    found.extend(top.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// The targets of `[text](target)`, outside code fences.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let mut rest = line;
        while let Some(start) = rest.find("](") {
            rest = &rest[start + 2..];
            if let Some(end) = rest.find(')') {
                found.push(rest[..end].trim().to_owned());
            }
        }
    }
    found
}

/// Every library's front page shows it at work, in an example that the tests run.
#[test]
fn every_front_page_has_an_example_that_runs() {
    let mut seen = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).expect("crates") {
        let page = entry.expect("a crate").path().join("src/lib.rs");
        let Ok(text) = fs::read_to_string(&page) else { continue };
        seen += 1;
        // Fences come in pairs; one that opens without a word is Rust to be run.
        let mut fences = text.lines().filter_map(|line| line.strip_prefix("//! ```"));
        let opening = std::iter::from_fn(|| {
            let opening = fences.next();
            fences.next();
            opening
        });
        assert!(opening.into_iter().any(str::is_empty), "{}: no example that runs", page.display());
    }
    assert_eq!(seen, 9);
}
