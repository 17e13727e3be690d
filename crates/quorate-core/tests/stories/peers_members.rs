//! Changes of members: quorums that did not overlap, and memberships that nobody had decided.

use quorate_core::{
    ChangeError, EntryPayload, LogId, LogIndex, MemberRole, Membership, MembershipChange,
    MembershipTransition, MessageBody, NodeId, ReplicaId, SnapshotMeta, Term, VoteRequest,
};

use crate::group::{Group, membership};

fn change(group: &mut Group, by: u64, change: MembershipChange) -> Result<LogId, ChangeError> {
    let now = group.now();
    let changed = group.core(by).propose_membership(now, change, None);
    group.settle();
    changed.map(|(id, _)| id)
}

fn add_learner(node: u64) -> MembershipChange {
    MembershipChange::AddLearner {
        node: NodeId(node),
        peer_address: String::new(),
        client_address: String::new(),
    }
}

/// The bug in the thesis itself: two leaders with one uncommitted change each, and quorums that do not overlap.
/// `two_leaders_change_the_members` in the exploration has all orders of it.
#[test]
fn ongaro_2015_no_change_before_an_own_entry_is_committed() {
    let mut group = Group::new(4);
    group.hold = |message| matches!(message.body, MessageBody::AppendReply(_));
    group.campaign(1);
    assert!(group.node(1).leads());
    assert_eq!(change(&mut group, 1, add_learner(5)), Err(ChangeError::NotReady));
    group.hold = |_| false;
    for reply in std::mem::take(&mut group.held) {
        group.deliver(reply);
    }
    group.settle();
    change(&mut group, 1, add_learner(5)).unwrap();
}

/// Membership changes and partitions together lost updates. Here: the side that was cut off keeps the old members and
/// cannot commit with them, whatever it tries.
#[test]
fn rethinkdb_4824_a_cut_off_leader_commits_with_no_members_of_its_own() {
    let mut group = Group::new(5);
    group.campaign(1);
    group.run(300);
    for (a, b) in [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)] {
        group.cut(a, b);
    }
    // 1 tries to shrink the group to itself and 2; the others elect somebody and go on.
    let shrunk = change(&mut group, 1, MembershipChange::Remove(ReplicaId(5))).unwrap();
    let second = change(&mut group, 1, MembershipChange::Remove(ReplicaId(4)));
    assert!(matches!(second, Err(ChangeError::InProgress { .. })), "{second:?}");
    group.run(5_000);
    let leader = group.leader().unwrap();
    assert!(leader >= 3);
    let at = group.propose(leader);
    assert!(group.core(1).status().commit < shrunk.index);
    group.heal();
    group.run(3_000);
    assert!(group.core(1).status().commit >= at.index);
    assert!(group.core(1).status().membership.get(ReplicaId(5)).is_some(), "the change came back");
}

/// A snapshot was installed and an uncommitted membership of before stayed in effect: a voter that never was, and a
/// quorum of its own.
#[test]
fn openraft_1808_a_snapshot_ends_an_uncommitted_membership() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.isolate(1);
    change(&mut group, 1, MembershipChange::Remove(ReplicaId(3))).unwrap();
    assert_eq!(group.core(1).status().membership.voters().count(), 2);
    // The others go on, and drop their log.
    let leader = group.elect();
    for _ in 0..5 {
        group.propose(leader);
    }
    group.run(2_000);
    let leader = group.leader().unwrap();
    for id in [2, 3] {
        group.node(id).compact();
    }
    group.heal();
    group.run(3_000);
    let status = group.core(1).status();
    assert!(status.compacted.index > LogIndex(0), "no snapshot was needed: {}", group.lines());
    assert_eq!(group.core(1).status().membership.voters().count(), 3, "the uncommitted one stayed");
    assert_eq!(group.core(1).status().membership_id, group.core(leader).status().membership_id);
    let disk = group.node(1).disk.memberships.clone();
    assert_eq!(disk.len(), 1, "{disk:?}");
}

