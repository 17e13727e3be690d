//! What every store must do, as tests that anybody can run on theirs.
//!
//! ```
//! use quorate_storage::conformance::{LogStoreUnderTest, log_store};
//! use quorate_storage::{LogStore, MemLogStore};
//!
//! struct InMemory(MemLogStore);
//! impl LogStoreUnderTest for InMemory {
//!     fn store(&mut self) -> &mut dyn LogStore {
//!         &mut self.0
//!     }
//!     fn reopen(&mut self) {}
//!     fn crash(&mut self, _seed: u64) {
//!         self.0.crash();
//!     }
//! }
//!
//! log_store::run(&mut || Box::new(InMemory(MemLogStore::with_crashes())));
//! ```
//!
//! A broken rule is a panic with the name of the case and what was expected. Nothing here knows how
//! a store works; [`LogModel`] says in the plainest way what a log is.

use std::sync::Arc;

use quorate_core::{Member, MemberRole, Membership, NodeId};

mod damage;
pub mod log_store;
mod model;
pub mod snapshot_store;

pub use damage::{DamageOutcome, judge_damage};
pub use log_store::LogStoreUnderTest;
pub use model::LogModel;
pub use snapshot_store::SnapshotStoreUnderTest;

/// A membership with one voter on `node`.
pub(crate) fn members(node: u64) -> Arc<Membership> {
    let member = Member {
        node: NodeId(node),
        role: MemberRole::Voter,
        peer_address: format!("node-{node}:7001"),
        client_address: String::new(),
    };
    Arc::new(Membership::initial(vec![member]).expect("one voter is a membership"))
}

/// A small generator (SplitMix64): the same seed gives the same test.
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
