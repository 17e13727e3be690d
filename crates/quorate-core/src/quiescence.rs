//! Rest: a group in which nothing happens costs nothing. Its leader stops its heartbeats, its followers
//! stop waiting for them, and nobody has a deadline.
//!
//! ```text
//!   leader     awake ──(idle for quiesce_after, all caught up)──► asking ──(everybody agreed)──► resting
//!                ▲              Quiesce in place of heartbeats       │                              │
//!                └──────────── a proposal, a read, a campaign, `wake`: heartbeats at once ◄─────────┘
//!   follower   awake ──(Quiesce of exactly its log)──► resting ──(anything but Quiesce from its leader,
//!                ▲                                        │          a campaign, a request, `wake`)
//!                └──────── its deadline starts anew ◄─────┘
//! ```
//!
//! * Everybody: a member that lags, is silent, or leaves keeps the group awake. What is asked to rest
//!   is durable and committed everywhere.
//! * Rest is not an agreement that anything depends on. Who rests in error loses time, never safety: there
//!   is no lease, and a leader that wakes has T to hear a quorum before it steps down.
//! * Who wakes alone (it restarted, or missed the question) campaigns in time. That wakes all who hear it: the
//!   leader answers with heartbeats, and a follower refuses once, so that its leader can, and waits for it from then
//!   on. The leader itself asks for votes only when it leads no more: it is not refused.
//! * Who wakes alone and may not campaign (a learner, a witness, a replica that has lost entries) asks like a candidate
//!   all the same, and makes nothing of the answers.
//! * That a resting leader is dead, nobody notices in here. A node knows of other nodes: `RawNode::wake`
//!   is how it says so, once per group.
//!
//! Heartbeats of busy groups: one is 49 bytes of fixed size without payload, so that a host can put those of
//! all its groups to one node into one frame.

use crate::candidate::ask_for_votes;
use crate::event::RaftEvent;
use crate::follower::Follower;
use crate::leader::Leader;
use crate::message::MessageBody;
use crate::progress::State;
use crate::shared::Shared;
use crate::types::{LogId, LogIndex, MonoTime, ReplicaId, Term};

/// How awake a leader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rest {
    /// Something happened at this moment.
    Awake { since: MonoTime },
    /// Everybody is asked to rest.
    Asking { round: u64 },
    /// Everybody agreed. Nothing has happened since.
    Resting,
}

impl Leader {
    pub(crate) fn is_resting(&self) -> bool {
        self.rest == Rest::Resting
    }

    /// Something happens: the group is awake.
    pub(crate) fn stir(&mut self, shared: &mut Shared) {
        if self.is_resting() {
            // Nobody was asked meanwhile: they have an election timeout from now.
            for (_, progress) in self.progress.iter_mut() {
                progress.heard = shared.now;
            }
            self.heartbeat_deadline = shared.now + shared.config.heartbeat_interval;
            self.heartbeat_due = true;
            self.replicate = true;
            shared.event(RaftEvent::QuiescenceChanged { quiescent: false });
        }
        self.rest = Rest::Awake { since: shared.now };
    }

    /// At each heartbeat: whether it is time to ask everybody to rest, or to stop asking.
    pub(crate) fn maybe_ask_to_rest(&mut self, shared: &Shared) {
        let Some(quiesce_after) = shared.config.quiesce_after else { return };
        match self.rest {
            Rest::Awake { since } if shared.now.since(since) < quiesce_after => {}
            Rest::Awake { .. } if self.all_caught_up(shared) => {
                self.rest = Rest::Asking { round: self.rounds.begin() };
            }
            Rest::Asking { .. } if !self.all_caught_up(shared) => {
                self.rest = Rest::Awake { since: shared.now };
            }
            Rest::Awake { .. } | Rest::Asking { .. } | Rest::Resting => {}
        }
    }

    /// Whether there is nothing to do for anybody.
    fn all_caught_up(&self, shared: &Shared) -> bool {
        let (last, timeout) = (shared.log.last_index(), shared.config.election_timeout);
        let settled = shared.log.commit() == last && shared.log.persisted() == last;
        let (_, membership) = shared.log.membership();
        let idle = self.transfer.is_none() && self.rounds.len() == 0 && membership.joint().is_none();
        settled
            && idle
            && shared.is_voter(shared.id())
            && self.progress.iter().all(|(_, progress)| {
                matches!(progress.state, State::Replicate { .. })
                    && progress.departing.is_none()
                    && progress.matched == last
                    && progress.commit_sent == last
                    && !progress.recheck
                    && progress.is_active(shared.now, timeout)
            })
    }

    /// The question that takes the place of heartbeats.
    pub(crate) fn wish_to_rest(&self, shared: &Shared) -> Option<MessageBody> {
        let Rest::Asking { round } = self.rest else { return None };
        Some(MessageBody::Quiesce { last: shared.log.last(), round })
    }

    /// `from` answered a heartbeat, or the question, of this round.
    pub(crate) fn on_rest_answer(&mut self, shared: &mut Shared, from: ReplicaId, answered: u64) {
        let Rest::Asking { round } = self.rest else { return };
        if answered != round {
            return;
        }
        if let Some(progress) = self.progress.get_mut(from) {
            progress.rests_since = round;
        }
        if self.progress.iter().all(|(_, progress)| progress.rests_since == round)
            && self.all_caught_up(shared)
        {
            self.rest = Rest::Resting;
            shared.event(RaftEvent::QuiescenceChanged { quiescent: true });
        }
    }
}

/// A replica that may not campaign has heard no leader for an election timeout: the group may rest without it.
pub(crate) fn wake_leader(shared: &mut Shared) {
    if shared.config.quiesce_after.is_some() && shared.term < Term::MAX {
        ask_for_votes(shared, true, false);
    }
}

impl Follower {
    /// Whether it waits for nobody.
    pub(crate) const fn is_resting(&self) -> bool {
        self.deadline.is_none()
    }

    /// Something is going on: the leader has an election timeout to show that it is there.
    pub(crate) fn wake(&mut self, shared: &mut Shared) {
        if self.is_resting() {
            self.deadline = Some(shared.election_deadline());
            shared.event(RaftEvent::QuiescenceChanged { quiescent: false });
        }
    }

    /// The leader asks to rest, with the log up to `last`. Agrees if this log is the same and durable,
    /// and otherwise says what it has, as to a heartbeat.
    pub(crate) fn on_quiesce(&mut self, shared: &mut Shared, from: ReplicaId, last: LogId, round: u64) {
        let same = self.verified >= last.index && shared.log.last() == last;
        if !same || shared.log.persisted() < last.index || shared.snapshot_wish.is_some() {
            self.hear(shared);
            return self.answer_heartbeat(shared, from, 0);
        }
        if !self.is_resting() {
            shared.event(RaftEvent::QuiescenceChanged { quiescent: true });
        }
        shared.heard_leader = Some(shared.now);
        self.deadline = None;
        shared.commit_to(last.index);
        self.answer_heartbeat(shared, from, round);
    }

    /// Tells the leader how far this log is durable and known to equal its own.
    pub(crate) fn answer_heartbeat(&self, shared: &mut Shared, from: ReplicaId, read_round: u64) {
        let durable: LogIndex = self.verified.min(shared.log.persisted());
        let last = shared.log.id_at(durable).unwrap_or_default();
        shared.send(from, MessageBody::HeartbeatReply { read_round, last });
    }
}
