//! Bad networks and bad machines.

use std::time::Duration;

use quorate::{Consistency, Dedupe, NodeId, RequestError, RoleName};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{Cluster, PATIENCE, Wire, lines, memory, numbers};

/// Applies `command` once, whatever it takes: any leader, any number of attempts.
async fn apply_once(cluster: &Cluster, command: &str, dedupe: &Dedupe) {
    let attempt = async {
        loop {
            let leader = cluster.leader().await;
            let applied = cluster.rafts[&leader].apply_with(command.to_owned(), dedupe.clone());
            match tokio::time::timeout(Duration::from_secs(2), applied).await {
                Ok(Ok(_)) => return,
                Ok(Err(
                    RequestError::NotLeader { .. } | RequestError::OutcomeUnknown | RequestError::Busy { .. },
                ))
                | Err(_) => tokio::task::yield_now().await,
                Ok(Err(error)) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, attempt).await.unwrap();
}

/// Messages are lost and overtake each other; every retried command is applied exactly once.
#[tokio::test]
async fn a_lossy_network_neither_loses_nor_repeats_commands() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    let leader = cluster.leader().await;
    let session = cluster.rafts[&leader].open_session().await.unwrap();
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.lose(50);
    network.delay(Some(Duration::ZERO..=Duration::from_millis(5)));
    for number in 0..40 {
        let sequence = number + 1;
        let dedupe = Dedupe::Session { session, sequence, acked_below: sequence };
        apply_once(&cluster, &number.to_string(), &dedupe).await;
    }
    network.lose(0);
    network.delay(None);
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..40));
    }
    cluster.shutdown().await;
}

/// A leader that is cut off steps down, and serves no read that could be stale.
#[tokio::test]
async fn a_cut_off_leader_steps_down_and_comes_back() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..5)).await;
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    let old = cluster.leader().await;
    network.isolate(NodeId(old));
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    let new = cluster.leader_among(others).await;
    cluster.rafts[&new].apply("5").await.unwrap();
    let read = cluster.rafts[&old].query("", Consistency::Linearizable);
    let read = tokio::time::timeout(PATIENCE, read).await.unwrap();
    assert!(read.is_err(), "{read:?}");
    let follows = |status: &quorate::GroupStatus| status.role != RoleName::Leader;
    cluster.rafts[&old].wait_for(follows, PATIENCE).await.unwrap();
    network.heal();
    assert_eq!(cluster.caught_up(old).await, lines(0..6));
    cluster.shutdown().await;
}

/// A follower that hears but is not heard must not disturb the others.
#[tokio::test]
async fn a_one_way_cut_does_not_depose_the_leader() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..1)).await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).term;
    let mute = (1..=3).find(|id| *id != leader).unwrap();
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    for id in (1..=3).filter(|id| *id != mute) {
        network.block(NodeId(mute), NodeId(id));
    }
    cluster.apply_all(numbers(1..20)).await;
    network.heal();
    assert_eq!(cluster.caught_up(mute).await, lines(0..20));
    assert_eq!(cluster.status(leader).term, term);
    cluster.shutdown().await;
}

/// A state machine that panics takes its replica down on every node, and nothing else.
#[tokio::test]
async fn a_panicking_machine_stops_its_replica_with_the_reason() {
    let cluster = Cluster::start(1, Wire::Tcp, |_| {}).await;
    cluster.apply_all(numbers(0..1)).await;
    let raft = &cluster.rafts[&1];
    let error = tokio::time::timeout(PATIENCE, raft.apply("panic")).await.unwrap().unwrap_err();
    assert!(matches!(error, RequestError::OutcomeUnknown | RequestError::Stopped { .. }), "{error:?}");
    let reason = tokio::time::timeout(PATIENCE, raft.stopped()).await.unwrap();
    assert!(reason.contains("panic"), "{reason}");
    cluster.shutdown().await;
}

/// Somebody holds half again as many connections to the ports of two nodes as these take, and says
/// nothing on them. The third comes back, finds a place at both, and with one of them is a
/// majority.
#[tokio::test]
async fn idle_connections_to_the_peer_port_keep_no_node_out() {
    const PLACES: usize = 48;
    let mut cluster = Cluster::start(3, Wire::Tcp, |config| {
        let transport = &mut config.transport;
        transport.connect_timeout = Duration::from_secs(600);
        (transport.connections_max, transport.handshakes_max) = (PLACES, PLACES);
    })
    .await;
    cluster.apply_all(numbers(0..10)).await;
    cluster.kill(3);
    let mut idle = Vec::new();
    for id in [1, 2] {
        for _ in 0..PLACES * 3 / 2 {
            idle.push(TcpStream::connect(cluster.address(id)).await.unwrap());
        }
    }
    let refused = |cluster: &Cluster, id: u64| cluster.nodes[&id].stats().transport.handshakes_refused;
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    let deadline = Instant::now() + PATIENCE;
    while [1, 2].into_iter().any(|id| refused(&cluster, id) < (PLACES / 2) as u64) {
        assert!(Instant::now() < deadline, "those beyond the limit are ended");
        pause.tick().await;
    }
    cluster.restart(3).await;
    assert_eq!(cluster.caught_up(3).await, lines(0..10));
    let leader = cluster.leader().await;
    cluster.kill(if leader == 1 { 2 } else { 1 });
    cluster.apply_all(numbers(10..20)).await;
    assert_eq!(cluster.caught_up(3).await, lines(0..20));
    drop(idle);
    cluster.shutdown().await;
}
