//! Requests that are made in one turn of the runtime go to the host thread together.
//!
//! ```text
//!   task ─┐
//!   task ─┼─► gathered ──(the runtime has run whatever was ready)──► mailbox ─► host thread, woken once
//!   task ─┘
//! ```
//!
//! * The first request of a turn starts the task that hands over. That task lets all others go first.
//! * Requests stay in their order, whoever hands them over: the lock is held while it is done.
//! * Outside of a runtime there are no turns: such a request takes along what has been gathered.
//! * A runtime that ends drops the task, which hands over then.

use std::sync::{Arc, Mutex, PoisonError};

use quorate_host::RequestError;
use tokio::runtime::Handle;

use crate::raft::Raft;
use crate::runtime::host_thread::{HostInput, Shared};

/// See the module's head. Bounded by what is admitted to the queue of requests.
pub(crate) struct Gathering {
    shared: Arc<Shared>,
    gathered: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    inputs: Vec<HostInput>,
    /// Whether a task will hand over.
    is_expected: bool,
}

impl Gathering {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, gathered: Mutex::default() }
    }

    /// Leaves `inputs` for the host thread.
    pub(crate) fn leave(self: &Arc<Self>, inputs: impl IntoIterator<Item = HostInput>) {
        let runtime = Handle::try_current();
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.inputs.extend(inputs);
        let Ok(runtime) = runtime else {
            drop(gathered);
            return self.hand_over();
        };
        if !std::mem::replace(&mut gathered.is_expected, true) {
            drop(gathered);
            let turn = Turn(Arc::clone(self));
            // On its own, and for one turn only: whoever asked may stop asking, and others rely on it.
            drop(runtime.spawn(async move {
                tokio::task::yield_now().await;
                drop(turn);
            }));
        }
    }

    fn hand_over(&self) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let Gathered { inputs, .. } = std::mem::take(&mut *gathered);
        if let Err(inputs) = self.shared.mailbox.push_together(inputs) {
            drop(gathered);
            for input in inputs {
                if let HostInput::Request { reply, .. } = input {
                    // Whoever asked may have given up.
                    drop(reply.send(Err(stopped())));
                }
            }
        }
    }
}

/// Hands over when it is dropped.
struct Turn(Arc<Gathering>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.hand_over();
    }
}

/// The node takes no requests any more.
pub(crate) fn stopped() -> RequestError {
    RequestError::Stopped { reason: "the node has stopped".to_owned() }
}

impl Raft {
    /// The same handle, whose requests go to the replica together with those that other tasks make through it or
    /// its clones in the same turn of the runtime: once the runtime has run whatever was ready. For servers that
    /// take requests from many connections: the replica is woken once for all of them instead of once for each.
    /// They keep their order among each other, but not with requests through other handles.
    #[must_use]
    pub fn gathering(&self) -> Self {
        let mut gathering = self.clone();
        gathering.gathering = Some(Arc::new(Gathering::new(Arc::clone(&self.shared))));
        gathering
    }
}
