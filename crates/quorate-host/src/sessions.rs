//! Exactly once: a table, replicated with the state machine, of what was already applied
//! (thesis §6.3). It wraps any machine, and is part of its snapshots and of its durable batches.
//!
//! ```text
//!   logged command ──► clock, expiry ──► known? ──yes──► the retained answer
//!                                          │ no
//!                                          └──► StateMachine::apply ──► answer, retained
//! ```
//!
//! * Everything here is a function of the log: commands are taken one at a time, the only clock is the one the
//!   leaders stamped, and eviction follows the order of use in the log. Batches leave no trace.
//! * The table is bounded in bytes; beyond that the least recently used sessions and keys go, and a
//!   client of an evicted session is told `SessionExpired`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use bytes::Bytes;
use quorate_core::{DecodeError, LogId};

use crate::bytes_reader::{BytesReader, put_bytes, put_log_id, put_u64};
use crate::command::{LoggedCommand, LoggedKind};
use crate::config::SessionConfig;
use crate::request::{Answer, Dedupe, RequestError, SessionId};
use crate::state_machine::{BatchEnd, Command, MachineError, Recovered, SnapshotSource, StateMachine};

/// The fixed cost of a session, a key and an answer, in bytes, whatever they hold.
const OVERHEAD_BYTES: u64 = 64;
const VERSION: u8 = 1;
const CLOCK_RECORD: &[u8] = b"c";

/// An answer that may be asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Retained {
    id: LogId,
    /// `None`: it was too large to keep.
    response: Option<Bytes>,
}

impl Retained {
    fn bytes(&self) -> u64 {
        OVERHEAD_BYTES + self.response.as_ref().map_or(0, |response| response.len() as u64)
    }
    fn answer(&self) -> Answer {
        Answer::Applied { id: self.id, response: self.response.clone().unwrap_or_default() }
    }
    fn encode(&self, out: &mut Vec<u8>) {
        put_log_id(out, self.id);
        out.push(u8::from(self.response.is_some()));
        put_bytes(out, self.response.as_deref().unwrap_or_default());
    }
    fn decode(reader: &mut BytesReader) -> Result<Self, DecodeError> {
        let id = reader.log_id("a position")?;
        let kept = reader.u8("kept or not")? == 1;
        let response = reader.bytes("a response")?;
        Ok(Self { id, response: kept.then_some(response) })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// The log index of the last use: the order of eviction.
    used: u64,
    used_millis: u64,
    acked_below: u64,
    answers: BTreeMap<u64, Retained>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    used: u64,
    used_millis: u64,
    fingerprint: u64,
    answer: Retained,
}

/// Names one row of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    Session(u64),
    Key(Bytes),
}

