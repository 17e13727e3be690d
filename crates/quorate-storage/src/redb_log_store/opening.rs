//! Opening: make the file if there is none, then read every row and put together what is known.
//!
//! ```text
//!   path.new ── tables, version, commit, close ──► rename to path ──► sync of the directory
//! ```
//!
//! A file of the right name is therefore always a whole database; what a crash left of another one
//! is `path.new`, which the next open removes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_core::{GroupId, LogIndex};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::backend::OpenDatabase;
use super::reader::Published;
use super::rows::{self, ENTRIES, GROUPS, META, VERSION, VERSION_KEY};
use super::{RedbConfig, damaged, guard};
use crate::disk::Disk;
use crate::error::LogError;
use crate::group_log::GroupLog;
use crate::log_store::GroupWrite;

/// Why reading the rows stopped.
enum Reading {
    Database(redb::Error),
    Damaged(&'static str),
    Version(u64),
}

impl<E: Into<redb::Error>> From<E> for Reading {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

pub(super) fn open(
    disk: &Arc<dyn Disk>,
    path: &Path,
    config: RedbConfig,
) -> Result<(OpenDatabase, Published), LogError> {
    let failed = |doing: &'static str| {
        move |source: io::Error| LogError::Failed {
            context: format!("{doing} {}", path.display()),
            source: Arc::new(source),
        }
    };
    if !disk.exists(path).map_err(failed("looking for"))? {
        create(&**disk, path, config)?;
    }
    let file = disk.open(path).map_err(failed("opening"))?;
    // An empty file would be taken for a new one.
    if file.size().map_err(failed("opening"))? == 0 {
        return Err(damaged(path, "the file is empty"));
    }
    let database =
        guard("opening", || OpenDatabase::open(file, config)).map_err(|problem| problem.into_found(path))?;
    let read = guard("opening", || match database.get().map_err(Reading::Database).and_then(read_all) {
        Ok(published) => Ok(Ok(published)),
        Err(Reading::Database(error)) => Err(error),
        Err(Reading::Damaged(what)) => Ok(Err(damaged(path, what))),
        Err(Reading::Version(found)) => Ok(Err(LogError::Version {
            path: path.to_owned(),
            found: u32::try_from(found).unwrap_or(u32::MAX),
            known: VERSION,
        })),
    });
    let published = read.map_err(|problem| problem.into_found(path))??;
    Ok((database, published))
}

/// Makes an empty database under another name, then gives it its own.
fn create(disk: &dyn Disk, path: &Path, config: RedbConfig) -> Result<(), LogError> {
    let failed = |source| LogError::Failed {
        context: format!("creating {}", path.display()),
        source: Arc::new(source),
    };
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    disk.create_dir_all(directory).map_err(failed)?;
    if disk.exists(&new).map_err(failed)? {
        disk.remove(&new).map_err(failed)?;
    }
    let file = disk.create(&new).map_err(failed)?;
    guard("creating", || {
        let database = OpenDatabase::open(file, config)?;
        let mut transaction = database.get()?.begin_write()?;
        transaction.set_two_phase_commit(true);
        transaction.open_table(META)?.insert(VERSION_KEY, u64::from(VERSION))?;
        transaction.open_table(GROUPS)?;
        transaction.open_table(ENTRIES)?;
        Ok(transaction.commit()?)
    })
    .map_err(|problem| problem.into_failure(path))?;
    disk.rename(&new, path).map_err(failed)?;
    disk.sync_dir(directory).map_err(failed)
}

/// Reads every row. What a tree says of its own length is checked, too: a damaged page must not
/// hide rows.
fn read_all(database: &Database) -> Result<Published, Reading> {
    let transaction = database.begin_read()?;
    let version = transaction.open_table(META)?.get(VERSION_KEY)?.map(|row| row.value());
    match version {
        Some(found) if found == u64::from(VERSION) => {}
        Some(found) => return Err(Reading::Version(found)),
        None => return Err(Reading::Damaged("the version is missing")),
    }
    let mut groups = BTreeMap::new();
    let table = transaction.open_table(GROUPS)?;
    for row in table.iter()? {
        let (key, value) = row?;
        let group = GroupId(key.value());
        let known = rows::decode_group(group, value.value()).map_err(Reading::Damaged)?;
        groups.insert(group, known);
    }
    if table.len()? != groups.len() as u64 {
        return Err(Reading::Damaged("a group is missing"));
    }
    let entries = transaction.open_table(ENTRIES)?;
    let mut count = 0_u64;
    for row in entries.iter()? {
        let (key, value) = row?;
        let (group, index) = (GroupId(key.value().0), LogIndex(key.value().1));
        let (known, _) =
            groups.get_mut(&group).ok_or(Reading::Damaged("the group of an entry is missing"))?;
        read_entry(known, group, index, value.value()).map_err(Reading::Damaged)?;
        count += 1;
    }
    let complete = groups.values().all(|(known, last)| known.last == *last);
    if !complete || entries.len()? != count {
        return Err(Reading::Damaged("an entry is missing"));
    }
    let groups = groups.into_iter().map(|(group, (known, _))| (group, known)).collect();
    Ok(Published { groups, entries })
}

/// Adds the next entry of a group to what is known of it.
fn read_entry(known: &mut GroupLog, group: GroupId, index: LogIndex, row: &[u8]) -> Result<(), &'static str> {
    let entry = rows::decode_entry_row(group, index, row)?;
    let write = GroupWrite { group, entries: vec![entry].into(), ..GroupWrite::default() };
    known.check(&write)?;
    known.apply(&write);
    Ok(())
}
