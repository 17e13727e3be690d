//! Every ticket is answered once, and "not applied" is only said when it is certain.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use quorate_core::{NodeId, ReplicaId, RoleName};
use quorate_host::{Answer, Consistency, DiskHealth, Request, RequestError};
use support::{Cluster, Disk, GROUP, propose, query, text};

fn transfer_to(node: NodeId) -> Request {
    Request::TransferLeadership { to: Some(ReplicaId(node.0)) }
}

/// A replica leads, loses five entries, leads again and writes a new entry at the index of a lost
/// one, whose ticket still waits. The new write's answer must not be eaten by the lost one's.
#[test]
fn two_tickets_of_different_terms_at_one_index_get_their_own_answers() {
    let mut cluster = Cluster::new(3);
    cluster.request(NodeId(1), Request::Campaign).unwrap();
    let old = cluster.leader();
    cluster.pass(200);
    cluster.cut = vec![old];
    let lost: Vec<_> = (0..5).map(|n| cluster.ask(old, propose(&format!("lost {n}")))).collect();
    let new = loop {
        let leads = |node: &NodeId| *node != old && cluster.status(*node).role == RoleName::Leader;
        if let Some(node) = cluster.nodes.keys().copied().find(leads) {
            break node;
        }
        cluster.pass(10);
    };
    cluster.cut.clear();
    cluster.pass(100);
    cluster.request(new, transfer_to(old)).unwrap();
    // The two new leaders' first entries stand where the first two stood.
    assert!(lost[2..].iter().all(|ticket| !cluster.is_answered(*ticket)), "too late to tell anything");
    let kept: Vec<_> = (0..5).map(|n| cluster.ask(old, propose(&format!("kept {n}")))).collect();
    for (n, ticket) in kept.into_iter().enumerate() {
        assert_eq!(text(cluster.reply(ticket)), format!("{n} kept {n}"));
    }
    for ticket in lost {
        let reply = cluster.reply(ticket);
        assert!(matches!(reply, Err(RequestError::NotLeader { .. })), "{reply:?}");
    }
    assert_eq!(text(cluster.request(old, query())), "5");
}

#[test]
fn second_transfer_answers_the_first() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.request(leader, propose("a")).unwrap();
    let other = |n: u64| NodeId((leader.0 - 1 + n) % 3 + 1);
    cluster.cut = vec![other(1)];
    let first = cluster.ask(leader, transfer_to(other(1)));
    let refused = cluster.request(leader, transfer_to(other(2)));
    assert!(matches!(refused, Err(RequestError::Transfer { .. })), "{refused:?}");
    // The core gives a transfer up after an election timeout; the ticket waits longer.
    cluster.pass(1100);
    assert!(!cluster.is_answered(first));
    let second = cluster.request(leader, transfer_to(other(2)));
    assert_eq!(second, Ok(Answer::Transferred { leader: ReplicaId(other(2).0) }));
    assert!(matches!(cluster.reply(first), Err(RequestError::Transfer { .. })));
}

#[test]
fn failed_log_stops_the_host_and_answers_everything() {
    let mut cluster = Cluster::new(1);
    let node = cluster.leader();
    cluster.log(node).set(Disk::Fails);
    let write = cluster.ask(node, propose("a"));
    assert_eq!(cluster.reply(write), Err(RequestError::OutcomeUnknown));
    assert!(cluster.stopped[0].2.contains("stop this node"), "{:?}", cluster.stopped);
    let late = cluster.request(node, query());
    assert!(matches!(late, Err(RequestError::Stopped { .. })), "{late:?}");
}

