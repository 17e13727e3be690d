//! What `/metrics` says, in the text format of Prometheus.
//!
//! Requests are counted as they are answered; everything else is read from the replica, the log, the
//! transport and the kernel when somebody asks. Each server has a registry of its own.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use quorate::{DiskHealth, EventLabel, Node, NodeStats, Raft, RoleName};

use crate::listener::Places;
use crate::process_figures;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

/// A server's figures.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<OperationLabels, Histogram>,
    /// Where the frequent ones are counted: found without looking names up. Made when they happen first, as the others
    /// are.
    frequent: [OnceLock<(Counter, Histogram)>; FREQUENT.len()],
}

/// Operations that happen often and, most of the time, succeed.
const FREQUENT: [&str; 4] = ["put", "get", "delete", "scan"];

impl Metrics {
    pub(crate) fn new(sources: Sources) -> Self {
        let mut registry = Registry::with_prefix("quorate");
        let requests = Family::default();
        registry.register("requests", "Requests answered on the client port", requests.clone());
        let seconds = Family::new_with_constructor(request_buckets as fn() -> Histogram);
        registry.register("request_seconds", "How long requests took", seconds.clone());
        registry.register_collector(Box::new(sources));
        Self { registry, requests, seconds, frequent: Default::default() }
    }

    /// A request was answered.
    pub(crate) fn observe(&self, operation: &'static str, code: &'static str, took: Duration) {
        let seconds = took.as_secs_f64();
        let frequent = FREQUENT.iter().position(|frequent| *frequent == operation).filter(|_| code == "ok");
        if let Some(place) = frequent.and_then(|place| self.frequent.get(place)) {
            let (count, histogram) = place.get_or_init(|| self.series(operation, code));
            count.inc();
            histogram.observe(seconds);
        } else {
            let (count, histogram) = self.series(operation, code);
            count.inc();
            histogram.observe(seconds);
        }
    }

    fn series(&self, operation: &'static str, code: &'static str) -> (Counter, Histogram) {
        let count = self.requests.get_or_create_owned(&RequestLabels { operation, code });
        (count, self.seconds.get_or_create_owned(&OperationLabels { operation }))
    }

    /// All figures as text.
    ///
    /// # Errors
    /// Only if a figure cannot be formatted.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// From 0.1 ms to 13 s.
fn request_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}

/// Where figures are that are read when asked for.
pub(crate) struct Sources {
    /// Connections that are still open must not keep a node running.
    pub(crate) node: Weak<Node>,
    pub(crate) raft: Raft,
    pub(crate) places: Arc<Places>,
    /// See [`ServerConfig::log_lines_dropped`](crate::ServerConfig::log_lines_dropped).
    pub(crate) log_lines_dropped: Option<fn() -> u64>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.raft.status();
        let stats = self.node.upgrade().map(|node| node.stats()).unwrap_or_default();
        let voters = status.membership.voters().count() as u64;
        let members = status.membership.members().count() as u64;
        let gauges: [(&str, &str, u64); 13] = [
            ("is_leader", "1 if this node leads", u64::from(status.role == RoleName::Leader)),
            ("has_leader", "1 if this node knows a leader", u64::from(status.leader.is_some())),
            ("term", "The current term", status.term.0),
            ("last_index", "The last log entry", status.last.index.0),
            ("commit_index", "The highest committed log entry known here", status.commit.0),
            ("applied_index", "The last log entry applied here", status.applied.0),
            ("compacted_index", "The log starts after this", status.compacted.index.0),
            ("snapshot_index", "What the newest snapshot covers", status.snapshot.index.0),
            ("voters", "Members that vote", voters),
            ("learners", "Members that do not vote", members - voters),
            ("log_on_disk_bytes", "Size of the log on disk", stats.log.bytes_on_disk),
            (
                "log_damaged_entries",
                "Entries of the log that were found to be damaged and not given up yet",
                stats.log.damaged_entries,
            ),
            ("peer_connections", "Established connections to other nodes", stats.transport.connections),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let counters: [(&str, &str, u64); 10] = [
            ("log_syncs", "Times the log was synced to disk", stats.log.syncs),
            ("log_batches", "Batches written to the log", stats.log.batches),
            ("log_written_bytes", "Bytes written to the log", stats.log.bytes_written),
            ("peer_messages_sent", "Messages sent to other nodes", stats.transport.messages_sent),
            (
                "peer_messages_received",
                "Messages received from other nodes",
                stats.transport.messages_received,
            ),
            ("peer_sent_bytes", "Bytes sent to other nodes", stats.transport.bytes_sent),
            ("peer_received_bytes", "Bytes received from other nodes", stats.transport.bytes_received),
            (
                "peer_messages_unsent",
                "Messages to other nodes that were dropped",
                stats.transport.outbound_dropped,
            ),
            (
                "peer_messages_untaken",
                "Messages from other nodes that were dropped",
                stats.transport.inbound_dropped,
            ),
            (
                "peer_handshakes_refused",
                "Handshakes refused by either side",
                stats.transport.handshakes_refused,
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                <ConstCounter<u64> as TypedMetric>::TYPE,
            )?)?;
        }
        self.encode_users(&mut encoder)?;
        encode_process(&mut encoder)?;
        self.encode_events(&mut encoder)?;
        encode_disk(&mut encoder, &stats, status.disk)?;
        self.encode_role(encoder, status.role)
    }
}

