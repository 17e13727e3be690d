//! Raft as figure 2 of the paper has it, for one replica, as short and as plain as it can be written: whole logs of
//! terms, no windows, no progress, no disk, no time. What the core does may be cleverer; it may not be different.
//!
//! Four things are ours and not the paper's: a heartbeat stands for an append after what this leader has
//! proved to match; a candidate that a majority refused gives up; who knows the leader of a term votes for
//! nobody else in it; and a leader that takes a follower's log for lost counts it for nothing until it
//! acknowledges again. It may be wrong about that, here always: rejections arrive late, and twice.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::{AppendReply, Message, MessageBody, RoleName};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    Follower { leader: Option<u64>, proved: usize },
    Candidate { answers: BTreeMap<u64, bool> },
    Leader { matched: BTreeMap<u64, usize> },
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    id: u64,
    voters: BTreeSet<u64>,
    term: u64,
    vote: Option<u64>,
    /// The terms of all entries: that of index 1 first.
    log: Vec<u64>,
    commit: usize,
    role: Role,
}

/// What can be seen of a replica from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) role: RoleName,
    pub(crate) term: u64,
    pub(crate) vote: Option<u64>,
    pub(crate) leader: Option<u64>,
    pub(crate) log: Vec<u64>,
    pub(crate) commit: usize,
}

/// What it answers to whoever spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Vote(bool),
    Accepted(usize),
    Rejected,
}

impl Model {
    pub(crate) fn new(id: u64, voters: u64) -> Self {
        let role = Role::Follower { leader: None, proved: 0 };
        Self { id, voters: (1..=voters).collect(), term: 0, vote: None, log: Vec::new(), commit: 0, role }
    }

    pub(crate) fn view(&self) -> View {
        let (role, leader) = match &self.role {
            Role::Follower { leader, .. } => (RoleName::Follower, *leader),
            Role::Candidate { .. } => (RoleName::Candidate, None),
            Role::Leader { .. } => (RoleName::Leader, Some(self.id)),
        };
        let (term, vote, log, commit) = (self.term, self.vote, self.log.clone(), self.commit);
        View { role, term, vote, leader, log, commit }
    }

    /// It starts again with what is durable: all but its role, and as much of its commit index as was written.
    pub(crate) fn restart(&mut self, commit: usize) {
        self.role = Role::Follower { leader: None, proved: 0 };
        self.commit = commit;
    }

    /// "On conversion to candidate: increment currentTerm, vote for self."
    pub(crate) fn campaign(&mut self) {
        if matches!(self.role, Role::Leader { .. }) {
            return;
        }
        self.term += 1;
        self.vote = Some(self.id);
        self.role = Role::Candidate { answers: BTreeMap::from([(self.id, true)]) };
        self.count_votes();
    }

    /// "If command received from client: append entry to local log."
    pub(crate) fn propose(&mut self) {
        if matches!(self.role, Role::Leader { .. }) {
            self.log.push(self.term);
            self.count_copies();
        }
    }

    fn count_votes(&mut self) {
        let Role::Candidate { answers } = &self.role else { return };
        let majority = self.voters.len() / 2 + 1;
        let granted = answers.values().filter(|granted| **granted).count();
        if granted >= majority {
            self.role = Role::Leader { matched: BTreeMap::new() };
            // The empty entry of §8.
            self.log.push(self.term);
            self.count_copies();
        } else if self.voters.len() - (answers.len() - granted) < majority {
            self.role = Role::Follower { leader: None, proved: 0 };
        }
    }

    /// "If there exists an N > commitIndex that a majority has, and log[N].term == currentTerm: set commitIndex = N."
    fn count_copies(&mut self) {
        let Role::Leader { matched } = &self.role else { return };
        let has = |id: &u64, index: usize| *id == self.id || matched.get(id).is_some_and(|at| *at >= index);
        let reached = (self.commit + 1..=self.log.len()).rev().find(|index| {
            let copies = self.voters.iter().filter(|id| has(id, *index)).count();
            copies * 2 > self.voters.len() && self.log[index - 1] == self.term
        });
        self.commit = reached.unwrap_or(self.commit);
    }

