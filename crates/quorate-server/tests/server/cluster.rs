//! What takes several nodes: forwarding, losing the leader, members that come and go.

use std::time::{Duration, Instant};

use quorate_server::{ServerFailure, StartMode};
use serde_json::json;
use tokio::time::timeout;

use crate::support::{Cluster, PATIENCE, delete, eventually, get, post, put, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_and_sees_what_any_other_acknowledged() {
    let cluster = Cluster::of_three().await;
    let mut last = 0;
    for node in cluster.nodes() {
        let path = format!("/v1/kv/from-{node}");
        let written = put(cluster.address(node), &path, b"x").await;
        assert_eq!(written.status, 200, "{written:?}");
        assert!(written.index() > last);
        last = written.index();
        for other in cluster.nodes() {
            let read = get(cluster.address(other), &path).await;
            assert_eq!((read.status, read.header("etag")), (200, written.header("etag")));
            assert!(read.index() >= last);
        }
        assert_eq!(delete(cluster.address(node), &path).await.json()["existed"], true);
    }
    let follower = cluster.address(cluster.follower().await);
    let stale = get(follower, "/v1/kv/from-1?consistency=stale").await;
    assert_eq!(stale.status, 404);
    assert!(stale.has_header("quorate-index"));
    // Conditions and keys survive the hop, and so do the leader's errors.
    let key = [("Idempotency-Key", "once"), ("If-None-Match", "*")];
    let first = send(follower, "PUT", "/v1/kv/%FF", &key, b"1").await;
    assert_eq!(send(follower, "PUT", "/v1/kv/%FF", &key, b"1").await.index(), first.index());
    assert_eq!(send(follower, "PUT", "/v1/kv/%FF", &key, b"2").await.code(), "key_reused");
    let again = send(follower, "PUT", "/v1/kv/%FF", &key[1..], b"1").await;
    assert_eq!((again.status, &again.json()["error"]["current_version"]), (412, &first.json()["version"]));
    let leader = cluster.address(cluster.leader().await);
    let same = send(leader, "PUT", "/v1/kv/%FF", &key, b"1").await;
    assert_eq!((same.status, same.index()), (200, first.index()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_where_it_is_told_to() {
    let cluster = Cluster::of_three().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let moved = post(cluster.address(follower), "/v1/leader/transfer", &json!({ "node_id": follower })).await;
    assert_eq!((moved.status, &moved.json()["leader"]["node_id"]), (200, &follower.into()), "{moved:?}");
    eventually("the new leader leads", async || (cluster.leader().await == follower).then_some(())).await;
    // To the leader itself: nothing to do. To the best: anybody else.
    let same = post(cluster.address(leader), "/v1/leader/transfer", &json!({ "node_id": follower })).await;
    assert_eq!(same.json()["leader"]["node_id"], follower, "{same:?}");
    let best = eventually("a voter is heard by the new leader and can take over", async || {
        let reply = send(cluster.address(leader), "POST", "/v1/leader/transfer", &[], b"").await;
        assert!(reply.status == 200 || reply.code() == "transfer_failed", "{reply:?}");
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_ne!(best.json()["leader"]["node_id"], follower);
    let nobody = post(cluster.address(leader), "/v1/leader/transfer", &json!({ "node_id": 9 })).await;
    assert_eq!(nobody.code(), "not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_a_quorum_says_no_leader_and_recovers() {
    let mut cluster = Cluster::of_three().await;
    let survivor = cluster.follower().await;
    let others: Vec<u64> = cluster.nodes().into_iter().filter(|node| *node != survivor).collect();
    put(cluster.address(survivor), "/v1/kv/a", b"1").await;
    assert_eq!(get(cluster.address(survivor), "/v1/kv/a").await.body, b"1", "applied here, too");
    for node in &others {
        cluster.kill(*node);
    }
    let node = cluster.address(survivor);
    let unready = eventually("it notices", async || {
        let ready = get(node, "/readyz").await;
        (ready.status == 503).then_some(ready)
    })
    .await;
    assert_eq!(unready.json()["error"]["applied"], "no");
    let read = eventually("nobody leads", async || {
        let reply = get(node, "/v1/kv/a?timeout_millis=300").await;
        (reply.code() == "no_leader").then_some(reply)
    })
    .await;
    assert_eq!((read.status, read.header("retry-after")), (503, "1"));
    let asked = Instant::now();
    let status = get(node, "/v1/status").await.json();
    assert!(asked.elapsed() < Duration::from_millis(300), "it does not wait for those that are missing");
    assert_eq!((&status["ready"], &status["leader"]), (&false.into(), &serde_json::Value::Null));
    let write = put(node, "/v1/kv/a?timeout_millis=300", b"2").await;
    assert_eq!((write.code().as_str(), &write.json()["error"]["applied"]), ("no_leader", &"no".into()));
    // What was applied can still be read by whoever says that old is good enough.
    assert_eq!(get(node, "/v1/kv/a?consistency=stale").await.body, b"1");
    assert_eq!(get(node, "/livez").await.status, 200);
    cluster.restart(others[0]).await;
    cluster.leader().await;
    // The new leader may lose its first term to the one that starts; who asks is told that nothing was done.
    let read =
        eventually("it reads", async || Some(get(node, "/v1/kv/a").await).filter(|it| it.status == 200));
    assert_eq!(read.await.body, b"1");
    eventually("it writes", async || Some(put(node, "/v1/kv/a", b"3").await).filter(|it| it.status == 200))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_becomes_a_voter_and_holds_everything() {
    let mut cluster = Cluster::of_one().await;
    for number in 0..20 {
        put(cluster.address(1), &format!("/v1/kv/{number}"), b"before").await;
    }
    for node in 2..=3 {
        let endpoints = vec![cluster.address(1).to_string()];
        let config = cluster.config(node, StartMode::Join { endpoints, learner: false });
        cluster.start(config).await.unwrap();
    }
    cluster.settled(3).await;
    for node in 1..=3 {
        let page = get(cluster.address(node), "/v1/kv").await.json();
        assert_eq!(page["items"].as_array().unwrap().len(), 20);
        let members = get(cluster.address(node), "/v1/members").await.json();
        assert_eq!(members["members"].as_array().unwrap().len(), 3);
    }
    // The three really share the work: the first can go.
    cluster.stop(1).await;
    cluster.leader().await;
    assert_eq!(put(cluster.address(2), "/v1/kv/after", b"1").await.status, 200);
    assert_eq!(get(cluster.address(3), "/v1/kv/after").await.body, b"1");
    // The identical command continues, whatever its start mode says.
    cluster.restart(1).await;
    cluster.settled(3).await;
    assert_eq!(get(cluster.address(1), "/v1/kv/after").await.body, b"1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_stays_one_until_it_is_promoted_and_a_removed_node_learns_that_it_was() {
    let mut cluster = Cluster::of_three().await;
    let endpoints = cluster.endpoints();
    let config = cluster.config(4, StartMode::Join { endpoints, learner: true });
    let peer_address = config.peer_listen.clone();
    cluster.start(config).await.unwrap();
    let voters = |members: &serde_json::Value| {
        members["members"].as_array().unwrap().iter().filter(|member| member["voter"] == true).count()
    };
    put(cluster.address(4), "/v1/kv/through-the-learner", b"1").await;
    assert_eq!(get(cluster.address(4), "/v1/kv/through-the-learner").await.body, b"1");
    let members = get(cluster.address(4), "/v1/members").await.json();
    assert_eq!((members["members"].as_array().unwrap().len(), voters(&members)), (4, 3));

    // It has data by now: a directory that lost it must not pass for the same node.
    let again = json!({ "node_id": 4, "peer_address": peer_address });
    let refused = post(cluster.address(1), "/v1/members", &again).await;
    assert_eq!(
        (refused.code().as_str(), &refused.json()["error"]["reason"]),
        ("membership_refused", &"already_member".into())
    );

    let promoted = eventually("it has caught up", async || {
        let reply = post(cluster.address(1), "/v1/members/4/promote", &json!({})).await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_eq!(promoted.json()["index"], promoted.index());
    let repeated = post(cluster.address(1), "/v1/members/4/promote", &json!({})).await;
    assert_eq!((repeated.status, repeated.index()), (200, promoted.index()));

    let removed = delete(cluster.address(1), "/v1/members/4").await;
    assert_eq!(removed.status, 200, "{removed:?}");
    let failure = timeout(PATIENCE, cluster.server(4).wait_failure()).await.unwrap();
    assert!(matches!(failure, ServerFailure::Removed(_)), "{failure:?}");
    assert_eq!(get(cluster.address(4), "/livez").await.code(), "unavailable");
    // Its directory cannot be used again: it comes up, and learns the same.
    cluster.stop(4).await;
    cluster.restart(4).await;
    let failure = timeout(PATIENCE, cluster.server(4).wait_failure()).await.unwrap();
    assert!(failure.to_string().contains("join with a new node id"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_leaves_a_cluster_that_goes_on() {
    let cluster = Cluster::of_three().await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    put(cluster.address(leader), "/v1/kv/a", b"1").await;
    let removed = delete(cluster.address(leader), &format!("/v1/members/{leader}")).await;
    assert_eq!(removed.status, 200, "{removed:?}");
    let failure = timeout(PATIENCE, cluster.server(leader).wait_failure()).await.unwrap();
    assert!(matches!(failure, ServerFailure::Removed(_)), "{failure:?}");
    assert_eq!(get(cluster.address(follower), "/v1/kv/a").await.body, b"1");
    let list = get(cluster.address(follower), "/v1/members").await.json();
    assert_eq!(list["members"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_leader_hands_over_and_finishes_what_it_took() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    let term = |status: serde_json::Value| status["term"].as_u64().unwrap();
    let before = term(get(cluster.address(follower), "/v1/status").await.json());
    let address = cluster.address(follower);
    let writes = tokio::spawn(async move {
        let mut codes = Vec::new();
        for number in 0..50 {
            codes.push(put(address, &format!("/v1/kv/{number}"), b"1").await.status);
        }
        codes
    });
    timeout(PATIENCE, cluster.stop(leader)).await.unwrap();
    assert_ne!(cluster.leader().await, leader);
    // Handed over, so nobody had to wait for an election timeout: one term, not a series of attempts.
    assert_eq!(term(get(address, "/v1/status").await.json()), before + 1);
    let codes = writes.await.unwrap();
    let failed: Vec<u16> = codes.iter().copied().filter(|code| *code != 200).collect();
    // Only a write that was on its way when the connection ended may be unknown.
    assert!(failed.len() <= 1 && failed.iter().all(|code| *code == 504), "{failed:?}");
    cluster.restart(leader).await;
    cluster.settled(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_moved_is_found_at_its_new_address() {
    let mut cluster = Cluster::of_three().await;
    let mut config = cluster.config(2, StartMode::Resume);
    cluster.stop(2).await;
    config.timings.drain_timeout = Duration::from_secs(1);
    let (peer, client) = (config.peer_listen.clone(), config.client_listen.clone());
    cluster.start(config).await.unwrap();
    eventually("the others know", async || {
        let members = get(cluster.address(1), "/v1/members").await.json();
        let moved =
            members["members"].as_array().unwrap().iter().find(|member| member["node_id"] == 2)?.clone();
        (moved["peer_address"] == peer.as_str() && moved["client_address"] == client.as_str()).then_some(())
    })
    .await;
    assert_eq!(put(cluster.address(2), "/v1/kv/a", b"1").await.status, 200);
}
