//! A follower passes a request on to its leader: once, and what it says of the outcome is true.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::cell::RefCell;
use std::rc::Rc;

use quorate_core::{NodeId, ReplicaId};
use quorate_host::{
    Answer, Dedupe, Event, LeaderRequest, Now, PeerBody, PeerMessage, Proposal, Request, RequestError,
    SessionId, Ticket,
};
use support::{Cluster, GROUP, query, text};

fn at_leader(command: &str, dedupe: Dedupe) -> Request {
    Request::AtLeader(LeaderRequest::Propose(Proposal::new(command.to_owned(), dedupe)))
}

fn plain(command: &str) -> Request {
    at_leader(command, Dedupe::None)
}

/// A leader and a follower of a cluster that has settled.
fn settled(change: impl FnOnce(&mut Cluster)) -> (Cluster, NodeId, NodeId) {
    let mut cluster = Cluster::with(3, change);
    let leader = cluster.leader();
    cluster.pass(200);
    (cluster, leader, NodeId(leader.0 % 3 + 1))
}

#[test]
fn a_command_asked_of_a_follower_is_applied_by_its_leader() {
    let (mut cluster, leader, follower) = settled(|_| {});
    assert_eq!(text(cluster.request(follower, plain("a"))), "0 a");
    assert_eq!(text(cluster.request(leader, plain("b"))), "1 b");
    let open = Request::AtLeader(LeaderRequest::OpenSession);
    let Ok(Answer::SessionOpened { session }) = cluster.request(follower, open) else { panic!() };
    let dedupe = Dedupe::Session { session, sequence: 1, acked_below: 1 };
    for _ in 0..2 {
        assert_eq!(text(cluster.request(follower, at_leader("c", dedupe.clone()))), "2 c");
    }
    let other = at_leader("d", Dedupe::Session { session: SessionId(99), sequence: 1, acked_below: 1 });
    assert_eq!(cluster.request(follower, other), Err(RequestError::SessionExpired));
    assert_eq!(text(cluster.request(follower, query())), "3");
}

/// What a client may ask of the leader without knowing it: commands of a version and barriers, with the
/// leader's own answers.
#[test]
fn a_command_of_a_version_and_a_barrier_are_passed_on() {
    let (mut cluster, leader, follower) =
        settled(|cluster| cluster.builds = (1..=3).map(|n| (NodeId(n), 2)).collect());
    let version = |version, command: &str, dedupe| {
        let proposal = Proposal::new(command.to_owned(), dedupe);
        Request::AtLeader(LeaderRequest::ProposeVersion { version, proposal })
    };
    let refused = cluster.request(follower, version(3, "a", Dedupe::None));
    assert_eq!(refused, Err(RequestError::Unsupported { version: 3, supported: 2 }));
    let key = Dedupe::Key { key: "k".into(), fingerprint: 1 };
    for _ in 0..2 {
        assert_eq!(text(cluster.request(follower, version(2, "b", key.clone()))), "0 b");
    }
    let Ok(Answer::Applied { id, .. }) = cluster.request(follower, Request::AtLeader(LeaderRequest::Barrier))
    else {
        panic!()
    };
    assert!(id.index <= cluster.status(leader).applied);
    assert_eq!(cluster.status(leader).last, id);
}

/// A follower has passed a command on; the message is kept.
fn after_a_request_that_was_passed_on() -> (Cluster, NodeId, NodeId, PeerMessage) {
    let kept: Rc<RefCell<Vec<PeerMessage>>> = Rc::default();
    let keeps = Rc::clone(&kept);
    let (mut cluster, leader, follower) = settled(|cluster| {
        cluster.loses = Some(Box::new(move |outbound| {
            if let PeerBody::Forward(_) = outbound.message.body {
                keeps.borrow_mut().push(outbound.message.clone());
            }
            false
        }));
    });
    assert_eq!(text(cluster.request(follower, plain("a"))), "0 a");
    let message = kept.borrow()[0].clone();
    (cluster, leader, follower, message)
}

/// The network may repeat what it carries. Without a session, only the leader's memory of the number helps.
#[test]
fn a_repeated_message_is_not_carried_out_again_not_even_by_a_leader_that_has_restarted() {
    let (mut cluster, leader, follower, again) = after_a_request_that_was_passed_on();
    let repeat = |cluster: &mut Cluster| {
        let (now, message) = (cluster.time(), again.clone());
        let host = &mut cluster.nodes.get_mut(&leader).unwrap().host;
        host.on_event(now, Event::Received { from: follower, message });
        cluster.settle();
    };
    repeat(&mut cluster);
    assert_eq!(text(cluster.request(follower, query())), "1");
    // It has forgotten the number now: it must not even say that it does not lead.
    cluster.restart(leader);
    let answers = Rc::new(RefCell::new(0));
    let counts = Rc::clone(&answers);
    cluster.loses = Some(Box::new(move |outbound| {
        *counts.borrow_mut() += u32::from(matches!(outbound.message.body, PeerBody::ForwardReply(_)));
        false
    }));
    repeat(&mut cluster);
    cluster.leader();
    repeat(&mut cluster);
    assert_eq!(*answers.borrow(), 0);
    assert_eq!(text(cluster.request(follower, query())), "1");
}

