//! Where everything live is: per group what is known of its log and the location of every entry,
//! per segment how much of it is still needed. Shared by the writer (who changes it after a sync)
//! and the readers, through one lock.
//!
//! * 16 bytes per live entry; a group's entries are contiguous. Holes exist only during recovery:
//!   entries whose first copy went with a dropped segment stand in a move further on, which fills
//!   them.
//! * A segment may go when no entry lies in it and no group's state was last written in it.
//! * Entries that turned out to be damaged keep their place, and are remembered until they are truncated,
//!   compacted or written again.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_core::planted::planted;
use quorate_core::{EntryPayload, GroupId, LogIndex};

use super::body::{LoggedWrite, MovedGroup, Spot};
use super::segment::Segment;
use crate::entry_window::EntryWindow;
use crate::error::{Damage, DamagedEntries};
use crate::group_log::GroupLog;
use crate::log_store::{GroupState, GroupWrite};
use crate::shared_members::SharedMembers;

/// Where an entry's item (header included) is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u64,
    pub(super) spot: Spot,
}

impl Location {
    /// No entry yet; segments are numbered from 1.
    pub(super) const HOLE: Self = Self { segment: 0, spot: Spot { offset: 0, bytes: 0 } };
}

/// Where an entry was found to be damaged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rot {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) what: &'static str,
}

/// One group.
pub(super) struct IndexedGroup {
    pub(super) log: GroupLog,
    pub(super) entries: EntryWindow<Location>,
    /// Where its entries end was read, and is not only what is left of it in the segments that are there.
    pub(super) is_known: bool,
    /// Those of the entries that are damaged.
    pub(super) rotten: BTreeMap<LogIndex, Rot>,
    /// The segment that says which replica this is: the group's first write, or a move.
    replica_segment: u64,
    /// The segment with the newest hard state.
    hard_state_segment: u64,
    /// The segment with the newest reset, compaction or move.
    base_segment: u64,
}

/// One segment.
pub(super) struct IndexedSegment {
    pub(super) segment: Arc<Segment>,
    /// Bytes of live entries in it.
    pub(super) live_bytes: u64,
}

/// Everything live.
#[derive(Default)]
pub(super) struct Index {
    /// In boxes: the leaves of a tree are half empty.
    pub(super) groups: BTreeMap<GroupId, Box<IndexedGroup>>,
    members: SharedMembers,
    pub(super) segments: BTreeMap<u64, IndexedSegment>,
}

impl Index {
    pub(super) fn add_segment(&mut self, segment: Arc<Segment>) {
        self.segments.insert(segment.number, IndexedSegment { segment, live_bytes: 0 });
    }

    pub(super) fn states(&self) -> Vec<GroupState> {
        self.groups.iter().map(|(group, found)| self.state_of(*group, found)).collect()
    }

    pub(super) fn state(&self, group: GroupId) -> Option<GroupState> {
        self.groups.get(&group).map(|found| self.state_of(group, found))
    }

    fn state_of(&self, group: GroupId, found: &IndexedGroup) -> GroupState {
        let (first, last) = (found.rotten.first_key_value(), found.rotten.last_key_value());
        let damaged = first.zip(last).map(|((first, rot), (last, _))| {
            let segment = self.segments.get(&rot.segment);
            let path = segment.map(|used| used.segment.path.clone()).unwrap_or_default();
            let damage = Damage { path, offset: rot.offset, what: rot.what };
            DamagedEntries { group, first: *first, last: *last, damage }
        });
        GroupState { damaged, ..found.log.state(group) }
    }

    /// How many entries are known to be damaged.
    pub(super) fn rotten_entries(&self) -> u64 {
        self.groups.values().map(|group| group.rotten.len() as u64).sum()
    }

    /// An entry was read where it should be, and is not what was written.
    pub(super) fn note_rot(&mut self, group: GroupId, at: LogIndex, location: Location, what: &'static str) {
        if let Some(found) = self.groups.get_mut(&group)
            && found.entries.get(at) == Some(&location)
        {
            let rot = Rot { segment: location.segment, offset: u64::from(location.spot.offset), what };
            found.rotten.insert(at, rot);
        }
    }

