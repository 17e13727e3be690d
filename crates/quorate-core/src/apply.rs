//! What the state machine gets, and when: committed entries that are durable here (or, when so
//! configured, also before they are), in order, a bounded amount at a time; or a snapshot in their place.
//!
//! ```text
//!         applied          handed       min(commit, persisted)
//!            │  outstanding   │  may be handed out │
//!   ─────────┴────────────────┴────────────────────┴──►  index
//! ```
//!
//! * `applied <= handed`. Outstanding bytes are bounded; one entry always fits.
//! * After a reset, nothing is handed out until the reset is durable and the snapshot was handed out.

use std::collections::VecDeque;

use crate::config::Config;
use crate::entries::Entries;
use crate::entry::Entry;
use crate::fetches::Fetches;
use crate::log::{Log, entry_bytes};
use crate::message::SnapshotMeta;
use crate::ready::PersistToken;
use crate::types::LogIndex;

/// See the module's picture.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Apply {
    applied: LogIndex,
    handed: LogIndex,
    outstanding: VecDeque<(LogIndex, u64)>,
    outstanding_bytes: u64,
    bytes_max: u64,
    /// Only what is durable here is handed out.
    durable_only: bool,
    /// Entries from `handed + 1` on that came back from the disk.
    fetched: VecDeque<Entry>,
    /// Nothing is handed out before a snapshot comes: the state machine cannot go on.
    paused: bool,
    /// A snapshot to restore once this write is durable.
    restoring: Option<(PersistToken, SnapshotMeta)>,
}

impl Apply {
    pub(crate) const fn new(applied: LogIndex, config: &Config) -> Self {
        Self {
            applied,
            handed: applied,
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
            bytes_max: config.apply_bytes_max,
            durable_only: !config.apply_unpersisted,
            fetched: VecDeque::new(),
            paused: false,
            restoring: None,
        }
    }

    /// What waits for the state machine stays; more follows by the new limit.
    pub(crate) const fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Hands out nothing more until a snapshot is restored. Says how far it has handed out.
    pub(crate) const fn pause(&mut self) -> LogIndex {
        self.paused = true;
        self.handed
    }

    pub(crate) fn release_memory(&mut self) {
        self.outstanding.shrink_to_fit();
        self.fetched.shrink_to_fit();
    }

    pub(crate) const fn applied(&self) -> LogIndex {
        self.applied
    }
    pub(crate) const fn handed(&self) -> LogIndex {
        self.handed
    }

    /// The log was replaced by the snapshot `meta`; `token` is the write that makes it true.
    pub(crate) fn restore(&mut self, token: PersistToken, meta: SnapshotMeta) {
        self.handed = meta.last.index;
        self.outstanding.clear();
        self.outstanding_bytes = 0;
        self.fetched.clear();
        self.paused = false;
        self.restoring = Some((token, meta));
    }

    pub(crate) fn on_applied(&mut self, index: LogIndex) {
        assert!(index <= self.handed, "{index:?} was applied before it was handed out");
        self.applied = self.applied.max(index);
        while let Some((_, bytes)) = self.outstanding.front().filter(|(outstanding, _)| *outstanding <= index)
        {
            self.outstanding_bytes -= bytes;
            self.outstanding.pop_front();
        }
    }

    /// Entries that came back from the disk, if they are the next ones.
    pub(crate) fn on_fetched(&mut self, log: &Log, entries: &[Entry]) {
        if self.fetched.is_empty() && entries.first().is_some_and(|first| first.index() == self.handed.next())
        {
            let end = self.end(log);
            self.fetched.extend(entries.iter().take_while(|entry| entry.index() <= end).cloned());
        }
    }

    /// Whether `bytes` more may be handed out. One entry always fits.
    fn has_room(&self, bytes: u64) -> bool {
        self.outstanding.is_empty() || self.outstanding_bytes + bytes <= self.bytes_max
    }

    /// The next entry, if it is at hand.
    fn next<'a>(&'a self, log: &'a Log) -> Option<&'a Entry> {
        let next = self.handed.next();
        self.fetched.front().or_else(|| log.window(next, next).next())
    }

    fn end(&self, log: &Log) -> LogIndex {
        if self.durable_only { log.commit().min(log.persisted()) } else { log.commit() }
    }

    /// The snapshot to restore now.
    pub(crate) fn take_restore(&mut self, durable: impl Fn(PersistToken) -> bool) -> Option<SnapshotMeta> {
        if self.restoring.as_ref().is_some_and(|(token, _)| durable(*token)) {
            self.restoring.take().map(|(_, meta)| meta)
        } else {
            None
        }
    }

    /// Whether `take` or `take_restore` would do something.
    pub(crate) fn is_waiting(
        &self,
        log: &Log,
        fetches: &Fetches,
        durable: impl Fn(PersistToken) -> bool,
    ) -> bool {
        if let Some((token, _)) = &self.restoring {
            return durable(*token);
        }
        if self.paused || self.handed >= self.end(log) {
            return false;
        }
        match self.next(log) {
            Some(entry) => self.has_room(entry_bytes(entry)),
            None => self.has_room(1) && fetches.would_ask(self.handed.next()),
        }
    }

    /// The entries to apply now; asks the disk for those that left the window.
    pub(crate) fn take(&mut self, log: &mut Log, fetches: &mut Fetches) -> Entries {
        let end = self.end(log);
        if self.paused || self.restoring.is_some() || self.handed >= end {
            return Entries::new();
        }
        if self.fetched.is_empty() && self.handed.next() >= log.window_start() {
            return self.take_from_window(log, end);
        }
        let mut entries = Vec::new();
        while self.handed < end {
            let Some(entry) = self.next(log).filter(|entry| self.has_room(entry_bytes(entry))).cloned()
            else {
                break;
            };
            self.fetched.pop_front();
            self.note_handed(entry.index(), entry_bytes(&entry));
            entries.push(entry);
        }
        if self.handed < end && self.next(log).is_none() && self.has_room(1) {
            let (from, to) = (self.handed.next(), log.window_start().min(end.next()));
            fetches.entries(from, to, self.bytes_max - self.outstanding_bytes);
        }
        entries.into()
    }

    /// Takes everything that could be handed out as applied: on a witness, which has no state machine.
    pub(crate) fn skip(&mut self, log: &Log) {
        if self.restoring.is_some() {
            return;
        }
        self.handed = self.handed.max(self.end(log));
        self.on_applied(self.handed);
        self.fetched.clear();
    }

    /// Whether `skip` or `take_restore` would do something.
    pub(crate) fn is_waiting_to_skip(&self, log: &Log, durable: impl Fn(PersistToken) -> bool) -> bool {
        match &self.restoring {
            Some((token, _)) => durable(*token),
            None => self.applied < self.handed.max(self.end(log)),
        }
    }

    fn take_from_window(&mut self, log: &mut Log, end: LogIndex) -> Entries {
        let from = self.handed.next();
        for entry in log.window(from, end) {
            let bytes = entry_bytes(entry);
            if !self.has_room(bytes) {
                break;
            }
            self.note_handed(entry.index(), bytes);
        }
        log.share(from, self.handed)
    }

    fn note_handed(&mut self, index: LogIndex, bytes: u64) {
        self.handed = index;
        self.outstanding.push_back((index, bytes));
        self.outstanding_bytes += bytes;
    }
}
