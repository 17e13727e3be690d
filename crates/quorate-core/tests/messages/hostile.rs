//! Messages that bring other implementations down, and anything else a peer could say: refused with
//! a reason, without a panic, and without a trace in the replica.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_core::{
    Append, AppendReply, Config, Entry, EntryPayload, LogId, LogIndex, Membership, Message, MessageBody,
    MonoTime, RaftEvent, RawNode, Rejected, ReplicaId, Restored, SnapshotMeta, SnapshotRequestError, Term,
    VoteRequest, decode_membership,
};

use crate::group::{drain, fresh, group, membership, membership_bytes};
use crate::strategies::any_message;

pub(crate) const NOW: MonoTime = MonoTime::from_millis(20);

pub(crate) fn message(from: u64, to: u64, term: u64, body: MessageBody) -> Message {
    Message { from: ReplicaId(from), to: ReplicaId(to), term: Term(term), epoch: 0, body }
}

/// Steps `message` into a copy of `node`: the reason, if the copy is otherwise the same as before.
pub(crate) fn refusal(node: &RawNode, message: Message) -> Rejected {
    let (mut before, mut after) = (node.clone(), node.clone());
    before.tick(NOW);
    drain(&mut before, NOW);
    let from = message.from;
    let reason = after.step(NOW, from, message).unwrap_err();
    drain(&mut after, NOW);
    assert!(before == after, "refused ({reason:?}), but something changed:\n{before:#?}\n{after:#?}");
    reason
}

pub(crate) fn leader() -> RawNode {
    group().remove(&ReplicaId(1)).unwrap()
}

pub(crate) fn follower() -> RawNode {
    group().remove(&ReplicaId(2)).unwrap()
}

pub(crate) fn append(prev: LogId, ids: &[(u64, u64)], commit: u64) -> MessageBody {
    let entry = |(term, index): &(u64, u64)| Entry {
        id: LogId::new(*term, *index),
        payload: EntryPayload::Command(Bytes::from_static(b"evil")),
    };
    let entries = ids.iter().map(entry).collect();
    MessageBody::Append(Append { prev, entries, commit: LogIndex(commit), read_round: 0 })
}

#[test]
fn a_heartbeat_commits_only_what_is_known_to_match() {
    // etcd and raft-rs panic: "tocommit(99) is out of range".
    let mut node = follower();
    node.step(
        NOW,
        ReplicaId(1),
        message(1, 2, 1, MessageBody::Heartbeat { commit: LogIndex(99), read_round: 0 }),
    )
    .unwrap();
    drain(&mut node, NOW);
    assert_eq!(node.status().commit, LogIndex(3));
}

/// The tail of 2 is of an old leader. The new leader's append ends before it, and its commit index is
/// beyond: only what the append proves to match is committed (NuRaft 57).
#[test]
fn an_append_commits_only_what_it_proves() {
    let mut node = fresh(2, membership(3));
    let old = append(LogId::default(), &[(1, 1), (1, 2), (1, 3), (1, 4)], 1);
    node.step(NOW, ReplicaId(1), message(1, 2, 1, old)).unwrap();
    drain(&mut node, NOW);
    node.step(NOW, ReplicaId(3), message(3, 2, 2, append(LogId::new(1, 2), &[], 4))).unwrap();
    drain(&mut node, NOW);
    assert_eq!((node.status().commit, node.status().last), (LogIndex(2), LogId::new(1, 4)));
}

#[test]
fn answers_to_rounds_that_never_began_are_refused() {
    // etcd panics on read contexts it did not make.
    let reply = |round| MessageBody::HeartbeatReply { read_round: round, last: LogId::new(1, 3) };
    assert_eq!(refusal(&leader(), message(2, 1, 1, reply(u64::MAX))), Rejected::Unexpected);
    let reply = AppendReply::Accepted { matched: LogIndex(3), read_round: 7 };
    assert_eq!(refusal(&leader(), message(2, 1, 1, MessageBody::AppendReply(reply))), Rejected::Unexpected);
}

