//! Starting again: what the log, the snapshots and the machine say together.
//!
//! ```text
//!   snapshots      S1            S2 (newest that is whole)
//!   log                 compacted ├──────────────────────┤ last
//!   machine             applied ┤                               (0 when it lives in memory)
//! ```
//!
//! * The machine must reach at least `compacted`: below it there are no entries to replay. A machine in memory
//!   starts from the newest snapshot, an on-disk one from its own state and only needs a
//!   snapshot when the log begins above it.
//! * A snapshot beyond the log, or one that contradicts it, was staged by a leader just before the
//!   stop: it is committed state, so the log is reset to it.
//! * A damaged snapshot is passed over for an older one while the log still reaches back to that;
//!   otherwise recovery fails and names the file.
//! * Entries of the log that are damaged are given up, with everything behind them (`damage.rs`).
//! * Every snapshot is read once as a whole before a machine sees it: a machine that has
//!   swallowed half of a damaged one is of no more use.

use std::sync::Arc;

use quorate_core::planted::planted;
use quorate_core::{
    Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, Membership, NodeId, ReplicaId, Restored, Term,
};
use quorate_storage::{
    DamagedEntries, GroupState, GroupWrite, LogBatch, LogError, SnapshotError, SnapshotInfo, SnapshotStore,
    read_to_end,
};

use crate::applier::{RecoveredMachine, describe};
use crate::config::{GroupConfig, SessionConfig};
use crate::damage;
use crate::event::LogTask;
use crate::host::GroupSetup;
use crate::incoming::{self, Incoming, Place};
use crate::sessions::Sessions;
use crate::state_machine::{MachineError, StateMachine};
use crate::versions::MachineVersions;

/// What the log, the snapshots and the machine say together after a restart.
#[derive(Debug)]
pub struct RecoveredGroup {
    /// For `GroupSetup::restored`.
    pub restored: Restored,
    /// For `GroupSetup::replica`.
    pub replica: ReplicaId,
    /// For `GroupSetup::snapshot`.
    pub snapshot: Option<SnapshotInfo>,
    /// For `GroupSetup::durable_machine`.
    pub durable_machine: bool,
    /// For `RecoveredMachine::step`, or `Applier::add`.
    pub machine: RecoveredMachine,
    /// A write that must be durable before the group is opened (a snapshot newer than the log, entries given up). One
    /// that failed, or found no space, leaves a log that the group's writes do not fit: recover again then.
    pub log_fix: Option<LogTask>,
    /// Entries that were damaged: given up by `log_fix`.
    pub damaged: Option<DamagedEntries>,
}

