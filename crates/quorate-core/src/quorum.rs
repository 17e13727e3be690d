//! The arithmetic of majorities, and nothing else: pure functions over what each voter has.
//!
//! * A majority of n is n / 2 + 1: for an even n, half is not enough.
//! * What a majority has reached is the majority-th highest of the voters' values. The same rule
//!   gives the committed index, the confirmed read round and the time a quorum was last heard.
//! * In the joint state a majority of each side is needed: reached is the lower of the two, an
//!   election is won when both are and lost when one is. Everything that counts asks a
//!   [`Membership`] here, so that nothing can forget the other side.

use std::collections::BTreeMap;

use crate::membership::{MEMBERS_MAX, Membership};
use crate::planted::planted;
use crate::types::ReplicaId;

/// A group of so many voters is counted without clearing room for the largest.
const FEW: usize = 8;

/// How many of `voters` are a majority.
pub(crate) const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// As `majority`, where it decides.
fn needed(voters: usize) -> usize {
    if planted("half_is_a_majority") { voters.div_ceil(2) } else { majority(voters) }
}

/// The highest value that a majority has reached; `None` without voters. Room for `N` voters.
fn reached_among<T: Ord + Copy + Default, const N: usize>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut sorted = [T::default(); N];
    let mut count = 0;
    values.for_each(|value| {
        // Highest first. Voters are few and mostly equal: nothing sorts them faster.
        if count == N {
            return;
        }
        let mut place = count;
        while place > 0 && sorted[place - 1] < value && !planted("quorum_not_sorted") {
            sorted[place] = sorted[place - 1];
            place -= 1;
        }
        sorted[place] = value;
        count += 1;
    });
    (count > 0).then(|| sorted[needed(count) - 1])
}

/// The highest value that a majority of at most `voters_max` voters has reached; `None` without voters.
pub(crate) fn reached_by_majority<T: Ord + Copy + Default>(
    voters_max: usize,
    values: impl Iterator<Item = T>,
) -> Option<T> {
    if voters_max <= FEW { reached_among::<T, FEW>(values) } else { reached_among::<T, MEMBERS_MAX>(values) }
}

/// In which of the two majorities of the joint state a member counts; outside of it only in the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Votes {
    pub(crate) incoming: bool,
    pub(crate) outgoing: bool,
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    Won,
    /// A majority refused, or can no longer be reached.
    Lost,
    Open,
}

impl Tally {
    /// What two majorities decide together.
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Lost, _) | (_, Self::Lost) => Self::Lost,
            (Self::Won, Self::Won) => Self::Won,
            (Self::Open, _) | (_, Self::Open) => Self::Open,
        }
    }
}

/// Counts the votes of `voters`; votes of anybody else do not count.
fn tally(voters: impl Iterator<Item = ReplicaId>, votes: &BTreeMap<ReplicaId, bool>) -> Tally {
    let (mut all, mut granted, mut refused) = (0, 0, 0);
    for voter in voters {
        all += 1;
        match votes.get(&voter) {
            Some(true) => granted += 1,
            Some(false) => refused += 1,
            None => {}
        }
    }
    if all > 0 && granted >= needed(all) {
        Tally::Won
    } else if all - refused < majority(all) {
        Tally::Lost
    } else {
        Tally::Open
    }
}

impl Membership {
    /// The highest value that a quorum has reached; `None` without voters.
    pub(crate) fn reached_by_quorum<T: Ord + Copy + Default>(
        &self,
        of: impl Fn(ReplicaId) -> T,
    ) -> Option<T> {
        let incoming = reached_by_majority(MEMBERS_MAX, self.incoming_voters().map(&of))?;
        match self.joint() {
            None => Some(incoming),
            Some(_) if planted("joint_new_voters_only") => Some(incoming),
            Some(joint) => {
                let outgoing = reached_by_majority(MEMBERS_MAX, joint.outgoing_voters().map(&of))?;
                Some(incoming.min(outgoing))
            }
        }
    }

