//! Lists of a [`Ready`](crate::Ready) that came back empty, to be filled again.
//!
//! This is memory, not state: two replicas that differ only here are equal, and a clone starts without.

use std::hash::{Hash, Hasher};

/// A longer list is not kept, so that one burst does not cost memory for ever.
const KEPT_MAX: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Spare<T>(Vec<T>);

impl<T> Spare<T> {
    /// Takes what is in `list`, and leaves a list to fill.
    pub(crate) fn swap(&mut self, list: &mut Vec<T>) -> Vec<T> {
        if list.is_empty() {
            return Vec::new();
        }
        std::mem::replace(list, std::mem::take(&mut self.0))
    }

    /// A list came back; what is still in it is forgotten.
    pub(crate) fn put(&mut self, mut list: Vec<T>) {
        if self.0.capacity() < list.capacity() && list.capacity() <= KEPT_MAX {
            list.clear();
            self.0 = list;
        }
    }
}

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}
impl<T> Clone for Spare<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}
impl<T> PartialEq for Spare<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<T> Eq for Spare<T> {}
impl<T> Hash for Spare<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
