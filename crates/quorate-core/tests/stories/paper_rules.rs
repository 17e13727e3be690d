//! Figure 2 and figure 13 of the Raft paper, rule by rule, in the paper's words.

use std::sync::Arc;

use quorate_core::{
    Append, AppendReply, LogId, LogIndex, Message, MessageBody, PersistToken, RoleName, SnapshotMeta, Term,
    VoteRequest,
};

use crate::group::{Group, log, membership};

/// Plain Raft: no PreVote, no CheckQuorum.
fn plain(logs: &[(u64, &[u64])]) -> Group {
    let mut group = Group::from_logs(logs, |config| {
        config.pre_vote = false;
        config.check_quorum = false;
    });
    group.hold = |_| true;
    group
}

fn append(prev: LogId, terms: &[u64], commit: u64) -> MessageBody {
    let mut entries = log(terms);
    for (offset, entry) in (1..).zip(&mut entries) {
        entry.id.index = LogIndex(prev.index.0 + offset);
    }
    MessageBody::Append(Append { prev, entries: entries.into(), commit: LogIndex(commit), read_round: 0 })
}

fn vote(last: LogId) -> MessageBody {
    MessageBody::Vote(VoteRequest { last, transfer: false })
}

/// What was said since the last time.
fn said(group: &mut Group) -> Vec<Message> {
    std::mem::take(&mut group.held)
}

fn terms(group: &mut Group, id: u64) -> Vec<u64> {
    let last = group.core(id).status().last.index.0;
    (1..=last).map(|index| group.core(id).term_at(LogIndex(index)).unwrap().0).collect()
}

// ---- state ---------------------------------------------------------------------------------------

/// "Persistent state on all servers (updated on stable storage before responding to RPCs)."
#[test]
fn figure_2_state_is_durable_before_a_response() {
    let mut group = plain(&[(1, &[1]), (1, &[1]), (1, &[1])]);
    group.node(2).stalled = true;
    group.say(1, 2, 2, vote(LogId::new(1, 1)));
    assert_eq!(said(&mut group), [], "a vote that could be forgotten");
    group.say(3, 2, 3, append(LogId::new(1, 1), &[3], 0));
    assert_eq!(said(&mut group), [], "an entry that could be forgotten");
    group.node(2).stalled = false;
    group.settle();
    assert_eq!(said(&mut group).len(), 1);
    let disk = &group.node(2).disk;
    assert_eq!((disk.hard.term, disk.last()), (Term(3), LogIndex(2)));
}

/// "Volatile state on leaders (reinitialized after election): nextIndex to leader last log index + 1, matchIndex to 0."
#[test]
fn figure_2_a_leader_begins_behind_its_last_entry_and_knows_nothing() {
    let mut group = plain(&[(1, &[1, 1]), (1, &[1]), (1, &[1])]);
    group.campaign(1);
    said(&mut group);
    group.say(2, 1, 2, MessageBody::VoteReply { granted: true });
    for (_, progress) in group.core(1).progress() {
        assert_eq!((progress.matched, progress.next), (LogIndex(0), LogIndex(3)));
    }
}

// ---- AppendEntries -------------------------------------------------------------------------------

/// "1. Reply false if term < currentTerm." The reply is one that carries the later term.
#[test]
fn append_entries_1_of_an_older_term_is_refused() {
    let mut group = plain(&[(5, &[1]), (5, &[1])]);
    group.say(2, 1, 4, append(LogId::new(1, 1), &[4], 2));
    assert_eq!(terms(&mut group, 1), [1]);
    let replies = said(&mut group);
    assert!(replies.iter().all(|reply| reply.term == Term(5)) && !replies.is_empty());
    let accepts = |m: &Message| matches!(m.body, MessageBody::AppendReply(AppendReply::Accepted { .. }));
    assert!(!replies.iter().any(accepts));
}

/// "2. Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm."
#[test]
fn append_entries_2_without_the_entry_before_is_refused() {
    for prev in [LogId::new(1, 3), LogId::new(2, 2), LogId::new(3, 9)] {
        let mut group = plain(&[(3, &[1, 1]), (3, &[])]);
        group.say(2, 1, 3, append(prev, &[3], 0));
        assert_eq!(terms(&mut group, 1), [1, 1]);
        let replies = said(&mut group);
        let rejected = |m: &Message| matches!(m.body, MessageBody::AppendReply(AppendReply::Rejected { .. }));
        assert!(replies.iter().all(rejected) && replies.len() == 1, "{replies:?}");
    }
}