/// The membership before a purged log was lost when a snapshot was installed.
#[test]
fn openraft_01e813a5_a_snapshot_brings_its_membership_along() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.isolate(3);
    change(&mut group, 1, add_learner(7)).unwrap();
    group.propose(1);
    for id in [1, 2] {
        group.node(id).compact();
    }
    group.heal();
    group.run(3_000);
    assert!(group.core(3).status().membership.get(ReplicaId(4)).is_some());
    group.restart(3);
    assert!(group.core(3).status().membership.get(ReplicaId(4)).is_some(), "lost at the restart");
}

/// A joint state of which one side has no quorum is not committed, and not left: nothing is decided by the other side
/// alone. Whoever has to go on without has the forced recovery.
#[test]
fn raft_rs_192_a_joint_state_without_a_quorum_on_one_side_waits() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.run(300);
    group.isolate(1);
    let now = group.now();
    let changes = vec![MembershipChange::Demote(ReplicaId(2)), MembershipChange::Demote(ReplicaId(3))];
    let transition = MembershipTransition::JointExplicit;
    let (joint, _) = group.core(1).propose_changes(now, changes, transition, None).unwrap();
    group.settle();
    assert!(group.core(1).status().commit < joint.index, "the new side alone decided");
    let now = group.now();
    assert!(matches!(group.core(1).leave_joint(now, None), Err(ChangeError::InProgress { .. })));
    // The others decide without it, and the joint state never was.
    group.run(5_000);
    group.heal();
    group.run(3_000);
    assert!(group.core(1).status().membership.joint().is_none());
    assert_eq!(group.core(1).status().membership.voters().count(), 3);
}

/// Two changes interleaved and ended in a joint state that nobody had asked for.
#[test]
fn openraft_parallel_changes_are_refused() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.hold = |message| matches!(message.body, MessageBody::AppendReply(_));
    let first = change(&mut group, 1, MembershipChange::Demote(ReplicaId(2))).unwrap();
    let second = change(&mut group, 1, MembershipChange::Demote(ReplicaId(3)));
    assert_eq!(second, Err(ChangeError::InProgress { pending: first }));
}

/// Demoting a voter was refused by one path and half applied by another: every way from a role to a role.
#[test]
fn tikv_11463_every_change_of_role_is_whole_or_refused() {
    let mut group = Group::new(3);
    group.campaign(1);
    let role = |group: &mut Group| group.core(1).status().membership.get(ReplicaId(3)).map(|m| m.role);
    assert_eq!(change(&mut group, 1, MembershipChange::Promote(ReplicaId(3))), Err(ChangeError::NothingToDo));
    change(&mut group, 1, MembershipChange::Demote(ReplicaId(3))).unwrap();
    assert_eq!(role(&mut group), Some(MemberRole::Learner));
    assert_eq!(change(&mut group, 1, MembershipChange::Demote(ReplicaId(3))), Err(ChangeError::NothingToDo));
    change(&mut group, 1, MembershipChange::Promote(ReplicaId(3))).unwrap();
    assert_eq!(role(&mut group), Some(MemberRole::Voter));
    change(&mut group, 1, MembershipChange::Remove(ReplicaId(3))).unwrap();
    assert_eq!(role(&mut group), None);
    for again in [
        MembershipChange::Remove(ReplicaId(3)),
        MembershipChange::Promote(ReplicaId(3)),
        MembershipChange::Demote(ReplicaId(3)),
    ] {
        assert_eq!(change(&mut group, 1, again), Err(ChangeError::NotMember));
    }
}

