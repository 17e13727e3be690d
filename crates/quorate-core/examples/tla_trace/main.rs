//! Writes the trace of a small cluster in the form that etcd-io/raft's TLA+ specification checks:
//!
//! ```sh
//! cargo run -p quorate-core --example tla_trace -- out.ndjson [seed]
//! ```
//!
//! `docs/tla.md` says what is in it and how to run the checker.

mod cluster;
mod story;
mod writer;

use std::process::ExitCode;

use quorate_core::EventDetail;
use writer::Writer;

const VOTERS: u64 = 3;
const STEPS: u64 = 30;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), seed) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: tla_trace OUT.ndjson [SEED]");
        return ExitCode::from(2);
    };
    let Ok(seed) = seed.as_deref().unwrap_or("1").parse() else {
        eprintln!("the seed is a number");
        return ExitCode::from(2);
    };
    let run = story::run(seed, VOTERS, STEPS, EventDetail::Trace);
    let mut writer = Writer::new(VOTERS);
    for (id, told) in &run.told {
        writer.take(*id, told);
    }
    if let Some(why) = writer.ended {
        eprintln!("the trace ends after {} lines: {why}", writer.lines.len());
    }
    for (id, _) in run.cores() {
        if let Some(end) = writer.shadow(id) {
            eprintln!(
                "replica {id} ends in term {} with {} of {} entries committed",
                end.term, end.commit, end.last
            );
        }
    }
    let text: String = writer.lines.iter().map(|line| format!("{line}\n")).collect();
    match std::fs::write(&path, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{path}: {error}");
            ExitCode::FAILURE
        }
    }
}
