//! Elections and liveness: groups of others that had no leader for ever, or one too many.

use quorate_core::{
    LogId, LogIndex, MembershipChange, MembershipTransition, MessageBody, ReplicaId, RoleName, Term,
    VoteRequest,
};

use crate::group::{Disk, Group};

/// Runs for a minute and insists on one leader all the time at the end, with progress.
fn is_stable(group: &mut Group) -> u64 {
    let leader = group.elect();
    group.run(20_000);
    let leader = if group.node(leader).leads() { leader } else { group.elect() };
    let term = group.core(leader).status().term;
    group.run(30_000);
    let at = group.propose(leader);
    assert!(group.node(leader).leads(), "the leader changed: {}", group.lines());
    assert_eq!(group.core(leader).status().term, term, "terms keep rising: {}", group.lines());
    assert!(group.core(leader).status().commit >= at.index, "nothing is committed: {}", group.lines());
    leader
}

/// 2020-11-02: a switch failed in part. Replica 1 could not hear the leader, 2 could; elections without end, the
/// control plane was down for six hours.
#[test]
fn cloudflare_2020_one_link_of_three_is_down_and_somebody_leads() {
    for (a, b) in [(1, 2), (1, 3), (2, 3)] {
        let mut group = Group::new(3);
        group.elect();
        group.cut(a, b);
        is_stable(&mut group);
        group.heal();
        // Also when the link fails in one direction only.
        group.cut_one_way(b, a);
        is_stable(&mut group);
    }
}

/// Five servers of which 4 hears only 2, and 5 only 3: plain Raft never has a stable leader.
#[test]
fn full_omission_2020_five_replicas_with_two_that_hear_one_each() {
    let mut group = Group::new(5);
    for (a, b) in [(4, 1), (4, 3), (4, 5), (5, 1), (5, 2)] {
        group.cut(a, b);
    }
    is_stable(&mut group);
}

/// Every graph of links between three replicas in which one has a majority.
#[test]
fn every_partition_of_three_with_a_connected_majority_has_a_leader() {
    let links = [(1, 2), (1, 3), (2, 3)];
    for up in 1..8_u32 {
        let mut group = Group::new(3);
        for (bit, (a, b)) in (0..).zip(links) {
            if up & (1 << bit) == 0 {
                group.cut(a, b);
            }
        }
        is_stable(&mut group);
    }
}

/// With PreVote a replica with a smaller term was ignored in silence: it never learned the later term, and nobody
/// could win.
#[test]
fn etcd_8243_a_smaller_term_in_a_pre_vote_is_answered() {
    let mut group = Group::from_logs(&[(2, &[1, 1, 2]), (5, &[1])], |_| {});
    assert_eq!(group.elect(), 1);
    let logs: [(u64, &[u64]); 3] = [(2, &[1, 1, 2]), (5, &[1]), (9, &[])];
    assert_eq!(Group::from_logs(&logs, |_| {}).elect(), 1);
}

/// PreVote was switched on one by one: the one with the later term has the shorter log, the one with the longer log an
/// older term.
#[test]
fn etcd_8501_pre_vote_is_switched_on_one_by_one() {
    for with_pre_vote in 0..8_u64 {
        let logs: [(u64, &[u64]); 3] = [(2, &[1, 1, 2]), (7, &[1]), (7, &[1, 1])];
        let mut group =
            Group::from_logs(&logs, |config| config.pre_vote = with_pre_vote & (1 << (config.id.0 - 1)) != 0);
        group.node(3).down = true;
        assert_eq!(group.elect(), 1, "with pre-vote at {with_pre_vote:b}");
    }
}

/// A pre-candidate kept believing in its leader and refused everybody else: two of them refused each other for ever.
#[test]
fn etcd_9586_pre_candidates_grant_each_other() {
    let mut group = Group::new(3);
    let leader = group.elect();
    group.node(leader).down = true;
    group.elect();
}

