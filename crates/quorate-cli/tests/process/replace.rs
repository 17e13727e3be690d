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
