//! Two majorities for a while: how a group changes several voters in one step (thesis §4.3).
//!
//! ```text
//!      {1 2 3}  ──enter──►  {1 2 3} and {3 4 5}  ──leave──►  {3 4 5}
//!                           a majority of each must agree:
//!                           elections, commits, reads, CheckQuorum
//! ```
//!
//! * Both steps are entries of the log, each in effect as soon as it is appended; the joint state is left only
//!   when the entry that entered it is committed, by majorities of both sides.
//! * Whoever votes on either side may lead meanwhile. Who is not among the new voters keeps its vote
//!   on the old side: one that is removed stays a member (`leaving`) until the joint state is left,
//!   one that is demoted is a learner already on the new side.
//! * `leaving` ⊆ `outgoing` ⊆ members: everybody who votes can be reached and is fed.

use std::collections::{BTreeMap, BTreeSet};

use crate::membership::{Member, Membership};
use crate::types::ReplicaId;

/// The old side of a joint state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Joint {
    pub(crate) outgoing: BTreeSet<ReplicaId>,
    pub(crate) leaving: BTreeSet<ReplicaId>,
    pub(crate) automatic: bool,
}

impl Joint {
    /// The voters of before, ascending: their majority is needed too.
    pub fn outgoing_voters(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.outgoing.iter().copied()
    }
    /// Those of them that are members only until the joint state is left, ascending.
    pub fn leaving(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.leaving.iter().copied()
    }
    /// Whether the leader leaves the joint state by itself, once it is committed; otherwise somebody
    /// calls `RawNode::leave_joint`.
    #[must_use]
    pub const fn leaves_automatically(&self) -> bool {
        self.automatic
    }

    pub(crate) fn is_valid(&self, members: &BTreeMap<ReplicaId, Member>) -> bool {
        let voted = |id| members.get(id).is_some_and(|member| member.role.votes());
        !self.outgoing.is_empty()
            && self.outgoing.iter().all(|id| members.contains_key(id))
            && self.leaving.iter().all(|id| self.outgoing.contains(id) && voted(id))
    }
}

impl Membership {
    /// Goes from `self` to `target` through the joint state: removed voters stay until it is left.
    pub(crate) fn enter(&self, mut target: Self, automatic: bool) -> Self {
        let outgoing: BTreeSet<ReplicaId> = self.voters().collect();
        let mut leaving = BTreeSet::new();
        for id in &outgoing {
            if let Some(member) = self.get(*id)
                && target.get(*id).is_none()
            {
                target.members.insert(*id, member.clone());
                leaving.insert(*id);
            }
        }
        target.joint = Some(Joint { outgoing, leaving, automatic });
        target
    }

    /// The membership after the joint state; `None` outside of it.
    pub(crate) fn leave(&self) -> Option<Self> {
        let mut next = self.clone();
        let joint = next.joint.take()?;
        next.members.retain(|id, _| !joint.leaving.contains(id));
        Some(next)
    }
}
