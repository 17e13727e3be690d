//! The client: finds the leader, gives each write a place in the session, retries until a deadline.
//!
//! Write path, file 1 of 8. Next: `quorate-server/src/service.rs`, on the node that was chosen here.
//!
//! ```text
//!   put ──► place in the session ──► target ──► connection ──► node
//!               │                      ▲                        │
//!               │   same number        └── leader hint, next ◄──┤ not applied
//!               └────────────────────────── again ◄─────────────┘ perhaps applied
//! ```
//!
//! * A write keeps its number over all attempts, so that it is applied once however often it is sent.
//! * A write whose session expired while it may have been applied is `OutcomeUnknown`, never resent.
//! * What waits is bounded: `in_flight_max` calls, and a small queue per connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_kv::{Condition, Item};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::answer::{ClusterMembers, MemberAdded, Page, Read, Written};
use crate::connection::{CallError, Connection, unary};
use crate::error::{ClientError, ConnectError, ErrorCode};
use crate::options::{ClientOptions, Consistency, ScanOptions};
use crate::proto::stream_request::Request;
use crate::proto::stream_response::Response;
use crate::proto::{self, RequestHeader};
use crate::retry::{Attempts, Verdict};
use crate::session::{Place, Session};
use crate::targets::{Target, Targets, parse_endpoint};

/// A cluster's client. Cheap to clone; clones share connections, the session and the limits.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: ClientOptions,
    targets: Targets,
    connections: Mutex<BTreeMap<String, Arc<Slot>>>,
    session: Session,
    in_flight: Semaphore,
}

/// One node's connection. The lock is held while connecting, so that it is done once.
type Slot = tokio::sync::Mutex<Option<Arc<Connection>>>;

/// Remembered connections; a cluster has at most 64 members.
const CONNECTIONS_MAX: usize = 64;

/// How an attempt ended that gave no answer.
enum Unanswered {
    Retry,
    SessionExpired,
    Failed(ClientError),
}

