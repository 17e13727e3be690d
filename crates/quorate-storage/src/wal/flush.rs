//! One flush: everything queued becomes durable with one write and one sync.
//!
//!   stage every batch ──► commit: write, sync, index, completions ──► mark ──► clean one step
//!        │    ▲
//!        ▼    │ segment full: commit what is staged, make the next segment
//!       rotate
//!
//! * A batch that is refused keeps its place in the order of completions.
//! * A batch that finds no space for a new segment is refused, and with it every later batch of the
//!   same flush that touches one of its groups, so that nothing overtakes. Batches without entries
//!   may still use the room kept at the end of the segment, and the space of the reserve file (`reserve`):
//!   terms, votes and compaction work on a full disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use quorate_core::GroupId;
use quorate_core::planted::planted;

use super::Wal;
use super::body::{LoggedWrite, Spot, TooLarge, encode_batch};
use super::record::{HEADER_BYTES, RecordKind, framed_bytes};
use super::tail::Tail;
use crate::error::LogError;
use crate::group_log::GroupLog;
use crate::log_store::{LogBatch, WriteDone};

/// The largest record in bytes.
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// A batch that waits for the next flush.
pub(super) struct Queued {
    pub(super) batch: LogBatch,
    pub(super) must_sync: bool,
    pub(super) done: WriteDone,
}

/// Batches that go to disk together.
#[derive(Default)]
struct Round {
    /// Groups as they will be once the round is durable; `None` for removed ones.
    planned: BTreeMap<GroupId, Option<GroupLog>>,
    records: Vec<Vec<u8>>,
    staged: Vec<Staged>,
    must_sync: bool,
    /// Groups a batch of which found no space in this flush.
    starved: BTreeSet<GroupId>,
    /// It was tried in this flush to take the reserve back.
    resumed: bool,
}

/// What a batch came to, until its turn to be completed.
struct Staged {
    outcome: Result<Vec<LoggedWrite>, LogError>,
    done: WriteDone,
}

impl Wal {
    /// See `LogStore::flush`.
    pub(super) fn flush_queue(&mut self) -> Result<(), LogError> {
        let syncs_before = self.stats.syncs;
        let mut queue = std::mem::take(&mut self.queue).into_iter();
        let mut round = Round::default();
        while self.failed.is_none() {
            let Some(queued) = queue.next() else { break };
            self.stage(&mut round, queued);
        }
        self.commit(&mut round);
        if let Some(error) = &self.failed {
            for queued in queue {
                (queued.done)(Err(error.clone()));
            }
            return Err(error.clone());
        }
        if self.tail.durable > self.tail.marked {
            self.put_mark()?;
        }
        if self.stats.syncs == syncs_before && self.is_waiting_to_drop() {
            self.sync_rest()?;
        }
        self.clean()?;
        if self.reserve.is_spent() || self.directory.is_low {
            let removed = self.directory.remove_free();
            removed.inspect_err(|error| self.failed = Some(error.clone()))?;
        }
        Ok(())
    }

    /// Checks a batch against everything before it and frames its record, or gives it its refusal.
    fn stage(&mut self, round: &mut Round, queued: Queued) {
        let Queued { batch, must_sync, done } = queued;
        let outcome = self.check(round, &batch).and_then(|()| self.encode(round, &batch));
        let outcome = outcome.map(|(mut record, spots)| {
            let base = self.tail.offset;
            self.tail.frame(RecordKind::Batch, &mut record);
            round.records.push(record);
            round.must_sync |= must_sync;
            self.plan(round, &batch);
            logged(batch, spots, base)
        });
        round.staged.push(Staged { outcome, done });
    }

