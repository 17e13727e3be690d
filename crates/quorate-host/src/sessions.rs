//! Client sessions and idempotency keys around any state machine: a command that arrives twice is
//! applied once, and its second answer is the first one (thesis §6.3).
//!
//! ```text
//!   command ──► advance time ──► expire ──► known? ── yes ──► kept answer, or why there is none
//!                                             └ no ──► machine.apply ──► keep the answer ──► evict
//! ```
//!
//! * The table is replicated state: it changes only by commands, one by one, so that how they are
//!   cut into batches cannot matter. Order of use is the log index of the last use.
//! * A session keeps every answer its client has not acknowledged, so numbers may arrive in any order.
//! * Bounded in bytes: when full, the least recently used session or key goes. A session that was
//!   dropped is unknown: its commands are refused, never applied a second time.
//! * Time is the largest stamp seen; it never goes back, whatever a new leader's clock says.
//! * One form everywhere: the records below are stored with the data of an on-disk machine (with a
//!   journal of what changed since: `sessions/records.rs`), and all of them, in order, are the first
//!   section of a snapshot.
//!
//! ```text
//!   key                           value, after version:u8 = 1
//!   "t"                           unix_millis:u64
//!   "i"…                          not here: `incoming.rs`
//!   "v"                           the version that commands may have:u64 (from 2 on)
//!   "l"                           the limits, if an entry has set them: as in the entry (`command.rs`)
//!   "s" session:u64be             acked_below:u64 used_millis:u64 used_index:u64
//!   "r" session:u64be number:u64be  answer
//!   "k" key…                      fingerprint:u64 used_millis:u64 answer
//!   answer                        term:u64 index:u64 kept:u8 response…
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_core::LogId;
use quorate_core::planted::planted;

use crate::config::SessionConfig;
use crate::request::{Answer, Dedupe, RequestError, SessionId};
use crate::sessions::records::{RecordKey, Saved};
use crate::versions::FIRST_VERSION;

mod records;

pub(crate) use records::Records;

/// What one entry costs besides the bytes it holds. Part of the replicated rules: never change it
/// without a new record version.
const SESSION_BYTES: u64 = 96;
const ANSWER_BYTES: u64 = 64;
const KEY_BYTES: u64 = 128;

/// The session table of one group.
pub(crate) struct Sessions {
    config: SessionConfig,
    /// An entry has set `config`.
    limited: bool,
    unix_millis: u64,
    /// The newest version that commands of the group may have.
    active_version: u32,
    bytes: u64,
    sessions: BTreeMap<SessionId, Session>,
    keys: BTreeMap<Bytes, KeyUse>,
    /// Sessions by the log index of their last use.
    sessions_by_use: BTreeMap<u64, SessionId>,
    /// Keys by the log index of their use.
    keys_by_use: BTreeMap<u64, Bytes>,
    /// What changed since `take_records`.
    changed: BTreeSet<RecordKey>,
    saved: Saved,
}

struct Session {
    acked_below: u64,
    used_millis: u64,
    used_index: u64,
    answers: BTreeMap<u64, Kept>,
}

struct KeyUse {
    fingerprint: u64,
    used_millis: u64,
    kept: Kept,
}

/// An answer that was given: where the command was applied, and the response unless it was too large.
#[derive(Clone)]
struct Kept {
    id: LogId,
    response: Option<Bytes>,
}

/// What to do with a command.
pub(crate) enum Verdict {
    /// Apply it, then call [`Sessions::keep`].
    Apply,
    /// Do not apply it: this is its answer.
    Answer(Result<Answer, RequestError>),
}

impl Kept {
    fn bytes(&self) -> u64 {
        ANSWER_BYTES + self.response.as_ref().map_or(0, |response| response.len() as u64)
    }
    fn answer(&self) -> Answer {
        Answer::Applied { id: self.id, response: self.response.clone().unwrap_or_default() }
    }
}

impl Session {
    fn bytes(&self) -> u64 {
        SESSION_BYTES + self.answers.values().map(Kept::bytes).sum::<u64>()
    }
}

impl KeyUse {
    fn bytes(&self, key: &Bytes) -> u64 {
        KEY_BYTES + key.len() as u64 + self.kept.bytes()
    }
}

