//! A snapshot for state machines that are small enough to be copied.

use bytes::Bytes;
use quorate_host::{MachineError, SnapshotSource};

/// A [`SnapshotSource`] over bytes that are in memory already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BytesSnapshot {
    rest: Bytes,
}

impl BytesSnapshot {
    /// A snapshot with this content.
    pub fn new(content: impl Into<Bytes>) -> Self {
        Self { rest: content.into() }
    }
}

impl SnapshotSource for BytesSnapshot {
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, MachineError> {
        let bytes = bytes_max.max(1).min(self.rest.len());
        let chunk = self.rest.split_to(bytes);
        Ok(if chunk.is_empty() { None } else { Some(chunk) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_are_the_whole() {
        let mut snapshot = BytesSnapshot::new("abcdefg");
        let mut pieces = Vec::new();
        while let Some(piece) = snapshot.next_chunk(3).unwrap() {
            pieces.push(piece);
        }
        assert_eq!(pieces, ["abc", "def", "g"]);
    }
}
