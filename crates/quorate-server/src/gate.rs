//! The door of the client port: how many requests are worked on at once, whether the node still takes
//! any, and what is counted about them.
//!
//! ```text
//!   request ─► stopping? ─► a permit and room, or busy ─► port.rs ─► http.rs, grpc.rs ─► counted ─► answer
//!   stream  ─► stopping? ─► waits for a permit and room per request ─────────┘
//! ```
//!
//! Health, metrics and status are answered even when all permits are taken.

use std::sync::{Arc, Mutex, PoisonError};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Response};
use prost::Message as _;
use quorate_client::{ErrorCode, proto};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::Limits;
use crate::error::{ApiError, CODE_HEADER};
use crate::metrics::Metrics;
use crate::room::Room;

/// Whether the node is stopping. Set once.
#[derive(Debug, Default)]
pub(crate) struct Stopping {
    flag: watch::Sender<bool>,
}

impl Stopping {
    pub(crate) fn set(&self) {
        self.flag.send_replace(true);
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.flag.borrow()
    }

    /// Resolves when the node is stopping.
    pub(crate) async fn wait(&self) {
        let mut flag = self.flag.subscribe();
        // The sender lives as long as `self`, so this ends only when the flag is set.
        if flag.wait_for(|stopping| *stopping).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Gate {
    permits: Arc<Semaphore>,
    pub(crate) room: Arc<Room>,
    stopping: Arc<Stopping>,
    metrics: Metrics,
    streams: Mutex<JoinSet<()>>,
}

impl Gate {
    pub(crate) fn new(
        limits: &Limits,
        message_bytes_max: usize,
        stopping: Arc<Stopping>,
        metrics: Metrics,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(limits.requests_max.clamp(1, Semaphore::MAX_PERMITS)));
        let room = Arc::new(Room::new(limits.request_bytes_max, message_bytes_max));
        Self { permits, room, stopping, metrics, streams: Mutex::default() }
    }

    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_set()
    }

    /// A permit for one request, unless there is none.
    pub(crate) fn permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| busy("requests"))
    }

    /// Waits for a permit and for room for a request of `bytes`, unless it has room already, which are kept
    /// until they are dropped.
    pub(crate) async fn wait(&self, request: &mut Streamed) -> [Option<OwnedSemaphorePermit>; 2] {
        // Whoever has a permit waits for nobody.
        if request.room.is_none() {
            request.room = self.room.wait(request.message.encoded_len()).await;
        }
        let permit = self.permits.clone().acquire_owned().await.ok();
        [permit, request.room.take()]
    }

    /// Runs a stream's task, which is ended with the gate.
    pub(crate) fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        let mut streams = self.lock_streams();
        while streams.try_join_next().is_some() {}
        streams.spawn(stream);
    }

    /// Ends what is left of the streams.
    pub(crate) async fn end_streams(&self) {
        let mut streams = std::mem::take(&mut *self.lock_streams());
        streams.shutdown().await;
    }

    fn lock_streams(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// A stream is counted by its requests.
pub(crate) const STREAM: &str = "stream";

/// Whether an operation is answered whatever else the node does.
pub(crate) fn is_always_answered(operation: &str) -> bool {
    matches!(operation, "livez" | "readyz" | "metrics" | "status")
}

/// A request of a stream, that was read, with the room that was taken for reading it.
pub(crate) struct Streamed {
    pub(crate) message: proto::StreamRequest,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

pub(crate) fn busy(what: &str) -> ApiError {
    let message = format!("this node works on as many {what} as it may: back off and retry");
    ApiError::new(ErrorCode::Busy, message)
}

/// What is asked, from a short list: names of metrics must not come from users.
pub(crate) fn operation(method: &Method, path: &str) -> &'static str {
    if let Some(rpc) = path.strip_prefix("/quorate.v1.KV/").or(path.strip_prefix("/quorate.v1.Cluster/")) {
        return match rpc {
            "Put" => "put",
            "Get" => "get",
            "Delete" => "delete",
            "Scan" => "scan",
            "OpenSession" => "open_session",
            "Stream" => STREAM,
            "Status" => "status",
            "MemberList" => "member_list",
            "MemberAdd" => "member_add",
            "MemberPromote" => "member_promote",
            "MemberRemove" => "member_remove",
            "MemberUpdate" => "member_update",
            "TransferLeadership" => "transfer_leadership",
            _ => "other",
        };
    }
    match (method.as_str(), path) {
        ("GET", "/livez") => "livez",
        ("GET", "/readyz") => "readyz",
        ("GET", "/metrics") => "metrics",
        ("GET", "/v1/status") => "status",
        ("GET", "/v1/members") => "member_list",
        ("POST", "/v1/members") => "member_add",
        ("POST", "/v1/leader/transfer") => "transfer_leadership",
        ("GET" | "HEAD", "/v1/kv") => "scan",
        ("PUT", path) if path.starts_with("/v1/kv/") => "put",
        ("GET" | "HEAD", path) if path.starts_with("/v1/kv/") => "get",
        ("DELETE", path) if path.starts_with("/v1/kv/") => "delete",
        ("DELETE", path) if path.starts_with("/v1/members") => "member_remove",
        ("POST", path) if path.starts_with("/v1/members/") => "member_promote",
        _ => "other",
    }
}

/// `ok`, one of our codes, or what kind of failure it is without one.
pub(crate) fn code_of<B>(response: &Response<B>) -> &'static str {
    let headers = response.headers();
    if let Some(code) = headers.get(CODE_HEADER) {
        return code.to_str().ok().and_then(ErrorCode::named).map_or("other", ErrorCode::name);
    }
    let failed_call = headers.get("grpc-status").is_some_and(|status| status != "0");
    if failed_call || !(response.status().is_success() || response.status().is_redirection()) {
        return "other";
    }
    "ok"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_operations_do_not_come_from_users() {
        assert_eq!(operation(&Method::PUT, "/v1/kv/a%2Fb"), "put");
        assert_eq!(operation(&Method::HEAD, "/v1/kv/a"), "get");
        assert_eq!(operation(&Method::GET, "/v1/kv"), "scan");
        assert_eq!(operation(&Method::POST, "/quorate.v1.KV/Put"), "put");
        assert_eq!(operation(&Method::POST, "/quorate.v1.KV/Evil"), "other");
        assert_eq!(operation(&Method::GET, "/../../etc"), "other");
    }
}
