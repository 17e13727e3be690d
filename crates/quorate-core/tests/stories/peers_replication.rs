//! Replication and commitment: entries that were committed without a quorum, lost, replaced, or never arrived.

use proptest::prelude::*;
use quorate_core::{
    Append, AppendReply, LogId, LogIndex, MembershipChange, Message, MessageBody, NodeId, ReplicaId,
    RoleName, Term, VoteRequest,
};

use crate::group::{Group, log};

fn append(prev: LogId, terms: &[u64], commit: u64) -> MessageBody {
    let mut entries = log(terms);
    for (offset, entry) in (1..).zip(&mut entries) {
        entry.id.index = LogIndex(prev.index.0 + offset);
    }
    MessageBody::Append(Append { prev, entries: entries.into(), commit: LogIndex(commit), read_round: 0 })
}

/// A leader of `voters` with ten entries, of which nobody has anything yet.
fn lonely_leader(voters: u64) -> Group {
    let mut group = Group::new(voters);
    group.hold = |message| matches!(message.body, MessageBody::Append(_));
    group.campaign(1);
    assert!(group.node(1).leads());
    for _ in 0..9 {
        group.propose(1);
    }
    group.held.clear();
    group
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// The vector of what followers have lost its order, and the commit index rose without a quorum. After every answer,
    /// in any order, the commit index is what counting gives.
    #[test]
    fn openraft_1802_the_commit_index_is_what_counting_gives(
        voters in 1_u64..=7, answers in prop::collection::vec((2_u64..=7, 0_u64..=10), 0..40),
    ) {
        let mut group = lonely_leader(voters);
        let mut matched = vec![0; usize::try_from(voters).unwrap()];
        matched[0] = 10;
        for (from, index) in answers.into_iter().filter(|(from, _)| *from <= voters) {
            let reply = AppendReply::Accepted { matched: LogIndex(index), read_round: 0 };
            group.say(from, 1, 1, MessageBody::AppendReply(reply));
            let at = usize::try_from(from).unwrap() - 1;
            matched[at] = matched[at].max(index);
            let has = |index: u64| matched.iter().filter(|matched| **matched >= index).count();
            let counted = (0..=10).rev().find(|index| has(*index) * 2 > matched.len()).unwrap();
            prop_assert_eq!(group.core(1).status().commit, LogIndex(counted));
        }
    }
}

/// The wrong median of an even number of voters: half of them committed.
#[test]
fn raft_java_21_half_of_an_even_group_commits_nothing() {
    for voters in [2, 4, 6] {
        let mut group = lonely_leader(voters);
        let reply =
            || MessageBody::AppendReply(AppendReply::Accepted { matched: LogIndex(10), read_round: 0 });
        for other in 2..=voters / 2 {
            group.say(other, 1, 1, reply());
        }
        assert_eq!(group.core(1).status().commit, LogIndex(0), "half of {voters} committed");
        group.say(voters, 1, 1, reply());
        assert_eq!(group.core(1).status().commit, LogIndex(10));
    }
}

/// The acknowledgement of a write of (term 1, index 2) was taken for (term 2, index 2), which was not on the disk yet.
#[test]
fn etcd_1690_the_write_of_an_old_entry_does_not_vouch_for_a_new_one() {
    let mut group = Group::new(3);
    group.isolate(1);
    group.isolate(2);
    group.isolate(3);
    group.heal();
    group.hold = |message| message.from == ReplicaId(2);
    group.node(2).stalled = true;
    let term_one = append(LogId::default(), &[1, 1], 0);
    group.say(1, 2, 1, term_one);
    let now = group.now();
    // Taken by the disk, not done.
    let ready = group.core(2).ready();
    assert!(ready.persist.is_none(), "it was taken by the harness");
    group.say(3, 2, 2, append(LogId::new(1, 1), &[2], 0));
    group.core(2).on_persisted(now, quorate_core::PersistToken(1));
    group.settle();
    let promised = |message: &Message| {
        matches!(message.body, MessageBody::AppendReply(AppendReply::Accepted { matched, .. })
            if matched >= LogIndex(2) && message.term == Term(2))
    };
    assert!(!group.held.iter().any(promised), "it vouches for what it has not written: {:?}", group.held);
    assert!(group.core(2).status().persisted < LogIndex(2));
}

