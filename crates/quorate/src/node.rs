//! `Node`: one process of a cluster.

use std::net::SocketAddr;

use quorate_core::{GroupId, Member, NodeId, ReplicaId};
use quorate_host::{GroupConfig, StateMachine};
use quorate_storage::LogStats;

use crate::config::{ClusterId, ConfigError, NodeConfig};
use crate::raft::Raft;

/// How a group begins on this node.
#[derive(Clone, Debug)]
pub enum Start {
    /// With what is on disk; an error if there is nothing.
    Resume,
    /// As one of the first members: the same list, in the same order, on every one of them. When the group is
    /// on disk already, this is `Resume`, so an identical repeat after a crash just continues.
    Bootstrap {
        /// The first members; they get the replica ids 1, 2, … in this order.
        members: Vec<Member>,
    },
    /// As a replica that was added to an existing group. When the group is on disk already, this is `Resume`.
    Join {
        /// The id the membership change gave to this replica.
        replica: ReplicaId,
        /// Replicas to answer to until the first membership arrives: id, node, peer address.
        seeds: Vec<(ReplicaId, NodeId, String)>,
    },
}

/// A node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used: it belongs to another node or cluster, is in use by another process, or
    /// cannot be read or written.
    #[error("data directory: {0}")]
    Directory(String),
    /// The peer address cannot be listened on.
    #[error("cannot listen for peers on {address}: {source}; choose another --peer-listen address")]
    Listen {
        /// The address.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The system refused a thread or randomness.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// A group cannot be opened on a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// `Start::Resume`, and nothing is on disk.
    #[error("group {0} is not on this node: bootstrap it or join it")]
    NotFound(GroupId),
    /// The node has stopped.
    #[error("the node has stopped: {0}")]
    Stopped(String),
    /// The members cannot form a group, or this node is not one of them.
    #[error("group {group}: {reason}")]
    Members {
        /// The group.
        group: GroupId,
        /// What is wrong.
        reason: String,
    },
    /// What is on disk cannot be used.
    #[error(transparent)]
    Recover(#[from] quorate_host::RecoverError),
    /// The host refused it.
    #[error(transparent)]
    Host(#[from] quorate_host::OpenError),
}

/// Figures of a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeStats {
    /// Of the log.
    pub log: LogStats,
    /// Of the transport.
    pub transport: TransportStats,
}

/// Running totals of a transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Messages handed to the network.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes handed to the network.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Messages dropped because a queue was full or a peer could not be reached.
    pub messages_dropped: u64,
    /// Established outbound connections now.
    pub connections: u64,
    /// Handshakes refused, by either side.
    pub handshakes_refused: u64,
}

/// One process of a cluster.
pub struct Node {}

impl Node {
    /// Starts a node: opens its data directory and listens for its peers. Opens no group.
    pub async fn start(_config: NodeConfig) -> Result<Self, StartError> {
        todo!()
    }
    /// This node.
    pub fn id(&self) -> NodeId {
        todo!()
    }
    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        todo!()
    }
    /// Where this node listens for peers.
    pub fn peer_address(&self) -> SocketAddr {
        todo!()
    }
    /// Where peers are told to reach it.
    pub fn peer_advertise(&self) -> String {
        todo!()
    }
    /// The groups that are on disk, open or not.
    pub fn groups_on_disk(&self) -> Vec<GroupId> {
        todo!()
    }
    /// Opens a group with the node's group configuration.
    #[doc(alias = "bootstrap_cluster")]
    pub async fn open_group(
        &self,
        _group: GroupId,
        _start: Start,
        _machine: impl StateMachine + 'static,
    ) -> Result<Raft, OpenError> {
        todo!()
    }
    /// Opens a group with its own configuration.
    pub async fn open_group_with(
        &self,
        _group: GroupId,
        _start: Start,
        _config: GroupConfig,
        _machine: Box<dyn StateMachine>,
    ) -> Result<Raft, OpenError> {
        todo!()
    }
    /// Stops a group on this node and answers all its requests; its data stays.
    pub async fn close_group(&self, _group: GroupId) {
        todo!()
    }
    /// Resolves when the node has stopped by itself (its log cannot be written), with the reason.
    pub async fn failure(&self) -> String {
        todo!()
    }
    /// Figures for metrics.
    pub fn stats(&self) -> NodeStats {
        todo!()
    }
    /// Stops the node: answers every pending request, joins every thread and task.
    pub async fn shutdown(&self) {
        todo!()
    }
}
