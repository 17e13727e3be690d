//! Reads: from the view that was published with the bounds they are checked against.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use quorate_core::{Entry, GroupId, LogIndex};

use super::rows::{EntriesView, decode_entry_row};
use super::{damaged, guard};
use crate::error::LogError;
use crate::group_log::GroupLog;
use crate::log_store::{GroupState, LogReader};

/// What readers see: everything of one commit.
pub(super) struct Published {
    pub(super) groups: BTreeMap<GroupId, GroupLog>,
    pub(super) entries: EntriesView,
}

pub(super) struct RedbReader {
    pub(super) path: PathBuf,
    pub(super) published: Arc<RwLock<Published>>,
}

impl LogReader for RedbReader {
    fn read(&self, group: GroupId, range: Range<LogIndex>, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        // Held while rows are read: a commit runs meanwhile and only waits to publish.
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        let out_of_range = |index| LogError::OutOfRange { group, index };
        let known = published.groups.get(&group).ok_or_else(|| out_of_range(range.start))?;
        if range.start <= known.compacted.index {
            return Err(LogError::Compacted { group, index: range.start });
        }
        let next = known.last.next();
        if range.end > next {
            return Err(out_of_range(range.start.max(next)));
        }
        let found = guard("reading", || read_rows(&published.entries, group, range, bytes_max));
        found.map_err(|problem| problem.into_found(&self.path))?.map_err(|what| damaged(&self.path, what))
    }

    fn state(&self, group: GroupId) -> Option<GroupState> {
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        published.groups.get(&group).map(|known| known.state(group))
    }
}

/// Rows `range`, which must all be there; fewer when `bytes_max` is reached.
fn read_rows(
    entries: &EntriesView,
    group: GroupId,
    range: Range<LogIndex>,
    bytes_max: u64,
) -> Result<Result<Vec<Entry>, &'static str>, redb::Error> {
    let mut found: Vec<Entry> = Vec::new();
    let (mut bytes, mut next) = (0, range.start);
    for row in entries.range((group.0, range.start.0)..(group.0, range.end.0))? {
        let (key, value) = row?;
        if key.value() != (group.0, next.0) {
            return Ok(Err("an entry is missing"));
        }
        let entry = match decode_entry_row(group, next, value.value()) {
            Ok(entry) => entry,
            Err(what) => return Ok(Err(what)),
        };
        bytes += quorate_core::encoded_entry_len(&entry) as u64;
        if bytes > bytes_max && !found.is_empty() {
            return Ok(Ok(found));
        }
        found.push(entry);
        next = next.next();
    }
    Ok(if next == range.end { Ok(found) } else { Err("an entry is missing") })
}