impl Client {
    /// A client for the cluster that has these nodes (`host:port` or `http://host:port`, some are
    /// enough). Connects when first used.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect<I>(endpoints: I, options: ClientOptions) -> Result<Self, ConnectError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let endpoints: Vec<String> =
            endpoints.into_iter().map(|text| parse_endpoint(&text.into())).collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(ConnectError::NoEndpoints);
        }
        let in_flight = Semaphore::new(options.in_flight_max.clamp(1, Semaphore::MAX_PERMITS));
        let shared = Shared {
            options,
            targets: Targets::new(endpoints),
            connections: Mutex::default(),
            session: Session::default(),
            in_flight,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The endpoints as they were given, in the form `host:port`.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.shared.targets.endpoints().to_vec()
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
        let (key, value, condition) = (key.into(), value.into(), condition_to_proto(condition));
        let build = |header, dedupe| {
            Request::Put(proto::PutRequest {
                header: Some(header),
                dedupe: Some(dedupe),
                key: key.clone(),
                value: value.clone(),
                condition: condition.clone(),
            })
        };
        let Response::Put(put) = self.write(build).await? else {
            return Err(unexpected("a put"));
        };
        Ok(Written { index: put.index, version: put.version, existed: put.existed })
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
        let (key, condition) = (key.into(), condition_to_proto(condition));
        let build = |header, dedupe| {
            Request::Delete(proto::DeleteRequest {
                header: Some(header),
                dedupe: Some(dedupe),
                key: key.clone(),
                condition: condition.clone(),
            })
        };
        let Response::Delete(delete) = self.write(build).await? else {
            return Err(unexpected("a delete"));
        };
        Ok(Written { index: delete.index, version: delete.version, existed: delete.existed })
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
        let key = key.into();
        let (consistency, age_max_millis) = consistency_to_proto(consistency);
        let build = |header| {
            let header = Some(header);
            Request::Get(proto::GetRequest { header, key: key.clone(), consistency, age_max_millis })
        };
        let Response::Get(get) = self.read(build).await? else {
            return Err(unexpected("a get"));
        };
        let item = Item { key: key.clone(), value: get.value, version: get.version };
        Ok(Read { index: get.index, value: get.found.then_some(item) })
    }

    /// Reads the first part of a range.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn scan(&self, options: ScanOptions) -> Result<Read<Page>, ClientError> {
        let (consistency, age_max_millis) = consistency_to_proto(options.consistency);
        let build = |header| {
            Request::Scan(proto::ScanRequest {
                header: Some(header),
                start: options.start.clone(),
                end: options.end.clone(),
                limit: options.limit,
                consistency,
                age_max_millis,
            })
        };
        let Response::Scan(scan) = self.read(build).await? else {
            return Err(unexpected("a scan"));
        };
        let items = scan.items.into_iter();
        let items = items.map(|it| Item { key: it.key, value: it.value, version: it.version }).collect();
        let page = Page { items, next_start: scan.more.then_some(scan.next_start) };
        Ok(Read { index: scan.index, value: page })
    }

    /// What one node (`host:port`) says about itself. Not retried.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status_of(&self, endpoint: &str) -> Result<proto::StatusResponse, ClientError> {
        let address = parse_endpoint(endpoint)
            .map_err(|error| ClientError::NotApplied { message: error.to_string() })?;
        let mut attempts = Attempts::new(&self.shared.options);
        let target = Target { address, forward: false };
        let status = self.shared.send(&target, attempts.attempt_deadline(), ask_status).await;
        status.map_err(|error| match attempts.judge(error) {
            Verdict::Fail(error) => error,
            // Asking changes nothing, so there is no unknown outcome.
            Verdict::FollowLeader(_) | Verdict::Again | Verdict::Elsewhere | Verdict::SessionExpired => {
                ClientError::NotApplied { message: attempts.last_message().to_owned() }
            }
        })
    }

    /// What some node of the cluster says about itself.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<proto::StatusResponse, ClientError> {
        self.retry(ask_status).await.map_err(without_effect)
    }

    /// The members, as the leader knows them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn member_list(&self) -> Result<ClusterMembers, ClientError> {
        let list = self
            .retry(|connection, header| {
                let request = proto::MemberListRequest { header: Some(header) };
                async move { unary(connection.cluster().member_list(request).await) }
            })
            .await
            .map_err(without_effect)?;
        Ok(ClusterMembers { cluster_id: list.cluster_id, index: list.index, members: list.members })
    }

    /// Adds a node as a learner (what `--join` does). Asking again for the same node is fine until
    /// it has been promoted.
    ///
    /// # Errors
    /// `Rejected` with `MembershipRefused`, or see [`ClientError`].
    pub async fn member_add(
        &self,
        node_id: u64,
        peer_address: &str,
        client_address: &str,
    ) -> Result<MemberAdded, ClientError> {
        let added = self
            .retry(|connection, header| {
                let request = proto::MemberAddRequest {
                    header: Some(header),
                    node_id,
                    peer_address: peer_address.to_owned(),
                    client_address: client_address.to_owned(),
                };
                async move { unary(connection.cluster().member_add(request).await) }
            })
            .await?;
        Ok(MemberAdded {
            index: added.index,
            cluster_id: added.cluster_id,
            replica_id: added.replica_id,
            seeds: added.seeds,
        })
    }

    /// Makes a learner that has caught up a voter; returns the position in the log.
    ///
    /// # Errors
    /// `Rejected` with `MembershipRefused`, or see [`ClientError`].
    pub async fn member_promote(&self, node_id: u64) -> Result<u64, ClientError> {
        let changed = self
            .retry(|connection, header| {
                let request = proto::MemberPromoteRequest { header: Some(header), node_id };
                async move { unary(connection.cluster().member_promote(request).await) }
            })
            .await?;
        Ok(changed.index)
    }

    /// Removes a member; returns the position in the log.
    ///
    /// # Errors
    /// `Rejected` with `NotFound` or `MembershipRefused`, or see [`ClientError`].
    pub async fn member_remove(&self, node_id: u64) -> Result<u64, ClientError> {
        let changed = self
            .retry(|connection, header| {
                let request = proto::MemberRemoveRequest { header: Some(header), node_id };
                async move { unary(connection.cluster().member_remove(request).await) }
            })
            .await?;
        Ok(changed.index)
    }

    /// Changes where a member is reached; returns the position in the log.
    ///
    /// # Errors
    /// `Rejected` with `NotFound` or `MembershipRefused`, or see [`ClientError`].
    pub async fn member_update(
        &self,
        node_id: u64,
        peer_address: &str,
        client_address: &str,
    ) -> Result<u64, ClientError> {
        let changed = self
            .retry(|connection, header| {
                let request = proto::MemberUpdateRequest {
                    header: Some(header),
                    node_id,
                    peer_address: peer_address.to_owned(),
                    client_address: client_address.to_owned(),
                };
                async move { unary(connection.cluster().member_update(request).await) }
            })
            .await?;
        Ok(changed.index)
    }

    /// Hands leadership to `node_id` (`None`: to the best candidate) and returns the node that leads.
    ///
    /// # Errors
    /// `Rejected` with `TransferFailed`, or see [`ClientError`].
    pub async fn transfer_leadership(&self, node_id: Option<u64>) -> Result<u64, ClientError> {
        let transferred = self
            .retry(|connection, header| {
                let request = proto::TransferLeadershipRequest {
                    header: Some(header),
                    node_id: node_id.unwrap_or_default(),
                };
                async move { unary(connection.cluster().transfer_leadership(request).await) }
            })
            .await?;
        Ok(transferred.leader.map(|leader| leader.node_id).unwrap_or_default())
    }

    /// A write within the session.
    async fn write(
        &self,
        build: impl Fn(RequestHeader, proto::Dedupe) -> Request,
    ) -> Result<Response, ClientError> {
        let mut attempts = Attempts::new(&self.shared.options);
        let _permit = self.admit().await?;
        let mut place: Option<Place<'_>> = None;
        loop {
            let current = match place.take() {
                Some(place) => place,
                None => self.next_place(&mut attempts).await?,
            };
            let send = |connection: Arc<Connection>, header| {
                let request = build(header, current.dedupe());
                async move { connection.call(request).await }
            };
            match self.attempt(&mut attempts, send).await {
                Ok(response) => return Ok(response),
                Err(Unanswered::Retry) => place = Some(current),
                Err(Unanswered::Failed(error)) => return Err(error),
                Err(Unanswered::SessionExpired) => {
                    self.shared.session.on_expired(&current);
                    if attempts.maybe_applied() {
                        return Err(attempts.give_up());
                    }
                }
            }
        }
    }

    /// A number in the session, which is opened if it is not.
    async fn next_place(&self, attempts: &mut Attempts) -> Result<Place<'_>, ClientError> {
        let session = &self.shared.session;
        loop {
            if let Some(place) = session.next_place() {
                return Ok(place);
            }
            let _opening = session.opening.lock().await;
            if let Some(place) = session.next_place() {
                return Ok(place);
            }
            let send = |connection: Arc<Connection>, header| async move {
                let request = proto::OpenSessionRequest { header: Some(header) };
                connection.call(Request::OpenSession(request)).await
            };
            // Opening a session that nobody will use changes nothing that counts.
            match self.attempt(attempts, send).await {
                Ok(Response::OpenSession(opened)) => session.on_opened(opened.session),
                Ok(_) => return Err(unexpected("a new session")),
                Err(Unanswered::Retry | Unanswered::SessionExpired) => attempts.forget(),
                Err(Unanswered::Failed(error)) => return Err(without_effect(error)),
            }
        }
    }

    /// A request that changes nothing.
    async fn read(&self, build: impl Fn(RequestHeader) -> Request) -> Result<Response, ClientError> {
        let _permit = self.admit().await?;
        self.retry(|connection, header| {
            let request = build(header);
            async move { connection.call(request).await }
        })
        .await
        .map_err(without_effect)
    }

    /// Attempts until there is an answer.
    async fn retry<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        send: impl Fn(Arc<Connection>, RequestHeader) -> F,
    ) -> Result<T, ClientError> {
        let mut attempts = Attempts::new(&self.shared.options);
        loop {
            match self.attempt(&mut attempts, &send).await {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Retry | Unanswered::SessionExpired) => {}
                Err(Unanswered::Failed(error)) => return Err(error),
            }
        }
    }

    /// Asks one node; on failure decides whom to ask next, and waits.
    async fn attempt<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        attempts: &mut Attempts,
        send: impl Fn(Arc<Connection>, RequestHeader) -> F,
    ) -> Result<T, Unanswered> {
        let now = || Instant::now().into_std();
        let targets = &self.shared.targets;
        let target = targets.choose(now());
        let error = match self.shared.send(&target, attempts.attempt_deadline(), send).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match attempts.judge(error) {
            Verdict::FollowLeader(leader) => targets.on_not_leader(&target.address, &leader),
            Verdict::Elsewhere => targets.on_failed(&target.address, now()),
            Verdict::Again => {}
            Verdict::SessionExpired => return Err(Unanswered::SessionExpired),
            Verdict::Fail(error) => return Err(Unanswered::Failed(error)),
        }
        attempts.pause().await.map_err(Unanswered::Failed)?;
        Err(Unanswered::Retry)
    }

    async fn admit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, ClientError> {
        let deadline = Instant::now() + self.shared.options.deadline;
        match timeout_at(deadline, self.shared.in_flight.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(ClientError::NotApplied {
                message: "too many requests of this client are in flight: send fewer at once".to_owned(),
            }),
        }
    }
}

