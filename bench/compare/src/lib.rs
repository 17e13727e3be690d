//! What the contestants written in Rust share: the load, and the line of JSON that each of them prints.
//!
//! ```text
//!   compare ──► one process per contestant and round ──► {"operations":…,"seconds":…,"p50_micros":…}
//! ```

pub mod etcd;

use std::future::Future;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What one round of one contestant came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Operations that were acknowledged in the measured time.
    pub operations: u64,
    /// The measured time.
    pub seconds: f64,
    /// Latencies in microseconds.
    pub p50_micros: u64,
    /// Of a hundred operations, one took longer.
    pub p99_micros: u64,
    /// Of a thousand, one took longer.
    pub p999_micros: u64,
    /// Operations that failed; a round with any does not count.
    pub failed: u64,
    /// Processor time of the process in the measured time, in seconds (0: not measured).
    #[serde(default)]
    pub processor_seconds: f64,
}

impl Outcome {
    /// Operations a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    /// Prints the line that `compare` reads.
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).expect("plain figures can always be written"));
    }
}

/// A closed loop: `clients` tasks, each sends its next operation when the last one is answered. Warms up for a
/// fifth of the time first, which does not count.
pub async fn closed_loop<F, O>(clients: usize, duration: Duration, operation: F) -> Outcome
where
    F: Fn(usize, u64) -> O + Clone + Send + 'static,
    O: Future<Output = bool> + Send,
{
    let counted_from = Instant::now() + duration / 5;
    let until = counted_from + duration;
    let tasks = (0..clients).map(|client| {
        let operation = operation.clone();
        tokio::spawn(async move {
            let (mut latencies, mut failed) = (histogram(), 0);
            let mut sequence = 0;
            loop {
                let asked = Instant::now();
                if asked >= until {
                    return (latencies, failed);
                }
                let done = operation(client, sequence).await;
                sequence += 1;
                if asked < counted_from {
                    continue;
                }
                if done {
                    latencies.saturating_record(asked.elapsed().as_micros() as u64);
                } else {
                    failed += 1;
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    tokio::time::sleep_until(counted_from.into()).await;
    let processor_before = processor_time();
    let (mut all, mut failed) = (histogram(), 0);
    for task in tasks {
        let (latencies, failures) = task.await.expect("a client does not panic");
        all.add(latencies).expect("the histograms have the same bounds");
        failed += failures;
    }
    Outcome {
        operations: all.len(),
        seconds: duration.as_secs_f64(),
        p50_micros: all.value_at_quantile(0.5),
        p99_micros: all.value_at_quantile(0.99),
        p999_micros: all.value_at_quantile(0.999),
        failed,
        processor_seconds: (processor_time() - processor_before).as_secs_f64(),
    }
}

/// From 1 µs to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