/// How much is free, and one series per state of the log's disk, 1 for the current one.
fn encode_disk(
    encoder: &mut DescriptorEncoder<'_>,
    stats: &NodeStats,
    of_writes: DiskHealth,
) -> Result<(), fmt::Error> {
    if let Some(free_bytes) = stats.disk_free_bytes {
        let help = "Free space on the disk of the data directory, where the least is free";
        let gauge = ConstGauge::new(free_bytes);
        gauge.encode(encoder.encode_descriptor("disk_free_bytes", help, None, MetricType::Gauge)?)?;
    }
    // The log refuses entries before a write of the group has found out.
    let current = if stats.log.is_full { DiskHealth::Full } else { of_writes };
    let help = "1 for what the disk of the log does: whether it works, does not finish a write, or is full";
    let mut family = encoder.encode_descriptor("log_disk", help, None, MetricType::Gauge)?;
    let states = [(DiskHealth::Works, "works"), (DiskHealth::Stalled, "stalled"), (DiskHealth::Full, "full")];
    for (state, name) in states {
        let gauge = ConstGauge::new(u64::from(state == current));
        gauge.encode(family.encode_family(&[("state", name)])?)?;
    }
    Ok(())
}

impl Sources {
    /// Connections of clients, and lines for whoever reads the log.
    fn encode_users(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (taken, max) = (self.places.taken() as u64, self.places.max() as u64);
        let gauges = [
            ("client_connections", "Connections of clients", taken),
            ("client_connections_max", "The most connections of clients", max),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let refused = "Connections of clients beyond the most there may be";
        let dropped = "Lines of the log that were dropped because nobody read them in time";
        let counters = [
            ("client_connections_refused", refused, Some(self.places.refused())),
            ("log_lines_dropped", dropped, self.log_lines_dropped.map(|dropped| dropped())),
        ];
        for (name, help, value) in counters {
            let Some(value) = value else { continue };
            let kind = <ConstCounter<u64> as TypedMetric>::TYPE;
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        Ok(())
    }

    /// One series per event and reason that has happened.
    fn encode_events(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counts = self.node.upgrade().map(|node| node.event_counts()).unwrap_or_default();
        let help = "Changes of role, votes, refused messages, snapshots and the like, with their reasons";
        let kind = <ConstCounter<u64> as TypedMetric>::TYPE;
        let mut family = encoder.encode_descriptor("raft_events", help, None, kind)?;
        for (EventLabel { event, reason }, count) in counts {
            let counter = ConstCounter::new(count);
            counter.encode(family.encode_family(&[("event", event), ("reason", reason)])?)?;
        }
        Ok(())
    }

    /// One series per role, 1 for the current one.
    fn encode_role(&self, mut encoder: DescriptorEncoder<'_>, current: RoleName) -> Result<(), fmt::Error> {
        let mut family =
            encoder.encode_descriptor("role", "1 for the role of this node", None, MetricType::Gauge)?;
        let roles = [
            (RoleName::Follower, "follower"),
            (RoleName::PreCandidate, "pre_candidate"),
            (RoleName::Candidate, "candidate"),
            (RoleName::Leader, "leader"),
        ];
        for (role, name) in roles {
            let gauge = ConstGauge::new(u32::from(role == current));
            gauge.encode(family.encode_family(&[("role", name)])?)?;
        }
        Ok(())
    }
}

/// What the process uses. Figures that the system does not tell are left out.
fn encode_process(encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let counter = <ConstCounter<u64> as TypedMetric>::TYPE;
    let help = "Processor time this process has used";
    let cpu = ConstCounter::new(process_figures::cpu_seconds());
    cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, counter)?)?;
    if let Some(bytes) = process_figures::resident_bytes() {
        let help = "Memory of this process that is resident";
        let kind = MetricType::Gauge;
        ConstGauge::new(bytes).encode(encoder.encode_descriptor(
            "process_resident_bytes",
            help,
            None,
            kind,
        )?)?;
    }
    if let Some(bytes) = process_figures::disk_written_bytes() {
        let help = "Bytes this process made the kernel write to disks";
        let descriptor = encoder.encode_descriptor("process_disk_written_bytes", help, None, counter)?;
        ConstCounter::new(bytes).encode(descriptor)?;
    }
    Ok(())
}
