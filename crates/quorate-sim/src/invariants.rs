//! What must be true at every moment, checked after every step from outside the product.
//!
//! | invariant | says |
//! |---|---|
//! | one leader per term | two replicas never lead in one term (Raft §5.2) |
//! | one vote per term | a replica never votes for two, restarts included |
//! | log matching | entries with the same index and term are the same and follow the same entry (§5.3) |
//! | committed stays | what was given to apply at an index is the same on every replica, for ever |
//! | applied in order | no replica skips or repeats an index |
//! | leader completeness | a new leader's log holds every committed entry (§5.4) |
//! | monotone | term and commit index never go back, the term not even over a restart |
//! | promised before durable | a message never says what the sender's disk could still forget |
//! | commits count in the own term | a leader moves its commit index to entries of its own term (§5.4.2, figure 8) |
//! | committed is durable on a majority | when a leader commits, the entry is on the disks of a majority of the voters, of both sides in a joint state |
//! | one change of members at a time, no change of members before an own commit | a leader appends members only when those before are committed, and so is an entry of its term |
//! | members as the log says | a replica acts by the newest committed members it knows, and a snapshot carries those of its position |
//! | one lease at a time | when a replica becomes leader, no other may still serve reads from its lease |
//! | a read has a round of its own | a linearizable read at a leader is answered only after a round that was begun when it had been asked (§6.4) |
//! | same response | a command's response is the same on every replica |
//! | same snapshot | two snapshots of one index have the same bytes |
//!
//! The facts are collected from what the host hands out ([`quorate_host::Work`]) and what its cores report; the
//! checker never asks the product whether it is right.

mod leaders;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use quorate_core::{
    AppendReply, Entry, EntryPayload, GroupId, LogId, LogIndex, Membership, Message, MessageBody, ReplicaId,
    RoleName, Status, Term,
};
use quorate_storage::{GroupState, GroupWrite};

use crate::rng::{hash, hash_on};

/// Something that must never be true was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The name of the invariant, as in the module's table.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

pub(crate) type Checked = Result<(), Violation>;

/// `Err` with a violation unless the condition holds.
macro_rules! require {
    ($condition:expr, $invariant:literal, $($detail:tt)+) => {
        if !$condition {
            return Err($crate::invariants::Violation::new($invariant, format!($($detail)+)));
        }
    };
}
pub(crate) use require;

/// What a replica's disk is known to hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable(pub(crate) Option<GroupState>);

/// What was seen of one replica.
#[derive(Debug, Default)]
struct ReplicaFacts {
    /// The log as it was given to the log writer, durable or not.
    base: LogId,
    terms: BTreeMap<LogIndex, Term>,
    term: Term,
    /// The highest term in which it ever said something, in any life.
    spoken: Term,
    commit: LogIndex,
    /// A write found no space: it and those behind it will be given to the log writer again.
    repeats: bool,
    /// The last index given to apply in this life.
    applied: LogIndex,
    was_leader_in: Option<Term>,
    /// Where the members came from that it acted by when it was last looked at.
    members_at: LogId,
    /// Where memberships stand in its log.
    member_entries: BTreeSet<LogIndex>,
}

