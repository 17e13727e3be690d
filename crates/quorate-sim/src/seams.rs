//! Where a test may put something between the product and the world.
//!
//! ```text
//!   StateMachine ──machine──┐
//!                           ├── the product ──disk──► virtual disk
//!   LogStore ──store────────┘        └──message──► virtual network
//! ```
//!
//! The simulator's own tests plant faults here, to see that each is caught. Users put their own
//! state machine here, to run it under the same faults.

use std::sync::Arc;

use quorate_core::{GroupId, NodeId};
use quorate_host::{PeerMessage, StateMachine};
use quorate_storage::{Disk, LogStore};

/// Puts something around a value of the product.
pub type Wrap<T> = Arc<dyn Fn(T) -> T + Send + Sync>;

/// Wrappers around the seams; by default there is nothing in between.
#[derive(Clone, Default)]
pub struct Seams {
    /// Around the disk that a starting node gets.
    pub disk: Option<Wrap<Arc<dyn Disk>>>,
    /// Around the log that a starting node opens.
    pub store: Option<Wrap<Box<dyn LogStore>>>,
    /// Around a group's state machine (inside what watches it).
    pub machine: Option<Wrap<Box<dyn StateMachine>>>,
    /// Around every message that a node gives to the network.
    pub message: Option<Wrap<PeerMessage>>,
}

impl std::fmt::Debug for Seams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seams").finish_non_exhaustive()
    }
}

pub(crate) fn wrapped<T>(wrap: Option<&Wrap<T>>, value: T) -> T {
    match wrap {
        Some(wrap) => wrap(value),
        None => value,
    }
}

/// A replica that a node should have.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) replica: quorate_core::ReplicaId,
    /// The first members, for a replica that was there from the beginning.
    pub(crate) initial: Option<Arc<quorate_core::Membership>>,
    /// Whom a joining replica may hear from first.
    pub(crate) seeds: Vec<(quorate_core::ReplicaId, NodeId, String)>,
}

/// All replicas of a node.
pub(crate) type Assignments = std::collections::BTreeMap<GroupId, Assignment>;
