//! A user's own state machine under the simulator, first as it should be, then with a bug: a field that
//! snapshots forget.
//!
//! ```sh
//! cargo run --release -p quorate-sim --example your_machine
//! ```

#![expect(clippy::print_stdout, reason = "an example that prints")]

use std::io::Read;

use bytes::Bytes;
use quorate_host::{BatchEnd, Command, MachineError, SnapshotSource, StateMachine};
use quorate_sim::{Options, Rng, Summary, Workload, run_seeds};

/// Seats of a theatre: how many are taken, and how many people had to be sent away.
#[derive(Default)]
struct Theatre {
    taken: u64,
    sent_away: u64,
    /// The bug: snapshots lack `sent_away`.
    forgetful: bool,
}

const SEATS: u64 = 40;

impl StateMachine for Theatre {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        let wanted = u64::from(command.data.first().copied().unwrap_or(0));
        if wanted == 0 {
            self.taken = 0;
        } else if self.taken + wanted <= SEATS {
            self.taken += wanted;
        } else {
            self.sent_away += wanted;
        }
        Ok(Bytes::from(format!("{} taken", self.taken)))
    }

    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(Bytes::from(format!("{} taken, {} sent away", self.taken, self.sent_away)))
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let sent_away = if self.forgetful { 0 } else { self.sent_away };
        let content = [self.taken.to_le_bytes(), sent_away.to_le_bytes()].concat();
        Ok(Box::new(View(Some(Bytes::from(content)))))
    }

    fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        let mut number = || -> Result<u64, MachineError> {
            let mut bytes = [0; 8];
            content.read_exact(&mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        };
        (self.taken, self.sent_away) = (number()?, number()?);
        Ok(())
    }
}

/// A snapshot in one piece.
struct View(Option<Bytes>);

impl SnapshotSource for View {
    fn next_chunk(&mut self, _: usize) -> Result<Option<Bytes>, MachineError> {
        Ok(self.0.take())
    }
}

/// What clients do: mostly they want some seats; now and then the theatre is emptied.
fn some_seats(rng: &mut Rng) -> Bytes {
    Bytes::from(vec![u8::try_from(rng.below(8)).unwrap_or(0)])
}

fn simulate(forgetful: bool, seeds: u64) -> Summary {
    let machine = move || Box::new(Theatre { forgetful, ..Theatre::default() }) as Box<dyn StateMachine>;
    let workload = Workload::new(machine, some_seats, |_| Bytes::new());
    run_seeds(0..seeds, &Options { workload: Some(workload), ..Options::default() }, |_| {})
}

fn main() {
    let sound = simulate(false, 50);
    println!("as it should be: {} worlds, {} failed", sound.runs, sound.failed.len());
    let forgetful = simulate(true, 50);
    println!("with the bug:    {} worlds, {} failed", forgetful.runs, forgetful.failed.len());
    if let Some(report) = forgetful.failed.first() {
        println!("\n{report}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_machine_passes_and_a_field_that_snapshots_forget_is_found() {
        let sound = simulate(false, 12);
        assert!(sound.failed.is_empty(), "{sound}");
        assert!(sound.coverage.of("snapshots saved") > 0, "{sound}");
        let found = simulate(true, 12).failed;
        let violation = found.iter().find_map(|report| report.violation.as_ref());
        let violation = violation.unwrap_or_else(|| panic!("twelve worlds do not find it"));
        assert!(
            ["a machine that never stops says the same", "same snapshot", "state machine safety"]
                .contains(&violation.invariant),
            "{violation}"
        );
    }
}
