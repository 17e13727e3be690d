//! Real servers on loopback, asked over real sockets: every endpoint, every code, and what happens when nodes
//! come and go.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod client;
mod cluster;
mod freshness;
mod grpc_api;
mod http_api;
mod peer_tls;
mod starting;
mod support;
