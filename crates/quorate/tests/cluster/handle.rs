//! What the handle offers beside commands and questions: deadlines, batches, state, leadership, configuration.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::time::Duration;

use quorate::{
    Dedupe, NodeId, Outcome, RaftEvent, RaftState, ReplicaId, RequestError, RoleName, Start, Storage,
    StoredSnapshot,
};

use crate::harness::{Cluster, ELECTION_TIMEOUT, PATIENCE, Wire, lines, memory, numbers};

/// A leader that is cut off cannot say what became of a command; the caller does not wait for it to notice.
#[tokio::test]
async fn a_deadline_ends_the_wait_and_says_that_the_outcome_is_unknown() {
    let cluster = Cluster::start(3, memory(), |config| {
        config.group.core.election_timeout = Duration::from_secs(5);
    })
    .await;
    cluster.rafts[&1].campaign().await.unwrap();
    cluster.apply_all(numbers(0..1)).await;
    let leader = cluster.leader().await;
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.isolate(NodeId(leader));
    let within = Duration::from_millis(50);
    let raft = cluster.rafts[&leader].within(within);
    let late = raft.apply("1").await.unwrap_err();
    assert_eq!(late, RequestError::DeadlinePassed { within });
    assert!(late.outcome_unknown() && late.outcome() == Outcome::Unknown);
    let ticket = raft.submit("2", Dedupe::None);
    assert_eq!(ticket.await.unwrap_err(), RequestError::DeadlinePassed { within });
    let adding = raft.add_learner(NodeId(9), "nine:1", "").await.unwrap_err();
    assert_eq!(adding, RequestError::DeadlinePassed { within });
    // It was said to be unknown, and it was: the commands are applied once the network is back.
    network.heal();
    assert_eq!(cluster.caught_up(leader).await, lines(0..3));
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let refused = cluster.rafts[&follower].within(PATIENCE).apply("no").await.unwrap_err();
    assert!(refused.not_applied(), "{refused:?}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_batch_is_applied_in_its_order_and_answered_one_by_one() {
    let cluster = Cluster::start(3, memory(), |config| {
        config.group.core.command_bytes_max = 1000;
    })
    .await;
    let leader = cluster.rafts[&cluster.leader().await].clone();
    let outcomes = leader.apply_all(numbers(0..100)).await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome.unwrap().response, (number + 1).to_string());
    }
    let mixed = leader.apply_all([vec![b'a'], vec![b'b'; 2000], vec![b'c']]).await;
    assert!(mixed[0].is_ok() && mixed[2].is_ok());
    assert!(matches!(mixed[1], Err(RequestError::TooLarge { bytes: 2000, bytes_max: 1000 })), "{mixed:?}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn state_leader_and_figures_are_those_of_the_replica() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..7)).await;
    let leader = cluster.leader().await;
    let raft = &cluster.rafts[&leader];
    raft.wait_leader_ready(PATIENCE).await.unwrap();
    assert_eq!((raft.state(), raft.state().to_string()), (RaftState::Leader, "Leader".to_owned()));
    assert!(raft.is_leader());
    let stats = raft.stats();
    assert_eq!((stats.peers, stats.last_contact, stats.progress.len()), (2, Some(Duration::ZERO), 2));
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.caught_up(follower).await;
    let theirs = &cluster.rafts[&follower];
    let known = theirs.leader().unwrap();
    assert_eq!((known.node, known.client_address), (NodeId(leader), format!("client-{leader}")));
    assert_eq!(theirs.to_string(), format!("Node {} group 1 [Follower]", theirs.node()));
    let map = theirs.stats().to_map();
    let keys = [
        "applied_index",
        "commit_index",
        "fsm_pending",
        "last_contact",
        "last_log_index",
        "last_log_term",
        "last_snapshot_index",
        "last_snapshot_term",
        "latest_configuration",
        "latest_configuration_index",
        "num_peers",
        "protocol_version",
        "protocol_version_max",
        "protocol_version_min",
        "snapshot_version_max",
        "snapshot_version_min",
        "state",
        "term",
    ];
    assert_eq!(map.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from(keys));
    assert_eq!((&*map["state"], &*map["num_peers"]), ("Follower", "2"));
    assert_ne!(map["last_contact"], "never");
    let kept = theirs.clone();
    cluster.shutdown().await;
    assert_eq!(kept.state().to_string(), "Shutdown");
}