/// An uncommitted change was truncated and the membership before it was not there any more.
#[test]
fn canonical_323_a_truncated_change_brings_back_the_one_before() {
    let mut group = Group::new(3);
    group.campaign(1);
    change(&mut group, 1, add_learner(7)).unwrap();
    let before = group.core(1).status().membership_id;
    group.isolate(1);
    change(&mut group, 1, MembershipChange::Remove(ReplicaId(2))).unwrap();
    assert_ne!(group.core(1).status().membership_id, before);
    group.run(5_000);
    let leader = group.elect();
    assert_ne!(leader, 1);
    group.heal();
    group.run(1_000);
    assert_eq!(group.core(1).status().membership_id, before);
    assert!(group.core(1).status().membership.get(ReplicaId(2)).is_some());
    // Again, with a restart between.
    group.restart(1);
    assert_eq!(group.core(1).status().membership_id, before);
}

/// The leader was removed and nobody led.
#[test]
fn redisraft_3_a_removed_leader_leaves_a_leader_behind() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.run(300);
    change(&mut group, 1, MembershipChange::Remove(ReplicaId(1))).unwrap();
    assert!(!group.node(1).leads());
    let leader = group.leader().unwrap();
    assert_ne!(leader, 1);
    group.propose(leader);
}

/// A snapshot was imported and its index was taken for the position of its membership: an old membership looked newer
/// than the newest.
#[test]
fn matrixone_24966_the_position_of_a_membership_is_that_of_its_entry() {
    let mut group = Group::new(3);
    group.campaign(1);
    let at = change(&mut group, 1, add_learner(7)).unwrap();
    for _ in 0..5 {
        group.propose(1);
    }
    let applied = group.core(1).status().applied;
    let meta = group.core(1).snapshot_meta(applied).unwrap();
    assert!(meta.last.index > at.index);
    assert_eq!(meta.membership_id, at);
    group.node(1).compact();
    group.restart(1);
    assert_eq!(group.core(1).status().membership_id, at);
}

/// The newest snapshot after a change did not contain it.
#[test]
fn matrixone_23279_a_snapshot_after_a_change_contains_it() {
    let mut group = Group::new(3);
    group.campaign(1);
    let at = change(&mut group, 1, add_learner(7)).unwrap();
    let meta = group.core(1).snapshot_meta(at.index).unwrap();
    assert!(meta.membership.get(ReplicaId(4)).is_some());
}

/// A snapshot that was slow to build said index 10, and had the members of index 5 (and the other way round).
#[test]
fn pikiwidb_raft_385_a_snapshot_has_the_members_at_its_index() {
    let mut group = Group::new(3);
    group.campaign(1);
    let before = group.propose(1);
    let at = change(&mut group, 1, add_learner(7)).unwrap();
    group.propose(1);
    let meta = group.core(1).snapshot_meta(before.index).unwrap();
    assert_eq!((meta.last, meta.membership_id), (before, LogId::default()));
    assert!(meta.membership.get(ReplicaId(4)).is_none());
    let meta = group.core(1).snapshot_meta(at.index).unwrap();
    assert_eq!(meta.membership_id, at);
}

/// A member was wiped, came back with its old id, and voted a second time or brought its leader down. A wiped directory
/// is refused by the transport (its incarnation is another one); here: one whose disk is a bit behind gives no vote.
#[test]
fn nexus_3939_a_replica_that_went_back_gives_no_vote() {
    let mut group = Group::new(3);
    group.campaign(1);
    let old = group.node(2).disk.clone();
    group.cut(1, 3);
    let at = group.propose(1);
    group.propose(1);
    assert!(group.core(1).status().commit >= at.index);
    // 2 comes back from an old backup; its leader's next heartbeat tells it that more had been here.
    group.start(2, old);
    group.hold = |message| matches!(message.body, MessageBody::Append(_));
    group.run(200);
    group.isolate(1);
    let last = group.core(3).status().last;
    group.say(3, 2, 9, MessageBody::Vote(VoteRequest { last, transfer: true }));
    assert_eq!(group.core(2).status().vote, None, "it voted away what is committed");
}

