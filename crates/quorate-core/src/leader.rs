//! The leader of a term. Step 5 of the write path: append, replicate, and on a quorum commit.
//!
//! Previous: `quorate-host/src/replica.rs`. Next: `quorate-host/src/log_writer.rs`.
//!
//! * Appends leave in parallel with the leader's own write; its own copy counts once durable.
//! * Only entries of the own term are committed by counting (Raft §5.4.2, figure 8).
//! * A read is served at the commit index once a quorum has answered a round that began after it.
//! * A leader that a quorum does not answer for an election timeout steps down.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::entry::{Entry, EntryPayload};
use crate::event::{RaftEvent, RoleReason};
use crate::log::payload_bytes;
use crate::membership::{MemberRole, MembershipChange, Refusal};
use crate::message::{Append, AppendReply, Message, MessageBody};
use crate::progress::{Feeding, Progress};
use crate::quorum::reached_by_majority;
use crate::raw_node::{ChangeError, ProposeError, ReadError, Rejected, SnapshotOutcome, TransferError};
use crate::ready::{Fetch, ReadOutcome, ReadTicket};
use crate::role::Transition;
use crate::shared::Shared;
use crate::types::{LogId, LogIndex, MonoTime, ReplicaId};

/// A learner that lacks more entries than this is not promoted yet.
const LEARNER_LAG_MAX: u64 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Here(ReadTicket),
    Follower { replica: ReplicaId, request: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct WaitingRead {
    reader: Reader,
    /// The round that proves leadership for it: one that began after it was asked.
    round: u64,
    index: LogIndex,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Transfer {
    to: ReplicaId,
    until: MonoTime,
    told: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Leader {
    pub(crate) progress: BTreeMap<ReplicaId, Progress>,
    heartbeat_deadline: MonoTime,
    /// The newest round that began, and the newest one that a quorum answered.
    round: u64,
    confirmed_round: u64,
    reads: VecDeque<WaitingRead>,
    /// Reads asked before an entry of the own term is committed.
    early_reads: VecDeque<Reader>,
    transfer: Option<Transfer>,
    /// Payload bytes of entries above the commit index, oldest first.
    uncommitted: VecDeque<(LogIndex, u64)>,
    pub(crate) uncommitted_bytes: u64,
    /// Something may have to be sent.
    replicate: bool,
}

impl Leader {
    /// Takes office: everybody is probed, and an empty entry of the own term is appended, whose commit
    /// says what else is committed (Raft §8).
    pub(crate) fn new(shared: &mut Shared) -> Self {
        let mut leader = Self {
            progress: BTreeMap::new(),
            heartbeat_deadline: shared.now + shared.config.heartbeat_interval,
            round: 0,
            confirmed_round: 0,
            reads: VecDeque::new(),
            early_reads: VecDeque::new(),
            transfer: None,
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            replicate: false,
        };
        shared.leader = Some(shared.config.id);
        leader.sync_members(shared);
        leader.append(shared, EntryPayload::Noop);
        leader
    }

    /// One progress per other member.
    fn sync_members(&mut self, shared: &Shared) {
        let next = shared.log.last().index.next();
        let membership = Arc::clone(shared.membership());
        self.progress.retain(|id, _| membership.get(*id).is_some());
        for (id, _) in membership.members().filter(|(id, _)| *id != shared.config.id) {
            self.progress.entry(id).or_insert_with(|| Progress::new(next, shared.now));
        }
    }

    fn append(&mut self, shared: &mut Shared, payload: EntryPayload) -> LogId {
        let id = LogId { term: shared.term, index: shared.log.last().index.next() };
        let entry = Entry { id, payload };
        let bytes = payload_bytes(&entry);
        self.uncommitted.push_back((id.index, bytes));
        self.uncommitted_bytes += bytes;
        shared.append(entry);
        self.replicate = true;
        id
    }

    // ---- time -----------------------------------------------------------------------------------

    pub(crate) fn tick(&mut self, shared: &mut Shared) -> Transition {
        if shared.config.check_quorum
            && shared.now.since(self.quorum_heard(shared)) >= shared.config.election_timeout
        {
            return Transition::Follow { leader: None, reason: RoleReason::QuorumLost };
        }
        if self.transfer.is_some_and(|transfer| transfer.until <= shared.now) {
            self.abort_transfer(shared);
        }
        if self.heartbeat_deadline <= shared.now {
            self.broadcast_heartbeats(shared);
        }
        self.retry_snapshots(shared);
        Transition::Stay
    }

    pub(crate) fn next_deadline(&self, shared: &Shared) -> MonoTime {
        let transfer = self.transfer.map(|transfer| transfer.until);
        let quorum =
            shared.config.check_quorum.then(|| self.quorum_heard(shared) + shared.config.election_timeout);
        [transfer, quorum].into_iter().flatten().fold(self.heartbeat_deadline, MonoTime::min)
    }

    /// When a quorum was last heard, this leader included.
    fn quorum_heard(&self, shared: &Shared) -> MonoTime {
        let own = shared.config.id;
        let heard =
            |id| if id == own { shared.now } else { self.progress.get(&id).map_or(MonoTime(0), |p| p.heard) };
        reached_by_majority(shared.membership().voters().map(heard))
    }

    fn broadcast_heartbeats(&mut self, shared: &mut Shared) {
        self.heartbeat_deadline = shared.now + shared.config.heartbeat_interval;
        let read_round = self.round;
        let commit = shared.log.commit;
        for (id, progress) in &self.progress {
            let commit = progress.matched.min(commit);
            shared.send(*id, MessageBody::Heartbeat { commit, read_round });
        }
    }

    fn retry_snapshots(&mut self, shared: &Shared) {
        let patience = shared.config.election_timeout * 10;
        for progress in self.progress.values_mut() {
            if matches!(progress.feeding, Feeding::Snapshot { since } if shared.now.since(since) >= patience)
            {
                progress.probe_from(progress.matched.next());
                self.replicate = true;
            }
        }
    }

    // ---- users ----------------------------------------------------------------------------------

    fn refuse_while_transferring(&self) -> Result<(), ProposeError> {
        self.transfer.map_or(Ok(()), |transfer| Err(ProposeError::Transferring { to: transfer.to }))
    }

    pub(crate) fn propose(
        &mut self,
        shared: &mut Shared,
        command: Option<Bytes>,
    ) -> Result<LogId, ProposeError> {
        self.refuse_while_transferring()?;
        let bytes = command.as_ref().map_or(0, |command| command.len() as u64);
        let bytes_max = shared.config.command_bytes_max;
        if bytes > bytes_max {
            return Err(ProposeError::TooLarge { bytes, bytes_max });
        }
        let uncommitted_bytes = self.uncommitted_bytes;
        if uncommitted_bytes > 0 && uncommitted_bytes + bytes > shared.config.uncommitted_bytes_max {
            return Err(ProposeError::Busy { uncommitted_bytes });
        }
        Ok(self.append(shared, command.map_or(EntryPayload::Noop, EntryPayload::Command)))
    }

    pub(crate) fn propose_membership(
        &mut self,
        shared: &mut Shared,
        change: MembershipChange,
        expected: Option<LogId>,
    ) -> Result<(LogId, ReplicaId), ChangeError> {
        self.refuse_while_transferring().map_err(ChangeError::Propose)?;
        let (membership_id, membership) = shared.log.membership();
        if expected.is_some_and(|expected| expected != membership_id) {
            return Err(ChangeError::Changed { membership_id });
        }
        if membership_id.index > shared.log.commit {
            return Err(ChangeError::InProgress { pending: membership_id });
        }
        if !Self::own_term_committed(shared) {
            return Err(ChangeError::NotReady);
        }
        let promotes = matches!(change, MembershipChange::Promote(_));
        let (next, replica) = membership.after(change).map_err(refused)?;
        if promotes {
            let matched = self.progress.get(&replica).map_or(LogIndex(0), |progress| progress.matched);
            let missing = shared.log.last().index.0.saturating_sub(matched.0);
            if missing > LEARNER_LAG_MAX {
                return Err(ChangeError::LearnerBehind { missing });
            }
        }
        let id = self.append(shared, EntryPayload::Membership(Arc::new(next)));
        self.on_membership(shared);
        Ok((id, replica))
    }

    fn on_membership(&mut self, shared: &mut Shared) {
        self.sync_members(shared);
        if self.transfer.is_some_and(|transfer| !shared.membership().is_voter(transfer.to)) {
            self.abort_transfer(shared);
        }
    }

    pub(crate) fn transfer(
        &mut self,
        shared: &mut Shared,
        to: Option<ReplicaId>,
    ) -> Result<ReplicaId, TransferError> {
        if let Some(transfer) = self.transfer {
            return Err(TransferError::InProgress { to: transfer.to });
        }
        let to = to.or_else(|| self.best_voter(shared)).ok_or(TransferError::Unreachable)?;
        if to == shared.config.id {
            return Err(TransferError::AlreadyLeader);
        }
        if !shared.membership().is_voter(to) {
            return Err(TransferError::NotVoter);
        }
        let reachable =
            |progress: &Progress| shared.now.since(progress.heard) < shared.config.election_timeout;
        if !self.progress.get(&to).is_some_and(reachable) {
            return Err(TransferError::Unreachable);
        }
        self.transfer =
            Some(Transfer { to, until: shared.now + shared.config.election_timeout, told: false });
        self.replicate = true;
        self.maybe_finish_transfer(shared);
        Ok(to)
    }

    /// The reachable voter with the longest log.
    fn best_voter(&self, shared: &Shared) -> Option<ReplicaId> {
        let reachable = self.progress.iter().filter(|(id, progress)| {
            shared.membership().is_voter(**id)
                && shared.now.since(progress.heard) < shared.config.election_timeout
        });
        reachable.max_by_key(|(id, progress)| (progress.matched, std::cmp::Reverse(**id))).map(|(id, _)| *id)
    }

    pub(crate) const fn transfer_to(&self) -> Option<ReplicaId> {
        match self.transfer {
            Some(transfer) => Some(transfer.to),
            None => None,
        }
    }

    fn abort_transfer(&mut self, shared: &mut Shared) {
        if let Some(transfer) = self.transfer.take() {
            shared.event(RaftEvent::TransferAborted { to: transfer.to });
        }
    }

    fn maybe_finish_transfer(&mut self, shared: &mut Shared) {
        let Some(transfer) = &mut self.transfer else { return };
        let last = shared.log.last().index;
        if !transfer.told && self.progress.get(&transfer.to).is_some_and(|progress| progress.matched == last)
        {
            transfer.told = true;
            shared.send(transfer.to, MessageBody::TimeoutNow);
        }
    }

    // ---- reads ----------------------------------------------------------------------------------

    fn own_term_committed(shared: &Shared) -> bool {
        shared.log.term_at(shared.log.commit) == Some(shared.term)
    }

    pub(crate) fn read(&mut self, shared: &mut Shared, ticket: ReadTicket) -> Result<(), ReadError> {
        if self.reads.len() + self.early_reads.len() >= shared.config.reads_max {
            return Err(ReadError::Busy);
        }
        self.admit_read(shared, Reader::Here(ticket));
        Ok(())
    }

    fn admit_read(&mut self, shared: &mut Shared, reader: Reader) {
        if !Self::own_term_committed(shared) {
            self.early_reads.push_back(reader);
            return;
        }
        // A round under way began before this read and proves nothing for it.
        let round = self.round + 1;
        self.reads.push_back(WaitingRead { reader, round, index: shared.log.commit });
        self.maybe_start_round(shared);
    }

    /// Starts a round when reads wait for one and none is under way; answers what is proven.
    fn maybe_start_round(&mut self, shared: &mut Shared) {
        loop {
            self.confirm_rounds(shared);
            let waiting = self.reads.back().is_some_and(|read| read.round > self.round);
            if !waiting || self.round > self.confirmed_round {
                return;
            }
            self.round += 1;
            self.broadcast_heartbeats(shared);
        }
    }

    fn confirm_rounds(&mut self, shared: &mut Shared) {
        let (own, newest) = (shared.config.id, self.round);
        let answered =
            |id| if id == own { newest } else { self.progress.get(&id).map_or(0, |p| p.read_round) };
        self.confirmed_round =
            self.confirmed_round.max(reached_by_majority(shared.membership().voters().map(answered)));
        while self.reads.front().is_some_and(|read| read.round <= self.confirmed_round) {
            let Some(WaitingRead { reader, index, .. }) = self.reads.pop_front() else { break };
            match reader {
                Reader::Here(ticket) => shared.reads.push(ReadOutcome::At { ticket, index }),
                Reader::Follower { replica, request } => {
                    shared.send(replica, MessageBody::ReadIndexReply { request, index: Some(index) });
                }
            }
        }
    }

    /// Leadership ends: nothing that waits can be proven any more.
    pub(crate) fn fail_reads(&mut self, shared: &mut Shared) {
        let waiting = std::mem::take(&mut self.reads).into_iter().map(|read| read.reader);
        for reader in waiting.chain(std::mem::take(&mut self.early_reads)) {
            match reader {
                Reader::Here(ticket) => shared.fail_read(ticket),
                Reader::Follower { replica, request } => {
                    shared.send(replica, MessageBody::ReadIndexReply { request, index: None });
                }
            }
        }
    }

    // ---- followers ------------------------------------------------------------------------------

    pub(crate) fn step(&mut self, shared: &mut Shared, message: Message) -> Result<Transition, Rejected> {
        let from = message.from;
        let Some(progress) = self.progress.get_mut(&from) else { return Err(Rejected::UnknownSender) };
        progress.heard = shared.now;
        match message.body {
            MessageBody::AppendReply(AppendReply::Accepted { matched, read_round }) => {
                if matched > shared.log.last().index {
                    return Err(Rejected::OutOfRange);
                }
                progress.read_round = progress.read_round.max(read_round.min(self.round));
                let news = progress.on_accepted(matched, shared.log.compacted().index);
                self.replicate = true;
                if news {
                    let next = self.maybe_commit(shared);
                    self.maybe_finish_transfer(shared);
                    self.maybe_start_round(shared);
                    return Ok(next);
                }
                self.maybe_start_round(shared);
            }
            MessageBody::AppendReply(AppendReply::Rejected { prev, hint, last }) => {
                self.on_rejected(shared, from, prev, hint, last)?;
            }
            MessageBody::HeartbeatReply { read_round, last } => {
                progress.read_round = progress.read_round.max(read_round.min(self.round));
                let (ask, next) = (progress.on_alive(), progress.next);
                if last.index < progress.matched {
                    progress.on_lost(last.index);
                    shared.event(RaftEvent::FollowerLostLog { replica: from, last });
                } else if ask {
                    // Refused if something before it was lost, and then probed from there.
                    self.send_append(shared, from, next, Vec::new());
                }
                self.replicate = true;
                self.maybe_start_round(shared);
            }
            MessageBody::ReadIndex { request } => {
                if self.reads.len() + self.early_reads.len() >= shared.config.reads_max {
                    return Err(Rejected::Busy);
                }
                self.admit_read(shared, Reader::Follower { replica: from, request });
            }
            MessageBody::PreVoteReply { .. }
            | MessageBody::VoteReply { .. }
            | MessageBody::ReadIndexReply { .. } => {
                return Err(Rejected::Unexpected);
            }
            MessageBody::TimeoutNow => return Err(Rejected::NotFromLeader),
            MessageBody::Append(_) | MessageBody::Heartbeat { .. } | MessageBody::InstallSnapshot(_) => {
                return Err(Rejected::TwoLeaders);
            }
            MessageBody::PreVote(_) | MessageBody::Vote(_) => unreachable!("answered in every role alike"),
        }
        Ok(Transition::Stay)
    }

    fn on_rejected(
        &mut self,
        shared: &mut Shared,
        from: ReplicaId,
        prev: LogIndex,
        hint: LogId,
        last: LogIndex,
    ) -> Result<(), Rejected> {
        if hint.index > prev || prev > shared.log.last().index {
            return Err(Rejected::OutOfRange);
        }
        // Skip every index at which this log is of a later term than the follower can have (Raft §5.3).
        // Below this log's start only a snapshot can help.
        let below = hint.index < shared.log.compacted().index;
        let common = if below { hint } else { shared.log.last_not_above(hint) };
        let Some(progress) = self.progress.get_mut(&from) else { return Err(Rejected::UnknownSender) };
        if last < progress.matched {
            progress.on_lost(last);
            shared.event(RaftEvent::FollowerLostLog {
                replica: from,
                last: LogId { term: hint.term, index: last },
            });
        } else {
            progress.on_rejected(prev, common.index.next());
        }
        self.replicate = true;
        Ok(())
    }

    /// The commit rule. Also ends the leadership of a leader that has committed its own removal.
    pub(crate) fn maybe_commit(&mut self, shared: &mut Shared) -> Transition {
        let (own, persisted) = (shared.config.id, shared.log.persisted);
        let matched = |id| {
            if id == own { persisted } else { self.progress.get(&id).map_or(LogIndex(0), |p| p.matched) }
        };
        let reached = reached_by_majority(shared.membership().voters().map(matched));
        if shared.log.term_at(reached) != Some(shared.term) || !shared.commit_to(reached) {
            return Transition::Stay;
        }
        while self.uncommitted.front().is_some_and(|(index, _)| *index <= reached) {
            if let Some((_, bytes)) = self.uncommitted.pop_front() {
                self.uncommitted_bytes -= bytes;
            }
        }
        self.replicate = true;
        for reader in std::mem::take(&mut self.early_reads) {
            self.admit_read(shared, reader);
        }
        let (membership_id, membership) = shared.log.membership();
        if membership_id.index <= reached
            && membership.get(own).is_none_or(|member| member.role == MemberRole::Learner)
        {
            // Tell everyone what is committed, then hand over to the best (thesis §4.2.2).
            self.replicate(shared);
            if let Some(best) = self.best_voter(shared) {
                shared.send(best, MessageBody::TimeoutNow);
            }
            return Transition::Follow { leader: None, reason: RoleReason::Removed };
        }
        Transition::Stay
    }

    pub(crate) fn on_unreachable(&mut self, replica: ReplicaId) {
        if let Some(progress) = self.progress.get_mut(&replica)
            && matches!(progress.feeding, Feeding::Replicate(_))
        {
            progress.probe_from(progress.matched.next());
        }
    }

    pub(crate) fn on_snapshot_outcome(&mut self, shared: &Shared, to: ReplicaId, outcome: SnapshotOutcome) {
        let Some(progress) = self.progress.get_mut(&to) else { return };
        if let Feeding::Snapshot { since } = &mut progress.feeding {
            match outcome {
                SnapshotOutcome::Sent => *since = shared.now,
                SnapshotOutcome::Failed => {
                    progress.probe_from(progress.matched.next());
                    // Not at once again: the next sign of life resumes.
                    progress.feeding = Feeding::Probe { waiting: true };
                }
            }
        }
    }

    pub(crate) fn on_fetched(&mut self, shared: &mut Shared, from: LogIndex, entries: &[Entry]) {
        self.replicate = true;
        if entries.is_empty() {
            return;
        }
        let waiting: Vec<ReplicaId> = self
            .progress
            .iter()
            .filter(|(_, p)| p.next == from && Self::may_send(p, shared))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.send_append(shared, id, from, entries.to_vec());
        }
    }

    // ---- sending --------------------------------------------------------------------------------

    pub(crate) const fn has_to_replicate(&self) -> bool {
        self.replicate
    }

    /// Sends everyone what they may get now. Called once per `ready`, so that proposals made together travel together.
    pub(crate) fn replicate(&mut self, shared: &mut Shared) {
        self.replicate = false;
        let members: Vec<ReplicaId> = self.progress.keys().copied().collect();
        for id in members {
            while self.send_next(shared, id) {}
        }
    }

    fn may_send(progress: &Progress, shared: &Shared) -> bool {
        match &progress.feeding {
            Feeding::Probe { waiting } => !waiting,
            Feeding::Replicate(inflight) => {
                !inflight.is_full(shared.config.inflight_messages_max, shared.config.inflight_bytes_max)
            }
            Feeding::Snapshot { .. } => false,
        }
    }

    /// Sends one append if there is something to say. Returns whether there may be more.
    fn send_next(&mut self, shared: &mut Shared, id: ReplicaId) -> bool {
        let Some(progress) = self.progress.get_mut(&id) else { return false };
        if !Self::may_send(progress, shared) {
            return false;
        }
        let (last, next) = (shared.log.last().index, progress.next);
        if next <= shared.log.compacted().index {
            // Only to a member that is there: a snapshot is expensive.
            if shared.now.since(progress.heard) < shared.config.election_timeout {
                progress.feeding = Feeding::Snapshot { since: shared.now };
                shared.fetches.push(Fetch::SendSnapshot { to: id, at_least: shared.log.compacted().index });
            }
            return false;
        }
        if next > last {
            let probing = matches!(progress.feeding, Feeding::Probe { .. });
            if probing || progress.told_commit < shared.log.commit.min(next.previous()) {
                self.send_append(shared, id, next, Vec::new());
            }
            return false;
        }
        let bytes_max = shared.config.append_bytes_max;
        match shared.log.window_slice(next, last, bytes_max) {
            Some(entries) => {
                self.send_append(shared, id, next, entries);
                true
            }
            None => {
                shared.fetch(next, last.next(), bytes_max);
                false
            }
        }
    }

    fn send_append(&mut self, shared: &mut Shared, id: ReplicaId, next: LogIndex, entries: Vec<Entry>) {
        let Some(prev) = shared.log.id_at(next.previous()) else { return };
        let Some(progress) = self.progress.get_mut(&id) else { return };
        let bytes = entries.iter().map(payload_bytes).sum();
        let last = entries.last().map_or(prev.index, Entry::index);
        progress.told_commit = shared.log.commit.min(last);
        progress.on_sent(last, bytes);
        let append = Append { prev, entries, commit: shared.log.commit, read_round: self.round };
        shared.send(id, MessageBody::Append(append));
    }
}

const fn refused(refusal: Refusal) -> ChangeError {
    match refusal {
        Refusal::AlreadyMember(replica) => ChangeError::AlreadyMember { replica },
        Refusal::NotMember => ChangeError::NotMember,
        Refusal::NothingToDo => ChangeError::NothingToDo,
        Refusal::LastVoter => ChangeError::LastVoter,
        Refusal::Invalid(what) => ChangeError::Invalid { what },
    }
}