#[test]
fn full_disk_refuses_new_writes_and_finishes_the_old_ones_when_there_is_space() {
    let mut cluster = Cluster::new(1);
    let node = cluster.leader();
    cluster.log(node).set(Disk::Full);
    let first = cluster.ask(node, propose("a"));
    cluster.pass(300);
    let refused = cluster.request(node, propose("b"));
    assert_eq!(refused, Err(RequestError::DiskFull));
    assert_eq!(cluster.status(node).disk, DiskHealth::Full);
    // What is there is read as before.
    assert_eq!(text(cluster.request(node, query())), "0");
    assert!(!cluster.is_answered(first));
    // At no moment of the retries does it look as if there were space.
    for _ in 0..50 {
        cluster.pass(7);
        assert_eq!(cluster.request(node, propose("b")), Err(RequestError::DiskFull));
    }
    // However long it lasts: a full disk is not a hung one, and there is nobody who could take over.
    cluster.pass(10_000);
    assert_eq!(text(cluster.request(node, query())), "0");
    cluster.log(node).set(Disk::Works);
    assert_eq!(text(cluster.reply(first)), "0 a");
    assert_eq!(cluster.status(node).disk, DiskHealth::Works);
    assert_eq!(text(cluster.request(node, propose("c"))), "1 c");
    assert_eq!(cluster.stopped, Vec::new());
}

/// The retry once waited for a tick, and a follower that hears its leader is not ticked: it stayed behind
/// for ever (simulator seed 1439).
#[test]
fn follower_whose_disk_was_full_catches_up_while_it_hears_its_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    cluster.request(leader, propose("a")).unwrap();
    let follower = [1, 2, 3].map(NodeId).into_iter().find(|node| *node != leader).unwrap();
    cluster.log(follower).set(Disk::Full);
    cluster.request(leader, propose("b")).unwrap();
    // Other deadlines pass, too, and would hide it: at every moment a retry must be near.
    let interval = cluster.config.core.heartbeat_interval;
    for _ in 0..100 {
        cluster.pass(10);
        let retry_at = cluster.nodes[&follower].host.next_deadline().unwrap();
        let wait = retry_at.since(cluster.time().mono);
        assert!(wait <= interval, "nothing to do for {wait:?}");
    }
    cluster.log(follower).set(Disk::Works);
    cluster.pass(200);
    assert_eq!(cluster.leader(), leader);
    assert_eq!(cluster.status(follower).applied, cluster.status(leader).applied);
}

#[test]
fn leader_with_a_hung_disk_hands_over() {
    let mut cluster = Cluster::new(3);
    let old = cluster.leader();
    cluster.request(old, propose("a")).unwrap();
    cluster.log(old).set(Disk::Hangs);
    // The other two commit it without the leader's disk, but the leader may not apply it.
    let write = cluster.ask(old, propose("b"));
    cluster.pass(8000);
    let leads = |node: NodeId| cluster.status(node).role == RoleName::Leader;
    assert!(!leads(old), "{:?}", cluster.status(old));
    let new = cluster.leader();
    assert_eq!(text(cluster.request(new, query())), "2");
    cluster.log(old).set(Disk::Works);
    cluster.reply(write).ok();
    assert_eq!(text(cluster.request(old, query())), "2");
}

/// A leader whose first entry took its disk longer than an election timeout said "no leader is known" to a reader.
#[test]
fn read_that_no_majority_confirms_in_time_does_not_say_that_nobody_leads() {
    let mut cluster = Cluster::with(3, |cluster| cluster.config.core.check_quorum = false);
    let leader = cluster.leader();
    cluster.request(leader, propose("a")).unwrap();
    cluster.cut = (1..=3).map(NodeId).filter(|node| *node != leader).collect();
    let answer = cluster.request(leader, query());
    assert_eq!(cluster.status(leader).role, RoleName::Leader);
    assert!(matches!(answer, Err(RequestError::Busy { .. })), "{answer:?}");
    cluster.cut.clear();
    assert_eq!(text(cluster.request(leader, query())), "1");
}

