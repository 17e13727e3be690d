//! A connection to one node: unary calls, and one stream that pipelines many requests.
//!
//! ```text
//!   call ──► [bounded queue] ──► Stream ──► node
//!     ▲                                      │
//!     └──── waiting: request id ◄── reader ◄─┘
//! ```
//!
//! * Every request that was put into the queue is answered or, when the stream ends, told that it
//!   is broken: it may have been applied.
//! * A call that is dropped takes its entry in `waiting` with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::error::error_of;
use crate::options::ClientOptions;
use crate::proto;
use crate::proto::cluster_client::ClusterClient;
use crate::proto::kv_client::KvClient;
use crate::proto::stream_request::Request;
use crate::proto::stream_response::Response;

/// How many requests wait to be sent; more wait outside.
const QUEUE_REQUESTS: usize = 64;
/// Larger requests go alone: they would hold up the others, and one that is over the node's limit would end
/// the stream.
const STREAMED_BYTES_MAX: usize = 512 << 10;
/// The largest answer accepted: a page of a scan and more.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a call got no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// It was not sent.
    NotSent(String),
    /// It may have been sent; no answer came.
    Broken(String),
    /// The node answered with an error.
    Refused(proto::Error),
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Connection {
    channel: Channel,
    requests: mpsc::Sender<proto::StreamRequest>,
    waiting: Arc<Waiting>,
    reader: tokio::task::JoinHandle<()>,
    /// Requests longer than this are calls of their own.
    streamed_bytes_max: Option<usize>,
}

#[derive(Debug, Default)]
struct Waiting {
    state: Mutex<WaitingState>,
}

#[derive(Debug, Default)]
struct WaitingState {
    closed: Option<String>,
    next_id: u64,
    answers: BTreeMap<u64, oneshot::Sender<proto::StreamResponse>>,
}

impl Connection {
    /// Connects and opens the stream.
    pub(crate) async fn open(address: &str, options: &ClientOptions) -> Result<Self, CallError> {
        let not_sent =
            |error: &dyn std::error::Error| CallError::NotSent(format!("{address}: {}", chain(error)));
        let endpoint =
            Endpoint::from_shared(format!("http://{address}")).map_err(|error| not_sent(&error))?;
        let channel = endpoint
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(options.attempt_timeout)
            .keep_alive_timeout(options.attempt_timeout)
            .connect()
            .await
            .map_err(|error| not_sent(&error))?;
        let (requests, queue) = mpsc::channel(QUEUE_REQUESTS);
        let answers = KvClient::new(channel.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .stream(ReceiverStream::new(queue))
            .await
            .map_err(|status| CallError::NotSent(format!("{address}: {}", status_text(&status))))?
            .into_inner();
        let waiting = Arc::new(Waiting::default());
        let reader = tokio::spawn(read_answers(answers, waiting.clone(), address.to_owned()));
        let streamed_bytes_max = (!options.unary).then_some(STREAMED_BYTES_MAX);
        Ok(Self { channel, requests, waiting, reader, streamed_bytes_max })
    }

    /// Whether the stream still works.
    pub(crate) fn is_open(&self) -> bool {
        self.waiting.lock().closed.is_none()
    }

    /// Sends one request and waits for its answer.
    pub(crate) async fn call(&self, request: Request) -> Result<Response, CallError> {
        let Some(bytes_max) = self.streamed_bytes_max else { return self.call_unary(request).await };
        match &request {
            Request::Put(put) if put.encoded_len() > bytes_max => self.call_unary(request).await,
            Request::Delete(delete) if delete.encoded_len() > bytes_max => self.call_unary(request).await,
            Request::Put(_)
            | Request::Delete(_)
            | Request::Get(_)
            | Request::Scan(_)
            | Request::OpenSession(_) => self.call_on_stream(request).await,
        }
    }

    async fn call_unary(&self, request: Request) -> Result<Response, CallError> {
        let mut kv = self.kv();
        match request {
            Request::Put(put) => unary(kv.put(put).await).map(Response::Put),
            Request::Delete(delete) => unary(kv.delete(delete).await).map(Response::Delete),
            Request::Get(get) => unary(kv.get(get).await).map(Response::Get),
            Request::Scan(scan) => unary(kv.scan(scan).await).map(Response::Scan),
            Request::OpenSession(open) => unary(kv.open_session(open).await).map(Response::OpenSession),
        }
    }

    async fn call_on_stream(&self, request: Request) -> Result<Response, CallError> {
        let (sender, answer) = oneshot::channel();
        let request_id = self.waiting.add(sender).map_err(CallError::NotSent)?;
        let _entry = Entry { waiting: &self.waiting, request_id };
        let request = proto::StreamRequest { request_id, request: Some(request) };
        if self.requests.send(request).await.is_err() {
            return Err(CallError::NotSent(self.waiting.why_closed()));
        }
        let Ok(response) = answer.await else {
            return Err(CallError::Broken(self.waiting.why_closed()));
        };
        match response.response {
            Some(Response::Error(error)) => Err(CallError::Refused(error)),
            Some(response) => Ok(response),
            None => {
                Err(CallError::Broken("the node gave an answer that this client does not know".to_owned()))
            }
        }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// For unary calls about the cluster.
    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Removes a call from the waiting ones when it ends, however it ends.
struct Entry<'a> {
    waiting: &'a Waiting,
    request_id: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.waiting.lock().answers.remove(&self.request_id);
    }
}

impl Waiting {
    fn add(&self, sender: oneshot::Sender<proto::StreamResponse>) -> Result<u64, String> {
        let mut state = self.lock();
        if let Some(reason) = &state.closed {
            return Err(reason.clone());
        }
        state.next_id += 1;
        let request_id = state.next_id;
        state.answers.insert(request_id, sender);
        Ok(request_id)
    }

    fn why_closed(&self) -> String {
        self.lock().closed.clone().unwrap_or_else(|| "the connection is closed".to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, WaitingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_answers(
    mut answers: tonic::Streaming<proto::StreamResponse>,
    waiting: Arc<Waiting>,
    address: String,
) {
    let reason = loop {
        match answers.message().await {
            Ok(Some(response)) => {
                let sender = waiting.lock().answers.remove(&response.request_id);
                // Nobody waits for it any more: its call has ended.
                if let Some(Err(unwanted)) = sender.map(|sender| sender.send(response)) {
                    drop(unwanted);
                }
            }
            Ok(None) => break format!("{address}: the node ended the connection"),
            Err(status) => break format!("{address}: {}", status_text(&status)),
        }
    };
    let mut state = waiting.lock();
    state.closed = Some(reason);
    state.answers.clear();
}

/// Turns the outcome of a unary call into ours.
pub(crate) fn unary<T>(outcome: Result<tonic::Response<T>, tonic::Status>) -> Result<T, CallError> {
    match outcome {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(match error_of(&status) {
            Some(error) => CallError::Refused(error),
            // The node read how long the request is and stopped there.
            None if status.code() == tonic::Code::OutOfRange => {
                let message =
                    format!("{}: store it in pieces or raise the limit on every node", status.message());
                let code = proto::ErrorCode::TooLarge.into();
                CallError::Refused(proto::Error { code, message, ..proto::Error::default() })
            }
            None => CallError::Broken(status_text(&status)),
        }),
    }
}

fn status_text(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => chain(cause),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
