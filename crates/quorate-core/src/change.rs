//! What may follow a membership: pure rules. *When* a leader may change the members is in `changing.rs`.
//!
//! ```text
//!   changes, in order ──► the target ──► at most one voter differs? ── yes ──► the target
//!                                             │ no, or asked for
//!                                             └──► the joint state of old and target (joint.rs)
//! ```
//!
//! * A step that is not joint differs in at most one voter, so that old and new majorities always overlap (thesis §4.1).
//! * A change that changes nothing is refused, never a silent no-op.

use crate::membership::{InvalidMembership, Member, MemberRole, Membership};
use crate::replica_ids::NEW_REPLICAS_PER_STEP_MAX;
use crate::types::{NodeId, ReplicaId};

/// One change of the members.
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
    /// Adds a replica on `node` that votes at once, with the next id. It has nothing yet: until it has caught
    /// up, the group may not commit without it. Where that matters, add a learner and promote it.
    AddVoter {
        /// The process that will host it; must not host a replica of the group yet.
        node: NodeId,
        /// See [`Member::peer_address`].
        peer_address: String,
        /// See [`Member::client_address`].
        client_address: String,
    },
    /// Adds a replica on `node` as a learner, with the next id; the leader makes it a voter, in a
    /// change of its own, once it has caught up.
    Join {
        /// The process that will host it; must not host a replica of the group yet.
        node: NodeId,
        /// See [`Member::peer_address`].
        peer_address: String,
        /// See [`Member::client_address`].
        client_address: String,
    },
    /// Adds a replica on `node` that votes but keeps no data, for life (`Config::witness`); with the next id.
    /// Witnesses are fewer than a majority of the voters.
    AddWitness {
        /// The process that will host it; must not host a replica of the group yet.
        node: NodeId,
        /// See [`Member::peer_address`].
        peer_address: String,
        /// See [`Member::client_address`].
        client_address: String,
    },
    /// Makes a caught-up learner a voter.
    Promote(ReplicaId),
    /// Lets the leader make a learner a voter once it has caught up.
    PromoteOnceCaughtUp(ReplicaId),
    /// Makes a voter a learner.
    Demote(ReplicaId),
    /// Removes a member, also the leader itself.
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

/// How a group goes from its members to the next ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MembershipTransition {
    /// In one step where at most one voter differs; otherwise as `JointImplicit`.
    #[default]
    Automatic,
    /// Through the joint state, which the leader leaves by itself once it is committed.
    JointImplicit,
    /// Through the joint state, which lasts until `RawNode::leave_joint`.
    JointExplicit,
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

impl Membership {
    /// The membership after `changes` in their order, and the member each of them concerns. `self`
    /// is not joint. Says nothing about when a change is allowed: that is the leader's business.
    pub(crate) fn after(
        &self,
        changes: Vec<MembershipChange>,
        transition: MembershipTransition,
    ) -> Result<(Self, Vec<ReplicaId>), Refusal> {
        assert!(self.joint.is_none(), "a joint state is left before the members change again");
        let mut target = self.clone();
        let concerned: Vec<ReplicaId> =
            changes.into_iter().map(|change| target.change(self, change)).collect::<Result<_, _>>()?;
        if target == *self {
            return Err(Refusal::NothingToDo);
        }
        if target.next_replica - self.next_replica > NEW_REPLICAS_PER_STEP_MAX {
            return Err(Refusal::Invalid("at most 8 new replicas in one step"));
        }
        if target.incoming_voters().next().is_none() {
            return Err(Refusal::LastVoter);
        }
        let next = match transition {
            MembershipTransition::Automatic if self.voters_apart(&target) <= 1 => target,
            MembershipTransition::Automatic | MembershipTransition::JointImplicit => self.enter(target, true),
            MembershipTransition::JointExplicit => self.enter(target, false),
        };
        next.validate().map_err(|InvalidMembership(what)| Refusal::Invalid(what))?;
        Ok((next, concerned))
    }

    /// How many replicas vote in one of the two memberships only.
    fn voters_apart(&self, other: &Self) -> usize {
        let lost = self.voters().filter(|id| !other.is_voter(*id)).count();
        lost + other.voters().filter(|id| !self.is_voter(*id)).count()
    }

