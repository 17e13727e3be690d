//! Putting a group together again: what the log, the snapshots and the machine say.
//!
//! ```text
//!   log               compacted ──────────────────► last
//!   snapshots   ─────────────► S1 ──────► S2
//!   machine (durable)  ─────────────► applied        (in memory: nothing)
//! ```
//!
//! * The newest snapshot beyond the log becomes the log's start (a crash between staging and switching).
//! * The machine is restored from a snapshot only when it is behind the log's start.

use std::sync::Arc;

use quorate_core::{
    Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, Membership, ReplicaId, Restored, Term,
};
use quorate_storage::{GroupState, GroupWrite, LogBatch, LogError, SnapshotInfo, SnapshotStore};

use crate::applier::{RecoveredMachine, describe};
use crate::config::SessionConfig;
use crate::event::LogTask;
use crate::sessions::Sessions;
use crate::state_machine::{MachineError, StateMachine};

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
    let group = state.group;
    let damaged = |what: String| RecoverError::Snapshot { group, what };
    let found = snapshots.list(group).map_err(|error| damaged(describe(&error)))?;
    let newest = found.last().cloned();
    let (mut state, log_fix) = match &newest {
        Some(snapshot) if is_beyond(state, snapshot) => reset_to(state, snapshot),
        Some(_) | None => (state.clone(), None),
    };
    let (sessions, applied) = Sessions::recover(machine, sessions.clone())?;
    let durable_machine = sessions.is_durable();
    let mut machine = RecoveredMachine { group, sessions, applied };
    if applied.index < state.compacted.index {
        restore(&mut machine, &state, snapshots, &found).map_err(damaged)?;
    }
    if machine.applied.index > state.last {
        let what = "the state machine has applied entries that the log does not hold: the log is older than the data";
        return Err(damaged(what.to_owned()));
    }
    // A machine ahead of the commit hint proves that much committed.
    state.hard_state.commit = state.hard_state.commit.max(machine.applied.index).max(state.compacted.index);
    let restored = Restored {
        hard_state: state.hard_state,
        compacted: state.compacted,
        term_runs: state.term_runs,
        last: state.last,
        memberships: state.memberships,
        applied: machine.applied.index,
    };
    Ok(RecoveredGroup {
        restored,
        replica: state.replica,
        snapshot: newest,
        durable_machine,
        machine,
        log_fix,
    })
}

/// Whether the log does not hold what the snapshot covers.
fn is_beyond(state: &GroupState, snapshot: &SnapshotInfo) -> bool {
    let last = snapshot.meta.last;
    last.index > state.compacted.index && term_at(state, last.index) != Some(last.term)
}

fn term_at(state: &GroupState, index: LogIndex) -> Option<Term> {
    if index > state.last {
        return None;
    }
    state.term_runs.iter().rev().find(|run| run.index <= index).map(|run| run.term)
}

/// The log starts over after the snapshot.
fn reset_to(state: &GroupState, snapshot: &SnapshotInfo) -> (GroupState, Option<LogTask>) {
    let meta = &snapshot.meta;
    let mut hard_state = state.hard_state;
    if hard_state.term < meta.last.term {
        hard_state = HardState { term: meta.last.term, vote: None, commit: meta.last.index };
    }
    hard_state.commit = hard_state.commit.max(meta.last.index);
    let write = GroupWrite {
        group: state.group,
        reset_to: Some((meta.last, meta.membership_id, Arc::clone(&meta.membership))),
        hard_state: Some(hard_state),
        ..GroupWrite::default()
    };
    let after = GroupState {
        hard_state,
        compacted: meta.last,
        term_runs: Vec::new(),
        last: meta.last.index,
        memberships: vec![(meta.membership_id, Arc::clone(&meta.membership))],
        ..state.clone()
    };
    (after, Some(LogTask { write, token: None, must_sync: true }))
}

/// Restores the machine from the newest good snapshot that the log continues.
fn restore(
    machine: &mut RecoveredMachine,
    state: &GroupState,
    snapshots: &dyn SnapshotStore,
    found: &[SnapshotInfo],
) -> Result<(), String> {
    let mut problem = None;
    let usable = |info: &&SnapshotInfo| {
        info.meta.last == state.compacted || term_at(state, info.meta.last.index) == Some(info.meta.last.term)
    };
    for info in found.iter().rev().filter(usable) {
        match machine.restore(snapshots, info) {
            Ok(()) => return Ok(()),
            Err(error) => problem = problem.or_else(|| Some(describe(&error))),
        }
    }
    let start = state.compacted;
    Err(problem
        .unwrap_or_else(|| format!("the log starts after {start}, and no snapshot covers what is before")))
}

/// The batch that creates a group with these members on a node: identical on every initial member,
/// but for `replica`. The membership is entry 1 of term 1, committed by definition.
#[must_use]
pub fn bootstrap_batch(group: GroupId, replica: ReplicaId, membership: &Arc<Membership>) -> LogBatch {
    let first = LogId::new(1, 1);
    let write = GroupWrite {
        group,
        replica: Some(replica),
        entries: vec![Entry { id: first, payload: EntryPayload::Membership(Arc::clone(membership)) }],
        hard_state: Some(HardState { term: first.term, vote: None, commit: first.index }),
        ..GroupWrite::default()
    };
    LogBatch { groups: vec![write] }
}

/// The batch that creates a group on a node that joins as `replica`: an empty log.
#[must_use]
pub fn join_batch(group: GroupId, replica: ReplicaId) -> LogBatch {
    let hard_state = Some(HardState::default());
    LogBatch {
        groups: vec![GroupWrite { group, replica: Some(replica), hard_state, ..GroupWrite::default() }],
    }
}
