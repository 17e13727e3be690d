//! A turn of the host on the thread that brings the news.
//!
//! ```text
//!   apply thread: applied ──► mailbox ──► host thread works: it will see
//!                                └──────► host thread sleeps: the apply thread does its turn, and the host sleeps on
//! ```
//!
//! Waking a thread costs more than most turns, and whoever waits for an answer waits for the
//! wake-up too. Log threads, apply threads and senders within the process help.
//!
//! * Only who has nothing else to do does another's turn: batches are not torn apart.
//! * A turn never waits for a disk, a state machine or a socket, on whatever thread, and who helps
//!   never waits for the host's lock: it may have that of another node already.
//! * Nothing is left lying. Who may help is decided with the item that is left, under the
//!   mailbox's lock, and the reader's state says who comes for it (`mailbox.rs`):
//!   - what comes while somebody helps is seen when the claim is given back, which wakes the thread;
//!   - if the thread's time is up meanwhile, it waits for the lock and has a turn of its own, and
//!     whoever comes too late for the lock knows that this turn begins after its item was left;
//!   - only the thread ticks and stops the node: a turn that finds a reason to stop, or after which
//!     a deadline is earlier than the thread means to sleep, calls it ([`Claim::nudge`]);
//!   - a panic poisons the lock and calls the thread, which ends the node as if it were its own;
//!   - a node that has stopped has no host any more, and its mailbox is closed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use quorate_host::Event;

use crate::runtime::host_thread::{HostInput, Shared};
use crate::runtime::mailbox::{Claim, Closed};

/// The longest message for whose sake its sender does the receiver's turn.
pub(crate) const HELP_BYTES_MAX: usize = 32 << 10;
/// The most turns that one piece of news leads to on the thread that brings it: what is left then
/// is much, and wakes the host thread.
const TURNS_MAX: usize = 4;
/// The most turns within each other: an apply thread's node commits, and another hears of it.
const DEPTH_MAX: usize = 2;

thread_local! {
    /// How many turns of others this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

impl Shared {
    /// Leaves what has been done for the host; `is_idle`: whoever did it has nothing else to do.
    pub(crate) fn bring_events(&self, events: Vec<Event>, is_idle: bool) {
        let inputs = events.into_iter().map(HostInput::Event);
        match is_idle {
            // A node that has stopped does not care.
            true => drop(self.bring(inputs)),
            false => self.mailbox.push_all(inputs),
        }
    }

    /// Leaves `inputs`, and does the host's turn if its thread sleeps.
    ///
    /// # Errors
    /// The node has stopped, and they are dropped.
    pub(crate) fn bring(&self, inputs: impl IntoIterator<Item = HostInput>) -> Result<(), Closed> {
        if DEPTH.get() >= DEPTH_MAX {
            return self.mailbox.push_or_drop(inputs);
        }
        if let Some(claim) = self.mailbox.push_claiming(inputs)? {
            self.help(&claim);
        }
        Ok(())
    }

    fn help(&self, claim: &Claim<'_, HostInput>) {
        DEPTH.set(DEPTH.get() + 1);
        let must_call = catch_unwind(AssertUnwindSafe(|| self.turns_of_another()));
        DEPTH.set(DEPTH.get() - 1);
        if must_call.unwrap_or(true) {
            claim.nudge();
        }
    }

    /// Does what there is to do; whether the thread must come back for something else.
    fn turns_of_another(&self) -> bool {
        let Ok(mut place) = self.host.try_lock() else { return false };
        let Some(host) = place.as_mut() else { return false };
        let mut must_call = host.turn_of_another();
        for _ in 1..TURNS_MAX {
            if must_call || self.mailbox.is_empty() {
                break;
            }
            must_call = host.turn_of_another();
        }
        must_call
    }
}