    /// One change on the way from `before`. Nodes of members that leave in the same step are taken.
    fn change(&mut self, before: &Self, change: MembershipChange) -> Result<ReplicaId, Refusal> {
        match change {
            MembershipChange::AddLearner { node, peer_address, client_address } => {
                self.add(before, Member { node, role: MemberRole::Learner, peer_address, client_address })
            }
            MembershipChange::AddVoter { node, peer_address, client_address } => {
                self.add(before, Member { node, role: MemberRole::Voter, peer_address, client_address })
            }
            MembershipChange::Join { node, peer_address, client_address } => {
                let member = Member { node, role: MemberRole::Learner, peer_address, client_address };
                let id = self.add(before, member)?;
                self.joining.insert(id);
                Ok(id)
            }
            MembershipChange::AddWitness { node, peer_address, client_address } => {
                self.add(before, Member { node, role: MemberRole::Witness, peer_address, client_address })
            }
            MembershipChange::Promote(id) => self.set_role(id, MemberRole::Voter),
            MembershipChange::PromoteOnceCaughtUp(id) => {
                let member = self.get(id).ok_or(Refusal::NotMember)?;
                if member.role != MemberRole::Learner || !self.joining.insert(id) {
                    return Err(Refusal::NothingToDo);
                }
                Ok(id)
            }
            MembershipChange::Demote(id) => self.set_role(id, MemberRole::Learner),
            MembershipChange::Remove(id) => {
                self.members.remove(&id).ok_or(Refusal::NotMember)?;
                self.joining.remove(&id);
                Ok(id)
            }
            MembershipChange::SetAddresses { replica, peer_address, client_address } => {
                let member = self.members.get_mut(&replica).ok_or(Refusal::NotMember)?;
                if member.peer_address == peer_address && member.client_address == client_address {
                    return Err(Refusal::NothingToDo);
                }
                (member.peer_address, member.client_address) = (peer_address, client_address);
                Ok(replica)
            }
        }
    }

    fn add(&mut self, before: &Self, member: Member) -> Result<ReplicaId, Refusal> {
        if let Some((replica, _)) = before.on_node(member.node).or_else(|| self.on_node(member.node)) {
            return Err(Refusal::AlreadyMember(replica));
        }
        let id = ReplicaId(self.next_replica);
        self.members.insert(id, member);
        self.next_replica += 1;
        Ok(id)
    }

