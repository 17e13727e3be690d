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

use crate::entry::Entry;
use crate::event::RaftEvent;
use crate::leader::Leader;
use crate::log::entry_bytes;
use crate::message::{Append, MessageBody};
use crate::progress::{SnapshotPhase, State};
use crate::shared::Shared;
use crate::types::{LogId, LogIndex, ReplicaId};

impl Leader {
    /// Sends everyone what they may get now.
    pub(crate) fn replicate(&mut self, shared: &mut Shared) {
        self.maybe_leave_joint(shared);
        self.maybe_promote(shared);
        self.replicate = false;
        let heartbeat_due = std::mem::take(&mut self.heartbeat_due);
        if heartbeat_due {
            self.maybe_begin_lease_round(shared);
        }
        // A member that left may have been all that a round waited for.
        self.maybe_confirm_reads(shared);
        if self.rounds.can_start() && Self::own_term_committed(shared) {
            let number = self.rounds.start(shared.log.commit());
            self.note_round(shared, number);
            self.maybe_confirm_reads(shared);
        }
        let members: Vec<ReplicaId> = self.progress.keys().copied().collect();
        for id in members {
            let appended = self.feed(shared, id, &[]);
            self.maybe_heartbeat(shared, id, heartbeat_due, appended);
        }
        if heartbeat_due && let Some(transfer) = self.transfer.filter(|transfer| transfer.told) {
            shared.send(transfer.to, MessageBody::TimeoutNow);
        }
        self.see_off(shared);
        self.tell_progress(shared);
    }

    /// Says how members are fed, where that is news.
    fn tell_progress(&mut self, shared: &mut Shared) {
        for (id, progress) in &mut self.progress {
            let (from, to) = (progress.told, progress.name());
            if from != to {
                progress.told = to;
                let matched = progress.matched;
                shared.event(RaftEvent::ProgressChanged { replica: *id, from, to, matched });
            }
        }
    }

    /// Entries came back from the disk.
    pub(crate) fn on_fetched(&mut self, shared: &mut Shared, entries: &[Entry]) {
        let members: Vec<ReplicaId> = self.progress.keys().copied().collect();
        for id in members {
            self.feed(shared, id, entries);
        }
        self.replicate = true;
    }

    /// Sends `id` the entries it may get now. Returns whether there were any.
    fn feed(&mut self, shared: &mut Shared, id: ReplicaId, fetched: &[Entry]) -> bool {
        let mut appended = self.recheck(shared, id);
        while let Some(progress) = self.progress.get_mut(&id) {
            let Some(next) = progress.next_to_send(&shared.config) else { break };
            let Some(prev) = shared.log.id_at(next.previous()) else {
                // Only to a member that is there: a snapshot is expensive.
                if progress.is_active(shared.now, shared.config.election_timeout) {
                    let at_least = shared.log.compacted().index;
                    progress.state = State::Snapshot { at_least, phase: SnapshotPhase::Streaming };
                    shared.fetches.snapshot(id, at_least);
                    shared.event(RaftEvent::SnapshotOffered { to: id, at_least });
                }
                break;
            };
            let streams = matches!(progress.state, State::Replicate { .. });
            if streams && next > shared.log.last_index() {
                break;
            }
            let Some(entries) = Self::entries(shared, next, fetched) else { break };
            self.append_to(shared, id, prev, entries);
            appended = true;
        }
        appended
    }

    /// Asks a member that reported less than it acknowledged whether that is still there.
    fn recheck(&mut self, shared: &mut Shared, id: ReplicaId) -> bool {
        let Some(progress) = self.progress.get_mut(&id) else { return false };
        let wanted = std::mem::take(&mut progress.recheck);
        if !wanted || !matches!(progress.state, State::Replicate { .. }) {
            return false;
        }
        match shared.log.id_at(progress.matched) {
            Some(prev) => self.append_to(shared, id, prev, Vec::new()),
            None => progress.probe(shared.log.compacted().index.next()),
        }
        true
    }

    /// Entries from `next` on for one append; `None` when the disk was asked for them.
    fn entries(shared: &mut Shared, next: LogIndex, fetched: &[Entry]) -> Option<Vec<Entry>> {
        let bytes_max = shared.config.append_bytes_max;
        let (last, start) = (shared.log.last_index(), shared.log.window_start());
        let mut bytes = 0;
        let mut fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry_bytes(entry);
            first || bytes <= bytes_max
        };
        if next >= start {
            return Some(shared.log.window(next, last).take_while(|entry| fits(entry)).cloned().collect());
        }
        let from_disk: Vec<Entry> = fetched
            .iter()
            .skip_while(|entry| entry.index() < next)
            .take_while(|entry| fits(entry))
            .cloned()
            .collect();
        if from_disk.first().is_some_and(|first| first.index() == next) {
            return Some(from_disk);
        }
        shared.fetches.entries(next, start.min(last.next()), bytes_max);
        None
    }

    fn append_to(&mut self, shared: &mut Shared, id: ReplicaId, prev: LogId, entries: Vec<Entry>) {
        let Some(progress) = self.progress.get_mut(&id) else { return };
        let bytes = entries.iter().map(entry_bytes).sum();
        let last = entries.last().map_or(prev.index, Entry::index);
        let (commit, read_round) = (shared.log.commit(), self.rounds.newest());
        progress.on_sent(shared.now, last, bytes);
        progress.commit_sent = progress.commit_sent.max(commit.min(last));
        progress.round_sent = read_round;
        shared.send(id, MessageBody::Append(Append { prev, entries, commit, read_round }));
    }

    fn maybe_heartbeat(&mut self, shared: &mut Shared, id: ReplicaId, due: bool, appended: bool) {
        let Some(progress) = self.progress.get_mut(&id) else { return };
        let read_round = self.rounds.newest();
        let commit = shared.log.commit().min(progress.matched);
        let round_news = self.rounds.is_in_flight() && progress.round_sent < read_round && !appended;
        if due || round_news || commit > progress.commit_sent {
            progress.commit_sent = progress.commit_sent.max(commit);
            progress.round_sent = read_round;
            shared.send(id, MessageBody::Heartbeat { commit, read_round });
        }
    }

    /// Forgets removed members that know it, and those that cannot be told.
    fn see_off(&mut self, shared: &Shared) {
        let (commit, timeout) = (shared.log.commit(), shared.config.election_timeout);
        self.progress.retain(|_, progress| {
            let Some(removed_at) = progress.departing else { return true };
            let streams = matches!(progress.state, State::Replicate { .. });
            streams
                && progress.is_active(shared.now, timeout)
                && (commit < removed_at || progress.commit_sent < removed_at)
        });
    }
}
