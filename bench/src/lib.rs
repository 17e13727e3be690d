//! Groups of replicas in one process: ours and raft-rs's, driven alike.
//!
//! ```text
//!   round(batch):  propose × batch on the leader
//!                  until nobody has anything to say:
//!                      every replica: ready ─► copy entries to a list ("disk") ─► persisted ─► applied
//!                      every message: step at its receiver
//! ```
//!
//! * A round is over when every replica has applied every entry, and it checks that.
//! * Both keep the same "disk": a list in memory that is appended to and compacted every
//!   [`COMPACT_EVERY`] entries. raft-rs also reads what it sends from there; ours does not read it.
//! * Both run with PreVote and CheckQuorum and the same limits.
//! * The caller holds a command as `Bytes`, as one that came from a socket is. Ours takes it as it
//!   is; raft-rs's `propose` takes a `Vec<u8>`, so there it is copied.

#![forbid(unsafe_code)]

use bytes::Bytes;

pub mod ours;
pub mod theirs;

/// Replicas drop what they have applied from their logs after this many entries.
pub const COMPACT_EVERY: u64 = 1024;

/// One group of replicas that have elected replica 1.
pub trait Group: Sized {
    /// Who it is, for reports.
    const NAME: &'static str;

    /// A group of `voters` replicas after its election.
    fn new(voters: u64) -> Self;

    /// Proposes `batch` commands with the bytes of `command` and runs until all replicas applied them.
    fn round(&mut self, command: &Bytes, batch: u64);

    /// Messages delivered so far.
    fn messages(&self) -> u64;

    /// Proposes `batch` commands, and takes what the leader has to say to replica 2, but does not
    /// deliver it. The other replicas are served.
    fn prepare_append(&mut self, command: &Bytes, batch: u64);

    /// Delivers that to replica 2, up to and including its answer. Returns the answers it gave.
    fn handle_append(&mut self) -> u64;

    /// Delivers the answers and runs until nothing is left to do.
    fn settle(&mut self);

    /// What the voters' positions say may be committed.
    fn quorum_index(&mut self) -> u64;

    /// Something of the leader's status, so that it cannot be optimised away.
    fn status(&self) -> u64;
}

/// Never inlined, so that callgrind can be told to count only what happens inside.
#[inline(never)]
pub fn measured<R>(work: impl FnOnce() -> R) -> R {
    std::hint::black_box(work())
}
