//! Replays one seed, or runs many.

#![expect(clippy::print_stdout, reason = "a command that prints")]

use std::ops::Range;
use std::process::ExitCode;

use quorate_sim::{LEGEND, Options, Summary, run_seed, run_seeds};

const USAGE: &str = "\
quorate-sim: runs the shipping code in a virtual world, decided by one number

usage:
  quorate-sim --seed N          replays one run and prints its whole trace
  quorate-sim --seeds A..B      runs many (B is not included), prints what failed and what happened how often

options:
  --fault-millis N              how long faults go on, in virtual milliseconds (default 8000)
  --wishes N                    how many operations all clients together do (default 150)
  --quiet                       with --seed: no trace";

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    One(u64),
    Many(Range<u64>),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (wanted, options, quiet) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(what) => {
            println!("{what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let passed = match wanted {
        Wanted::One(seed) => replay(seed, options, quiet),
        Wanted::Many(seeds) => many(seeds, &options),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(seed: u64, options: Options, quiet: bool) -> bool {
    let report = run_seed(seed, &Options { keep_trace: !quiet, ..options });
    if !quiet {
        println!("{LEGEND}\n");
        for line in &report.trace {
            println!("{line}");
        }
        println!("\nwhat happened how often:\n{}", report.coverage);
    }
    println!("{report}");
    report.passed()
}

fn many(seeds: Range<u64>, options: &Options) -> bool {
    let summary: Summary = run_seeds(seeds, options, |report| {
        if let Some(violation) = &report.violation {
            println!("seed {}: {violation}", report.seed);
        }
    });
    println!("{summary}");
    summary.failed.is_empty()
}

fn parse(arguments: &[String]) -> Result<(Wanted, Options, bool), String> {
    let (mut wanted, mut options, mut quiet) = (None, Options::default(), false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--seed" => wanted = Some(Wanted::One(number(value()?)?)),
            "--seeds" => wanted = Some(Wanted::Many(range(value()?)?)),
            "--fault-millis" => options.fault_millis = number(value()?)?,
            "--wishes" => options.wishes = number(value()?)?,
            "--quiet" => quiet = true,
            _ => return Err(format!("unknown argument {argument}")),
        }
    }
    let wanted = wanted.ok_or("say --seed N or --seeds A..B")?;
    Ok((wanted, options, quiet))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or_else(|| format!("{text} is not a range like 0..200"))?;
    Ok(number(from)?..number(to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Wanted, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&arguments).map(|(wanted, _, _)| wanted)
    }

    #[test]
    fn a_seed_or_a_range_of_seeds_is_wanted() {
        assert_eq!(parsed("--seed 7 --quiet"), Ok(Wanted::One(7)));
        assert_eq!(parsed("--seeds 3..5 --wishes 10"), Ok(Wanted::Many(3..5)));
        assert!(parsed("").unwrap_err().contains("--seed N"));
        assert!(parsed("--seed").unwrap_err().contains("needs a value"));
        assert!(parsed("--seeds 5").unwrap_err().contains("not a range"));
        assert!(parsed("--sed 5").unwrap_err().contains("unknown"));
    }
}
