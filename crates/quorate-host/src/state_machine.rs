//! What a user of Raft writes: the meaning of commands.
//!
//! ```text
//!   committed entries ──► apply, apply, … ──► commit      one batch, atomic
//!                                    queries ──► query    between batches, on the same thread
//!                     snapshot() ──► a consistent view, streamed later while applies go on
//!              a peer's snapshot ──► restore              replaces everything
//! ```

use std::io::Read;

use bytes::Bytes;
use quorate_core::LogId;

/// A command on its way into the state machine.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// Where it stands in the log: unique, increasing.
    pub id: LogId,
    /// The leader's wall clock when it was proposed, in milliseconds since 1970; never decreases
    /// along the log, and is the same on every replica: the only clock a state machine may use.
    pub unix_millis: u64,
    /// The command as it was proposed.
    pub data: &'a Bytes,
    /// What was said of the command when it was proposed ([`Proposal::extension`](crate::Proposal::extension)); mostly
    /// nothing, which is empty.
    pub extension: &'a Bytes,
}

/// Bookkeeping that belongs to the same atomic step as the commands just applied.
#[derive(Clone, Copy, Debug)]
pub struct BatchEnd<'a> {
    /// Everything up to here has been applied.
    pub applied: LogId,
    /// Records of the host (sessions and the like) to store under these keys (`None`: delete)
    /// together with the data. A machine that lives in memory only may ignore them.
    pub records: &'a [(Bytes, Option<Bytes>)],
}

/// What an on-disk machine finds when it is opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Everything up to here is in it (default: nothing).
    pub applied: LogId,
    /// The host's records as stored.
    pub records: Vec<(Bytes, Bytes)>,
}

/// The state machine can no longer be trusted: its replica stops with this reason.
#[derive(Debug, thiserror::Error)]
#[error("the state machine failed: {reason}")]
pub struct MachineError {
    /// What failed.
    pub reason: String,
    /// The cause.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl MachineError {
    /// A failure without a cause.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), source: None }
    }
    /// A failure with its cause.
    pub fn with(reason: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { reason: reason.into(), source: Some(Box::new(source)) }
    }
}

/// So that `?` works on what `restore` reads.
impl From<std::io::Error> for MachineError {
    fn from(error: std::io::Error) -> Self {
        Self::with("reading or writing", error)
    }
}

/// The meaning of a group's commands.
///
/// # Contract
/// * All calls come one at a time. `apply` is called for every command exactly once, in log order, and
///   must be deterministic: the same commands give the same state and the same responses everywhere, however they are
///   cut into batches.
/// * A command that makes no sense is not an error: say so in the response. An error (or a panic) stops the replica.
/// * On-disk machines stage writes in `apply` and make them visible in `commit` as one atomic write
///   that also holds `BatchEnd`; `query` and `apply` see staged writes.
pub trait StateMachine: Send {
    /// Applies one command and returns its response.
    ///
    /// # Errors
    /// Only what makes the replica unusable (a failed disk, damaged data).
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError>;

    /// Ends a batch. Machines in memory need not do anything.
    ///
    /// # Errors
    /// As for `apply`.
    fn commit(&mut self, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        let BatchEnd { .. } = batch;
        Ok(())
    }

    /// Answers a question about the state without changing it.
    ///
    /// # Errors
    /// As for `apply`.
    fn query(&self, request: &[u8]) -> Result<Bytes, MachineError>;

    /// A consistent view of the state as of now, to be streamed while applies go on. Should be cheap.
    ///
    /// # Errors
    /// As for `apply`.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError>;

    /// Replaces the whole state by a snapshot's content. `batch` is what it brings along, to be
    /// stored like in `commit`.
    ///
    /// # Errors
    /// As for `apply`; after an error the machine is not used any more.
    fn restore(&mut self, content: &mut dyn Read, batch: BatchEnd<'_>) -> Result<(), MachineError>;

    /// The newest version of commands that this machine understands; it understands all older ones, too. The
    /// same for as long as it lives. Commands are proposed with a version (`Request::ProposeVersion`) when a
    /// newer build brings new ones: they get into the log only once every member's machine understands them.
    fn supported_version(&self) -> u32 {
        1
    }

    /// What an on-disk machine holds. Called once, before anything else.
    ///
    /// # Errors
    /// As for `apply`.
    fn recovered(&mut self) -> Result<Recovered, MachineError> {
        Ok(Recovered::default())
    }

    /// Whether the machine keeps its own state across crashes. If so, no snapshot is needed to
    /// drop log entries below what `flush` returns.
    fn is_durable(&self) -> bool {
        false
    }

    /// Makes everything applied durable and returns up to where that holds. Called before log
    /// entries are dropped. A machine in memory returns the default.
    ///
    /// # Errors
    /// As for `apply`.
    fn flush(&mut self) -> Result<LogId, MachineError> {
        Ok(LogId::default())
    }
}

/// A frozen view of a state machine that is read out in pieces.
pub trait SnapshotSource: Send {
    /// The next piece, about `bytes_max` bytes; `None` after the last.
    ///
    /// # Errors
    /// The snapshot is abandoned; the replica goes on.
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, MachineError>;
}
