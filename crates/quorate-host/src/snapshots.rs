//! Snapshots of a replica: taking its own, dropping the log below, and switching to a leader's.
//!
//! ```text
//!   enough applied ──► Capture ──► Save ──► saved ──► log compacted, but for a few entries
//!                 (or Flush, when the machine keeps its own state)
//!   piece ──wanted?──► Receive ──► staged ──► the core decides ──► Restore
//! ```

use std::sync::Arc;

use quorate_core::planted::planted;
use quorate_core::{LogIndex, Message, MonoTime, SnapshotMeta, Term};
use quorate_storage::{GroupWrite, SnapshotInfo};

use crate::event::{ApplyTask, LogTask, Now, SnapshotTask, Work};
use crate::peer::SnapshotChunk;
use crate::replica::Replica;
use crate::request::{Answer, RequestError};
use crate::snapshot_trigger::SnapshotDue;

/// The most snapshots from leaders that wait for the core to switch to one of them.
const STAGED_MAX: usize = 4;

/// How far taking a snapshot has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotState {
    Idle,
    Capturing,
    Saving,
}

impl Replica {
    /// Takes a snapshot if the policy says so.
    pub(crate) fn maybe_snapshot(&mut self, now: Now, work: &mut Work) {
        let Some(since) = self.uncovered_since else { return };
        let policy = &self.config.snapshots;
        let status = self.core.status();
        let facts = || SnapshotDue {
            entries: self.entries_since,
            bytes: self.bytes_since,
            age: now.mono.since(since),
            log_entries: status.last.index.0 - status.compacted.index.0,
            applied: self.applied,
        };
        let due = (policy.entries > 0 && self.entries_since >= policy.entries)
            || (policy.bytes > 0 && self.bytes_since >= policy.bytes)
            || self.snapshot_deadline().is_some_and(|deadline| deadline <= now.mono)
            || policy.trigger.as_ref().is_some_and(|trigger| trigger.is_due(&facts()));
        if !due {
            return;
        }
        if self.durable_machine {
            // The machine keeps its own state: making it durable is enough to drop log entries.
            if !self.flushing {
                self.flushing = true;
                self.start_counting();
                work.apply.push(ApplyTask::Flush { group: self.group });
            }
        } else {
            self.capture(work);
        }
    }

    /// What was given to apply so far is, or is about to be, covered.
    fn start_counting(&mut self) {
        (self.entries_since, self.bytes_since) = (0, 0);
        self.uncovered_since = None;
    }

    /// When the policy wants a snapshot because time has passed, if it may be taken now.
    pub(crate) fn snapshot_deadline(&self) -> Option<MonoTime> {
        if self.snapshot_state != SnapshotState::Idle || self.flushing {
            return None;
        }
        let interval = self.config.snapshots.interval?;
        let turn = u32::try_from(self.id.0 % 4).unwrap_or(0);
        Some(self.uncovered_since? + interval + interval / 16 * turn)
    }

    /// Starts taking a snapshot of everything given to the applier so far.
    pub(crate) fn capture(&mut self, work: &mut Work) {
        if self.snapshot_state != SnapshotState::Idle {
            return;
        }
        if let Some(meta) = self.core.snapshot_meta(self.handed) {
            self.snapshot_state = SnapshotState::Capturing;
            self.start_counting();
            if planted("compacted_before_snapshot") {
                self.compact(meta.last.index, work);
            }
            let meta =
                if planted("snapshot_has_newest_members") { self.with_newest_members(meta) } else { meta };
            work.apply.push(ApplyTask::Capture { group: self.group, meta });
        }
    }

    /// A bug on purpose.
    fn with_newest_members(&self, meta: SnapshotMeta) -> SnapshotMeta {
        let status = self.core.status();
        let membership = Arc::clone(status.membership);
        SnapshotMeta { membership, membership_id: status.membership_id.min(meta.last), ..meta }
    }

