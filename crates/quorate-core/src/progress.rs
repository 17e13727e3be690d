//! What a leader knows of one follower, and how it feeds it.
//!
//! ```text
//!            accepted                         accepted something that connects
//!   Probe ──────────────► Replicate        Snapshot ────────────────► Replicate
//!     ▲   ◄──────────────     │               ▲
//!     │   rejected, stalled,  │               │ what it needs is compacted
//!     │   unreachable         └───────────────┴── (also from Probe)
//!     └───── the snapshot was not answered, or failed ──┘
//! ```
//!
//! * `matched < next`: what is known to match is never sent again.
//! * Probe: one append at a time, until one is accepted. Replicate: appends stream ahead of the
//!   answers, bounded in messages and bytes. Snapshot: nothing is sent.
//! * Each state holds only what is valid in it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::Config;
use crate::promotion::CatchUp;
use crate::quorum::Votes;
use crate::status::{ProgressName, ProgressStatus};
use crate::types::{LogIndex, MonoTime};

/// Who lacks more entries than this does not keep up.
const LAG_MAX: u64 = 128;

/// See the module's picture.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    pub(crate) matched: LogIndex,
    pub(crate) state: State,
    /// When it was last heard, or when it was met.
    pub(crate) heard: MonoTime,
    /// Whether it was ever heard by this leader.
    pub(crate) spoke: bool,
    /// The newest read round it answered.
    pub(crate) round_acked: u64,
    /// The newest read round it was sent.
    pub(crate) round_sent: u64,
    /// The highest commit index it was sent and may believe.
    pub(crate) commit_sent: LogIndex,
    /// Ask whether what matched is still there: it reported less.
    pub(crate) recheck: bool,
    /// It asked for a snapshot: until then no other is streamed to it.
    pub(crate) requested_until: Option<MonoTime>,
    /// The newest round in which it agreed to rest.
    pub(crate) rests_since: u64,
    /// It was removed by this entry and is only told so.
    pub(crate) departing: Option<LogIndex>,
    /// It gets no commands (`witness.rs`).
    pub(crate) witness: bool,
    /// How far it has caught up, while it is to be promoted (`promotion.rs`).
    pub(crate) catch_up: Option<CatchUp>,
    /// Where it counts.
    pub(crate) votes: Votes,
    /// How it is fed, as the events have told.
    pub(crate) told: ProgressName,
}

/// How a follower is fed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    /// Looking for the last common entry.
    Probe {
        next: LogIndex,
        /// When the one append that is out was sent.
        sent: Option<MonoTime>,
    },
    /// Streaming.
    Replicate { next: LogIndex, inflight: Inflight },
    /// It needs entries that are compacted.
    Snapshot { at_least: LogIndex, phase: SnapshotPhase },
}

/// How far a snapshot is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SnapshotPhase {
    /// The driver streams it and will report, by then at the latest.
    Streaming { until: MonoTime },
    /// It arrived; the follower answers by then, or is probed again.
    Installing { until: MonoTime },
    /// It failed; then it is tried again.
    Resting { until: MonoTime },
}

impl SnapshotPhase {
    /// When the member is probed again, whatever has happened.
    const fn until(self) -> MonoTime {
        match self {
            Self::Streaming { until } | Self::Installing { until } | Self::Resting { until } => until,
        }
    }
}

/// Appends that were sent and not answered, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Inflight {
    messages: VecDeque<(LogIndex, u64)>,
    bytes: u64,
    /// When an answer was last due: the window filled or moved.
    moved: MonoTime,
}

impl Inflight {
    fn is_full(&self, config: &Config) -> bool {
        self.messages.len() >= config.inflight_messages_max || self.bytes >= config.inflight_bytes_max
    }
    /// Whether one of them ends there, so that the next one begins there.
    fn ends_at(&self, index: LogIndex) -> bool {
        self.messages.iter().any(|(last, _)| *last == index)
    }
    fn push(&mut self, now: MonoTime, last: LogIndex, bytes: u64) {
        if self.messages.is_empty() {
            self.moved = now;
        }
        self.messages.push_back((last, bytes));
        self.bytes += bytes;
    }
    fn free(&mut self, now: MonoTime, matched: LogIndex) {
        while let Some((_, bytes)) = self.messages.front().filter(|(last, _)| *last <= matched) {
            self.bytes -= bytes;
            self.messages.pop_front();
            self.moved = now;
        }
    }
}

