//! Every order in which a reader and three writers can do their steps, a step being what one of
//! them does under one lock. The steps on the mailbox are the real ones.
//!
//! ```text
//!   reader:  look or sleep ─► lock the host ─► take, work ─► unlock ─► look or sleep ...
//!   writer:  leave an item ─┬► (woke the reader, or need not)
//!                           └► claimed ─► try to lock ─► take, work ─► unlock ─► (nudge) ─► give the claim back
//! ```
//!
//! Where nobody can do a step any more but a reader whose time is up, nothing may be left to do:
//! otherwise an item waits for a timeout.

use std::collections::BTreeSet;

use super::{Reader, State};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Item {
    Plain,
    /// Whoever helps leaves it aside for the reader: a deadline, or the end of the node.
    ForReader,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    Look,
    Asleep,
    Lock,
    Work,
    Unlock,
    Nudge,
    Release,
    Leave,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct World {
    mailbox: State<Item>,
    /// The condition variable: the reader, asleep, has been told to look.
    notified: bool,
    host_locked: bool,
    /// Left aside for the reader.
    aside: bool,
    reader: Step,
    /// Where each writer is, and what it has still to leave.
    writers: Vec<(Step, Vec<Item>)>,
    timeouts: usize,
}

impl World {
    fn new(items: &[&[Item]], timeouts: usize) -> Self {
        let mailbox =
            State { items: Vec::new(), reader: Reader::Works, claimed: false, nudged: false, closed: false };
        let writers = items.iter().map(|items| (Step::Leave, items.to_vec())).collect();
        let reader = Step::Look;
        Self { mailbox, notified: false, host_locked: false, aside: false, reader, writers, timeouts }
    }

    fn notify_if(&mut self, must_notify: bool) {
        self.notified |= must_notify && self.reader == Step::Asleep;
    }

    fn come_back(&mut self) {
        self.mailbox.comes_back();
        self.notified = false;
        self.reader = Step::Lock;
    }

    /// What the world can be after a step of the reader.
    fn after_reader(&self) -> Option<Self> {
        let mut next = self.clone();
        match self.reader {
            Step::Look if next.mailbox.must_wait() => {
                next.mailbox.falls_asleep();
                next.reader = Step::Asleep;
            }
            Step::Look => next.come_back(),
            Step::Asleep if self.notified && !next.mailbox.must_wait() => next.come_back(),
            Step::Asleep if self.notified => next.notified = false,
            Step::Lock if !self.host_locked => {
                next.host_locked = true;
                next.reader = Step::Work;
            }
            Step::Work => {
                next.mailbox.hand_over(&mut Vec::new());
                next.aside = false;
                next.reader = Step::Unlock;
            }
            Step::Unlock => {
                next.host_locked = false;
                next.reader = Step::Look;
            }
            Step::Asleep | Step::Lock | Step::Nudge | Step::Release | Step::Leave => return None,
        }
        Some(next)
    }

    fn after_timeout(&self) -> Option<Self> {
        let mut next = self.clone();
        if self.reader != Step::Asleep || self.timeouts == 0 {
            return None;
        }
        next.timeouts -= 1;
        next.come_back();
        Some(next)
    }

    /// What the world can be after a step of a writer: it may wake the reader or help it.
    fn after_writer(&self, writer: usize) -> Vec<Self> {
        let mut next = self.clone();
        let to = |world: &mut Self, step| world.writers[writer].0 = step;
        match self.writers[writer].0 {
            Step::Leave => {
                let Some(item) = next.writers[writer].1.pop() else { return Vec::new() };
                next.mailbox.items.push(item);
                let mut helps = next.clone();
                if helps.mailbox.claim() {
                    to(&mut helps, Step::Lock);
                }
                let must_wake = next.mailbox.call();
                next.notify_if(must_wake);
                return vec![next, helps];
            }
            Step::Lock if self.host_locked => to(&mut next, Step::Release),
            Step::Lock => {
                next.host_locked = true;
                to(&mut next, Step::Work);
            }
            Step::Work => {
                let mut taken = Vec::new();
                next.mailbox.hand_over(&mut taken);
                next.aside |= taken.contains(&Item::ForReader);
                to(&mut next, Step::Unlock);
            }
            Step::Unlock => {
                next.host_locked = false;
                to(&mut next, if self.aside { Step::Nudge } else { Step::Release });
            }
            Step::Nudge => {
                next.mailbox.nudged = true;
                to(&mut next, Step::Release);
            }
            Step::Release => {
                let must_wake = next.mailbox.release();
                next.notify_if(must_wake);
                to(&mut next, Step::Leave);
            }
            Step::Look | Step::Asleep => return Vec::new(),
        }
        vec![next]
    }

    /// Goes through everything that can come after this; `path`: what was before.
    fn explore(self, path: &mut Vec<Self>, seen: &mut BTreeSet<Self>) {
        assert!(!path.contains(&self), "they turn in a circle: {path:#?}");
        if seen.contains(&self) {
            return;
        }
        let mut after: Vec<_> = self.after_reader().into_iter().collect();
        after.extend((0..self.writers.len()).flat_map(|writer| self.after_writer(writer)));
        let must_be_done = after.is_empty();
        after.extend(self.after_timeout());
        path.push(self);
        let here = path.last().unwrap();
        if must_be_done {
            let mailbox = &here.mailbox;
            assert!(mailbox.items.is_empty() && !here.aside, "nobody comes for it: {path:#?}");
            assert!(!mailbox.claimed && !here.host_locked && mailbox.reader == Reader::Sleeps, "{path:#?}");
        }
        seen.insert(here.clone());
        for next in after {
            next.explore(path, seen);
        }
        path.pop();
    }
}

#[test]
fn in_whatever_order_nothing_is_left_that_nobody_comes_for() {
    use Item::{ForReader, Plain};
    let mut seen = BTreeSet::new();
    for items in
        [&[&[Plain, Plain][..], &[Plain], &[ForReader]][..], &[&[ForReader, Plain], &[Plain, ForReader]]]
    {
        for timeouts in 0..=2 {
            World::new(items, timeouts).explore(&mut Vec::new(), &mut seen);
        }
    }
    assert!(seen.len() > 1000, "{}", seen.len());
}