    pub(crate) fn on_saved(&mut self, now: Now, snapshot: SnapshotInfo, work: &mut Work) {
        self.snapshot_state = SnapshotState::Idle;
        let last = snapshot.meta.last;
        for ticket in std::mem::take(&mut self.snapshot_tickets) {
            work.replies.push((ticket, Ok(Answer::SnapshotTaken { last })));
        }
        if self.snapshot.as_ref().is_none_or(|newest| newest.meta.last.index < last.index) {
            self.snapshot = Some(snapshot);
        }
        work.snapshots.push(SnapshotTask::Retain { group: self.group, keep: self.config.snapshots.keep });
        if !self.durable_machine {
            self.compact(last.index, work);
        }
        self.start_waiting_streams(now, work);
    }

    pub(crate) fn on_save_failed(&mut self, now: Now, reason: &str, work: &mut Work) {
        self.snapshot_state = SnapshotState::Idle;
        self.uncovered_since = self.uncovered_since.or(Some(now.mono));
        for ticket in std::mem::take(&mut self.snapshot_tickets) {
            work.replies.push((ticket, Err(RequestError::Snapshot { what: reason.to_owned() })));
        }
        self.fail_waiting_streams(now);
    }

    /// Drops log entries that are durable elsewhere, but for a few that laggards may want.
    pub(crate) fn compact(&mut self, durable: LogIndex, work: &mut Work) {
        let trailing = self.config.snapshots.trailing_entries;
        let through = LogIndex(durable.0.min(self.applied.0).saturating_sub(trailing));
        let compacted = self.core.status().compacted.index;
        if through <= compacted {
            return;
        }
        let Some(SnapshotMeta { last, membership, membership_id }) = self.core.snapshot_meta(through) else {
            return;
        };
        self.core.on_compacted(last);
        let compact_to = Some((last, membership_id, Arc::clone(&membership)));
        let write = GroupWrite { group: self.group, compact_to, ..GroupWrite::default() };
        work.log.push(LogTask { write, token: None, must_sync: false });
    }

    pub(crate) fn restore(&mut self, meta: &SnapshotMeta, work: &mut Work) {
        let later = self.staged.split_off(&meta.last.index.next());
        let staged = std::mem::replace(&mut self.staged, later).remove(&meta.last.index);
        let known = staged.or_else(|| self.snapshot.clone());
        let Some(snapshot) = known.filter(|known| known.meta.last == meta.last) else {
            work.stopped.push((self.group, format!("the staged snapshot at {} is gone", meta.last)));
            return;
        };
        self.handed = meta.last.index;
        self.snapshot = Some(snapshot.clone());
        self.start_counting();
        work.apply.push(ApplyTask::Restore { group: self.group, snapshot });
    }

    /// Whether a piece may be looked at: what the core would refuse is not even written.
    pub(crate) fn is_wanted(&self, chunk: &SnapshotChunk) -> bool {
        let status = self.core.status();
        let (epoch, meta) = (status.membership.epoch(), &chunk.meta);
        let knows_nobody = status.membership.is_empty();
        chunk.to == self.id
            && (status.term..=Term::MAX).contains(&chunk.term)
            && (chunk.epoch == epoch || (knows_nobody && chunk.epoch > epoch))
            && meta.last.index <= LogIndex::MAX
            && meta.last.term <= chunk.term
            && meta.is_possible()
            && meta.membership.validate().is_ok()
    }

    /// A snapshot from a leader is complete here: the core decides whether to switch to it.
    pub(crate) fn on_staged(&mut self, now: Now, message: Message, snapshot: SnapshotInfo) {
        let useful = snapshot.meta.last.index > self.applied;
        self.staged.insert(snapshot.meta.last.index, snapshot);
        while self.staged.len() > STAGED_MAX {
            self.staged.pop_first();
        }
        let from = message.from;
        // What is refused appears among the core's events.
        let taken = self.core.step(now.mono, from, message).is_ok();
        if !(taken && useful) {
            let applied = self.applied;
            self.staged.retain(|index, _| *index > applied);
        }
    }
}
