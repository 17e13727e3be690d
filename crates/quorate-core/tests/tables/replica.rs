//! A replica in the state that a row of a table asks for, and what it answers.

use std::sync::Arc;

use quorate_core::{
    Append, AppendReply, Config, Entry, EntryPayload, Fetch, HardState, LogId, LogIndex, Member, MemberRole,
    Membership, Message, MessageBody, MonoTime, NodeId, RawNode, Rejected, ReplicaId, Restored, Term,
};

/// What a replica is before the row begins. Log entries are given by their terms, from index 1.
pub(crate) struct Start<'a> {
    pub(crate) id: u64,
    pub(crate) voters: u64,
    pub(crate) learners: u64,
    /// The log begins after a snapshot that ends here (term, index).
    pub(crate) after: (u64, u64),
    pub(crate) log: &'a [u64],
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) commit: u64,
    pub(crate) pre_vote: bool,
    pub(crate) check_quorum: bool,
    /// The window to a follower, in appends and in bytes.
    pub(crate) window: (usize, u64),
}

impl Default for Start<'_> {
    fn default() -> Self {
        Self {
            id: 1,
            voters: 3,
            learners: 0,
            after: (0, 0),
            log: &[],
            term: 0,
            vote: 0,
            commit: 0,
            pre_vote: false,
            check_quorum: false,
            window: (256, 1 << 20),
        }
    }
}

/// A replica whose writes are durable as soon as it is asked what it has to say.
pub(crate) struct Replica {
    pub(crate) core: RawNode,
    pub(crate) now: MonoTime,
    /// The terms of what was in the log at first, for when the core asks for it.
    restored: Vec<u64>,
    /// To whom it wanted a snapshot to be streamed.
    pub(crate) snapshots: Vec<ReplicaId>,
}

impl Start<'_> {
    pub(crate) fn replica(self) -> Replica {
        let member = |id: u64| Member {
            node: NodeId(id),
            role: if id <= self.voters { MemberRole::Voter } else { MemberRole::Learner },
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = (1..=self.voters + self.learners).map(member).collect();
        let membership = Arc::new(Membership::initial(members).unwrap());
        let mut term_runs: Vec<LogId> = Vec::new();
        for (index, term) in (self.after.1 + 1..).zip(self.log) {
            if term_runs.last().is_none_or(|run| run.term.0 < *term) {
                term_runs.push(LogId::new(*term, index));
            }
        }
        let vote = (self.vote > 0).then_some(ReplicaId(self.vote));
        let restored = Restored {
            hard_state: HardState { term: Term(self.term), vote, commit: LogIndex(self.commit) },
            compacted: LogId::new(self.after.0, self.after.1),
            term_runs,
            last: LogIndex(self.after.1 + self.log.len() as u64),
            memberships: vec![(LogId::default(), membership)],
            applied: LogIndex(self.commit.max(self.after.1)),
            ..Restored::default()
        };
        let config = Config {
            pre_vote: self.pre_vote,
            check_quorum: self.check_quorum,
            inflight_messages_max: self.window.0,
            inflight_bytes_max: self.window.1,
            ..Config::new(ReplicaId(self.id))
        };
        let core = RawNode::new(config, restored, MonoTime(0)).unwrap();
        Replica { core, now: MonoTime(0), restored: self.log.to_vec(), snapshots: Vec::new() }
    }
}

impl Replica {
    /// What it has to say; all its writes are durable at once.
    pub(crate) fn says(&mut self) -> Vec<Message> {
        let mut said = Vec::new();
        while self.core.has_ready() {
            let ready = self.core.ready();
            said.extend(ready.send);
            if let Some(persist) = ready.persist {
                self.core.on_persisted(self.now, persist.token);
            }
            if let Some(last) = ready.apply.last() {
                self.core.on_applied(self.now, last.index());
            }
            for fetch in ready.fetch {
                match fetch {
                    Fetch::Entries { from, to, .. } => {
                        let entries = (1..).zip(&self.restored).map(|(index, term)| entry(*term, index));
                        let wanted = entries.filter(|entry| from <= entry.index() && entry.index() < to);
                        self.core.on_fetched(self.now, from, wanted.collect());
                    }
                    Fetch::SendSnapshot { to, .. } => self.snapshots.push(to),
                }
            }
        }
        said
    }

    /// Hears `body` from `from` in `term`, and answers.
    pub(crate) fn hears(
        &mut self,
        from: u64,
        term: u64,
        body: MessageBody,
    ) -> Result<Vec<Message>, Rejected> {
        let message =
            Message { from: ReplicaId(from), to: self.core.status().id, term: Term(term), epoch: 0, body };
        self.core.step(self.now, ReplicaId(from), message)?;
        Ok(self.says())
    }

    /// Hears `body`, without a turn of its own.
    pub(crate) fn hears_only(&mut self, from: u64, term: u64, body: MessageBody) {
        let message =
            Message { from: ReplicaId(from), to: self.core.status().id, term: Term(term), epoch: 0, body };
        self.core.step(self.now, ReplicaId(from), message).unwrap();
    }

    /// Campaigns, and gets the votes of `voters`.
    pub(crate) fn elected_by(mut self, voters: &[u64]) -> Self {
        self.core.campaign(self.now);
        self.says();
        let term = self.core.status().term.0;
        for voter in voters {
            self.hears(*voter, term, MessageBody::VoteReply { granted: true }).unwrap();
        }
        self
    }

    /// The terms of the whole log.
    pub(crate) fn log(&self) -> Vec<u64> {
        let last = self.core.status().last.index.0;
        (1..=last).map(|index| self.core.term_at(LogIndex(index)).unwrap().0).collect()
    }

    pub(crate) fn commit(&self) -> u64 {
        self.core.status().commit.0
    }
}

pub(crate) fn entry(term: u64, index: u64) -> Entry {
    Entry { id: LogId::new(term, index), payload: EntryPayload::Noop }
}

/// An append after `prev` (term, index) of entries with these terms.
pub(crate) fn append(prev: (u64, u64), terms: &[u64], commit: u64) -> MessageBody {
    let entries = (prev.1 + 1..).zip(terms).map(|(index, term)| entry(*term, index)).collect();
    MessageBody::Append(Append {
        prev: LogId::new(prev.0, prev.1),
        entries,
        commit: LogIndex(commit),
        read_round: 0,
    })
}

/// Everything up to `matched` is there.
pub(crate) const fn accepted(matched: u64) -> MessageBody {
    MessageBody::AppendReply(AppendReply::Accepted { matched: LogIndex(matched), read_round: 0 })
}

/// `prev` is not there; the highest that could match is `hint`, the last is `last`.
pub(crate) const fn rejected(prev: u64, hint: LogId, last: u64) -> MessageBody {
    MessageBody::AppendReply(AppendReply::Rejected { prev: LogIndex(prev), hint, last: LogIndex(last) })
}
