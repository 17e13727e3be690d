//! What the cores report of themselves: into the trace, and counted by kind.

use quorate_core::{
    GroupId, NodeId, ProgressName, RaftEvent, ReadFailure, RoleName, RoleReason, SnapshotOutcome,
    SnapshotTaken, TransferOutcome, VoteRefusal,
};

use crate::world::{Name, World, note};

impl World {
    pub(crate) fn note_event(&mut self, id: NodeId, group: GroupId, event: &RaftEvent) {
        if let Some(what) = point(event) {
            self.coverage.count(what);
        }
        match event {
            RaftEvent::RoleChanged { role, term, leader, reason } => {
                note!(
                    self,
                    Name(id),
                    "role: {group:?} {role} in {term:?}, leader {leader:?}, because {reason:?}"
                );
                self.note_role(id, group, *role, *reason);
            }
            RaftEvent::Committed { index } => note!(self, Name(id), "commit: {group:?} {index}"),
            RaftEvent::MembershipChanged { log_id } => {
                note!(self, Name(id), "member: {group:?} membership of {log_id}");
            }
            RaftEvent::MessageRejected { reason, message } => {
                note!(self, Name(id), "refused {reason:?} from {:?}", message.from);
            }
            RaftEvent::FollowerLostLog { .. }
            | RaftEvent::TransferEnded { .. }
            | RaftEvent::AppendRejected { .. }
            | RaftEvent::Truncated { .. }
            | RaftEvent::SnapshotReceived { .. }
            | RaftEvent::VoteAnswered { .. }
            | RaftEvent::VoteCounted { .. }
            | RaftEvent::Compacted { .. }
            | RaftEvent::ProgressChanged { .. }
            | RaftEvent::SnapshotOffered { .. }
            | RaftEvent::SnapshotEnded { .. }
            | RaftEvent::SnapshotProgress { .. }
            | RaftEvent::ReadsServed { .. }
            | RaftEvent::ReadsFailed { .. }
            | RaftEvent::QuiescenceChanged { .. }
            | RaftEvent::TransferStarted { .. }
            | RaftEvent::EntryAppended { .. }
            | RaftEvent::Persisted { .. }
            | RaftEvent::MessageSent { .. }
            | RaftEvent::MessageReceived { .. }
            | RaftEvent::ReadyTaken => {}
        }
    }

    /// Changes of role that meet something else: that is where the bugs are.
    fn note_role(&mut self, id: NodeId, group: GroupId, role: RoleName, reason: RoleReason) {
        let Some(running) = self.nodes.get(&id).and_then(|node| node.running.as_ref()) else { return };
        let Some(status) = running.host.core_status(group) else { return };
        let joint = status.membership.joint().is_some();
        let changing = status.membership_id.index > status.commit;
        // The newest entry is its own.
        let behind = status.commit.next() < status.last.index;
        let lost = role == RoleName::Follower
            && matches!(reason, RoleReason::HigherTerm | RoleReason::QuorumLost | RoleReason::HeardLeader);
        if role == RoleName::Leader {
            if joint {
                self.coverage.count("a leader was elected in a joint state");
            }
            if changing {
                self.coverage.count("a leader inherited an uncommitted membership");
            }
            if behind {
                self.coverage.count("a leader inherited uncommitted entries");
            }
        }
        if lost && changing {
            self.coverage.count("leadership changed while the membership was changing");
        }
        if running.snapshot_busy {
            self.coverage.count("a role changed while a snapshot was being written");
        }
    }
}

/// The name of what has happened, if it is worth counting.
const fn point(event: &RaftEvent) -> Option<&'static str> {
    Some(match event {
        RaftEvent::RoleChanged { role, reason, .. } => role_point(*role, *reason),
        RaftEvent::MessageRejected { .. } => "messages refused by a core",
        RaftEvent::FollowerLostLog { .. } => "followers that lost entries",
        RaftEvent::AppendRejected { .. } => "appends rejected",
        RaftEvent::Truncated { .. } => "logs truncated",
        RaftEvent::TransferStarted { .. } => "transfers started",
        RaftEvent::TransferEnded { outcome, .. } => match outcome {
            TransferOutcome::SteppedDown => "leaderships handed over",
            TransferOutcome::TimedOut => "transfers that took too long",
            TransferOutcome::LeadershipLost => "transfers overtaken by another leader",
            TransferOutcome::Cancelled => "transfers called off",
            TransferOutcome::Unreachable => "transfers to nobody",
        },
        RaftEvent::SnapshotReceived { taken, .. } => match taken {
            SnapshotTaken::NotNeeded => "snapshots not needed",
            SnapshotTaken::Kept => "snapshots of what the log has",
            SnapshotTaken::Installed => "logs replaced by snapshots",
        },
        RaftEvent::VoteAnswered { refusal: Some(refusal), .. } => match refusal {
            VoteRefusal::LogBehind => "votes refused: the log is behind",
            VoteRefusal::AlreadyVoted => "votes refused: given to another",
            VoteRefusal::HeardLeader => "votes refused: there is a leader",
            VoteRefusal::OldTerm => "votes refused: the term is over",
        },
        RaftEvent::ProgressChanged { to, .. } => match to {
            ProgressName::Probe => "followers probed",
            ProgressName::Replicate => "followers streamed to",
            ProgressName::Snapshot => "followers that need a snapshot",
        },
        RaftEvent::SnapshotEnded { outcome: SnapshotOutcome::Failed, .. } => "snapshot streams that failed",
        RaftEvent::ReadsFailed { reason, .. } => match reason {
            ReadFailure::TimedOut => "reads failed: no quorum in time",
            ReadFailure::LeadershipLost => "reads failed: leadership lost",
            ReadFailure::LeaderChanged => "reads failed: the leader changed",
            ReadFailure::Refused => "reads failed: refused by the leader",
        },
        RaftEvent::QuiescenceChanged { quiescent: true } => "replicas gone to rest",
        RaftEvent::QuiescenceChanged { quiescent: false } => "replicas woken up",
        RaftEvent::VoteAnswered { .. }
        | RaftEvent::VoteCounted { .. }
        | RaftEvent::Committed { .. }
        | RaftEvent::MembershipChanged { .. }
        | RaftEvent::Compacted { .. }
        | RaftEvent::SnapshotProgress { .. }
        | RaftEvent::SnapshotOffered { .. }
        | RaftEvent::SnapshotEnded { .. }
        | RaftEvent::ReadsServed { .. }
        | RaftEvent::EntryAppended { .. }
        | RaftEvent::Persisted { .. }
        | RaftEvent::MessageSent { .. }
        | RaftEvent::MessageReceived { .. }
        | RaftEvent::ReadyTaken => return None,
    })
}

const fn role_point(role: RoleName, reason: RoleReason) -> &'static str {
    match (role, reason) {
        (RoleName::Candidate, RoleReason::Transfer) => "elections by transfer",
        (RoleName::Candidate, _) => "elections started",
        (RoleName::PreCandidate, _) => "pre-elections started",
        (RoleName::Leader, _) => "elections won",
        (RoleName::Follower, RoleReason::QuorumLost) => "leaders without a quorum stepped down",
        (RoleName::Follower, RoleReason::HigherTerm) => "replicas overtaken by a higher term",
        (RoleName::Follower, RoleReason::Removed) => "leaders that were removed",
        (RoleName::Follower, RoleReason::Lost) => "elections lost",
        (RoleName::Follower, _) => "replicas that follow",
    }
}
