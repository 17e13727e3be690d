//! What a leader sends to whom, decided once per `ready`.
//!
//! ```text
//!   for each member:   entries it may get ─► Append
//!                      else, if due: heartbeat interval, a read round it does not know,
//!                      a commit index it may believe and does not know ─► Heartbeat
//! ```
//!
//! * News without entries travels in heartbeats, clipped to what the member is known to hold: a
//!   heartbeat may overtake appends without harm.
//! * Entries come from the window, or from the disk through `Fetch::Entries`; what is compacted
//!   comes in a snapshot, which is offered only to a member that was heard lately.

use crate::entries::Entries;
use crate::entry::Entry;
use crate::event::RaftEvent;
use crate::leader::Leader;
use crate::log::entry_bytes;
use crate::message::{Append, MessageBody};
use crate::planted::planted;
use crate::progress::{Progress, SnapshotPhase, State};
use crate::read::Rounds;
use crate::shared::Shared;
use crate::types::{LogId, LogIndex, ReplicaId};
use crate::witness::{place_witness, withheld};

impl Leader {
    /// Sends everyone what they may get now.
    pub(crate) fn replicate(&mut self, shared: &mut Shared) {
        self.maybe_leave_joint(shared);
        self.maybe_promote(shared);
        self.replicate = false;
        let heartbeat_due = std::mem::take(&mut self.heartbeat_due);
        if heartbeat_due {
            self.maybe_begin_lease_round(shared);
            self.maybe_ask_to_rest(shared);
        }
        // A member that left may have been all that a round waited for.
        self.maybe_confirm_reads(shared);
        let ready = || Self::own_term_committed(shared) || planted("read_before_own_commit");
        if self.rounds.can_start() && ready() {
            let number = self.rounds.start(shared.log.commit());
            self.note_round(shared, number);
            self.maybe_confirm_reads(shared);
        }
        let question = self.wish_to_rest(shared).filter(|_| heartbeat_due);
        let witnessed = self.may_be_witnessed(shared);
        let mut feeding = Feeding::new(shared, &self.rounds, &[], witnessed);
        let (mut anything, mut changed) = (false, false);
        for (id, progress) in self.progress.iter_mut() {
            let appended = feeding.feed(id, progress);
            anything |= appended;
            match &question {
                Some(question) => feeding.shared.send(id, question.clone()),
                None => feeding.maybe_heartbeat(id, progress, heartbeat_due, appended),
            }
            changed |= progress.departing.is_some() || progress.told != progress.name();
        }
        if anything {
            self.stir(shared);
        }
        if heartbeat_due && let Some(transfer) = self.transfer.filter(|transfer| transfer.told) {
            shared.send(transfer.to, MessageBody::TimeoutNow);
        }
        if changed {
            self.see_off(shared);
            self.tell_progress(shared);
        }
    }

    /// Says how members are fed, where that is news.
    fn tell_progress(&mut self, shared: &mut Shared) {
        for (id, progress) in self.progress.iter_mut() {
            let (from, to) = (progress.told, progress.name());
            if from != to {
                progress.told = to;
                let matched = progress.matched;
                shared.event(RaftEvent::ProgressChanged { replica: id, from, to, matched });
            }
        }
    }

    /// Entries came back from the disk.
    pub(crate) fn on_fetched(&mut self, shared: &mut Shared, entries: &[Entry]) {
        let witnessed = self.may_be_witnessed(shared);
        let mut feeding = Feeding::new(shared, &self.rounds, entries, witnessed);
        for (id, progress) in self.progress.iter_mut() {
            feeding.feed(id, progress);
        }
        self.stir(shared);
        self.replicate = true;
    }

    /// Forgets removed members that know it, and those that cannot be told.
    fn see_off(&mut self, shared: &Shared) {
        let (commit, timeout) = (shared.log.commit(), shared.config.election_timeout);
        self.progress.retain(|progress| {
            let Some(removed_at) = progress.departing else { return true };
            let streams = matches!(progress.state, State::Replicate { .. });
            streams
                && progress.is_active(shared.now, timeout)
                && (commit < removed_at || progress.commit_sent < removed_at)
        });
    }
}

/// One pass over the members.
struct Feeding<'a> {
    shared: &'a mut Shared,
    rounds: &'a Rounds,
    /// What just came back from the disk.
    fetched: &'a [Entry],
    /// Up to where a witness may know the log.
    witnessed: LogIndex,
    /// What was sent last: mostly the next member gets the same.
    before: Option<Portion>,
}

/// Entries for one append.
#[derive(Clone)]
struct Portion {
    from: LogIndex,
    entries: Entries,
    bytes: u64,
}

impl<'a> Feeding<'a> {
    const fn new(
        shared: &'a mut Shared,
        rounds: &'a Rounds,
        fetched: &'a [Entry],
        witnessed: LogIndex,
    ) -> Self {
        Self { shared, rounds, fetched, witnessed, before: None }
    }

