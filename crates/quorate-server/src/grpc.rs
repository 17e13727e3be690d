//! The gRPC face of the client port: `quorate.v1`, unary and as one stream that pipelines.
//!
//! ```text
//!   stream:  read ──► at most `stream_requests_max` at work ──► answers as they finish
//!              ▲            and one of the node's permits and room for its bytes each
//!              └── stops reading while either is used up, and when the node stops
//! ```

use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use quorate::NodeId;
use quorate_client::proto::cluster_server::Cluster;
use quorate_client::proto::kv_server::Kv;
use quorate_client::proto::stream_request::Request as Asked;
use quorate_client::proto::stream_response::Response as Answer;
use quorate_client::proto::{self};
use quorate_kv::KvCommand;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::convert;
use crate::error::ApiError;
use crate::gate::{Gate, Streamed};
use crate::members::{self, Changed};
use crate::service::{Range, Service};
use crate::stream_room::Arriving;

/// Both services. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Grpc {
    pub(crate) service: Arc<Service>,
    pub(crate) gate: Arc<Gate>,
}

type Outcome<T> = Result<Response<T>, Status>;

/// Answers waiting to be sent on one stream.
const ANSWERS_QUEUED: usize = 16;

fn answer<T>(outcome: Result<T, ApiError>) -> Outcome<T> {
    outcome.map(Response::new).map_err(ApiError::into_status)
}

impl Grpc {
    async fn do_put(&self, request: proto::PutRequest) -> Result<proto::PutResponse, ApiError> {
        let context = self.service.context(request.header)?;
        let condition = convert::condition(request.condition)?;
        let command = KvCommand::Put { key: request.key, value: request.value, condition };
        let dedupe = convert::dedupe(request.dedupe, &command)?;
        let written = self.service.write(context, command, dedupe).await?;
        Ok(proto::PutResponse { index: written.index, version: written.version, existed: written.existed })
    }

    async fn do_delete(&self, request: proto::DeleteRequest) -> Result<proto::DeleteResponse, ApiError> {
        let context = self.service.context(request.header)?;
        let condition = convert::condition(request.condition)?;
        let command = KvCommand::Delete { key: request.key, condition };
        let dedupe = convert::dedupe(request.dedupe, &command)?;
        let written = self.service.write(context, command, dedupe).await?;
        Ok(proto::DeleteResponse { index: written.index, version: written.version, existed: written.existed })
    }

    async fn do_get(&self, request: proto::GetRequest) -> Result<proto::GetResponse, ApiError> {
        let context = self.service.context(request.header)?;
        let consistency = convert::consistency(request.consistency, request.age_max_millis)?;
        let answered = self.service.get(context, request.key, consistency).await?;
        let index = answered.index;
        Ok(match answered.value {
            Some(item) => proto::GetResponse { index, found: true, value: item.value, version: item.version },
            None => proto::GetResponse { index, ..proto::GetResponse::default() },
        })
    }

    async fn do_scan(&self, request: proto::ScanRequest) -> Result<proto::ScanResponse, ApiError> {
        let context = self.service.context(request.header)?;
        let consistency = convert::consistency(request.consistency, request.age_max_millis)?;
        let range = Range { start: request.start, end: request.end, limit: request.limit };
        let answered = self.service.scan(context, range, consistency).await?;
        let items = answered.value.items.into_iter();
        let items =
            items.map(|item| proto::KeyValue { key: item.key, value: item.value, version: item.version });
        Ok(proto::ScanResponse {
            index: answered.index,
            items: items.collect(),
            more: answered.value.next.is_some(),
            next_start: answered.value.next.unwrap_or_default(),
        })
    }

    async fn do_open_session(
        &self,
        request: proto::OpenSessionRequest,
    ) -> Result<proto::OpenSessionResponse, ApiError> {
        let context = self.service.context(request.header)?;
        let session = self.service.open_session(context).await?;
        Ok(proto::OpenSessionResponse { session, cluster_id: self.service.cluster_id })
    }

    /// One request of a stream, measured like a unary one.
    async fn do_streamed(&self, request: proto::StreamRequest) -> proto::StreamResponse {
        let started = tokio::time::Instant::now();
        let (operation, outcome) = match request.request {
            Some(Asked::Put(put)) => ("put", self.do_put(put).await.map(Answer::Put)),
            Some(Asked::Get(get)) => ("get", self.do_get(get).await.map(Answer::Get)),
            Some(Asked::Delete(delete)) => ("delete", self.do_delete(delete).await.map(Answer::Delete)),
            Some(Asked::Scan(scan)) => ("scan", self.do_scan(scan).await.map(Answer::Scan)),
            Some(Asked::OpenSession(open)) => {
                ("open_session", self.do_open_session(open).await.map(Answer::OpenSession))
            }
            None => ("other", Err(ApiError::invalid("the request is of a kind this node does not know"))),
        };
        let code = outcome.as_ref().map_or_else(|error| error.code.name(), |_| "ok");
        self.gate.metrics().observe(operation, code, started.elapsed());
        let response = outcome.unwrap_or_else(|error| Answer::Error(error.into_proto()));
        proto::StreamResponse { request_id: request.request_id, response: Some(response) }
    }

