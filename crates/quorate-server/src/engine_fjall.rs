//! The key-value store's engine on disk: fjall, one database for a node, one keyspace for a group.
//!
//! ```text
//!   database ── keyspace "group-1-7"                 group 1, generation 7
//!                 'd' key    ► version (u64), value     the items
//!                 'r' key    ► record                   the host's records
//!                 's'        ► format, term, index      the applied position, in every batch
//!
//!   replace_all:  create "group-1-8" ► delete "group-1-7" ► fill 8 at once, its 's' included
//! ```
//!
//! * Everything of a group lies in *one* keyspace. fjall writes a keyspace's memtable to tables without
//!   first syncing its journal, so that after a power loss two keyspaces of one batch could disagree; one
//!   keyspace is always the state after some batch.
//! * Nothing is synced by a write. `flush` syncs the journal, and only what it reported may be
//!   dropped from the log.
//! * A generation without 's' holds nothing: a replacement that was interrupted leaves one, and opening it
//!   reports nothing applied. Filling is atomic (tables are written aside and added in one step). A new
//!   generation is a new keyspace, because the journal of a cleared one would clear it again when replayed.
//! * fjall poisons a database after a failed write or sync: every write after it is an error here, and
//!   the replica stops.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Slice, Snapshot};
use quorate::{BatchEnd, GroupId, LogId, MachineError, Recovered};
use quorate_kv::{Changes, Engine, EngineView, Item, KeyRange, Stored, Visit};

const ITEM: u8 = b'd';
const RECORD: u8 = b'r';
const STATE: &[u8] = b"s";
const STATE_FORMAT: u8 = 1;
/// Threads that write memtables out and compact tables, for all groups together.
const WORKER_THREADS: usize = 2;
/// Open table files that are kept, for all groups together.
const OPEN_FILES_MAX: usize = 128;

/// How much memory the database of a node may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FjallSettings {
    /// Blocks of tables kept in memory, for all groups together. Default 8 MiB; filled only by reads.
    pub cache_bytes_max: u64,
    /// The size at which a group's memtable is written out. Default 4 MiB. While the disk is
    /// behind, up to five of them exist.
    pub memtable_bytes_max: u64,
}

impl Default for FjallSettings {
    fn default() -> Self {
        Self { cache_bytes_max: 8 << 20, memtable_bytes_max: 4 << 20 }
    }
}

/// The database of a node. Clones are the same database; it closes when the last engine is gone.
#[derive(Clone)]
pub struct FjallDatabase {
    database: Database,
    settings: FjallSettings,
}

impl FjallDatabase {
    /// Opens the database in `directory`, or creates it.
    ///
    /// # Errors
    /// Another process has it open, its files are damaged, or the disk failed.
    pub fn open(directory: &Path, settings: FjallSettings) -> Result<Self, MachineError> {
        let builder = Database::builder(directory)
            .cache_size(settings.cache_bytes_max)
            .worker_threads(WORKER_THREADS)
            .max_cached_files(Some(OPEN_FILES_MAX));
        let opened = builder.open();
        let database =
            opened.map_err(|error| failed(&format!("cannot open {}", directory.display()), error))?;
        Ok(Self { database, settings })
    }

    /// The engine of `group`, with what it held, or empty. At most one engine of a group may be open.
    ///
    /// # Errors
    /// What is stored is damaged, or the disk failed.
    pub fn engine(&self, group: GroupId) -> Result<FjallEngine, MachineError> {
        let mut generations = Vec::new();
        for generation in self.generations(group) {
            let keyspace = self.keyspace(group, generation)?;
            generations.push((read_applied(&keyspace)?, generation, keyspace));
        }
        // The newest that is complete; without one, the newest.
        generations.sort_by_key(|(applied, generation, _)| (applied.is_some(), *generation));
        let newest = generations.pop();
        for (_, _, abandoned) in generations {
            self.delete(abandoned)?;
        }
        let (applied, generation, keyspace) = match newest {
            Some(newest) => newest,
            None => (None, 1, self.keyspace(group, 1)?),
        };
        if applied.is_none() && !keyspace.is_empty().map_err(|error| failed("cannot read", error))? {
            return Err(damaged("the applied position is missing"));
        }
        Ok(FjallEngine {
            database: self.clone(),
            group,
            generation,
            keyspace,
            applied: applied.unwrap_or_default(),
        })
    }

