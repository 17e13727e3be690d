//! How long a cluster is without a leader when it loses one. (What is lost when many are killed, namely nothing, is
//! told by the tests of chaos.)

use std::time::Instant;

use crate::harness::{Cluster, ELECTION_TIMEOUT};

#[test]
fn killed_leader_is_replaced_within_three_election_timeouts() {
    let mut cluster = Cluster::of_three(&[]);
    cluster.quorate(&["put", "k", "v"]).expect_ok();
    let leader = cluster.wait_for_leader(None);
    let begun = Instant::now();
    cluster.take(leader).kill();
    cluster.wait_for_leader(Some(leader));
    let took = begun.elapsed();
    assert!(took <= 3 * ELECTION_TIMEOUT, "{took:?} with an election timeout of {ELECTION_TIMEOUT:?}");
    // A command sees a short wait and not an error.
    assert_eq!(cluster.quorate(&["get", "k"]).expect_ok().text(), "v");
}
