//! All nodes killed and started again with a long log: when is the first linearizable read answered?
//!
//! Snapshots by count and bytes are off, so that the whole log stays. The files were just written, so that the page
//! cache is warm (the row says so).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_client::{Client, ClientOptions};

use crate::process::{Servers, peak_kib, pss_kib};
use crate::{Failure, Flags};

/// Writes `bytes` of values of `value_bytes`, all under keys of their own or over and over the same thousand.
pub async fn fill(endpoints: &[String], bytes: u64, value_bytes: usize, keys: u64) -> Result<(), Failure> {
    let total = bytes / value_bytes as u64;
    let next = Arc::new(AtomicU64::new(0));
    // On a busy machine some writes take long; all of them may be repeated.
    let options = ClientOptions { deadline: Duration::from_secs(120), ..ClientOptions::default() };
    let client = Client::connect(endpoints.to_vec(), options)?;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..128 {
        let (client, next) = (client.clone(), Arc::clone(&next));
        writers.spawn(async move {
            let mut state = 0x9E37_79B9_7F4A_7C15u64;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return Ok::<(), quorate_client::ClientError>(());
                }
                // Not compressible: a table on disk is as large as what was written.
                let mut value = Vec::with_capacity(value_bytes + 8);
                state ^= number;
                while value.len() < value_bytes {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    value.extend_from_slice(&state.to_le_bytes());
                }
                value.truncate(value_bytes);
                let key = format!("key-{:012}", number % keys);
                while let Err(error) = client.put(key.clone(), value.clone()).await {
                    if !matches!(error, quorate_client::ClientError::OutcomeUnknown { .. }) {
                        return Err(error);
                    }
                }
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(())
}

pub async fn run(flags: &Flags) -> Result<(), Failure> {
    let (binary, scratch) = (flags.binary()?, flags.scratch()?);
    let (mib, value_bytes): (u64, usize) = (flags.get("--mib", 1024), flags.get("--value-bytes", 1024));
    let keys: u64 = flags.get("--keys", u64::MAX);
    let timeout_ms: u64 = flags.get("--election-timeout-ms", 1000);
    let runs: usize = flags.get("--runs", 3);
    let timeout_text = timeout_ms.to_string();
    let policy = [
        "--election-timeout-ms",
        &timeout_text,
        "--snapshot-entries",
        "0",
        "--snapshot-bytes",
        "0",
        "--log",
        "info",
    ];
    let mut servers = Servers::new(&binary, scratch.path(), flags.get("--nodes", 3), &policy);
    servers.start_all()?;
    let begun = Instant::now();
    fill(&servers.endpoints(), mib << 20, value_bytes, keys).await?;
    eprintln!("{mib} MiB written in {:.1} s", begun.elapsed().as_secs_f64());
    println!("log of {mib} MiB, values of {value_bytes} B, T = {timeout_ms} ms");
    println!(
        "| run | all ready, s | first linearizable read, s | most memory of a node, MiB | PSS after, MiB |\n|---|---|---|---|---|"
    );
    for run in 1..=runs {
        servers.kill_all();
        let begun = Instant::now();
        let mut outputs = Vec::new();
        for node in servers.endpoints().iter().enumerate().map(|(at, _)| at + 1) {
            outputs.push(servers.spawn(node)?);
        }
        let read = loop {
            let options = ClientOptions { deadline: Duration::from_secs(60), ..ClientOptions::default() };
            let client = Client::connect(servers.endpoints(), options)?;
            match client.get("key-000000000001").await {
                Ok(Some(_)) => break begun.elapsed(),
                Ok(None) => return Err("a write is gone".into()),
                Err(error) if begun.elapsed() > Duration::from_secs(120) => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let ready = tokio::task::spawn_blocking(move || {
            use std::io::BufRead as _;
            outputs.iter_mut().try_for_each(|output| output.read_line(&mut String::new()).map(drop))
        });
        ready.await??;
        let ready = begun.elapsed();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let most = servers.pids().iter().filter_map(|pid| peak_kib(*pid)).max().unwrap_or_default() / 1024;
        let after = servers.pids().iter().filter_map(|pid| pss_kib(*pid)).max().unwrap_or_default() / 1024;
        println!("| {run} | {:.2} | {:.2} | {most} | {after} |", ready.as_secs_f64(), read.as_secs_f64());
    }
    Ok(())
}
