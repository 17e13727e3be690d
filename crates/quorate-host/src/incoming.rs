//! A state from outside on its way into a group: its pieces, as they come through the log, until all are there.
//!
//! ```text
//!   Piece(7, 0, …) ──► Piece(7, 4096, …) ──► … ──► Install(7, length, checksum) ──► machine.restore
//!        └── another id begins at 0: what was there goes ──────────────┘ does not fit: refused, nothing changes
//! ```
//!
//! * Replicated state like the sessions: every replica holds the same pieces at the same position of the log, also after a
//!   snapshot or a restart, so that all of them install the same bytes at the same entry or none does.
//! * Bounded by `SessionConfig::restore_bytes_max`. What nobody went on with for `idle_max` goes.
//!
//! ```text
//!   key                 value, after version:u8 = 1
//!   "i"                 id:u64 bytes:u64 used_millis:u64
//!   "i" offset:u64be    the piece
//! ```

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;

use crate::request::RequestError;

/// What has come of a state from outside.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    pub(crate) id: u64,
    pub(crate) bytes: u64,
    pub(crate) used_millis: u64,
    pub(crate) pieces: BTreeMap<u64, Bytes>,
}

impl Incoming {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether a piece is the next one, or (`Ok(false)`) one that is there already.
    pub(crate) fn expects(
        &self,
        id: u64,
        offset: u64,
        data: &[u8],
        bytes_max: u64,
    ) -> Result<bool, RequestError> {
        let bytes = offset.saturating_add(data.len() as u64);
        if bytes > bytes_max {
            return Err(RequestError::TooLarge { bytes, bytes_max });
        }
        let begins = offset == 0 && (self.is_empty() || id != self.id);
        if begins || (id == self.id && !self.is_empty() && offset == self.bytes) {
            return Ok(true);
        }
        match self.pieces.get(&offset) {
            Some(there) if id == self.id && there == data => Ok(false),
            Some(_) | None => {
                Err(RequestError::Snapshot { what: "another state from outside took its place".to_owned() })
            }
        }
    }

    /// Whether this is all of it, unchanged.
    pub(crate) fn is_whole(&self, id: u64, bytes: u64, crc: u32) -> bool {
        let crc_here = self.pieces.values().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece));
        !self.is_empty() && (self.id, self.bytes, crc_here) == (id, bytes, crc)
    }

    /// All of it as a stream.
    pub(crate) fn into_reader(self) -> impl Read {
        Pieces(self.pieces.into_values().collect())
    }
}

struct Pieces(std::collections::VecDeque<Bytes>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(first) = self.0.front_mut() {
            if first.is_empty() {
                self.0.pop_front();
                continue;
            }
            let count = first.len().min(buffer.len());
            buffer[..count].copy_from_slice(&first.split_to(count));
            return Ok(count);
        }
        Ok(0)
    }
}
