//! From a list of members to a forced recovery: who is in the list goes on, everybody else is lost.
//!
//! HashiCorp Raft recovers with a `peers.json` that names all servers that are left. Here one goes on alone, because two
//! logs that were recovered apart could each believe to be the longer one: the list names that one, and the others
//! join it again under new ids.

use quorate_core::{ForcedRecovery, Member, MemberRole, NodeId, ReplicaId};

use crate::offline::GroupInspection;

/// A list of members does not say which recovery is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SurvivorError {
    /// There are others in the list.
    #[error(
        "one node goes on alone: the list must have node {0} and nobody else; add the others afterwards, under new ids"
    )]
    NotAlone(NodeId),
    /// The one in the list is another one.
    #[error("node {0} lives here, and is not in the list")]
    NotHere(NodeId),
    /// The one in the list would not vote.
    #[error("node {0} goes on alone and must be a voter")]
    NoVoter(NodeId),
    /// The node is no member of the group, as far as its disk knows.
    #[error("node {0} is no member of the group: recover another one")]
    NoMember(NodeId),
}

/// What to ask of [`crate::recover_cluster`] when `left` is all that is left of `group` (of [`crate::inspect`]): the node
/// that lives there, alone.
///
/// # Errors
/// See [`SurvivorError`].
pub fn recovery_with(group: &GroupInspection, left: &[Member]) -> Result<ForcedRecovery, SurvivorError> {
    let survivor = group.replica;
    // The node is known by the membership; without that there is nothing to go by.
    let own = group.membership.get(survivor).map(|member| member.node);
    let node = own.ok_or(SurvivorError::NoMember(NodeId(survivor.0)))?;
    let here = left.iter().find(|member| member.node == node).ok_or(SurvivorError::NotHere(node))?;
    if left.len() > 1 {
        return Err(SurvivorError::NotAlone(node));
    }
    if here.role != MemberRole::Voter {
        return Err(SurvivorError::NoVoter(node));
    }
    let others = group.membership.members().map(|(id, _)| id).filter(|id: &ReplicaId| *id != survivor);
    Ok(ForcedRecovery { survivor, lost: others.collect(), ..ForcedRecovery::default() })
}
