//! A run for people: what was done, how quickly, and what it cost the nodes.

use quorate_load::{Node, Summary, Tally, time_text};

use crate::output;

/// Longer examples of failures are cut.
const EXAMPLE_CHARS_MAX: usize = 120;

/// The tables.
pub(crate) fn text(summary: &Summary) -> String {
    let mut parts = vec![summary.load_text(), operations(summary)];
    if !summary.failures.is_empty() {
        parts.push(failures(summary));
    }
    if !summary.nodes.is_empty() {
        parts.push(nodes(summary));
    }
    if summary.leader_changed {
        parts.push("Leadership moved during the run.".to_owned());
    }
    if summary.interrupted {
        parts.push("Ended early: these are the figures so far.".to_owned());
    }
    parts.join("\n\n")
}

fn operations(summary: &Summary) -> String {
    let mut table =
        output::table(["OPERATION", "PER SECOND", "DONE", "FAILED", "P50", "P90", "P99", "P99.9", "MAX"]);
    let mut add = |name: &str, tally: &Tally| {
        let time = |percentile: f64| {
            if tally.done() == 0 {
                return "-".to_owned();
            }
            time_text(tally.latency.value_at_percentile(percentile))
        };
        table.add_row([
            name.to_owned(),
            format!("{:.0}", summary.per_second(tally.done())),
            tally.done().to_string(),
            tally.failed.to_string(),
            time(50.0),
            time(90.0),
            time(99.0),
            time(99.9),
            time(100.0),
        ]);
    };
    for (kind, tally) in &summary.kinds {
        add(kind.name(), tally);
    }
    if summary.kinds.len() != 1 {
        add("all", &summary.all);
    }
    let mut text = output::render(&table);
    if summary.all.not_found > 0 {
        text.push_str(&format!("\n{} reads found no value.", summary.all.not_found));
    }
    text
}

fn failures(summary: &Summary) -> String {
    let mut table = output::table(["FAILURE", "COUNT", "THE FIRST ONE SAID"]);
    for (kind, failures) in &summary.failures {
        let example: String = failures.example.chars().take(EXAMPLE_CHARS_MAX).collect();
        table.add_row([(*kind).to_owned(), failures.count.to_string(), example]);
    }
    output::render(&table)
}

fn nodes(summary: &Summary) -> String {
    let mut table = output::table([
        "NODE",
        "ROLE",
        "CPU/OP",
        "SYNCS/WRITE",
        "LOG B/PAYLOAD B",
        "DISK B/PAYLOAD B",
        "MEMORY",
    ]);
    for node in &summary.nodes {
        table.add_row(node_row(summary, node));
    }
    output::render(&table)
}

fn node_row(summary: &Summary, node: &Node) -> [String; 7] {
    let used = node.used();
    let used = used.as_ref();
    let text = |figure: Option<String>| figure.unwrap_or_else(|| "-".to_owned());
    let role = match &node.after {
        Some(sample) if sample.leads => "leader",
        Some(_) => "follower",
        None => "silent",
    };
    let cpu = used.and_then(|used| summary.cpu_micros_per_operation(used.cpu_seconds?));
    let syncs = used.and_then(|used| summary.per_write(used.log_syncs));
    let log = used.and_then(|used| summary.per_payload_byte(used.log_written_bytes));
    let disk = used.and_then(|used| summary.per_payload_byte(used.disk_written_bytes?));
    let memory = node.after.as_ref().and_then(|sample| sample.resident_bytes);
    [
        node.id.to_string(),
        role.to_owned(),
        text(cpu.map(|micros| format!("{micros:.1} µs"))),
        text(syncs.map(|syncs| format!("{syncs:.3}"))),
        text(log.map(|ratio| format!("{ratio:.2}"))),
        text(disk.map(|ratio| format!("{ratio:.2}"))),
        text(memory.map(|bytes| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)))),
    ]
}
