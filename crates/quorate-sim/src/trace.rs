//! What happened, one line per step: the fingerprint of a run, and its story for a reader.
//!
//! The fingerprint is taken over every line, kept or not, so that two runs of a seed can be compared without
//! keeping either. The newest lines are always kept for a failing run's report.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};

use quorate_core::{AppendReply, MessageBody};
use quorate_host::{PeerBody, PeerMessage, SnapshotVerdict};

use crate::rng::{hash, hash_on};

/// How many lines a run remembers when it is not asked to keep all.
const RECENT_LINES: usize = 60;

/// How to read a trace.
pub const LEGEND: &str = "\
legend: every line is   <virtual milliseconds>  <who>  <what>
  who    n1..  a node     c1..  a client     op  the operator     !!  the fault injector     --  the world
  r1 a replica (of the group g1 unless said)   t3 term 3   7@t3 the entry 7 of term 3
  →n2 sends to n2    ←n1 receives from n1    ✗ cut off, lost, or nobody there    ×2 doubled
  log:  a write given to the log writer, then (written) when its completion comes back after the sync
  apply: entries given to the state machine     role/commit/member: what the core reported
  c1 ? asks    c1 = an answer    c1 … gave up, the outcome is unknown";

/// The lines of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    fingerprint: u64,
    lines: u64,
    keep_all: bool,
    kept: VecDeque<String>,
    buffer: String,
    /// What the fault injector says in the move that it makes now.
    fault: Option<String>,
}

impl Trace {
    /// From here on lines are a fault's.
    pub(crate) fn remember_fault(&mut self) {
        self.fault = Some(String::new());
    }

    /// The fault's lines, in one.
    pub(crate) fn remembered_fault(&mut self) -> String {
        self.fault.take().unwrap_or_default()
    }

    pub(crate) fn new(keep_all: bool) -> Self {
        Self {
            fingerprint: hash(b""),
            lines: 0,
            keep_all,
            kept: VecDeque::new(),
            buffer: String::new(),
            fault: None,
        }
    }

    pub(crate) fn line(&mut self, now: u64, who: impl fmt::Display, what: fmt::Arguments<'_>) {
        self.buffer.clear();
        let (millis, micros) = (now / 1_000_000, now / 1_000 % 1_000);
        // Writing to a string cannot fail.
        let written = write!(self.buffer, "{millis:>6}.{micros:03}  {who:<3} {what}");
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
        self.fingerprint = hash_on(self.fingerprint, self.buffer.as_bytes());
        self.lines += 1;
        if let Some(fault) = &mut self.fault {
            let separator = if fault.is_empty() { "" } else { "; " };
            *fault += &format!("{separator}{what}");
        }
        if !self.keep_all && self.kept.len() == RECENT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(self.buffer.clone());
    }

    pub(crate) const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(crate) const fn lines(&self) -> u64 {
        self.lines
    }

    pub(crate) fn into_kept(self) -> Vec<String> {
        self.kept.into()
    }
}

/// A peer message in a few words.
pub(crate) struct Short<'a>(pub(crate) &'a PeerMessage);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.group.0 != 1 {
            write!(f, "{:?} ", self.0.group)?;
        }
        match &self.0.body {
            PeerBody::Raft(message) => {
                write!(f, "{:?} ", message.term)?;
                short_body(&message.body, f)
            }
            PeerBody::SnapshotChunk(chunk) => write!(
                f,
                "{:?} snapshot {} bytes {}+{} of {}",
                chunk.term,
                chunk.meta.last,
                chunk.offset,
                chunk.data.len(),
                chunk.bytes
            ),
            PeerBody::SnapshotAck(ack) => {
                let verdict = match ack.verdict {
                    SnapshotVerdict::Taken => "next",
                    SnapshotVerdict::Refused => "refused",
                    SnapshotVerdict::Gap => "back to",
                };
                write!(f, "snapshot {} {verdict} {}", ack.last, ack.next_offset)
            }
            PeerBody::Forward(forward) => write!(f, "{:?} passed on: {}", forward.term, forward.number),
            PeerBody::Beat(_) => f.write_str("beat"),
            PeerBody::Version(note) => write!(f, "{:?} understands version {}", note.term, note.supported),
            PeerBody::ForwardReply(reply) => {
                write!(f, "passed on {}: {}", reply.number, reply.verdict.name())
            }
        }
    }
}

fn short_body(body: &MessageBody, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match body {
        MessageBody::PreVote(request) => write!(f, "pre-vote? last {}", request.last),
        MessageBody::PreVoteReply { granted } => write!(f, "pre-vote {}", yes(*granted)),
        MessageBody::Vote(request) => {
            write!(f, "vote? last {}{}", request.last, if request.transfer { " (transfer)" } else { "" })
        }
        MessageBody::VoteReply { granted } => write!(f, "vote {}", yes(*granted)),
        MessageBody::Append(append) => write!(
            f,
            "append +{} after {} commit {} round {}",
            append.entries.len(),
            append.prev,
            append.commit,
            append.read_round
        ),
        MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) => write!(f, "accepted ..={matched}"),
        MessageBody::AppendReply(AppendReply::Rejected { prev, hint, last }) => {
            write!(f, "rejected {prev} hint {hint} last {last}")
        }
        MessageBody::Heartbeat { commit, read_round } => {
            write!(f, "heartbeat commit {commit} round {read_round}")
        }
        MessageBody::HeartbeatReply { read_round, last } => {
            write!(f, "alive last {last} round {read_round}")
        }
        MessageBody::RequestSnapshot { at_least } => write!(f, "snapshot? {at_least}"),
        MessageBody::Quiesce { last, round } => write!(f, "rest at {last} round {round}"),
        MessageBody::InstallSnapshot(meta) => write!(f, "install snapshot {}", meta.last),
        MessageBody::TimeoutNow => write!(f, "campaign now"),
        MessageBody::ReadIndex { request } => write!(f, "read? #{request}"),
        MessageBody::ReadIndexReply { request, index } => write!(f, "read #{request} at {index:?}"),
    }
}

const fn yes(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}
