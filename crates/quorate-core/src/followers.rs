//! The members whom a leader feeds, by id. A group is small: a sorted list is walked and searched faster
//! than a tree, and one walk of it answers what a quorum has reached.

use crate::progress::Progress;
use crate::types::ReplicaId;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Followers {
    /// Ascending by id.
    list: Vec<(ReplicaId, Progress)>,
}

impl Followers {
    pub(crate) const fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn get(&self, id: ReplicaId) -> Option<&Progress> {
        self.list.iter().find(|(known, _)| *known == id).map(|(_, progress)| progress)
    }

    pub(crate) fn get_mut(&mut self, id: ReplicaId) -> Option<&mut Progress> {
        self.list.iter_mut().find(|(known, _)| *known == id).map(|(_, progress)| progress)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ReplicaId, &Progress)> + '_ {
        self.list.iter().map(|(id, progress)| (*id, progress))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (ReplicaId, &mut Progress)> + '_ {
        self.list.iter_mut().map(|(id, progress)| (*id, progress))
    }

    /// Adds one that is not there yet.
    pub(crate) fn add(&mut self, id: ReplicaId, progress: impl FnOnce() -> Progress) {
        if let Err(place) = self.list.binary_search_by_key(&id, |(known, _)| *known) {
            self.list.insert(place, (id, progress()));
        }
    }

    pub(crate) fn release_memory(&mut self) {
        self.list.shrink_to_fit();
        self.list.iter_mut().for_each(|(_, progress)| progress.release_memory());
    }

    pub(crate) fn retain(&mut self, stays: impl Fn(&Progress) -> bool) {
        self.list.retain(|(_, progress)| stays(progress));
    }
}
