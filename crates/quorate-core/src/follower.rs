//! A replica that follows a leader, or waits for one. Step 7 of the write path: a follower matches
//! and appends; its acceptance leaves only when the entries are durable.
//!
//! Previous: `quorate-host/src/log_writer.rs`. Next: `quorate-kv/src/data/state_machine.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::{RaftEvent, RoleReason};
use crate::message::{Append, AppendReply, Message, MessageBody, SnapshotMeta};
use crate::raw_node::{ReadError, Rejected};
use crate::ready::{ReadOutcome, ReadTicket};
use crate::role::Transition;
use crate::shared::Shared;
use crate::types::{LogId, LogIndex, MonoTime, ReplicaId};

#[derive(Clone, Debug)]
pub(crate) struct Follower {
    /// When to campaign, if no leader speaks until then.
    pub(crate) deadline: MonoTime,
    /// The log is known to equal the leader's up to here (Raft §5.3): how far its commit index is
    /// believed without an append that proves more.
    verified: LogIndex,
    /// Reads asked of the leader: ticket, and until when to wait.
    reads: BTreeMap<u64, (ReadTicket, MonoTime)>,
    next_request: u64,
}

impl Follower {
    pub(crate) fn new(shared: &mut Shared) -> Self {
        Self {
            deadline: shared.election_deadline(),
            verified: LogIndex(0),
            reads: BTreeMap::new(),
            // Requests of an earlier life must not meet replies of this one.
            next_request: shared.rng.next(),
        }
    }

    pub(crate) fn tick(&mut self, shared: &mut Shared) -> Transition {
        let late: Vec<u64> = self
            .reads
            .iter()
            .filter(|(_, (_, until))| *until <= shared.now)
            .map(|(request, _)| *request)
            .collect();
        for request in late {
            if let Some((ticket, _)) = self.reads.remove(&request) {
                shared.fail_read(ticket);
            }
        }
        if shared.now < self.deadline {
            return Transition::Stay;
        }
        if !shared.membership().is_voter(shared.config.id) {
            self.deadline = shared.election_deadline();
            return Transition::Stay;
        }
        Transition::Campaign { transfer: false, reason: RoleReason::ElectionTimeout }
    }

    pub(crate) fn next_deadline(&self) -> MonoTime {
        self.reads.values().map(|(_, until)| *until).fold(self.deadline, MonoTime::min)
    }

    /// The leader of this term spoke.
    fn hear(&mut self, shared: &mut Shared) {
        shared.heard_leader = Some(shared.now);
        self.deadline = shared.election_deadline();
    }

    pub(crate) fn step(&mut self, shared: &mut Shared, message: Message) -> Result<Transition, Rejected> {
        let from = message.from;
        match message.body {
            MessageBody::Append(append) => {
                self.hear(shared);
                self.on_append(shared, from, append)?;
            }
            MessageBody::Heartbeat { commit, read_round } => {
                self.hear(shared);
                shared.commit_to(commit.min(self.verified));
                let last = shared.last_durable();
                shared.send(from, MessageBody::HeartbeatReply { read_round, last });
            }
            MessageBody::InstallSnapshot(meta) => {
                self.hear(shared);
                self.on_snapshot(shared, from, meta);
            }
            MessageBody::TimeoutNow => {
                if shared.leader != Some(from) {
                    return Err(Rejected::NotFromLeader);
                }
                if shared.membership().is_voter(shared.config.id) {
                    return Ok(Transition::Campaign { transfer: true, reason: RoleReason::Transfer });
                }
            }
            MessageBody::ReadIndex { request } => {
                shared.send(from, MessageBody::ReadIndexReply { request, index: None });
            }
            MessageBody::ReadIndexReply { request, index } => {
                let (ticket, _) = self.reads.remove(&request).ok_or(Rejected::Unexpected)?;
                match index {
                    Some(index) => shared.reads.push(ReadOutcome::At { ticket, index }),
                    None => shared.fail_read(ticket),
                }
            }
            MessageBody::PreVoteReply { .. }
            | MessageBody::VoteReply { .. }
            | MessageBody::AppendReply(_)
            | MessageBody::HeartbeatReply { .. } => return Err(Rejected::Unexpected),
            MessageBody::PreVote(_) | MessageBody::Vote(_) => unreachable!("answered in every role alike"),
        }
        Ok(Transition::Stay)
    }