/// A follower believed the leader's commit index beyond what it had been sent: an old tail was committed.
#[test]
fn nuraft_57_a_follower_commits_no_tail_that_the_leader_does_not_have() {
    let mut group = Group::from_logs(&[(1, &[1, 1, 1, 1]), (1, &[1]), (1, &[1])], |_| {});
    group.say(2, 1, 2, append(LogId::new(1, 1), &[], 4));
    assert_eq!(group.core(1).status().commit, LogIndex(1));
    group.say(2, 1, 2, MessageBody::Heartbeat { commit: LogIndex(4), read_round: 0 });
    assert_eq!(group.core(1).status().commit, LogIndex(1));
}

/// A follower acknowledged its whole log instead of what the append had proved.
#[test]
fn nuraft_57_an_acceptance_names_only_what_was_proved() {
    let mut group = Group::from_logs(&[(1, &[1, 1, 1, 1]), (1, &[1]), (1, &[1])], |_| {});
    group.hold = |_| true;
    group.say(2, 1, 2, append(LogId::new(1, 1), &[1], 0));
    let accepted = |message: &Message| {
        let MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) = message.body else {
            return None;
        };
        Some(matched)
    };
    assert_eq!(group.held.iter().find_map(accepted), Some(LogIndex(2)));
}

/// "tocommit is out of range": the follower had lost its tail, and crashed on every heartbeat.
#[test]
fn etcd_10951_a_follower_that_lost_its_tail_is_filled_up() {
    for keep in 0..4 {
        let mut group = Group::new(3);
        group.campaign(1);
        for _ in 0..3 {
            group.propose(1);
        }
        let mut disk = group.node(2).disk.clone();
        disk.entries.truncate(keep);
        disk.hard.commit = LogIndex(keep as u64);
        group.start(2, disk);
        group.run(3_000);
        assert_eq!(group.core(2).status().commit, LogIndex(4), "kept {keep}");
    }
}

/// As above with an empty disk that forgot even its term; dragonboat's version of it.
#[test]
fn dragonboat_393_a_wiped_follower_is_filled_up() {
    let mut group = Group::new(3);
    group.campaign(1);
    let at = group.propose(1);
    let memberships = group.node(3).disk.memberships.clone();
    group.start(3, crate::group::Disk { memberships, ..crate::group::Disk::default() });
    group.run(3_000);
    assert_eq!(group.core(3).status().commit, at.index);
}

/// A leader that stepped down rolled back what it had committed, because of how it acknowledged to the next one.
#[test]
fn ccf_5674_a_deposed_leader_keeps_what_is_committed() {
    let mut group = Group::new(3);
    group.campaign(1);
    let committed = group.propose(1);
    group.isolate(1);
    let now = group.now();
    group.core(1).propose(now, bytes::Bytes::from_static(b"lost")).unwrap();
    group.settle();
    group.run(5_000);
    let leader = group.elect();
    assert_ne!(leader, 1);
    group.heal();
    group.run(2_000);
    assert_eq!(group.core(1).term_at(committed.index), Some(committed.term));
    let last = group.core(leader).status().last;
    assert_eq!(group.core(1).status().last, last);
}

/// The same family: a rejection says how far the logs could agree, and is no acknowledgement of it.
#[test]
fn ccf_6016_a_rejection_acknowledges_nothing() {
    let mut group = lonely_leader(3);
    let hint = LogId::new(1, 9);
    for from in [2, 3] {
        let reply = AppendReply::Rejected { prev: LogIndex(10), hint, last: LogIndex(9) };
        group.say(from, 1, 1, MessageBody::AppendReply(reply));
    }
    assert_eq!(group.core(1).status().commit, LogIndex(0));
    assert!(group.core(1).progress().all(|(_, progress)| progress.matched == LogIndex(0)));
}

/// A node could not roll back far enough, and replication stood still.
#[test]
fn ccf_2189_a_follower_can_go_back_to_its_first_entry() {
    let old: &[u64] = &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
    let new: &[u64] = &[2, 2, 3, 3, 4];
    let mut group = Group::from_logs(&[(5, new), (5, old), (5, new)], |_| {});
    assert_ne!(group.elect(), 2);
    group.run(2_000);
    let leader = group.leader().unwrap();
    let last = group.core(leader).status().last;
    assert_eq!(group.core(2).status().last, last);
    assert_eq!(group.core(2).term_at(LogIndex(1)), Some(Term(2)));
}