impl ReplicaFacts {
    fn last(&self) -> LogId {
        match self.terms.last_key_value() {
            Some((index, term)) => LogId { term: *term, index: *index },
            None => self.base,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntryFact {
    fingerprint: u64,
    previous: LogId,
}

/// What was seen of one group.
#[derive(Debug, Default)]
struct GroupFacts {
    leaders: BTreeMap<Term, ReplicaId>,
    votes: BTreeMap<(ReplicaId, Term), ReplicaId>,
    entries: BTreeMap<LogId, EntryFact>,
    committed: BTreeMap<LogIndex, (Term, u64)>,
    /// The term in which an index was known to be committed, or a later one.
    committed_by: BTreeMap<LogIndex, Term>,
    responses: BTreeMap<LogIndex, u64>,
    snapshots: BTreeMap<LogId, u64>,
    replicas: BTreeMap<ReplicaId, ReplicaFacts>,
    /// The newest round of a leader in its term, and when it was first sent.
    rounds: BTreeMap<(ReplicaId, Term), (u64, u64)>,
    /// The highest index acknowledged to a client, by time.
    acknowledged: BTreeMap<u64, LogIndex>,
    /// Committed members by the index of their entry.
    members: BTreeMap<LogIndex, (LogId, Arc<Membership>)>,
}

/// All facts of a run.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    groups: BTreeMap<GroupId, GroupFacts>,
}

impl Invariants {
    fn group(&mut self, group: GroupId) -> &mut GroupFacts {
        self.groups.entry(group).or_default()
    }

    /// A replica starts from what its log says, its machine holding everything up to `applied`.
    pub(crate) fn on_start(&mut self, replica: ReplicaId, state: &GroupState, applied: LogIndex) -> Checked {
        let facts = self.group(state.group).replicas.entry(replica).or_default();
        let found = state.hard_state.term;
        facts.base = state.compacted;
        facts.terms.clear();
        for (number, run) in state.term_runs.iter().enumerate() {
            let end = state.term_runs.get(number + 1).map_or(state.last.next(), |next| next.index);
            facts.terms.extend((run.index.0..end.0).map(|index| (LogIndex(index), run.term)));
        }
        facts.applied = applied;
        facts.commit = LogIndex(0);
        facts.repeats = false;
        facts.was_leader_in = None;
        facts.member_entries = state.memberships.iter().map(|(id, _)| id.index).collect();
        // A term that was never spoken may be forgotten.
        facts.term = found;
        require!(
            found >= facts.spoken,
            "monotone",
            "{replica:?} starts in {found:?}, but it spoke in {:?} before",
            facts.spoken
        );
        Ok(())
    }

    /// The host gives a write to the log writer.
    pub(crate) fn on_log_write(&mut self, replica: ReplicaId, write: &GroupWrite) -> Checked {
        let group = self.groups.entry(write.group).or_default();
        let facts = group.replicas.entry(replica).or_default();
        if let Some((to, _, _)) = &write.reset_to {
            facts.base = *to;
            facts.terms.clear();
        }
        if let Some(from) = write.truncate_from
            && std::mem::take(&mut facts.repeats)
        {
            // Said before, and not done: what it puts in place of the old entries may be committed by now.
            facts.terms.split_off(&from);
        }
        if let Some(from) = write.truncate_from {
            let committed = group.committed.last_key_value().map_or(LogIndex(0), |(index, _)| *index);
            if from <= committed {
                // Cutting off a conflicting suffix is right; cutting what this replica shares with the
                // committed log is not.
                let kept = facts.terms.get(&from).copied();
                let true_term = group.committed.get(&from).map(|(term, _)| *term);
                require!(
                    kept.is_none() || kept != true_term,
                    "committed stays",
                    "{replica:?} truncates the committed entry {from:?}"
                );
            }
            facts.terms.split_off(&from);
        }
        if let Some(first) = write.entries.first()
            && facts.terms.get(&first.id.index) == Some(&first.id.term)
            && std::mem::take(&mut facts.repeats)
        {
            facts.terms.split_off(&first.id.index);
        }
        for entry in &write.entries {
            let previous = facts.last();
            require!(
                entry.id.index == previous.index.next() && entry.id.term >= previous.term,
                "log matching",
                "{replica:?} appends {} after {previous}",
                entry.id
            );
            let fact = EntryFact { fingerprint: fingerprint(entry), previous };
            let known = *group.entries.entry(entry.id).or_insert(fact);
            require!(
                known == fact,
                "log matching",
                "{replica:?} appends {} as {fact:x?}, elsewhere it is {known:x?}",
                entry.id
            );
            facts.terms.insert(entry.id.index, entry.id.term);
        }
        if let Some((to, _, _)) = &write.compact_to {
            require!(
                to.index <= facts.applied,
                "applied in order",
                "{replica:?} compacts to {to}, beyond what was given to apply ({:?})",
                facts.applied
            );
            facts.terms = facts.terms.split_off(&to.index.next());
            facts.base = facts.base.max(*to);
        }
        Ok(())
    }

    /// A replica has found entries damaged and gives them up: that says nothing about anybody else's.
    pub(crate) fn on_damage(&mut self, replica: ReplicaId, write: &GroupWrite) {
        if let Some(from) = write.truncate_from {
            self.group(write.group).replicas.entry(replica).or_default().terms.split_off(&from);
        }
    }

    /// A replica gets an older content of its disk, when nobody needs what it forgets: it may say again what it said.
    pub(crate) fn on_old_backup(&mut self, group: GroupId, replica: ReplicaId) {
        let facts = self.group(group);
        facts.votes.retain(|(voter, _), _| *voter != replica);
        facts.replicas.entry(replica).or_default().spoken = Term(0);
    }

    /// A write of a replica found no space.
    pub(crate) fn on_no_space(&mut self, group: GroupId, replica: ReplicaId) {
        self.group(group).replicas.entry(replica).or_default().repeats = true;
    }

    /// Committed entries go to the state machine of a replica in this term.
    pub(crate) fn on_apply(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        term: Term,
        entries: &[Entry],
    ) -> Checked {
        let facts = self.groups.entry(group).or_default();
        let applied = &mut facts.replicas.entry(replica).or_default().applied;
        for entry in entries {
            let index = entry.id.index;
            require!(
                index == applied.next(),
                "applied in order",
                "{replica:?} applies {index:?} after {applied:?}"
            );
            *applied = index;
            facts.committed_by.entry(index).or_insert(term);
            let fact = (entry.id.term, fingerprint(entry));
            let known = *facts.committed.entry(index).or_insert(fact);
            require!(
                known == fact,
                "committed stays",
                "{replica:?} applies {} (fingerprint {:x}), but {index:?} was committed in {:?} ({:x})",
                entry.id,
                fact.1,
                known.0,
                known.1
            );
        }
        for entry in entries {
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.on_members_committed(group, entry.id, membership);
            }
        }
        Ok(())
    }

    /// A snapshot replaces the state of a replica.
    pub(crate) fn on_restore(&mut self, group: GroupId, replica: ReplicaId, last: LogId) -> Checked {
        let facts = self.group(group);
        let committed = facts.committed.get(&last.index).map(|(term, _)| *term);
        require!(
            committed == Some(last.term),
            "committed stays",
            "{replica:?} restores {last}, but there the committed term is {committed:?}"
        );
        facts.replicas.entry(replica).or_default().applied = last.index;
        Ok(())
    }

    /// What a core looks like after a step. Returns whether it has just become leader.
    pub(crate) fn on_status(&mut self, group: GroupId, status: &Status<'_>) -> Result<bool, Violation> {
        let facts = self.groups.entry(group).or_default();
        let replica = facts.replicas.entry(status.id).or_default();
        require!(
            status.term >= replica.term && status.commit >= replica.commit,
            "monotone",
            "{:?} went from {:?} commit {:?} to {:?} commit {:?}",
            status.id,
            replica.term,
            replica.commit,
            status.term,
            status.commit
        );
        replica.term = status.term;
        replica.commit = status.commit;
        if status.role != RoleName::Leader {
            return Ok(false);
        }
        let leader = *facts.leaders.entry(status.term).or_insert(status.id);
        require!(
            leader == status.id,
            "one leader per term",
            "{leader:?} and {:?} both lead in {:?}",
            status.id,
            status.term
        );
        if replica.was_leader_in == Some(status.term) {
            return Ok(false);
        }
        replica.was_leader_in = Some(status.term);
        for (index, (term, _)) in facts.committed.range(replica.base.index.next()..) {
            // A leader that wins late, when a later term has one already, need not hold what that one committed.
            let before = facts.committed_by.get(index).is_none_or(|by| *by < status.term);
            let held = replica.terms.get(index);
            require!(
                !before || held == Some(term),
                "leader completeness",
                "{:?} leads in {:?}, but its log has {held:?} at {index:?}, committed in {term:?}",
                status.id,
                status.term
            );
        }
        Ok(true)
    }

    /// A message leaves a node: what it promises must be on its disk.
    pub(crate) fn on_send(&mut self, group: GroupId, message: &Message, durable: &Durable) -> Checked {
        let vote = message.vote();
        if let Some(candidate) = vote {
            let voted = self.group(group).votes.entry((message.from, message.term)).or_insert(candidate);
            require!(
                *voted == candidate,
                "one vote per term",
                "{:?} votes for {candidate:?} in {:?}, before it was {voted:?}",
                message.from,
                message.term
            );
        }
        promised(message, durable)?;
        if let MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) = &message.body
            && let Some(term) = self.term_in_log(group, message.from, *matched)
        {
            let id = LogId { term, index: *matched };
            require!(
                holds(durable, id),
                "promised before durable",
                "{:?} accepts up to {id}, its disk has another entry there",
                message.from
            );
        }
        let pre = matches!(message.body, MessageBody::PreVote(_) | MessageBody::PreVoteReply { .. });
        if !pre {
            let facts = self.group(group).replicas.entry(message.from).or_default();
            facts.spoken = facts.spoken.max(message.term);
        }
        Ok(())
    }