    fn on_append(&mut self, shared: &mut Shared, from: ReplicaId, append: Append) -> Result<(), Rejected> {
        let Append { mut prev, mut entries, commit, read_round } = append;
        let compacted = shared.log.compacted();
        if prev.index < compacted.index {
            // A snapshot covers the front of this append, and everything in it is committed.
            let covered = entries.iter().take_while(|entry| entry.index() <= compacted.index).count();
            if prev.index.0 + (covered as u64) < compacted.index.0 {
                let matched = compacted.index;
                shared.send(from, MessageBody::AppendReply(AppendReply::Accepted { matched, read_round }));
                return Ok(());
            }
            if entries[covered - 1].id != compacted {
                return Err(Rejected::ContradictsCommitted);
            }
            entries.drain(..covered);
            prev = compacted;
        }
        if !shared.log.contains(prev) {
            if prev.index <= shared.log.commit {
                return Err(Rejected::ContradictsCommitted);
            }
            let hint = shared.log.last_not_above(LogId { term: prev.term, index: prev.index.previous() });
            let last = shared.log.last().index;
            shared.event(RaftEvent::AppendRejected { leader: from, prev });
            let reply = AppendReply::Rejected { prev: prev.index, hint, last };
            shared.send(from, MessageBody::AppendReply(reply));
            return Ok(());
        }
        let matched = LogIndex(prev.index.0 + entries.len() as u64);
        let known = entries.iter().take_while(|entry| shared.log.contains(entry.id)).count();
        if let Some(first) = entries.get(known) {
            if first.index() <= shared.log.commit {
                return Err(Rejected::ContradictsCommitted);
            }
            if first.index() <= shared.log.last().index {
                shared.truncate(first.index());
            }
            for entry in entries.drain(known..) {
                shared.append(entry);
            }
        }
        self.verified = self.verified.max(matched);
        shared.commit_to(commit.min(matched));
        shared.send(from, MessageBody::AppendReply(AppendReply::Accepted { matched, read_round }));
        Ok(())
    }

    fn on_snapshot(&mut self, shared: &mut Shared, from: ReplicaId, meta: SnapshotMeta) {
        let last = meta.last;
        if last.index > shared.log.commit {
            if shared.log.contains(last) {
                // The log has it all: what a snapshot covers is committed. Keep what follows.
                shared.commit_to(last.index);
            } else {
                shared.reset(meta);
            }
        }
        self.verified = self.verified.max(last.index);
        let reply = AppendReply::Accepted { matched: last.index, read_round: 0 };
        shared.send(from, MessageBody::AppendReply(reply));
    }

    pub(crate) fn read(&mut self, shared: &mut Shared, ticket: ReadTicket) -> Result<(), ReadError> {
        let leader = shared.leader.ok_or(ReadError::NoLeader)?;
        if self.reads.len() >= shared.config.reads_max {
            return Err(ReadError::Busy);
        }
        let request = self.next_request;
        self.next_request = request.wrapping_add(1);
        let wait: Duration = shared.config.election_timeout;
        self.reads.insert(request, (ticket, shared.now + wait));
        shared.send(leader, MessageBody::ReadIndex { request });
        Ok(())
    }

    /// The role ends, or the leader changed: nobody will answer what was asked.
    pub(crate) fn fail_reads(&mut self, shared: &mut Shared) {
        for (ticket, _) in std::mem::take(&mut self.reads).into_values() {
            shared.fail_read(ticket);
        }
    }
}
