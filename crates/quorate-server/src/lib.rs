//! The Quorate key-value server: HTTP/1.1 and gRPC on one port, over Raft groups.

mod config;
pub mod engine_fjall;
mod server;

pub use config::{EngineKind, InitialMember, Limits, ServerConfig, StartMode, Timings};
pub use quorate::{ClusterId, NodeId, SnapshotPolicy};
pub use server::{Server, ServerFailure, StartError};
