//! A log with damaged entries: what of it is given up, and what the replica still is.
//!
//! ```text
//!   log        compacted ├─────────▓▓────────────┤ last          ▓ damaged
//!   snapshot at or beyond ▓         S: the log now begins there; nothing is lost
//!   snapshot inside                 S: the log begins and ends there; lost until last
//!   neither              ├─────────┤ cut here; lost until last
//! ```
//!
//! * A damaged entry may have been acknowledged, and counted towards a commit. A replica that has lost entries neither
//!   votes nor campaigns before its log reaches again as far as it did (`Restored::lost_until`): until then nobody
//!   can become leader with its help who lacks what it acknowledged. Its leader fills it up like any follower
//!   whose log is short, with entries or with a snapshot.
//! * Term and vote are not damaged, or the log would not have been opened.
//! * What is lost is written to the log together with the cut: another crash does not forget it.
//! * Where nobody else has the entries, nothing is given up: the group is not opened.
//!
//! Not here: finding damage (`quorate-storage`), who may vote (`quorate-core`).

use std::sync::Arc;

use quorate_core::{LogId, LogIndex, Restored};
use quorate_storage::{DamagedEntries, GroupState, GroupWrite, SnapshotInfo};

use crate::event::LogTask;
use crate::recovery::{RecoverError, agrees, as_logged, reset};

/// What is left of a group with damaged entries, and the write that gives up the rest. `snapshot` is verified
/// and taken over by the machine, which has `applied`.
///
/// # Errors
/// `Damaged`: nobody else has the entries.
pub(crate) fn give_up(
    state: &GroupState,
    damaged: &DamagedEntries,
    snapshot: Option<&SnapshotInfo>,
    applied: LogId,
) -> Result<(Restored, LogTask), RecoverError> {
    let covering = snapshot.filter(|snapshot| snapshot.meta.last.index >= damaged.first);
    if let Some(snapshot) = covering
        && snapshot.meta.last.index >= damaged.last
        && agrees(state, snapshot.meta.last)
    {
        return Ok(begin_at(state, snapshot, applied));
    }
    // Whatever is behind the damage may be needed by others, and this replica cannot vouch for it.
    let lost_until = state.last.max(state.lost_until);
    let (mut restored, mut fix) = match covering {
        Some(snapshot) => reset(state, snapshot),
        None => cut(state, damaged.first, applied),
    };
    if restored.last < lost_until {
        if is_only_voter(state, covering) {
            return Err(RecoverError::Damaged(damaged.clone()));
        }
        restored.lost_until = lost_until;
        fix.write.lost_until = Some(lost_until);
    }
    Ok((restored, fix))
}

/// The log begins after `snapshot`; what follows there is whole.
fn begin_at(state: &GroupState, snapshot: &SnapshotInfo, applied: LogId) -> (Restored, LogTask) {
    let meta = &snapshot.meta;
    let next = meta.last.index.next();
    let mut restored = as_logged(state, applied);
    restored.compacted = meta.last;
    restored.hard_state.commit = restored.hard_state.commit.max(meta.last.index);
    restored.applied = restored.applied.max(meta.last.index);
    let term_at_next = restored.term_runs.iter().rev().find(|run| run.index <= next).map(|run| run.term);
    restored.term_runs.retain(|run| run.index > next);
    if let Some(term) = term_at_next.filter(|_| next <= state.last) {
        restored.term_runs.insert(0, LogId { term, index: next });
    }
    restored.memberships.retain(|(id, _)| id.index > meta.last.index);
    restored.memberships.insert(0, (meta.membership_id, Arc::clone(&meta.membership)));
    let compact_to = Some((meta.last, meta.membership_id, Arc::clone(&meta.membership)));
    let write = GroupWrite { group: state.group, compact_to, ..GroupWrite::default() };
    (restored, LogTask { write, token: None, must_sync: true })
}

/// The log ends before `first`.
fn cut(state: &GroupState, first: LogIndex, applied: LogId) -> (Restored, LogTask) {
    let mut restored = as_logged(state, applied);
    restored.last = first.previous();
    restored.term_runs.retain(|run| run.index < first);
    restored.memberships.retain(|(id, _)| id.index < first);
    let write = GroupWrite { group: state.group, truncate_from: Some(first), ..GroupWrite::default() };
    (restored, LogTask { write, token: None, must_sync: true })
}

/// Whether nobody else can have, or vote for, what this replica has lost: by the newest members it knows, which
/// may stand behind the damage.
fn is_only_voter(state: &GroupState, snapshot: Option<&SnapshotInfo>) -> bool {
    let logged = state.memberships.last().map(|(id, members)| (*id, members));
    let covered = snapshot.map(|snapshot| (snapshot.meta.membership_id, &snapshot.meta.membership));
    let newest = logged.into_iter().chain(covered).max_by_key(|(id, _)| id.index);
    newest.is_some_and(|(_, members)| {
        members.voters().all(|voter| voter == state.replica) && !members.is_empty()
    })
}