/// As above, seen from raft-rs: a pre-candidate has no leader.
#[test]
fn raft_rs_0_3_1_a_pre_candidate_has_no_leader() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.isolate(2);
    group.campaign(2);
    assert_eq!((group.core(2).status().role, group.core(2).status().leader), (RoleName::PreCandidate, None));
}

/// Six voters: three have the longest log in an old term, three a later term and a shorter log. They asked each other
/// for pre-votes for ever.
#[test]
fn openraft_1796_six_voters_in_two_camps_elect_somebody() {
    let long: (u64, &[u64]) = (2, &[1, 1, 2, 2]);
    let late: (u64, &[u64]) = (6, &[1, 1]);
    let mut group = Group::from_logs(&[long, long, long, late, late, late], |_| {});
    assert!(group.elect() <= 3, "only a long log may win");
}

/// One of three is down and the leader steps down: its own pre-vote was refused because the other one still believed
/// in it.
#[test]
fn hashicorp_605_two_of_three_elect_after_their_leader_stepped_down() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let dead = if leader == 3 { 2 } else { 3 };
    group.node(dead).down = true;
    let now = group.now();
    group.core(leader).forget_leader(now);
    group.settle();
    assert_eq!(group.leader(), None);
    group.elect();
}

/// Answers to a pre-vote were counted as votes: a candidate led without any.
#[test]
fn canonical_196_a_grant_of_a_pre_vote_is_no_vote() {
    let mut group = Group::new(3);
    group.hold = |message| matches!(message.body, MessageBody::Vote(_));
    group.campaign(1);
    assert_eq!(group.core(1).status().role, RoleName::Candidate);
    group.say(2, 1, 1, MessageBody::PreVoteReply { granted: true });
    group.say(3, 1, 1, MessageBody::PreVoteReply { granted: true });
    assert_eq!(group.core(1).status().role, RoleName::Candidate);
    // And asking costs no vote: the vote of the term is still there for somebody else.
    assert_eq!(group.core(2).status().vote, None);
}

/// A member that restarted was counted as one more voter: a minority committed.
#[test]
fn jgroups_raft_24_a_restarted_voter_counts_once() {
    let mut group = Group::new(5);
    group.campaign(1);
    for other in [3, 4, 5] {
        group.cut(1, other);
    }
    let at = group.propose(1);
    for _ in 0..4 {
        group.restart(2);
        group.run(200);
    }
    assert!(group.core(1).status().commit < at.index, "two of five committed");
}

/// A replica that was removed while it was away came back with later terms and deposed leader after leader.
#[test]
fn hashicorp_524_a_removed_replica_that_returns_deposes_nobody() {
    for pre_vote in [true, false] {
        let mut group = Group::with(3, |config| config.pre_vote = pre_vote);
        group.campaign(1);
        group.isolate(3);
        let now = group.now();
        let change = MembershipChange::Remove(ReplicaId(3));
        group.core(1).propose_membership(now, change, None).unwrap();
        group.settle();
        group.run(20_000);
        let (leader, term) = (group.leader().unwrap(), group.core(1).status().term);
        group.heal();
        group.run(20_000);
        assert_eq!(group.leader(), Some(leader));
        assert_eq!(group.core(leader).status().term, term, "it was deposed");
    }
}

/// The leader made itself a non-voter in a joint change, then lost its connection; the candidate did not count its own
/// vote on the old side, and nobody ever won.
#[test]
fn scylladb_10618_a_candidate_counts_itself_on_both_sides() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.isolate(1);
    group.heal();
    group.hold = |message| matches!(message.body, MessageBody::AppendReply(_));
    let now = group.now();
    let changes = vec![MembershipChange::Demote(ReplicaId(1))];
    group.core(1).propose_changes(now, changes, MembershipTransition::JointImplicit, None).unwrap();
    group.settle();
    // 2 and 3 have the joint membership, uncommitted; 1 is gone.
    assert!(group.core(2).status().membership.joint().is_some());
    group.hold = |_| false;
    group.held.clear();
    group.node(1).down = true;
    let leader = group.elect();
    group.run(3_000);
    assert_ne!(leader, 1);
    assert!(group.core(leader).status().membership.joint().is_none(), "the joint state was never left");
}

