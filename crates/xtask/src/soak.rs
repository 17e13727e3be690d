//! `cargo xtask soak --minutes N`: everything that looks for bugs by chance, in turns, for as long as there is time.
//!
//! ```text
//!   short seeds ──► long seeds ──► one story of chaos ──► short seeds ──► … until the time is up
//!        └───────────────┴─────────────────┴──► a line each in docs/seeds.tsv; the first failure ends it
//! ```
//!
//! What was run is written down, so that the next run takes other seeds and a reader sees what a version has
//! stood. A failure prints the one command that shows it again.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::{seeds, workspace};

/// The ledger: which seeds were run when, of everything that has seeds.
const LEDGER: &str = "docs/seeds.tsv";
const LEDGER_HEAD: &str = "date\tcommit\tkind\tfrom\tto\tfailures\tseconds\n";
/// How many seeds are one turn.
const SHORT_SEEDS: u64 = 200;
const LONG_SEEDS: u64 = 10;
/// The stories of `crates/quorate-cli/tests/chaos`, one each turn.
const STORIES: &[&str] = &[
    "kills::kill_storm_loses_nothing_that_was_acknowledged",
    "disks::failing_and_slow_syncs_stop_who_cannot_promise_and_lose_nothing",
    "disks::full_disks_lose_nothing_and_go_on_when_there_is_space",
    "disks::disks_that_run_low_stop_nobody_and_go_on_by_themselves",
    "namespaces::lost_packets_lose_nothing_and_show_nothing_stale",
    "noise::noise_on_the_wires_is_noticed_and_survived",
    "partitions::cut_wires_lose_nothing_and_show_nothing_stale",
    "pause::leader_that_stood_still_gives_no_stale_answers",
];

/// What has seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Short,
    Long,
    Chaos(&'static str),
}

/// Some seeds of one kind: from, and to without the last.
#[derive(Clone, Copy, Debug)]
struct Turn {
    kind: Kind,
    from: u64,
    to: u64,
}

/// What is run: words to which those of a turn are added.
struct Programs {
    simulator: Vec<String>,
    chaos: Vec<String>,
}

/// How a turn ended.
struct Ended {
    failed: Option<Failed>,
    took: Duration,
}

struct Failed {
    what: String,
    replay: String,
}

