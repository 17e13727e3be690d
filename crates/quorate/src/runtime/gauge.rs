//! How much is on its way: bounds in pieces and bytes, released when the piece has been dealt with.
//!
//! ```text
//!   whole   ├── group 1 ──┼─ group 2 ─┼──────────── free ────────────┤ max
//! ```
//!
//! * Every group has a part of each whole that groups share, and may hold no more of it than it
//!   leaves free: one that takes all it can get has half, two have a third each, and there is
//!   always room for whoever comes next.
//! * What cannot be refused is taken. However much of it a group has to hold, it fills a quarter of
//!   the whole at most: what is more is bounded by the limits of the group, and is its own affair.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts pieces and bytes, and admits new ones while both are below their limits.
#[derive(Debug)]
pub(crate) struct Gauge {
    count: AtomicUsize,
    bytes: AtomicUsize,
    limit: Limit,
}

#[derive(Debug)]
enum Limit {
    Whole { count_max: usize, bytes_max: usize },
    PartOf(Arc<Gauge>),
}

/// The room one piece takes, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gauge: Arc<Gauge>,
    bytes: usize,
    /// Whether it counts in the whole as well.
    is_in_whole: bool,
}

impl Permit {
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Gauge {
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Arc<Self> {
        Self::with(Limit::Whole { count_max, bytes_max })
    }

    /// One group's part of `whole`.
    pub(crate) fn part_of(whole: &Arc<Self>) -> Arc<Self> {
        Self::with(Limit::PartOf(Arc::clone(whole)))
    }

    fn with(limit: Limit) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), bytes: AtomicUsize::new(0), limit })
    }

    /// Room for a piece of `bytes`, if there is; a single piece always fits.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.add(bytes);
        let permit = self.permit(bytes, true);
        (self.is_alone() || !self.is_over()).then_some(permit)
    }

    /// Room for a piece that cannot be refused.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Permit {
        let before = self.add(bytes);
        let is_in_whole = before == 0 || before.saturating_add(bytes) <= self.maxima().1 / 4;
        self.permit(bytes, is_in_whole)
    }

    fn permit(self: &Arc<Self>, bytes: usize, is_in_whole: bool) -> Permit {
        if let Limit::PartOf(whole) = &self.limit
            && is_in_whole
        {
            whole.add(bytes);
        }
        Permit { gauge: Arc::clone(self), bytes, is_in_whole }
    }

    /// Whether a piece that is more than nothing would be refused.
    pub(crate) fn is_full(&self) -> bool {
        let (count, bytes) = self.now();
        match &self.limit {
            Limit::Whole { count_max, bytes_max } => count >= *count_max || bytes >= *bytes_max,
            Limit::PartOf(whole) => {
                let (count_free, bytes_free) = whole.free();
                whole.is_full() || count > 0 && (count > count_free || bytes > bytes_free)
            }
        }
    }

    /// Whether more is in here than may be.
    fn is_over(&self) -> bool {
        let (count, bytes) = self.now();
        match &self.limit {
            Limit::Whole { count_max, bytes_max } => count > *count_max || bytes > *bytes_max,
            Limit::PartOf(whole) => {
                let (count_free, bytes_free) = whole.free();
                let is_first = count <= 1;
                whole.is_over() || !is_first && (count > count_free || bytes > bytes_free)
            }
        }
    }

    /// Whether one piece at most is in the whole.
    fn is_alone(&self) -> bool {
        match &self.limit {
            Limit::Whole { .. } => self.now().0 <= 1,
            Limit::PartOf(whole) => whole.is_alone(),
        }
    }

    fn now(&self) -> (usize, usize) {
        (self.count.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    /// The most pieces and bytes of the whole.
    fn maxima(&self) -> (usize, usize) {
        match &self.limit {
            Limit::Whole { count_max, bytes_max } => (*count_max, *bytes_max),
            Limit::PartOf(whole) => whole.maxima(),
        }
    }

    /// How many pieces and bytes a whole has room for.
    fn free(&self) -> (usize, usize) {
        let ((count, bytes), (count_max, bytes_max)) = (self.now(), self.maxima());
        (count_max.saturating_sub(count), bytes_max.saturating_sub(bytes))
    }

    /// Says how many bytes there were before.
    fn add(&self, bytes: usize) -> usize {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed)
    }

    fn subtract(&self, bytes: usize) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gauge.subtract(self.bytes);
        if let Limit::PartOf(whole) = &self.gauge.limit
            && self.is_in_whole
        {
            whole.subtract(self.bytes);
        }
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

    /// In pieces and in bytes.
    #[test]
    fn who_takes_all_there_is_leaves_as_much_for_others_as_it_has() {
        for (whole, bytes) in [(Gauge::new(60, usize::MAX), 0), (Gauge::new(usize::MAX, 6000), 100)] {
            let groups: Vec<_> = (0..5).map(|_| Gauge::part_of(&whole)).collect();
            let fill = |group: &Arc<Gauge>| std::iter::from_fn(|| group.admit(bytes)).collect::<Vec<_>>();
            let held: Vec<_> = groups.iter().map(fill).collect();
            let counts: Vec<_> = held.iter().map(Vec::len).collect();
            assert_eq!(counts, [30, 15, 7, 4, 2], "each half of what was free");
            assert!(groups.iter().all(|group| group.admit(bytes).is_none()));
            let one_more = Gauge::part_of(&whole);
            assert!(!one_more.is_full() && one_more.admit(bytes).is_some());
            drop(held);
            assert_eq!(whole.now(), (0, 0));
        }
    }

    /// A state machine stands still, and its group's windows allow for more than there is room for
    /// here.
    #[test]
    fn what_cannot_be_refused_leaves_room_for_others() {
        let whole = Gauge::new(usize::MAX, 1000);
        let (stuck, other) = (Gauge::part_of(&whole), Gauge::part_of(&whole));
        let held: Vec<_> = (0..50).map(|_| stuck.take(100)).collect();
        assert!(stuck.is_full() && stuck.admit(100).is_none());
        assert!(!whole.is_full() && !other.is_full() && other.admit(300).is_some());
        drop(held);
        assert_eq!((whole.now(), stuck.now()), ((0, 0), (0, 0)));
    }
}
