//! How many bytes of snapshots may go out per second, all streams of a host together.
//!
//! ```text
//!   WantsBytes 256 KiB ──► free_at <= now ? ── yes ──► Allow, free_at moves by 256 KiB / rate
//!                                 └ no ──► Allow when it is (a deadline of the host)
//! ```
//!
//! * One piece is allowed at a time: whoever sends asks again for the next one.
//! * A pace that was not used is lost, but for `LATE_MAX`: the shell's clock is not exact.

use std::time::Duration;

use quorate_core::MonoTime;

use crate::config::HostConfig;

/// How much time that passed unused still counts.
const LATE_MAX: Duration = Duration::from_millis(100);

pub(crate) struct Pace {
    bytes_per_second: Option<u64>,
    /// Everything allowed so far has had its time then.
    free_at: MonoTime,
    wanted: Option<u64>,
}

impl Pace {
    pub(crate) const fn new(config: &HostConfig) -> Self {
        Self { bytes_per_second: config.snapshot_bytes_per_second, free_at: MonoTime(0), wanted: None }
    }

    pub(crate) const fn want(&mut self, bytes: u64) {
        self.wanted = Some(bytes);
    }

    /// What may be sent now, once.
    pub(crate) fn take(&mut self, now: MonoTime) -> Option<u64> {
        let wanted = self.wanted?;
        if self.free_at > now {
            return None;
        }
        self.wanted = None;
        let unused_from = MonoTime(now.0.saturating_sub(nanos(LATE_MAX)));
        self.free_at = self.free_at.max(unused_from) + self.time_for(wanted);
        Some(wanted)
    }

    /// When `take` says something next.
    pub(crate) fn deadline(&self) -> Option<MonoTime> {
        self.wanted.map(|_| self.free_at)
    }

    /// How long this many bytes take.
    pub(crate) fn time_for(&self, bytes: u64) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_sees_more_than_its_bytes_and_the_late_ones() {
        let rate = 1_000_000;
        let mut pace =
            Pace::new(&HostConfig { snapshot_bytes_per_second: Some(rate), ..HostConfig::default() });
        let mut sent = Vec::new();
        let mut now = MonoTime::from_millis(10_000);
        pace.want(30_000);
        // A shell that comes up to 50 ms late.
        for turn in 0..400u64 {
            while let Some(bytes) = pace.take(now) {
                sent.push((now, bytes));
                pace.want(30_000);
            }
            now = pace.deadline().unwrap_or(now).max(now) + Duration::from_millis(turn * 7 % 50);
        }
        for (start, _) in &sent {
            let second =
                sent.iter().filter(|(at, _)| at >= start && at.since(*start) < Duration::from_secs(1));
            let bytes: u64 = second.map(|(_, bytes)| bytes).sum();
            assert!(bytes <= rate + rate / 10 + 30_000, "{bytes} bytes in the second from {start:?}");
        }
        let (first, last) = (sent[0].0, sent[sent.len() - 1].0);
        let total: u64 = sent.iter().map(|(_, bytes)| bytes).sum();
        let took = last.since(first).as_secs_f64();
        assert!(took < 1.1 * total as f64 / rate as f64, "{total} bytes took {took} s");
    }
}
