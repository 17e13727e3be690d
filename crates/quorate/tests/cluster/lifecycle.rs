//! Starting, serving, stopping, starting again.

use std::time::{Duration, Instant};

use quorate::{
    ClusterId, Consistency, Dedupe, Node, NodeConfig, NodeId, OpenError, Raft, RequestError, RoleName, Start,
    StartError,
};

use crate::harness::{Cluster, ELECTION_TIMEOUT, GROUP, Lines, PATIENCE, Wire, lines, memory, numbers};

async fn three_nodes_agree(wire: Wire) {
    let cluster = Cluster::start(3, wire, |_| {}).await;
    cluster.apply_all(numbers(0..20)).await;
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..20));
    }
    // Any replica answers a linearizable question.
    for raft in cluster.rafts.values() {
        let answer = raft.query("", Consistency::Linearizable).await.unwrap();
        assert_eq!(answer.response, lines(0..20));
    }
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let refused = cluster.rafts[&follower].apply("x").await.unwrap_err();
    let RequestError::NotLeader { leader: Some(hint) } = refused else { panic!("{refused:?}") };
    assert_eq!((hint.node, hint.client_address), (NodeId(leader), format!("client-{leader}")));
    cluster.shutdown().await;
}

#[tokio::test]
async fn three_nodes_agree_in_memory() {
    three_nodes_agree(memory()).await;
}

#[tokio::test]
async fn three_nodes_agree_over_tcp() {
    three_nodes_agree(Wire::Tcp).await;
}

#[tokio::test]
async fn a_single_node_serves_alone() {
    let cluster = Cluster::start(1, Wire::Tcp, |_| {}).await;
    cluster.apply_all(numbers(0..3)).await;
    assert_eq!(cluster.content(1).await, lines(0..3));
    cluster.shutdown().await;
}

/// Everything acknowledged is there after all nodes were killed, and an identical start continues.
#[tokio::test]
async fn a_killed_cluster_continues_from_disk() {
    let mut cluster = Cluster::start(3, Wire::Tcp, |_| {}).await;
    cluster.apply_all(numbers(0..30)).await;
    for round in 1..=2 {
        for id in 1..=3 {
            cluster.kill(id);
        }
        for id in 1..=3 {
            cluster.start_node(id).await;
            assert_eq!(cluster.nodes[&id].groups_on_disk(), [GROUP]);
        }
        for id in 1..=3 {
            cluster.open(id, cluster.bootstrap(3)).await;
        }
        cluster.apply_all(numbers(round * 30..round * 30 + 30)).await;
    }
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..90));
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn pipelined_commands_are_applied_in_order() {
    let cluster = Cluster::start(3, Wire::Tcp, |_| {}).await;
    let leader = cluster.rafts[&cluster.leader().await].clone();
    leader.barrier().await.unwrap();
    let pending: Vec<_> = (0..1000).map(|n| leader.submit(n.to_string(), Dedupe::None)).collect();
    for (number, pending) in pending.into_iter().enumerate() {
        assert_eq!(pending.await.unwrap().response, (number + 1).to_string());
    }
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..1000));
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_repeated_command_of_a_session_is_applied_once() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    let leader = cluster.rafts[&cluster.leader().await].clone();
    let session = leader.open_session().await.unwrap();
    let dedupe = Dedupe::Session { session, sequence: 1, acked_below: 1 };
    let first = leader.apply_with("once", dedupe.clone()).await.unwrap();
    let again = leader.apply_with("once", dedupe).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(cluster.caught_up(1).await, "once\n");
    cluster.shutdown().await;
}

/// Whoever stops waiting does not take the command back.
#[tokio::test]
async fn dropping_the_future_does_not_withdraw_the_command() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    let leader = cluster.rafts[&cluster.leader().await].clone();
    drop(leader.submit("dropped", Dedupe::None));
    leader.barrier().await.unwrap();
    assert_eq!(cluster.content(cluster.leader().await).await, "dropped\n");
    cluster.shutdown().await;
}

