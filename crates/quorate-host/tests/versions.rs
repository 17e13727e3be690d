//! Commands of a version get into the log only once every member understands them, and then no older build may join.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use quorate_core::NodeId;
use quorate_host::{Answer, Dedupe, PeerBody, Proposal, Request, RequestError};
use support::{Cluster, propose, query, text};

fn of_version(version: u32, command: &str) -> Request {
    Request::ProposeVersion { version, proposal: Proposal::new(command.to_owned(), Dedupe::None) }
}

fn upgrade(cluster: &mut Cluster, node: NodeId, version: u32) {
    cluster.builds.insert(node, version);
    cluster.restart(node);
    cluster.leader();
    cluster.pass(3_000);
}

/// A new leader has seen one member upgraded and not the last one: its own command must not stop that one.
#[test]
fn a_command_of_a_new_version_waits_for_the_last_member() {
    let mut cluster = Cluster::new(3);
    cluster.leader();
    let refused = |cluster: &mut Cluster| {
        let leader = cluster.leader();
        let before = cluster.status(leader).last;
        let answer = cluster.request(leader, of_version(2, "new"));
        assert_eq!(answer, Err(RequestError::Unsupported { version: 2, supported: 1 }));
        assert_eq!(cluster.status(leader).last, before, "it must not be in the log");
    };
    refused(&mut cluster);
    for node in [1, 2] {
        upgrade(&mut cluster, NodeId(node), 2);
        refused(&mut cluster);
    }
    upgrade(&mut cluster, NodeId(3), 3);
    let leader = cluster.leader();
    assert_eq!((cluster.status(leader).supported_version, cluster.status(leader).active_version), (2, 1));
    assert_eq!(text(cluster.request(leader, of_version(2, "new"))), "0 new");
    cluster.pass(100);
    assert!((1..=3).all(|n| cluster.status(NodeId(n)).active_version == 2));
    let beyond = cluster.request(leader, of_version(3, "newer"));
    assert_eq!(beyond, Err(RequestError::Unsupported { version: 3, supported: 2 }));
    let follower = NodeId(leader.0 % 3 + 1);
    let elsewhere = cluster.request(follower, of_version(2, "x"));
    assert!(matches!(elsewhere, Err(RequestError::NotLeader { .. })), "{elsewhere:?}");
    assert!(cluster.stopped.is_empty(), "{:?}", cluster.stopped);
}

#[test]
fn an_open_gate_stays_open_without_a_member_and_after_snapshots_and_restarts() {
    for durable in [false, true] {
        let mut cluster = Cluster::with(3, |cluster| {
            cluster.builds = (1..=3).map(|n| (NodeId(n), 2)).collect();
            cluster.durable = durable;
        });
        let leader = cluster.leader();
        cluster.pass(2_000);
        cluster.request(leader, of_version(2, "new")).unwrap();
        for n in 0..50 {
            cluster.request(leader, propose(&n.to_string())).unwrap();
        }
        cluster.pass(200);
        for n in 1..=3 {
            cluster.restart(NodeId(n));
        }
        cluster.cut = vec![NodeId(1)];
        let leader = cluster.leader();
        assert_eq!(cluster.status(leader).active_version, 2);
        cluster.request(leader, of_version(2, "again")).unwrap();
        // A member far behind learns of it from a snapshot.
        for n in 0..50 {
            cluster.request(leader, propose(&n.to_string())).unwrap();
        }
        cluster.cut.clear();
        cluster.pass(3_000);
        assert_eq!(cluster.status(NodeId(1)).active_version, 2);
        assert_eq!(text(cluster.request(NodeId(1), query())), "102");
    }
}

/// The old build was put back after its node had said that it understands more. It stops and says why; the
/// others go on.
#[test]
fn an_older_build_put_back_stops_at_the_gate_with_the_reason() {
    let mut cluster = Cluster::with(3, |cluster| {
        cluster.builds = (1..=3).map(|n| (NodeId(n), 2)).collect();
    });
    let leader = cluster.leader();
    cluster.pass(2_000);
    let old = NodeId(leader.0 % 3 + 1);
    cluster.builds.insert(old, 1);
    cluster.restart(old);
    cluster.pass(100);
    assert_eq!(text(cluster.request(leader, of_version(2, "new"))), "0 new");
    cluster.pass(100);
    let [(node, _, reason)] = &cluster.stopped[..] else { panic!("{:?}", cluster.stopped) };
    assert!(*node == old && reason.contains("start a newer build"), "{reason}");
    assert_eq!(text(cluster.request(leader, propose("more"))), "1 more");
}

#[test]
fn what_a_member_understands_is_told_until_it_is_heard() {
    let mut cluster = Cluster::with(3, |cluster| {
        cluster.builds = (1..=3).map(|n| (NodeId(n), 2)).collect();
        let mut lost = 0;
        cluster.loses = Some(Box::new(move |outbound| {
            lost += u32::from(matches!(outbound.message.body, PeerBody::Version(_)));
            lost < 6 && matches!(outbound.message.body, PeerBody::Version(_))
        }));
    });
    let leader = cluster.leader();
    assert!(matches!(cluster.request(leader, of_version(2, "a")), Err(RequestError::Unsupported { .. })));
    cluster.pass(10_000);
    let leader = cluster.leader();
    assert!(matches!(cluster.request(leader, of_version(2, "a")), Ok(Answer::Applied { .. })));
}
