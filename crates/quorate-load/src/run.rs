//! Carries out a plan: places that do one operation after the other, and one task that watches.
//!
//! ```text
//!   fill ──► warm-up ──► measured ──►                 each phase ends when its last operation has
//!                │          │                         been answered: nothing of one is in the next
//!   place 1  ────┼──op──op──┼─op────op──op
//!   place 2  ────┼─op──op───┼──op──op───op            as many as may be in flight
//!                │          └── figures of the nodes, before and after: exactly these operations
//! ```
//!
//! * Every operation that began is counted once: done, or failed with a kind.
//! * In open loop every slot that began is counted: one that found no place before the grace after the
//!   end was over is a failure of the kind `not_sent`.
//! * Bounded: one operation per place, and what [`crate::record`] holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::keys::{Chooser, Random};
use crate::pace::{Pacer, Schedule, Slots};
use crate::plan::{Kind, Pace, Plan};
use crate::record::{Ended, Outcome, Recorder, Tallies, WINDOWS_MAX, Window};

/// How long slots that have begun may still find a place after the end.
const GRACE: Duration = Duration::from_secs(1);
/// How often the end of a phase is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The shortest window.
const WINDOW_MIN: Duration = Duration::from_millis(100);
/// How many random bytes values are cut from, beyond the longest value.
const CHAFF_BYTES: usize = 64 << 10;

/// One thing to do.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// Write or read.
    pub(crate) kind: Kind,
    /// The key.
    pub(crate) key: Bytes,
    /// What to write; empty for a read.
    pub(crate) value: Bytes,
}

/// What is put under load: a cluster, or a fake in virtual time.
pub(crate) trait Target: Send + Sync + 'static {
    /// Does an operation on one of the connections and says how it ended. Called from many places at a time.
    fn operate(&self, connection: usize, operation: Operation) -> impl Future<Output = Outcome> + Send;

    /// Calls `pacer.step` whenever it is time, until it is over. Must not hold up the calling task.
    fn pace(&self, pacer: Pacing);
}

/// A pacer with what it needs. `step` says how long to wait before the next call.
#[derive(Debug)]
pub(crate) struct Pacing {
    pacer: Pacer,
    started: Instant,
    slots: Arc<Slots>,
    stopped: watch::Receiver<bool>,
}

impl Pacing {
    /// Lets those slots begin whose time has come. `None`: it is over.
    pub(crate) fn step(&mut self, now: Instant) -> Option<Instant> {
        if *self.stopped.borrow() {
            return None;
        }
        let next = self.pacer.step(now.saturating_duration_since(self.started), &self.slots)?;
        Some(self.started + next)
    }
}

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Every key is being written.
    Fill,
    /// The load is on and not measured.
    Warmup,
    /// The load is on and measured.
    Measure,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What goes on.
    pub stage: Stage,
    /// How much of it is over, from 0 to 1.
    pub part: f64,
    /// For how long it has gone on.
    pub elapsed: Duration,
    /// Operations of this stage that failed so far.
    pub failed: u64,
    /// The last window.
    pub window: Window,
}

/// What a phase came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phase {
    pub(crate) tallies: Tallies,
    pub(crate) windows: Vec<Window>,
    pub(crate) elapsed: Duration,
}

/// A run of a plan against a target.
#[derive(Debug)]
pub(crate) struct Run<T> {
    plan: Plan,
    target: Arc<T>,
    source: Arc<Source>,
    stop: watch::Receiver<bool>,
}

/// Makes operations.
#[derive(Debug)]
struct Source {
    plan: Plan,
    chooser: Chooser,
    chaff: Bytes,
}

impl Source {
    fn new(plan: &Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let length = *plan.value_bytes.end() + CHAFF_BYTES;
        let chaff: Vec<u8> =
            std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(length).collect();
        let chooser = Chooser::new(plan.distribution, plan.keys);
        Self { plan: plan.clone(), chooser, chaff: Bytes::from(chaff) }
    }

    fn next(&self, random: &mut Random) -> Operation {
        let kind = self.plan.mix.pick(random.next());
        let key = self.chooser.choose(random);
        self.operation(kind, key, random)
    }