    /// The leader takes the log of `follower` for lost.
    pub(crate) fn doubt(&mut self, follower: u64) {
        if let Role::Leader { matched } = &mut self.role {
            matched.remove(&follower);
        }
    }

    /// A message arrives. What it answers, where figure 2 has it answer.
    pub(crate) fn hear(&mut self, message: &Message) -> Option<Answer> {
        let (from, term) = (message.from.0, message.term.0);
        if let MessageBody::Vote(request) = message.body {
            let last = (request.last.term.0, usize::try_from(request.last.index.0).unwrap());
            self.follow_term(term);
            return Some(Answer::Vote(self.vote_for(from, term, last)));
        }
        if term < self.term {
            return None;
        }
        self.follow_term(term);
        match &message.body {
            MessageBody::VoteReply { granted } => {
                if let Role::Candidate { answers } = &mut self.role {
                    answers.entry(from).or_insert(*granted);
                    self.count_votes();
                }
                None
            }
            MessageBody::Append(append) => {
                self.follow(from);
                let terms: Vec<u64> = append.entries.iter().map(|entry| entry.term().0).collect();
                let prev = (append.prev.term.0, usize::try_from(append.prev.index.0).unwrap());
                Some(self.append(prev, &terms, usize::try_from(append.commit.0).unwrap()))
            }
            MessageBody::Heartbeat { commit, .. } => {
                self.follow(from);
                if let Role::Follower { proved, .. } = self.role {
                    self.commit = self.commit.max(proved.min(usize::try_from(commit.0).unwrap()));
                }
                None
            }
            MessageBody::AppendReply(AppendReply::Accepted { matched: at, .. }) => {
                if let Role::Leader { matched } = &mut self.role {
                    let known = matched.entry(from).or_default();
                    *known = (*known).max(usize::try_from(at.0).unwrap());
                    self.count_copies();
                }
                None
            }
            MessageBody::AppendReply(AppendReply::Rejected { .. })
            | MessageBody::HeartbeatReply { .. }
            | MessageBody::Vote(_) => None,
            MessageBody::PreVote(_)
            | MessageBody::PreVoteReply { .. }
            | MessageBody::InstallSnapshot(_)
            | MessageBody::TimeoutNow
            | MessageBody::ReadIndex { .. }
            | MessageBody::ReadIndexReply { .. }
            | MessageBody::Quiesce { .. }
            | MessageBody::RequestSnapshot { .. } => panic!("nobody says this here: {message:?}"),
        }
    }

    /// "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower."
    fn follow_term(&mut self, term: u64) {
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.role = Role::Follower { leader: None, proved: 0 };
        }
    }

    /// `from` leads this term.
    fn follow(&mut self, from: u64) {
        if !matches!(self.role, Role::Follower { leader: Some(leader), .. } if leader == from) {
            self.role = Role::Follower { leader: Some(from), proved: 0 };
        }
    }

    /// "Reply false if term < currentTerm. If votedFor is null or candidateId, and candidate's log is at least as
    /// up-to-date as receiver's log, grant vote."
    fn vote_for(&mut self, candidate: u64, term: u64, last: (u64, usize)) -> bool {
        let own = (self.log.last().copied().unwrap_or(0), self.log.len());
        let free = self.vote.is_none() && self.view().leader.is_none();
        let grants = term == self.term && last >= own && (free || self.vote == Some(candidate));
        if grants {
            self.vote = Some(candidate);
        }
        grants
    }

    /// AppendEntries, 2 to 5.
    fn append(&mut self, prev: (u64, usize), terms: &[u64], commit: usize) -> Answer {
        let (prev_term, prev) = prev;
        let there = prev == 0 || self.log.get(prev - 1) == Some(&prev_term);
        if !there {
            return Answer::Rejected;
        }
        for (at, term) in (prev..).zip(terms) {
            if self.log.get(at).is_some_and(|existing| existing != term) {
                self.log.truncate(at);
            }
            if at == self.log.len() {
                self.log.push(*term);
            }
        }
        let end = prev + terms.len();
        self.commit = self.commit.max(commit.min(end));
        if let Role::Follower { proved, .. } = &mut self.role {
            *proved = (*proved).max(end);
        }
        Answer::Accepted(end)
    }
}
