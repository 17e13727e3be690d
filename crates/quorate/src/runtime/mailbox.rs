//! What one thread leaves for another. Taken all at once, so that work is done in batches.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A queue with one reader. Its size is bounded by what is admitted to it (see
/// [`super::gauge::Gauge`]), not here: a completion must never be refused.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    closed: bool,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State { items: Vec::new(), closed: false }), filled: Condvar::new() }
    }

    /// Leaves `item`.
    ///
    /// # Errors
    /// Gives it back when the mailbox is closed.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(item);
        }
        state.items.push(item);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Leaves all of `items`, so that they are taken together.
    ///
    /// # Errors
    /// Gives them back when the mailbox is closed.
    pub(crate) fn push_together(&self, mut items: Vec<T>) -> Result<(), Vec<T>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(items);
        }
        state.items.append(&mut items);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Leaves all of `items`, or drops them when the mailbox is closed.
    pub(crate) fn push_all(&self, items: impl IntoIterator<Item = T>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return;
        }
        state.items.extend(items);
        drop(state);
        self.filled.notify_one();
    }

    /// Waits for items and takes all of them; `None` when the mailbox is closed and empty.
    pub(crate) fn take(&self) -> Option<Vec<T>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = |state: &mut State<T>| state.items.is_empty() && !state.closed;
        let mut state = self.filled.wait_while(state, empty).unwrap_or_else(PoisonError::into_inner);
        if state.items.is_empty() { None } else { Some(std::mem::take(&mut state.items)) }
    }

    /// Like `take`, but for at most `within`; empty when nothing came or the mailbox is closed.
    pub(crate) fn take_within(&self, within: Duration) -> Vec<T> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = |state: &mut State<T>| state.items.is_empty() && !state.closed;
        let waited = self.filled.wait_timeout_while(state, within, empty);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.items)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    /// Takes no more. What is there can still be taken.
    pub(crate) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_was_left_before_closing_is_still_taken() {
        let mailbox = Mailbox::new();
        mailbox.push(1).unwrap();
        mailbox.close();
        assert_eq!(mailbox.push(2), Err(2));
        assert_eq!(mailbox.take(), Some(vec![1]));
        assert_eq!(mailbox.take(), None);
    }

    #[test]
    fn a_waiting_reader_is_woken() {
        let mailbox = Arc::new(Mailbox::new());
        let reader = std::thread::spawn({
            let mailbox = Arc::clone(&mailbox);
            move || mailbox.take()
        });
        mailbox.push(7).unwrap();
        assert_eq!(reader.join().unwrap(), Some(vec![7]));
        assert!(mailbox.take_within(Duration::ZERO).is_empty());
    }
}
