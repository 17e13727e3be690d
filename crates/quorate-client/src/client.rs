//! The client.

use std::time::Duration;

use bytes::Bytes;

pub use quorate_kv::{Condition, Item};

use crate::error::{ClientError, ConnectError};
use crate::proto;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How long one call may take, retries included. Default 10 s.
    pub deadline: Duration,
    /// How long one node may take to answer before another is asked. Default 3 s.
    pub attempt_timeout: Duration,
    /// How long connecting to one node may take. Default 1 s.
    pub connect_timeout: Duration,
    /// The first pause between retries; doubles, with jitter. Default 10 ms.
    pub backoff_min: Duration,
    /// The longest pause between retries. Default 500 ms.
    pub backoff_max: Duration,
    /// The most requests in flight; more wait their turn. Default 1,024.
    pub in_flight_max: usize,
    /// Refuse to talk to nodes of another cluster.
    pub cluster_id: Option<u64>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(500),
            in_flight_max: 1024,
            cluster_id: None,
        }
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// As fresh as any answer or acknowledgement given before the question was asked.
    #[default]
    Linearizable,
    /// Whatever the answering node has applied, at once.
    Stale,
}

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

/// Which keys to scan.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    /// From this key on.
    pub start: Bytes,
    /// Up to and without this key; empty: to the end.
    pub end: Bytes,
    /// At most this many; 0: as many as the server gives at once.
    pub limit: u32,
    /// How fresh.
    pub consistency: Consistency,
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

/// A cluster's client. Cheap to clone; clones share connections, the session and the limits.
#[derive(Clone, Debug)]
pub struct Client {}

impl Client {
    /// A client for the cluster that has these nodes (`host:port` or `http://host:port`, some are
    /// enough). Connects when first used; must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect<I>(endpoints: I, options: ClientOptions) -> Result<Self, ConnectError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        unimplemented!("{}{options:?}", endpoints.into_iter().count())
    }
    /// Sets a key.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Written, ClientError> {
        self.put_if(key, value, Condition::Any).await
    }
    /// Sets a key if `condition` holds.
    ///
    /// # Errors
    /// `ConditionFailed`, or see [`ClientError`].
    pub async fn put_if(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<Written, ClientError> {
        unimplemented!("{:?}{:?}{condition:?}", key.into(), value.into())
    }
    /// Sets a key to `value` if it holds `expected` (`None`: if it is not there).
    ///
    /// # Errors
    /// `ConditionFailed`, or see [`ClientError`].
    pub async fn compare_and_swap(
        &self,
        key: impl Into<Bytes>,
        expected: Option<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Written, ClientError> {
        self.put_if(key, value, expected.map_or(Condition::Absent, Condition::Value)).await
    }
    /// Removes a key; one that is not there is removed at once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Written, ClientError> {
        self.delete_if(key, Condition::Any).await
    }
    /// Removes a key if `condition` holds.
    ///
    /// # Errors
    /// `ConditionFailed`, or see [`ClientError`].
    pub async fn delete_if(
        &self,
        key: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<Written, ClientError> {
        unimplemented!("{:?}{condition:?}", key.into())
    }
    /// Reads a key, linearizably.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Item>, ClientError> {
        Ok(self.get_with(key, Consistency::Linearizable).await?.value)
    }
    /// Reads a key as fresh as asked for.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Read<Option<Item>>, ClientError> {
        unimplemented!("{:?}{consistency:?}", key.into())
    }
    /// Reads the first part of a range.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn scan(&self, options: ScanOptions) -> Result<Read<Page>, ClientError> {
        unimplemented!("{options:?}")
    }
    /// The endpoints as they were given, normalised to `host:port`.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        unimplemented!()
    }
    /// What one node, by its position in `endpoints`, says about itself. Not retried.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status_of(&self, endpoint: &str) -> Result<proto::StatusResponse, ClientError> {
        unimplemented!("{endpoint:?}")
    }
    /// What some node of the cluster says about itself.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<proto::StatusResponse, ClientError> {
        unimplemented!()
    }
    /// The members, as the leader knows them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn member_list(&self) -> Result<ClusterMembers, ClientError> {
        unimplemented!()
    }
    /// Adds a node as a learner (what `--join` does). Asking again for the same node is fine.
    ///
    /// # Errors
    /// `Rejected` with `MembershipRefused`, or see [`ClientError`].
    pub async fn member_add(
        &self,
        node_id: u64,
        peer_address: &str,
        client_address: &str,
    ) -> Result<MemberAdded, ClientError> {
        unimplemented!("{node_id}{peer_address}{client_address}")
    }
    /// Makes a learner that has caught up a voter; returns the position in the log.
    ///
    /// # Errors
    /// `Rejected` with `MembershipRefused`, or see [`ClientError`].
    pub async fn member_promote(&self, node_id: u64) -> Result<u64, ClientError> {
        unimplemented!("{node_id}")
    }
    /// Removes a member; returns the position in the log.
    ///
    /// # Errors
    /// `Rejected` with `MembershipRefused`, or see [`ClientError`].
    pub async fn member_remove(&self, node_id: u64) -> Result<u64, ClientError> {
        unimplemented!("{node_id}")
    }
    /// Changes where a member is reached; returns the position in the log.
    ///
    /// # Errors
    /// `Rejected` with `MembershipRefused`, or see [`ClientError`].
    pub async fn member_update(
        &self,
        node_id: u64,
        peer_address: &str,
        client_address: &str,
    ) -> Result<u64, ClientError> {
        unimplemented!("{node_id}{peer_address}{client_address}")
    }
    /// Hands leadership to `node_id` (`None`: to the best candidate) and returns the node that leads.
    ///
    /// # Errors
    /// `Rejected` with `TransferFailed`, or see [`ClientError`].
    pub async fn transfer_leadership(&self, node_id: Option<u64>) -> Result<u64, ClientError> {
        unimplemented!("{node_id:?}")
    }
}
