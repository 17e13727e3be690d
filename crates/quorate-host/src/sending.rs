//! Streams of stored snapshots to followers.
//!
//! ```text
//!   Send ──► queue ──turn──► ask ──► pieces, at most a window unacknowledged ──► complete
//!                             ▲          │ Gap: back to what is wanted, once
//!                             └──────────┘ AskAgain: nothing was heard, so one piece only
//! ```
//!
//! * At most `snapshot_sends_max` streams at a time, one piece each in turn.
//! * A stream begins with an empty piece: the answer says where to begin, so that one that was
//!   interrupted goes on where the follower stopped.
//! * No clocks: the host says when it is time to ask again, or to give up.

use std::collections::{BTreeMap, VecDeque};

use quorate_core::{GroupId, ReplicaId};
use quorate_storage::{SnapshotReader, SnapshotStore};

use crate::applier::describe;
use crate::config::HostConfig;
use crate::event::{SendOutcome, SnapshotEvent, SnapshotSend};
use crate::peer::{PeerBody, PeerMessage, SnapshotAck, SnapshotChunk, SnapshotVerdict};

type StreamKey = (GroupId, ReplicaId);

struct Stream {
    reader: Box<dyn SnapshotReader>,
    send: SnapshotSend,
    sent: u64,
    acked: u64,
    /// The follower said where to begin.
    has_begun: bool,
    asking: Asking,
    /// Where the last `Gap` led back to: the pieces that were under way then all say the same.
    went_back_to: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// Where shall we begin?
    Begin,
    /// Here is one piece: how far are you?
    Again,
    /// Waits for the answer.
    Asked,
    /// The follower answers: pieces flow.
    No,
}

/// All streams of a host.
pub(crate) struct Sends {
    sends_max: usize,
    is_paced: bool,
    streams: BTreeMap<StreamKey, Stream>,
    /// Those whose turn has not come.
    queue: VecDeque<SnapshotSend>,
    /// Streams that may have something to send, each once.
    ready: VecDeque<StreamKey>,
    /// Bytes that may be sent (when paced).
    allowed: u64,
    /// More were asked for.
    has_asked: bool,
}

impl Stream {
    fn is_due(&self) -> bool {
        match self.asking {
            Asking::Begin | Asking::Again => true,
            Asking::Asked => false,
            Asking::No => {
                let window_bytes = self.send.window_bytes.max(1);
                self.sent < self.send.snapshot.bytes && self.sent - self.acked < window_bytes
            }
        }
    }

    /// The length of the next piece.
    fn next_bytes(&self) -> usize {
        if self.asking == Asking::Begin {
            return 0;
        }
        let left = self.send.snapshot.bytes.saturating_sub(self.sent);
        usize::try_from(left).unwrap_or(usize::MAX).min(self.send.chunk_bytes)
    }

    /// Reads the next piece; the error says why the snapshot cannot be read.
    fn next_piece(&mut self) -> Result<SnapshotChunk, String> {
        let mut data = vec![0; self.next_bytes()];
        let mut filled = 0;
        while filled < data.len() {
            match self.reader.read_at(self.sent + filled as u64, &mut data[filled..]) {
                Ok(0) => return Err("it ends before its time".to_owned()),
                Err(error) => return Err(describe(&error)),
                Ok(count) => filled += count,
            }
        }
        let chunk = SnapshotChunk {
            from: self.send.from,
            to: self.send.to,
            term: self.send.term,
            epoch: self.send.epoch,
            meta: self.send.snapshot.meta.clone(),
            bytes: self.send.snapshot.bytes,
            offset: self.sent,
            data: data.into(),
        };
        self.sent += filled as u64;
        self.asking = if self.asking == Asking::No { Asking::No } else { Asking::Asked };
        Ok(chunk)
    }

    fn on_ack(&mut self, ack: &SnapshotAck) {
        let next = ack.next_offset;
        match ack.verdict {
            SnapshotVerdict::Gap if self.went_back_to == Some(next) => return,
            SnapshotVerdict::Gap => {
                self.went_back_to = Some(next);
                (self.acked, self.sent) = (next, next);
            }
            // Overtaken by another answer.
            SnapshotVerdict::Taken | SnapshotVerdict::Refused if next < self.acked => return,
            SnapshotVerdict::Taken | SnapshotVerdict::Refused => {
                self.acked = next;
                self.sent = self.sent.max(next);
            }
        }
        self.has_begun = true;
        self.asking = Asking::No;
    }
}

impl Sends {
    pub(crate) fn new(config: &HostConfig) -> Self {
        Self {
            sends_max: config.snapshot_sends_max.max(1),
            is_paced: config.snapshot_bytes_per_second.is_some(),
            streams: BTreeMap::new(),
            queue: VecDeque::new(),
            ready: VecDeque::new(),
            allowed: 0,
            has_asked: false,
        }
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.has_asked && !self.ready.is_empty()
    }

    /// Takes a stream in; one to the same follower ends.
    pub(crate) fn submit(&mut self, send: SnapshotSend, store: &dyn SnapshotStore) -> Vec<SnapshotEvent> {
        self.remove(|key| *key == (send.group, send.to));
        self.queue.push_back(send);
        self.start_next(store)
    }

