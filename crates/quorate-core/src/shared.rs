//! What a replica has in every role: its term and vote, its log, and the queues of the next `Ready`.
//! Roles borrow it; they own only what dies with them.
//!
//! * Every message goes out through `send`, which holds it back until the term and vote are
//!   durable, or through `promise`, which holds it back until everything is.
//! * `raise_term` is the only place where the term changes.

use std::sync::Arc;

use crate::apply::Apply;
use crate::aside::Aside;
use crate::config::Config;
use crate::entries::Entries;
use crate::entry::{Entry, EntryPayload};
use crate::error::RestoreError;
use crate::event::{EventDetail, RaftEvent, ReadFailure, RoleName, RoleReason, SnapshotTaken};
use crate::fetches::Fetches;
use crate::log::Log;
use crate::membership::Membership;
use crate::message::{AppendReply, Message, MessageBody, SnapshotMeta};
use crate::outbox::Outbox;
use crate::planted::planted;
use crate::raw_node::Restored;
use crate::read::Asker;
use crate::ready::{PersistToken, ReadOutcome, ReadTicket};
use crate::rng::SplitMix64;
use crate::snapshot_wish::SnapshotWish;
use crate::types::{HardState, LogIndex, MonoTime, ReplicaId, Term, nanos};
use crate::writes::Writes;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shared {
    pub(crate) id: ReplicaId,
    /// Its `id` and `seed` are not looked at: replicas that behave alike share it.
    pub(crate) config: Arc<Config>,
    pub(crate) now: MonoTime,
    pub(crate) term: Term,
    pub(crate) vote: Option<ReplicaId>,
    pub(crate) leader: Option<ReplicaId>,
    /// When a leader was last heard, or may have been before a restart (voters stay with a leader they hear).
    pub(crate) heard_leader: Option<MonoTime>,
    pub(crate) log: Log,
    pub(crate) apply: Apply,
    pub(crate) writes: Writes,
    pub(crate) fetches: Fetches,
    pub(crate) outbox: Outbox,
    pub(crate) rng: SplitMix64,
    /// The recovery epoch heard of while no membership is known yet.
    pub(crate) epoch_heard: u64,
    /// This replica held entries up to here (it knows, or a leader did), and they are gone: no vote
    /// before they are back.
    pub(crate) lost_until: LogIndex,
    /// The state machine waits for a snapshot.
    pub(crate) snapshot_wish: Option<SnapshotWish>,
    /// The number of the next read that is passed on.
    pub(crate) next_request: u64,
    pub(crate) reads: Vec<ReadOutcome>,
    pub(crate) events: Vec<RaftEvent>,
    /// A `Ready` took everything, and no input came since. Every input clears it, mostly by its `tick`.
    pub(crate) nothing_new: Aside<bool>,
}

impl Shared {
    pub(crate) fn new(
        config: Arc<Config>,
        (id, seed): (ReplicaId, u64),
        restored: Restored,
        now: MonoTime,
    ) -> Result<Self, RestoreError> {
        let (hard, applied, lost_until) = (restored.hard_state, restored.applied, restored.lost_until);
        let log = Log::restore(restored, config.window_bytes_max)?;
        if log.membership().1.says_otherwise(id, config.witness) {
            return Err(RestoreError::Inconsistent("the members say otherwise who is a witness"));
        }
        let written = HardState { commit: log.commit(), ..hard };
        let mut apply = Apply::new(applied, &config);
        if applied < log.compacted().index {
            // The log was reset to a snapshot that the state machine had not taken over yet.
            let (membership_id, membership) = log.membership_at(log.compacted().index).clone();
            apply.restore(PersistToken(0), SnapshotMeta { last: log.compacted(), membership, membership_id });
        }
        // Numbers of an earlier life must not meet the replies of this one, even with the same seed.
        let mut lives =
            SplitMix64::new(seed ^ now.0.rotate_left(32) ^ hard.term.0 ^ (log.last_index().0 << 20));
        Ok(Self {
            id,
            now,
            term: hard.term,
            vote: hard.vote.filter(|_| !planted("vote_forgotten_at_start")),
            leader: None,
            // A promise of an earlier life may still count (see `lease.rs`).
            heard_leader: (config.leader_lease && hard.term > Term(0)).then_some(now),
            apply,
            writes: Writes::new(written, log.last_index()),
            fetches: Fetches::default(),
            outbox: Outbox::default(),
            rng: SplitMix64::new(seed),
            epoch_heard: 0,
            lost_until: hard.commit.max(lost_until),
            snapshot_wish: None,
            next_request: lives.next(),
            reads: Vec::new(),
            events: Vec::new(),
            nothing_new: Aside(false),
            log,
            config,
        })
    }

