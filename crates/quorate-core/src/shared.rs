//! What a replica has in every role: its promises, its log, and what waits to leave.
//!
//! ```text
//!   step ──► persist lane ──► (disk) ──► on_persisted(token)
//!      └──► gated messages ───────────────────┴──► send lane
//!      └──► messages that promise nothing ────────► send lane
//! ```
//!
//! * A message leaves only when the state it speaks of is durable: promises (votes, acceptances)
//!   and every message of a term that is not durable yet wait for the newest write.
//! * `persisted_term` is the newest term known to be on disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::entry::Entry;
use crate::event::{RaftEvent, RoleName, RoleReason};
use crate::log::{Log, payload_bytes};
use crate::membership::Membership;
use crate::message::{AppendReply, Message, MessageBody, SnapshotMeta};
use crate::ready::{Fetch, Persist, PersistToken, ReadOutcome, ReadTicket};
use crate::rng::Rng;
use crate::types::{HardState, LogId, LogIndex, MonoTime, ReplicaId, Term};

/// A write handed out and not reported durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    token: PersistToken,
    /// The log is durable up to here once this write is; lowered when a later step truncates.
    through: LogIndex,
    term: Term,
    /// The write resets the log to this snapshot.
    restore: Option<SnapshotMeta>,
}

/// What the next write will hold besides the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Unwritten {
    reset: Option<SnapshotMeta>,
    truncate_from: Option<LogIndex>,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) now: MonoTime,
    pub(crate) term: Term,
    pub(crate) vote: Option<ReplicaId>,
    pub(crate) leader: Option<ReplicaId>,
    /// When the leader was last heard (voters stay with a leader they hear).
    pub(crate) heard_leader: Option<MonoTime>,
    pub(crate) log: Log,
    pub(crate) rng: Rng,
    pub(crate) events: Vec<RaftEvent>,
    pub(crate) reads: Vec<ReadOutcome>,
    pub(crate) fetches: Vec<Fetch>,
    /// Where reads of entries are under way.
    fetching: Vec<LogIndex>,
    written: HardState,
    unwritten: Unwritten,
    next_token: PersistToken,
    pending: VecDeque<Pending>,
    persisted_term: Term,
    outbox: Vec<Message>,
    /// Messages and the write they wait for; `None`: the next one.
    gated: VecDeque<(Option<PersistToken>, Message)>,
    /// The last index handed out for apply.
    handed: LogIndex,
    pub(crate) applied: LogIndex,
    /// Batches handed out and not reported applied: last index, payload bytes.
    applying: VecDeque<(LogIndex, u64)>,
    applying_bytes: u64,
    /// Old entries that came back for apply.
    refetched: Vec<Entry>,
    /// A snapshot that is the log's start now and waits to be handed to the state machine.
    restore: Option<SnapshotMeta>,
    /// Applying is held back until this snapshot was handed out.
    restoring: bool,
}

impl Shared {
    pub(crate) fn new(config: Config, hard: HardState, log: Log, applied: LogIndex, now: MonoTime) -> Self {
        let rng = Rng::new(config.seed);
        let applied = applied.max(log.compacted().index);
        Self {
            now,
            term: hard.term,
            vote: hard.vote,
            leader: None,
            heard_leader: None,
            rng,
            events: Vec::new(),
            reads: Vec::new(),
            fetches: Vec::new(),
            fetching: Vec::new(),
            written: HardState { commit: log.commit, ..hard },
            unwritten: Unwritten::default(),
            next_token: PersistToken(1),
            pending: VecDeque::new(),
            persisted_term: hard.term,
            outbox: Vec::new(),
            gated: VecDeque::new(),
            handed: applied,
            applied,
            applying: VecDeque::new(),
            applying_bytes: 0,
            refetched: Vec::new(),
            restore: None,
            restoring: false,
            config,
            log,
        }
    }

    pub(crate) fn membership(&self) -> &Arc<Membership> {
        self.log.membership().1
    }

