//! What a follower makes of an append (Raft §5.3), and how a leader finds the last common entry.

use quorate_core::{AppendReply, LogId, MessageBody, ReplicaId, RoleName};

use crate::replica::{Start, accepted, append, rejected};

/// What became of an append.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Accepted up to here, and committed up to there.
    Taken { matched: u64, commit: u64 },
    /// Refused; this is the highest position that could match.
    Refused { hint: (u64, u64) },
}

fn outcome(log: &[u64], commit: u64, prev: (u64, u64), terms: &[u64], leaders: u64) -> (Outcome, Vec<u64>) {
    let mut follower = Start { log, term: 4, commit, ..Start::default() }.replica();
    let said = follower.hears(2, 4, append(prev, terms, leaders)).unwrap();
    assert_eq!(said.len(), 1, "one answer");
    let MessageBody::AppendReply(reply) = said[0].body else { panic!("an answer to an append") };
    let outcome = match reply {
        AppendReply::Accepted { matched, .. } => {
            Outcome::Taken { matched: matched.0, commit: follower.commit() }
        }
        AppendReply::Rejected { hint, .. } => Outcome::Refused { hint: (hint.term.0, hint.index.0) },
    };
    (outcome, follower.log())
}

fn taken(matched: u64, commit: u64) -> Outcome {
    Outcome::Taken { matched, commit }
}

fn refused(term: u64, index: u64) -> Outcome {
    Outcome::Refused { hint: (term, index) }
}

/// A follower with the terms 1, 2, 3 of which the first is committed.
#[test]
fn an_append_is_taken_where_its_predecessor_is() {
    #[rustfmt::skip]
    let table: [((u64, u64), &[u64], u64, Outcome, &[u64]); 18] = [
        // The predecessor has another term, or is beyond the end.
        ((2, 3), &[4], 3, refused(2, 2), &[1, 2, 3]),
        ((3, 4), &[4], 3, refused(3, 3), &[1, 2, 3]),
        ((1, 2), &[], 3, refused(1, 1), &[1, 2, 3]),
        ((4, 9), &[], 9, refused(3, 3), &[1, 2, 3]),
        // It is the last: the commit index moves as far as this append proves, and never back.
        ((3, 3), &[], 3, taken(3, 3), &[1, 2, 3]),
        ((3, 3), &[], 9, taken(3, 3), &[1, 2, 3]),
        ((3, 3), &[], 2, taken(3, 2), &[1, 2, 3]),
        ((3, 3), &[], 0, taken(3, 1), &[1, 2, 3]),
        ((0, 0), &[], 3, taken(0, 1), &[1, 2, 3]),
        ((3, 3), &[4], 3, taken(4, 3), &[1, 2, 3, 4]),
        ((3, 3), &[4], 4, taken(4, 4), &[1, 2, 3, 4]),
        ((3, 3), &[4], 9, taken(4, 4), &[1, 2, 3, 4]),
        ((3, 3), &[4, 4], 5, taken(5, 5), &[1, 2, 3, 4, 4]),
        // It is in the middle: what is there stays, what differs goes with all that follows.
        ((1, 1), &[2], 2, taken(2, 2), &[1, 2, 3]),
        ((0, 0), &[1, 2, 3], 1, taken(3, 1), &[1, 2, 3]),
        ((2, 2), &[4], 3, taken(3, 3), &[1, 2, 4]),
        ((1, 1), &[4], 2, taken(2, 2), &[1, 4]),
        ((1, 1), &[3, 4, 4], 3, taken(4, 3), &[1, 3, 4, 4]),
    ];
    for (prev, terms, leaders, expected, log) in table {
        let found = outcome(&[1, 2, 3], 1, prev, terms, leaders);
        assert_eq!(found, (expected, log.to_vec()), "after {prev:?} {terms:?}, commit {leaders}");
    }
}

