//! Traps of hashicorp/raft that a port must not copy, as far as the core decides them. Each test fails when the core does
//! what is told in its comment; `docs/coverage-hashicorp-raft.md` says how that was seen, and where the others are.

use quorate_core::{
    AppendReply, HardState, LogId, LogIndex, MembershipChange, Message, MessageBody, NodeId, ReadOutcome,
    ReadTicket, Rejected, ReplicaId, RoleName, SnapshotMeta, Term, TransferError, VoteRequest,
};

use crate::group::{Group, membership};

fn append(prev: LogId, commit: u64) -> MessageBody {
    let (entries, commit) = (Vec::new().into(), LogIndex(commit));
    MessageBody::Append(quorate_core::Append { prev, entries, commit, read_round: 0 })
}

fn served(group: &mut Group, id: u64) -> Vec<ReadOutcome> {
    std::mem::take(&mut group.node(id).reads)
}

/// Adds learners to a group that 1 leads, with empty disks. Says who they are.
fn add_learners(group: &mut Group, count: u64) -> Vec<u64> {
    let mut learners = Vec::new();
    for node in 0..count {
        let now = group.now();
        let (peer_address, client_address) = (String::new(), String::new());
        let node = NodeId(100 + node);
        let learner = MembershipChange::AddLearner { node, peer_address, client_address };
        let (_, replica) = group.core(1).propose_membership(now, learner, None).unwrap();
        group.start(replica.0, crate::group::Disk::default());
        group.settle();
        group.run(100);
        learners.push(replica.0);
    }
    learners
}

/// A leader that only learners can hear was told that a quorum had confirmed it: everybody who received its log was
/// counted, against a quorum of the voters.
#[test]
fn t1_learners_confirm_no_leader() {
    let mut group = Group::new(3);
    group.campaign(1);
    add_learners(&mut group, 2);
    for voter in [2, 3] {
        group.cut(1, voter);
    }
    group.read(1, 1);
    group.run(100);
    assert_eq!(served(&mut group, 1), [], "two learners and the leader itself are no quorum of three voters");
    group.heal();
    group.run(100);
    assert!(matches!(served(&mut group, 1)[..], [ReadOutcome::At { ticket: ReadTicket(1), .. }]));
}

/// An answer that was on its way when leadership was asked about counted as an answer to the question.
#[test]
fn t2_an_answer_that_was_under_way_confirms_nothing() {
    let mut group = Group::new(3);
    group.campaign(1);
    group.hold = |message| message.to == ReplicaId(1);
    group.run(150);
    let answers = |message: &Message| matches!(message.body, MessageBody::HeartbeatReply { .. });
    let under_way: Vec<Message> = std::mem::take(&mut group.held).into_iter().filter(answers).collect();
    assert!(under_way.len() >= 2, "both followers have answered a heartbeat");
    group.isolate(1);
    group.read(1, 1);
    for answer in under_way {
        let (now, from) = (group.now(), answer.from);
        // Whether it is refused or not: it proves nothing.
        group.core(1).step(now, from, answer).ok();
    }
    group.settle();
    assert_eq!(served(&mut group, 1), [], "a round from before the question answered it");
    group.heal();
    group.hold = |_| false;
    group.run(100);
    assert!(matches!(served(&mut group, 1)[..], [ReadOutcome::At { .. }]));
}