    fn operation(&self, kind: Kind, key: u64, random: &mut Random) -> Operation {
        let key = Bytes::from(format!("{}{key:012}", self.plan.prefix));
        let value = if kind == Kind::Write { self.value(random) } else { Bytes::new() };
        Operation { kind, key, value }
    }

    /// A slice of bytes that were random once: making them anew for each would cost more than sending them.
    fn value(&self, random: &mut Random) -> Bytes {
        let (from, to) = (*self.plan.value_bytes.start(), *self.plan.value_bytes.end());
        let below = |random: &mut Random, bound: usize| {
            usize::try_from(random.below(bound as u64)).unwrap_or_default()
        };
        let length = from + below(random, to - from + 1);
        let begins = below(random, CHAFF_BYTES);
        self.chaff.slice(begins..begins + length)
    }
}

/// What a place is to do.
#[derive(Clone, Debug)]
enum Work {
    /// Whatever comes next, until then.
    Closed { until: Instant },
    /// What comes next, whenever a slot begins.
    Open { slots: Arc<Slots>, schedule: Schedule },
    /// Every key once.
    Fill { next: Arc<std::sync::atomic::AtomicU64> },
}

/// One of those that operate.
struct Place<T> {
    number: usize,
    connection: usize,
    work: Work,
    started: Instant,
    target: Arc<T>,
    source: Arc<Source>,
    recorder: Arc<Recorder>,
    stop: watch::Receiver<bool>,
    random: Random,
}

impl<T: Target> Place<T> {
    async fn run(mut self) {
        while let Some((begins, operation)) = self.next().await {
            let kind = operation.kind;
            let payload_bytes = match kind {
                Kind::Write => (operation.key.len() + operation.value.len()) as u64,
                Kind::Linearizable | Kind::Lease | Kind::Stale => 0,
            };
            let outcome = self.target.operate(self.connection, operation).await;
            let now = Instant::now();
            let latency = now.saturating_duration_since(begins);
            self.recorder.record(self.number, &Ended { kind, latency, payload_bytes, outcome }, now);
        }
    }

    /// What to do next, and the time from which its latency counts.
    async fn next(&mut self) -> Option<(Instant, Operation)> {
        let stopped = *self.stop.borrow();
        match &self.work {
            Work::Closed { until } => {
                let now = Instant::now();
                (!stopped && now < *until).then(|| (now, self.source.next(&mut self.random)))
            }
            Work::Open { slots, schedule } => {
                let slot = slots.take().await?;
                let begins = self.started + schedule.time_of(slot);
                Some((begins, self.source.next(&mut self.random)))
            }
            Work::Fill { next } => {
                let key = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let more = !stopped && key < self.source.plan.keys;
                more.then(|| (Instant::now(), self.source.operation(Kind::Write, key, &mut self.random)))
            }
        }
    }
}

impl<T: Target> Run<T> {
    /// A run that ends early once `stop` says so.
    pub(crate) fn new(plan: &Plan, target: Arc<T>, stop: watch::Receiver<bool>) -> Self {
        Self { plan: plan.clone(), target, source: Arc::new(Source::new(plan)), stop }
    }

    /// Whether it was asked to end early.
    pub(crate) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Writes every key once.
    pub(crate) async fn fill(&self, watcher: &mut (dyn FnMut(Progress) + Send)) -> Phase {
        let next = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let work = Work::Fill { next: next.clone() };
        let keys = self.plan.keys as f64;
        let recorder = Arc::new(Recorder::new(self.plan.in_flight));
        let started = Instant::now();
        let mut places = self.places(&work, started, &recorder);
        let mut watching = Watching::new(recorder, started, WINDOW_MIN * 10);
        let mut ticks = ticks(LOOK_EVERY);
        while !places.is_empty() {
            tokio::select! {
                Some(ended) = places.join_next() => ended.expect("a place never panics"),
                _ = ticks.tick() => {}
            }
            let part = next.load(std::sync::atomic::Ordering::Relaxed) as f64 / keys;
            watching.look(Stage::Fill, part, watcher);
        }
        watching.finish(started)
    }