#[test]
fn a_snapshot_with_members_that_cannot_be_is_refused() {
    // Both panic on a snapshot without voters.
    let meta =
        SnapshotMeta { last: LogId::new(1, 9), membership: Arc::default(), membership_id: LogId::default() };
    let body = MessageBody::InstallSnapshot(meta);
    assert_eq!(refusal(&follower(), message(1, 2, 1, body)), Rejected::InvalidMembership);
}

#[test]
fn an_entry_with_members_that_cannot_be_is_refused() {
    let joint = |joint, roles: &[u8]| decode_membership(&membership_bytes(joint, roles)).unwrap();
    let cannot_be = [
        Membership::default(),
        // Nobody on the old side, nobody on the new one, one that leaves and has not voted or is no voter.
        joint(0x80, &[0x01, 0x01, 0x01]),
        joint(0x80, &[0xc1, 0xc1, 0x82]),
        joint(0x40, &[0x81, 0x41, 0x01]),
        joint(0x40, &[0x81, 0xc2, 0x01]),
        // A majority of witnesses, now or on the old side.
        joint(0, &[0x04, 0x01, 0x04]),
        joint(0x80, &[0x01, 0x01, 0x01, 0xc4]),
    ];
    for membership in cannot_be {
        let payload = EntryPayload::Membership(Arc::new(membership));
        let entries = vec![Entry { id: LogId::new(1, 4), payload }];
        let append =
            Append { prev: LogId::new(1, 3), entries: entries.into(), commit: LogIndex(0), read_round: 0 };
        assert_eq!(
            refusal(&follower(), message(1, 2, 1, MessageBody::Append(append))),
            Rejected::InvalidMembership
        );
    }
}

/// Replica 2 of three, a witness.
fn witness() -> RawNode {
    let members = decode_membership(&membership_bytes(0, &[0x01, 0x04, 0x01])).unwrap();
    let memberships = vec![(LogId::default(), Arc::new(members))];
    let restored = Restored { memberships, ..Restored::default() };
    RawNode::new(Config::witness(ReplicaId(2)), restored, MonoTime(0)).unwrap()
}

/// A hole in the log of a replica that keeps data could become a hole in everybody's.
#[test]
fn only_a_witness_takes_entries_without_their_commands() {
    let entries = vec![Entry { id: LogId::new(1, 4), payload: EntryPayload::Withheld }];
    let withheld =
        Append { prev: LogId::new(1, 3), entries: entries.into(), commit: LogIndex(0), read_round: 0 };
    let body = MessageBody::Append(withheld);
    assert_eq!(refusal(&follower(), message(1, 2, 1, body)), Rejected::MalformedEntries);

    let asked = witness().request_snapshot(NOW);
    assert_eq!(asked, Err(SnapshotRequestError::Witness));
    // And it takes no others: who sends them takes it for somebody else.
    let body = append(LogId::default(), &[(1, 1)], 0);
    assert_eq!(refusal(&witness(), message(1, 2, 1, body)), Rejected::MalformedEntries);
}

#[test]
fn nobody_is_made_a_witness_or_a_witness_somebody_else() {
    let witness_2 = Arc::new(decode_membership(&membership_bytes(0, &[0x01, 0x04, 0x01])).unwrap());
    let entries =
        vec![Entry { id: LogId::new(1, 4), payload: EntryPayload::Membership(Arc::clone(&witness_2)) }];
    let append =
        Append { prev: LogId::new(1, 3), entries: entries.into(), commit: LogIndex(0), read_round: 0 };
    let body = MessageBody::Append(append);
    assert_eq!(refusal(&follower(), message(1, 2, 1, body)), Rejected::InvalidMembership);

    let meta = SnapshotMeta {
        last: LogId::new(1, 9),
        membership: Arc::new(membership(3)),
        membership_id: LogId::new(1, 2),
    };
    let body = MessageBody::InstallSnapshot(meta);
    assert_eq!(refusal(&witness(), message(1, 2, 1, body)), Rejected::InvalidMembership);
}