    /// Serves one stream until the client ends it or the node stops. Never leaves a request that was
    /// read without an answer, unless the client is gone.
    async fn serve_stream(
        self,
        mut requests: Streaming<proto::StreamRequest>,
        arriving: Arriving,
        answers: mpsc::Sender<Result<proto::StreamResponse, Status>>,
    ) {
        let most = self.service.limits.stream_requests_max.max(1);
        let mut at_work = FuturesUnordered::new();
        let mut stopping = pin!(self.service.stopping.wait());
        let (mut reading, mut admitted) = (true, None::<Streamed>);
        while reading || admitted.is_some() || !at_work.is_empty() {
            tokio::select! {
                request = requests.message(), if reading && admitted.is_none() && at_work.len() < most => {
                    match request {
                        Ok(Some(message)) => admitted = Some(Streamed { message, room: arriving.take() }),
                        // The client has nothing more to ask, or is gone.
                        Ok(None) => reading = false,
                        Err(_broken) => return,
                    }
                }
                permits = admit(&self.gate, &mut admitted), if admitted.is_some() => {
                    if let Some(Streamed { message, .. }) = admitted.take() {
                        let this = &self;
                        at_work.push(async move {
                            let answer = this.do_streamed(message).await;
                            drop(permits);
                            answer
                        });
                    }
                }
                Some(answer) = at_work.next() => {
                    // With all that are ready: nothing else of the stream is looked at in between.
                    let mut ready = Some(answer);
                    while let Some(answer) = ready {
                        if answers.send(Ok(answer)).await.is_err() {
                            return;
                        }
                        ready = at_work.next().now_or_never().flatten();
                    }
                }
                () = &mut stopping, if reading => reading = false,
            }
        }
    }
}

/// Waits for what a request that was read still needs.
async fn admit(gate: &Gate, request: &mut Option<Streamed>) -> [Option<OwnedSemaphorePermit>; 2] {
    match request {
        Some(request) => gate.wait(request).await,
        None => [None, None],
    }
}

#[tonic::async_trait]
impl Kv for Grpc {
    type StreamStream =
        Pin<Box<dyn futures_util::Stream<Item = Result<proto::StreamResponse, Status>> + Send>>;

    async fn put(&self, request: Request<proto::PutRequest>) -> Outcome<proto::PutResponse> {
        answer(self.do_put(request.into_inner()).await)
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Outcome<proto::GetResponse> {
        answer(self.do_get(request.into_inner()).await)
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Outcome<proto::DeleteResponse> {
        answer(self.do_delete(request.into_inner()).await)
    }

    async fn scan(&self, request: Request<proto::ScanRequest>) -> Outcome<proto::ScanResponse> {
        answer(self.do_scan(request.into_inner()).await)
    }

    async fn open_session(
        &self,
        request: Request<proto::OpenSessionRequest>,
    ) -> Outcome<proto::OpenSessionResponse> {
        answer(self.do_open_session(request.into_inner()).await)
    }

    async fn stream(&self, request: Request<Streaming<proto::StreamRequest>>) -> Outcome<Self::StreamStream> {
        let (answers, queue) = mpsc::channel(ANSWERS_QUEUED);
        // Ends with the client's stream, or soon after the node begins to stop.
        let arriving = request.extensions().get::<Arriving>().cloned().unwrap_or_default();
        self.gate.spawn(self.clone().serve_stream(request.into_inner(), arriving, answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

#[tonic::async_trait]
impl Cluster for Grpc {
    async fn status(&self, request: Request<proto::StatusRequest>) -> Outcome<proto::StatusResponse> {
        self.service.context(request.into_inner().header).map_err(ApiError::into_status)?;
        Ok(Response::new(self.service.status()))
    }

    async fn member_list(
        &self,
        request: Request<proto::MemberListRequest>,
    ) -> Outcome<proto::MemberListResponse> {
        let context = self.service.context(request.into_inner().header).map_err(ApiError::into_status)?;
        answer(self.service.member_list(context).await)
    }

    async fn member_add(
        &self,
        request: Request<proto::MemberAddRequest>,
    ) -> Outcome<proto::MemberAddResponse> {
        let request = request.into_inner();
        let context = self.service.context(request.header).map_err(ApiError::into_status)?;
        let node = NodeId(request.node_id);
        answer(self.service.member_add(context, node, &request.peer_address, &request.client_address).await)
    }

    async fn member_promote(
        &self,
        request: Request<proto::MemberPromoteRequest>,
    ) -> Outcome<proto::MemberChangeResponse> {
        let request = request.into_inner();
        let context = self.service.context(request.header).map_err(ApiError::into_status)?;
        answer(self.service.member_promote(context, NodeId(request.node_id)).await.map(change))
    }

    async fn member_remove(
        &self,
        request: Request<proto::MemberRemoveRequest>,
    ) -> Outcome<proto::MemberChangeResponse> {
        let request = request.into_inner();
        let context = self.service.context(request.header).map_err(ApiError::into_status)?;
        answer(self.service.member_remove(context, NodeId(request.node_id)).await.map(change))
    }

    async fn member_update(
        &self,
        request: Request<proto::MemberUpdateRequest>,
    ) -> Outcome<proto::MemberChangeResponse> {
        let request = request.into_inner();
        let context = self.service.context(request.header).map_err(ApiError::into_status)?;
        let node = NodeId(request.node_id);
        let updated =
            self.service.member_update(context, node, &request.peer_address, &request.client_address).await;
        answer(updated.map(change))
    }

    async fn transfer_leadership(
        &self,
        request: Request<proto::TransferLeadershipRequest>,
    ) -> Outcome<proto::TransferLeadershipResponse> {
        let request = request.into_inner();
        let context = self.service.context(request.header).map_err(ApiError::into_status)?;
        let to = Some(NodeId(request.node_id)).filter(|node| *node != NodeId(0));
        let leader = self.service.transfer_leadership(context, to).await;
        answer(leader.map(|leader| proto::TransferLeadershipResponse {
            leader: Some(members::leader_to_proto(leader)),
        }))
    }
}

fn change(changed: Changed) -> proto::MemberChangeResponse {
    proto::MemberChangeResponse { index: changed.index, replica_id: changed.replica }
}
