//! Open loop: operations have a time at which they begin, whether or not earlier ones were answered.
//!
//! ```text
//!   schedule   0    1    2    3    4    5         slot n begins at n / rate
//!              │    │    │    │    │    │
//!   pacer ─────┴────┴────┴─ permits ┴────┴──► places (as many as may be in flight)
//!                                              take a permit, then the next slot in order
//! ```
//!
//! * A slot's time is a matter of arithmetic: a place that comes late to a slot, because all were
//!   waiting for a stalled cluster, still counts latency from the slot's own time. That is what keeps a
//!   stall in the figures ("coordinated omission" is leaving it out).
//! * Slots that wait are a number, not a list: a hopeless rate costs no memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

/// When slots begin, relative to the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// Slots a second.
    pub(crate) per_second: f64,
}

impl Schedule {
    /// When slot `slot` begins.
    pub(crate) fn time_of(self, slot: u64) -> Duration {
        Duration::try_from_secs_f64(slot as f64 / self.per_second).unwrap_or(Duration::MAX)
    }

    /// How many slots have begun after `elapsed`: slot 0 begins at once.
    #[expect(clippy::cast_possible_truncation, reason = "a whole number, and saturating")]
    pub(crate) fn begun(self, elapsed: Duration) -> u64 {
        let mut count = (elapsed.as_secs_f64() * self.per_second) as u64;
        // Rounding may be off by one either way.
        while self.time_of(count) <= elapsed {
            count += 1;
        }
        while count > 0 && self.time_of(count - 1) > elapsed {
            count -= 1;
        }
        count
    }
}

/// The slots that have begun and wait for a place.
#[derive(Debug)]
pub(crate) struct Slots {
    permits: Semaphore,
    taken: AtomicU64,
}

impl Slots {
    pub(crate) const fn new() -> Self {
        Self { permits: Semaphore::const_new(0), taken: AtomicU64::new(0) }
    }

    /// The next slot, as soon as it has begun; `None`: there will be no more.
    pub(crate) async fn take(&self) -> Option<u64> {
        self.permits.acquire().await.ok()?.forget();
        Some(self.taken.fetch_add(1, Ordering::Relaxed))
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.permits.available_permits()
    }

    /// Ends it: those who wait get nothing any more.
    pub(crate) fn close(&self) {
        self.permits.close();
    }
}

/// Lets slots begin when their time has come. Whoever owns one calls `step` when it says so.
#[derive(Debug)]
pub(crate) struct Pacer {
    schedule: Schedule,
    length: Duration,
    released: u64,
}

impl Pacer {
    /// For the slots that begin within `length`.
    pub(crate) const fn new(schedule: Schedule, length: Duration) -> Self {
        Self { schedule, length, released: 0 }
    }

    /// Releases what has begun `elapsed` after the start. Returns when the next slot begins, or `None`
    /// when there will be no more.
    pub(crate) fn step(&mut self, elapsed: Duration, slots: &Slots) -> Option<Duration> {
        let over = self.schedule.begun(self.length.saturating_sub(Duration::from_nanos(1)));
        let begun = self.schedule.begun(elapsed).min(over);
        let new = usize::try_from(begun.saturating_sub(self.released)).unwrap_or(usize::MAX);
        // More than a semaphore holds (2^61) cannot begin within any run.
        slots.permits.add_permits(new.min(Semaphore::MAX_PERMITS >> 1));
        self.released = begun.max(self.released);
        (self.released < over).then(|| self.schedule.time_of(self.released))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_begin_evenly_and_none_is_forgotten() {
        for per_second in [0.5, 3.0, 1_000.0, 12_345.6] {
            let schedule = Schedule { per_second };
            assert_eq!(schedule.begun(Duration::ZERO), 1);
            for slot in [1, 2, 10, 99_999] {
                let time = schedule.time_of(slot);
                assert_eq!(schedule.begun(time), slot + 1, "{per_second}");
                assert_eq!(schedule.begun(time - Duration::from_nanos(1)), slot, "{per_second}");
            }
        }
    }

    #[test]
    fn a_pacer_that_was_held_up_releases_all_that_began_meanwhile() {
        let slots = Slots::new();
        let mut pacer = Pacer::new(Schedule { per_second: 100.0 }, Duration::from_secs(1));
        assert_eq!(pacer.step(Duration::ZERO, &slots), Some(Duration::from_millis(10)));
        assert_eq!(slots.waiting(), 1);
        assert_eq!(pacer.step(Duration::from_millis(305), &slots), Some(Duration::from_millis(310)));
        assert_eq!(slots.waiting(), 31);
        // The slot at one second is beyond the end.
        assert_eq!(pacer.step(Duration::from_secs(9), &slots), None);
        assert_eq!(slots.waiting(), 100);
    }
}
