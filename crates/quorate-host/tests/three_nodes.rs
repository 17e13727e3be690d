//! Stories on three hosts in one thread.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use quorate_core::{MembershipChange, NodeId, ReplicaId};
use quorate_host::{Answer, Dedupe, Event, Proposal, Request, RequestError, Ticket, join_batch};
use support::{Cluster, GROUP, propose, query, text};

#[test]
fn write_is_answered_after_it_is_applied_and_every_node_reads_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    assert_eq!(text(cluster.request(leader, propose("a"))), "0 a");
    for node in [1, 2, 3].map(NodeId) {
        assert_eq!(text(cluster.request(node, query())), "1", "at {node:?}");
    }
}

#[test]
fn repeat_in_a_session_gets_the_first_answer_and_is_not_applied_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let Ok(Answer::SessionOpened { session }) = cluster.request(leader, Request::OpenSession) else {
        panic!()
    };
    let numbered = |sequence| {
        Request::Propose(Proposal::new("a", Dedupe::Session { session, sequence, acked_below: 1 }))
    };
    let first = cluster.request(leader, numbered(1)).unwrap();
    assert_eq!(cluster.request(leader, numbered(1)).unwrap(), first);
    assert_eq!(text(cluster.request(leader, numbered(2))), "1 a");
    assert_eq!(text(cluster.request(leader, query())), "2");
}

#[test]
fn cut_off_leader_does_not_claim_that_a_write_was_not_applied() {
    let mut cluster = Cluster::new(3);
    let old = cluster.leader();
    cluster.request(old, propose("a")).unwrap();
    cluster.cut = vec![old];
    let write = cluster.ask(old, propose("b"));
    let read = cluster.ask(old, query());
    let new = cluster.leader();
    assert_ne!(old, new);
    assert_eq!(cluster.reply(write), Err(RequestError::OutcomeUnknown));
    assert!(matches!(cluster.reply(read), Err(RequestError::NotLeader { .. })));
    assert_eq!(text(cluster.request(new, propose("c"))), "1 c");
    cluster.cut.clear();
    cluster.pass(3000);
    assert_eq!(text(cluster.request(old, query())), "2");
}

#[test]
fn learner_catches_up_by_snapshot_and_is_promoted() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    for n in 0..60 {
        cluster.request(leader, propose(&n.to_string())).unwrap();
    }
    assert!(cluster.nodes[&leader].host.status(GROUP).unwrap().compacted.index.0 > 20);
    let change = MembershipChange::AddLearner {
        node: NodeId(4),
        peer_address: "peer:4".to_owned(),
        client_address: "client:4".to_owned(),
    };
    let added = cluster.request(leader, Request::ChangeMembership { change, expected: None }).unwrap();
    let Answer::MembershipChanged { replicas, .. } = added else { panic!("{added:?}") };
    let replica = replicas[0];
    assert_eq!(replica, ReplicaId(4));
    cluster.start(4, join_batch(GROUP, replica), Vec::new());
    cluster.pass(2000);
    let promote = Request::ChangeMembership { change: MembershipChange::Promote(replica), expected: None };
    let leader = cluster.leader();
    cluster.request(leader, promote).unwrap();
    assert_eq!(text(cluster.request(NodeId(4), query())), "60");
    assert!(cluster.nodes[&NodeId(4)].host.status(GROUP).unwrap().snapshot.index.0 > 20);
}

#[test]
fn panic_of_a_state_machine_stops_its_replica_with_the_reason() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.leader();
    let write = cluster.ask(leader, propose("panic"));
    assert_eq!(cluster.reply(write), Err(RequestError::OutcomeUnknown));
    let stopped = cluster.request(leader, query()).unwrap_err().to_string();
    assert!(stopped.contains("panicked: told to"), "{stopped}");
}

#[test]
fn transfer_is_answered_when_another_leads() {
    let mut cluster = Cluster::new(3);
    let old = cluster.leader();
    cluster.request(old, propose("a")).unwrap();
    let Answer::Transferred { leader } =
        cluster.request(old, Request::TransferLeadership { to: None }).unwrap()
    else {
        panic!()
    };
    assert_ne!(leader.0, old.0);
    assert_eq!(cluster.leader().0, leader.0);
}

/// Each request was once collected by itself, so that a busy node did little else.
#[test]
fn what_happens_in_one_turn_is_one_write_and_one_message_to_each_follower() {
    let mut cluster = Cluster::new(3);
    cluster.request(NodeId(1), Request::Campaign).unwrap();
    let leader = cluster.leader();
    cluster.pass(300);
    let now = cluster.time();
    let host = &mut cluster.nodes.get_mut(&leader).unwrap().host;
    for ticket in 1_000..1_100 {
        let request = propose("together");
        host.on_event(now, Event::Request { group: GROUP, ticket: Ticket(ticket), request });
    }
    let work = host.take_work();
    let entries: Vec<usize> = work.log.iter().map(|task| task.write.entries.len()).collect();
    assert_eq!((entries, work.send.len()), (vec![100], 2));
}
