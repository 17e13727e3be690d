//! What only the disk can give: older entries for `apply` and for slow followers, and snapshots to
//! stream.
//!
//! * At most one request is out per first index; one purpose never has two.
//! * After a request that could not be served, nothing is asked for during a heartbeat interval.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::entry::Entry;
use crate::log::Log;
use crate::ready::{Fetch, exchange};
use crate::types::{LogIndex, MonoTime, ReplicaId};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Fetches {
    asked: BTreeMap<LogIndex, LogIndex>,
    queued: Vec<Fetch>,
    paused_until: Option<MonoTime>,
}

impl Fetches {
    /// Whether asking for `from` would ask for something new.
    pub(crate) fn would_ask(&self, from: LogIndex) -> bool {
        self.paused_until.is_none() && !self.asked.contains_key(&from)
    }

    /// Asks for the entries `from..to`.
    pub(crate) fn entries(&mut self, from: LogIndex, to: LogIndex, bytes_max: u64) {
        if self.would_ask(from) && from < to {
            self.asked.insert(from, to);
            self.queued.push(Fetch::Entries { from, to, bytes_max });
        }
    }

    /// Asks for a snapshot to be streamed.
    pub(crate) fn snapshot(&mut self, to: ReplicaId, at_least: LogIndex) {
        self.queued.push(Fetch::SendSnapshot { to, at_least });
    }

    /// Entries came back: those of them that are still what the log says.
    pub(crate) fn arrived(
        &mut self,
        log: &Log,
        from: LogIndex,
        entries: Vec<Entry>,
        pause: (MonoTime, Duration),
    ) -> Vec<Entry> {
        let Some(to) = self.asked.remove(&from) else { return Vec::new() };
        let mut next = from;
        let still_true = |entry: &Entry| {
            let fits = entry.index() == next && next < to && log.contains(entry.id);
            next = next.next();
            fits
        };
        let entries: Vec<_> = entries.into_iter().take_while(still_true).collect();
        if entries.is_empty() {
            self.paused_until = Some(pause.0 + pause.1);
        }
        entries
    }

    pub(crate) const fn deadline(&self) -> Option<MonoTime> {
        self.paused_until
    }

    /// Says whether asking is allowed again.
    pub(crate) fn on_time(&mut self, now: MonoTime) -> bool {
        let over = self.paused_until.is_some_and(|until| until <= now);
        if over {
            self.paused_until = None;
        }
        over
    }

    pub(crate) fn release_memory(&mut self) {
        self.queued.shrink_to_fit();
        // A tree that was used once keeps a leaf.
        if self.asked.is_empty() {
            self.asked = BTreeMap::new();
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// What is to be asked of the caller goes into `list`.
    pub(crate) fn take_into(&mut self, list: &mut Vec<Fetch>) {
        exchange(&mut self.queued, list);
    }
}
