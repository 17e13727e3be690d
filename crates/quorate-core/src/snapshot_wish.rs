//! A follower asks for a snapshot: its log is fine, but what its state machine made of it is not (lost,
//! damaged, or known to be wrong).
//!
//! ```text
//!   request_snapshot ──► nothing is applied any more ──► RequestSnapshot to whoever leads, again after T
//!                                                          │ the leader's caller streams one
//!   Ready::restore ◄── durable in the log ◄── InstallSnapshot at or after what was applied
//!   then apply goes on after it
//! ```
//!
//! * The log keeps everything: what was acknowledged stays, and what the snapshot covers is skipped.
//! * Who waits for a snapshot votes and acknowledges as ever, but does not campaign: it could serve nobody. Where
//!   nobody else can lead either, a restart ends the wait.
//! * A snapshot that is older than what was applied does not help; it is acknowledged and asked for again.
//! * The leader feeds the asker as before. It starts one stream at a time to each.

use crate::event::{RaftEvent, SnapshotTaken};
use crate::follower::Follower;
use crate::leader::Leader;
use crate::message::{MessageBody, SnapshotMeta};
use crate::planted::planted;
use crate::raw_node::{Rejected, SnapshotRequestError};
use crate::ready::PersistToken;
use crate::shared::Shared;
use crate::types::{LogIndex, MonoTime, ReplicaId};

/// A snapshot that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SnapshotWish {
    /// Everything up to here went to the state machine.
    at_least: LogIndex,
    /// When to ask (again).
    ask_at: MonoTime,
}

impl Shared {
    pub(crate) fn wish_for_snapshot(&mut self) -> Result<(), SnapshotRequestError> {
        if self.is_witness() {
            return Err(SnapshotRequestError::Witness);
        }
        if self.snapshot_wish.is_some() {
            return Err(SnapshotRequestError::InProgress);
        }
        if self.membership().members().all(|(id, _)| id == self.id()) {
            return Err(SnapshotRequestError::NobodyToAsk);
        }
        let at_least = self.apply.pause().max(LogIndex(1));
        self.snapshot_wish = Some(SnapshotWish { at_least, ask_at: self.now });
        Ok(())
    }

    /// Hands the snapshot to the state machine if it was wished for and the log goes on after it.
    fn fulfil_wish(&mut self, meta: &SnapshotMeta) -> bool {
        let last = meta.last;
        let helps = self.snapshot_wish.is_some_and(|wish| wish.at_least <= last.index);
        if !helps || !self.log.contains(last) {
            return false;
        }
        self.event(RaftEvent::SnapshotReceived { last, taken: SnapshotTaken::Kept });
        self.commit_to(last.index);
        // Not before the log holds it, too: a state machine must not be ahead of its log.
        let durable = last.index <= self.log.persisted();
        let gate = if durable { None } else { self.writes.full_gate(self.hard_state(), &self.log) };
        self.snapshot_wish = None;
        self.apply.restore(gate.unwrap_or(PersistToken(0)), meta.clone());
        true
    }
}

impl Follower {
    /// The leader was heard: it is asked for the snapshot that is wished for.
    pub(crate) fn maybe_ask_for_snapshot(shared: &mut Shared, leader: ReplicaId) {
        let until = shared.one_timeout();
        let now = shared.now;
        if let Some(wish) = shared.snapshot_wish.as_mut().filter(|wish| wish.ask_at <= now) {
            wish.ask_at = until;
            let at_least = wish.at_least;
            shared.send(leader, MessageBody::RequestSnapshot { at_least });
        }
    }

    /// What a snapshot is to the log and to the state machine.
    pub(crate) fn take_snapshot(shared: &mut Shared, meta: &SnapshotMeta) {
        let last = meta.last;
        if shared.fulfil_wish(meta) {
            return;
        }
        if last.index <= shared.log.commit() {
            shared.event(RaftEvent::SnapshotReceived { last, taken: SnapshotTaken::NotNeeded });
        } else if shared.log.contains(last)
            || (last.index <= shared.log.last_index() && planted("suffix_kept_by_snapshot"))
        {
            // The log has it all: what a snapshot covers is committed. Keep what follows.
            shared.event(RaftEvent::SnapshotReceived { last, taken: SnapshotTaken::Kept });
            shared.commit_to(last.index);
        } else {
            // The state machine gets it, wished for or not.
            shared.snapshot_wish = None;
            shared.reset(meta.clone());
        }
    }
}

impl Leader {
    pub(crate) fn on_snapshot_request(
        &mut self,
        shared: &mut Shared,
        from: ReplicaId,
        at_least: LogIndex,
    ) -> Result<(), Rejected> {
        if at_least > shared.log.last_index() {
            return Err(Rejected::Unexpected);
        }
        self.stir(shared);
        let (now, until) = (shared.now, shared.now + shared.config.snapshot_timeout);
        let Some(progress) = self.progress.get_mut(from) else { return Err(Rejected::UnknownSender) };
        progress.on_heard(now);
        if progress.witness || progress.gets_snapshot(now) {
            return Ok(());
        }
        progress.requested_until = Some(until);
        let at_least = at_least.max(shared.log.compacted().index);
        shared.fetches.snapshot(from, at_least);
        shared.event(RaftEvent::SnapshotOffered { to: from, at_least });
        Ok(())
    }
}