/// "3. If an existing entry conflicts with a new one (same index but different terms), delete the existing entry and all
/// that follow it."
#[test]
fn append_entries_3_conflicting_entries_and_all_that_follow_are_deleted() {
    let mut group = plain(&[(3, &[1, 2, 2, 2]), (3, &[])]);
    group.say(2, 1, 3, append(LogId::new(1, 1), &[3], 0));
    assert_eq!(terms(&mut group, 1), [1, 3]);
    let on_disk: Vec<u64> = group.node(1).disk.entries.iter().map(|entry| entry.term().0).collect();
    assert_eq!(on_disk, [1, 3]);
}

/// "4. Append any new entries not already in the log." Those that are there stay, and so does what follows them: the
/// append may be an old one.
#[test]
fn append_entries_4_what_is_there_stays() {
    let mut group = plain(&[(1, &[1, 1, 1]), (1, &[])]);
    group.say(2, 1, 1, append(LogId::new(1, 1), &[1], 0));
    assert_eq!(terms(&mut group, 1), [1, 1, 1]);
    group.say(2, 1, 1, append(LogId::new(1, 2), &[1, 1], 0));
    assert_eq!(terms(&mut group, 1), [1, 1, 1, 1]);
}

/// "5. If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new entry)."
#[test]
fn append_entries_5_commits_up_to_the_last_new_entry() {
    let mut group = plain(&[(1, &[1, 1, 1, 1]), (1, &[])]);
    group.say(2, 1, 1, append(LogId::new(1, 1), &[1], 1));
    assert_eq!(group.core(1).status().commit, LogIndex(1));
    group.say(2, 1, 1, append(LogId::new(1, 1), &[1], 9));
    assert_eq!(group.core(1).status().commit, LogIndex(2));
}

// ---- RequestVote ---------------------------------------------------------------------------------

/// "1. Reply false if term < currentTerm."
#[test]
fn request_vote_1_of_an_older_term_is_refused() {
    let mut group = plain(&[(5, &[1]), (5, &[1])]);
    group.say(2, 1, 4, vote(LogId::new(4, 9)));
    let replies = said(&mut group);
    assert!(matches!(
        replies[..],
        [Message { term: Term(5), body: MessageBody::VoteReply { granted: false }, .. }]
    ));
}

/// "2. If votedFor is null or candidateId, and candidate's log is at least as up-to-date as receiver's log, grant vote."
#[test]
fn request_vote_2_one_vote_for_a_log_that_is_as_late() {
    let granted = |group: &mut Group| {
        let replies = said(group);
        assert_eq!(replies.len(), 1, "{replies:?}");
        matches!(replies[0].body, MessageBody::VoteReply { granted: true })
    };
    // (the candidate's last entry, granted) for a log that ends in 2@t2
    for (last, expected) in [
        (LogId::new(2, 2), true),
        (LogId::new(2, 3), true),
        (LogId::new(3, 1), true),
        (LogId::new(2, 1), false),
        (LogId::new(1, 9), false),
        (LogId::default(), false),
    ] {
        let mut group = plain(&[(3, &[1, 2]), (3, &[]), (3, &[])]);
        group.say(2, 1, 4, vote(last));
        assert_eq!(granted(&mut group), expected, "{last}");
        // The vote is given: to the same one again, to nobody else.
        if expected {
            group.say(2, 1, 4, vote(last));
            assert!(granted(&mut group));
            group.say(3, 1, 4, vote(last));
            assert!(!granted(&mut group));
        }
    }
}

// ---- rules for servers ---------------------------------------------------------------------------

/// "If commitIndex > lastApplied: increment lastApplied, apply log[lastApplied] to state machine."
#[test]
fn all_servers_1_what_is_committed_is_applied_in_order() {
    let mut group = plain(&[(1, &[1, 1, 1]), (1, &[])]);
    group.say(2, 1, 1, append(LogId::new(1, 3), &[], 2));
    assert_eq!(group.node(1).applied, [LogId::new(1, 1), LogId::new(1, 2)]);
    group.say(2, 1, 1, append(LogId::new(1, 3), &[1], 4));
    assert_eq!(group.node(1).applied.len(), 4);
}

