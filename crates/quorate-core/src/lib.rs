//! Raft for one group as a deterministic state machine without I/O.

mod apply;
mod candidate;
mod codec;
mod config;
mod entry;
mod error;
mod event;
mod feeding;
mod fetches;
mod follower;
mod gate;
mod leader;
mod log;
mod membership;
mod message;
mod outbox;
mod progress;
mod quorum;
mod raw_node;
mod read;
mod ready;
mod rng;
mod role;
mod shared;
mod status;
mod types;
mod writes;

pub use codec::{
    DecodeError, decode_entry, decode_membership, decode_message, decode_snapshot_meta, encode_entry,
    encode_membership, encode_message, encode_snapshot_meta, encoded_entry_len,
};
pub use config::{Config, ConfigError};
pub use entry::{Entry, EntryPayload};
pub use event::{RaftEvent, RoleName, RoleReason, VoteRefusal};
pub use membership::{
    ADDRESS_BYTES_MAX, InvalidMembership, MEMBERS_MAX, Member, MemberRole, Membership, MembershipChange,
};
pub use message::{Append, AppendReply, Message, MessageBody, SnapshotMeta, VoteRequest};
pub use raw_node::{
    ChangeError, ProposeError, RawNode, ReadError, Rejected, RestoreError, Restored, SnapshotOutcome,
    TransferError,
};
pub use ready::{Fetch, Persist, PersistToken, ReadOutcome, ReadTicket, Ready};
pub use status::{ProgressName, ProgressStatus, Status};
pub use types::{GroupId, HardState, LogId, LogIndex, MonoTime, NodeId, ReplicaId, Term};
