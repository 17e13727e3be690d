//! What a message means whatever the role: who may say it, whose term counts, and who leads. What is left
//! goes to the role.
//!
//! ```text
//!   gate.rs ──► may_speak ──► vote? ── yes ──► voting.rs
//!                               └ no ──► old term? void ──► follow_term ──► the role's step
//! ```
//!
//! Not here: what could never be right (`gate.rs`), votes (`voting.rs`).

use crate::entries::Entries;
use crate::event::{RaftEvent, RoleReason};
use crate::message::{Append, Message, MessageBody};
use crate::planted::planted;
use crate::raw_node::{RawNode, Rejected};
use crate::role::{Role, Transition};
use crate::types::LogId;

impl RawNode {
    /// Whether the sender may say this to a replica in this role. Leaders and candidates may be
    /// members that this replica has not heard of yet; who answers must have been asked.
    fn may_speak(&self, message: &Message) -> bool {
        match message.body {
            MessageBody::Append(_)
            | MessageBody::Heartbeat { .. }
            | MessageBody::InstallSnapshot(_)
            | MessageBody::PreVote(_)
            | MessageBody::Vote(_)
            | MessageBody::Quiesce { .. }
            | MessageBody::TimeoutNow => true,
            MessageBody::PreVoteReply { .. }
            | MessageBody::VoteReply { .. }
            | MessageBody::AppendReply(_)
            | MessageBody::HeartbeatReply { .. }
            | MessageBody::ReadIndex { .. }
            | MessageBody::RequestSnapshot { .. }
            | MessageBody::ReadIndexReply { .. } => match &self.role {
                Role::Leader(leader) => leader.progress.get(message.from).is_some(),
                Role::Follower(_) | Role::Candidate(_) => {
                    self.shared.membership().get(message.from).is_some()
                        || self.shared.leader == Some(message.from)
                }
            },
        }
    }

    pub(crate) fn dispatch(&mut self, message: &Message) -> Result<(), Rejected> {
        if !self.may_speak(message) {
            return Err(Rejected::UnknownSender);
        }
        if self.shared.is_traced() {
            self.shared.event(RaftEvent::MessageReceived { message: Box::new(message.clone()) });
        }
        if let MessageBody::PreVote(request) | MessageBody::Vote(request) = message.body {
            self.answer_vote(message, request);
            return Ok(());
        }
        // A refusal of a pre-vote carries the voter's own term, which may be older: it still counts.
        let refuses = matches!(message.body, MessageBody::PreVoteReply { granted: false });
        if message.term < self.shared.term && !refuses {
            return self.answer_old_term(message);
        }
        if matches!(message.body, MessageBody::PreVoteReply { granted: true })
            && message.term != self.shared.term.next()
            && !planted("pre_vote_is_a_vote")
        {
            // A grant carries the asked term: this one was asked for in an earlier round, or never.
            return if message.term == self.shared.term { Ok(()) } else { Err(Rejected::Unexpected) };
        }
        self.follow_term(message)?;
        if leads(&message.body) {
            // A replica that has just joined learns from its leader which epoch its group is in.
            self.shared.epoch_heard = self.shared.epoch_heard.max(message.epoch);
        }
        let next = match &mut self.role {
            Role::Follower(follower) => follower.step(&mut self.shared, message)?,
            Role::Candidate(candidate) => candidate.step(&mut self.shared, message)?,
            Role::Leader(leader) => leader.step(&mut self.shared, message)?,
        };
        self.become_next(next);
        Ok(())
    }

    /// A message of an older term is void; its sender must learn of the newer one where it would
    /// otherwise lead (or wait) for ever: PreVote and CheckQuorum together need that (etcd #8501).
    fn answer_old_term(&mut self, message: &Message) -> Result<(), Rejected> {
        if leads(&message.body) {
            let last = LogId::default();
            self.shared.send(message.from, MessageBody::HeartbeatReply { read_round: 0, last });
        }
        Err(Rejected::OldTerm)
    }

    /// Takes over a later term, and the leader that a message of the current term proves.
    fn follow_term(&mut self, message: &Message) -> Result<(), Rejected> {
        let leads = leads(&message.body);
        let asks_only = matches!(message.body, MessageBody::PreVoteReply { granted: true });
        if message.term > self.shared.term && !asks_only {
            self.shared.raise_term(message.term, None);
            let leader = leads.then_some(message.from);
            self.become_next(Transition::Follow { leader, reason: RoleReason::HigherTerm });
        } else if leads {
            match (&self.role, self.shared.leader) {
                (Role::Leader(_), _) => return Err(Rejected::TwoLeaders),
                (Role::Follower(_), Some(leader)) if leader != message.from => {
                    return Err(Rejected::TwoLeaders);
                }
                (Role::Follower(_), Some(_)) => {}
                (Role::Follower(_) | Role::Candidate(_), _) => {
                    let leader = Some(message.from);
                    self.become_next(Transition::Follow { leader, reason: RoleReason::HeardLeader });
                }
            }
        }
        Ok(())
    }
}

/// Whether only a leader says this.
const fn leads(body: &MessageBody) -> bool {
    matches!(
        body,
        MessageBody::Append(_)
            | MessageBody::Heartbeat { .. }
            | MessageBody::Quiesce { .. }
            | MessageBody::InstallSnapshot(_)
    )
}

/// What an event tells of a refused message.
pub(crate) fn without_entries(message: &Message) -> Message {
    let body = if let MessageBody::Append(append) = &message.body {
        MessageBody::Append(Append { entries: Entries::new(), ..*append })
    } else {
        message.body.clone()
    };
    Message { body, ..*message }
}
