//! The HTTP API on one node. What needs several nodes is in `cluster.rs`.

use crate::support::{Cluster, delete, exchange, get, post, put, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_put_read_and_deleted() {
    let cluster = Cluster::of_one().await;
    let node = cluster.address(1);

    let missing = get(node, "/v1/kv/motto").await;
    assert_eq!((missing.status, missing.code().as_str()), (404, "not_found"));

    let written = put(node, "/v1/kv/motto", b"small steps").await;
    assert_eq!(written.status, 200, "{written:?}");
    assert_eq!(written.json()["existed"], false);
    assert_eq!(written.json()["index"], written.index());

    let read = get(node, "/v1/kv/motto").await;
    assert_eq!((read.status, &read.body[..]), (200, &b"small steps"[..]));
    assert_eq!(read.header("etag"), written.header("etag"));
    assert_eq!(read.header("content-type"), "application/octet-stream");
    assert!(read.index() >= written.index());

    let head = send(node, "HEAD", "/v1/kv/motto", &[], b"").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "11", 0));
    assert_eq!(head.header("etag"), written.header("etag"));

    let again = put(node, "/v1/kv/motto", b"").await;
    assert!(again.index() > written.index());
    assert_ne!(again.header("etag"), written.header("etag"));
    assert_eq!(get(node, "/v1/kv/motto").await.body, b"");

    let deleted = delete(node, "/v1/kv/motto").await;
    assert_eq!((deleted.status, &deleted.json()["existed"]), (200, &true.into()));
    assert!(deleted.index() > again.index());
    assert_eq!(delete(node, "/v1/kv/motto").await.json()["existed"], false);
    assert_eq!(get(node, "/v1/kv/motto").await.status, 404);
}
