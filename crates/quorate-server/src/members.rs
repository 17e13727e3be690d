//! The cluster's members: what this node knows, and changes through the leader.
//!
//! Users name nodes; Raft names replicas. A node hosts at most one replica, and a replica id is never used
//! again, so each change here looks the node up in the membership of that moment and names what it saw.
//!
//! * Changes repeat well: adding a learner that is there, promoting a voter, or announcing the same
//!   addresses again succeeds without a new entry, so an unanswered change can be asked for again.
//! * Adding is not repeatable for a voter: a wiped voter must not come back with the same node id.

use quorate::{GroupStatus, Member, MemberRole, MembershipChange, NodeId, ProgressName, ReplicaId, RoleName};
use quorate_client::{ErrorCode, proto};
use tokio::time::timeout_at;

use crate::error::{ApiError, Leader};
use crate::forward;
use crate::service::{Context, Service};

/// A membership change that is in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) index: u64,
    pub(crate) replica: u64,
}

impl Service {
    /// What this node knows of itself and its group, without asking anybody: when something is wrong, this
    /// is what people look at, and it must not wait for what is missing.
    pub(crate) fn status(&self) -> proto::StatusResponse {
        let status = self.raft.status();
        let leader = match status.role {
            RoleName::Leader => Some(self.leader_here()),
            RoleName::Follower | RoleName::PreCandidate | RoleName::Candidate => {
                status.leader_hint.clone().map(Leader::from)
            }
        };
        // A leader that is not heard by a majority gives up within two election timeouts.
        let ready = leader.is_some() && !self.is_stopping();
        proto::StatusResponse {
            cluster_id: self.cluster_id,
            node_id: self.node.0,
            replica_id: status.replica.0,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            role: role(status.role).into(),
            term: status.term.0,
            leader: leader.map(leader_to_proto),
            last_index: status.last.index.0,
            commit_index: status.commit.0,
            applied_index: status.applied.0,
            compacted_index: status.compacted.index.0,
            snapshot_index: status.snapshot.index.0,
            members: members(&status),
            ready,
            peer_address: self.peer_address.clone(),
            client_address: self.client_address.clone(),
        }
    }

    /// Whether a linearizable request would be answered now.
    pub(crate) async fn ready(&self) -> Result<(), ApiError> {
        if self.is_stopping() {
            return Err(shutting_down());
        }
        let until = tokio::time::Instant::now() + self.timings.election_timeout;
        match timeout_at(until, self.raft.read_index()).await {
            Ok(Ok(_index)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ApiError::new(
                ErrorCode::NoLeader,
                "no quorum confirmed a read within an election timeout",
            )),
        }
    }

    /// The members, as the leader knows them.
    pub(crate) async fn member_list(&self, context: Context) -> Result<proto::MemberListResponse, ApiError> {
        self.on_leader(
            context,
            true,
            || async move {
                // A leader that has been replaced without noticing must not answer.
                match timeout_at(context.deadline, self.raft.read_index()).await {
                    Ok(confirmed) => confirmed?,
                    Err(_) => return Err(crate::error::no_leader()),
                };
                let status = self.raft.status();
                Ok(proto::MemberListResponse {
                    cluster_id: self.cluster_id,
                    index: status.membership_id.index.0,
                    members: members(&status),
                })
            },
            |address| async move {
                let request =
                    proto::MemberListRequest { header: Some(self.forwarder.header(context.deadline)) };
                let send = |leads: forward::Leads| async move { leads.cluster().member_list(request).await };
                self.forwarder.call(&address, context.deadline, send).await
            },
        )
        .await
    }

    /// Adds a node as a learner.
    pub(crate) async fn member_add(
        &self,
        context: Context,
        node: NodeId,
        peer_address: &str,
        client_address: &str,
    ) -> Result<proto::MemberAddResponse, ApiError> {
        check_node(node)?;
        check_addresses(peer_address, client_address)?;
        self.on_leader(
            context,
            true,
            || self.add_here(context, node, peer_address, client_address),
            |address| async move {
                let request = proto::MemberAddRequest {
                    header: Some(self.forwarder.header(context.deadline)),
                    node_id: node.0,
                    peer_address: peer_address.to_owned(),
                    client_address: client_address.to_owned(),
                };
                let send = |leads: forward::Leads| async move { leads.cluster().member_add(request).await };
                self.forwarder.call(&address, context.deadline, send).await
            },
        )
        .await
    }

