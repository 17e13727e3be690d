//! The snapshotter: saves, sends and receives snapshots, one piece a step, taking turns.
//!
//! ```text
//!   save      view ──pieces──► store ──► Saved
//!   send      store ──pieces, at most a window unacknowledged──► follower ──acks──► SendEnded
//!   receive   leader ──pieces in order──► store ──► Staged
//! ```
//!
//! * A snapshot that arrived exists only when it is complete, verified and durable.
//! * Every piece is answered with the offset wanted next: a lost or repeated piece costs one round.
//! * No clocks: the host cancels a stream that stands still, and the core asks again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use quorate_core::{GroupId, LogId, NodeId, ReplicaId, SnapshotMeta, Term};
use quorate_storage::{SnapshotInfo, SnapshotReader, SnapshotStore, SnapshotWriter};

use crate::applier::describe;
use crate::event::{Event, SnapshotEvent, SnapshotTask};
use crate::peer::{PeerBody, PeerMessage, SnapshotAck, SnapshotChunk};
use crate::state_machine::SnapshotSource;

/// The size of a piece, in bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// The most bytes sent and not acknowledged per stream.
const WINDOW_BYTES: u64 = 1 << 20;

struct Save {
    group: GroupId,
    source: Box<dyn SnapshotSource>,
    writer: Box<dyn SnapshotWriter>,
}

struct Sending {
    reader: Box<dyn SnapshotReader>,
    info: SnapshotInfo,
    from: ReplicaId,
    node: NodeId,
    address: String,
    term: Term,
    epoch: u64,
    sent: u64,
    acked: u64,
}

struct Receiving {
    meta: SnapshotMeta,
    bytes: u64,
    term: Term,
    writer: Box<dyn SnapshotWriter>,
}

/// Saves, sends and receives snapshots piece by piece, taking turns between them.
pub struct Snapshotter {
    store: Arc<dyn SnapshotStore>,
    saves: VecDeque<Save>,
    sends: BTreeMap<(GroupId, ReplicaId), Sending>,
    receives: BTreeMap<GroupId, Receiving>,
    /// Streams that may have something to send.
    ready: VecDeque<(GroupId, ReplicaId)>,
    tasks: VecDeque<SnapshotTask>,
}

impl Snapshotter {
    /// A snapshotter for `node` on `store`.
    #[must_use]
    pub fn new(_node: NodeId, store: Arc<dyn SnapshotStore>) -> Self {
        Self {
            store,
            saves: VecDeque::new(),
            sends: BTreeMap::new(),
            receives: BTreeMap::new(),
            ready: VecDeque::new(),
            tasks: VecDeque::new(),
        }
    }

    /// Takes a task.
    pub fn submit(&mut self, task: SnapshotTask) {
        self.tasks.push_back(task);
    }