impl Shared {
    /// Sends to one node, connecting if need be, until `deadline`.
    async fn send<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        target: &Target,
        deadline: Instant,
        send: impl Fn(Arc<Connection>, RequestHeader) -> F,
    ) -> Result<T, CallError> {
        let address = &target.address;
        let connection = match timeout_at(deadline, self.connection(address)).await {
            Ok(connection) => connection?,
            Err(_) => return Err(CallError::NotSent(format!("{address}: connecting took too long"))),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let header = RequestHeader {
            timeout_millis: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
            no_forward: !target.forward,
            cluster_id: self.options.cluster_id.unwrap_or_default(),
        };
        match timeout_at(deadline, send(connection, header)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::Broken(format!("{address}: no answer in time"))),
        }
    }

    async fn connection(&self, address: &str) -> Result<Arc<Connection>, CallError> {
        let slot = self.slot(address);
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        let connection = Arc::new(Connection::open(address, &self.options).await?);
        *slot = Some(connection.clone());
        Ok(connection)
    }

    fn slot(&self, address: &str) -> Arc<Slot> {
        let mut slots = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(address) {
            return slot.clone();
        }
        if slots.len() >= CONNECTIONS_MAX {
            slots.clear();
        }
        slots.entry(address.to_owned()).or_default().clone()
    }
}

