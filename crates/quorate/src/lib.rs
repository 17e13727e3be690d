//! Replicated state machines on Raft.

mod config;
mod node;
mod raft;

pub use config::{ClusterId, ConfigError, NodeConfig, QueueConfig, Storage, TransportConfig};
pub use node::{Node, NodeStats, OpenError, Start, StartError, TransportStats};
pub use raft::{Applied, Changed, Pending, Queried, Raft, RaftEvents, Timeout};

pub use bytes::Bytes;
pub use quorate_core::{
    ChangeError, Config as CoreConfig, GroupId, HardState, LogId, LogIndex, Member, MemberRole, Membership,
    MembershipChange, NodeId, ProgressName, ProgressStatus, ProposeError, RaftEvent, ReplicaId, RoleName,
    RoleReason, SnapshotMeta, Term,
};
pub use quorate_host::{
    BatchEnd, Command, Consistency, Dedupe, GroupConfig, GroupStatus, LeaderHint, MachineError, Recovered,
    RequestError, SessionConfig, SessionId, SnapshotPolicy, SnapshotSource, StateMachine,
};
pub use quorate_storage::{Damage, LogError, LogStats, SnapshotError};