    async fn add_here(
        &self,
        context: Context,
        node: NodeId,
        peer_address: &str,
        client_address: &str,
    ) -> Result<proto::MemberAddResponse, ApiError> {
        let status = self.raft.status();
        let changed = match status.membership.on_node(node) {
            Some((replica, member)) if is_same_newcomer(&status, replica, member, peer_address) => {
                Changed { index: status.membership_id.index.0, replica: replica.0 }
            }
            Some((replica, _)) => {
                return Err(ApiError::refused_change(
                    "already_member",
                    format!(
                        "node {node} is a member already, as replica {replica}: if it lost its data, remove it and \
                         join with a new node id"
                    ),
                ));
            }
            None => {
                let change = MembershipChange::AddLearner {
                    node,
                    peer_address: peer_address.to_owned(),
                    client_address: client_address.to_owned(),
                };
                self.change(context, change).await?
            }
        };
        Ok(proto::MemberAddResponse {
            index: changed.index,
            cluster_id: self.cluster_id,
            replica_id: changed.replica,
            seeds: members(&self.raft.status())
                .into_iter()
                .filter(|member| member.node_id != node.0)
                .collect(),
        })
    }

    /// Makes a learner a voter.
    pub(crate) async fn member_promote(&self, context: Context, node: NodeId) -> Result<Changed, ApiError> {
        self.on_leader(
            context,
            true,
            || async move {
                let status = self.raft.status();
                let (replica, member) = find(&status, node)?;
                if member.role == MemberRole::Voter {
                    return Ok(Changed { index: status.membership_id.index.0, replica: replica.0 });
                }
                self.change(context, MembershipChange::Promote(replica)).await
            },
            |address| async move {
                let header = Some(self.forwarder.header(context.deadline));
                let request = proto::MemberPromoteRequest { header, node_id: node.0 };
                let send =
                    |leads: forward::Leads| async move { leads.cluster().member_promote(request).await };
                self.forwarder.call(&address, context.deadline, send).await.map(changed)
            },
        )
        .await
    }

    /// Removes a member.
    pub(crate) async fn member_remove(&self, context: Context, node: NodeId) -> Result<Changed, ApiError> {
        // Not resent: a second removal would say "not found" of what the first one did.
        self.on_leader(
            context,
            false,
            || async move {
                let (replica, _) = find(&self.raft.status(), node)?;
                self.change(context, MembershipChange::Remove(replica)).await
            },
            |address| async move {
                let header = Some(self.forwarder.header(context.deadline));
                let request = proto::MemberRemoveRequest { header, node_id: node.0 };
                let send =
                    |leads: forward::Leads| async move { leads.cluster().member_remove(request).await };
                self.forwarder.call(&address, context.deadline, send).await.map(changed)
            },
        )
        .await
    }

    /// Changes where a member is reached.
    pub(crate) async fn member_update(
        &self,
        context: Context,
        node: NodeId,
        peer_address: &str,
        client_address: &str,
    ) -> Result<Changed, ApiError> {
        check_addresses(peer_address, client_address)?;
        self.on_leader(
            context,
            true,
            || async move {
                let status = self.raft.status();
                let (replica, member) = find(&status, node)?;
                if member.peer_address == peer_address && member.client_address == client_address {
                    return Ok(Changed { index: status.membership_id.index.0, replica: replica.0 });
                }
                let change = MembershipChange::SetAddresses {
                    replica,
                    peer_address: peer_address.to_owned(),
                    client_address: client_address.to_owned(),
                };
                self.change(context, change).await
            },
            |address| async move {
                let request = proto::MemberUpdateRequest {
                    header: Some(self.forwarder.header(context.deadline)),
                    node_id: node.0,
                    peer_address: peer_address.to_owned(),
                    client_address: client_address.to_owned(),
                };
                let send =
                    |leads: forward::Leads| async move { leads.cluster().member_update(request).await };
                self.forwarder.call(&address, context.deadline, send).await.map(changed)
            },
        )
        .await
    }

    /// Hands leadership to `to`, or to the best voter, and says who leads then.
    pub(crate) async fn transfer_leadership(
        &self,
        context: Context,
        to: Option<NodeId>,
    ) -> Result<Leader, ApiError> {
        self.on_leader(
            context,
            true,
            || self.transfer_here(context, to),
            |address| async move {
                let header = Some(self.forwarder.header(context.deadline));
                let node_id = to.map_or(0, |node| node.0);
                let request = proto::TransferLeadershipRequest { header, node_id };
                let send =
                    |leads: forward::Leads| async move { leads.cluster().transfer_leadership(request).await };
                let answer = self.forwarder.call(&address, context.deadline, send).await?;
                let leader = answer.leader.unwrap_or_default();
                Ok(Leader { node: leader.node_id, client_address: leader.client_address })
            },
        )
        .await
    }

