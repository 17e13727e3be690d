//! Starting again, and all the ways in which a node says that it cannot start.

use std::time::Duration;

use std::net::TcpListener;

use quorate_server::{InitialMember, NodeId, Server, StartError, StartMode};

use crate::support::{Cluster, free_address, get, put};

async fn refused(config: quorate_server::ServerConfig) -> StartError {
    let error = Server::start(config).await.expect_err("it must not start");
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identical_command_continues_after_a_stop_and_after_a_crash() {
    let mut cluster = Cluster::of_one().await;
    put(cluster.address(1), "/v1/kv/a", b"1").await;
    let before = get(cluster.address(1), "/v1/status").await.json();
    cluster.stop(1).await;
    cluster.restart(1).await;
    cluster.leader().await;
    assert_eq!(get(cluster.address(1), "/v1/kv/a").await.body, b"1");
    put(cluster.address(1), "/v1/kv/a", b"2").await;
    cluster.kill(1);
    cluster.restart(1).await;
    cluster.leader().await;
    assert_eq!(get(cluster.address(1), "/v1/kv/a").await.body, b"2");
    let after = get(cluster.address(1), "/v1/status").await.json();
    assert_eq!(after["cluster_id"], before["cluster_id"]);
    assert!(after["term"].as_u64() > before["term"].as_u64());
}

/// The first member once waited for an election timeout like everybody else: nobody had looked at what a new
/// group's term is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_does_not_wait_for_an_election_timeout() {
    let cluster = Cluster::beginning_of_three(|config| {
        config.timings.election_timeout = Duration::from_secs(100);
    })
    .await;
    assert_eq!(cluster.leader().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_in_use_are_named_with_their_flag() {
    let cluster = Cluster::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let holder = TcpListener::bind(&taken);
    let mut config = cluster.config(1, StartMode::Bootstrap);
    let listener = holder.unwrap_or_else(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let taken = listener.local_addr().unwrap().to_string();
    config.peer_listen = taken.clone();
    let error = refused(config.clone()).await.to_string();
    assert!(error.starts_with(&format!("--peer-listen {taken}")), "{error}");
    config.peer_listen = free_address();
    config.client_listen = taken.clone();
    let error = refused(config.clone()).await.to_string();
    assert!(error.starts_with(&format!("--client-listen {taken}")), "{error}");
    // Nothing was left behind that keeps it from starting properly.
    config.client_listen = free_address();
    Server::start(config).await.unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_serves_one_process_one_node_and_one_cluster() {
    let mut cluster = Cluster::of_one().await;
    let dir = cluster.data_dir(1);
    // A second process with the same directory, on other ports.
    let second = cluster.config(1, StartMode::Bootstrap);
    let error = refused(second.clone()).await;
    assert!(matches!(&error, StartError::Locked { dir: named } if *named == dir), "{error:?}");
    cluster.stop(1).await;

    let mut other_node = second.clone();
    other_node.node = NodeId(2);
    let error = refused(other_node).await;
    assert!(matches!(error, StartError::WrongDirectory { .. }), "{error:?}");
    assert!(error.to_string().contains("belongs to node 1"), "{error}");

    let mut other_cluster = second.clone();
    let first =
        |node: u64| InitialMember { node: NodeId(node), peer_address: free_address(), client_address: None };
    other_cluster.start = StartMode::InitialCluster(vec![first(1), first(2)]);
    let error = refused(other_cluster).await;
    assert!(error.to_string().contains("belongs to cluster"), "{error}");

    let another = Cluster::of_one().await;
    let mut joins_another = second;
    let endpoints = vec![another.address(1).to_string()];
    joins_another.start = StartMode::Join { endpoints, learner: false };
    let error = refused(joins_another).await;
    assert!(error.to_string().contains("belongs to cluster"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_directory_needs_to_be_told_what_to_become() {
    let cluster = Cluster::new();
    let error = refused(cluster.config(1, StartMode::Resume)).await;
    assert!(matches!(error, StartError::NothingToResume { .. }), "{error:?}");
    assert!(!cluster.data_dir(1).exists(), "a refused start leaves nothing behind");
    let error = refused(cluster.config(0, StartMode::Bootstrap)).await.to_string();
    assert!(error.starts_with("--id"), "{error}");
    let join = |endpoint: String| StartMode::Join { endpoints: vec![endpoint], learner: false };
    let error = refused(cluster.config(1, join("nonsense".to_owned()))).await.to_string();
    assert!(error.starts_with("--join"), "{error}");
    let mut nobody_there = cluster.config(1, join(free_address()));
    nobody_there.timings.join_timeout = std::time::Duration::from_millis(200);
    let error = refused(nobody_there).await;
    assert!(matches!(error, StartError::Join { .. }), "{error:?}");
    assert!(error.to_string().contains("client addresses of a running cluster"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_voter_cannot_come_back_under_its_old_id() {
    let mut cluster = Cluster::of_three().await;
    cluster.stop(3).await;
    std::fs::remove_dir_all(cluster.data_dir(3)).unwrap();
    let endpoints = cluster.endpoints();
    let error =
        refused(cluster.config(3, StartMode::Join { endpoints: endpoints.clone(), learner: false })).await;
    assert!(error.to_string().contains("join with a new node id"), "{error}");
    // Under a new id it is welcome.
    let config = cluster.config(4, StartMode::Join { endpoints, learner: false });
    cluster.start(config).await.unwrap();
    assert_eq!(put(cluster.address(4), "/v1/kv/a", b"1").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_names_the_file() {
    let mut cluster = Cluster::of_one().await;
    cluster.stop(1).await;
    std::fs::write(cluster.data_dir(1).join("cluster.json"), "{").unwrap();
    let error = refused(cluster.config(1, StartMode::Resume)).await;
    assert!(matches!(error, StartError::Storage { .. }), "{error:?}");
    assert!(error.to_string().contains("cluster.json"), "{error}");
}
