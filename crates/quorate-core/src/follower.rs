//! A replica that follows a leader, or waits for one. Step 7 of the write path: a follower matches
//! and appends; its acceptance leaves only when the entries are durable.
//!
//! * `verified` is how far this log is known to equal the leader's in this term. Nothing but an
//!   append that fits (or a snapshot) raises it, and no heartbeat commits beyond it: what a disk gives back
//!   after a restart need not be what the leader thinks is there.
//! * The leader learns of it from every heartbeat's answer, and sends an append where it knew more.
//!
//! Previous: `quorate-host/src/log_writer.rs`. Next: `quorate-kv/src/data/state_machine.rs`.

use crate::event::{RaftEvent, ReadFailure, RoleReason};
use crate::message::{Append, AppendReply, Message, MessageBody, SnapshotMeta};
use crate::planted::planted;
use crate::quiescence::wake_leader;
use crate::raw_node::{ReadError, Rejected};
use crate::read::PassedOn;
use crate::ready::{ReadOutcome, ReadTicket};
use crate::role::Transition;
use crate::shared::Shared;
use crate::types::{LogId, LogIndex, MonoTime, ReplicaId};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Follower {
    /// When to campaign, if no leader speaks until then; `None` at rest (see `quiescence.rs`).
    pub(crate) deadline: Option<MonoTime>,
    pub(crate) verified: LogIndex,
    passed_on: PassedOn,
}

impl Follower {
    pub(crate) fn new(shared: &mut Shared) -> Self {
        Self {
            deadline: Some(shared.election_deadline()),
            verified: LogIndex(0),
            passed_on: PassedOn::default(),
        }
    }

    pub(crate) fn tick(&mut self, shared: &mut Shared) -> Transition {
        let expired = self.passed_on.expire(shared.now);
        shared.reads_failed(expired.len(), ReadFailure::TimedOut);
        for ticket in expired {
            shared.fail_read(ticket, ReadFailure::TimedOut);
        }
        if self.deadline.is_none_or(|deadline| shared.now < deadline) {
            return Transition::Stay;
        }
        if shared.may_campaign() {
            return Transition::Campaign { transfer: false, reason: RoleReason::ElectionTimeout };
        }
        self.deadline = Some(shared.election_deadline());
        if shared.leader.is_some() {
            return Transition::Follow { leader: None, reason: RoleReason::ElectionTimeout };
        }
        wake_leader(shared);
        Transition::Stay
    }

    pub(crate) fn next_deadline(&self) -> MonoTime {
        let deadline = self.deadline.unwrap_or(MonoTime::NEVER);
        self.passed_on.deadline().map_or(deadline, |reads| reads.min(deadline))
    }

    pub(crate) fn release_memory(&mut self) {
        self.passed_on.release_memory();
    }

    pub(crate) fn reads_waiting(&self) -> usize {
        self.passed_on.len()
    }

    /// The leader of this term spoke.
    pub(crate) fn hear(&mut self, shared: &mut Shared) {
        self.wake(shared);
        if shared.snapshot_wish.is_some()
            && let Some(leader) = shared.leader
        {
            Self::maybe_ask_for_snapshot(shared, leader);
        }
        shared.heard_leader = Some(shared.now);
        self.deadline = Some(shared.election_deadline());
    }

    pub(crate) fn step(&mut self, shared: &mut Shared, message: &Message) -> Result<Transition, Rejected> {
        let from = message.from;
        match &message.body {
            MessageBody::Append(append) => {
                self.hear(shared);
                self.on_append(shared, from, append);
            }
            MessageBody::Heartbeat { commit, read_round } => {
                self.hear(shared);
                self.on_heartbeat(shared, from, *commit, *read_round);
            }
            MessageBody::Quiesce { last, round } => self.on_quiesce(shared, from, *last, *round),
            MessageBody::InstallSnapshot(meta) => {
                self.hear(shared);
                self.on_snapshot(shared, from, meta);
            }
            MessageBody::TimeoutNow if shared.leader != Some(from) => return Err(Rejected::NotFromLeader),
            MessageBody::TimeoutNow => {
                if shared.may_campaign() {
                    return Ok(Transition::Campaign { transfer: true, reason: RoleReason::Transfer });
                }
            }
            MessageBody::RequestSnapshot { .. } => return Err(Rejected::Unexpected),
            MessageBody::ReadIndex { request } => {
                shared.send(from, MessageBody::ReadIndexReply { request: *request, index: None });
            }
            MessageBody::ReadIndexReply { .. } if shared.leader != Some(from) => {
                return Err(Rejected::NotFromLeader);
            }
            MessageBody::ReadIndexReply { request, index } => {
                let ticket = self.passed_on.answered(*request).ok_or(Rejected::Unexpected)?;
                match *index {
                    Some(index) => {
                        shared.event(RaftEvent::ReadsServed { index, reads: 1 });
                        shared.reads.push(ReadOutcome::At { ticket, index });
                    }
                    None => {
                        shared.reads_failed(1, ReadFailure::Refused);
                        shared.fail_read(ticket, ReadFailure::Refused);
                    }
                }
            }
            // Answers to what this replica asked in an earlier role.
            MessageBody::PreVoteReply { .. }
            | MessageBody::VoteReply { .. }
            | MessageBody::AppendReply(_)
            | MessageBody::HeartbeatReply { .. } => {}
            MessageBody::PreVote(_) | MessageBody::Vote(_) => unreachable!("answered in every role alike"),
        }
        Ok(Transition::Stay)
    }

