//! What becomes of the cores' events in logs and figures.
//!
//! * Changes of role, members and snapshots are told at `info`; what must not happen in a correct
//!   group at `warn`; the rest at `debug`.
//! * Everything but the steps of ordinary work is counted by name and reason.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_core::{
    EventDetail, EventLabel, GroupId, NodeId, RaftEvent, Rejected, SnapshotOutcome, SnapshotTaken,
};

/// How often what happened on this node, over all groups.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    counts: Mutex<BTreeMap<EventLabel, u64>>,
}

/// How loud an event is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loudness {
    Warn,
    Info,
    Debug,
}

impl EventLog {
    /// Logs and counts an event.
    pub(crate) fn take(&self, node: NodeId, group: GroupId, event: &RaftEvent) {
        let EventLabel { event: name, reason } = event.label();
        match (event, loudness(event)) {
            (RaftEvent::RoleChanged { role, term, leader, reason }, _) => {
                tracing::info!(%node, %group, %role, %term, ?leader, ?reason, "role changed");
            }
            (_, Loudness::Warn) => tracing::warn!(%node, %group, name, reason, ?event, "raft"),
            (_, Loudness::Info) => tracing::info!(%node, %group, name, reason, ?event, "raft"),
            (_, Loudness::Debug) => tracing::debug!(%node, %group, name, reason, ?event, "raft"),
        }
        if event.detail() == EventDetail::Changes {
            *self.lock().entry(event.label()).or_default() += 1;
        }
    }

    /// The counts so far, ascending by name.
    pub(crate) fn counts(&self) -> Vec<(EventLabel, u64)> {
        self.lock().iter().map(|(label, count)| (*label, *count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EventLabel, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn loudness(event: &RaftEvent) -> Loudness {
    match event {
        RaftEvent::FollowerLostLog { .. }
        | RaftEvent::SnapshotEnded { outcome: SnapshotOutcome::Failed, .. }
        | RaftEvent::MessageRejected {
            reason: Rejected::ContradictsCommitted | Rejected::TwoLeaders | Rejected::ForgedSender,
            ..
        } => Loudness::Warn,
        RaftEvent::RoleChanged { .. }
        | RaftEvent::Truncated { .. }
        | RaftEvent::MembershipChanged { .. }
        | RaftEvent::SnapshotOffered { .. }
        | RaftEvent::SnapshotEnded { outcome: SnapshotOutcome::Sent, .. }
        | RaftEvent::SnapshotReceived { taken: SnapshotTaken::Installed, .. }
        | RaftEvent::TransferStarted { .. }
        | RaftEvent::TransferEnded { .. } => Loudness::Info,
        RaftEvent::VoteAnswered { .. }
        | RaftEvent::VoteCounted { .. }
        | RaftEvent::AppendRejected { .. }
        | RaftEvent::Committed { .. }
        | RaftEvent::Compacted { .. }
        | RaftEvent::ProgressChanged { .. }
        | RaftEvent::SnapshotProgress { .. }
        | RaftEvent::SnapshotReceived { .. }
        | RaftEvent::ReadsServed { .. }
        | RaftEvent::ReadsFailed { .. }
        | RaftEvent::MessageRejected { .. }
        | RaftEvent::QuiescenceChanged { .. }
        | RaftEvent::EntryAppended { .. }
        | RaftEvent::Persisted { .. }
        | RaftEvent::MessageSent { .. }
        | RaftEvent::MessageReceived { .. }
        | RaftEvent::ReadyTaken => Loudness::Debug,
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::{LogIndex, ReplicaId, RoleName, RoleReason, Term, VoteRefusal};

    use super::*;

    #[test]
    fn changes_are_counted_by_name_and_reason_and_steps_are_not() {
        let log = EventLog::default();
        let refused = RaftEvent::VoteAnswered {
            candidate: ReplicaId(2),
            term: Term(3),
            pre: false,
            refusal: Some(VoteRefusal::LogBehind),
        };
        let role = RaftEvent::RoleChanged {
            role: RoleName::Leader,
            term: Term(3),
            leader: Some(ReplicaId(1)),
            reason: RoleReason::Won,
        };
        for event in [&refused, &role, &refused, &RaftEvent::Committed { index: LogIndex(7) }] {
            log.take(NodeId(1), GroupId(1), event);
        }
        let counts = log.counts();
        let spelled: Vec<_> =
            counts.iter().map(|(label, count)| (label.event, label.reason, *count)).collect();
        assert_eq!(spelled, [("became_leader", "won", 1), ("vote_refused", "log_behind", 2)]);
    }
}
