//! The rows: keys, values, and the checksum in front of each value.
//!
//! ```text
//!   quorate   "version"        ─► u64
//!   groups    group            ─► crc │ replica │ term │ voted, vote │ commit │ compacted │ last │ base?
//!   entries   (group, index)   ─► crc │ entry
//! ```
//!
//! Little-endian; entries and memberships in the one encoding of `quorate-core`; docs/formats.md has
//! the bytes. The checksum covers the key, too: a row in another's place does not validate.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    Entry, GroupId, HardState, LogId, LogIndex, ReplicaId, Term, decode_entry, decode_membership,
    encode_entry, encode_membership,
};
use redb::{ReadOnlyTable, Table, TableDefinition};

use crate::group_log::GroupLog;

/// The version of the rows.
pub(super) const VERSION: u32 = 1;
/// The row of `META` that says so.
pub(super) const VERSION_KEY: &str = "version";

pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("quorate");
pub(super) const GROUPS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("groups");
pub(super) const ENTRIES: TableDefinition<'static, (u64, u64), &[u8]> = TableDefinition::new("entries");

/// The entries in a transaction that writes.
pub(super) type EntriesTable<'a> = Table<'a, (u64, u64), &'static [u8]>;
/// The entries as of one commit.
pub(super) type EntriesView = ReadOnlyTable<(u64, u64), &'static [u8]>;

/// The length of the checksum in front of a value.
const CRC_BYTES: usize = 4;
/// A group's row without checksum and base.
const GROUP_BYTES: usize = 8 + 8 + 1 + 8 + 8 + 16 + 8 + 1;

fn checksum(key: [u64; 2], body: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&key[0].to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &key[1].to_le_bytes()), body)
}

fn seal(key: [u64; 2], row: &mut [u8]) {
    let (crc, body) = row.split_at_mut(CRC_BYTES);
    crc.copy_from_slice(&checksum(key, body).to_le_bytes());
}

/// The value behind its checksum, if that holds.
fn unseal(key: [u64; 2], row: &[u8]) -> Option<&[u8]> {
    let (crc, body) = row.split_first_chunk::<CRC_BYTES>()?;
    (u32::from_le_bytes(*crc) == checksum(key, body)).then_some(body)
}

pub(super) fn encode_entry_row(group: GroupId, entry: &Entry) -> Vec<u8> {
    let mut row = vec![0; CRC_BYTES];
    encode_entry(entry, &mut row);
    seal([group.0, entry.index().0], &mut row);
    row
}

pub(super) fn decode_entry_row(group: GroupId, index: LogIndex, row: &[u8]) -> Result<Entry, &'static str> {
    let body = unseal([group.0, index.0], row).ok_or("the checksum of an entry does not hold")?;
    let entry = decode_entry(&Bytes::copy_from_slice(body)).map_err(|_| "an entry cannot be decoded")?;
    if entry.index() == index { Ok(entry) } else { Err("an entry is in another's place") }
}

pub(super) fn encode_group(group: GroupId, known: &GroupLog) -> Vec<u8> {
    let mut row = vec![0; CRC_BYTES];
    let mut put = |value: u64| row.extend_from_slice(&value.to_le_bytes());
    put(known.replica.0);
    put(known.hard_state.term.0);
    put(known.hard_state.vote.map_or(0, |vote| vote.0));
    put(known.hard_state.commit.0);
    put(known.compacted.term.0);
    put(known.compacted.index.0);
    put(known.last.0);
    row.push(u8::from(known.hard_state.vote.is_some()));
    row.push(u8::from(known.base.is_some()));
    if let Some((id, membership)) = &known.base {
        row.extend_from_slice(&id.term.0.to_le_bytes());
        row.extend_from_slice(&id.index.0.to_le_bytes());
        encode_membership(membership, &mut row);
    }
    // No entry has an index this high, so no entry's row passes for a group's.
    seal([group.0, u64::MAX], &mut row);
    row
}

/// What a group's row says, and the last index. Terms and memberships come from the entries.
pub(super) fn decode_group(group: GroupId, row: &[u8]) -> Result<(GroupLog, LogIndex), &'static str> {
    let body = unseal([group.0, u64::MAX], row).ok_or("the checksum of a group does not hold")?;
    let (fixed, base) = body.split_at_checked(GROUP_BYTES).ok_or("the row of a group is too short")?;
    let number = |at: usize| {
        let bytes = fixed.get(at * 8..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let (voted, has_base) = (fixed[56] != 0, fixed[57] != 0);
    let compacted = LogId { term: Term(number(4)), index: LogIndex(number(5)) };
    let last = LogIndex(number(6));
    if compacted.index > last || last > LogIndex::MAX {
        return Err("the indexes of a group are out of range");
    }
    let base = if has_base {
        let (id, membership) = base.split_at_checked(16).ok_or("the row of a group is too short")?;
        let half = |at: usize| {
            let bytes = id.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let membership = decode_membership(&Bytes::copy_from_slice(membership))
            .map_err(|_| "a membership cannot be decoded")?;
        Some((LogId::new(half(0), half(8)), Arc::new(membership)))
    } else {
        None
    };
    let known = GroupLog {
        replica: ReplicaId(number(0)),
        hard_state: HardState {
            term: Term(number(1)),
            vote: voted.then_some(ReplicaId(number(2))),
            commit: LogIndex(number(3)),
        },
        compacted,
        base,
        last: compacted.index,
        ..GroupLog::default()
    };
    Ok((known, last))
}