    async fn transfer_here(&self, context: Context, to: Option<NodeId>) -> Result<Leader, ApiError> {
        if to == Some(self.node) {
            return Ok(self.leader_here());
        }
        let to = match to {
            Some(node) => Some(find(&self.raft.status(), node)?.0),
            None => None,
        };
        let transferred = timeout_at(context.deadline, self.raft.transfer_leadership(to)).await;
        let leader = match transferred {
            Ok(leader) => leader?,
            Err(_) => {
                let message = "leadership was not handed over in time: look at the status, then retry";
                return Err(ApiError::new(ErrorCode::TransferFailed, message));
            }
        };
        let status = self.raft.status();
        let member = status.membership.get(leader);
        Ok(Leader {
            node: member.map_or(0, |member| member.node.0),
            client_address: member.map(|member| member.client_address.clone()).unwrap_or_default(),
        })
    }

    /// One step of the membership.
    async fn change(&self, context: Context, change: MembershipChange) -> Result<Changed, ApiError> {
        // Replica ids are never used twice, so a change that names one means what it meant however the
        // members changed meanwhile (nodes announce their addresses at any time).
        let changed = self.raft.change_membership(change, None);
        match timeout_at(context.deadline, changed).await {
            Ok(changed) => {
                let changed = changed?;
                Ok(Changed { index: changed.id.index.0, replica: changed.replica.0 })
            }
            Err(_) => Err(ApiError::new(
                ErrorCode::OutcomeUnknown,
                "the change was not committed in time: look at the member list before asking again",
            )),
        }
    }

    fn leader_here(&self) -> Leader {
        Leader { node: self.node.0, client_address: self.client_address.clone() }
    }
}

pub(crate) fn shutting_down() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "this node is stopping: ask another one")
}

/// Whether a node that asks to be added was added before and has not got anywhere since: a learner
/// that this leader has not heard from.
fn is_same_newcomer(status: &GroupStatus, replica: ReplicaId, member: &Member, peer_address: &str) -> bool {
    let heard_from = status.progress.iter().any(|(id, progress)| *id == replica && progress.matched.0 > 0);
    member.role == MemberRole::Learner && member.peer_address == peer_address && !heard_from
}

fn find(status: &GroupStatus, node: NodeId) -> Result<(ReplicaId, Member), ApiError> {
    match status.membership.on_node(node) {
        Some((replica, member)) => Ok((replica, member.clone())),
        None => {
            let message = format!("node {node} is not a member: see the member list");
            Err(ApiError::new(ErrorCode::NotFound, message))
        }
    }
}

fn check_node(node: NodeId) -> Result<(), ApiError> {
    if node == NodeId(0) { Err(ApiError::invalid("node ids begin with 1")) } else { Ok(()) }
}

fn check_addresses(peer_address: &str, client_address: &str) -> Result<(), ApiError> {
    if !is_address(peer_address) {
        return Err(ApiError::invalid(format!("peer address {peer_address:?} is not host:port")));
    }
    if !client_address.is_empty() && !is_address(client_address) {
        return Err(ApiError::invalid(format!("client address {client_address:?} is not host:port")));
    }
    Ok(())
}

/// Whether this is `host:port` with a port that can be connected to.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_is_fine = !host.is_empty()
        && !host.contains(['/', ' ', '@', '?', '#'])
        && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')));
    host_is_fine && text.len() <= 1024 && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn changed(response: proto::MemberChangeResponse) -> Changed {
    Changed { index: response.index, replica: response.replica_id }
}

pub(crate) fn leader_to_proto(leader: Leader) -> proto::LeaderHint {
    proto::LeaderHint { node_id: leader.node, client_address: leader.client_address }
}

fn role(role: RoleName) -> proto::Role {
    match role {
        RoleName::Follower => proto::Role::Follower,
        RoleName::PreCandidate => proto::Role::PreCandidate,
        RoleName::Candidate => proto::Role::Candidate,
        RoleName::Leader => proto::Role::Leader,
    }
}

fn members(status: &GroupStatus) -> Vec<proto::Member> {
    let progress = |replica: ReplicaId| {
        if status.role == RoleName::Leader && replica == status.replica {
            let matched_index = status.last.index.0;
            return Some(proto::Progress { matched_index, recently_active: true, receiving_snapshot: false });
        }
        let (_, progress) = status.progress.iter().find(|(id, _)| *id == replica)?;
        Some(proto::Progress {
            matched_index: progress.matched.0,
            recently_active: progress.recently_active,
            receiving_snapshot: progress.state == ProgressName::Snapshot,
        })
    };
    let member = |(replica, member): (ReplicaId, &Member)| proto::Member {
        node_id: member.node.0,
        replica_id: replica.0,
        voter: member.role == MemberRole::Voter,
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
        leader: status.leader == Some(replica),
        progress: progress(replica),
    };
    status.membership.members().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:1", "node-1.example:7001", "[::1]:7001"] {
            assert!(is_address(good), "{good}");
        }
        for wrong in ["", ":1", "host", "host:", "host:0", "host:x", "::1:7001", "http://h:1", "a b:1"] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }
}
