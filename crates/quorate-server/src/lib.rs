//! The Quorate key-value server: HTTP/1.1 and gRPC on one port, over Raft groups.
//!
//! ```
//! use quorate_client::{Client, ClientOptions};
//! use quorate_server::{NodeId, Server, ServerConfig, StartMode};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let config = ServerConfig::new(NodeId(1), directory.path().join("node-1"), StartMode::Bootstrap);
//! let server = Server::start(config).await?;
//! let client = Client::connect([server.client_address().to_string()], ClientOptions::default())?;
//! let written = client.put("motto", "small steps").await?;
//! let found = client.get("motto").await?.expect("it was just written");
//! assert_eq!((&found.value[..], found.version), (&b"small steps"[..], written.version));
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod announce;
mod certificates;
mod config;
mod connections;
mod convert;
mod descriptors;
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
pub mod offline;
mod origin;
mod port;
mod process_figures;
mod query;
mod room;
mod server;
mod service;
mod startup;
mod stream_room;

pub use config::{EngineKind, InitialMember, Limits, ServerConfig, StartMode, Timings};
pub use quorate::{ClusterId, HostConfig, NodeId, PemSource, SnapshotPolicy, TlsConfig, TlsLoadError};
pub use server::{Server, ServerFailure, StartError};
