//! Raft for one group as a deterministic state machine without I/O: inputs in, one [`Ready`] out.
//!
//! ```text
//!   tick, step, propose, read, …  ──►  RawNode  ──►  Ready { persist, send, restore, apply, reads, fetch, events }
//!   on_persisted, on_applied,     ◄──────────────────  one completion per lane, in any order
//!   on_fetched, report_snapshot
//! ```
//!
//! * No clock, thread, file, socket, global chance or hash order: the same inputs give the same
//!   outputs. Time is an argument; chance is a seed.
//! * A message that promises something stays inside until the write that makes it true is reported
//!   durable: "sent before persisted" cannot be written.
//! * Nothing a peer or a user says can panic it: it is refused with a reason ([`Rejected`],
//!   [`ProposeError`], …). A caller that breaks the contract of [`Ready`] meets an assertion.
//! * A [`RawNode`] is `Clone + Eq + Hash`: a checker can fork it and recognise it.
//!
//! The rules, where they come from and which test shows them are in `docs/protocol.md`.
//!
//! # Three replicas in one loop
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::Arc;
//!
//! use quorate_core::{
//!     Config, EntryPayload, LogId, Member, MemberRole, Membership, Message, MonoTime, NodeId, RawNode,
//!     ReplicaId, Restored, RoleName,
//! };
//!
//! // Who they are. A real replica reads this (and all of `Restored`) back from its disk.
//! let member = |node| Member {
//!     node: NodeId(node),
//!     role: MemberRole::Voter,
//!     peer_address: format!("host{node}:7000"),
//!     client_address: String::new(),
//! };
//! let members = Arc::new(Membership::initial((1..=3).map(member).collect())?);
//! let mut replicas = BTreeMap::new();
//! for id in members.voters() {
//!     let memberships = vec![(LogId::default(), Arc::clone(&members))];
//!     let restored = Restored { memberships, ..Restored::default() };
//!     replicas.insert(id, RawNode::new(Config::new(id), restored, MonoTime(0))?);
//! }
//!
//! let mut applied: BTreeMap<ReplicaId, Vec<String>> = BTreeMap::new();
//! let mut proposed = false;
//! for millis in (0..5_000).step_by(50) {
//!     let now = MonoTime::from_millis(millis);
//!     let mut wire: Vec<Message> = Vec::new();
//!     for (id, replica) in &mut replicas {
//!         replica.tick(now);
//!         if replica.status().role == RoleName::Leader && !proposed {
//!             proposed = replica.propose(now, "hello".into()).is_ok();
//!         }
//!         while replica.has_ready() {
//!             let ready = replica.ready();
//!             wire.extend(ready.send);
//!             if let Some(persist) = ready.persist {
//!                 // A real replica writes it and syncs, and reports it when that is done.
//!                 replica.on_persisted(now, persist.token);
//!             }
//!             for entry in &ready.apply {
//!                 if let EntryPayload::Command(command) = &entry.payload {
//!                     applied.entry(*id).or_default().push(String::from_utf8_lossy(command).into());
//!                 }
//!                 replica.on_applied(now, entry.index());
//!             }
//!         }
//!     }
//!     for message in wire {
//!         let (from, to) = (message.from, message.to);
//!         if let Some(replica) = replicas.get_mut(&to) {
//!             replica.step(now, from, message).ok();
//!         }
//!     }
//! }
//! assert!((1..=3).all(|id| applied[&ReplicaId(id)] == ["hello"]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod apply;
mod aside;
mod candidate;
mod change;
mod changing;
mod chunks;
mod codec;
mod config;
mod entries;
mod entry;
mod error;
mod event;
mod feeding;
mod fetches;
mod follower;
mod followers;
mod forced_recovery;
mod gate;
mod joint;
mod label;
mod leader;
mod lease;
mod log;
mod membership;
mod message;
mod outbox;
#[doc(hidden)]
pub mod planted;
mod progress;
mod promotion;
mod quiescence;
mod quorum;
mod raw_node;
mod read;
mod ready;
mod receiving;
mod replica_ids;
mod rng;
mod role;
mod shared;
mod snapshot_wish;
mod status;
mod transfer;
mod transitions;
mod types;
mod voting;
mod witness;
mod writes;

pub use change::{MembershipChange, MembershipTransition};
pub use codec::{
    DecodeError, decode_entry, decode_membership, decode_message, decode_snapshot_meta, encode_entry,
    encode_membership, encode_message, encode_snapshot_meta, encoded_entry_len,
};
pub use config::{Config, ConfigError};
pub use entries::Entries;
pub use entry::{Entry, EntryPayload};
pub use event::{
    EventDetail, RaftEvent, ReadFailure, RoleName, RoleReason, SnapshotTaken, TransferOutcome, VoteRefusal,
};
pub use forced_recovery::{ForcedRecovery, Recovered, RecoveryAudit, RecoveryRefused, force_recovery};
pub use joint::Joint;
pub use label::EventLabel;
pub use membership::{ADDRESS_BYTES_MAX, InvalidMembership, MEMBERS_MAX, Member, MemberRole, Membership};
pub use message::{Append, AppendReply, Message, MessageBody, SnapshotMeta, VoteRequest};
pub use raw_node::{
    ChangeError, ProposeError, RawNode, ReadError, Rejected, RestoreError, Restored, SnapshotOutcome,
    SnapshotRequestError, TransferError,
};
pub use ready::{Fetch, Persist, PersistToken, ReadOutcome, ReadTicket, Ready};
pub use replica_ids::NEW_REPLICAS_PER_STEP_MAX;
pub use status::{ProgressName, ProgressStatus, Status};
pub use types::{GroupId, HardState, LogId, LogIndex, MonoTime, NodeId, ReplicaId, Term};