/// A transfer failed now and then while writes went on.
#[test]
fn hashicorp_570_leadership_moves_while_writes_go_on() {
    let mut group = Group::new(3);
    group.campaign(1);
    for round in 0..20 {
        let (from, to) = (1 + round % 3, 1 + (round + 1) % 3);
        for _ in 0..5 {
            group.propose(from);
        }
        let now = group.now();
        // One more is on its way when the transfer starts.
        group.core(from).propose(now, bytes::Bytes::from_static(b"y")).unwrap();
        group.core(from).transfer_leadership(now, Some(ReplicaId(to))).unwrap();
        group.settle();
        assert_eq!(group.leader(), Some(to), "round {round}: {}", group.lines());
    }
}

/// The target of a transfer asked for pre-votes first, heard a heartbeat, and followed again.
#[test]
fn canonical_203_the_target_of_a_transfer_does_not_ask_first() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.hold = |message| matches!(message.body, MessageBody::Vote(_) | MessageBody::PreVote(_));
    let now = group.now();
    group.core(1).transfer_leadership(now, Some(ReplicaId(2))).unwrap();
    group.settle();
    assert!(group.held.iter().all(|message| matches!(message.body, MessageBody::Vote(_))), "it asked first");
    group.say(1, 2, 1, MessageBody::Heartbeat { commit: LogIndex(0), read_round: 0 });
    assert_eq!(group.core(2).status().role, RoleName::Candidate, "a heartbeat of the old term stopped it");
    group.hold = |_| false;
    for message in std::mem::take(&mut group.held) {
        group.deliver(message);
    }
    group.settle();
    assert_eq!(group.leader(), Some(2));
}

/// A non-voter became a candidate, and could lead.
#[test]
fn hashicorp_398_a_learner_is_never_a_candidate() {
    let mut group = Group::new(3);
    group.campaign(1);
    let now = group.now();
    group.core(1).propose_membership(now, MembershipChange::Demote(ReplicaId(3)), None).unwrap();
    group.settle();
    group.isolate(3);
    for _ in 0..50 {
        group.campaign(3);
        group.run(100);
        assert_eq!(group.core(3).status().role, RoleName::Follower);
    }
    group.heal();
    group.node(1).down = true;
    let transfer = MessageBody::TimeoutNow;
    group.say(1, 3, 1, transfer);
    assert_ne!(group.core(3).status().role, RoleName::Leader);
}

/// Two camps of two that see each other only through the fifth.
#[test]
fn tidb_10576_a_bridge_of_five_elects_somebody() {
    let mut group = Group::new(5);
    for (a, b) in [(1, 4), (1, 5), (2, 4), (2, 5)] {
        group.cut(a, b);
    }
    is_stable(&mut group);
}

/// A leader that nobody heard stayed one: two views of the same group.
#[test]
fn kafka_15489_an_isolated_leader_resigns() {
    let mut group = Group::new(3);
    let leader = group.elect();
    group.isolate(leader);
    group.run(2_000);
    assert_ne!(group.core(leader).status().role, RoleName::Leader);
    // Also one that is heard and hears nobody.
    group.heal();
    let leader = group.elect();
    for other in [1, 2, 3] {
        group.cut_one_way(other, leader);
    }
    group.run(2_000);
    assert_ne!(group.core(leader).status().role, RoleName::Leader);
}

