//! Replicas that come and go.

use std::sync::Arc;
use std::time::Duration;

use quorate::{
    ChangeError, MemberRole, MembershipChange, MembershipTransition, NodeId, OpenError, ReplicaId,
    RequestError, Start,
};
use quorate_storage::{KnownPeers, OsDisk};

use crate::harness::{Cluster, GROUP, Lines, PATIENCE, Wire, lines, memory, numbers};

/// Adds node 4 as a learner; it knows nothing but the id it was given and one address.
async fn join(cluster: &mut Cluster) -> ReplicaId {
    cluster.start_node(4).await;
    let leader = cluster.leader().await;
    let address = cluster.address(4);
    let added = cluster.rafts[&leader].add_learner(NodeId(4), address, "client-4").await.unwrap();
    let seeds = vec![(cluster.replica(leader), NodeId(leader), cluster.address(leader))];
    cluster.open(4, Start::Join { replica: added.replica, seeds }).await;
    added.replica
}

async fn a_learner_catches_up_and_is_promoted(wire: Wire) {
    let mut cluster = Cluster::start(3, wire, |_| {}).await;
    cluster.apply_all(numbers(0..30)).await;
    let replica = join(&mut cluster).await;
    assert!(replica > ReplicaId(3), "{replica} is another one");
    assert_eq!(cluster.caught_up(4).await, lines(0..30));
    let leader = cluster.leader().await;
    let promoted = cluster.rafts[&leader].promote(replica).await.unwrap();
    let is_voter = |status: &quorate::GroupStatus| {
        status.commit >= promoted.id.index
            && status.membership.get(replica).is_some_and(|member| member.role == MemberRole::Voter)
    };
    cluster.rafts[&4].wait_for(is_voter, PATIENCE).await.unwrap();
    // Its vote counts: with two of four dead there is no quorum, with one there is.
    let dead = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(dead);
    cluster.apply_all(numbers(30..40)).await;
    assert_eq!(cluster.caught_up(4).await, lines(0..40));
    cluster.shutdown().await;
}

/// A voter goes and another comes in one step: old and new voters decide together in between.
#[tokio::test]
async fn a_voter_is_replaced_in_one_step() {
    let mut cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..10)).await;
    let new = join(&mut cluster).await;
    cluster.caught_up(4).await;
    let leader = cluster.leader().await;
    let old = cluster.replica((1..=3).find(|id| *id != leader).unwrap());
    let changes = vec![MembershipChange::Promote(new), MembershipChange::Remove(old)];
    let (_, replicas) =
        cluster.rafts[&leader].change_members(changes, MembershipTransition::Automatic, None).await.unwrap();
    assert_eq!(replicas, [new, old]);
    let status = cluster.rafts[&leader].status();
    assert!(status.membership.joint().is_none() && status.membership.get(old).is_none());
    assert!(status.membership.is_voter(new));
    cluster.apply_all(numbers(10..20)).await;
    assert_eq!(cluster.caught_up(4).await, lines(0..20));
    cluster.shutdown().await;
}

/// Two operators look at the same list: the second one's change was meant for what the first has changed already.
#[tokio::test]
async fn each_change_can_be_tied_to_the_membership_that_was_looked_at() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..1)).await;
    let leader = cluster.leader().await;
    let raft = cluster.rafts[&leader].within(PATIENCE);
    let other = cluster.replica((1..=3).find(|id| *id != leader).unwrap());
    assert_eq!(cluster.rafts[&leader].wait_leader(PATIENCE).await.unwrap().node, NodeId(leader));
    let stale = raft.expecting(raft.membership().0);
    let learner = stale.add_learner(NodeId(9), "nine:1", "").await.unwrap();
    let refused = [
        stale.add_learner(NodeId(8), "eight:1", "").await,
        stale.add_voter(NodeId(8), "eight:1", "").await,
        stale.add_voter_at_once(NodeId(8), "eight:1", "").await,
        stale.promote(learner.replica).await,
        stale.demote(other).await,
        stale.set_addresses(other, "other:1", "").await,
        stale.remove(other).await,
    ];
    for change in refused {
        let error = change.unwrap_err();
        assert!(matches!(error, RequestError::Change(ChangeError::Changed { .. })), "{error:?}");
    }
    raft.expecting(raft.membership().0).remove(learner.replica).await.unwrap();
    assert_eq!(raft.status().membership.members().count(), 3);
    cluster.shutdown().await;
}

/// One change at a time is Raft's rule; queueing for it is not the caller's work.
#[tokio::test]
async fn changes_asked_for_at_once_are_made_one_after_the_other() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    let leader = cluster.leader().await;
    let add = |node: u64| {
        let raft = cluster.rafts[&leader].clone();
        tokio::spawn(async move { raft.add_learner(NodeId(node), format!("host{node}:1"), "").await })
    };
    let adding: Vec<_> = (4..12).map(add).collect();
    let mut replicas = std::collections::BTreeSet::new();
    for added in adding {
        replicas.insert(added.await.unwrap().unwrap().replica);
    }
    // Each election before skips a block of ids.
    let first = replicas.first().unwrap().0;
    assert_eq!(replicas, (first..first + 8).map(ReplicaId).collect());
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_learner_catches_up_and_is_promoted_in_memory() {
    a_learner_catches_up_and_is_promoted(memory()).await;
}

