//! Who is in a group and who votes. Pure values: all rules about changing them are here, all
//! rules about *when* are in the leader.

use std::collections::{BTreeMap, BTreeSet};

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
        let next_replica = members.len() as u64 + 1;
        let members = (1..).map(ReplicaId).zip(members).collect();
        let membership = Self { members, next_replica, epoch: 0 };
        membership.validate()?;
        Ok(membership)
    }

    /// Whether a group could have these members.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn validate(&self) -> Result<(), InvalidMembership> {
        let rules = [
            (self.voters().next().is_some(), "a group needs a voter"),
            (self.members.len() <= MEMBERS_MAX, "a group has at most 64 members"),
            (self.members.keys().all(|id| 0 < id.0 && id.0 < self.next_replica), "ids come from the counter"),
            (self.next_replica <= u64::MAX / 2, "the counter of ids stays below half of the range"),
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
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(InvalidMembership(rule)),
            None => Ok(()),
        }
    }

    /// The membership after `change`, and the member it concerns. Says nothing about when a change
    /// is allowed: that is the leader's business.
    pub(crate) fn after(&self, change: MembershipChange) -> Result<(Self, ReplicaId), Refusal> {
        let mut next = self.clone();
        let concerned = match change {
            MembershipChange::AddLearner { node, peer_address, client_address } => {
                if let Some((replica, _)) = self.on_node(node) {
                    return Err(Refusal::AlreadyMember(replica));
                }
                let id = ReplicaId(self.next_replica);
                let role = MemberRole::Learner;
                next.members.insert(id, Member { node, role, peer_address, client_address });
                next.next_replica += 1;
                id
            }
            MembershipChange::Promote(id) => next.set_role(id, MemberRole::Voter)?,
            MembershipChange::Demote(id) => next.set_role(id, MemberRole::Learner)?,
            MembershipChange::Remove(id) => {
                next.members.remove(&id).ok_or(Refusal::NotMember)?;
                id
            }
            MembershipChange::SetAddresses { replica, peer_address, client_address } => {
                let member = next.members.get_mut(&replica).ok_or(Refusal::NotMember)?;
                if member.peer_address == peer_address && member.client_address == client_address {
                    return Err(Refusal::NothingToDo);
                }
                (member.peer_address, member.client_address) = (peer_address, client_address);
                replica
            }
        };
        if next.voters().next().is_none() {
            return Err(Refusal::LastVoter);
        }
        next.validate().map_err(|InvalidMembership(what)| Refusal::Invalid(what))?;
        Ok((next, concerned))
    }

    fn set_role(&mut self, id: ReplicaId, role: MemberRole) -> Result<ReplicaId, Refusal> {
        let member = self.members.get_mut(&id).ok_or(Refusal::NotMember)?;
        if member.role == role {
            return Err(Refusal::NothingToDo);
        }
        member.role = role;
        Ok(id)
    }

    /// The id the next new replica gets.
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
    /// The ids of the voters, ascending.
    pub fn voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members.iter().filter(|(_, m)| m.role == MemberRole::Voter).map(|(id, _)| *id)
    }
    /// Whether `id` votes.
    #[must_use]
    pub fn is_voter(&self, id: ReplicaId) -> bool {
        self.get(id).is_some_and(|m| m.role == MemberRole::Voter)
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

/// Why there is no membership after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    AlreadyMember(ReplicaId),
    NotMember,
    NothingToDo,
    LastVoter,
    Invalid(&'static str),
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

    #[test]
    fn ids_are_never_used_twice() {
        let group = Membership::initial(vec![member(1, MemberRole::Voter)]).unwrap();
        let add = |node| MembershipChange::AddLearner {
            node: NodeId(node),
            peer_address: String::new(),
            client_address: String::new(),
        };
        let (group, first) = group.after(add(2)).unwrap();
        let (group, _) = group.after(MembershipChange::Remove(first)).unwrap();
        let (_, second) = group.after(add(2)).unwrap();
        assert_eq!((first, second), (ReplicaId(2), ReplicaId(3)));
    }
}
