//! Events by name, as logs and metrics spell them: a fixed, small set of words, so that each can be
//! a counter of its own.

use crate::error::Rejected;
use crate::event::{
    RaftEvent, ReadFailure, RoleName, RoleReason, SnapshotTaken, TransferOutcome, VoteRefusal,
};
use crate::raw_node::SnapshotOutcome;
use crate::status::ProgressName;

/// What an event is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventLabel {
    /// What happened.
    pub event: &'static str,
    /// Why, or in which way; empty where there is one way only.
    pub reason: &'static str,
}

impl RaftEvent {
    /// Its name and reason.
    #[must_use]
    pub const fn label(&self) -> EventLabel {
        let (event, reason) = match self {
            Self::RoleChanged { role, reason, .. } => (role_event(*role), reason.label()),
            Self::VoteAnswered { pre, refusal: None, .. } => (vote_event(*pre, true), ""),
            Self::VoteAnswered { pre, refusal: Some(refusal), .. } => {
                (vote_event(*pre, false), refusal.label())
            }
            Self::VoteCounted { granted, .. } => ("vote_counted", if *granted { "yes" } else { "no" }),
            Self::AppendRejected { .. } => ("append_rejected", ""),
            Self::Truncated { .. } => ("log_truncated", ""),
            Self::Committed { .. } => ("committed", ""),
            Self::Compacted { .. } => ("log_compacted", ""),
            Self::MembershipChanged { .. } => ("membership_changed", ""),
            Self::FollowerLostLog { .. } => ("follower_lost_log", ""),
            Self::ProgressChanged { to, .. } => ("progress_changed", progress(*to)),
            Self::SnapshotOffered { .. } => ("snapshot_offered", ""),
            Self::SnapshotEnded { outcome: SnapshotOutcome::Sent, .. } => ("snapshot_ended", "sent"),
            Self::SnapshotEnded { outcome: SnapshotOutcome::Failed, .. } => ("snapshot_ended", "failed"),
            Self::SnapshotProgress { sends: true, .. } => ("snapshot_progress", "sends"),
            Self::SnapshotProgress { sends: false, .. } => ("snapshot_progress", "receives"),
            Self::SnapshotReceived { taken, .. } => ("snapshot_received", taken.label()),
            Self::ReadsServed { .. } => ("reads_served", ""),
            Self::ReadsFailed { reason, .. } => ("reads_failed", reason.label()),
            Self::MessageRejected { reason, .. } => ("message_rejected", rejection(*reason)),
            Self::QuiescenceChanged { quiescent: true } => ("quiescence_changed", "rests"),
            Self::QuiescenceChanged { quiescent: false } => ("quiescence_changed", "wakes"),
            Self::TransferStarted { .. } => ("transfer_started", ""),
            Self::TransferEnded { outcome, .. } => ("transfer_ended", outcome.label()),
            Self::EntryAppended { .. } => ("entry_appended", ""),
            Self::Persisted { .. } => ("persisted", ""),
            Self::MessageSent { .. } => ("message_sent", ""),
            Self::MessageReceived { .. } => ("message_received", ""),
            Self::ReadyTaken => ("ready_taken", ""),
        };
        EventLabel { event, reason }
    }
}

const fn role_event(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "became_follower",
        RoleName::PreCandidate => "became_pre_candidate",
        RoleName::Candidate => "became_candidate",
        RoleName::Leader => "became_leader",
    }
}

const fn vote_event(pre: bool, granted: bool) -> &'static str {
    match (pre, granted) {
        (true, true) => "pre_vote_granted",
        (true, false) => "pre_vote_refused",
        (false, true) => "vote_granted",
        (false, false) => "vote_refused",
    }
}

const fn progress(name: ProgressName) -> &'static str {
    match name {
        ProgressName::Probe => "probe",
        ProgressName::Replicate => "replicate",
        ProgressName::Snapshot => "snapshot",
    }
}

const fn rejection(reason: Rejected) -> &'static str {
    match reason {
        Rejected::WrongReceiver => "wrong_receiver",
        Rejected::ForgedSender => "forged_sender",
        Rejected::OldTerm => "old_term",
        Rejected::OldEpoch => "old_epoch",
        Rejected::OutOfRange => "out_of_range",
        Rejected::MalformedEntries => "malformed_entries",
        Rejected::ContradictsCommitted => "contradicts_committed",
        Rejected::TwoLeaders => "two_leaders",
        Rejected::UnknownSender => "unknown_sender",
        Rejected::NotFromLeader => "not_from_leader",
        Rejected::Unexpected => "unexpected",
        Rejected::InvalidMembership => "invalid_membership",
        Rejected::Busy => "busy",
    }
}

impl RoleReason {
    const fn label(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::ElectionTimeout => "election_timeout",
            Self::Asked => "asked",
            Self::Transfer => "transfer",
            Self::Won => "won",
            Self::Lost => "lost",
            Self::HigherTerm => "higher_term",
            Self::HeardLeader => "heard_leader",
            Self::QuorumLost => "quorum_lost",
            Self::Removed => "removed",
            Self::Forgot => "forgot",
        }
    }
}

impl VoteRefusal {
    const fn label(self) -> &'static str {
        match self {
            Self::LogBehind => "log_behind",
            Self::AlreadyVoted => "already_voted",
            Self::HeardLeader => "heard_leader",
            Self::OldTerm => "old_term",
        }
    }
}

impl SnapshotTaken {
    const fn label(self) -> &'static str {
        match self {
            Self::NotNeeded => "not_needed",
            Self::Kept => "kept",
            Self::Installed => "installed",
        }
    }
}

impl ReadFailure {
    const fn label(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::LeadershipLost => "leadership_lost",
            Self::LeaderChanged => "leader_changed",
            Self::Refused => "refused",
        }
    }
}

impl TransferOutcome {
    const fn label(self) -> &'static str {
        match self {
            Self::SteppedDown => "stepped_down",
            Self::TimedOut => "timed_out",
            Self::LeadershipLost => "leadership_lost",
            Self::Cancelled => "cancelled",
            Self::Unreachable => "unreachable",
        }
    }
}
