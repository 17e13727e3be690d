//! What a log is made of: what is live, per segment and per group.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quorate_core::{GroupId, HardState, LogId, LogIndex, ReplicaId};

use super::contents::Contents;
use super::walk::Step;
use super::{WalToolError, settled};
use crate::disk::Disk;
use crate::error::Damage;
use crate::wal::segment::RECORDS_START;

/// What a log is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalStatistics {
    /// The segments, oldest first.
    pub segments: Vec<SegmentStatistics>,
    /// The groups, ascending.
    pub groups: Vec<GroupStatistics>,
    /// The figures are of what stands before this.
    pub damage: Option<Damage>,
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentStatistics {
    /// The file.
    pub path: PathBuf,
    /// The length of the file.
    pub bytes: u64,
    /// Entries in it that are needed.
    pub entries: u64,
    /// The bytes of these entries.
    pub live_bytes: u64,
    /// Bytes of records that are not needed any more, or are not entries.
    pub dead_bytes: u64,
    /// Bytes behind the records.
    pub free_bytes: u64,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatistics {
    /// The group.
    pub group: GroupId,
    /// The replica of it that lives here.
    pub replica: ReplicaId,
    /// Its term, vote and known commit index.
    pub hard_state: HardState,
    /// The log starts after this.
    pub compacted: LogId,
    /// The first and the last entry, if there is one.
    pub range: Option<(LogIndex, LogIndex)>,
    /// How many entries.
    pub entries: u64,
    /// The bytes of these entries.
    pub live_bytes: u64,
    /// Bytes of entries of the group that are not needed any more but stand in a segment.
    pub dead_bytes: u64,
    /// The number of the oldest segment with an entry of the group.
    pub oldest_segment: Option<u64>,
}

/// The figures of the log in `directory`.
///
/// # Errors
/// It cannot be read, there is none, or it is of another version.
pub fn statistics(disk: &dyn Disk, directory: &Path) -> Result<WalStatistics, WalToolError> {
    settled(|| look(disk, directory), |found: &WalStatistics| found.damage.is_none())
}

fn look(disk: &dyn Disk, directory: &Path) -> Result<WalStatistics, WalToolError> {
    let note_ends = |ends: &mut BTreeMap<u64, u64>, _: &Contents, step: &Step<'_>| {
        if let Step::End { opened, end } = step {
            ends.insert(opened.segment.number, end.offset);
        }
    };
    let (contents, ends) = Contents::up_to_the_first_damage(disk, directory, note_ends)?;
    let index = &contents.scan.index;
    let mut entries: BTreeMap<u64, u64> = BTreeMap::new();
    let mut groups = Vec::with_capacity(index.groups.len());
    for (group, found) in &index.groups {
        let mut live_bytes = 0;
        for (_, location) in found.entries.iter() {
            *entries.entry(location.segment).or_default() += 1;
            live_bytes += u64::from(location.spot.bytes);
        }
        let written_bytes = contents.written_bytes.get(group).copied().unwrap_or(0);
        let (first, next) = (found.entries.first(), found.entries.next());
        groups.push(GroupStatistics {
            group: *group,
            replica: found.log.replica,
            hard_state: found.log.hard_state,
            compacted: found.log.compacted,
            range: (first < next).then(|| (first, next.previous())),
            entries: next.0 - first.0,
            live_bytes,
            dead_bytes: written_bytes.saturating_sub(live_bytes),
            oldest_segment: found.entries.iter().map(|(_, location)| location.segment).min(),
        });
    }
    let segments = index.segments.iter().map(|(number, used)| {
        let end = ends.get(number).copied().unwrap_or(RECORDS_START);
        SegmentStatistics {
            path: used.segment.path.clone(),
            bytes: used.segment.bytes,
            entries: entries.get(number).copied().unwrap_or(0),
            live_bytes: used.live_bytes,
            dead_bytes: end.saturating_sub(RECORDS_START + used.live_bytes),
            free_bytes: used.segment.bytes.saturating_sub(end),
        }
    });
    Ok(WalStatistics { segments: segments.collect(), groups, damage: contents.damage })
}
