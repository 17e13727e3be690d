//! How messages, entries and events look in a script's expected output.

use quorate_core::{
    AppendReply, Entry, EntryPayload, MemberRole, Membership, Message, MessageBody, RaftEvent, ReadOutcome,
    ReplicaId, TransferOutcome, VoteRefusal,
};

pub(crate) fn entry(entry: &Entry) -> String {
    match &entry.payload {
        EntryPayload::Noop => format!("{}·", entry.id),
        EntryPayload::Withheld => format!("{}░", entry.id),
        EntryPayload::Command(command) if command.len() > 12 => format!("{}={}B", entry.id, command.len()),
        EntryPayload::Command(command) => format!("{}={}", entry.id, String::from_utf8_lossy(command)),
        EntryPayload::Membership(members) => format!("{}={}", entry.id, membership(members)),
    }
}

pub(crate) fn entries(entries: &[Entry]) -> String {
    entries.iter().map(entry).collect::<Vec<_>>().join(" ")
}

/// Voters, and learners in parentheses (`?`: to be promoted once caught up), witnesses in brackets; in the joint state the old voters after a `&` (`&!` where
/// somebody must leave it).
pub(crate) fn membership(membership: &Membership) -> String {
    let stays = |id: &ReplicaId| !membership.is_leaving(*id);
    let names = membership.members().filter(|(id, _)| stays(id)).map(|(id, member)| match member.role {
        MemberRole::Voter => id.to_string(),
        MemberRole::Witness => format!("[{id}]"),
        MemberRole::Learner if membership.is_joining(id) => format!("({id}?)"),
        MemberRole::Learner => format!("({id})"),
    });
    let names = names.collect::<Vec<_>>().join(" ");
    let joint = membership.joint().map_or(String::new(), |joint| {
        let old: Vec<String> = joint.outgoing_voters().map(|id| id.to_string()).collect();
        format!(" {} {}", if joint.leaves_automatically() { "&" } else { "&!" }, old.join(" "))
    });
    format!("{{{names}{joint}}}")
}

pub(crate) fn body(body: &MessageBody) -> String {
    match body {
        MessageBody::PreVote(request) => format!("pre-vote? last={}", request.last),
        MessageBody::PreVoteReply { granted } => format!("pre-vote {}", yes(*granted)),
        MessageBody::Vote(request) => {
            format!("vote? last={}{}", request.last, if request.transfer { " transfer" } else { "" })
        }
        MessageBody::VoteReply { granted } => format!("vote {}", yes(*granted)),
        MessageBody::Append(append) => {
            let round =
                if append.read_round > 0 { format!(" round={}", append.read_round) } else { String::new() };
            format!("append {} [{}] commit={}{round}", append.prev, entries(&append.entries), append.commit)
        }
        MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) => format!("accept {matched}"),
        MessageBody::AppendReply(AppendReply::Rejected { prev, hint, last }) => {
            format!("reject {prev} hint={hint} last={last}")
        }
        MessageBody::Heartbeat { commit, read_round } => {
            format!("heartbeat commit={commit} round={read_round}")
        }
        MessageBody::HeartbeatReply { read_round, last } => {
            format!("heartbeat-reply last={last} round={read_round}")
        }
        MessageBody::RequestSnapshot { at_least } => format!("snapshot? at-least={at_least}"),
        MessageBody::Quiesce { last, round } => format!("rest? last={last} round={round}"),
        MessageBody::InstallSnapshot(meta) => {
            format!("snapshot {} {}", meta.last, membership(&meta.membership))
        }
        MessageBody::TimeoutNow => "timeout-now".to_owned(),
        MessageBody::ReadIndex { .. } => "read-index?".to_owned(),
        MessageBody::ReadIndexReply { index, .. } => match index {
            Some(index) => format!("read-index {index}"),
            None => "read-index none".to_owned(),
        },
    }
}

const fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}

/// Heartbeats are shown only when a script asks for them.
pub(crate) const fn is_heartbeat(message: &Message) -> bool {
    matches!(message.body, MessageBody::Heartbeat { .. } | MessageBody::HeartbeatReply { .. })
}

