//! Reads that returned what had been overwritten.

use std::time::Duration;

use quorate_core::{
    Config, ConfigError, LogIndex, MembershipChange, MembershipTransition, MessageBody, RawNode, ReadFailure,
    ReadOutcome, ReadTicket, ReplicaId, RestoreError, Restored, RoleName,
};

use crate::group::Group;

fn answered(group: &mut Group, id: u64) -> Vec<ReadOutcome> {
    std::mem::take(&mut group.node(id).reads)
}

fn failed(ticket: u64, reason: ReadFailure) -> ReadOutcome {
    ReadOutcome::Failed { ticket: ReadTicket(ticket), reason }
}

fn served_at(index: LogIndex, ticket: u64) -> ReadOutcome {
    ReadOutcome::At { ticket: ReadTicket(ticket), index }
}

const fn leased(config: &mut Config) {
    config.leader_lease = true;
}

/// A new leader served reads before it had committed an entry of its own term: it did not know yet what is committed.
#[test]
fn etcd_7331_a_new_leader_reads_only_after_its_own_commit() {
    let mut group = Group::new(3);
    group.campaign(1);
    let at = group.propose(1);
    // 2 has the entry and does not know that it is committed.
    group.hold = |message| matches!(message.body, MessageBody::AppendReply(_));
    group.node(1).down = true;
    let now = group.now();
    group.core(2).forget_leader(now);
    group.core(3).forget_leader(now);
    group.campaign(2);
    assert!(group.node(2).leads());
    group.read(2, 1);
    assert_eq!(answered(&mut group, 2), []);
    group.hold = |_| false;
    for reply in std::mem::take(&mut group.held) {
        group.deliver(reply);
    }
    group.settle();
    let reads = answered(&mut group, 2);
    assert!(matches!(reads[..], [ReadOutcome::At { index, .. }] if index > at.index), "{reads:?}");
}

/// A leader was paused; when it went on it took the answer to an old read round for the answer to a new one, and served
/// what another leader had overwritten. Found only in 2025.
#[test]
fn etcd_20418_an_answer_to_an_old_round_confirms_no_new_read() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.hold = |message| matches!(message.body, MessageBody::HeartbeatReply { .. });
    group.read(1, 1);
    let old_answers: Vec<_> = group.held.drain(..).collect();
    assert!(!old_answers.is_empty());
    group.run(1_100);
    assert_eq!(answered(&mut group, 1), [failed(1, ReadFailure::LeadershipLost)]);
    group.held.clear();
    if !group.node(1).leads() {
        // Without answers it stepped down: whatever comes now confirms nothing.
        for answer in old_answers {
            group.deliver(answer);
        }
        group.settle();
        assert_eq!(answered(&mut group, 1), []);
        return;
    }
    group.read(1, 2);
    for answer in old_answers.clone().into_iter().chain(old_answers) {
        group.deliver(answer);
    }
    group.settle();
    assert_eq!(answered(&mut group, 1), [], "an old answer confirmed a new read");
}

/// The same with one lifetime between: the number of a read that a follower passes on is not used again.
#[test]
fn etcd_21375_numbers_of_reads_are_not_used_again_after_a_restart() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.hold = |message| matches!(message.body, MessageBody::ReadIndexReply { .. });
    group.read(2, 1);
    let old = group.held.pop().unwrap();
    group.restart(2);
    group.run(300);
    group.held.clear();
    group.read(2, 2);
    group.held.clear();
    group.deliver(old);
    group.settle();
    assert_eq!(answered(&mut group, 2), [], "the answer to a read of an earlier life was taken");
}

/// A follower's read timed out and returned the old value instead of an error.
#[test]
fn etcd_13464_a_read_that_is_late_fails() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.cut(1, 2);
    group.read(2, 1);
    group.run(1_100);
    assert_eq!(answered(&mut group, 2), [failed(1, ReadFailure::TimedOut)]);
}

/// The leader of a minority served linearizable reads before a quorum had confirmed it.
#[test]
fn d_engine_381_a_leader_of_a_minority_serves_no_read() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.run(200);
    group.isolate(1);
    group.read(1, 1);
    assert_eq!(answered(&mut group, 1), []);
    group.run(1_500);
    assert_eq!(answered(&mut group, 1), [failed(1, ReadFailure::LeadershipLost)]);
}

/// As above: the answer of one of five is no quorum.
#[test]
fn xline_870_a_read_needs_a_quorum_and_not_an_answer() {
    let mut group = Group::new(5);
    group.campaign(1);
    for other in [3, 4, 5] {
        group.cut(1, other);
    }
    group.read(1, 1);
    group.run(100);
    assert_eq!(answered(&mut group, 1), []);
}

