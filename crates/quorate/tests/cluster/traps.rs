//! Traps of hashicorp/raft that a port must not copy, as far as the library decides them; the others are in
//! `crates/quorate-core/tests/stories/hashicorp_traps.rs`. Each test fails when the library does what is told
//! in its comment; `docs/coverage-hashicorp-raft.md` says how that was seen.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate::{
    BatchEnd, Bytes, BytesSnapshot, ChangeError, Command, MachineError, MembershipChange, NodeId,
    RequestError, RoleName, SnapshotSource, Start, StateMachine,
};

use crate::harness::{Cluster, GROUP, PATIENCE, Wire, lines, memory, numbers};

/// Writes down what it is asked to do, and cannot read snapshots.
pub(crate) struct Fragile(pub(crate) Arc<Mutex<Vec<String>>>);

impl Fragile {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
}

impl StateMachine for Fragile {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        self.note(format!("apply {}", String::from_utf8_lossy(command.data)));
        Ok(Bytes::new())
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        self.note("query");
        Ok(Bytes::new())
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.note("snapshot");
        Ok(Box::new(BytesSnapshot::new("")))
    }
    fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        self.note("restore");
        content.read_exact(&mut [0; 3]).map_err(|error| MachineError::with("reading", error))?;
        Err(MachineError::new("half of it is restored, and the rest makes no sense"))
    }
}

/// A leader that only learners could hear was verified, in microseconds.
#[tokio::test]
async fn t1_a_leader_is_not_verified_by_learners() {
    let mut cluster = Cluster::start(3, memory(), |_| {}).await;
    let leader = cluster.leader().await;
    let raft = cluster.rafts[&leader].clone();
    for id in [4, 5] {
        cluster.start_node(id).await;
        let added = raft.add_learner(NodeId(id), cluster.address(id), "").await.unwrap().replica;
        let seeds = vec![(raft.status().replica, raft.node(), cluster.address(leader))];
        cluster.open(id, Start::Join { replica: added, seeds }).await;
        assert_eq!(cluster.caught_up(id).await, "");
    }
    raft.verify_leader().await.unwrap();
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    for voter in (1..=3).filter(|id| *id != leader) {
        network.block(NodeId(leader), NodeId(voter));
        network.block(NodeId(voter), NodeId(leader));
    }
    let alone = tokio::time::timeout(PATIENCE, raft.verify_leader()).await.unwrap();
    assert!(matches!(alone, Err(RequestError::NotLeader { .. })), "{alone:?}");
    cluster.shutdown().await;
}

/// A follower's state machine failed in the middle of a snapshot from its leader: an error of one request,
/// and the next entries were applied to what was half restored. Here the replica stops and says why; nothing
/// is asked of that machine again. With one that works, the replica goes on from its snapshot.
#[tokio::test]
async fn t8_nothing_is_applied_to_a_half_restored_state_machine() {
    let mut cluster = Cluster::start(3, memory(), |config| {
        config.group.snapshots.entries = 10;
        config.group.snapshots.trailing_entries = 0;
    })
    .await;
    let leader = cluster.leader().await;
    let behind = (1..=3).find(|id| *id != leader).unwrap();
    cluster.nodes[&behind].close_group(GROUP).await;
    cluster.rafts.remove(&behind);
    cluster.apply_all(numbers(0..50)).await;
    // Whoever leads then has nothing but its snapshot for who comes back.
    for raft in cluster.rafts.values() {
        raft.wait_for(|status| status.compacted.index.0 >= 10, PATIENCE).await.unwrap();
    }
    let asked = Arc::new(Mutex::new(Vec::new()));
    let fragile = Fragile(Arc::clone(&asked));
    let broken = cluster.nodes[&behind].open_group(GROUP, Start::Resume, fragile).await.unwrap();
    let reason = tokio::time::timeout(PATIENCE, broken.stopped()).await.unwrap();
    assert!(reason.contains("half of it is restored"), "{reason}");
    cluster.apply_all(numbers(50..60)).await;
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.last().map(String::as_str), Some("restore"), "{asked:?}");
    let refused = broken.read_index_with(quorate::Consistency::Stale).await.unwrap_err();
    assert!(matches!(refused, RequestError::Stopped { .. }), "{refused:?}");
    cluster.nodes[&behind].close_group(GROUP).await;
    cluster.open(behind, Start::Resume).await;
    assert_eq!(cluster.caught_up(behind).await, lines(0..60));
    cluster.shutdown().await;
}