#[test]
fn a_snapshot_that_contradicts_commits_is_refused() {
    let meta = SnapshotMeta {
        last: LogId::new(2, 2),
        membership: Arc::new(membership(3)),
        membership_id: LogId::default(),
    };
    let body = MessageBody::InstallSnapshot(meta);
    assert_eq!(refusal(&follower(), message(1, 2, 2, body)), Rejected::ContradictsCommitted);
}

#[test]
fn an_append_that_replaces_committed_entries_is_refused() {
    // Both panic: "entry 2 conflict with committed entry".
    let body = append(LogId::new(1, 1), &[(2, 2)], 0);
    assert_eq!(refusal(&follower(), message(1, 2, 2, body)), Rejected::ContradictsCommitted);
    let body = append(LogId::new(2, 3), &[], 0);
    assert_eq!(refusal(&follower(), message(1, 2, 2, body)), Rejected::ContradictsCommitted);
}

#[test]
fn entries_with_gaps_or_wrong_terms_are_refused() {
    // etcd accepts the first two and panics later.
    let prev = LogId::new(1, 3);
    let malformed: [Vec<(u64, u64)>; 6] =
        [vec![(1, 4), (1, 6)], vec![(1, 9)], vec![(1, 3)], vec![(0, 4)], vec![(2, 4)], vec![(1, 4), (0, 5)]];
    for ids in malformed {
        let body = append(prev, &ids, 0);
        assert_eq!(refusal(&follower(), message(1, 2, 1, body)), Rejected::MalformedEntries, "{ids:?}");
    }
}

#[test]
fn a_prev_of_term_zero_beyond_the_log_does_not_match() {
    // raft-rs takes the missing term for 0 and panics.
    let mut node = follower();
    node.step(NOW, ReplicaId(1), message(1, 2, 1, append(LogId::new(0, 9), &[], 9))).unwrap();
    let said = drain(&mut node, NOW);
    assert!(
        matches!(&said[..], [Message { body: MessageBody::AppendReply(AppendReply::Rejected { .. }), .. }]),
        "{said:?}"
    );
    assert_eq!(node.status().commit, LogIndex(3));
}

#[test]
fn an_acceptance_of_what_was_never_sent_is_refused() {
    // etcd panics on the next proposal: "need non-empty snapshot".
    let reply = AppendReply::Accepted { matched: LogIndex(99), read_round: 0 };
    assert_eq!(refusal(&leader(), message(2, 1, 1, MessageBody::AppendReply(reply))), Rejected::Unexpected);
    let reply = AppendReply::Rejected { prev: LogIndex(99), hint: LogId::new(1, 98), last: LogIndex(98) };
    assert_eq!(refusal(&leader(), message(2, 1, 1, MessageBody::AppendReply(reply))), Rejected::Unexpected);
}

/// An append was refused before what it was to follow was acknowledged, and the refusal arrives late: nothing is lost.
/// Who refuses what it acknowledged has lost it.
#[test]
fn a_refusal_of_an_earlier_append_is_no_lost_log() {
    let refuses =
        |prev| AppendReply::Rejected { prev: LogIndex(prev), hint: LogId::new(1, 1), last: LogIndex(1) };
    let mut node = leader();
    let matched = |node: &RawNode| {
        node.progress().find(|(id, _)| *id == ReplicaId(2)).map(|(_, progress)| progress.matched)
    };
    for (prev, left) in [(1, 3), (2, 3), (3, 0)] {
        node.step(NOW, ReplicaId(2), message(2, 1, 1, MessageBody::AppendReply(refuses(prev)))).unwrap();
        let lost = |event: &RaftEvent| matches!(event, RaftEvent::FollowerLostLog { .. });
        assert_eq!(node.ready().events.iter().any(lost), left == 0, "{prev}");
        assert_eq!(matched(&node), Some(LogIndex(left)), "{prev}");
    }
}

