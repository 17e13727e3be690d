//! What one thread leaves for another. Taken all at once, so that work is done in batches.
//!
//! * Waking a sleeping thread costs more than most of what is left for it: a reader that is awake is not woken.
//! * Writers fill one queue while the reader works through the other; then they change places.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A queue that was longer than this once does not keep the memory.
const SPARE_ITEMS_MAX: usize = 4096;

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
    /// Whether the reader sleeps until something is left.
    asleep: bool,
    closed: bool,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        let state = State { items: Vec::new(), asleep: false, closed: false };
        Self { state: Mutex::new(state), filled: Condvar::new() }
    }

    /// Leaves `item`.
    ///
    /// # Errors
    /// Gives it back when the mailbox is closed.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        state.items.push(item);
        self.left(state);
        Ok(())
    }

    /// Leaves all of `items`, so that they are taken together.
    ///
    /// # Errors
    /// Gives them back when the mailbox is closed.
    pub(crate) fn push_together(&self, mut items: Vec<T>) -> Result<(), Vec<T>> {
        let mut state = self.lock();
        if state.closed {
            return Err(items);
        }
        state.items.append(&mut items);
        self.left(state);
        Ok(())
    }

    /// Leaves all of `items`, or drops them when the mailbox is closed.
    pub(crate) fn push_all(&self, items: impl IntoIterator<Item = T>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.items.extend(items);
        self.left(state);
    }

    /// Waits for items and moves all of them to `taken`, which is cleared first; false when the mailbox is closed
    /// and empty.
    pub(crate) fn take(&self, taken: &mut Vec<T>) -> bool {
        let mut state = self.lock();
        if state.must_wait() {
            state.asleep = true;
            let waited = self.filled.wait_while(state, |state| state.must_wait());
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.hand_over(taken);
        !taken.is_empty()
    }

    /// Like `take`, but for at most `within`; nothing when nothing came or the mailbox is closed.
    pub(crate) fn take_within(&self, taken: &mut Vec<T>, within: Duration) {
        let mut state = self.lock();
        if state.must_wait() && !within.is_zero() {
            state.asleep = true;
            let waited = self.filled.wait_timeout_while(state, within, |state| state.must_wait());
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.hand_over(taken);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Takes no more. What is there can still be taken.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// Takes no more and drops what is there: nobody will read it, and whoever waits for an answer must know.
    pub(crate) fn abandon(&self) {
        self.close();
        // Dropped without the lock: who is answered may leave something.
        let left = std::mem::take(&mut self.lock().items);
        drop(left);
    }

    /// Something was left: wakes the reader if it sleeps.
    fn left(&self, mut state: MutexGuard<'_, State<T>>) {
        if state.asleep && !state.items.is_empty() {
            state.asleep = false;
            drop(state);
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn must_wait(&self) -> bool {
        self.items.is_empty() && !self.closed
    }

    /// The reader is awake and takes everything; its empty queue is the next to be filled.
    fn hand_over(&mut self, taken: &mut Vec<T>) {
        taken.clear();
        std::mem::swap(&mut self.items, taken);
        self.asleep = false;
        if self.items.capacity() > SPARE_ITEMS_MAX {
            self.items = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn taken<T>(mailbox: &Mailbox<T>) -> Option<Vec<T>> {
        let mut taken = Vec::new();
        mailbox.take(&mut taken).then_some(taken)
    }

    #[test]
    fn what_was_left_before_closing_is_still_taken() {
        let mailbox = Mailbox::new();
        mailbox.push(1).unwrap();
        mailbox.close();
        assert_eq!(mailbox.push(2), Err(2));
        assert_eq!(taken(&mailbox), Some(vec![1]));
        assert_eq!(taken(&mailbox), None);
    }

    #[test]
    fn a_waiting_reader_is_woken() {
        let mailbox = Arc::new(Mailbox::new());
        let reader = std::thread::spawn({
            let mailbox = Arc::clone(&mailbox);
            move || taken(&mailbox)
        });
        mailbox.push_together(vec![7]).unwrap();
        assert_eq!(reader.join().unwrap(), Some(vec![7]));
        let mut nothing = vec![0];
        mailbox.take_within(&mut nothing, Duration::ZERO);
        assert!(nothing.is_empty());
    }

    #[test]
    fn what_is_left_while_the_reader_works_is_there_when_it_comes_back() {
        let mailbox = Mailbox::new();
        mailbox.push_together(vec![1, 2]).unwrap();
        let mut taken = Vec::new();
        mailbox.take_within(&mut taken, Duration::ZERO);
        assert_eq!(taken, [1, 2]);
        mailbox.push_all([3]);
        assert!(mailbox.take(&mut taken));
        assert_eq!(taken, [3]);
    }
}
