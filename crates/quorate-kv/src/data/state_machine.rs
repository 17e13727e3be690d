//! What commands do to the store, on any engine.
//!
//! Write path, file 8 of 8. Before: `quorate-core/src/follower.rs`, where the entry is matched and
//! made durable. Next: back to `quorate-host/src/replica.rs` (file 4), which answers the ticket with the response
//! made here.
//!
//! ```text
//!   Command ──decode──► condition holds? ──► staged ──commit──► Engine::write
//!      │                      │no               │                changes + applied + records
//!      │malformed             ▼                 ▼
//!      └────────► Malformed  ConditionFailed   Done { version: log index }
//! ```
//!
//! * The result depends on the commands before it alone: not on how they are cut into batches, not on a
//!   node's configuration, not on the engine.
//! * One batch is one engine write. Staged writes are seen by what comes after them in the batch.
//! * A version is the index of the log entry, so it grows with every write and never repeats.
//!
//! Not here: sessions (the host wraps them around any state machine).

use std::io::Read;
use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_core::LogId;
use quorate_core::planted::planted;
use quorate_host::{BatchEnd, Command, MachineError, Recovered, SnapshotSource, StateMachine};

use crate::command::{Condition, Item, KvAnswer, KvCommand, KvQuery, KvResponse};
use crate::data::snapshot::{KvSnapshot, SnapshotItems};
use crate::data::staged::Staged;
use crate::engine::{Engine, KeyRange, Stored};
use crate::limits::{KvLimits, SCAN_BYTES_CAP};

/// The key-value store as a state machine.
pub struct KvStateMachine {
    engine: Box<dyn Engine>,
    staged: Staged,
}

impl KvStateMachine {
    /// The store on `engine`, as it finds it.
    #[must_use]
    pub fn new(engine: Box<dyn Engine>) -> Self {
        Self { engine, staged: Staged::default() }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Stored>, MachineError> {
        self.staged.get(&*self.engine, key)
    }

    fn scan(&self, range: &KeyRange, limit: u32, bytes_max: u64) -> Result<KvAnswer, MachineError> {
        let limit = limit.max(1) as usize;
        let bytes_max = bytes_max.min(SCAN_BYTES_CAP);
        let mut items: Vec<Item> = Vec::new();
        let mut bytes = 0_u64;
        let mut next = None;
        self.staged.scan(&*self.engine, range, &mut |item| {
            bytes = bytes.saturating_add(item.bytes() as u64);
            if !items.is_empty() && (items.len() >= limit || bytes > bytes_max) {
                next = Some(item.key);
                return ControlFlow::Break(());
            }
            items.push(item);
            ControlFlow::Continue(())
        })?;
        Ok(KvAnswer::Page { items, next })
    }
}

/// A command that is meant to be applied: decoded, and within the caps that hold everywhere.
fn decode(data: &Bytes) -> Option<KvCommand> {
    let command = KvCommand::decode(data).ok()?;
    KvLimits::CAPS.validate(&command).ok()?;
    Some(command)
}

fn holds(condition: &Condition, current: Option<&Stored>) -> bool {
    match condition {
        Condition::Any => true,
        Condition::Absent => current.is_none(),
        Condition::Present => current.is_some(),
        Condition::Version(version) => current.is_some_and(|stored| stored.version == *version),
        Condition::Value(_) if planted("condition_not_checked") => true,
        Condition::Value(value) => current.is_some_and(|stored| stored.value == *value),
    }
}

impl StateMachine for KvStateMachine {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        let Some(decoded) = decode(command.data) else { return Ok(KvResponse::Malformed.encode()) };
        let current = self.get(decoded.key())?;
        let previous = current.as_ref().map(|stored| stored.version);
        if !holds(decoded.condition(), current.as_ref()) {
            return Ok(KvResponse::ConditionFailed { current: previous }.encode());
        }
        let version = command.id.index.0;
        match decoded {
            KvCommand::Put { key, value, .. } => self.staged.set(key, Some(Stored { value, version })),
            // Nothing to remove is nothing to write.
            KvCommand::Delete { key, .. } if previous.is_some() => self.staged.set(key, None),
            KvCommand::Delete { .. } => {}
        }
        Ok(KvResponse::Done { version, previous }.encode())
    }

    fn commit(&mut self, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        self.engine.write(self.staged.changes(), batch)?;
        self.staged.clear();
        Ok(())
    }

    fn query(&self, request: &[u8]) -> Result<Bytes, MachineError> {
        let answer = match KvQuery::decode(&Bytes::copy_from_slice(request)) {
            Ok(KvQuery::Get { key }) if KvLimits::CAPS.validate_key(&key).is_err() => KvAnswer::Malformed,
            Ok(KvQuery::Get { key }) => {
                let stored = self.get(&key)?;
                KvAnswer::Value(stored.map(|Stored { value, version }| Item { key, value, version }))
            }
            Ok(KvQuery::Scan { start, end, limit, bytes_max }) => {
                self.scan(&KeyRange { start, end }, limit, bytes_max)?
            }
            Err(_) => KvAnswer::Malformed,
        };
        Ok(answer.encode())
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        assert!(self.staged.changes().is_empty(), "a snapshot is taken between batches");
        Ok(Box::new(KvSnapshot::new(self.engine.view()?)))
    }

    fn restore(&mut self, content: &mut dyn Read, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        self.staged.clear();
        self.engine.replace_all(&mut SnapshotItems::new(content, batch.applied.index), batch)
    }

    fn recovered(&mut self) -> Result<Recovered, MachineError> {
        self.engine.recovered()
    }

    fn is_durable(&self) -> bool {
        self.engine.is_durable()
    }

    fn flush(&mut self) -> Result<LogId, MachineError> {
        assert!(self.staged.changes().is_empty(), "a flush comes between batches");
        self.engine.flush()
    }
}