    fn generations(&self, group: GroupId) -> Vec<u64> {
        let prefix = keyspace_name(group, "");
        let names = self.database.list_keyspace_names();
        names.iter().filter_map(|name| name.strip_prefix(&*prefix)?.parse().ok()).collect()
    }

    fn keyspace(&self, group: GroupId, generation: u64) -> Result<Keyspace, MachineError> {
        let name = keyspace_name(group, &generation.to_string());
        let memtable_bytes_max = self.settings.memtable_bytes_max;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes_max);
        self.database.keyspace(&name, options).map_err(|error| failed("cannot open a keyspace", error))
    }

    fn delete(&self, keyspace: Keyspace) -> Result<(), MachineError> {
        self.database.delete_keyspace(keyspace).map_err(|error| failed("cannot delete a keyspace", error))
    }

    fn sync(&self) -> Result<(), MachineError> {
        self.database.persist(PersistMode::SyncAll).map_err(|error| failed("cannot sync", error))
    }
}

fn keyspace_name(group: GroupId, generation: &str) -> String {
    format!("group-{group}-{generation}")
}

/// One group's items on disk. See the module's head.
pub struct FjallEngine {
    database: FjallDatabase,
    group: GroupId,
    generation: u64,
    keyspace: Keyspace,
    applied: LogId,
}

struct FjallView {
    snapshot: Snapshot,
    keyspace: Keyspace,
}

impl EngineView for FjallView {
    fn get(&self, key: &[u8]) -> Result<Option<Stored>, MachineError> {
        let found = self.snapshot.get(&self.keyspace, prefixed(ITEM, key));
        found.map_err(|error| failed("cannot read", error))?.map(decode_stored).transpose()
    }