/// Entries of an earlier term were committed by counting, and lost (Raft's figure 8). All orders of it are in
/// the exploration: `the_old_entry_of_figure_8`.
#[test]
fn logcabin_44_an_entry_of_an_old_term_is_not_committed_by_counting() {
    let mut group = Group::from_logs(&[(2, &[1, 2]), (1, &[1]), (1, &[1])], |_| {});
    group.hold = |message| matches!(message.body, MessageBody::Append(_));
    group.campaign(1);
    let term = group.core(1).status().term.0;
    assert!(group.node(1).leads() && term == 3);
    let has = |index| AppendReply::Accepted { matched: LogIndex(index), read_round: 0 };
    for from in [2, 3] {
        group.say(from, 1, term, MessageBody::AppendReply(has(2)));
    }
    assert_eq!(group.core(1).status().commit, LogIndex(0), "2@t2 is everywhere, and not committed by that");
    group.say(2, 1, term, MessageBody::AppendReply(has(3)));
    assert_eq!(group.core(1).status().commit, LogIndex(3));
}

/// MongoDB's version of it: the commit index of a sync source of an older term.
#[test]
fn mongodb_2016_a_commit_index_of_an_older_term_is_not_believed() {
    let mut group = Group::from_logs(&[(3, &[1, 2]), (3, &[1]), (3, &[1])], |_| {});
    group.say(2, 1, 2, MessageBody::Heartbeat { commit: LogIndex(2), read_round: 0 });
    group.say(2, 1, 2, append(LogId::new(2, 2), &[], 2));
    assert_eq!(group.core(1).status().commit, LogIndex(0));
}

/// The leader could not read its log, sent entries that followed nothing, and the follower's log was destroyed.
#[test]
fn openraft_1795_a_failed_read_of_the_log_sends_nothing_malformed() {
    let mut group = Group::with(3, |config| config.window_bytes_max = 1);
    group.campaign(1);
    group.isolate(3);
    for _ in 0..5 {
        group.propose(1);
    }
    let kept = std::mem::take(&mut group.node(1).disk.entries);
    group.heal();
    group.run(800);
    let status = group.core(3).status();
    assert!(status.last.index <= LogIndex(1), "{status:?}");
    assert!(group.node(3).refused.is_empty(), "{:?}", group.node(3).refused);
    // The disk can be read again, and all is well.
    group.node(1).disk.entries = kept;
    group.run(3_000);
    let last = group.core(1).status().last;
    assert_eq!(group.core(3).status().last, last);
}

/// `maybeAppend` sliced out of range. Here such an append is refused before anybody looks at it.
#[test]
fn etcd_ada_22_02_entries_that_overlap_the_log_in_any_way() {
    for prev in 0..5 {
        for terms in [&[][..], &[1], &[1, 1], &[1, 1, 1, 1, 1, 1]] {
            let mut group = Group::from_logs(&[(1, &[1, 1, 1]), (1, &[])], |_| {});
            let prev = LogId::new(u64::from(prev > 0), prev);
            group.say(2, 1, 1, append(prev, terms, 9));
            let status = group.core(1).status();
            assert!(status.last.index >= LogIndex(3) && status.commit <= status.last.index);
        }
    }
}

/// A follower that was paused stayed so after the leader had compacted its log.
#[test]
fn etcd_raft_31_a_slow_follower_is_fed_after_a_compaction() {
    let mut group = Group::with(3, |config| config.inflight_messages_max = 1);
    group.campaign(1);
    group.isolate(3);
    for _ in 0..5 {
        group.propose(1);
    }
    group.node(1).compact();
    group.node(2).compact();
    group.heal();
    group.run(3_000);
    let last = group.core(1).status().last;
    assert_eq!(group.core(3).status().last, last);
}

/// Messages were lost while the window was full: replication stood still.
#[test]
fn etcd_replicate_pause_a_full_window_that_was_lost_is_sent_again() {
    let mut group = Group::with(3, |config| config.inflight_messages_max = 2);
    group.campaign(1);
    group.hold = |message| message.to == ReplicaId(3) && matches!(message.body, MessageBody::Append(_));
    for _ in 0..6 {
        group.propose(1);
    }
    group.held.clear();
    group.hold = |_| false;
    group.run(3_000);
    let last = group.core(1).status().last;
    assert_eq!(group.core(3).status().commit, last.index);
}

