//! Scenarios of hashicorp/raft's tests that had no counterpart here (`docs/coverage-hashicorp-raft.md` lists all of them).

use std::time::Duration;

use quorate::{
    Consistency, Dedupe, MembershipChange, MembershipTransition, NodeId, RaftState, ReplicaId, RequestError,
    RoleName, Start,
};

use crate::harness::{Cluster, ELECTION_TIMEOUT, GROUP, Lines, PATIENCE, Wire, lines, memory, numbers};

/// Nothing hangs and nothing works after the end, whatever is asked; stopping twice is stopping once.
#[tokio::test]
async fn after_a_shutdown_every_operation_says_so_and_a_second_one_is_harmless() {
    let cluster = Cluster::start(1, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..3)).await;
    let raft = cluster.rafts[&1].clone();
    cluster.nodes[&1].shutdown().await;
    let remove = || MembershipChange::Remove(ReplicaId(1));
    let all = async {
        let unit = |_| ();
        let (stale, joint) = (Consistency::Stale, MembershipTransition::JointExplicit);
        [
            raft.apply("late").await.map(|_| ()),
            raft.apply_with("late", Dedupe::None).await.map(|_| ()),
            raft.submit("late", Dedupe::None).await.map(|_| ()),
            raft.apply_all(["late"]).await.remove(0).map(|_| ()),
            raft.open_session().await.map(|_| ()),
            raft.query("", stale).await.map(|_| ()),
            raft.query("", Consistency::Linearizable).await.map(|_| ()),
            raft.read_index().await.map(|_| ()),
            raft.verify_leader().await.map(|_| ()),
            raft.barrier().await.map(|_| ()),
            raft.change_membership(remove(), None).await.map(|_| ()),
            raft.change_members(vec![remove()], joint, None).await.map(|_| ()),
            raft.leave_joint().await.map(|_| ()),
            raft.add_voter(NodeId(2), "two:1", "").await.map(|_| ()),
            raft.add_learner(NodeId(2), "two:1", "").await.map(|_| ()),
            raft.demote(ReplicaId(1)).await.map(|_| ()),
            raft.remove(ReplicaId(1)).await.map(|_| ()),
            raft.transfer_leadership(None).await.map(|_| ()),
            raft.abort_transfer().await.map(|_| ()),
            raft.campaign().await.map(unit),
            raft.take_snapshot().await.map(|_| ()),
            raft.update_config(|_| {}).await.map(|_| ()),
        ]
    };
    let answers = tokio::time::timeout(PATIENCE, all).await.expect("nothing hangs");
    for (at, answer) in answers.into_iter().enumerate() {
        assert!(matches!(answer, Err(RequestError::Stopped { .. })), "operation {at}: {answer:?}");
    }
    assert!(raft.wait_for(|status| status.applied.0 > 1_000, PATIENCE).await.is_err());
    assert_eq!(raft.state(), RaftState::Shutdown);
    assert!(!raft.status().membership.is_empty(), "what was known last can still be looked at");
    cluster.nodes[&1].shutdown().await;
    cluster.shutdown().await;
}

/// A hundred users, each with a task of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_users_at_once_are_all_answered() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    let leader = cluster.rafts[&cluster.leader().await].clone();
    let mut users = tokio::task::JoinSet::new();
    for user in 0..100 {
        let raft = leader.clone();
        users.spawn(async move { raft.apply(user.to_string()).await.unwrap().response });
    }
    let mut answers: Vec<usize> = Vec::new();
    while let Some(answer) = users.join_next().await {
        answers.push(String::from_utf8(answer.unwrap().to_vec()).unwrap().parse().unwrap());
    }
    answers.sort_unstable();
    assert_eq!(answers, (1..=100).collect::<Vec<_>>(), "every command has a place of its own");
    let content = cluster.caught_up(cluster.leader().await).await;
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, content);
    }
    cluster.shutdown().await;
}

/// A cluster grows from one node to three, takes snapshots, goes on without a follower for longer than its log reaches
/// back, gets it back, loses its leader and replaces it by another node. In the end everybody holds the same.
#[tokio::test]
async fn a_cluster_that_grows_compacts_and_replaces_its_leader_stays_one() {
    let mut cluster = Cluster::start(1, memory(), |config| {
        config.group.snapshots.entries = 20;
        config.group.snapshots.trailing_entries = 5;
    })
    .await;
    cluster.apply_all(numbers(0..30)).await;
    for id in [2, 3] {
        let leader = cluster.rafts[&cluster.leader().await].clone();
        cluster.start_node(id).await;
        let added = leader.add_voter(NodeId(id), cluster.address(id), "").await.unwrap().replica;
        let seeds = vec![(leader.status().replica, leader.node(), cluster.address(leader.node().0))];
        cluster.open(id, Start::Join { replica: added, seeds }).await;
        leader.wait_voter(added, PATIENCE).await.unwrap();
    }
    let leader = cluster.leader().await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(away);
    cluster.apply_all(numbers(30..90)).await;
    cluster.restart(away).await;
    assert_eq!(cluster.caught_up(away).await, lines(0..90));

    let old = cluster.leader().await;
    let lost = cluster.replica(old);
    cluster.kill(old);
    let new = cluster.rafts[&cluster.leader().await].clone();
    cluster.start_node(4).await;
    let added = new.add_voter(NodeId(4), cluster.address(4), "").await.unwrap().replica;
    let seeds = vec![(new.status().replica, new.node(), cluster.address(new.node().0))];
    cluster.open(4, Start::Join { replica: added, seeds }).await;
    new.wait_voter(added, PATIENCE).await.unwrap();
    cluster.rafts[&cluster.leader().await].remove(lost).await.unwrap();
    cluster.apply_all(numbers(90..100)).await;
    for id in cluster.rafts.keys().copied().collect::<Vec<_>>() {
        assert_eq!(cluster.caught_up(id).await, lines(0..100), "node {id}");
        assert_eq!(cluster.status(id).membership.voters().count(), 3);
    }
    cluster.shutdown().await;
}

/// With long timeouts a restart disturbs nobody; once it has found its place, shorter ones are in effect at once.
#[tokio::test]
async fn a_follower_restarted_with_long_timeouts_costs_no_term_and_takes_shorter_ones_live() {
    let mut cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..3)).await;
    let leader = cluster.leader().await;
    let term = cluster.status(leader).term;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(follower);
    cluster.start_node(follower).await;
    let mut config = cluster.config(follower).group;
    config.core.election_timeout = Duration::from_secs(60);
    let machine = Box::<Lines>::default();
    let node = &cluster.nodes[&follower];
    let raft = node.open_group_with(GROUP, Start::Resume, config, machine).await.unwrap();
    cluster.rafts.insert(follower, raft.clone());
    assert_eq!(cluster.caught_up(follower).await, lines(0..3));
    assert_eq!(cluster.status(leader).term, term, "nobody was disturbed");
    raft.update_config(|config| config.core.election_timeout = ELECTION_TIMEOUT).await.unwrap();
    // From now on it looks for another leader in ordinary time.
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.isolate(NodeId(follower));
    raft.wait_for(|status| status.role == RoleName::PreCandidate, PATIENCE).await.unwrap();
    cluster.shutdown().await;
}