/// A cut-off leader returns with 11 to 15 of its own, which nobody else has. The new leader has committed 11 to 19, others;
/// it speaks to the one who returns as if of entry 10, and names the commit index 19. HashiCorp's follower commits
/// `min(19, its own last)`, applies its own 11 to 15, and is another state machine for ever.
#[test]
fn t3_a_follower_applies_only_what_is_committed() {
    let old = [1_u64; 10];
    let mut own = old.to_vec();
    own.extend([2; 5]);
    let mut group = Group::from_logs(&[(2, &old), (2, &old), (2, &own)], |_| {});
    group.isolate(3);
    group.campaign(1);
    for _ in 0..8 {
        group.propose(1);
    }
    let committed = group.core(1).status().commit;
    assert_eq!(committed, LogIndex(19));
    let term = group.core(1).status().term.0;
    // What the waking replicator of a leader like HashiCorp's says, word for word.
    group.heal();
    group.hold = |message| message.to == ReplicaId(3);
    group.say(1, 3, term, append(LogId::new(1, 10), committed.0));
    group.say(1, 3, term, MessageBody::Heartbeat { commit: committed, read_round: 0 });
    assert_eq!(group.core(3).status().commit, LogIndex(10), "what follows entry 10 is its own");
    assert!(group.node(3).applied.iter().all(|id| id.term == Term(1)), "{:?}", group.node(3).applied);
    // And what our own leader says, appends last.
    group.run(200);
    let (appends, news): (Vec<Message>, Vec<Message>) = std::mem::take(&mut group.held)
        .into_iter()
        .partition(|message| matches!(message.body, MessageBody::Append(_)));
    for message in news.into_iter().chain(appends) {
        group.deliver(message);
        group.settle();
    }
    group.hold = |_| false;
    group.run(1_000);
    let leaders = group.node(1).applied.clone();
    assert_eq!(group.node(3).applied, leaders, "one log, one state machine");
}

/// Heartbeats changed term and role on a thread of the transport's, beside the one that votes. Here there is one owner, and
/// a heartbeat is a message like any other: the term it brings is on disk before it is answered, the vote of the term before
/// is not taken along, and it commits nothing that was not compared.
#[test]
fn t4_a_heartbeat_changes_the_term_like_every_other_message() {
    let mut group = Group::from_logs(&[(1, &[1, 1, 1]), (1, &[1]), (1, &[1])], |_| {});
    group.node(1).stalled = true;
    group.hold = |message| message.from == ReplicaId(1);
    group.say(2, 1, 5, MessageBody::Vote(VoteRequest { last: LogId::new(1, 3), transfer: false }));
    group.say(3, 1, 6, MessageBody::Heartbeat { commit: LogIndex(3), read_round: 0 });
    assert!(group.held.is_empty(), "nothing is said before the disk has it: {:?}", group.held);
    let status = group.core(1).status();
    assert_eq!((status.term, status.vote, status.leader), (Term(6), None, Some(ReplicaId(3))));
    assert_eq!(status.commit, LogIndex(0), "a heartbeat compares no logs");
    group.node(1).stalled = false;
    group.settle();
    assert_eq!(group.node(1).disk.hard.term, Term(6));
    let in_old_term = |message: &Message| matches!(message.body, MessageBody::VoteReply { granted: true });
    let too_late = group.held.iter().filter(|said| in_old_term(said) && said.term > Term(5)).count();
    assert_eq!(too_late, 0, "a vote of term 5 is none of term 6: {:?}", group.held);
}

/// A vote belonged to a network address: another server at the same address got "the same" vote again, without a look at
/// its log. Here it belongs to a replica, whose id is never used again; all of these replicas have one address.
#[test]
fn t5_a_vote_is_for_a_replica_and_its_log() {
    let ask = |index| MessageBody::Vote(VoteRequest { last: LogId::new(1, index), transfer: false });
    let mut group = Group::from_logs(&[(1, &[1, 1, 1]), (1, &[1, 1, 1]), (1, &[])], |_| {});
    group.hold = |message| message.from == ReplicaId(1);
    let mut answer = |from, body| {
        group.say(from, 1, 2, body);
        let said = std::mem::take(&mut group.held);
        let reply = |message: &Message| {
            let MessageBody::VoteReply { granted } = message.body else { return None };
            (message.to == ReplicaId(from)).then_some(granted)
        };
        said.iter().find_map(reply)
    };
    assert_eq!(answer(2, ask(3)), Some(true));
    assert_eq!(answer(3, ask(3)), Some(false), "the vote is given, whatever the address");
    assert_eq!(answer(2, ask(3)), Some(true), "an answer may have been lost");
    assert_eq!(
        answer(2, ask(2)),
        Some(false),
        "the same candidate with a shorter log is asking for another vote"
    );
}

