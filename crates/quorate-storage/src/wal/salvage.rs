//! Records of which only entries are damaged: what they say of everything else is used.
//!
//!   body    g1: term, vote  ▏entry 7 ▏entry 8 ▏ g2: entry 3
//!                             ▓▓▓▓▓ damaged        whole
//!   index   g1: 7 is rotten, 8 is there           g2: as if nothing had happened
//!
//! * `body` has proved by the checksums that nothing but the bytes of those entries is damaged. Here they
//!   get their places: the index from their neighbours or from what the group's log holds before them, a
//!   term that does not fall. Neither is believed by anyone: whoever opens the group is told of the damage.
//! * Where not even the place can be told, nothing is salvaged, and the log is damaged as a whole.
//! * Only records that were synced come here. What was never acknowledged is a torn tail (see `recovery`).

use quorate_core::{Entries, GroupId, LogId, LogIndex, Term};

use super::body::{LoggedWrite, Spot, salvage_batch, salvage_move};
use super::index::Index;
use super::record::{HEADER_BYTES, RecordKind};
use super::recovery::{Record, Scan};
use super::segment::Segment;
use crate::log_store::GroupWrite;

/// An entry that was left out of a damaged record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salvaged {
    pub(super) group: GroupId,
    /// Which it was, if that can be told.
    pub(super) index: Option<LogIndex>,
    /// Where it stands.
    pub(super) segment: u64,
    pub(super) offset: u64,
}

impl Scan {
    /// Whether the group of a damaged entry still needs it: it was not given up, compacted or written again since.
    pub(super) fn needs(&self, entry: &Salvaged) -> bool {
        if entry.index.is_none() && self.homeless.contains_key(&entry.group) {
            return true;
        }
        let Some(group) = self.index.groups.get(&entry.group) else { return false };
        entry.index.map_or(!group.rotten.is_empty(), |index| {
            let rot = group.rotten.get(&index);
            rot.is_some_and(|rot| (rot.segment, rot.offset) == (entry.segment, entry.offset))
        })
    }

    /// Does what a damaged record says, but for its damaged entries.
    ///
    /// # Errors
    /// More than entries is damaged, or what is there contradicts the records before it.
    pub(super) fn salvage(
        &mut self,
        segment: &Segment,
        record: &Record,
        offset: u64,
    ) -> Result<(), &'static str> {
        let (body_at, body_crc) = (offset + HEADER_BYTES as u64, record.header.body_crc);
        match record.header.kind {
            RecordKind::Batch => {
                let mut writes = salvage_batch(&record.body, body_at, body_crc)?;
                // All or nothing: a batch is atomic.
                for write in &mut writes {
                    if is_without_a_place(&self.index, write) {
                        self.forget_entries(segment, write);
                    }
                    place_holes(&self.index, write)?;
                }
                for write in &writes {
                    self.forget_what_ends(&write.write);
                    self.index.apply(write, segment.number)?;
                    self.note_holes(segment, write);
                }
            }
            RecordKind::Move => {
                let (floor, groups) = salvage_move(&record.body, body_at, body_crc)?;
                for moved in groups {
                    let salvaged = moved.holes.iter().map(|(index, spot)| Salvaged {
                        group: moved.group,
                        index: *index,
                        segment: segment.number,
                        offset: spot.offset.into(),
                    });
                    self.salvaged.extend(salvaged);
                    if let Some((_, spot)) = moved.holes.first() {
                        let place = (segment.number, u64::from(spot.offset));
                        let nameless = moved.holes.iter().filter(|(index, _)| index.is_none()).count();
                        self.holes.entry(moved.group).or_insert((place, 0)).1 += nameless as u64;
                    }
                    self.homeless.remove(&moved.group);
                    self.index.apply_move(moved, segment.number)?;
                }
                self.floor = self.floor.max(floor);
            }
            RecordKind::Mark | RecordKind::Seal => return Err("a record without a body is damaged"),
        }
        self.report.records_damaged += 1;
        Ok(())
    }

    /// A group that is removed, or whose log begins anew, needs no entry from before.
    pub(super) fn forget_what_ends(&mut self, write: &GroupWrite) {
        if write.remove || write.reset_to.is_some() {
            self.homeless.remove(&write.group);
            self.holes.remove(&write.group);
        }
    }

    /// Leaves out entries of which not even the index is known. A move further on says what the group still needs:
    /// if they are among it, they are missing then.
    fn forget_entries(&mut self, segment: &Segment, logged: &mut LoggedWrite) {
        let group = logged.write.group;
        let offset = logged.spots.first().map_or(0, |spot| u64::from(spot.offset));
        let hole = self.holes.entry(group).or_insert(((segment.number, offset), 0));
        hole.1 += logged.write.entries.len() as u64;
        let place = |spot: &Spot| Salvaged {
            group,
            index: None,
            segment: segment.number,
            offset: spot.offset.into(),
        };
        self.salvaged.extend(logged.spots.iter().map(place));
        self.homeless.insert(group, (segment.number, offset));
        logged.write.entries = Entries::default();
        logged.spots.clear();
        logged.holes.clear();
    }

    /// Remembers which entries of a write that was taken in are damaged.
    fn note_holes(&mut self, segment: &Segment, logged: &LoggedWrite) {
        let LoggedWrite { write, spots, holes } = logged;
        let places =
            holes.iter().filter_map(|number| Some((write.entries.get(*number)?, spots.get(*number)?)));
        let salvaged = places.map(|(entry, spot)| Salvaged {
            group: write.group,
            index: Some(entry.index()),
            segment: segment.number,
            offset: spot.offset.into(),
        });
        self.salvaged.extend(salvaged);
    }
}

