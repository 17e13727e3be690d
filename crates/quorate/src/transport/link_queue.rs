//! What waits to be sent over one connection.
//!
//! ```text
//!   control ──► ┌─────────┐
//!               │ frames  │ ──► socket        control first; the rest in order behind it
//!   append  ──► └─────────┘
//! ```
//!
//! * Bounded in bytes. A full queue drops the *newest* append or snapshot piece: what is already queued
//!   is still of use, and the sender finds out where to go on. It drops the *oldest* control
//!   message: the newest heartbeat says all that older ones said.
//! * Control messages have a share of their own, so that appends never crowd them out.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use quorate_host::{Lane, PeerMessage};
use tokio::sync::Notify;

use crate::transport::message_bytes;

/// The queue of one connection.
pub(crate) struct LinkQueue {
    lanes: Mutex<Lanes>,
    filled: Notify,
    bytes_max: usize,
}

#[derive(Default)]
struct Lanes {
    control: Waiting,
    rest: Waiting,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<PeerMessage>,
    bytes: usize,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits.
    Queued,
    /// It waits, and this many older ones were dropped for it.
    Displaced(u64),
    /// It was dropped.
    Dropped,
}

/// Control messages may take this part of the whole.
const CONTROL_SHARE: usize = 8;

impl LinkQueue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { lanes: Mutex::default(), filled: Notify::new(), bytes_max }
    }

    /// Adds a message.
    pub(crate) fn push(&self, lane: Lane, message: PeerMessage) -> Pushed {
        let bytes = message_bytes(&message);
        let pushed = {
            let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            match lane {
                Lane::Control => lanes.control.push_newest(message, bytes, self.bytes_max / CONTROL_SHARE),
                Lane::Append | Lane::Bulk => lanes.rest.push_if_room(message, bytes, self.bytes_max),
            }
        };
        if pushed != Pushed::Dropped {
            self.filled.notify_one();
        }
        pushed
    }

    /// Takes what goes into the next write: every control message, then others up to about
    /// `bytes_max`, at least one if there is any.
    pub(crate) fn take(&self, bytes_max: usize) -> Vec<PeerMessage> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.control.bytes = 0;
        let mut taken: Vec<PeerMessage> = lanes.control.messages.drain(..).collect();
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(message) = lanes.rest.pop() else { break };
            bytes += message_bytes(&message);
            taken.push(message);
        }
        taken
    }

    /// Drops everything; returns how many messages that were.
    pub(crate) fn clear(&self) -> u64 {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let Lanes { control, rest } = std::mem::take(&mut *lanes);
        (control.messages.len() + rest.messages.len()) as u64
    }

    /// Has whoever waits look again, though nothing was pushed.
    pub(crate) fn wake(&self) {
        self.filled.notify_one();
    }

    /// Waits until something has been pushed since the last `take` that found nothing, or `wake`. Cancel-safe.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }
}

impl Waiting {
    fn push_if_room(&mut self, message: PeerMessage, bytes: usize, bytes_max: usize) -> Pushed {
        if self.bytes + bytes > bytes_max && !self.messages.is_empty() {
            return Pushed::Dropped;
        }
        self.bytes += bytes;
        self.messages.push_back(message);
        Pushed::Queued
    }

    fn push_newest(&mut self, message: PeerMessage, bytes: usize, bytes_max: usize) -> Pushed {
        let mut displaced = 0;
        while self.bytes + bytes > bytes_max && self.pop().is_some() {
            displaced += 1;
        }
        self.bytes += bytes;
        self.messages.push_back(message);
        if displaced == 0 { Pushed::Queued } else { Pushed::Displaced(displaced) }
    }

    fn pop(&mut self) -> Option<PeerMessage> {
        let message = self.messages.pop_front()?;
        self.bytes -= message_bytes(&message);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_core::{Append, Entry, EntryPayload, GroupId, LogId, Message, MessageBody, ReplicaId, Term};
    use quorate_host::PeerBody;

    use super::*;

    fn message(body: MessageBody) -> PeerMessage {
        let raft = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(1), epoch: 0, body };
        PeerMessage { group: GroupId(1), body: PeerBody::Raft(raft) }
    }
    fn heartbeat(round: u64) -> PeerMessage {
        message(MessageBody::Heartbeat { commit: quorate_core::LogIndex(0), read_round: round })
    }
    fn append(index: u64, bytes: usize) -> PeerMessage {
        let payload = EntryPayload::Command(Bytes::from(vec![0; bytes]));
        message(MessageBody::Append(Append {
            prev: LogId::new(1, index - 1),
            entries: vec![Entry { id: LogId::new(1, index), payload }].into(),
            commit: quorate_core::LogIndex(0),
            read_round: 0,
        }))
    }

    #[test]
    fn control_goes_first_and_appends_keep_their_order() {
        let queue = LinkQueue::new(1 << 20);
        for item in [append(1, 10), append(2, 10)] {
            assert_eq!(queue.push(Lane::Append, item), Pushed::Queued);
        }
        assert_eq!(queue.push(Lane::Control, heartbeat(1)), Pushed::Queued);
        assert_eq!(queue.take(1 << 20), vec![heartbeat(1), append(1, 10), append(2, 10)]);
        assert_eq!(queue.take(1 << 20), vec![]);
    }

    #[test]
    fn a_large_append_does_not_hold_the_next_heartbeat_back() {
        let queue = LinkQueue::new(1 << 20);
        queue.push(Lane::Append, append(1, 100_000));
        queue.push(Lane::Append, append(2, 100_000));
        assert_eq!(queue.take(64 << 10), vec![append(1, 100_000)]);
        queue.push(Lane::Control, heartbeat(7));
        assert_eq!(queue.take(64 << 10), vec![heartbeat(7), append(2, 100_000)]);
    }

    #[test]
    fn a_full_queue_drops_the_newest_append_and_the_oldest_heartbeat() {
        let queue = LinkQueue::new(1000);
        assert_eq!(queue.push(Lane::Append, append(1, 5000)), Pushed::Queued, "one always fits");
        assert_eq!(queue.push(Lane::Append, append(2, 10)), Pushed::Dropped);
        assert_eq!(queue.push(Lane::Control, heartbeat(1)), Pushed::Queued);
        assert_eq!(queue.push(Lane::Control, heartbeat(2)), Pushed::Displaced(1));
        assert_eq!(queue.take(1 << 20), vec![heartbeat(2), append(1, 5000)]);
    }
}
