//! What the records of a log come to, as far as they are sound: the index that opening would build.
//!
//! ```text
//!   whole record ──► taken in       only entries damaged ──► taken in without them, like opening does (`salvage`)
//!                                      │ at the end: does their group still need them?
//!                                      ├─ yes: damage             └─ no: given up, and no damage
//!   anything else ──► damage, and behind it nothing more is taken in: it may build on what is gone
//! ```
//!
//! * Whether an entry was given up is said behind it. So who asks for what stands *before* the first damage
//!   looks again, up to the first one that turned out to be needed (`Contents::up_to_the_first_damage`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use quorate_core::GroupId;

use super::WalToolError;
use super::walk::{Broken, Opened, Position, Step, walk};
use crate::disk::Disk;
use crate::error::Damage;
use crate::wal::body::{decode_batch, decode_move};
use crate::wal::record::{HEADER_BYTES, RecordKind};
use crate::wal::recovery::{Record, Scan};
use crate::wal::salvage::Salvaged;
use crate::wal::segment::{RECORDS_START, Segment, name_of};

/// A record: its segment, and where it stands there.
type Place = (u64, u64);

/// The sound part of a log.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) scan: Scan,
    pub(super) records: u64,
    /// Bytes of entries per group, live or not.
    pub(super) written_bytes: BTreeMap<GroupId, u64>,
    first: Option<u64>,
    /// Where the sound part ends.
    pub(super) end: Option<(Arc<Segment>, Position)>,
    /// The first thing that is not as it was written, and nothing was taken in behind it.
    pub(super) damage: Option<Damage>,
    /// From here on no damaged record is taken in.
    limit: Option<Place>,
    /// Everything that is not as it was written, in the order of the log.
    found: Vec<Found>,
}

struct Found {
    damage: Damage,
    /// Of a damaged record that was taken in: where it stands, and what was left out of it.
    taken: Option<(Place, Vec<Salvaged>)>,
}

