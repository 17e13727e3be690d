//! The synchronous driver of many Raft groups.

mod admission;
mod applier;
mod bytes_reader;
mod command;
mod config;
mod deadlines;
mod event;
mod host;
mod log_fetcher;
mod log_lane;
mod log_writer;
mod pace;
mod peer;
mod reads;
mod receiving;
mod recovery;
mod replica;
mod request;
mod sending;
mod sessions;
mod snapshot_content;
mod snapshots;
mod snapshotter;
mod state_machine;
mod streams;
mod waiting;

pub use applier::{Applier, RecoveredMachine};
pub use config::{GroupConfig, HostConfig, SessionConfig, SnapshotPolicy};
pub use event::*;
pub use host::{GroupSetup, GroupStatus, Host, OpenError};
pub use log_fetcher::LogFetcher;
pub use log_writer::LogWriter;
pub use peer::{
    Lane, PeerBody, PeerMessage, SnapshotAck, SnapshotChunk, SnapshotVerdict, decode_peer_message,
    encode_peer_message,
};
pub use recovery::{RecoverError, RecoveredGroup, bootstrap_batch, join_batch, recover_group};
pub use request::{Answer, Consistency, Dedupe, LeaderHint, Request, RequestError, SessionId, Ticket};
pub use snapshotter::Snapshotter;
pub use state_machine::{BatchEnd, Command, MachineError, Recovered, SnapshotSource, StateMachine};
