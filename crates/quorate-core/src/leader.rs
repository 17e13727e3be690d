//! The leader of a term. Step 5 of the write path: append, replicate, and on a quorum commit.
//!
//! Previous: `quorate-host/src/replica.rs`. Next: `quorate-host/src/log_writer.rs`.
//!
//! * Appends leave in parallel with the leader's own write; its own copy counts once durable.
//! * Only entries of the own term are committed by counting (Raft §5.4.2, figure 8).
//! * A read is served at the commit index once a quorum has answered a round that began after it.
//! * A leader that a quorum does not answer for an election timeout steps down.
//! * A member that was removed is told so, and counts for nothing meanwhile.
//!
//! What is sent to whom is in `feeding.rs`, once per `ready`: inputs only note that there may be
//! something, so that proposals made together travel together.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::aside::Aside;
use crate::entry::{Entry, EntryPayload};
use crate::event::{RaftEvent, ReadFailure, RoleReason};
use crate::followers::Followers;
use crate::lease::Lease;
use crate::log::entry_bytes;
use crate::message::{AppendReply, Message, MessageBody};
use crate::planted::planted;
use crate::progress::{Progress, Rejection};
use crate::quiescence::Rest;
use crate::quorum::{Votes, majority, reached_by_majority};
use crate::raw_node::{ProposeError, ReadError, Rejected, SnapshotOutcome};
use crate::read::{Asker, Rounds};
use crate::ready::ReadTicket;
use crate::role::Transition;
use crate::shared::Shared;
use crate::transfer::Transfer;
use crate::types::{LogId, LogIndex, MonoTime, ReplicaId};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    /// Every other member, and those that are being told that they no longer are.
    pub(crate) progress: Followers,
    /// Where this leader counts.
    pub(crate) votes: Votes,
    /// How many vote, outside of the joint state.
    pub(crate) voters: usize,
    /// Two majorities are needed.
    pub(crate) joint: bool,
    /// Some member is a witness.
    pub(crate) witnesses: bool,
    /// No earlier than this a quorum has been silent for an election timeout.
    pub(crate) quorum_until: Aside<MonoTime>,
    pub(crate) heartbeat_deadline: MonoTime,
    pub(crate) heartbeat_due: bool,
    pub(crate) rest: Rest,
    pub(crate) rounds: Rounds,
    pub(crate) lease: Lease,
    pub(crate) transfer: Option<Transfer>,
    /// Bytes of own entries that are not committed, or not yet applied and durable here, oldest first.
    own: VecDeque<(LogIndex, u64)>,
    /// How many of them are committed.
    own_committed: usize,
    /// The bytes of those that are not.
    pub(crate) uncommitted_bytes: u64,
    /// The bytes of those that are.
    pub(crate) unapplied_bytes: u64,
    /// Something may have to be sent.
    pub(crate) replicate: bool,
}

impl Leader {
    /// Takes office: everybody is probed, and an empty entry of the own term is appended, whose
    /// commit says what else is committed (Raft §8).
    pub(crate) fn new(shared: &mut Shared) -> Self {
        let mut leader = Self {
            progress: Followers::default(),
            votes: Votes::default(),
            voters: 0,
            joint: false,
            witnesses: false,
            quorum_until: Aside::default(),
            heartbeat_deadline: shared.now + shared.config.heartbeat_interval,
            heartbeat_due: false,
            rest: Rest::Awake { since: shared.now },
            rounds: Rounds::default(),
            lease: Lease::default(),
            transfer: None,
            own: VecDeque::new(),
            own_committed: 0,
            uncommitted_bytes: 0,
            unapplied_bytes: 0,
            replicate: false,
        };
        leader.sync_members(shared);
        leader.maybe_begin_lease_round(shared);
        leader.append(shared, EntryPayload::Noop);
        leader
    }

    /// See [`RawNode::release_memory`](crate::RawNode::release_memory).
    pub(crate) fn release_memory(&mut self) {
        self.progress.release_memory();
        self.rounds.release_memory();
        self.own.shrink_to_fit();
    }

    pub(crate) fn append(&mut self, shared: &mut Shared, payload: EntryPayload) -> LogId {
        let id = LogId { term: shared.term, index: shared.log.last_index().next() };
        let entry = Entry { id, payload };
        let bytes = entry_bytes(&entry);
        self.own.push_back((id.index, bytes));
        self.uncommitted_bytes += bytes;
        shared.append(entry);
        self.stir(shared);
        self.replicate = true;
        id
    }

    // ---- time -----------------------------------------------------------------------------------