    /// Where `id` counts.
    pub(crate) fn votes(&self, id: ReplicaId) -> Votes {
        let votes = self.get(id).is_some_and(|member| member.role.votes());
        let incoming = votes && !self.is_leaving(id);
        Votes { incoming, outgoing: self.joint().is_some_and(|joint| joint.outgoing.contains(&id)) }
    }

    /// How an election stands among all who vote.
    pub(crate) fn tally(&self, votes: &BTreeMap<ReplicaId, bool>) -> Tally {
        let incoming = tally(self.incoming_voters(), votes);
        match self.joint() {
            None => incoming,
            Some(_) if planted("joint_new_voters_only") => incoming,
            Some(joint) => incoming.and(tally(joint.outgoing_voters(), votes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::joint::Joint;
    use crate::membership::{Member, MemberRole};
    use crate::types::NodeId;

    proptest! {
        #[test]
        fn a_value_is_reached_iff_more_than_half_have_it(values in prop::collection::vec(0_u64..6, 1..=7)) {
            let by_counting = (0..6)
                .filter(|candidate| values.iter().filter(|value| *value >= candidate).count() * 2 > values.len())
                .max()
                .unwrap();
            prop_assert_eq!(reached_by_majority(values.len(), values.iter().copied()), Some(by_counting));
        }

        #[test]
        fn an_election_is_decided_iff_no_further_vote_can_change_it(
            votes in prop::collection::vec(prop::option::of(any::<bool>()), 1..=7),
        ) {
            let voters = (1..=votes.len() as u64).map(ReplicaId);
            let cast = voters.clone().zip(&votes).filter_map(|(id, vote)| vote.map(|vote| (id, vote))).collect();
            let yes = votes.iter().filter(|vote| **vote == Some(true)).count();
            let open = votes.iter().filter(|vote| vote.is_none()).count();
            let expected = if yes * 2 > votes.len() {
                Tally::Won
            } else if (yes + open) * 2 > votes.len() {
                Tally::Open
            } else {
                Tally::Lost
            };
            prop_assert_eq!(tally(voters, &cast), expected);
        }
    }

    fn ids(of: &[u64]) -> BTreeSet<ReplicaId> {
        of.iter().copied().map(ReplicaId).collect()
    }

    /// A membership whose incoming and outgoing voters are these; no outgoing ones: not joint.
    fn joint(incoming: &BTreeSet<ReplicaId>, outgoing: &BTreeSet<ReplicaId>) -> Membership {
        let member = |id: &ReplicaId| Member {
            node: NodeId(id.0),
            role: MemberRole::Voter,
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = incoming.union(outgoing).map(|id| (*id, member(id))).collect();
        let leaving = outgoing.difference(incoming).copied().collect();
        let joint = Joint { outgoing: outgoing.clone(), leaving, automatic: true };
        let joint = (!outgoing.is_empty()).then_some(joint);
        Membership { members, next_replica: 100, joint, ..Membership::default() }
    }

    /// Whether more than half of `voters` satisfy `test`.
    fn most(voters: &BTreeSet<ReplicaId>, test: impl Fn(ReplicaId) -> bool) -> bool {
        voters.iter().filter(|id| test(**id)).count() * 2 > voters.len()
    }

    fn any_voters(at_least: usize) -> impl Strategy<Value = BTreeSet<ReplicaId>> {
        prop::collection::btree_set((1_u64..9).prop_map(ReplicaId), at_least..=7)
    }

    proptest! {
        #[test]
        fn a_quorum_is_a_majority_of_each_side(
            incoming in any_voters(1),
            outgoing in any_voters(0),
            values in prop::collection::vec(0_u64..6, 9),
            votes in prop::collection::vec(prop::option::of(any::<bool>()), 9),
        ) {
            let membership = joint(&incoming, &outgoing);
            prop_assert_eq!(membership.validate(), Ok(()));
            let sides = |test: &dyn Fn(ReplicaId) -> bool| {
                most(&incoming, test) && (outgoing.is_empty() || most(&outgoing, test))
            };
            let at = |id: ReplicaId| usize::try_from(id.0).unwrap();
            let by_counting = (0..6).filter(|value| sides(&|id| values[at(id)] >= *value)).max();
            prop_assert_eq!(membership.reached_by_quorum(|id| values[at(id)]), by_counting);

            let cast = (1..9).map(ReplicaId).filter_map(|id| votes[at(id)].map(|vote| (id, vote))).collect();
            let expected = if sides(&|id| votes[at(id)] == Some(true)) {
                Tally::Won
            } else if sides(&|id| votes[at(id)] != Some(false)) {
                Tally::Open
            } else {
                Tally::Lost
            };
            prop_assert_eq!(membership.tally(&cast), expected);
        }

        /// Why the joint state is safe: no two quorums of it, and none of it and either side, miss each other.
        #[test]
        fn quorums_of_the_joint_state_meet_those_of_both_sides(
            incoming in any_voters(1),
            outgoing in any_voters(1),
            yes in prop::collection::btree_set((1_u64..9).prop_map(ReplicaId), 0..=8),
        ) {
            let granted = yes.iter().map(|id| (*id, true)).collect();
            let rest = (1..9).map(ReplicaId).filter(|id| !yes.contains(id)).map(|id| (id, true)).collect();
            let none = BTreeSet::new();
            if joint(&incoming, &outgoing).tally(&granted) == Tally::Won {
                for other in [joint(&incoming, &none), joint(&outgoing, &none), joint(&incoming, &outgoing)] {
                    prop_assert_ne!(other.tally(&rest), Tally::Won);
                }
            }
        }
    }

    /// Incoming, outgoing, who has reached what, and what is committed.
    #[test]
    fn a_table_of_commits() {
        type Voters = &'static [u64];
        type Reached = &'static [(u64, u64)];
        #[rustfmt::skip]
        let table: [(Voters, Voters, Reached, u64); 22] = [
            // One side. Who is not named has reached nothing.
            (&[1], &[], &[], 0),
            (&[1], &[], &[(1, 12)], 12),
            (&[1, 2], &[], &[(1, 12)], 0),
            (&[1, 2], &[], &[(1, 12), (2, 5)], 5),
            (&[1, 2, 3], &[], &[(1, 12)], 0),
            (&[1, 2, 3], &[], &[(1, 12), (2, 5)], 5),
            (&[1, 2, 3], &[], &[(1, 12), (2, 5), (3, 6)], 6),
            (&[1, 2, 3, 4], &[], &[(1, 9), (2, 9)], 0),
            (&[1, 2, 3, 4, 5], &[], &[(1, 101), (2, 102), (3, 103)], 101),
            (&[1, 2, 3, 4, 5], &[], &[(1, 101), (2, 104), (3, 103), (4, 103)], 103),
            // Learners and strangers (7) count for nothing.
            (&[1, 2, 3], &[], &[(7, 12), (1, 12)], 0),
            // Both sides alike.
            (&[1, 2, 3], &[1, 2, 3], &[(1, 2), (2, 3)], 2),
            // Nothing in common: the slower side decides.
            (&[1], &[2], &[(1, 100)], 0),
            (&[1], &[2], &[(1, 100), (2, 50)], 50),
            (&[1, 2, 3], &[4, 5, 6], &[(1, 9), (2, 9), (3, 9)], 0),
            (&[1, 2, 3], &[4, 5, 6], &[(1, 9), (2, 9), (4, 7), (5, 8)], 7),
            // One voter replaced: whoever is on both sides counts on both.
            (&[2, 3, 4], &[1, 2, 3], &[(2, 10), (3, 10)], 10),
            (&[2, 3, 4], &[1, 2, 3], &[(1, 10), (2, 10)], 0),
            (&[2, 3, 4], &[1, 2, 3], &[(1, 10), (4, 10), (3, 6)], 6),
            // Sizes that differ.
            (&[1, 2, 3, 4, 5], &[1], &[(1, 10), (2, 10)], 0),
            (&[1, 2, 3, 4, 5], &[1], &[(1, 10), (2, 9), (3, 8)], 8),
            (&[1], &[1, 2, 3], &[(1, 10)], 0),
        ];
        for (incoming, outgoing, acked, expected) in table {
            let reached =
                |id: ReplicaId| acked.iter().find(|(of, _)| *of == id.0).map_or(0, |(_, value)| *value);
            let found = joint(&ids(incoming), &ids(outgoing)).reached_by_quorum(reached);
            assert_eq!(found, Some(expected), "{incoming:?} {outgoing:?} {acked:?}");
        }
    }

    /// Incoming, outgoing, yes, no, and how the election stands.
    #[test]
    fn a_table_of_elections() {
        use Tally::{Lost, Open, Won};
        type Voters = &'static [u64];
        #[rustfmt::skip]
        let table: [(Voters, Voters, Voters, Voters, Tally); 24] = [
            (&[1], &[], &[], &[], Open),
            (&[1], &[], &[1], &[], Won),
            (&[1], &[], &[], &[1], Lost),
            (&[1, 2], &[], &[1], &[], Open),
            (&[1, 2], &[], &[], &[2], Lost),
            (&[1, 2], &[], &[1, 2], &[], Won),
            (&[1, 2, 3], &[], &[1], &[2], Open),
            (&[1, 2, 3], &[], &[1, 3], &[2], Won),
            (&[1, 2, 3], &[], &[], &[1, 2], Lost),
            (&[1, 2, 3, 4], &[], &[1, 2], &[3], Open),
            (&[1, 2, 3, 4], &[], &[1, 2], &[3, 4], Lost),
            (&[1, 2, 3], &[], &[1, 7, 8], &[], Open),
            // Joint: both must be won, one lost is enough.
            (&[1], &[2], &[1], &[], Open),
            (&[1], &[2], &[1, 2], &[], Won),
            (&[1], &[2], &[1], &[2], Lost),
            (&[1], &[2], &[], &[2], Lost),
            (&[1, 2, 3], &[4, 5, 6], &[1, 2, 3], &[], Open),
            (&[1, 2, 3], &[4, 5, 6], &[1, 2, 3, 4], &[5], Open),
            (&[1, 2, 3], &[4, 5, 6], &[1, 2, 4, 6], &[3, 5], Won),
            (&[1, 2, 3], &[4, 5, 6], &[1, 2, 3], &[4, 5], Lost),
            (&[2, 3, 4], &[1, 2, 3], &[2, 3], &[], Won),
            (&[2, 3, 4], &[1, 2, 3], &[1, 2], &[3], Open),
            (&[2, 3, 4], &[1, 2, 3], &[1, 2], &[3, 4], Lost),
            (&[1], &[1, 2, 3], &[1], &[2, 3], Lost),
        ];
        for (incoming, outgoing, yes, no, expected) in table {
            let cast = yes.iter().map(|id| (ReplicaId(*id), true));
            let votes = cast.chain(no.iter().map(|id| (ReplicaId(*id), false))).collect();
            let found = joint(&ids(incoming), &ids(outgoing)).tally(&votes);
            assert_eq!(found, expected, "{incoming:?} {outgoing:?} {yes:?} {no:?}");
        }
    }

    #[test]
    fn a_voter_that_is_demoted_counts_on_the_old_side_only() {
        let mut membership = joint(&ids(&[1, 2, 3]), &ids(&[1, 2, 3]));
        membership.members.get_mut(&ReplicaId(3)).unwrap().role = MemberRole::Learner;
        let reached = |has: &'static [u64]| membership.reached_by_quorum(|id| u64::from(has.contains(&id.0)));
        assert_eq!((reached(&[1, 3]), reached(&[1, 2])), (Some(0), Some(1)));
        assert!(membership.is_voter(ReplicaId(3)) && !membership.may_lead(ReplicaId(3)));
    }

    #[test]
    fn strangers_do_not_count() {
        let votes = BTreeMap::from([(ReplicaId(7), true), (ReplicaId(8), true), (ReplicaId(1), true)]);
        assert_eq!(tally([1, 2, 3].into_iter().map(ReplicaId), &votes), Tally::Open);
    }

    #[test]
    fn without_voters_nothing_is_reached_and_nobody_wins() {
        assert_eq!(reached_by_majority::<u64>(0, std::iter::empty()), None);
        assert_eq!(tally(std::iter::empty(), &BTreeMap::new()), Tally::Lost);
    }
}
