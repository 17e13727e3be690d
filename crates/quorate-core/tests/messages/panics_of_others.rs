//! Each message that was seen to bring down etcd's raft or raft-rs, said to a replica of ours. What is not here is in
//! `hostile.rs`; the table in `docs/coverage-peers-bugs.md` has all of them.
//!
//! Some of theirs cannot even be said: proposals, local events and requests to forget a leader are methods here,
//! and terms, rounds and requests are fields of fixed width.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    Append, AppendReply, Config, Entry, EntryPayload, LogId, LogIndex, Message, MessageBody, RawNode,
    ReadTicket, Rejected, ReplicaId, RestoreError, Restored, RoleName, SnapshotMeta, Term, VoteRequest,
    decode_entry, decode_membership, decode_message, encode_entry, encode_message,
};

use crate::group::{drain, fresh, group, membership, membership_bytes, pump};
use crate::hostile::{NOW, append, follower, leader, message, refusal};

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_message(message, &mut bytes);
    bytes
}

/// The only voter of its group, leading.
fn alone() -> RawNode {
    let mut node = fresh(1, membership(1));
    node.campaign(NOW);
    drain(&mut node, NOW);
    assert_eq!(node.status().role, RoleName::Leader);
    node
}

/// The most reported crash of all: a disk was wiped or two were exchanged, and the leader believes that more is there.
/// Both panic ("tocommit is out of range"), start again, and panic again. Here the replica says what it has, and is
/// filled up again.
#[test]
fn a_replica_that_lost_its_log_survives_the_heartbeats_of_its_leader() {
    let mut nodes = group();
    nodes.insert(ReplicaId(2), fresh(2, membership(3)));
    let heartbeat = message(1, 2, 1, MessageBody::Heartbeat { commit: LogIndex(3), read_round: 0 });
    for _ in 0..3 {
        let wiped = nodes.get_mut(&ReplicaId(2)).unwrap();
        wiped.step(NOW, ReplicaId(1), heartbeat.clone()).unwrap();
        pump(&mut nodes, NOW);
    }
    let wiped = nodes.remove(&ReplicaId(2)).unwrap();
    assert_eq!((wiped.status().last, wiped.status().commit), (LogId::new(1, 3), LogIndex(3)));
}

/// Both panic: "stepped empty MsgProp".
#[test]
fn an_empty_command_is_a_command() {
    let mut nodes = group();
    let at = nodes.get_mut(&ReplicaId(1)).unwrap().propose(NOW, Bytes::new()).unwrap();
    pump(&mut nodes, NOW);
    assert!(nodes.values().all(|node| node.status().last == at && node.status().commit == at.index));
}

/// etcd panics on a configuration change that does not decode. Here it does not get as far as a replica.
#[test]
fn members_in_an_entry_that_do_not_decode_are_refused() {
    let payload = EntryPayload::Membership(Arc::new(membership(2)));
    let mut bytes = Vec::new();
    encode_entry(&Entry { id: LogId::new(1, 4), payload }, &mut bytes);
    let whole = bytes.len();
    for length in 0..whole {
        assert!(
            decode_entry(&Bytes::copy_from_slice(&bytes[..length])).is_err(),
            "{length} of {whole} bytes"
        );
    }
}

/// etcd keeps the number of a read in bytes: one byte is out of range, too many are out of bounds. Here it is a field.
#[test]
fn an_answer_to_a_heartbeat_has_exactly_its_length() {
    let body = MessageBody::HeartbeatReply { read_round: 1, last: LogId::new(1, 3) };
    let bytes = encoded(&message(2, 1, 1, body));
    for length in 0..bytes.len() {
        assert!(decode_message(&Bytes::copy_from_slice(&bytes[..length])).is_err());
    }
    let mut long = bytes;
    long.extend_from_slice(&[0xff; 4096]);
    assert!(decode_message(&Bytes::from(long)).is_err());
}

/// etcd falls over two answers to a round that it did not start, with a read waiting.
#[test]
fn answers_to_no_round_confirm_no_read_that_waits() {
    let mut node = leader();
    node.read(NOW, ReadTicket(1)).unwrap();
    drain(&mut node, NOW);
    for from in [2, 3, 2, 3] {
        let body = MessageBody::HeartbeatReply { read_round: u64::MAX, last: LogId::new(1, 3) };
        assert_eq!(refusal(&node, message(from, 1, 1, body)), Rejected::Unexpected);
    }
}

