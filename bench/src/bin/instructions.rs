//! Instructions per entry, counted by callgrind: the same on every run of the same binary.
//!
//! ```text
//!   instructions              starts itself under valgrind once per case and prints the table
//!   instructions round        only the cases whose name begins so
//!   instructions WHO CASE …   does one case, with all its work inside `measured`
//! ```

use std::process::{Command, ExitCode};

use bytes::Bytes;
use quorate_bench::ours::Ours;
use quorate_bench::theirs::Theirs;
use quorate_bench::{Group, measured};

/// Enough to pass a compaction or two; the first ones warm up.
const ENTRIES: u64 = 4096;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        [] => table(""),
        [case] => table(case),
        [who, case, voters, bytes, batch] => {
            let number = |word: &str| word.parse().expect("a number");
            let (voters, bytes, batch) = (number(voters), number(bytes), number(batch));
            match *who {
                Ours::NAME => one::<Ours>(case, voters, bytes, batch),
                _ => one::<Theirs>(case, voters, bytes, batch),
            }
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

fn one<G: Group>(case: &str, voters: u64, bytes: u64, batch: u64) {
    let command = Bytes::from(vec![7; usize::try_from(bytes).expect("small")]);
    let mut group = G::new(voters);
    let rounds = ENTRIES / batch;
    for round in 0..rounds * 2 {
        let warm = round >= rounds;
        match case {
            "round" if warm => measured(|| group.round(&command, batch)),
            "round" => group.round(&command, batch),
            "append" => {
                group.prepare_append(&command, batch);
                if warm {
                    measured(|| group.handle_append())
                } else {
                    group.handle_append()
                };
                group.settle();
            }
            "quorum" if warm => drop(measured(|| group.quorum_index())),
            "status" if warm => drop(measured(|| group.status())),
            _ => {}
        }
    }
}

/// Instructions inside `measured`, per entry.
fn count(who: &str, case: &str, shape: (u64, u64, u64)) -> f64 {
    let this = std::env::current_exe().expect("this program has a path");
    let (voters, bytes, batch) = shape;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=quorate_bench::measured*")
        .arg(this)
        .args([who, case, &voters.to_string(), &bytes.to_string(), &batch.to_string()])
        .output()
        .expect("valgrind is installed");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected = text.lines().find_map(|line| line.split("Collected :").nth(1));
    let collected: u32 = collected.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{text}"));
    f64::from(collected) / f64::from(u32::try_from(ENTRIES).expect("small"))
}

fn table(only: &str) -> ExitCode {
    println!("| work | voters | bytes | batch | quorate | raft-rs | ratio |");
    println!("|---|---|---|---|---|---|---|");
    let rounds = [1, 3, 5, 7].into_iter().flat_map(|voters| {
        [(voters, 3, 1), (voters, 3, 64), (voters, 256, 1), (voters, 256, 64)].map(|shape| ("round", shape))
    });
    let others =
        [("append", (3, 3, 64)), ("append", (3, 256, 64)), ("quorum", (7, 3, 1)), ("status", (3, 3, 1))];
    for (case, shape) in rounds.chain(others).filter(|(case, _)| case.starts_with(only)) {
        let (ours, theirs) = (count(Ours::NAME, case, shape), count(Theirs::NAME, case, shape));
        let (voters, bytes, batch) = shape;
        println!(
            "| {case} | {voters} | {bytes} | {batch} | {ours:.0} | {theirs:.0} | {:.2} |",
            ours / theirs
        );
    }
    ExitCode::SUCCESS
}
