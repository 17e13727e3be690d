//! Turns what replicas tell into the trace that etcd-io/raft's specification of Raft is checked with
//! (`docs/tla.md`): one line of JSON per step that the specification knows.
//!
//! ```text
//!   events of all replicas, in order ──► Writer ──► {"tag":"trace","ts":…,"event":{"name":…,"nid":…,…}}
//!                                          │
//!                                 one Shadow per replica: its state, rebuilt from nothing but events
//! ```
//!
//! * A line's state is the state at that moment: *before* a message is handled, *after* a role
//!   changed, a message was made or the commit index moved.
//! * The specification lets a replica vote for itself and acknowledge its own entries by messages
//!   to itself. Here both are writes; the lines for those messages are made from them.
//! * A pre-candidate is a follower there; pre-votes, reads and the order to campaign leave no lines.
//! * A message that had no effect (it did not pass the gate; a voter stayed with its leader) was
//!   lost, as far as the specification is concerned.
//! * What the specification cannot follow ends the trace with the reason; the shadows go on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use quorate_core::{
    Append, AppendReply, LogId, LogIndex, Message, MessageBody, RaftEvent, Rejected, ReplicaId, RoleName,
    SnapshotTaken, Term, VoteRefusal,
};

use crate::cluster::{Start, Told};

/// What the events so far say of a replica.
#[derive(Clone, Debug)]
pub(crate) struct Shadow {
    pub(crate) term: Term,
    pub(crate) vote: Option<ReplicaId>,
    pub(crate) commit: LogIndex,
    pub(crate) last: LogIndex,
    pub(crate) role: RoleName,
    /// Messages to itself that were made in this term: up to where it has its own log.
    own_acks: BTreeSet<LogIndex>,
    /// A message that it began to handle, and whose effect is not known yet.
    receiving: Option<Receiving>,
    /// Something changed since its last `Ready`.
    changed: bool,
}

#[derive(Clone, Debug)]
struct Receiving {
    line: String,
    name: &'static str,
    term: Term,
}

/// See the module.
pub(crate) struct Writer {
    shadows: BTreeMap<ReplicaId, Shadow>,
    voters: String,
    /// Answers to requests of an old term: (from, to, term).
    refusals_of_old_terms: BTreeSet<(ReplicaId, ReplicaId, Term)>,
    pub(crate) lines: Vec<String>,
    /// Why there are no more lines: the specification has no step for what happened.
    pub(crate) ended: Option<&'static str>,
}

/// A message as the specification sees it.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    kind: &'static str,
    name: &'static str,
    entries: usize,
    log_term: u64,
    index: u64,
    commit: u64,
    reject: bool,
    hint: u64,
}

impl Writer {
    pub(crate) fn new(voters: u64) -> Self {
        let voters = (1..=voters).map(|voter| format!("\"{voter}\"")).collect::<Vec<_>>().join(",");
        let (shadows, refusals_of_old_terms) = (BTreeMap::new(), BTreeSet::new());
        Self { shadows, voters, refusals_of_old_terms, lines: Vec::new(), ended: None }
    }

    /// What the events so far say of `id`.
    pub(crate) fn shadow(&self, id: ReplicaId) -> Option<&Shadow> {
        self.shadows.get(&id)
    }

    /// Takes the next thing that `id` told.
    pub(crate) fn take(&mut self, id: ReplicaId, told: &Told) {
        match told {
            Told::Started(start) => self.start(id, *start),
            Told::Event(event) => {
                if let Some(mut shadow) = self.shadows.remove(&id) {
                    self.event(id, &mut shadow, event);
                    self.shadows.insert(id, shadow);
                }
            }
        }
    }

    /// The specification cannot follow from here on.
    fn end(&mut self, why: &'static str) {
        self.ended = self.ended.or(Some(why));
    }

    fn start(&mut self, id: ReplicaId, start: Start) {
        let Start { term, vote, commit, last } = start;
        let shadow = Shadow {
            term,
            vote,
            commit,
            last,
            role: RoleName::Follower,
            own_acks: BTreeSet::new(),
            receiving: None,
            changed: false,
        };
        self.node_line("InitState", id, &shadow);
        self.shadows.insert(id, shadow);
    }

