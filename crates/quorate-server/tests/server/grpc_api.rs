//! The gRPC API: what it has beyond HTTP, and that both are one store with one set of codes.

use quorate_client::proto::cluster_client::ClusterClient;
use quorate_client::proto::kv_client::KvClient;
use quorate_client::proto::{self, stream_request, stream_response};
use quorate_client::{ErrorCode, error_of};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::support::{Cluster, get, put};

async fn channel(cluster: &Cluster, node: u64) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address(node))).unwrap();
    endpoint.connect().await.unwrap()
}

fn put_request(key: &'static str, value: &'static str) -> proto::PutRequest {
    proto::PutRequest { key: key.into(), value: value.into(), ..proto::PutRequest::default() }
}

fn in_session(session: u64, sequence: u64, acked_below: u64) -> Option<proto::Dedupe> {
    let place = proto::SessionSequence { session, sequence, acked_below };
    Some(proto::Dedupe { kind: Some(proto::dedupe::Kind::Session(place)) })
}

fn code(status: &tonic::Status) -> ErrorCode {
    let error = error_of(status).unwrap_or_else(|| panic!("no details in {status:?}"));
    assert_eq!(status.metadata().get("quorate-code").unwrap(), error.code().name());
    assert_eq!(error.outcome_unknown, error.code() == ErrorCode::OutcomeUnknown);
    error.code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unary_calls_do_what_http_does() {
    let cluster = Cluster::of_one().await;
    let mut kv = KvClient::new(channel(&cluster, 1).await);
    let written = kv.put(put_request("a", "1")).await.unwrap().into_inner();
    let over_http = get(cluster.address(1), "/v1/kv/a").await;
    assert_eq!(over_http.header("etag"), format!("\"{}\"", written.version));

    put(cluster.address(1), "/v1/kv/b", b"2").await;
    let read = proto::GetRequest { key: "b".into(), ..proto::GetRequest::default() };
    let read = kv.get(read).await.unwrap().into_inner();
    assert!(read.found && read.value == "2" && read.index >= read.version);
    let missing =
        kv.get(proto::GetRequest { key: "c".into(), ..proto::GetRequest::default() }).await.unwrap();
    assert!(!missing.into_inner().found);

    let scan = proto::ScanRequest { limit: 1, ..proto::ScanRequest::default() };
    let page = kv.scan(scan).await.unwrap().into_inner();
    assert_eq!((page.items.len(), page.more, &page.next_start[..]), (1, true, &b"b"[..]));

    let absent = Some(proto::Condition { kind: Some(proto::condition::Kind::Absent(true)) });
    let refused = kv.put(proto::PutRequest { condition: absent, ..put_request("a", "2") }).await.unwrap_err();
    assert_eq!(
        (refused.code(), code(&refused)),
        (tonic::Code::FailedPrecondition, ErrorCode::ConditionFailed)
    );
    assert_eq!(error_of(&refused).unwrap().current_version, written.version);
    let holds = Some(proto::Condition { kind: Some(proto::condition::Kind::Value("1".into())) });
    kv.put(proto::PutRequest { condition: holds, ..put_request("a", "2") }).await.unwrap();

    let gone = kv.delete(proto::DeleteRequest { key: "a".into(), ..proto::DeleteRequest::default() }).await;
    assert!(gone.unwrap().into_inner().existed);
    let refused = kv.put(put_request("", "1")).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::InvalidArgument);
    let bad = proto::GetRequest { key: "a".into(), consistency: 7, ..proto::GetRequest::default() };
    assert_eq!(code(&kv.get(bad).await.unwrap_err()), ErrorCode::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_apply_once_and_say_when_they_are_over() {
    let cluster = Cluster::of_one().await;
    let mut kv = KvClient::new(channel(&cluster, 1).await);
    let opened = kv.open_session(proto::OpenSessionRequest::default()).await.unwrap().into_inner();
    let session = opened.session;
    let write = |dedupe| proto::PutRequest { dedupe, ..put_request("a", "1") };
    let first = kv.put(write(in_session(session, 1, 1))).await.unwrap().into_inner();
    let again = kv.put(write(in_session(session, 1, 1))).await.unwrap().into_inner();
    assert_eq!(first, again);
    kv.put(write(in_session(session, 2, 2))).await.unwrap();
    let forgotten = kv.put(write(in_session(session, 1, 1))).await.unwrap_err();
    assert_eq!(code(&forgotten), ErrorCode::AlreadyAcknowledged);
    let unknown = kv.put(write(in_session(session + 1_000, 1, 1))).await.unwrap_err();
    assert_eq!(code(&unknown), ErrorCode::SessionExpired);
    assert_eq!(
        code(&kv.put(write(in_session(session, 0, 0))).await.unwrap_err()),
        ErrorCode::InvalidArgument
    );
    let key = Some(proto::Dedupe { kind: Some(proto::dedupe::Kind::IdempotencyKey("k".into())) });
    kv.put(write(key.clone())).await.unwrap();
    let reused = proto::PutRequest { dedupe: key, ..put_request("a", "other") };
    assert_eq!(code(&kv.put(reused).await.unwrap_err()), ErrorCode::KeyReused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_pipelines_requests_and_answers_each_by_its_id() {
    let cluster = Cluster::of_three().await;
    let mut kv = KvClient::new(channel(&cluster, cluster.follower().await).await);
    let (sender, queue) = tokio::sync::mpsc::channel(16);
    let mut answers = kv.stream(ReceiverStream::new(queue)).await.unwrap().into_inner();
    const REQUESTS: u64 = 600;
    let asking = tokio::spawn(async move {
        for request_id in 0..REQUESTS {
            let request = match request_id % 3 {
                0 => Some(stream_request::Request::Put(put_request("k", "v"))),
                1 => Some(stream_request::Request::Get(proto::GetRequest {
                    key: "k".into(),
                    ..proto::GetRequest::default()
                })),
                _ => None,
            };
            sender.send(proto::StreamRequest { request_id, request }).await.unwrap();
        }
    });
    let mut seen = std::collections::BTreeSet::new();
    // The client has said that nothing more comes; the node answers the rest and ends the stream.
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(seen.insert(answer.request_id), "{} twice", answer.request_id);
        let is_right = match (answer.request_id % 3, answer.response.unwrap()) {
            (0, stream_response::Response::Put(put)) => put.index > 0,
            (1, stream_response::Response::Get(_)) => true,
            (2, stream_response::Response::Error(error)) => error.code() == ErrorCode::InvalidArgument,
            (_, other) => panic!("{other:?}"),
        };
        assert!(is_right);
    }
    asking.await.unwrap();
    assert_eq!(seen.len() as u64, REQUESTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_want_to_be_forwarded_learns_who_leads() {
    let cluster = Cluster::of_three().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let mut kv = KvClient::new(channel(&cluster, follower).await);
    let header = Some(proto::RequestHeader { no_forward: true, ..proto::RequestHeader::default() });
    let refused = kv.put(proto::PutRequest { header, ..put_request("a", "1") }).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::NotLeader);
    let hint = error_of(&refused).unwrap().leader.unwrap();
    assert_eq!((hint.node_id, hint.client_address), (leader, cluster.address(leader).to_string()));
    let header = Some(proto::RequestHeader { cluster_id: 1, ..proto::RequestHeader::default() });
    let refused = kv.put(proto::PutRequest { header, ..put_request("a", "1") }).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::ClusterMismatch);

    let mut admin = ClusterClient::new(channel(&cluster, follower).await);
    let status = admin.status(proto::StatusRequest::default()).await.unwrap().into_inner();
    assert_eq!((status.node_id, status.role()), (follower, proto::Role::Follower));
    assert_eq!(status.leader.unwrap().node_id, leader);
    let list = admin.member_list(proto::MemberListRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.members.iter().filter(|member| member.leader).count(), 1);
    assert!(list.members.iter().all(|member| member.progress.is_some()), "a leader knows: {list:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_over_the_limit_and_unknown_calls_are_refused() {
    let cluster = Cluster::of_one().await;
    let mut kv = KvClient::new(channel(&cluster, 1).await);
    let value = vec![7; (1 << 20) + 1];
    let request = proto::PutRequest { value: value.into(), ..put_request("a", "") };
    let refused = kv.put(request).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused)), (tonic::Code::OutOfRange, ErrorCode::TooLarge));
    // Far over it, the message is not even read.
    let request = proto::PutRequest { value: vec![7; 8 << 20].into(), ..put_request("a", "") };
    assert_eq!(kv.put(request).await.unwrap_err().code(), tonic::Code::OutOfRange);
}
