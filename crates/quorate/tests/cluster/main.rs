//! Whole clusters in one process: real threads and files, on the in-memory network and on TCP.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

mod failures;
mod forwarding;
mod gathering;
mod handle;
mod harness;
mod lifecycle;
mod membership;
mod neighbours;
mod offline;
mod parts;
mod reads;
mod restoring;
mod scenarios;
mod traps;
mod typed;
