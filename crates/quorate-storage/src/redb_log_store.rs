//! A log store in a single file: a B-tree (redb) with a row per group and a row per entry.
//!
//! ```text
//!   write(batch) ─► queue ─► flush: check ─► one transaction ─► commit (synced) ─► publish ─► done
//!                                                                                    │
//!   readers ◄── a view of the committed tables, and what is known of each group ◄────┘
//! ```
//!
//! When to take it: the log is small and quiet, one file is easier to keep than a directory of
//! segments, and space should be reused inside it. Everybody else takes the [`Wal`](crate::Wal),
//! which writes each entry about once; here a small batch rewrites a path of pages in two trees, and
//! a commit syncs twice (see below).
//!
//! * One flush is one commit, so it is there whole or not at all, and so is each of its batches.
//! * Commits are two-phase. With redb's one-phase commit a damaged page after a crash cannot be told
//!   from a commit that never finished, and the database would go back to the commit before it: a
//!   vote that was promised would be forgotten without a word. With two phases it is an error.
//! * Commits without a batch that must be synced stay in memory until the next one that is.
//! * Readers see tables and bounds of the same commit: both are published together.
//! * Every row carries a checksum over its key and value. Opening reads all of them, checks that no
//!   entry is missing, and has redb verify its pages, which by itself it does only after a crash.
//!   One bit is beyond that: which of the file's two commits is the last. Wrong after a crash, it takes
//!   the log one commit back.
//! * After any failed write or commit the store refuses everything, a full disk included.
//!
//! Who opens the file must hold the directory's lock ([`DataDir`](crate::DataDir)): there is none here.
//!
//! Files: `backend` (the file, through [`Disk`](crate::Disk)), `rows` (keys, values, checksums), `opening`, `reader`.

mod backend;
mod opening;
mod reader;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use quorate_core::GroupId;
use redb::{Database, Durability, ReadableDatabase};

use self::backend::OpenDatabase;
use self::reader::{Published, RedbReader};
use self::rows::{ENTRIES, GROUPS};
use crate::disk::Disk;
use crate::error::{Damage, LogError};
use crate::group_log::GroupLog;
use crate::log_store::{GroupState, GroupWrite, LogBatch, LogReader, LogStats, LogStore, WriteDone};

/// How the single file is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedbConfig {
    /// How much of the file is kept in memory, in bytes.
    pub cache_bytes: usize,
}

impl Default for RedbConfig {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

/// A durable [`LogStore`] in a single file, for small and quiet logs. The default is [`Wal`](crate::Wal).
pub struct RedbLogStore {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    database: OpenDatabase,
    published: Arc<RwLock<Published>>,
    queue: Vec<(LogBatch, bool, WriteDone)>,
    /// Set once, by the first write or commit that fails.
    failed: Option<LogError>,
    stats: LogStats,
}

/// What this flush makes of the groups it touches; `None` for a group that is removed.
type Changed = BTreeMap<GroupId, Option<GroupLog>>;

impl RedbLogStore {
    /// Opens the file `path` on `disk`, creating it if there is none. Reads all of it.
    ///
    /// # Errors
    /// `Damaged`: the file is not what was written. `Version`: it is of another version. `Failed`: the
    /// disk cannot read it or does not take what opening has to write.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, config: RedbConfig) -> Result<Self, LogError> {
        let (database, published) = opening::open(&disk, path, config)?;
        Ok(Self {
            path: path.to_owned(),
            disk,
            database,
            published: Arc::new(RwLock::new(published)),
            queue: Vec::new(),
            failed: None,
            stats: LogStats::default(),
        })
    }

    /// Checks a batch against what the batches before it lead to, and adds what it leads to.
    fn check(&self, changed: &mut Changed, batch: &LogBatch) -> Result<(), LogError> {
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        let mut named = BTreeSet::new();
        for write in &batch.groups {
            let invalid = |what| LogError::Invalid { group: write.group, what };
            if !named.insert(write.group) {
                return Err(invalid("a batch names a group once"));
            }
            let known = match changed.get(&write.group) {
                Some(known) => known.as_ref(),
                None => published.groups.get(&write.group),
            };
            known.unwrap_or(&GroupLog::default()).check(write).map_err(invalid)?;
            // It is written for stores that report damage of one group; this one does not.
            if write.lost_until.is_some_and(|until| until.0 > 0) {
                return Err(invalid("a log in a single file does not keep what was lost"));
            }
        }
        for write in &batch.groups {
            let known =
                changed.entry(write.group).or_insert_with(|| published.groups.get(&write.group).cloned());
            if write.remove {
                *known = None;
            } else {
                known.get_or_insert_default().apply(write);
            }
        }
        Ok(())
    }

    /// Writes valid batches, commits, and publishes what came of it.
    fn commit(&mut self, batches: &[&LogBatch], changed: Changed, sync: bool) -> Result<(), LogError> {
        let written = guard("writing", || write_rows(self.database.get()?, batches, &changed, sync))
            .map_err(|problem| problem.into_failure(&self.path))?;
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        published.entries = written.entries;
        for (group, known) in changed {
            match known {
                Some(known) => drop(published.groups.insert(group, known)),
                None => drop(published.groups.remove(&group)),
            }
        }
        drop(published);
        self.stats.batches += batches.len() as u64;
        self.stats.syncs += u64::from(sync);
        self.stats.bytes_written += written.bytes;
        Ok(())
    }
}

