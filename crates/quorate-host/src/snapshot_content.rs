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

use crate::bytes_reader::put_bytes;
use crate::incoming::IncomingView;
use crate::state_machine::{MachineError, SnapshotSource};

const VERSION: u8 = 1;

/// A view of sessions and machine, sessions first. Of a state from outside one piece is in memory.
pub(crate) struct ContentSource {
    /// What is to be given next.
    part: Bytes,
    incoming: Option<IncomingView>,
    sessions: Bytes,
    machine: Box<dyn SnapshotSource>,
}

impl ContentSource {
    pub(crate) fn new(
        records: &[(Bytes, Bytes)],
        incoming: Option<IncomingView>,
        machine: Box<dyn SnapshotSource>,
    ) -> Self {
        let mut sessions = Vec::new();
        for (key, value) in records {
            put_bytes(&mut sessions, key);
            put_bytes(&mut sessions, value);
        }
        let incoming_bytes = incoming.as_ref().map_or(0, IncomingView::section_bytes);
        let mut head = vec![VERSION];
        head.extend_from_slice(&(sessions.len() as u64 + incoming_bytes).to_le_bytes());
        Self { part: Bytes::from(head), incoming, sessions: Bytes::from(sessions), machine }
    }
}

impl SnapshotSource for ContentSource {
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<Bytes>, MachineError> {
        if self.part.is_empty() {
            // Records ascend, and those of what is incoming are the lowest.
            self.part = match self.incoming.as_mut().map(IncomingView::next_records).transpose()?.flatten() {
                Some(records) => Bytes::from(records),
                None => std::mem::take(&mut self.sessions),
            };
        }
        if self.part.is_empty() {
            return self.machine.next_chunk(bytes_max);
        }
        let count = self.part.len().min(bytes_max.max(1));
        Ok(Some(self.part.split_to(count)))
    }
}

/// The session section, record by record; when it is over, the content stands at the machine's.
pub(crate) struct SessionSection<'a> {
    content: &'a mut dyn Read,
    left: u64,
}

impl<'a> SessionSection<'a> {
    pub(crate) fn open(content: &'a mut dyn Read) -> io::Result<Self> {
        let mut head = [0; 9];
        content.read_exact(&mut head)?;
        let [version, length @ ..] = head;
        if version != VERSION {
            return Err(invalid(format!(
                "snapshot content of version {version}, this build knows {VERSION}"
            )));
        }
        Ok(Self { content, left: u64::from_le_bytes(length) })
    }

    /// The next key and value.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Bytes, Bytes)>> {
        if self.left == 0 {
            return Ok(None);
        }
        Ok(Some((self.field()?, self.field()?)))
    }

    fn field(&mut self) -> io::Result<Bytes> {
        let length = u32::from_le_bytes(self.take(4)?.try_into().unwrap_or_default());
        Ok(Bytes::from(self.take(u64::from(length))?))
    }

    fn take(&mut self, count: u64) -> io::Result<Vec<u8>> {
        let left = self.left.checked_sub(count);
        self.left = left.ok_or_else(|| invalid("a session record is longer than the section"))?;
        let mut bytes = Vec::new();
        // Grows with what is really there, not with what the length claims.
        if (&mut *self.content).take(count).read_to_end(&mut bytes)? as u64 != count {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
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
        let mut section = SessionSection::open(&mut content)?;
        while section.next()?.is_some() {}
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
