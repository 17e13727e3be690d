//! SKELETON: split into log_writer.rs, applier.rs, log_fetcher.rs, snapshotter.rs, recovery.rs.

use std::sync::Arc;

use quorate_core::{GroupId, Membership, NodeId, ReplicaId, Restored};
use quorate_storage::{
    GroupState, LogBatch, LogError, LogReader, LogStats, LogStore, SnapshotInfo, SnapshotStore,
};

use crate::config::SessionConfig;
use crate::event::{ApplyTask, Event, FetchTask, LogTask, SnapshotTask};
use crate::state_machine::{MachineError, StateMachine};

/// Turns everything that waits into one batch per group order and one sync.
pub struct LogWriter {}

impl LogWriter {
    /// A writer on `store`.
    #[must_use]
    pub fn new(store: Box<dyn LogStore>) -> Self {
        unimplemented!("{}", store.stats().batches)
    }
    /// Submits tasks (cheap, no I/O).
    pub fn submit(&mut self, tasks: Vec<LogTask>) {
        unimplemented!("{}", tasks.len())
    }
    /// Writes and syncs everything submitted: blocks on the disk. Returns the completions.
    pub fn step(&mut self) -> Vec<Event> {
        unimplemented!()
    }
    /// Figures of the store.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        unimplemented!()
    }
}

/// Runs the state machines, each wrapped in its session table.
pub struct Applier {}

impl Applier {
    /// An applier without machines that reads snapshots from `snapshots`.
    #[must_use]
    pub fn new(snapshots: Arc<dyn SnapshotStore>) -> Self {
        unimplemented!("{}", Arc::strong_count(&snapshots))
    }
    /// Adds a machine recovered by [`recover_group`].
    pub fn add(&mut self, machine: RecoveredMachine) {
        unimplemented!("{}", machine.group)
    }
    /// Does one task. A panic of the machine is caught and stops its replica only.
    pub fn step(&mut self, task: ApplyTask) -> Vec<Event> {
        let ApplyTask::Flush { .. } = task else { unimplemented!() };
        unimplemented!()
    }
}

/// A state machine with its sessions, ready to go on.
pub struct RecoveredMachine {
    /// The group.
    pub group: GroupId,
}

/// Reads older entries.
pub struct LogFetcher {}

impl LogFetcher {
    /// A fetcher on `reader`.
    #[must_use]
    pub fn new(reader: Arc<dyn LogReader>) -> Self {
        unimplemented!("{}", Arc::strong_count(&reader))
    }
    /// Does one task.
    pub fn step(&mut self, task: FetchTask) -> Event {
        unimplemented!("{task:?}")
    }
}

/// Saves, sends and receives snapshots piece by piece, taking turns between them.
pub struct Snapshotter {}

impl Snapshotter {
    /// A snapshotter for `node` on `store`.
    #[must_use]
    pub fn new(node: NodeId, store: Arc<dyn SnapshotStore>) -> Self {
        unimplemented!("{node:?}{}", Arc::strong_count(&store))
    }
    /// Takes a task.
    pub fn submit(&mut self, task: SnapshotTask) {
        let SnapshotTask::Retain { .. } = task else { unimplemented!() };
    }
    /// Whether `step` has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        unimplemented!()
    }
    /// Does one piece of work.
    pub fn step(&mut self) -> Vec<Event> {
        unimplemented!()
    }
}

/// What the log, the snapshots and the machine say together after a restart.
pub struct RecoveredGroup {
    /// For `GroupSetup::restored`.
    pub restored: Restored,
    /// For `GroupSetup::replica`.
    pub replica: ReplicaId,
    /// For `GroupSetup::snapshot`.
    pub snapshot: Option<SnapshotInfo>,
    /// For `GroupSetup::durable_machine`.
    pub durable_machine: bool,
    /// For `Applier::add`.
    pub machine: RecoveredMachine,
    /// A write to submit to the log before anything else (a snapshot newer than the log).
    pub log_fix: Option<LogTask>,
}

/// A group cannot be recovered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The log needs a snapshot that is not there or damaged.
    #[error("group {group}: {what}")]
    Snapshot {
        /// The group.
        group: GroupId,
        /// What is missing or damaged.
        what: String,
    },
    /// The machine could not be opened or restored.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Puts together what a group knew when it stopped; restores the machine from the newest snapshot
/// when it needs one.
///
/// # Errors
/// See [`RecoverError`].
pub fn recover_group(
    state: &GroupState,
    snapshots: &dyn SnapshotStore,
    machine: Box<dyn StateMachine>,
    sessions: &SessionConfig,
) -> Result<RecoveredGroup, RecoverError> {
    unimplemented!("{state:?}{}{}{sessions:?}", snapshots.list(state.group).is_ok(), machine.is_durable())
}

/// The batch that creates a group with these members on a node: identical on every initial member,
/// but for `replica`.
#[must_use]
pub fn bootstrap_batch(group: GroupId, replica: ReplicaId, membership: &Arc<Membership>) -> LogBatch {
    unimplemented!("{group:?}{replica:?}{membership:?}")
}

/// The batch that creates a group on a node that joins as `replica`: an empty log.
#[must_use]
pub fn join_batch(group: GroupId, replica: ReplicaId) -> LogBatch {
    unimplemented!("{group:?}{replica:?}")
}
