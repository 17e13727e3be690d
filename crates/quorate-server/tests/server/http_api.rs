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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_values_are_any_bytes() {
    let cluster = Cluster::of_one().await;
    let node = cluster.address(1);
    let value: Vec<u8> = (0..=255).collect();
    assert_eq!(put(node, "/v1/kv/%ff%00%2F", &value).await.status, 200);
    assert_eq!(get(node, "/v1/kv/%FF%00%2f").await.body, value);
    // A slash is a byte of the key like any other, whether it is escaped or not.
    assert_eq!(get(node, "/v1/kv/%FF%00/").await.body, value);
    assert_eq!(put(node, "/v1/kv/a+b/../c", b"plain").await.status, 200);
    assert_eq!(get(node, "/v1/kv/a%2Bb%2F..%2Fc").await.body, b"plain");

    let page = get(node, "/v1/kv").await;
    let items = page.json()["items"].clone();
    assert_eq!(items.as_array().unwrap().len(), 2);
    assert_eq!((&items[0]["key"], &items[0]["value"]), (&"a+b/../c".into(), &"plain".into()));
    assert_eq!(items[1]["key_base64"], "/wAv");
    assert!(items[1]["value_base64"].as_str().unwrap().starts_with("AAECAwQF"));
    assert!(items[1].get("key").is_none() && items[1].get("value").is_none());

    let from = get(node, "/v1/kv?start=%FF&end=%FF%FF").await.json();
    assert_eq!(from["items"].as_array().unwrap().len(), 1);

    for broken in ["/v1/kv/%", "/v1/kv/%f", "/v1/kv/%zz", "/v1/kv?start=%x", "/v1/kv/"] {
        assert_eq!(get(node, broken).await.code(), "invalid_argument", "{broken}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_are_kept_or_nothing_changes() {
    let cluster = Cluster::of_one().await;
    let node = cluster.address(1);
    let create = [("If-None-Match", "*")];
    let first = send(node, "PUT", "/v1/kv/lock", &create, b"me").await;
    assert_eq!(first.status, 200, "{first:?}");
    let second = send(node, "PUT", "/v1/kv/lock", &create, b"you").await;
    assert_eq!((second.status, second.code().as_str()), (412, "condition_failed"));
    assert_eq!(second.json()["error"]["applied"], "no");
    assert_eq!(second.json()["error"]["current_version"], first.json()["version"]);
    assert_eq!(get(node, "/v1/kv/lock").await.body, b"me");

    let tag = first.header("etag").to_owned();
    let updated = send(node, "PUT", "/v1/kv/lock", &[("If-Match", &tag)], b"still me").await;
    assert_eq!(updated.status, 200, "{updated:?}");
    for stale in [tag.as_str(), "\"0\"", "\"not ours\""] {
        let headers = [("If-Match", stale)];
        assert_eq!(send(node, "PUT", "/v1/kv/lock", &headers, b"x").await.status, 412, "{stale}");
        assert_eq!(send(node, "DELETE", "/v1/kv/lock", &headers, b"").await.status, 412, "{stale}");
    }
    let tag = updated.header("etag").to_owned();
    let unchanged = send(node, "GET", "/v1/kv/lock", &[("If-None-Match", &tag)], b"").await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert_eq!(send(node, "DELETE", "/v1/kv/lock", &[("If-Match", &tag)], b"").await.status, 200);
    let any = [("If-Match", "*")];
    assert_eq!(send(node, "PUT", "/v1/kv/lock", &any, b"nobody").await.status, 412, "it is not there");
    // A tag never comes back, not even when the key does.
    let back = put(node, "/v1/kv/lock", b"me").await;
    assert_ne!(back.header("etag"), first.header("etag"));
    assert_eq!(send(node, "PUT", "/v1/kv/lock", &any, b"whatever it was").await.status, 200);
    assert_eq!(send(node, "DELETE", "/v1/kv/lock", &any, b"").await.status, 200);

    for wrong in [
        [("If-Match", "W/\"1\""), ("X", "")],
        [("If-Match", "\"1\", \"2\""), ("X", "")],
        [("If-None-Match", "\"1\""), ("X", "")],
        [("If-Match", "\"1\""), ("If-None-Match", "*")],
    ] {
        let refused = send(node, "PUT", "/v1/kv/lock", &wrong, b"x").await;
        assert_eq!(refused.code(), "invalid_argument", "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_repeated_with_its_idempotency_key_is_applied_once() {
    let cluster = Cluster::of_one().await;
    let node = cluster.address(1);
    let key = [("Idempotency-Key", "order-1")];
    let first = send(node, "PUT", "/v1/kv/a", &key, b"1").await;
    let between = put(node, "/v1/kv/a", b"2").await;
    let repeated = send(node, "PUT", "/v1/kv/a", &key, b"1").await;
    assert_eq!((repeated.status, repeated.index()), (200, first.index()));
    assert_eq!(repeated.header("etag"), first.header("etag"));
    assert_eq!(get(node, "/v1/kv/a").await.header("etag"), between.header("etag"));

    let with_condition = [key[0], ("If-Match", "\"1\"")];
    for (method, path, headers, body) in [
        ("PUT", "/v1/kv/a", &key[..], &b"another value"[..]),
        ("PUT", "/v1/kv/b", &key[..], b"1"),
        ("DELETE", "/v1/kv/a", &key[..], b""),
        ("PUT", "/v1/kv/a", &with_condition[..], b"1"),
    ] {
        let reused = send(node, method, path, headers, body).await;
        assert_eq!((reused.status, reused.code().as_str()), (422, "key_reused"), "{method} {path}");
    }
    let long = "x".repeat(256);
    let refused = send(node, "PUT", "/v1/kv/a", &[("Idempotency-Key", &long)], b"1").await;
    assert_eq!(refused.code(), "invalid_argument");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_comes_in_pages() {
    let cluster = Cluster::of_one().await;
    let node = cluster.address(1);
    for key in ["a", "b%20c", "d", "e"] {
        put(node, &format!("/v1/kv/{key}"), key.as_bytes()).await;
    }
    let keys = |page: &serde_json::Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect()
    };
    let first = get(node, "/v1/kv?limit=2").await.json();
    assert_eq!((keys(&first), &first["more"]), (vec!["a".to_owned(), "b c".to_owned()], &true.into()));
    let next = first["next_start"].as_str().unwrap();
    let second = get(node, &format!("/v1/kv?limit=2&start={next}")).await.json();
    assert_eq!(
        (keys(&second), &second["more"], second.get("next_start")),
        (vec!["d".to_owned(), "e".to_owned()], &false.into(), None)
    );
    // `+` is a space, as in forms; the end is not part of the range.
    assert_eq!(keys(&get(node, "/v1/kv?start=b+c&end=e").await.json()), ["b c", "d"]);
    let stale = get(node, "/v1/kv?consistency=stale").await;
    assert_eq!(keys(&stale.json()).len(), 4);
    assert_eq!(stale.json()["index"], stale.index());
    for wrong in ["limit=x", "limit=-1", "consistency=none", "lmit=2", "start=a&start=b"] {
        assert_eq!(get(node, &format!("/v1/kv?{wrong}")).await.code(), "invalid_argument", "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_limit_is_refused_without_being_read() {
    let mut cluster = Cluster::new();
    let mut config = cluster.config(1, quorate_server::StartMode::Bootstrap);
    config.limits.value_bytes_max = 1000;
    config.limits.key_bytes_max = 10;
    cluster.start(config).await.unwrap();
    cluster.leader().await;
    let node = cluster.address(1);

    assert_eq!(put(node, "/v1/kv/a", &[7; 1000]).await.status, 200);
    assert_eq!(get(node, "/v1/kv/a").await.body, [7; 1000]);
    let over = put(node, "/v1/kv/a", &[7; 1001]).await;
    assert_eq!((over.status, over.code().as_str()), (413, "too_large"));
    // A terabyte is announced, and not a byte of it sent: the answer does not wait for it.
    let huge =
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1099511627776\r\n\r\n";
    assert_eq!(exchange(node, huge).await.code(), "too_large");
    // A client that sends it all before it listens gets to hear the answer, too.
    assert_eq!(put(node, "/v1/kv/a", &vec![7; 8 << 20]).await.code(), "too_large");
    // Without a declared length it is read to the limit and no further.
    let mut chunked =
        b"PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    chunked.extend_from_slice(b"1f4\r\n");
    chunked.extend_from_slice(&[7; 500]);
    chunked.extend_from_slice(b"\r\n1f5\r\n");
    chunked.extend_from_slice(&[7; 501]);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    assert_eq!(exchange(node, &chunked).await.code(), "too_large");
    assert_eq!(put(node, "/v1/kv/elevenbytes", b"").await.code(), "too_large");
    assert_eq!(get(node, "/v1/kv/elevenbytes").await.code(), "too_large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_says_so() {
    let cluster = Cluster::of_one().await;
    let node = cluster.address(1);
    let nowhere = get(node, "/v2/kv/a").await;
    assert_eq!((nowhere.status, nowhere.code().as_str()), (404, "not_found"));
    for (method, path, allowed) in [
        ("POST", "/v1/kv/a", "GET, HEAD, PUT, DELETE"),
        ("PUT", "/v1/kv", "GET, HEAD"),
        ("DELETE", "/v1/status", "GET, HEAD"),
        ("GET", "/v1/leader/transfer", "POST"),
    ] {
        let wrong = send(node, method, path, &[], b"").await;
        assert_eq!((wrong.status, wrong.code().as_str()), (405, "method_not_allowed"), "{method} {path}");
        assert_eq!(wrong.header("allow"), allowed);
    }
    for (path, body) in [
        ("/v1/members", "{"),
        ("/v1/members", "{}"),
        ("/v1/members", "{\"node_id\":0,\"peer_address\":\"a:1\"}"),
        ("/v1/members", "{\"node_id\":2,\"peer_address\":\"a\"}"),
        ("/v1/members", "{\"node_id\":2,\"peer_address\":\"a:1\",\"oops\":1}"),
        ("/v1/members/x/promote", ""),
        ("/v1/leader/transfer", "[]"),
    ] {
        let wrong = send(node, "POST", path, &[], body.as_bytes()).await;
        assert_eq!((wrong.status, wrong.code().as_str()), (400, "invalid_argument"), "{path} {body}");
    }
    assert_eq!(delete(node, "/v1/members").await.code(), "invalid_argument");
    assert_eq!(delete(node, "/v1/members/7").await.code(), "not_found");
    assert_eq!(post(node, "/v1/members/7/promote", &serde_json::json!({})).await.code(), "not_found");
    let last = delete(node, "/v1/members/1").await;
    assert_eq!((last.status, last.code().as_str()), (409, "membership_refused"));
    assert_eq!(last.json()["error"]["reason"], "last_voter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_figures_are_there_for_machines() {
    let cluster = Cluster::of_one().await;
    let node = cluster.address(1);
    put(node, "/v1/kv/a", b"1").await;
    get(node, "/v1/kv/missing").await;
    assert_eq!(get(node, "/livez").await.text(), "ok\n");
    assert_eq!(get(node, "/readyz").await.text(), "ok\n");
    let metrics = get(node, "/metrics").await.text();
    for line in [
        "quorate_requests_total{operation=\"put\",code=\"ok\"} 1",
        "quorate_requests_total{operation=\"get\",code=\"not_found\"} 1",
        "quorate_request_seconds_count{operation=\"put\"} 1",
        "quorate_role{role=\"leader\"} 1",
        "quorate_role{role=\"follower\"} 0",
        "quorate_log_disk{state=\"works\"} 1",
        "quorate_disk_free_bytes ",
        "quorate_is_leader 1",
        "quorate_client_connections ",
        "quorate_client_connections_max ",
        "quorate_client_connections_refused_total 0",
        "quorate_voters 1",
        "quorate_raft_events_total{event=\"became_leader\",reason=\"won\"} 1",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    let figure = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(figure("quorate_log_syncs_total") > 0);
    assert!(figure("quorate_log_written_bytes_total") > 0);
    assert!(metrics.contains("\nquorate_process_cpu_seconds_total "), "{metrics}");
    if cfg!(target_os = "linux") {
        assert!(figure("quorate_process_resident_bytes") > 1 << 20);
    }
    assert!(figure("quorate_commit_index") >= figure("quorate_applied_index"));
    let status = get(node, "/v1/status").await.json();
    assert_eq!(
        (&status["node_id"], &status["role"], &status["ready"]),
        (&1.into(), &"leader".into(), &true.into())
    );
    assert_eq!(status["client_address"], node.to_string());
    assert_eq!(status["leader"]["node_id"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_permits_are_busy_and_health_still_answers() {
    let mut cluster = Cluster::new();
    let mut config = cluster.config(1, quorate_server::StartMode::Bootstrap);
    config.limits.requests_max = 1;
    cluster.start(config).await.unwrap();
    cluster.leader().await;
    let node = cluster.address(1);
    // A put that holds the only permit until its body comes or its time is up.
    let slow = b"PUT /v1/kv/a?timeout_millis=1500 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nabc";
    let (timed_out, busy) = tokio::join!(
        // Tried again, should the other one have had the permit just then.
        crate::support::eventually("the permit", async || {
            Some(exchange(node, slow).await).filter(|reply| reply.status != 429)
        }),
        crate::support::eventually("busy", async || {
            let reply = put(node, "/v1/kv/b", b"").await;
            (reply.status == 429).then_some(reply)
        })
    );
    assert_eq!((busy.code().as_str(), busy.header("retry-after")), ("busy", "1"));
    assert_eq!(busy.json()["error"]["applied"], "no");
    assert_eq!((timed_out.status, timed_out.code().as_str()), (504, "timeout"));
    assert_eq!(timed_out.json()["error"]["applied"], "no");
    assert_eq!(get(node, "/livez").await.status, 200);
    assert_eq!(put(node, "/v1/kv/b", b"").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_bytes_of_requests_than_there_is_room_for_are_busy() {
    const PUT: &str = "PUT /v1/kv/a?timeout_millis=25000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let mut cluster = Cluster::new();
    let mut config = cluster.config(1, quorate_server::StartMode::Bootstrap);
    (config.limits.value_bytes_max, config.limits.scan_bytes_max) = (1 << 20, 1 << 20);
    // A little more than the largest message, which is a value and a page with what is around them.
    config.limits.request_bytes_max = 2_400_000;
    cluster.start(config).await.unwrap();
    cluster.leader().await;
    let node = cluster.address(1);
    // Two puts that say how much they will send, and a third for whom there is no room, however it says it.
    let slow = format!("{PUT}Content-Length: 1000000\r\n\r\nabc");
    let mut pieces = format!("{PUT}Transfer-Encoding: chunked\r\n\r\n7a120\r\n").into_bytes();
    pieces.extend(vec![b'x'; 500_000]);
    pieces.extend(b"\r\n0\r\n\r\n");
    let whole = crate::support::eventually("busy", async || {
        let reply = put(node, "/v1/kv/b", &vec![b'x'; 500_000]).await;
        (reply.status == 429).then_some(reply)
    });
    // Tried again, should the third have had the room at first.
    let unended = async || loop {
        let ended = exchange(node, slow.as_bytes()).await;
        assert_eq!(ended.status, 429, "a request without its body ended: {ended:?}");
    };
    // The two never end by themselves: they are cut off once the third has its answers.
    let (whole, in_pieces) = tokio::select! {
        answers = async { (whole.await, exchange(node, &pieces).await) } => answers,
        () = unended() => unreachable!(),
        () = unended() => unreachable!(),
    };
    for busy in [whole, in_pieces] {
        assert_eq!((busy.status, busy.code().as_str()), (429, "busy"), "{busy:?}");
        assert!(busy.text().contains("bytes of requests"), "{busy:?}");
    }
    crate::support::eventually("there is room again", async || {
        Some(exchange(node, &pieces).await).filter(|reply| reply.status == 200)
    })
    .await;
}
