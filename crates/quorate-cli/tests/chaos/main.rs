//! Chaos: real nodes on real sockets and disks, while everything goes wrong that can be made to go wrong from
//! outside, and clients write down what they asked and what they were told.
//!
//! ```text
//!   clients     put, get, delete, compare-and-swap, all the time: half in sessions, some with idempotency keys
//!      │                                                  └──► history: is there one order that explains it?
//!      ▼                                                  └──► every write that was acknowledged: is it there?
//!   ┌──────┐  wires  ┌──────┐
//!   │node 1│◄───┬───►│node 2│    SIGKILL, SIGSTOP            kills.rs, pause.rs
//!   └──────┘    │    └──────┘    wires cut, slow, lossy      partitions.rs, noise.rs, namespaces.rs
//!           ┌───┴──┐             disks full, failing, slow   disks.rs
//!           │node 3│
//!           └──────┘             then: healed; writable again within `RECOVERY_BOUND`
//! ```
//!
//! Every story counts what it did to the nodes and fails if nothing was done; each waits until there were
//! `QUORATE_CHAOS_OPERATIONS` operations (5,000). Choices come from `QUORATE_CHAOS_SEED`, which every story prints:
//! the same seed makes the same choices, but processes are not a simulator, so it may take some runs to see a
//! failure again. Four stories always run; `QUORATE_CHAOS=all` runs the others too, `QUORATE_CHAOS_ROUNDS` makes
//! all of them longer or shorter.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod clients;
mod dice;
mod disks;
#[path = "../shared/harness.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod harness;
#[path = "../../src/demo/hello.rs"]
mod hello;
mod keyed;
mod kills;
mod namespaces;
mod noise;
mod optional;
mod partitions;
mod pause;
mod probes;
mod scene;
mod wires;