    /// See [`RawNode::release_memory`](crate::RawNode::release_memory).
    pub(crate) fn release_memory(&mut self) {
        self.log.release_memory(self.apply.applied());
        self.apply.release_memory();
        self.writes.release_memory();
        self.fetches.release_memory();
        self.outbox.release_memory();
        self.reads.shrink_to_fit();
        self.events.shrink_to_fit();
    }

    pub(crate) fn membership(&self) -> &Arc<Membership> {
        &self.log.membership().1
    }

    /// Whether a leader was heard within the election timeout.
    pub(crate) fn hears_leader(&self) -> bool {
        self.leader.is_some()
            && self.heard_leader.is_some_and(|heard| self.now.since(heard) < self.config.election_timeout)
    }

    /// Whether some leader may count on this replica to vote for nobody (see `lease.rs`).
    pub(crate) fn keeps_promise(&self) -> bool {
        self.config.leader_lease
            && self.heard_leader.is_some_and(|heard| self.now.since(heard) < self.config.election_timeout)
    }

    pub(crate) const fn id(&self) -> ReplicaId {
        self.id
    }

    pub(crate) const fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.commit() }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.log.membership().1.epoch().max(self.epoch_heard)
    }

    pub(crate) fn is_voter(&self, id: ReplicaId) -> bool {
        self.log.membership().1.is_voter(id)
    }

    /// Whether this replica votes without keeping data.
    pub(crate) fn is_witness(&self) -> bool {
        self.config.witness
    }

    /// Whether this replica may ask for votes. One that removed or demoted itself still may until that is
    /// committed: nobody else may have a log that can win (thesis §4.2.2).
    pub(crate) fn may_campaign(&self) -> bool {
        let committed = &self.log.membership_at(self.log.commit()).1;
        (self.is_voter(self.id()) || committed.is_voter(self.id()))
            && !self.is_witness()
            && !self.has_lost_entries()
            && self.snapshot_wish.is_none()
            && self.term < Term::MAX
    }

    pub(crate) fn has_lost_entries(&self) -> bool {
        self.log.last_index() < self.lost_until
    }

    /// A moment between one and two election timeouts from now, later for replicas that should not lead.
    pub(crate) fn election_deadline(&mut self) -> MonoTime {
        let timeout = nanos(self.config.election_timeout);
        let waits = timeout.saturating_add(nanos(self.config.election_delay));
        MonoTime(self.now.0.saturating_add(waits).saturating_add(self.rng.below(timeout)))
    }

    /// One election timeout from now.
    pub(crate) fn one_timeout(&self) -> MonoTime {
        self.now + self.config.election_timeout
    }

    pub(crate) fn raise_term(&mut self, term: Term, vote: Option<ReplicaId>) {
        assert!(term > self.term, "the term never falls: {term:?} after {:?}", self.term);
        self.term = term;
        self.vote = vote;
        self.outbox.drop_older(term);
    }

    /// Sends a message that promises nothing but its term and vote.
    pub(crate) fn send(&mut self, to: ReplicaId, body: MessageBody) {
        self.send_in(self.term, to, body);
    }

    /// As `send`, in a term that is not this replica's own (pre-votes).
    pub(crate) fn send_in(&mut self, term: Term, to: ReplicaId, body: MessageBody) {
        let message = Message { from: self.id(), to, term, epoch: self.epoch(), body };
        self.trace_sent(&message);
        let votes = matches!(message.body, MessageBody::VoteReply { .. });
        let gate = self.writes.vote_gate(self.hard_state());
        self.outbox.push(message, gate.filter(|_| !(votes && planted("vote_before_durable"))));
    }

    /// Tells the leader `to` that everything up to `matched` is durable here, once it is.
    pub(crate) fn promise_matched(&mut self, to: ReplicaId, matched: LogIndex, read_round: u64) {
        let body = MessageBody::AppendReply(AppendReply::Accepted { matched, read_round });
        if matched <= self.log.persisted() || planted("accepted_before_durable") {
            return self.send(to, body);
        }
        let gate = self.writes.full_gate(self.hard_state(), &self.log);
        assert!(gate.is_some(), "{matched:?} is neither durable nor on its way");
        let message = Message { from: self.id(), to, term: self.term, epoch: self.epoch(), body };
        self.trace_sent(&message);
        self.outbox.push(message, gate);
    }

    pub(crate) fn event(&mut self, event: RaftEvent) {
        if event.detail() <= self.config.events {
            self.events.push(event);
        }
    }

    /// Whether the finest events are wanted. Asked before one is made.
    pub(crate) fn is_traced(&self) -> bool {
        self.config.events == EventDetail::Trace
    }

    #[inline]
    fn trace_sent(&mut self, message: &Message) {
        if self.is_traced() {
            self.tell_sent(message);
        }
    }

    #[cold]
    fn tell_sent(&mut self, message: &Message) {
        self.events.push(RaftEvent::MessageSent { message: Box::new(message.clone()) });
    }

    pub(crate) fn role_event(&mut self, role: RoleName, reason: RoleReason) {
        self.event(RaftEvent::RoleChanged { role, term: self.term, leader: self.leader, reason });
    }

    pub(crate) fn append(&mut self, entry: Entry) {
        let changes = matches!(entry.payload, EntryPayload::Membership(_)).then_some(entry.id);
        self.event(RaftEvent::EntryAppended { id: entry.id });
        self.log.append(entry);
        if let Some(log_id) = changes {
            self.event(RaftEvent::MembershipChanged { log_id });
        }
    }

    pub(crate) fn truncate(&mut self, from: LogIndex) {
        let changes = self.log.truncate(from);
        self.writes.truncated(from);
        self.event(RaftEvent::Truncated { from });
        if changes {
            let log_id = self.log.membership().0;
            self.event(RaftEvent::MembershipChanged { log_id });
        }
    }

    /// Replaces the log by the snapshot `meta`.
    pub(crate) fn reset(&mut self, meta: SnapshotMeta) {
        let before = self.log.membership().0;
        self.log.reset(&meta);
        let token = self.writes.reset(&meta);
        self.event(RaftEvent::SnapshotReceived { last: meta.last, taken: SnapshotTaken::Installed });
        if before != meta.membership_id {
            self.event(RaftEvent::MembershipChanged { log_id: meta.membership_id });
        }
        self.event(RaftEvent::Committed { index: meta.last.index });
        self.apply.restore(token, meta);
    }

    /// Says whether the commit index moved.
    #[inline]
    pub(crate) fn commit_to(&mut self, index: LogIndex) -> bool {
        let moves = index > self.log.commit();
        if moves {
            self.log.commit_to(index);
            self.writes.hint_changed(self.now, self.config.heartbeat_interval);
            self.event(RaftEvent::Committed { index });
        }
        moves
    }

    pub(crate) fn on_persisted(&mut self, token: PersistToken) {
        let (persisted, before) = (self.writes.complete(token), self.log.persisted());
        self.log.persisted_to(persisted);
        if self.log.persisted() > before {
            self.event(RaftEvent::Persisted { through: self.log.persisted() });
        }
        self.outbox.release(token);
    }

    /// Whether the present term and vote are durable.
    pub(crate) fn vote_is_durable(&self) -> bool {
        self.writes.vote_gate(self.hard_state()).is_none()
    }

    pub(crate) fn answer_read(&mut self, asker: Asker, decided: Result<LogIndex, ReadFailure>) {
        match (asker, decided) {
            (Asker::Local(ticket), Ok(index)) => self.reads.push(ReadOutcome::At { ticket, index }),
            (Asker::Local(ticket), Err(reason)) => self.fail_read(ticket, reason),
            (Asker::Remote { from, request }, decided) => {
                self.send(from, MessageBody::ReadIndexReply { request, index: decided.ok() });
            }
        }
    }

    pub(crate) fn fail_read(&mut self, ticket: ReadTicket, reason: ReadFailure) {
        self.reads.push(ReadOutcome::Failed { ticket, reason });
    }

    /// Says that `reads` reads failed, if any did.
    pub(crate) fn reads_failed(&mut self, reads: usize, reason: ReadFailure) {
        if reads > 0 {
            self.event(RaftEvent::ReadsFailed { reads, reason });
        }
    }

    /// The snapshot to hand to the state machine now. A witness has none.
    pub(crate) fn take_restore(&mut self) -> Option<SnapshotMeta> {
        let writes = &self.writes;
        let meta = self.apply.take_restore(|token| writes.is_durable(token));
        if self.is_witness() { None } else { meta }
    }

    /// The entries to hand to the state machine now. On a witness none: it takes them as applied.
    pub(crate) fn take_apply(&mut self) -> Entries {
        if self.is_witness() {
            self.apply.skip(&self.log);
            return Entries::new();
        }
        self.apply.take(&mut self.log, &mut self.fetches)
    }

    fn has_something_to_apply(&self) -> bool {
        let durable = |token| self.writes.is_durable(token);
        if self.is_witness() {
            self.apply.is_waiting_to_skip(&self.log, durable)
        } else {
            self.apply.is_waiting(&self.log, &self.fetches, durable)
        }
    }

    /// Whether a `Ready` would hold anything of this.
    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
            || !self.events.is_empty()
            || !self.reads.is_empty()
            || !self.fetches.is_empty()
            || self.writes.is_waiting(self.hard_state(), &self.log)
            || self.has_something_to_apply()
    }
}
