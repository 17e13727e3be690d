//! The client's session: a number for every write, so that sending it again cannot apply it twice.
//!
//! ```text
//!   sequence   1  2  3  4  5  6
//!              ✓  ✓  ?  ✓  ?        next = 6, unanswered = {3, 5}
//!                    └─ acked_below = 3: the cluster may forget the answers to 1 and 2
//! ```
//!
//! * A number is given to one write only and stays with it over all its attempts.
//! * `acked_below` never passes a write that is still being tried.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::proto;

/// The session of a client and its clones.
#[derive(Debug, Default)]
pub(crate) struct Session {
    state: Mutex<State>,
    /// Held while a session is being opened, so that only one is.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    id: Option<u64>,
    next_sequence: u64,
    unanswered: BTreeSet<u64>,
}

/// A write's number. Dropping it says that nobody waits for the answer any more.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    session: &'a Session,
    id: u64,
    sequence: u64,
}

impl Session {
    /// The next number in the open session, if one is open.
    pub(crate) fn next_place(&self) -> Option<Place<'_>> {
        let mut state = self.lock();
        let id = state.id?;
        let sequence = state.next_sequence;
        state.next_sequence += 1;
        state.unanswered.insert(sequence);
        Some(Place { session: self, id, sequence })
    }

    /// A new session was opened.
    pub(crate) fn on_opened(&self, id: u64) {
        *self.lock() = State { id: Some(id), next_sequence: 1, unanswered: BTreeSet::new() };
    }

    /// The session of `place` has expired. Does nothing if a newer one is open already.
    pub(crate) fn on_expired(&self, place: &Place<'_>) {
        let mut state = self.lock();
        if state.id == Some(place.id) {
            *state = State::default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// How the write says where it belongs, as of now.
    pub(crate) fn dedupe(&self) -> proto::Dedupe {
        let state = self.session.lock();
        // In an older session than the open one nothing is known any more: acknowledge nothing.
        let acked_below = if state.id == Some(self.id) {
            state.unanswered.first().copied().unwrap_or(state.next_sequence)
        } else {
            0
        };
        let place = proto::SessionSequence { session: self.id, sequence: self.sequence, acked_below };
        proto::Dedupe { kind: Some(proto::dedupe::Kind::Session(place)) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.session.lock();
        if state.id == Some(self.id) {
            state.unanswered.remove(&self.sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(place: &Place<'_>) -> (u64, u64, u64) {
        match place.dedupe().kind {
            Some(proto::dedupe::Kind::Session(it)) => (it.session, it.sequence, it.acked_below),
            other => panic!("not a session: {other:?}"),
        }
    }

    #[test]
    fn the_oldest_unanswered_write_holds_back_what_is_acknowledged() {
        let session = Session::default();
        assert!(session.next_place().is_none());
        session.on_opened(7);
        let first = session.next_place().unwrap();
        let second = session.next_place().unwrap();
        assert_eq!(numbers(&second), (7, 2, 1));
        drop(first);
        assert_eq!(numbers(&second), (7, 2, 2));
        let third = session.next_place().unwrap();
        drop(second);
        assert_eq!(numbers(&third), (7, 3, 3));
    }

    #[test]
    fn an_expired_session_is_replaced_once() {
        let session = Session::default();
        session.on_opened(7);
        let (early, late) = (session.next_place().unwrap(), session.next_place().unwrap());
        session.on_expired(&early);
        assert!(session.next_place().is_none());
        session.on_opened(9);
        // A straggler of the old session does not close the new one, nor acknowledge for it.
        session.on_expired(&late);
        assert_eq!(numbers(&late), (7, 2, 0));
        drop((early, late));
        assert_eq!(numbers(&session.next_place().unwrap()), (9, 1, 1));
    }
}
