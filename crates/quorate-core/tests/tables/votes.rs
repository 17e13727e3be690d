//! Who gets a vote (Raft §5.2, §5.4.1).

use quorate_core::{LogId, MessageBody, ReplicaId, RoleName, VoteRequest};

use crate::replica::{Replica, Start};

fn ask(pre: bool, last: LogId) -> MessageBody {
    let request = VoteRequest { last, transfer: false };
    if pre { MessageBody::PreVote(request) } else { MessageBody::Vote(request) }
}

/// Whether 2 gets what it asks for in `term`; nothing when it is not answered.
fn granted(replica: &mut Replica, pre: bool, term: u64, last: LogId) -> Option<bool> {
    let said = replica.hears(2, term, ask(pre, last)).ok()?;
    said.iter().find_map(|message| match message.body {
        MessageBody::VoteReply { granted } if !pre => Some(granted),
        MessageBody::PreVoteReply { granted } if pre => Some(granted),
        _ => None,
    })
}

/// A log that ends later is one whose last term is later, or the same at a later index.
#[test]
fn a_vote_needs_a_log_that_ends_as_late() {
    for log in [&[1][..], &[1, 1], &[2], &[2, 2], &[1, 2, 2]] {
        let own = LogId::new(*log.last().unwrap(), log.len() as u64);
        for (term, index) in (1..=3).flat_map(|term| (1..=4).map(move |index| (term, index))) {
            for pre in [false, true] {
                let mut voter = Start { log, term: 3, commit: 0, ..Start::default() }.replica();
                let last = LogId::new(term, index);
                let as_late = term > own.term.0 || (term == own.term.0 && index >= own.index.0);
                assert_eq!(granted(&mut voter, pre, 4, last), Some(as_late), "{log:?} {last} pre={pre}");
            }
        }
        let mut voter = Start { log, term: 3, ..Start::default() }.replica();
        assert_eq!(granted(&mut voter, false, 4, LogId::default()), Some(false), "an empty log");
    }
}

#[test]
fn one_vote_in_a_term_for_whoever_comes_first() {
    // Who has the vote already, who asks, whether it is given.
    for (has, asks, given) in
        [(0, 2, true), (0, 3, true), (2, 2, true), (3, 3, true), (2, 3, false), (3, 2, false)]
    {
        let mut voter = Start { term: 1, vote: has, ..Start::default() }.replica();
        let said = voter.hears(asks, 1, ask(false, LogId::default())).unwrap();
        assert_eq!(said.len(), 1);
        assert_eq!(said[0].body, MessageBody::VoteReply { granted: given }, "has {has}, asks {asks}");
        assert_eq!(said[0].to, ReplicaId(asks));
        let kept = if has > 0 { has } else { asks };
        assert_eq!(voter.core.status().vote, Some(ReplicaId(kept)));
    }
}

/// A replica in each role, in term 1 (a candidate for it, a pre-candidate before it).
fn in_role(role: RoleName) -> Replica {
    let pre_vote = role == RoleName::PreCandidate;
    let mut replica = Start { pre_vote, ..Start::default() }.replica();
    match role {
        RoleName::Follower => {}
        RoleName::PreCandidate | RoleName::Candidate => {
            replica.core.campaign(replica.now);
            replica.says();
        }
        RoleName::Leader => replica = replica.elected_by(&[3]),
    }
    assert_eq!(replica.core.status().role, role);
    replica
}

const ROLES: [RoleName; 4] =
    [RoleName::Follower, RoleName::PreCandidate, RoleName::Candidate, RoleName::Leader];

#[test]
fn a_later_term_gets_a_vote_from_every_role() {
    for role in ROLES {
        let mut replica = in_role(role);
        let term = replica.core.status().term.0 + 1;
        assert_eq!(granted(&mut replica, false, term, LogId::new(term - 1, 42)), Some(true), "{role}");
        let status = replica.core.status();
        assert_eq!((status.role, status.term.0), (RoleName::Follower, term));
        assert_eq!(status.vote, Some(ReplicaId(2)));
    }
}

#[test]
fn a_pre_vote_changes_nothing_in_any_role() {
    for role in ROLES {
        let mut replica = in_role(role);
        let before = replica.core.clone();
        let term = replica.core.status().term.0 + 1;
        assert_eq!(granted(&mut replica, true, term, LogId::new(term - 1, 42)), Some(true), "{role}");
        let (now, before) = (replica.core.status(), before.status());
        assert_eq!((now.role, now.term, now.vote), (before.role, before.term, before.vote));
    }
}

#[test]
fn a_vote_of_the_own_term_is_refused_by_everybody_who_campaigned() {
    for role in [RoleName::Candidate, RoleName::Leader] {
        let mut replica = in_role(role);
        let term = replica.core.status().term.0;
        assert_eq!(granted(&mut replica, false, term, LogId::new(term, 42)), Some(false), "{role}");
        assert_eq!(replica.core.status().role, role);
    }
}

/// A voter by the candidate's members, a learner by its own: it may have been promoted without
/// knowing, and the group may need it.
#[test]
fn a_learner_votes_when_it_is_asked() {
    let mut learner = Start { id: 2, voters: 1, learners: 1, ..Start::default() }.replica();
    let said = learner.hears(1, 2, ask(false, LogId::new(1, 11))).unwrap();
    assert_eq!(said[0].body, MessageBody::VoteReply { granted: true });
}
