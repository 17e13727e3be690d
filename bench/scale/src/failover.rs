//! Kill -9 of the leader under load: how long until somebody's write is acknowledged again?
//!
//! The time from the kill to the first acknowledgement of a write that was *begun* after the kill. Writers
//! are clients of the library with its own retries: what they see, users see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_client::{Client, ClientOptions};
use tokio::sync::watch;

use crate::process::Servers;
use crate::{Failure, Flags, quantile};

/// What the writers share.
struct Load {
    begun: Instant,
    stop: AtomicBool,
    writes: AtomicU64,
    /// Micros since `begun` at which the newest acknowledged write was begun.
    acknowledged: watch::Sender<u64>,
}

impl Load {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }
}

async fn write(client: Client, number: usize, load: Arc<Load>) {
    let mut round = 0u64;
    while !load.stop.load(Ordering::Relaxed) {
        round += 1;
        let begun = load.now();
        let key = format!("key-{number}-{}", round % 1000);
        if client.put(key, vec![b'x'; 128]).await.is_ok() {
            load.writes.fetch_add(1, Ordering::Relaxed);
            load.acknowledged.send_if_modified(|newest| {
                let is_newer = begun > *newest;
                *newest = begun.max(*newest);
                is_newer
            });
        }
    }
}

pub async fn run(flags: &Flags) -> Result<(), Failure> {
    let (binary, scratch) = (flags.binary()?, flags.scratch()?);
    let timeout_ms: u64 = flags.get("--election-timeout-ms", 600);
    let (kills, writers): (usize, usize) = (flags.get("--kills", 100), flags.get("--writers", 16));
    let heartbeat: u64 = flags.get("--heartbeat-interval-ms", 100);
    let (timeout_text, heartbeat) = (timeout_ms.to_string(), heartbeat.to_string());
    let policy =
        ["--election-timeout-ms", &timeout_text, "--heartbeat-interval-ms", &heartbeat, "--log", "info"];
    let mut servers = Servers::new(&binary, scratch.path(), 3, &policy);
    servers.start_all()?;
    let load = Arc::new(Load {
        begun: Instant::now(),
        stop: AtomicBool::new(false),
        writes: AtomicU64::new(0),
        acknowledged: watch::Sender::new(0),
    });
    let mut tasks = Vec::new();
    for number in 0..writers {
        let options = ClientOptions { deadline: Duration::from_secs(20), ..ClientOptions::default() };
        let client = Client::connect(servers.endpoints(), options)?;
        tasks.push(tokio::spawn(write(client, number, Arc::clone(&load))));
    }
    let mut gaps = Vec::new();
    for kill in 0..kills {
        let leader = servers.leader().await?;
        // All three have something in common before one goes.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut acknowledged = load.acknowledged.subscribe();
        let (killed_at, killed) = (load.now(), Instant::now());
        let gone = servers.kill(leader)?;
        acknowledged.wait_for(|newest| *newest > killed_at).await?;
        gaps.push(killed.elapsed());
        drop(gone);
        servers.start(leader)?;
        if kill % 20 == 19 {
            eprintln!("{} kills, {} writes", kill + 1, load.writes.load(Ordering::Relaxed));
        }
    }
    load.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await?;
    }
    gaps.sort();
    let writes = load.writes.load(Ordering::Relaxed);
    println!(
        "{kills} kills of the leader, {writers} writers, {writes} writes, election timeout T = {timeout_ms} ms"
    );
    println!("| writable again after | ms | in T |\n|---|---|---|");
    for (name, at) in [("p50", 500), ("p90", 900), ("p99", 990), ("worst", 1000)] {
        let gap = quantile(&gaps, at);
        println!("| {name} | {} | {:.2} |", gap.as_millis(), gap.as_secs_f64() * 1000.0 / timeout_ms as f64);
    }
    Ok(())
}