/// Term and candidate were two writes: a crash between them left a vote of an earlier term in a later one. Here they are
/// one record of one write (whose wholeness the crash tests of the log prove, power cut by power cut).
#[test]
fn t6_a_term_and_its_vote_are_one_write() {
    let mut group = Group::from_logs(&[(1, &[1]), (1, &[1]), (1, &[1])], |_| {});
    let ask = MessageBody::Vote(VoteRequest { last: LogId::new(1, 1), transfer: false });
    let (now, from) = (group.now(), ReplicaId(2));
    let message = Message { from, to: ReplicaId(1), term: Term(7), epoch: 0, body: ask };
    group.core(1).step(now, from, message).unwrap();
    let mut writes = Vec::new();
    while group.core(1).has_ready() {
        let ready = group.core(1).ready();
        assert!(ready.send.is_empty(), "promised before written: {:?}", ready.send);
        writes.extend(ready.persist.and_then(|persist| persist.hard_state));
    }
    let vote = HardState { term: Term(7), vote: Some(from), commit: LogIndex(0) };
    assert_eq!(writes, [vote], "the term without its vote, or twice");
}

/// A snapshot of entry 5 was given to a replica that had applied 20: accepted, and its state machine went back in time.
#[test]
fn t7_a_snapshot_of_what_is_applied_changes_nothing() {
    let mut group = Group::new(3);
    group.campaign(1);
    while group.core(3).status().applied < LogIndex(20) {
        group.propose(1);
        group.run(10);
    }
    let before = group.node(3).applied.clone();
    let meta = SnapshotMeta {
        last: LogId::new(1, 5),
        membership: membership(3).into(),
        membership_id: LogId::default(),
    };
    group.hold = |message| message.from == ReplicaId(3);
    group.say(1, 3, 1, MessageBody::InstallSnapshot(meta));
    let status = group.core(3).status();
    assert!(status.applied >= LogIndex(20) && status.commit >= status.applied, "{status:?}");
    assert_eq!(group.node(3).applied, before, "something was restored");
    let matched = |message: &Message| {
        let MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) = message.body else {
            return None;
        };
        Some(matched)
    };
    assert_eq!(group.held.iter().find_map(matched), Some(LogIndex(5)), "it is done, and says so");
}

/// Leadership was handed to a non-voter "with success": two terms burnt, and the old leader elected again.
#[test]
fn t11_leadership_goes_to_voters_and_comes_from_the_leader() {
    let mut group = Group::new(3);
    group.campaign(1);
    let learner = add_learners(&mut group, 1)[0];
    let (now, term) = (group.now(), group.core(1).status().term);
    let refused = group.core(1).transfer_leadership(now, Some(ReplicaId(learner)));
    assert_eq!(refused, Err(TransferError::NotVoter));
    // Nor does anybody but the leader of the term set off an election.
    group.say(3, 2, term.0, MessageBody::TimeoutNow);
    assert_eq!(group.node(2).refused.pop(), Some(Rejected::NotFromLeader));
    group.say(1, learner, term.0, MessageBody::TimeoutNow);
    group.run(500);
    assert_eq!((group.leader(), group.core(1).status().term), (Some(1), term), "it cost a term");
}