impl Sessions {
    pub(crate) fn new(config: SessionConfig) -> Self {
        Self {
            config,
            limited: false,
            unix_millis: 0,
            active_version: FIRST_VERSION,
            bytes: 0,
            sessions: BTreeMap::new(),
            keys: BTreeMap::new(),
            sessions_by_use: BTreeMap::new(),
            keys_by_use: BTreeMap::new(),
            changed: BTreeSet::new(),
            saved: Saved::default(),
        }
    }

    /// The group's clock.
    pub(crate) const fn unix_millis(&self) -> u64 {
        self.unix_millis
    }

    /// The newest version that commands of the group may have.
    pub(crate) const fn active_version(&self) -> u32 {
        self.active_version
    }

    /// Commands may have this version from now on.
    pub(crate) fn open_gate(&mut self, version: u32) {
        if version > self.active_version {
            self.active_version = version;
            self.changed.insert(RecordKey::Version);
        }
    }

    pub(crate) fn idle_max_millis(&self) -> u64 {
        millis(self.config.idle_max)
    }

    /// The limits of this table.
    pub(crate) const fn limits(&self) -> &SessionConfig {
        &self.config
    }

    /// The table has these limits from now on. Call before the group's clock moves on.
    pub(crate) fn set_limits(&mut self, limits: SessionConfig) {
        self.config = limits;
        self.limited = true;
        self.changed.insert(RecordKey::Limits);
        self.evict();
    }

    /// The group's clock moves on, which may end sessions and keys. Call before every command.
    pub(crate) fn advance(&mut self, unix_millis: u64) {
        if unix_millis > self.unix_millis {
            self.unix_millis = unix_millis;
            self.changed.insert(RecordKey::Time);
        }
        let idle_max = millis(self.config.idle_max);
        while let Some((_, &id)) = self.sessions_by_use.first_key_value() {
            let used = self.sessions.get(&id).map_or(0, |session| session.used_millis);
            if used.saturating_add(idle_max) >= self.unix_millis {
                break;
            }
            self.drop_session(id);
        }
        let retention = millis(self.config.key_retention);
        while let Some((_, key)) = self.keys_by_use.first_key_value() {
            let used = self.keys.get(key).map_or(0, |key| key.used_millis);
            if used.saturating_add(retention) >= self.unix_millis {
                break;
            }
            let key = key.clone();
            self.drop_key(&key);
        }
    }

    /// The entry at `id` opens a session.
    pub(crate) fn open(&mut self, id: LogId) -> Answer {
        let session = SessionId(id.index.0);
        let opened = Session {
            acked_below: 0,
            used_millis: self.unix_millis,
            used_index: id.index.0,
            answers: BTreeMap::new(),
        };
        self.bytes += opened.bytes();
        self.sessions.insert(session, opened);
        self.sessions_by_use.insert(id.index.0, session);
        self.changed.insert(RecordKey::Session(session));
        self.evict();
        Answer::SessionOpened { session }
    }

    /// What is to be done with the command at `id`.
    pub(crate) fn check(&mut self, id: LogId, dedupe: &Dedupe) -> Verdict {
        match dedupe {
            Dedupe::None => Verdict::Apply,
            Dedupe::Session { session, sequence, acked_below } => {
                self.check_session(id, *session, *sequence, *acked_below)
            }
            Dedupe::Key { key, fingerprint } => match self.keys.get(key) {
                None => Verdict::Apply,
                Some(_) if planted("keys_not_looked_up") => Verdict::Apply,
                Some(known) if known.fingerprint == *fingerprint => Verdict::Answer(Ok(known.kept.answer())),
                Some(_) => Verdict::Answer(Err(RequestError::KeyReused)),
            },
        }
    }