    fn check(&self, round: &Round, batch: &LogBatch) -> Result<(), LogError> {
        if batch.groups.iter().any(|write| round.starved.contains(&write.group)) {
            return Err(LogError::NoSpace { context: "behind a batch that found no space".to_owned() });
        }
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let new = GroupLog::default();
        let mut named = BTreeSet::new();
        for write in &batch.groups {
            let invalid = |what| LogError::Invalid { group: write.group, what };
            if !named.insert(write.group) {
                return Err(invalid("a batch names a group once"));
            }
            let log = match round.planned.get(&write.group) {
                Some(planned) => planned.as_ref(),
                None => index.groups.get(&write.group).map(|found| &found.log),
            };
            log.unwrap_or(&new).check(write).map_err(invalid)?;
        }
        Ok(())
    }

    /// The record of a batch (its header still empty) and a place for it.
    fn encode(&mut self, round: &mut Round, batch: &LogBatch) -> Result<(Vec<u8>, Vec<Vec<Spot>>), LogError> {
        let group = batch.groups.first().map_or(GroupId(0), |write| write.group);
        let too_large = |TooLarge| LogError::Invalid { group, what: "a batch is too large for one record" };
        let mut record = vec![0; HEADER_BYTES];
        let spots = encode_batch(batch, &mut record).map_err(too_large)?;
        let framed = framed_bytes((record.len() - HEADER_BYTES) as u64);
        if framed > RECORD_BYTES_MAX {
            return Err(too_large(TooLarge));
        }
        let may_use_reserve = batch.groups.iter().all(|write| write.entries.is_empty());
        match self.make_room(round, framed, may_use_reserve) {
            Err(error @ LogError::NoSpace { .. }) => {
                round.starved.extend(batch.groups.iter().map(|write| write.group));
                Err(error)
            }
            Err(error) => {
                self.failed.get_or_insert_with(|| error.clone());
                Err(error)
            }
            Ok(()) => Ok((record, spots)),
        }
    }

    /// Sees to it that a record of `framed` bytes fits behind what is staged.
    fn make_room(&mut self, round: &mut Round, framed: u64, may_use_reserve: bool) -> Result<(), LogError> {
        if !may_use_reserve {
            self.resume(round)?;
        }
        let reserve = self.reserve_bytes();
        if framed + reserve <= self.tail.room_bytes() {
            return Ok(());
        }
        self.commit(round);
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let Err(error) = self.rotate(framed, reserve) else { return Ok(()) };
        if !matches!(error, LogError::NoSpace { .. }) {
            return Err(error);
        }
        self.reserve.release(&self.directory)?;
        match may_use_reserve {
            true if framed <= self.tail.room_bytes() => Ok(()),
            true => self.rotate(framed, reserve),
            false => Err(error),
        }
    }

    /// While the reserve is spent nothing with entries is taken; first there must be space for it again.
    fn resume(&mut self, round: &mut Round) -> Result<(), LogError> {
        if !self.reserve.is_spent() {
            return Ok(());
        }
        if !std::mem::replace(&mut round.resumed, true) && self.reserve.hold(&self.directory)? {
            return Ok(());
        }
        Err(LogError::NoSpace {
            context: "no entries are taken before there is space for the reserve".to_owned(),
        })
    }

    /// At the end of every segment some room is kept for compaction on a full disk.
    fn reserve_bytes(&self) -> u64 {
        (self.config.segment_bytes / 8).min(64 * 1024)
    }

    /// Remembers what the groups will be, for the batches behind this one.
    fn plan(&self, round: &mut Round, batch: &LogBatch) {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        for write in &batch.groups {
            let found = || index.groups.get(&write.group).map(|found| found.log.clone());
            let planned = round.planned.entry(write.group).or_insert_with(found);
            if write.remove {
                *planned = None;
            } else {
                planned.get_or_insert_default().apply(write);
            }
        }
    }

