//! What a leader knows of its followers, and what it commits (Raft §5.3, §5.4.2).

use std::time::Duration;

use quorate_core::{
    LogId, LogIndex, Member, MembershipChange, MembershipTransition, Message, MessageBody, NodeId,
    ProgressName, ReplicaId, RoleName,
};

use crate::replica::{Replica, Start, accepted, rejected};

/// Voters, the terms of the log before the election, up to where each other voter has it, and what is committed
/// then. The leader adds an entry of its own term at the end.
#[test]
fn only_what_a_majority_has_is_committed_and_only_by_the_own_term() {
    #[rustfmt::skip]
    let table: [(u64, &[u64], &[u64], u64); 13] = [
        (1, &[], &[], 1),
        (1, &[1], &[], 2),
        (3, &[], &[0, 0], 0),
        (3, &[], &[1, 0], 1),
        (3, &[], &[1, 1], 1),
        (3, &[1, 2], &[1, 0], 0),
        (3, &[1, 2], &[2, 2], 0),
        (3, &[1, 2], &[3, 0], 3),
        (4, &[1], &[2, 0, 0], 0),
        (4, &[1], &[2, 2, 0], 2),
        (5, &[1], &[2, 1, 1, 1], 0),
        (5, &[1], &[2, 2, 0, 0], 2),
        (5, &[1], &[2, 2, 2, 2], 2),
    ];
    for (voters, log, matched, commit) in table {
        let others: Vec<u64> = (2..=voters).collect();
        let mut leader = Start { voters, log, term: 2, ..Start::default() }.replica().elected_by(&others);
        assert_eq!(leader.core.status().role, RoleName::Leader);
        for (from, matched) in others.iter().zip(matched).filter(|(_, matched)| **matched > 0) {
            leader.hears(*from, 3, accepted(*matched)).unwrap();
        }
        assert_eq!(leader.commit(), commit, "{voters} voters, {log:?}, others have {matched:?}");
    }
}

fn known(leader: &Replica) -> (ProgressName, u64, u64) {
    let (_, progress) = leader.core.progress().find(|(id, _)| *id == ReplicaId(2)).unwrap();
    (progress.state, progress.matched.0, progress.next.0)
}

/// A leader with three entries probes 2 after the third; then comes an answer.
#[test]
fn an_answer_moves_what_the_leader_knows() {
    use ProgressName::{Probe, Replicate};
    #[rustfmt::skip]
    let table = [
        // An answer to another probe changes nothing.
        (rejected(2, LogId::new(1, 1), 5), (Probe, 0, 4)),
        // A refusal goes back to what could match, never before the start of the log.
        (rejected(3, LogId::new(1, 2), 5), (Probe, 0, 3)),
        (rejected(3, LogId::new(1, 1), 1), (Probe, 0, 2)),
        (rejected(3, LogId::default(), 0), (Probe, 0, 1)),
        // An acceptance begins the stream: everything else is sent at once.
        (accepted(0), (Replicate, 0, 5)),
        (accepted(3), (Replicate, 3, 5)),
        (accepted(4), (Replicate, 4, 5)),
    ];
    for (answer, expected) in table {
        let mut leader = Start { log: &[1, 1, 1], term: 1, ..Start::default() }.replica().elected_by(&[3]);
        assert_eq!(known(&leader), (Probe, 0, 4));
        leader.hears(2, 2, answer.clone()).unwrap();
        assert_eq!(known(&leader), expected, "{answer:?}");
    }
}

#[test]
fn a_streamed_follower_is_not_taken_back_by_old_answers() {
    let mut leader = Start { log: &[1, 1, 1], term: 1, ..Start::default() }.replica().elected_by(&[3]);
    leader.hears(2, 2, accepted(4)).unwrap();
    for old in [accepted(3), accepted(0), rejected(3, LogId::new(1, 2), 4)] {
        leader.hears(2, 2, old).unwrap();
        assert_eq!(known(&leader), (ProgressName::Replicate, 4, 5));
    }
    // What the transport could not deliver is looked for again, after what is known to be there.
    leader.core.report_unreachable(ReplicaId(2));
    assert_eq!(known(&leader), (ProgressName::Probe, 4, 5));
}

#[test]
fn a_probe_is_one_append_until_it_is_answered() {
    let mut leader = Start { voters: 2, ..Start::default() }.replica().elected_by(&[2]);
    for _ in 0..10 {
        leader.core.propose(leader.now, "x".into()).unwrap();
        let appends = leader.says().into_iter().filter(|said| matches!(said.body, MessageBody::Append(_)));
        assert_eq!(appends.count(), 0, "the append of the election is out");
    }
    assert!(leader.core.progress().next().unwrap().1.paused);
    let said = leader.hears(2, 1, accepted(1)).unwrap();
    let sent = said.iter().find_map(|said| match &said.body {
        MessageBody::Append(append) => Some(append.entries.len()),
        _ => None,
    });
    assert_eq!(sent, Some(10), "everything that waited, in one append");
    // From now on every proposal leaves at once.
    leader.core.propose(leader.now, "x".into()).unwrap();
    assert_eq!(leader.says().len(), 1);
}

