//! One replica with its disk, driven the way etcd's tests drive theirs.
//!
//! etcd's core makes its messages at once and keeps them for the next "Ready"; ours decides what to
//! send when it is asked. So this asks after every input and collects:
//!
//! ```text
//!   input ──► RawNode ──► collected { writes, messages, applies }        (after every input)
//!                              │ handle_ready
//!                              ▼
//!              write and sync ──► messages leave, also those that waited for the write ──► apply
//! ```
//!
//! With asynchronous storage the last row is three directives: writes and applies wait in queues for
//! theirs. Only a term and vote that nothing waits before are written at once: our core asks for no
//! vote before its own is durable, where etcd's asks first and counts its own later.

use std::collections::VecDeque;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{
    Config, Entry, EntryPayload, Fetch, LogId, LogIndex, Membership, Message, MessageBody, MonoTime, Persist,
    RawNode, ReplicaId, Restored, RoleName, SnapshotMeta,
};

use crate::disk::Disk;
use crate::trace;

/// The election timeout of every replica. etcd's tests count three ticks for it.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(600);

/// What a replica looked like when it was last handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Face {
    pub(crate) role: Option<RoleName>,
    pub(crate) leader: Option<ReplicaId>,
    pub(crate) term: u64,
    pub(crate) vote: Option<ReplicaId>,
    pub(crate) commit: LogIndex,
}

/// See the module.
pub(crate) struct Node {
    pub(crate) core: RawNode,
    pub(crate) disk: Disk,
    /// This replica's own clock: directives move one at a time.
    now: MonoTime,
    pub(crate) asynchronous: bool,
    writes: Vec<Persist>,
    messages: Vec<Message>,
    restores: Option<SnapshotMeta>,
    applies: Vec<Entry>,
    /// With asynchronous storage: what the append thread and the apply thread have to do.
    pub(crate) append_work: VecDeque<Vec<Persist>>,
    pub(crate) apply_work: VecDeque<Work>,
    pub(crate) shown: Face,
    /// The members as of the last entry applied.
    pub(crate) members: Arc<Membership>,
    pub(crate) events: Vec<String>,
}

/// Something for the state machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    pub(crate) restores: Option<SnapshotMeta>,
    pub(crate) applies: Vec<Entry>,
}

/// What handling a replica did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) face: Face,
    pub(crate) written: Vec<Entry>,
    pub(crate) messages: Vec<Message>,
    pub(crate) applied: Work,
}

impl Node {
    /// A replica whose log begins after `start`, at which `members` are in effect.
    pub(crate) fn new(
        config: Config,
        start: LogId,
        members: Membership,
        asynchronous: bool,
    ) -> Result<Self, String> {
        let members = Arc::new(members);
        // These are the group's first members: their entry is the first one of the log.
        let first = start.min(LogId { index: LogIndex(1), ..start });
        let disk = Disk { compacted: start, membership: (first, Arc::clone(&members)), ..Disk::default() };
        let restored = if members.is_empty() { Restored::default() } else { disk.restored(start.index) };
        let now = MonoTime(0);
        let core = RawNode::new(config, restored, now).map_err(|error| error.to_string())?;
        let mut node = Self {
            core,
            disk,
            now,
            asynchronous,
            writes: Vec::new(),
            messages: Vec::new(),
            restores: None,
            applies: Vec::new(),
            append_work: VecDeque::new(),
            apply_work: VecDeque::new(),
            shown: Face::default(),
            members,
            events: Vec::new(),
        };
        node.collect();
        node.shown = node.face();
        Ok(node)
    }

    pub(crate) fn id(&self) -> ReplicaId {
        self.core.status().id
    }

    pub(crate) fn face(&self) -> Face {
        let status = self.core.status();
        Face {
            role: Some(status.role),
            leader: status.leader,
            term: status.term.0,
            vote: status.vote,
            commit: status.commit,
        }
    }

    /// Gives the core an input, and collects what it wants done.
    pub(crate) fn input<T>(&mut self, input: impl FnOnce(&mut RawNode, MonoTime) -> T) -> T {
        let outcome = input(&mut self.core, self.now);
        self.collect();
        outcome
    }

