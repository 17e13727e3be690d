//! What a run came to, and the same as JSON. Fields of the JSON are only ever added.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::ClusterOptions;
use crate::cluster::Transport;
use crate::nodes::{self, Node};
use crate::plan::{Kind, Pace, Plan};
use crate::record::{Failures, Tally, Window, per_second};
use crate::run::Phase;

/// The percentiles that results name.
pub const PERCENTILES: [(f64, &str); 4] = [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99_9")];
/// Where the distribution is drawn.
const DISTRIBUTION: [f64; 20] = [
    0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95,
    99.99, 99.999, 100.0,
];
/// The layout of the JSON.
const FORMAT: u32 = 1;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What was asked for.
    pub plan: Plan,
    /// The endpoints that were given.
    pub endpoints: Vec<String>,
    /// How requests travelled.
    pub transport: Transport,
    /// Whether it was ended early.
    pub interrupted: bool,
    /// From the first operation to the last answer, or the end of the plan if that was later.
    pub elapsed: Duration,
    /// By kind, those that occurred.
    pub kinds: Vec<(Kind, Tally)>,
    /// All kinds together.
    pub all: Tally,
    /// By kind of failure.
    pub failures: Vec<(&'static str, Failures)>,
    /// What happened when.
    pub windows: Vec<Window>,
    /// The nodes that the cluster names.
    pub nodes: Vec<Node>,
    /// Leadership moved meanwhile.
    pub leader_changed: bool,
}

impl Summary {
    pub(crate) fn new(
        plan: &Plan,
        cluster: &ClusterOptions,
        phase: Phase,
        nodes: Vec<Node>,
        interrupted: bool,
    ) -> Self {
        let tallies = &phase.tallies;
        let kinds = Kind::ALL.into_iter().filter_map(|kind| Some((kind, tallies.get(kind)?.clone())));
        Self {
            plan: plan.clone(),
            endpoints: cluster.endpoints.clone(),
            transport: cluster.transport,
            interrupted,
            elapsed: phase.elapsed,
            kinds: kinds.collect(),
            all: tallies.together(),
            leader_changed: nodes::leader_changed(&nodes),
            failures: phase.tallies.failures.into_iter().collect(),
            windows: phase.windows,
            nodes,
        }
    }

    /// The load in a sentence.
    #[must_use]
    pub fn load_text(&self) -> String {
        let plan = &self.plan;
        let pace = match plan.pace {
            Pace::Closed => format!("Closed loop, {} in flight", plan.in_flight),
            Pace::Open { per_second } => {
                format!("Open loop, {per_second} operations a second, at most {} in flight", plan.in_flight)
            }
        };
        let (from, to) = (*plan.value_bytes.start(), *plan.value_bytes.end());
        let values = if from == to { format!("{from} bytes") } else { format!("{from} to {to} bytes") };
        format!(
            "{pace} over {} connections ({}); {}; values of {values}; {} keys, {}; {:.1} s measured.",
            plan.connections,
            self.transport.name(),
            plan.mix,
            plan.keys,
            plan.distribution,
            self.elapsed.as_secs_f64()
        )
    }

    /// How many operations were done.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.all.done()
    }

    /// How many failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures.iter().map(|(_, failures)| failures.count).sum()
    }

    /// How many writes were done.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.kinds.iter().find(|(kind, _)| *kind == Kind::Write).map_or(0, |(_, tally)| tally.done())
    }

    /// Operations done a second.
    #[must_use]
    pub fn per_second(&self, done: u64) -> f64 {
        per_second(done, self.elapsed)
    }

    /// What share `of` has in each write; `None` without writes.
    #[must_use]
    pub fn per_write(&self, of: u64) -> Option<f64> {
        ratio(of as f64, self.writes())
    }

    /// How many of `bytes` there are for each byte of keys and values written.
    #[must_use]
    pub fn per_payload_byte(&self, bytes: u64) -> Option<f64> {
        ratio(bytes as f64, self.all.payload_bytes)
    }

    /// Microseconds of processor time for each operation done.
    #[must_use]
    pub fn cpu_micros_per_operation(&self, cpu_seconds: f64) -> Option<f64> {
        ratio(cpu_seconds * 1e6, self.done())
    }

    /// Syncs of all nodes' logs for each write; `None` without writes, or if a node did not say.
    #[must_use]
    pub fn log_syncs_per_write(&self) -> Option<f64> {
        let all: Option<u64> = self.nodes.iter().map(|node| Some(node.used()?.log_syncs)).sum();
        self.per_write(all.filter(|_| !self.nodes.is_empty())?)
    }

    /// The distribution of latency: percentile and nanoseconds, rising. Empty if nothing was done. Percentiles
    /// that so few operations cannot tell from the highest are left out.
    #[must_use]
    pub fn distribution(&self, tally: &Tally) -> Vec<(f64, u64)> {
        let done = tally.done();
        if done == 0 {
            return Vec::new();
        }
        let told =
            |percentile: f64| percentile >= 100.0 || (100.0 - percentile) / 100.0 * done as f64 >= 0.999;
        DISTRIBUTION
            .into_iter()
            .filter(|percentile| told(*percentile))
            .map(|percentile| (percentile, tally.latency.value_at_percentile(percentile)))
            .collect()
    }

    /// Everything, as documented in `docs/bench/quorate-bench.md`.
    #[must_use]
    pub fn json(&self) -> Value {
        let failures: Vec<Value> = self
            .failures
            .iter()
            .map(|(kind, it)| json!({"kind": kind, "count": it.count, "example": it.example}))
            .collect();
        let kinds: Vec<Value> = self
            .kinds
            .iter()
            .map(|(kind, tally)| {
                let mut object = self.tally_json(tally);
                object.insert("operation".to_owned(), json!(kind.name()));
                Value::Object(object)
            })
            .collect();
        let distribution: Vec<Value> = self
            .distribution(&self.all)
            .into_iter()
            .map(|(percentile, nanos)| json!({"percentile": percentile, "microseconds": micros(nanos)}))
            .collect();
        let mut object = self.tally_json(&self.all);
        object.insert("failed".to_owned(), json!(self.failed()));
        let more = json!({
            "format": FORMAT,
            "interrupted": self.interrupted,
            "endpoints": self.endpoints,
            "load": self.load_json(),
            "seconds": self.elapsed.as_secs_f64(),
            "by_operation": kinds,
            "failures": failures,
            "leader_changed": self.leader_changed,
            "log_syncs_per_write": self.log_syncs_per_write(),
            "nodes": self.nodes.iter().map(|node| self.node_json(node)).collect::<Vec<_>>(),
            "timeline": self.windows.iter().map(window_json).collect::<Vec<_>>(),
            "distribution": distribution,
        });
        if let Value::Object(more) = more {
            object.extend(more);
        }
        Value::Object(object)
    }

    fn load_json(&self) -> Value {
        let plan = &self.plan;
        let rate = match plan.pace {
            Pace::Closed => None,
            Pace::Open { per_second } => Some(per_second),
        };
        let mix: Map<String, Value> =
            plan.mix.kinds().map(|(kind, weight)| (kind.name().to_owned(), json!(weight))).collect();
        json!({
            "loop": if rate.is_some() { "open" } else { "closed" },
            "rate": rate,
            "in_flight": plan.in_flight,
            "connections": plan.connections,
            "transport": self.transport.name(),
            "mix": mix,
            "keys": plan.keys,
            "distribution": plan.distribution.to_string(),
            "value_bytes_min": plan.value_bytes.start(),
            "value_bytes_max": plan.value_bytes.end(),
            "warmup_seconds": plan.warmup.as_secs_f64(),
            "planned_seconds": plan.length.as_secs_f64(),
            "seed": plan.seed,
        })
    }

    fn tally_json(&self, tally: &Tally) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("operations".to_owned(), json!(tally.done()));
        object.insert("failed".to_owned(), json!(tally.failed));
        object.insert("not_found".to_owned(), json!(tally.not_found));
        object.insert("operations_per_second".to_owned(), json!(self.per_second(tally.done())));
        object.insert("payload_bytes".to_owned(), json!(tally.payload_bytes));
        let latency = (tally.done() > 0).then(|| {
            let mut latency = Map::new();
            latency.insert("min".to_owned(), json!(micros(tally.latency.min())));
            latency.insert("mean".to_owned(), json!(tally.latency.mean() / 1000.0));
            for (percentile, name) in PERCENTILES {
                let nanos = tally.latency.value_at_percentile(percentile);
                latency.insert(name.to_owned(), json!(micros(nanos)));
            }
            latency.insert("max".to_owned(), json!(micros(tally.latency.max())));
            latency
        });
        object.insert("latency_microseconds".to_owned(), json!(latency));
        object
    }

    fn node_json(&self, node: &Node) -> Value {
        let used = node.used();
        let cpu = used.as_ref().and_then(|used| used.cpu_seconds);
        let disk = used.as_ref().and_then(|used| used.disk_written_bytes);
        let log = used.as_ref().map(|used| used.log_written_bytes);
        let syncs = used.as_ref().map(|used| used.log_syncs);
        json!({
            "node": node.id,
            "address": node.address,
            "leader": node.leads(),
            "answered": used.as_ref().map(|used| &used.answered),
            "cpu_seconds": cpu,
            "cpu_microseconds_per_operation": cpu.and_then(|cpu| self.cpu_micros_per_operation(cpu)),
            "log_syncs": syncs,
            "log_syncs_per_write": syncs.and_then(|syncs| self.per_write(syncs)),
            "log_written_bytes": log,
            "log_bytes_per_payload_byte": log.and_then(|bytes| self.per_payload_byte(bytes)),
            "disk_written_bytes": disk,
            "disk_bytes_per_payload_byte": disk.and_then(|bytes| self.per_payload_byte(bytes)),
            "resident_bytes": node.after.as_ref().and_then(|sample| sample.resident_bytes),
        })
    }
}

fn window_json(window: &Window) -> Value {
    json!({
        "seconds": window.ends.as_secs_f64(),
        "operations": window.done,
        "failed": window.failed,
        "operations_per_second": window.per_second(),
        "p50_microseconds": micros(window.p50_nanos),
        "p99_microseconds": micros(window.p99_nanos),
    })
}

fn ratio(of: f64, to: u64) -> Option<f64> {
    (to > 0).then(|| of / to as f64)
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

/// A latency for people: three digits and a unit.
#[must_use]
pub fn time_text(nanos: u64) -> String {
    let nanos = nanos as f64;
    let (value, unit) = match nanos {
        it if it < 999.5e3 => (it / 1e3, "µs"),
        it if it < 999.5e6 => (it / 1e6, "ms"),
        it => (it / 1e9, "s"),
    };
    match value {
        it if it < 9.995 => format!("{it:.2} {unit}"),
        it if it < 99.95 => format!("{it:.1} {unit}"),
        it => format!("{it:.0} {unit}"),
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
pub(crate) mod tests;
