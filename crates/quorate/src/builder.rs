//! Putting a node together from its parts.
//!
//! ```text
//!   part               default, in a directory       default, in memory    others
//!   ───────────────────────────────────────────────────────────────────────────────────────────
//!   configuration      NodeConfig::durable           NodeConfig::default
//!   state machine      –                             –                     anything: StateMachine
//!   log store    ┐     write-ahead log               in memory             one file (redb), yours
//!   hard state   ┘     the same store: one write     the same              the same
//!   snapshot store     files                         in memory             discard, yours
//!   transport          TCP (with `peer_tls`: TLS)    TCP                   in memory, yours
//! ```
//!
//! HashiCorp's `StableStore` has no part of its own here: term, vote and entries that belong together are
//! one atomic write of the log store.

use std::sync::Arc;

use quorate_core::GroupId;
use quorate_host::StateMachine;
use quorate_storage::Disk;

use crate::config::NodeConfig;
use crate::node::{MakeTransport, Node, OpenError, Start, StartError};
use crate::raft::Raft;
use crate::stores::{LogStoreKind, SnapshotStoreKind, StoreChoice};
use crate::transport::{Identity, Transport};

/// The parts of a [`Node`] that is about to start; what is not set is as by default.
///
/// ```
/// # use quorate::*;
/// # struct Nothing;
/// # impl StateMachine for Nothing {
/// #     fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> { Ok(command.data.clone()) }
/// #     fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> { Ok(Bytes::new()) }
/// #     fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> { Ok(Box::new(BytesSnapshot::default())) }
/// #     fn restore(&mut self, _: &mut dyn std::io::Read, _: BatchEnd<'_>) -> Result<(), MachineError> { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A disk in memory, which outlives the node: for tests that restart.
/// let disk = std::sync::Arc::new(MemDisk::new());
/// for term in 1..=2 {
///     let builder = Node::builder(NodeConfig { node: NodeId(1), ..NodeConfig::default() });
///     let (node, raft) = builder.disk(disk.clone()).start_alone(Nothing).await?;
///     raft.wait_for(|status| status.role == RoleName::Leader, std::time::Duration::from_secs(10)).await?;
///     assert_eq!(raft.apply("hello").await?.response, "hello");
///     assert!(raft.status().term >= Term(term), "the term was not forgotten");
///     node.shutdown().await;
/// }
/// # Ok(())
/// # }
/// ```
pub struct NodeBuilder {
    config: NodeConfig,
    stores: StoreChoice,
    transport: Option<MakeTransport>,
}

/// A node could not be started with a group.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartGroupError {
    /// The node.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The group.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl NodeBuilder {
    pub(crate) fn new(config: NodeConfig) -> Self {
        Self { config, stores: StoreChoice::default(), transport: None }
    }

    /// Logs and hard states. A data directory notes the kind when it is made, and is refused to any other.
    #[must_use]
    pub fn log_store(mut self, kind: LogStoreKind) -> Self {
        self.stores.log = Some(kind);
        self
    }

    /// Snapshots.
    #[must_use]
    pub fn snapshot_store(mut self, kind: SnapshotStoreKind) -> Self {
        self.stores.snapshots = Some(kind);
        self
    }

    /// The data directory is the root of this disk, instead of what `NodeConfig::storage` says. With a
    /// [`MemDisk`](crate::MemDisk), a test keeps everything in memory and still can stop and start the node.
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.stores.disk = Some(disk);
        self
    }

    /// A transport of the caller's, for example a [`crate::MemoryTransport`], instead of TCP.
    #[must_use]
    pub fn transport(self, transport: Arc<dyn Transport>) -> Self {
        self.transport_with(|_| Ok(transport))
    }

    /// The same for a transport that tells its peers who it speaks for: `make` is called once the data directory is
    /// taken.
    #[must_use]
    pub fn transport_with(
        mut self,
        make: impl FnOnce(Identity) -> std::io::Result<Arc<dyn Transport>> + Send + 'static,
    ) -> Self {
        self.transport = Some(Box::new(make));
        self
    }

    /// Starts the node; opens no group.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start(self) -> Result<Node, StartError> {
        Node::start_with(self.config, self.stores, self.transport).await
    }

    /// Starts the node and opens a group on it.
    ///
    /// # Errors
    /// See [`StartError`] and [`OpenError`]; nothing is left running.
    #[doc(alias = "NewRaft")]
    pub async fn start_group(
        self,
        group: GroupId,
        start: Start,
        machine: impl StateMachine + 'static,
    ) -> Result<(Node, Raft), StartGroupError> {
        let node = self.start().await?;
        Self::open(node, group, start, machine).await
    }

    /// Starts the node and opens group 1, whose only member it is at first: it leads after an election timeout.
    /// Others may be added later, if this node listens where they reach it.
    ///
    /// # Errors
    /// As for [`NodeBuilder::start_group`].
    pub async fn start_alone(
        self,
        machine: impl StateMachine + 'static,
    ) -> Result<(Node, Raft), StartGroupError> {
        let node = self.start().await?;
        let start = Start::Bootstrap { members: vec![node.member()] };
        Self::open(node, GroupId(1), start, machine).await
    }

    async fn open(
        node: Node,
        group: GroupId,
        start: Start,
        machine: impl StateMachine + 'static,
    ) -> Result<(Node, Raft), StartGroupError> {
        match node.open_group(group, start, machine).await {
            Ok(raft) => Ok((node, raft)),
            Err(error) => {
                // Dropping it would block this thread.
                node.shutdown().await;
                Err(error.into())
            }
        }
    }
}