/// "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower."
#[test]
fn all_servers_2_a_later_term_makes_a_follower() {
    for role in ["follower", "candidate", "leader"] {
        let bodies = [
            append(LogId::default(), &[], 0),
            vote(LogId::default()),
            MessageBody::VoteReply { granted: false },
            MessageBody::AppendReply(AppendReply::Accepted { matched: LogIndex(0), read_round: 0 }),
            MessageBody::HeartbeatReply { read_round: 0, last: LogId::default() },
        ];
        for body in bodies {
            let mut group = plain(&[(1, &[1]), (1, &[1]), (1, &[1])]);
            if role != "follower" {
                group.campaign(1);
            }
            if role == "leader" {
                group.say(2, 1, 2, MessageBody::VoteReply { granted: true });
                assert!(group.node(1).leads());
            }
            group.say(3, 1, 7, body.clone());
            let status = group.core(1).status();
            assert_eq!((status.role, status.term), (RoleName::Follower, Term(7)), "{role}: {body:?}");
        }
    }
}

/// "Respond to RPCs from candidates and leaders."
#[test]
fn followers_1_answer_candidates_and_leaders() {
    let mut group = plain(&[(1, &[1]), (1, &[1]), (1, &[1])]);
    group.say(2, 1, 2, vote(LogId::new(1, 1)));
    assert_eq!(said(&mut group).len(), 1);
    group.say(2, 1, 2, append(LogId::new(1, 1), &[2], 0));
    assert_eq!(said(&mut group).len(), 1);
    group.say(2, 1, 2, MessageBody::Heartbeat { commit: LogIndex(0), read_round: 0 });
    assert_eq!(said(&mut group).len(), 1);
}

/// "If election timeout elapses without receiving AppendEntries RPC from current leader or granting vote to candidate:
/// convert to candidate."
#[test]
fn followers_2_a_silent_leader_is_replaced_and_a_speaking_one_is_not() {
    let mut group = plain(&[(1, &[1]), (1, &[1]), (1, &[1])]);
    for id in [2, 3] {
        group.node(id).down = true;
    }
    let heartbeat = || Message {
        from: quorate_core::ReplicaId(2),
        to: quorate_core::ReplicaId(1),
        term: Term(1),
        epoch: 0,
        body: MessageBody::Heartbeat { commit: LogIndex(0), read_round: 0 },
    };
    for _ in 0..50 {
        group.run(200);
        let now = group.now();
        group.core(1).step(now, quorate_core::ReplicaId(2), heartbeat()).unwrap();
        group.settle();
    }
    assert_eq!(group.core(1).status().role, RoleName::Follower);
    group.run(900);
    // A vote that is given counts as well.
    let now = group.now();
    let asks = Message { term: Term(2), body: vote(LogId::new(1, 1)), ..heartbeat() };
    group.core(1).step(now, quorate_core::ReplicaId(2), asks).unwrap();
    group.run(900);
    assert_eq!(group.core(1).status().role, RoleName::Follower);
    group.run(1_200);
    assert_eq!(group.core(1).status().role, RoleName::Candidate);
}

/// "On conversion to candidate, start election: increment currentTerm, vote for self, reset election timer, send
/// RequestVote RPCs to all other servers."
#[test]
fn candidates_1_start_an_election() {
    let mut group = plain(&[(4, &[1]), (4, &[1]), (4, &[1])]);
    let before = group.core(1).next_deadline();
    group.run(500);
    said(&mut group);
    group.campaign(1);
    let (term, vote) = (group.core(1).status().term, group.core(1).status().vote);
    assert_eq!((term, vote), (Term(5), Some(quorate_core::ReplicaId(1))));
    let timeout = std::time::Duration::from_secs(1);
    let now = group.now();
    assert!(group.core(1).next_deadline() >= now + timeout && group.core(1).next_deadline() != before);
    let asked: Vec<u64> = said(&mut group).iter().map(|message| message.to.0).collect();
    assert_eq!(asked, [2, 3]);
}

/// "If votes received from majority of servers: become leader."
#[test]
fn candidates_2_a_majority_makes_a_leader() {
    let five: Vec<(u64, &[u64])> = vec![(1, &[1]); 5];
    let mut group = plain(&five);
    group.campaign(1);
    group.say(2, 1, 2, MessageBody::VoteReply { granted: true });
    group.say(2, 1, 2, MessageBody::VoteReply { granted: true });
    assert_eq!(group.core(1).status().role, RoleName::Candidate, "one voter counted twice");
    group.say(3, 1, 2, MessageBody::VoteReply { granted: true });
    assert_eq!(group.core(1).status().role, RoleName::Leader);
}

