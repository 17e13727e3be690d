//! What a replica keeps only to be quick: memory, not state. Two replicas that differ only here are
//! equal, and a clone starts without.

use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Aside<T>(pub(crate) T);

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
