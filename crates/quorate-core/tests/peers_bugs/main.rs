//! Safety and liveness bugs that other implementations had, each told to this core: the name of a test begins with
//! the project and the number of its issue. `docs/coverage-peers-bugs.md` lists all of them, with those that
//! cannot concern a core and those that have their story elsewhere.

#![expect(clippy::unwrap_used, reason = "in a test's helpers, as in its body")]

mod elections;
mod group;
mod members;
mod reads;
mod replication;
mod snapshots;
