//! Load on a Quorate cluster, and honest figures about it: what `quorate bench` does.
//!
//! ```text
//!   Plan ──► run ──► places ──► clients ──► cluster
//!                      │                       │ /metrics, before and after
//!                      └──► histograms ──► Summary ──► JSON, a page with drawings
//! ```
//!
//! * Closed loop says what a number of clients get out of a cluster. Open loop says what users who do not
//!   wait for each other would see: latency counts from the time at which an operation was to begin.
//! * Failures are counted by kind and are in no latency.
//! * The load is put on by the client library, retries and all: a latency is what its user would wait.
//!
//! A plan is checked before anything runs, and says what to write instead:
//!
//! ```
//! use quorate_load::Plan;
//!
//! let plan = Plan { in_flight: 8, connections: 2, ..Plan::default() };
//! plan.check()?;
//! let wrong = Plan { connections: 9, ..plan };
//! assert!(wrong.check().unwrap_err().to_string().contains("say 1 to 8"));
//! # Ok::<(), quorate_load::PlanError>(())
//! ```

mod cluster;
mod html;
mod keys;
mod nodes;
mod pace;
mod plan;
mod record;
mod run;
mod summary;
mod svg;

use std::sync::Arc;
use std::time::Duration;

use quorate_client::{ClientError, ConnectError};
use tokio::sync::watch;

pub use crate::cluster::Transport;
pub use crate::html::page;
pub use crate::keys::Distribution;
pub use crate::nodes::{Node, Sample, Used};
pub use crate::plan::{IN_FLIGHT_MAX, KEYS_MAX, Kind, Mix, Pace, Plan, PlanError, RATE_MAX, VALUE_BYTES_MAX};
pub use crate::record::{Failures, Tally, Window};
pub use crate::run::{Progress, Stage};
pub use crate::summary::{PERCENTILES, Summary, time_text};

use crate::cluster::Cluster;
use crate::run::Run;

/// Why a run came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The plan makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// An endpoint is not an address.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The cluster does not answer, or refuses, already before the load.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Keys could not be written before the measurement.
    #[error("writing the keys first failed: {example}; give fewer --keys, or --no-fill")]
    Fill {
        /// What the first failure said.
        example: String,
    },
}

/// The cluster to put load on.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Client addresses, `host:port`.
    pub endpoints: Vec<String>,
    /// How requests travel.
    pub transport: Transport,
    /// How long one operation may take, retries included.
    pub timeout: Duration,
}

/// Carries out `plan`. `stop` ends it early, with the figures so far; `watcher` hears how it goes, ten times
/// a second at most. Call within a tokio runtime with timers and I/O.
///
/// # Errors
/// See [`LoadError`]. Failures of single operations are in the summary.
pub async fn run(
    plan: &Plan,
    cluster: &ClusterOptions,
    stop: watch::Receiver<bool>,
    watcher: &mut (dyn FnMut(Progress) + Send),
) -> Result<Summary, LoadError> {
    plan.check()?;
    let target = Arc::new(Cluster::connect(plan, &cluster.endpoints, cluster.transport, cluster.timeout)?);
    target.answers().await?;
    target.warm(plan).await?;
    let run = Run::new(plan, target.clone(), stop);
    if plan.fill && plan.mix.reads() {
        let filled = run.fill(watcher).await.tallies;
        if let Some(failures) = filled.failures.values().next() {
            return Err(LoadError::Fill { example: failures.example.clone() });
        }
    }
    if !plan.warmup.is_zero() && !run.is_stopped() {
        run.phase(Stage::Warmup, plan.warmup, watcher).await;
    }
    let (ids, addresses): (Vec<u64>, Vec<String>) =
        target.nodes(&cluster.endpoints).await?.into_iter().unzip();
    let before = nodes::sample_all(&addresses).await;
    let phase = run.phase(Stage::Measure, plan.length, watcher).await;
    let interrupted = run.is_stopped();
    let after = nodes::sample_all(&addresses).await;
    let nodes = ids
        .into_iter()
        .zip(addresses)
        .zip(before.into_iter().zip(after))
        .map(|((id, address), (before, after))| Node { id, address, before, after });
    let nodes = nodes.collect();
    Ok(Summary::new(plan, cluster, phase, nodes, interrupted))
}