/// Whether all entries of a write are damaged and nothing says where they stood: what the group's log held before them
/// went with a segment that was dropped.
fn is_without_a_place(index: &Index, logged: &LoggedWrite) -> bool {
    let LoggedWrite { write, holes, .. } = logged;
    let is_known = index.groups.get(&write.group).is_some_and(|group| group.is_known);
    let says_so = is_known || write.reset_to.is_some() || write.replica.is_some();
    !holes.is_empty() && holes.len() == write.entries.len() && !says_so
}

/// Gives the entries that cannot be read the positions they must have had.
fn place_holes(index: &Index, logged: &mut LoggedWrite) -> Result<(), &'static str> {
    let LoggedWrite { write, holes, .. } = logged;
    if holes.is_empty() {
        return Ok(());
    }
    let known = index.groups.get(&write.group).filter(|group| group.is_known);
    let whole = (0..write.entries.len()).find(|number| !holes.contains(number));
    let neighbour = whole.and_then(|number| {
        let entry = write.entries.get(number)?;
        Some((LogIndex(entry.index().0.checked_sub(number as u64)?), entry.term()))
    });
    let after = match (&write.reset_to, write.truncate_from, known) {
        (Some((position, _, _)), _, _) => Some(position.index),
        (None, Some(from), Some(group)) => Some(from.previous().min(group.log.last)),
        (None, None, Some(group)) => Some(group.log.last),
        // The write that creates the group.
        (None, None, None) if write.replica.is_some() => Some(LogIndex(0)),
        (None, _, None) => None,
    };
    let first = neighbour.map(|(first, _)| first).or(after.map(LogIndex::next));
    let first = first.ok_or("an entry is damaged, and nothing says which")?;
    let before = known.and_then(|group| group.log.term_at(first.previous()));
    let mut term = before.or(neighbour.map(|(_, term)| term)).unwrap_or(Term(1));
    let mut entries = std::mem::take(&mut write.entries).into_vec();
    for (number, entry) in (0_u64..).zip(&mut entries) {
        if holes.contains(&usize::try_from(number).unwrap_or(usize::MAX)) {
            entry.id = LogId { term, index: LogIndex(first.0 + number) };
        }
        term = entry.term();
    }
    write.entries = entries.into();
    Ok(())
}
