//! The session table as records: all of them in a snapshot, and what changed beside the data of a machine on
//! disk.
//!
//! ```text
//!   batch ── what changed ──► one record of the journal          "j" index
//!   journal is long enough ─► folded: the records that changed since the last time, as they are now
//!                             (one each), those that are gone deleted, the journal deleted
//!
//!   start:  records ◄── journal, in its order ──► the table as of the last batch
//! ```
//!
//! * Most answers live for a few batches. In a journal they cost a part of one record and nothing when
//!   they go; as records of their own they cost the engine two writes each.
//! * Which records are up to date is told by indexes alone: every one of them has the index of the
//!   entry that made it, and at a fold all that there is gets written up to the batch's index
//!   ([`Saved::base`]).
//! * A snapshot has records without a journal, so that it is the same on every replica however its
//!   batches were cut.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use quorate_core::planted::planted;
use quorate_core::{DecodeError, LogIndex};

use crate::bytes_reader::{BytesReader, put_log_id, put_sized, put_u64};
use crate::config::SessionConfig;
use crate::request::SessionId;
use crate::sessions::{Kept, KeyUse, Session, Sessions};
use crate::versions::FIRST_VERSION;

const VERSION: u8 = 1;
/// The journal is folded before its records' values are longer than this, or than a part of what the
/// table may hold: a start reads it, and a fold writes about as much at most.
const JOURNAL_BYTES_MAX: u64 = 512 << 10;
const JOURNAL_PART_OF_TABLE: u64 = 64;

/// Records to store (`None`: delete), by key.
pub(crate) type Records = Vec<(Bytes, Option<Bytes>)>;

/// What the machine on disk has been given.
#[derive(Default)]
pub(super) struct Saved {
    /// What entries up to here made, and has not changed since, has a record of its own.
    base: LogIndex,
    /// Records of their own that are out of date, because what they tell of is gone.
    gone: Vec<RecordKey>,
    /// Batches that have a record in the journal, and the bytes of those records.
    journal: Vec<LogIndex>,
    journal_bytes: u64,
}

impl Saved {
    /// What `key` tells of, and the entry at `index` had made, is gone.
    pub(super) fn forget(&mut self, key: RecordKey, index: u64) {
        if index <= self.base.0 {
            self.gone.push(key);
        }
    }
}

/// What a record tells of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RecordKey {
    Time,
    Version,
    Limits,
    Session(SessionId),
    Answer(SessionId, u64),
    Key(Bytes),
}

impl RecordKey {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Time => out.push(b't'),
            Self::Version => out.push(b'v'),
            Self::Limits => out.push(b'l'),
            Self::Session(id) => {
                out.push(b's');
                out.extend_from_slice(&id.0.to_be_bytes());
            }
            Self::Answer(id, sequence) => {
                out.push(b'r');
                out.extend_from_slice(&id.0.to_be_bytes());
                out.extend_from_slice(&sequence.to_be_bytes());
            }
            Self::Key(key) => {
                out.push(b'k');
                out.extend_from_slice(key);
            }
        }
    }

    fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        self.put(&mut out);
        Bytes::from(out)
    }

    fn decode(key: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = BytesReader::new(key);
        let parsed = match reader.u8("a record's kind")? {
            b't' => Self::Time,
            b'v' => Self::Version,
            b'l' => Self::Limits,
            b's' => Self::Session(SessionId(reader.u64_big_endian("a session")?)),
            b'r' => Self::Answer(
                SessionId(reader.u64_big_endian("a session")?),
                reader.u64_big_endian("a sequence number")?,
            ),
            b'k' => Self::Key(reader.rest()),
            _ => return Err(DecodeError { offset: 0, expected: "a known kind of record" }),
        };
        reader.end().map(|()| parsed)
    }
}

const JOURNAL: u8 = b'j';

fn journal_key(index: LogIndex) -> Bytes {
    Bytes::from([&[JOURNAL][..], &index.0.to_be_bytes()].concat())
}

impl Kept {
    fn encode(&self, out: &mut Vec<u8>) {
        put_log_id(out, self.id);
        out.push(u8::from(self.response.is_some()));
        out.extend_from_slice(self.response.as_deref().unwrap_or_default());
    }
    fn decode(reader: &mut BytesReader) -> Result<Self, DecodeError> {
        let id = reader.log_id("an answer's position")?;
        let kept = reader.flag("whether a response was kept")?;
        let response = reader.rest();
        if !kept && !response.is_empty() {
            return Err(reader.fail("no response"));
        }
        Ok(Self { id, response: kept.then_some(response) })
    }
}

impl Sessions {
    /// Forgets what changed: a machine in memory does not keep it.
    pub(crate) fn discard_records(&mut self) {
        self.changed.clear();
        self.saved.gone.clear();
    }