/// "If AppendEntries RPC received from new leader: convert to follower."
#[test]
fn candidates_3_a_leader_of_the_term_makes_a_follower() {
    let mut group = plain(&[(1, &[1]), (1, &[1]), (1, &[1])]);
    group.campaign(1);
    group.say(2, 1, 2, append(LogId::new(1, 1), &[], 0));
    let status = group.core(1).status();
    assert_eq!((status.role, status.leader), (RoleName::Follower, Some(quorate_core::ReplicaId(2))));
}

/// "If election timeout elapses: start new election."
#[test]
fn candidates_4_a_split_vote_starts_the_next_election() {
    let mut group = plain(&[(1, &[1]), (1, &[1]), (1, &[1])]);
    group.node(2).down = true;
    group.node(3).down = true;
    group.campaign(1);
    group.run(2_100);
    let status = group.core(1).status();
    assert_eq!((status.role, status.term), (RoleName::Candidate, Term(3)));
}

/// "Upon election: send initial empty AppendEntries RPCs (heartbeat) to each server; repeat during idle periods to
/// prevent election timeouts."
#[test]
fn leaders_1_speak_at_once_and_again_while_idle() {
    let mut group = plain(&[(1, &[1]), (1, &[1]), (1, &[1])]);
    group.campaign(1);
    said(&mut group);
    group.say(2, 1, 2, MessageBody::VoteReply { granted: true });
    let to = |said: &[Message], id: u64| said.iter().any(|message| message.from.0 == 1 && message.to.0 == id);
    let first = said(&mut group);
    assert!(to(&first, 2) && to(&first, 3), "{first:?}");
    group.run(110);
    let later = said(&mut group);
    assert!(to(&later, 2) && to(&later, 3), "{later:?}");
}

/// "If command received from client: append entry to local log, respond after entry applied to state machine."
#[test]
fn leaders_2_append_a_command_and_apply_it_once_committed() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.hold = |message| matches!(message.body, MessageBody::AppendReply(_));
    let at = group.propose(1);
    assert_eq!(group.core(1).status().last, at);
    assert!(!group.node(1).applied.contains(&at));
    group.hold = |_| false;
    for reply in std::mem::take(&mut group.held) {
        group.deliver(reply);
    }
    group.settle();
    assert!(group.node(1).applied.contains(&at));
}

/// "If last log index ≥ nextIndex for a follower: send AppendEntries RPC with log entries starting at nextIndex. If
/// successful: update nextIndex and matchIndex. If AppendEntries fails because of log inconsistency: decrement nextIndex
/// and retry."
#[test]
fn leaders_3_feed_a_follower_from_its_next_index() {
    let mut group = plain(&[(1, &[1, 1, 1]), (1, &[1]), (1, &[1])]);
    group.campaign(1);
    group.say(2, 1, 2, MessageBody::VoteReply { granted: true });
    said(&mut group);
    let progress = |group: &mut Group| group.core(1).progress().next().unwrap().1;
    let rejected = AppendReply::Rejected { prev: LogIndex(3), hint: LogId::new(1, 1), last: LogIndex(1) };
    group.say(2, 1, 2, MessageBody::AppendReply(rejected));
    assert_eq!(progress(&mut group).next, LogIndex(2));
    let again = said(&mut group);
    let [Message { body: MessageBody::Append(append), .. }] = &again[..] else { panic!("{again:?}") };
    assert_eq!((append.prev, append.entries[0].id), (LogId::new(1, 1), LogId::new(1, 2)));
    let accepted = AppendReply::Accepted { matched: LogIndex(4), read_round: 0 };
    group.say(2, 1, 2, MessageBody::AppendReply(accepted));
    let progress = progress(&mut group);
    assert_eq!((progress.matched, progress.next), (LogIndex(4), LogIndex(5)));
}

/// "If there exists an N such that N > commitIndex, a majority of matchIndex[i] ≥ N, and log[N].term == currentTerm: set
/// commitIndex = N."
#[test]
fn leaders_4_commit_an_entry_of_their_term_that_a_majority_has() {
    let five: Vec<(u64, &[u64])> = vec![(1, &[1, 1]); 5];
    let mut group = plain(&five);
    group.campaign(1);
    for from in [2, 3] {
        group.say(from, 1, 2, MessageBody::VoteReply { granted: true });
    }
    let has =
        |index| MessageBody::AppendReply(AppendReply::Accepted { matched: LogIndex(index), read_round: 0 });
    for from in [2, 3, 4, 5] {
        group.say(from, 1, 2, has(2));
    }
    assert_eq!(group.core(1).status().commit, LogIndex(0), "an entry of an older term");
    group.say(2, 1, 2, has(3));
    assert_eq!(group.core(1).status().commit, LogIndex(0), "two of five");
    group.say(3, 1, 2, has(3));
    assert_eq!(group.core(1).status().commit, LogIndex(3));
}