/// A node came back under an id that another had had: ids are given once, by the membership.
#[test]
fn openraft_2002_an_id_is_never_given_twice() {
    let mut group = Group::new(3);
    group.campaign(1);
    let mut given = Vec::new();
    for _ in 0..5 {
        let now = group.now();
        let (_, id) = group.core(1).propose_membership(now, add_learner(9), None).unwrap();
        group.settle();
        given.push(id);
        change(&mut group, 1, MembershipChange::Remove(id)).unwrap();
    }
    assert_eq!(given, (4..9).map(ReplicaId).collect::<Vec<_>>());
}

/// The validation of a change looked at what was applied, not at the log: it refused what was right and let pass what
/// was wrong.
#[test]
fn etcd_raft_80_changes_are_checked_against_the_log() {
    let mut group = Group::new(3);
    group.campaign(1);
    // Another leader's change is in the log, and not applied here.
    group.hold = |message| matches!(message.body, MessageBody::AppendReply(_));
    change(&mut group, 1, MembershipChange::Remove(ReplicaId(3))).unwrap();
    assert!(group.core(1).status().applied < group.core(1).status().membership_id.index);
    assert_eq!(group.core(1).status().membership.voters().count(), 2);
    let second = change(&mut group, 1, MembershipChange::Remove(ReplicaId(3)));
    assert!(matches!(second, Err(ChangeError::InProgress { .. })), "{second:?}");
}

/// A joint state was stuck because nobody proposed to leave it after a change of leaders, or the proposal was refused.
#[test]
fn etcd_12136_a_joint_state_is_left_by_the_next_leader() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.hold = |message| matches!(message.body, MessageBody::AppendReply(_));
    let now = group.now();
    let changes = vec![MembershipChange::Demote(ReplicaId(1)), MembershipChange::Demote(ReplicaId(3))];
    group.core(1).propose_changes(now, changes, MembershipTransition::JointImplicit, None).unwrap();
    group.settle();
    group.held.clear();
    group.hold = |_| false;
    group.node(1).down = true;
    group.run(10_000);
    let leader = group.leader().unwrap();
    assert!(group.core(leader).status().membership.joint().is_none(), "{}", group.lines());
}

/// The entry that leaves the joint state was appended and nobody was told.
#[test]
fn etcd_14538_leaving_the_joint_state_is_sent_at_once() {
    let mut group = Group::new(3);
    group.campaign(1);
    let now = group.now();
    let changes = vec![MembershipChange::Demote(ReplicaId(2)), MembershipChange::Demote(ReplicaId(3))];
    group.core(1).propose_changes(now, changes, MembershipTransition::JointImplicit, None).unwrap();
    group.settle();
    // No tick since.
    for id in 1..=3 {
        assert!(group.core(id).status().membership.joint().is_none(), "{}", group.lines());
    }
}

/// Two clusters of one name: a snapshot with somebody else's members is believed only with the right epoch and
/// position. (Cluster ids are checked by the transport.)
#[test]
fn vault_31933_a_snapshot_of_another_epoch_is_refused() {
    let mut group = Group::new(3);
    group.campaign(1);
    let meta = SnapshotMeta {
        last: LogId::new(1, 99),
        membership: std::sync::Arc::new(membership(2)),
        membership_id: LogId::default(),
    };
    let message = quorate_core::Message {
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(1),
        epoch: 3,
        body: MessageBody::InstallSnapshot(meta),
    };
    group.deliver(message);
    group.settle();
    assert_eq!(group.core(2).status().membership.voters().count(), 3);
}

/// Members of an entry come back as they were appended, also those of a joint state.
#[test]
fn membership_entries_are_values_and_not_steps() {
    let mut group = Group::new(3);
    group.campaign(1);
    let at = change(&mut group, 1, add_learner(7)).unwrap();
    let entries = group.node(3).disk.entries.clone();
    let entry = entries.iter().find(|entry| entry.id == at).unwrap();
    let EntryPayload::Membership(membership) = &entry.payload else { panic!("{entry:?}") };
    let whole: &Membership = membership;
    assert_eq!(whole.members().count(), 4);
}