impl Row {
    fn record_key(&self) -> Bytes {
        match self {
            Self::Session(id) => [&b"s"[..], &id.to_be_bytes()].concat().into(),
            Self::Key(key) => [&b"k"[..], key].concat().into(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Table {
    clock_millis: u64,
    sessions: BTreeMap<u64, Session>,
    keys: BTreeMap<Bytes, Key>,
    /// Rows by last use.
    order: BTreeSet<(u64, Row)>,
    bytes: u64,
}

/// A state machine with its session table.
pub(crate) struct Sessions {
    config: SessionConfig,
    table: Table,
    machine: Box<dyn StateMachine>,
    /// Rows that changed since the last commit.
    changed: BTreeSet<Row>,
    clock_changed: bool,
}

impl Sessions {
    /// Takes a machine that was just opened; returns with it what it had applied.
    pub(crate) fn recover(
        mut machine: Box<dyn StateMachine>,
        config: SessionConfig,
    ) -> Result<(Self, LogId), MachineError> {
        let Recovered { applied, records } = machine.recovered()?;
        let mut table = Table::default();
        for (key, value) in &records {
            table
                .load(key, value)
                .map_err(|error| MachineError::with("its session records are damaged", error))?;
        }
        let sessions = Self { config, table, machine, changed: BTreeSet::new(), clock_changed: false };
        Ok((sessions, applied))
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.machine.is_durable()
    }

    pub(crate) fn query(&self, request: &[u8]) -> Result<Bytes, MachineError> {
        self.machine.query(request)
    }

    pub(crate) fn flush(&mut self) -> Result<LogId, MachineError> {
        self.machine.flush()
    }

    /// Applies one logged command and says what its client is told.
    pub(crate) fn apply(
        &mut self,
        id: LogId,
        data: &Bytes,
    ) -> Result<Result<Answer, RequestError>, MachineError> {
        let Ok(logged) = LoggedCommand::decode(data) else {
            // Written by something else. Refused alike on every replica.
            return Ok(Err(RequestError::Stopped {
                reason: format!("entry {id} is not a command of this version"),
            }));
        };
        self.table.clock_millis = self.table.clock_millis.max(logged.unix_millis);
        self.clock_changed = true;
        self.expire();
        match logged.kind {
            LoggedKind::Open => {
                let session =
                    Session { used: id.index.0, used_millis: self.table.clock_millis, ..Session::default() };
                self.insert(Row::Session(id.index.0), |table| {
                    table.sessions.insert(id.index.0, session);
                });
                Ok(Ok(Answer::SessionOpened { session: SessionId(id.index.0) }))
            }
            LoggedKind::Command { dedupe: Dedupe::None, command } => {
                Ok(Ok(Answer::Applied { id, response: self.run(id, &command)? }))
            }
            LoggedKind::Command { dedupe: Dedupe::Session { session, sequence, acked_below }, command } => {
                self.apply_in_session(id, session.0, sequence, acked_below, &command)
            }
            LoggedKind::Command { dedupe: Dedupe::Key { key, fingerprint }, command } => {
                self.apply_with_key(id, key, fingerprint, &command)
            }
        }
    }

    fn run(&mut self, id: LogId, command: &Bytes) -> Result<Bytes, MachineError> {
        self.machine.apply(Command { id, unix_millis: self.table.clock_millis, data: command })
    }

    fn retained(&self, id: LogId, response: &Bytes) -> Retained {
        let keep = response.len() as u64 <= self.config.response_bytes_max;
        Retained { id, response: keep.then(|| response.clone()) }
    }

    fn apply_in_session(
        &mut self,
        id: LogId,
        session_id: u64,
        sequence: u64,
        acked_below: u64,
        command: &Bytes,
    ) -> Result<Result<Answer, RequestError>, MachineError> {
        let Some(session) = self.table.sessions.get(&session_id) else {
            return Ok(Err(RequestError::SessionExpired));
        };
        if sequence < session.acked_below || sequence < acked_below {
            return Ok(Err(RequestError::AlreadyAcknowledged));
        }
        let known = session.answers.get(&sequence).cloned();
        let fresh = match &known {
            Some(_) => None,
            None => {
                let response = self.run(id, command)?;
                Some((self.retained(id, &response), response))
            }
        };
        let clock = self.table.clock_millis;
        let row = Row::Session(session_id);
        self.remove_from_order(&row);
        let kept = fresh.as_ref().map(|(kept, _)| kept.clone());
        self.insert(row, |table| {
            if let Some(session) = table.sessions.get_mut(&session_id) {
                session.used = id.index.0;
                session.used_millis = clock;
                if acked_below > session.acked_below {
                    session.acked_below = acked_below;
                    session.answers = session.answers.split_off(&acked_below);
                }
                if let Some(kept) = kept {
                    session.answers.insert(sequence, kept);
                }
            }
        });
        Ok(Ok(match (known, fresh) {
            (Some(known), _) => known.answer(),
            (None, fresh) => {
                Answer::Applied { id, response: fresh.map(|(_, response)| response).unwrap_or_default() }
            }
        }))
    }

    fn apply_with_key(
        &mut self,
        id: LogId,
        key: Bytes,
        fingerprint: u64,
        command: &Bytes,
    ) -> Result<Result<Answer, RequestError>, MachineError> {
        if let Some(known) = self.table.keys.get(&key) {
            if known.fingerprint != fingerprint {
                return Ok(Err(RequestError::KeyReused));
            }
            return Ok(Ok(known.answer.answer()));
        }
        let response = self.run(id, command)?;
        let answer = self.retained(id, &response);
        let used_millis = self.table.clock_millis;
        let entry = Key { used: id.index.0, used_millis, fingerprint, answer };
        self.insert(Row::Key(key.clone()), |table| {
            table.keys.insert(key, entry);
        });
        Ok(Ok(Answer::Applied { id, response }))
    }

    // ---- the bounds of the table ----------------------------------------------------------------

    /// Puts a changed row back into the order and the sum, then evicts down to the limit.
    fn insert(&mut self, row: Row, change: impl FnOnce(&mut Table)) {
        change(&mut self.table);
        self.table.add(&row);
        self.changed.insert(row);
        while self.table.bytes > self.config.bytes_max && self.table.order.len() > 1 {
            let Some((_, oldest)) = self.table.order.first().cloned() else { break };
            self.drop_row(&oldest);
        }
    }

    fn remove_from_order(&mut self, row: &Row) {
        self.table.take_out(row);
    }

    fn drop_row(&mut self, row: &Row) {
        self.table.take_out(row);
        match row {
            Row::Session(id) => drop(self.table.sessions.remove(id)),
            Row::Key(key) => drop(self.table.keys.remove(key)),
        }
        self.changed.insert(row.clone());
    }

    /// Drops what was not used for too long. Use follows the log and so does the clock: the oldest
    /// use of each kind comes first, and the scan stops at the first row that stays.
    fn expire(&mut self) {
        let clock = self.table.clock_millis;
        let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (idle, retention) = (millis(self.config.idle_max), millis(self.config.key_retention));
        let shortest = idle.min(retention);
        let mut gone = Vec::new();
        for (_, row) in &self.table.order {
            let (used, keep) = match row {
                Row::Session(id) => {
                    (self.table.sessions.get(id).map_or(0, |session| session.used_millis), idle)
                }
                Row::Key(key) => (self.table.keys.get(key).map_or(0, |key| key.used_millis), retention),
            };
            if clock.saturating_sub(used) <= shortest {
                break;
            }
            if clock.saturating_sub(used) > keep {
                gone.push(row.clone());
            }
        }
        for row in gone {
            self.drop_row(&row);
        }
    }

    // ---- durability and snapshots ---------------------------------------------------------------

    /// Ends a batch: data, sessions and the applied position are one atomic step of the machine.
    pub(crate) fn commit(&mut self, applied: LogId) -> Result<(), MachineError> {
        let mut records = Vec::new();
        if self.machine.is_durable() {
            if self.clock_changed {
                let clock = Bytes::copy_from_slice(&self.table.clock_millis.to_le_bytes());
                records.push((Bytes::from_static(CLOCK_RECORD), Some(clock)));
            }
            records.extend(self.changed.iter().map(|row| (row.record_key(), self.table.encode_row(row))));
        }
        self.changed.clear();
        self.clock_changed = false;
        self.machine.commit(BatchEnd { applied, records: &records })
    }

    /// The table, then the machine's content.
    pub(crate) fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let machine = self.machine.snapshot()?;
        Ok(Box::new(WithTable { table: Some(self.table.encode()), machine }))
    }

    pub(crate) fn restore(&mut self, content: &mut dyn Read, applied: LogId) -> Result<(), MachineError> {
        let damaged =
            |error: std::io::Error| MachineError::with("the snapshot's sessions cannot be read", error);
        let mut length = [0; 8];
        content.read_exact(&mut length).map_err(damaged)?;
        let mut bytes = Vec::new();
        content.take(u64::from_le_bytes(length)).read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 != u64::from_le_bytes(length) {
            return Err(MachineError::new("the snapshot ends within its sessions"));
        }
        self.table = Table::decode(&bytes.into())
            .map_err(|error| MachineError::with("the snapshot's sessions cannot be decoded", error))?;
        self.changed.clear();
        self.clock_changed = false;
        let mut records = vec![(
            Bytes::from_static(CLOCK_RECORD),
            Some(Bytes::copy_from_slice(&self.table.clock_millis.to_le_bytes())),
        )];
        records
            .extend(self.table.order.iter().map(|(_, row)| (row.record_key(), self.table.encode_row(row))));
        self.machine.restore(content, BatchEnd { applied, records: &records })
    }
}

impl Table {
    fn row_bytes(&self, row: &Row) -> Option<(u64, u64)> {
        match row {
            Row::Session(id) => self.sessions.get(id).map(|session| {
                (session.used, OVERHEAD_BYTES + session.answers.values().map(Retained::bytes).sum::<u64>())
            }),
            Row::Key(key) => self
                .keys
                .get(key)
                .map(|entry| (entry.used, OVERHEAD_BYTES + key.len() as u64 + entry.answer.bytes())),
        }
    }

    fn add(&mut self, row: &Row) {
        if let Some((used, bytes)) = self.row_bytes(row) {
            self.order.insert((used, row.clone()));
            self.bytes += bytes;
        }
    }

    fn take_out(&mut self, row: &Row) {
        if let Some((used, bytes)) = self.row_bytes(row) {
            self.order.remove(&(used, row.clone()));
            self.bytes -= bytes;
        }
    }

    /// The row's record; `None` when it is gone.
    fn encode_row(&self, row: &Row) -> Option<Bytes> {
        let mut out = vec![VERSION];
        match row {
            Row::Session(id) => {
                let session = self.sessions.get(id)?;
                put_u64(&mut out, session.used);
                put_u64(&mut out, session.used_millis);
                put_u64(&mut out, session.acked_below);
                for (sequence, answer) in &session.answers {
                    put_u64(&mut out, *sequence);
                    answer.encode(&mut out);
                }
            }
            Row::Key(key) => {
                let entry = self.keys.get(key)?;
                put_u64(&mut out, entry.used);
                put_u64(&mut out, entry.used_millis);
                put_u64(&mut out, entry.fingerprint);
                entry.answer.encode(&mut out);
            }
        }
        Some(out.into())
    }

    /// Takes in one record.
    fn load(&mut self, key: &Bytes, value: &Bytes) -> Result<(), DecodeError> {
        let mut reader = BytesReader::new(value);
        if &key[..] == CLOCK_RECORD {
            self.clock_millis = reader.u64("a clock")?;
            return reader.end();
        }
        if reader.u8("a session record")? != VERSION {
            return Err(DecodeError { offset: 0, expected: "a session record of version 1" });
        }
        let (used, used_millis) = (reader.u64("a use")?, reader.u64("a clock")?);
        let row = match key.split_first() {
            Some((b's', id)) => {
                let id = <[u8; 8]>::try_from(id).map_err(|_| reader.fail("the id of a session"))?;
                let acked_below = reader.u64("a sequence number")?;
                let mut answers = BTreeMap::new();
                while !reader.is_empty() {
                    answers.insert(reader.u64("a sequence number")?, Retained::decode(&mut reader)?);
                }
                let id = u64::from_be_bytes(id);
                self.sessions.insert(id, Session { used, used_millis, acked_below, answers });
                Row::Session(id)
            }
            Some((b'k', name)) => {
                let fingerprint = reader.u64("a fingerprint")?;
                let answer = Retained::decode(&mut reader)?;
                let name = key.slice_ref(name);
                self.keys.insert(name.clone(), Key { used, used_millis, fingerprint, answer });
                Row::Key(name)
            }
            Some(_) | None => return Err(reader.fail("the key of a session record")),
        };
        self.add(&row);
        reader.end()
    }

    fn encode(&self) -> Bytes {
        let mut rows = vec![VERSION];
        put_u64(&mut rows, self.clock_millis);
        for (_, row) in &self.order {
            if let Some(record) = self.encode_row(row) {
                put_bytes(&mut rows, &row.record_key());
                put_bytes(&mut rows, &record);
            }
        }
        let mut out = (rows.len() as u64).to_le_bytes().to_vec();
        out.extend_from_slice(&rows);
        out.into()
    }

    fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = BytesReader::new(bytes);
        if reader.u8("a session table")? != VERSION {
            return Err(DecodeError { offset: 0, expected: "a session table of version 1" });
        }
        let mut table = Self { clock_millis: reader.u64("a clock")?, ..Self::default() };
        while !reader.is_empty() {
            let (key, value) = (reader.bytes("a record's key")?, reader.bytes("a record")?);
            table.load(&key, &value)?;
        }
        Ok(table)
    }
}

/// A snapshot's stream: the session table first.
struct WithTable {
    table: Option<Bytes>,
    machine: Box<dyn SnapshotSource>,
}

impl SnapshotSource for WithTable {
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, MachineError> {
        if let Some(table) = &mut self.table {
            let piece = table.split_to(table.len().min(bytes_max.max(1)));
            if table.is_empty() {
                self.table = None;
            }
            return Ok(Some(piece));
        }
        self.machine.next_chunk(bytes_max)
    }
}
