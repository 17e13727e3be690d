//! A node that lost its directory: it comes back under a new id as a learner, gets a snapshot, and votes.

use crate::harness::{Cluster, eventually};

#[test]
fn lost_directory_is_replaced_by_a_new_node_that_catches_up_by_snapshot() {
    let policy = ["--snapshot-entries", "50", "--snapshot-trailing-entries", "5"];
    let mut cluster = Cluster::of_three(&policy);
    let leader = cluster.wait_for_leader(None);
    let lost = if leader == 3 { 2 } else { 3 };
    cluster.take(lost).kill();
    std::fs::remove_dir_all(cluster.dir(lost)).unwrap();
    cluster.quorate(&["member", "remove", &lost.to_string()]).expect_ok();

    let client = cluster.client();
    cluster.runtime.block_on(async {
        for number in 0..200 {
            client.put(format!("key-{number:03}"), format!("value {number}")).await.unwrap();
        }
    });
    eventually("the log was compacted", || {
        (cluster.running().iter().all(|node| cluster.status(*node).is_some_and(|s| s.compacted_index > 10)))
            .then_some(())
    });

    let join = cluster.endpoints();
    cluster.start(4, &[&["--join", &join, "--learner"][..], &policy[..]].concat());
    eventually("the learner has caught up and is promoted", || {
        (cluster.quorate(&["member", "promote", "4"]).code == Some(0)).then_some(())
    });
    let mut voters: Vec<u64> = (1..=4).filter(|node| *node != lost).collect();
    voters.sort_unstable();
    cluster.wait_for_voters(&voters);
    let status = cluster.status(4).unwrap();
    assert!(status.compacted_index > 0, "it started from a snapshot: {status:?}");

    // It counts: with one of the old ones gone, it is needed for every write, and has every value.
    let old = voters[0];
    cluster.take(old).kill();
    cluster.quorate(&["put", "needs", "node 4"]).expect_ok();
    let stale = ["get", "key-123", "--stale", "--endpoints", &cluster.ports.client(4)];
    assert_eq!(cluster.quorate(&stale).expect_ok().text(), "value 123");
}

/// Everything is restarted at once, and one node's directory has been emptied: nobody has it in memory that the old
/// one voted. The new directory must not get a second vote under the old id.
#[test]
fn emptied_directory_under_its_old_id_is_refused_after_all_have_restarted() {
    let mut cluster = Cluster::of_three(&[]);
    cluster.quorate(&["put", "k", "v"]).expect_ok();
    // Followers say nothing to each other; after a second leader every pair has met.
    let leader = cluster.wait_for_leader(None);
    let other = if leader == 3 { 1 } else { leader + 1 };
    cluster.quorate(&["leader", "transfer", &other.to_string()]).expect_ok();
    let met = |peers: &[u8]| peers.len() == 16 + 2 * 16 + 4;
    eventually("everybody has met everybody", || {
        (1..=3)
            .all(|node| std::fs::read(cluster.dir(node).join("PEERS")).is_ok_and(|peers| met(&peers)))
            .then_some(())
    });
    for node in 1..=3 {
        cluster.take(node).kill();
    }
    std::fs::remove_dir_all(cluster.dir(3)).unwrap();
    for node in 1..=3 {
        cluster.restart(node);
    }
    // The two others go on without it.
    assert_eq!(cluster.quorate(&["get", "k"]).expect_ok().text(), "v");
    let line = "this node id is known with another data directory: a wiped node must be removed and come back with a new id";
    for node in [1, 2, 3] {
        eventually("both sides say why", || {
            std::fs::read_to_string(cluster.log(node)).unwrap().contains(line).then_some(())
        });
    }
    // Alone with the emptied one there is no leader, however long it asks.
    let leader = cluster.wait_for_leader(None);
    assert_ne!(leader, 3);
    cluster.take(leader).kill();
    let started = std::time::Instant::now();
    while started.elapsed() < 4 * crate::harness::ELECTION_TIMEOUT {
        assert_eq!(cluster.leader(None), None);
    }
}
