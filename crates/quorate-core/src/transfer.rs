//! Handing leadership over on purpose (thesis §3.10).
//!
//! ```text
//!   asked ──► catching up ──(it holds the whole log)──► told: TimeoutNow ──► its vote request ends this term
//!                 │                                       │
//!                 └───────────────┬───────────────────────┘
//!                    T is over, called off, unreachable: proposals are taken again at once
//! ```
//!
//! * The target may lead, is not this replica, and was heard within T.
//! * Nothing is proposed meanwhile, or the target would never hold the whole log.
//! * What the target was told cannot be taken back: once told, it may campaign whenever the message
//!   arrives, as long as this term lasts. That is safe, and the end of the lease (`lease.rs`).
//!
//! Not here: who takes `TimeoutNow` from whom (`follower.rs`: from the leader of the current term only).

use crate::event::{RaftEvent, TransferOutcome};
use crate::leader::Leader;
use crate::message::MessageBody;
use crate::raw_node::{ProposeError, TransferError};
use crate::shared::Shared;
use crate::types::{MonoTime, ReplicaId};

/// A leadership on its way to another replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transfer {
    pub(crate) to: ReplicaId,
    pub(crate) until: MonoTime,
    /// It holds the whole log and was told to campaign.
    pub(crate) told: bool,
}

impl Leader {
    pub(crate) fn refuse_while_transferring(&self) -> Result<(), ProposeError> {
        self.transfer.map_or(Ok(()), |transfer| Err(ProposeError::Transferring { to: transfer.to }))
    }

    pub(crate) fn transfer(
        &mut self,
        shared: &mut Shared,
        to: Option<ReplicaId>,
    ) -> Result<ReplicaId, TransferError> {
        if let Some(transfer) = self.transfer {
            return Err(TransferError::InProgress { to: transfer.to });
        }
        let to = to.or_else(|| self.best_voter(shared)).ok_or(TransferError::Unreachable)?;
        if to == shared.id() {
            return Err(TransferError::AlreadyLeader);
        }
        if shared.membership().get(to).is_none() {
            return Err(TransferError::NotMember);
        }
        if !shared.membership().may_lead(to) {
            return Err(TransferError::NotVoter);
        }
        if !self.progress.get(to).is_some_and(|p| p.is_active(shared.now, shared.config.election_timeout)) {
            return Err(TransferError::Unreachable);
        }
        self.transfer = Some(Transfer { to, until: shared.one_timeout(), told: false });
        self.stir(shared);
        shared.event(RaftEvent::TransferStarted { to });
        self.replicate = true;
        self.maybe_finish_transfer(shared);
        Ok(to)
    }

    /// The reachable voter (one that stays) with the longest log; of equals the lowest id.
    pub(crate) fn best_voter(&self, shared: &Shared) -> Option<ReplicaId> {
        let timeout = shared.config.election_timeout;
        self.progress
            .iter()
            .filter(|(id, progress)| {
                shared.membership().may_lead(*id) && progress.is_active(shared.now, timeout)
            })
            .max_by_key(|(id, progress)| (progress.matched, std::cmp::Reverse(*id)))
            .map(|(id, _)| id)
    }

    /// Stops waiting for the target: proposals are taken again at once. What it was told cannot be taken
    /// back, so it may still campaign.
    pub(crate) fn abort_transfer(&mut self, shared: &mut Shared) -> Option<ReplicaId> {
        let to = self.transfer?.to;
        self.end_transfer(shared, TransferOutcome::Cancelled);
        Some(to)
    }

    /// The transport cannot reach `replica`: no use in waiting for it.
    pub(crate) fn give_up_transfer_to(&mut self, shared: &mut Shared, replica: ReplicaId) {
        if self.transfer.is_some_and(|transfer| transfer.to == replica) {
            self.end_transfer(shared, TransferOutcome::Unreachable);
        }
    }

    pub(crate) fn expire_transfer(&mut self, shared: &mut Shared) {
        if self.transfer.is_some_and(|transfer| transfer.until <= shared.now) {
            self.end_transfer(shared, TransferOutcome::TimedOut);
        }
    }

    /// Leadership ends.
    pub(crate) fn abandon_transfer(&mut self, shared: &mut Shared) {
        if let Some(transfer) = self.transfer {
            let told = transfer.told;
            let outcome = if told { TransferOutcome::SteppedDown } else { TransferOutcome::LeadershipLost };
            self.end_transfer(shared, outcome);
        }
    }

    fn end_transfer(&mut self, shared: &mut Shared, outcome: TransferOutcome) {
        if let Some(transfer) = self.transfer.take() {
            shared.event(RaftEvent::TransferEnded { to: transfer.to, outcome });
            self.replicate = true;
        }
    }

    pub(crate) fn maybe_finish_transfer(&mut self, shared: &mut Shared) {
        let Some(transfer) = &mut self.transfer else { return };
        let last = shared.log.last_index();
        let complete = self.progress.get(transfer.to).is_some_and(|progress| progress.matched == last);
        if complete && !transfer.told {
            transfer.told = true;
            self.lease.break_for_good();
            shared.send(transfer.to, MessageBody::TimeoutNow);
        }
    }
}
