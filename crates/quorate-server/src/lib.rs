//! The Quorate key-value server: HTTP/1.1 and gRPC on one port, over Raft groups.

mod announce;
mod certificates;
mod config;
mod convert;
pub mod engine_fjall;
mod error;
mod forward;
mod gate;
mod grpc;
mod http;
mod json;
mod listener;
mod members;
mod metrics;
mod origin;
mod query;
mod room;
mod server;
mod service;
mod startup;

pub use config::{EngineKind, InitialMember, Limits, ServerConfig, StartMode, Timings};
pub use quorate::{ClusterId, HostConfig, NodeId, PemSource, SnapshotPolicy, TlsConfig, TlsLoadError};
pub use server::{Server, ServerFailure, StartError};