    /// Makes what is staged durable, shows it to readers and completes it.
    fn commit(&mut self, round: &mut Round) {
        let written = self.write_records(&std::mem::take(&mut round.records), round.must_sync);
        round.must_sync = false;
        round.planned.clear();
        let segment = self.tail.segment.number;
        let mut completions = Vec::with_capacity(round.staged.len());
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for Staged { outcome, done } in round.staged.drain(..) {
            let outcome = match (outcome, &written) {
                (Ok(writes), Ok(())) => {
                    for write in &writes {
                        index.apply(write, segment).expect("checked before it was written");
                    }
                    self.stats.batches += 1;
                    Ok(())
                }
                (Ok(_), Err(error)) => Err(error.clone()),
                (Err(refused), _) => Err(refused),
            };
            completions.push((done, outcome));
        }
        drop(index);
        for (done, outcome) in completions {
            done(outcome);
        }
    }

    /// Writes framed records at the end, and syncs if asked to. The first error is final.
    fn write_records(&mut self, records: &[Vec<u8>], must_sync: bool) -> Result<(), LogError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if records.is_empty() {
            return Ok(());
        }
        self.stats.bytes_written += records.iter().map(|record| record.len() as u64).sum::<u64>();
        let written = self.tail.write(records, self.config.fill_ahead_bytes);
        let written = written.map_err(|source| self.tail.segment.failed("writing", source));
        let outcome = written
            .and_then(|()| if must_sync && !planted("log_without_sync") { self.sync() } else { Ok(()) });
        outcome.inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.stats.syncs += 1;
        let synced = self.tail.sync();
        let synced = if planted("sync_tried_again") { synced.or_else(|_| self.tail.sync()) } else { synced };
        synced.map_err(|source| self.tail.segment.failed("syncing", source))
    }

    /// Syncs what was written without a sync, if anything was.
    pub(super) fn sync_rest(&mut self) -> Result<(), LogError> {
        if self.tail.durable + 1 < self.tail.next_sequence {
            self.sync().inspect_err(|error| self.failed = Some(error.clone()))?;
        }
        Ok(())
    }

    /// Frames and writes one record of our own, without a sync.
    pub(super) fn put_record(&mut self, kind: RecordKind, mut record: Vec<u8>) -> Result<(), LogError> {
        self.tail.frame(kind, &mut record);
        self.write_records(&[record], false)
    }

    /// Leaves a witness for everything synced, if there is none at the end yet.
    pub(super) fn put_mark(&mut self) -> Result<(), LogError> {
        let is_marked = self.tail.marked + 1 == self.tail.next_sequence && self.tail.marked > 0;
        if is_marked || self.tail.offset + 2 * HEADER_BYTES as u64 > self.tail.segment.bytes {
            return Ok(());
        }
        self.tail.marked = self.tail.next_sequence;
        self.put_record(RecordKind::Mark, vec![0; HEADER_BYTES])
    }

    /// Goes on in a new segment with room for a record of `framed` bytes. On `NoSpace` the log
    /// stays where it is. The old segment is durable before the new one has a name.
    fn rotate(&mut self, framed: u64, reserve: u64) -> Result<(), LogError> {
        self.sync_rest()?;
        let header = self.tail.next_header(self.config.segment_bytes, framed, reserve);
        let created = self.directory.create_segment(&header)?;
        let seal = self.tail.seal();
        let sealed = self.tail.segment.file.write_at(&seal, self.tail.offset);
        sealed.map_err(|source| self.tail.segment.failed("sealing", source))?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.add_segment(std::sync::Arc::clone(&created.segment));
        self.tail = Tail::new(created, &header);
        Ok(())
    }
}

/// The batch with the places of its entries in the segment.
fn logged(batch: LogBatch, spots: Vec<Vec<Spot>>, base: u64) -> Vec<LoggedWrite> {
    // Segments are far below 4 GiB.
    let base = u32::try_from(base).unwrap_or(u32::MAX);
    let shift = |spot: Spot| Spot { offset: base.saturating_add(spot.offset), ..spot };
    let writes = batch.groups.into_iter().zip(spots);
    writes
        .map(|(write, spots)| {
            let spots = spots.into_iter().map(shift).collect();
            LoggedWrite { write, spots, holes: Vec::new() }
        })
        .collect()
}
