//! What happens next: the virtual clock and the order of steps.
//!
//! Every step function of every node, every message and every client move stands here with the time
//! at which it runs. Steps that are due at the same time run in an order drawn from the seed. Nothing
//! else decides what runs, so one seed gives one order.

use std::collections::BTreeMap;

use crate::rng::Rng;

/// Steps by due time.
#[derive(Debug)]
pub(crate) struct Agenda<S> {
    now: u64,
    steps: BTreeMap<(u64, u64, u64), S>,
    planned: u64,
    rng: Rng,
}

impl<S> Agenda<S> {
    pub(crate) const fn new(rng: Rng) -> Self {
        Self { now: 0, steps: BTreeMap::new(), planned: 0, rng }
    }

    /// Nanoseconds since the world began.
    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    /// Plans `step` for `at` (or for now, if that is past).
    pub(crate) fn plan(&mut self, at: u64, step: S) {
        self.planned += 1;
        let key = (at.max(self.now), self.rng.next(), self.planned);
        self.steps.insert(key, step);
    }

    /// Plans `step` for a time between `low` and `high` nanoseconds from now.
    pub(crate) fn plan_within(&mut self, low: u64, high: u64, step: S) {
        let delay = self.rng.between(low, high);
        self.plan(self.now + delay, step);
    }

    /// Moves the clock to the next step and takes it.
    pub(crate) fn next(&mut self) -> Option<S> {
        let ((at, _, _), step) = self.steps.pop_first()?;
        self.now = at;
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_run_by_time_and_the_clock_follows() {
        let mut agenda = Agenda::new(Rng::new(1));
        agenda.plan(20, "late");
        agenda.plan(10, "early");
        assert_eq!(agenda.next(), Some("early"));
        agenda.plan(5, "overdue");
        assert_eq!(agenda.next(), Some("overdue"));
        assert_eq!(agenda.now(), 10);
        assert_eq!(agenda.next(), Some("late"));
        assert_eq!(agenda.now(), 20);
        assert_eq!(agenda.next(), None);
    }
}
