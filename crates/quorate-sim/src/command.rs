//! The simulator as a command, for its own program and for `quorate sim`: one seed with its trace, or many with a
//! summary.

use std::io::{self, IsTerminal, Write};
use std::ops::Range;

use crate::damaged_log::flip_bytes;
use crate::minimise::minimise;
use crate::report::{Report, Summary};
use crate::run::{Options, run_seed};
use crate::trace::LEGEND;

/// How long the bar of a long run is, in characters.
const BAR_CHARACTERS: u64 = 40;

/// Replays one seed: legend, trace and what happened how often (not when `quiet`), verdict. Says whether it passed.
///
/// # Errors
/// `out` cannot be written.
pub fn replay(seed: u64, options: Options, quiet: bool, out: &mut dyn Write) -> io::Result<bool> {
    let report = run_seed(seed, &Options { keep_trace: !quiet, ..options });
    if !quiet {
        writeln!(out, "{LEGEND}\n")?;
        for line in &report.trace {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "\nwhat happened how often:\n{}", report.coverage)?;
    }
    writeln!(out, "{report}")?;
    Ok(report.passed())
}

/// How many seeds are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Stop at the first failure.
    pub until_failure: bool,
    /// Find out what the first failure needs.
    pub minimises: bool,
}

/// Runs many seeds: a bar on the terminal meanwhile, then the sums, and for the first failed seed what its failure
/// needs. Says which failed.
///
/// # Errors
/// `out` cannot be written.
pub fn many(seeds: Range<u64>, options: &Options, plan: Plan, out: &mut dyn Write) -> io::Result<Vec<u64>> {
    let mut summary = Summary::default();
    let (first, count) = (seeds.start, seeds.end.saturating_sub(seeds.start));
    let watched = io::stderr().is_terminal();
    for seed in seeds {
        let report = run_seed(seed, options);
        let failed = report.violation.clone();
        summary.add(report);
        if watched {
            // A bar that cannot be drawn is no reason to stop.
            drop(write!(io::stderr(), "\r{}", bar(seed + 1 - first, count, summary.failed.len())));
        }
        if let Some(violation) = failed {
            writeln!(out, "seed {seed}: {violation}")?;
            if plan.until_failure {
                break;
            }
        }
    }
    if watched {
        drop(writeln!(io::stderr()));
    }
    writeln!(out, "{summary}")?;
    if let Some(failed) = summary.failed.first().filter(|_| plan.minimises) {
        write!(out, "{}", smallest(failed.seed, options))?;
    }
    Ok(summary.failed.iter().map(|report| report.seed).collect())
}

/// Flips bits of a log (see [`flip_bytes`]). Says whether all was as it should be.
///
/// # Errors
/// `out` cannot be written.
pub fn flip(bytes: Range<u64>, out: &mut dyn Write) -> io::Result<bool> {
    match flip_bytes(bytes) {
        Ok(flips) => writeln!(out, "{flips}").map(|()| true),
        Err(what) => writeln!(out, "{what}").map(|()| false),
    }
}

/// The faults without which `seed` would not fail.
fn smallest(seed: u64, options: &Options) -> String {
    let Some(least) = minimise(seed, options) else { return String::new() };
    let mut text = format!("seed {seed} needs no more than this:\n");
    for fault in &least.faults {
        let what = if fault.what.is_empty() { "nothing" } else { &fault.what };
        text += &format!("  {:>6} ms  fault {:>2}: {what}\n", fault.at_millis, fault.number);
    }
    text + &said(&least)
}

fn said(report: &Report) -> String {
    let violation = report.violation.as_ref().map(ToString::to_string).unwrap_or_default();
    let (millis, replay) = (report.virtual_millis, &report.replay);
    format!("  {millis:>6} ms  {violation}\nreplay it with: cargo run --release -p quorate-sim -- {replay}\n")
}

fn bar(done: u64, of: u64, failed: usize) -> String {
    let filled = usize::try_from(done * BAR_CHARACTERS / of.max(1)).unwrap_or(0);
    let empty = usize::try_from(BAR_CHARACTERS).unwrap_or(0).saturating_sub(filled);
    format!("[{}{}] {done} of {of} seeds, {failed} failed", "#".repeat(filled), ".".repeat(empty))
}

/// `A..B`, without B. `None`: it is not written like that.
#[must_use]
pub fn seed_range(text: &str) -> Option<Range<u64>> {
    let (from, to) = text.split_once("..")?;
    let seeds = from.parse().ok()?..to.parse().ok()?;
    (!seeds.is_empty()).then_some(seeds)
}

/// `3,7,12`, or `none`: for `Options::only_faults`. `None`: it is not written like that.
#[must_use]
pub fn fault_numbers(text: &str) -> Option<std::collections::BTreeSet<u64>> {
    if text == "none" {
        return Some(std::collections::BTreeSet::new());
    }
    text.split(',').map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_up() {
        assert_eq!(bar(0, 10, 0), format!("[{}] 0 of 10 seeds, 0 failed", ".".repeat(40)));
        assert_eq!(bar(5, 10, 1), format!("[{}{}] 5 of 10 seeds, 1 failed", "#".repeat(20), ".".repeat(20)));
    }

    #[test]
    fn ranges_and_lists_are_read() {
        assert_eq!((seed_range("3..5"), seed_range("5")), (Some(3..5), None));
        assert_eq!((seed_range("5..5"), seed_range("5..1")), (None, None), "no run is no success");
        assert_eq!(fault_numbers("4,1"), Some([1, 4].into()));
        assert_eq!((fault_numbers("none"), fault_numbers("x")), (Some([].into()), None));
    }
}