    /// Does what was written in `segment`; `spots` are offsets there.
    ///
    /// # Errors
    /// The writer checked the write before; for recovery, what contradicts the records before it.
    pub(super) fn apply(&mut self, logged: &LoggedWrite, segment: u64) -> Result<(), &'static str> {
        let write = &logged.write;
        if write.remove {
            if let Some(group) = self.groups.remove(&write.group) {
                release(&mut self.segments, group.entries.iter().map(|(_, location)| *location));
            }
            return Ok(());
        }
        let group = self.groups.entry(write.group).or_insert_with(|| Box::new(IndexedGroup::new(segment)));
        if write.replica.is_some() {
            group.replica_segment = segment;
        }
        group.is_known |= write.replica.is_some() || write.reset_to.is_some() || !write.entries.is_empty();
        if write.hard_state.is_some() {
            group.hard_state_segment = segment;
        }
        if write.reset_to.is_some() || write.compact_to.is_some() {
            group.base_segment = segment;
        }
        group.cut_front_and_back(write, &mut self.segments);
        for (number, (entry, spot)) in write.entries.iter().zip(&logged.spots).enumerate() {
            let location = Location { segment, spot: *spot };
            if entry.index() < group.entries.next() && entry.index() >= group.entries.first() {
                return Err("an entry appears twice");
            }
            group
                .entries
                .place(entry.index(), location, Location::HOLE)
                .map_err(|_| "an entry is too far from the others")?;
            if let Some(used) = self.segments.get_mut(&segment) {
                used.live_bytes += u64::from(spot.bytes);
            }
            if logged.holes.contains(&number) {
                group.rotten.insert(entry.index(), Rot::at(location));
            }
        }
        if let Some((position, _, _)) = &write.compact_to
            && position.index > group.log.compacted.index
        {
            release(&mut self.segments, group.entries.compact_to(position.index));
            group.rotten = group.rotten.split_off(&position.index.next());
        }
        group.log.apply(write);
        if has_members(write) {
            self.members.share(&mut group.log);
        }
        Ok(())
    }

    /// Records that a group's state, and the entries given, are now (also) in `segment`. It never
    /// removes anything: entries that are not mentioned stay where they are.
    pub(super) fn apply_move(&mut self, moved: MovedGroup, segment: u64) -> Result<(), &'static str> {
        let group = self.groups.entry(moved.group).or_insert_with(|| Box::new(IndexedGroup::new(segment)));
        group.replica_segment = segment;
        group.hard_state_segment = segment;
        group.base_segment = segment;
        group.is_known = true;
        group.log = moved.log;
        self.members.share(&mut group.log);
        let whole = moved.entries.into_iter().map(|(index, spot)| (index, spot, false));
        // A copy that is damaged does not replace one that may be whole.
        let holes = moved.holes.into_iter().filter_map(|(index, spot)| Some((index?, spot, true)));
        let holes = holes.filter(|(index, _, _)| {
            group.entries.get(*index).is_none_or(|location| *location == Location::HOLE)
        });
        let entries: Vec<_> = whole.chain(holes.collect::<Vec<_>>()).collect();
        for (index, spot, is_rotten) in entries {
            let location = Location { segment, spot };
            let before = group
                .entries
                .place(index, location, Location::HOLE)
                .map_err(|_| "an entry is too far from the others")?;
            release(&mut self.segments, before);
            if let Some(used) = self.segments.get_mut(&segment) {
                used.live_bytes += u64::from(spot.bytes);
            }
            if is_rotten {
                group.rotten.insert(index, Rot::at(location));
            } else {
                group.rotten.remove(&index);
            }
        }
        // A group that has no entries left in the scanned segments is known by its image alone.
        if group.entries.iter().next().is_none() {
            drop(group.entries.reset(group.log.compacted.index));
        }
        Ok(())
    }

    /// The groups that need `segment` or an older one.
    pub(super) fn groups_in(&self, segment: u64) -> Vec<GroupId> {
        self.groups.iter().filter(|(_, group)| group.needs(segment)).map(|(id, _)| *id).collect()
    }

    /// Entries of `group` that are nowhere are among the `nameless` ones that a damaged move held.
    pub(super) fn fill_holes(&mut self, group: GroupId, (segment, offset): (u64, u64), nameless: u64) {
        let Some(found) = self.groups.get_mut(&group) else { return };
        let (first, last) = (found.log.compacted.index.next(), found.log.last);
        let missing =
            last.next().0.saturating_sub(first.0).saturating_sub(found.entries.iter().count() as u64);
        if missing > 0 && missing <= nameless {
            for end in [first, last] {
                if found.entries.get(end).is_none() {
                    // Too far apart: then the group stays incomplete, which is an error.
                    drop(found.entries.place(end, Location::HOLE, Location::HOLE));
                }
            }
        }
        let rot = Rot { segment, offset, what: "the checksum of an entry does not hold" };
        let holes = found.entries.iter().filter(|(_, location)| **location == Location::HOLE);
        let holes: Vec<LogIndex> = holes.map(|(index, _)| index).collect();
        found.rotten.extend(holes.into_iter().map(|index| (index, rot)));
    }

    /// The first group whose entries are not all there, which means that a segment is missing.
    pub(super) fn incomplete(&self) -> Option<GroupId> {
        self.groups.iter().find(|(_, group)| !group.is_complete()).map(|(id, _)| *id)
    }
}