/// The next index fell below what was known to match, after answers had overtaken each other.
#[test]
fn etcd_raft_149_the_next_index_stays_above_what_matched() {
    let mut group = lonely_leader(3);
    let accepted = |matched| {
        MessageBody::AppendReply(AppendReply::Accepted { matched: LogIndex(matched), read_round: 0 })
    };
    let rejected = |prev, hint| {
        let hint = LogId::new(u64::from(hint > 0), hint);
        MessageBody::AppendReply(AppendReply::Rejected { prev: LogIndex(prev), hint, last: hint.index })
    };
    for body in [
        accepted(5),
        rejected(3, 2),
        accepted(4),
        rejected(5, 0),
        accepted(0),
        rejected(10, 9),
        accepted(10),
        rejected(9, 0),
        accepted(7),
    ] {
        group.say(2, 1, 1, body);
        for (_, progress) in group.core(1).progress() {
            assert!(progress.next > progress.matched, "{progress:?}");
        }
    }
}

/// Replication to a member was started anew and told of older progress than before.
#[test]
fn openraft_584_a_member_that_comes_again_starts_from_nothing() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.propose(1);
    let learner = || MembershipChange::AddLearner {
        node: NodeId(9),
        peer_address: String::new(),
        client_address: String::new(),
    };
    for id in [4, 5, 6] {
        let now = group.now();
        let (_, added) = group.core(1).propose_membership(now, learner(), None).unwrap();
        group.settle();
        assert_eq!(added, ReplicaId(id));
        let progress = group.core(1).progress().find(|(other, _)| *other == added).unwrap().1;
        assert_eq!(progress.matched, LogIndex(0));
        // An answer of the one before it changes nothing.
        let last = group.core(1).status().last.index;
        let reply = AppendReply::Accepted { matched: last, read_round: 0 };
        group.say(id - 1, 1, 1, MessageBody::AppendReply(reply));
        let progress = group.core(1).progress().find(|(other, _)| *other == added).unwrap().1;
        assert_eq!(progress.matched, LogIndex(0));
        let now = group.now();
        group.core(1).propose_membership(now, MembershipChange::Remove(added), None).unwrap();
        group.settle();
    }
}

/// Every change of leaders lost data. Ten times: write, lose the leader, and look.
#[test]
fn redisraft_14_changes_of_leaders_lose_nothing() {
    let mut group = Group::new(3);
    let mut written = Vec::new();
    for _ in 0..10 {
        let leader = group.elect();
        written.push(group.propose(leader));
        group.restart(leader);
    }
    let leader = group.elect();
    group.run(1_000);
    for at in written {
        assert_eq!(group.core(leader).term_at(at.index), Some(at.term), "{at} is lost");
    }
}

/// A replica in the vote phase rolled its log back.
#[test]
fn nebula_1303_voting_never_shortens_a_log() {
    let logs: [(u64, &[u64]); 3] = [(2, &[1, 1, 2]), (2, &[1]), (2, &[])];
    let mut group = Group::from_logs(&logs, |_| {});
    group.hold = |message| matches!(message.body, MessageBody::Append(_));
    let last = LogId::new(5, 9);
    for (from, term) in [(2, 6), (3, 7), (2, 8)] {
        group.say(from, 1, term, MessageBody::PreVote(VoteRequest { last, transfer: false }));
        group.say(from, 1, term, MessageBody::Vote(VoteRequest { last, transfer: false }));
        assert_eq!(group.core(1).status().last, LogId::new(2, 3));
    }
}

/// A second partition while the first was being repaired lost updates.
#[test]
fn elasticsearch_2014_a_second_partition_during_the_repair_loses_nothing() {
    let mut group = Group::new(5);
    let first = group.elect();
    let a = group.propose(first);
    group.isolate(first);
    group.run(4_000);
    let second = group.elect();
    let b = group.propose(second);
    group.heal();
    group.isolate(second);
    group.run(5_000);
    let third = group.elect();
    let c = group.propose(third);
    group.heal();
    group.run(3_000);
    for id in 1..=5 {
        for at in [a, b, c] {
            assert_eq!(group.core(id).term_at(at.index), Some(at.term), "{at} at {id}");
        }
    }
}

/// An acknowledgement of before the follower's log went back was believed.
#[test]
fn openraft_cecb5de8_a_stale_acknowledgement_is_corrected() {
    let mut group = Group::new(3);
    group.campaign(1);
    for _ in 0..3 {
        group.propose(1);
    }
    let mut disk = group.node(2).disk.clone();
    disk.entries.truncate(1);
    disk.hard.commit = LogIndex(1);
    group.start(2, disk);
    // What it said before the crash arrives now.
    let reply = AppendReply::Accepted { matched: LogIndex(4), read_round: 0 };
    group.say(2, 1, 1, MessageBody::AppendReply(reply));
    group.run(3_000);
    assert_eq!(group.core(2).status().last.index, LogIndex(4));
    let progress = group.core(1).progress().find(|(id, _)| *id == ReplicaId(2)).unwrap().1;
    assert_eq!(progress.matched, LogIndex(4));
}