    fn event(&mut self, id: ReplicaId, shadow: &mut Shadow, event: &RaftEvent) {
        match event {
            RaftEvent::RoleChanged { role, term, .. } => self.role(id, shadow, *role, *term),
            RaftEvent::VoteAnswered { pre: false, candidate, refusal, .. } => {
                self.answered(shadow, *candidate, *refusal);
            }
            RaftEvent::VoteCounted { voter, pre: false, .. } if *voter == id => {
                let said = Said { kind: "MsgVoteResp", name: "RequestVoteResponse", ..Said::default() };
                self.own_line("Receive", id, shadow, &said);
            }
            RaftEvent::EntryAppended { id: at } => self.appended(id, shadow, *at),
            RaftEvent::Truncated { from } => {
                self.flush(shadow);
                shadow.last = from.previous();
            }
            RaftEvent::Committed { index } => {
                self.flush(shadow);
                shadow.commit = *index;
                if shadow.role == RoleName::Leader {
                    self.node_line("Commit", id, shadow);
                }
            }
            RaftEvent::Persisted { through } => {
                if shadow.role == RoleName::Leader && shadow.own_acks.contains(through) {
                    self.own_line("Receive", id, shadow, &own_ack(*through));
                }
            }
            RaftEvent::MessageSent { message } => self.sent(id, shadow, message),
            RaftEvent::MessageReceived { message } => self.received(id, shadow, message),
            RaftEvent::MessageRejected { reason: Rejected::OldTerm, .. } => self.flush(shadow),
            RaftEvent::MessageRejected { .. } => shadow.receiving = None,
            RaftEvent::ReadyTaken => {
                self.flush(shadow);
                if std::mem::take(&mut shadow.changed) {
                    self.node_line("Ready", id, shadow);
                    shadow.changed = false;
                }
            }
            RaftEvent::MembershipChanged { .. } => {
                self.end("members change when their entry is applied, not appended");
            }
            RaftEvent::Compacted { .. }
            | RaftEvent::SnapshotOffered { .. }
            | RaftEvent::SnapshotReceived { taken: SnapshotTaken::Installed, .. } => {
                self.end("a log that does not start at its beginning");
            }
            RaftEvent::QuiescenceChanged { .. } => self.end("a group that rests"),
            RaftEvent::FollowerLostLog { .. } => {
                self.end("a disk that forgets");
            }
            RaftEvent::VoteAnswered { pre: true, .. }
            | RaftEvent::VoteCounted { .. }
            | RaftEvent::AppendRejected { .. }
            | RaftEvent::ProgressChanged { .. }
            | RaftEvent::SnapshotEnded { .. }
            | RaftEvent::SnapshotProgress { .. }
            | RaftEvent::SnapshotReceived { .. }
            | RaftEvent::ReadsServed { .. }
            | RaftEvent::ReadsFailed { .. }
            | RaftEvent::TransferStarted { .. }
            | RaftEvent::TransferEnded { .. } => {}
        }
    }

    fn role(&mut self, id: ReplicaId, shadow: &mut Shadow, role: RoleName, term: Term) {
        if term > shadow.term && role != RoleName::Candidate {
            if shadow.receiving.as_ref().is_none_or(|receiving| receiving.term != term) {
                self.end("a term that spreads by a message without a line");
            }
            self.flush(shadow);
            (shadow.term, shadow.vote, shadow.role) = (term, None, RoleName::Follower);
            shadow.own_acks.clear();
            self.node_line("BecomeFollower", id, shadow);
            return;
        }
        self.flush(shadow);
        match role {
            // It learned who leads, or that nobody does.
            RoleName::Follower | RoleName::PreCandidate if shadow.role == RoleName::Follower => {}
            RoleName::Follower | RoleName::PreCandidate => {
                shadow.role = RoleName::Follower;
                self.node_line("BecomeFollower", id, shadow);
            }
            RoleName::Candidate => {
                (shadow.term, shadow.vote, shadow.role) = (term, Some(id), RoleName::Candidate);
                shadow.own_acks.clear();
                self.node_line("BecomeCandidate", id, shadow);
                let said = Said { kind: "MsgVoteResp", name: "RequestVoteResponse", ..Said::default() };
                self.own_line("Send", id, shadow, &said);
            }
            RoleName::Leader => {
                shadow.role = RoleName::Leader;
                self.node_line("BecomeLeader", id, shadow);
            }
        }
        shadow.changed = true;
    }

