//! What our core did, as lines for people and as facts for the comparison.

use quorate_core::{
    AppendReply, Entry, EntryPayload, LogId, MemberRole, Membership, Message, MessageBody, ReplicaId, Term,
};

use crate::facts::{Facts, Position, Way};
use crate::node::{Done, Node};
use crate::trace;

/// What one step did: for people, and for the comparison.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) text: String,
    pub(crate) facts: Facts,
}

impl Story {
    pub(crate) fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// An input was not taken.
    pub(crate) fn refused(&mut self, why: &str) {
        self.facts.deed("refused".to_owned(), "yes");
        self.line(&format!("refused: {why}"));
    }

    /// A replica had its turn.
    pub(crate) fn done(&mut self, id: u64, done: &Done) {
        let face = done.face;
        let role = face.role.map_or_else(String::new, |role| role.to_string());
        let line = format!(
            "> {id} {role} t{} leader={} vote={} commit={}",
            face.term,
            number(face.leader),
            number(face.vote),
            face.commit
        );
        self.line(&line);
        self.facts.state(format!("{id} role"), role);
        self.facts.state(format!("{id} leader"), number(face.leader));
        self.facts.state(format!("{id} term"), face.term);
        self.facts.state(format!("{id} vote"), number(face.vote));
        self.facts.state(format!("{id} commit"), face.commit);
        for (verb, entries) in [("writes", &done.written), ("applies", &done.applied.applies)] {
            if !entries.is_empty() {
                self.line(&format!("  {id} {verb} {}", trace::entries(entries)));
            }
            for entry in entries {
                self.facts.entry(format!("{id} {verb}"), position(entry.id), content(entry));
            }
        }
        if let Some(meta) = &done.applied.restores {
            self.line(&format!("  {id} restores {}", meta.last));
            self.facts.deed(format!("{id} restores"), meta.last.index);
        }
    }

    /// A message left, arrived or was lost.
    pub(crate) fn message(&mut self, message: &Message, way: Way) {
        let (from, to, term) = (message.from.0, message.to.0, message.term);
        self.line(&format!(
            "  {}",
            way.subject(from, to, &format!("t{term} {}", trace::body(&message.body)))
        ));
        let subject = |what: &str| way.subject(from, to, what);
        let yes = |granted: bool| format!("t{term} {}", if granted { "yes" } else { "no" });
        match &message.body {
            MessageBody::Vote(request) => {
                self.facts.deed(subject("asks for a vote"), asks(term, request.last));
            }
            MessageBody::PreVote(request) => {
                self.facts.deed(subject("asks for a pre-vote"), asks(term, request.last));
            }
            MessageBody::VoteReply { granted } => self.facts.deed(subject("votes"), yes(*granted)),
            MessageBody::PreVoteReply { granted } => self.facts.deed(subject("pre-votes"), yes(*granted)),
            MessageBody::Append(append) => {
                for entry in &append.entries {
                    self.facts.entry(subject("offers"), position(entry.id), content(entry));
                }
            }
            MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) => {
                self.facts.at_least(subject("acknowledges"), matched.0);
            }
            MessageBody::AppendReply(AppendReply::Rejected { prev, hint, .. }) => {
                self.facts.deed(subject(&format!("refuses {prev}")), format!("hint {}", hint.index));
            }
            MessageBody::Heartbeat { .. } => self.facts.state(subject("heartbeat"), "yes"),
            MessageBody::HeartbeatReply { last, .. } => {
                self.facts.state(subject("answers a heartbeat"), "yes");
                self.facts.at_least(subject("acknowledges"), last.index.0);
            }
            MessageBody::InstallSnapshot(_) => self.facts.deed(subject("snapshot"), "yes"),
            MessageBody::TimeoutNow => self.facts.deed(subject("timeout now"), format!("t{term}")),
            MessageBody::ReadIndex { .. }
            | MessageBody::ReadIndexReply { .. }
            | MessageBody::Quiesce { .. }
            | MessageBody::RequestSnapshot { .. } => {}
        }
    }

    /// How a replica stands after a step.
    pub(crate) fn now(&mut self, node: &mut Node) {
        for event in node.events.drain(..) {
            self.line(&format!("  {} {event}", node.core.status().id));
        }
        let status = node.core.status();
        let id = status.id;
        self.facts.state(format!("{id} role now"), status.role);
        self.facts.state(format!("{id} term now"), status.term);
        self.facts.state(format!("{id} leader now"), number(status.leader));
        self.facts.state(format!("{id} votes now"), node.members.is_voter(id));
        self.facts.state(format!("{id} members now"), members(&node.members));
    }

    /// One line of `raft-state`.
    pub(crate) fn state(&mut self, node: &Node) {
        let status = node.core.status();
        let (id, leader) = (status.id, number(status.leader));
        let line = format!(
            "{id} {} t{} leader={leader} last={} commit={}",
            status.role, status.term, status.last, status.commit
        );
        self.line(&line);
    }

    /// What a leader knows of everybody, itself included.
    pub(crate) fn progress(&mut self, node: &Node) {
        let status = node.core.status();
        let others: Vec<_> = node.core.progress().collect();
        if others.is_empty() && status.leader != Some(status.id) {
            return;
        }
        let mut line =
            |id: ReplicaId, state: &str, matched: u64, next: u64, (paused, silent): (bool, bool)| {
                let silence =
                    format!("{}{}", if paused { " paused" } else { "" }, if silent { " silent" } else { "" });
                self.line(&format!("{id} {state} matched={matched} next={next}{silence}"));
                self.facts.deed(format!("progress of {id}"), format!("{state} match={matched}"));
                self.facts.state(format!("next of {id}"), next);
                self.facts.state(format!("paused {id}"), paused);
                self.facts.state(format!("silent {id}"), silent);
            };
        line(status.id, "Replicate", status.persisted.0, status.last.index.next().0, (false, false));
        for (id, progress) in others {
            let state = format!("{:?}", progress.state);
            line(
                id,
                &state,
                progress.matched.0,
                progress.next.0,
                (progress.paused, !progress.recently_active),
            );
        }
    }

    /// The log on a replica's disk.
    pub(crate) fn log(&mut self, node: &Node) {
        let entries = trace::entries(&node.disk.entries);
        self.line(&format!("{} after {}: {entries}", node.id(), node.disk.compacted));
        for entry in &node.disk.entries {
            self.facts.entry("the log holds".to_owned(), position(entry.id), content(entry));
        }
        self.facts.state("log ends".to_owned(), node.disk.last());
    }
}

