//! `Raft`: what a user holds of one group on this node. Bytes in, bytes out.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::{GroupId, LogId, LogIndex, MembershipChange, NodeId, RaftEvent, ReplicaId};
use quorate_host::{Consistency, Dedupe, GroupStatus, RequestError, SessionId};
use tokio::sync::watch;

/// A command that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its position in the log. For a repeated command, that of the first time.
    pub id: LogId,
    /// The state machine's response.
    pub response: Bytes,
}

/// A question that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queried {
    /// Everything up to here had been applied.
    pub applied: LogIndex,
    /// The state machine's answer.
    pub response: Bytes,
}

/// A membership change that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its position in the log.
    pub id: LogId,
    /// The replica concerned (for an added learner, its new id).
    pub replica: ReplicaId,
}

/// The condition did not come true in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the condition did not come true within {within:?}; the replica is {last:?}")]
pub struct Timeout {
    /// How long was waited.
    pub within: Duration,
    /// The last status seen.
    pub last: Box<GroupStatus>,
}

/// One group on this node. Cheap to clone; does not keep the node running.
#[derive(Clone)]
pub struct Raft {}

/// A command that has been submitted: await it for the outcome. Dropping it does not withdraw the
/// command.
pub struct Pending {}

impl Future for Pending {
    type Output = Result<Applied, RequestError>;
    fn poll(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        todo!()
    }
}

/// A bounded stream of what happened in a group, for logs and metrics.
pub struct RaftEvents {}

impl RaftEvents {
    /// The next event; `None` when the group is closed.
    pub async fn next(&mut self) -> Option<RaftEvent> {
        todo!()
    }
    /// How many events this subscriber missed because it was too slow.
    pub fn missed(&self) -> u64 {
        todo!()
    }
}

impl Raft {
    /// The group.
    pub fn group(&self) -> GroupId {
        todo!()
    }
    /// This node.
    pub fn node(&self) -> NodeId {
        todo!()
    }
    /// Proposes `command` and waits until it is applied here.
    pub async fn apply(&self, _command: impl Into<Bytes>) -> Result<Applied, RequestError> {
        todo!()
    }
    /// `apply` that is not applied twice when it is sent again.
    pub async fn apply_with(
        &self,
        _command: impl Into<Bytes>,
        _dedupe: Dedupe,
    ) -> Result<Applied, RequestError> {
        todo!()
    }
    /// Submits `command` at once; await the result later. For pipelining.
    pub fn submit(&self, _command: impl Into<Bytes>, _dedupe: Dedupe) -> Pending {
        todo!()
    }
    /// Opens a client session.
    pub async fn open_session(&self) -> Result<SessionId, RequestError> {
        todo!()
    }
    /// Asks the state machine.
    pub async fn query(
        &self,
        _request: impl Into<Bytes>,
        _consistency: Consistency,
    ) -> Result<Queried, RequestError> {
        todo!()
    }
    /// Waits until this replica has applied everything committed when it was asked.
    #[doc(alias = "verify_leader")]
    pub async fn read_index(&self) -> Result<LogIndex, RequestError> {
        todo!()
    }
    /// Commits an empty entry and waits until it is applied here.
    pub async fn barrier(&self) -> Result<LogId, RequestError> {
        todo!()
    }
    /// Changes the membership by one step and waits until it is committed.
    pub async fn change_membership(
        &self,
        _change: MembershipChange,
        _expected: Option<LogId>,
    ) -> Result<Changed, RequestError> {
        todo!()
    }
    /// Adds a replica that does not vote.
    #[doc(alias = "add_nonvoter")]
    pub async fn add_learner(
        &self,
        _node: NodeId,
        _peer_address: impl Into<String>,
        _client_address: impl Into<String>,
    ) -> Result<Changed, RequestError> {
        todo!()
    }
    /// Makes a caught-up learner a voter.
    #[doc(alias = "add_voter")]
    pub async fn promote(&self, _replica: ReplicaId) -> Result<Changed, RequestError> {
        todo!()
    }
    /// Makes a voter a learner.
    pub async fn demote(&self, _replica: ReplicaId) -> Result<Changed, RequestError> {
        todo!()
    }
    /// Removes a member.
    #[doc(alias = "remove_server")]
    pub async fn remove(&self, _replica: ReplicaId) -> Result<Changed, RequestError> {
        todo!()
    }
    /// Hands leadership to `to`, or to the best replica; returns the new leader.
    pub async fn transfer_leadership(&self, _to: Option<ReplicaId>) -> Result<ReplicaId, RequestError> {
        todo!()
    }
    /// Campaigns now.
    pub async fn campaign(&self) -> Result<(), RequestError> {
        todo!()
    }
    /// Takes a snapshot now and waits until it is durable.
    #[doc(alias = "snapshot")]
    pub async fn take_snapshot(&self) -> Result<LogId, RequestError> {
        todo!()
    }
    /// What the replica looks like now.
    pub fn status(&self) -> GroupStatus {
        todo!()
    }
    /// Follows the status.
    pub fn watch(&self) -> watch::Receiver<GroupStatus> {
        todo!()
    }
    /// Follows what happens in the group.
    pub fn events(&self) -> RaftEvents {
        todo!()
    }
    /// Waits until `what` holds of the status.
    pub async fn wait_for(
        &self,
        _what: impl Fn(&GroupStatus) -> bool,
        _within: Duration,
    ) -> Result<GroupStatus, Timeout> {
        todo!()
    }
    /// Resolves with the reason when this replica has stopped, by itself or with its node.
    pub async fn stopped(&self) -> String {
        todo!()
    }
}