impl RecoveredGroup {
    /// What goes to the host and what goes to the applier, once `log_fix` is on its way. The `seeds` are those
    /// of [`GroupSetup`].
    #[must_use]
    pub fn into_setup(
        self,
        config: GroupConfig,
        seeds: Vec<(ReplicaId, NodeId, String)>,
    ) -> (GroupSetup, RecoveredMachine) {
        let Self { restored, replica, snapshot, durable_machine, machine, log_fix: _, damaged: _ } = self;
        let group = machine.group;
        let versions = MachineVersions {
            supported: machine.machine.supported_version(),
            active: machine.sessions.active_version(),
        };
        let session_limits = machine.sessions.limits().clone();
        let setup = GroupSetup {
            group,
            replica,
            config,
            restored,
            snapshot,
            durable_machine,
            versions,
            session_limits,
            seeds,
        };
        (setup, machine)
    }
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
    /// The machine holds more than the log: acknowledged entries are missing from the log.
    #[error(
        "group {group}: the state machine has applied {applied} but the log ends at {last}: the log has lost \
         entries; remove this replica and add it again with a new id and an empty directory"
    )]
    LogBehind {
        /// The group.
        group: GroupId,
        /// What the machine has applied.
        applied: LogId,
        /// Where the log ends.
        last: LogIndex,
    },
    /// Entries of the log are damaged, and nobody else has them.
    #[error(
        "{0}; this replica is the only voter and no snapshot covers them: restore the data directory from a \
         backup, or cut the log there by consent (see Damaged files in docs/operations.md)"
    )]
    Damaged(DamagedEntries),
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
    mut machine: Box<dyn StateMachine>,
) -> Result<RecoveredGroup, RecoverError> {
    let group = state.group;
    let recovered = machine.recovered()?;
    let durable_machine = machine.is_durable();
    let (pieces, records): (Vec<_>, Vec<_>) =
        recovered.records.into_iter().partition(|(key, _)| incoming::is_record(key));
    let records = if planted("sessions_lost_at_start") { &[][..] } else { &records[..] };
    let sessions = Sessions::recover(SessionConfig::default(), records, recovered.applied.index)
        .map_err(|error| MachineError::with("the session records of the machine are damaged", error))?;
    let incoming = Incoming::recover(Place { store: snapshots, group }, &pieces, recovered.applied.index)?;
    let mut machine = RecoveredMachine { group, machine, sessions, incoming, applied: recovered.applied };
    machine.check_version()?;
    let mut listed =
        snapshots.list(group).map_err(|error| RecoverError::Snapshot { group, what: describe(&error) })?;
    let wanted = |snapshot: &SnapshotInfo| {
        let at = snapshot.meta.last.index;
        let behind = recovered.applied.index < state.compacted.index;
        let helps = at > recovered.applied.index && (behind || !durable_machine);
        let replaces = state.damaged.as_ref().is_some_and(|damaged| at >= damaged.first);
        at >= state.compacted.index && (helps || replaces || !agrees(state, snapshot.meta.last))
    };
    let mut damage = None;
    let mut chosen = None;
    while let Some(newest) = listed.pop_if(|newest| wanted(newest)) {
        match verify(snapshots, &newest) {
            Ok(()) => {
                // The machine may have got it already, just before the stop.
                if machine.applied.index < newest.meta.last.index {
                    machine.restore(snapshots, &newest)?;
                }
                chosen = Some(newest);
                break;
            }
            Err(error) => damage = damage.or(Some(error)),
        }
    }
    if machine.applied.index < state.compacted.index {
        let what = damage.map_or_else(
            || format!("the log starts after {} and no snapshot reaches that far", state.compacted),
            |error| format!("the log starts after {} and its snapshot is damaged: {error}", state.compacted),
        );
        return Err(RecoverError::Snapshot { group, what });
    }
    let (mut restored, log_fix) = with_log(state, chosen.as_ref(), machine.applied)?;
    if machine.applied.index > restored.last.max(restored.lost_until) {
        return Err(RecoverError::LogBehind { group, applied: machine.applied, last: restored.last });
    }
    // What the machine has and the log has lost comes again; the applier passes over it.
    restored.applied = restored.applied.min(restored.last);
    Ok(RecoveredGroup {
        restored,
        replica: state.replica,
        snapshot: chosen.or_else(|| listed.pop()),
        durable_machine,
        machine,
        log_fix,
        damaged: state.damaged.clone(),
    })
}

/// What the log holds of use together with the snapshot that was chosen, and the write that makes it so.
fn with_log(
    state: &GroupState,
    chosen: Option<&SnapshotInfo>,
    applied: LogId,
) -> Result<(Restored, Option<LogTask>), RecoverError> {
    if let Some(damaged) = &state.damaged {
        let (restored, fix) = damage::give_up(state, damaged, chosen, applied)?;
        return Ok((restored, Some(fix)));
    }
    Ok(match chosen {
        Some(snapshot) if !agrees(state, snapshot.meta.last) => {
            let (restored, fix) = reset(state, snapshot);
            (restored, Some(fix))
        }
        Some(_) | None => (as_logged(state, applied), None),
    })
}

