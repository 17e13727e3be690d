//! Which ids new replicas get: none twice, also where the change that gave one was lost.
//!
//! ```text
//!   counter n of a committed membership, an entry of term b
//!      │ n … n+7   │ n+8 … n+15  │ n+16 … n+23 │           the ids that one leader may draw from it
//!      │ leader b  │ leader b+1  │ leader b+2  │ …
//!                                      ▲ a change of leader b+2 sets the counter here or later, whatever it changes
//! ```
//!
//! A member is fed as soon as its change is appended, so an id is used before it is known to be committed. A later
//! leader has not heard of every change that was lost. That no id is given twice rests on this:
//!
//! * Every change is made to a committed membership, so the memberships that last are a chain; let one follow the
//!   other, appended in the terms b ≤ c.
//! * A change of the first one that was lost is of a term from b on, and below c: its leader had committed an entry
//!   of its own term, which every later leader has, along with what stood before it. So no leader after c lacked the
//!   second one, and the leader of c had one change under way at a time.
//! * Leaders of different terms draw from different blocks. One change draws at most a block, and the second membership
//!   has its counter after the blocks of all terms below c.
//!
//! The ids stay small: one leader gives them in order, and an election between two changes skips a block. Nobody leads
//! in the term of a group's first membership: the block is the first leader's.

use crate::membership::Membership;
use crate::types::{LogId, LogIndex, ReplicaId, Term};

/// The most replicas that one step may add to a group.
pub const NEW_REPLICAS_PER_STEP_MAX: u64 = 8;

/// Where the counter of ids ends. No more replicas can be added then, and everything else still works.
pub(crate) const COUNTER_MAX: u64 = u64::MAX / 2;

/// A group's first membership stands here or before: a leader commits an entry of its own first.
const FIRST: LogIndex = LogIndex(1);

impl Membership {
    /// The id that the next new replica gets from the leader of `term`. `at` is the entry of this membership.
    #[must_use]
    pub const fn next_replica_in(&self, at: LogId, term: Term) -> ReplicaId {
        let nobody_led = (at.index.0 <= FIRST.0) as u64;
        let terms = term.0.saturating_sub(at.term.0).saturating_sub(nobody_led);
        let drawn = terms.saturating_mul(NEW_REPLICAS_PER_STEP_MAX);
        let next = self.next_replica.saturating_add(drawn);
        ReplicaId(if next < COUNTER_MAX { next } else { COUNTER_MAX })
    }

    /// This membership, of the entry `at`, as the leader of `term` changes it.
    pub(crate) fn continued_in(&self, at: LogId, term: Term) -> Self {
        Self { next_replica: self.next_replica_in(at, term).0, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Member;
    use crate::types::NodeId;

    #[test]
    fn leaders_of_different_terms_draw_different_ids() {
        let three = (1..=3).map(|node| Member::voter(NodeId(node), "")).collect();
        let first = Membership::initial(three).unwrap();
        let next = |membership: &Membership, at, term| membership.next_replica_in(at, Term(term)).0;
        // As a host starts a group, and as a test may.
        assert_eq!([2, 3, 5].map(|term| next(&first, LogId::new(1, 1), term)), [4, 12, 28]);
        assert_eq!([1, 2].map(|term| next(&first, LogId::default(), term)), [4, 12]);
        // A membership that a leader appended: it may have lost another change.
        let later = first.continued_in(LogId::new(1, 1), Term(3));
        assert_eq!([3, 4, 9].map(|term| next(&later, LogId::new(3, 7), term)), [12, 20, 60]);
    }

    #[test]
    fn the_counter_ends_without_wrapping() {
        let first = Membership::initial(vec![Member::voter(NodeId(1), "")]).unwrap();
        let last = first.continued_in(LogId::new(1, 9), Term::MAX);
        assert_eq!(last.next_replica(), ReplicaId(COUNTER_MAX));
        assert_eq!(last.validate(), Ok(()));
        assert_eq!(last.continued_in(LogId::new(1, 9), Term::MAX), last);
    }
}
