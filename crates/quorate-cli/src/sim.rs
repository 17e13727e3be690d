//! `quorate sim`: the simulator, for whoever has the program and not the source.

use std::io;
use std::ops::Range;

use quorate_sim::{Options, command};

use crate::args::SimArgs;
use crate::failure::Failure;

/// `sim`: one seed with its trace, or many with a summary.
pub(crate) fn run(args: &SimArgs) -> Result<(), Failure> {
    let options = Options {
        fault_millis: args.fault_millis,
        wishes: args.wishes,
        only_faults: args.only_faults.as_deref().and_then(command::fault_numbers),
        ..Options::default()
    };
    let out = &mut io::stdout().lock();
    let failed = match (args.seed, &args.seeds) {
        (Some(seed), _) => command::replay(seed, options, args.quiet, out)
            .map(|passed| if passed { Vec::new() } else { vec![seed] }),
        (None, Some(seeds)) => {
            let plan = command::Plan { until_failure: false, minimises: true };
            command::many(seeds.clone(), &options, plan, out)
        }
        (None, None) => return Err(Failure::usage("say --seed N for one run or --seeds A..B for many")),
    };
    match failed.as_deref() {
        // A reader that has seen enough is not an error.
        Ok([]) | Err(_) => Ok(()),
        Ok([first, ..]) => {
            Err(Failure::error(format!("an invariant was violated: replay it with --seed {first}")))
        }
    }
}

/// `A..B`, without B.
pub(crate) fn seed_range(text: &str) -> Result<Range<u64>, String> {
    command::seed_range(text).ok_or_else(|| "write a range of seeds, for example 0..200".to_owned())
}

/// `3,7,12`, or `none`.
pub(crate) fn fault_list(text: &str) -> Result<String, String> {
    match command::fault_numbers(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write the faults' numbers, for example 3,7, or none".to_owned()),
    }
}
