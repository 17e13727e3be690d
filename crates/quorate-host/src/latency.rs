//! How long a command takes on its leader, stage by stage, counted in buckets of fixed size.
//!
//! ```text
//!   proposed ──► persisted   its own disk
//!            ──► replicated  the first other member has it
//!            ──► committed   a quorum has it
//!            ──► applied     the state machine has answered
//! ```
//!
//! * One command at a time is followed: a sample that costs nothing per entry, whatever the load.
//! * What was being followed when leadership was lost is not counted.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use quorate_core::{LogId, MonoTime, RoleName};

use crate::event::Now;
use crate::replica::Replica;

/// Two buckets for each doubling, from 1 µs to about 16 s.
const BUCKETS: usize = 48;

/// A summary of durations: quantiles within 50 %, the count, the sum and the largest exactly. Of a group in which
/// little has happened it is small.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// The first bucket that was used.
    first: usize,
    /// From there to the last that was used.
    buckets: Vec<u64>,
    count: u64,
    sum: Duration,
    max: Duration,
}

impl LatencyHistogram {
    /// Counts `latency` in.
    pub fn record(&mut self, latency: Duration) {
        *self.bucket_mut(bucket_of(latency)) += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(latency);
        self.max = self.max.max(latency);
    }

    /// The count of a bucket, with room made for it.
    fn bucket_mut(&mut self, bucket: usize) -> &mut u64 {
        if self.buckets.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            self.buckets.splice(..0, std::iter::repeat_n(0, self.first - bucket));
            self.first = bucket;
        }
        let place = bucket - self.first;
        if place >= self.buckets.len() {
            // No more than is needed: groups are many, and this happens a few times in a life.
            self.buckets.reserve_exact(place + 1 - self.buckets.len());
            self.buckets.resize(place + 1, 0);
        }
        &mut self.buckets[place]
    }

    /// How many were counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// All of them together.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        self.sum
    }

    /// The longest.
    #[must_use]
    pub const fn max(&self) -> Duration {
        self.max
    }

    /// The mean; `None` while nothing was counted.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        (count > 0).then(|| self.sum / count)
    }

    /// At least `per_mille` of a thousand took no longer than this (500: the median); `None` while nothing was counted.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> Option<Duration> {
        let wanted = self.count.saturating_mul(per_mille.min(1000)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in (self.first..).zip(&self.buckets) {
            seen += count;
            if seen >= wanted {
                return Some(end_of(bucket).min(self.max));
            }
        }
        None
    }
}

impl std::fmt::Debug for LatencyHistogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |per_mille| self.quantile(per_mille).unwrap_or_default();
        write!(f, "{} (median {:?}, 99% {:?}, max {:?})", self.count, of(500), of(990), self.max)
    }
}

/// The bucket whose end is the first at or after `latency`; the last one for what is longer.
fn bucket_of(latency: Duration) -> usize {
    (0..BUCKETS).find(|bucket| latency <= end_of(*bucket)).unwrap_or(BUCKETS - 1)
}

/// 1 µs, 1.5 µs, 2 µs, 3 µs, 4 µs, 6 µs, …
fn end_of(bucket: usize) -> Duration {
    let halves: u64 = if bucket.is_multiple_of(2) { 2 } else { 3 };
    Duration::from_nanos((halves << (bucket / 2)) * 500)
}

/// Where the time of commands goes, measured on the leader from the moment at which it takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageLatencies {
    /// Until the leader's own disk has it.
    pub persisted: LatencyHistogram,
    /// Until the first other member has it on its disk. Nothing in a group of one.
    pub replicated: LatencyHistogram,
    /// Until it is committed.
    pub committed: LatencyHistogram,
    /// Until the state machine has answered.
    pub applied: LatencyHistogram,
}

impl StageLatencies {
    /// Of a replica that has measured nothing: one for all of them.
    pub(crate) fn none() -> Arc<Self> {
        static NONE: LazyLock<Arc<StageLatencies>> = LazyLock::new(Arc::default);
        Arc::clone(&NONE)
    }
}