    /// What a machine on disk stores at the end of the batch up to `applied`.
    pub(crate) fn take_records(&mut self, applied: LogIndex) -> Records {
        let changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            return Records::new();
        }
        let mut journal = vec![VERSION];
        put_u64(&mut journal, self.saved.base.0);
        for key in &changed {
            put_sized(&mut journal, |out| key.put(out));
            let flag = journal.len();
            journal.push(0);
            let is_there = put_sized(&mut journal, |out| self.put_record(key, out));
            journal[flag] = u8::from(is_there.is_some());
        }
        let bytes = self.saved.journal_bytes + journal.len() as u64;
        if bytes > JOURNAL_BYTES_MAX.min(self.config.bytes_max / JOURNAL_PART_OF_TABLE) {
            return self.fold(applied);
        }
        self.saved.journal_bytes = bytes;
        self.saved.journal.push(applied);
        vec![(journal_key(applied), Some(Bytes::from(journal)))]
    }

    /// Gives everything that changed since the last fold a record of its own, in place of the
    /// journal.
    fn fold(&mut self, applied: LogIndex) -> Records {
        let saved = std::mem::take(&mut self.saved);
        self.saved.base = applied;
        let mut keys = saved.gone;
        keys.extend([RecordKey::Time, RecordKey::Limits, RecordKey::Version]);
        let since = (Bound::Excluded(saved.base.0), Bound::Unbounded);
        for id in self.sessions_by_use.range(since).map(|(_, id)| *id) {
            keys.push(RecordKey::Session(id));
            let answers = self.sessions.get(&id).into_iter().flat_map(|session| &session.answers);
            let new = answers.filter(|(_, kept)| kept.id.index > saved.base);
            keys.extend(new.map(|(sequence, _)| RecordKey::Answer(id, *sequence)));
        }
        if !planted("fold_forgets_keys") {
            keys.extend(self.keys_by_use.range(since).map(|(_, key)| RecordKey::Key(key.clone())));
        }
        let records = keys.iter().map(|key| (key.encode(), self.record(key)));
        records.chain(saved.journal.into_iter().map(|index| (journal_key(index), None))).collect()
    }

    /// The machine has been given all [`records`](Self::records) as of `applied`, and has no journal.
    pub(crate) fn set_saved(&mut self, applied: LogIndex) {
        // A journal of the batch's other changes would be older than what it begins with.
        self.changed.clear();
        self.saved = Saved { base: applied, ..Saved::default() };
    }

    /// All records, ascending.
    pub(crate) fn records(&self) -> Vec<(Bytes, Bytes)> {
        let sessions = self.sessions.iter().flat_map(|(id, session)| {
            let answers = session.answers.keys().map(|sequence| RecordKey::Answer(*id, *sequence));
            answers.chain([RecordKey::Session(*id)])
        });
        let keys = self.keys.keys().map(|key| RecordKey::Key(key.clone()));
        let all = keys.chain(sessions).chain([RecordKey::Time, RecordKey::Limits, RecordKey::Version]);
        let mut records: Vec<_> =
            all.filter_map(|key| self.record(&key).map(|value| (key.encode(), value))).collect();
        records.sort_unstable();
        records
    }

    /// The value of one record now.
    fn record(&self, key: &RecordKey) -> Option<Bytes> {
        let mut out = Vec::new();
        self.put_record(key, &mut out).map(|()| Bytes::from(out))
    }

    /// Appends the value of one record now, if there is one.
    fn put_record(&self, key: &RecordKey, out: &mut Vec<u8>) -> Option<()> {
        match key {
            RecordKey::Time if self.unix_millis > 0 => {
                out.push(VERSION);
                put_u64(out, self.unix_millis);
            }
            RecordKey::Limits if self.limited => {
                out.push(VERSION);
                self.config.encode(out);
            }
            RecordKey::Version if self.active_version > FIRST_VERSION => {
                out.push(VERSION);
                put_u64(out, u64::from(self.active_version));
            }
            RecordKey::Time | RecordKey::Limits | RecordKey::Version => return None,
            RecordKey::Session(id) => {
                let session = self.sessions.get(id)?;
                out.push(VERSION);
                for number in [session.acked_below, session.used_millis, session.used_index] {
                    put_u64(out, number);
                }
            }
            RecordKey::Answer(id, sequence) => {
                let kept = self.sessions.get(id)?.answers.get(sequence)?;
                out.push(VERSION);
                kept.encode(out);
            }
            RecordKey::Key(key) => {
                let used = self.keys.get(key)?;
                out.push(VERSION);
                put_u64(out, used.fingerprint);
                put_u64(out, used.used_millis);
                used.kept.encode(out);
            }
        }
        Some(())
    }

    /// The table that a machine on disk, which is at `applied`, has kept.
    pub(crate) fn recover(
        config: SessionConfig,
        stored: &[(Bytes, Bytes)],
        applied: LogIndex,
    ) -> Result<Self, DecodeError> {
        let (mut own, mut journal) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in stored {
            let place = if key.first() == Some(&JOURNAL) { &mut journal } else { &mut own };
            place.insert(key.clone(), value.clone());
        }
        let (mut newest, mut saved) = (own.clone(), Saved { base: applied, ..Saved::default() });
        // By index: in the order of the batches.
        for (key, value) in &journal {
            saved.replay(key, value, &mut newest)?;
        }
        let gone = own.keys().filter(|key| !newest.contains_key(*key));
        saved.gone = gone.map(RecordKey::decode).collect::<Result<_, _>>()?;
        let mut table = Self::from_records(config, &newest.into_iter().collect::<Vec<_>>())?;
        table.saved = saved;
        Ok(table)
    }

    /// The table that these records describe.
    pub(crate) fn from_records(
        config: SessionConfig,
        records: &[(Bytes, Bytes)],
    ) -> Result<Self, DecodeError> {
        let mut table = Self::new(config);
        let mut answers = Vec::new();
        for (key, value) in records {
            // Copies: a record must not hold the whole snapshot section in memory.
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            let mut reader = BytesReader::new(&value);
            if reader.u8("a record's version")? != VERSION {
                return Err(DecodeError { offset: 0, expected: "session record version 1" });
            }
            match RecordKey::decode(&key)? {
                RecordKey::Time => table.unix_millis = reader.u64("a time")?,
                RecordKey::Limits => {
                    table.config = SessionConfig::decode(&mut reader)?;
                    table.limited = true;
                }
                RecordKey::Version => {
                    let version = u32::try_from(reader.u64("a version")?);
                    table.active_version = version.map_err(|_large| reader.fail("a version"))?;
                }
                RecordKey::Session(id) => table.insert_session(id, &mut reader)?,
                RecordKey::Answer(id, sequence) => answers.push((id, sequence, Kept::decode(&mut reader)?)),
                RecordKey::Key(key) => table.insert_key(key, &mut reader)?,
            }
            reader.end()?;
        }
        for (id, sequence, kept) in answers {
            let missing = DecodeError { offset: 0, expected: "the session of an answer" };
            table.bytes += kept.bytes();
            table.sessions.get_mut(&id).ok_or(missing)?.answers.insert(sequence, kept);
        }
        Ok(table)
    }

    fn insert_session(&mut self, id: SessionId, reader: &mut BytesReader) -> Result<(), DecodeError> {
        let session = Session {
            acked_below: reader.u64("an acknowledged number")?,
            used_millis: reader.u64("a time")?,
            used_index: reader.u64("an index")?,
            answers: BTreeMap::new(),
        };
        self.bytes += session.bytes();
        let used_before = self.sessions_by_use.insert(session.used_index, id);
        let before = self.sessions.insert(id, session);
        if used_before.is_some() || before.is_some() {
            return Err(reader.fail("each session once, and used by an entry of its own"));
        }
        Ok(())
    }

    fn insert_key(&mut self, key: Bytes, reader: &mut BytesReader) -> Result<(), DecodeError> {
        let fingerprint = reader.u64("a fingerprint")?;
        let used_millis = reader.u64("a time")?;
        let used = KeyUse { fingerprint, used_millis, kept: Kept::decode(reader)? };
        self.bytes += used.bytes(&key);
        let used_before = self.keys_by_use.insert(used.kept.id.index.0, key.clone());
        if used_before.is_some() || self.keys.insert(key, used).is_some() {
            return Err(reader.fail("each key once, and used by an entry of its own"));
        }
        Ok(())
    }
}

impl Saved {
    /// Does to `newest` what one record of the journal says.
    fn replay(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        newest: &mut BTreeMap<Bytes, Bytes>,
    ) -> Result<(), DecodeError> {
        let mut name = BytesReader::new(key);
        name.u8("a record's kind")?;
        let index = LogIndex(name.u64_big_endian("an index")?);
        name.end()?;
        let mut reader = BytesReader::new(value);
        if reader.u8("a record's version")? != VERSION {
            return Err(DecodeError { offset: 0, expected: "session journal version 1" });
        }
        let base = LogIndex(reader.u64("an index")?);
        if base >= index || (!self.journal.is_empty() && base != self.base) {
            return Err(reader.fail("one fold, before the whole journal"));
        }
        self.base = base;
        while !reader.is_empty() {
            let key = reader.bytes("a record's key")?;
            let is_there = reader.flag("whether there is a record")?;
            let value = reader.bytes("a record's value")?;
            match is_there {
                true => drop(newest.insert(key, value)),
                false => drop(newest.remove(&key)),
            }
        }
        self.journal.push(index);
        self.journal_bytes += value.len() as u64;
        Ok(())
    }
}
