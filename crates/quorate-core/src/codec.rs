//! The one encoding of entries, memberships and messages, for disk and wire. Little-endian,
//! fixed-width where hot, every length checked before it is believed.

use bytes::Bytes;

use crate::entry::Entry;
use crate::membership::Membership;
use crate::message::{Message, SnapshotMeta};

/// Why bytes are not what they should be. Says where (offset from the start of the input).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Offset in bytes.
    pub offset: usize,
    /// What was expected there.
    pub expected: &'static str,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at byte {}: expected {}", self.offset, self.expected)
    }
}
impl std::error::Error for DecodeError {}

/// Appends the encoding of `entry` to `out`.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    unimplemented!("{entry:?}{out:?}")
}
/// Decodes exactly one entry; payloads share `bytes`.
pub fn decode_entry(bytes: &Bytes) -> Result<Entry, DecodeError> {
    unimplemented!("{bytes:?}")
}
/// The length of the encoding of `entry` in bytes.
pub fn encoded_entry_len(entry: &Entry) -> usize {
    unimplemented!("{entry:?}")
}
/// Appends the encoding of `membership` to `out`.
pub fn encode_membership(membership: &Membership, out: &mut Vec<u8>) {
    unimplemented!("{membership:?}{out:?}")
}
/// Decodes exactly one membership.
pub fn decode_membership(bytes: &Bytes) -> Result<Membership, DecodeError> {
    unimplemented!("{bytes:?}")
}
/// Appends the encoding of `meta` to `out`.
pub fn encode_snapshot_meta(meta: &SnapshotMeta, out: &mut Vec<u8>) {
    unimplemented!("{meta:?}{out:?}")
}
/// Decodes exactly one snapshot description.
pub fn decode_snapshot_meta(bytes: &Bytes) -> Result<SnapshotMeta, DecodeError> {
    unimplemented!("{bytes:?}")
}
/// Appends the encoding of `message` to `out`.
pub fn encode_message(message: &Message, out: &mut Vec<u8>) {
    unimplemented!("{message:?}{out:?}")
}
/// Decodes exactly one message; payloads share `bytes`.
pub fn decode_message(bytes: &Bytes) -> Result<Message, DecodeError> {
    unimplemented!("{bytes:?}")
}