    fn set_role(&mut self, id: ReplicaId, role: MemberRole) -> Result<ReplicaId, Refusal> {
        let member = self.members.get_mut(&id).ok_or(Refusal::NotMember)?;
        match (member.role, role) {
            (MemberRole::Voter | MemberRole::Witness, MemberRole::Voter)
            | (MemberRole::Learner, MemberRole::Learner) => return Err(Refusal::NothingToDo),
            (MemberRole::Witness, _) | (_, MemberRole::Witness) => {
                return Err(Refusal::Invalid("a witness stays one: remove it"));
            }
            (MemberRole::Voter, MemberRole::Learner) | (MemberRole::Learner, MemberRole::Voter) => {}
        }
        member.role = role;
        self.joining.remove(&id);
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    use MembershipTransition::{Automatic, JointExplicit, JointImplicit};

    fn member(node: u64, role: MemberRole) -> Member {
        Member { node: NodeId(node), role, peer_address: String::new(), client_address: String::new() }
    }

    fn group(voters: u64, learners: u64) -> Membership {
        let role = |node| if node <= voters { MemberRole::Voter } else { MemberRole::Learner };
        Membership::initial((1..=voters + learners).map(|node| member(node, role(node))).collect()).unwrap()
    }

    /// `+4` add voter, `+(4)` add learner, `+(4?)` join, `+[4]` add witness, `^4` promote, `?4` promote once caught up, `v4` demote,
    /// `-4` remove, `@4` move.
    fn parse(word: &str) -> MembershipChange {
        let number = word.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        let (node, id) = (NodeId(number), ReplicaId(number));
        let (peer_address, client_address) = (String::new(), String::new());
        match word.chars().next().unwrap() {
            '+' if word.contains('[') => MembershipChange::AddWitness { node, peer_address, client_address },
            '+' if word.contains('?') => MembershipChange::Join { node, peer_address, client_address },
            '?' => MembershipChange::PromoteOnceCaughtUp(id),
            '+' if word.contains('(') => MembershipChange::AddLearner { node, peer_address, client_address },
            '+' => MembershipChange::AddVoter { node, peer_address, client_address },
            '^' => MembershipChange::Promote(id),
            'v' => MembershipChange::Demote(id),
            '-' => MembershipChange::Remove(id),
            _ => MembershipChange::SetAddresses { replica: id, peer_address: "new:1".into(), client_address },
        }
    }

    /// `1 2 (3) (4?) [5] & 1 3`: voters that stay, learners (`?`: joining), witnesses, and after `&` (`&!` explicit) the old voters.
    fn show(membership: &Membership) -> String {
        let staying = membership.members().filter(|(id, _)| !membership.is_leaving(*id));
        let mut words: Vec<String> = staying
            .map(|(id, member)| match member.role {
                MemberRole::Voter => id.to_string(),
                MemberRole::Witness => format!("[{id}]"),
                MemberRole::Learner if membership.is_joining(id) => format!("({id}?)"),
                MemberRole::Learner => format!("({id})"),
            })
            .collect();
        if let Some(joint) = membership.joint() {
            words.push(if joint.leaves_automatically() { "&" } else { "&!" }.to_owned());
            words.extend(joint.outgoing_voters().map(|id| id.to_string()));
        }
        words.join(" ")
    }

    fn outcome(before: &Membership, changes: &str, transition: MembershipTransition) -> String {
        match before.after(changes.split_whitespace().map(parse).collect(), transition) {
            Ok((next, _)) => match next.leave() {
                None => show(&next),
                Some(left) => format!("{} => {}", show(&next), show(&left)),
            },
            Err(refusal) => format!("{refusal:?}"),
        }
    }

    /// Voters and learners of the group before, the changes, how, and what becomes of it.
    #[test]
    fn a_table_of_changes() {
        #[rustfmt::skip]
        let table = [
            // One voter differs: one step.
            (1, 0, "+2", Automatic, "1 2"),
            (1, 0, "+(2)", Automatic, "1 (2)"),
            (1, 1, "^2", Automatic, "1 2"),
            (2, 0, "-2", Automatic, "1"),
            (2, 0, "v2", Automatic, "1 (2)"),
            (1, 1, "-2", Automatic, "1"),
            (3, 0, "@2", Automatic, "1 2 3"),
            (1, 0, "+(2) +(3)", Automatic, "1 (2) (3)"),
            (3, 2, "-4 -5 +(6)", Automatic, "1 2 3 (6)"),
            (3, 1, "^4 @1 +(5)", Automatic, "1 2 3 4 (5)"),
            (1, 0, "+2 v2", Automatic, "1 (2)"),
            (3, 0, "v3 ^3 +4", Automatic, "1 2 3 4"),
            (1, 1, "?2", Automatic, "1 (2?)"),
            (1, 1, "?2 ^2", Automatic, "1 2"),
            (1, 2, "?2 ?3 -2", Automatic, "1 (3?)"),
            (1, 0, "+(2?)", Automatic, "1 (2?)"),
            (1, 0, "+(2?) ^2 v2", Automatic, "1 (2)"),
            (2, 0, "v2 -2", Automatic, "1"),
            // More than one: joint, and left by itself.
            (1, 0, "+2 +3", Automatic, "1 2 3 & 1 => 1 2 3"),
            (3, 0, "-1 +4", Automatic, "2 3 4 & 1 2 3 => 2 3 4"),
            (3, 1, "-1 ^4", Automatic, "2 3 4 & 1 2 3 => 2 3 4"),
            (3, 1, "v1 ^4", Automatic, "(1) 2 3 4 & 1 2 3 => (1) 2 3 4"),
            (3, 0, "-2 -3", Automatic, "1 & 1 2 3 => 1"),
            (3, 0, "v2 -3", Automatic, "1 (2) & 1 2 3 => 1 (2)"),
            (3, 0, "-1 -2 -3 +4 +5 +6", Automatic, "4 5 6 & 1 2 3 => 4 5 6"),
            (3, 2, "v1 ^4 -5 +(6)", Automatic, "(1) 2 3 4 (6) & 1 2 3 => (1) 2 3 4 (6)"),
            (1, 1, "v1 ^2", Automatic, "(1) 2 & 1 => (1) 2"),
            // Joint because it was asked for.
            (1, 0, "+2", JointImplicit, "1 2 & 1 => 1 2"),
            (1, 0, "+2", JointExplicit, "1 2 &! 1 => 1 2"),
            (1, 0, "+(2)", JointExplicit, "1 (2) &! 1 => 1 (2)"),
            (2, 0, "v2", JointExplicit, "1 (2) &! 1 2 => 1 (2)"),
            (2, 0, "-2", JointImplicit, "1 & 1 2 => 1"),
            (2, 0, "@1", JointImplicit, "1 2 & 1 2 => 1 2"),
            (2, 1, "-3", JointExplicit, "1 2 &! 1 2 => 1 2"),
            // Refused.
            (1, 0, "", Automatic, "NothingToDo"),
            (1, 0, "", JointExplicit, "NothingToDo"),
            (3, 0, "v3 ^3", JointImplicit, "NothingToDo"),
            (1, 0, "^1", Automatic, "NothingToDo"),
            (1, 1, "v2", Automatic, "NothingToDo"),
            (1, 0, "?1", Automatic, "NothingToDo"),
            (1, 1, "?2 ?2", Automatic, "NothingToDo"),
            (1, 0, "?2", Automatic, "NotMember"),
            // Who is being demoted still votes on the old side: it cannot come back in the same step.
            (3, 0, "v2 ?2", JointImplicit, "Invalid(\"only a learner becomes a voter\")"),
            (1, 0, "-1", Automatic, "LastVoter"),
            (1, 1, "v1", Automatic, "LastVoter"),
            (3, 1, "-1 -2 -3", Automatic, "LastVoter"),
            (3, 1, "v1 v2 -3", JointExplicit, "LastVoter"),
            (1, 0, "-2", Automatic, "NotMember"),
            (1, 0, "^2", Automatic, "NotMember"),
            (1, 0, "v2", Automatic, "NotMember"),
            (1, 0, "@2", Automatic, "NotMember"),
            (2, 0, "-2 -2", Automatic, "NotMember"),
            (2, 0, "-2 ^2", Automatic, "NotMember"),
            (2, 0, "+1", Automatic, "AlreadyMember(r1)"),
            (2, 0, "+(1)", Automatic, "AlreadyMember(r1)"),
            (1, 0, "+2 +2", Automatic, "AlreadyMember(r2)"),
            // A node keeps the replica that leaves until it has left.
            (2, 0, "-2 +2", Automatic, "AlreadyMember(r2)"),
            (1, 1, "-2 +(2)", JointExplicit, "AlreadyMember(r2)"),
        ];
        check(&table);
    }

    fn check(table: &[(u64, u64, &str, MembershipTransition, &str)]) {
        for (voters, learners, changes, transition, expected) in table {
            let found = outcome(&group(*voters, *learners), changes, *transition);
            assert_eq!(found, *expected, "{voters}+{learners} {changes} {transition:?}");
        }
    }

    #[test]
    fn a_table_of_changes_with_witnesses() {
        #[rustfmt::skip]
        check(&[
            (2, 0, "+[3]", Automatic, "1 2 [3]"),
            (1, 0, "+[2]", Automatic, "1 [2]"),
            (1, 0, "+2 +[3]", Automatic, "1 2 [3] & 1 => 1 2 [3]"),
            (2, 0, "+[3] ^3", Automatic, "NothingToDo"),
            (2, 0, "+[3] ?3", Automatic, "NothingToDo"),
            (2, 0, "+[3] v3", Automatic, "Invalid(\"a witness stays one: remove it\")"),
            (1, 0, "+[2] +[3]", Automatic, "Invalid(\"witnesses are fewer than a majority of the voters\")"),
            (1, 0, "+[2] -1", Automatic, "Invalid(\"witnesses are fewer than a majority of the voters\")"),
            (3, 0, "+[4] +[5] -2 -3", JointExplicit, "Invalid(\"witnesses are fewer than a majority of the voters\")"),
            (3, 0, "+[4] v2", JointExplicit, "1 (2) 3 [4] &! 1 2 3 => 1 (2) 3 [4]"),
        ]);
    }

    #[test]
    fn a_change_of_the_address_that_is_there_changes_nothing() {
        let (moved, _) = group(1, 0).after(vec![parse("@1")], Automatic).unwrap();
        assert_eq!(moved.after(vec![parse("@1")], Automatic), Err(Refusal::NothingToDo));
    }

    #[test]
    fn ids_are_given_in_order_and_never_used_twice() {
        let (next, concerned) =
            group(2, 0).after(["+7", "-2", "+(8)"].map(parse).to_vec(), Automatic).unwrap();
        assert_eq!(concerned, [3, 2, 4].map(ReplicaId));
        let (left, _) = next.leave().unwrap().after(vec![parse("-3")], Automatic).unwrap();
        let (_, again) = left.after(vec![parse("+(7)")], Automatic).unwrap();
        assert_eq!(again, [ReplicaId(5)]);
    }

    #[test]
    fn more_new_replicas_than_a_leader_has_ids_for_are_refused() {
        let add = |replicas: u64| (0..replicas).map(|node| parse(&format!("+({})", node + 10))).collect();
        let (eight, _) = group(1, 0).after(add(NEW_REPLICAS_PER_STEP_MAX), Automatic).unwrap();
        assert_eq!(eight.members().count(), 9);
        let nine = group(1, 0).after(add(NEW_REPLICAS_PER_STEP_MAX + 1), Automatic);
        assert_eq!(nine, Err(Refusal::Invalid("at most 8 new replicas in one step")));
    }

    #[test]
    fn members_beyond_the_limit_are_refused_also_those_that_still_leave() {
        let full = group(64, 0);
        assert!(matches!(full.after(vec![parse("+99")], Automatic), Err(Refusal::Invalid(_))));
        assert!(matches!(full.after(["-1", "+99"].map(parse).to_vec(), Automatic), Err(Refusal::Invalid(_))));
    }

    fn any_change() -> impl Strategy<Value = String> {
        (prop::sample::select(vec!["+", "+(", "+?", "+[", "?", "^", "v", "-", "@"]), 1_u64..8)
            .prop_map(|(kind, about)| format!("{kind}{about}"))
    }

    proptest! {
        #[test]
        fn every_step_keeps_its_promises(
            voters in 1_u64..5,
            learners in 0_u64..3,
            steps in prop::collection::vec((prop::collection::vec(any_change(), 1..5), 0..3_u8), 1..6),
        ) {
            let mut now = group(voters, learners);
            for (changes, transition) in steps {
                let transition = [Automatic, JointImplicit, JointExplicit][usize::from(transition)];
                let changes = changes.iter().map(|word| parse(word)).collect();
                let Ok((next, _)) = now.after(changes, transition) else { continue };
                prop_assert_eq!(next.validate(), Ok(()));
                prop_assert!(next.next_replica() >= now.next_replica(), "ids only grow");
                let after = match next.joint() {
                    // One step: two majorities cannot miss each other.
                    None => {
                        prop_assert!(now.voters_apart(&next) <= 1);
                        next
                    }
                    Some(joint) => {
                        prop_assert!(joint.outgoing_voters().eq(now.voters()), "the old side decides on");
                        prop_assert_eq!(joint.leaves_automatically(), transition != JointExplicit);
                        let left = next.leave().unwrap();
                        prop_assert!(left.voters().eq(next.incoming_voters()), "and then the new one alone");
                        prop_assert!(left.members().all(|(id, _)| !next.is_leaving(id)));
                        left
                    }
                };
                prop_assert_eq!(after.validate(), Ok(()));
                now = after;
            }
        }
    }
}