/// A failed request counted as a sign of life, which carried the lease of a leader without a quorum on; and any refusal,
/// also a non-voter's, was taken for the news of another leader.
#[test]
fn t13_only_voters_that_answer_in_the_term_keep_a_leader() {
    let mut group = Group::from_logs(&[(5, &[]), (5, &[]), (5, &[])], |_| {});
    group.campaign(1);
    let learner = add_learners(&mut group, 1)[0];
    let term = group.core(1).status().term;
    // A refusal is no other leader: the term decides.
    let refusal = AppendReply::Rejected { prev: LogIndex(1), hint: LogId::default(), last: LogIndex(0) };
    group.say(learner, 1, term.0, MessageBody::AppendReply(refusal));
    assert!(group.node(1).leads(), "a learner deposed it");
    // The learner goes on answering, and hears of no other leader.
    for voter in [2, 3] {
        group.cut(1, voter);
        group.cut(learner, voter);
    }
    let from = group.millis;
    while group.node(1).leads() {
        group.run(10);
        for voter in [2, 3] {
            group.core(1).report_unreachable(ReplicaId(voter));
            let old = MessageBody::HeartbeatReply { read_round: 0, last: LogId::default() };
            let (now, from) = (group.now(), ReplicaId(voter));
            let old = Message { from, to: ReplicaId(1), term: Term(term.0 - 1), epoch: 0, body: old };
            group.core(1).step(now, from, old).ok();
        }
        group.settle();
        let timeout = u64::try_from(group.configs[&1].election_timeout.as_millis()).unwrap();
        assert!(group.millis < from + 2 * timeout, "unreachable voters keep it in office");
    }
    assert_eq!(group.core(1).status().role, RoleName::Follower);
}

/// Heartbeats took a fast path past the checks that all other requests go through.
#[test]
fn t14_a_heartbeat_passes_the_same_gate_as_everything_else() {
    let mut group = Group::new(3);
    group.campaign(1);
    let now = group.now();
    let heartbeat = |commit, from, to, epoch| Message {
        from: ReplicaId(from),
        to: ReplicaId(to),
        term: Term(9),
        epoch,
        body: MessageBody::Heartbeat { commit: LogIndex(commit), read_round: 0 },
    };
    let wrong = [
        (heartbeat(0, 1, 3, 0), Rejected::WrongReceiver),
        (heartbeat(0, 3, 2, 0), Rejected::ForgedSender),
        (heartbeat(0, 1, 2, 1), Rejected::OldEpoch),
        (heartbeat(u64::MAX, 1, 2, 0), Rejected::OutOfRange),
    ];
    for (message, reason) in wrong {
        let term = group.core(2).status().term;
        assert_eq!(group.core(2).step(now, ReplicaId(1), message), Err(reason));
        assert_eq!(group.core(2).status().term, term, "{reason:?} has changed something");
    }
}

// ---- scenarios of its tests that had no counterpart here --------------------------------------------

/// From the list of append-entries tests that were never written there: the predecessor is in what a snapshot covers, at its
/// end, and after it; and the entries are new, known, both, or others.
#[test]
fn appends_around_the_end_of_a_snapshot_are_taken_as_far_as_they_are_news() {
    let entries = |from: u64, terms: &[u64]| -> Vec<quorate_core::Entry> {
        let entry = |(index, term): (u64, &u64)| quorate_core::Entry {
            id: LogId::new(*term, index),
            payload: quorate_core::EntryPayload::Noop,
        };
        (from..).zip(terms).map(entry).collect()
    };
    // After which entry, terms, up to where it is accepted, terms on the disk afterwards.
    type Row<'a> = ((u64, u64), &'a [u64], LogIndex, &'a [u64]);
    // A log of the terms 1 1 1 2 2, of which three are committed and covered by a snapshot.
    let table: &[Row<'_>] = &[
        ((1, 1), &[1], LogIndex(3), &[2, 2]), // before the end: nothing is news
        ((1, 1), &[1, 1, 2], LogIndex(4), &[2, 2]), // before the end, and on into the log
        ((1, 1), &[1, 1, 2, 2, 3], LogIndex(6), &[2, 2, 3]),
        ((1, 3), &[], LogIndex(3), &[2, 2]),           // at the end
        ((1, 3), &[2, 2, 3], LogIndex(6), &[2, 2, 3]), // known, then new
        ((1, 3), &[3], LogIndex(4), &[3]),             // another: the rest goes
        ((2, 4), &[2], LogIndex(5), &[2, 2]),          // after it
        ((2, 4), &[3, 3], LogIndex(6), &[2, 3, 3]),
        ((2, 5), &[3], LogIndex(6), &[2, 2, 3]),
    ];
    for (prev, terms, matched, log) in table {
        let mut group = Group::from_logs(&[(2, &[1, 1, 1, 2, 2]), (2, &[1]), (2, &[1])], |_| {});
        group.say(2, 1, 2, append(LogId::new(1, 3), 3));
        group.node(1).compact();
        assert_eq!(group.core(1).status().compacted, LogId::new(1, 3));
        group.hold = |message| message.from == ReplicaId(1);
        let appended = quorate_core::Append {
            prev: LogId::new(prev.0, prev.1),
            entries: entries(prev.1 + 1, terms).into(),
            commit: LogIndex(3),
            read_round: 0,
        };
        group.say(2, 1, 3, MessageBody::Append(appended));
        let accepted = |message: &Message| {
            let MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) = message.body else {
                return None;
            };
            Some(matched)
        };
        assert_eq!(group.held.iter().find_map(accepted), Some(*matched), "after {prev:?} {terms:?}");
        let kept: Vec<u64> = group.node(1).disk.entries.iter().map(|entry| entry.term().0).collect();
        assert_eq!(kept, *log, "after {prev:?} {terms:?}");
    }
}