/// etcd panics on a read from nobody or from itself when it is alone; raft-rs on one from a stranger.
#[test]
fn a_read_of_nobody_is_refused_by_a_replica_alone() {
    let read = || MessageBody::ReadIndex { request: 0 };
    assert_eq!(refusal(&alone(), message(0, 1, 1, read())), Rejected::UnknownSender);
    assert_eq!(refusal(&alone(), message(1, 1, 1, read())), Rejected::ForgedSender);
    assert_eq!(refusal(&alone(), message(7, 1, 1, read())), Rejected::UnknownSender);
}

/// Both panic on a snapshot whose members are all learners, and on one in which a replica is voter and learner.
#[test]
fn a_snapshot_of_learners_is_refused() {
    let learners = decode_membership(&membership_bytes(0, &[0x02, 0x02])).unwrap();
    let meta = SnapshotMeta {
        last: LogId::new(1, 9),
        membership: Arc::new(learners),
        membership_id: LogId::default(),
    };
    let body = MessageBody::InstallSnapshot(meta);
    assert_eq!(refusal(&follower(), message(1, 2, 1, body)), Rejected::InvalidMembership);
    // Twice the same member, once as a voter and once as a learner.
    let mut twice = membership_bytes(0, &[0x01, 0x02]).to_vec();
    let second = 18 + 25;
    twice[second] = 1;
    assert!(decode_membership(&Bytes::from(twice)).is_err());
}

/// Snapshots that cannot be: of nothing, of a later term than the leader's, with members from after it.
#[test]
fn a_snapshot_that_cannot_be_is_refused() {
    let meta =
        |last, membership_id| SnapshotMeta { last, membership: Arc::new(membership(3)), membership_id };
    let cannot_be = [
        meta(LogId::default(), LogId::default()),
        meta(LogId::new(2, 9), LogId::default()),
        meta(LogId::new(1, 9), LogId::new(1, 10)),
        meta(LogId::new(1, 0), LogId::default()),
    ];
    for meta in cannot_be {
        let body = MessageBody::InstallSnapshot(meta.clone());
        assert_eq!(refusal(&follower(), message(1, 2, 1, body)), Rejected::MalformedEntries, "{meta:?}");
    }
    let far = meta(LogId::new(1, u64::MAX), LogId::default());
    let body = MessageBody::InstallSnapshot(far);
    assert_eq!(refusal(&follower(), message(1, 2, 1, body)), Rejected::OutOfRange);
}

/// The members of a snapshot are said to stand behind its end, in an older term. A truncation there would take the only
/// membership there is, and no log store writes such a reset.
#[test]
fn a_snapshot_whose_members_stand_behind_its_end_is_refused() {
    for membership_id in [LogId::new(1, 10), LogId::new(1, 9)] {
        let last = LogId::new(2, 9);
        let meta = SnapshotMeta { last, membership: Arc::new(membership(3)), membership_id };
        assert!(!meta.is_possible(), "{meta:?}");
        let body = MessageBody::InstallSnapshot(meta);
        assert_eq!(refusal(&follower(), message(3, 2, 2, body)), Rejected::MalformedEntries);
    }
}

/// etcd panics: "index 4 is out of range". The first entry is far beyond what it should follow.
#[test]
fn a_first_entry_far_beyond_its_predecessor_is_refused() {
    for prev in [LogId::default(), LogId::new(1, 1), LogId::new(1, 3), LogId::new(1, 8)] {
        let body = append(prev, &[(1, 40)], 0);
        assert_eq!(refusal(&follower(), message(1, 2, 1, body)), Rejected::MalformedEntries);
    }
}

/// The same entry twice in one append; the same append twice; an older append after a newer one.
#[test]
fn what_is_said_twice_counts_once() {
    let twice = append(LogId::new(1, 3), &[(1, 4), (1, 4)], 0);
    assert_eq!(refusal(&follower(), message(1, 2, 1, twice)), Rejected::MalformedEntries);
    let mut node = follower();
    let newer = append(LogId::new(1, 3), &[(1, 4), (1, 5)], 5);
    let older = append(LogId::new(1, 3), &[(1, 4)], 3);
    for body in [newer.clone(), newer, older] {
        node.step(NOW, ReplicaId(1), message(1, 2, 1, body)).unwrap();
        drain(&mut node, NOW);
    }
    assert_eq!((node.status().last, node.status().commit), (LogId::new(1, 5), LogIndex(5)));
}