    pub(crate) fn cancel(
        &mut self,
        group: GroupId,
        to: ReplicaId,
        store: &dyn SnapshotStore,
    ) -> Vec<SnapshotEvent> {
        self.remove(|key| *key == (group, to));
        self.start_next(store)
    }

    pub(crate) fn close(&mut self, group: GroupId, store: &dyn SnapshotStore) -> Vec<SnapshotEvent> {
        self.remove(|(of, _)| *of == group);
        self.start_next(store)
    }

    pub(crate) fn ask_again(&mut self, group: GroupId, to: ReplicaId) {
        let Some(stream) = self.streams.get_mut(&(group, to)) else { return };
        let is_out = match stream.asking {
            Asking::Begin | Asking::Again => false,
            Asking::Asked => true,
            Asking::No => stream.sent > stream.acked,
        };
        // It waits for its turn or its pace: there is nothing that could be answered.
        if !is_out {
            return;
        }
        stream.asking = if stream.has_begun { Asking::Again } else { Asking::Begin };
        stream.sent = stream.acked;
        stream.went_back_to = None;
        self.make_ready((group, to));
    }

    pub(crate) const fn allow(&mut self, bytes: u64) {
        self.allowed = self.allowed.saturating_add(bytes);
        self.has_asked = false;
    }

    pub(crate) fn on_ack(
        &mut self,
        group: GroupId,
        ack: &SnapshotAck,
        store: &dyn SnapshotStore,
    ) -> Vec<SnapshotEvent> {
        let key = (group, ack.from);
        let Some(stream) = self.streams.get_mut(&key) else { return Vec::new() };
        let bytes = stream.send.snapshot.bytes;
        if stream.send.snapshot.meta.last != ack.last || ack.next_offset > bytes {
            return Vec::new();
        }
        // An empty snapshot is complete when the follower has seen that.
        let is_complete = ack.next_offset == bytes && (bytes > 0 || stream.asking == Asking::Asked);
        if ack.verdict == SnapshotVerdict::Refused {
            return self.end(key, SendOutcome::Refused, store);
        }
        if is_complete {
            return self.end(key, SendOutcome::Complete, store);
        }
        stream.on_ack(ack);
        self.make_ready(key);
        Vec::new()
    }

    /// Sends one piece of the stream whose turn it is.
    pub(crate) fn step(&mut self, store: &dyn SnapshotStore) -> Vec<SnapshotEvent> {
        let Some(key) = self.ready.pop_front() else { return Vec::new() };
        let Some(stream) = self.streams.get_mut(&key).filter(|stream| stream.is_due()) else {
            return Vec::new();
        };
        let bytes = stream.next_bytes() as u64;
        if self.is_paced && self.allowed < bytes {
            self.ready.push_front(key);
            self.has_asked = true;
            return vec![SnapshotEvent::WantsBytes { bytes: bytes - self.allowed }];
        }
        let chunk = match stream.next_piece() {
            Ok(chunk) => chunk,
            Err(reason) => return self.end(key, SendOutcome::Unreadable { reason }, store),
        };
        self.allowed = self.allowed.saturating_sub(bytes);
        let (to, address) = (stream.send.node, stream.send.address.clone());
        self.make_ready(key);
        let message = PeerMessage { group: key.0, body: PeerBody::SnapshotChunk(chunk) };
        vec![SnapshotEvent::Send { to, address, message }]
    }

    fn make_ready(&mut self, key: StreamKey) {
        let is_due = self.streams.get(&key).is_some_and(Stream::is_due);
        if is_due && !self.ready.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn end(&mut self, key: StreamKey, outcome: SendOutcome, store: &dyn SnapshotStore) -> Vec<SnapshotEvent> {
        let (group, to) = key;
        let Some(stream) = self.streams.get(&key) else { return Vec::new() };
        let last = stream.send.snapshot.meta.last;
        self.remove(|stream| *stream == key);
        let mut events = vec![SnapshotEvent::SendEnded { group, to, last, outcome }];
        events.extend(self.start_next(store));
        events
    }

    fn remove(&mut self, gone: impl Fn(&StreamKey) -> bool) {
        self.streams.retain(|key, _| !gone(key));
        self.ready.retain(|key| !gone(key));
        self.queue.retain(|send| !gone(&(send.group, send.to)));
    }

    fn start_next(&mut self, store: &dyn SnapshotStore) -> Vec<SnapshotEvent> {
        let mut events = Vec::new();
        while self.streams.len() < self.sends_max {
            let Some(send) = self.queue.pop_front() else { break };
            let (group, to, last) = (send.group, send.to, send.snapshot.meta.last);
            let reader = match store.open(&send.snapshot) {
                Ok(reader) => reader,
                Err(error) => {
                    let outcome = SendOutcome::Unreadable { reason: describe(&error) };
                    events.push(SnapshotEvent::SendEnded { group, to, last, outcome });
                    continue;
                }
            };
            let asking = Asking::Begin;
            let stream =
                Stream { reader, send, sent: 0, acked: 0, has_begun: false, asking, went_back_to: None };
            self.streams.insert((group, to), stream);
            self.ready.push_back((group, to));
            events.push(SnapshotEvent::SendStarted { group, to });
        }
        events
    }
}
