//! A leader's view of one member.

use std::collections::VecDeque;

use crate::status::{ProgressName, ProgressStatus};
use crate::types::{LogIndex, MonoTime};

/// Appends sent and not answered yet, bounded in messages and in payload bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Inflight {
    /// The last index and the payload bytes of each append, oldest first.
    sent: VecDeque<(LogIndex, u64)>,
    bytes: u64,
    /// The member was heard since it last accepted anything: what is on its way may be lost.
    in_doubt: bool,
}

impl Inflight {
    pub(crate) fn is_full(&self, messages_max: usize, bytes_max: u64) -> bool {
        self.sent.len() >= messages_max || self.bytes >= bytes_max
    }
    fn push(&mut self, last: LogIndex, bytes: u64) {
        self.sent.push_back((last, bytes));
        self.bytes += bytes;
    }
    fn free_through(&mut self, matched: LogIndex) {
        while let Some((last, bytes)) = self.sent.front().copied() {
            if last > matched {
                break;
            }
            self.sent.pop_front();
            self.bytes -= bytes;
            self.in_doubt = false;
        }
    }
}

/// How a member is fed. Each variant carries only what is valid in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Feeding {
    /// Looking for the last common entry: one append at a time.
    Probe { waiting: bool },
    /// Streaming optimistically.
    Replicate(Inflight),
    /// Waiting for a snapshot to arrive; `since` is when it was asked for or reported sent.
    Snapshot { since: MonoTime },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    /// Known to match, and durable there, up to here.
    pub(crate) matched: LogIndex,
    /// The next entry to send; `matched < next`.
    pub(crate) next: LogIndex,
    pub(crate) feeding: Feeding,
    /// When it last answered.
    pub(crate) heard: MonoTime,
    /// The newest read round it answered.
    pub(crate) read_round: u64,
    /// The highest commit index it was told.
    pub(crate) told_commit: LogIndex,
}

impl Progress {
    pub(crate) const fn new(next: LogIndex, now: MonoTime) -> Self {
        Self {
            matched: LogIndex(0),
            next,
            feeding: Feeding::Probe { waiting: false },
            heard: now,
            read_round: 0,
            told_commit: LogIndex(0),
        }
    }

    /// An append up to `last` with `bytes` of payload is on its way.
    pub(crate) fn on_sent(&mut self, last: LogIndex, bytes: u64) {
        match &mut self.feeding {
            Feeding::Probe { waiting } => *waiting = true,
            Feeding::Replicate(inflight) => {
                if last >= self.next {
                    inflight.push(last, bytes);
                    self.next = last.next();
                }
            }
            Feeding::Snapshot { .. } => {}
        }
    }

    /// Everything up to `matched` is there. Returns whether that is news.
    pub(crate) fn on_accepted(&mut self, matched: LogIndex, compacted: LogIndex) -> bool {
        let news = matched > self.matched;
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        match &mut self.feeding {
            Feeding::Probe { .. } => self.stream(),
            Feeding::Replicate(inflight) => inflight.free_through(matched),
            Feeding::Snapshot { .. } if self.matched >= compacted => self.stream(),
            Feeding::Snapshot { .. } => {}
        }
        news
    }

    fn stream(&mut self) {
        self.next = self.matched.next();
        self.feeding = Feeding::Replicate(Inflight::default());
    }

    /// `prev` was refused. Returns whether the refusal is news; then probing starts at `retry`.
    pub(crate) fn on_rejected(&mut self, prev: LogIndex, retry: LogIndex) -> bool {
        let stale = match self.feeding {
            Feeding::Probe { .. } => self.next.previous() != prev,
            Feeding::Replicate(_) => prev <= self.matched,
            Feeding::Snapshot { .. } => true,
        };
        if !stale {
            self.probe_from(retry.max(self.matched.next()));
        }
        !stale
    }

    /// Starts probing at `next`.
    pub(crate) fn probe_from(&mut self, next: LogIndex) {
        self.next = next.max(LogIndex(1));
        self.feeding = Feeding::Probe { waiting: false };
    }

    /// The member's log turned out to end at `last`, below what it had acknowledged.
    pub(crate) fn on_lost(&mut self, last: LogIndex) {
        self.matched = self.matched.min(last);
        self.probe_from(last.next());
    }

    /// A sign of life: a probe may be sent again. Returns whether to ask if what was streamed has arrived: when
    /// nothing of it was accepted since the sign of life before. A lost append is not seen otherwise, if no other follows it.
    pub(crate) fn on_alive(&mut self) -> bool {
        match &mut self.feeding {
            Feeding::Probe { waiting } => {
                *waiting = false;
                false
            }
            Feeding::Replicate(inflight) => {
                let unanswered = !inflight.sent.is_empty();
                unanswered && std::mem::replace(&mut inflight.in_doubt, true)
            }
            Feeding::Snapshot { .. } => false,
        }
    }

    pub(crate) fn status(&self, now: MonoTime, election_timeout: std::time::Duration) -> ProgressStatus {
        ProgressStatus {
            matched: self.matched,
            next: self.next,
            state: match self.feeding {
                Feeding::Probe { .. } => ProgressName::Probe,
                Feeding::Replicate(_) => ProgressName::Replicate,
                Feeding::Snapshot { .. } => ProgressName::Snapshot,
            },
            recently_active: now.since(self.heard) < election_timeout,
        }
    }
}
