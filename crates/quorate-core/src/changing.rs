//! When a leader changes the members, and what follows from it. Which membership may follow which is in
//! `change.rs`; this is an `impl` of [`Leader`].
//!
//! ```text
//!   propose_changes ─► appended: in effect ─► committed ─┬─ not joint: done
//!                                                        ├─ joint, automatic: the leader appends the end of it
//!                                                        └─ joint, explicit: leave_joint does
//! ```
//!
//! * One change at a time, and none before an entry of the leader's own term is committed (Ongaro 2015).
//! * Every leader that finds a committed joint state to be left automatically leaves it: also one that inherited
//!   it, or that will no longer be a member. During a transfer it waits, so that the target can catch up.

use std::sync::Arc;

use crate::change::{MembershipChange, MembershipTransition, Refusal};
use crate::entry::EntryPayload;
use crate::leader::Leader;
use crate::membership::{MemberRole, Membership};
use crate::planted::planted;
use crate::progress::Progress;
use crate::raw_node::ChangeError;
use crate::shared::Shared;
use crate::types::{LogId, MonoTime, ReplicaId};

impl Leader {
    /// One progress per other member. Members that left are kept until they know.
    pub(crate) fn sync_members(&mut self, shared: &Shared) {
        let next = shared.log.last_index().next();
        let (membership_id, membership) = shared.log.membership();
        for (id, member) in membership.members().filter(|(id, _)| *id != shared.id()) {
            let witness = member.role == MemberRole::Witness;
            self.progress.add(id, || Progress { witness, ..Progress::new(shared.now, next) });
        }
        for (id, progress) in self.progress.iter_mut() {
            let left = membership.get(id).is_none();
            if !membership.is_joining(id) {
                progress.catch_up = None;
            }
            progress.departing = left.then(|| progress.departing.unwrap_or(membership_id.index));
            progress.votes = membership.votes(id);
        }
        self.votes = membership.votes(shared.id());
        self.witnesses = self.progress.iter().any(|(_, progress)| progress.witness);
        self.voters = membership.incoming_voters().count();
        self.joint = membership.joint().is_some();
        *self.quorum_until = MonoTime(0);
    }

    pub(crate) fn propose_changes(
        &mut self,
        shared: &mut Shared,
        changes: Vec<MembershipChange>,
        transition: MembershipTransition,
        expected: Option<LogId>,
    ) -> Result<(LogId, Vec<ReplicaId>), ChangeError> {
        let (membership_id, membership) = self.changeable(shared, expected)?;
        if membership.joint().is_some() {
            return Err(ChangeError::Joint { membership_id });
        }
        let promoted: Vec<ReplicaId> = changes
            .iter()
            .filter_map(|change| match change {
                MembershipChange::Promote(learner) => Some(*learner),
                MembershipChange::AddLearner { .. }
                | MembershipChange::AddVoter { .. }
                | MembershipChange::AddWitness { .. }
                | MembershipChange::Join { .. }
                | MembershipChange::PromoteOnceCaughtUp(_)
                | MembershipChange::Demote(_)
                | MembershipChange::Remove(_)
                | MembershipChange::SetAddresses { .. } => None,
            })
            .collect();
        let (next, concerned) = membership.after(changes, transition).map_err(refused)?;
        for learner in promoted {
            self.refuse_behind(shared, learner)?;
        }
        Ok((self.append_membership(shared, next), concerned))
    }

    pub(crate) fn leave_joint(
        &mut self,
        shared: &mut Shared,
        expected: Option<LogId>,
    ) -> Result<LogId, ChangeError> {
        let (_, membership) = self.changeable(shared, expected)?;
        let next = membership.leave().ok_or(ChangeError::NotJoint)?;
        Ok(self.append_membership(shared, next))
    }

    /// The membership in effect, if it may be changed now, with the counter of ids where this leader draws from.
    pub(crate) fn changeable(
        &self,
        shared: &Shared,
        expected: Option<LogId>,
    ) -> Result<(LogId, Membership), ChangeError> {
        self.refuse_while_transferring().map_err(ChangeError::Propose)?;
        let (membership_id, membership) = shared.log.membership();
        let membership_id = *membership_id;
        if expected.is_some_and(|expected| expected != membership_id) {
            return Err(ChangeError::Changed { membership_id });
        }
        if membership_id.index > shared.log.commit() && !planted("two_changes_at_once") {
            return Err(ChangeError::InProgress { pending: membership_id });
        }
        if !Self::own_term_committed(shared) && !planted("change_before_own_commit") {
            return Err(ChangeError::NotReady);
        }
        Ok((membership_id, membership.continued_in(membership_id, shared.term)))
    }

    pub(crate) fn append_membership(&mut self, shared: &mut Shared, next: Membership) -> LogId {
        let id = self.append(shared, EntryPayload::Membership(Arc::new(next)));
        self.sync_members(shared);
        id
    }

    /// Ends a joint state that is to end by itself, once it is committed.
    pub(crate) fn maybe_leave_joint(&mut self, shared: &mut Shared) {
        if !self.joint || shared.membership().joint().is_none_or(|joint| !joint.leaves_automatically()) {
            return;
        }
        if let Ok((_, membership)) = self.changeable(shared, None)
            && let Some(next) = membership.leave()
        {
            self.append_membership(shared, next);
        }
    }

    /// A learner is promoted only while it streams and lacks little: a voter that cannot keep up
    /// could stop the group.
    fn refuse_behind(&self, shared: &Shared, learner: ReplicaId) -> Result<(), ChangeError> {
        let (timeout, last) = (shared.config.election_timeout, shared.log.last_index());
        let missing = |progress: &Progress| last.0.saturating_sub(progress.matched.0);
        let keeps_up = |progress: &Progress| progress.keeps_up(shared.now, timeout, last);
        if self.progress.get(learner).is_some_and(keeps_up) {
            return Ok(());
        }
        Err(ChangeError::LearnerBehind { missing: self.progress.get(learner).map_or(last.0, missing).max(1) })
    }
}

const fn refused(refusal: Refusal) -> ChangeError {
    match refusal {
        Refusal::AlreadyMember(replica) => ChangeError::AlreadyMember { replica },
        Refusal::NotMember => ChangeError::NotMember,
        Refusal::NothingToDo => ChangeError::NothingToDo,
        Refusal::LastVoter => ChangeError::LastVoter,
        Refusal::Invalid(what) => ChangeError::Invalid { what },
    }
}
