//! A log of 64 KiB, opened once for each of its bytes with a bit of it flipped.
//!
//! ```text
//!   wal/…1 16 KiB   …2 16 KiB   …3 16 KiB   …4 16 KiB      two groups; everything acknowledged
//!      ▲ one bit of byte n ──► open ──► as it was, without one entry, or refused with file and place
//! ```
//!
//! The tests of the log do this to small logs, and much else; here is no more than the number of bytes, for which a
//! build without optimisation is too slow.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{Entry, EntryPayload, GroupId, HardState, LogId, LogIndex, Membership, ReplicaId, Term};
use quorate_storage::conformance::{DamageOutcome, LogModel, judge_damage};
use quorate_storage::{Disk, GroupWrite, LogBatch, LogError, LogStore, MemDisk, Wal, WalConfig, write_now};

/// How large the log is.
pub const DAMAGED_LOG_BYTES: u64 = SEGMENTS * SEGMENT_BYTES;

const SEGMENTS: u64 = 4;
const SEGMENT_BYTES: u64 = 16 << 10;
const DIRECTORY: &str = "wal";

/// What became of a log with a flipped bit, how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flips {
    /// It opened, and nothing was missing.
    pub harmless: u64,
    /// It opened, and knew which entry of which group is damaged.
    pub one_entry: u64,
    /// It did not open, and named the place.
    pub refused: u64,
}

impl fmt::Display for Flips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { harmless, one_entry, refused } = self;
        let all = harmless + one_entry + refused;
        write!(f, "{all} bytes flipped: {harmless} harmless, {one_entry} cost one entry, {refused} refused")
    }
}

/// Flips one bit in each of these bytes of the log, and opens it each time.
///
/// # Errors
/// What was not as it should be, with the byte.
pub fn flip_bytes(bytes: impl IntoIterator<Item = u64>) -> Result<Flips, String> {
    let (disk, model) = build().map_err(|error| format!("the log cannot be written: {error}"))?;
    let names = disk.list(Path::new(DIRECTORY)).map_err(|error| error.to_string())?;
    let files: Vec<(PathBuf, Vec<u8>)> = names
        .iter()
        .filter_map(|name| {
            let path = Path::new(DIRECTORY).join(name);
            disk.contents(&path).map(|contents| (path, contents))
        })
        .collect();
    let sizes: Vec<u64> = files.iter().map(|(_, contents)| contents.len() as u64).collect();
    if sizes != [SEGMENT_BYTES; 4] {
        return Err(format!("the log should have four files of {SEGMENT_BYTES} bytes: {sizes:?}"));
    }
    let mut flips = Flips::default();
    for byte in bytes {
        let file = usize::try_from(byte / SEGMENT_BYTES).unwrap_or(usize::MAX);
        let at = byte % SEGMENT_BYTES;
        let Some((path, contents)) = files.get(file) else { break };
        let mut flipped = contents.clone();
        if let Some(place) = usize::try_from(at).ok().and_then(|at| flipped.get_mut(at)) {
            *place ^= 1 << (byte % 8);
        }
        let damaged = disk.copy();
        damaged.overwrite(path, flipped);
        let opened = open(&damaged);
        let outcome = judge_damage(opened.as_ref().map(|wal| wal as &dyn LogStore), &model, path, at)
            .map_err(|what| format!("byte {at} of {}: {what}", path.display()))?;
        match outcome {
            DamageOutcome::Harmless => flips.harmless += 1,
            DamageOutcome::OneEntry => flips.one_entry += 1,
            DamageOutcome::Refused => flips.refused += 1,
        }
    }
    Ok(flips)
}

fn open(disk: &MemDisk) -> Result<Wal, LogError> {
    let config =
        WalConfig { segment_bytes: SEGMENT_BYTES, fill_ahead_bytes: 4_096, salt: 3, ..WalConfig::default() };
    Wal::open(Arc::new(disk.clone()), Path::new(DIRECTORY), config)
}

/// A log with all that a log may hold, as long as four segments.
fn build() -> Result<(MemDisk, LogModel), LogError> {
    let disk = MemDisk::new();
    let mut wal = open(&disk)?;
    let mut model = LogModel::default();
    let mut at = 1;
    while wal.stats().segments < SEGMENTS {
        let batch = LogBatch { groups: vec![large(at), small(at)] };
        model.apply(&batch);
        write_now(&mut wal, batch, true)?;
        at += 1;
    }
    Ok((disk, model))
}

/// One entry of the first group, most of a segment.
fn large(at: u64) -> GroupWrite {
    GroupWrite { group: GroupId(1), entries: vec![entry(1, at, 6_000)].into(), ..GroupWrite::default() }
}

/// Two entries of the second group, in place of the last one, with a vote, and now and then a compaction.
fn small(at: u64) -> GroupWrite {
    let term = Term(at);
    let compact_to =
        (at % 4 == 3).then(|| (LogId::new(at - 1, at - 1), LogId::default(), Arc::<Membership>::default()));
    GroupWrite {
        group: GroupId(2),
        truncate_from: Some(LogIndex(at)),
        entries: vec![entry(at, at, 90), entry(at, at + 1, 90)].into(),
        hard_state: Some(HardState { term, vote: Some(ReplicaId(1)), commit: LogIndex(at - 1) }),
        compact_to,
        ..GroupWrite::default()
    }
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let command = Bytes::from(vec![index.to_le_bytes()[0]; bytes]);
    Entry { id: LogId::new(term, index), payload: EntryPayload::Command(command) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One byte of each hundred; `cargo xtask seeds` has them all.
    #[test]
    fn no_flipped_bit_of_a_log_goes_unnoticed() {
        let all = flip_bytes((0..DAMAGED_LOG_BYTES).step_by(101)).unwrap();
        assert!(all.harmless > 10 && all.one_entry > 300 && all.refused > 10, "{all}");
    }
}
