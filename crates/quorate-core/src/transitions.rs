//! How a replica goes from one role to another. Every change passes `become_next`; what the old role owed
//! (reads that wait, a transfer) is settled before it is gone.

use crate::candidate::Candidate;
use crate::event::{RoleName, RoleReason};
use crate::follower::Follower;
use crate::leader::Leader;
use crate::raw_node::RawNode;
use crate::role::{Role, Transition};
use crate::types::ReplicaId;

impl RawNode {
    /// The one place where a role changes.
    #[inline]
    pub(crate) fn become_next(&mut self, next: Transition) {
        if !matches!(next, Transition::Stay) {
            self.change_role(next);
        }
    }

    fn change_role(&mut self, next: Transition) {
        match next {
            Transition::Stay => {}
            Transition::Follow { leader, reason } => self.become_follower(leader, reason),
            Transition::Campaign { transfer, reason } => self.campaign_as_voter(transfer, reason),
            Transition::Elect { transfer } => self.become_candidate(transfer, RoleReason::Won),
            Transition::Lead => {
                self.shared.leader = Some(self.shared.id());
                self.shared.role_event(RoleName::Leader, RoleReason::Won);
                let leader = Leader::new(&mut self.shared);
                self.role = Role::Leader(Box::new(leader));
            }
        }
    }

    fn leave_role(&mut self) {
        match &mut self.role {
            Role::Leader(leader) => leader.abandon(&mut self.shared),
            Role::Follower(follower) => follower.fail_reads(&mut self.shared),
            Role::Candidate(_) => {}
        }
    }

    fn become_follower(&mut self, leader: Option<ReplicaId>, reason: RoleReason) {
        self.leave_role();
        self.shared.leader = leader;
        if leader.is_some() {
            self.shared.heard_leader = Some(self.shared.now);
        }
        let mut follower = Follower::new(&mut self.shared);
        if let (Role::Follower(before), None) = (&self.role, leader) {
            // Only a leader and a vote granted put the own campaign off (Raft §5.2); a candidate that
            // cannot win must not silence the one that could by raising terms.
            follower.deadline = before.deadline.or(follower.deadline);
        }
        self.role = Role::Follower(follower);
        self.shared.role_event(RoleName::Follower, reason);
    }

    fn campaign_as_voter(&mut self, transfer: bool, reason: RoleReason) {
        if !self.shared.may_campaign() {
            if matches!(self.role, Role::Candidate(_)) {
                self.become_follower(None, RoleReason::Removed);
            }
            return;
        }
        if transfer || !self.shared.config.pre_vote {
            self.become_candidate(transfer, reason);
            return;
        }
        // A pre-candidate believes in no leader, or two of them could refuse each other for ever (etcd #9586).
        self.leave_role();
        self.shared.leader = None;
        self.shared.role_event(RoleName::PreCandidate, reason);
        let candidate = Candidate::new(&mut self.shared, true, transfer);
        let next = candidate.decide(&self.shared);
        self.role = Role::Candidate(candidate);
        self.become_next(next);
    }

    fn become_candidate(&mut self, transfer: bool, reason: RoleReason) {
        self.leave_role();
        let (id, term) = (self.shared.id, self.shared.term.next());
        self.shared.raise_term(term, Some(id));
        self.shared.leader = None;
        self.shared.role_event(RoleName::Candidate, reason);
        self.role = Role::Candidate(Candidate::new(&mut self.shared, false, transfer));
    }
}
