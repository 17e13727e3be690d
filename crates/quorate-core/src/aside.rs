//! What a replica keeps only to be quick: memory, not state. Two replicas that differ only here are
//! equal, and a clone starts without.

use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};

/// A longer list is not kept, so that one burst does not cost memory for ever.
const SPARE_MAX: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Aside<T>(pub(crate) T);

impl<T> Aside<Vec<T>> {
    /// Takes what is in `list`, and leaves the spare list to fill.
    pub(crate) fn swap(&mut self, list: &mut Vec<T>) -> Vec<T> {
        if list.is_empty() {
            return Vec::new();
        }
        std::mem::replace(list, std::mem::take(&mut self.0))
    }

    /// A list came back; what is still in it is forgotten.
    pub(crate) fn put(&mut self, mut list: Vec<T>) {
        if self.0.capacity() < list.capacity() && list.capacity() <= SPARE_MAX {
            list.clear();
            self.0 = list;
        }
    }
}

impl<T> Deref for Aside<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
impl<T> DerefMut for Aside<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
impl<T: Default> Clone for Aside<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}
impl<T> PartialEq for Aside<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<T> Eq for Aside<T> {}
impl<T> Hash for Aside<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
