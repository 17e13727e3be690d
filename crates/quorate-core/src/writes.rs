//! What has to reach the disk, in one numbered write after another, and what already has.
//!
//! ```text
//!      durable            in flight                next (being collected)
//!   ──1──2──3──┤  ├──4──┤ ├──5──┤   ├── reset? truncate? entries (written, last], hard state? ──┤ = 6
//! ```
//!
//! * A token names a write. Writes become durable in order, so a token stands for all before it.
//! * What a write made durable is counted by position *in the present log*: truncation and reset
//!   take it back from the writes in flight. An acknowledgement of "index 12" can therefore never be taken
//!   for the index 12 of a later term (the ABA of asynchronous logs).
//! * A write that only moves the commit hint needs no sync, comes at most once per heartbeat
//!   interval, and nothing waits for it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::log::Log;
use crate::message::SnapshotMeta;
use crate::planted::planted;
use crate::ready::{Persist, PersistToken};
use crate::types::{HardState, LogIndex, MonoTime};

/// See the module's picture.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Writes {
    /// The token of the last write handed out.
    handed: PersistToken,
    durable: PersistToken,
    /// The last write that carries a new term or vote.
    vote_written: PersistToken,
    /// Writes that need a sync, handed out and not durable.
    in_flight: VecDeque<InFlight>,
    /// Up to here the present log has been handed out.
    written: LogIndex,
    reset: Option<SnapshotMeta>,
    truncate_from: Option<LogIndex>,
    /// As handed out last.
    hard_state: HardState,
    /// When a commit hint that changed is written at the latest.
    hint_deadline: Option<MonoTime>,
    hint_due: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InFlight {
    token: PersistToken,
    /// The last index of the present log that this write makes durable.
    last: LogIndex,
}

impl Writes {
    pub(crate) const fn new(hard_state: HardState, last: LogIndex) -> Self {
        Self {
            handed: PersistToken(0),
            durable: PersistToken(0),
            vote_written: PersistToken(0),
            in_flight: VecDeque::new(),
            written: last,
            reset: None,
            truncate_from: None,
            hard_state,
            hint_deadline: None,
            hint_due: false,
        }
    }

    pub(crate) fn release_memory(&mut self) {
        self.in_flight.shrink_to_fit();
    }

    /// The token of the write that is being collected.
    pub(crate) const fn next_token(&self) -> PersistToken {
        PersistToken(self.handed.0 + 1)
    }

    pub(crate) fn is_durable(&self, token: PersistToken) -> bool {
        token <= self.durable
    }

    /// The log lost everything from `from` on.
    pub(crate) fn truncated(&mut self, from: LogIndex) {
        if from <= self.written {
            self.truncate_from = Some(self.truncate_from.map_or(from, |earlier| earlier.min(from)));
            self.written = from.previous();
        }
        for write in &mut self.in_flight {
            write.last = write.last.min(from.previous());
        }
    }

    /// The log was replaced by the snapshot `meta`. Returns the write that makes it true.
    pub(crate) fn reset(&mut self, meta: &SnapshotMeta) -> PersistToken {
        self.written = meta.last.index;
        self.reset = Some(meta.clone());
        self.truncate_from = None;
        for write in &mut self.in_flight {
            write.last = LogIndex(0);
        }
        self.next_token()
    }

    fn vote_changed(&self, now: HardState) -> bool {
        now.vote != self.hard_state.vote || (now.term != self.hard_state.term && !planted("term_not_written"))
    }

    fn must_sync(&self, now: HardState, log: &Log) -> bool {
        self.reset.is_some()
            || self.truncate_from.is_some()
            || self.written < log.last_index()
            || self.vote_changed(now)
    }

    /// The write after which the term and the vote are durable; `None` when they are.
    pub(crate) fn vote_gate(&self, now: HardState) -> Option<PersistToken> {
        if self.vote_changed(now) {
            return Some(self.next_token());
        }
        (!self.is_durable(self.vote_written)).then_some(self.vote_written)
    }

    /// The write after which everything known now is durable; `None` when it is.
    pub(crate) fn full_gate(&self, now: HardState, log: &Log) -> Option<PersistToken> {
        if self.must_sync(now, log) {
            return Some(self.next_token());
        }
        self.in_flight.back().map(|write| write.token)
    }

    /// The commit index moved.
    pub(crate) fn hint_changed(&mut self, now: MonoTime, interval: Duration) {
        if self.hint_deadline.is_none() {
            self.hint_deadline = Some(now + interval);
        }
    }

    pub(crate) const fn hint_deadline(&self) -> Option<MonoTime> {
        self.hint_deadline
    }

    pub(crate) fn on_time(&mut self, now: MonoTime) {
        if self.hint_deadline.is_some_and(|deadline| deadline <= now) {
            self.hint_deadline = None;
            self.hint_due = true;
        }
    }

    pub(crate) fn is_waiting(&self, now: HardState, log: &Log) -> bool {
        self.hint_due || self.must_sync(now, log)
    }

    /// The write collected so far; something must be waiting.
    pub(crate) fn take(&mut self, now: HardState, log: &mut Log) -> Persist {
        let must_sync = self.must_sync(now, log);
        let token = self.next_token();
        self.handed = token;
        if self.vote_changed(now) {
            self.vote_written = token;
        }
        let entries = log.share(self.written.next(), log.last_index());
        self.written = log.last_index();
        if must_sync {
            self.in_flight.push_back(InFlight { token, last: self.written });
        }
        let hard_state = (now != self.hard_state).then_some(now);
        self.hard_state = now;
        self.hint_deadline = None;
        self.hint_due = false;
        let reset = self.reset.take();
        Persist {
            token,
            reset_to: reset.as_ref().map(|meta| meta.last),
            reset_membership: reset.map(|meta| (meta.membership_id, meta.membership)),
            truncate_from: self.truncate_from.take(),
            entries,
            hard_state,
            must_sync,
        }
    }

    /// Everything up to `token` is durable. Returns up to where that makes the present log durable.
    pub(crate) fn complete(&mut self, token: PersistToken) -> LogIndex {
        assert!(token <= self.handed, "{token:?} was never handed out; the last was {:?}", self.handed);
        self.durable = self.durable.max(token);
        let mut last = LogIndex(0);
        while let Some(write) = self.in_flight.front().filter(|write| write.token <= token) {
            last = last.max(write.last);
            self.in_flight.pop_front();
        }
        last
    }
}