    fn check_session(
        &mut self,
        id: LogId,
        session_id: SessionId,
        sequence: u64,
        acked_below: u64,
    ) -> Verdict {
        let Some(session) = self.sessions.get_mut(&session_id) else {
            return Verdict::Answer(Err(RequestError::SessionExpired));
        };
        self.sessions_by_use.remove(&session.used_index);
        session.used_index = id.index.0;
        session.used_millis = self.unix_millis;
        self.sessions_by_use.insert(id.index.0, session_id);
        self.changed.insert(RecordKey::Session(session_id));
        if acked_below > session.acked_below {
            session.acked_below = acked_below;
            let waiting = session.answers.split_off(&acked_below);
            for (sequence, kept) in std::mem::replace(&mut session.answers, waiting) {
                self.bytes -= kept.bytes();
                let key = RecordKey::Answer(session_id, sequence);
                self.saved.forget(key.clone(), kept.id.index.0);
                self.changed.insert(key);
            }
        }
        if sequence < session.acked_below {
            return Verdict::Answer(Err(RequestError::AlreadyAcknowledged));
        }
        match session.answers.get(&sequence) {
            Some(kept) if !planted("sequence_not_looked_up") => Verdict::Answer(Ok(kept.answer())),
            Some(_) | None => Verdict::Apply,
        }
    }

    /// The command at `id` was applied with this response.
    pub(crate) fn keep(&mut self, id: LogId, dedupe: &Dedupe, response: &Bytes) {
        let small = response.len() as u64 <= self.config.response_bytes_max;
        let kept = Kept { id, response: small.then(|| response.clone()) };
        match dedupe {
            Dedupe::None => return,
            Dedupe::Session { session: session_id, sequence, .. } => {
                let Some(session) = self.sessions.get_mut(session_id) else { return };
                self.bytes += kept.bytes();
                session.answers.insert(*sequence, kept);
                self.changed.insert(RecordKey::Answer(*session_id, *sequence));
            }
            Dedupe::Key { key, fingerprint } => {
                // A copy: the key must not hold the whole command in memory.
                let key = Bytes::copy_from_slice(key);
                let used = KeyUse { fingerprint: *fingerprint, used_millis: self.unix_millis, kept };
                self.bytes += used.bytes(&key);
                self.keys_by_use.insert(id.index.0, key.clone());
                self.changed.insert(RecordKey::Key(key.clone()));
                self.keys.insert(key, used);
            }
        }
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.config.bytes_max {
            let session = self.sessions_by_use.first_key_value().map(|(used, id)| (*used, *id));
            let key = self.keys_by_use.first_key_value().map(|(used, key)| (*used, key.clone()));
            match (session, key) {
                (Some((used, id)), Some((key_used, _))) if used < key_used => self.drop_session(id),
                (_, Some((_, key))) => self.drop_key(&key),
                (Some((_, id)), None) => self.drop_session(id),
                (None, None) => return,
            }
        }
    }

