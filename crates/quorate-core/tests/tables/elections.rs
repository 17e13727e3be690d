//! Who wins an election (Raft §5.2).

use std::collections::BTreeMap;

use quorate_core::{LogId, LogIndex, MessageBody, ReplicaId, RoleName, VoteRequest};

use crate::replica::{Replica, Start};

#[test]
fn an_election_is_decided_by_the_answers_of_a_majority() {
    use RoleName::{Candidate, Follower, Leader};
    #[rustfmt::skip]
    let table: [(u64, &[(u64, bool)], RoleName); 13] = [
        (1, &[], Leader),
        (3, &[(2, true), (3, true)], Leader),
        (3, &[(2, true)], Leader),
        (5, &[(2, true), (3, true), (4, true), (5, true)], Leader),
        (5, &[(2, true), (3, true), (4, true)], Leader),
        (5, &[(2, true), (3, true)], Leader),
        (3, &[(2, false), (3, false)], Follower),
        (5, &[(2, false), (3, false), (4, false), (5, false)], Follower),
        (5, &[(2, true), (3, false), (4, false), (5, false)], Follower),
        (3, &[], Candidate),
        (5, &[(2, true)], Candidate),
        (5, &[(2, false), (3, false)], Candidate),
        (5, &[], Candidate),
    ];
    for (voters, answers, role) in table {
        let mut replica = Start { voters, ..Start::default() }.replica();
        replica.core.campaign(replica.now);
        replica.says();
        for (from, granted) in answers {
            replica.hears(*from, 1, MessageBody::VoteReply { granted: *granted }).unwrap();
        }
        let status = replica.core.status();
        assert_eq!((status.role, status.term.0), (role, 1), "{voters} voters, {answers:?}");
    }
}

/// Replicas of one group that all hear each other at once.
struct Group(BTreeMap<u64, Replica>);

impl Group {
    /// `logs` of those that are alive; the others are dead. 1 campaigns.
    fn new(voters: u64, pre_vote: bool, logs: &[(u64, &[u64])]) -> Self {
        let start = |(id, log): &(u64, &[u64])| {
            let term = log.last().copied().unwrap_or(0);
            (*id, Start { id: *id, voters, log, term, pre_vote, ..Start::default() }.replica())
        };
        Self(logs.iter().map(start).collect())
    }

    fn campaign(&mut self, id: u64) -> (RoleName, u64) {
        let replica = self.0.get_mut(&id).unwrap();
        replica.core.campaign(replica.now);
        let mut wire = replica.says();
        while let Some(message) = (!wire.is_empty()).then(|| wire.remove(0)) {
            if let Some(receiver) = self.0.get_mut(&message.to.0) {
                let (now, from) = (receiver.now, message.from);
                receiver.core.step(now, from, message).ok();
                wire.extend(receiver.says());
            }
        }
        let status = self.0[&id].core.status();
        (status.role, status.term.0)
    }
}

#[test]
fn an_election_needs_a_majority_that_is_alive() {
    use RoleName::{Candidate, Leader, PreCandidate};
    #[rustfmt::skip]
    let table: [(u64, &[u64], bool); 5] = [
        (3, &[1, 2, 3], true),
        (3, &[1, 2], true),
        (3, &[1], false),
        (4, &[1, 4], false),
        (5, &[1, 4, 5], true),
    ];
    for (voters, alive, wins) in table {
        for pre_vote in [false, true] {
            let logs: Vec<(u64, &[u64])> = alive.iter().map(|id| (*id, &[][..])).collect();
            let (role, term) = Group::new(voters, pre_vote, &logs).campaign(1);
            let (lost, lost_term) = if pre_vote { (PreCandidate, 0) } else { (Candidate, 1) };
            let expected = if wins { (Leader, 1) } else { (lost, lost_term) };
            assert_eq!((role, term), expected, "{voters} voters, {alive:?} alive, pre_vote={pre_vote}");
        }
    }
}