/// A backup: the content of a snapshot is the state machine's bytes and nothing else.
#[tokio::test]
async fn a_snapshot_taken_by_hand_can_be_read_and_figures_say_where_time_goes() {
    let cluster = Cluster::start(3, memory(), |_| {}).await;
    let leader = cluster.rafts[&cluster.leader().await].clone();
    leader.open_session().await.unwrap();
    cluster.apply_all(numbers(0..10)).await;
    let snapshot = leader.snapshot().await.unwrap();
    assert_eq!((snapshot.id(), snapshot.meta().last), (leader.status().snapshot, leader.status().last));
    for _ in 0..2 {
        let mut content = String::new();
        snapshot.open().unwrap().read_to_string(&mut content).unwrap();
        assert_eq!(content, lines(0..10));
    }
    cluster.apply_all(numbers(10..11)).await;
    leader.snapshot().await.unwrap();
    let kept: Vec<_> = leader.snapshots().await.unwrap().iter().map(StoredSnapshot::id).collect();
    assert_eq!(kept, [snapshot.id(), leader.status().snapshot]);
    let stats = leader.stats();
    assert!(stats.latencies.applied.count() > 5 && stats.queued.count() > 0);
    assert!(stats.latencies.committed.quantile(500) <= stats.latencies.applied.quantile(1000));
    cluster.shutdown().await;
}

/// Being elected and being ready to serve are two things: a new leader has old entries to apply first.
#[tokio::test]
async fn who_follows_the_leadership_sees_it_come_get_ready_and_go() {
    let mut cluster = Cluster::empty(memory(), |_| {});
    cluster.start_node(1).await;
    cluster.open(1, cluster.bootstrap(1)).await;
    let raft = cluster.rafts[&1].clone();
    let mut elections = raft.events().filter(|event| matches!(event, RaftEvent::RoleChanged { .. }));
    let mut changes = raft.leader_changes();
    let follow = async {
        let mut seen = Vec::new();
        while let Some(leadership) = changes.next().await {
            assert!(leadership.is_here || !leadership.is_ready);
            seen.push(leadership);
            if leadership.is_ready {
                break;
            }
        }
        seen
    };
    let seen = tokio::time::timeout(PATIENCE, follow).await.unwrap();
    assert_eq!(seen.last().unwrap().leader, Some(ReplicaId(1)));
    cluster.shutdown().await;
    assert!(changes.next().await.is_none_or(|last| !last.is_ready));
    while let Some(event) = elections.next().await {
        assert!(matches!(event, RaftEvent::RoleChanged { .. }), "{event:?}");
    }
}

/// Success is the named voter seen as leader of a later term.
#[tokio::test]
async fn a_transfer_says_who_leads_and_one_that_cannot_work_why() {
    // On a busy machine a short one ends in elections that nobody asked for.
    let cluster = Cluster::start(3, memory(), |config| {
        config.group.core.election_timeout = Duration::from_secs(5);
    })
    .await;
    cluster.rafts[&1].campaign().await.unwrap();
    cluster.apply_all(numbers(0..3)).await;
    let old = cluster.leader().await;
    let term = cluster.status(old).term;
    let to = cluster.replica((1..=3).find(|id| *id != old).unwrap());
    assert_eq!(cluster.rafts[&old].transfer_leadership(Some(to)).await.unwrap(), to);
    let status = cluster.status(old);
    assert!(status.leader == Some(to) && status.term > term, "{status:?}");
    let stranger = cluster.rafts[&cluster.leader().await].transfer_leadership(Some(ReplicaId(9))).await;
    assert!(matches!(stranger, Err(RequestError::Transfer { .. })), "{stranger:?}");
    assert_eq!(cluster.rafts[&cluster.leader().await].abort_transfer().await.unwrap(), None);
    cluster.shutdown().await;
}

/// An answer once overtook the status that told of it.
#[tokio::test]
async fn the_status_is_never_older_than_an_answer() {
    let cluster = Cluster::start(1, memory(), |config| config.storage = Storage::Memory).await;
    cluster.leader().await;
    for _ in 0..500 {
        let applied = cluster.rafts[&1].apply("x").await.unwrap().id.index;
        assert!(cluster.status(1).applied >= applied);
    }
    cluster.shutdown().await;
}

