//! How a replica changes its role, and what of its earlier role counts no more (Raft §5.1, §5.2).

use std::time::Duration;

use quorate_core::{
    LogId, LogIndex, MessageBody, MonoTime, PersistToken, Rejected, ReplicaId, RoleName, VoteRequest,
};

use crate::replica::{Replica, Start, append};

const ROLES: [RoleName; 4] =
    [RoleName::Follower, RoleName::PreCandidate, RoleName::Candidate, RoleName::Leader];

fn in_role(role: RoleName) -> Replica {
    let pre_vote = role == RoleName::PreCandidate;
    let mut replica = Start { pre_vote, term: 2, ..Start::default() }.replica();
    match role {
        RoleName::Follower => {}
        RoleName::PreCandidate | RoleName::Candidate => {
            replica.core.campaign(replica.now);
            replica.says();
        }
        RoleName::Leader => replica = replica.elected_by(&[2]),
    }
    assert_eq!(replica.core.status().role, role);
    replica
}

const fn heartbeat() -> MessageBody {
    MessageBody::Heartbeat { commit: LogIndex(0), read_round: 0 }
}

#[test]
fn a_replica_starts_as_a_follower_without_a_leader() {
    for (log, term, commit) in [(&[][..], 0, 0), (&[1, 1], 1, 2), (&[1, 3], 7, 1)] {
        let replica = Start { log, term, commit, ..Start::default() }.replica();
        let status = replica.core.status();
        assert_eq!((status.role, status.leader), (RoleName::Follower, None));
        assert_eq!((status.term.0, status.commit.0), (term, commit));
    }
}

#[test]
fn a_later_term_makes_a_follower_of_everybody() {
    let vote = MessageBody::Vote(VoteRequest { last: LogId::default(), transfer: false });
    for role in ROLES {
        for (body, leader) in [(append((0, 0), &[], 0), true), (heartbeat(), true), (vote.clone(), false)] {
            let mut replica = in_role(role);
            replica.hears(3, 9, body).unwrap();
            let status = replica.core.status();
            assert_eq!((status.role, status.term.0), (RoleName::Follower, 9), "{role}");
            assert_eq!(status.leader, leader.then_some(ReplicaId(3)), "{role}");
        }
    }
}

#[test]
fn a_candidate_gives_way_to_the_leader_of_its_term_or_a_later_one() {
    for role in [RoleName::PreCandidate, RoleName::Candidate] {
        for body in [append((0, 0), &[], 0), heartbeat()] {
            for later in [0, 1] {
                let mut replica = in_role(role);
                let term = replica.core.status().term.0 + later;
                replica.hears(2, term, body.clone()).unwrap();
                let status = replica.core.status();
                assert_eq!((status.role, status.term.0), (RoleName::Follower, term));
                assert_eq!(status.leader, Some(ReplicaId(2)));
            }
        }
    }
}

#[test]
fn what_an_old_term_says_is_void() {
    for role in ROLES {
        let mut replica = in_role(role);
        let before = replica.core.status().last;
        assert_eq!(
            replica.hears(2, replica.core.status().term.0 - 1, append((0, 0), &[1], 1)),
            Err(Rejected::OldTerm)
        );
        let status = replica.core.status();
        assert_eq!((status.role, status.last), (role, before), "nothing changed");
    }
}

/// What a replica wants written now, not done yet.
fn write(replica: &mut Replica) -> PersistToken {
    replica.core.ready().persist.unwrap().token
}

/// A candidate's own vote becomes durable after it has learned that another won.
#[test]
fn an_own_vote_that_comes_too_late_counts_for_nothing() {
    let mut replica = Start::default().replica();
    replica.core.campaign(replica.now);
    let vote = write(&mut replica);
    replica.hears_only(2, 1, heartbeat());
    replica.core.on_persisted(replica.now, vote);
    assert_eq!(replica.core.status().role, RoleName::Follower);
    replica.hears(3, 1, MessageBody::VoteReply { granted: true }).unwrap();
    assert_eq!(replica.core.status().role, RoleName::Follower);
}

/// The same after a pre-vote: what it was granted before says nothing about the real election.
#[test]
fn pre_votes_count_for_nothing_in_the_election() {
    let mut replica = Start { pre_vote: true, ..Start::default() }.replica();
    replica.core.campaign(replica.now);
    for voter in [2, 3] {
        replica.hears_only(voter, 1, MessageBody::PreVoteReply { granted: true });
    }
    assert_eq!(replica.core.status().role, RoleName::Candidate);
    let own = write(&mut replica);
    // One vote and its own that is not durable: not two.
    replica.hears_only(2, 1, MessageBody::VoteReply { granted: true });
    assert_eq!(replica.core.status().role, RoleName::Candidate);
    replica.core.on_persisted(replica.now, own);
    assert_eq!(replica.core.status().role, RoleName::Leader);
}

/// A leader's own write becomes durable after another has won a later term.
#[test]
fn an_own_write_that_comes_too_late_commits_nothing() {
    let mut replica = in_role(RoleName::Leader);
    replica.core.propose(replica.now, "x".into()).unwrap();
    let own = write(&mut replica);
    replica.hears_only(2, 9, heartbeat());
    replica.core.on_persisted(replica.now, own);
    let status = replica.core.status();
    assert_eq!((status.role, status.commit), (RoleName::Follower, LogIndex(0)));
}

#[test]
fn a_leader_that_is_asked_to_campaign_goes_on_leading() {
    for pre_vote in [false, true] {
        let mut replica = Start { voters: 1, pre_vote, ..Start::default() }.replica();
        replica.core.campaign(replica.now);
        replica.says();
        replica.core.campaign(replica.now);
        replica.says();
        let status = replica.core.status();
        assert_eq!((status.role, status.term.0), (RoleName::Leader, 1));
    }
}

/// With every seed between one and two timeouts, and all parts of that are used.
#[test]
fn timeouts_are_spread_between_one_and_two() {
    let timeout = Duration::from_secs(1);
    for role in [RoleName::Follower, RoleName::Candidate] {
        let mut tenths = [0; 10];
        for seed in 0..500 {
            let mut replica = in_role(role);
            replica.core.reseed(seed);
            match role {
                RoleName::Candidate => replica.core.campaign(replica.now),
                _ => replica.hears_only(2, 2, heartbeat()),
            }
            replica.says();
            let after = replica.core.next_deadline().since(MonoTime(0));
            assert!(after >= timeout && after < timeout * 2, "{after:?}");
            let tenth = usize::try_from((after - timeout).as_millis() / 100).unwrap();
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|count| *count > 20), "{role}: {tenths:?}");
    }
}