/// `cargo xtask soak [--minutes N] [--seed S]`.
pub(crate) fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let (mut minutes, mut seed) = (10, None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let value = rest.next().ok_or_else(|| format!("{argument} needs a number"))?.parse()?;
        match argument.as_str() {
            "--minutes" => minutes = value,
            "--seed" => seed = Some(value),
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    // Other seeds every second, far from those that tests use.
    let seed = seed.unwrap_or_else(|| {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    });
    let programs = build()?;
    let commit = commit()?;
    let ledger = workspace().join(LEDGER);
    eprintln!("soaking {commit} for {minutes} minutes, from seed {seed}; every turn is noted in {LEDGER}");
    let turns = soak(&programs, Duration::from_secs(60 * minutes), seed, &ledger, &commit)?;
    eprintln!("{turns} turns, no failure");
    Ok(())
}

/// Takes turns until `time` is over, at least one of each kind. Says how many; the first failure is an error.
fn soak(
    programs: &Programs,
    time: Duration,
    seed: u64,
    ledger: &Path,
    commit: &str,
) -> Result<usize, Box<dyn Error>> {
    let begun = Instant::now();
    let mut turns = 0;
    for cycle in 0_u64.. {
        let story = STORIES[usize::try_from(cycle)? % STORIES.len()];
        for (kind, count) in [(Kind::Short, SHORT_SEEDS), (Kind::Long, LONG_SEEDS), (Kind::Chaos(story), 1)] {
            if cycle > 0 && begun.elapsed() >= time {
                return Ok(turns);
            }
            let from = seed + cycle * count;
            let turn = Turn { kind, from, to: from + count };
            let ended = take(programs, turn)?;
            turns += 1;
            note(ledger, commit, turn, &ended)?;
            if let Some(failed) = ended.failed {
                return Err(format!("{}\nreplay it with: {}", failed.what, failed.replay).into());
            }
            eprintln!("{:.0?} of {time:?}: {} {from}..{} passed", begun.elapsed(), kind.name(), turn.to);
        }
    }
    Ok(turns)
}

impl Kind {
    fn name(self) -> String {
        match self {
            Self::Short => "short".to_owned(),
            Self::Long => "swarm".to_owned(),
            Self::Chaos(story) => format!("chaos {}", bare(story)),
        }
    }
}

/// A test's name without its module.
fn bare(story: &str) -> &str {
    story.rsplit("::").next().unwrap_or(story)
}

fn take(programs: &Programs, turn: Turn) -> Result<Ended, Box<dyn Error>> {
    let begun = Instant::now();
    let failed = match turn.kind {
        Kind::Short => simulate(&programs.simulator, turn, &[])?,
        Kind::Long => simulate(&programs.simulator, turn, &["--long"])?,
        Kind::Chaos(story) => break_processes(&programs.chaos, story, turn.from)?,
    };
    Ok(Ended { failed, took: begun.elapsed() })
}

fn simulate(program: &[String], turn: Turn, more: &[&str]) -> Result<Option<Failed>, Box<dyn Error>> {
    let seeds = format!("{}..{}", turn.from, turn.to);
    let output = command(program)?
        .args(["--seeds", &seeds, "--until-failure"])
        .args(more)
        .stderr(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let seed = text.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(": "));
    let Some((seed, _)) = seed else {
        return Err(format!("the simulator ended with {}:\n{text}", output.status).into());
    };
    let mut replay = format!("cargo run --release -p quorate-sim -- --seed {seed}");
    for word in more {
        write!(replay, " {word}")?;
    }
    Ok(Some(Failed { what: text, replay }))
}

fn break_processes(program: &[String], story: &str, seed: u64) -> Result<Option<Failed>, Box<dyn Error>> {
    let output = command(program)?
        .args(["--exact", story, "--nocapture"])
        .env("QUORATE_CHAOS", "all")
        .env("QUORATE_CHAOS_SEED", seed.to_string())
        .output()?;
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        // A story that was renamed would pass by not being there.
        return if said.contains("1 passed") { Ok(None) } else { Err(format!("no story {story}").into()) };
    }
    let replay = format!(
        "QUORATE_CHAOS=all QUORATE_CHAOS_SEED={seed} cargo test -p quorate-cli --test chaos -- --exact {story} --nocapture"
    );
    Ok(Some(Failed { what: format!("{said}\n{told}"), replay }))
}

fn command(words: &[String]) -> Result<Command, Box<dyn Error>> {
    let (program, arguments) = words.split_first().ok_or("a program has a name")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace());
    Ok(command)
}

/// Appends a line to the ledger.
fn note(ledger: &Path, commit: &str, turn: Turn, ended: &Ended) -> Result<(), Box<dyn Error>> {
    let is_new = !ledger.exists();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(ledger)?;
    if is_new {
        file.write_all(LEDGER_HEAD.as_bytes())?;
    }
    let (date, kind, failures) = (said_by("date", &["-u", "+%F"])?, turn.kind.name(), ended.failed.is_some());
    let Turn { from, to, .. } = turn;
    let seconds = ended.took.as_secs();
    let line = format!("{date}\t{commit}\t{kind}\t{from}\t{to}\t{}\t{seconds}\n", u8::from(failures));
    file.write_all(line.as_bytes())?;
    Ok(())
}

/// The commit, with a plus if something else is built than what it says.
fn commit() -> Result<String, Box<dyn Error>> {
    let hash = said_by("git", &["rev-parse", "--short", "HEAD"])?;
    let changed = said_by("git", &["status", "--porcelain", "--", ".", &format!(":!{LEDGER}")])?;
    Ok(if changed.is_empty() { hash } else { hash + "+" })
}