/// A target that does not answer any more holds up writes until the transfer is called off.
#[tokio::test]
async fn a_transfer_that_was_called_off_says_so() {
    let cluster = Cluster::start(3, memory(), |config| {
        config.group.core.election_timeout = Duration::from_secs(5);
    })
    .await;
    cluster.rafts[&1].campaign().await.unwrap();
    cluster.apply_all(numbers(0..3)).await;
    let leader = cluster.leader().await;
    let other = (1..=3).find(|id| *id != leader).unwrap();
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.isolate(NodeId(other));
    let raft = cluster.rafts[&leader].clone();
    // It has to catch up first, and cannot.
    raft.apply("3").await.unwrap();
    let transfer = tokio::spawn({
        let (raft, to) = (raft.clone(), cluster.replica(other));
        async move { raft.transfer_leadership(Some(to)).await }
    });
    let refused =
        async { while !matches!(raft.within(PATIENCE).apply("4").await, Err(RequestError::Busy { .. })) {} };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(raft.abort_transfer().await.unwrap(), Some(cluster.replica(other)));
    let ended = transfer.await.unwrap().unwrap_err();
    assert_eq!(ended, RequestError::Transfer { what: "it was called off" });
    raft.apply("5").await.unwrap();
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_running_replica_takes_new_timings_and_limits_and_refuses_what_needs_a_restart() {
    let cluster = Cluster::start(1, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..30)).await;
    let raft = &cluster.rafts[&1];
    let updated = raft.update_config(|config| {
        config.snapshots.entries = 5;
        config.snapshots.trailing_entries = 0;
        config.core.election_timeout = ELECTION_TIMEOUT * 2;
    });
    assert_eq!(updated.await.unwrap().core.election_timeout, ELECTION_TIMEOUT * 2);
    cluster.apply_all(numbers(30..40)).await;
    raft.wait_for(|status| status.compacted.index.0 > 30, PATIENCE).await.unwrap();
    let wrong = raft.update_config(|config| config.core.heartbeat_interval = PATIENCE).await.unwrap_err();
    assert!(matches!(wrong, RequestError::Config { field: "election_timeout", .. }), "{wrong:?}");
    let fixed = raft.update_config(|config| config.snapshots.chunk_bytes = 7).await.unwrap_err();
    assert!(matches!(fixed, RequestError::Config { field: "snapshots.chunk_bytes", .. }), "{fixed:?}");
    let none = raft.update_config(|config| config.sessions.bytes_max = 1).await.unwrap_err();
    assert!(matches!(none, RequestError::Config { field: "sessions.bytes_max", .. }), "{none:?}");
    raft.update_config(|config| config.sessions.idle_max = 2 * PATIENCE).await.unwrap();
    let limited = raft.update_config(|config| config.core.command_bytes_max = 10).await.unwrap();
    let refused = raft.apply("eleven bytes").await.unwrap_err();
    assert!(matches!(refused, RequestError::TooLarge { bytes: 12, bytes_max: 10 }), "{refused:?}");
    assert_eq!(limited.core.command_bytes_max, 10);
    // More than a frame between nodes can hold would be acknowledged by nobody, ever.
    let wide = raft.update_config(|config| config.core.append_bytes_max = 1 << 30).await.unwrap_err();
    assert!(matches!(wide, RequestError::Config { field: "transport.frame_bytes_max", .. }), "{wide:?}");
    // What was refused is not kept for the next change.
    let kept = raft.update_config(|config| config.requests_max = 7).await.unwrap();
    assert_eq!((kept.snapshots.entries, kept.requests_max), (5, 7));
    assert_eq!(kept.core.append_bytes_max, limited.core.append_bytes_max);
    assert!(kept.core.heartbeat_interval < ELECTION_TIMEOUT && kept.sessions.bytes_max > 1);
    // What nobody waited for took effect all the same: the next change does not take it back.
    tokio::select! {
        biased;
        _ = raft.update_config(|config| config.requests_max = 8) => {}
        () = std::future::ready(()) => {}
    }
    let kept = raft.update_config(|config| config.core.command_bytes_max = 20).await.unwrap();
    assert_eq!((kept.requests_max, kept.core.command_bytes_max), (8, 20));
    cluster.shutdown().await;
}

/// Nobody has to watch a new node and promote it at the right moment.
#[tokio::test]
async fn a_voter_is_added_without_a_moment_in_which_it_is_missing() {
    let mut cluster = Cluster::start(1, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..20)).await;
    let raft = cluster.rafts[&1].clone();
    cluster.start_node(2).await;
    let added = raft.add_voter(NodeId(2), cluster.address(2), "").await.unwrap();
    // It is not there yet, and the only voter goes on without it.
    cluster.apply_all(numbers(20..25)).await;
    assert!(!cluster.status(1).membership.is_voter(added.replica));
    let seeds = vec![(cluster.replica(1), NodeId(1), cluster.address(1))];
    cluster.open(2, Start::Join { replica: added.replica, seeds }).await;
    raft.wait_voter(added.replica, PATIENCE).await.unwrap();
    assert_eq!(cluster.caught_up(2).await, lines(0..25));
    let again = raft.add_voter(NodeId(2), cluster.address(2), "").await.unwrap_err();
    assert_eq!(again, RequestError::Change(quorate::ChangeError::NothingToDo));
    // The same call takes over an address, and makes a voter again of one that was demoted.
    raft.demote(added.replica).await.unwrap();
    raft.add_voter(NodeId(2), cluster.address(2), "two:80").await.unwrap();
    let status = raft.wait_voter(added.replica, PATIENCE).await.unwrap();
    assert_eq!(status.membership.get(added.replica).unwrap().client_address, "two:80");
    let (id, members, _) = raft.membership();
    assert_eq!((id, members.voters().count()), (status.membership_id, 2));
    cluster.shutdown().await;
}

/// Who insists on a voter that is not there gets what it asked for.
#[tokio::test]
async fn a_voter_added_at_once_counts_at_once() {
    let cluster = Cluster::start(1, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..3)).await;
    let raft = cluster.rafts[&1].within(Duration::from_millis(100));
    let added = raft.add_voter_at_once(NodeId(2), "nowhere:1", "").await;
    assert!(added.is_err_and(|error| error.outcome_unknown()));
    let alone = |status: &quorate::GroupStatus| status.role != RoleName::Leader;
    cluster.rafts[&1].wait_for(alone, PATIENCE).await.unwrap();
    cluster.shutdown().await;
}
