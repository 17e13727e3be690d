//! `LogStore`: where the hard states and logs of all groups of a node live.
//!
//! Submit and complete: `write` queues a batch, `flush` makes everything queued durable with one
//! sync and then calls the batches' completions in order. `flush` blocks, so a shell runs it on the
//! log writer's thread, unless the store says that it never does ([`LogStore::may_wait`]); reads go
//! through [`LogReader`] from any thread meanwhile.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use quorate_core::{Entries, Entry, GroupId, HardState, LogId, LogIndex, Membership, ReplicaId};

use crate::error::{DamagedEntries, LogError};

/// One atomic write, for any number of groups: after a crash all of it is there or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogBatch {
    /// What to write, at most one item per group.
    pub groups: Vec<GroupWrite>,
}

/// What a batch does to one group, in this order of meaning: remove, reset, truncate, append, hard state, compact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupWrite {
    /// The group; it exists from its first write on.
    pub group: GroupId,
    /// Forget the group and everything in it. Nothing else may be set.
    pub remove: bool,
    /// Which replica of the group this node is: set once, by the write that creates the group.
    pub replica: Option<ReplicaId>,
    /// Drop all entries; the log now starts after this position, whose membership is given.
    pub reset_to: Option<(LogId, LogId, Arc<Membership>)>,
    /// Drop entries from here on. Appending never truncates by itself.
    pub truncate_from: Option<LogIndex>,
    /// Entries that follow the last one without a gap.
    pub entries: Entries,
    /// The new hard state.
    pub hard_state: Option<HardState>,
    /// Drop entries up to here (a durable snapshot covers them); membership in effect there.
    pub compact_to: Option<(LogId, LogId, Arc<Membership>)>,
    /// Entries up to here were acknowledged and are lost: remembered until the log ends there or beyond. 0
    /// forgets it. Written only for a group that this store reported damage of ([`GroupState::damaged`]), and
    /// by a forced recovery of one.
    pub lost_until: Option<LogIndex>,
}

/// What is known of one group after opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The group.
    pub group: GroupId,
    /// Which replica of the group this node is (`GroupWrite::replica`; 0 if it was never said).
    pub replica: ReplicaId,
    /// The last durable hard state.
    pub hard_state: HardState,
    /// The log starts after this.
    pub compacted: LogId,
    /// The first position of each run of equal terms after `compacted`.
    pub term_runs: Vec<LogId>,
    /// The last index (`compacted.index` for an empty log).
    pub last: LogIndex,
    /// The membership at `compacted` (if any) and every membership entry after it, ascending.
    pub memberships: Vec<(LogId, Arc<Membership>)>,
    /// Entries that cannot be read. What else is said here of them (their terms, memberships among them) is a guess.
    pub damaged: Option<DamagedEntries>,
    /// Entries up to here were acknowledged and are lost (`GroupWrite::lost_until`); 0 if none are. The replica
    /// must not vote before it has them back.
    pub lost_until: LogIndex,
}

/// Called once when a batch is durable, or when it will never be.
pub type WriteDone = Box<dyn FnOnce(Result<(), LogError>) + Send>;

/// A durable store for the logs of many groups.
///
/// # Contract
/// * Batches become durable in the order of `write`; a batch is durable when `done(Ok)` is called.
/// * `done` is called exactly once per batch, in order, from inside `flush` (never from `write`).
/// * A batch that breaks the rules (gap, truncation below the compacted position, unknown shape) fails alone
///   with `LogError::Invalid` and changes nothing.
/// * After `LogError::Failed` the store refuses everything: the node must stop. No sync is ever retried.
/// * `must_sync == false` batches may wait for the next sync; their `done` may be called before they
///   are durable (a lost commit hint is harmless).
/// * Reads see every batch whose `done(Ok)` was called.
pub trait LogStore: Send {
    /// The groups found on opening (and created since), ascending.
    fn groups(&self) -> Vec<GroupState>;
    /// Queues a batch.
    fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone);
    /// Makes everything queued durable and completes it. With nothing queued it may tidy up.
    ///
    /// # Errors
    /// The store has failed for good: stop the node. (What is wrong with one batch is told to its completion only.)
    fn flush(&mut self) -> Result<(), LogError>;
    /// A reader that may be used from any thread.
    fn reader(&self) -> Arc<dyn LogReader>;
    /// The disk is low on space: until this says that it is no more, the store keeps nothing that it does not
    /// need. It is asked for no entries meanwhile. By default nothing changes.
    fn set_low_on_space(&mut self, _is_low: bool) {}
    /// Whether `write` or `flush` may wait for something: a disk, a network, another process. Then
    /// they are called on a thread of their own (the default). A store that says no is written to
    /// between two messages, by the thread that everything else of the node waits for. Must always
    /// be the same.
    fn may_wait(&self) -> bool {
        true
    }
    /// Figures for metrics.
    fn stats(&self) -> LogStats;
}

/// Writes `batch`, makes it and everything queued before it durable, and says what became of it.
///
/// # Errors
/// What its completion was told; `Failed` if that was never called, because what nobody vouches for is not believed.
pub fn write_now(store: &mut dyn LogStore, batch: LogBatch, must_sync: bool) -> Result<(), LogError> {
    let outcome: Arc<Mutex<Option<Result<(), LogError>>>> = Arc::default();
    let slot = Arc::clone(&outcome);
    let done = move |result| *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    store.write(batch, must_sync, Box::new(done));
    let flushed = store.flush();
    let completed = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    completed.unwrap_or_else(|| {
        flushed?;
        let source = Arc::new(io::Error::other("the log store did not complete a batch"));
        Err(LogError::Failed { context: "writing a batch".to_owned(), source })
    })
}

/// Reads from any thread while the writer writes.
pub trait LogReader: Send + Sync {
    /// Entries `range` of `group`, from the first one on, up to about `bytes_max` payload bytes but at
    /// least one entry. Shorter than asked when the limit is reached.
    ///
    /// # Errors
    /// `Compacted`: the range starts at or below the compacted position. `OutOfRange`: beyond the last.
    /// `DamagedEntries` (or `Damaged`, if the store cannot tell which): a checksum does not hold.
    fn read(&self, group: GroupId, range: Range<LogIndex>, bytes_max: u64) -> Result<Vec<Entry>, LogError>;
    /// The state of one group as of the last completed batch.
    fn state(&self, group: GroupId) -> Option<GroupState>;
}

/// Running totals since opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Batches written.
    pub batches: u64,
    /// Syncs done.
    pub syncs: u64,
    /// Bytes handed to the disk, framing included.
    pub bytes_written: u64,
    /// Bytes of entries that were written again so that old files could go.
    pub bytes_moved: u64,
    /// Bytes on disk now.
    pub bytes_on_disk: u64,
    /// Segments on disk now.
    pub segments: u64,
    /// Entries known to be damaged now, of all groups.
    pub damaged_entries: u64,
    /// No entries are taken: the disk is low on space, or it is full and the reserve was released until there
    /// is space for it again.
    pub is_full: bool,
}
