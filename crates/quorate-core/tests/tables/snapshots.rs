//! Snapshots from both ends: who needs one and what that stops, and what it makes of who receives it.

use std::sync::Arc;

use quorate_core::{
    LogId, LogIndex, Member, MemberRole, Membership, MessageBody, NodeId, ProgressName, ReplicaId, RoleName,
    SnapshotMeta, SnapshotOutcome,
};

use crate::replica::{Replica, Start, accepted, rejected};

/// Leads in term 12 a log that begins after 11@t11; its own entry is 12@t12. Replica 2 has nothing.
fn leader_with_a_follower_that_has_nothing() -> Replica {
    let start = Start { voters: 3, after: (11, 11), term: 11, ..Start::default() };
    let mut leader = start.replica().elected_by(&[3]);
    leader.hears(2, 12, rejected(11, LogId::default(), 0)).unwrap();
    leader
}

fn known(leader: &Replica) -> (ProgressName, u64, bool) {
    let (_, progress) = leader.core.progress().find(|(id, _)| *id == ReplicaId(2)).unwrap();
    (progress.state, progress.matched.0, progress.paused)
}

#[test]
fn whoever_lacks_what_is_compacted_gets_a_snapshot_and_nothing_else() {
    let mut leader = leader_with_a_follower_that_has_nothing();
    assert_eq!(leader.snapshots, [ReplicaId(2)]);
    assert_eq!(known(&leader), (ProgressName::Snapshot, 0, true));
    leader.core.propose(leader.now, "x".into()).unwrap();
    assert!(leader.says().iter().all(|said| said.to != ReplicaId(2)), "it waits for its snapshot");
}

#[test]
fn an_installed_snapshot_lets_the_stream_begin() {
    // Also one that is newer than what was asked for, and without a report of the driver.
    for (reported, matched) in [(true, 11), (false, 11), (false, 12)] {
        let mut leader = leader_with_a_follower_that_has_nothing();
        if reported {
            leader.core.report_snapshot(leader.now, ReplicaId(2), SnapshotOutcome::Sent);
            assert_eq!(known(&leader), (ProgressName::Snapshot, 0, true), "it has not answered yet");
        }
        let said = leader.hears(2, 12, accepted(matched)).unwrap();
        assert_eq!(known(&leader), (ProgressName::Replicate, matched, false));
        let appends = said.iter().filter(|said| {
            said.to == ReplicaId(2)
                && matches!(&said.body, MessageBody::Append(append) if !append.entries.is_empty())
        });
        assert_eq!(appends.count(), usize::from(matched == 11), "what follows the snapshot");
    }
}

#[test]
fn a_snapshot_that_failed_is_not_offered_again_at_once() {
    let mut leader = leader_with_a_follower_that_has_nothing();
    leader.core.report_snapshot(leader.now, ReplicaId(2), SnapshotOutcome::Failed);
    leader.says();
    assert_eq!((known(&leader), leader.snapshots.len()), ((ProgressName::Snapshot, 0, true), 1));
}

fn members(voters: &[u64], learners: &[u64]) -> Arc<Membership> {
    let member = |id: u64| Member {
        node: NodeId(id),
        role: if voters.contains(&id) { MemberRole::Voter } else { MemberRole::Learner },
        peer_address: String::new(),
        client_address: String::new(),
    };
    let count = (voters.len() + learners.len()) as u64;
    Arc::new(Membership::initial((1..=count).map(member).collect()).unwrap())
}

fn snapshot(membership: Arc<Membership>) -> MessageBody {
    let last = LogId::new(11, 11);
    MessageBody::InstallSnapshot(SnapshotMeta { last, membership, membership_id: last })
}

/// What replica 3 was by its own log, what the snapshot says, and whether it may campaign afterwards.
#[test]
fn a_snapshot_decides_who_votes() {
    let table = [
        ((3, 0), members(&[1, 2, 3], &[]), true),
        ((2, 1), members(&[1, 2], &[3]), false),
        ((3, 0), members(&[1, 2], &[3]), false),
        ((2, 1), members(&[1, 2, 3], &[]), true),
    ];
    for ((voters, learners), membership, votes) in table {
        let mut replica = Start { id: 3, voters, learners, ..Start::default() }.replica();
        let said = replica.hears(1, 11, snapshot(Arc::clone(&membership))).unwrap();
        assert_eq!(said[0].body, accepted(11));
        let status = replica.core.status();
        assert_eq!((status.last, status.commit), (LogId::new(11, 11), LogIndex(11)));
        assert_eq!(*status.membership, membership);
        replica.core.on_applied(replica.now, LogIndex(11));
        replica.core.campaign(replica.now);
        assert_eq!(replica.core.status().role == RoleName::Candidate, votes);
        // The same snapshot once more is acknowledged and changes nothing.
        let mut again = Start { id: 3, voters, learners, ..Start::default() }.replica();
        again.hears(1, 11, snapshot(Arc::clone(&membership))).unwrap();
        let before = again.core.status().last;
        assert_eq!(again.hears(1, 11, snapshot(Arc::clone(&membership))).unwrap()[0].body, accepted(11));
        assert_eq!(again.core.status().last, before);
    }
}

/// A replica of three that holds three entries of term 1, one of them committed.
#[test]
fn a_snapshot_of_what_is_in_the_log_only_commits() {
    for index in 1..=3 {
        let mut replica = Start { id: 2, log: &[1, 1, 1], term: 1, commit: 1, ..Start::default() }.replica();
        let last = LogId::new(1, index);
        let meta =
            SnapshotMeta { last, membership: members(&[1, 2, 3], &[]), membership_id: LogId::default() };
        replica.hears(1, 1, MessageBody::InstallSnapshot(meta)).unwrap();
        assert_eq!((replica.log(), replica.commit()), (vec![1, 1, 1], index));
    }
}