/// Heartbeats commit at a follower only what it is known to hold.
#[test]
fn a_heartbeat_carries_the_commit_index_as_far_as_the_follower_is_known() {
    let mut leader = Start { log: &[1; 8], term: 1, ..Start::default() }.replica().elected_by(&[3]);
    leader.hears(3, 2, accepted(9)).unwrap();
    leader.hears(2, 2, accepted(5)).unwrap();
    assert_eq!(leader.commit(), 9);
    leader.now = leader.now + Duration::from_millis(200);
    leader.core.tick(leader.now);
    let beats = leader.says().into_iter().filter_map(|said| match said.body {
        MessageBody::Heartbeat { commit, .. } => Some((said.to.0, commit.0)),
        _ => None,
    });
    assert_eq!(beats.collect::<Vec<_>>(), [(2, 5), (3, 9)]);
}

/// A removal takes effect with its entry: what waits for the removed one is committed without it.
#[test]
fn what_waits_for_a_removed_voter_is_committed_without_it() {
    let mut leader = Start { voters: 2, ..Start::default() }.replica().elected_by(&[2]);
    leader.hears(2, 1, accepted(1)).unwrap();
    leader.core.propose(leader.now, "waits".into()).unwrap();
    assert_eq!(leader.commit(), 1);
    let removal = MembershipChange::Remove(ReplicaId(2));
    leader.core.propose_membership(leader.now, removal, None).unwrap();
    leader.says();
    assert_eq!(leader.commit(), 3);
}

/// A second change waits for the first, and is refused with a reason: nothing is appended for it.
#[test]
fn a_second_change_is_refused_while_the_first_is_not_committed() {
    let mut leader = Start { voters: 3, learners: 1, ..Start::default() }.replica().elected_by(&[2]);
    leader.hears(2, 1, accepted(1)).unwrap();
    let remove = |id| vec![MembershipChange::Remove(ReplicaId(id))];
    leader.core.propose_changes(leader.now, remove(4), MembershipTransition::Automatic, None).unwrap();
    leader.core.propose_changes(leader.now, remove(3), MembershipTransition::Automatic, None).unwrap_err();
    assert_eq!(leader.core.status().last.index, LogIndex(2));
}

/// A leader that was alone adds a voter shortly before it would count who it has heard: the new one counts as
/// heard when it was added, and has a whole timeout to answer.
#[test]
fn a_new_voter_gets_a_timeout_to_answer() {
    let mut leader = Start { voters: 1, check_quorum: true, ..Start::default() }.replica().elected_by(&[]);
    leader.says();
    let timeout = Duration::from_secs(1);
    let step = Duration::from_millis(50);
    leader.now = leader.now + (timeout - step);
    leader.core.tick(leader.now);
    let Member { peer_address, client_address, .. } =
        leader.core.status().membership.get(ReplicaId(1)).unwrap().clone();
    let add = MembershipChange::AddVoter { node: NodeId(2), peer_address, client_address };
    leader.core.propose_membership(leader.now, add, None).unwrap();
    leader.now = leader.now + step;
    leader.core.tick(leader.now);
    assert_eq!(leader.core.status().role, RoleName::Leader);
    leader.now = leader.now + timeout;
    leader.core.tick(leader.now);
    assert_eq!(leader.core.status().role, RoleName::Follower);
}

/// A leader counts the time since a quorum was heard: answers of one of two others are enough for ever,
/// silence for a timeout is not.
#[test]
fn a_leader_stays_as_long_as_a_quorum_answers() {
    let timeout = Duration::from_secs(1);
    let step = timeout / 4;
    let mut leader = Start { check_quorum: true, ..Start::default() }.replica().elected_by(&[2]);
    for _ in 0..12 {
        leader.now = leader.now + step;
        leader.core.tick(leader.now);
        leader.says();
        leader.hears(2, 1, MessageBody::HeartbeatReply { read_round: 0, last: LogId::default() }).unwrap();
        assert_eq!(leader.core.status().role, RoleName::Leader);
    }
    for _ in 0..3 {
        leader.now = leader.now + step;
        leader.core.tick(leader.now);
        assert_eq!(leader.core.status().role, RoleName::Leader);
    }
    leader.now = leader.now + step;
    leader.core.tick(leader.now);
    let status = leader.core.status();
    assert_eq!((status.role, status.leader, status.term.0), (RoleName::Follower, None, 1));
}

/// A follower that answers nothing gets as many appends as its window has room for, in number and in bytes (one may
/// overshoot). Every answer makes room for what it covers, an old one for nothing.
#[test]
fn a_window_is_bounded_in_appends_and_in_bytes() {
    // An entry of 900 bytes counts for a little more than that.
    for (window, fits) in
        [((3, 1 << 20), 3), ((1, 1 << 20), 1), ((256, 2000), 3), ((256, 1800), 2), ((256, 1), 1)]
    {
        let mut leader = Start { voters: 2, window, ..Start::default() }.replica().elected_by(&[2]);
        leader.hears(2, 1, accepted(1)).unwrap();
        let appends = |said: Vec<Message>| {
            said.iter().filter(|said| matches!(said.body, MessageBody::Append(_))).count()
        };
        let mut sent = 0;
        for _ in 0..10 {
            leader.core.propose(leader.now, vec![0; 900].into()).unwrap();
            sent += appends(leader.says());
        }
        assert_eq!(sent, fits, "{window:?}");
        assert!(leader.core.progress().next().unwrap().1.paused);
        let old = leader.hears(2, 1, accepted(1)).unwrap();
        assert_eq!(appends(old), 0, "an old answer makes no room");
        let first = leader.hears(2, 1, accepted(2)).unwrap();
        assert!(appends(first) > 0, "an answer makes room");
    }
}