/// What every script shows; the rest only after `events all`.
pub(crate) const fn is_plain(event: &RaftEvent) -> bool {
    match event {
        RaftEvent::RoleChanged { .. }
        | RaftEvent::VoteAnswered { refusal: Some(_), .. }
        | RaftEvent::Committed { .. }
        | RaftEvent::MembershipChanged { .. }
        | RaftEvent::FollowerLostLog { .. }
        | RaftEvent::QuiescenceChanged { .. }
        | RaftEvent::MessageRejected { .. } => true,
        RaftEvent::TransferEnded { outcome, .. } => !matches!(outcome, TransferOutcome::SteppedDown),
        RaftEvent::VoteAnswered { refusal: None, .. }
        | RaftEvent::VoteCounted { .. }
        | RaftEvent::AppendRejected { .. }
        | RaftEvent::Truncated { .. }
        | RaftEvent::Compacted { .. }
        | RaftEvent::ProgressChanged { .. }
        | RaftEvent::SnapshotOffered { .. }
        | RaftEvent::SnapshotEnded { .. }
        | RaftEvent::SnapshotProgress { .. }
        | RaftEvent::SnapshotReceived { .. }
        | RaftEvent::ReadsServed { .. }
        | RaftEvent::ReadsFailed { .. }
        | RaftEvent::TransferStarted { .. }
        | RaftEvent::EntryAppended { .. }
        | RaftEvent::Persisted { .. }
        | RaftEvent::MessageSent { .. }
        | RaftEvent::MessageReceived { .. }
        | RaftEvent::ReadyTaken => false,
    }
}

const fn vote(pre: bool) -> &'static str {
    if pre { "pre-vote" } else { "vote" }
}

pub(crate) fn event(event: &RaftEvent) -> String {
    match event {
        RaftEvent::RoleChanged { role, term, leader, reason } => {
            let leader = leader.map_or("none".to_owned(), |leader| leader.to_string());
            format!("is {role} t{term} leader={leader} ({reason:?})")
        }
        RaftEvent::VoteAnswered { candidate, refusal: None, pre, .. } => {
            format!("grants {candidate} its {}", vote(*pre))
        }
        RaftEvent::VoteAnswered { candidate, refusal: Some(refusal), pre, .. } => {
            let why = match refusal {
                VoteRefusal::LogBehind => "its log is behind",
                VoteRefusal::AlreadyVoted => "already voted",
                VoteRefusal::HeardLeader => "hears a leader",
                VoteRefusal::OldTerm => "of an old term",
            };
            format!("refuses {candidate} its {}: {why}", vote(*pre))
        }
        RaftEvent::VoteCounted { voter, pre, granted } => {
            format!("counts the {} of {voter}: {}", vote(*pre), yes(*granted))
        }
        RaftEvent::AppendRejected { leader, prev } => format!("does not have {prev} that {leader} builds on"),
        RaftEvent::Truncated { from } => format!("drops its log from {from} on"),
        RaftEvent::Compacted { through } => format!("compacts its log through {through}"),
        RaftEvent::Committed { index } => format!("commits {index}"),
        RaftEvent::MembershipChanged { log_id } => format!("has the members of {log_id}"),
        RaftEvent::FollowerLostLog { replica, last } => {
            format!("sees that {replica} lost its log after {last}")
        }
        RaftEvent::MessageRejected { reason, message } => {
            format!("rejects from {}: {} ({reason:?})", message.from, body(&message.body))
        }
        RaftEvent::ProgressChanged { replica, from, to, matched } => {
            format!("feeds {replica}: {from:?} to {to:?}, matched {matched}")
        }
        RaftEvent::SnapshotOffered { to, at_least } => {
            format!("offers {to} a snapshot of {at_least} or later")
        }
        RaftEvent::SnapshotEnded { to, outcome } => {
            format!("hears that the snapshot to {to} was {outcome:?}")
        }
        RaftEvent::SnapshotProgress { peer, bytes, bytes_total, .. } => {
            format!("moves a snapshot with {peer}: {bytes} of {bytes_total}")
        }
        RaftEvent::SnapshotReceived { last, taken } => format!("got a snapshot of {last}: {taken:?}"),
        RaftEvent::ReadsServed { index, reads } => format!("serves {reads} reads at {index}"),
        RaftEvent::ReadsFailed { reads, reason } => format!("fails {reads} reads ({reason:?})"),
        RaftEvent::QuiescenceChanged { quiescent: true } => "rests".to_owned(),
        RaftEvent::QuiescenceChanged { quiescent: false } => "wakes".to_owned(),
        RaftEvent::TransferStarted { to } => format!("begins a transfer to {to}"),
        RaftEvent::TransferEnded { to, outcome: TransferOutcome::SteppedDown } => {
            format!("has handed over to {to}")
        }
        RaftEvent::TransferEnded { to, .. } => format!("gives up the transfer to {to}"),
        RaftEvent::EntryAppended { id } => format!("appends {id}"),
        RaftEvent::Persisted { through } => format!("has {through} on disk"),
        RaftEvent::MessageSent { message } => format!("says to {}: {}", message.to, body(&message.body)),
        RaftEvent::MessageReceived { message } => format!("hears {}: {}", message.from, body(&message.body)),
        RaftEvent::ReadyTaken => "is taken to work".to_owned(),
    }
}

pub(crate) fn read(outcome: &ReadOutcome) -> String {
    match outcome {
        ReadOutcome::At { ticket, index } => format!("read {} at {index}", ticket.0),
        ReadOutcome::Failed { ticket, .. } => format!("read {} failed", ticket.0),
    }
}
