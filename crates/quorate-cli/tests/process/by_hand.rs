//! The recipes of docs/operations.md: nodes started one by one, and all at once.

use crate::harness::Cluster;

/// Writes through one command and reads through another, at each of the nodes alone.
fn everybody_answers(cluster: &Cluster, key: &str, value: &str) {
    cluster.quorate(&["put", key, value]).expect_ok();
    for node in cluster.running() {
        let read = cluster.quorate(&["get", key, "--endpoints", &cluster.ports.client(node)]).expect_ok();
        assert_eq!(read.text(), value, "node {node}");
    }
}

#[test]
fn three_processes_by_hand_become_a_cluster_and_continue_after_a_crash() {
    let mut cluster = Cluster::new();
    let first = cluster.ports.client(1);
    cluster.start(1, &["--bootstrap"]);
    cluster.start(2, &["--join", &first]);
    cluster.start(3, &["--join", &first]);
    cluster.wait_for_voters(&[1, 2, 3]);
    everybody_answers(&cluster, "motto", "small steps");

    // Everything at once, as in a power failure; then the identical commands.
    for node in 1..=3 {
        cluster.take(node).kill();
    }
    for node in 1..=3 {
        cluster.restart(node);
    }
    assert_eq!(cluster.quorate(&["get", "motto"]).expect_ok().text(), "small steps");
    everybody_answers(&cluster, "motto", "again");

    // In order, too: a stop is exit code 0, and the others go on.
    assert_eq!(cluster.take(1).terminate(), Some(0));
    everybody_answers(&cluster, "motto", "two are enough");
    cluster.restart(1);
    everybody_answers(&cluster, "motto", "three again");
}

#[test]
fn three_processes_with_one_list_need_no_order() {
    let mut cluster = Cluster::of_three(&[]);
    everybody_answers(&cluster, "k", "v");
    let status = cluster.quorate(&["status", "-o", "json"]).expect_ok().json();
    assert_eq!(status["health"], "healthy", "{status}");
    let roles: Vec<&str> =
        status["nodes"].as_array().unwrap().iter().filter_map(|n| n["role"].as_str()).collect();
    assert_eq!(roles.iter().filter(|role| **role == "leader").count(), 1, "{status}");
    assert_eq!(roles.iter().filter(|role| **role == "follower").count(), 2, "{status}");

    for node in 1..=3 {
        cluster.take(node).kill();
        cluster.restart(node);
    }
    assert_eq!(cluster.quorate(&["get", "k"]).expect_ok().text(), "v");
}

#[test]
fn leader_moves_when_asked_and_when_killed() {
    let mut cluster = Cluster::of_three(&[]);
    let leader = cluster.wait_for_leader(None);
    let other = if leader == 3 { 1 } else { leader + 1 };
    let moved = cluster.quorate(&["leader", "transfer", &other.to_string(), "-o", "json"]).expect_ok();
    assert_eq!(moved.json()["leader"], other);
    assert_eq!(cluster.leader(None), Some(other));

    cluster.take(other).kill();
    // A short wait, not an error.
    cluster.quorate(&["put", "after", "the leader died"]).expect_ok();
    assert_ne!(cluster.wait_for_leader(None), other);
    let status = cluster.quorate(&["status", "-o", "json"]).expect_ok().json();
    assert_eq!(status["health"], "degraded", "{status}");
}

#[test]
fn node_that_asks_to_stay_a_learner_does_not_vote_until_it_is_promoted() {
    let mut cluster = Cluster::new();
    let first = cluster.ports.client(1);
    cluster.start(1, &["--bootstrap"]);
    cluster.quorate(&["put", "k", "v"]).expect_ok();
    cluster.start(2, &["--join", &first, "--learner"]);
    cluster.wait_for_voters(&[1]);
    crate::harness::eventually("the learner has what it needs", || {
        (cluster.quorate(&["member", "promote", "2"]).code == Some(0)).then_some(())
    });
    cluster.wait_for_voters(&[1, 2]);
}
