//! A snapshot policy of the user's own: asked after each batch of applied entries, and at the replica's ticks while
//! there is anything to cover.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use quorate_core::LogIndex;

/// What there is to decide upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotDue {
    /// Entries applied since the last snapshot (or since the start).
    pub entries: u64,
    /// Payload bytes applied since then.
    pub bytes: u64,
    /// How long ago the first of them was applied.
    pub age: Duration,
    /// Entries in the log, also those that a snapshot covers.
    pub log_entries: u64,
    /// Up to here everything is applied.
    pub applied: LogIndex,
}

/// A closure that says whether a snapshot is due. Called on the thread that drives all groups of a node: it must be
/// quick and must not block. One that panics says no.
#[derive(Clone)]
pub struct SnapshotTrigger(Arc<dyn Fn(&SnapshotDue) -> bool + Send + Sync>);

impl SnapshotTrigger {
    /// A trigger that asks `is_due`.
    pub fn new(is_due: impl Fn(&SnapshotDue) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_due))
    }

    pub(crate) fn is_due(&self, due: &SnapshotDue) -> bool {
        // Nothing of ours is touched in there.
        catch_unwind(AssertUnwindSafe(|| (self.0)(due))).unwrap_or(false)
    }
}

impl fmt::Debug for SnapshotTrigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SnapshotTrigger")
    }
}

/// Two are the same if they are clones of each other.
impl PartialEq for SnapshotTrigger {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SnapshotTrigger {}
