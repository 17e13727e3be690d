//! The example of the front page runs, and what it wrote is there when it runs again.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::path::PathBuf;
use std::process::Command;

/// Cargo builds examples before it runs tests, and puts them next to the tests.
fn example() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(format!("kv_40_lines{}", std::env::consts::EXE_SUFFIX))
}

#[test]
fn the_example_finds_its_data_when_it_runs_again() {
    let directory = tempfile::tempdir().unwrap();
    let run = || {
        let output = Command::new(example()).current_dir(directory.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        text
    };
    assert!(run().contains(r#"read b"hello", before that it was b"""#));
    assert!(run().contains(r#"read b"hello", before that it was b"hello""#));
}