    fn on_heartbeat(&self, shared: &mut Shared, from: ReplicaId, commit: LogIndex, read_round: u64) {
        if commit > shared.log.last_index() {
            // The leader clips this to what was acknowledged to it: it was here, and is gone.
            shared.lost_until = shared.lost_until.max(commit);
        }
        let believed =
            if planted("heartbeat_commit_believed") { shared.log.last_index() } else { self.verified };
        shared.commit_to(commit.min(believed));
        self.answer_heartbeat(shared, from, read_round);
    }

    fn on_append(&mut self, shared: &mut Shared, from: ReplicaId, append: &Append) {
        if !shared.log.reaches(append.prev) {
            return Self::refuse(shared, from, append.prev);
        }
        let Append { prev, entries, commit, read_round } = append;
        let end = entries.last().map_or(prev.index, |entry| entry.index());
        for entry in entries {
            if entry.index() <= shared.log.compacted().index
                || shared.log.contains(entry.id)
                || (entry.index() <= shared.log.last_index() && planted("conflict_not_noticed"))
            {
                continue;
            }
            if entry.index() <= shared.log.last_index() {
                shared.truncate(entry.index());
            }
            shared.append(entry.clone());
        }
        shared.log.keep_received(entries);
        // A snapshot may cover the whole of the append: then what it covers matches.
        let matched = end.max(shared.log.compacted().index);
        self.verified = self.verified.max(matched);
        shared.commit_to((*commit).min(matched));
        shared.promise_matched(from, matched, *read_round);
    }

    /// `prev` is not here: says how far back the logs could agree.
    fn refuse(shared: &mut Shared, from: ReplicaId, prev: LogId) {
        let bound = LogId { term: prev.term, index: prev.index.previous() };
        let hint = shared.log.last_possible_match(bound).unwrap_or_else(|| shared.log.compacted());
        let last = shared.log.last_index();
        shared.event(RaftEvent::AppendRejected { leader: from, prev });
        let reply = AppendReply::Rejected { prev: prev.index, hint, last };
        shared.send(from, MessageBody::AppendReply(reply));
    }

    fn on_snapshot(&mut self, shared: &mut Shared, from: ReplicaId, meta: &SnapshotMeta) {
        let last = meta.last;
        Self::take_snapshot(shared, meta);
        self.verified = self.verified.max(last.index);
        shared.promise_matched(from, last.index, 0);
    }

    pub(crate) fn read(&mut self, shared: &mut Shared, ticket: ReadTicket) -> Result<(), ReadError> {
        if shared.is_witness() {
            return Err(ReadError::Witness);
        }
        let leader = shared.leader.ok_or(ReadError::NoLeader)?;
        if self.passed_on.len() >= shared.config.reads_max {
            return Err(ReadError::Busy);
        }
        self.wake(shared);
        let request = shared.next_request;
        shared.next_request = request.wrapping_add(1);
        self.passed_on.ask(request, ticket, shared.one_timeout());
        shared.send(leader, MessageBody::ReadIndex { request });
        Ok(())
    }

    /// The role ends, or the leader changed: nobody will answer what was asked.
    pub(crate) fn fail_reads(&mut self, shared: &mut Shared) {
        shared.reads_failed(self.passed_on.len(), ReadFailure::LeaderChanged);
        for ticket in self.passed_on.abandon() {
            shared.fail_read(ticket, ReadFailure::LeaderChanged);
        }
    }
}
