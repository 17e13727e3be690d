//! `quorate bench`: load on a cluster, and what came of it. The load and its figures are `quorate-load`'s; here are
//! the cluster it is put on, the line that shows how it goes, and the table.
//!
//! ```text
//!   --endpoints (flag, variable, file) ──► that cluster ─┐
//!   nothing ──► three nodes in a temporary directory ────┴──► quorate_load::run ──► table │ JSON, --report
//! ```
//!
//! * Ctrl-C ends the run early with the figures so far; a second one ends it at once.
//! * A cluster that was started here is stopped and removed however the run ends.

mod nodes;
mod table;

use std::io::{IsTerminal, Write};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use quorate_load::{
    ClusterOptions, Kind, LoadError, Pace, Plan, Progress, Stage, Summary, Transport, time_text,
};
use tokio::sync::watch;

use self::nodes::Nodes;
use crate::args::BenchArgs;
use crate::config::{ClientConfig, Layers, OutputFormat, byte_count};
use crate::data;
use crate::demo::Signals;
use crate::failure::{Exit, Failure};
use crate::output;

/// How many connections when nobody says.
const CONNECTIONS: usize = 4;
/// Files that are open besides connections.
const FILES_BESIDES: u64 = 256;

/// `bench`.
pub(crate) fn run(args: &BenchArgs, layers: &Layers) -> Result<(), Failure> {
    let config = ClientConfig::resolve(layers)?;
    let plan = plan(args)?;
    let given = layers.is_given("endpoints");
    if given && (args.nodes.is_some() || args.dir.is_some()) {
        return Err(Failure::usage(
            "--nodes and --dir are for a cluster that bench starts itself: leave them out, or leave --endpoints out (and QUORATE_ENDPOINTS, and endpoints in the file)",
        ));
    }
    if let Some(path) = &args.report {
        writable(path)?;
    }
    allow_files(&plan, args.nodes.unwrap_or(nodes::COUNT))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::error(format!("cannot start: {error}")))?;
    let result = runtime.block_on(bench(args, &plan, config, given));
    runtime.shutdown_background();
    result
}

async fn bench(args: &BenchArgs, plan: &Plan, config: ClientConfig, given: bool) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let mut config = config;
    let mut started = None;
    if !given {
        let count = args.nodes.unwrap_or(nodes::COUNT);
        let wish = nodes::Wish { count, leases: plan.mix.has(Kind::Lease) };
        let starting = Nodes::start(wish, args.dir.as_deref());
        let nodes = tokio::select! {
            nodes = starting => nodes?,
            () = signals.next() => return Err(interrupted()),
        };
        crate::say(&nodes.describe());
        config.endpoints = nodes.endpoints();
        started = Some(nodes);
    }
    let measured = measure(args, plan, &config, &mut signals).await;
    if let Some(nodes) = started {
        nodes.stop().await?;
    }
    show(args, &config, &measured?)
}

/// Runs the load until it is over or a signal comes.
async fn measure(
    args: &BenchArgs,
    plan: &Plan,
    config: &ClientConfig,
    signals: &mut Signals,
) -> Result<Summary, Failure> {
    let transport = if args.unary { Transport::Unary } else { Transport::Stream };
    let cluster = ClusterOptions { endpoints: config.endpoints.clone(), transport, timeout: config.timeout };
    let (stop, stopped) = watch::channel(false);
    let line = Line::new(plan);
    let mut watcher = |progress: Progress| line.show(&progress);
    let summary = {
        let mut running = std::pin::pin!(quorate_load::run(plan, &cluster, stopped, &mut watcher));
        tokio::select! {
            summary = &mut running => Some(summary),
            () = signals.next() => {
                stop.send_replace(true);
                tokio::select! {
                    summary = &mut running => Some(summary),
                    () = signals.next() => None,
                }
            }
        }
    };
    line.clear();
    summary.ok_or_else(interrupted)?.map_err(|error| match error {
        LoadError::Client(error) => data::failure(error, config),
        LoadError::Plan(error) => Failure::usage(error),
        LoadError::Connect(error) => Failure::usage(error),
        LoadError::Fill { .. } => Failure::new(Exit::Unavailable, error),
    })
}

fn show(args: &BenchArgs, config: &ClientConfig, summary: &Summary) -> Result<(), Failure> {
    if let Some(path) = &args.report {
        std::fs::write(path, quorate_load::page(summary))
            .map_err(|error| Failure::error(format!("cannot write {}: {error}", path.display())))?;
    }
    if args.json || config.output == OutputFormat::Json {
        output::json(&summary.json())?;
    } else {
        output::line(table::text(summary))?;
    }
    match summary.failures.first() {
        _ if summary.done() > 0 => Ok(()),
        _ if summary.interrupted => Err(interrupted()),
        Some((kind, failures)) => Err(Failure::error(format!(
            "no operation succeeded, {} failed; the first ({kind}): {}",
            summary.failed(),
            failures.example
        ))),
        None => Err(Failure::error("no operation was done: give more --seconds")),
    }
}

fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "stopped before anything was measured")
}

/// What was asked for, checked.
fn plan(args: &BenchArgs) -> Result<Plan, Failure> {
    let plan = Plan {
        mix: args.mix.clone(),
        keys: args.keys,
        distribution: args.distribution,
        prefix: args.prefix.clone(),
        value_bytes: args.value_bytes.clone(),
        connections: args.connections.unwrap_or_else(|| args.in_flight.clamp(1, CONNECTIONS)),
        in_flight: args.in_flight,
        pace: args.rate.map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
        warmup: args.warmup,
        length: args.seconds,
        fill: !args.no_fill,
        seed: args.seed,
    };
    plan.check().map_err(Failure::usage)?;
    Ok(plan)
}

/// `128`, `4KiB` or `64..4KiB`.
pub(crate) fn value_sizes(text: &str) -> Result<RangeInclusive<usize>, String> {
    let size = |text: &str| {
        let bytes = byte_count(text.trim()).ok().and_then(|bytes| usize::try_from(bytes).ok());
        bytes.ok_or_else(|| "write a size or FROM..TO, for example 128, 4KiB or 64..4KiB".to_owned())
    };
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    Ok(size(from)?..=size(to)?)
}

/// A number of seconds, with a fraction if need be.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    /// Four weeks.
    const SECONDS_MAX: f64 = 28.0 * 86_400.0;
    let seconds: Option<f64> = text.strip_suffix('s').unwrap_or(text).parse().ok();
    seconds
        .filter(|seconds| *seconds <= SECONDS_MAX)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "write a number of seconds, for example 30 or 0.5".to_owned())
}

/// A report that cannot be written is said before the run, not after it.
fn writable(path: &Path) -> Result<(), Failure> {
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).map_err(|error| {
        Failure::usage(format!(
            "--report: cannot write {}: {error}; name a file in a folder that exists",
            path.display()
        ))
    })
}

/// Many connections need many open files: as many as the system allows are asked for.
fn allow_files(plan: &Plan, nodes: u64) -> Result<(), Failure> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // Each client may be connected to every node, and a node to each client.
    let needed = plan.connections as u64 * nodes.max(1) + FILES_BESIDES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let wanted = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
    if raised.is_ok() && wanted >= needed {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{} connections need {needed} open files and {wanted} are allowed: give fewer --connections, or raise the limit (ulimit -n)",
        plan.connections
    )))
}

/// The one line that shows how it goes; nothing unless somebody watches.
struct Line {
    shown: bool,
    warmup: Duration,
    length: Duration,
}

impl Line {
    fn new(plan: &Plan) -> Self {
        Self { shown: std::io::stderr().is_terminal(), warmup: plan.warmup, length: plan.length }
    }

    fn show(&self, progress: &Progress) {
        if self.shown {
            write(&format!("\r\x1b[2K{}", self.text(progress)));
        }
    }

    fn text(&self, progress: &Progress) -> String {
        let (window, elapsed) = (progress.window, progress.elapsed.as_secs_f64());
        let stage = match progress.stage {
            Stage::Fill => format!("writing the keys, {:.0} %", 100.0 * progress.part),
            Stage::Warmup => format!("warm-up {elapsed:.1}/{} s", self.warmup.as_secs_f64()),
            Stage::Measure => format!("{elapsed:.1}/{} s", self.length.as_secs_f64()),
        };
        format!(
            "{stage}  {:.0}/s  p50 {}  p99 {}  failed {}",
            window.per_second(),
            time_text(window.p50_nanos),
            time_text(window.p99_nanos),
            progress.failed
        )
    }

    fn clear(&self) {
        if self.shown {
            write("\r\x1b[2K");
        }
    }
}

fn write(text: &str) {
    let mut out = std::io::stderr().lock();
    // A terminal that went away is no reason to stop.
    let _written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_written_as_people_write_them() {
        assert_eq!(value_sizes("128"), Ok(128..=128));
        assert_eq!(value_sizes("64..4KiB"), Ok(64..=4096));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("30s"), Ok(Duration::from_secs(30)));
        for wrong in ["", "x", "1..", "..2", "-1"] {
            assert!(value_sizes(wrong).unwrap_err().contains("64..4KiB"), "{wrong}");
        }
        for wrong in ["", "x", "-1", "inf", "NaN", "1e99"] {
            assert!(seconds(wrong).unwrap_err().contains("0.5"), "{wrong}");
        }
    }
}