impl Contents {
    /// Takes in what stands before the first damage that is not given up, and shows every step on the way to `visit`,
    /// which may be given the same steps again: then everything it was shown before does not count.
    pub(super) fn up_to_the_first_damage<T: Default>(
        disk: &dyn Disk,
        directory: &Path,
        visit: impl Fn(&mut T, &Self, &Step<'_>),
    ) -> Result<(Self, T), WalToolError> {
        let mut limit = None;
        loop {
            let (mut contents, mut shown) = (Self { limit, ..Self::default() }, T::default());
            walk(disk, directory, &mut |step| {
                contents.take(&step);
                visit(&mut shown, &contents, &step);
                true
            })?;
            contents.finish(directory);
            // What says that a damage was given up may itself stand behind one that was not.
            match contents.first_needed() {
                Some(place) => limit = Some(place),
                None => return Ok((contents, shown)),
            }
        }
    }

    /// Takes in a step of the walk.
    pub(super) fn take(&mut self, step: &Step<'_>) {
        let damage = match step {
            Step::Segment(opened) => {
                self.begin(opened);
                None
            }
            Step::Record { opened, offset, record } => self.record(opened, *offset, record).err(),
            Step::Broken { opened, broken } => self.broken(opened, broken),
            Step::Unreadable(damage) => Some(damage.clone()),
            Step::End { .. } => None,
        };
        self.note(damage);
    }

    /// What must hold once everything is taken in.
    pub(super) fn finish(&mut self, directory: &Path) {
        let checked = self.scan.check(self.first.unwrap_or(1), |number| directory.join(name_of(number)));
        // Behind damage something is missing anyhow.
        if self.damage.is_none() {
            self.note(checked.err());
        }
    }

    fn note(&mut self, damage: Option<Damage>) {
        if let Some(damage) = damage {
            self.damage.get_or_insert_with(|| damage.clone());
            self.found.push(Found { damage, taken: None });
        }
    }

    /// Everything that is damaged, in the order of the log.
    pub(super) fn damages(&self) -> Vec<Damage> {
        let counts = |found: &&Found| found.taken.as_ref().is_none_or(|(_, left_out)| self.needs(left_out));
        self.found.iter().filter(counts).map(|found| found.damage.clone()).collect()
    }

    /// The damaged entries that nobody needs any more, with the damage they are.
    pub(super) fn given_up(&self) -> impl Iterator<Item = (Salvaged, &Damage)> {
        let taken = self.found.iter().filter_map(|found| Some((&found.damage, found.taken.as_ref()?)));
        let given_up = taken.filter(|(_, (_, left_out))| !self.needs(left_out));
        given_up.flat_map(|(damage, (_, left_out))| left_out.iter().map(move |entry| (*entry, damage)))
    }

    /// The first record of which damaged entries are still needed, though it was taken in.
    fn first_needed(&self) -> Option<Place> {
        let taken = self.found.iter().filter_map(|found| found.taken.as_ref());
        taken.filter(|(_, left_out)| self.needs(left_out)).map(|(place, _)| *place).next()
    }

    fn needs(&self, left_out: &[Salvaged]) -> bool {
        left_out.iter().any(|entry| self.scan.needs(entry))
    }

    /// A record of which only entries are damaged is taken in without them. The damage, unless that is all.
    fn broken(&mut self, opened: &Opened, broken: &Broken) -> Option<Damage> {
        let (number, path) = (opened.segment.number, &opened.segment.path);
        let damage = Damage { path: path.clone(), offset: broken.offset, what: broken.damage? };
        let place = (number, broken.offset);
        // Opening does not look into a file that is too short.
        let is_sound = self.damage.is_none() && !opened.is_short;
        let may_be_taken = is_sound && self.limit.is_none_or(|limit| place < limit);
        let before = self.scan.salvaged.len();
        match &broken.record {
            Some(record)
                if may_be_taken && self.scan.salvage(&opened.segment, record, broken.offset).is_ok() =>
            {
                let left_out = self.scan.salvaged.split_off(before);
                self.found.push(Found { damage, taken: Some((place, left_out)) });
                self.pass(record);
                None
            }
            Some(_) | None => Some(damage),
        }
    }

    fn pass(&mut self, record: &Record) {
        self.records += 1;
        if let Some((_, end)) = &mut self.end {
            end.pass(record);
        }
    }

    fn begin(&mut self, opened: &Opened) {
        self.first.get_or_insert(opened.segment.number);
        if self.damage.is_none() {
            self.scan.index.add_segment(Arc::clone(&opened.segment));
            self.scan.floor = self.scan.floor.max(opened.header.floor);
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
        let body_at = offset + HEADER_BYTES as u64;
        match record.header.kind {
            RecordKind::Batch => {
                for logged in decode_batch(&record.body, body_at).map_err(damaged)? {
                    if is_sound {
                        self.count(logged.write.group, logged.spots.iter().map(|spot| spot.bytes));
                        self.scan.index.apply(&logged, number).map_err(damaged)?;
                    }
                }
            }
            RecordKind::Move => {
                let (floor, groups) = decode_move(&record.body, body_at).map_err(damaged)?;
                for moved in groups.into_iter().filter(|_| is_sound) {
                    self.scan.homeless.remove(&moved.group);
                    self.count(moved.group, moved.entries.iter().map(|(_, spot)| spot.bytes));
                    self.scan.index.apply_move(moved, number).map_err(damaged)?;
                }
                if is_sound {
                    self.scan.floor = self.scan.floor.max(floor);
                }
            }
            RecordKind::Mark | RecordKind::Seal => {}
        }
        if is_sound {
            self.pass(record);
        }
        Ok(())
    }

    fn count(&mut self, group: GroupId, bytes: impl Iterator<Item = u32>) {
        *self.written_bytes.entry(group).or_default() += bytes.map(u64::from).sum::<u64>();
    }
}
