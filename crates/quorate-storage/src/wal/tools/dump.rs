//! A log as it is on disk, record by record.

use std::path::{Path, PathBuf};

use quorate_core::{Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, ReplicaId};

use super::WalToolError;
use super::verify::TornTail;
use super::walk::{Opened, Step, walk};
use crate::disk::Disk;
use crate::error::Damage;
use crate::wal::body::{LoggedWrite, MovedGroup, decode_batch, decode_item, decode_move};
use crate::wal::record::{HEADER_BYTES, RecordHeader, RecordKind};
use crate::wal::recovery::Record;

/// What stands in a log, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DumpItem {
    /// A segment begins.
    Segment {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The sequence of its first record.
        first_sequence: u64,
        /// Segments below this number were not needed any more when it was made.
        floor: u64,
    },
    /// A record.
    Record(DumpedRecord),
    /// Something that is not as it was written. Behind it the dump goes on where it can.
    Damage(Damage),
    /// The end of the log was never acknowledged, and is not whole.
    TornTail(TornTail),
}

/// A record whose header is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedRecord {
    /// The file.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// Its length, header and padding included.
    pub bytes: u64,
    /// Its number in the log.
    pub sequence: u64,
    /// Everything up to this record was synced when it was written.
    pub durable: u64,
    /// What it is.
    pub kind: DumpedKind,
    /// Whether the checksum of its body holds. If not, there are no groups.
    pub checksum_holds: bool,
    /// What it says, by group.
    pub groups: Vec<DumpedGroup>,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpedKind {
    /// A batch as it was written.
    Batch,
    /// Says that everything before it was synced.
    Mark,
    /// The log goes on in the next segment.
    Seal,
    /// State that was written before, moved here.
    Move,
}

/// What a record says of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpedGroup {
    /// The group.
    pub group: GroupId,
    /// The group is forgotten.
    pub remove: bool,
    /// Which replica of the group lives here.
    pub replica: Option<ReplicaId>,
    /// The log starts anew after this.
    pub reset_to: Option<LogId>,
    /// Entries from here on are dropped.
    pub truncate_from: Option<LogIndex>,
    /// The new term, vote and known commit index.
    pub hard_state: Option<HardState>,
    /// Entries up to here are dropped.
    pub compact_to: Option<LogId>,
    /// The entries.
    pub entries: Vec<DumpedEntry>,
}

/// An entry in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedEntry {
    /// Where it is in the segment, in bytes.
    pub offset: u64,
    /// Its length on disk.
    pub bytes: u64,
    /// The entry.
    pub entry: Entry,
}

impl DumpedKind {
    const fn of(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Batch => Self::Batch,
            RecordKind::Mark => Self::Mark,
            RecordKind::Seal => Self::Seal,
            RecordKind::Move => Self::Move,
        }
    }

    /// `batch`, `mark`, `seal` or `move`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Mark => "mark",
            Self::Seal => "seal",
            Self::Move => "move",
        }
    }
}

impl DumpedEntry {
    /// `noop`, `command`, `membership` or `withheld`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.entry.payload {
            EntryPayload::Noop => "noop",
            EntryPayload::Command(_) => "command",
            EntryPayload::Membership(_) => "membership",
            EntryPayload::Withheld => "withheld",
        }
    }
}

/// Hands everything that stands in the log in `directory` to `visit`, damaged stretches included, until that says `false`.
///
/// # Errors
/// It cannot be read, there is none, or it is of another version.
pub fn dump(
    disk: &dyn Disk,
    directory: &Path,
    visit: &mut dyn FnMut(DumpItem) -> bool,
) -> Result<(), WalToolError> {
    let mut goes_on = true;
    walk(disk, directory, &mut |step| {
        for item in items(&step) {
            goes_on = goes_on && visit(item);
        }
        goes_on
    })
}

