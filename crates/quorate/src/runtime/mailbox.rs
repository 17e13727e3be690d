//! What one thread leaves for another. Taken all at once, so that work is done in batches.
//!
//! * Waking a sleeping thread costs more than most of what is left for it: a reader that is awake is not woken.
//! * Writers fill one queue while the reader works through the other; then they change places.
//! * A writer may do the work of a sleeping reader itself (`push_claiming`): the reader is not
//!   woken, and sleeps as long as the [`Claim`] is held, unless its time is up.
//! * No item is left behind. It is left while the reader works, which looks again before it sleeps;
//!   or while it sleeps, and then it is woken or its place is claimed; or while it is called, and
//!   then whoever called it, or gives back the claim, does so before the reader sleeps again.
//!   `mailbox/interleavings.rs` tries every order of these steps.

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
#[cfg_attr(test, derive(Clone, PartialEq, Eq, PartialOrd, Ord))]
struct State<T> {
    items: Vec<T>,
    reader: Reader,
    /// Somebody works in the reader's place.
    claimed: bool,
    /// The reader shall come back, whether there is something or not.
    nudged: bool,
    closed: bool,
}

/// What the reader does. Only the reader itself leaves `Works`, and comes back to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Reader {
    Works,
    /// Until something is left.
    Sleeps,
    /// As before, but somebody sees to it that it comes back if it must: who has woken it, or who
    /// has the claim.
    Called,
}

/// Nothing is taken any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// The right to work in the place of a sleeping reader. When it is dropped, the reader sleeps on if
/// there is nothing left for it, and is woken otherwise.
pub(crate) struct Claim<'a, T>(&'a Mailbox<T>);

impl<T> Claim<'_, T> {
    /// The reader shall look at something else than what is left here.
    pub(crate) fn nudge(&self) {
        self.0.lock().nudged = true;
    }
}