impl IndexedGroup {
    fn new(segment: u64) -> Self {
        Self {
            log: GroupLog::default(),
            entries: EntryWindow::after(LogIndex(0)),
            is_known: false,
            rotten: BTreeMap::new(),
            replica_segment: segment,
            hard_state_segment: segment,
            base_segment: segment,
        }
    }

    fn cut_front_and_back(&mut self, write: &GroupWrite, segments: &mut BTreeMap<u64, IndexedSegment>) {
        if let Some((position, _, _)) = &write.reset_to {
            release(segments, self.entries.reset(position.index));
            self.rotten.clear();
        }
        if let Some(from) = write.truncate_from {
            release(segments, self.entries.truncate_from(from));
            drop(self.rotten.split_off(&from));
        }
    }

    /// Whether the group's state or one of its entries is in `segment` or an older one.
    pub(super) fn needs(&self, segment: u64) -> bool {
        (self.state_segment() <= segment && !planted("idle_state_dropped"))
            || self.entries.iter().any(|(_, at)| at.segment <= segment)
    }

    fn state_segment(&self) -> u64 {
        self.replica_segment.min(self.hard_state_segment).min(self.base_segment)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.entries.first() == self.log.compacted.index.next()
            && self.entries.next() == self.log.last.next()
            && self
                .entries
                .iter()
                .all(|(index, location)| *location != Location::HOLE || self.rotten.contains_key(&index))
    }
}

impl Rot {
    fn at(location: Location) -> Self {
        let what = "the checksum of an entry does not hold";
        Self { segment: location.segment, offset: u64::from(location.spot.offset), what }
    }
}

/// Whether a list of members is in it.
fn has_members(write: &GroupWrite) -> bool {
    let mut entries = write.entries.iter();
    write.reset_to.is_some()
        || write.compact_to.is_some()
        || entries.any(|entry| matches!(entry.payload, EntryPayload::Membership(_)))
}

/// Entries at these locations are not needed any more.
fn release(segments: &mut BTreeMap<u64, IndexedSegment>, locations: impl IntoIterator<Item = Location>) {
    for location in locations {
        if let Some(segment) = segments.get_mut(&location.segment) {
            segment.live_bytes = segment.live_bytes.saturating_sub(u64::from(location.spot.bytes));
        }
    }
}