async fn ask_status(
    connection: Arc<Connection>,
    header: RequestHeader,
) -> Result<proto::StatusResponse, CallError> {
    unary(connection.cluster().status(proto::StatusRequest { header: Some(header) }).await)
}

fn condition_to_proto(condition: Condition) -> Option<proto::Condition> {
    use proto::condition::Kind;
    let kind = match condition {
        Condition::Any => return None,
        Condition::Absent => Kind::Absent(true),
        Condition::Present => Kind::Present(true),
        Condition::Version(version) => Kind::Version(version),
        Condition::Value(value) => Kind::Value(value),
    };
    Some(proto::Condition { kind: Some(kind) })
}

/// The level, and how many milliseconds old the answer may be where that counts.
fn consistency_to_proto(consistency: Consistency) -> (i32, u32) {
    match consistency {
        Consistency::Linearizable => (proto::Consistency::Linearizable.into(), 0),
        Consistency::Lease => (proto::Consistency::Lease.into(), 0),
        // Under a millisecond nothing can be old: that is a linearizable read.
        Consistency::Recent(age_max) if age_max.as_millis() == 0 => {
            (proto::Consistency::Linearizable.into(), 0)
        }
        Consistency::Recent(age_max) => {
            let millis = u32::try_from(age_max.as_millis()).unwrap_or(u32::MAX);
            (proto::Consistency::Recent.into(), millis)
        }
        Consistency::Stale => (proto::Consistency::Stale.into(), 0),
    }
}

/// The error of a request that has no effect that counts: its outcome is never unknown.
fn without_effect(error: ClientError) -> ClientError {
    match error {
        ClientError::OutcomeUnknown { message } => ClientError::NotApplied { message },
        ClientError::NotApplied { .. } | ClientError::ConditionFailed { .. } | ClientError::Rejected(_) => {
            error
        }
    }
}

fn unexpected(asked: &str) -> ClientError {
    ClientError::Rejected(crate::error::Rejection {
        code: ErrorCode::Unspecified,
        message: format!("asked for {asked}, the node answered something else: is it a Quorate server?"),
        reason: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawnable<T: Send + 'static>(_future: T) {}

    /// Users spawn calls on a multi-threaded runtime: this compiles or it does not.
    #[test]
    fn calls_can_be_spawned() {
        let client = Client::connect(["127.0.0.1:1"], ClientOptions::default()).unwrap();
        let cloned = || client.clone();
        let client = cloned();
        spawnable(async move { client.put("key", "value").await });
        let client = cloned();
        spawnable(async move { client.get("key").await });
        let client = cloned();
        spawnable(async move { client.member_list().await });
    }

    #[test]
    fn endpoints_that_cannot_work_are_refused_at_once() {
        let none: [&str; 0] = [];
        assert_eq!(Client::connect(none, ClientOptions::default()).unwrap_err(), ConnectError::NoEndpoints);
        let error = Client::connect(["localhost"], ClientOptions::default()).unwrap_err();
        assert!(error.to_string().contains("the port is missing"), "{error}");
    }

    #[tokio::test]
    async fn without_any_node_a_write_is_not_applied() {
        let options =
            ClientOptions { deadline: std::time::Duration::from_millis(50), ..ClientOptions::default() };
        let client = Client::connect(["127.0.0.1:1"], options).unwrap();
        let error = client.put("key", "value").await.unwrap_err();
        assert!(matches!(error, ClientError::NotApplied { .. }), "{error:?}");
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    }
}
