//! Latencies and outcomes, recorded by many places at once and collected by one.
//!
//! ```text
//!   places ──► shards (a lock each, held for one addition) ──swap──► totals, timeline
//! ```
//!
//! * Histograms have three significant digits from a microsecond to a quarter of an hour; beyond, they
//!   say the highest value they hold.
//! * An operation that failed is counted by its kind of failure and is not in any histogram: an error
//!   that comes quickly must not make latency look good.
//! * Memory is bounded: a few histograms per shard, as many error kinds as there are error codes, and
//!   at most [`WINDOWS_MAX`] windows.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::plan::Kind;

/// The most points of time with figures of their own.
pub(crate) const WINDOWS_MAX: usize = 600;
/// How many locks the places share.
const SHARDS: usize = 8;
const LOWEST_NANOS: u64 = 1_000;
const HIGHEST_NANOS: u64 = 1_000_000_000_000;

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was done.
    Done {
        /// A read found its key; a write always does.
        found: bool,
    },
    /// It was not.
    Failed {
        /// What kind of failure, from a short list.
        kind: &'static str,
        /// What happened, for people.
        message: String,
    },
}

/// Failures of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub example: String,
}

/// What operations of one kind came to.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Latencies of those that were done, in nanoseconds.
    pub latency: Histogram<u64>,
    /// How many failed.
    pub failed: u64,
    /// How many reads found nothing.
    pub not_found: u64,
    /// Keys and values of the writes that were done.
    pub payload_bytes: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(LOWEST_NANOS, HIGHEST_NANOS, 3)
            .expect("the bounds are constants that the histogram takes");
        Self { latency, failed: 0, not_found: 0, payload_bytes: 0 }
    }

    /// How many were done.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.latency.len()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.failed += other.failed;
        self.not_found += other.not_found;
        self.payload_bytes += other.payload_bytes;
    }

    fn clear(&mut self) {
        self.latency.reset();
        (self.failed, self.not_found, self.payload_bytes) = (0, 0, 0);
    }
}

/// Everything that was recorded: a tally per kind that occurred, and the failures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tallies {
    by_kind: [Option<Box<Tally>>; Kind::ALL.len()],
    pub(crate) failures: BTreeMap<&'static str, Failures>,
    pub(crate) last: Option<Instant>,
}

impl Tallies {
    pub(crate) fn get(&self, kind: Kind) -> Option<&Tally> {
        self.by_kind[kind.position()].as_deref()
    }

    fn of(&mut self, kind: Kind) -> &mut Tally {
        self.by_kind[kind.position()].get_or_insert_with(|| Box::new(Tally::new()))
    }

    /// An operation ended at `now`, `latency` after it was to begin.
    pub(crate) fn record(&mut self, ended: &Ended, now: Instant) {
        let tally = self.of(ended.kind);
        match &ended.outcome {
            Outcome::Done { found } => {
                let nanos = u64::try_from(ended.latency.as_nanos()).unwrap_or(HIGHEST_NANOS);
                tally.latency.saturating_record(nanos.clamp(LOWEST_NANOS, HIGHEST_NANOS));
                tally.not_found += u64::from(!found);
                tally.payload_bytes += ended.payload_bytes;
            }
            Outcome::Failed { kind, message } => {
                tally.failed += 1;
                self.fail(kind, 1, message);
            }
        }
        self.last = self.last.max(Some(now));
    }

    /// Adds failures of a kind.
    pub(crate) fn fail(&mut self, kind: &'static str, count: u64, example: &str) {
        let failures = self.failures.entry(kind).or_default();
        if failures.count == 0 {
            example.clone_into(&mut failures.example);
        }
        failures.count += count;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for kind in Kind::ALL {
            if let Some(tally) = other.get(kind) {
                self.of(kind).add(tally);
            }
        }
        for (kind, failures) in &other.failures {
            self.fail(kind, failures.count, &failures.example);
        }
        self.last = self.last.max(other.last);
    }

    fn clear(&mut self) {
        for tally in self.by_kind.iter_mut().flatten() {
            tally.clear();
        }
        self.failures.clear();
        self.last = None;
    }