/// etcd panics on the next proposal ("need non-empty snapshot").
#[test]
fn a_leader_that_was_lied_to_still_takes_proposals() {
    let mut nodes = group();
    let lies = [
        AppendReply::Accepted { matched: LogIndex(99), read_round: 0 },
        AppendReply::Accepted { matched: LogIndex(u64::MAX), read_round: 0 },
        AppendReply::Rejected { prev: LogIndex(u64::MAX), hint: LogId::default(), last: LogIndex(0) },
        AppendReply::Rejected { prev: LogIndex(3), hint: LogId::new(1, 9), last: LogIndex(9) },
        AppendReply::Rejected { prev: LogIndex(3), hint: LogId::new(1, 2), last: LogIndex(u64::MAX) },
    ];
    for lie in lies {
        let leader = nodes.get_mut(&ReplicaId(1)).unwrap();
        leader.step(NOW, ReplicaId(2), message(2, 1, 1, MessageBody::AppendReply(lie))).unwrap_err();
    }
    let at = nodes.get_mut(&ReplicaId(1)).unwrap().propose(NOW, Bytes::from_static(b"x")).unwrap();
    pump(&mut nodes, NOW);
    assert!(nodes.values().all(|node| node.status().commit == at.index));
}

/// Both wrap to term 0 and panic when they campaign after a vote in the last term there is.
#[test]
fn after_a_vote_in_the_last_term_nobody_campaigns_and_nothing_breaks() {
    let mut node = follower();
    let last = LogId::new(1, 9);
    let vote = MessageBody::Vote(VoteRequest { last, transfer: true });
    node.step(NOW, ReplicaId(3), message(3, 2, Term::MAX.0, vote)).unwrap();
    drain(&mut node, NOW);
    let far = quorate_core::MonoTime::from_millis(1_000_000);
    node.tick(far);
    node.campaign(far);
    drain(&mut node, far);
    assert_eq!((node.status().term, node.status().role), (Term::MAX, RoleName::Follower));
}

/// etcd panics when a proposal, a read or a transfer arrives with a term ("term should not be set"). A read has one
/// here, whatever it is; a follower says that it cannot serve it.
#[test]
fn a_read_with_any_term_is_answered_by_a_follower() {
    for term in [0, 1, 7] {
        let mut node = follower();
        let asked = node.step(NOW, ReplicaId(3), message(3, 2, term, MessageBody::ReadIndex { request: 5 }));
        let said = drain(&mut node, NOW);
        match asked {
            Ok(()) => assert!(
                matches!(said[0].body, MessageBody::ReadIndexReply { request: 5, index: None }),
                "{said:?}"
            ),
            Err(reason) => assert_eq!(reason, Rejected::OldTerm, "term {term}"),
        }
    }
}

/// etcd obeys whoever calls himself its own disk, its own clock or its own user. Nobody is called anything here that
/// is not a number, and no number is special.
#[test]
fn no_sender_is_special() {
    let bodies = || {
        [
            MessageBody::TimeoutNow,
            MessageBody::HeartbeatReply { read_round: 0, last: LogId::new(1, 3) },
            MessageBody::AppendReply(AppendReply::Accepted { matched: LogIndex(3), read_round: 0 }),
            MessageBody::VoteReply { granted: true },
            MessageBody::PreVoteReply { granted: true },
            MessageBody::ReadIndex { request: 0 },
            MessageBody::ReadIndexReply { request: 0, index: None },
            MessageBody::RequestSnapshot { at_least: LogIndex(0) },
        ]
    };
    for from in [0, 9, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
        for body in bodies() {
            let reason = refusal(&leader(), message(from, 1, 1, body.clone()));
            assert!(
                matches!(reason, Rejected::UnknownSender | Rejected::NotFromLeader),
                "{body:?}: {reason:?}"
            );
        }
        for body in bodies() {
            let reason = refusal(&follower(), message(from, 2, 1, body.clone()));
            assert!(
                matches!(reason, Rejected::UnknownSender | Rejected::NotFromLeader),
                "{body:?}: {reason:?}"
            );
        }
    }
}

/// Both start elections for anybody who says so; etcd forgets its leader for anybody. Here only the leader of the
/// term may, and a message of an older term may not either.
#[test]
fn a_call_to_campaign_from_an_earlier_leader_is_refused() {
    let mut node = follower();
    let heartbeat = MessageBody::Heartbeat { commit: LogIndex(0), read_round: 0 };
    node.step(NOW, ReplicaId(3), message(3, 2, 2, heartbeat)).unwrap();
    drain(&mut node, NOW);
    assert_eq!(refusal(&node, message(1, 2, 1, MessageBody::TimeoutNow)), Rejected::OldTerm);
    assert_eq!(refusal(&node, message(1, 2, 2, MessageBody::TimeoutNow)), Rejected::NotFromLeader);
}

