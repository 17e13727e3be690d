//! What the invariants over several replicas need to know of one, computed once per replica state.
//!
//! A log becomes a chain of numbers: each number stands for an entry *and everything before it*. Two
//! logs agree up to an index exactly when the numbers there are equal.

use std::collections::BTreeMap;

use quorate_core::{Entry, RoleName};

use crate::fingerprint::fingerprint;
use crate::replica::Replica;

/// An entry and everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Link {
    pub(crate) term: u64,
    pub(crate) chain: u32,
}

/// See the module.
pub(crate) struct Facts {
    pub(crate) term: u64,
    pub(crate) leads: bool,
    pub(crate) commit: usize,
    pub(crate) log: Vec<Link>,
    pub(crate) durable: Vec<Link>,
}

/// Numbers for chains.
#[derive(Default)]
pub(crate) struct Chains(BTreeMap<(u32, u128), u32>);

impl Chains {
    fn links(&mut self, entries: &[Entry]) -> Vec<Link> {
        let mut chain = 0;
        let link = |entry: &Entry| {
            let next = u32::try_from(self.0.len()).unwrap() + 1;
            chain = *self.0.entry((chain, fingerprint(entry))).or_insert(next);
            Link { term: entry.term().0, chain }
        };
        entries.iter().map(link).collect()
    }

    pub(crate) fn facts(&mut self, replica: &Replica) -> Facts {
        let status = replica.core.status();
        Facts {
            term: status.term.0,
            leads: status.role == RoleName::Leader,
            commit: usize::try_from(status.commit.0).unwrap(),
            log: self.links(&replica.history()),
            durable: self.links(&replica.disk.history()),
        }
    }
}