fn said_by(program: &str, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let output = Command::new(program).args(arguments).current_dir(workspace()).output()?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Both with all their assertions.
fn build() -> Result<Programs, Box<dyn Error>> {
    let simulator = seeds::build("seeds")?.display().to_string();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let chaos = [&cargo, "test", "--locked", "-p", "quorate-cli", "--test", "chaos"].map(str::to_owned);
    if !command(&chaos)?.args(["--quiet", "--no-run"]).status()?.success() {
        return Err("the build failed".into());
    }
    Ok(Programs { simulator: vec![simulator], chaos: [&chaos[..], &["--".to_owned()]].concat() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use super::*;

    /// Programs that say what is wanted of them, and a ledger, in a folder of their own.
    struct Scene {
        folder: PathBuf,
        programs: Programs,
    }

    impl Scene {
        fn new(name: &str, simulator: &str, chaos: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("quorate-soak-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let shell = |script: &str| ["sh", "-c", script, "program"].map(str::to_owned).to_vec();
            Self { folder, programs: Programs { simulator: shell(simulator), chaos: shell(chaos) } }
        }

        fn soak(&self) -> Result<usize, String> {
            let soaked =
                soak(&self.programs, Duration::ZERO, 7_000, &self.folder.join("seeds.tsv"), "abc1234");
            soaked.map_err(|error| error.to_string())
        }

        /// The ledger without its dates.
        fn ledger(&self) -> Vec<String> {
            let text = std::fs::read_to_string(self.folder.join("seeds.tsv")).unwrap();
            text.lines().map(|line| line.split_once('\t').unwrap().1.to_owned()).collect()
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.folder).unwrap();
        }
    }

    const PASSES: &str = "echo 'test result: ok. 1 passed; 0 failed'";

    #[test]
    fn smallest_budget_is_one_turn_of_each_kind_and_a_line_for_each() {
        let scene = Scene::new("passes", PASSES, PASSES);
        assert_eq!(scene.soak(), Ok(3));
        assert_eq!(scene.soak(), Ok(3));
        let ledger = scene.ledger();
        assert_eq!(ledger[0], "commit\tkind\tfrom\tto\tfailures\tseconds");
        assert_eq!(ledger.len(), 7, "one head only: {ledger:?}");
        assert_eq!(ledger[1], "abc1234\tshort\t7000\t7200\t0\t0");
        assert_eq!(ledger[2], "abc1234\tswarm\t7000\t7010\t0\t0");
        assert!(ledger[3].starts_with("abc1234\tchaos kill_storm_"), "{ledger:?}");
    }

    #[test]
    fn first_failure_ends_it_with_the_command_that_shows_it_again() {
        let fails_when_long =
            r#"case "$*" in *--long*) echo "seed 7003: two leaders in term 4"; exit 1;; esac"#;
        let scene = Scene::new("long", fails_when_long, PASSES);
        let failure = scene.soak().unwrap_err();
        assert!(failure.contains("two leaders in term 4"), "{failure}");
        let replay = "replay it with: cargo run --release -p quorate-sim -- --seed 7003 --long";
        assert!(failure.ends_with(replay), "{failure}");
        assert_eq!(scene.ledger().last().unwrap(), "abc1234\tswarm\t7000\t7010\t1\t0");

        let fails = r#"echo "seed $QUORATE_CHAOS_SEED: a stale answer"; exit 101"#;
        let scene = Scene::new("chaos", PASSES, fails);
        let failure = scene.soak().unwrap_err();
        assert!(failure.contains("seed 7000: a stale answer"), "{failure}");
        let command = failure.lines().last().unwrap();
        let replay = "QUORATE_CHAOS=all QUORATE_CHAOS_SEED=7000 cargo test -p quorate-cli --test chaos -- --exact kills::";
        assert!(command.contains(replay), "{failure}");
    }

    #[test]
    fn story_that_does_not_exist_does_not_pass() {
        let scene = Scene::new("nothing", PASSES, "echo 'test result: ok. 0 passed; 0 failed'");
        assert!(scene.soak().unwrap_err().contains("no story"));
    }

    #[test]
    fn every_story_of_chaos_has_its_turn() {
        let folder = workspace().join("crates/quorate-cli/tests/chaos");
        let mut stories = BTreeSet::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let module = path.file_stem().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let tests = text.split("#[test]\nfn ").skip(1).filter_map(|test| test.split_once('('));
            // Chance is tested too, but no story.
            stories.extend(tests.map(|(name, _)| format!("{module}::{name}")).filter(|_| module != "dice"));
        }
        assert_eq!(stories, STORIES.iter().map(|&story| story.to_owned()).collect());
    }
}