/// Leader and follower logs, what the follower answers to a probe at the end of the leader's log, and after which
/// entry the leader sends then.
#[test]
fn terms_are_skipped_on_both_sides() {
    #[rustfmt::skip]
    let table: [(&[u64], &[u64], (u64, u64), (u64, u64)); 8] = [
        (&[1, 2, 2, 4, 4, 4, 4], &[1, 2, 2, 3, 3, 3, 3, 3], (3, 6), (2, 3)),
        (&[1, 2, 2, 3, 4, 4, 4, 5], &[1, 2, 2, 3, 3, 3, 3, 3, 3], (3, 7), (3, 4)),
        (&[1, 1, 1, 1], &[1, 2, 2, 4], (1, 1), (1, 1)),
        (&[1, 1, 1, 1, 1, 1], &[1, 2, 2, 4], (1, 1), (1, 1)),
        (&[1, 1, 1, 1], &[1, 2, 2, 4, 4, 4], (1, 1), (1, 1)),
        (&[1, 1, 1, 4, 5], &[1, 1, 1, 4], (4, 4), (4, 4)),
        (&[2, 5, 5, 5, 5, 5, 5, 5, 5], &[2, 4, 4, 4, 4, 4], (4, 6), (2, 1)),
        (&[2, 2, 2, 2, 2], &[2, 4, 4, 4, 4, 4, 4, 4], (2, 1), (2, 1)),
    ];
    for (leader, log, hint, next) in table {
        let (term, end) = (leader[leader.len() - 1], leader.len() as u64);
        let mut follower = Start { id: 2, log, term: 8, ..Start::default() }.replica();
        let said = follower.hears(1, 8, append((term, end), &[8], 0)).unwrap();
        let last = log.len() as u64;
        assert_eq!(said[0].body, rejected(end, LogId::new(hint.0, hint.1), last), "{leader:?} and {log:?}");

        let mut probing = Start { log: leader, term: 7, ..Start::default() }.replica().elected_by(&[3]);
        assert_eq!(probing.core.status().role, RoleName::Leader);
        let said = probing.hears(2, 8, said[0].body.clone()).unwrap();
        let probe = said.iter().find_map(|message| match &message.body {
            MessageBody::Append(append) if message.to.0 == 2 => {
                Some((append.prev.term.0, append.prev.index.0))
            }
            _ => None,
        });
        assert_eq!(probe, Some(next), "{leader:?} and {log:?}");
    }
}

/// Raft's figure 7: whatever a follower's log looks like, the leader's replaces it, with at most one
/// refusal for each term the follower has and the leader has not.
#[test]
fn every_log_of_figure_7_is_brought_into_line() {
    let leaders = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    #[rustfmt::skip]
    let logs: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for log in logs {
        let mut leader = Start { log: &leaders, term: 7, ..Start::default() }.replica();
        let mut follower = Start { id: 2, log, term: 7, ..Start::default() }.replica();
        leader.core.campaign(leader.now);
        leader.says();
        let mut wire = leader.hears(3, 8, MessageBody::VoteReply { granted: true }).unwrap();
        let mut refusals = 0;
        while let Some(message) = (!wire.is_empty()).then(|| wire.remove(0)) {
            let receiver = match message.to.0 {
                1 => &mut leader,
                2 => &mut follower,
                _ => continue,
            };
            refusals +=
                u32::from(matches!(message.body, MessageBody::AppendReply(AppendReply::Rejected { .. })));
            receiver.core.step(receiver.now, message.from, message).unwrap();
            wire.extend(receiver.says());
        }
        assert_eq!(follower.log(), leader.log(), "{log:?}");
        assert!(refusals <= 2, "{refusals} refusals for {log:?}");
        assert_eq!(leader.commit(), 11);
    }
}

#[test]
fn entries_that_come_in_the_wrong_order_are_refused_and_then_taken() {
    let mut follower = Start { id: 2, voters: 2, term: 1, ..Start::default() }.replica();
    let second = follower.hears(1, 1, append((1, 1), &[1], 0)).unwrap();
    assert_eq!(second[0].body, rejected(1, LogId::default(), 0));
    follower.hears(1, 1, append((0, 0), &[1], 0)).unwrap();
    assert_eq!(follower.log(), [1]);
    follower.hears(1, 1, append((1, 1), &[1], 0)).unwrap();
    assert_eq!(follower.log(), [1, 1]);

    // The late refusal does not take the leader behind what it knows to be there.
    let mut leader = Start { voters: 2, ..Start::default() }.replica().elected_by(&[2]);
    leader.core.propose(leader.now, "x".into()).unwrap();
    leader.says();
    leader.hears(2, 1, accepted(1)).unwrap();
    leader.core.report_unreachable(ReplicaId(2));
    leader.hears(2, 1, rejected(1, LogId::default(), 0)).ok();
    let (_, progress) = leader.core.progress().next().unwrap();
    assert!(progress.next > progress.matched);
}