/// Completions of log writes came out of order and a later one made an earlier one seem done. Here a token stands for all
/// before it, and an earlier one after it is nothing new.
#[test]
fn openraft_2af491fb_an_earlier_completion_takes_nothing_back() {
    let mut group = Group::new(1);
    group.campaign(1);
    let at = group.propose(1);
    let now = group.now();
    group.core(1).on_persisted(now, quorate_core::PersistToken(1));
    group.settle();
    assert_eq!(group.core(1).status().persisted, at.index);
    group.propose(1);
}

/// A follower behind a log that is purged entirely was never served.
#[test]
fn openraft_afd6508b_a_follower_behind_a_purged_log_gets_a_snapshot() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.isolate(3);
    group.propose(1);
    for id in [1, 2] {
        group.node(id).compact();
        assert!(group.node(id).disk.entries.is_empty());
    }
    group.heal();
    group.run(3_000);
    let status = group.core(3).status();
    assert_eq!((status.last, status.commit), (LogId::new(1, 2), LogIndex(2)));
}

/// The leader's own write failed after it had sent the entries; it appended others in their place in the same term.
/// Here nothing is given back in a term: a replica whose disk fails stops, and comes back as a follower.
#[test]
fn canonical_320_an_index_is_used_once_in_a_term() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.node(1).stalled = true;
    let sent = group.propose(1);
    assert_eq!(group.core(3).status().last, sent);
    group.restart(1);
    let status = group.core(1).status();
    assert_eq!((status.role, status.term), (RoleName::Follower, Term(1)));
    assert!(status.last < sent);
    let leader = group.elect();
    let next = group.propose(leader);
    assert!(next.term > sent.term);
    group.run(1_000);
    assert_eq!(group.core(1).term_at(sent.index), Some(sent.term), "it was committed by the others");
}

/// A quorum was counted before the leader's own copy, or a follower's, was durable.
#[test]
fn d_engine_329_what_is_not_durable_counts_for_nothing() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.cut(1, 3);
    group.node(1).stalled = true;
    let at = group.propose(1);
    assert!(group.core(1).status().commit < at.index, "two copies, one of them not durable");
    group.node(1).stalled = false;
    group.settle();
    assert!(group.core(1).status().commit >= at.index);
    group.node(2).stalled = true;
    let at = group.propose(1);
    assert!(group.core(1).status().commit < at.index, "the follower promised what it had not written");
}

/// Even a group of one: nothing is applied before its own disk has it.
#[test]
fn etcd_14370_a_group_of_one_waits_for_its_disk() {
    let mut group = Group::new(1);
    group.campaign(1);
    group.node(1).stalled = true;
    let at = group.propose(1);
    assert!(!group.node(1).applied.contains(&at));
    group.node(1).stalled = false;
    group.settle();
    assert!(group.node(1).applied.contains(&at));
}

/// Heartbeats were handled beside appends and votes by another thread: logs and states diverged. Here a heartbeat is a
/// message like any other; one that overtakes its append commits nothing.
#[test]
fn hashicorp_695_a_heartbeat_that_overtakes_an_append_commits_nothing() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.hold = |message| message.to == ReplicaId(3) && matches!(message.body, MessageBody::Append(_));
    let at = group.propose(1);
    group.say(1, 3, 1, MessageBody::Heartbeat { commit: at.index, read_round: 0 });
    assert!(group.core(3).status().commit < at.index);
}

/// Entries in flight to one follower grew until the memory was full.
#[test]
fn cockroach_90314_what_is_in_flight_is_bounded_in_bytes() {
    let mut group = Group::with(3, |config| {
        config.inflight_bytes_max = 1_000;
        config.append_bytes_max = 500;
    });
    group.campaign(1);
    group.run(300);
    group.hold = |message| message.to == ReplicaId(3) && matches!(message.body, MessageBody::Append(_));
    for _ in 0..50 {
        let now = group.now();
        group.core(1).propose(now, bytes::Bytes::from(vec![0; 100])).unwrap();
        group.settle();
    }
    let bytes_of = |message: &Message| {
        let MessageBody::Append(append) = &message.body else { return 0 };
        append.entries.len() * 117
    };
    let bytes: usize = group.held.iter().map(bytes_of).sum();
    assert!(bytes < 2_000, "{bytes} bytes are on their way to one follower");
}
