//! Many groups have the same members: one copy of each list serves all of them.
//!
//! * Lists are found by their encoding, so that it does not matter where they came from: a write, or a segment that was
//!   read after a restart.
//! * Who is not used any more is forgotten, at the latest when there are twice as many.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use quorate_core::{Membership, encode_membership};

use crate::group_log::GroupLog;

/// Fewer than this are not looked through for those that nobody uses.
const KEPT_MIN: usize = 64;

/// See the module.
#[derive(Default)]
pub(crate) struct SharedMembers {
    by_encoding: BTreeMap<Vec<u8>, Weak<Membership>>,
    /// How many were in use when that was counted last.
    in_use: usize,
}

impl SharedMembers {
    /// Makes `log` use the copies of others where there are any.
    pub(crate) fn share(&mut self, log: &mut GroupLog) {
        let base = log.base.iter_mut();
        for (_, membership) in base.chain(&mut log.memberships) {
            *membership = self.shared(membership);
        }
        log.memberships.shrink_to_fit();
    }

    fn shared(&mut self, membership: &Arc<Membership>) -> Arc<Membership> {
        let mut encoding = Vec::new();
        encode_membership(membership, &mut encoding);
        if let Some(known) = self.by_encoding.get(&encoding).and_then(Weak::upgrade) {
            return known;
        }
        if self.by_encoding.len() >= (2 * self.in_use).max(KEPT_MIN) {
            self.by_encoding.retain(|_, known| known.strong_count() > 0);
            self.in_use = self.by_encoding.len();
        }
        self.by_encoding.insert(encoding, Arc::downgrade(membership));
        Arc::clone(membership)
    }
}

#[cfg(test)]
mod tests {
    use quorate_core::{LogId, Member, NodeId};

    use super::*;

    fn log_of(node: u64) -> GroupLog {
        let members = vec![Member::voter(NodeId(node), "host:1")];
        let base = Some((LogId::default(), Arc::new(Membership::initial(members).unwrap())));
        GroupLog { base, ..GroupLog::default() }
    }

    #[test]
    fn groups_with_the_same_members_have_one_list_and_those_that_are_gone_none() {
        let mut shared = SharedMembers::default();
        let mut logs: Vec<GroupLog> = (0..1000).map(|group| log_of(1 + group % 2)).collect();
        logs.iter_mut().for_each(|log| shared.share(log));
        let list = |group: usize| &logs[group].base.as_ref().unwrap().1;
        assert!(Arc::ptr_eq(list(0), list(998)) && Arc::ptr_eq(list(1), list(999)));
        assert_eq!((list(0) == list(1), shared.by_encoding.len()), (false, 2));
        for node in 3..1000 {
            shared.share(&mut log_of(node));
        }
        assert!(shared.by_encoding.len() <= KEPT_MIN);
    }
}
