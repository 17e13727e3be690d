//! The synchronous driver of many Raft groups.

mod config;
mod event;
mod host;
mod peer;
mod request;
mod state_machine;
mod steps;

pub use config::{GroupConfig, SessionConfig, SnapshotPolicy};
pub use event::*;
pub use host::{GroupSetup, GroupStatus, Host, OpenError};
pub use peer::{
    Lane, PeerBody, PeerMessage, SnapshotAck, SnapshotChunk, decode_peer_message, encode_peer_message,
};
pub use request::{Answer, Consistency, Dedupe, LeaderHint, Request, RequestError, SessionId, Ticket};
pub use state_machine::{BatchEnd, Command, MachineError, Recovered, SnapshotSource, StateMachine};
pub use steps::*;
