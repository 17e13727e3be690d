//! Passing a request on to the leader: one hop, over gRPC, marked so that it goes no further.
//!
//! ```text
//!   client ──► follower ──(no_forward)──► leader's client address, from the membership
//! ```
//!
//! * A failure to connect is `unavailable`: nothing was sent. Any later failure of the connection is
//!   `outcome_unknown`: the leader may have acted on what it was sent.
//! * Nothing is sent again here; whether that is safe only the caller knows.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use quorate_client::proto::cluster_client::ClusterClient;
use quorate_client::proto::kv_client::KvClient;
use quorate_client::{ErrorCode, error_of, proto};
use tokio::time::{Instant, timeout_at};
use tonic::transport::{Channel, Endpoint};

use crate::error::ApiError;

/// Remembered connections; a cluster has at most 64 members.
const CHANNELS_MAX: usize = 64;

/// Connections to other nodes' client ports.
#[derive(Debug)]
pub(crate) struct Forwarder {
    channels: Mutex<BTreeMap<String, Channel>>,
    connect_timeout: Duration,
    cluster_id: u64,
    message_bytes_max: usize,
}

impl Forwarder {
    pub(crate) fn new(cluster_id: u64, connect_timeout: Duration, message_bytes_max: usize) -> Self {
        Self { channels: Mutex::default(), connect_timeout, cluster_id, message_bytes_max }
    }

    /// The header of a forwarded request.
    pub(crate) fn header(&self, deadline: Instant) -> proto::RequestHeader {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        proto::RequestHeader {
            timeout_millis: u32::try_from(left).unwrap_or(u32::MAX).max(1),
            no_forward: true,
            cluster_id: self.cluster_id,
        }
    }

    /// Sends one request to the node at `address` and waits for the answer until `deadline`.
    pub(crate) async fn call<T, F>(
        &self,
        address: &str,
        deadline: Instant,
        send: impl FnOnce(Leads) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let channel = self.channel(address, deadline).await?;
        let leads = Leads { channel, message_bytes_max: self.message_bytes_max };
        let Ok(outcome) = timeout_at(deadline, send(leads)).await else {
            self.forget(address);
            return Err(ApiError::outcome_unknown("the leader did not answer in time"));
        };
        let status = match outcome {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => status,
        };
        if let Some(error) = error_of(&status) {
            let error: ApiError = error.into();
            // A server that has stopped may still answer on connections from before, when another has its address.
            if error.code == ErrorCode::Unavailable {
                self.forget(address);
            }
            return Err(error);
        }
        self.forget(address);
        if failed_to_connect(&status) {
            return Err(unreachable(address, &status));
        }
        Err(ApiError::outcome_unknown(&format!("the connection to the leader at {address} broke")))
    }

    async fn channel(&self, address: &str, deadline: Instant) -> Result<Channel, ApiError> {
        if let Some(channel) = self.lock().get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| unreachable(address, &error))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true);
        let channel = match timeout_at(deadline, endpoint.connect()).await {
            Ok(connected) => connected.map_err(|error| unreachable(address, &error))?,
            Err(elapsed) => return Err(unreachable(address, &elapsed)),
        };
        let mut channels = self.lock();
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn forget(&self, address: &str) {
        self.lock().remove(address);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to the node that is believed to lead.
#[derive(Debug)]
pub(crate) struct Leads {
    channel: Channel,
    message_bytes_max: usize,
}

impl Leads {
    pub(crate) fn kv(self) -> KvClient<Channel> {
        KvClient::new(self.channel).max_decoding_message_size(self.message_bytes_max)
    }

    pub(crate) fn cluster(self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel).max_decoding_message_size(self.message_bytes_max)
    }
}

fn unreachable(address: &str, error: &dyn Error) -> ApiError {
    let message = format!("the leader at {address} cannot be reached ({error}): retry");
    ApiError::new(ErrorCode::Unavailable, message)
}

/// Whether the connection was never made, so that nothing can have been sent.
fn failed_to_connect(status: &tonic::Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use axum::extract::ConnectInfo;
    use tokio::net::TcpListener;

    use super::*;

    async fn put(forwarder: &Forwarder, address: &str) -> ApiError {
        let deadline = Instant::now() + Duration::from_secs(10);
        let send = |leads: Leads| async move { leads.kv().put(proto::PutRequest::default()).await };
        forwarder.call(address, deadline, send).await.unwrap_err()
    }

    /// A leader that dies with a request in its hands may have acted on it; one that is not there cannot have.
    #[tokio::test]
    async fn only_a_connection_that_was_never_made_proves_that_nothing_was_applied() {
        let forwarder = Forwarder::new(1, Duration::from_secs(1), 1 << 20);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let dying = async {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                // Whatever has been sent by now is lost with the connection.
                connection.readable().await.unwrap();
            }
        };
        let error = tokio::select! {
            error = put(&forwarder, &address) => error,
            () = dying => unreachable!(),
        };
        assert_eq!(error.code, ErrorCode::OutcomeUnknown, "{error:?}");
        drop(listener);
        let error = put(&forwarder, &address).await;
        assert_eq!((error.code, error.is_outcome_unknown()), (ErrorCode::Unavailable, false), "{error:?}");
    }

    /// A remembered connection that has ended is made anew, and failing at that is not "unknown" either.
    #[tokio::test]
    async fn a_leader_that_is_gone_is_noticed_without_guessing() {
        let forwarder = Forwarder::new(1, Duration::from_secs(1), 1 << 20);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let deadline = Instant::now() + Duration::from_secs(10);
        let (channel, accepted) = tokio::join!(forwarder.channel(&address, deadline), listener.accept());
        channel.unwrap();
        drop((accepted, listener));
        // The first call may find the corpse, which cannot be told from a leader that dies just now.
        put(&forwarder, &address).await;
        assert_eq!(put(&forwarder, &address).await.code, ErrorCode::Unavailable);
    }

    /// A server that has stopped inside a process that goes on answers on the connections it had, while another
    /// one listens at its address. Whoever is told that it is unavailable comes back on a new connection.
    #[tokio::test]
    async fn a_stopped_leader_is_not_asked_again_on_the_same_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let sees = Arc::clone(&seen);
        let answers = |code| {
            let sees = Arc::clone(&sees);
            axum::routing::post(move |ConnectInfo(from): ConnectInfo<SocketAddr>| {
                sees.lock().unwrap().insert(from);
                async move { ApiError::new(code, "no".to_owned()).into_status().into_http::<axum::body::Body>() }
            })
        };
        let stopped = axum::Router::new()
            .route("/quorate.v1.KV/Put", answers(ErrorCode::Unavailable))
            .route("/quorate.v1.KV/Delete", answers(ErrorCode::Busy))
            .into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(axum::serve(listener, stopped).into_future());
        let forwarder = Forwarder::new(1, Duration::from_secs(1), 1 << 20);
        let delete = async |leads: Leads| leads.kv().delete(proto::DeleteRequest::default()).await;
        for _ in 0..2 {
            let deadline = Instant::now() + Duration::from_secs(10);
            let error = forwarder.call(&address, deadline, delete).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::Busy);
        }
        assert_eq!(seen.lock().unwrap().len(), 1, "a leader that answers keeps its connection");
        for connections in 1..=3 {
            assert_eq!(put(&forwarder, &address).await.code, ErrorCode::Unavailable);
            assert_eq!(seen.lock().unwrap().len(), connections);
        }
        server.abort();
    }
}