    /// Lets `time` pass for this replica alone.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.input(RawNode::tick);
    }

    fn collect(&mut self) {
        while self.core.has_ready() {
            let ready = self.core.ready();
            self.writes.extend(ready.persist);
            self.messages.extend(ready.send);
            self.restores = ready.restore.or(self.restores.take());
            self.applies.extend(ready.apply);
            let events = ready.events.iter().filter(|event| trace::is_plain(event));
            self.events.extend(events.map(trace::event));
            for fetch in ready.fetch {
                match fetch {
                    Fetch::Entries { from, to, bytes_max } => {
                        let entries = self.disk.read(from, to, bytes_max);
                        self.core.on_fetched(self.now, from, entries);
                    }
                    Fetch::SendSnapshot { to, .. } => self.messages.extend(self.snapshot_for(to)),
                }
            }
        }
    }

    /// A snapshot for `to` of what is applied here.
    pub(crate) fn snapshot_for(&self, to: ReplicaId) -> Option<Message> {
        let status = self.core.status();
        let (from, term) = (status.id, status.term);
        let meta = self.core.snapshot_meta(status.applied)?;
        let epoch = meta.membership.epoch();
        Some(Message { from, to, term, epoch, body: MessageBody::InstallSnapshot(meta) })
    }

    /// Whether `handle_ready` would do anything.
    pub(crate) fn has_ready(&self) -> bool {
        !self.writes.is_empty()
            || !self.messages.is_empty()
            || self.restores.is_some()
            || !self.applies.is_empty()
            || self.shown != self.face()
    }

    /// Handles everything collected, as far as this replica's kind of storage does it in one go.
    pub(crate) fn handle_ready(&mut self) -> Done {
        let face = self.face();
        self.shown = face;
        let mut done = Done { face, messages: take(&mut self.messages), ..Done::default() };
        let writes = take(&mut self.writes);
        done.written = writes.iter().flat_map(|write| write.entries.iter().cloned()).collect();
        if self.asynchronous {
            let only_votes =
                writes.iter().all(|write| write.entries.is_empty() && write.truncate_from.is_none());
            if only_votes && self.append_work.is_empty() && self.restores.is_none() {
                done.messages.extend(self.write(&writes));
            } else if !writes.is_empty() {
                self.append_work.push_back(writes);
            }
            done.applied = Work { restores: self.restores.take(), applies: take(&mut self.applies) };
            if !done.applied.is_empty() {
                self.apply_work.push_back(done.applied.clone());
            }
            return done;
        }
        done.messages.extend(self.write(&writes));
        // What was committed when the turn began is applied in the same turn.
        let (now, later) =
            take(&mut self.applies).into_iter().partition(|entry| entry.index() <= face.commit);
        self.applies = later;
        done.applied = Work { restores: self.restores.take(), applies: now };
        self.apply(&done.applied);
        done
    }

    /// Makes `writes` durable. Returns the messages that only waited for that.
    pub(crate) fn write(&mut self, writes: &[Persist]) -> Vec<Message> {
        for write in writes {
            self.disk.write(write);
        }
        if let Some(last) = writes.last() {
            self.input(|core, now| core.on_persisted(now, last.token));
        }
        let (released, others) =
            take(&mut self.messages).into_iter().partition(|message| promises(&message.body));
        self.messages = others;
        released
    }

    pub(crate) fn apply(&mut self, work: &Work) {
        if let Some(meta) = &work.restores {
            self.members = Arc::clone(&meta.membership);
        }
        for entry in &work.applies {
            match &entry.payload {
                EntryPayload::Membership(members) => self.members = Arc::clone(members),
                EntryPayload::Noop | EntryPayload::Command(_) | EntryPayload::Withheld => {}
            }
        }
        let restored = work.restores.as_ref().map(|meta| meta.last.index);
        if let Some(index) = work.applies.last().map(Entry::index).or(restored) {
            self.input(|core, now| core.on_applied(now, index));
        }
    }

    /// Drops the log up to `index`, if that much is applied.
    pub(crate) fn compact(&mut self, index: LogIndex) -> Result<(), String> {
        let applied = self.core.status().applied;
        let meta = self.core.snapshot_meta(index).filter(|meta| meta.last.index <= applied);
        let meta = meta.ok_or("only what is applied can be dropped")?;
        self.core.on_compacted(meta.last);
        self.disk.compact(&meta);
        Ok(())
    }
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        self.restores.is_none() && self.applies.is_empty()
    }
}

/// Whether a message tells what its sender did or asks for a vote: what may wait for a write.
/// Everything else that comes up after a write is a consequence of it, and has its own turn.
const fn promises(body: &MessageBody) -> bool {
    match body {
        MessageBody::PreVote(_)
        | MessageBody::PreVoteReply { .. }
        | MessageBody::Vote(_)
        | MessageBody::VoteReply { .. }
        | MessageBody::AppendReply(_)
        | MessageBody::HeartbeatReply { .. } => true,
        MessageBody::Append(_)
        | MessageBody::Heartbeat { .. }
        | MessageBody::InstallSnapshot(_)
        | MessageBody::Quiesce { .. }
        | MessageBody::RequestSnapshot { .. }
        | MessageBody::TimeoutNow
        | MessageBody::ReadIndex { .. }
        | MessageBody::ReadIndexReply { .. } => false,
    }
}