    /// A command was applied with this response (as bytes that say everything about it).
    pub(crate) fn on_response(&mut self, group: GroupId, index: LogIndex, response: &str) -> Checked {
        let fact = hash(response.as_bytes());
        let known = *self.group(group).responses.entry(index).or_insert(fact);
        require!(
            known == fact,
            "same response",
            "{index:?} answers {response}, on another replica it did not"
        );
        Ok(())
    }

    /// A snapshot was saved with this content.
    pub(crate) fn on_snapshot(&mut self, group: GroupId, last: LogId, content: u64) -> Checked {
        let known = *self.group(group).snapshots.entry(last).or_insert(content);
        require!(known == content, "same snapshot", "two snapshots of {last} differ: {known:x}, {content:x}");
        Ok(())
    }

    /// A client is told that its command was applied at `id`: it must be known to be committed.
    pub(crate) fn on_acknowledged(&mut self, group: GroupId, now: u64, id: LogId) -> Checked {
        let facts = self.group(group);
        let before = facts.acknowledged.last_key_value().map_or(LogIndex(0), |(_, index)| *index);
        facts.acknowledged.insert(now, before.max(id.index));
        let committed = facts.committed.get(&id.index);
        require!(
            committed.is_some_and(|(term, _)| *term == id.term),
            "acknowledged survives",
            "{id} was acknowledged, but committed there is {committed:x?}"
        );
        Ok(())
    }
}

