//! Install of a snapshot on a node that joins, beside the engine alone; writes meanwhile.
//!
//! ```text
//!   one voter with all the data ──save, send──► a learner ──stage, install──► caught up
//!   engine alone: the same items out of memory into an empty engine of the same kind, made durable
//! ```

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate::{BatchEnd, GroupId, LogId};
use quorate_client::{Client, ClientOptions};
use quorate_kv::{Engine, Item};
use quorate_server::engine_fjall::{FjallDatabase, FjallSettings};

use crate::process::{Servers, anonymous_kib, peak_kib, pss_kib, reset_peak};
use crate::restart::fill;
use crate::{Failure, Flags, quantile};

/// The speed at which the engine takes sorted items, in MiB/s.
fn engine_alone(dir: &std::path::Path, mib: u64, value_bytes: usize) -> Result<f64, Failure> {
    let mut engine = FjallDatabase::open(dir, FjallSettings::default())?.engine(GroupId(1))?;
    let total = (mib << 20) / value_bytes as u64;
    let mut state = 1u64;
    let mut items = (0..total).map(|number| {
        let mut value = vec![0; value_bytes];
        value.chunks_mut(8).for_each(|chunk| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        });
        Ok(Item { key: format!("key-{number:012}").into(), value: value.into(), version: number + 1 })
    });
    let begun = Instant::now();
    engine.replace_all(&mut items, BatchEnd { applied: LogId::new(1, total), records: &[] })?;
    engine.flush()?;
    Ok(mib as f64 / begun.elapsed().as_secs_f64())
}

/// Writes all the time; every latency with the moment it began.
async fn write(client: Client, begun: Instant, stop: Arc<AtomicBool>) -> Vec<(Duration, Duration)> {
    let mut latencies = Vec::new();
    for round in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let at = begun.elapsed();
        if client.put(format!("probe-{}", round % 100), vec![1; 128]).await.is_ok() {
            latencies.push((at, begun.elapsed() - at));
        }
        // An open loop of about a hundred writes a second: not what fills the machine.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    latencies
}

/// When a stage of the install was seen to be over, with a resolution of 50 ms.
#[derive(Default)]
struct Stages {
    /// The leader's snapshot is saved: its first piece is on the new node's disk.
    saved: Option<Duration>,
    /// It is whole and durable there.
    staged: Option<Duration>,
}

impl Stages {
    fn look(&mut self, snapshots: &Path, now: Duration) {
        let names = std::fs::read_dir(snapshots).into_iter().flatten().flatten().map(|entry| entry.file_name());
        for name in names {
            self.saved.get_or_insert(now);
            if name.to_string_lossy().ends_with(".snap") {
                self.staged.get_or_insert(now);
            }
        }
    }

    fn print(&self, joined: Duration, caught_up: Duration, alone: f64, mib: u64) {
        let (Some(saved), Some(staged)) = (self.saved, self.staged) else { return };
        let installing = (caught_up - staged).as_secs_f64();
        println!(
            "of which: start and saving {:.1} s, sending and making durable {:.1} s, installing {installing:.1} s, {:.2} x the engine alone",
            (saved - joined).as_secs_f64(),
            (staged - saved).as_secs_f64(),
            mib as f64 / installing / alone,
        );
    }
}

fn report(label: &str, latencies: &[(Duration, Duration)], between: std::ops::Range<Duration>) -> Duration {
    let mut chosen: Vec<Duration> =
        latencies.iter().filter(|(at, _)| between.contains(at)).map(|(_, latency)| *latency).collect();
    chosen.sort();
    let p99 = quantile(&chosen, 990);
    println!("writes {label}: {} of them, p50 {:?}, p99 {p99:?}", chosen.len(), quantile(&chosen, 500));
    p99
}

pub async fn run(flags: &Flags) -> Result<(), Failure> {
    let (binary, scratch) = (flags.binary()?, flags.scratch()?);
    let (mib, value_bytes): (u64, usize) = (flags.get("--mib", 1024), flags.get("--value-bytes", 1024));
    let rate: String = flags.get("--bytes-per-second", "0".to_owned());
    let policy = ["--log", "info", "--snapshot-bytes-per-second", &rate];
    let mut servers = Servers::new(&binary, scratch.path(), 1, &policy);
    servers.start_all()?;
    fill(&servers.endpoints(), mib << 20, value_bytes, u64::MAX).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let alone_dir = scratch.path().join("alone");
    let alone = engine_alone(&alone_dir, mib, value_bytes)?;
    std::fs::remove_dir_all(&alone_dir)?;
    println!(
        "engine alone: {alone:.0} MiB/s of values; {mib} MiB, values of {value_bytes} B, limit {rate} B/s"
    );

    let leader = servers.pid(1)?;
    let client = Client::connect([servers.client(1)], ClientOptions::default())?;
    let (stop, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let writer = tokio::spawn(write(client.clone(), begun, Arc::clone(&stop)));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let leader_before = (anonymous_kib(leader).unwrap_or_default(), pss_kib(leader).unwrap_or_default());
    reset_peak(leader);
    let joined = begun.elapsed();
    let watched = Arc::new(AtomicBool::new(false));
    let watching = Arc::clone(&watched);
    let most_of_leader = std::thread::spawn(move || {
        let mut most = 0;
        while !watching.load(Ordering::Relaxed) {
            most = most.max(anonymous_kib(leader).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(50));
        }
        most
    });
    let node = servers.join(&["--learner"])?;
    let pid = servers.pid(node)?;
    let (mut idle, mut most, last) = (None, 0, format!("key-{:012}", (mib << 20) / value_bytes as u64 - 1));
    let address = servers.client(node);
    let at_learner = Client::connect([address.clone()], ClientOptions::default())?;
    let (mut stages, snapshots) = (Stages::default(), servers.data_dir(node).join("snapshots"));
    loop {
        stages.look(&snapshots, begun.elapsed());
        let now = anonymous_kib(pid).unwrap_or_default();
        idle.get_or_insert(now);
        most = most.max(now);
        let status = tokio::time::timeout(Duration::from_secs(1), at_learner.status_of(&address)).await;
        let at_leader = client.status_of(&servers.client(1)).await?;
        if let Ok(Ok(status)) = status
            && status.applied_index + 200 >= at_leader.commit_index
        {
            break;
        }
        if begun.elapsed() > Duration::from_secs(1200) {
            return Err("not caught up in time".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let caught_up = begun.elapsed();
    watched.store(true, Ordering::Relaxed);
    let leader_most = most_of_leader.join().map_err(|_| "a thread panicked")?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    let latencies = writer.await?;
    let took = (caught_up - joined).as_secs_f64();
    let speed = mib as f64 / took;
    println!(
        "install, from the start of the process to caught up: {took:.1} s, {speed:.0} MiB/s, {:.2} x the engine alone",
        speed / alone
    );
    stages.print(joined, caught_up, alone, mib);
    println!(
        "memory: leader +{} KiB anonymous (peak {} KiB), new node +{} KiB anonymous (peak {} KiB); last key {last}",
        leader_most.saturating_sub(leader_before.0),
        peak_kib(leader).unwrap_or_default(),
        most - idle.unwrap_or_default(),
        peak_kib(pid).unwrap_or_default(),
    );
    let before = report("before", &latencies, Duration::from_secs(1)..joined);
    let meanwhile = report("meanwhile", &latencies, joined..caught_up);
    println!("p99 meanwhile / before: {:.1}", meanwhile.as_secs_f64() / before.as_secs_f64().max(1e-9));
    Ok(())
}
