//! Kinds of snapshot store: where the snapshots of a data directory are.

use std::fmt;

use crate::log_kind::is_store_name;

/// The name of a kind of snapshot store, noted in a data directory. Stores of one kind read each other's snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotKind(String);

impl SnapshotKind {
    /// Files in the directory, which is the default.
    pub const FILES: &'static str = "files";
    /// None are kept; the log is never compacted because of one.
    pub const DISCARD: &'static str = "discard";

    /// A kind of that name: 1 to 32 lower-case letters, digits, `-` and `_`; `None` for anything else.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        is_store_name(name).then(|| Self(name.to_owned()))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_files(&self) -> bool {
        self.0 == Self::FILES
    }

    /// Whether there can be snapshots that another kind would not find.
    pub(crate) fn keeps_nothing(&self) -> bool {
        self.0 == Self::DISCARD
    }
}

impl Default for SnapshotKind {
    fn default() -> Self {
        Self(Self::FILES.to_owned())
    }
}

impl fmt::Display for SnapshotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
