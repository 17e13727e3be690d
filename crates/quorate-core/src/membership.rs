//! Who is in a group and who votes: pure values.
//!
//! * The newest membership in the log is in effect, committed or not (`log.rs`).
//! * Ids come from a counter that only grows: no replica ever gets the id of another (`replica_ids.rs`).
//! * In the joint state (`joint.rs`) two sets of voters decide together.
//!
//! Not here: what may follow what (`change.rs`), and when (`changing.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use crate::joint::Joint;
use crate::replica_ids::COUNTER_MAX;
use crate::types::{NodeId, ReplicaId};

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberRole {
    /// Counts in elections and commits.
    Voter,
    /// Receives the log, counts for nothing.
    Learner,
    /// Votes, and keeps no data: see [`MembershipChange::AddWitness`](crate::MembershipChange).
    Witness,
}

impl MemberRole {
    /// Whether it counts in elections and commits.
    #[must_use]
    pub const fn votes(self) -> bool {
        match self {
            Self::Voter | Self::Witness => true,
            Self::Learner => false,
        }
    }
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The process that hosts the replica.
    pub node: NodeId,
    /// Voter, learner or witness.
    pub role: MemberRole,
    /// Where peers reach the node (`host:port`), at most [`ADDRESS_BYTES_MAX`] bytes.
    pub peer_address: String,
    /// Where clients reach the node; may be empty.
    pub client_address: String,
}

impl Member {
    /// A member that votes, on `node`, which its peers reach at `peer_address`; no client address.
    pub fn voter(node: NodeId, peer_address: impl Into<String>) -> Self {
        let (peer_address, client_address) = (peer_address.into(), String::new());
        Self { node, role: MemberRole::Voter, peer_address, client_address }
    }
}

/// The longest address a member may carry, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 1024;
/// The most members a group may have.
pub const MEMBERS_MAX: usize = 64;

/// The members of a group at one point of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    pub(crate) members: BTreeMap<ReplicaId, Member>,
    /// Every id given so far, and every one that may have been given by a change that was lost, is below. Only grows.
    pub(crate) next_replica: u64,
    /// The recovery epoch: raised by a forced recovery, checked in every message.
    pub(crate) epoch: u64,
    /// The old voters, while old and new ones decide together.
    pub(crate) joint: Option<Joint>,
    /// Learners that the leader promotes once they have caught up (`promotion.rs`).
    pub(crate) joining: BTreeSet<ReplicaId>,
}

impl Membership {
    /// No members: before the first membership of a log. One for all groups.
    pub(crate) fn nobody() -> Arc<Self> {
        static NOBODY: LazyLock<Arc<Membership>> = LazyLock::new(Arc::default);
        Arc::clone(&NOBODY)
    }

    /// The first membership of a group: `members` in order get the ids 1, 2, ….
    ///
    /// # Errors
    /// No voter, two members on one node, too many members, or an address that is too long.
    pub fn initial(members: Vec<Member>) -> Result<Self, InvalidMembership> {
        let next_replica = members.len() as u64 + 1;
        let members = (1..).map(ReplicaId).zip(members).collect();
        let membership = Self { members, next_replica, ..Self::default() };
        membership.validate()?;
        Ok(membership)
    }

    /// Whether a group could have these members.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn validate(&self) -> Result<(), InvalidMembership> {
        let rules = [
            (self.incoming_voters().next().is_some(), "a group needs a voter"),
            (self.members.len() <= MEMBERS_MAX, "a group has at most 64 members"),
            (self.members.keys().all(|id| 0 < id.0 && id.0 < self.next_replica), "ids come from the counter"),
            (self.next_replica <= COUNTER_MAX, "the counter of ids stays below half of the range"),
            (
                self.members.values().map(|member| member.node).collect::<BTreeSet<_>>().len()
                    == self.members.len(),
                "a node hosts at most one member",
            ),
            (
                self.members.values().all(|member| {
                    member.peer_address.len().max(member.client_address.len()) <= ADDRESS_BYTES_MAX
                }),
                "an address has at most 1024 bytes",
            ),
            (
                self.joint.as_ref().is_none_or(|joint| joint.is_valid(&self.members)),
                "who leaves in the joint state has voted, and who has voted is a member",
            ),
            (self.quorums_have_data(), "witnesses are fewer than a majority of the voters"),
            (
                self.joining.iter().all(|id| {
                    !self.is_voter(*id)
                        && self.get(*id).is_some_and(|member| member.role == MemberRole::Learner)
                }),
                "only a learner becomes a voter",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(InvalidMembership(rule)),
            None => Ok(()),
        }
    }

