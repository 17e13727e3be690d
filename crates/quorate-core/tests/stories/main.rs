//! Stories told with a few replicas: the rules of the Raft paper, one by one, and the safety and liveness bugs that other
//! implementations had (the name of such a test begins with the project and the number of its issue).
//!
//! `docs/coverage-raft-paper.md` and `docs/coverage-peers-bugs.md` list all rules and all bugs, with those that have
//! their test elsewhere.

#![expect(clippy::unwrap_used, reason = "in a test's helpers, as in its body")]

mod group;
mod hashicorp_traps;
mod limits;
mod paper_rules;
mod peers_elections;
mod peers_members;
mod peers_reads;
mod peers_replication;
mod peers_snapshots;
