//! When snapshots are taken without being asked for, and what is told while they travel.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate_core::{NodeId, RaftEvent};
use quorate_host::{Event, Request, SnapshotDue, SnapshotEvent, SnapshotTrigger};
use quorate_storage::SnapshotStore;
use support::{Cluster, GROUP, propose};

/// Few entries, then silence: no count is ever reached, but the log must not keep them for ever.
#[test]
fn a_snapshot_is_taken_a_while_after_the_first_entry_that_none_covers() {
    let mut cluster = Cluster::with(1, |cluster| {
        cluster.config.snapshots.entries = 0;
        cluster.config.snapshots.interval = Some(Duration::from_secs(60));
    });
    let leader = cluster.leader();
    cluster.request(leader, propose("a")).unwrap();
    cluster.pass(50_000);
    assert_eq!(cluster.saves, 0);
    cluster.pass(15_000);
    assert_eq!(cluster.saves, 1);
    // Nothing new: nothing to save.
    cluster.pass(200_000);
    assert_eq!(cluster.saves, 1);
    cluster.request(leader, propose("b")).unwrap();
    cluster.pass(80_000);
    assert_eq!(cluster.saves, 2);
    let status = cluster.status(leader);
    assert_eq!(status.snapshot.index, status.applied);
}

#[test]
fn a_closure_may_say_when_and_one_that_panics_says_no() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let trigger = SnapshotTrigger::new(move |due: &SnapshotDue| {
        log.lock().unwrap().push(*due);
        assert_ne!(due.entries, 4, "told to");
        due.entries >= 5
    });
    let mut cluster = Cluster::with(1, |cluster| {
        cluster.config.snapshots.entries = 0;
        cluster.config.snapshots.trigger = Some(trigger);
    });
    let leader = cluster.leader();
    // The first members and the leader's own entry are the first two.
    for (command, saves) in [("a", 0), ("b", 0), ("c", 1), ("d", 1)] {
        cluster.request(leader, propose(command)).unwrap();
        assert_eq!(cluster.saves, saves, "{command}");
    }
    let asked = asked.lock().unwrap();
    assert!(asked.iter().any(|due| due.entries == 4 && due.log_entries == 4 && due.bytes > 0));
    assert_eq!(asked.last().unwrap().entries, 1);
}

#[test]
fn both_ends_of_a_stream_tell_how_far_it_is_about_ten_times() {
    let mut cluster = Cluster::with(3, |cluster| {
        cluster.config.snapshots.chunk_bytes = 40;
        cluster.config.snapshots.trailing_entries = 0;
    });
    let leader = cluster.leader();
    let behind = NodeId(leader.0 % 3 + 1);
    cluster.cut = vec![behind];
    for n in 0..100 {
        cluster.request(leader, propose(&format!("command number {n}"))).unwrap();
    }
    cluster.events.clear();
    cluster.cut.clear();
    cluster.pass(2_000);
    assert_eq!(cluster.status(behind).applied, cluster.status(leader).applied);
    for (node, sending) in [(leader, true), (behind, false)] {
        let mut told = Vec::new();
        for (from, event) in &cluster.events {
            if let RaftEvent::SnapshotProgress { sends, bytes, bytes_total, .. } = event
                && (*from, *sends) == (node, sending)
            {
                told.push((*bytes, *bytes_total));
            }
        }
        assert!((8..=20).contains(&told.len()), "{node}: {told:?}");
        assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0), "{told:?}");
        let (bytes, bytes_total) = told.last().unwrap();
        assert_eq!(bytes, bytes_total);
    }
}

#[test]
fn a_leader_measures_where_the_time_of_its_commands_goes() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let follower = NodeId(leader.0 % 3 + 1);
    for n in 0..20 {
        cluster.request(leader, propose(&n.to_string())).unwrap();
    }
    let before = cluster.status(leader).latencies;
    let counts = |of: &quorate_host::StageLatencies| {
        [&of.persisted, &of.replicated, &of.committed, &of.applied].map(quorate_host::LatencyHistogram::count)
    };
    assert_eq!(counts(&before), [20; 4]);
    assert_eq!(counts(&cluster.status(follower).latencies), [0; 4]);
    // The others answer late: its own disk has it long before a quorum does.
    cluster.cut = (1..=3).map(NodeId).filter(|node| *node != leader).collect();
    let late = cluster.ask(leader, propose("late"));
    cluster.pass(300);
    cluster.cut.clear();
    cluster.reply(late).unwrap();
    let after = cluster.status(leader).latencies;
    assert_eq!(counts(&after), [21; 4]);
    assert_eq!(after.persisted.max(), before.persisted.max());
    let waited = Duration::from_millis(300);
    assert!(after.replicated.max() >= waited && after.committed.max() >= waited);
    assert!(after.applied.max() >= after.committed.max());
}

/// Saving takes a while, and the machine goes on meanwhile: what it applied since is in the log only.
#[test]
fn a_saved_snapshot_drops_no_entry_that_it_does_not_cover() {
    let mut cluster = Cluster::with(1, |cluster| {
        cluster.config.snapshots.entries = 0;
        cluster.config.snapshots.trailing_entries = 0;
    });
    let leader = cluster.leader();
    cluster.request(leader, propose("covered")).unwrap();
    cluster.request(leader, Request::TakeSnapshot).unwrap();
    cluster.request(leader, propose("not covered")).unwrap();
    let now = cluster.time();
    let node = cluster.nodes.get_mut(&leader).unwrap();
    let snapshot = node.data.snapshots.list(GROUP).unwrap().remove(0);
    let covered = snapshot.meta.last;
    node.host.on_event(now, Event::Snapshot(SnapshotEvent::Saved { group: GROUP, snapshot }));
    cluster.settle();
    assert_eq!(cluster.status(leader).compacted, covered);
    assert!(cluster.status(leader).applied > covered.index);
}
