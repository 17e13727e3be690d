//! Stories about real processes: `quorate serve`, `quorate demo` and the commands, started, killed and
//! started again the way a user or a bad day would do it. Everything below these processes is tested
//! in its own crate; here it is the wiring.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod bench;
mod by_hand;
mod commands;
mod damage;
mod demo;
mod descriptors;
mod exits;
#[path = "../shared/harness.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod harness;
mod lease;
mod misuse;
mod offline;
mod replace;
mod storm;
mod unread;
