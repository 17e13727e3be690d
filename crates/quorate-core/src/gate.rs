//! The gate: what can be wrong with a message before any role looks at it. Everything here is a
//! pure question; a message that does not pass changes nothing.
//!
//! * Positions stay below half of the range, so that arithmetic never wraps.
//! * Entries follow their `prev` without a gap, in terms that do not fall and are not after the
//!   message's term.
//! * A recovery epoch other than our own belongs to a group that a forced recovery left behind: whoever was
//!   left out knows itself as a member, and takes over no later epoch.
//!
//! Not here: what depends on the role (who leads, what was asked).

use crate::entry::{Entry, EntryPayload};
use crate::membership::Membership;
use crate::message::{Append, AppendReply, Message, MessageBody, SnapshotMeta};
use crate::raw_node::Rejected;
use crate::shared::Shared;
use crate::types::{LogId, LogIndex, ReplicaId, Term};

/// Whether `message`, brought by the transport from `from`, may be looked at.
pub(crate) fn check(shared: &Shared, from: ReplicaId, message: &Message) -> Result<(), Rejected> {
    if message.to != shared.id() {
        return Err(Rejected::WrongReceiver);
    }
    if message.from != from || from == shared.id() {
        return Err(Rejected::ForgedSender);
    }
    if message.term > Term::MAX || message.term == Term(0) && needs_a_term(&message.body) {
        return Err(Rejected::OutOfRange);
    }
    // A new replica that has not read far enough to find itself a member may be of a later epoch than it knows.
    let epoch = shared.epoch();
    let may_be_new = || shared.membership().get(shared.id()).is_none();
    if message.epoch != epoch && !(message.epoch > epoch && may_be_new()) {
        return Err(Rejected::OldEpoch);
    }
    check_body(message.term, &message.body)?;
    check_contents(shared, message)
}

/// What is to be taken over must agree with what is here: the members with who is a witness, entries with whether they
/// may have their commands, and both with what is committed.
fn check_contents(shared: &Shared, message: &Message) -> Result<(), Rejected> {
    let (id, witness) = (shared.id(), shared.is_witness());
    let agrees = |membership: &Membership| {
        if membership.says_otherwise(id, witness) { Err(Rejected::InvalidMembership) } else { Ok(()) }
    };
    let contradicts = match &message.body {
        MessageBody::Append(append) => {
            append.entries.iter().try_for_each(|entry| match &entry.payload {
                EntryPayload::Membership(membership) => agrees(membership),
                EntryPayload::Withheld if !witness => Err(Rejected::MalformedEntries),
                EntryPayload::Command(_) if witness => Err(Rejected::MalformedEntries),
                EntryPayload::Withheld | EntryPayload::Noop | EntryPayload::Command(_) => Ok(()),
            })?;
            shared.log.contradicts_committed(append)
        }
        MessageBody::InstallSnapshot(meta) => {
            agrees(&meta.membership)?;
            contradicts(shared, meta)
        }
        MessageBody::PreVote(_)
        | MessageBody::PreVoteReply { .. }
        | MessageBody::Vote(_)
        | MessageBody::VoteReply { .. }
        | MessageBody::AppendReply(_)
        | MessageBody::Heartbeat { .. }
        | MessageBody::HeartbeatReply { .. }
        | MessageBody::Quiesce { .. }
        | MessageBody::RequestSnapshot { .. }
        | MessageBody::TimeoutNow
        | MessageBody::ReadIndex { .. }
        | MessageBody::ReadIndexReply { .. } => false,
    };
    // A message of an older term is answered, not examined.
    if contradicts && message.term >= shared.term { Err(Rejected::ContradictsCommitted) } else { Ok(()) }
}

/// Whether nobody could ever say this in term 0, in which there is no leader and no candidate.
const fn needs_a_term(body: &MessageBody) -> bool {
    match body {
        MessageBody::PreVote(_)
        | MessageBody::Vote(_)
        | MessageBody::VoteReply { .. }
        | MessageBody::Append(_)
        | MessageBody::AppendReply(_)
        | MessageBody::Heartbeat { .. }
        | MessageBody::HeartbeatReply { .. }
        | MessageBody::InstallSnapshot(_)
        | MessageBody::Quiesce { .. }
        | MessageBody::RequestSnapshot { .. }
        | MessageBody::TimeoutNow
        | MessageBody::ReadIndexReply { .. } => true,
        MessageBody::PreVoteReply { .. } | MessageBody::ReadIndex { .. } => false,
    }
}

fn contradicts(shared: &Shared, meta: &SnapshotMeta) -> bool {
    let covered = meta.last.index <= shared.log.commit();
    covered && shared.log.term_at(meta.last.index).is_some_and(|term| term != meta.last.term)
}

fn check_body(term: Term, body: &MessageBody) -> Result<(), Rejected> {
    match body {
        MessageBody::PreVote(request) | MessageBody::Vote(request) => position(term, request.last),
        MessageBody::Append(append) => {
            position(term, append.prev)?;
            index(append.commit)?;
            entries(term, append)
        }
        MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) => index(*matched),
        MessageBody::AppendReply(AppendReply::Rejected { prev, hint, last }) => {
            index(*prev)?;
            index(*last)?;
            position(term, *hint)
        }
        MessageBody::Heartbeat { commit, .. } => index(*commit),
        MessageBody::RequestSnapshot { at_least } => index(*at_least),
        MessageBody::Quiesce { last, .. } => position(term, *last),
        MessageBody::HeartbeatReply { last, .. } => position(term, *last),
        MessageBody::InstallSnapshot(meta) => snapshot(term, meta),
        MessageBody::ReadIndexReply { index: at, .. } => at.map_or(Ok(()), index),
        MessageBody::PreVoteReply { .. }
        | MessageBody::VoteReply { .. }
        | MessageBody::TimeoutNow
        | MessageBody::ReadIndex { .. } => Ok(()),
    }
}

fn index(index: LogIndex) -> Result<(), Rejected> {
    if index <= LogIndex::MAX { Ok(()) } else { Err(Rejected::OutOfRange) }
}

/// Nobody holds an entry of a term after its own.
fn position(term: Term, id: LogId) -> Result<(), Rejected> {
    index(id.index)?;
    if id.term > Term::MAX {
        return Err(Rejected::OutOfRange);
    }
    if id.term > term || (id.index == LogIndex(0) && id.term != Term(0)) {
        return Err(Rejected::MalformedEntries);
    }
    Ok(())
}

fn entries(term: Term, append: &Append) -> Result<(), Rejected> {
    let mut before = append.prev;
    for entry in &append.entries {
        index(entry.index())?;
        if entry.index() != before.index.next() || entry.term() < before.term || entry.term() == Term(0) {
            return Err(Rejected::MalformedEntries);
        }
        position(term, entry.id)?;
        membership(entry)?;
        before = entry.id;
    }
    Ok(())
}

fn membership(entry: &Entry) -> Result<(), Rejected> {
    match &entry.payload {
        EntryPayload::Membership(membership) => membership.validate().or(Err(Rejected::InvalidMembership)),
        EntryPayload::Noop | EntryPayload::Command(_) | EntryPayload::Withheld => Ok(()),
    }
}

fn snapshot(term: Term, meta: &SnapshotMeta) -> Result<(), Rejected> {
    position(term, meta.last)?;
    position(term, meta.membership_id)?;
    if !meta.is_possible() {
        return Err(Rejected::MalformedEntries);
    }
    meta.membership.validate().or(Err(Rejected::InvalidMembership))
}
