//! Stories of groups that rest: nobody says anything about them, and nobody is forgotten.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_core::{NodeId, RoleName};
use quorate_host::{PeerBody, RequestError};
use support::{Cluster, GROUP, propose, query, text};

/// Election timeout 1 s, heartbeats each 100 ms; what happens happens within a second of rest.
const QUIESCE_AFTER: Duration = Duration::from_millis(500);

fn cluster() -> Cluster {
    Cluster::with(3, |cluster| cluster.config.core.quiesce_after = Some(QUIESCE_AFTER))
}

fn rests(cluster: &Cluster, node: NodeId) -> bool {
    cluster.nodes[&node].host.core_status(GROUP).unwrap().quiescent
}

/// A leader whose group has come to rest, with one command applied.
fn come_to_rest(cluster: &mut Cluster) -> NodeId {
    let leader = cluster.leader();
    assert_eq!(text(cluster.request(leader, propose("a"))), "0 a");
    cluster.pass(2000);
    assert!([1, 2, 3].map(NodeId).into_iter().all(|node| rests(cluster, node)));
    leader
}

/// Counts messages: of the group, and beats.
fn count(cluster: &mut Cluster) -> Arc<Mutex<(u32, u32)>> {
    let counts = Arc::<Mutex<(u32, u32)>>::default();
    let counted = Arc::clone(&counts);
    cluster.loses = Some(Box::new(move |outbound| {
        let mut counts = counted.lock().unwrap();
        if matches!(outbound.message.body, PeerBody::Beat(_)) {
            counts.1 += 1
        } else {
            counts.0 += 1
        }
        false
    }));
    counts
}

#[test]
fn a_group_at_rest_stays_at_rest_and_only_nodes_speak() {
    let mut cluster = cluster();
    let leader = come_to_rest(&mut cluster);
    let counts = count(&mut cluster);
    cluster.pass(20_000);
    let (of_the_group, beats) = *counts.lock().unwrap();
    assert_eq!(of_the_group, 0);
    // Between the leader and each of two others, both ways, five in an election timeout of a second.
    assert!((380..=420).contains(&beats), "{beats}");
    // Somebody asks for something: at once.
    assert_eq!(text(cluster.request(leader, propose("b"))), "1 b");
    cluster.pass(2000);
    assert_eq!(text(cluster.request(leader, query())), "2");
}

#[test]
fn a_leader_lost_at_rest_is_replaced_though_nobody_asks() {
    let mut cluster = cluster();
    let old = come_to_rest(&mut cluster);
    cluster.cut = vec![old];
    // Silence for T, then a campaign within 2 T.
    cluster.pass(3500);
    let new = cluster.leader();
    assert_ne!(old, new);
    // It noticed by itself that it has no quorum.
    assert_ne!(cluster.status(old).role, RoleName::Leader);
    cluster.cut.clear();
    cluster.pass(4000);
    assert_eq!(text(cluster.request(new, propose("b"))), "1 b");
}

#[test]
fn a_leader_rests_on_when_one_follower_is_lost() {
    let mut cluster = cluster();
    let leader = come_to_rest(&mut cluster);
    let lost = [1, 2, 3].map(NodeId).into_iter().find(|node| *node != leader).unwrap();
    cluster.cut = vec![lost];
    cluster.pass(10_000);
    assert!(rests(&cluster, leader));
    cluster.cut.clear();
    cluster.pass(5000);
    // Who was cut off asked to be elected, which woke the others, and all rest again.
    assert_eq!(cluster.leader(), leader);
    assert!([1, 2, 3].map(NodeId).into_iter().all(|node| rests(&cluster, node)));
}

/// The node is there and sends its beats, but of this group it knows nothing any more.
#[test]
fn a_group_whose_leader_is_closed_on_a_living_node_does_not_rest_for_ever() {
    let mut cluster = cluster();
    let old = come_to_rest(&mut cluster);
    // Even the goodbye is lost.
    cluster.loses = Some(Box::new(|outbound| !matches!(outbound.message.body, PeerBody::Beat(_))));
    cluster.nodes.get_mut(&old).unwrap().host.close_group(GROUP);
    cluster.settle();
    cluster.loses = None;
    cluster.pass(4000);
    let leads = |node: &NodeId| {
        cluster.nodes[node].host.status(GROUP).is_some_and(|status| status.role == RoleName::Leader)
    };
    assert!([1, 2, 3].map(NodeId).iter().any(leads));
}

/// A node that restarts within T is never silent for long: what it says of the groups it leads is what gives it away.
#[test]
fn a_leader_that_restarts_at_once_leaves_nobody_at_rest_without_a_leader() {
    let mut cluster = cluster();
    let old = come_to_rest(&mut cluster);
    cluster.restart(old);
    cluster.pass(5000);
    let leader = cluster.leader();
    assert_eq!(text(cluster.request(leader, propose("b"))), "1 b");
    cluster.pass(3000);
    assert!([1, 2, 3].map(NodeId).into_iter().all(|node| rests(&cluster, node)));
}

#[test]
fn a_leader_at_rest_that_is_cut_off_answers_nothing_it_cannot_know() {
    let mut cluster = cluster();
    let old = come_to_rest(&mut cluster);
    cluster.cut = vec![old];
    let read = cluster.ask(old, query());
    let answer = cluster.reply(read);
    assert!(matches!(answer, Err(RequestError::NotLeader { .. })), "{answer:?}");
}
