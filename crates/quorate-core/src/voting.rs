//! Who gets a vote, in every role alike (Raft §5.4.1, thesis §4.2.3 and §9.6).
//!
//! * One vote in a term, for a log that lacks nothing this one has; it leaves once the disk has it.
//! * No vote while a leader is heard, unless that leader hands over.
//! * A refusal of a pre-vote tells the voter's own term: a later one spreads even where nobody wins.
//!
//! Not here: who asks (`candidate.rs`), what is promised to a leader with a lease (`lease.rs`).

use crate::event::{RaftEvent, RoleReason, VoteRefusal};
use crate::message::{Message, MessageBody, VoteRequest};
use crate::planted::planted;
use crate::raw_node::RawNode;
use crate::role::{Role, Transition};
use crate::types::ReplicaId;

impl RawNode {
    /// Votes and pre-votes (Raft §5.4.1, thesis §4.2.3 and §9.6), in every role alike.
    pub(crate) fn answer_vote(&mut self, message: &Message, request: VoteRequest) {
        let (candidate, term) = (message.from, message.term);
        let pre = matches!(message.body, MessageBody::PreVote(_));
        let hears = self.shared.config.check_quorum && self.hears_a_leader();
        let rested = self.rouse(candidate);
        let stays = !request.transfer && (hears || rested || self.shared.keeps_promise());
        // A leader knows for sure who is no member: a removed replica cannot depose it.
        let removed =
            matches!(self.role, Role::Leader(_)) && self.shared.membership().get(candidate).is_none();
        let sticky = stays || removed;
        let mut refusal = None;
        if term < self.shared.term || (pre && term == self.shared.term) {
            refusal = Some(VoteRefusal::OldTerm);
        } else if sticky {
            refusal = Some(VoteRefusal::HeardLeader);
        } else if !pre && term > self.shared.term {
            self.shared.raise_term(term, None);
            self.become_next(Transition::Follow { leader: None, reason: RoleReason::HigherTerm });
        }
        let behind = request.last < self.shared.log.last() && !planted("vote_for_a_shorter_log");
        if refusal.is_none() && (behind || self.shared.has_lost_entries()) {
            refusal = Some(VoteRefusal::LogBehind);
        }
        let taken = self.shared.vote.is_some_and(|vote| vote != candidate) || self.shared.leader.is_some();
        if refusal.is_none() && !pre && taken && self.shared.vote != Some(candidate) {
            refusal = Some(VoteRefusal::AlreadyVoted).filter(|_| !planted("two_votes_in_a_term"));
        }
        self.shared.event(RaftEvent::VoteAnswered { candidate, term, pre, refusal });
        let granted = refusal.is_none();
        if pre {
            // A grant carries the asked term; a refusal the voter's own, so that a later term spreads
            // even where nobody wins (etcd #8243).
            let answered = if granted { term } else { self.shared.term };
            self.shared.send_in(answered, candidate, MessageBody::PreVoteReply { granted });
            return;
        }
        if granted && self.shared.vote.is_none() {
            self.shared.vote = Some(candidate);
            if let Role::Follower(follower) = &mut self.role {
                follower.deadline = Some(self.shared.election_deadline());
            }
        }
        // A voter that stays with its leader says nothing: its older term would mean nothing.
        if refusal != Some(VoteRefusal::HeardLeader) {
            self.shared.send(candidate, MessageBody::VoteReply { granted });
        }
    }

    /// A campaign wakes who rests: a leader so that it shows that it is there; a follower, which says no this
    /// time to anybody but its leader, so that it waits for it from now on. Says whether it says no.
    fn rouse(&mut self, candidate: ReplicaId) -> bool {
        let member = self.shared.membership().get(candidate).is_some();
        match &mut self.role {
            Role::Leader(leader) if member => leader.stir(&mut self.shared),
            Role::Follower(follower) if follower.is_resting() => {
                follower.wake(&mut self.shared);
                return self.shared.leader != Some(candidate);
            }
            Role::Leader(_) | Role::Follower(_) | Role::Candidate(_) => {}
        }
        false
    }

    fn hears_a_leader(&self) -> bool {
        match self.role {
            Role::Leader(_) => true,
            Role::Follower(_) => self.shared.hears_leader(),
            Role::Candidate(_) => false,
        }
    }
}