    /// All kinds together.
    pub(crate) fn together(&self) -> Tally {
        let mut all = Tally::new();
        for tally in self.by_kind.iter().flatten() {
            all.add(tally);
        }
        all
    }

    /// How many failed, whatever they were.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().map(|failures| failures.count).sum()
    }
}

/// An operation that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) kind: Kind,
    pub(crate) latency: Duration,
    pub(crate) payload_bytes: u64,
    pub(crate) outcome: Outcome,
}

/// Where places record.
#[derive(Debug)]
pub(crate) struct Recorder {
    shards: Vec<Mutex<Tallies>>,
}

impl Recorder {
    pub(crate) fn new(places: usize) -> Self {
        Self { shards: (0..places.clamp(1, SHARDS)).map(|_| Mutex::default()).collect() }
    }

    /// `place` is any number; the same place always meets the same lock.
    pub(crate) fn record(&self, place: usize, ended: &Ended, now: Instant) {
        lock(&self.shards[place % self.shards.len()]).record(ended, now);
    }

    /// Takes out what was recorded since the last time, and adds it to `into`. `spare` is empty before and after.
    pub(crate) fn collect(&self, into: &mut Tallies, spare: &mut Tallies) {
        for shard in &self.shards {
            std::mem::swap(&mut *lock(shard), spare);
            into.add(spare);
            spare.clear();
        }
    }
}

fn lock(shard: &Mutex<Tallies>) -> MutexGuard<'_, Tallies> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happened in a short time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// When it ended, after the start.
    pub ends: Duration,
    /// How long it was.
    pub length: Duration,
    /// Operations done.
    pub done: u64,
    /// Operations failed.
    pub failed: u64,
    /// The median latency of those done, in nanoseconds; zero if there were none.
    pub p50_nanos: u64,
    /// The latency that one in a hundred exceeded.
    pub p99_nanos: u64,
}

impl Window {
    pub(crate) fn of(tallies: &Tallies, begins: Duration, ends: Duration) -> Self {
        let all = tallies.together();
        Self {
            ends,
            length: ends.saturating_sub(begins),
            done: all.done(),
            failed: tallies.failed(),
            p50_nanos: all.latency.value_at_quantile(0.5),
            p99_nanos: all.latency.value_at_quantile(0.99),
        }
    }

    /// Operations done a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        per_second(self.done, self.length)
    }
}

/// A rate; zero in no time.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(millis: u64, outcome: Outcome) -> Ended {
        Ended { kind: Kind::Write, latency: Duration::from_millis(millis), payload_bytes: 10, outcome }
    }

    #[tokio::test]
    async fn what_places_record_is_collected_once_and_failures_have_no_latency() {
        let recorder = Recorder::new(64);
        let now = Instant::now();
        for place in 0..100 {
            recorder.record(place, &ended(2, Outcome::Done { found: true }), now);
        }
        let failed = Outcome::Failed { kind: "busy", message: "too much".to_owned() };
        recorder.record(3, &ended(0, failed), now);
        let (mut all, mut spare) = (Tallies::default(), Tallies::default());
        recorder.collect(&mut all, &mut spare);
        recorder.collect(&mut all, &mut spare);
        let writes = all.get(Kind::Write).unwrap();
        assert_eq!((writes.done(), writes.failed, writes.payload_bytes), (100, 1, 1000));
        let millis = writes.latency.value_at_quantile(0.5) as f64 / 1e6;
        assert!((millis - 2.0).abs() < 0.003, "three digits: {millis}");
        assert_eq!(all.failures["busy"], Failures { count: 1, example: "too much".to_owned() });
        assert!(all.get(Kind::Stale).is_none());
    }

    #[test]
    fn latencies_beyond_the_bounds_are_kept_at_the_bounds() {
        let mut tallies = Tallies::default();
        let mut long = ended(0, Outcome::Done { found: false });
        tallies.record(&long, Instant::now());
        long.latency = Duration::MAX;
        tallies.record(&long, Instant::now());
        let tally = tallies.get(Kind::Write).unwrap();
        assert_eq!((tally.done(), tally.not_found), (2, 2));
        assert!(tally.latency.max() >= HIGHEST_NANOS);
    }
}