async fn killed_leader_is_replaced(wire: Wire) {
    let mut cluster = Cluster::start(3, wire, |_| {}).await;
    cluster.apply_all(numbers(0..10)).await;
    let mut written = 10;
    // The time is that of the wall: on a busy machine not every one of a few times counts.
    let mut times = Vec::new();
    while !times.iter().any(|took| *took <= ELECTION_TIMEOUT * 3) {
        assert!(times.len() < 5, "it took {times:?}");
        let old = cluster.leader().await;
        cluster.kill(old);
        let killed = Instant::now();
        let new = cluster.leader().await;
        assert_ne!(old, new);
        times.push(killed.elapsed());
        cluster.apply_all(numbers(written..written + 10)).await;
        written += 10;
        cluster.restart(old).await;
        assert_eq!(cluster.caught_up(old).await, lines(0..written));
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn killed_leader_is_replaced_within_three_election_timeouts_in_memory() {
    killed_leader_is_replaced(memory()).await;
}

#[tokio::test]
async fn killed_leader_is_replaced_within_three_election_timeouts_over_tcp() {
    killed_leader_is_replaced(Wire::Tcp).await;
}

#[tokio::test]
async fn leadership_is_handed_to_whom_we_ask() {
    let cluster = Cluster::start(3, Wire::Tcp, |_| {}).await;
    cluster.apply_all(numbers(0..5)).await;
    let old = cluster.leader().await;
    let to = (1..=3).find(|id| *id != old).unwrap();
    let replica = cluster.replica(to);
    assert_eq!(cluster.rafts[&old].transfer_leadership(Some(replica)).await.unwrap(), replica);
    let leads = |status: &quorate::GroupStatus| status.role == RoleName::Leader;
    cluster.rafts[&to].wait_for(leads, PATIENCE).await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test]
async fn shutdown_answers_every_pending_call() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    let leader = cluster.leader().await;
    cluster.apply_all(numbers(0..1)).await;
    network.isolate(NodeId(leader));
    let raft: Raft = cluster.rafts[&leader].clone();
    let pending: Vec<_> = (0..50).map(|n| raft.submit(n.to_string(), Dedupe::None)).collect();
    let reading = tokio::spawn({
        let raft = raft.clone();
        async move { raft.query("", Consistency::Linearizable).await }
    });
    let node = &cluster.nodes[&leader];
    node.shutdown().await;
    for pending in pending {
        let error = tokio::time::timeout(PATIENCE, pending).await.unwrap().unwrap_err();
        assert!(
            matches!(
                error,
                RequestError::OutcomeUnknown | RequestError::Stopped { .. } | RequestError::NotLeader { .. }
            ),
            "{error:?}"
        );
    }
    assert!(tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap().is_err());
    let late = raft.apply("late").await.unwrap_err();
    assert!(matches!(late, RequestError::Stopped { .. }), "{late:?}");
    assert!(!raft.stopped().await.is_empty());
    node.shutdown().await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn too_many_waiting_requests_are_busy_not_blocked() {
    let cluster = Cluster::start(3, memory(), |config| {
        config.group.requests_max = 10;
    })
    .await;
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    cluster.apply_all(numbers(0..1)).await;
    let leader = cluster.leader().await;
    network.isolate(NodeId(leader));
    let raft = &cluster.rafts[&leader];
    let pending: Vec<_> = (0..100).map(|n| raft.submit(n.to_string(), Dedupe::None)).collect();
    let mut busy = 0;
    for pending in pending {
        match tokio::time::timeout(PATIENCE, pending).await.unwrap() {
            Err(RequestError::Busy { .. }) => busy += 1,
            Err(RequestError::OutcomeUnknown | RequestError::NotLeader { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(busy, 90);
    network.heal();
    cluster.shutdown().await;
}

/// A queue before the host thread refuses at once as well.
#[tokio::test]
async fn a_full_backlog_is_busy() {
    let cluster = Cluster::start(1, Wire::Tcp, |config| {
        config.queues.request_bytes_max = 1000;
    })
    .await;
    cluster.leader().await;
    let raft = &cluster.rafts[&1];
    let pending: Vec<_> = (0..500).map(|_| raft.submit(vec![0; 900], Dedupe::None)).collect();
    let mut busy = 0;
    for pending in pending {
        match pending.await {
            Ok(_) => {}
            Err(RequestError::Busy { .. }) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(busy > 0 && busy < 500, "{busy}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_start_that_cannot_work_says_why() {
    let mut cluster = Cluster::empty(Wire::Tcp, |_| {});
    cluster.start_node(1).await;
    let same_directory = Node::start(cluster.config(1)).await.err().unwrap();
    assert!(same_directory.to_string().contains("in use"), "{same_directory}");
    let no_group = cluster.nodes[&1].open_group(GROUP, Start::Resume, Lines::default()).await.err().unwrap();
    assert!(matches!(no_group, OpenError::NotFound(GROUP)), "{no_group}");
    let taken = NodeConfig { peer_listen: cluster.address(1), ..cluster.config(2) };
    let taken = Node::start(taken).await.err().unwrap();
    assert!(matches!(taken, StartError::Listen { .. }), "{taken}");
    cluster.kill(1);
    let other_cluster = NodeConfig { cluster: ClusterId(1), ..cluster.config(1) };
    let other_cluster = Node::start(other_cluster).await.err().unwrap();
    assert!(other_cluster.to_string().contains("belongs to cluster"), "{other_cluster}");
    let no_id = Node::start(NodeConfig::default()).await.err().unwrap();
    assert_eq!(no_id.to_string(), "configuration: node must be 1 or more");
}

/// The second machine once took the place of the first, which had applied what the second had not.
#[tokio::test]
async fn a_group_that_is_open_already_is_refused_and_goes_on() {
    let cluster = Cluster::start(1, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..3)).await;
    let again = cluster.nodes[&1].open_group(GROUP, Start::Resume, Lines::default()).await.err().unwrap();
    assert_eq!(again.to_string(), "group 1 is open already");
    cluster.apply_all(numbers(3..6)).await;
    assert_eq!(cluster.content(1).await, lines(0..6));
    cluster.shutdown().await;
}

/// Preallocating the log must not delay a start.
#[tokio::test]
async fn a_node_starts_at_once() {
    let mut cluster = Cluster::empty(Wire::Tcp, |config| config.wal = quorate::WalConfig::default());
    let began = Instant::now();
    cluster.start_node(1).await;
    cluster.open(1, cluster.bootstrap(1)).await;
    assert!(began.elapsed() < Duration::from_secs(1), "took {:?}", began.elapsed());
    cluster.shutdown().await;
}

/// The others waited for an election timeout when a leader was stopped for maintenance, and what was on its
/// way had no answer.
#[tokio::test]
async fn a_leader_that_stops_gracefully_answers_what_waits_and_hands_over() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..5)).await;
    let leader = cluster.leader().await;
    let raft = cluster.rafts[&leader].clone();
    let waiting: Vec<_> = numbers(5..25).into_iter().map(|line| raft.submit(line, Dedupe::None)).collect();
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    let unfinished = cluster.nodes[&leader].shutdown_gracefully(std::slice::from_ref(&raft), PATIENCE).await;
    assert_eq!(unfinished, []);
    for ticket in waiting {
        ticket.await.unwrap();
    }
    // That nothing was unfinished says that somebody has taken over: nobody waits for a timeout.
    let new = cluster.leader_among(others).await;
    assert_eq!(cluster.caught_up(new).await, lines(0..25));
    // A second time nothing waits, and nobody is left to hand over to.
    assert_eq!(cluster.nodes[&leader].shutdown_gracefully(&[raft], Duration::ZERO).await, []);
    cluster.shutdown().await;
}
