//! Tables: one rule of Raft each, with every row that could go wrong. The stories are in the golden
//! scripts; here a replica is put into a state directly, is told one thing, and answers.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]
#![expect(clippy::type_complexity, reason = "the columns of a table are a tuple")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a table looks at one kind of message")]

mod appends;
mod elections;
mod leaders;
mod replica;
mod roles;
mod snapshots;
mod votes;
