//! Everything that can happen to a [`Host`](crate::Host), and everything it wants done. Both are
//! closed enums: the shells (tokio, simulator) move them between the host and the step functions.
//!
//! ```text
//!            Event ──► Host ──► Work ─┬─ log ──────► LogWriter::step ──┐
//!              ▲                      ├─ apply ────► Applier::step ────┤
//!              │                      ├─ fetch ────► LogFetcher::step ─┤ Events
//!              │                      ├─ snapshots ► Snapshotter::step ┤
//!              │                      ├─ send ─────► transport         │
//!              │                      └─ replies ──► users             │
//!              └───────────────────────────────────────────────────────┘
//! ```

use quorate_core::{
    Entries, Entry, GroupId, LogId, LogIndex, MonoTime, NodeId, Persist, PersistToken, RaftEvent, ReplicaId,
    SnapshotMeta,
};
use quorate_storage::{GroupWrite, LogError, SnapshotInfo};

use crate::config::SessionConfig;
use crate::peer::{Lane, PeerMessage, SnapshotAck, SnapshotChunk};
use crate::request::{Answer, Request, RequestError, Ticket};
use crate::state_machine::SnapshotSource;

/// The two clocks a host needs, read by the shell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timeouts: monotonic, counts suspension.
    pub mono: MonoTime,
    /// For expiry of sessions, stamped into commands by a leader: milliseconds since 1970.
    pub unix_millis: u64,
}

/// Something that happened.
pub enum Event {
    /// Time has passed (call at or after `Host::next_deadline`).
    Tick,
    /// A message from a peer; the transport vouches for `from`.
    Received {
        /// The sending node.
        from: NodeId,
        /// What it sent.
        message: PeerMessage,
    },
    /// A user asks something.
    Request {
        /// The group.
        group: GroupId,
        /// The shell's name for the request.
        ticket: Ticket,
        /// What is asked.
        request: Request,
    },
    /// A peer could not be reached.
    Unreachable {
        /// The node.
        node: NodeId,
    },
    /// From the log writer.
    LogWritten(LogWritten),
    /// From the applier.
    Applied(Applied),
    /// From the log fetcher.
    Fetched(Fetched),
    /// From the snapshotter.
    Snapshot(SnapshotEvent),
}

/// Everything a host wants done, by who does it. Order within a lane matters.
#[derive(Default)]
pub struct Work {
    /// For the log writer.
    pub log: Vec<LogTask>,
    /// For the transport.
    pub send: Vec<Outbound>,
    /// For the applier.
    pub apply: Vec<ApplyTask>,
    /// For the log fetcher.
    pub fetch: Vec<FetchTask>,
    /// For the snapshotter.
    pub snapshots: Vec<SnapshotTask>,
    /// For users.
    pub replies: Vec<(Ticket, Result<Answer, RequestError>)>,
    /// For logs and metrics.
    pub events: Vec<(GroupId, RaftEvent)>,
    /// Replicas that stopped, and why.
    pub stopped: Vec<(GroupId, String)>,
}

/// A message to deliver. Losing it is allowed, reporting `Event::Unreachable` then is welcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbound {
    /// To which node.
    pub to: NodeId,
    /// Where it is reached, as the membership says (empty: as the transport knows).
    pub address: String,
    /// In which lane.
    pub lane: Lane,
    /// What.
    pub message: PeerMessage,
}

/// A write for one group. The log writer puts all that are waiting into one batch and one sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTask {
    /// What to write.
    pub write: GroupWrite,
    /// The core's token (`None`: nobody waits, e.g. compaction).
    pub token: Option<PersistToken>,
    /// Whether it needs a sync at all.
    pub must_sync: bool,
}

impl LogTask {
    /// The write that a core asked for.
    #[must_use]
    pub fn persist(group: GroupId, persist: Persist) -> Self {
        let reset_to = match (persist.reset_to, persist.reset_membership) {
            (Some(to), Some((membership_id, membership))) => Some((to, membership_id, membership)),
            _ => None,
        };
        Self {
            write: GroupWrite {
                group,
                reset_to,
                truncate_from: persist.truncate_from,
                entries: persist.entries,
                hard_state: persist.hard_state,
                ..GroupWrite::default()
            },
            token: Some(persist.token),
            must_sync: persist.must_sync,
        }
    }
}