impl Invariants {
    /// A client was answered a read from a replica that had applied up to `applied`: it must show all that was
    /// acknowledged by the time `until`.
    pub(crate) fn on_read(&mut self, group: GroupId, until: u64, applied: LogIndex) -> Checked {
        let acknowledged = self.group(group).acknowledged.range(..until).next_back();
        let needed = acknowledged.map_or(LogIndex(0), |(_, index)| *index);
        require!(
            applied >= needed,
            "reads show what was acknowledged",
            "a read was served at {applied:?}, but {needed:?} had been acknowledged before it had to be fresh"
        );
        Ok(())
    }
}

/// Checks what `message` says about its sender against the sender's disk.
pub(crate) fn promised(message: &Message, durable: &Durable) -> Checked {
    let asks_only = matches!(
        message.body,
        MessageBody::PreVote(_) | MessageBody::PreVoteReply { .. } | MessageBody::InstallSnapshot(_)
    );
    let nothing = GroupState::default();
    let state = durable.0.as_ref().unwrap_or(&nothing);
    let hard = state.hard_state;
    require!(
        asks_only || hard.term >= message.term,
        "promised before durable",
        "{:?} speaks in {:?}, its disk says {:?}: {:?}",
        message.from,
        message.term,
        hard.term,
        message.body
    );
    if let Some(candidate) = message.vote() {
        require!(
            hard.term > message.term || hard.vote == Some(candidate),
            "promised before durable",
            "{:?} gives its vote of {:?} to {candidate:?}, its disk says {:?}",
            message.from,
            message.term,
            hard.vote
        );
    }
    if let MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) = &message.body {
        require!(
            state.last >= *matched,
            "promised before durable",
            "{:?} accepts up to {matched:?}, its disk ends at {:?}",
            message.from,
            state.last
        );
    }
    if let MessageBody::HeartbeatReply { last, .. } = &message.body {
        require!(
            holds(durable, *last),
            "promised before durable",
            "{:?} says that it holds {last}, its disk ends at {:?}",
            message.from,
            state.last
        );
    }
    Ok(())
}

/// Whether what a disk holds covers the entry `id`.
pub(crate) fn holds(durable: &Durable, id: LogId) -> bool {
    durable.0.as_ref().is_some_and(|state| {
        let run = state.term_runs.iter().rev().find(|run| run.index <= id.index);
        id.index <= state.compacted.index
            || (id.index <= state.last && run.is_some_and(|run| run.term == id.term))
    })
}

fn fingerprint(entry: &Entry) -> u64 {
    match &entry.payload {
        EntryPayload::Noop => hash(b"noop"),
        EntryPayload::Withheld => hash(b"withheld"),
        EntryPayload::Command(bytes) => hash_on(hash(b"command"), bytes),
        EntryPayload::Membership(membership) => hash(format!("{membership:?}").as_bytes()),
    }
}
