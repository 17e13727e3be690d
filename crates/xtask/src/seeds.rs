//! `cargo xtask seeds`: many worlds of the simulator, on every core, with one line for the ledger.
//!
//! ```text
//!   profile `seeds` (optimised, with every assertion) ──► the same traces as the debug build?
//!        ├──► every byte of a log of 64 KiB flipped, once each: noticed or harmless?
//!        └──► short seeds, swarm seeds, cut into pieces ──► a process per core ──► all passed?
//! ```
//!
//! A short seed is eight virtual seconds of faults and 150 operations; a swarm seed a minute and a thousand,
//! in which logs wrap, groups grow and shrink and snapshots overtake each other. `docs/seeds.tsv` says which
//! ranges were run when.

use std::collections::VecDeque;
use std::error::Error;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::workspace;

/// What the gate runs.
const GATE_SHORT: Range<u64> = 0..2_000;
const GATE_SWARM: Range<u64> = 0..100;
/// Seeds whose traces must be the same, byte for byte, in a debug build.
const COMPARED: [u64; 4] = [1, 7, 42, 1_234];
/// As long as the log of `quorate-sim --flip`.
const FLIPPED_BYTES: u64 = 64 << 10;
/// How many short seeds a process takes at a time; of swarm seeds a tenth.
const PIECE: u64 = 250;

/// One kind of world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Short,
    Swarm,
}

impl Kind {
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Short => &[],
            Self::Swarm => &["--long"],
        }
    }

    const fn piece(self) -> u64 {
        match self {
            Self::Short => PIECE,
            Self::Swarm => PIECE / 10,
        }
    }
}

/// Some seeds of one kind, run by one process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    kind: Kind,
    seeds: Range<u64>,
}

/// `cargo xtask seeds [--short A..B] [--swarm A..B] [--processes N]`.
pub(crate) fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let (mut short, mut swarm) = (None, None);
    let mut processes = std::thread::available_parallelism().map_or(1, usize::from);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--short" => short = Some(range(value)?),
            "--swarm" => swarm = Some(range(value)?),
            "--processes" => processes = value.parse()?,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let is_whole = short.is_none() && swarm.is_none();
    if is_whole {
        (short, swarm) = (Some(GATE_SHORT), Some(GATE_SWARM));
    }
    let (short, swarm) = (short.unwrap_or(0..0), swarm.unwrap_or(0..0));
    let program = build("seeds")?;
    compare_traces(&program, &build("dev")?)?;
    if is_whole {
        flip_every_byte(&program, processes)?;
    }
    let begun = Instant::now();
    let failed = run_pieces(&program, processes, pieces(&short, &swarm))?;
    let took = Duration::from_secs(begun.elapsed().as_secs());
    eprintln!("short seeds {short:?}, swarm seeds {swarm:?}: {} failed, {took:?}", failed.len());
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}

fn range(text: &str) -> Result<Range<u64>, Box<dyn Error>> {
    let (from, to) = text.split_once("..").ok_or_else(|| format!("{text} is not a range like 0..2000"))?;
    Ok(from.parse()?..to.parse()?)
}

/// The long ones first, so that all processes end at about the same time.
fn pieces(short: &Range<u64>, swarm: &Range<u64>) -> VecDeque<Piece> {
    let cut = |kind: Kind, seeds: &Range<u64>| {
        let end = seeds.end;
        let starts = seeds.clone().step_by(usize::try_from(kind.piece()).unwrap_or(1));
        starts.map(move |from| Piece { kind, seeds: from..end.min(from + kind.piece()) }).collect::<Vec<_>>()
    };
    cut(Kind::Swarm, swarm).into_iter().chain(cut(Kind::Short, short)).collect()
}

/// Builds the simulator in a profile and says where it is.
pub(crate) fn build(profile: &str) -> Result<PathBuf, Box<dyn Error>> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--profile", profile, "-p", "quorate-sim"])
        .current_dir(workspace())
        .status()?;
    let folder = if profile == "dev" { "debug" } else { profile };
    if status.success() {
        Ok(target.join(folder).join("quorate-sim"))
    } else {
        Err("the build failed".into())
    }
}