    /// Puts the load on for `length`.
    pub(crate) async fn phase(
        &self,
        stage: Stage,
        length: Duration,
        watcher: &mut (dyn FnMut(Progress) + Send),
    ) -> Phase {
        let recorder = Arc::new(Recorder::new(self.plan.in_flight));
        let started = Instant::now();
        let until = started + length;
        let slots = Arc::new(Slots::new());
        let work = match self.plan.pace {
            Pace::Closed => Work::Closed { until },
            Pace::Open { per_second } => {
                let schedule = Schedule { per_second };
                let (slots, stopped) = (slots.clone(), self.stop.clone());
                let pacer = Pacer::new(schedule, length);
                self.target.pace(Pacing { pacer, started, slots: slots.clone(), stopped });
                Work::Open { slots, schedule }
            }
        };
        let mut places = self.places(&work, started, &recorder);
        let most = u32::try_from(WINDOWS_MAX / 2).unwrap_or(1);
        let mut watching = Watching::new(recorder, started, WINDOW_MIN.max(length / most));
        let mut ticks = ticks(LOOK_EVERY);
        let mut ended: Option<Instant> = None;
        while !places.is_empty() {
            tokio::select! {
                Some(place) = places.join_next() => place.expect("a place never panics"),
                _ = ticks.tick() => {}
            }
            let now = Instant::now();
            if ended.is_none() && (now >= until || self.is_stopped()) {
                ended = Some(now.min(until));
            }
            if ended.is_some_and(|ended| slots.waiting() == 0 || now >= ended + GRACE) {
                slots.close();
            }
            let part = now.saturating_duration_since(started).as_secs_f64() / length.as_secs_f64();
            watching.look(stage, part.min(1.0), watcher);
        }
        let unsent = u64::try_from(slots.waiting()).unwrap_or(u64::MAX);
        let mut phase = watching.finish(ended.unwrap_or(until));
        if unsent > 0 {
            let example =
                "the rate is more than these requests in flight can carry: lower --rate or raise --in-flight";
            phase.tallies.fail("not_sent", unsent, example);
        }
        phase
    }

    fn places(&self, work: &Work, started: Instant, recorder: &Arc<Recorder>) -> JoinSet<()> {
        let mut places = JoinSet::new();
        for number in 0..self.plan.in_flight {
            let place = Place {
                number,
                connection: number % self.plan.connections,
                work: work.clone(),
                started,
                target: self.target.clone(),
                source: self.source.clone(),
                recorder: recorder.clone(),
                stop: self.stop.clone(),
                random: Random::new(self.plan.seed ^ ((number as u64 + 1) << 32)),
            };
            places.spawn(place.run());
        }
        places
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Collects what the places record, window by window.
struct Watching {
    recorder: Arc<Recorder>,
    started: Instant,
    window_length: Duration,
    window_began: Instant,
    all: Tallies,
    spare: Tallies,
    windows: Vec<Window>,
}

impl Watching {
    fn new(recorder: Arc<Recorder>, started: Instant, window_length: Duration) -> Self {
        Self {
            recorder,
            started,
            window_length,
            window_began: started,
            all: Tallies::default(),
            spare: Tallies::default(),
            windows: Vec::new(),
        }
    }

    /// Ends the window if it is long enough.
    fn look(&mut self, stage: Stage, part: f64, watcher: &mut (dyn FnMut(Progress) + Send)) {
        let now = Instant::now();
        if now.saturating_duration_since(self.window_began) < self.window_length {
            return;
        }
        let window = self.end_window(now);
        let elapsed = window.ends;
        watcher(Progress { stage, part, elapsed, failed: self.all.failed(), window });
    }

    fn end_window(&mut self, now: Instant) -> Window {
        let mut fresh = Tallies::default();
        self.recorder.collect(&mut fresh, &mut self.spare);
        let begins = self.window_began.saturating_duration_since(self.started);
        let window = Window::of(&fresh, begins, now.saturating_duration_since(self.started));
        self.all.add(&fresh);
        self.window_began = now;
        // A cluster that hangs at the end must not make this grow: later windows are then not drawn.
        if self.windows.len() < WINDOWS_MAX {
            self.windows.push(window);
        }
        window
    }

    /// `ended` is when operations stopped to begin; the last answer may have come later.
    fn finish(mut self, ended: Instant) -> Phase {
        let now = Instant::now();
        self.end_window(now);
        let over = self.all.last.map_or(ended, |last| last.max(ended));
        let elapsed = over.saturating_duration_since(self.started);
        Phase { tallies: self.all, windows: self.windows, elapsed }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
