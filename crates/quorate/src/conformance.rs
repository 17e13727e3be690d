//! Suites that every implementation of a seam must pass; for those who write their own.

pub mod transport;