/// What became of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// It answers something long past.
    Stale,
    /// The follower is probed from here on.
    Probe,
    /// It lost what it had acknowledged, and is probed.
    Lost,
}

impl Progress {
    pub(crate) const fn new(now: MonoTime, next: LogIndex) -> Self {
        Self {
            matched: LogIndex(0),
            state: State::Probe { next, sent: None },
            heard: now,
            spoke: false,
            round_acked: 0,
            round_sent: 0,
            commit_sent: LogIndex(0),
            recheck: false,
            requested_until: None,
            rests_since: 0,
            departing: None,
            witness: false,
            catch_up: None,
            votes: Votes { incoming: false, outgoing: false },
            told: ProgressName::Probe,
        }
    }

    pub(crate) fn release_memory(&mut self) {
        if let State::Replicate { inflight, .. } = &mut self.state {
            inflight.messages.shrink_to_fit();
        }
    }

    pub(crate) fn on_heard(&mut self, now: MonoTime) {
        self.heard = now;
        self.spoke = true;
    }

    /// Whether it streams and lacks little of a log that ends at `last`.
    pub(crate) fn keeps_up(&self, now: MonoTime, timeout: Duration, last: LogIndex) -> bool {
        matches!(self.state, State::Replicate { .. })
            && self.is_active(now, timeout)
            && last.0.saturating_sub(self.matched.0) <= LAG_MAX
    }

    pub(crate) fn is_active(&self, now: MonoTime, timeout: Duration) -> bool {
        self.spoke && now.since(self.heard) < timeout
    }

    /// The next entry to send, unless it has to wait.
    pub(crate) fn next_to_send(&self, config: &Config) -> Option<LogIndex> {
        match &self.state {
            State::Probe { next, sent: None } => Some(*next),
            State::Replicate { next, inflight } if !inflight.is_full(config) => Some(*next),
            State::Probe { .. } | State::Replicate { .. } | State::Snapshot { .. } => None,
        }
    }

    /// Whether there is nothing to send in a log that ends at `last` and is committed up to `commit`.
    pub(crate) fn is_settled(&self, last: LogIndex, commit: LogIndex) -> bool {
        let has_all = matches!(self.state, State::Replicate { next, .. } if next > last);
        let knows_commit = commit.min(self.matched) <= self.commit_sent;
        has_all
            && knows_commit
            && !self.recheck
            && self.departing.is_none()
            && self.catch_up.is_none()
            && self.told == ProgressName::Replicate
    }

    /// Entries up to `last` were sent (none when it is below the next one).
    pub(crate) fn on_sent(&mut self, now: MonoTime, last: LogIndex, bytes: u64) {
        match &mut self.state {
            State::Probe { sent, .. } => *sent = Some(now),
            State::Replicate { next, inflight } => {
                if last >= *next {
                    inflight.push(now, last, bytes);
                    *next = last.next();
                }
            }
            State::Snapshot { .. } => {}
        }
    }

    /// Everything up to `matched` is durable there. `compacted` is where the leader's log starts.
    pub(crate) fn on_accepted(&mut self, now: MonoTime, matched: LogIndex, compacted: LogIndex) {
        if matched < self.matched {
            return;
        }
        self.matched = matched;
        self.recheck = false;
        let connects = matched >= compacted;
        match &mut self.state {
            State::Replicate { next, inflight } => {
                inflight.free(now, matched);
                *next = (*next).max(matched.next());
            }
            State::Snapshot { .. } if !connects => {}
            State::Probe { .. } | State::Snapshot { .. } => {
                self.state = State::Replicate { next: matched.next(), inflight: Inflight::default() };
            }
        }
    }

    /// The append after `prev` was refused by a log that ends at `last`. `next` is where the logs
    /// could still agree, plus one.
    pub(crate) fn on_rejected(&mut self, prev: LogIndex, last: LogIndex, next: LogIndex) -> Rejection {
        // A refusal from before its acknowledgement may come late, or twice: only one of an append that may
        // be out tells of a loss. Whoever has lost something is asked where it matched (`recheck`), and
        // refuses that.
        let (answers, may_be_out) = match &self.state {
            State::Probe { next, .. } => (next.previous() == prev, next.previous() == prev),
            State::Replicate { inflight, .. } => {
                (prev > self.matched, prev == self.matched || inflight.ends_at(prev))
            }
            State::Snapshot { .. } => (false, false),
        };
        if last < self.matched && may_be_out {
            self.matched = LogIndex(0);
            self.recheck = false;
            self.commit_sent = LogIndex(0);
            self.probe(next);
            return Rejection::Lost;
        }
        if !answers {
            return Rejection::Stale;
        }
        self.probe(next);
        Rejection::Probe
    }