/// How long a write may take is configured; from then on nobody takes the leader's disk for a good one.
#[test]
fn leader_with_a_stalled_disk_hands_over_within_the_configured_time() {
    let mut cluster =
        Cluster::with(3, |cluster| cluster.config.stalled_write_max = Duration::from_millis(700));
    let old = cluster.leader();
    cluster.request(old, propose("a")).unwrap();
    cluster.log(old).set(Disk::Hangs);
    let write = cluster.ask(old, propose("b"));
    cluster.pass(600);
    assert_eq!((cluster.status(old).role, cluster.status(old).disk), (RoleName::Leader, DiskHealth::Works));
    // The transfer needs a round or two; nobody waits for a timeout of the others.
    cluster.pass(300);
    assert_ne!(cluster.status(old).role, RoleName::Leader);
    assert_eq!(cluster.status(old).disk, DiskHealth::Stalled);
    let new = cluster.leader();
    assert_ne!(new, old);
    assert_eq!(text(cluster.request(new, query())), "2", "what the others had is committed");
    cluster.log(old).set(Disk::Works);
    cluster.reply(write).ok();
    cluster.pass(200);
    assert_eq!(cluster.status(old).disk, DiskHealth::Works);
}

/// A disk that was full and then does not answer at all is a hung one: its leader does not stay.
#[test]
fn leader_whose_full_disk_hangs_steps_down() {
    let mut cluster = Cluster::new(1);
    let node = cluster.leader();
    cluster.log(node).set(Disk::Full);
    let write = cluster.ask(node, propose("a"));
    cluster.pass(6_000);
    assert_eq!((cluster.status(node).role, cluster.status(node).disk), (RoleName::Leader, DiskHealth::Full));
    cluster.log(node).set(Disk::Hangs);
    cluster.pass(8_000);
    assert_ne!(cluster.status(node).role, RoleName::Leader);
    assert_eq!(cluster.status(node).disk, DiskHealth::Stalled);
    cluster.log(node).set(Disk::Works);
    cluster.reply(write).ok();
    let leader = cluster.leader();
    assert_eq!(cluster.status(leader).disk, DiskHealth::Works);
}

#[test]
fn closed_group_answers_what_waits_and_its_late_completions_do_no_harm() {
    let mut cluster = Cluster::new(1);
    let node = cluster.leader();
    cluster.log(node).set(Disk::Hangs);
    let write = cluster.ask(node, propose("a"));
    cluster.nodes.get_mut(&node).unwrap().host.close_group(GROUP);
    assert_eq!(cluster.reply(write), Err(RequestError::OutcomeUnknown));
    cluster.log(node).set(Disk::Full);
    cluster.pass(100);
    assert_eq!(cluster.request(node, query()), Err(RequestError::NoGroup));
    assert_eq!(cluster.stopped, Vec::new());
}

#[test]
fn requests_over_the_limit_are_refused() {
    let mut cluster = Cluster::with(3, |cluster| cluster.config.requests_max = 3);
    let leader = cluster.leader();
    cluster.request(leader, propose("a")).unwrap();
    cluster.cut = vec![leader];
    for n in 0..3 {
        cluster.ask(leader, propose(&n.to_string()));
    }
    let refused = cluster.request(
        leader,
        Request::Query { request: Bytes::new(), consistency: quorate_host::Consistency::Stale },
    );
    assert!(matches!(refused, Err(RequestError::Busy { .. })), "{refused:?}");
}

#[test]
fn queries_that_wait_are_bounded_in_bytes() {
    let mut cluster = Cluster::with(3, |cluster| cluster.config.query_bytes_max = 10_000);
    let leader = cluster.leader();
    cluster.request(leader, propose("a")).unwrap();
    let large = |bytes: usize| Request::Query {
        request: vec![0; bytes].into(),
        consistency: quorate_host::Consistency::Linearizable,
    };
    let refused = cluster.request(leader, large(10_000));
    assert!(matches!(refused, Err(RequestError::TooLarge { bytes_max: 10_000, .. })), "{refused:?}");
    // A leader that hears nobody cannot answer.
    cluster.cut = vec![leader];
    let waiting: Vec<_> = (0..2).map(|_| cluster.ask(leader, large(4_500))).collect();
    let refused = cluster.request(leader, large(4_500));
    assert!(matches!(refused, Err(RequestError::Busy { .. })), "{refused:?}");
    let small = cluster.ask(leader, large(500));
    assert!(waiting.iter().chain([&small]).all(|ticket| !cluster.is_answered(*ticket)));
    cluster.cut.clear();
    for ticket in waiting.into_iter().chain([small]) {
        assert_eq!(text(cluster.reply(ticket)), "1");
    }
    // Room again, for both kinds.
    for _ in 0..5 {
        assert_eq!(text(cluster.request(leader, large(9_000))), "1");
        let stale = quorate_host::Consistency::Stale;
        let request = Request::Query { request: vec![0; 9_000].into(), consistency: stale };
        assert_eq!(text(cluster.request(leader, request)), "1");
    }
}

