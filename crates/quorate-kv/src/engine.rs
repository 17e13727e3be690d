//! Where the store keeps its items: the seam between what commands mean and how bytes lie on a disk.
//!
//! ```text
//!            KvStateMachine
//!      write(changes + BatchEnd)      one atomic step: data, applied index, host records
//!   ─────────────┬───────────────────────────
//!                ▼
//!     ┌─────────────────────┐  view()   ┌───────────────┐
//!     │ Engine              │ ────────► │ EngineView    │  stays as it was while writes go on
//!     │ written … | synced  │           └───────────────┘
//!     └─────────────────────┘
//!        flush() moves "synced" up to "written" and says how far it is
//! ```
//!
//! * A batch is there completely or not at all, and so is every batch before it: after a crash an
//!   engine holds the state after some batch that is not older than the last `flush`.
//! * `replace_all` is the exception: a crash in the middle leaves an engine that says it holds nothing
//!   (`Recovered::default()`), so that the restore is repeated. Never a mixture that looks whole.
//! * An error means that the engine can no longer be trusted; the caller stops using it.
//!
//! Not here: versions, conditions, limits (they are decided before an engine sees anything).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use quorate_core::LogId;
use quorate_host::{BatchEnd, MachineError, Recovered};

use crate::command::Item;

/// A value as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub value: Bytes,
    /// The log index of the write that put it there.
    pub version: u64,
}

/// What a batch does to the keys it touches: set, or remove (`None`).
pub type Changes = BTreeMap<Bytes, Option<Stored>>;

/// Keys from `start` up to, and not including, `end`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key; empty: from the beginning.
    pub start: Bytes,
    /// The first key behind the range; `None`: to the end.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// All keys.
    #[must_use]
    pub const fn all() -> Self {
        Self { start: Bytes::new(), end: None }
    }

    /// From `start` to the end.
    #[must_use]
    pub const fn from(start: Bytes) -> Self {
        Self { start, end: None }
    }

    /// Whether no key can be in it (an end that is not behind the start).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// What a scan is told after each item.
pub type Visit<'a> = &'a mut dyn FnMut(Item) -> ControlFlow<()>;

/// Items that can be read. As a result of [`Engine::view`]: frozen at that moment.
pub trait EngineView: Send {
    /// The value at `key`.
    ///
    /// # Errors
    /// The storage failed or is damaged.
    fn get(&self, key: &[u8]) -> Result<Option<Stored>, MachineError>;

    /// Shows `visit` the items in `range` in key order until it breaks.
    ///
    /// # Errors
    /// The storage failed or is damaged.
    fn scan(&self, range: &KeyRange, visit: Visit<'_>) -> Result<(), MachineError>;
}

/// Storage for one group's items. See the module's head for what must hold.
///
/// All calls come one at a time, from one thread at a time.
pub trait Engine: EngineView {
    /// What is in it since it was opened, and the host's records.
    ///
    /// # Errors
    /// The storage failed or is damaged.
    fn recovered(&self) -> Result<Recovered, MachineError>;

    /// Makes `changes` and `end` visible in one atomic step. Need not be durable when it returns.
    ///
    /// # Errors
    /// The storage failed.
    fn write(&mut self, changes: &Changes, end: BatchEnd<'_>) -> Result<(), MachineError>;

    /// A frozen view, cheap to take, that stays readable while writes go on.
    ///
    /// # Errors
    /// The storage failed.
    fn view(&self) -> Result<Box<dyn EngineView>, MachineError>;

    /// Replaces everything, the host's records included, by `items` (strictly ascending keys) and
    /// `end`. An error among the items fails the whole.
    ///
    /// # Errors
    /// The storage failed, or the first error among `items`. The engine then holds nothing, and says so
    /// when it is opened again.
    fn replace_all(
        &mut self,
        items: &mut dyn Iterator<Item = Result<Item, MachineError>>,
        end: BatchEnd<'_>,
    ) -> Result<(), MachineError>;

    /// Whether it keeps anything across a restart of the process.
    fn is_durable(&self) -> bool;

    /// Makes everything written durable and returns up to where that holds (the default: nothing).
    ///
    /// # Errors
    /// The storage failed: nothing that was not durable before may be believed to be so.
    fn flush(&mut self) -> Result<LogId, MachineError>;
}
