//! What Quorate costs as it grows. Each sub-command measures one row of docs/bench/scale.md and prints it.
//!
//! ```text
//!   idle       memory of the nodes of a demo that has settled
//!   failover   kill -9 of the leader under load, again and again: when is the group writable again?
//!   restart    all nodes killed and started with a long log: when is the first linearizable read answered?
//!   wal-bytes  bytes handed to the kernel per payload byte
//!   groups     memory and processor time of many idle groups
//!   growth     processor time per write as data and replicas grow
//!   snapshot   install of a snapshot beside the engine alone; writes meanwhile
//! ```
//!
//! `--quorate FILE` names the binary (default: `quorate` beside this one).

mod failover;
mod groups;
mod growth;
mod idle;
mod process;
mod restart;
mod snapshot;
mod wal_bytes;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Whatever stops a measurement.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// `--name value` pairs.
pub struct Flags(Vec<String>);

impl Flags {
    /// The value of a flag, or the default.
    pub fn get<T: FromStr>(&self, name: &str, default: T) -> T {
        let at = self.0.iter().position(|word| word == name);
        at.and_then(|at| self.0.get(at + 1)?.parse().ok()).unwrap_or(default)
    }

    /// The `quorate` binary.
    pub fn binary(&self) -> Result<PathBuf, Failure> {
        let own = std::env::current_exe()?;
        let beside = own.with_file_name("quorate");
        let binary: PathBuf = self.get("--quorate", beside);
        if binary.exists() {
            return Ok(binary);
        }
        Err(format!(
            "{} is not there: cargo build --release -p quorate-cli, and --quorate FILE",
            binary.display()
        )
        .into())
    }

    /// A directory for the run, gone at the end; `--dir` says on which disk.
    pub fn scratch(&self) -> Result<tempfile::TempDir, Failure> {
        Ok(tempfile::tempdir_in(self.get("--dir", std::env::temp_dir()))?)
    }
}

/// The value at `per_mille` of sorted durations.
pub fn quantile(sorted: &[Duration], per_mille: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((sorted.len() * per_mille).div_ceil(1000).saturating_sub(1).min(last))
        .copied()
        .unwrap_or_default()
}

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let flags = Flags(words.collect());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match command.as_str() {
        "idle" => idle::run(&flags),
        "failover" => runtime.block_on(failover::run(&flags)),
        "restart" => runtime.block_on(restart::run(&flags)),
        "wal-bytes" => runtime.block_on(wal_bytes::run(&flags)),
        "growth" => runtime.block_on(growth::run(&flags)),
        "snapshot" => runtime.block_on(snapshot::run(&flags)),
        "groups" => groups::run(&flags),
        "groups-node" => runtime.block_on(groups::node(&flags)),
        _ => {
            Err("usage: scale idle|failover|restart|wal-bytes|groups|growth|snapshot [--flag value …]".into())
        }
    }
}