    fn answered(&mut self, shadow: &mut Shadow, candidate: ReplicaId, refusal: Option<VoteRefusal>) {
        // There, only another vote of the term stands in the way; here, a leader of the term does too.
        let lost = match refusal {
            Some(VoteRefusal::HeardLeader) => true,
            Some(VoteRefusal::AlreadyVoted) => shadow.vote.is_none(),
            Some(VoteRefusal::LogBehind | VoteRefusal::OldTerm) | None => false,
        };
        if lost {
            shadow.receiving = None;
            return;
        }
        self.flush(shadow);
        if refusal.is_none() {
            shadow.vote = shadow.vote.or(Some(candidate));
        }
    }

    fn appended(&mut self, id: ReplicaId, shadow: &mut Shadow, at: LogId) {
        if shadow.role == RoleName::Leader {
            self.node_line("Replicate", id, shadow);
            shadow.last = at.index;
            shadow.own_acks.insert(at.index);
            self.own_line("Send", id, shadow, &own_ack(at.index));
        } else {
            self.flush(shadow);
            shadow.last = at.index;
        }
        shadow.changed = true;
    }

    fn sent(&mut self, id: ReplicaId, shadow: &mut Shadow, message: &Message) {
        let answers_old_term = matches!(message.body, MessageBody::HeartbeatReply { .. })
            && shadow.receiving.as_ref().is_some_and(|receiving| receiving.term < shadow.term);
        if answers_old_term {
            self.refusals_of_old_terms.insert((message.from, message.to, message.term));
        }
        self.flush(shadow);
        let said = if answers_old_term { Some(refusal_of_an_old_term()) } else { said(&message.body) };
        if let Some(said) = said {
            let line = self.line("Send", id, shadow, message, &said);
            self.stamp(&line);
            shadow.changed = true;
        }
    }

    fn received(&mut self, id: ReplicaId, shadow: &mut Shadow, message: &Message) {
        self.flush(shadow);
        if let MessageBody::Append(append) = &message.body
            && message.term == shadow.term
            && append.prev.index < shadow.commit
        {
            self.end("entries below the commit index, acknowledged up to their end");
        }
        let refusal = matches!(message.body, MessageBody::HeartbeatReply { .. })
            && self.refusals_of_old_terms.contains(&(message.from, message.to, message.term));
        let said = if refusal { Some(refusal_of_an_old_term()) } else { said(&message.body) };
        if let Some(said) = said {
            let line = self.line("Receive", id, shadow, message, &said);
            shadow.receiving = Some(Receiving { line, name: said.name, term: message.term });
        }
    }

    /// The message had an effect: its line stands.
    fn flush(&mut self, shadow: &mut Shadow) {
        if let Some(receiving) = shadow.receiving.take() {
            self.stamp(&receiving.line);
            // Requests are answered, and what a later term brings is to be written.
            shadow.changed |= receiving.name.ends_with("Request") || receiving.term > shadow.term;
        }
    }

    // ---- lines ----------------------------------------------------------------------------------

    /// Adds a line. All stamps have as many digits, so that lines sort as text.
    fn stamp(&mut self, event: &str) {
        if self.ended.is_some() {
            return;
        }
        let stamp = 1_000_000_000 + self.lines.len();
        self.lines.push(format!("{{\"tag\":\"trace\",\"ts\":{stamp},\"event\":{{{event}}}}}"));
    }

    fn node_line(&mut self, name: &str, id: ReplicaId, shadow: &Shadow) {
        let line = self.state(name, id, shadow);
        self.stamp(&line);
    }

