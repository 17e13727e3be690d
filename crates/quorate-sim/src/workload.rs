//! A user's own state machine, with commands and questions of its own, in the place of the key-value store.
//!
//! ```text
//!   commands ──► sessions, log, crashes, snapshots ──► the user's machine on every node
//!                     │ in the order of the log                  │ responses, answers
//!                     └──► one machine that never stops ──► must say the same
//! ```
//!
//! * The log is one order of all commands. A machine that is given them in that order, in one go, without crashes and
//!   snapshots, is the judge: every response and every answer to a question must be the one that it gives.
//! * Nothing has to be said about what commands mean, except by the machine.
//!
//! `docs/simulate-your-machine.md` shows how to use it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{LogId, LogIndex};
use quorate_host::{Command, MachineError, StateMachine};

use crate::invariants::{Checked, Violation, require};
use crate::rng::Rng;

/// Makes a machine that holds nothing yet.
type MakeMachine = Arc<dyn Fn() -> Box<dyn StateMachine> + Send + Sync>;
/// Draws the bytes of a command or a question.
type Draw = Arc<dyn Fn(&mut Rng) -> Bytes + Send + Sync>;

/// What users do in a world, and the state machine that they do it to.
#[derive(Clone)]
pub struct Workload {
    machine: MakeMachine,
    command: Draw,
    question: Draw,
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workload").finish_non_exhaustive()
    }
}

impl Workload {
    /// `machine` makes an empty machine, for every start of a replica; `command` and `question` draw what clients ask.
    /// All they do must depend on the numbers that they draw only, so that one seed is one run.
    pub fn new(
        machine: impl Fn() -> Box<dyn StateMachine> + Send + Sync + 'static,
        command: impl Fn(&mut Rng) -> Bytes + Send + Sync + 'static,
        question: impl Fn(&mut Rng) -> Bytes + Send + Sync + 'static,
    ) -> Self {
        Self { machine: Arc::new(machine), command: Arc::new(command), question: Arc::new(question) }
    }

    pub(crate) fn machine(&self) -> Box<dyn StateMachine> {
        (self.machine)()
    }

    pub(crate) fn command(&self, rng: &mut Rng) -> Bytes {
        (self.command)(rng)
    }

    pub(crate) fn question(&self, rng: &mut Rng) -> Bytes {
        (self.question)(rng)
    }
}

/// What was applied and answered in one group, to be compared with a machine that never stops.
#[derive(Debug, Default)]
pub(crate) struct Record {
    applied: BTreeMap<LogIndex, Applied>,
    /// Questions with their answers, by the index up to which everything had been applied.
    answers: Vec<(LogIndex, Bytes, Bytes)>,
}

#[derive(Debug)]
struct Applied {
    id: LogId,
    unix_millis: u64,
    data: Bytes,
    response: Bytes,
}

impl Record {
    pub(crate) fn on_applied(&mut self, command: Command<'_>, response: &Bytes) {
        self.applied.entry(command.id.index).or_insert_with(|| Applied {
            id: command.id,
            unix_millis: command.unix_millis,
            data: command.data.clone(),
            response: response.clone(),
        });
    }

    pub(crate) fn on_answer(&mut self, applied: LogIndex, question: Bytes, answer: Bytes) {
        self.answers.push((applied, question, answer));
    }

    /// Gives everything to one machine, in order.
    pub(crate) fn judge(&mut self, mut machine: Box<dyn StateMachine>) -> Checked {
        let broken = |error: MachineError| Violation::new("no replica gives up", error.to_string());
        self.answers.sort_by_key(|(at, _, _)| *at);
        let mut answers = self.answers.iter().peekable();
        for Applied { id, unix_millis, data, response } in self.applied.values() {
            while let Some((at, question, answer)) = answers.next_if(|(at, _, _)| *at < id.index) {
                same(&format!("a question at {at:?}"), answer, &machine.query(question).map_err(broken)?)?;
            }
            let alone = machine
                .apply(Command { id: *id, unix_millis: *unix_millis, data, extension: &Bytes::new() })
                .map_err(broken)?;
            same(&format!("the command {id}"), response, &alone)?;
        }
        for (at, question, answer) in answers {
            same(&format!("a question at {at:?}"), answer, &machine.query(question).map_err(broken)?)?;
        }
        Ok(())
    }
}

fn same(what: &str, said: &Bytes, alone: &Bytes) -> Checked {
    require!(
        said == alone,
        "a machine that never stops says the same",
        "{what} was answered with {said:?}; a machine that was given everything in one go says {alone:?}"
    );
    Ok(())
}
