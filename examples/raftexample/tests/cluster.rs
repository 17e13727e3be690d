//! The scenarios of the original's tests, and those that the original gets wrong.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use quorate::{Consistency, GroupConfig, RoleName, SnapshotPolicy};
use raftexample::{Example, Options, store};

const PATIENCE: Duration = Duration::from_secs(20);

/// Quick timings, and a snapshot every `entries`.
fn group(entries: u64) -> GroupConfig {
    let mut group = GroupConfig::default();
    group.core.election_timeout = Duration::from_millis(300);
    group.core.heartbeat_interval = Duration::from_millis(50);
    group.snapshots = SnapshotPolicy { entries, trailing_entries: 4, ..group.snapshots };
    group
}

/// Peer URLs on ports that are free now.
fn cluster(nodes: usize) -> Vec<String> {
    let listeners: Vec<TcpListener> =
        (0..nodes).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    listeners.iter().map(|listener| format!("http://{}", listener.local_addr().unwrap())).collect()
}

fn options(directory: &Path, cluster: &[String], id: u64, group: GroupConfig) -> Options {
    Options {
        id,
        cluster: cluster.to_vec(),
        http: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        join: false,
        directory: directory.join(id.to_string()),
        group,
    }
}

async fn start(directory: &Path, cluster: &[String], entries: u64) -> Vec<Example> {
    let mut nodes = Vec::new();
    for id in 1..=cluster.len() as u64 {
        nodes.push(Example::start(options(directory, cluster, id, group(entries))).await.unwrap());
    }
    nodes
}

async fn stop(nodes: Vec<Example>) {
    for node in nodes {
        node.shutdown().await;
    }
}

