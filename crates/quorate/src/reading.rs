//! What a handle does to read: how fresh, from whom, and how to wait.
//!
//! ```text
//!                     asks            fresh as of               trusts
//!   Linearizable      a quorum        the question              nothing
//!   Lease             nobody          the question              clocks, for lease_drift_max
//!   Recent(age_max)   now and then    age_max before it         nothing
//!   Stale             nobody          whenever                  nothing
//! ```
//!
//! * The first three fail without a leader that can be reached; `Recent` only once its newest fact is too old.
//! * Every replica answers each of them.

use std::time::Duration;

use quorate_core::{LogIndex, Term};
use quorate_host::{Answer, Consistency, GroupStatus, Request, RequestError};

use crate::raft::{Raft, Timeout, unexpected};

impl Raft {
    /// [`Raft::read_index`] with another consistency: waits until this replica has applied all that a read of it
    /// must show, and returns up to where that is. Afterwards a read of your own state machine is as fresh.
    ///
    /// # Errors
    /// As for [`Raft::query`]. Reads have no effect: all of them can be repeated.
    pub async fn read_index_with(&self, consistency: Consistency) -> Result<LogIndex, RequestError> {
        let Answer::ReadIndex { index } = self.ask(Request::ReadIndex { consistency }).await? else {
            return Err(unexpected());
        };
        Ok(index)
    }

    /// Has a quorum of the voters confirm that this replica led when it was asked, and returns the term it leads
    /// in. Only answers to a round that starts after the call count, and an entry of the term is committed. To
    /// read, use [`Raft::query`] or [`Raft::read_index`]: they also wait for what must be applied.
    ///
    /// # Errors
    /// `NotLeader`: it does not lead, or nobody confirmed it within an election timeout. `Busy`: back off.
    pub async fn verify_leader(&self) -> Result<Term, RequestError> {
        let Answer::LeaderVerified { term } = self.ask(Request::VerifyLeader).await? else {
            return Err(unexpected());
        };
        Ok(term)
    }

    /// Waits until this replica has applied the entry at `index`: with the index of a write, reads here see
    /// it afterwards. Stops waiting when dropped.
    ///
    /// # Errors
    /// It was not applied within the time given, or the replica has stopped.
    pub async fn wait_applied(&self, index: LogIndex, within: Duration) -> Result<GroupStatus, Timeout> {
        self.wait_for(|status| status.applied >= index, within).await
    }
}