/// An isolated replica raised its term with every election, until the term was at its end.
#[test]
fn kafka_kip_996_a_long_isolation_costs_no_terms() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let alone = if leader == 3 { 2 } else { 3 };
    let term = group.core(leader).status().term;
    group.isolate(alone);
    for _ in 0..1_000 {
        group.millis += 60_000;
        let now = group.now();
        group.core(alone).tick(now);
        group.settle();
    }
    assert!(group.core(alone).status().term <= term.next());
}

/// No load: a follower that came back empty never got the log, because heartbeats did not say that anything was
/// missing.
#[test]
fn braft_292_an_empty_follower_is_filled_up_without_a_write() {
    let mut group = Group::new(3);
    group.campaign(1);
    let at = group.propose(1);
    group.propose(1);
    let members = group.node(2).disk.memberships.clone();
    group.start(2, Disk { memberships: members, ..Disk::default() });
    group.run(3_000);
    assert_eq!(group.core(2).status().last.index, at.index.next());
}

/// An answer with a higher vote in it was taken for a grant.
#[test]
fn databend_16175_a_refusal_of_a_later_term_is_no_vote() {
    for pre in [true, false] {
        let mut group = Group::with(3, |config| config.pre_vote = pre);
        group.hold = |message| matches!(message.body, MessageBody::Vote(_) | MessageBody::PreVote(_));
        group.campaign(1);
        let refusal = if pre {
            MessageBody::PreVoteReply { granted: false }
        } else {
            MessageBody::VoteReply { granted: false }
        };
        group.say(2, 1, 9, refusal.clone());
        group.say(3, 1, 9, refusal);
        assert_eq!((group.core(1).status().role, group.core(1).status().term), (RoleName::Follower, Term(9)));
    }
}

/// A refused pre-vote told of a higher vote, and the candidate did not look: it asked with its old term for ever.
#[test]
fn openraft_d6a6d562_a_refused_pre_vote_teaches_the_later_term() {
    let mut group = Group::from_logs(&[(2, &[1, 2]), (7, &[1, 2])], |_| {});
    group.campaign(1);
    assert_eq!(group.core(1).status().term, Term(7));
    group.elect();
}

/// A replica told to campaign was told so by a leader of long ago.
#[test]
fn openraft_d000ee20_a_stale_call_to_campaign_is_refused() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.hold = |message| matches!(message.body, MessageBody::TimeoutNow);
    let now = group.now();
    group.core(1).transfer_leadership(now, Some(ReplicaId(2))).unwrap();
    group.settle();
    let stale = group.held.pop().unwrap();
    group.hold = |_| false;
    group.run(1_500);
    let now = group.now();
    group.core(1).forget_leader(now);
    group.settle();
    let leader = group.elect();
    let term = group.core(leader).status().term;
    group.deliver(stale);
    group.run(500);
    assert_eq!((group.leader(), group.core(leader).status().term), (Some(leader), term));
}

/// The flag of a transfer stayed set when it had failed: proposals were refused for ever.
#[test]
fn hashicorp_696_a_failed_transfer_ends() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.run(500);
    let now = group.now();
    group.core(1).transfer_leadership(now, Some(ReplicaId(2))).unwrap();
    group.node(2).down = true;
    group.held.clear();
    group.core(1).propose(now, bytes::Bytes::new()).unwrap_err();
    group.run(1_500);
    assert_eq!(group.core(1).status().transfer_to, None);
    group.propose(1);
}

/// The vote was given while another thread changed the last entry. There is one thread here; the log is looked at in the
/// moment of the vote, with everything that was accepted.
#[test]
fn sofa_jraft_882_a_vote_looks_at_what_was_just_accepted() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.node(2).stalled = true;
    group.cut(1, 3);
    let at = group.propose(1);
    // 2 has accepted it and not written it: it counts already when 2 is asked for its vote.
    assert_eq!(group.core(2).status().last, at);
    let last = LogId { index: at.index.previous(), ..at };
    group.say(3, 2, 9, MessageBody::Vote(VoteRequest { last, transfer: true }));
    assert_eq!(group.core(2).status().vote, None);
}
