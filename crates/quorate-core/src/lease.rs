//! The leader's lease: reads at the commit index without asking anybody, for as long as no other
//! replica can have become leader.
//!
//! ```text
//!   leader     begins round 7 at s ────────────── serves reads ──────────────┤ s + T - drift
//!                    │ heartbeats carry 7                  ▲ a quorum answered 7
//!   voter            └──► hears it at h >= s ──────── votes for nobody ──────────────┤ h + T
//! ```
//!
//! * A voter that heard a leader votes for nobody for T by its own clock, however it came to doubt that
//!   leader; `lease_drift_max` covers what the two clocks differ by over T. A later leader needs a vote
//!   from every majority, so none exists before the lease is over.
//! * The lease runs from when the leader *began* the answered round, by its own clock. No peer's
//!   clock is ever believed. Times are noted when the message is made, which is before it leaves.
//! * A voter that restarts may have promised before: it keeps quiet for T (`Shared::new`). One with the
//!   lease switched on neither campaigns on request nor forgets its leader while it promises.
//! * A transfer breaks the promises on purpose. There is no lease from when it starts, and none any more in a
//!   term in which somebody was told to campaign: that message may arrive late.
//! * No lease before an entry of the own term is committed, none while members change, none at rest.
//!
//! Not here: who gets a vote (`RawNode::answer_vote`), rounds for reads without a lease (`read.rs`).

use std::collections::VecDeque;
use std::time::Duration;

use crate::leader::Leader;
use crate::planted::planted;
use crate::shared::Shared;
use crate::types::MonoTime;

/// How many beginnings of rounds are remembered of one election timeout.
const BEGINNINGS_MAX: u32 = 64;

/// When the rounds of the last election timeout began, and what breaks the lease for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    /// Rounds and when they began, oldest first; not every round is in it.
    began: VecDeque<(u64, MonoTime)>,
    /// Somebody was told to campaign in this term.
    broken: bool,
}

impl Lease {
    /// The round `number` begins. Rounds that follow each other closely share an entry, so that
    /// the list is bounded: the earlier time is the safe one.
    pub(crate) fn begin(&mut self, number: u64, now: MonoTime, timeout: Duration) {
        while self.began.front().is_some_and(|(_, began)| now.since(*began) > timeout) {
            self.began.pop_front();
        }
        let news = |(_, began): &(u64, MonoTime)| now.since(*began) >= timeout / BEGINNINGS_MAX;
        if self.began.back().is_none_or(news) {
            self.began.push_back((number, now));
        }
    }

    /// When the round `number` began, or some time before; `None` when that is too long ago to matter.
    pub(crate) fn began(&self, number: u64) -> Option<MonoTime> {
        let after = self.began.partition_point(|(round, _)| *round <= number);
        self.began.get(after.checked_sub(1)?).map(|(_, began)| *began)
    }

    /// Somebody is told to campaign.
    pub(crate) const fn break_for_good(&mut self) {
        self.broken = true;
    }
}

impl Leader {
    /// A round that only carries the lease on begins: with every heartbeat, while leases are on.
    pub(crate) fn maybe_begin_lease_round(&mut self, shared: &Shared) {
        if shared.config.leader_lease {
            let number = self.rounds.begin();
            self.note_round(shared, number);
        }
    }

    /// Remembers when the round `number` began.
    pub(crate) fn note_round(&mut self, shared: &Shared, number: u64) {
        if shared.config.leader_lease {
            self.lease.begin(number, shared.now, shared.config.election_timeout);
        }
    }

    /// Until when reads may be served without a round, if they may now.
    pub(crate) fn lease_until(&self, shared: &Shared) -> Option<MonoTime> {
        let config = &shared.config;
        let (membership_id, membership) = shared.log.membership();
        let changing = membership_id.index > shared.log.commit() || membership.joint().is_some();
        let dead = !config.leader_lease
            || ((self.lease.broken || self.transfer.is_some()) && !planted("lease_kept_in_transfer"))
            || changing
            || self.is_resting();
        if dead || !Self::own_term_committed(shared) {
            return None;
        }
        let began =
            self.quorum(shared, Some(shared.now), |progress| self.lease.began(progress.round_acked))?;
        let until = began + config.election_timeout.saturating_sub(config.lease_drift_max);
        (until > shared.now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(640);

    fn at(millis: u64) -> MonoTime {
        MonoTime::from_millis(millis)
    }

    #[test]
    fn a_round_that_is_not_listed_counts_from_an_earlier_beginning() {
        let mut lease = Lease::default();
        lease.begin(1, at(100), TIMEOUT);
        lease.begin(2, at(105), TIMEOUT);
        lease.begin(5, at(200), TIMEOUT);
        assert_eq!(
            [0, 1, 2, 4, 5, 9].map(|round| lease.began(round)),
            [None, Some(at(100)), Some(at(100)), Some(at(100)), Some(at(200)), Some(at(200))]
        );
    }

    #[test]
    fn what_began_an_election_timeout_ago_is_forgotten_and_the_list_is_bounded() {
        let mut lease = Lease::default();
        for millis in 0..100_000 {
            lease.begin(millis, at(millis), TIMEOUT);
            assert!(lease.began.len() <= BEGINNINGS_MAX as usize + 2);
        }
        assert_eq!(lease.began(50_000), None);
        assert!(lease.began(99_999).is_some());
    }
}