    /// A moment drawn from T to 2T from now.
    pub(crate) fn election_deadline(&mut self) -> MonoTime {
        let timeout = self.config.election_timeout;
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX / 4);
        self.now + timeout + Duration::from_nanos(self.rng.below(nanos))
    }

    /// Whether a leader was heard within the election timeout.
    pub(crate) fn hears_leader(&self) -> bool {
        self.heard_leader.is_some_and(|heard| self.now.since(heard) < self.config.election_timeout)
    }

    pub(crate) fn event(&mut self, event: RaftEvent) {
        self.events.push(event);
    }

    pub(crate) fn role_event(&mut self, role: RoleName, reason: RoleReason) {
        let (term, leader) = (self.term, self.leader);
        self.event(RaftEvent::RoleChanged { role, term, leader, reason });
    }

    // ---- promises -------------------------------------------------------------------------------

    /// Moves to a later term, in which nobody has this replica's vote yet.
    pub(crate) fn enter_term(&mut self, term: Term) {
        assert!(term > self.term, "terms only rise: {term:?} after {:?}", self.term);
        self.term = term;
        self.vote = None;
    }

    /// Sends `body` in this replica's term, now or when what it speaks of is durable.
    pub(crate) fn send(&mut self, to: ReplicaId, body: MessageBody) {
        let term = self.term;
        self.send_in(to, term, body);
    }

    /// Sends `body` in a term that is not (or not yet) this replica's: pre-votes.
    pub(crate) fn send_in(&mut self, to: ReplicaId, term: Term, body: MessageBody) {
        let message = Message { from: self.config.id, to, term, epoch: self.membership().epoch(), body };
        let promises = matches!(
            message.body,
            MessageBody::VoteReply { granted: true } | MessageBody::AppendReply(AppendReply::Accepted { .. })
        );
        let settled = if promises { self.is_settled() } else { self.persisted_term == self.term };
        if settled {
            self.outbox.push(message);
        } else {
            // The state it speaks of is in a write that is not handed out, or in the newest one that is.
            let waits_for = if self.has_unwritten() { None } else { self.pending.back().map(|p| p.token) };
            self.gated.push_back((waits_for, message));
        }
    }

    /// Whether everything this replica knows is durable (but for the commit hint).
    fn is_settled(&self) -> bool {
        self.pending.is_empty() && !self.has_unwritten()
    }

    fn has_unwritten(&self) -> bool {
        self.unwritten != Unwritten::default()
            || self.term != self.written.term
            || self.vote != self.written.vote
    }

    /// Whether the disk knows this replica's term (and with it the vote given in it).
    pub(crate) fn term_is_durable(&self) -> bool {
        self.persisted_term == self.term
            && (self.written.term, self.written.vote) == (self.term, self.vote)
            && self.pending.iter().all(|pending| pending.term < self.term)
    }

    // ---- the log --------------------------------------------------------------------------------

    pub(crate) fn append(&mut self, entry: Entry) {
        let is_membership = matches!(entry.payload, crate::entry::EntryPayload::Membership(_));
        let id = entry.id;
        self.unwritten.entries.push(entry.clone());
        self.log.append(entry);
        if is_membership {
            self.event(RaftEvent::MembershipChanged { log_id: id });
        }
    }

    pub(crate) fn truncate(&mut self, from: LogIndex) {
        let membership = self.log.membership().0;
        let handed_out = self.log.persisted >= from || self.pending.iter().any(|p| p.through >= from);
        self.log.truncate(from);
        let keep = self.unwritten.entries.iter().take_while(|entry| entry.index() < from).count();
        self.unwritten.entries.truncate(keep);
        if handed_out {
            let earlier = self.unwritten.truncate_from.unwrap_or(from);
            self.unwritten.truncate_from = Some(earlier.min(from));
        }
        for pending in &mut self.pending {
            pending.through = pending.through.min(from.previous());
        }
        let now = self.log.membership().0;
        if now != membership {
            self.event(RaftEvent::MembershipChanged { log_id: now });
        }
    }

    /// The log starts over after a snapshot.
    pub(crate) fn reset(&mut self, meta: SnapshotMeta) {
        self.log.reset(meta.last, meta.membership_id, Arc::clone(&meta.membership));
        self.unwritten.entries.clear();
        self.unwritten.truncate_from = None;
        for pending in &mut self.pending {
            pending.through = LogIndex(0);
            pending.restore = None;
        }
        self.restore = None;
        self.restoring = true;
        self.refetched.clear();
        self.fetching.clear();
        self.event(RaftEvent::MembershipChanged { log_id: meta.membership_id });
        self.unwritten.reset = Some(meta);
    }

    /// Everything up to `index` is committed.
    pub(crate) fn commit_to(&mut self, index: LogIndex) -> bool {
        let index = index.min(self.log.last().index);
        if index <= self.log.commit {
            return false;
        }
        self.log.commit = index;
        self.event(RaftEvent::Committed { index });
        true
    }

    // ---- lanes ----------------------------------------------------------------------------------

    pub(crate) fn take_persist(&mut self) -> Option<Persist> {
        let hard = HardState { term: self.term, vote: self.vote, commit: self.log.commit };
        let must_sync = self.has_unwritten();
        if !must_sync && hard == self.written {
            return None;
        }
        let Unwritten { reset, truncate_from, entries } = std::mem::take(&mut self.unwritten);
        let token = self.next_token;
        self.next_token = PersistToken(token.0 + 1);
        self.pending.push_back(Pending {
            token,
            through: self.log.last().index,
            term: self.term,
            restore: reset.clone(),
        });
        for (waits_for, _) in self.gated.iter_mut().filter(|(waits_for, _)| waits_for.is_none()) {
            *waits_for = Some(token);
        }
        let hard_state = (hard != self.written).then_some(hard);
        self.written = hard;
        let (reset_to, reset_membership) =
            reset.map(|meta| (meta.last, (meta.membership_id, meta.membership))).unzip();
        Some(Persist { token, reset_to, reset_membership, truncate_from, entries, hard_state, must_sync })
    }

    /// Everything up to `token` is durable: releases what waited for it.
    pub(crate) fn on_persisted(&mut self, token: PersistToken) {
        while self.pending.front().is_some_and(|pending| pending.token <= token) {
            let Some(pending) = self.pending.pop_front() else { break };
            self.log.persisted = self.log.persisted.max(pending.through);
            self.persisted_term = self.persisted_term.max(pending.term);
            if let Some(meta) = pending.restore {
                self.restore = Some(meta);
            }
        }
        while self.gated.front().is_some_and(|(waits_for, _)| waits_for.is_some_and(|t| t <= token)) {
            if let Some((_, message)) = self.gated.pop_front() {
                self.outbox.push(message);
            }
        }
        self.log.shrink_window();
    }

    pub(crate) fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.outbox)
    }

    pub(crate) fn take_restore(&mut self) -> Option<SnapshotMeta> {
        let meta = self.restore.take()?;
        self.restoring = false;
        self.handed = meta.last.index;
        self.applying.push_back((meta.last.index, 0));
        Some(meta)
    }

    /// The next committed and durable entries, as far as the limit allows.
    pub(crate) fn take_apply(&mut self) -> Vec<Entry> {
        let through = self.log.commit.min(self.log.persisted);
        if self.restoring || self.restore.is_some() || self.handed >= through {
            return Vec::new();
        }
        let room = self.config.apply_bytes_max.saturating_sub(self.applying_bytes);
        if room == 0 {
            return Vec::new();
        }
        let from = self.handed.next();
        let entries = if self.refetched.first().is_some_and(|entry| entry.index() == from) {
            std::mem::take(&mut self.refetched)
        } else if let Some(entries) = self.log.window_slice(from, through, room) {
            entries
        } else {
            self.fetch(from, through.next(), room);
            return Vec::new();
        };
        let bytes = entries.iter().map(payload_bytes).sum();
        self.handed = entries.last().map_or(self.handed, Entry::index);
        self.applying_bytes += bytes;
        self.applying.push_back((self.handed, bytes));
        entries
    }

    /// Whether entries wait for the state machine and may be handed out.
    pub(crate) fn has_apply(&self) -> bool {
        let through = self.log.commit.min(self.log.persisted);
        let from = self.handed.next();
        !self.restoring
            && self.handed < through
            && self.applying_bytes < self.config.apply_bytes_max
            && !self.fetching.contains(&from)
    }

    pub(crate) fn on_applied(&mut self, index: LogIndex) {
        self.applied = self.applied.max(index.min(self.handed));
        while let Some((last, bytes)) = self.applying.front().copied() {
            if last > self.applied {
                break;
            }
            self.applying.pop_front();
            self.applying_bytes -= bytes;
        }
    }

    /// Asks for old entries, once.
    pub(crate) fn fetch(&mut self, from: LogIndex, to: LogIndex, bytes_max: u64) {
        if !self.fetching.contains(&from) {
            self.fetching.push(from);
            self.fetches.push(Fetch::Entries { from, to, bytes_max: bytes_max.max(1) });
        }
    }

    /// Old entries arrived. Returns them if they still are this log's.
    pub(crate) fn on_fetched(&mut self, from: LogIndex, entries: Vec<Entry>) -> Vec<Entry> {
        self.fetching.retain(|waiting| *waiting != from);
        let expected = (from.0..).map(LogIndex);
        let valid =
            entries.iter().zip(expected).all(|(e, index)| e.index() == index && self.log.contains(e.id));
        if !valid {
            return Vec::new();
        }
        let through = self.log.commit.min(self.log.persisted);
        if from == self.handed.next() && self.refetched.is_empty() {
            self.refetched = entries.iter().take_while(|entry| entry.index() <= through).cloned().collect();
        }
        entries
    }

    pub(crate) fn fail_read(&mut self, ticket: ReadTicket) {
        self.reads.push(ReadOutcome::Failed { ticket });
    }

    pub(crate) fn has_output(&self) -> bool {
        let hard = HardState { term: self.term, vote: self.vote, commit: self.log.commit };
        hard != self.written
            || self.unwritten != Unwritten::default()
            || !self.outbox.is_empty()
            || !self.events.is_empty()
            || !self.reads.is_empty()
            || !self.fetches.is_empty()
            || self.restore.is_some()
            || self.has_apply()
    }

    pub(crate) fn last_durable(&self) -> LogId {
        self.log.id_at(self.log.persisted.min(self.log.last().index)).unwrap_or_default()
    }
}