/// The refusal of a probe comes a second time, when the log has been repaired half way: no append that is out
/// begins there.
#[test]
fn a_refusal_of_what_is_not_out_is_no_lost_log() {
    let mut node = leader();
    for command in [b"4", b"5"] {
        node.propose(NOW, Bytes::from_static(command)).unwrap();
    }
    drain(&mut node, NOW);
    let refuses =
        |prev| AppendReply::Rejected { prev: LogIndex(prev), hint: LogId::new(1, 1), last: LogIndex(1) };
    let lost = |event: &RaftEvent| matches!(event, RaftEvent::FollowerLostLog { .. });
    for (prev, is_lost) in [(4, false), (3, true)] {
        node.step(NOW, ReplicaId(2), message(2, 1, 1, MessageBody::AppendReply(refuses(prev)))).unwrap();
        assert_eq!(node.ready().events.iter().any(lost), is_lost, "{prev}");
    }
}

#[test]
fn the_last_term_there_is_cannot_be_reached() {
    // Both wrap to term 0 at the next campaign and panic.
    let request = VoteRequest { last: LogId::new(1, 9), transfer: true };
    for term in [u64::MAX, u64::MAX / 2 + 1, 0] {
        let body = MessageBody::Vote(request);
        assert_eq!(refusal(&follower(), message(3, 2, term, body)), Rejected::OutOfRange);
    }
    let mut node = follower();
    node.step(NOW, ReplicaId(3), message(3, 2, u64::MAX / 2, MessageBody::Vote(request))).unwrap();
    drain(&mut node, NOW);
    node.campaign(NOW);
    drain(&mut node, NOW);
    assert_eq!(node.status().term, Term::MAX);
}

#[test]
fn indexes_that_cannot_be_reached_are_refused() {
    let far = LogId { term: Term(1), index: LogIndex(u64::MAX) };
    let bodies = [
        append(far, &[], 0),
        append(LogId::new(1, 3), &[], u64::MAX),
        MessageBody::Heartbeat { commit: LogIndex(u64::MAX), read_round: 0 },
        MessageBody::PreVote(VoteRequest { last: far, transfer: false }),
        MessageBody::ReadIndexReply { request: 1, index: Some(LogIndex(u64::MAX)) },
    ];
    for body in bodies {
        assert_eq!(refusal(&follower(), message(1, 2, 1, body)), Rejected::OutOfRange);
    }
}

#[test]
fn only_the_leader_of_the_term_may_start_an_election_elsewhere() {
    // Both obey TimeoutNow from anybody.
    assert_eq!(refusal(&follower(), message(3, 2, 1, MessageBody::TimeoutNow)), Rejected::NotFromLeader);
    assert_eq!(refusal(&leader(), message(3, 1, 1, MessageBody::TimeoutNow)), Rejected::NotFromLeader);
}

#[test]
fn nobody_is_who_he_says_he_is() {
    let heartbeat = || MessageBody::Heartbeat { commit: LogIndex(0), read_round: 0 };
    assert_eq!(refusal(&follower(), message(1, 3, 1, heartbeat())), Rejected::WrongReceiver);
    assert_eq!(refusal(&follower(), message(2, 2, 1, heartbeat())), Rejected::ForgedSender);
    let mut node = follower();
    assert_eq!(node.step(NOW, ReplicaId(3), message(1, 2, 1, heartbeat())), Err(Rejected::ForgedSender));
    assert_eq!(refusal(&follower(), message(3, 2, 1, heartbeat())), Rejected::TwoLeaders);
    assert_eq!(refusal(&leader(), message(3, 1, 1, heartbeat())), Rejected::TwoLeaders);
    let reply = MessageBody::VoteReply { granted: true };
    assert_eq!(refusal(&leader(), message(9, 1, 1, reply)), Rejected::UnknownSender);
}

