//! How much is on its way: bounds in pieces and bytes, released when the piece has been dealt with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts pieces and bytes, and admits new ones while both are below their limits.
#[derive(Debug)]
pub(crate) struct Gauge {
    count: AtomicUsize,
    bytes: AtomicUsize,
    count_max: usize,
    bytes_max: usize,
}

/// The room one piece takes, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gauge: Arc<Gauge>,
    bytes: usize,
}

impl Gauge {
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Arc<Self> {
        let zero = || AtomicUsize::new(0);
        Arc::new(Self { count: zero(), bytes: zero(), count_max, bytes_max })
    }

    /// Room for a piece of `bytes`, if there is; a single piece always fits.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let permit = self.take(bytes);
        let count = self.count.load(Ordering::Relaxed);
        let full = count > self.count_max || self.bytes.load(Ordering::Relaxed) > self.bytes_max;
        if full && count > 1 { None } else { Some(permit) }
    }

    /// Room for a piece that cannot be refused.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Permit {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Permit { gauge: Arc::clone(self), bytes }
    }

    /// Whether `admit` would refuse.
    pub(crate) fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= self.count_max
            || self.bytes.load(Ordering::Relaxed) >= self.bytes_max
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gauge.count.fetch_sub(1, Ordering::Relaxed);
        self.gauge.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gauge_refuses_until_a_permit_is_dropped() {
        let gauge = Gauge::new(10, 100);
        let first = gauge.admit(60).unwrap();
        assert!(gauge.admit(60).is_none());
        drop(first);
        assert!(gauge.admit(60).is_some());
    }

    #[test]
    fn one_piece_over_the_limit_fits_when_it_is_alone() {
        let gauge = Gauge::new(10, 100);
        let large = gauge.admit(1000).unwrap();
        assert!(gauge.is_full());
        assert!(gauge.admit(1).is_none());
        drop(large);
        assert!(!gauge.is_full());
    }
}
