//! Reads that are not linearizable by default: from a lease, a little old, and what each does without a leader.

use std::time::Duration;

use quorate_client::{Client, ClientOptions, Consistency};
use tokio::time::Instant;

use crate::support::{Cluster, PATIENCE, eventually, get, put};

/// Long enough that a machine with a busy disk asks within the lease, short enough to wait for its end.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(1500);
const DRIFT: Duration = Duration::from_millis(100);

/// Three nodes with leases, a key that all know, and who leads.
async fn with_leases() -> (Cluster, u64) {
    let cluster = Cluster::beginning_of_three(|config| {
        config.timings.election_timeout = ELECTION_TIMEOUT;
        config.timings.lease_drift_max = Some(DRIFT);
    })
    .await;
    cluster.settled(3).await;
    let leader = cluster.leader().await;
    assert_eq!(put(cluster.address(leader), "/v1/kv/a", b"1").await.status, 200);
    (cluster, leader)
}

/// A leader that has lost its followers answers from its lease, and not a moment longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_answers_without_a_quorum_until_it_runs_out() {
    let (mut cluster, leader) = with_leases().await;
    let address = cluster.address(leader);
    let leased = "/v1/kv/a?consistency=lease&timeout_millis=200";
    eventually("the lease holds", async || (get(address, leased).await.body == b"1").then_some(())).await;
    for node in cluster.nodes().into_iter().filter(|node| *node != leader) {
        cluster.kill(node);
    }
    let alone = Instant::now();
    let read = get(address, leased).await;
    // Where that took longer than a lease, nothing was shown; the simulator shows it without a clock.
    if alone.elapsed() < ELECTION_TIMEOUT / 2 {
        assert_eq!(read.body, b"1", "{read:?}");
    }
    let refused = eventually("the lease has run out", async || {
        let read = get(address, leased).await;
        (read.status != 200).then_some(read)
    })
    .await;
    assert!(["timeout", "no_leader"].contains(&refused.code().as_str()), "{refused:?}");
    let stale = get(address, "/v1/kv/a?consistency=stale").await;
    assert_eq!(stale.body, b"1");
}

/// Leases are off unless they are switched on, and followers have none: such a read asks a majority there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_lease_a_majority_is_asked() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    assert_eq!(put(cluster.address(leader), "/v1/kv/a", b"1").await.status, 200);
    for node in cluster.nodes() {
        assert_eq!(get(cluster.address(node), "/v1/kv/a?consistency=lease").await.body, b"1");
    }
    for node in cluster.nodes().into_iter().filter(|node| *node != leader) {
        cluster.kill(node);
    }
    let read = get(cluster.address(leader), "/v1/kv/a?consistency=lease&timeout_millis=200").await;
    assert!(["timeout", "no_leader"].contains(&read.code().as_str()), "{read:?}");
}

/// What a node heard a moment ago is new enough for some; nothing is new enough for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recent_read_is_answered_without_a_leader_only_while_it_is_recent() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let options = ClientOptions { deadline: PATIENCE, ..ClientOptions::default() };
    let client = Client::connect([cluster.address(leader).to_string()], options).unwrap();
    client.put("a", "1").await.unwrap();
    assert_eq!(client.get("a").await.unwrap().unwrap().value, "1");
    for node in cluster.nodes().into_iter().filter(|node| *node != leader) {
        cluster.kill(node);
    }
    for consistency in [Consistency::Recent(Duration::from_secs(3600)), Consistency::Stale] {
        let read = client.get_with("a", consistency).await.unwrap();
        assert_eq!(read.value.unwrap().value, "1", "{consistency:?}");
    }
    let recent = "/v1/kv/a?consistency=recent&timeout_millis=200&age_max_millis=";
    let refused = eventually("what it knows is a tenth of a second old", async || {
        let read = get(cluster.address(leader), &format!("{recent}100")).await;
        (read.status != 200).then_some(read)
    })
    .await;
    assert!(["timeout", "no_leader"].contains(&refused.code().as_str()), "{refused:?}");
    assert_eq!(get(cluster.address(leader), &format!("{recent}3600000")).await.body, b"1");
    assert_eq!(get(cluster.address(leader), "/v1/kv/a?consistency=recent").await.code(), "invalid_argument");
    let both = get(cluster.address(leader), "/v1/kv/a?consistency=stale&age_max_millis=5").await;
    assert_eq!(both.code(), "invalid_argument");
}
