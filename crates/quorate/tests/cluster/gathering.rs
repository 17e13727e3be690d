//! Requests of many tasks that are handed over together.

use quorate::{Dedupe, Raft, RequestError};

use crate::harness::{Cluster, PATIENCE, lines, memory, numbers};

/// A cluster and the handle of its leader, which is ready.
async fn led(nodes: u64) -> (Cluster, Raft) {
    let cluster = Cluster::start(nodes, memory(), |_| {}).await;
    let leader = cluster.rafts[&cluster.leader().await].clone();
    leader.wait_leader_ready(PATIENCE).await.unwrap();
    (cluster, leader)
}

/// The runtime of the test has one thread, so nothing is handed over before this task waits for something.
#[tokio::test]
async fn requests_of_one_turn_are_handed_over_together_and_in_their_order() {
    let (cluster, leader) = led(3).await;
    let gathering = leader.gathering();
    let gathered: Vec<_> = ["0", "1"].map(|name| gathering.submit(name, Dedupe::None)).into();
    let overtakes = leader.submit("at once", Dedupe::None);
    let first = overtakes.await.unwrap().id;
    for (number, pending) in gathered.into_iter().enumerate() {
        let applied = pending.await.unwrap();
        assert_eq!(applied.id.index.0, first.index.0 + 1 + number as u64);
    }
    // Batches and single commands of several handles, one order.
    let clone = gathering.clone();
    let pending = clone.submit("2", Dedupe::None);
    let outcomes = gathering.apply_all(numbers(3..6)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    pending.await.unwrap();
    let content = cluster.content(cluster.leader().await).await;
    assert_eq!(content, format!("at once\n{}", lines(0..6)));
    cluster.shutdown().await;
}

/// A thread without a runtime has no turns, and nobody runs the task of the others for it.
#[tokio::test]
async fn outside_of_a_runtime_a_request_is_handed_over_at_once_with_those_before_it() {
    let (cluster, leader) = led(1).await;
    let gathering = leader.gathering();
    let before = gathering.submit("0", Dedupe::None);
    let applied = std::thread::scope(|scope| {
        let submit = scope.spawn(|| gathering.submit("1", Dedupe::None));
        submit.join().unwrap()
    });
    // Later than both, though this one waits for nobody.
    let last = leader.apply("2").await.unwrap().id;
    assert_eq!(before.await.unwrap().id.index.0 + 2, last.index.0);
    assert_eq!(applied.await.unwrap().id.index.0 + 1, last.index.0);
    cluster.shutdown().await;
}

#[tokio::test]
async fn what_was_gathered_for_a_node_that_has_stopped_is_not_applied() {
    let (cluster, leader) = led(1).await;
    let gathering = leader.gathering();
    cluster.shutdown().await;
    let late = gathering.apply("late").await.unwrap_err();
    assert!(matches!(late, RequestError::Stopped { .. }) && late.not_applied(), "{late:?}");
}
