//! Snapshots that were installed too early, too late, twice, or over what they should not have touched.

use std::sync::Arc;

use quorate_core::{
    Append, LogId, LogIndex, MessageBody, MonoTime, RawNode, RestoreError, Restored, SnapshotMeta,
};

use crate::group::{Group, log, membership};

fn snapshot(term: u64, index: u64) -> MessageBody {
    MessageBody::InstallSnapshot(SnapshotMeta {
        last: LogId::new(term, index),
        membership: Arc::new(membership(3)),
        membership_id: LogId::default(),
    })
}

fn append(prev: LogId, terms: &[u64], commit: u64) -> MessageBody {
    let mut entries = log(terms);
    for (offset, entry) in (1..).zip(&mut entries) {
        entry.id.index = LogIndex(prev.index.0 + offset);
    }
    MessageBody::Append(Append { prev, entries: entries.into(), commit: LogIndex(commit), read_round: 0 })
}

/// A snapshot and the entries after it came in one batch and were applied at the same time. Here: first the snapshot,
/// and both only when the disk has what they build on.
#[test]
fn tikv_1287_entries_after_a_snapshot_are_applied_after_it() {
    let mut group = Group::new(3);
    group.node(2).stalled = true;
    group.say(1, 2, 1, snapshot(1, 10));
    group.say(1, 2, 1, append(LogId::new(1, 10), &[1, 1], 12));
    assert!(group.node(2).applied.is_empty(), "applied before it is durable");
    group.node(2).stalled = false;
    group.settle();
    let applied: Vec<u64> = group.node(2).applied.iter().map(|id| id.index.0).collect();
    assert_eq!(applied, [10, 11, 12]);
}

/// A crash in the middle of applying a snapshot: the state said "applying", the file was gone, and every start failed.
/// Here the log says that it begins after the snapshot, and a start hands the snapshot out again.
#[test]
fn tikv_11746_a_crash_between_the_reset_and_the_restore() {
    let mut group = Group::new(3);
    group.say(1, 2, 1, snapshot(1, 10));
    let disk = group.node(2).disk.clone();
    assert_eq!(disk.compacted, LogId::new(1, 10));
    let restored = Restored { applied: LogIndex(3), ..disk.restored() };
    let config = group.configs[&2].clone();
    let mut core = RawNode::new(config, restored, MonoTime(5)).unwrap();
    let ready = core.ready();
    assert_eq!(ready.restore.map(|meta| meta.last), Some(LogId::new(1, 10)));
    assert!(ready.apply.is_empty());
}

/// "applied index > commit index" at a start after the log had lost a write. What was applied was committed; what is
/// not in the log any more cannot be applied from it.
#[test]
fn tikv_11885_applied_beyond_the_log_is_an_error_and_no_panic() {
    let group = Group::from_logs(&[(1, &[1, 1])], |_| {});
    let disk = group.nodes[&1].disk.clone();
    let config = group.configs[&1].clone();
    let beyond = Restored { applied: LogIndex(3), ..disk.restored() };
    let refused = RawNode::new(config.clone(), beyond, MonoTime(0));
    assert!(matches!(refused, Err(RestoreError::Inconsistent(_))));
    let beyond_commit = Restored { applied: LogIndex(2), ..disk.restored() };
    assert_eq!(RawNode::new(config, beyond_commit, MonoTime(0)).unwrap().status().commit, LogIndex(2));
}

/// Two snapshots shortly after each other: a panic.
#[test]
fn etcd_18055_two_snapshots_shortly_after_each_other() {
    for stalled in [false, true] {
        let mut group = Group::new(3);
        group.node(2).stalled = stalled;
        group.say(1, 2, 1, snapshot(1, 10));
        group.say(1, 2, 1, snapshot(1, 20));
        group.say(1, 2, 1, snapshot(1, 10));
        group.say(1, 2, 1, snapshot(1, 20));
        group.node(2).stalled = false;
        group.settle();
        let status = group.core(2).status();
        assert_eq!((status.compacted, status.applied), (LogId::new(1, 20), LogIndex(20)));
    }
}