    /// What is common to all lines.
    fn state(&self, name: &str, id: ReplicaId, shadow: &Shadow) -> String {
        let role = match shadow.role {
            RoleName::Follower | RoleName::PreCandidate => "StateFollower",
            RoleName::Candidate => "StateCandidate",
            RoleName::Leader => "StateLeader",
        };
        let vote = shadow.vote.map_or(0, |vote| vote.0);
        let Shadow { term, commit, last, .. } = shadow;
        let voters = &self.voters;
        format!(
            "\"name\":\"{name}\",\"nid\":\"{id}\",\
             \"state\":{{\"term\":{term},\"vote\":\"{vote}\",\"commit\":{commit}}},\
             \"role\":\"{role}\",\"log\":{last},\"conf\":[[{voters}],[]]"
        )
    }

    /// A message from a replica to itself.
    fn own_line(&mut self, verb: &str, id: ReplicaId, shadow: &mut Shadow, said: &Said) {
        let line = self.message(verb, id, shadow, (id, id, shadow.term), said);
        self.stamp(&line);
        shadow.changed = true;
    }

    fn line(&self, verb: &str, id: ReplicaId, shadow: &Shadow, message: &Message, said: &Said) -> String {
        self.message(verb, id, shadow, (message.from, message.to, message.term), said)
    }

    fn message(
        &self,
        verb: &str,
        id: ReplicaId,
        shadow: &Shadow,
        (from, to, term): (ReplicaId, ReplicaId, Term),
        said: &Said,
    ) -> String {
        let Said { kind, name, entries, log_term, index, commit, reject, hint } = said;
        let mut line = self.state(&format!("{verb}{name}"), id, shadow);
        write!(
            line,
            ",\"msg\":{{\"type\":\"{kind}\",\"term\":{term},\"from\":\"{from}\",\"to\":\"{to}\",\
             \"entries\":{entries},\"logTerm\":{log_term},\"index\":{index},\"commit\":{commit},\
             \"vote\":\"0\",\"reject\":{reject},\"rejectHint\":{hint}}}"
        )
        .expect("a string takes everything");
        line
    }
}

fn own_ack(index: LogIndex) -> Said {
    Said { kind: "MsgAppResp", name: "AppendEntriesResponse", index: index.0, ..Said::default() }
}

fn refusal_of_an_old_term() -> Said {
    Said { kind: "MsgAppResp", name: "AppendEntriesResponse", reject: true, ..Said::default() }
}

/// How the specification sees a message; `None` for those that it does not know and does not miss.
fn said(body: &MessageBody) -> Option<Said> {
    let (request, response) = ("AppendEntriesRequest", "AppendEntriesResponse");
    Some(match body {
        MessageBody::Vote(request) => Said {
            kind: "MsgVote",
            name: "RequestVoteRequest",
            log_term: request.last.term.0,
            index: request.last.index.0,
            ..Said::default()
        },
        MessageBody::VoteReply { granted } => {
            Said { kind: "MsgVoteResp", name: "RequestVoteResponse", reject: !granted, ..Said::default() }
        }
        MessageBody::Append(Append { prev, entries, commit, .. }) => Said {
            kind: "MsgApp",
            name: request,
            entries: entries.len(),
            log_term: prev.term.0,
            index: prev.index.0,
            // A follower believes no more than the append proves: the specification clips when sending.
            commit: commit.0.min(prev.index.0 + entries.len() as u64),
            ..Said::default()
        },
        MessageBody::Heartbeat { commit, .. } => {
            Said { kind: "MsgHeartbeat", name: request, commit: commit.0, ..Said::default() }
        }
        MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) => own_ack(*matched),
        MessageBody::AppendReply(AppendReply::Rejected { prev, hint, .. }) => Said {
            kind: "MsgAppResp",
            name: response,
            log_term: hint.term.0,
            index: prev.0,
            reject: true,
            hint: hint.index.0,
            ..Said::default()
        },
        MessageBody::HeartbeatReply { .. } => {
            Said { kind: "MsgHeartbeatResp", name: response, ..Said::default() }
        }
        MessageBody::InstallSnapshot(_)
        | MessageBody::Quiesce { .. }
        | MessageBody::RequestSnapshot { .. }
        | MessageBody::PreVote(_)
        | MessageBody::PreVoteReply { .. }
        | MessageBody::TimeoutNow
        | MessageBody::ReadIndex { .. }
        | MessageBody::ReadIndexReply { .. } => return None,
    })
}
