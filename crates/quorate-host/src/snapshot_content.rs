//! What a snapshot's stream of bytes holds: the session table, then the machine's content.
//!
//! ```text
//!   version:u8 = 1   length:u64   record*      the session section, `length` bytes
//!   machine content…                           up to the end
//!   record           (length:u32 bytes…)       twice: key, value
//! ```

use std::io::{self, Read};

use bytes::Bytes;
use quorate_storage::SnapshotReader;

use crate::bytes_reader::{BytesReader, put_bytes};
use crate::state_machine::{MachineError, SnapshotSource};

const VERSION: u8 = 1;

/// A view of sessions and machine, sessions first.
pub(crate) struct ContentSource {
    sessions: Bytes,
    machine: Box<dyn SnapshotSource>,
}

impl ContentSource {
    pub(crate) fn new(records: &[(Bytes, Bytes)], machine: Box<dyn SnapshotSource>) -> Self {
        let mut section = Vec::new();
        for (key, value) in records {
            put_bytes(&mut section, key);
            put_bytes(&mut section, value);
        }
        let mut sessions = vec![VERSION];
        sessions.extend_from_slice(&(section.len() as u64).to_le_bytes());
        sessions.extend_from_slice(&section);
        Self { sessions: Bytes::from(sessions), machine }
    }
}

impl SnapshotSource for ContentSource {
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, MachineError> {
        if self.sessions.is_empty() {
            return self.machine.next_chunk(bytes_max);
        }
        let count = self.sessions.len().min(bytes_max.max(1));
        Ok(Some(self.sessions.split_to(count)))
    }
}

/// Reads the session section; `content` then stands at the machine's content.
pub(crate) fn read_sessions(content: &mut dyn Read) -> io::Result<Vec<(Bytes, Bytes)>> {
    let mut head = [0; 9];
    content.read_exact(&mut head)?;
    let [version, length @ ..] = head;
    if version != VERSION {
        return Err(invalid(format!("snapshot content of version {version}, this build knows {VERSION}")));
    }
    let length = u64::from_le_bytes(length);
    let mut section = Vec::new();
    // Grows with what is really there, not with what the length claims.
    if content.take(length).read_to_end(&mut section)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let section = Bytes::from(section);
    let mut fields = BytesReader::new(&section);
    let mut records = Vec::new();
    while !fields.is_empty() {
        let key = fields.bytes("a session record's key").map_err(invalid)?;
        let value = fields.bytes("a session record's value").map_err(invalid)?;
        records.push((key, value));
    }
    Ok(records)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A stored snapshot as a stream.
pub(crate) struct ContentReader {
    reader: Box<dyn SnapshotReader>,
    offset: u64,
}

impl ContentReader {
    pub(crate) fn new(reader: Box<dyn SnapshotReader>) -> Self {
        Self { reader, offset: 0 }
    }
}

/// A state machine's part of a stored snapshot, as a stream: what its `SnapshotSource` gave, byte for byte.
pub struct SnapshotContent(ContentReader);

impl SnapshotContent {
    /// The content of an opened snapshot. Reads what comes before it, from the disk.
    ///
    /// # Errors
    /// It is damaged, or of a format that this build does not know.
    pub fn new(reader: Box<dyn SnapshotReader>) -> io::Result<Self> {
        let mut content = ContentReader::new(reader);
        read_sessions(&mut content)?;
        Ok(Self(content))
    }
}

impl Read for SnapshotContent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read_at(self.offset, buffer).map_err(invalid)?;
        self.offset += count as u64;
        Ok(count)
    }
}
