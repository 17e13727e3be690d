//! What the records of a log come to, as far as they are sound: the index that opening would build.
//!
//! Behind the first damage nothing more is taken in: what stands there may build on what is gone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use quorate_core::GroupId;

use super::walk::{Opened, Position, Step};
use crate::error::Damage;
use crate::wal::body::{decode_batch, decode_move};
use crate::wal::index::Index;
use crate::wal::record::{HEADER_BYTES, RecordKind};
use crate::wal::recovery::Record;
use crate::wal::segment::{RECORDS_START, Segment, name_of};

/// The sound part of a log.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) index: Index,
    pub(super) records: u64,
    /// Bytes of entries per group, live or not.
    pub(super) written_bytes: BTreeMap<GroupId, u64>,
    /// Segments below this are not needed.
    pub(super) floor: u64,
    first: Option<u64>,
    /// Where the sound part ends.
    pub(super) end: Option<(Arc<Segment>, Position)>,
    /// The first thing that is not as it was written.
    pub(super) damage: Option<Damage>,
}

impl Contents {
    /// Takes in a step of the walk; the damage that it is, or leads to.
    pub(super) fn take(&mut self, step: &Step<'_>) -> Option<Damage> {
        let found = match step {
            Step::Segment(opened) => {
                self.begin(opened);
                None
            }
            Step::Record { opened, offset, record } => self.record(opened, *offset, record).err(),
            Step::Broken { opened, broken } => broken.damage.map(|what| Damage {
                path: opened.segment.path.clone(),
                offset: broken.offset,
                what,
            }),
            Step::Unreadable(damage) => Some(damage.clone()),
            Step::End { .. } => None,
        };
        if self.damage.is_none() {
            self.damage.clone_from(&found);
        }
        found
    }

    /// What must hold once everything is taken in.
    pub(super) fn finish(&mut self, directory: &Path) -> Option<Damage> {
        if self.damage.is_some() {
            return None;
        }
        let first = self.first.unwrap_or(1);
        if first > self.floor.max(1) {
            self.damage = Some(super::missing(directory.join(name_of(first - 1))));
        } else if self.index.incomplete().is_some() {
            let what = "entries of a group are in no segment";
            self.damage = Some(Damage { path: directory.join(name_of(first)), offset: 0, what });
        }
        self.damage.clone()
    }

    fn begin(&mut self, opened: &Opened) {
        self.first.get_or_insert(opened.segment.number);
        if self.damage.is_none() {
            self.index.add_segment(Arc::clone(&opened.segment));
            self.floor = self.floor.max(opened.header.floor);
            let sequence = opened.header.first_sequence;
            let start = Position { offset: RECORDS_START, chain: opened.crc, sequence };
            self.end = Some((Arc::clone(&opened.segment), start));
        }
    }

    /// Also decodes what stands behind damage: that it can be decoded is checked there, too.
    fn record(&mut self, opened: &Opened, offset: u64, record: &Record) -> Result<(), Damage> {
        let damaged = |what| Damage { path: opened.segment.path.clone(), offset, what };
        let is_sound = self.damage.is_none();
        let number = opened.segment.number;
        self.records += u64::from(is_sound);
        let body_at = offset + HEADER_BYTES as u64;
        match record.header.kind {
            RecordKind::Batch => {
                for logged in decode_batch(&record.body, body_at).map_err(damaged)? {
                    if is_sound {
                        self.count(logged.write.group, logged.spots.iter().map(|spot| spot.bytes));
                        self.index.apply(&logged, number).map_err(damaged)?;
                    }
                }
            }
            RecordKind::Move => {
                let (floor, groups) = decode_move(&record.body, body_at).map_err(damaged)?;
                for moved in groups.into_iter().filter(|_| is_sound) {
                    self.count(moved.group, moved.entries.iter().map(|(_, spot)| spot.bytes));
                    self.index.apply_move(moved, number).map_err(damaged)?;
                }
                if is_sound {
                    self.floor = self.floor.max(floor);
                }
            }
            RecordKind::Mark | RecordKind::Seal => {}
        }
        if is_sound && let Some((_, end)) = &mut self.end {
            end.pass(record);
        }
        Ok(())
    }

    fn count(&mut self, group: GroupId, bytes: impl Iterator<Item = u32>) {
        *self.written_bytes.entry(group).or_default() += bytes.map(u64::from).sum::<u64>();
    }
}