/// etcd panics on a limit of 0 bytes for a message, and when the application has applied more than is committed.
#[test]
fn a_start_that_cannot_work_is_an_error() {
    let now = NOW;
    let none = Config { append_bytes_max: 0, ..Config::new(ReplicaId(1)) };
    assert!(matches!(RawNode::new(none, Restored::default(), now), Err(RestoreError::Config(_))));
    let ahead = Restored { applied: LogIndex(4), ..Restored::default() };
    let refused = RawNode::new(Config::new(ReplicaId(1)), ahead, now);
    assert!(matches!(refused, Err(RestoreError::Inconsistent(_))));
    // Applied beyond the hint of what is committed is fine: the hint may be old, what was applied was committed.
    let members = Arc::new(membership(1));
    let mut hint_is_old = Restored {
        term_runs: vec![LogId::new(1, 1)],
        last: LogIndex(5),
        memberships: vec![(LogId::default(), members)],
        applied: LogIndex(4),
        ..Restored::default()
    };
    hint_is_old.hard_state.term = Term(1);
    let node = RawNode::new(Config::new(ReplicaId(1)), hint_is_old, now).unwrap();
    assert_eq!(node.status().commit, LogIndex(4));
}

/// A count that is not there, and one that is: a hundred thousand entries in one append.
#[test]
fn a_hundred_thousand_entries_at_once_are_just_entries() {
    let ids: Vec<(u64, u64)> = (4..100_004).map(|index| (1, index)).collect();
    let mut node = follower();
    let body = append(LogId::new(1, 3), &ids, 50_000);
    node.step(NOW, ReplicaId(1), message(1, 2, 1, body)).unwrap();
    drain(&mut node, NOW);
    assert_eq!((node.status().last.index, node.status().commit), (LogIndex(100_003), LogIndex(50_000)));
    // The last one of as many is wrong: nothing of it is taken.
    let mut ids = ids;
    ids.push((1, 200_000));
    let body = append(LogId::new(1, 3), &ids, 0);
    assert_eq!(refusal(&follower(), message(1, 2, 1, body)), Rejected::MalformedEntries);
}

/// Every number of every message at its maximum, to every role: refused for its range, or harmless.
#[test]
fn every_number_at_its_maximum_is_harmless() {
    let far = LogId { term: Term(u64::MAX), index: LogIndex(u64::MAX) };
    let entry = Entry { id: far, payload: EntryPayload::Noop };
    let max = LogIndex(u64::MAX);
    let meta = SnapshotMeta { last: far, membership: Arc::new(membership(3)), membership_id: far };
    let bodies = [
        MessageBody::PreVote(VoteRequest { last: far, transfer: true }),
        MessageBody::Vote(VoteRequest { last: far, transfer: true }),
        MessageBody::Append(Append {
            prev: far,
            entries: vec![entry].into(),
            commit: max,
            read_round: u64::MAX,
        }),
        MessageBody::AppendReply(AppendReply::Accepted { matched: max, read_round: u64::MAX }),
        MessageBody::AppendReply(AppendReply::Rejected { prev: max, hint: far, last: max }),
        MessageBody::Heartbeat { commit: max, read_round: u64::MAX },
        MessageBody::HeartbeatReply { read_round: u64::MAX, last: far },
        MessageBody::InstallSnapshot(meta),
        MessageBody::ReadIndexReply { request: u64::MAX, index: Some(max) },
        MessageBody::Quiesce { last: far, round: u64::MAX },
        MessageBody::RequestSnapshot { at_least: max },
    ];
    for body in bodies {
        for term in [1, Term::MAX.0, u64::MAX] {
            let to_leader = message(2, 1, term, body.clone());
            assert_eq!(refusal(&leader(), to_leader), Rejected::OutOfRange, "{body:?}");
            let to_follower = message(1, 2, term, body.clone());
            assert_eq!(refusal(&follower(), to_follower), Rejected::OutOfRange, "{body:?}");
        }
    }
    for mut node in [leader(), follower(), alone()] {
        let to = node.status().id.0;
        let read = message(3, to, 1, MessageBody::ReadIndex { request: u64::MAX });
        node.step(NOW, ReplicaId(3), read).ok();
        let epoch = Message { epoch: u64::MAX, ..message(3, to, 1, MessageBody::TimeoutNow) };
        assert!(matches!(
            node.step(NOW, ReplicaId(3), epoch),
            Err(Rejected::OldEpoch | Rejected::UnknownSender)
        ));
        drain(&mut node, NOW);
    }
}
