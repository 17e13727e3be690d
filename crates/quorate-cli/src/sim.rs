//! `quorate sim`: the simulator, for whoever has the program and not the source.

use std::ops::Range;

use quorate_sim::{LEGEND, Options, run_seed, run_seeds};

use crate::args::SimArgs;
use crate::failure::Failure;
use crate::output;

/// `sim`: one seed with its trace, or many with a summary.
pub(crate) fn run(args: &SimArgs) -> Result<(), Failure> {
    let options = Options { fault_millis: args.fault_millis, wishes: args.wishes, ..Options::default() };
    match (args.seed, &args.seeds) {
        (Some(seed), _) => replay(seed, args.quiet, options),
        (None, Some(seeds)) => many(seeds.clone(), &options),
        (None, None) => Err(Failure::usage("say --seed N for one run or --seeds A..B for many")),
    }
}

fn replay(seed: u64, quiet: bool, options: Options) -> Result<(), Failure> {
    let report = run_seed(seed, &Options { keep_trace: !quiet, ..options });
    if !quiet {
        output::line(format!("{LEGEND}\n"))?;
        for line in &report.trace {
            output::line(line)?;
        }
        output::line(format!("\nwhat happened how often:\n{}", report.coverage))?;
    }
    output::line(&report)?;
    if report.passed() { Ok(()) } else { Err(Failure::error(format!("seed {seed} violated an invariant"))) }
}

fn many(seeds: Range<u64>, options: &Options) -> Result<(), Failure> {
    let mut printed = Ok(());
    let summary = run_seeds(seeds, options, |report| {
        if let Some(violation) = &report.violation {
            let line = output::line(format!("seed {}: {violation}", report.seed));
            printed = printed.clone().and(line);
        }
    });
    printed?;
    output::line(&summary)?;
    match summary.failed.as_slice() {
        [] => Ok(()),
        [first, ..] => {
            let (failed, seed) = (summary.failed.len(), first.seed);
            Err(Failure::error(format!("{failed} runs violated invariants: replay one with --seed {seed}")))
        }
    }
}

/// `A..B`, without B.
pub(crate) fn seed_range(text: &str) -> Result<Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.ok_or_else(|| "write a range of seeds, for example 0..200".to_owned())
}
