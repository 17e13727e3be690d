//! The arithmetic of majorities, and nothing else: pure functions over what each voter has.
//!
//! * A majority of n is n / 2 + 1: for an even n, half is not enough.
//! * What a majority has reached is the majority-th highest of the voters' values. The same rule
//!   gives the committed index, the confirmed read round and the time a quorum was last heard.

use std::collections::BTreeMap;

use crate::types::ReplicaId;

/// How many of `voters` are a majority.
pub(crate) const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest value that a majority has reached; `None` without voters. Reorders `values`.
pub(crate) fn reached_by_majority<T: Ord + Copy>(values: &mut [T]) -> Option<T> {
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(majority(values.len()) - 1).copied()
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    Won,
    /// A majority refused, or can no longer be reached.
    Lost,
    Open,
}

/// Counts the votes of `voters`; votes of anybody else do not count.
pub(crate) fn tally(voters: impl Iterator<Item = ReplicaId>, votes: &BTreeMap<ReplicaId, bool>) -> Tally {
    let (mut all, mut granted, mut refused) = (0, 0, 0);
    for voter in voters {
        all += 1;
        match votes.get(&voter) {
            Some(true) => granted += 1,
            Some(false) => refused += 1,
            None => {}
        }
    }
    if all > 0 && granted >= majority(all) {
        Tally::Won
    } else if all - refused < majority(all) {
        Tally::Lost
    } else {
        Tally::Open
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_is_reached_iff_more_than_half_have_it(values in prop::collection::vec(0_u64..6, 1..=7)) {
            let by_counting = (0..6)
                .filter(|candidate| values.iter().filter(|value| *value >= candidate).count() * 2 > values.len())
                .max()
                .unwrap();
            prop_assert_eq!(reached_by_majority(&mut values.clone()), Some(by_counting));
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

    #[test]
    fn strangers_do_not_count() {
        let votes = BTreeMap::from([(ReplicaId(7), true), (ReplicaId(8), true), (ReplicaId(1), true)]);
        assert_eq!(tally([1, 2, 3].into_iter().map(ReplicaId), &votes), Tally::Open);
    }

    #[test]
    fn without_voters_nothing_is_reached_and_nobody_wins() {
        assert_eq!(reached_by_majority::<u64>(&mut []), None);
        assert_eq!(tally(std::iter::empty(), &BTreeMap::new()), Tally::Lost);
    }
}