/// After a restart without a snapshot the members were gone; with more than 8,192 committed entries the start
/// never ended; with fewer it ended before they were applied. Here the members are in the log, and a read
/// waits for what must be applied.
#[tokio::test]
async fn t9_a_long_log_without_a_snapshot_is_all_there_after_a_restart() {
    const COUNT: usize = 8_200;
    let mut cluster = Cluster::start(1, memory(), |config| config.group.snapshots.entries = 0).await;
    cluster.start_node(2).await;
    let raft = cluster.rafts[&cluster.leader().await].clone();
    let learner = raft.add_learner(NodeId(2), cluster.address(2), "").await.unwrap();
    let outcomes = raft.apply_all((0..COUNT).map(|_| "x")).await;
    assert!(outcomes.iter().all(Result::is_ok));
    let (members_at, members, _) = raft.membership();
    cluster.kill(1);
    let restarting = tokio::time::timeout(PATIENCE, cluster.restart(1));
    restarting.await.expect("the start does not wait for thousands of entries to be applied");
    let (again_at, again, _) = cluster.rafts[&1].membership();
    assert_eq!((again_at, &again), (members_at, &members), "the members are those of the log");
    assert!(again.get(learner.replica).is_some());
    cluster.rafts[&1].wait_leader_ready(PATIENCE).await.unwrap();
    let content = cluster.rafts[&1].query("", quorate::Consistency::Linearizable).await.unwrap().response;
    assert_eq!(content, "x\n".repeat(COUNT));
    cluster.shutdown().await;
}

/// The index of the configuration was always 0, so that nobody could say "if nothing has changed since".
#[tokio::test]
async fn t10_the_members_come_with_their_position_and_change_only_from_there() {
    let cluster = Cluster::start(1, memory(), |_| {}).await;
    cluster.leader().await;
    let raft = &cluster.rafts[&1];
    let add = |node| MembershipChange::AddLearner {
        node: NodeId(node),
        peer_address: format!("nowhere:{node}"),
        client_address: String::new(),
    };
    let (first, _, _) = raft.membership();
    let added = raft.change_membership(add(2), Some(first)).await.unwrap();
    let (second, members, is_committed) = raft.membership();
    assert_eq!((second, is_committed), (added.id, true));
    assert!(second.index.0 > 0 && members.get(added.replica).is_some());
    assert_eq!(raft.stats().to_map()["latest_configuration_index"], second.index.to_string());
    let stale = raft.change_membership(add(3), Some(first)).await.unwrap_err();
    assert!(matches!(stale, RequestError::Change(ChangeError::Changed { .. })), "{stale:?}");
    raft.change_membership(add(3), Some(second)).await.unwrap();
    cluster.shutdown().await;
}

/// A deadline of 100 ms bounded the way into a queue, and the call took two seconds; 16 of 40 questions were never
/// answered when the node was shut down; a snapshot of an idle group was refused after a change of members.
#[tokio::test]
async fn t12_a_deadline_is_until_completion_and_a_shutdown_answers_everybody() {
    let cluster = Cluster::start(3, memory(), |config| {
        config.group.core.election_timeout = Duration::from_secs(5);
    })
    .await;
    cluster.rafts[&1].campaign().await.unwrap();
    cluster.apply_all(numbers(0..3)).await;
    let leader = cluster.leader().await;
    let raft = cluster.rafts[&leader].clone();
    raft.add_learner(NodeId(9), "nowhere:1", "").await.unwrap();
    let taken = raft.take_snapshot().await.unwrap();
    assert!(taken.index >= raft.membership().0.index, "the change of members is part of it: {taken}");

    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.isolate(NodeId(leader));
    let began = Instant::now();
    let late = raft.within(Duration::from_millis(100)).apply("late").await.unwrap_err();
    assert!(matches!(late, RequestError::DeadlinePassed { .. }), "{late:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    assert_eq!(raft.status().role, RoleName::Leader, "and not because the leader noticed");

    let mut questions = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let raft = raft.clone();
        questions.spawn(async move { raft.verify_leader().await });
    }
    // All of them ask before the node is stopped.
    tokio::task::yield_now().await;
    cluster.nodes[&leader].shutdown().await;
    let all = async {
        while let Some(answer) = questions.join_next().await {
            assert!(answer.unwrap().is_err(), "nobody can confirm it");
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("every question is answered");
    cluster.shutdown().await;
}