    pub(crate) fn tick(&mut self, shared: &mut Shared) -> Transition {
        if self.is_resting() {
            return Transition::Stay;
        }
        if shared.config.check_quorum && *self.quorum_until <= shared.now {
            // Until then no vote is counted again: who was heard stays heard.
            *self.quorum_until = self.quorum_heard(shared) + shared.config.election_timeout;
            if *self.quorum_until <= shared.now {
                return Transition::Follow { leader: None, reason: RoleReason::QuorumLost };
            }
        }
        self.expire_transfer(shared);
        let expired = self.rounds.expire(shared.now);
        shared.reads_failed(expired.len(), ReadFailure::TimedOut);
        for asker in expired {
            shared.answer_read(asker, Err(ReadFailure::TimedOut));
        }
        if self.heartbeat_deadline <= shared.now {
            self.heartbeat_deadline = shared.now + shared.config.heartbeat_interval;
            self.heartbeat_due = true;
            self.replicate = true;
        }
        for (_, progress) in self.progress.iter_mut() {
            self.replicate |= progress.on_time(shared.now);
        }
        Transition::Stay
    }

    pub(crate) fn next_deadline(&self, shared: &Shared) -> MonoTime {
        if self.is_resting() {
            return MonoTime::NEVER;
        }
        let transfer = self.transfer.map(|transfer| transfer.until);
        let quorum = self.quorum_deadline(shared);
        let snapshots = self.progress.iter().filter_map(|(_, progress)| progress.deadline()).min();
        let others = [transfer, quorum, snapshots, self.rounds.deadline()];
        others.into_iter().flatten().fold(self.heartbeat_deadline, MonoTime::min)
    }

    /// What a quorum has reached, this leader included if it votes.
    pub(crate) fn quorum<T: Ord + Copy + Default>(
        &self,
        shared: &Shared,
        own: T,
        of: impl Fn(&Progress) -> T,
    ) -> T {
        let side = |counts: fn(Votes) -> bool| {
            let others = self.progress.iter().filter(|(_, progress)| counts(progress.votes));
            let own = counts(self.votes).then_some(own);
            let values = own.into_iter().chain(others.map(|(_, progress)| of(progress)));
            reached_by_majority(self.progress.len() + 1, values).unwrap_or_default()
        };
        let mut reached = side(|votes| votes.incoming);
        if self.joint && !planted("joint_new_voters_only") {
            reached = reached.min(side(|votes| votes.outgoing));
        }
        debug_assert!(
            Some(reached)
                == shared.membership().reached_by_quorum(|id| {
                    if id == shared.id() { own } else { self.progress.get(id).map_or(T::default(), &of) }
                }),
            "the votes of the followers are those of the membership"
        );
        reached
    }

    /// When it steps down, if no more is heard of a quorum.
    pub(crate) fn quorum_deadline(&self, shared: &Shared) -> Option<MonoTime> {
        let checks = shared.config.check_quorum && !self.is_resting();
        checks.then(|| self.quorum_heard(shared) + shared.config.election_timeout)
    }

    /// When a quorum was last heard.
    fn quorum_heard(&self, shared: &Shared) -> MonoTime {
        self.quorum(shared, shared.now, |progress| progress.heard)
    }