/// The log writer's answer.
#[derive(Debug)]
pub struct LogWritten {
    /// The group.
    pub group: GroupId,
    /// The core's token.
    pub token: Option<PersistToken>,
    /// How it went. `NoSpace`: the write must be submitted again; `Failed`: the node stops.
    pub result: Result<(), LogError>,
}

/// Something for a group's state machine, in order.
pub enum ApplyTask {
    /// Apply these entries.
    Apply {
        /// The group.
        group: GroupId,
        /// Committed entries, contiguous.
        entries: Entries,
    },
    /// Replace the state by this snapshot.
    Restore {
        /// The group.
        group: GroupId,
        /// Which (durable in the snapshot store).
        snapshot: SnapshotInfo,
    },
    /// Answer a question.
    Query {
        /// The group.
        group: GroupId,
        /// Who asks.
        ticket: Ticket,
        /// What.
        request: bytes::Bytes,
    },
    /// Take a view of the state for a snapshot.
    Capture {
        /// The group.
        group: GroupId,
        /// What the snapshot covers: exactly what has been given to apply before this task.
        meta: SnapshotMeta,
    },
    /// Make what is applied durable (on-disk machines).
    Flush {
        /// The group.
        group: GroupId,
    },
    /// Drop the group's machine.
    Remove {
        /// The group.
        group: GroupId,
    },
}

/// The applier's answers.
pub enum Applied {
    /// Entries were applied.
    Entries {
        /// The group.
        group: GroupId,
        /// The last one applied.
        through: LogIndex,
        /// For each command (and nothing else), in log order: its position, and the outcome to tell.
        responses: Vec<(LogId, Result<Answer, RequestError>)>,
        /// Payload bytes applied.
        bytes: u64,
        /// The newest version that commands may have now.
        active_version: u32,
        /// The limits of the session table now.
        limits: SessionConfig,
    },
    /// A snapshot is the state now.
    Restored {
        /// The group.
        group: GroupId,
        /// What it covers.
        last: LogId,
        /// The newest version that commands may have now.
        active_version: u32,
        /// The limits of the session table now.
        limits: SessionConfig,
    },
    /// A question was answered.
    Query {
        /// The group.
        group: GroupId,
        /// Who asked.
        ticket: Ticket,
        /// The answer.
        answer: Answer,
    },
    /// A view was taken.
    Captured {
        /// The group.
        group: GroupId,
        /// What it covers.
        meta: SnapshotMeta,
        /// The view: sessions first, then the machine's content.
        source: Box<dyn SnapshotSource>,
    },
    /// What is durable now.
    Flushed {
        /// The group.
        group: GroupId,
        /// Up to here.
        durable: LogId,
    },
    /// The machine failed: its replica stops.
    Failed {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// The group's machine, if it had one, is dropped: [`ApplyTask::Remove`] is done.
    Removed {
        /// The group.
        group: GroupId,
    },
}

impl Applied {
    pub(crate) const fn group(&self) -> GroupId {
        match self {
            Self::Entries { group, .. }
            | Self::Restored { group, .. }
            | Self::Query { group, .. }
            | Self::Captured { group, .. }
            | Self::Flushed { group, .. }
            | Self::Removed { group }
            | Self::Failed { group, .. } => *group,
        }
    }
}

/// Older entries to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchTask {
    /// The group.
    pub group: GroupId,
    /// The first index.
    pub from: LogIndex,
    /// One past the last.
    pub to: LogIndex,
    /// Where to stop.
    pub bytes_max: u64,
}

/// The fetcher's answer.
#[derive(Debug)]
pub struct Fetched {
    /// The group.
    pub group: GroupId,
    /// The index asked for.
    pub from: LogIndex,
    /// What was read.
    pub result: Result<Vec<Entry>, LogError>,
}

