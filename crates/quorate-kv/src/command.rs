//! What the store can be told and asked, and what it says back. One enum from client to log: the
//! bytes a client encodes are the bytes in the log entry.
//!
//! * A key is one to [`KEY_BYTES_CAP`](crate::KEY_BYTES_CAP) bytes, a value up to
//!   [`VALUE_BYTES_CAP`](crate::VALUE_BYTES_CAP) bytes of anything; keys are ordered as bytes.
//! * A *version* is the log index of the write that made a value. It never repeats for a key, not
//!   even when the key is deleted and put again. To users it is opaque.
//!
//! Not here: the bytes (`codec`), what commands do (`data::state_machine`), what a server is willing
//! to accept (`limits`).

use bytes::Bytes;

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvCommand {
    /// Sets `key` to `value` if `condition` holds.
    Put {
        /// The key.
        key: Bytes,
        /// What it is set to.
        value: Bytes,
        /// What must hold before.
        condition: Condition,
    },
    /// Removes `key` if `condition` holds. Removing a key that is not there is done at once.
    Delete {
        /// The key.
        key: Bytes,
        /// What must hold before.
        condition: Condition,
    },
}

/// What must hold for a key right before a command changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Any,
    /// The key is not there.
    Absent,
    /// The key is there, whatever it holds.
    Present,
    /// The key is there with this version.
    Version(u64),
    /// The key is there with this value.
    Value(Bytes),
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvResponse {
    /// It took effect.
    Done {
        /// The log index of this write; for a put, the version of the new value.
        version: u64,
        /// The version that was there before, if any.
        previous: Option<u64>,
    },
    /// The condition did not hold: nothing changed.
    ConditionFailed {
        /// The version that is there, if any.
        current: Option<u64>,
    },
    /// The command is no valid encoding, or its key or value is beyond the hard caps: nothing changed.
    Malformed,
}

/// A question that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvQuery {
    /// What is `key`?
    Get {
        /// The key.
        key: Bytes,
    },
    /// Which items have keys in `start..end`, in key order?
    Scan {
        /// The first key; empty: from the beginning.
        start: Bytes,
        /// The first key not asked for; `None`: to the end.
        end: Option<Bytes>,
        /// At most this many items (0 counts as 1).
        limit: u32,
        /// Keys and values of a page have at most this many bytes together, unless a single item has more
        /// (a page is never empty while there is something). At most [`SCAN_BYTES_CAP`](crate::SCAN_BYTES_CAP).
        bytes_max: u64,
    },
}

/// What a query found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvAnswer {
    /// For a get: the item, if the key is there.
    Value(Option<Item>),
    /// For a scan.
    Page {
        /// The items in key order.
        items: Vec<Item>,
        /// Where to start the next scan; `None`: there is nothing more in the range.
        next: Option<Bytes>,
    },
    /// The query is no valid encoding, or asks for an impossible key.
    Malformed,
}

/// One key with what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The log index of the write that put it there.
    pub version: u64,
}

impl KvCommand {
    /// The key it changes.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// What must hold before.
    #[must_use]
    pub const fn condition(&self) -> &Condition {
        match self {
            Self::Put { condition, .. } | Self::Delete { condition, .. } => condition,
        }
    }
}

impl Item {
    /// Bytes of key and value together, as the limits of a scan count them.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.key.len().saturating_add(self.value.len())
    }
}
