//! How fresh answers are.

use std::time::Duration;

use quorate::{Consistency, NodeId, RequestError, RoleName};

use crate::harness::{Cluster, ELECTION_TIMEOUT, PATIENCE, Wire, lines, memory, numbers};

/// A follower that heard of the commit index a moment ago answers alone, also when it is cut off; once that is
/// too long ago it says so instead of answering from the past.
#[tokio::test]
async fn a_follower_cut_off_serves_recent_reads_only_while_they_are_recent() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..5)).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let raft = &cluster.rafts[&follower];
    let hour = Consistency::Recent { age_max: Duration::from_secs(3600) };
    // Nothing is known yet: this one asks the leader, and sees everything.
    assert_eq!(raft.query("", hour).await.unwrap().response, lines(0..5));
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.isolate(NodeId(follower));
    assert_eq!(raft.query("", hour).await.unwrap().response, lines(0..5));
    let index = raft.read_index_with(hour).await.unwrap();
    assert!(cluster.status(follower).applied >= index);
    let strict = Consistency::Recent { age_max: Duration::ZERO };
    for too_fresh in [strict, Consistency::Linearizable, Consistency::Lease] {
        let answer = tokio::time::timeout(PATIENCE, raft.query("", too_fresh)).await.unwrap();
        assert!(matches!(answer, Err(RequestError::NotLeader { .. })), "{answer:?}");
    }
    assert_eq!(raft.query("", Consistency::Stale).await.unwrap().response, lines(0..5));
    cluster.shutdown().await;
}

/// With leases the leader answers without a round, and never after another can have been elected.
#[tokio::test]
async fn a_leader_with_a_lease_answers_until_the_lease_ends() {
    let cluster = Cluster::start(3, memory(), |config| {
        config.group.core.leader_lease = true;
        config.group.core.lease_drift_max = ELECTION_TIMEOUT / 10;
    })
    .await;
    cluster.apply_all(numbers(0..3)).await;
    let old = cluster.leader().await;
    assert_eq!(cluster.rafts[&old].query("", Consistency::Lease).await.unwrap().response, lines(0..3));
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.isolate(NodeId(old));
    let new = cluster.leader_among((1..=3).filter(|id| *id != old)).await;
    cluster.rafts[&new].apply("3").await.unwrap();
    let late = cluster.rafts[&old].query("", Consistency::Lease);
    let late = tokio::time::timeout(PATIENCE, late).await.unwrap();
    assert!(matches!(late, Err(RequestError::NotLeader { .. })), "{late:?}");
    assert_eq!(cluster.rafts[&new].query("", Consistency::Lease).await.unwrap().response, lines(0..4));
    cluster.shutdown().await;
}

/// A leader is confirmed by its voters, not by what it believes: cut off, it is not, although it still thinks
/// that it leads; a follower never is.
#[tokio::test]
async fn only_a_leader_whose_voters_answer_is_verified() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..1)).await;
    let leader = cluster.leader().await;
    let term = cluster.rafts[&leader].verify_leader().await.unwrap();
    assert_eq!(term, cluster.status(leader).term);
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let refused = cluster.rafts[&follower].verify_leader().await.unwrap_err();
    assert!(matches!(refused, RequestError::NotLeader { leader: Some(_) }), "{refused:?}");
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.isolate(NodeId(leader));
    assert_eq!(cluster.status(leader).role, RoleName::Leader, "it has not noticed yet");
    let alone = tokio::time::timeout(PATIENCE, cluster.rafts[&leader].verify_leader()).await.unwrap();
    assert!(matches!(alone, Err(RequestError::NotLeader { .. })), "{alone:?}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_follower_that_waits_for_a_write_to_be_applied_sees_it() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..4)).await;
    let leader = cluster.leader().await;
    let written = cluster.rafts[&leader].apply("4").await.unwrap().id.index;
    for raft in cluster.rafts.values() {
        raft.wait_applied(written, PATIENCE).await.unwrap();
        assert_eq!(raft.query("", Consistency::Stale).await.unwrap().response, lines(0..5));
    }
    let never = cluster.rafts[&leader].wait_applied(written.next(), Duration::ZERO).await;
    assert!(never.is_err(), "{never:?}");
    cluster.shutdown().await;
}
