//! Which group is to be ticked when. A tick costs what is due, however many groups sleep.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::{GroupId, MonoTime};

/// The next deadline of every group.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    by_group: BTreeMap<GroupId, MonoTime>,
    by_time: BTreeSet<(MonoTime, GroupId)>,
}

impl Deadlines {
    /// The group is due at `at` now, whatever was said before.
    pub(crate) fn set(&mut self, group: GroupId, at: MonoTime) {
        let before = self.by_group.insert(group, at);
        if before == Some(at) {
            return;
        }
        if let Some(before) = before {
            self.by_time.remove(&(before, group));
        }
        self.by_time.insert((at, group));
    }

    pub(crate) fn remove(&mut self, group: GroupId) {
        if let Some(at) = self.by_group.remove(&group) {
            self.by_time.remove(&(at, group));
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The first deadline of all.
    pub(crate) fn first(&self) -> Option<MonoTime> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The groups whose deadline has passed, ascending. They stay due until they are set anew.
    pub(crate) fn due(&self, now: MonoTime) -> BTreeSet<GroupId> {
        self.by_time.range(..=(now, GroupId(u64::MAX))).map(|(_, group)| *group).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn says_what_a_look_at_every_group_would_say(
            steps in prop::collection::vec((0u64..6, prop::option::weighted(0.8, 0u64..9)), 0..60),
            now in 0u64..10,
        ) {
            let mut deadlines = Deadlines::default();
            let mut plain = BTreeMap::new();
            for (group, at) in steps {
                let group = GroupId(group);
                if let Some(at) = at.map(MonoTime) {
                    deadlines.set(group, at);
                    plain.insert(group, at);
                } else {
                    deadlines.remove(group);
                    plain.remove(&group);
                }
                let due = plain.iter().filter(|(_, at)| at.0 <= now).map(|(group, _)| *group);
                prop_assert_eq!(deadlines.due(MonoTime(now)), due.collect());
                prop_assert_eq!(deadlines.first(), plain.values().min().copied());
                prop_assert_eq!(deadlines.by_time.len(), plain.len());
            }
        }
    }
}