    /// Sends `id` the entries it may get now. Returns whether there were any.
    fn feed(&mut self, id: ReplicaId, progress: &mut Progress) -> bool {
        let mut appended = self.recheck(id, progress);
        while let Some(next) = progress.next_to_send(&self.shared.config) {
            let streams = matches!(progress.state, State::Replicate { .. });
            let last = self.last_for(progress);
            if streams && next > last {
                break;
            }
            let Some(prev) = self.shared.log.id_at(next.previous()) else {
                if progress.witness {
                    place_witness(self.shared, id, progress);
                } else {
                    self.offer_snapshot(id, progress);
                }
                break;
            };
            let Some(portion) = self.portion(next, last) else { break };
            self.append_to(id, progress, prev, portion);
            appended = true;
        }
        appended
    }

    /// Only to a member that is there: a snapshot is expensive.
    fn offer_snapshot(&mut self, id: ReplicaId, progress: &mut Progress) {
        let shared = &mut *self.shared;
        if progress.is_active(shared.now, shared.config.election_timeout) {
            let at_least = shared.log.compacted().index;
            let until = shared.now + shared.config.snapshot_timeout;
            progress.state = State::Snapshot { at_least, phase: SnapshotPhase::Streaming { until } };
            shared.fetches.snapshot(id, at_least);
            shared.event(RaftEvent::SnapshotOffered { to: id, at_least });
        }
    }

    /// Asks a member that reported less than it acknowledged whether that is still there.
    fn recheck(&mut self, id: ReplicaId, progress: &mut Progress) -> bool {
        let wanted = std::mem::take(&mut progress.recheck);
        if !wanted || !matches!(progress.state, State::Replicate { .. }) {
            return false;
        }
        match self.shared.log.id_at(progress.matched) {
            Some(prev) => {
                let nothing = Portion { from: prev.index.next(), entries: Entries::new(), bytes: 0 };
                self.append_to(id, progress, prev, nothing);
            }
            None => progress.probe(self.shared.log.compacted().index.next()),
        }
        true
    }

    /// Entries from `next` on for one append; `None` when the disk was asked for them.
    fn portion(&mut self, next: LogIndex, last: LogIndex) -> Option<Portion> {
        let same = |before: &&Portion| {
            before.from == next && before.entries.last().is_none_or(|entry| entry.index() <= last)
        };
        if let Some(before) = self.before.as_ref().filter(same) {
            return Some(before.clone());
        }
        let log = &mut self.shared.log;
        let bytes_max = self.shared.config.append_bytes_max;
        let start = log.window_start();
        let portion = if next >= start {
            let (to, bytes) = fitting(next, log.window(next, last), bytes_max);
            Portion { from: next, entries: log.share(next, to), bytes }
        } else {
            let skip = self.fetched.partition_point(|entry| entry.index() < next);
            let fetched = self.fetched.get(skip..).unwrap_or_default();
            if fetched.first().is_none_or(|first| first.index() != next) {
                self.shared.fetches.entries(next, start.min(log.last_index().next()), bytes_max);
                return None;
            }
            let (to, bytes) = fitting(next, fetched.iter(), bytes_max);
            let entries = fetched.iter().take_while(|entry| entry.index() <= to).cloned().collect();
            Portion { from: next, entries, bytes }
        };
        if last == self.shared.log.last_index() {
            self.before = Some(portion.clone());
        }
        Some(portion)
    }

    /// The last entry that a member may get.
    const fn last_for(&self, progress: &Progress) -> LogIndex {
        if progress.witness { self.witnessed } else { self.shared.log.last_index() }
    }

    fn append_to(&mut self, id: ReplicaId, progress: &mut Progress, prev: LogId, portion: Portion) {
        let Portion { mut entries, bytes, .. } = portion;
        if progress.witness {
            entries = entries.iter().map(withheld).collect();
        }
        let last = entries.last().map_or(prev.index, Entry::index);
        let (commit, read_round) = (self.shared.log.commit(), self.rounds.newest());
        progress.on_sent(self.shared.now, last, bytes);
        progress.commit_sent = progress.commit_sent.max(commit.min(last));
        progress.round_sent = read_round;
        self.shared.send(id, MessageBody::Append(Append { prev, entries, commit, read_round }));
    }

    fn maybe_heartbeat(&mut self, id: ReplicaId, progress: &mut Progress, due: bool, appended: bool) {
        let read_round = self.rounds.newest();
        let clip = if planted("heartbeat_commit_believed") { LogIndex::MAX } else { progress.matched };
        let commit = self.shared.log.commit().min(clip);
        let round_news = self.rounds.is_in_flight() && progress.round_sent < read_round && !appended;
        let commit_news = commit > progress.commit_sent && !self.shared.config.lazy_commit_news;
        if due || round_news || commit_news {
            progress.commit_sent = progress.commit_sent.max(commit);
            progress.round_sent = read_round;
            self.shared.send(id, MessageBody::Heartbeat { commit, read_round });
        }
    }
}

/// Up to where entries from `from` on fit into `bytes_max`, at least the first, and their bytes.
fn fitting<'a>(from: LogIndex, entries: impl Iterator<Item = &'a Entry>, bytes_max: u64) -> (LogIndex, u64) {
    let (mut to, mut sum) = (from.previous(), 0);
    for entry in entries {
        let bytes = entry_bytes(entry);
        if sum > 0 && sum + bytes > bytes_max {
            break;
        }
        sum += bytes;
        to = entry.index();
    }
    (to, sum)
}
