//! Replicated state machines on Raft: implement [`StateMachine`], start a [`Node`] in each process, open a
//! group, and [`Raft::apply`] commands. What is acknowledged is on the disks of a majority.
//!
#![doc = "```no_run"]
#![doc = include_str!("../examples/kv_40_lines.rs")]
#![doc = "```"]
//!
//! For a first try one node in memory is enough, which is a majority of itself:
//!
//! ```
//! use std::{error::Error, io::Read, time::Duration};
//! use quorate::*;
//!
//! /// How many bytes were said so far.
//! #[derive(Default)]
//! struct Said(usize);
//!
//! impl StateMachine for Said {
//!     fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
//!         self.0 += command.data.len();
//!         Ok(self.0.to_string().into())
//!     }
//!     fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
//!         Ok(self.0.to_string().into())
//!     }
//!     fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
//!         Ok(Box::new(BytesSnapshot::new(self.0.to_string())))
//!     }
//!     fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
//!         let text = std::io::read_to_string(content)?;
//!         self.0 = text.parse().map_err(|error| MachineError::with("a number was stored", error))?;
//!         Ok(())
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn Error>> {
//!     let config = NodeConfig { node: NodeId(1), ..NodeConfig::default() };
//!     let (node, raft) = Node::builder(config).start_alone(Said::default()).await?;
//!     raft.wait_leader_ready(Duration::from_secs(10)).await?;
//!     assert_eq!(raft.apply("hello").await?.response, "5");
//!     assert_eq!(raft.query("", Consistency::Linearizable).await?.response, "5");
//!     node.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! # What there is
//!
//! ```text
//!   your commands ──► Raft::apply ──► host thread ──► log thread (one sync for all groups)
//!                          ▲              │
//!                          │              ├─► transport ──► other nodes
//!                          └── apply threads ◄── committed entries       your StateMachine
//! ```
//!
//! * [`Node`]: one process with one data directory, any number of groups over one log and two
//!   connections per peer.
//! * [`NodeBuilder`]: the parts of a node one by one, with stores and a transport of your own.
//! * [`Raft`]: the handle of one group on this node: commands, linearizable and stale queries, membership,
//!   leadership, snapshots, status and events.
//! * [`Transport`]: TCP by default, with mutual TLS behind the feature `tls` (`NodeConfig::peer_tls`); [`MemoryNetwork`] for tests with faults; [`conformance`] for your own.
//!
//! # Many groups on one node
//!
//! | they share | and each |
//! |---|---|
//! | the log and its syncs | waits for a sync of whatever else was there, at most 64 MiB of each other group |
//! | the apply threads (`NodeConfig::apply_threads`) | is on one at a time. A state machine that stands still keeps its thread and stops nobody else, until as many do as there are threads |
//! | the queues (`NodeConfig::queues`) | holds no more of one than it leaves free: what one group asks for makes nobody else `Busy` |
//! | the thread that reads | waits there for old entries and pieces of snapshots of the others. Keep [`SnapshotSource`] from standing still: no follower of any group that lags behind is helped meanwhile |
//!
//! A machine that never comes back keeps its node from ending: [`Node::shutdown`] waits for it,
//! because what it writes is its own affair until then. End the process instead: nothing that was
//! acknowledged is lost.
//!
//! # Who finds what where
//!
//! | HashiCorp Raft | here |
//! |---|---|
//! | `FSM` | [`StateMachine`] |
//! | `Apply`, `Barrier` | [`Raft::apply`], [`Raft::barrier`]; [`Raft::forwarding`] |
//! | `VerifyLeader` | [`Raft::verify_leader`]; to read, [`Raft::query`] with a [`Consistency`] |
//! | `AddNonvoter`, `AddVoter`, `DemoteVoter`, `RemoveServer` | [`Raft::add_learner`], [`Raft::add_voter`], [`Raft::demote`], [`Raft::remove`] |
//! | `Leader`, `State`, `Stats`, `LeaderCh` | [`Raft::leader`], [`Raft::state`], [`Raft::stats`], [`Raft::leader_changes`] |
//! | `RecoverCluster`, `HasExistingState`, `GetConfiguration` | [`recover_cluster`], [`has_existing_state`], [`inspect`], [`Raft::membership`] |
//! | `ReloadConfig` | [`Raft::update_config`] |
//! | `LeadershipTransfer`, `Snapshot`, `Restore` | [`Raft::transfer_leadership`], [`Raft::snapshot`], [`Raft::restore`] |
//! | `NewRaft` with its six parts | [`Node::builder`]; `LogStore` and `StableStore` are one [`LogStoreKind`] |
//! | `BootstrapCluster` | [`Start::Bootstrap`] |
//! | `RegisterObserver` | [`Raft::events`], [`Raft::watch`] |
//!
//! Not here: what commands mean (yours), the Raft rules (`quorate-core`), files (`quorate-storage`), what happens
//! between an event and its consequences (`quorate-host`).

mod builder;
mod bytes_snapshot;
mod config;
pub mod conformance;
mod feed;
mod forwarding;
mod gathering;
mod members;
mod members_file;
mod node;
mod offline;
mod raft;
mod reading;
mod restoring;
mod runtime;
mod state;
mod stored_snapshot;
mod stores;
mod survivor;
mod transport;
mod typed;

pub use builder::{NodeBuilder, StartGroupError};
pub use bytes_snapshot::BytesSnapshot;
pub use config::{ClusterId, ConfigError, NodeConfig, QueueConfig, Storage, TransportConfig};
pub use feed::{ReplicaStopped, StatusWatch};
pub use members_file::{MembersFileError, members_from_json, members_from_toml};
pub use node::{Node, NodeStats, OpenError, RemoveError, Start, StartError};
pub use offline::{
    GroupInspection, Inspection, Offline, OfflineError, RecoverOptions, has_existing_state, inspect,
    recover_cluster,
};
pub use raft::{Applied, Changed, Pending, Queried, Raft, RaftEvents, Timeout};
pub use restoring::{ExternalState, RestoreError};
pub use state::{LeaderChanges, LeaderInfo, Leadership, RaftState, RaftStats};
pub use stored_snapshot::{ReadSnapshotError, StoredSnapshot};
pub use stores::{LogStoreKind, SnapshotStoreKind, StoreError, StorePlace};
pub use survivor::{SurvivorError, recovery_with};
pub use transport::{
    AddressResolver, HandshakeError, Identity, Inbound, MemoryNetwork, MemoryTransport, PeerStatus, Refusal,
    TcpTransport, Transport, TransportStats,
};
#[cfg(feature = "tls")]
pub use transport::{CertificateProblem, PeerTls, PemSource, TlsConfig, TlsError, TlsLoadError, TlsPart};

pub use typed::{Protocol, TypedError, TypedRaft};

pub use bytes::Bytes;
pub use quorate_core::{
    ChangeError, Config as CoreConfig, EventLabel, ForcedRecovery, GroupId, HardState, LogId, LogIndex,
    Member, MemberRole, Membership, MembershipChange, MembershipTransition, NodeId, ProgressName,
    ProgressStatus, ProposeError, RaftEvent, RecoveryAudit, RecoveryRefused, ReplicaId, RoleName, RoleReason,
    SnapshotMeta, Term,
};
pub use quorate_host::{
    BatchEnd, Command, Consistency, Dedupe, DiskHealth, GroupConfig, GroupStatus, HostConfig, Lane,
    LatencyHistogram, LeaderHint, MachineError, Outbound, Outcome, PeerBody, PeerMessage, RecoverError,
    Recovered, RequestError, SessionConfig, SessionId, SnapshotContent, SnapshotDue, SnapshotPolicy,
    SnapshotSource, SnapshotTrigger, StageLatencies, StateMachine,
};
#[cfg(feature = "redb")]
pub use quorate_storage::RedbConfig;
pub use quorate_storage::{
    Damage, DataDir, DataDirError, Disk, KnownPeers, LogError, LogKind, LogStats, LogStore, MemDisk, OsDisk,
    SnapshotError, SnapshotStore, WalConfig, wal_tools,
};

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