/// What etcd calls a message.
pub(crate) const fn etcd_kind(body: &MessageBody) -> &'static str {
    match body {
        MessageBody::PreVote(_) => "MsgPreVote",
        MessageBody::PreVoteReply { .. } => "MsgPreVoteResp",
        MessageBody::Vote(_) => "MsgVote",
        MessageBody::VoteReply { .. } => "MsgVoteResp",
        MessageBody::Append(_) => "MsgApp",
        MessageBody::AppendReply(_) => "MsgAppResp",
        MessageBody::Heartbeat { .. } => "MsgHeartbeat",
        MessageBody::HeartbeatReply { .. } => "MsgHeartbeatResp",
        MessageBody::InstallSnapshot(_) => "MsgSnap",
        MessageBody::TimeoutNow => "MsgTimeoutNow",
        MessageBody::Quiesce { .. } => "Quiesce (not in etcd)",
        MessageBody::RequestSnapshot { .. } => "RequestSnapshot (not in etcd)",
        MessageBody::ReadIndex { .. } => "MsgReadIndex",
        MessageBody::ReadIndexReply { .. } => "MsgReadIndexResp",
    }
}

fn number(id: Option<ReplicaId>) -> u64 {
    id.map_or(0, |id| id.0)
}

/// The snapshot that everything begins with is of term 1 with etcd.
fn position(id: LogId) -> Position {
    let term = if id.index.0 > 0 { id.term.0.max(1) } else { id.term.0 };
    (id.index.0, term)
}

/// What a candidate says of itself.
fn asks(term: Term, last: LogId) -> String {
    let (index, last) = position(last);
    format!("t{term} {last}/{index}")
}

fn content(entry: &Entry) -> String {
    match &entry.payload {
        EntryPayload::Noop | EntryPayload::Withheld => "\"\"".to_owned(),
        EntryPayload::Command(command) => format!("{:?}", String::from_utf8_lossy(command)),
        EntryPayload::Membership(_) => "members".to_owned(),
    }
}

/// `voters=(1 2)&&(2 3) learners=(4) autoleave`, as etcd prints it.
fn members(members: &Membership) -> String {
    let list = |ids: Vec<ReplicaId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let learns = |id: &ReplicaId| members.get(*id).is_some_and(|member| member.role == MemberRole::Learner);
    let learners: Vec<ReplicaId> = members.members().map(|(id, _)| id).filter(learns).collect();
    let joint = members.joint();
    // Who is demoted is a learner for etcd only after the joint state.
    let votes_yet = |id: &ReplicaId| joint.is_some_and(|joint| joint.outgoing_voters().any(|old| old == *id));
    let (next, learners): (Vec<_>, Vec<_>) = learners.into_iter().partition(votes_yet);
    let mut said = format!("voters=({})", list(members.incoming_voters().collect()));
    if let Some(joint) = joint {
        said.push_str(&format!("&&({})", list(joint.outgoing_voters().collect())));
    }
    for (name, ids) in [("learners", learners), ("learners_next", next)] {
        if !ids.is_empty() {
            said.push_str(&format!(" {name}=({})", list(ids)));
        }
    }
    if joint.is_some_and(quorate_core::Joint::leaves_automatically) {
        said.push_str(" autoleave");
    }
    said
}