    /// The counter of ids: what new replicas get is never below. What the next one gets depends on who leads: see
    /// [`next_replica_in`](Self::next_replica_in).
    #[must_use]
    pub const fn next_replica(&self) -> ReplicaId {
        ReplicaId(self.next_replica)
    }
    /// Members by id.
    pub fn members(&self) -> impl Iterator<Item = (ReplicaId, &Member)> + '_ {
        self.members.iter().map(|(id, member)| (*id, member))
    }
    /// One member.
    #[must_use]
    pub fn get(&self, id: ReplicaId) -> Option<&Member> {
        self.members.get(&id)
    }
    /// The ids of all who vote, ascending; in the joint state those of both sides, each once.
    pub fn voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members.keys().copied().filter(|id| self.is_voter(*id))
    }
    /// The voters that stay: outside of the joint state all of them, in it the new ones.
    pub fn incoming_voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members
            .iter()
            .filter(|(id, member)| member.role.votes() && !self.is_leaving(**id))
            .map(|(id, _)| *id)
    }
    /// Whether `id` votes, on either side of the joint state.
    #[must_use]
    pub fn is_voter(&self, id: ReplicaId) -> bool {
        self.get(id).is_some_and(|member| member.role.votes())
            || self.joint.as_ref().is_some_and(|joint| joint.outgoing.contains(&id))
    }
    /// Whether `id` is a member only until the joint state is left.
    #[must_use]
    pub fn is_leaving(&self, id: ReplicaId) -> bool {
        self.joint.as_ref().is_some_and(|joint| joint.leaving.contains(&id))
    }
    /// Whether leadership may be handed to `id`: a voter with data that stays one.
    #[must_use]
    pub fn may_lead(&self, id: ReplicaId) -> bool {
        self.get(id).is_some_and(|member| member.role == MemberRole::Voter) && !self.is_leaving(id)
    }
    /// Whether `id` is a learner that the leader promotes once it has caught up.
    #[must_use]
    pub fn is_joining(&self, id: ReplicaId) -> bool {
        self.joining.contains(&id)
    }
    /// The old side, while old and new voters decide together.
    #[must_use]
    pub const fn joint(&self) -> Option<&Joint> {
        self.joint.as_ref()
    }
    /// The member that `node` hosts.
    #[must_use]
    pub fn on_node(&self, node: NodeId) -> Option<(ReplicaId, &Member)> {
        self.members().find(|(_, m)| m.node == node)
    }
    /// The recovery epoch.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }
    /// Whether nobody is known (a replica that has joined and not heard from a leader yet).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// What is wrong with a membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMembership(pub &'static str);

impl std::fmt::Display for InvalidMembership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "invalid membership: {}", self.0)
    }
}
impl std::error::Error for InvalidMembership {}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u64, role: MemberRole) -> Member {
        Member { node: NodeId(node), role, peer_address: "host:1".to_owned(), client_address: String::new() }
    }

    #[test]
    fn what_could_not_be_a_group_is_refused() {
        let refused = |members| Membership::initial(members).unwrap_err().0;
        assert!(refused(Vec::new()).contains("voter"));
        assert!(refused(vec![member(1, MemberRole::Learner)]).contains("voter"));
        assert!(refused(vec![member(1, MemberRole::Voter), member(1, MemberRole::Voter)]).contains("node"));
        assert!(refused((1..=65).map(|node| member(node, MemberRole::Voter)).collect()).contains("64"));
        let long = Member { peer_address: "x".repeat(1025), ..member(1, MemberRole::Voter) };
        assert!(refused(vec![long]).contains("1024"));
    }
}