/// The command that is followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    id: LogId,
    proposed: MonoTime,
    persisted: bool,
    replicated: bool,
    committed: bool,
    applied: bool,
}

impl Replica {
    /// A command was proposed: it is followed if none is.
    pub(crate) fn maybe_sample(&mut self, now: Now, id: LogId) {
        if self.sample.is_none() {
            let (persisted, replicated, committed, applied) = (false, false, false, false);
            let proposed = now.mono;
            self.sample = Some(Sample { id, proposed, persisted, replicated, committed, applied });
        }
    }

    /// Sees how far the followed command has got.
    pub(crate) fn watch_sample(&mut self, now: Now) {
        let Some(mut sample) = self.sample else { return };
        let status = self.core.status();
        if status.role != RoleName::Leader || status.term != sample.id.term {
            self.sample = None;
            return;
        }
        let (took, index) = (now.mono.since(sample.proposed), sample.id.index);
        let has_it = |matched| matched >= index;
        let replicated = sample.replicated || self.core.progress().any(|(_, member)| has_it(member.matched));
        let reached = [
            (&mut sample.persisted, has_it(status.persisted), Stage::Persisted),
            (&mut sample.replicated, replicated, Stage::Replicated),
            (&mut sample.committed, has_it(status.commit), Stage::Committed),
            (&mut sample.applied, has_it(self.applied), Stage::Applied),
        ];
        for (before, is_there, stage) in reached {
            if is_there && !*before {
                *before = true;
                let latencies = Arc::make_mut(&mut self.latencies);
                match stage {
                    Stage::Persisted => latencies.persisted.record(took),
                    Stage::Replicated => latencies.replicated.record(took),
                    Stage::Committed => latencies.committed.record(took),
                    Stage::Applied => latencies.applied.record(took),
                }
            }
        }
        let is_over = sample.persisted && sample.applied;
        self.sample = (!is_over).then_some(sample);
    }
}

#[derive(Clone, Copy)]
enum Stage {
    Persisted,
    Replicated,
    Committed,
    Applied,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_grow_by_halves_and_the_last_takes_the_rest() {
        let ends: Vec<u128> = (0..6).map(|bucket| end_of(bucket).as_nanos()).collect();
        assert_eq!(ends, [1_000, 1_500, 2_000, 3_000, 4_000, 6_000]);
        assert!(end_of(BUCKETS - 1) > Duration::from_secs(10));
        assert_eq!((bucket_of(Duration::ZERO), bucket_of(Duration::from_secs(3600))), (0, BUCKETS - 1));
        assert_eq!(LatencyHistogram::default().quantile(500), None);
    }

    #[test]
    fn room_is_made_for_the_buckets_between_the_shortest_and_the_longest() {
        let mut histogram = LatencyHistogram::default();
        for (millis, room) in [(8, 1), (8, 1), (2, 5), (3, 5), (32, 9)] {
            histogram.record(Duration::from_millis(millis));
            assert_eq!(histogram.buckets.len(), room, "{millis} ms");
        }
        assert_eq!(histogram.buckets.iter().sum::<u64>(), 5);
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_list_within_a_half(
            millionths in prop::collection::vec(1u64..5_000_000, 1..60),
            per_mille in 0u64..=1000,
        ) {
            let mut histogram = LatencyHistogram::default();
            let mut sorted: Vec<Duration> = millionths.into_iter().map(Duration::from_micros).collect();
            sorted.iter().for_each(|latency| histogram.record(*latency));
            sorted.sort();
            let rank = (sorted.len() * usize::try_from(per_mille).unwrap()).div_ceil(1000).max(1);
            let exact = sorted[rank - 1];
            let told = histogram.quantile(per_mille).unwrap();
            prop_assert!(exact <= told && told.as_nanos() * 2 <= exact.as_nanos() * 3, "{exact:?} {told:?}");
            prop_assert_eq!(histogram.max(), *sorted.last().unwrap());
            prop_assert_eq!(histogram.sum(), sorted.iter().sum());
        }
    }
}
