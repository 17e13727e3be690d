//! Stories in virtual time: a cluster that answers after a millisecond, and one that stalls.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Answers after `usual`, except that nobody is answered during the stall.
#[derive(Debug)]
struct Fake {
    started: Instant,
    usual: Duration,
    stall: std::ops::Range<Duration>,
    fails: bool,
    operations: AtomicU64,
    at_once: AtomicU64,
    at_once_most: AtomicU64,
}

impl Fake {
    fn new(usual_millis: u64, stall_millis: std::ops::Range<u64>) -> Arc<Self> {
        let millis = Duration::from_millis;
        Arc::new(Self {
            started: Instant::now(),
            usual: millis(usual_millis),
            stall: millis(stall_millis.start)..millis(stall_millis.end),
            fails: false,
            operations: AtomicU64::new(0),
            at_once: AtomicU64::new(0),
            at_once_most: AtomicU64::new(0),
        })
    }
}

impl Target for Fake {
    async fn operate(&self, _connection: usize, operation: Operation) -> Outcome {
        self.operations.fetch_add(1, Ordering::Relaxed);
        let now = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.at_once_most.fetch_max(now, Ordering::Relaxed);
        let mut answered = Instant::now() + self.usual;
        if self.stall.contains(&answered.saturating_duration_since(self.started)) {
            answered = self.started + self.stall.end;
        }
        tokio::time::sleep_until(answered).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        assert!(operation.key.starts_with(b"bench/"));
        if self.fails {
            return Outcome::Failed { kind: "busy", message: "no room".to_owned() };
        }
        Outcome::Done { found: true }
    }

    fn pace(&self, mut pacing: Pacing) {
        tokio::spawn(async move {
            while let Some(next) = pacing.step(Instant::now()) {
                tokio::time::sleep_until(next).await;
            }
        });
    }
}

fn plan(in_flight: usize, pace: Pace) -> Plan {
    Plan { in_flight, connections: 1, pace, keys: 100, ..Plan::default() }
}

async fn run(plan: &Plan, fake: &Arc<Fake>) -> Phase {
    let (_stop, stopped) = watch::channel(false);
    let run = Run::new(plan, fake.clone(), stopped);
    run.phase(Stage::Measure, plan.length, &mut |_| {}).await
}

fn millis(phase: &Phase, quantile: f64) -> f64 {
    phase.tallies.together().latency.value_at_quantile(quantile) as f64 / 1e6
}

/// One second of ten in which nothing is answered is a tenth of the operations in open loop. In closed loop the
/// single place that waits sees it once: a figure that would hide it.
#[tokio::test(start_paused = true)]
async fn stalled_server_shows_in_the_p99_of_open_loop() {
    let fake = Fake::new(1, 4000..5000);
    let open = run(&plan(1, Pace::Open { per_second: 100.0 }), &fake).await;
    assert_eq!(open.tallies.together().done(), 1000);
    assert!(open.tallies.failures.is_empty(), "{:?}", open.tallies.failures);
    // 100 slots began during the stall, the first of which waited for all of it.
    assert!((880.0..=1010.0).contains(&millis(&open, 0.99)), "{}", millis(&open, 0.99));
    assert!((990.0..=1010.0).contains(&millis(&open, 1.0)), "{}", millis(&open, 1.0));
    assert!(millis(&open, 0.5) < 3.0);

    let fake = Fake::new(1, 4000..5000);
    let closed = run(&plan(1, Pace::Closed), &fake).await;
    assert!(millis(&closed, 0.99) < 3.0 && millis(&closed, 1.0) > 990.0);
}

#[tokio::test(start_paused = true)]
async fn every_operation_that_began_is_counted_once() {
    let fake = Fake::new(7, 0..0);
    let phase = run(&plan(16, Pace::Closed), &fake).await;
    let done = phase.tallies.together().done();
    assert_eq!(done, fake.operations.load(Ordering::Relaxed));
    assert_eq!(phase.windows.iter().map(|window| window.done).sum::<u64>(), done);
    assert_eq!(fake.at_once_most.load(Ordering::Relaxed), 16);
    // 10 s / 7 ms, for each of 16, and the last ones end after the end. Timers have whole milliseconds.
    assert!((16 * 1240..=16 * 1430).contains(&done), "{done}");
    assert!(phase.elapsed >= Duration::from_secs(10) && phase.elapsed < Duration::from_millis(10_020));
}

/// 1,000 a second asked for, 2 places that take 10 ms each: 200 a second are possible.
#[tokio::test(start_paused = true)]
async fn slots_that_never_found_a_place_are_failures() {
    let fake = Fake::new(10, 0..0);
    let phase = run(&plan(2, Pace::Open { per_second: 1000.0 }), &fake).await;
    let (done, unsent) = (phase.tallies.together().done(), phase.tallies.failures["not_sent"].count);
    assert_eq!(done + unsent, 10_000);
    assert!((1_800..=2_300).contains(&done), "{done}");
    assert!(millis(&phase, 0.99) > 7_000.0, "they waited longer and longer: {}", millis(&phase, 0.99));
}

#[tokio::test(start_paused = true)]
async fn stop_ends_a_run_early_with_the_figures_so_far() {
    for pace in [Pace::Closed, Pace::Open { per_second: 500.0 }] {
        let fake = Fake::new(1, 0..0);
        let (stop, stopped) = watch::channel(false);
        let plan = plan(8, pace);
        let run = Run::new(&plan, fake.clone(), stopped);
        let phase = run
            .phase(Stage::Measure, plan.length, &mut |progress| {
                if progress.elapsed >= Duration::from_secs(2) {
                    stop.send_replace(true);
                }
            })
            .await;
        assert!(phase.elapsed >= Duration::from_secs(2) && phase.elapsed < Duration::from_millis(2300));
        assert_eq!(phase.tallies.together().done(), fake.operations.load(Ordering::Relaxed));
        assert_eq!(phase.tallies.failed(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn fill_writes_every_key_once_and_failures_are_kept_by_kind() {
    let mut fake = Fake::new(1, 0..0);
    Arc::get_mut(&mut fake).unwrap().fails = true;
    let (_stop, stopped) = watch::channel(false);
    let run = Run::new(&plan(8, Pace::Closed), fake.clone(), stopped);
    let phase = run.fill(&mut |_| {}).await;
    assert_eq!(fake.operations.load(Ordering::Relaxed), 100);
    assert_eq!(phase.tallies.failures["busy"].count, 100);
    assert_eq!(phase.tallies.together().done(), 0);
}

#[test]
fn values_have_the_sizes_that_were_asked_for() {
    let plan = Plan { value_bytes: 10..=20, ..Plan::default() };
    let source = Source::new(&plan);
    let mut random = Random::new(3);
    let lengths: std::collections::BTreeSet<usize> =
        (0..1000).map(|_| source.next(&mut random).value.len()).collect();
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), (10..=20).collect::<Vec<_>>());
}