    // ---- users ----------------------------------------------------------------------------------

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
        let unapplied_bytes = self.unapplied_bytes;
        if unapplied_bytes > shared.config.unapplied_bytes_max {
            return Err(ProposeError::ApplyBehind { unapplied_bytes });
        }
        Ok(self.append(shared, command.map_or(EntryPayload::Noop, EntryPayload::Command)))
    }

    // ---- reads ----------------------------------------------------------------------------------

    pub(crate) fn own_term_committed(shared: &Shared) -> bool {
        shared.log.term_at(shared.log.commit()) == Some(shared.term)
    }

    pub(crate) fn read(&mut self, shared: &mut Shared, ticket: ReadTicket) -> Result<(), ReadError> {
        if planted("read_without_round") {
            shared.answer_read(Asker::Local(ticket), Ok(shared.log.commit()));
            return Ok(());
        }
        if self.admit(shared, Asker::Local(ticket)) { Ok(()) } else { Err(ReadError::Busy) }
    }

    /// A read that may be served from the lease; without one it takes part in a round.
    pub(crate) fn read_lease(&mut self, shared: &mut Shared, ticket: ReadTicket) -> Result<(), ReadError> {
        if self.lease_until(shared).is_none() {
            return self.read(shared, ticket);
        }
        let index = shared.log.commit();
        shared.answer_read(Asker::Local(ticket), Ok(index));
        shared.event(RaftEvent::ReadsServed { index, reads: 1 });
        Ok(())
    }

    /// Takes a read if there is room.
    fn admit(&mut self, shared: &mut Shared, asker: Asker) -> bool {
        self.stir(shared);
        let room = self.rounds.len() < shared.config.reads_max;
        if room {
            self.rounds.ask(asker, shared.one_timeout());
            self.replicate = true;
        }
        room
    }

    /// Answers the round that is out, if there is one and a quorum has answered it.
    #[inline]
    pub(crate) fn maybe_confirm_reads(&mut self, shared: &mut Shared) {
        if self.rounds.is_in_flight() {
            self.confirm_reads(shared);
        }
    }

    #[inline(never)]
    fn confirm_reads(&mut self, shared: &mut Shared) {
        let answered = self.quorum(shared, self.rounds.newest(), |progress| progress.round_acked);
        let confirmed = self.rounds.confirm(answered);
        if let Some((_, index)) = confirmed.first() {
            shared.event(RaftEvent::ReadsServed { index: *index, reads: confirmed.len() });
        }
        for (asker, index) in confirmed {
            shared.answer_read(asker, Ok(index));
        }
        // The next round, if somebody waits for it.
        self.replicate |= self.rounds.can_start();
    }

    /// Leadership ends: nothing that waits can be proven any more.
    pub(crate) fn abandon(&mut self, shared: &mut Shared) {
        shared.reads_failed(self.rounds.len(), ReadFailure::LeadershipLost);
        for asker in std::mem::take(&mut self.rounds).abandon() {
            shared.answer_read(asker, Err(ReadFailure::LeadershipLost));
        }
        self.abandon_transfer(shared);
    }

    // ---- followers ------------------------------------------------------------------------------

    pub(crate) fn step(&mut self, shared: &mut Shared, message: &Message) -> Result<Transition, Rejected> {
        let from = message.from;
        let Some(progress) = self.progress.get_mut(from) else { return Err(Rejected::UnknownSender) };
        match message.body {
            MessageBody::AppendReply(AppendReply::Accepted { matched, read_round }) => {
                if matched > shared.log.last_index() || read_round > self.rounds.newest() {
                    return Err(Rejected::Unexpected);
                }
                progress.on_heard(shared.now);
                progress.round_acked = progress.round_acked.max(read_round);
                progress.on_accepted(shared.now, matched, shared.log.compacted().index);
                self.replicate |= self.witnesses || Self::wants(shared, progress);
                self.maybe_confirm_reads(shared);
                let next = self.maybe_commit(shared);
                self.maybe_finish_transfer(shared);
                return Ok(next);
            }
            MessageBody::AppendReply(AppendReply::Rejected { prev, hint, last }) => {
                self.on_rejected(shared, from, prev, hint, last)?;
            }
            MessageBody::HeartbeatReply { read_round, last } => {
                if read_round > self.rounds.newest() {
                    return Err(Rejected::Unexpected);
                }
                progress.on_heard(shared.now);
                progress.round_acked = progress.round_acked.max(read_round);
                progress.unstick(shared.now, shared.config.election_timeout);
                // It does not know (any more) that it has what it acknowledged: ask. Answers that
                // overtook each other look the same, so this alone proves no loss.
                progress.recheck |= last.index < progress.matched;
                self.replicate |= Self::wants(shared, progress);
                self.on_rest_answer(shared, from, read_round);
                self.maybe_confirm_reads(shared);
            }
            MessageBody::ReadIndex { request } => {
                progress.on_heard(shared.now);
                if !self.admit(shared, Asker::Remote { from, request }) {
                    shared.send(from, MessageBody::ReadIndexReply { request, index: None });
                    return Err(Rejected::Busy);
                }
            }
            // Votes that came after the election was won.
            MessageBody::PreVoteReply { .. } | MessageBody::VoteReply { .. } => {}
            MessageBody::RequestSnapshot { at_least } => self.on_snapshot_request(shared, from, at_least)?,
            MessageBody::ReadIndexReply { .. } => return Err(Rejected::Unexpected),
            MessageBody::TimeoutNow => return Err(Rejected::NotFromLeader),
            MessageBody::Append(_)
            | MessageBody::Heartbeat { .. }
            | MessageBody::Quiesce { .. }
            | MessageBody::InstallSnapshot(_) => {
                return Err(Rejected::TwoLeaders);
            }
            MessageBody::PreVote(_) | MessageBody::Vote(_) => unreachable!("answered in every role alike"),
        }
        Ok(Transition::Stay)
    }

    /// Whether an answer may have made something to send.
    fn wants(shared: &Shared, progress: &Progress) -> bool {
        let membership = shared.membership();
        let changing = membership.joint().is_some() || !membership.joining.is_empty();
        changing || !progress.is_settled(shared.log.last_index(), shared.log.commit())
    }

    fn on_rejected(
        &mut self,
        shared: &mut Shared,
        from: ReplicaId,
        prev: LogIndex,
        hint: LogId,
        last: LogIndex,
    ) -> Result<(), Rejected> {
        if hint.index > prev || prev > shared.log.last_index() {
            return Err(Rejected::Unexpected);
        }
        let Some(progress) = self.progress.get_mut(from) else { return Err(Rejected::UnknownSender) };
        progress.on_heard(shared.now);
        // Skip every index at which this log is of a later term than the follower can have (Raft
        // §5.3). Below this log's start only a snapshot can help.
        let bound = LogId { term: hint.term, index: hint.index.min(prev.previous()) };
        let common = shared.log.last_possible_match(bound).map_or(bound.index, |id| id.index);
        if progress.on_rejected(prev, last, common.next()) == Rejection::Lost {
            let last = LogId { term: hint.term, index: last };
            shared.event(RaftEvent::FollowerLostLog { replica: from, last });
        }
        self.replicate = true;
        Ok(())
    }

    /// Up to where a quorum has the log durably.
    pub(crate) fn quorum_index(&self, shared: &Shared) -> LogIndex {
        // Mostly an answer moves nothing: as soon as enough have reached the commit index and enough
        // have not passed it, that is shown, and nobody is sorted.
        let (commit, persisted) = (shared.log.commit(), shared.log.persisted());
        let majority = majority(self.voters);
        let (mut reached, mut not_passed) = (0, 0);
        let mut shown = |votes: Votes, matched: LogIndex| {
            reached += usize::from(votes.incoming && matched >= commit);
            not_passed += usize::from(votes.incoming && matched <= commit);
            reached >= majority && not_passed > self.voters - majority
        };
        if !self.joint
            && (shown(self.votes, persisted)
                || self.progress.iter().any(|(_, progress)| shown(progress.votes, progress.matched)))
        {
            debug_assert!(commit == self.quorum(shared, persisted, |progress| progress.matched));
            return commit;
        }
        let own = if planted("own_copy_before_durable") { shared.log.last_index() } else { persisted };
        self.quorum(shared, own, |progress| progress.matched)
    }

    /// The commit rule. Also ends the leadership of a leader that has committed that it may no
    /// longer lead.
    pub(crate) fn maybe_commit(&mut self, shared: &mut Shared) -> Transition {
        if shared.log.commit() == shared.log.last_index() {
            return Transition::Stay;
        }
        let reached = self.quorum_index(shared);
        let counts =
            shared.log.term_at(reached) == Some(shared.term) || planted("old_term_committed_by_counting");
        if !counts || !shared.commit_to(reached) {
            return Transition::Stay;
        }
        while let Some((_, bytes)) = self.own.get(self.own_committed).filter(|(at, _)| *at <= reached) {
            self.own_committed += 1;
            self.uncommitted_bytes -= bytes;
            self.unapplied_bytes += bytes;
        }
        self.replicate = true;
        let votes = self.votes.incoming || self.votes.outgoing;
        if votes || shared.log.membership().0.index > reached {
            return Transition::Stay;
        }
        // Tell everyone what is committed, then hand over to the best (thesis §4.2.2).
        self.replicate(shared);
        if let Some(best) = self.best_voter(shared) {
            shared.send(best, MessageBody::TimeoutNow);
        }
        Transition::Follow { leader: None, reason: RoleReason::Removed }
    }

    /// Entries were applied here, or became durable.
    pub(crate) fn forget_applied(&mut self, shared: &Shared) {
        let done = shared.apply.applied().min(shared.log.persisted());
        while let Some((_, bytes)) = self.own.front().filter(|(index, _)| *index <= done) {
            self.own_committed -= 1;
            self.unapplied_bytes -= bytes;
            self.own.pop_front();
        }
    }

    pub(crate) fn on_unreachable(&mut self, shared: &mut Shared, replica: ReplicaId) {
        if let Some(progress) = self.progress.get_mut(replica) {
            progress.on_unreachable();
        }
        self.stir(shared);
        self.give_up_transfer_to(shared, replica);
    }

    pub(crate) fn on_snapshot_outcome(
        &mut self,
        shared: &mut Shared,
        to: ReplicaId,
        outcome: SnapshotOutcome,
    ) {
        let Some(progress) = self.progress.get_mut(to) else { return };
        if progress.awaits_snapshot() {
            shared.event(RaftEvent::SnapshotEnded { to, outcome });
        }
        let until = shared.one_timeout();
        match outcome {
            SnapshotOutcome::Sent => progress.on_snapshot_ended(None, until),
            SnapshotOutcome::Failed => progress.on_snapshot_ended(Some(until), until),
        }
    }
}
