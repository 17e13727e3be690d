//! Dropping old segments, a small step after each flush.
//!
//!   Idle ── oldest segments nearly empty ──► Moving ── all moved ──► Waiting ── synced ──► dropped
//!
//! What is still live in the segments to go (state of idle groups, entries of lagging ones) is
//! written again at the end of the log, in move records. A move says what is true at its place in
//! the log and never removes anything, so replaying it after newer records of other entries is
//! harmless. The last move carries the floor: the segments below it are not needed once it is
//! durable, and only then are they dropped, oldest first.
//!
//! Which segments: those at the front in which no entry is live or, in a log of [`SEGMENTS_MIN`] segments, that are
//! live to a quarter at most. Failing that, the oldest,
//! however much of it is live, when the whole log is: to a quarter, or to a half if it takes more
//! than [`super::WalConfig::log_bytes_max`]. So a log takes about four times what is live in it, or
//! four segments, and moving costs at most as many bytes as were written since the last time. What busy groups
//! write is compacted before it gets to the front, and is not moved.
//!
//! * A step moves at most [`STEP_BYTES_MAX`] and never makes a new segment: it takes the room that
//!   is left.
//! * Moves ride on the sync of the next flush; only a flush that syncs nothing else syncs for them.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use quorate_core::{GroupId, LogIndex};

use super::Wal;
use super::body::{MovedGroup, encode_moved, start_move};
use super::index::{Index, Location};
use super::reader::read_item;
use super::record::{HEADER_BYTES, RecordKind, framed_bytes};
use super::segment::{Segment, index};
use crate::error::LogError;
use crate::group_log::GroupLog;

/// The most that one step moves, in bytes.
const STEP_BYTES_MAX: u64 = 1 << 20;

/// A log of fewer segments is only shortened where that costs little.
const SEGMENTS_MIN: usize = 4;

/// Padding and the count of entries, in bytes.
const SLACK_BYTES: usize = 16;

/// What is being dropped.
pub(super) enum Cleaner {
    /// Nothing.
    Idle,
    /// Everything live up to segment `through` is being moved; these groups are left.
    Moving { through: u64, groups: VecDeque<GroupId> },
    /// Moved; the segments may go when record `sequence` is durable.
    Waiting { through: u64, sequence: u64 },
    /// Something in the old segments cannot be read: they stay until its group has given it up. Tried
    /// again when the log has got into a segment after `tail`.
    Blocked { tail: u64 },
}

/// One group to move.
struct Moving {
    log: GroupLog,
    entries: Vec<(LogIndex, Location, Arc<Segment>)>,
}

impl Moving {
    /// What `group` still has in the segments up to `through`, if anything.
    fn find(index: &Index, group: GroupId, through: u64) -> Option<Self> {
        let found = index.groups.get(&group).filter(|found| found.needs(through))?;
        let old = found.entries.iter().filter(|(_, location)| location.segment <= through);
        let entries = old.filter_map(|(at, location)| {
            let used = index.segments.get(&location.segment)?;
            Some((at, *location, Arc::clone(&used.segment)))
        });
        Some(Self { log: found.log.clone(), entries: entries.collect() })
    }
}

/// How much of a group went into a record.
enum Step {
    /// All of it; `None` if there was nothing to move any more.
    Whole(Option<MovedGroup>),
    /// Its state and some entries.
    Part(MovedGroup),
    /// Nothing: the record is full.
    NoRoom,
}

impl Wal {
    /// One step. Errors are final, except those that only leave old segments where they are.
    pub(super) fn clean(&mut self) -> Result<(), LogError> {
        if let Cleaner::Blocked { tail } = self.cleaner
            && tail < self.tail.segment.number
        {
            self.cleaner = Cleaner::Idle;
        }
        if let Cleaner::Idle = self.cleaner {
            self.choose();
        }
        if let Cleaner::Moving { .. } = self.cleaner {
            self.move_some()?;
        }
        if let Cleaner::Waiting { through, sequence } = self.cleaner
            && self.tail.durable >= sequence
        {
            self.cleaner = Cleaner::Idle;
            self.drop_through(through).inspect_err(|error| self.failed = Some(error.clone()))?;
        }
        Ok(())
    }

    /// Whether old segments only wait for a sync.
    pub(super) const fn is_waiting_to_drop(&self) -> bool {
        matches!(self.cleaner, Cleaner::Waiting { .. })
    }

    /// Finds the segments at the front that are worth emptying.
    fn choose(&mut self) {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let config = &self.config;
        let bytes: u64 = index.segments.values().map(|used| used.segment.bytes).sum();
        let is_large = bytes > config.log_bytes_max;
        let is_long = index.segments.len() >= SEGMENTS_MIN;
        let mut through = None;
        let mut live_bytes = 0;
        for used in index.segments.values() {
            live_bytes += used.live_bytes;
            // What a busy group has just written is compacted soon: in a short log nothing is moved but states.
            let is_worth_it = live_bytes == 0
                || ((is_long || is_large)
                    && used.live_bytes <= used.segment.bytes / 4
                    && live_bytes <= config.move_bytes_max);
            if used.segment.number == self.tail.segment.number || !is_worth_it {
                break;
            }
            through = Some(used.segment.number);
        }
        if through.is_none() && is_long {
            let live_bytes: u64 = index.segments.values().map(|used| used.live_bytes).sum();
            if live_bytes <= bytes / if is_large { 2 } else { 4 } {
                through = index.segments.keys().next().copied();
            }
        }
        if let Some(through) = through {
            self.cleaner = Cleaner::Moving { through, groups: index.groups_in(through).into() };
        }
    }