/// An HTTP request from a thread that may block, following redirects as `curl -L` does and trying
/// again while no leader is known.
async fn http(node: &Example, method: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let (url, method, body) = (format!("http://{}{target}", node.http()), method.to_owned(), body.to_vec());
    tokio::task::spawn_blocking(move || {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
        let deadline = Instant::now() + PATIENCE;
        let mut target = url.clone();
        loop {
            let request = ureq::http::Request::builder().method(method.as_str()).uri(&target);
            let mut response = agent.run(request.body(body.clone()).unwrap()).unwrap();
            let status = response.status().as_u16();
            if status == 307 {
                target = response.headers()["location"].to_str().unwrap().to_owned();
            } else if status == 503 {
                target.clone_from(&url);
            } else {
                return (status, response.body_mut().read_to_vec().unwrap());
            }
            assert!(Instant::now() < deadline, "{method} {url}: still {status}");
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn put_and_get_key_value() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = start(directory.path(), &cluster(1), 10_000).await;
    assert_eq!(http(&nodes[0], "PUT", "/test-key", b"test-value").await.0, 204);
    // The original waits a second here; this PUT was answered after it was applied.
    assert_eq!(http(&nodes[0], "GET", "/test-key", b"").await, (200, b"test-value".to_vec()));
    assert_eq!(http(&nodes[0], "GET", "/missing", b"").await.0, 404);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_takes_puts_and_binary_values_come_back_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = start(directory.path(), &cluster(3), 10_000).await;
    let value: Vec<u8> = (0..=255).collect();
    for (position, node) in nodes.iter().enumerate() {
        let target = format!("/%FF/{position}?x=1");
        assert_eq!(http(node, "PUT", &target, &value).await.0, 204);
        for reader in &nodes {
            assert_eq!(http(reader, "GET", &target, b"").await, (200, value.clone()), "{target}");
        }
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_made_on_commit_do_not_deadlock() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = start(directory.path(), &cluster(3), 10_000).await;
    assert_eq!(http(&nodes[0], "PUT", "/start", b"x").await.0, 204);
    // Each node feeds what it sees committed back as proposals, a hundred times.
    let mut feeders = Vec::new();
    for node in &nodes {
        let raft = node.raft().clone();
        feeders.push(tokio::spawn(async move {
            let mut fed = 0;
            let deadline = Instant::now() + PATIENCE;
            while fed < 100 {
                assert!(Instant::now() < deadline, "stuck after {fed}");
                let seen = raft.read_index().await.map(|index| index.0).unwrap_or_default();
                match raft.apply(store::put(b"/fed", &seen.to_le_bytes())).await {
                    Ok(_) => fed += 1,
                    // Only a leader takes proposals; the others watch it commit.
                    Err(_) if raft.status().role != RoleName::Leader => return,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        }));
    }
    for feeder in feeders {
        feeder.await.unwrap();
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_before_the_replay_and_with_writes_in_flight_is_clean() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(1);
    let example = Example::start(options(directory.path(), &cluster, 1, group(10_000))).await.unwrap();
    let raft = example.raft().clone();
    raft.wait_for(|status| status.role == RoleName::Leader, PATIENCE).await.unwrap();
    let writes: Vec<_> = (0..100_u32)
        .map(|n| raft.submit(store::put(&n.to_be_bytes(), b"v"), quorate::Dedupe::None))
        .collect();
    example.shutdown().await;
    // Each is answered: applied, or said not to be known.
    let mut applied = 0_u32;
    for write in writes {
        applied += u32::from(write.await.is_ok());
    }
    // Stopped again at once, before the log can have been replayed.
    Example::start(options(directory.path(), &cluster, 1, group(10_000))).await.unwrap().shutdown().await;
    let example = Example::start(options(directory.path(), &cluster, 1, group(10_000))).await.unwrap();
    example.raft().wait_for(|status| status.role == RoleName::Leader, PATIENCE).await.unwrap();
    let mut found = 0;
    for n in 0..100_u32 {
        let answer = example.raft().query(n.to_be_bytes().to_vec(), Consistency::Linearizable).await.unwrap();
        found += u32::from(!answer.response.is_empty());
    }
    assert!(found >= applied, "{applied} writes were acknowledged, {found} are there");
    example.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn added_node_joins_catches_up_and_votes_and_a_removed_one_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let all = cluster(4);
    let mut nodes = start(directory.path(), &all[..3], 10_000).await;
    assert_eq!(http(&nodes[0], "PUT", "/before", b"1").await.0, 204);
    let status = nodes[0].raft().status();
    let next = status.membership.next_replica_in(status.membership_id, status.term).0;
    let (added, wrong) = (format!("/{next}"), format!("/{}", next + 1));
    assert_eq!(http(&nodes[0], "POST", &wrong, all[3].as_bytes()).await.0, 409);
    assert_eq!(http(&nodes[0], "POST", &added, all[3].as_bytes()).await.0, 204);
    let joining = Options { join: true, ..options(directory.path(), &all, next, group(10_000)) };
    let fourth = Example::start(joining).await.unwrap();
    let votes = |status: &quorate::GroupStatus| status.membership.is_voter(status.replica);
    fourth.raft().wait_for(votes, PATIENCE).await.unwrap();
    assert_eq!(http(&fourth, "PUT", "/after", b"2").await.0, 204);
    assert_eq!(http(&fourth, "GET", "/before", b"").await, (200, b"1".to_vec()));
    assert_eq!(http(&nodes[2], "GET", "/after", b"").await, (200, b"2".to_vec()));
    assert_eq!(http(&nodes[1], "DELETE", &added, b"").await.0, 204);
    assert_eq!(http(&nodes[0], "PUT", "/alone", b"3").await.0, 204);
    nodes.push(fourth);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_follow_the_policy_hold_only_what_is_applied_and_bring_a_node_back() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = cluster(3);
    let nodes = start(directory.path(), &cluster, 4).await;
    for n in 0..40 {
        assert_eq!(http(&nodes[0], "PUT", &format!("/{n}"), b"v").await.0, 204);
    }
    for node in &nodes {
        let taken =
            |status: &quorate::GroupStatus| status.snapshot.index.0 >= 30 && status.compacted.index.0 > 0;
        let status = node.raft().wait_for(taken, PATIENCE).await.unwrap();
        assert!(status.snapshot.index <= status.applied, "{status:?}");
    }
    stop(nodes).await;
    let nodes = start(directory.path(), &cluster, 4).await;
    for n in 0..40 {
        assert_eq!(http(&nodes[2], "GET", &format!("/{n}"), b"").await, (200, b"v".to_vec()));
    }
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = start(directory.path(), &cluster(1), 10_000).await;
    assert_eq!(http(&nodes[0], "PUT", "/k", b"v").await.0, 204);
    assert_eq!(http(&nodes[0], "POST", "/four", b"http://127.0.0.1:1").await.0, 400);
    assert_eq!(http(&nodes[0], "POST", "/2", b"not a URL").await.0, 400);
    assert_eq!(http(&nodes[0], "DELETE", "/x", b"").await.0, 400);
    assert_eq!(http(&nodes[0], "DELETE", "/9", b"").await.0, 404);
    assert_eq!(http(&nodes[0], "PATCH", "/k", b"").await.0, 405);
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut wrong = options(directory.path(), &cluster(1), 1, group(10_000));
    wrong.http = taken.local_addr().unwrap();
    let error = Example::start(wrong).await.err().unwrap().to_string();
    assert!(error.contains("--port"), "{error}");
    let absent = options(directory.path(), &cluster(1), 2, group(10_000));
    let error = Example::start(absent).await.err().unwrap().to_string();
    assert!(error.contains("--id 2"), "{error}");
}