/// Leases were judged by the role alone, and by a clock that can be set. Here time is an argument that never goes back,
/// and what has expired runs before the read itself.
#[test]
fn sofa_jraft_25_a_leader_that_was_paused_serves_no_leased_read() {
    let mut group = Group::with(3, leased);
    group.campaign(1);
    group.run(2_000);
    assert!(group.node(1).leads());
    let now = group.now();
    group.core(1).read_lease(now, ReadTicket(1)).unwrap();
    group.settle();
    assert_eq!(answered(&mut group, 1).len(), 1, "it has a lease");
    // It sleeps for ten seconds; nobody heard it meanwhile, and the others may have elected somebody.
    group.isolate(1);
    group.millis += 10_000;
    let now = group.now();
    group.core(1).read_lease(now, ReadTicket(2)).ok();
    group.settle();
    assert!(answered(&mut group, 1).iter().all(|read| matches!(read, ReadOutcome::Failed { .. })));
    assert_ne!(group.core(1).status().role, RoleName::Leader);
}

/// A clock jumped back and a lease seemed young again.
#[test]
fn nebula_2723_time_that_goes_back_gives_no_lease() {
    let mut group = Group::with(3, leased);
    group.campaign(1);
    group.run(2_000);
    let early = group.now();
    group.isolate(1);
    group.run(950);
    let until = group.core(1).status().lease_until();
    group.core(1).tick(early);
    let now = group.now();
    assert!(until.is_none_or(|until| until <= now), "the lease outlives its voters' promise");
    group.core(1).read_lease(early, ReadTicket(1)).ok();
    group.settle();
    assert_eq!(answered(&mut group, 1), [], "a read was served by a lease that is over");
}

/// A slow ticker made the leader's lease longer than its voters believed: the lease counts from when the heartbeat was
/// sent, and ends a drift bound before any voter may vote for somebody else.
#[test]
fn etcd_6005_a_lease_ends_before_any_voter_forgets_it() {
    let mut group = Group::with(3, leased);
    group.campaign(1);
    group.run(2_000);
    let sent_by = group.now();
    group.isolate(1);
    group.run(10);
    let until = group.core(1).status().lease_until().unwrap();
    let timeout = Config::new(ReplicaId(1)).election_timeout;
    assert!(until < sent_by + timeout, "{until:?}");
    assert!(until + Duration::from_millis(100) <= sent_by + timeout, "the drift is not taken off: {until:?}");
}

/// Leased reads without CheckQuorum: a leader that is alone serves for ever.
#[test]
fn raft_rs_141_leases_need_check_quorum() {
    let config = Config { check_quorum: false, leader_lease: true, ..Config::new(ReplicaId(1)) };
    let refused = RawNode::new(config, Restored::default(), quorate_core::MonoTime(0));
    let Err(RestoreError::Config(ConfigError { field, .. })) = refused else { panic!("{refused:?}") };
    assert!(field.contains("lease") || field.contains("quorum"), "{field}");
}

/// In a joint state a demoted voter was left out of the round of a read.
#[test]
fn scylladb_29226_a_read_in_a_joint_state_asks_both_sides() {
    let mut group = Group::new(3);
    group.campaign(1);
    let now = group.now();
    let changes = vec![MembershipChange::Demote(ReplicaId(2)), MembershipChange::Demote(ReplicaId(3))];
    group.core(1).propose_changes(now, changes, MembershipTransition::JointExplicit, None).unwrap();
    group.settle();
    assert!(group.core(1).status().membership.joint().is_some());
    // The new side is 1 alone; of the old side nobody answers.
    group.isolate(1);
    group.read(1, 1);
    group.run(200);
    assert_eq!(answered(&mut group, 1), [], "one side was forgotten");
    group.heal();
    group.run(300);
    let commit = group.core(1).status().commit;
    assert_eq!(answered(&mut group, 1), [served_at(commit, 1)]);
}

/// A group of one restarted: what it had acknowledged was in its log, but its hard state said less was committed, and a
/// read was served there.
#[test]
fn etcd_raft_105_a_restarted_group_of_one_reads_what_it_had_acknowledged() {
    let mut group = Group::new(1);
    group.campaign(1);
    let at = group.propose(1);
    assert!(group.node(1).applied.contains(&at));
    group.restart(1);
    group.elect();
    group.read(1, 1);
    let reads = answered(&mut group, 1);
    assert!(matches!(reads[..], [ReadOutcome::At { index, .. }] if index >= at.index), "{reads:?}");
}

/// Reads got lost when the quorum shrank or the leader stepped down: nobody ever answered.
#[test]
fn tikv_4680_a_read_is_answered_when_the_leader_steps_down() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.isolate(1);
    group.read(1, 1);
    let now = group.now();
    group.core(1).forget_leader(now);
    group.settle();
    assert_eq!(answered(&mut group, 1), [failed(1, ReadFailure::LeadershipLost)]);
}