#[test]
fn barrier_and_read_index_say_where_they_stand() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let Answer::Applied { id, .. } = cluster.request(leader, Request::Barrier).unwrap() else { panic!() };
    for node in [1, 2, 3].map(NodeId) {
        let Answer::ReadIndex { index } =
            cluster.request(node, Request::ReadIndex { consistency: Consistency::Linearizable }).unwrap()
        else {
            panic!()
        };
        assert!(index >= id.index);
        assert!(cluster.status(node).applied >= index);
    }
}

/// The disk hangs and the group is closed. What is recovered now does not know what the disk is about
/// to write, and its completions would be believed to be the next replica's.
#[test]
fn group_is_not_opened_again_while_writes_of_its_predecessor_are_under_way() {
    let mut cluster = Cluster::new(1);
    let node = cluster.leader();
    cluster.log(node).set(Disk::Hangs);
    let lost: Vec<_> = (0..3).map(|n| cluster.ask(node, propose(&n.to_string()))).collect();
    cluster.nodes.get_mut(&node).unwrap().host.close_group(GROUP);
    for ticket in lost {
        assert_eq!(cluster.reply(ticket), Err(RequestError::OutcomeUnknown));
    }
    let refused = cluster.open_group_again(node).unwrap_err().to_string();
    assert!(refused.contains("3 of its writes"), "{refused}");
    cluster.log(node).set(Disk::Works);
    cluster.settle();
    cluster.open_group_again(node).unwrap();
    cluster.leader();
    assert_eq!(text(cluster.request(node, query())), "3");
}

/// Its state machine is at work, and the group is closed. What it says it has applied would be believed to be the next
/// replica's, which has not been given it.
#[test]
fn group_is_not_opened_again_while_the_machine_of_its_predecessor_is_at_work() {
    let mut cluster = Cluster::new(1);
    let node = cluster.leader();
    cluster.request(node, propose("a")).unwrap();
    let host = &mut cluster.nodes.get_mut(&node).unwrap().host;
    host.close_group(GROUP);
    let refused = cluster.open_group_again(node).unwrap_err().to_string();
    assert!(refused.contains("state machine is still at work"), "{refused}");
    assert!(cluster.nodes[&node].host.is_leaving(GROUP));
    cluster.settle();
    cluster.open_group_again(node).unwrap();
    cluster.leader();
    assert_eq!(text(cluster.request(node, query())), "1");
}

/// It would be ahead of its log after a crash, and refuse to start.
#[test]
fn machine_with_a_disk_of_its_own_is_not_run_ahead_of_the_log() {
    let mut cluster = Cluster::with(1, |cluster| cluster.durable = true);
    let node = cluster.leader();
    cluster.request(node, propose("a")).unwrap();
    cluster.nodes.get_mut(&node).unwrap().host.close_group(GROUP);
    cluster.settle();
    cluster.config.core.apply_unpersisted = true;
    let refused = cluster.open_group_again(node).unwrap_err().to_string();
    assert!(refused.contains("core.apply_unpersisted must be off"), "{refused}");
    cluster.config.core.apply_unpersisted = false;
    cluster.open_group_again(node).unwrap();
    cluster.leader();
    assert_eq!(text(cluster.request(node, query())), "1");
}
