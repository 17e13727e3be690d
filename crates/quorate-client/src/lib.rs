//! Client library of the Quorate key-value store.
//!
//! A [`Client`] speaks gRPC to any of a cluster's nodes, remembers which one leads, gives every
//! write a place in a session so that sending it again cannot apply it twice, and retries until a
//! deadline: losing a node, even the leader, is a short wait and not an error.
//!
//! ```no_run
//! use quorate_client::{Client, ClientOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(["127.0.0.1:8001", "127.0.0.1:8002"], ClientOptions::default())?;
//! let written = client.put("motto", "small steps").await?;
//! let value = client.get("motto").await?.expect("it was just written");
//! assert_eq!((&value.value[..], value.version), (&b"small steps"[..], written.version));
//! # Ok(())
//! # }
//! ```
//!
//! What cannot be done in time is an error that says whether it may have happened:
//!
//! ```
//! use std::time::Duration;
//!
//! use quorate_client::{Client, ClientError, ClientOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Nobody listens here any more.
//! let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
//! let options = ClientOptions { deadline: Duration::from_millis(100), ..ClientOptions::default() };
//! let client = Client::connect([nobody.to_string()], options)?;
//! let error = client.put("motto", "small steps").await.unwrap_err();
//! assert!(matches!(error, ClientError::NotApplied { .. }), "{error}");
//! # Ok(())
//! # }
//! ```

mod answer;
mod client;
mod connection;
mod error;
mod options;
mod retry;
mod session;
mod targets;

pub use answer::{ClusterMembers, MemberAdded, Page, Read, Written};
pub use client::Client;
pub use error::{ClientError, ConnectError, ERROR_METADATA, ErrorCode, Rejection, error_of};
pub use options::{ClientOptions, Consistency, ScanOptions};
pub use quorate_kv::{Condition, Item};

/// The generated protocol, for programs that want to speak it themselves.
pub mod proto {
    #![expect(missing_docs, reason = "generated; the comments are in proto/quorate/v1/quorate.proto")]
    #![allow(
        clippy::all,
        clippy::disallowed_types,
        clippy::missing_errors_doc,
        clippy::too_many_lines,
        clippy::use_self,
        unreachable_pub
    )]
    include!("generated/quorate.v1.rs");
}