    /// Moves as much as fits into one record.
    fn move_some(&mut self) -> Result<(), LogError> {
        let Cleaner::Moving { through, groups } = &mut self.cleaner else { return Ok(()) };
        let through = *through;
        let mut groups = std::mem::take(groups);
        let room = self.tail.room_bytes().min(STEP_BYTES_MAX);
        let mut record = vec![0; HEADER_BYTES];
        start_move(&mut record, self.tail.floor);
        let mut moved = Vec::new();
        while let Some(group) = groups.front() {
            match self.move_group(*group, through, room, &mut record) {
                Ok(Step::Whole(group)) => {
                    groups.pop_front();
                    moved.extend(group);
                }
                Ok(Step::Part(group)) => {
                    moved.push(group);
                    break;
                }
                Ok(Step::NoRoom) => break,
                Err(_) => {
                    self.cleaner = Cleaner::Blocked { tail: self.tail.segment.number };
                    return Ok(());
                }
            }
        }
        let is_last = groups.is_empty();
        self.cleaner = Cleaner::Moving { through, groups };
        if framed_bytes((record.len() - HEADER_BYTES) as u64) > room || (moved.is_empty() && !is_last) {
            // Nothing fits here; the next segment has room.
            return Ok(());
        }
        if is_last {
            record[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(&(through + 1).to_le_bytes());
            self.cleaner = Cleaner::Waiting { through, sequence: self.tail.next_sequence };
        }
        self.put_move(record, moved)
    }

    /// Writes a move and shows it to readers. Nothing depends on it before it is durable but the
    /// old copies, which stay until then.
    fn put_move(&mut self, record: Vec<u8>, mut moved: Vec<MovedGroup>) -> Result<(), LogError> {
        let base = u32::try_from(self.tail.offset).unwrap_or(u32::MAX);
        let segment = self.tail.segment.number;
        self.put_record(RecordKind::Move, record)?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for group in &mut moved {
            for (_, spot) in &mut group.entries {
                spot.offset = spot.offset.saturating_add(base);
                self.stats.bytes_moved += u64::from(spot.bytes);
            }
        }
        for group in moved {
            index.apply_move(group, segment).expect("moved entries are in the index");
        }
        Ok(())
    }

    /// Appends a group, or as many of its entries as fit, to the body of a move.
    fn move_group(
        &self,
        group: GroupId,
        through: u64,
        room: u64,
        record: &mut Vec<u8>,
    ) -> Result<Step, LogError> {
        let Some(moving) =
            Moving::find(&self.index.read().unwrap_or_else(PoisonError::into_inner), group, through)
        else {
            return Ok(Step::Whole(None));
        };
        let before = record.len();
        let image = encode_moved(group, &moving.log, &[], record);
        let image_end = record.len();
        record.truncate(before);
        let room = index(room);
        if image.is_err() || image_end + SLACK_BYTES > room {
            return Ok(Step::NoRoom);
        }
        let mut bytes = image_end + SLACK_BYTES;
        let mut items: Vec<(LogIndex, Bytes)> = Vec::new();
        for (index, location, segment) in &moving.entries {
            bytes += location.spot.bytes as usize;
            if bytes > room {
                break;
            }
            let item = read_item(segment, location).inspect_err(|error| {
                if let LogError::Damaged(damage) = error {
                    let mut shared = self.index.write().unwrap_or_else(PoisonError::into_inner);
                    shared.note_rot(group, *index, *location, damage.what);
                }
            })?;
            items.push((*index, item));
        }
        let is_whole = items.len() == moving.entries.len();
        if items.is_empty() && !is_whole {
            return Ok(Step::NoRoom);
        }
        let Ok(entries) = encode_moved(group, &moving.log, &items, record) else {
            record.truncate(before);
            return Ok(Step::NoRoom);
        };
        let moved = MovedGroup { group, log: moving.log, entries, holes: Vec::new() };
        Ok(if is_whole { Step::Whole(Some(moved)) } else { Step::Part(moved) })
    }

    /// Drops the segments up to `through`: nothing in them is needed.
    fn drop_through(&mut self, through: u64) -> Result<(), LogError> {
        self.tail.floor = through + 1;
        loop {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            let Some(oldest) = index.segments.first_entry().filter(|oldest| *oldest.key() <= through) else {
                return Ok(());
            };
            let segment = oldest.remove().segment;
            drop(index);
            self.directory.drop_segment(segment)?;
        }
    }
}