/// What the log and the snapshots of a group say together, for looking at it without its machine; the
/// write, if any, that starting it would begin with. Needs the whole snapshot only where it replaces the log.
///
/// # Errors
/// The snapshots cannot be listed.
pub fn recover_log(
    state: &GroupState,
    snapshots: &dyn SnapshotStore,
) -> Result<(Restored, Option<LogTask>), RecoverError> {
    let group = state.group;
    let listed =
        snapshots.list(group).map_err(|error| RecoverError::Snapshot { group, what: describe(&error) })?;
    let ahead = |snapshot: &&SnapshotInfo| {
        let last = snapshot.meta.last;
        let replaces = state.damaged.as_ref().is_some_and(|damaged| last.index >= damaged.first);
        last.index >= state.compacted.index
            && (replaces || !agrees(state, last))
            && verify(snapshots, snapshot).is_ok()
    };
    with_log(state, listed.iter().rev().find(ahead), state.compacted)
}

fn verify(snapshots: &dyn SnapshotStore, snapshot: &SnapshotInfo) -> Result<(), SnapshotError> {
    read_to_end(snapshots.open(snapshot)?)
}

/// Whether the log holds `id`.
pub(crate) fn agrees(state: &GroupState, id: LogId) -> bool {
    id.index <= state.last && term_at(state, id.index) == Some(id.term)
}

fn term_at(state: &GroupState, index: LogIndex) -> Option<Term> {
    if index == state.compacted.index {
        return Some(state.compacted.term);
    }
    state.term_runs.iter().rev().find(|run| run.index <= index).map(|run| run.term)
}

pub(crate) fn as_logged(state: &GroupState, applied: LogId) -> Restored {
    // A machine ahead of the commit hint proves that much committed.
    let commit = state.hard_state.commit.max(applied.index).max(state.compacted.index);
    let hard_state = HardState { commit, ..state.hard_state };
    Restored {
        hard_state,
        compacted: state.compacted,
        term_runs: state.term_runs.clone(),
        last: state.last,
        memberships: state.memberships.clone(),
        applied: applied.index,
        lost_until: state.lost_until,
    }
}

/// The log starts anew after `snapshot`.
pub(crate) fn reset(state: &GroupState, snapshot: &SnapshotInfo) -> (Restored, LogTask) {
    let meta = &snapshot.meta;
    let mut hard_state = state.hard_state;
    if meta.last.term > hard_state.term {
        hard_state = HardState { term: meta.last.term, vote: None, ..hard_state };
    }
    hard_state.commit = meta.last.index;
    let membership = Arc::clone(&meta.membership);
    let write = GroupWrite {
        group: state.group,
        reset_to: Some((meta.last, meta.membership_id, Arc::clone(&membership))),
        hard_state: Some(hard_state),
        ..GroupWrite::default()
    };
    let restored = Restored {
        hard_state,
        compacted: meta.last,
        term_runs: Vec::new(),
        last: meta.last.index,
        memberships: vec![(meta.membership_id, membership)],
        applied: meta.last.index,
        lost_until: if state.lost_until > meta.last.index { state.lost_until } else { LogIndex(0) },
    };
    (restored, LogTask { write, token: None, must_sync: true })
}

/// The batch that creates a group with these members on a node: identical on every initial member,
/// but for `replica`.
#[must_use]
pub fn bootstrap_batch(group: GroupId, replica: ReplicaId, membership: &Arc<Membership>) -> LogBatch {
    // The members are an entry of a term that nobody led, so that replicas that join later get them like any other.
    let first = Entry { id: LogId::new(1, 1), payload: EntryPayload::Membership(Arc::clone(membership)) };
    let hard_state = HardState { term: Term(1), vote: None, commit: LogIndex(1) };
    let write = GroupWrite {
        group,
        replica: Some(replica),
        entries: vec![first].into(),
        hard_state: Some(hard_state),
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
