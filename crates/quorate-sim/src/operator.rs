//! The operator: adds, promotes and removes members, moves leadership, asks for snapshots; and starts the replicas
//! that the members need.
//!
//! * It knows only what a leader tells it, and its commands fail and get lost like everybody's.
//! * A node gets a new replica only when a committed membership says so, with a larger id than
//!   the one it has: an id is never used again, so a stale leader cannot talk the operator into wiping a member.

use std::sync::Arc;

use quorate_core::{
    GroupId, LogIndex, MemberRole, Membership, MembershipChange, MembershipTransition, NodeId, ReplicaId,
    RoleName,
};
use quorate_host::{Answer, GroupStatus, Request, RequestError};

use crate::disk_image::Crash;
use crate::invariants::{Checked, Violation};
use crate::node::{Asker, NEW_BUILD};
use crate::seams::Assignment;
use crate::world::{MILLISECOND, Step, World, note};

/// Where a node's peers reach it, as memberships say it.
pub(crate) fn address(node: NodeId) -> String {
    format!("n{node}:1")
}

/// Whether a voter goes by this change.
const fn goes(change: &MembershipChange) -> bool {
    matches!(change, MembershipChange::Remove(_) | MembershipChange::Demote(_))
}

impl World {
    pub(crate) fn on_operator_moves(&mut self) {
        let pause_max = self.swarm.operator_pause_millis_max;
        self.agenda.plan_within(50 * MILLISECOND, pause_max * MILLISECOND, Step::OperatorMoves);
        for group in (1..=self.swarm.groups).map(GroupId) {
            if let Some((_, status)) = self.a_leader(group) {
                self.start_new_members(group, &status);
            }
        }
        if self.calm || self.swarm.operator_rests {
            return;
        }
        if self.swarm.upgrades && self.rng.chance(200) {
            let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
            if let Some(node) = self.rng.pick(&nodes) {
                self.upgrade(*node);
            }
        }
        let group = GroupId(1 + self.rng.below(self.swarm.groups));
        let Some((leader, status)) = self.a_leader(group) else { return };
        if let Some((node, request)) = self.choose_command(leader, &status) {
            note!(self, "op", "n{node} {group:?} {request:?}");
            self.ask(node, Asker::Operator { group }, group, request);
        }
    }

    /// Some node that believes it leads (the one with the highest term), and what it says.
    pub(crate) fn a_leader(&self, group: GroupId) -> Option<(NodeId, GroupStatus)> {
        let statuses = self.nodes.values().filter_map(|node| {
            let status = node.running.as_ref()?.host.status(group)?;
            (status.role == RoleName::Leader).then_some((node.id, status))
        });
        statuses.max_by_key(|(_, status)| status.term)
    }

    fn start_new_members(&mut self, group: GroupId, status: &GroupStatus) {
        if status.membership_id.index > status.commit {
            return;
        }
        let seeds: Vec<_> = status
            .membership
            .members()
            .map(|(replica, member)| (replica, member.node, member.peer_address.clone()))
            .collect();
        let members: Vec<(ReplicaId, NodeId)> =
            status.membership.members().map(|(replica, member)| (replica, member.node)).collect();
        for (replica, id) in members {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            if node.assignments.get(&group).is_some_and(|assignment| assignment.replica >= replica) {
                continue;
            }
            let assignment = Assignment { replica, initial: None, seeds: seeds.clone() };
            node.assignments.insert(group, assignment);
            note!(self, "op", "n{id} becomes {replica:?} of {group:?}");
            self.coverage.count("replicas added");
            self.stop_node(id, Crash::Process, "a new replica is set up");
        }
    }

