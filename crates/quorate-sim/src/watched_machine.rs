//! A state machine with a witness: what every replica's machine is told and becomes is compared with what the
//! others were told and became.
//!
//! * State machine safety: at one index every replica's machine gets the same command and answers the same.
//! * Exactly once: a command that clients never repeat on purpose reaches the machine at one index only, whatever
//!   the sessions around it do.
//! * The leaders' clock never goes back along the log.
//! * The witness remembers what every key held after every index, so that a stale read, which says
//!   the index it was served at, can be checked exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use quorate_core::{LogId, LogIndex};
use quorate_host::{BatchEnd, Command, MachineError, Recovered, SnapshotSource, StateMachine};
use quorate_kv::{KvCommand, KvQuery};

use crate::invariants::{Checked, Violation, require};
use crate::node::NEW_BUILD;
use crate::rng::hash;
use crate::workload::Record;

/// What was seen of the machines of one group.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// Command and response by index.
    applied: BTreeMap<LogIndex, (u64, u64)>,
    /// Where a command with a value of its own was applied.
    places: BTreeMap<Bytes, LogIndex>,
    /// What a key held from an index on: the encoded answer to a get.
    values: BTreeMap<Bytes, BTreeMap<LogIndex, Bytes>>,
    clocks: BTreeMap<LogIndex, u64>,
    violation: Option<Violation>,
    /// Commands that only a newer machine understands.
    newer: BTreeSet<Bytes>,
    /// Of a user's own machine.
    record: Record,
}

/// Shared by the machines of a group on all nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedWitness(Arc<Mutex<Witness>>);

impl SharedWitness {
    fn get(&self) -> MutexGuard<'_, Witness> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What went wrong since the last look.
    pub(crate) fn check(&self) -> Checked {
        self.get().violation.take().map_or(Ok(()), Err)
    }

    /// A stale read of `key` was served at `applied` with `answer`.
    pub(crate) fn check_stale_read(&self, key: &Bytes, applied: LogIndex, answer: &Bytes) -> Checked {
        let witness = self.get();
        let history = witness.values.get(key);
        let held = history.and_then(|history| history.range(..=applied).next_back());
        let absent = quorate_kv::KvAnswer::Value(None).encode();
        let expected = held.map_or(&absent, |(_, held)| held);
        require!(
            expected == answer,
            "stale read is some past state",
            "{key:?} at {applied:?} is {expected:?}, the replica said {answer:?}"
        );
        Ok(())
    }

    /// A question to a user's own machine was answered.
    pub(crate) fn on_answer(&self, applied: LogIndex, question: Bytes, answer: Bytes) {
        self.get().record.on_answer(applied, question, answer);
    }

    /// Compares a user's own machine with one that never stops.
    pub(crate) fn judge(&self, alone: Box<dyn StateMachine>) -> Checked {
        self.get().record.judge(alone)
    }

    /// The command is only for machines that understand it. Those that others may say as well are not watched.
    pub(crate) fn note_newer(&self, command: &Bytes) {
        if has_value_of_its_own(command) {
            self.get().newer.insert(command.clone());
        }
    }

    /// The command may be given to any machine after all.
    pub(crate) fn forget_newer(&self, command: &Bytes) {
        self.get().newer.remove(command);
    }

    /// Where the command was applied, if it was.
    pub(crate) fn place(&self, command: &Bytes) -> Option<LogIndex> {
        self.get().places.get(command).copied()
    }

    /// How many different commands were applied.
    pub(crate) fn commands(&self) -> usize {
        self.get().applied.len()
    }
}

impl Witness {
    fn saw(
        &mut self,
        command: Command<'_>,
        response: &Bytes,
        held: Option<(Bytes, Bytes)>,
        version: u32,
    ) -> Checked {
        let index = command.id.index;
        require!(
            version >= NEW_BUILD || !self.newer.contains(command.data),
            "machines understand what they apply",
            "{index:?} is a command of a newer version, the machine understands {version}"
        );
        let fact = (hash(command.data), hash(response));
        let known = *self.applied.entry(index).or_insert(fact);
        require!(
            known == fact,
            "state machine safety",
            "{index:?} is command and response {fact:x?}, on another replica it was {known:x?}"
        );
        if held.is_some() && has_value_of_its_own(command.data) {
            let place = *self.places.entry(command.data.clone()).or_insert(index);
            require!(
                place == index,
                "exactly once",
                "{:?} was applied at {place:?} and again at {index:?}",
                command.data
            );
        }
        if let Some((key, value)) = held {
            let known = self.values.entry(key).or_default().entry(index).or_insert_with(|| value.clone());
            require!(
                *known == value,
                "state machine safety",
                "after {index:?}: {value:?}, elsewhere {known:?}"
            );
        }
        let before = self.clocks.range(..index).next_back().map_or(0, |(_, clock)| *clock);
        require!(
            before <= command.unix_millis,
            "clock of the log",
            "{index:?} says {}, an entry before it {before}",
            command.unix_millis
        );
        self.clocks.insert(index, command.unix_millis);
        Ok(())
    }
}

fn has_value_of_its_own(command: &Bytes) -> bool {
    matches!(KvCommand::decode(command), Ok(KvCommand::Put { .. }))
}

/// The machine under observation.
pub(crate) struct WatchedMachine {
    inner: Box<dyn StateMachine>,
    witness: SharedWitness,
    /// Whether it is the key-value store, whose keys can be looked at.
    is_store: bool,
    /// Which versions of commands it understands, whatever it is.
    build: u32,
}

impl WatchedMachine {
    pub(crate) fn new(
        inner: Box<dyn StateMachine>,
        witness: SharedWitness,
        is_store: bool,
        build: u32,
    ) -> Self {
        Self { inner, witness, is_store, build }
    }
}

impl StateMachine for WatchedMachine {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        let response = self.inner.apply(command)?;
        let held = match KvCommand::decode(command.data) {
            Ok(decoded) if self.is_store => {
                let key = decoded.key().clone();
                let held = self.inner.query(&KvQuery::Get { key: key.clone() }.encode())?;
                Some((key, held))
            }
            Ok(_) | Err(_) => None,
        };
        let mut witness = self.witness.get();
        if !self.is_store {
            witness.record.on_applied(command, &response);
        }
        if let Err(violation) = witness.saw(command, &response, held, self.supported_version()) {
            witness.violation.get_or_insert(violation);
        }
        Ok(response)
    }

    fn commit(&mut self, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        self.inner.commit(batch)
    }

    fn query(&self, request: &[u8]) -> Result<Bytes, MachineError> {
        self.inner.query(request)
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.inner.snapshot()
    }

    fn restore(&mut self, content: &mut dyn Read, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        self.inner.restore(content, batch)
    }

    fn recovered(&mut self) -> Result<Recovered, MachineError> {
        self.inner.recovered()
    }

    fn supported_version(&self) -> u32 {
        self.build.max(self.inner.supported_version())
    }

    fn is_durable(&self) -> bool {
        self.inner.is_durable()
    }

    fn flush(&mut self) -> Result<LogId, MachineError> {
        self.inner.flush()
    }
}