#[test]
fn a_stranger_with_a_later_term_does_not_depose_the_leader() {
    // A replica that was removed while it was away, or one that never was a member.
    let last = LogId::new(1, 3);
    let reply = MessageBody::HeartbeatReply { read_round: 0, last };
    assert_eq!(refusal(&leader(), message(9, 1, 7, reply)), Rejected::UnknownSender);
    let mut node = leader();
    let vote = MessageBody::Vote(VoteRequest { last: LogId::new(6, 9), transfer: true });
    node.step(NOW, ReplicaId(9), message(9, 1, 7, vote)).unwrap();
    drain(&mut node, NOW);
    assert_eq!((node.status().term, node.status().leader), (Term(1), Some(ReplicaId(1))));
}

#[test]
fn another_recovery_epoch_is_another_group() {
    let heartbeat = MessageBody::Heartbeat { commit: LogIndex(0), read_round: 0 };
    let later = Message { epoch: 1, ..message(1, 2, 1, heartbeat) };
    assert_eq!(refusal(&follower(), later), Rejected::OldEpoch);
}

/// A replica that has just joined knows no epoch yet and takes that of its leader, from nobody else:
/// any other sender could make it deaf to its own group.
#[test]
fn a_joining_replica_learns_the_epoch_from_its_leader_only() {
    let mut node = fresh(4, Membership::default());
    let heartbeat = || MessageBody::Heartbeat { commit: LogIndex(0), read_round: 0 };
    node.step(NOW, ReplicaId(1), Message { epoch: 2, ..message(1, 4, 1, heartbeat()) }).unwrap();
    drain(&mut node, NOW);
    let stranger = Message { epoch: 9, ..message(3, 4, 1, MessageBody::TimeoutNow) };
    assert_eq!(refusal(&node, stranger), Rejected::NotFromLeader);
    node.step(NOW, ReplicaId(1), Message { epoch: 2, ..message(1, 4, 1, heartbeat()) }).unwrap();
    assert!(drain(&mut node, NOW).iter().all(|answer| answer.epoch == 2));
}

#[test]
fn a_read_answer_to_nothing_is_refused() {
    let reply = MessageBody::ReadIndexReply { request: 1, index: Some(LogIndex(3)) };
    assert_eq!(refusal(&follower(), message(1, 2, 1, reply.clone())), Rejected::Unexpected);
    assert_eq!(refusal(&follower(), message(3, 2, 1, reply.clone())), Rejected::NotFromLeader);
    assert_eq!(refusal(&leader(), message(2, 1, 1, reply)), Rejected::Unexpected);
}

/// One of every role, and a replica that has just joined.
fn roles() -> Vec<RawNode> {
    let candidate = {
        let mut node = fresh(1, membership(3));
        node.campaign(NOW);
        drain(&mut node, NOW);
        node
    };
    let later = MonoTime::from_millis(5_000);
    let mut pre_candidate = follower();
    pre_candidate.tick(later);
    drain(&mut pre_candidate, later);
    vec![leader(), follower(), candidate, pre_candidate, fresh(4, Membership::default())]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever arrives, in whatever order: no panic; and what is refused in the current term
    /// changes nothing.
    #[test]
    fn anything_may_arrive(messages in prop::collection::vec(any_message(), 1..12), role in 0_usize..5) {
        let mut node = roles().swap_remove(role);
        let now = MonoTime::from_millis(5_100);
        node.tick(now);
        drain(&mut node, now);
        let own = node.status().id;
        for message in messages {
            let message = Message { to: own, ..message };
            let before = node.clone();
            let (from, term) = (message.from, message.term);
            let outcome = node.step(now, from, message);
            drain(&mut node, now);
            if let Err(reason) = outcome
                && (term <= before.status().term || term > Term::MAX)
                && reason != Rejected::Busy
            {
                prop_assert!(before == node, "refused ({:?}), but something changed", reason);
            }
            let status = node.status();
            prop_assert!(status.applied <= status.commit && status.commit <= status.last.index);
        }
        node.campaign(now);
        drain(&mut node, now);
    }
}