    /// Looks for the last common entry from `next` on down.
    pub(crate) fn probe(&mut self, next: LogIndex) {
        self.state = State::Probe { next: next.max(self.matched.next()), sent: None };
    }

    /// An answer is missing for half an election timeout: asks again.
    pub(crate) fn unstick(&mut self, now: MonoTime, timeout: Duration) {
        let too_long = |since: MonoTime| now >= since + timeout / 2;
        match &mut self.state {
            State::Probe { sent, .. } if sent.is_some_and(too_long) => *sent = None,
            State::Replicate { inflight, .. }
                if !inflight.messages.is_empty() && too_long(inflight.moved) =>
            {
                self.probe(self.matched.next());
            }
            State::Probe { .. } | State::Replicate { .. } | State::Snapshot { .. } => {}
        }
    }

    pub(crate) fn on_unreachable(&mut self) {
        match &mut self.state {
            State::Probe { sent, .. } => *sent = None,
            State::Replicate { .. } => self.probe(self.matched.next()),
            State::Snapshot { .. } => {}
        }
    }

    /// Whether a report about a snapshot is awaited.
    pub(crate) const fn awaits_snapshot(&self) -> bool {
        matches!(self.state, State::Snapshot { phase: SnapshotPhase::Streaming { .. }, .. })
            || self.requested_until.is_some()
    }

    /// Whether a snapshot is on its way to it.
    pub(crate) fn gets_snapshot(&self, now: MonoTime) -> bool {
        matches!(self.state, State::Snapshot { .. }) || self.requested_until.is_some_and(|until| now < until)
    }

    pub(crate) const fn on_snapshot_ended(&mut self, rest: Option<MonoTime>, answer_by: MonoTime) {
        self.requested_until = None;
        if let State::Snapshot { phase, .. } = &mut self.state
            && matches!(phase, SnapshotPhase::Streaming { .. })
        {
            *phase = match rest {
                None => SnapshotPhase::Installing { until: answer_by },
                Some(until) => SnapshotPhase::Resting { until },
            };
        }
    }

    /// A snapshot was not answered, or was given a rest: probe again. Says whether it did.
    pub(crate) fn on_time(&mut self, now: MonoTime) -> bool {
        let over = self.deadline().is_some_and(|until| until <= now);
        if over {
            self.probe(self.matched.next());
        }
        over
    }

    pub(crate) const fn deadline(&self) -> Option<MonoTime> {
        match self.state {
            State::Snapshot { phase, .. } => Some(phase.until()),
            State::Probe { .. } | State::Replicate { .. } => None,
        }
    }

    pub(crate) const fn name(&self) -> ProgressName {
        match self.state {
            State::Probe { .. } => ProgressName::Probe,
            State::Replicate { .. } => ProgressName::Replicate,
            State::Snapshot { .. } => ProgressName::Snapshot,
        }
    }

    pub(crate) fn status(&self, now: MonoTime, config: &Config) -> ProgressStatus {
        let (mut inflight_messages, mut inflight_bytes, mut pending_snapshot) = (0, 0, None);
        let next = match &self.state {
            State::Probe { next, sent } => {
                inflight_messages = usize::from(sent.is_some());
                *next
            }
            State::Replicate { next, inflight } => {
                (inflight_messages, inflight_bytes) = (inflight.messages.len(), inflight.bytes);
                *next
            }
            State::Snapshot { at_least, .. } => {
                pending_snapshot = Some(*at_least);
                at_least.next()
            }
        };
        ProgressStatus {
            matched: self.matched,
            next,
            state: self.name(),
            recently_active: self.is_active(now, config.election_timeout),
            paused: self.next_to_send(config).is_none(),
            inflight_messages,
            inflight_bytes,
            pending_snapshot,
            departing: self.departing.is_some(),
            catch_up_round: self.catch_up.map(|catch_up| catch_up.round),
        }
    }
}