/// Work for the snapshotter.
pub enum SnapshotTask {
    /// Write a captured view to the store.
    Save {
        /// The group.
        group: GroupId,
        /// What it covers.
        meta: SnapshotMeta,
        /// The view.
        source: Box<dyn SnapshotSource>,
        /// How much to ask of it at a time.
        chunk_bytes: usize,
    },
    /// Stream a stored snapshot to a follower, when it is its turn.
    Send(SnapshotSend),
    /// Nothing was heard of a stream for a while: ask the follower how far it is.
    AskAgain {
        /// The group.
        group: GroupId,
        /// The follower.
        to: ReplicaId,
    },
    /// The answer to [`SnapshotEvent::WantsBytes`]: this many may be sent.
    Allow {
        /// How many.
        bytes: u64,
    },
    /// A follower answered a piece.
    Acked {
        /// The group.
        group: GroupId,
        /// The answer.
        ack: SnapshotAck,
    },
    /// Stop streaming to a follower.
    CancelSend {
        /// The group.
        group: GroupId,
        /// The follower.
        to: ReplicaId,
    },
    /// A piece arrived from a leader.
    Receive {
        /// The group.
        group: GroupId,
        /// The leader's node, for the answer.
        node: NodeId,
        /// The piece.
        chunk: SnapshotChunk,
    },
    /// Drop all but the newest snapshots.
    Retain {
        /// The group.
        group: GroupId,
        /// How many to keep.
        keep: usize,
    },
    /// The group was closed: end everything that is under way for it, silently.
    Close {
        /// The group.
        group: GroupId,
    },
}

/// A stream of a stored snapshot to a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSend {
    /// The group.
    pub group: GroupId,
    /// Which.
    pub snapshot: SnapshotInfo,
    /// The leader.
    pub from: ReplicaId,
    /// The follower.
    pub to: ReplicaId,
    /// The follower's node.
    pub node: NodeId,
    /// Where it is reached.
    pub address: String,
    /// The leader's term.
    pub term: quorate_core::Term,
    /// The leader's recovery epoch.
    pub epoch: u64,
    /// The size of a piece.
    pub chunk_bytes: usize,
    /// The most bytes sent and not acknowledged; one piece is always allowed.
    pub window_bytes: u64,
}

/// How a stream to a follower ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// Every byte was acknowledged.
    Complete,
    /// The follower will not take it.
    Refused,
    /// The snapshot cannot be read here any more: it is not used again, and another one is taken.
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
}

/// The snapshotter's answers.
pub enum SnapshotEvent {
    /// A view is durable.
    Saved {
        /// The group.
        group: GroupId,
        /// The snapshot.
        snapshot: SnapshotInfo,
    },
    /// A view could not be saved.
    SaveFailed {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// A piece or an answer to send.
    Send {
        /// To which node.
        to: NodeId,
        /// Where it is reached.
        address: String,
        /// What.
        message: PeerMessage,
    },
    /// It is a stream's turn: its first question goes out.
    SendStarted {
        /// The group.
        group: GroupId,
        /// The follower.
        to: ReplicaId,
    },
    /// A stream to a follower ended by itself.
    SendEnded {
        /// The group.
        group: GroupId,
        /// The follower.
        to: ReplicaId,
        /// Which snapshot.
        last: LogId,
        /// How.
        outcome: SendOutcome,
    },
    /// Bytes sent per second are limited and the next piece waits for [`SnapshotTask::Allow`].
    WantsBytes {
        /// Its size.
        bytes: u64,
    },
    /// A snapshot from a leader is complete, verified and durable here.
    Staged {
        /// The group.
        group: GroupId,
        /// The leader's node.
        node: NodeId,
        /// The leader.
        from: ReplicaId,
        /// The leader's term.
        term: quorate_core::Term,
        /// The leader's recovery epoch.
        epoch: u64,
        /// The snapshot.
        snapshot: SnapshotInfo,
    },
}