/// A follower restarts, and its clock has gone back: its numbers begin below those it used before. The leader
/// of that term has to take its requests for repeats; in a later term nothing of before can be carried out
/// any more.
#[test]
fn a_follower_whose_clock_went_back_is_heard_again_in_the_next_term() {
    let (mut cluster, leader, follower, first) = after_a_request_that_was_passed_on();
    let say = |cluster: &mut Cluster, with_number: u64| {
        let (now, mut message) = (cluster.time(), first.clone());
        let term = cluster.status(leader).term;
        let PeerBody::Forward(forward) = &mut message.body else { panic!() };
        (forward.term, forward.number) = (term, with_number);
        let host = &mut cluster.nodes.get_mut(&leader).unwrap().host;
        host.on_event(now, Event::Received { from: follower, message });
        cluster.settle();
    };
    say(&mut cluster, 1);
    assert_eq!(text(cluster.request(follower, query())), "1");
    for to in [NodeId(6 - leader.0 - follower.0), leader] {
        let from = cluster.leader();
        let transfer = Request::TransferLeadership { to: Some(ReplicaId(to.0)) };
        cluster.request(from, transfer).unwrap();
        cluster.pass(500);
    }
    for _ in 0..2 {
        say(&mut cluster, 1);
        assert_eq!(text(cluster.request(follower, query())), "2", "once");
    }
}

/// A follower restarts before it has its answer, and its clock goes back to the very millisecond of the question. The
/// answer, when it comes, is not taken for that to what is asked now.
#[test]
fn an_answer_to_a_question_of_before_a_restart_answers_nothing_that_is_asked_now() {
    let kept: Rc<RefCell<Vec<PeerMessage>>> = Rc::default();
    let keeps = Rc::clone(&kept);
    let (mut cluster, leader, follower) = settled(|cluster| {
        cluster.loses = Some(Box::new(move |outbound| {
            let is_answer = matches!(outbound.message.body, PeerBody::ForwardReply(_));
            if is_answer {
                keeps.borrow_mut().push(outbound.message.clone());
            }
            is_answer
        }));
    });
    let then = cluster.time().unix_millis;
    cluster.ask(follower, plain("a"));
    let answer = kept.borrow()[0].clone();
    // Every start has a seed of its own.
    cluster.config.core.seed += 1;
    cluster.restart(follower);
    cluster.pass(200);
    let (now, ticket) = (Now { unix_millis: then, ..cluster.time() }, Ticket(1000));
    let host = &mut cluster.nodes.get_mut(&follower).unwrap().host;
    host.on_event(now, Event::Request { group: GROUP, ticket, request: plain("b") });
    host.on_event(now, Event::Received { from: leader, message: answer });
    cluster.settle();
    assert!(!cluster.is_answered(ticket), "{:?}", cluster.reply(ticket));
}

#[test]
fn without_the_answer_the_outcome_is_unknown_in_time() {
    let (mut cluster, _, follower) = settled(|cluster| {
        cluster.loses = Some(Box::new(|outbound| matches!(outbound.message.body, PeerBody::ForwardReply(_))));
    });
    let lost = cluster.ask(follower, plain("a"));
    cluster.pass(9_000);
    assert!(!cluster.is_answered(lost));
    cluster.pass(1_100);
    assert!(cluster.is_answered(lost));
    assert_eq!(cluster.reply(lost), Err(RequestError::OutcomeUnknown));
    assert_eq!(text(cluster.request(follower, query())), "1");
}

#[test]
fn a_peer_that_cannot_be_reached_and_a_new_leader_end_the_wait() {
    let (mut cluster, leader, follower) = settled(|_| {});
    cluster.cut = vec![leader];
    let broken = cluster.ask(follower, plain("a"));
    let now = cluster.time();
    let host = &mut cluster.nodes.get_mut(&follower).unwrap().host;
    host.on_event(now, Event::Unreachable { node: leader });
    cluster.settle();
    assert!(cluster.is_answered(broken));
    assert_eq!(cluster.reply(broken), Err(RequestError::OutcomeUnknown));
    let waits = cluster.ask(follower, plain("b"));
    cluster.leader();
    cluster.pass(1_500);
    assert!(cluster.is_answered(waits), "its leader is one of the past");
    assert_eq!(cluster.reply(waits), Err(RequestError::OutcomeUnknown));
}

#[test]
fn a_leader_of_the_past_says_that_nothing_was_applied() {
    let (mut cluster, leader, follower) = settled(|_| {});
    let third = NodeId(6 - leader.0 - follower.0);
    let transfer = Request::TransferLeadership { to: Some(ReplicaId(third.0)) };
    // The follower does not hear of the new leader.
    cluster.loses = Some(Box::new(move |outbound| {
        outbound.to == follower && matches!(outbound.message.body, PeerBody::Raft(_))
    }));
    cluster.request(leader, transfer).unwrap();
    let refused = cluster.request(follower, plain("a"));
    assert!(matches!(refused, Err(RequestError::NotLeader { .. })), "{refused:?}");
    cluster.loses = None;
    cluster.pass(500);
    assert_eq!(text(cluster.request(follower, plain("a"))), "0 a");
}

#[test]
fn what_waits_for_a_leader_is_bounded_in_bytes() {
    let (mut cluster, leader, follower) = settled(|cluster| cluster.config.forward_bytes_max = 1_000);
    cluster.cut = vec![leader];
    let first = cluster.ask(follower, plain(&"a".repeat(500)));
    let second = cluster.request(follower, plain(&"b".repeat(500)));
    assert!(matches!(second, Err(RequestError::Busy { .. })), "{second:?}");
    assert_eq!(cluster.reply(first), Err(RequestError::OutcomeUnknown));
    cluster.cut.clear();
    cluster.leader();
    cluster.pass(500);
    assert_eq!(text(cluster.request(follower, plain(&"c".repeat(500)))), format!("0 {}", "c".repeat(500)));
    // A stranger's request is nobody's.
    assert!(cluster.nodes[&leader].host.status(GROUP).is_some());
}
