//! What a caller gets.

use bytes::Bytes;
use quorate_kv::Item;

use crate::proto;

/// A write that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its position in the log.
    pub index: u64,
    /// The key's version now (for a delete: the version it took).
    pub version: u64,
    /// Whether the key was there before.
    pub existed: bool,
}

/// An answer together with the position in the log that it reflects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// Everything up to here had been applied where the read was answered.
    pub index: u64,
    /// The answer.
    pub value: T,
}

/// A part of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In key order.
    pub items: Vec<Item>,
    /// Where to go on; `None`: that was all.
    pub next_start: Option<Bytes>,
}

/// The members of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterMembers {
    /// The cluster.
    pub cluster_id: u64,
    /// Where in the log this membership is.
    pub index: u64,
    /// By replica.
    pub members: Vec<proto::Member>,
}

/// A node was added as a learner.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberAdded {
    /// Where in the log.
    pub index: u64,
    /// The cluster it now belongs to.
    pub cluster_id: u64,
    /// The replica it hosts.
    pub replica_id: u64,
    /// Whom it may hear from first.
    pub seeds: Vec<proto::Member>,
}