/// A non-voter that came from another cluster, or from the past of this one, brought a higher term along: the cluster must
/// come to rest again.
#[test]
fn a_learner_of_a_later_term_joins_and_somebody_leads() {
    let mut group = Group::new(3);
    group.campaign(1);
    let now = group.now();
    let (node, peer_address, client_address) = (NodeId(4), String::new(), String::new());
    let learner = MembershipChange::AddLearner { node, peer_address, client_address };
    let (_, replica) = group.core(1).propose_membership(now, learner, None).unwrap();
    let hard = HardState { term: Term(50), ..HardState::default() };
    group.start(replica.0, crate::group::Disk { hard, ..crate::group::Disk::default() });
    group.run(5_000);
    let leader = group.leader().expect("somebody leads");
    assert!((1..=3).contains(&leader));
    let at = group.propose(leader);
    group.run(500);
    assert!(group.core(replica.0).status().applied >= at.index, "and the learner follows");
    let term = group.core(leader).status().term;
    group.run(5_000);
    assert_eq!((group.leader(), group.core(leader).status().term), (Some(leader), term), "for good");
}

/// A follower that was removed, and hears it or not, brings about no election.
#[test]
fn removing_a_follower_costs_no_term() {
    for hears in [true, false] {
        let mut group = Group::new(3);
        group.campaign(1);
        let term = group.core(1).status().term;
        if !hears {
            group.isolate(3);
        }
        let now = group.now();
        group.core(1).propose_membership(now, MembershipChange::Remove(ReplicaId(3)), None).unwrap();
        group.settle();
        group.run(200);
        group.heal();
        group.run(10_000);
        assert_eq!((group.leader(), group.core(1).status().term), (Some(1), term), "told: {hears}");
        group.propose(1);
    }
}

/// A group started with long timeouts, to be restarted in peace; its leader was lost before they were lowered. The new
/// timeout was to be used from the next heartbeat on, which never came.
#[test]
fn a_shorter_timeout_is_in_effect_at_once() {
    use std::time::Duration;
    let mut group = Group::with(3, |config| config.election_timeout = Duration::from_secs(600));
    group.campaign(1);
    group.run(200);
    group.node(1).down = true;
    for follower in [2, 3] {
        group.core(follower).set_timings(Duration::from_millis(300), Duration::from_millis(50)).unwrap();
    }
    group.run(3_000);
    assert!(group.leader().is_some_and(|leader| leader != 1), "nobody looks for a leader: {}", group.lines());
    // And a leader that is alone notices by the new time, too.
    let leader = group.leader().unwrap();
    group.core(leader).set_timings(Duration::from_secs(600), Duration::from_secs(60)).unwrap();
    group.run(3_000);
    group.core(leader).set_timings(Duration::from_millis(300), Duration::from_millis(50)).unwrap();
    group.isolate(leader);
    group.run(1_000);
    assert!(!group.node(leader).leads(), "it leads nobody: {}", group.lines());
}
