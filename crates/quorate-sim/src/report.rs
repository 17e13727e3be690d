//! What a run says about itself, and what many runs say together.

use std::fmt;

use crate::coverage::Coverage;
use crate::invariants::Violation;

/// One move of the fault injector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its number in the run, from 0 on.
    pub number: u64,
    /// When, in virtual milliseconds.
    pub at_millis: u64,
    /// What it did, as the trace says it; empty if it came to nothing.
    pub what: String,
}

/// The outcome of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What was violated, if anything.
    pub violation: Option<Violation>,
    /// What happened how often.
    pub coverage: Coverage,
    /// What the fault injector did.
    pub faults: Vec<Fault>,
    /// The arguments that make the simulator repeat this run.
    pub replay: String,
    /// A fingerprint of the whole trace: equal for two runs of one seed, byte for byte.
    pub fingerprint: u64,
    /// How many lines the trace has.
    pub lines: u64,
    /// Virtual time that passed, in milliseconds.
    pub virtual_millis: u64,
    /// The trace: all of it if `Options::keep_trace`, otherwise its end.
    pub trace: Vec<String>,
}

impl Report {
    /// Whether nothing was violated.
    #[must_use]
    pub const fn passed(&self) -> bool {
        self.violation.is_none()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, lines, virtual_millis, fingerprint, .. } = self;
        match &self.violation {
            None => write!(
                f,
                "seed {seed}: passed, {lines} trace lines, {virtual_millis} virtual ms, fingerprint {fingerprint:016x}"
            ),
            Some(violation) => {
                writeln!(f, "seed {seed}: VIOLATED after {virtual_millis} virtual ms\n  {violation}")?;
                writeln!(f, "the end of the trace:")?;
                for line in self.trace.iter().rev().take(40).rev() {
                    writeln!(f, "  {line}")?;
                }
                write!(f, "replay it with: cargo run --release -p quorate-sim -- {}", self.replay)
            }
        }
    }
}

/// Many runs together.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many seeds ran.
    pub runs: u64,
    /// The runs that violated something, with the ends of their traces.
    pub failed: Vec<Report>,
    /// The numbers of all runs.
    pub coverage: Coverage,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, report: Report) {
        self.runs += 1;
        self.coverage.merge(&report.coverage);
        if !report.passed() {
            self.failed.push(report);
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} runs, {} failed; over all of them:", self.runs, self.failed.len())?;
        write!(f, "{}", self.coverage)?;
        let missing = self.coverage.missing();
        let points = crate::coverage::POINTS.len();
        writeln!(f, "{} of {points} coverage points were met", points - missing.len())?;
        for what in missing {
            writeln!(f, "  this never happened: {what}")?;
        }
        for report in &self.failed {
            writeln!(f, "\n{report}")?;
        }
        Ok(())
    }
}