/// One seed is one run, whatever the compiler did.
fn compare_traces(one: &PathBuf, other: &PathBuf) -> Result<(), Box<dyn Error>> {
    for seed in COMPARED {
        let verdict = |program: &PathBuf| -> Result<String, Box<dyn Error>> {
            let output = Command::new(program).args(["--quiet", "--seed", &seed.to_string()]).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (one, other) = (verdict(one)?, verdict(other)?);
        if one != other {
            return Err(format!("seed {seed} depends on the build:\n  {one}  {other}").into());
        }
    }
    Ok(())
}

/// Every byte of a log of 64 KiB, a part of them by each process.
fn flip_every_byte(program: &PathBuf, processes: usize) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let part = FLIPPED_BYTES.div_ceil(processes.max(1) as u64);
    let starts = (0..FLIPPED_BYTES).step_by(usize::try_from(part)?);
    let parts: Vec<_> = starts
        .map(|from| {
            let bytes = format!("{from}..{}", FLIPPED_BYTES.min(from + part));
            Command::new(program).args(["--flip", &bytes]).stdout(Stdio::piped()).spawn()
        })
        .collect();
    let mut flipped = 0;
    for part in parts {
        let output = part?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Err(text.into());
        }
        flipped += text.split(' ').next().map_or(Ok(0), str::parse::<u64>)?;
        eprint!("{text}");
    }
    if flipped != FLIPPED_BYTES {
        return Err(format!("{flipped} bytes were flipped instead of {FLIPPED_BYTES}").into());
    }
    eprintln!("every byte of a log of 64 KiB: {:?}", Duration::from_secs(begun.elapsed().as_secs()));
    Ok(())
}

/// Every process takes the next piece when it is done with one. Says what failed.
fn run_pieces(
    program: &PathBuf,
    processes: usize,
    pieces: VecDeque<Piece>,
) -> Result<Vec<String>, Box<dyn Error>> {
    let (pieces, results) = (Mutex::new(pieces), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..processes {
            scope.spawn(|| {
                while let Some(piece) = pieces.lock().ok().and_then(|mut pieces| pieces.pop_front()) {
                    let result = run_piece(program, &piece);
                    if let Ok(mut results) = results.lock() {
                        results.push(result);
                    }
                }
            });
        }
    });
    let results = results.into_inner().map_err(|_| "a thread panicked")?;
    Ok(results.into_iter().collect::<Result<Vec<_>, String>>()?.into_iter().flatten().collect())
}

fn run_piece(program: &PathBuf, piece: &Piece) -> Result<Vec<String>, String> {
    let Range { start, end } = piece.seeds;
    let output = Command::new(program)
        .args(["--no-minimise", "--seeds", &format!("{start}..{end}")])
        .args(piece.kind.arguments())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let replay =
        ["cargo run --release -p quorate-sim --"].into_iter().chain(piece.kind.arguments().iter().copied());
    let replay = replay.collect::<Vec<_>>().join(" ");
    let failed = text.lines().filter_map(|line| {
        let (seed, how) = line.strip_prefix("seed ")?.split_once(": ")?;
        // The end of its trace is printed again below the sums.
        (!how.starts_with("VIOLATED"))
            .then(|| format!("seed {seed}: {how}\n  replay it with: {replay} --seed {seed}"))
    });
    let failed: Vec<String> = failed.collect();
    let ran = text.lines().any(|line| line.starts_with(&format!("{} runs, ", end - start)));
    if ran && output.status.success() == failed.is_empty() {
        Ok(failed)
    } else {
        Err(format!("the simulator ended with {} at {piece:?}:\n{text}", output.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_in_one_piece() {
        let pieces = pieces(&(3..600), &(10..60));
        let of = |kind: Kind| {
            pieces.iter().filter(move |piece| piece.kind == kind).map(|piece| piece.seeds.clone())
        };
        assert_eq!(of(Kind::Short).collect::<Vec<_>>(), [3..253, 253..503, 503..600]);
        assert_eq!(of(Kind::Swarm).collect::<Vec<_>>(), [10..35, 35..60]);
        assert_eq!(range("5..7").unwrap(), 5..7);
        assert!(range("5").is_err());
    }
}