fn items(step: &Step<'_>) -> Vec<DumpItem> {
    match step {
        Step::Segment(opened) => vec![DumpItem::Segment {
            path: opened.segment.path.clone(),
            bytes: opened.segment.bytes,
            first_sequence: opened.header.first_sequence,
            floor: opened.header.floor,
        }],
        Step::Record { opened, offset, record } => whole(opened, *offset, record),
        Step::Broken { opened, broken } => {
            let path = opened.segment.path.clone();
            let header = broken.header.as_ref();
            let record = header.map(|header| DumpItem::Record(framed(opened, broken.offset, header, false)));
            let (offset, bytes) = (broken.offset, broken.until - broken.offset);
            let said = match broken.damage {
                Some(what) => DumpItem::Damage(Damage { path, offset, what }),
                None => DumpItem::TornTail(TornTail { path, offset, bytes }),
            };
            record.into_iter().chain([said]).collect()
        }
        Step::Unreadable(damage) => vec![DumpItem::Damage(damage.clone())],
        Step::End { .. } => Vec::new(),
    }
}

fn framed(opened: &Opened, offset: u64, header: &RecordHeader, checksum_holds: bool) -> DumpedRecord {
    DumpedRecord {
        path: opened.segment.path.clone(),
        offset,
        bytes: header.framed_bytes(),
        sequence: header.sequence,
        durable: header.durable,
        kind: DumpedKind::of(header.kind),
        checksum_holds,
        groups: Vec::new(),
    }
}

fn whole(opened: &Opened, offset: u64, record: &Record) -> Vec<DumpItem> {
    let mut dumped = framed(opened, offset, &record.header, true);
    let body_at = offset + HEADER_BYTES as u64;
    let groups: Result<Vec<DumpedGroup>, &'static str> = match record.header.kind {
        RecordKind::Batch => {
            decode_batch(&record.body, body_at).map(|writes| writes.into_iter().map(of_batch).collect())
        }
        RecordKind::Move => decode_move(&record.body, body_at)
            .map(|(_, groups)| groups.into_iter().map(|moved| of_move(moved, record, body_at)).collect()),
        RecordKind::Mark | RecordKind::Seal => Ok(Vec::new()),
    };
    match groups {
        Ok(groups) => {
            dumped.groups = groups;
            vec![DumpItem::Record(dumped)]
        }
        Err(what) => {
            let path = opened.segment.path.clone();
            vec![DumpItem::Record(dumped), DumpItem::Damage(Damage { path, offset, what })]
        }
    }
}

fn of_batch(logged: LoggedWrite) -> DumpedGroup {
    let LoggedWrite { write, spots, .. } = logged;
    let entries = write.entries.into_iter().zip(spots).map(|(entry, spot)| DumpedEntry {
        offset: u64::from(spot.offset),
        bytes: u64::from(spot.bytes),
        entry,
    });
    DumpedGroup {
        group: write.group,
        remove: write.remove,
        replica: write.replica,
        reset_to: write.reset_to.map(|(position, _, _)| position),
        truncate_from: write.truncate_from,
        hard_state: write.hard_state,
        compact_to: write.compact_to.map(|(position, _, _)| position),
        entries: entries.collect(),
    }
}

/// A move says where entries are; what they are stands in the record.
fn of_move(moved: MovedGroup, record: &Record, body_at: u64) -> DumpedGroup {
    let entries = moved.entries.iter().filter_map(|(_, spot)| {
        let from = usize::try_from(u64::from(spot.offset).checked_sub(body_at)?).ok()?;
        let to = from.checked_add(spot.bytes as usize).filter(|to| *to <= record.body.len())?;
        let entry = decode_item(&record.body.slice(from..to)).ok()?;
        Some(DumpedEntry { offset: u64::from(spot.offset), bytes: u64::from(spot.bytes), entry })
    });
    DumpedGroup {
        group: moved.group,
        replica: Some(moved.log.replica),
        hard_state: Some(moved.log.hard_state),
        compact_to: Some(moved.log.compacted),
        entries: entries.collect(),
        ..DumpedGroup::default()
    }
}
