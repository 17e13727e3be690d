//! The clocks of a node. Everything below the shells gets time as an input; this is where it is read.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use quorate_core::MonoTime;
use quorate_host::Now;

/// Reads the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Where there is no clock that counts suspension, time since this is what we have.
    origin: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn now(self) -> Now {
        Now { mono: self.mono(), unix_millis: unix_nanos() / 1_000_000 }
    }

    /// A leader that was suspended must notice before it serves a read, so suspension counts.
    pub(crate) fn mono(self) -> MonoTime {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let counting = Some(rustix::time::ClockId::Boottime);
        #[cfg(any(target_os = "macos", target_os = "ios"))]
        let counting = Some(rustix::time::ClockId::Monotonic);
        #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "ios")))]
        let counting = None;
        match counting {
            Some(id) => {
                let time = rustix::time::clock_gettime(id);
                let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
                MonoTime(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
            }
            None => MonoTime(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)),
        }
    }
}

/// Nanoseconds since 1970 by the system's clock.
pub(crate) fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