/// Figure 7: when the leader of term 8 takes office, followers may miss entries, have extra ones, or both. Each of them
/// ends with the leader's log.
#[test]
fn every_follower_of_figure_7_ends_with_the_leaders_log() {
    let leader: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    let mut logs = vec![(7, leader)];
    logs.extend(followers.map(|terms| (7, terms)));
    let mut group = Group::from_logs(&logs, |config| config.pre_vote = false);
    // (a), (b), (e) and (f) vote for it: their logs end earlier.
    group.campaign(1);
    group.run(2_000);
    assert_eq!((group.leader(), group.core(1).status().term), (Some(1), Term(8)));
    let whole: Vec<u64> = leader.iter().copied().chain([8]).collect();
    for id in 1..=7 {
        assert_eq!(terms(&mut group, id), whole, "follower {id}");
    }
}

/// §5.6: the time to speak is much shorter than the time to lose patience.
#[test]
fn a_configuration_of_wrong_times_is_refused() {
    use quorate_core::{Config, ReplicaId};
    let config = Config::new(ReplicaId(1));
    let wrong = Config { heartbeat_interval: config.election_timeout / 2, ..config.clone() };
    assert_eq!(wrong.validate().unwrap_err().field, "election_timeout");
    let none = Config { heartbeat_interval: std::time::Duration::ZERO, ..config };
    assert_eq!(none.validate().unwrap_err().field, "heartbeat_interval");
}

// ---- InstallSnapshot (figure 13): the chunks are the host's, rules 2 to 4 with them ------------------

fn snapshot(term: u64, index: u64) -> MessageBody {
    MessageBody::InstallSnapshot(SnapshotMeta {
        last: LogId::new(term, index),
        membership: Arc::new(membership(3)),
        membership_id: LogId::default(),
    })
}

/// "1. Reply immediately if term < currentTerm."
#[test]
fn install_snapshot_1_of_an_older_term_is_refused() {
    let mut group = plain(&[(5, &[1]), (5, &[1]), (5, &[1])]);
    group.say(2, 1, 4, snapshot(4, 9));
    assert_eq!(group.core(1).status().last, LogId::new(1, 1));
    let replies = said(&mut group);
    assert!(matches!(replies[..], [Message { term: Term(5), .. }]), "{replies:?}");
}

/// "6. If existing log entry has same index and term as snapshot's last included entry, retain log entries following it
/// and reply."
#[test]
fn install_snapshot_6_what_follows_a_known_entry_is_kept() {
    let mut group = plain(&[(1, &[1, 1, 1]), (1, &[]), (1, &[])]);
    group.say(2, 1, 1, snapshot(1, 2));
    assert_eq!(terms(&mut group, 1), [1, 1, 1]);
    let replies = said(&mut group);
    let accepted = |m: &Message| {
        m.body == MessageBody::AppendReply(AppendReply::Accepted { matched: LogIndex(2), read_round: 0 })
    };
    assert!(replies.iter().all(accepted) && replies.len() == 1, "{replies:?}");
}

/// "7. Discard the entire log. 8. Reset state machine using snapshot contents (and load snapshot's cluster
/// configuration)."
#[test]
fn install_snapshot_7_and_8_the_log_and_the_state_are_replaced() {
    let mut group = plain(&[(3, &[1, 1, 1]), (3, &[]), (3, &[])]);
    group.say(2, 1, 3, snapshot(2, 2));
    let status = group.core(1).status();
    assert_eq!(
        (status.compacted, status.last, status.commit),
        (LogId::new(2, 2), LogId::new(2, 2), LogIndex(2))
    );
    assert_eq!(group.node(1).applied, [LogId::new(2, 2)]);
    assert!(group.node(1).disk.entries.is_empty());
    // A completed write of before vouches for nothing of the new log.
    let now = group.now();
    group.core(1).on_persisted(now, PersistToken(1));
    assert_eq!(group.core(1).status().persisted, LogIndex(2));
}