    /// A node gets the newer build, and starts with it. `false`: it has it.
    pub(crate) fn upgrade(&mut self, id: NodeId) -> bool {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.build < NEW_BUILD) else { return false };
        node.build = NEW_BUILD;
        note!(self, "op", "n{id} gets a newer build");
        self.coverage.count("nodes upgraded");
        self.stop_node(id, Crash::Process, "upgraded");
        true
    }

    fn choose_command(&mut self, leader: NodeId, status: &GroupStatus) -> Option<(NodeId, Request)> {
        let membership = Arc::clone(&status.membership);
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        let somewhere = self.rng.pick(&nodes).copied()?;
        match self.rng.below(10) {
            0 | 1 => Some((leader, Request::TransferLeadership { to: self.some_member(&membership) })),
            2 => Some((somewhere, Request::Campaign)),
            3 => Some((somewhere, Request::TakeSnapshot)),
            4 => Some((leader, Request::Barrier)),
            _ => {
                let expected = self.rng.chance(500).then_some(status.membership_id);
                if membership.joint().is_some_and(|joint| !joint.leaves_automatically()) {
                    return Some((leader, Request::LeaveJoint { expected }));
                }
                let change = self.choose_change(&membership)?;
                if self.rng.chance(700) {
                    return Some((leader, Request::ChangeMembership { change, expected }));
                }
                // One voter may go at a time: what is left must be able to lose a machine.
                let second =
                    self.choose_change(&membership).filter(|second| !(goes(&change) && goes(second)));
                let changes = [Some(change), second].into_iter().flatten().collect();
                let transition = match self.rng.below(3) {
                    0 => MembershipTransition::JointExplicit,
                    1 => MembershipTransition::JointImplicit,
                    _ => MembershipTransition::Automatic,
                };
                Some((leader, Request::ChangeMembers { changes, transition, expected }))
            }
        }
    }

    fn some_member(&mut self, membership: &Membership) -> Option<ReplicaId> {
        let members: Vec<ReplicaId> = membership.members().map(|(replica, _)| replica).collect();
        if self.rng.chance(500) { None } else { self.rng.pick(&members).copied() }
    }

    fn choose_change(&mut self, membership: &Membership) -> Option<MembershipChange> {
        let free: Vec<NodeId> =
            self.nodes.keys().filter(|id| membership.on_node(**id).is_none()).copied().collect();
        let learners: Vec<ReplicaId> = membership
            .members()
            .filter(|(_, member)| member.role == MemberRole::Learner)
            .map(|(replica, _)| replica)
            .collect();
        let voters: Vec<ReplicaId> = membership.voters().collect();
        if let Some(learner) = self.rng.pick(&learners)
            && self.rng.chance(700)
        {
            return Some(MembershipChange::Promote(*learner));
        }
        let enough = voters.len() as u64 > self.swarm.voters.min(2);
        match self.rng.below(3) {
            0 if enough => self.rng.pick(&voters).map(|voter| MembershipChange::Remove(*voter)),
            1 if enough && self.rng.chance(300) => {
                self.rng.pick(&voters).map(|voter| MembershipChange::Demote(*voter))
            }
            _ => {
                let node = *self.rng.pick(&free)?;
                let (peer_address, client_address) = (address(node), String::new());
                Some(if self.rng.chance(300) {
                    MembershipChange::Join { node, peer_address, client_address }
                } else {
                    MembershipChange::AddLearner { node, peer_address, client_address }
                })
            }
        }
    }

    pub(crate) fn on_operator_answer(
        &mut self,
        group: GroupId,
        answer: Result<Answer, RequestError>,
    ) -> Checked {
        note!(self, "op", "= {group:?} {answer:?}");
        match answer {
            Ok(Answer::MembershipChanged { .. }) => self.coverage.count("memberships changed"),
            Ok(Answer::Transferred { .. }) => self.coverage.count("leadership transferred"),
            Ok(Answer::SnapshotTaken { .. }) => self.coverage.count("snapshots asked for"),
            Ok(Answer::Campaigned | Answer::Applied { .. }) => {}
            Ok(
                answer @ (Answer::SessionOpened { .. }
                | Answer::Queried { .. }
                | Answer::ReadIndex { .. }
                | Answer::LeaderVerified { .. }
                | Answer::TransferAborted { .. }
                | Answer::Reconfigured),
            ) => return Err(Violation::new("answers make sense", format!("{answer:?} to the operator"))),
            Err(
                error @ (RequestError::TooLarge { .. }
                | RequestError::SessionExpired
                | RequestError::AlreadyAcknowledged
                | RequestError::KeyReused),
            ) => return Err(Violation::new("answers make sense", format!("{error:?} to the operator"))),
            Err(_) => self.coverage.count("commands of the operator refused or in doubt"),
        }
        Ok(())
    }

    /// Whether every member of the group has applied everything a leader has committed.
    pub(crate) fn has_converged(&self, group: GroupId) -> bool {
        let Some((_, leader)) = self.a_leader(group) else { return false };
        leader.commit == leader.last.index
            && leader.membership.members().all(|(replica, member)| {
                let status = self.nodes.get(&member.node).and_then(|node| {
                    let running = node.running.as_ref()?;
                    running.host.status(group)
                });
                status.is_some_and(|status| status.replica == replica && status.applied == leader.commit)
            })
            && leader.commit > LogIndex(0)
    }
}
