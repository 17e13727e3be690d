//! Who is in a group and who votes. Pure values: all rules about changing them are here, all
//! rules about *when* are in the leader.

use std::collections::BTreeMap;

use crate::types::{NodeId, ReplicaId};

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberRole {
    /// Counts in elections and commits.
    Voter,
    /// Receives the log, counts for nothing.
    Learner,
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The process that hosts the replica.
    pub node: NodeId,
    /// Voter or learner.
    pub role: MemberRole,
    /// Where peers reach the node (`host:port`), at most [`ADDRESS_BYTES_MAX`] bytes.
    pub peer_address: String,
    /// Where clients reach the node; may be empty.
    pub client_address: String,
}

/// The longest address a member may carry, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 1024;
/// The most members a group may have.
pub const MEMBERS_MAX: usize = 64;

/// The members of a group at one point of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    pub(crate) members: BTreeMap<ReplicaId, Member>,
    /// The id the next new replica gets. Only grows.
    pub(crate) next_replica: u64,
    /// The recovery epoch: raised by a forced recovery, checked in every message.
    pub(crate) epoch: u64,
}

/// One step from a membership to the next: at most one voter differs, so that old and new
/// majorities always overlap (thesis §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MembershipChange {
    /// Adds a replica on `node` that receives the log but does not vote. It gets the next id.
    AddLearner {
        /// The process that will host it; must not host a replica of the group yet.
        node: NodeId,
        /// See [`Member::peer_address`].
        peer_address: String,
        /// See [`Member::client_address`].
        client_address: String,
    },
    /// Makes a caught-up learner a voter.
    Promote(ReplicaId),
    /// Makes a voter a learner.
    Demote(ReplicaId),
    /// Removes a voter or a learner, also the leader itself.
    Remove(ReplicaId),
    /// Changes where a member is reached.
    SetAddresses {
        /// The member.
        replica: ReplicaId,
        /// See [`Member::peer_address`].
        peer_address: String,
        /// See [`Member::client_address`].
        client_address: String,
    },
}

impl Membership {
    /// The first membership of a group: `members` in order get the ids 1, 2, ….
    ///
    /// # Errors
    /// No voter, two members on one node, too many members, or an address that is too long.
    pub fn initial(members: Vec<Member>) -> Result<Self, InvalidMembership> {
        unimplemented!("{members:?}")
    }
    /// Members by id.
    pub fn members(&self) -> impl Iterator<Item = (ReplicaId, &Member)> + '_ {
        self.members.iter().map(|(id, member)| (*id, member))
    }
    /// One member.
    pub fn get(&self, id: ReplicaId) -> Option<&Member> {
        self.members.get(&id)
    }
    /// The ids of the voters, ascending.
    pub fn voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members.iter().filter(|(_, m)| m.role == MemberRole::Voter).map(|(id, _)| *id)
    }
    /// Whether `id` votes.
    pub fn is_voter(&self, id: ReplicaId) -> bool {
        self.get(id).is_some_and(|m| m.role == MemberRole::Voter)
    }
    /// The member that `node` hosts.
    pub fn on_node(&self, node: NodeId) -> Option<(ReplicaId, &Member)> {
        self.members().find(|(_, m)| m.node == node)
    }
    /// The recovery epoch.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }
    /// Whether nobody is known (a replica that has joined and not heard from a leader yet).
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
