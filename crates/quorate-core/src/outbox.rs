//! Messages on their way out. A message that promises something waits here until the write that
//! makes the promise true is durable: "sent before persisted" cannot be written.
//!
//! * Within one receiver, messages that may leave keep their order.
//! * Held acceptances that wait for the same write are merged, so that a stuck disk and a leader
//!   that repeats itself cannot fill the memory.
//! * When the term changes, held messages of older terms are dropped: nobody needs them.

use crate::message::{AppendReply, Message, MessageBody};
use crate::ready::{PersistToken, exchange};
use crate::types::Term;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Outbox {
    free: Vec<Message>,
    held: Vec<(PersistToken, Message)>,
}

impl Outbox {
    /// Sends `message` once the write `gate` is durable; at once without one.
    #[inline]
    pub(crate) fn push(&mut self, message: Message, gate: Option<PersistToken>) {
        match gate {
            None => self.free.push(message),
            Some(gate) => self.hold(message, gate),
        }
    }

    fn hold(&mut self, message: Message, gate: PersistToken) {
        for (token, held) in &mut self.held {
            if *token == gate && merge(held, &message) {
                return;
            }
        }
        self.held.push((gate, message));
    }

    /// The write `token`, and all before it, is durable.
    pub(crate) fn release(&mut self, token: PersistToken) {
        if self.held.is_empty() {
            return;
        }
        let released = self.held.extract_if(.., |(gate, _)| *gate <= token);
        self.free.extend(released.map(|(_, message)| message));
    }

    /// Forgets held messages of terms before `term`.
    pub(crate) fn drop_older(&mut self, term: Term) {
        self.held.retain(|(_, message)| message.term >= term);
    }

    pub(crate) fn release_memory(&mut self) {
        self.free.shrink_to_fit();
        self.held.shrink_to_fit();
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// What may leave goes into `list`, whose room is used again.
    pub(crate) fn take_into(&mut self, list: &mut Vec<Message>) {
        exchange(&mut self.free, list);
    }
}

/// Whether `held` now says what both said.
fn merge(held: &mut Message, message: &Message) -> bool {
    if (held.to, held.term, held.epoch) != (message.to, message.term, message.epoch) {
        return false;
    }
    match (&mut held.body, &message.body) {
        (
            MessageBody::AppendReply(AppendReply::Accepted { matched, read_round }),
            MessageBody::AppendReply(AppendReply::Accepted { matched: also_matched, read_round: later }),
        ) => {
            *matched = (*matched).max(*also_matched);
            *read_round = (*read_round).max(*later);
            true
        }
        (held, message) => held == message,
    }
}