#[tokio::test]
async fn a_learner_catches_up_and_is_promoted_over_tcp() {
    a_learner_catches_up_and_is_promoted(Wire::Tcp).await;
}

/// The log the learner would need is gone: it gets a snapshot in many pieces, then the rest.
async fn a_learner_far_behind_gets_a_snapshot(wire: Wire) {
    let mut cluster = Cluster::start(3, wire, |config| {
        config.group.snapshots.entries = 40;
        config.group.snapshots.trailing_entries = 5;
        config.group.snapshots.chunk_bytes = 64;
    })
    .await;
    cluster.apply_all(numbers(0..200)).await;
    let leader = cluster.leader().await;
    let has_compacted = |status: &quorate::GroupStatus| status.compacted.index.0 > 100;
    cluster.rafts[&leader].wait_for(has_compacted, PATIENCE).await.unwrap();
    join(&mut cluster).await;
    assert_eq!(cluster.caught_up(4).await, lines(0..200));
    assert!(cluster.status(4).snapshot.index.0 > 100, "{:?}", cluster.status(4));
    // And it starts from that snapshot again.
    cluster.kill(4);
    cluster.apply_all(numbers(200..210)).await;
    cluster.restart(4).await;
    assert_eq!(cluster.caught_up(4).await, lines(0..210));
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_learner_far_behind_gets_a_snapshot_in_memory() {
    a_learner_far_behind_gets_a_snapshot(memory()).await;
}

#[tokio::test]
async fn a_learner_far_behind_gets_a_snapshot_over_tcp() {
    a_learner_far_behind_gets_a_snapshot(Wire::Tcp).await;
}

#[tokio::test]
async fn a_removed_replica_can_be_deleted_and_its_node_join_again() {
    let mut cluster = Cluster::start(3, Wire::Tcp, |_| {}).await;
    cluster.apply_all(numbers(0..10)).await;
    let replica = join(&mut cluster).await;
    assert_eq!(cluster.caught_up(4).await, lines(0..10));
    let leader = cluster.leader().await;
    cluster.rafts[&leader].remove(replica).await.unwrap();
    cluster.rafts.remove(&4);
    cluster.nodes[&4].close_group(GROUP).await;
    let address = cluster.address(4);
    let added = cluster.rafts[&leader].add_learner(NodeId(4), address, "").await.unwrap();
    assert!(added.replica > replica, "replica ids are never used twice");
    let start = Start::Join { replica: added.replica, seeds: vec![] };
    let refused = cluster.nodes[&4].open_group(GROUP, start.clone(), Lines::default()).await.err().unwrap();
    assert!(matches!(refused, OpenError::OtherReplica { on_disk, .. } if on_disk == replica), "{refused}");
    cluster.nodes[&4].remove_group(GROUP).await.unwrap();
    assert!(!cluster.nodes[&4].has_group(GROUP));
    cluster.open(4, start).await;
    assert_eq!(cluster.caught_up(4).await, lines(0..10));
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_taken_on_demand_is_what_a_restart_begins_with() {
    let mut cluster = Cluster::start(1, Wire::Tcp, |_| {}).await;
    cluster.apply_all(numbers(0..20)).await;
    let last = cluster.rafts[&1].take_snapshot().await.unwrap();
    cluster.apply_all(numbers(20..25)).await;
    cluster.kill(1);
    cluster.restart(1).await;
    assert_eq!(cluster.caught_up(1).await, lines(0..25));
    assert_eq!(cluster.status(1).snapshot, last);
    cluster.shutdown().await;
}

/// Followers have nothing to say to each other until one campaigns, and then could not tell any more that the
/// other had been emptied.
#[tokio::test]
async fn followers_that_never_spoke_know_each_others_directories() {
    let cluster = Cluster::start(3, Wire::Tcp, |config| {
        if config.node != NodeId(1) {
            config.group.core.election_timeout = Duration::from_secs(60);
        }
    })
    .await;
    cluster.rafts[&1].campaign().await.unwrap();
    cluster.apply_all(numbers(0..3)).await;
    let knows = |id: u64, other| {
        let disk = Arc::new(OsDisk::new(cluster.directory(id)));
        KnownPeers::open(disk).unwrap().nodes().any(|node| node == NodeId(other))
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    while !(knows(2, 3) && knows(3, 2)) {
        assert!(tokio::time::Instant::now() < deadline, "they must meet");
        pause.tick().await;
    }
    cluster.shutdown().await;
}