/// Entries that a snapshot covers stayed in the log, differed, and were replicated later.
#[test]
fn openraft_753_a_snapshot_leaves_no_divergent_entry_behind() {
    let mut group = Group::from_logs(&[(1, &[1, 1]), (3, &[1, 3, 3, 3, 3]), (1, &[1])], |_| {});
    group.say(1, 2, 4, snapshot(2, 4));
    let status = group.core(2).status();
    assert_eq!((status.compacted, status.last), (LogId::new(2, 4), LogId::new(2, 4)), "5@t3 stayed");
    assert!(group.node(2).disk.entries.is_empty());
    group.restart(2);
    assert_eq!(group.core(2).status().last, LogId::new(2, 4));
}

/// A snapshot whose last entry is of a later term than its leader was installed.
#[test]
fn openraft_1894_a_snapshot_of_a_later_term_than_its_leader_is_refused() {
    let mut group = Group::new(3);
    group.say(1, 2, 1, snapshot(2, 10));
    assert_eq!(group.core(2).status().last, LogId::default());
    assert_eq!(group.node(2).refused, [quorate_core::Rejected::MalformedEntries]);
}

/// A snapshot transfer that had begun in an earlier term ended in a later one.
#[test]
fn scylladb_29092_a_snapshot_of_an_earlier_term_is_refused() {
    let mut group = Group::new(3);
    group.say(3, 2, 2, append(LogId::default(), &[2], 0));
    group.say(1, 2, 1, snapshot(1, 10));
    assert_eq!(group.core(2).status().last, LogId::new(2, 1));
    // And its report in another term of the same leader starts nothing.
    group.campaign(1);
    let now = group.now();
    group.core(1).report_snapshot(now, quorate_core::ReplicaId(2), quorate_core::SnapshotOutcome::Sent);
    group.run(1_000);
    assert!(group.leader().is_some());
}

/// After a restored snapshot the log had a gap: the first append left an index out.
#[test]
fn hashicorp_1_4_0_a_log_after_a_snapshot_has_no_gap() {
    let mut group = Group::new(3);
    group.say(1, 2, 1, snapshot(1, 10));
    group.say(1, 2, 1, append(LogId::new(1, 11), &[1], 0));
    assert_eq!(group.core(2).status().last, LogId::new(1, 10), "an entry after a gap");
    group.say(1, 2, 1, append(LogId::new(1, 10), &[1], 0));
    assert_eq!(group.core(2).status().last, LogId::new(1, 11));
}

/// A start with an older snapshot than the log begins after: a gap. It is refused.
#[test]
fn camunda_3573_a_log_that_does_not_follow_its_snapshot_is_refused() {
    let group = Group::from_logs(&[(1, &[1])], |_| {});
    let config = group.configs[&1].clone();
    let gap = Restored {
        compacted: LogId::new(1, 3),
        term_runs: vec![LogId::new(1, 9)],
        last: LogIndex(9),
        ..group.nodes[&1].disk.restored()
    };
    assert!(matches!(RawNode::new(config, gap, MonoTime(0)), Err(RestoreError::Inconsistent(_))));
}

/// The follower already had what the snapshot covers: it threw away what follows.
#[test]
fn etcd_10225_a_snapshot_of_what_is_there_is_answered_and_keeps_the_rest() {
    let mut group = Group::from_logs(&[(1, &[1, 1, 1, 1]), (1, &[1, 1, 1, 1]), (1, &[1])], |_| {});
    group.say(1, 2, 1, snapshot(1, 3));
    let status = group.core(2).status();
    assert_eq!((status.last, status.commit), (LogId::new(1, 4), LogIndex(3)));
}

/// A snapshot was lost on its way, or its answer was: nobody tried again.
#[test]
fn etcd_raft_110_a_lost_snapshot_is_offered_again() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.isolate(3);
    group.propose(1);
    group.node(1).compact();
    group.heal();
    group.hold = |message| matches!(message.body, MessageBody::InstallSnapshot(_));
    group.run(2_000);
    assert!(!group.held.is_empty(), "no snapshot was offered");
    group.held.clear();
    group.hold = |_| false;
    group.run(5_000);
    let last = group.core(1).status().last;
    assert_eq!(group.core(3).status().last, last);
}
