//! The limits of the session table are the group's: however the nodes are configured, all know the same
//! sessions and keys.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::Duration;

use quorate_core::{LogIndex, NodeId, ReplicaId};
use quorate_host::{Answer, Dedupe, Proposal, Request, RequestError};
use support::{Cluster, propose, query, text};

fn with_key(key: &'static str) -> Request {
    let dedupe = Dedupe::Key { key: key.into(), fingerprint: 1 };
    Request::Propose(Proposal::new("keyed", dedupe))
}

fn everywhere(cluster: &mut Cluster, expected: &str) {
    for n in 1..=3 {
        assert_eq!(text(cluster.request(NodeId(n), query())), expected, "node {n}");
    }
    assert!(cluster.stopped.is_empty(), "{:?}", cluster.stopped);
}

/// Two nodes remembered keys for ten minutes, the third for one: it applied a command that the others knew,
/// and its state was another one from then on.
#[test]
fn nodes_that_are_configured_differently_apply_the_same_commands() {
    for durable in [false, true] {
        let mut cluster = Cluster::with(3, |cluster| cluster.durable = durable);
        let leader = cluster.leader();
        let other = NodeId(leader.0 % 3 + 1);
        cluster.config.sessions.key_retention = Duration::from_secs(60);
        cluster.restart(other);
        let leader = cluster.leader();
        let first = cluster.request(leader, with_key("a"));
        cluster.pass(90_000);
        let leader = cluster.leader();
        cluster.request(leader, propose("later")).unwrap();
        assert_eq!(cluster.request(leader, with_key("a")), first, "it was answered, not applied");
        cluster.pass(500);
        everywhere(&mut cluster, "2");
    }
}

/// Once that took a restart of every replica at the same moment, or they differed.
#[test]
fn limits_change_while_it_runs_at_one_position_everywhere_and_last() {
    for durable in [false, true] {
        let mut cluster = Cluster::with(3, |cluster| cluster.durable = durable);
        let leader = cluster.leader();
        let first = cluster.request(leader, with_key("a"));
        cluster.config.sessions.key_retention = Duration::from_secs(60);
        for n in 1..=3 {
            let mut config = Box::new(cluster.config.clone());
            config.core.id = ReplicaId(n);
            let answer = cluster.request(NodeId(n), Request::Reconfigure { config });
            assert_eq!(answer, Ok(Answer::Reconfigured), "node {n}");
        }
        cluster.pass(30_000);
        let leader = cluster.leader();
        assert_eq!(cluster.request(leader, with_key("a")), first);
        cluster.pass(31_000);
        let leader = cluster.leader();
        let again = cluster.request(leader, with_key("a"));
        assert!(matches!(&again, Ok(Answer::Applied { .. })) && again != first, "{again:?}");
        // Also after snapshots and restarts; the entry is not written again and again.
        cluster.request(leader, Request::TakeSnapshot).unwrap();
        for n in 1..=3 {
            cluster.restart(NodeId(n));
        }
        let leader = cluster.leader();
        cluster.pass(500);
        let last = cluster.status(leader).last.index;
        cluster.pass(5_000);
        assert_eq!(cluster.status(leader).last.index, last);
        assert_eq!(cluster.request(leader, with_key("a")), again);
        everywhere(&mut cluster, "2");
    }
}

#[test]
fn limits_that_cannot_work_are_refused_and_nothing_is_written() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.leader();
    let before = cluster.status(leader).last.index;
    for wrong in ["sessions.bytes_max", "sessions.idle_max"] {
        let mut config = cluster.config.clone();
        config.core.id = ReplicaId(leader.0);
        match wrong {
            "sessions.bytes_max" => config.sessions.bytes_max = 1,
            _ => config.sessions.idle_max = Duration::ZERO,
        }
        let answer = cluster.request(leader, Request::Reconfigure { config: Box::new(config) });
        assert!(matches!(answer, Err(RequestError::Config { field, .. }) if field == wrong), "{answer:?}");
    }
    assert_eq!(cluster.status(leader).last.index, before);
    assert!(before > LogIndex(0));
}