/// What a commit has left.
struct Written {
    /// The entries as of the commit.
    entries: rows::EntriesView,
    /// Bytes of rows; the pages around them are more.
    bytes: u64,
}

fn write_rows(
    database: &Database,
    batches: &[&LogBatch],
    changed: &Changed,
    sync: bool,
) -> Result<Written, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_durability(if sync { Durability::Immediate } else { Durability::None })?;
    let mut bytes = 0;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        for write in batches.iter().flat_map(|batch| &batch.groups) {
            bytes += write_entries(&mut entries, write)?;
        }
        let mut groups = transaction.open_table(GROUPS)?;
        for (group, known) in changed {
            if let Some(known) = known {
                let row = rows::encode_group(*group, known);
                bytes += row.len() as u64;
                groups.insert(group.0, row.as_slice())?;
            } else {
                groups.remove(group.0)?;
            }
        }
    }
    transaction.commit()?;
    let entries = database.begin_read()?.open_table(ENTRIES)?;
    Ok(Written { entries, bytes })
}

/// Does to the entries what `write` says; returns the bytes of the rows it adds.
fn write_entries(entries: &mut rows::EntriesTable<'_>, write: &GroupWrite) -> Result<u64, redb::Error> {
    let group = write.group.0;
    if write.remove || write.reset_to.is_some() {
        entries.retain_in((group, 0)..=(group, u64::MAX), |_, _| false)?;
    }
    if let Some(from) = write.truncate_from {
        entries.retain_in((group, from.0)..=(group, u64::MAX), |_, _| false)?;
    }
    let mut bytes = 0;
    for entry in &write.entries {
        let row = rows::encode_entry_row(write.group, entry);
        bytes += row.len() as u64;
        entries.insert((group, entry.index().0), row.as_slice())?;
    }
    if let Some((position, _, _)) = &write.compact_to {
        entries.retain_in((group, 0)..=(group, position.index.0), |_, _| false)?;
    }
    Ok(bytes)
}

impl LogStore for RedbLogStore {
    fn groups(&self) -> Vec<GroupState> {
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        published.groups.iter().map(|(group, known)| known.state(*group)).collect()
    }

    fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
        self.queue.push((batch, must_sync, done));
    }

    fn flush(&mut self) -> Result<(), LogError> {
        let queue = std::mem::take(&mut self.queue);
        let mut changed = Changed::new();
        let mut sync = false;
        let mut valid = Vec::with_capacity(queue.len());
        let mut outcomes = Vec::with_capacity(queue.len());
        for (batch, must_sync, _) in &queue {
            let outcome = self.check(&mut changed, batch);
            if outcome.is_ok() {
                valid.push(batch);
                sync |= must_sync;
            }
            outcomes.push(outcome);
        }
        if self.failed.is_none() && !valid.is_empty() {
            self.failed = self.commit(&valid, changed, sync).err();
        }
        for ((_, _, done), outcome) in queue.into_iter().zip(outcomes) {
            done(self.failed.clone().map_or(outcome, Err));
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(RedbReader { path: self.path.clone(), published: Arc::clone(&self.published) })
    }

    fn stats(&self) -> LogStats {
        let bytes_on_disk = self.disk.open(&self.path).and_then(|file| file.size()).unwrap_or(0);
        LogStats { bytes_on_disk, segments: 1, ..self.stats }
    }
}

/// What redb came to instead of a result.
enum Problem {
    Error {
        doing: &'static str,
        error: redb::Error,
    },
    /// Damaged pages may make it panic; a store never does.
    Panic {
        doing: &'static str,
    },
}

/// Runs something of redb's.
fn guard<T>(doing: &'static str, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Problem> {
    // After a panic the store refuses everything, or the value was never handed out.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| Problem::Error { doing, error }),
        Err(_) => Err(Problem::Panic { doing }),
    }
}

impl Problem {
    /// For writes: after any problem nothing is known about the file.
    fn into_failure(self, path: &Path) -> LogError {
        let (doing, source) = match self {
            Self::Error { doing, error: redb::Error::Io(source) } => (doing, source),
            Self::Error { doing, error } => (doing, io::Error::other(error)),
            Self::Panic { doing } => (doing, io::Error::other("the database panicked")),
        };
        LogError::Failed { context: format!("{doing} {}", path.display()), source: Arc::new(source) }
    }

    /// For reads: what the disk says is told from what is wrong with the bytes.
    #[expect(clippy::wildcard_enum_match_arm, reason = "redb's errors grow; most are failures")]
    fn into_found(self, path: &Path) -> LogError {
        match &self {
            Self::Panic { .. } => damaged(path, "the database panicked on what it found"),
            Self::Error { error, .. } => match error {
                redb::Error::Corrupted(_) => damaged(path, "a page of the database is damaged"),
                redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                    damaged(path, "this is no database")
                }
                redb::Error::TableDoesNotExist(_)
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TableIsMultimap(_)
                | redb::Error::TypeDefinitionChanged { .. } => {
                    damaged(path, "a table is missing or of another kind")
                }
                redb::Error::UpgradeRequired(found) => LogError::Version {
                    path: path.to_owned(),
                    found: u32::from(*found),
                    known: rows::VERSION,
                },
                _ => self.into_failure(path),
            },
        }
    }
}

/// The file holds something that was never written. Where in it, a B-tree does not say.
fn damaged(path: &Path, what: &'static str) -> LogError {
    LogError::Damaged(Damage { path: path.to_owned(), offset: 0, what })
}
