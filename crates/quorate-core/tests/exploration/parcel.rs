//! What travels: a message, with the streamed content where it is a snapshot.

use std::fmt;

use quorate_core::{AppendReply, Entry, Message, MessageBody};

/// See the module.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Parcel {
    pub(crate) message: Message,
    pub(crate) snapshot: Vec<Entry>,
}

impl fmt::Display for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message { from, to, term, .. } = self.message;
        write!(f, "{from}→{to} t{term} ")?;
        match &self.message.body {
            MessageBody::PreVote(request) => write!(f, "pre-vote? last {}", request.last),
            MessageBody::PreVoteReply { granted } => write!(f, "pre-vote {granted}"),
            MessageBody::Vote(request) => {
                write!(f, "vote? last {}{}", request.last, if request.transfer { " (transfer)" } else { "" })
            }
            MessageBody::VoteReply { granted } => write!(f, "vote {granted}"),
            MessageBody::Append(append) => {
                let ids: Vec<_> = append.entries.iter().map(|entry| entry.id.to_string()).collect();
                write!(f, "append [{}] after {} commit {}", ids.join(" "), append.prev, append.commit)
            }
            MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) => {
                write!(f, "accepted {matched}")
            }
            MessageBody::AppendReply(AppendReply::Rejected { prev, hint, last }) => {
                write!(f, "rejected {prev}, hint {hint} last {last}")
            }
            MessageBody::Heartbeat { commit, read_round } => {
                write!(f, "heartbeat commit {commit} round {read_round}")
            }
            MessageBody::HeartbeatReply { read_round, last } => {
                write!(f, "heartbeat reply last {last} round {read_round}")
            }
            MessageBody::RequestSnapshot { at_least } => write!(f, "snapshot? {at_least}"),
            MessageBody::Quiesce { last, round } => write!(f, "rest at {last} round {round}"),
            MessageBody::InstallSnapshot(meta) => write!(f, "snapshot {}", meta.last),
            MessageBody::TimeoutNow => f.write_str("campaign now"),
            MessageBody::ReadIndex { .. } => f.write_str("read?"),
            MessageBody::ReadIndexReply { index, .. } => write!(f, "read at {index:?}"),
        }
    }
}
