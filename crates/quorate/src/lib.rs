//! Replicated state machines on Raft.

mod config;
mod node;
mod raft;
mod runtime;
mod stores;
mod transport;

pub use config::{ClusterId, ConfigError, NodeConfig, QueueConfig, Storage, TransportConfig};
pub use node::{Node, NodeStats, OpenError, RemoveError, Start, StartError};
pub use raft::{Applied, Changed, Pending, Queried, Raft, RaftEvents, Timeout};
pub use stores::StoreError;
pub use transport::{
    HandshakeError, Identity, Inbound, MemoryNetwork, MemoryTransport, PeerStatus, Refusal, TcpTransport,
    Transport, TransportStats,
};

pub use bytes::Bytes;
pub use quorate_core::{
    ChangeError, Config as CoreConfig, GroupId, HardState, LogId, LogIndex, Member, MemberRole, Membership,
    MembershipChange, NodeId, ProgressName, ProgressStatus, ProposeError, RaftEvent, ReplicaId, RoleName,
    RoleReason, SnapshotMeta, Term,
};
pub use quorate_host::{
    BatchEnd, Command, Consistency, Dedupe, GroupConfig, GroupStatus, Lane, LeaderHint, MachineError,
    Outbound, PeerBody, PeerMessage, RecoverError, Recovered, RequestError, SessionConfig, SessionId,
    SnapshotPolicy, SnapshotSource, StateMachine,
};
pub use quorate_storage::{Damage, DataDirError, LogError, LogStats, SnapshotError, WalConfig};
