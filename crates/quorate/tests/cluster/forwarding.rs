//! Commands given to whichever node is at hand.

use std::time::Duration;

use quorate::{Dedupe, Outcome, RequestError};

use crate::harness::{Cluster, PATIENCE, Wire, lines, memory, numbers};

#[tokio::test]
async fn every_node_takes_commands_through_a_forwarding_handle_over_tcp() {
    let cluster = Cluster::start(3, Wire::Tcp, |_| {}).await;
    cluster.leader().await;
    for (id, number) in (1..=3).zip(numbers(0..3)) {
        let raft = cluster.rafts[&id].forwarding();
        let applied = raft.within(PATIENCE).apply(number).await.unwrap();
        raft.wait_applied(applied.id.index, PATIENCE).await.unwrap();
        assert_eq!(cluster.content(id).await, lines(0..id));
    }
    for raft in cluster.rafts.values() {
        let raft = raft.forwarding().within(PATIENCE);
        let at = raft.barrier().await.unwrap();
        assert!(raft.status().applied >= at.index, "it is applied here");
    }
    let outcomes = cluster.rafts[&1].forwarding().apply_all(numbers(3..8)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    cluster.shutdown().await;
}

/// A layer between the caller and the machine says something of each command: whichever way a command takes,
/// every machine is told the same next to it.
#[tokio::test]
async fn what_is_said_of_a_command_comes_out_next_to_it_on_every_replica() {
    let cluster = Cluster::start(3, Wire::Tcp, |config| config.group.core.command_bytes_max = 64).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let raft = cluster.rafts[&leader].extended("1 of 2").within(PATIENCE);
    let passing = cluster.rafts[&follower].forwarding().extended("2 of 2").within(PATIENCE);
    let key = || Dedupe::Key { key: "k".into(), fingerprint: 1 };
    raft.apply("plain").await.unwrap();
    raft.apply_with("with a key", key()).await.unwrap();
    passing.apply("passed on").await.unwrap();
    let session = passing.open_session().await.unwrap();
    let first = Dedupe::Session { session, sequence: 1, acked_below: 1 };
    passing.apply_with("in a session", first).await.unwrap();
    passing.apply_version(1, "of a version", Dedupe::None).await.unwrap();
    // A repeat is the same command, whatever is said of it now.
    passing.apply_with("with a key", key()).await.unwrap();
    let last = passing.apply_all(["together"]).await.pop().unwrap().unwrap();

    let expected = "plain / 1 of 2\nwith a key / 1 of 2\npassed on / 2 of 2\nin a session / 2 of 2\n\
                    of a version / 2 of 2\ntogether / 2 of 2\n";
    for id in 1..=3 {
        cluster.rafts[&id].wait_applied(last.id.index, PATIENCE).await.unwrap();
        assert_eq!(cluster.content(id).await, expected);
    }
    let refused = raft.extended(vec![b'x'; 60]).apply("large").await.unwrap_err();
    assert_eq!(refused, RequestError::TooLarge { bytes: 65, bytes_max: 64 });
    cluster.shutdown().await;
}

/// The leader dies while a client of a follower writes. What was in doubt is asked again in its session, so that
/// every command is there once, in order, and the client never sees an error.
#[tokio::test]
async fn a_session_through_a_follower_survives_the_death_of_its_leader() {
    let mut cluster = Cluster::start(3, memory(), |_| {}).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let raft = cluster.rafts[&follower].forwarding().within(PATIENCE);
    let session = raft.open_session().await.unwrap();
    let (sender, mut applied) = tokio::sync::mpsc::unbounded_channel();
    let client = tokio::spawn(async move {
        for sequence in 1..=60u64 {
            let dedupe = Dedupe::Session { session, sequence, acked_below: sequence };
            raft.apply_with((sequence - 1).to_string(), dedupe).await.unwrap();
            sender.send(sequence).unwrap();
        }
    });
    while applied.recv().await.unwrap() < 20 {}
    cluster.kill(leader);
    client.await.unwrap();
    assert_eq!(cluster.caught_up(follower).await, lines(0..60));
    cluster.shutdown().await;
}

#[tokio::test]
async fn without_a_leader_a_forwarding_handle_waits_for_its_time_and_says_that_nothing_was_applied() {
    let mut cluster = Cluster::start(3, memory(), |config| {
        config.group.forward_within = Duration::from_millis(200);
        config.group.core.election_timeout = Duration::from_secs(30);
    })
    .await;
    let refused = cluster.rafts[&1].forwarding().apply("a").await.unwrap_err();
    assert!(matches!(refused, RequestError::NotLeader { leader: None }), "{refused:?}");
    assert_eq!(refused.outcome(), Outcome::NotApplied);
    let within = Duration::from_millis(100);
    let late = cluster.rafts[&1].within(within).forwarding().apply("a").await.unwrap_err();
    assert_eq!(late, RequestError::DeadlinePassed { within });
    cluster.kill(3);
    cluster.shutdown().await;
}
