//! Runs the interaction tests of etcd-io/raft on our core, and compares what they mean.
//!
//! ```text
//! cargo run -p quorate-core --example interaction -- FILE.txt…            prints what our core does
//! cargo run -p quorate-core --example interaction -- --check FILE.txt…    compares, and lists differences
//! cargo run -p quorate-core --example interaction -- --check FOLDER       all `.txt` files in it
//! ```
//!
//! ```text
//!   file ──► format ──► steps ──► cluster, node ──► said ──┐
//!                         │                                ├──► facts ──► compare ◄── deviations.txt
//!                         └──────────► expected ───────────┘
//! ```
//!
//! It exits with 0 when every file agrees but for reviewed deviations, with 1 when one does not, and
//! with 2 when one cannot be read or run.

#![expect(clippy::print_stdout, reason = "a command-line program")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

mod cluster;
mod compare;
#[expect(dead_code, reason = "the golden scripts use the rest")]
#[path = "../../tests/golden/disk.rs"]
mod disk;
mod expected;
mod facts;
mod format;
mod node;
mod said;
#[expect(dead_code, reason = "the golden scripts use the rest")]
#[path = "../../tests/golden/trace.rs"]
mod trace;
mod wish;

const DIFFERS: u8 = 1;
const UNREADABLE: u8 = 2;

fn main() -> ExitCode {
    let (mut checks, mut paths) = (false, Vec::new());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--check" => checks = true,
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    if paths.is_empty() {
        println!("usage: interaction [--check] FILE.txt… | FOLDER…");
        return ExitCode::from(UNREADABLE);
    }
    let mut worst = 0;
    for path in paths.iter().flat_map(|path| files(path)) {
        worst = worst.max(run(&path, checks));
    }
    ExitCode::from(worst)
}

/// The file itself, or the `.txt` files of a folder in order.
fn files(path: &Path) -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir(path) else { return vec![path.to_path_buf()] };
    let mut found: Vec<PathBuf> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|file| file.extension().is_some_and(|ending| ending == "txt"));
    found.sort();
    found
}

fn run(path: &Path, checks: bool) -> u8 {
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let outcome = match std::fs::read_to_string(path) {
        Ok(text) => compare::run(&name, &text, compare::REVIEWED),
        Err(error) => Err(error.to_string()),
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(what) => {
            println!("{name}: {what}");
            return UNREADABLE;
        }
    };
    if !checks {
        println!("{name}\n{}", outcome.text);
        return 0;
    }
    let verdict = if outcome.passes() { "agrees" } else { "differs" };
    let (lines, stretches) = (outcome.reviewed.len(), outcome.stretches);
    println!("{name}: {verdict}; reviewed: {lines} differences, {stretches} stretches in another order");
    for line in &outcome.new {
        println!("  new: {line}");
    }
    for line in &outcome.gone {
        println!("  listed, but gone: {line}");
    }
    if outcome.passes() { 0 } else { DIFFERS }
}
