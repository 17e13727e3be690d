//! Whole clusters in one process: real threads and files, on the in-memory network and on TCP.

mod failures;
mod harness;
mod lifecycle;
mod membership;
