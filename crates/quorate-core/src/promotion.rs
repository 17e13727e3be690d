//! Learners that are to vote: the leader promotes them once they have caught up (thesis §4.2.1).
//!
//! ```text
//!   round 1: all that was in the log when it began   ──────────────────────► too slow
//!   round 2: what was written during round 1         ─────────► too slow
//!   round 3: what was written during round 2         ──► within an election timeout: promoted
//! ```
//!
//! * A voter that cannot keep up could stop the group; a round that ends within an election timeout shows that
//!   the wait for it would be shorter than one.
//! * That a learner is to vote stands in the membership, so that every leader knows; the rounds are the leader's
//!   own, and a new leader counts anew.
//! * A promotion is a change like any other: it waits for the one before, and comes one at a time.

use crate::change::{MembershipChange, MembershipTransition};
use crate::leader::Leader;
use crate::progress::{Progress, State};
use crate::shared::Shared;
use crate::types::{LogIndex, MonoTime, ReplicaId};

/// A round of catching up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CatchUp {
    pub(crate) round: u32,
    /// What was in the log when it began.
    until: LogIndex,
    began: MonoTime,
}

impl Leader {
    /// Promotes a learner that has caught up, if a change may be made now.
    pub(crate) fn maybe_promote(&mut self, shared: &mut Shared) {
        if shared.membership().joining.is_empty() {
            return;
        }
        let joining = shared.membership().joining.clone();
        let mut ready = joining.into_iter().filter(|id| self.has_caught_up(shared, *id));
        let Some(learner) = ready.next() else { return };
        if let Ok((_, membership)) = self.changeable(shared, None)
            && membership.joint().is_none()
            && let Ok((next, _)) =
                membership.after(vec![MembershipChange::Promote(learner)], MembershipTransition::Automatic)
        {
            self.append_membership(shared, next);
        }
    }

    /// Whether `learner` has just ended a round in time; moves on to the next round.
    fn has_caught_up(&mut self, shared: &Shared, learner: ReplicaId) -> bool {
        let (now, timeout) = (shared.now, shared.config.election_timeout);
        let Some(progress) = self.progress.get_mut(learner) else { return false };
        let last = shared.log.last_index();
        let first = CatchUp { round: 1, until: last, began: now };
        let round = *progress.catch_up.get_or_insert(first);
        if progress.matched < round.until || !streams(progress) {
            return false;
        }
        progress.catch_up = Some(CatchUp { round: round.round.saturating_add(1), until: last, began: now });
        progress.is_active(now, timeout) && now.since(round.began) < timeout
    }
}

const fn streams(progress: &Progress) -> bool {
    matches!(progress.state, State::Replicate { .. })
}