#[test]
fn a_candidate_with_the_shorter_log_is_refused_by_a_majority() {
    let logs: [(u64, &[u64]); 5] = [(1, &[]), (2, &[1]), (3, &[1]), (4, &[1, 1]), (5, &[])];
    let (role, _) = Group::new(5, false, &logs).campaign(1);
    assert_eq!(role, RoleName::Follower);
}

/// Replicas 1 and 2 hold an entry of term 1, replica 3 one of term 2, and 4 and 5 only voted in term 2: whoever wins
/// now decides, and may overwrite the entry of the later term.
#[test]
fn a_new_leader_may_lack_the_newest_uncommitted_entry() {
    for pre_vote in [false, true] {
        let mut group = Group::new(5, pre_vote, &[(1, &[1]), (2, &[1]), (3, &[2]), (4, &[]), (5, &[])]);
        for voter in [4, 5] {
            let (term, vote) = (2, 3);
            let replica = Start { id: voter, voters: 5, term, vote, pre_vote, ..Start::default() }.replica();
            group.0.insert(voter, replica);
        }
        // A quorum knows of term 2: this teaches it to 1.
        let first = group.campaign(1);
        assert_eq!(first, (RoleName::Follower, 2), "pre_vote={pre_vote}");
        assert_eq!(group.campaign(1), (RoleName::Leader, 3));
        for replica in group.0.values() {
            assert_eq!(replica.log(), [1, 3]);
        }
    }
}

#[test]
fn everybody_can_lead_in_turn() {
    for pre_vote in [false, true] {
        let mut group = Group::new(3, pre_vote, &[(1, &[]), (2, &[]), (3, &[])]);
        for id in 1..=3 {
            assert_eq!(group.campaign(id), (RoleName::Leader, id));
            let leaders = group.0.values().filter(|replica| replica.core.status().role == RoleName::Leader);
            assert_eq!(leaders.count(), 1);
        }
    }
}

/// A vote request says how the candidate's log ends, and goes to every other voter.
#[test]
fn a_vote_request_tells_how_the_log_ends() {
    for log in [&[1][..], &[1, 2], &[1, 1, 4]] {
        let term = *log.last().unwrap();
        let mut replica = Start { log, term, learners: 1, ..Start::default() }.replica();
        replica.core.campaign(replica.now);
        let said = replica.says();
        let last = LogId::new(term, log.len() as u64);
        let request = MessageBody::Vote(VoteRequest { last, transfer: false });
        let to: Vec<ReplicaId> = said.iter().map(|message| message.to).collect();
        assert_eq!(to, [ReplicaId(2), ReplicaId(3)], "voters only");
        assert!(said.iter().all(|message| message.body == request && message.term.0 == term + 1));
    }
}

#[test]
fn only_a_voter_of_its_own_members_campaigns() {
    // Voters, learners, who campaigns, whether it does.
    for (voters, learners, id, does) in [(1, 0, 1, true), (3, 0, 1, true), (3, 0, 4, false), (2, 1, 3, false)]
    {
        let mut replica = Start { id, voters, learners, ..Start::default() }.replica();
        replica.core.campaign(replica.now);
        replica.says();
        let campaigns = replica.core.status().role != RoleName::Follower;
        assert_eq!(campaigns, does, "{id} of {voters} voters and {learners} learners");
    }
}

/// Whoever is no voter by its own members does not campaign when its leader tells it to, and does not lead
/// whatever answers come.
#[test]
fn a_call_to_campaign_means_nothing_to_who_is_no_voter() {
    for (voters, learners, id) in [(3, 0, 4), (2, 1, 3)] {
        let mut replica = Start { id, voters, learners, ..Start::default() }.replica();
        replica.hears(1, 1, MessageBody::Heartbeat { commit: LogIndex(0), read_round: 0 }).unwrap();
        replica.hears(1, 1, MessageBody::TimeoutNow).unwrap();
        for voter in [1, 2] {
            replica.hears(voter, 1, MessageBody::VoteReply { granted: true }).unwrap();
        }
        let status = replica.core.status();
        assert_eq!((status.role, status.term.0), (RoleName::Follower, 1));
    }
}