impl<T> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        if self.0.lock().release() {
            self.0.filled.notify_one();
        }
    }
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        let state =
            State { items: Vec::new(), reader: Reader::Works, claimed: false, nudged: false, closed: false };
        Self { state: Mutex::new(state), filled: Condvar::new() }
    }

    /// Leaves all of `items`; if the reader sleeps it is not woken, and the caller takes its place.
    ///
    /// # Errors
    /// The mailbox is closed: they are dropped.
    pub(crate) fn push_claiming(
        &self,
        items: impl IntoIterator<Item = T>,
    ) -> Result<Option<Claim<'_, T>>, Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        state.items.extend(items);
        let is_claimed = state.claim();
        if !is_claimed {
            self.left(state);
        }
        Ok(is_claimed.then(|| Claim(self)))
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

    /// Leaves all of `items`.
    ///
    /// # Errors
    /// The mailbox is closed: they are dropped.
    pub(crate) fn push_or_drop(&self, items: impl IntoIterator<Item = T>) -> Result<(), Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        state.items.extend(items);
        self.left(state);
        Ok(())
    }

    /// Leaves all of `items`, or drops them when the mailbox is closed.
    pub(crate) fn push_all(&self, items: impl IntoIterator<Item = T>) {
        drop(self.push_or_drop(items));
    }

    /// Waits for items and moves all of them to `taken`, which is cleared first; false when the mailbox is closed
    /// and empty.
    pub(crate) fn take(&self, taken: &mut Vec<T>) -> bool {
        let mut state = self.lock();
        if state.must_wait() {
            state.falls_asleep();
            let waited = self.filled.wait_while(state, |state| state.must_wait());
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.comes_back();
        state.hand_over(taken);
        !taken.is_empty()
    }

    /// Like `take`, but for at most `within`; nothing when nothing came or the mailbox is closed.
    pub(crate) fn take_within(&self, taken: &mut Vec<T>, within: Duration) {
        self.wait(within).hand_over(taken);
    }

    /// Waits until there is something to take, but for at most `within`.
    pub(crate) fn wait_within(&self, within: Duration) {
        drop(self.wait(within));
    }

    fn wait(&self, within: Duration) -> MutexGuard<'_, State<T>> {
        let mut state = self.lock();
        if state.must_wait() && !within.is_zero() {
            state.falls_asleep();
            let waited = self.filled.wait_timeout_while(state, within, |state| state.must_wait());
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.comes_back();
        state
    }

    /// Moves what is there to `taken`, which is cleared first. Also for who works in the reader's place.
    pub(crate) fn take_now(&self, taken: &mut Vec<T>) {
        self.lock().hand_over(taken);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
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
        if state.call() {
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
        self.claimed || (self.items.is_empty() && !self.closed && !self.nudged)
    }

    /// The reader has nothing to do.
    fn falls_asleep(&mut self) {
        self.reader = if self.claimed { Reader::Called } else { Reader::Sleeps };
    }

    /// The reader goes on, after it has slept or without.
    fn comes_back(&mut self) {
        self.reader = Reader::Works;
        self.nudged = false;
    }

    /// Something may have been left: whether the reader must be woken for it.
    fn call(&mut self) -> bool {
        let must_call = self.reader == Reader::Sleeps && !self.items.is_empty();
        if must_call {
            self.reader = Reader::Called;
        }
        must_call
    }

    /// The same, for whoever would work in its place: whether to do so.
    fn claim(&mut self) -> bool {
        let is_claimed = self.call();
        self.claimed |= is_claimed;
        is_claimed
    }

    /// Who has the claim gives it back: whether the reader must be woken.
    fn release(&mut self) -> bool {
        self.claimed = false;
        let is_away = self.reader != Reader::Works;
        let sleeps_on = self.must_wait();
        if is_away && sleeps_on {
            self.reader = Reader::Sleeps;
        }
        is_away && !sleeps_on
    }

    /// The reader is awake and takes everything; its empty queue is the next to be filled.
    fn hand_over(&mut self, taken: &mut Vec<T>) {
        taken.clear();
        std::mem::swap(&mut self.items, taken);
        if self.items.capacity() > SPARE_ITEMS_MAX {
            self.items = Vec::new();
        }
    }
}

#[cfg(test)]
mod interleavings;

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

    /// The reader sleeps, and somebody else takes what is there: it sleeps on. What comes after
    /// that wakes it.
    #[test]
    fn a_writer_takes_the_place_of_a_sleeping_reader() {
        let mailbox = Arc::new(Mailbox::new());
        assert!(mailbox.push_claiming(vec![0]).unwrap().is_none(), "nobody sleeps");
        mailbox.take_within(&mut Vec::new(), Duration::ZERO);
        let reader = std::thread::spawn({
            let mailbox = Arc::clone(&mailbox);
            move || taken(&mailbox)
        });
        let mut mine = Vec::new();
        while mine.is_empty() {
            let claim = mailbox.push_claiming(vec![1]).unwrap();
            match claim.is_some() {
                true => mailbox.take_now(&mut mine),
                // It was not asleep yet: it takes them.
                false if reader.is_finished() => break,
                false => std::thread::yield_now(),
            }
        }
        mailbox.push_together(vec![2]).unwrap();
        let theirs = reader.join().unwrap().unwrap();
        assert!(theirs.starts_with(&[1]) || (theirs == [2] && !mine.is_empty()), "{theirs:?} {mine:?}");
    }

    #[test]
    fn what_is_left_behind_a_claim_wakes_the_reader_when_it_ends() {
        let mailbox = Mailbox::new();
        mailbox.lock().falls_asleep();
        let claim = mailbox.push_claiming(vec![1]).unwrap().unwrap();
        assert!(mailbox.push_claiming(vec![2]).unwrap().is_none(), "one at a time");
        assert!(mailbox.lock().must_wait());
        drop(claim);
        assert!(!mailbox.lock().must_wait());
        let mut taken = Vec::new();
        mailbox.take_within(&mut taken, Duration::ZERO);
        assert_eq!(taken, [1, 2]);
    }

    #[test]
    fn a_nudged_reader_comes_back_with_nothing() {
        let mailbox = Mailbox::new();
        mailbox.lock().falls_asleep();
        let claim = mailbox.push_claiming(vec![1]).unwrap().unwrap();
        mailbox.take_within(&mut Vec::new(), Duration::ZERO);
        claim.nudge();
        drop(claim);
        assert!(!mailbox.lock().must_wait());
        mailbox.wait_within(Duration::from_secs(10));
        assert!(mailbox.lock().must_wait(), "once");
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
