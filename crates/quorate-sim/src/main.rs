//! Replays one seed, or runs many.

#![expect(clippy::print_stdout, reason = "a command that prints")]

use std::io;
use std::ops::Range;
use std::process::ExitCode;

use quorate_sim::{Options, command};

const USAGE: &str = "\
quorate-sim: runs the shipping code in a virtual world, decided by one number

usage:
  quorate-sim --seed N          replays one run and prints its whole trace
  quorate-sim --seeds A..B      runs many (B is not included), prints what failed and what happened how often
  quorate-sim --flip A..B       flips one bit in each of these bytes of a log of 64 KiB, and opens it each time

options:
  --long                        a minute of faults and 1000 operations a run
  --fault-millis N              how long faults go on, in virtual milliseconds (default 8000)
  --wishes N                    how many operations all clients together do (default 150)
  --only-faults 3,7,..|none     which moves of the fault injector happen
  --without WHAT                leaves out the noise of the network, that of the disk, the operator, or damage to a disk
  --until-failure               with --seeds: stop at the first failure
  --no-minimise                 with --seeds: do not look for what the first failure needs
  --quiet                       with --seed: no trace";

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    One(u64),
    Many(Range<u64>),
    Flip(Range<u64>),
}

struct Line {
    wanted: Wanted,
    options: Options,
    quiet: bool,
    until_failure: bool,
    minimises: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let line = match parse(&arguments) {
        Ok(line) => line,
        Err(what) => {
            println!("{what}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let out = &mut io::stdout().lock();
    let passed = match line.wanted {
        Wanted::One(seed) => command::replay(seed, line.options, line.quiet, out),
        Wanted::Many(seeds) => {
            let plan = command::Plan { until_failure: line.until_failure, minimises: line.minimises };
            command::many(seeds, &line.options, plan, out).map(|failed| failed.is_empty())
        }
        Wanted::Flip(bytes) => command::flip(bytes, out),
    };
    // A reader that has seen enough is not an error.
    if passed.unwrap_or(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(arguments: &[String]) -> Result<Line, String> {
    let (mut wanted, mut options) = (None, Options::default());
    let (mut quiet, mut until_failure, mut minimises) = (false, false, true);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--seed" => wanted = Some(Wanted::One(number(value()?)?)),
            "--seeds" => {
                let text = value()?;
                let range = command::seed_range(text);
                wanted =
                    Some(Wanted::Many(range.ok_or_else(|| format!("{text} is not a range like 0..200"))?));
            }
            "--flip" => {
                let text = value()?;
                let range = command::seed_range(text);
                wanted =
                    Some(Wanted::Flip(range.ok_or_else(|| format!("{text} is not a range like 0..65536"))?));
            }
            "--long" => options = Options::long(),
            "--fault-millis" => options.fault_millis = number(value()?)?,
            "--wishes" => options.wishes = number(value()?)?,
            "--only-faults" => {
                let text = value()?;
                let faults = command::fault_numbers(text);
                options.only_faults = Some(faults.ok_or_else(|| format!("{text} is not a list like 3,7"))?);
            }
            "--without" => match value()?.as_str() {
                "network" => options.without.network_noise = true,
                "disk" => options.without.disk_noise = true,
                "operator" => options.without.operator = true,
                "damage" => options.without.damage = true,
                other => {
                    return Err(format!("{other} cannot be left out: network, disk, operator or damage"));
                }
            },
            "--until-failure" => until_failure = true,
            "--no-minimise" => minimises = false,
            "--quiet" => quiet = true,
            _ => return Err(format!("unknown argument {argument}")),
        }
    }
    let wanted = wanted.ok_or("say --seed N or --seeds A..B")?;
    Ok(Line { wanted, options, quiet, until_failure, minimises })
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Wanted, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&arguments).map(|line| line.wanted)
    }

    #[test]
    fn a_seed_or_a_range_of_seeds_is_wanted() {
        assert_eq!(parsed("--seed 7 --quiet --only-faults 3,4 --without disk"), Ok(Wanted::One(7)));
        assert_eq!(parsed("--seeds 3..5 --wishes 10 --until-failure"), Ok(Wanted::Many(3..5)));
        assert_eq!(parsed("--flip 0..65536"), Ok(Wanted::Flip(0..65_536)));
        assert!(parsed("").unwrap_err().contains("--seed N"));
        assert!(parsed("--seed").unwrap_err().contains("needs a value"));
        assert!(parsed("--seeds 5").unwrap_err().contains("not a range"));
        assert!(parsed("--seed 5 --without rain").unwrap_err().contains("cannot be left out"));
        assert!(parsed("--sed 5").unwrap_err().contains("unknown"));
    }
}
