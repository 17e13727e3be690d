//! `cargo xtask mutants`: does the simulator find the bugs that were planted on purpose?
//!
//! ```text
//!   crates/quorate-sim/planted.txt     the list: a name and what it breaks
//!   planted("name") in the product     the places; a constant `false` but in this build
//!   target/mutants                     the only folder that such a build ever goes to
//! ```
//!
//! Builds the simulator once with `--cfg quorate_mutants` in the profile `mutants`, sees that it finds nothing while
//! nothing is turned on, then turns on one bug at a time and runs seeds until one fails.

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::workspace;

/// Seeds that must pass with nothing turned on.
const CLEAN_SEEDS: &str = "0..30";
/// How many seeds a bug may hide in, unless the command says otherwise.
const SEEDS_MAX: u64 = 2_000;
/// How many of them the gate looks for, another few every day.
const GATE_BUGS: usize = 6;

/// A planted bug.
struct Bug {
    name: String,
    breaks: String,
}

/// How one bug was found.
struct Found {
    seed: u64,
    how: String,
}

/// `cargo xtask mutants [--gate] [--only NAME] [--seeds N]`.
pub(crate) fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let (mut chosen, mut seeds) = (listed()?, SEEDS_MAX);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--gate" => chosen = of_today(chosen),
            "--only" => {
                let name = rest.next().ok_or("--only needs a name")?;
                chosen.retain(|bug| bug.name == *name);
            }
            "--seeds" => seeds = rest.next().ok_or("--seeds needs a number")?.parse()?,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let program = build()?;
    if let Some(found) = hunt(&program, "none of them", CLEAN_SEEDS)? {
        return Err(format!("seed {} fails with nothing planted: {}", found.seed, found.how).into());
    }
    let mut hidden = Vec::new();
    for bug in chosen {
        let begun = Instant::now();
        let took =
            |begun: Instant| Duration::from_millis(u64::try_from(begun.elapsed().as_millis()).unwrap_or(0));
        match hunt(&program, &bug.name, &format!("0..{seeds}"))? {
            Some(Found { seed, how }) => {
                let how: String = how.chars().take(70).collect();
                eprintln!("{:34} seed {seed:>4} {:>8.1?}  {how}", bug.name, took(begun));
            }
            None => {
                eprintln!("{:34} NOT FOUND {:>6.1?}  {}", bug.name, took(begun), bug.breaks);
                hidden.push(bug.name);
            }
        }
    }
    if hidden.is_empty() { Ok(()) } else { Err(format!("not found: {}", hidden.join(", ")).into()) }
}

fn listed() -> Result<Vec<Bug>, Box<dyn Error>> {
    let text = std::fs::read_to_string(workspace().join("crates/quorate-sim/planted.txt"))?;
    let bugs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(bugs.map(|(name, breaks)| Bug { name: name.to_owned(), breaks: breaks.trim().to_owned() }).collect())
}

/// A few of the list, others every day.
fn of_today(mut bugs: Vec<Bug>) -> Vec<Bug> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let day = usize::try_from(since.as_secs() / 86_400).unwrap_or(0);
    let first = day * GATE_BUGS % bugs.len().max(1);
    bugs.rotate_left(first);
    bugs.truncate(GATE_BUGS);
    bugs
}

/// Builds the simulator with the bugs in it and says where it is.
fn build() -> Result<PathBuf, Box<dyn Error>> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let target = target.join("mutants");
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default() + " --cfg quorate_mutants";
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--profile", "mutants", "-p", "quorate-sim", "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", flags.trim())
        .current_dir(workspace())
        .status()?;
    if status.success() { Ok(target.join("mutants/quorate-sim")) } else { Err("the build failed".into()) }
}

/// Runs seeds until one fails.
fn hunt(program: &PathBuf, name: &str, seeds: &str) -> Result<Option<Found>, Box<dyn Error>> {
    let output = Command::new(program)
        .args(["--seeds", seeds, "--until-failure", "--no-minimise"])
        .env("QUORATE_MUTANT", name)
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(": "));
    match line {
        Some((seed, how)) => Ok(Some(Found { seed: seed.parse()?, how: how.to_owned() })),
        None if output.status.success() => Ok(None),
        None => Err(format!("the simulator ended with {}", output.status).into()),
    }
}
