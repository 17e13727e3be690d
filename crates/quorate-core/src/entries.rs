//! Entries that several lanes share: the same chunk goes to the disk, to every follower and to the
//! state machine, and is used again when the last of them has let go of it.
//!
//! ```text
//!   chunk:  │ 7 │ 8 │ 9 │ 10 │          Entries = a part of a chunk, counted by reference
//!               └── append ──┘
//!           └── persist, apply ──┘
//! ```
//!
//! * A chunk never changes while anybody else holds it.
//! * Equal means equal entries, wherever they are kept.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::entry::Entry;

/// Contiguous entries, cheap to clone. Reads like a slice; made from a `Vec` or an iterator.
#[derive(Clone, Default)]
pub struct Entries {
    /// `None` is the empty list, which needs no memory.
    chunk: Option<Arc<Vec<Entry>>>,
    start: usize,
    end: usize,
}

impl Entries {
    /// No entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunk: None, start: 0, end: 0 }
    }

    /// A part of a chunk (`part` within it).
    pub(crate) fn part(chunk: &Arc<Vec<Entry>>, part: Range<usize>) -> Self {
        debug_assert!(part.end <= chunk.len(), "{part:?} of {}", chunk.len());
        Self { chunk: Some(Arc::clone(chunk)), start: part.start, end: part.end }
    }

    /// The chunk these are all of.
    pub(crate) fn whole_chunk(&self) -> Option<&Arc<Vec<Entry>>> {
        self.chunk.as_ref().filter(|chunk| self.start == 0 && self.end == chunk.len())
    }

    /// The entries as a list that may be changed: taken over if nobody else holds them, otherwise copied.
    #[must_use]
    pub fn into_vec(self) -> Vec<Entry> {
        let whole = self.whole_chunk().is_some();
        match self.chunk {
            Some(chunk) if whole => Arc::try_unwrap(chunk).unwrap_or_else(|shared| shared.to_vec()),
            Some(chunk) => chunk.get(self.start..self.end).unwrap_or_default().to_vec(),
            None => Vec::new(),
        }
    }
}

impl Deref for Entries {
    type Target = [Entry];
    fn deref(&self) -> &[Entry] {
        let chunk = self.chunk.as_ref().map_or(&[][..], |chunk| chunk.as_slice());
        chunk.get(self.start..self.end).unwrap_or_default()
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Self {
        let end = entries.len();
        Self { chunk: (end > 0).then(|| Arc::new(entries)), start: 0, end }
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        entries.into_iter().collect::<Vec<_>>().into()
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Copies what others hold, too; `&entries` does not.
impl IntoIterator for Entries {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;
    fn into_iter(self) -> Self::IntoIter {
        self.into_vec().into_iter()
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
impl Eq for Entries {}

impl Hash for Entries {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