    fn drop_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.bytes -= session.bytes();
        self.sessions_by_use.remove(&session.used_index);
        let answers = session.answers.into_iter();
        let answers = answers.map(|(sequence, kept)| (RecordKey::Answer(id, sequence), kept.id.index.0));
        for (key, index) in answers.chain([(RecordKey::Session(id), id.0)]) {
            self.saved.forget(key.clone(), index);
            self.changed.insert(key);
        }
    }

    fn drop_key(&mut self, key: &Bytes) {
        let Some(used) = self.keys.remove(key) else { return };
        self.bytes -= used.bytes(key);
        self.keys_by_use.remove(&used.kept.id.index.0);
        self.saved.forget(RecordKey::Key(key.clone()), used.kept.id.index.0);
        self.changed.insert(RecordKey::Key(key.clone()));
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use quorate_core::LogIndex;

    use super::*;

    fn config() -> SessionConfig {
        SessionConfig {
            bytes_max: 10_000,
            idle_max: Duration::from_millis(100),
            key_retention: Duration::from_millis(50),
            response_bytes_max: 8,
            restore_bytes_max: 100,
        }
    }

    /// What the applier does, with a machine that answers with the index, `!` for a fresh one.
    struct Log {
        table: Sessions,
        index: u64,
        /// What an on-disk machine would hold.
        stored: BTreeMap<Bytes, Bytes>,
    }

    impl Log {
        fn new(config: SessionConfig) -> Self {
            Self { table: Sessions::new(config), index: 0, stored: BTreeMap::new() }
        }
        fn next(&mut self, millis: u64) -> LogId {
            self.index += 1;
            self.table.advance(millis);
            LogId::new(1, self.index)
        }
        fn open(&mut self, millis: u64) -> SessionId {
            let id = self.next(millis);
            self.table.open(id);
            SessionId(id.index.0)
        }
        fn command(&mut self, millis: u64, dedupe: &Dedupe, response: &str) -> String {
            let id = self.next(millis);
            match self.table.check(id, dedupe) {
                Verdict::Apply => {
                    self.table.keep(id, dedupe, &Bytes::copy_from_slice(response.as_bytes()));
                    format!("{}!", id.index)
                }
                Verdict::Answer(Ok(Answer::Applied { id, response })) => {
                    format!("{} {}", id.index, String::from_utf8_lossy(&response))
                }
                Verdict::Answer(Ok(other)) => panic!("{other:?}"),
                Verdict::Answer(Err(error)) => format!("{error:?}"),
            }
        }
        /// Ends a batch: the changed records go to the disk.
        fn commit(&mut self) {
            for (key, value) in self.table.take_records(LogIndex(self.index)) {
                match value {
                    Some(value) => drop(self.stored.insert(key, value)),
                    None => drop(self.stored.remove(&key)),
                }
            }
        }
    }

    fn numbered(session: SessionId, sequence: u64, acked_below: u64) -> Dedupe {
        Dedupe::Session { session, sequence, acked_below }
    }

    fn key(key: &'static str, fingerprint: u64) -> Dedupe {
        Dedupe::Key { key: Bytes::from_static(key.as_bytes()), fingerprint }
    }

    #[test]
    fn repeat_gets_the_first_answer_whatever_the_order_of_numbers() {
        let mut log = Log::new(config());
        let session = log.open(0);
        assert_eq!(log.command(0, &numbered(session, 3, 1), "three"), "2!");
        assert_eq!(log.command(0, &numbered(session, 1, 1), "one"), "3!");
        assert_eq!(log.command(0, &numbered(session, 3, 1), "three"), "2 three");
        assert_eq!(log.command(0, &numbered(session, 2, 2), "two"), "5!");
        assert_eq!(log.command(0, &numbered(session, 1, 1), "one"), "AlreadyAcknowledged");
        assert_eq!(log.command(0, &numbered(session, 3, 1), "three"), "2 three");
        assert_eq!(log.command(0, &numbered(SessionId(77), 1, 1), "x"), "SessionExpired");
    }

    #[test]
    fn answer_that_is_too_large_is_remembered_without_its_bytes() {
        let mut log = Log::new(config());
        let session = log.open(0);
        assert_eq!(log.command(0, &numbered(session, 1, 1), "far too large"), "2!");
        assert_eq!(log.command(0, &numbered(session, 1, 1), "far too large"), "2 ");
    }

    #[test]
    fn idle_session_expires_by_the_leaders_clock_which_never_goes_back() {
        let mut log = Log::new(config());
        let (idle, busy) = (log.open(10), log.open(10));
        assert_eq!(log.command(80, &numbered(busy, 1, 1), "a"), "3!");
        // A new leader's clock is behind.
        assert_eq!(log.command(5, &numbered(busy, 2, 1), "b"), "4!");
        assert_eq!(log.table.unix_millis(), 80);
        assert_eq!(log.command(110, &numbered(busy, 3, 1), "c"), "5!", "the last moment of the idle one");
        assert!(log.table.sessions.contains_key(&idle));
        assert_eq!(log.command(111, &numbered(idle, 1, 1), "d"), "SessionExpired");
    }

    #[test]
    fn key_is_remembered_for_its_retention_and_bound_to_its_request() {
        let mut log = Log::new(config());
        assert_eq!(log.command(0, &key("k", 1), "one"), "1!");
        assert_eq!(log.command(50, &key("k", 1), "one"), "1 one");
        assert_eq!(log.command(50, &key("k", 2), "two"), "KeyReused");
        assert_eq!(log.command(51, &key("k", 2), "two"), "4!");
    }

    #[test]
    fn full_table_evicts_the_least_recently_used() {
        let mut log = Log::new(SessionConfig { bytes_max: 3 * SESSION_BYTES, ..config() });
        let [first, second, third] = [0; 3].map(|millis| log.open(millis));
        log.command(0, &numbered(first, 1, 2), "touched, not applied");
        let fourth = log.open(0);
        let left: Vec<SessionId> = log.table.sessions.keys().copied().collect();
        assert_eq!(left, [first, third, fourth]);
        assert_eq!(log.command(0, &numbered(second, 1, 1), "x"), "SessionExpired");
        assert_eq!(log.table.bytes, 3 * SESSION_BYTES);
    }

    #[test]
    fn golden_records() {
        let mut log = Log::new(SessionConfig { bytes_max: 1_000, ..config() });
        let session = log.open(7);
        log.command(7, &numbered(session, 2, 1), "re");
        log.command(7, &key("k", 9), "far too large");
        log.commit();
        let number = |n: u64| n.to_le_bytes();
        let position = |index: u64| [number(1), number(index)].concat();
        let expected: BTreeMap<Bytes, Bytes> = [
            ([&b"t"[..]].concat(), [&b"\x01"[..], &number(7)].concat()),
            (
                [&b"s"[..], &1u64.to_be_bytes()].concat(),
                [&b"\x01"[..], &number(1), &number(7), &number(2)].concat(),
            ),
            (
                [&b"r"[..], &1u64.to_be_bytes(), &2u64.to_be_bytes()].concat(),
                [&b"\x01"[..], &position(2), b"\x01re"].concat(),
            ),
            (b"kk".to_vec(), [&b"\x01"[..], &number(9), &number(7), &position(3), b"\x00"].concat()),
        ]
        .into_iter()
        .map(|(key, value)| (Bytes::from(key), Bytes::from(value)))
        .collect();
        assert_eq!(log.stored, expected, "too much for the journal of so small a table");
        assert_eq!(log.table.records(), expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn golden_journal() {
        let mut log = Log::new(SessionConfig { bytes_max: 64 * 140, ..config() });
        let session = log.open(7);
        log.command(7, &numbered(session, 1, 1), "re");
        log.commit();
        let sized = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat();
        let written = |(key, value): &(Bytes, Bytes)| [sized(key), vec![1], sized(value)].concat();
        let [answer, of_session, time] = &*log.table.records() else { panic!("three records") };
        let first = [&b"\x01"[..], &[0; 8], &written(time), &written(of_session), &written(answer)].concat();
        let at = |index: u64| Bytes::from([&b"j"[..], &index.to_be_bytes()].concat());
        assert_eq!(log.stored, BTreeMap::from([(at(2), Bytes::from(first))]));

        // The answer is acknowledged, and the next one too large for the journal: folded, without what is gone.
        log.command(7, &numbered(session, 2, 2), "resp");
        log.commit();
        assert_eq!(log.stored, log.table.records().into_iter().collect());

        // From here on the fold is the base, and what is gone since is still stored.
        let [kept, ..] = &*log.table.records() else { panic!("an answer") };
        log.command(7, &numbered(session, 2, 3), "again");
        log.commit();
        let [_, of_session, ..] = &*[vec![kept.clone()], log.table.records()].concat() else { panic!() };
        let gone = [sized(&kept.0), vec![0], sized(b"")].concat();
        let second = [&b"\x01"[..], &3u64.to_le_bytes(), &written(of_session), &gone].concat();
        assert_eq!(log.stored[&at(4)], second);
        assert!(log.stored.contains_key(&kept.0));
        let again = Sessions::recover(config(), &log.stored.into_iter().collect::<Vec<_>>(), LogIndex(4));
        assert_eq!(again.unwrap().records(), log.table.records());
    }

    /// Two records of one session, or two sessions last used by one entry, cannot be: expiry would look for the one
    /// that took the place of the other for ever.
    #[test]
    fn records_that_contradict_each_other_are_refused() {
        let number = |n: u64| n.to_le_bytes();
        let session = |id: u64, used: u64| {
            let value = [&b"\x01"[..], &number(0), &number(0), &number(used)].concat();
            (Bytes::from([&b"s"[..], &id.to_be_bytes()].concat()), Bytes::from(value))
        };
        let key = |name: &[u8], at: u64| {
            let value = [&b"\x01"[..], &number(9), &number(7), &number(1), &number(at), b"\x00"].concat();
            (Bytes::from([&b"k"[..], name].concat()), Bytes::from(value))
        };
        for records in [
            vec![session(1, 5), session(1, 6)],
            vec![session(1, 5), session(2, 5)],
            vec![key(b"a", 5), key(b"a", 6)],
            vec![key(b"a", 5), key(b"b", 5)],
        ] {
            assert!(Sessions::from_records(config(), &records).is_err(), "{records:?}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open,
        Numbered {
            session: u64,
            sequence: u64,
            acked_below: u64,
        },
        Key {
            name: u8,
            fingerprint: u64,
        },
        Commit,
        /// A state from outside is installed, in the middle of a batch.
        Whole,
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
        let step = prop_oneof![
            1 => Just(Step::Open),
            8 => (0..12u64, 0..6u64, 0..5u64)
                .prop_map(|(session, sequence, acked_below)| Step::Numbered { session, sequence, acked_below }),
            3 => (0..4u8, 0..2u64).prop_map(|(name, fingerprint)| Step::Key { name, fingerprint }),
            2 => Just(Step::Commit),
            1 => Just(Step::Whole),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec((0..40u64, step), 1..80)
    }

    fn dedupe_of(step: &Step) -> Option<Dedupe> {
        match step {
            Step::Numbered { session, sequence, acked_below } => {
                Some(numbered(SessionId(*session), *sequence, *acked_below))
            }
            Step::Key { name, fingerprint } => {
                Some(Dedupe::Key { key: Bytes::from(vec![*name]), fingerprint: *fingerprint })
            }
            Step::Open | Step::Commit | Step::Whole | Step::Restart => None,
        }
    }

    /// Plays the steps; with `restarts`, the table is read back from its records at every `Restart`.
    fn play(steps: &[(u64, Step)], bytes_max: u64, restarts: bool) -> (Vec<String>, Vec<(Bytes, Bytes)>) {
        let config = SessionConfig { bytes_max, ..config() };
        let mut log = Log::new(config.clone());
        let (mut millis, mut told) = (0, Vec::new());
        for (pass, step) in steps {
            millis += pass / 10;
            match step {
                Step::Open => drop(log.open(millis)),
                Step::Commit if restarts => log.commit(),
                Step::Restart if restarts => {
                    log.commit();
                    let stored: Vec<_> = log.stored.clone().into_iter().collect();
                    let again = Sessions::recover(config.clone(), &stored, LogIndex(log.index)).unwrap();
                    assert_eq!(again.records(), log.table.records(), "the disk holds what the table is");
                    assert_eq!(again.bytes, log.table.bytes);
                    log.table = again;
                }
                Step::Whole if restarts => {
                    log.stored = log.table.records().into_iter().collect();
                    log.table.set_saved(LogIndex(log.index));
                }
                Step::Commit | Step::Whole | Step::Restart => {}
                Step::Numbered { .. } | Step::Key { .. } => {
                    let dedupe = dedupe_of(step).unwrap();
                    told.push(log.command(millis, &dedupe, &"x".repeat(usize::try_from(pass % 12).unwrap())));
                }
            }
            assert!(log.table.bytes <= config.bytes_max);
        }
        (told, log.table.records())
    }

    proptest! {
        #[test]
        fn batches_and_restarts_leave_no_trace(
            steps in steps(),
            // Full at once, and no journal; a journal of some batches; of all of them.
            bytes_max in prop::sample::select(vec![700, 20_000, 1 << 20]),
        ) {
            prop_assert_eq!(play(&steps, bytes_max, true), play(&steps, bytes_max, false));
        }

        #[test]
        fn damaged_records_are_refused_or_read(
            records in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..40)), 0..4),
        ) {
            let records: Vec<_> = records.into_iter().map(|(key, value)| {
                let mut key = key;
                if let Some(kind) = key.first_mut() { *kind = b"tsrkj"[usize::from(*kind % 5)]; }
                let mut value = value;
                if let Some(version) = value.first_mut() { *version = 1; }
                (Bytes::from(key), Bytes::from(value))
            }).collect();
            if let Ok(table) = Sessions::from_records(config(), &records) {
                prop_assert!(table.records().len() <= records.len());
            }
            drop(Sessions::recover(config(), &records, LogIndex(9)));
        }
    }
}