    /// Whether `step` has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.tasks.is_empty() || !self.ready.is_empty() || !self.saves.is_empty()
    }

    /// Does one piece of work.
    pub fn step(&mut self) -> Vec<Event> {
        let events = if let Some(task) = self.tasks.pop_front() {
            self.take(task)
        } else if let Some(stream) = self.ready.pop_front() {
            self.send_piece(stream)
        } else {
            self.save_piece()
        };
        events.into_iter().map(Event::Snapshot).collect()
    }

    fn take(&mut self, task: SnapshotTask) -> Vec<SnapshotEvent> {
        match task {
            SnapshotTask::Save { group, meta, source } => match self.store.create(group, &meta) {
                Ok(writer) => {
                    self.saves.push_back(Save { group, source, writer });
                    Vec::new()
                }
                Err(error) => vec![SnapshotEvent::SaveFailed { group, reason: describe(&error) }],
            },
            SnapshotTask::Send { group, snapshot, from, to, node, address, term, epoch } => {
                match self.store.open(&snapshot) {
                    Ok(reader) => {
                        let info = snapshot;
                        let sending =
                            Sending { reader, info, from, node, address, term, epoch, sent: 0, acked: 0 };
                        self.sends.insert((group, to), sending);
                        self.ready.push_back((group, to));
                        Vec::new()
                    }
                    Err(_) => vec![SnapshotEvent::SendEnded { group, to, complete: false }],
                }
            }
            SnapshotTask::Acked { group, ack } => self.on_ack(group, ack),
            SnapshotTask::CancelSend { group, to } => {
                self.sends.remove(&(group, to));
                Vec::new()
            }
            SnapshotTask::Receive { group, node, chunk } => self.receive(group, node, chunk),
            SnapshotTask::Retain { group, keep } => {
                // Failing to remove an old snapshot costs space only; the next one tries again.
                drop(self.store.retain(group, keep));
                Vec::new()
            }
        }
    }

    // ---- saving ---------------------------------------------------------------------------------

    fn save_piece(&mut self) -> Vec<SnapshotEvent> {
        let Some(mut save) = self.saves.pop_front() else { return Vec::new() };
        let group = save.group;
        let outcome = match save.source.next_chunk(CHUNK_BYTES) {
            Ok(Some(piece)) => match save.writer.write(&piece) {
                Ok(()) => {
                    self.saves.push_back(save);
                    return Vec::new();
                }
                Err(error) => Err(describe(&error)),
            },
            Ok(None) => save.writer.finish().map_err(|error| describe(&error)),
            Err(error) => Err(describe(&error)),
        };
        vec![match outcome {
            Ok(snapshot) => SnapshotEvent::Saved { group, snapshot },
            Err(reason) => SnapshotEvent::SaveFailed { group, reason },
        }]
    }

    // ---- sending --------------------------------------------------------------------------------

    fn send_piece(&mut self, stream: (GroupId, ReplicaId)) -> Vec<SnapshotEvent> {
        let (group, to) = stream;
        let Some(sending) = self.sends.get_mut(&stream) else { return Vec::new() };
        let complete = sending.sent >= sending.info.bytes;
        if (complete && sending.sent > 0) || sending.sent - sending.acked >= WINDOW_BYTES {
            return Vec::new();
        }
        let mut piece = vec![0; CHUNK_BYTES];
        let Ok(count) = sending.reader.read_at(sending.sent, &mut piece) else {
            self.sends.remove(&stream);
            return vec![SnapshotEvent::SendEnded { group, to, complete: false }];
        };
        piece.truncate(count);
        let chunk = SnapshotChunk {
            from: sending.from,
            to,
            term: sending.term,
            epoch: sending.epoch,
            meta: sending.info.meta.clone(),
            bytes: sending.info.bytes,
            offset: sending.sent,
            data: piece.into(),
        };
        sending.sent += count as u64;
        if count > 0 {
            self.ready.push_back(stream);
        }
        let message = PeerMessage { group, body: PeerBody::SnapshotChunk(chunk) };
        vec![SnapshotEvent::Send { to: sending.node, address: sending.address.clone(), message }]
    }

    fn on_ack(&mut self, group: GroupId, ack: SnapshotAck) -> Vec<SnapshotEvent> {
        let stream = (group, ack.from);
        let Some(sending) = self.sends.get_mut(&stream) else { return Vec::new() };
        if sending.info.meta.last != ack.last || ack.next_offset > sending.info.bytes {
            return Vec::new();
        }
        let to = ack.from;
        if ack.refused || ack.next_offset == sending.info.bytes {
            self.sends.remove(&stream);
            return vec![SnapshotEvent::SendEnded { group, to, complete: !ack.refused }];
        }
        if ack.next_offset >= sending.acked {
            sending.acked = ack.next_offset;
            sending.sent = sending.sent.max(ack.next_offset);
        } else {
            // It starts over (it was restarted): so do we.
            sending.acked = ack.next_offset;
            sending.sent = ack.next_offset;
        }
        self.ready.push_back(stream);
        Vec::new()
    }

    // ---- receiving ------------------------------------------------------------------------------

    fn receive(&mut self, group: GroupId, node: NodeId, chunk: SnapshotChunk) -> Vec<SnapshotEvent> {
        let last = chunk.meta.last;
        match self.stage(group, &chunk) {
            Ok((next_offset, staged)) => {
                let mut events = vec![answer(group, node, &chunk, next_offset, false)];
                events.extend(staged.map(|snapshot| SnapshotEvent::Staged {
                    group,
                    node,
                    from: chunk.from,
                    term: chunk.term,
                    epoch: chunk.epoch,
                    snapshot,
                }));
                events
            }
            Err(()) => {
                if self.receives.get(&group).is_some_and(|receiving| receiving.meta.last == last) {
                    self.receives.remove(&group);
                }
                vec![answer(group, node, &chunk, 0, true)]
            }
        }
    }

    /// Writes a piece that is the next one. Returns the offset wanted next, and the snapshot when it
    /// is complete. `Err`: this snapshot cannot be taken.
    fn stage(&mut self, group: GroupId, chunk: &SnapshotChunk) -> Result<(u64, Option<SnapshotInfo>), ()> {
        let same = |receiving: &Receiving| {
            receiving.meta == chunk.meta && receiving.bytes == chunk.bytes && receiving.term == chunk.term
        };
        let current = self.receives.get(&group);
        if current.is_some_and(|receiving| receiving.term > chunk.term) {
            return Err(());
        }
        if !current.is_some_and(same) {
            if self.is_stored(group, chunk.meta.last, chunk.bytes) {
                return Ok((chunk.bytes, self.stored(group, chunk.meta.last)));
            }
            if chunk.offset != 0 {
                return Ok((0, None));
            }
            self.receives.remove(&group);
            let writer = self.store.create(group, &chunk.meta).map_err(drop)?;
            let (meta, bytes, term) = (chunk.meta.clone(), chunk.bytes, chunk.term);
            self.receives.insert(group, Receiving { meta, bytes, term, writer });
        }
        let receiving = self.receives.get_mut(&group).ok_or(())?;
        let next = receiving.writer.written();
        if chunk.offset != next {
            return Ok((next, None));
        }
        if next + chunk.data.len() as u64 > receiving.bytes {
            return Err(());
        }
        receiving.writer.write(&chunk.data).map_err(drop)?;
        let next = receiving.writer.written();
        if next < receiving.bytes {
            return Ok((next, None));
        }
        let receiving = self.receives.remove(&group).ok_or(())?;
        let info = receiving.writer.finish().map_err(drop)?;
        Ok((next, Some(info)))
    }

    fn is_stored(&self, group: GroupId, last: LogId, bytes: u64) -> bool {
        self.stored(group, last).is_some_and(|info| info.bytes == bytes)
    }

    fn stored(&self, group: GroupId, last: LogId) -> Option<SnapshotInfo> {
        self.store.list(group).ok()?.into_iter().find(|info| info.meta.last == last)
    }
}

fn answer(
    group: GroupId,
    to: NodeId,
    chunk: &SnapshotChunk,
    next_offset: u64,
    refused: bool,
) -> SnapshotEvent {
    let ack = SnapshotAck { from: chunk.to, to: chunk.from, last: chunk.meta.last, next_offset, refused };
    let message = PeerMessage { group, body: PeerBody::SnapshotAck(ack) };
    SnapshotEvent::Send { to, address: String::new(), message }
}
