//! The database's file, through the [`Disk`] that everything else uses: so the single file meets the
//! same crashes and faults in tests as the WAL.

use std::fmt;
use std::io;

use redb::{Builder, Database, StorageBackend};

use super::{RedbConfig, guard};
use crate::disk::DiskFile;

/// The open database. Closing it writes, and may panic where the file is damaged: nobody hears of it,
/// because everything acknowledged is durable already.
pub(super) struct OpenDatabase(Option<Database>);

impl OpenDatabase {
    /// Opens or fills `file`, and has redb verify all of it. What redb keeps of free pages from one
    /// clean end to the next start has no checksum that is looked at, and pages in use would be given
    /// out again if it were wrong: verifying makes it anew.
    pub(super) fn open(file: Box<dyn DiskFile>, config: RedbConfig) -> Result<Self, redb::Error> {
        let mut builder = Builder::new();
        builder.set_cache_size(config.cache_bytes);
        let mut opened = Self(Some(builder.create_with_backend(FileBackend(file))?));
        if let Some(database) = &mut opened.0 {
            // False: free pages were not what was saved. They are right now.
            let _as_saved = database.check_integrity()?;
        }
        Ok(opened)
    }

    pub(super) fn get(&self) -> Result<&Database, redb::Error> {
        self.0.as_ref().ok_or(redb::Error::DatabaseClosed)
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        let database = self.0.take();
        let _nobody_asks = guard("closing", || {
            drop(database);
            Ok(())
        });
    }
}

/// One open file as redb wants to see it.
struct FileBackend(Box<dyn DiskFile>);

impl fmt::Debug for FileBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileBackend")
    }
}

impl StorageBackend for FileBackend {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let mut filled = 0;
        while filled < out.len() {
            let count = self.0.read_at(&mut out[filled..], offset + filled as u64)?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends too early"));
            }
            filled += count;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_size(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write_at(data, offset)
    }
}
