//! What a handle does to change the members, one or a few at a time.
//!
//! ```text
//!   add_voter ──► learner ──caught up──► voter         add_learner ──► learner ──promote──► voter
//!   add_voter_at_once ───────────────► voter           voter ──demote──► learner ──remove──► gone
//! ```
//!
//! * A change that changes nothing is an error (`NothingToDo`), never a silent success.
//! * Each of these can be tied to the membership that was looked at: [`Raft::expecting`].
//! * Any of these for several members in one step: [`Raft::change_members`].

use std::time::Duration;

use quorate_core::{
    ChangeError, LogId, MemberRole, Membership, MembershipChange, MembershipTransition, NodeId, ReplicaId,
};
use quorate_host::{GroupStatus, RequestError};

use crate::raft::{Changed, Raft, Timeout, unexpected};

impl Raft {
    /// Makes `node` a voter, as soon as that is safe: a node that is no member gets a replica that receives the
    /// log, and the leader makes it a voter once it has caught up; a learner there becomes one in the same way.
    /// Other addresses than before are taken over. Returns when the change is committed; open the group there with
    /// [`crate::Start::Join`] and the id in the result, then [`Raft::wait_voter`].
    ///
    /// # Errors
    /// As for [`Raft::change_membership`].
    pub async fn add_voter(
        &self,
        node: NodeId,
        peer_address: impl Into<String>,
        client_address: impl Into<String>,
    ) -> Result<Changed, RequestError> {
        let (peer_address, client_address) = (peer_address.into(), client_address.into());
        self.bounded(self.add_voter_in_turn(node, &peer_address, &client_address)).await
    }

    async fn add_voter_in_turn(
        &self,
        node: NodeId,
        peer_address: &str,
        client_address: &str,
    ) -> Result<Changed, RequestError> {
        loop {
            let status = self.status();
            let changes = voter_on(&status.membership, node, peer_address, client_address);
            if changes.is_empty() {
                return Err(RequestError::Change(ChangeError::NothingToDo));
            }
            let seen = self.expected.or(Some(status.membership_id));
            match self.change_members(changes, MembershipTransition::Automatic, seen).await {
                Ok((id, replicas)) => {
                    let replica = replicas.first().copied().ok_or_else(unexpected)?;
                    return Ok(Changed { id, replica });
                }
                // Somebody else was quicker: look again once that is seen here.
                Err(RequestError::Change(ChangeError::Changed { .. })) if self.expected.is_none() => {
                    let news = |now: &GroupStatus| now.membership_id != status.membership_id;
                    // An error: the replica has stopped, and says so when asked again.
                    self.watch().wait_for(news).await.ok();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Adds a voter that has nothing yet. Until it has caught up, the group may not commit without it: with
    /// one voter before, not at all until it is started. [`Raft::add_voter`] has no such moment.
    ///
    /// # Errors
    /// As for [`Raft::change_membership`].
    pub async fn add_voter_at_once(
        &self,
        node: NodeId,
        peer_address: impl Into<String>,
        client_address: impl Into<String>,
    ) -> Result<Changed, RequestError> {
        let (peer_address, client_address) = (peer_address.into(), client_address.into());
        self.change_membership(MembershipChange::AddVoter { node, peer_address, client_address }, None).await
    }

    /// Waits until `replica` is seen here as a committed voter.
    ///
    /// # Errors
    /// It is not one within the time given, or this replica has stopped.
    pub async fn wait_voter(&self, replica: ReplicaId, within: Duration) -> Result<GroupStatus, Timeout> {
        let votes = |status: &GroupStatus| {
            let member = status.membership.get(replica);
            member.is_some_and(|member| member.role == MemberRole::Voter)
                && status.membership_id.index <= status.commit
        };
        self.wait_for(votes, within).await
    }

    /// Changes where a member is reached.
    ///
    /// # Errors
    /// As for [`Raft::change_membership`].
    pub async fn set_addresses(
        &self,
        replica: ReplicaId,
        peer_address: impl Into<String>,
        client_address: impl Into<String>,
    ) -> Result<Changed, RequestError> {
        let (peer_address, client_address) = (peer_address.into(), client_address.into());
        let change = MembershipChange::SetAddresses { replica, peer_address, client_address };
        self.change_membership(change, None).await
    }

    /// The members in effect, the position of their entry, and whether that is committed.
    #[must_use]
    #[doc(alias = "get_configuration")]
    pub fn membership(&self) -> (LogId, std::sync::Arc<Membership>, bool) {
        let status = self.status();
        let committed = status.membership_id.index <= status.commit;
        (status.membership_id, status.membership, committed)
    }

    /// Adds a replica on `node` that receives the log but does not vote. Its id is in the result; open
    /// the group there with [`crate::Start::Join`].
    ///
    /// # Errors
    /// As for [`Raft::change_membership`].
    #[doc(alias = "add_nonvoter")]
    pub async fn add_learner(
        &self,
        node: NodeId,
        peer_address: impl Into<String>,
        client_address: impl Into<String>,
    ) -> Result<Changed, RequestError> {
        let (peer_address, client_address) = (peer_address.into(), client_address.into());
        self.change_membership(MembershipChange::AddLearner { node, peer_address, client_address }, None)
            .await
    }

    /// Makes a caught-up learner a voter.
    ///
    /// # Errors
    /// As for [`Raft::change_membership`].
    pub async fn promote(&self, replica: ReplicaId) -> Result<Changed, RequestError> {
        self.change_membership(MembershipChange::Promote(replica), None).await
    }

    /// Makes a voter a learner.
    ///
    /// # Errors
    /// As for [`Raft::change_membership`].
    #[doc(alias = "demote_voter")]
    pub async fn demote(&self, replica: ReplicaId) -> Result<Changed, RequestError> {
        self.change_membership(MembershipChange::Demote(replica), None).await
    }

    /// Removes a member, also the leader itself.
    ///
    /// # Errors
    /// As for [`Raft::change_membership`].
    #[doc(alias = "remove_server")]
    pub async fn remove(&self, replica: ReplicaId) -> Result<Changed, RequestError> {
        self.change_membership(MembershipChange::Remove(replica), None).await
    }
}

/// What makes `node` a voter; nothing if it is one, at these addresses.
fn voter_on(members: &Membership, node: NodeId, peer: &str, client: &str) -> Vec<MembershipChange> {
    let (peer_address, client_address) = (peer.to_owned(), client.to_owned());
    let Some((replica, member)) = members.on_node(node) else {
        return vec![MembershipChange::Join { node, peer_address, client_address }];
    };
    let mut changes = Vec::new();
    if member.role == MemberRole::Learner && !members.is_joining(replica) {
        changes.push(MembershipChange::PromoteOnceCaughtUp(replica));
    }
    if member.peer_address != peer || member.client_address != client {
        changes.push(MembershipChange::SetAddresses { replica, peer_address, client_address });
    }
    changes
}
