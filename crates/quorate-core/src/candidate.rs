//! A replica that asks for votes, or (pre-candidate) whether it would get them.
//!
//! * A pre-candidate believes in no leader and keeps its term: asking disturbs nobody (thesis §9.6).
//! * A candidate's own vote counts once its disk has it, like everybody else's.
//!
//! Not here: who gets a vote (`RawNode::answer_vote`, the same in every role).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::event::{RaftEvent, RoleReason};
use crate::message::{Message, MessageBody, VoteRequest};
use crate::planted::planted;
use crate::quorum::Tally;
use crate::raw_node::Rejected;
use crate::role::Transition;
use crate::shared::Shared;
use crate::types::{MonoTime, ReplicaId};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    /// Asks only (thesis §9.6); its term is not raised yet.
    pub(crate) pre: bool,
    pub(crate) deadline: MonoTime,
    answers: BTreeMap<ReplicaId, bool>,
}

impl Candidate {
    /// Starts asking. For a real election the term is this candidate's own already.
    pub(crate) fn new(shared: &mut Shared, pre: bool, transfer: bool) -> Self {
        let mut candidate = Self { pre, deadline: shared.election_deadline(), answers: BTreeMap::new() };
        let own = shared.id();
        if pre {
            candidate.count(shared, own, true);
        }
        ask_for_votes(shared, pre, transfer);
        candidate
    }

    pub(crate) fn tick(&self, shared: &Shared) -> Transition {
        if shared.now < self.deadline {
            Transition::Stay
        } else {
            Transition::Campaign { transfer: false, reason: RoleReason::ElectionTimeout }
        }
    }

    /// The candidate's own vote counts once the disk has it.
    pub(crate) fn on_persisted(&mut self, shared: &mut Shared) -> Transition {
        if !self.pre && shared.vote_is_durable() {
            self.count(shared, shared.id(), true);
        }
        self.decide(shared)
    }

    /// The first answer of each voter counts.
    fn count(&mut self, shared: &mut Shared, voter: ReplicaId, granted: bool) {
        if let Entry::Vacant(answer) = self.answers.entry(voter) {
            answer.insert(granted);
            shared.event(RaftEvent::VoteCounted { voter, pre: self.pre, granted });
        }
    }

    pub(crate) fn step(&mut self, shared: &mut Shared, message: &Message) -> Result<Transition, Rejected> {
        let granted = match message.body {
            MessageBody::PreVoteReply { granted } if self.pre || planted("pre_vote_is_a_vote") => granted,
            MessageBody::VoteReply { granted } if !self.pre => granted,
            MessageBody::ReadIndex { request } => {
                shared.send(message.from, MessageBody::ReadIndexReply { request, index: None });
                return Ok(Transition::Stay);
            }
            MessageBody::ReadIndexReply { .. } | MessageBody::RequestSnapshot { .. } => {
                return Err(Rejected::Unexpected);
            }
            // Answers to what this replica asked in an earlier role.
            MessageBody::PreVoteReply { .. }
            | MessageBody::VoteReply { .. }
            | MessageBody::AppendReply(_)
            | MessageBody::HeartbeatReply { .. } => return Ok(Transition::Stay),
            MessageBody::TimeoutNow => return Err(Rejected::NotFromLeader),
            MessageBody::PreVote(_)
            | MessageBody::Vote(_)
            | MessageBody::Append(_)
            | MessageBody::Heartbeat { .. }
            | MessageBody::Quiesce { .. }
            | MessageBody::InstallSnapshot(_) => unreachable!("answered before, or by a follower"),
        };
        self.count(shared, message.from, granted);
        Ok(self.decide(shared))
    }

    pub(crate) fn decide(&self, shared: &Shared) -> Transition {
        match shared.membership().tally(&self.answers) {
            Tally::Won if self.pre => Transition::Elect { transfer: false },
            Tally::Won => Transition::Lead,
            Tally::Lost => Transition::Follow { leader: None, reason: RoleReason::Lost },
            Tally::Open => Transition::Stay,
        }
    }
}

/// Asks the other voters.
pub(crate) fn ask_for_votes(shared: &mut Shared, pre: bool, transfer: bool) {
    let request = VoteRequest { last: shared.log.last(), transfer };
    let asked = if pre { shared.term.next() } else { shared.term };
    let own = shared.id();
    let voters: Vec<ReplicaId> = shared.membership().voters().filter(|voter| *voter != own).collect();
    for voter in voters {
        let body = if pre { MessageBody::PreVote(request) } else { MessageBody::Vote(request) };
        shared.send_in(asked, voter, body);
    }
}