    fn scan(&self, range: &KeyRange, visit: Visit<'_>) -> Result<(), MachineError> {
        if range.is_empty() {
            return Ok(());
        }
        let end = range.end.as_ref().map_or_else(|| vec![ITEM + 1], |end| prefixed(ITEM, end));
        for guard in self.snapshot.range(&self.keyspace, prefixed(ITEM, &range.start)..end) {
            let (key, stored) = guard.into_inner().map_err(|error| failed("cannot read", error))?;
            let Stored { value, version } = decode_stored(stored)?;
            if visit(Item { key: without_prefix(key), value, version }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl FjallEngine {
    fn frozen(&self) -> FjallView {
        FjallView { snapshot: self.database.database.snapshot(), keyspace: self.keyspace.clone() }
    }

    /// Moves on to an empty generation and drops the one before.
    fn begin_generation(&mut self) -> Result<(), MachineError> {
        let next = self.database.keyspace(self.group, self.generation + 1)?;
        let previous = std::mem::replace(&mut self.keyspace, next);
        self.generation += 1;
        self.applied = LogId::default();
        self.database.delete(previous)
    }

    /// Adds everything in one step.
    fn fill(
        &self,
        items: &mut dyn Iterator<Item = Result<Item, MachineError>>,
        end: BatchEnd<'_>,
    ) -> Result<(), MachineError> {
        let cannot_fill = |error| failed("cannot store the snapshot", error);
        let mut ingestion = self.keyspace.start_ingestion().map_err(cannot_fill)?;
        let mut previous = Bytes::new();
        for item in items {
            let Item { key, value, version } = item?;
            if key <= previous {
                return Err(MachineError::new("the snapshot's items are not in key order"));
            }
            let stored = encode_stored(&value, version);
            ingestion.write(prefixed(ITEM, &key), stored).map_err(cannot_fill)?;
            previous = key;
        }
        let records: BTreeMap<_, _> = end.records.iter().map(|(key, record)| (key, record)).collect();
        for (key, record) in records {
            if let Some(record) = record {
                ingestion.write(prefixed(RECORD, key), record.to_vec()).map_err(cannot_fill)?;
            }
        }
        ingestion.write(STATE, encode_applied(end.applied)).map_err(cannot_fill)?;
        ingestion.finish().map_err(cannot_fill)
    }
}

impl EngineView for FjallEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Stored>, MachineError> {
        let found = self.keyspace.get(prefixed(ITEM, key));
        found.map_err(|error| failed("cannot read", error))?.map(decode_stored).transpose()
    }

    fn scan(&self, range: &KeyRange, visit: Visit<'_>) -> Result<(), MachineError> {
        self.frozen().scan(range, visit)
    }
}

impl Engine for FjallEngine {
    fn recovered(&self) -> Result<Recovered, MachineError> {
        let mut records = Vec::new();
        for guard in self.keyspace.prefix([RECORD]) {
            let (key, record) = guard.into_inner().map_err(|error| failed("cannot read", error))?;
            records.push((without_prefix(key), record.into()));
        }
        Ok(Recovered { applied: self.applied, records })
    }

    fn write(&mut self, changes: &Changes, end: BatchEnd<'_>) -> Result<(), MachineError> {
        let mut batch = self.database.database.batch();
        for (key, change) in changes {
            let key = prefixed(ITEM, key);
            match change {
                Some(Stored { value, version }) => {
                    batch.insert(&self.keyspace, key, encode_stored(value, *version))
                }
                None => batch.remove(&self.keyspace, key),
            }
        }
        for (key, record) in end.records {
            let key = prefixed(RECORD, key);
            match record {
                Some(record) => batch.insert(&self.keyspace, key, record.to_vec()),
                None => batch.remove(&self.keyspace, key),
            }
        }
        batch.insert(&self.keyspace, STATE, encode_applied(end.applied));
        batch.commit().map_err(|error| failed("cannot write", error))?;
        self.applied = end.applied;
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn EngineView>, MachineError> {
        Ok(Box::new(self.frozen()))
    }

    fn replace_all(
        &mut self,
        items: &mut dyn Iterator<Item = Result<Item, MachineError>>,
        end: BatchEnd<'_>,
    ) -> Result<(), MachineError> {
        self.begin_generation()?;
        self.fill(items, end)?;
        self.database.sync()?;
        self.applied = end.applied;
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn flush(&mut self) -> Result<LogId, MachineError> {
        self.database.sync()?;
        Ok(self.applied)
    }
}

fn prefixed(prefix: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 1);
    bytes.push(prefix);
    bytes.extend_from_slice(key);
    bytes
}

fn without_prefix(key: Slice) -> Bytes {
    Bytes::from(key).slice(1..)
}

fn encode_stored(value: &[u8], version: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(value);
    bytes
}

fn decode_stored(stored: Slice) -> Result<Stored, MachineError> {
    let stored = Bytes::from(stored);
    let version = stored.first_chunk::<8>().ok_or_else(|| damaged("an item is too short"))?;
    Ok(Stored { version: u64::from_le_bytes(*version), value: stored.slice(8..) })
}

fn encode_applied(applied: LogId) -> Vec<u8> {
    let mut bytes = vec![STATE_FORMAT];
    bytes.extend_from_slice(&applied.term.0.to_le_bytes());
    bytes.extend_from_slice(&applied.index.0.to_le_bytes());
    bytes
}

fn read_applied(keyspace: &Keyspace) -> Result<Option<LogId>, MachineError> {
    let Some(state) = keyspace.get(STATE).map_err(|error| failed("cannot read", error))? else {
        return Ok(None);
    };
    let fields = state.strip_prefix(&[STATE_FORMAT]).and_then(|fields| fields.split_first_chunk::<8>());
    let Some((term, index)) = fields else { return Err(damaged("the applied position has another format")) };
    let index = <[u8; 8]>::try_from(index).map_err(|_| damaged("the applied position has another length"))?;
    Ok(Some(LogId::new(u64::from_le_bytes(*term), u64::from_le_bytes(index))))
}

fn failed(what: &str, error: fjall::Error) -> MachineError {
    let advice = if matches!(error, fjall::Error::Locked) {
        ": another process has it open"
    } else if matches!(error, fjall::Error::Poisoned) {
        ": an earlier write or sync failed, restart the node when the disk is healthy"
    } else if says_damaged(&error) {
        ": its files are damaged, replace this node"
    } else {
        ""
    };
    MachineError::with(format!("database: {what}{advice}"), error)
}

/// Whether it is what the files hold, and not how they could be read.
fn says_damaged(error: &fjall::Error) -> bool {
    use fjall::Error;
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    match error {
        Error::Io(io) | Error::Storage(fjall::LsmError::Io(io)) => {
            matches!(io.kind(), InvalidData | InvalidInput | NotFound | UnexpectedEof)
        }
        Error::Poisoned | Error::KeyspaceDeleted | Error::Locked => false,
        Error::Storage(_)
        | Error::JournalRecovery(_)
        | Error::InvalidVersion(_)
        | Error::Decompress(_)
        | Error::InvalidTrailer
        | Error::InvalidTag(_)
        | Error::Unrecoverable
        | _ => true,
    }
}

fn damaged(what: &str) -> MachineError {
    MachineError::new(format!("database: {what}: its files are damaged, replace this node"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader};
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use quorate_kv::engine_conformance::{CrashKind, EngineUnderTest, check_engine};
    use tempfile::TempDir;

    use super::*;

    const GROUP: GroupId = GroupId(1);

    /// A crash is a copy of the files as they are while the database is open: what SIGKILL leaves.
    #[derive(Default)]
    struct OnDisk {
        directories: Vec<TempDir>,
    }

    impl OnDisk {
        fn path(&self) -> PathBuf {
            self.directories.last().unwrap().path().join("data")
        }
    }

    impl EngineUnderTest for OnDisk {
        fn wipe(&mut self) {
            self.directories.push(tempfile::tempdir().unwrap());
        }

        fn open(&mut self) -> Result<Box<dyn Engine>, MachineError> {
            Ok(Box::new(FjallDatabase::open(&self.path(), FjallSettings::default())?.engine(GROUP)?))
        }

        fn crash(&mut self) -> CrashKind {
            let killed = self.path();
            self.wipe();
            // The killed one still lives, and its compaction deletes files: take a moment in which it did not.
            while !copy_files(&killed, &self.path()) {
                std::fs::remove_dir_all(self.path()).unwrap();
            }
            CrashKind::ProcessOnly
        }
    }

    /// Says whether the same files and directories were there before and after.
    fn copy_files(from: &Path, to: &Path) -> bool {
        let before = everything_below(from);
        std::fs::create_dir_all(to).unwrap();
        let copied = before.iter().all(|path| {
            let to = to.join(path.strip_prefix(from).unwrap());
            if path.is_dir() { std::fs::create_dir(to).is_ok() } else { std::fs::copy(path, to).is_ok() }
        });
        copied && everything_below(from) == before
    }

    /// Ascending, so that a directory comes before what is in it.
    fn everything_below(directory: &Path) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            found.append(&mut everything_below(&entry.path()));
            found.insert(entry.path());
        }
        found
    }

    fn change(key: &str, value: &[u8], version: u64) -> Changes {
        let stored = Stored { value: Bytes::copy_from_slice(value), version };
        Changes::from([(Bytes::copy_from_slice(key.as_bytes()), Some(stored))])
    }

    fn end(index: u64) -> BatchEnd<'static> {
        BatchEnd { applied: LogId::new(1, index), records: &[] }
    }

    #[test]
    fn the_engine_on_disk_conforms() {
        check_engine(&mut OnDisk::default()).unwrap();
    }

    #[test]
    fn groups_share_a_database_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let database = FjallDatabase::open(directory.path(), FjallSettings::default()).unwrap();
        let mut one = database.engine(GroupId(1)).unwrap();
        let mut eleven = database.engine(GroupId(11)).unwrap();
        one.write(&change("a", b"1", 1), end(1)).unwrap();
        eleven.write(&change("a", b"2", 7), end(7)).unwrap();
        one.replace_all(&mut std::iter::empty(), end(5)).unwrap();
        drop((one, eleven));
        let (one, eleven) = (database.engine(GroupId(1)).unwrap(), database.engine(GroupId(11)).unwrap());
        assert_eq!(one.get(b"a").unwrap(), None);
        assert_eq!(one.recovered().unwrap().applied, LogId::new(1, 5));
        assert_eq!(eleven.get(b"a").unwrap().unwrap().version, 7);
    }

    const CHILD_DIRECTORY: &str = "QUORATE_ENGINE_FJALL_CHILD_DIRECTORY";

    fn small_memtables() -> FjallSettings {
        FjallSettings { memtable_bytes_max: 64 << 10, ..FjallSettings::default() }
    }

    /// Not a test by itself: the process that the next one kills. Writes batches and says which are done.
    #[test]
    fn child_that_writes_until_it_is_killed() {
        let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
        let database = FjallDatabase::open(Path::new(&directory), small_memtables()).unwrap();
        let mut engine = database.engine(GROUP).unwrap();
        for index in engine.applied.index.0 + 1.. {
            let value = vec![u8::try_from(index % 251).unwrap(); 1000];
            let mut changes = change(&format!("key {}", index % 50), &value, index);
            changes.extend(change("last", b"", index));
            engine.write(&changes, end(index)).unwrap();
            eprintln!("\nwritten {index}");
        }
    }

    /// Small memtables, so that they are written out and compacted all the time: killed in the middle, data
    /// and applied position must be of the same batch, and none that was written is missing.
    #[test]
    fn a_process_killed_at_any_moment_leaves_the_state_after_its_last_batch() {
        let directory = tempfile::tempdir().unwrap();
        for more in [1, 150, 400] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "--nocapture", "engine_fjall::tests::child_that_writes_until_it_is_killed"])
                .env(CHILD_DIRECTORY, directory.path())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
            let mut written =
                lines.by_ref().filter_map(|line| line.strip_prefix("written ")?.parse::<u64>().ok());
            let seen = written.nth(more - 1).unwrap();
            child.kill().unwrap();
            let last = written.last().unwrap_or(seen);
            child.wait().unwrap();
            let engine =
                FjallDatabase::open(directory.path(), small_memtables()).unwrap().engine(GROUP).unwrap();
            let applied = engine.recovered().unwrap().applied.index.0;
            assert!(applied == last || applied == last + 1, "{applied} is there, {last} was written");
            assert_eq!(engine.get(b"last").unwrap().unwrap().version, applied);
            for index in applied.saturating_sub(49).max(1)..=applied {
                let key = format!("key {}", index % 50);
                assert_eq!(engine.get(key.as_bytes()).unwrap().unwrap().version, index);
            }
        }
    }

    #[test]
    fn a_second_opening_of_one_directory_is_refused_and_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let _first = FjallDatabase::open(directory.path(), FjallSettings::default()).unwrap();
        let second = FjallDatabase::open(directory.path(), FjallSettings::default());
        let message = second.err().unwrap().to_string();
        assert!(message.contains("another process has it open"), "{message}");
    }

    #[test]
    fn a_damaged_applied_position_is_an_error_and_no_panic() {
        let directory = tempfile::tempdir().unwrap();
        let database = FjallDatabase::open(directory.path(), FjallSettings::default()).unwrap();
        let engine = database.engine(GROUP).unwrap();
        for state in [&b""[..], b"\x02", b"\x01short", b"\x01________________longer"] {
            engine.keyspace.insert(STATE, state).unwrap();
            let message = database.engine(GROUP).err().unwrap().to_string();
            assert!(message.contains("damaged"), "{message}");
        }
        engine.keyspace.remove(STATE).unwrap();
        engine.keyspace.insert(b"dkey", b"short").unwrap();
        assert!(database.engine(GROUP).is_err(), "items without a position");
        assert!(engine.get(b"key").is_err());
    }
}
