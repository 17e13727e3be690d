//! A run as a page: one file that needs no network, no script and no colour to be read.
//!
//! * Each drawing has the same figures as a table below it.
//! * The colours follow the reader's light or dark setting, and can be told apart without seeing red or green.
//! * What comes from outside (addresses, messages) is escaped.

use std::fmt::Write as _;
use std::time::Duration;

use crate::summary::{PERCENTILES, Summary, time_text};
use crate::svg::{Axis, Line, chart, escape};

const STYLE: &str = "
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --faint: #d0d7de; --soft: #57606a;
  --one: #0b62b8; --two: #b35900; --three: #6639a6; }
@media (prefers-color-scheme: dark) { :root { --back: #14171c; --text: #e6e8eb; --faint: #343a43; --soft: #9aa4b0;
  --one: #6cb2ff; --two: #f0a04b; --three: #c39bff; } }
body { background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; max-width: 52rem;
  margin: 2rem auto; padding: 0 1rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--faint); stroke-width: 1; } .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line1 { stroke: var(--one); } .line2 { stroke: var(--two); stroke-dasharray: 7 4; }
.line3 { stroke: var(--three); stroke-dasharray: 2 3; }
.legend { color: var(--soft); margin: 0 0 .5rem; } .legend span { margin-right: 1rem; white-space: nowrap; }
.key { display: inline-block; width: 1.6rem; border-top: 3px solid; margin-right: .4rem; vertical-align: middle; }
.key1 { color: var(--one); } .key2 { color: var(--two); border-top-style: dashed; }
.key3 { color: var(--three); border-top-style: dotted; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid var(--faint); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } summary { cursor: pointer; color: var(--soft); }
";

/// The page.
#[must_use]
pub fn page(summary: &Summary) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>quorate bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>quorate bench</h1>\n<p>{}</p>\n",
        escape(&summary.load_text())
    );
    if summary.interrupted {
        page.push_str("<p><strong>The run was ended early: these are the figures so far.</strong></p>\n");
    }
    if summary.leader_changed {
        page.push_str("<p><strong>Leadership moved during the run.</strong></p>\n");
    }
    page.push_str(&operations_table(summary));
    page.push_str(&failures_table(summary));
    page.push_str("<h2>Throughput over time</h2>\n");
    page.push_str(&throughput(summary));
    page.push_str("<h2>Latency over time</h2>\n");
    page.push_str(&latency(summary));
    page.push_str(&timeline_table(summary));
    page.push_str("<h2>Distribution of latency</h2>\n");
    page.push_str(&distribution(summary));
    page.push_str("<h2>Nodes</h2>\n");
    page.push_str(&nodes_table(summary));
    page.push_str("</body>\n</html>\n");
    page
}

fn operations_table(summary: &Summary) -> String {
    let mut rows: Vec<(&str, &crate::record::Tally)> =
        summary.kinds.iter().map(|(kind, tally)| (kind.name(), tally)).collect();
    if rows.len() > 1 {
        rows.push(("all", &summary.all));
    }
    let rows = rows.into_iter().map(|(name, tally)| {
        let mut cells = vec![
            name.to_owned(),
            format!("{:.0}", summary.per_second(tally.done())),
            tally.done().to_string(),
            tally.failed.to_string(),
        ];
        let percentiles = PERCENTILES.map(|(percentile, _)| tally.latency.value_at_percentile(percentile));
        let times = percentiles.into_iter().chain([tally.latency.max()]);
        cells.extend(times.map(|nanos| if tally.done() == 0 { "-".to_owned() } else { time_text(nanos) }));
        cells
    });
    let header = ["operation", "a second", "done", "failed", "p50", "p90", "p99", "p99.9", "max"];
    table(&header, rows)
}

fn failures_table(summary: &Summary) -> String {
    if summary.failures.is_empty() {
        return String::new();
    }
    let rows = summary
        .failures
        .iter()
        .map(|(kind, it)| vec![(*kind).to_owned(), it.count.to_string(), it.example.clone()]);
    format!("<h2>Failures</h2>\n{}", table(&["kind", "count", "the first one said"], rows))
}

fn seconds_axis(summary: &Summary) -> Axis {
    let last = summary.windows.last().map_or(Duration::ZERO, |window| window.ends);
    Axis::linear("seconds", last.as_secs_f64(), |value| format!("{value}"))
}

fn throughput(summary: &Summary) -> String {
    let points: Vec<(f64, f64)> =
        summary.windows.iter().map(|window| (window.ends.as_secs_f64(), window.per_second())).collect();
    let highest = points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let axis = Axis::linear("operations a second", highest, |value| format!("{value}"));
    let line = Line { name: "done".to_owned(), points };
    let description = format!(
        "Throughput over time: {:.0} operations a second on average, at most {highest:.0}",
        summary.per_second(summary.done())
    );
    chart(&description, &seconds_axis(summary), &axis, &[line])
}

#[expect(clippy::cast_possible_truncation, reason = "nanoseconds of a tick, whole and not negative")]
fn nanos_axis(nanos: impl Iterator<Item = u64> + Clone) -> Axis {
    let lowest = nanos.clone().filter(|nanos| *nanos > 0).min().unwrap_or(1_000);
    let highest = nanos.max().unwrap_or(1_000_000);
    Axis::logarithmic("latency", lowest as f64, highest as f64, |value| time_text(value as u64))
}

fn latency(summary: &Summary) -> String {
    let with_latency: Vec<_> = summary.windows.iter().filter(|window| window.done > 0).collect();
    let p50 = with_latency.iter().map(|window| (window.ends.as_secs_f64(), window.p50_nanos as f64));
    let p99 = with_latency.iter().map(|window| (window.ends.as_secs_f64(), window.p99_nanos as f64));
    let axis = nanos_axis(with_latency.iter().flat_map(|window| [window.p50_nanos, window.p99_nanos]));
    let lines = [
        Line { name: "p50".to_owned(), points: p50.collect() },
        Line { name: "p99".to_owned(), points: p99.collect() },
    ];
    chart("Latency over time, median and 99th percentile", &seconds_axis(summary), &axis, &lines)
}

fn timeline_table(summary: &Summary) -> String {
    let rows = summary.windows.iter().map(|window| {
        vec![
            format!("{:.2}", window.ends.as_secs_f64()),
            format!("{:.0}", window.per_second()),
            window.failed.to_string(),
            time_text(window.p50_nanos),
            time_text(window.p99_nanos),
        ]
    });
    details("over time", &table(&["until second", "a second", "failed", "p50", "p99"], rows))
}

/// How many nines a percentile has: 90 is one, 99 two.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

fn distribution(summary: &Summary) -> String {
    let by_kind: Vec<_> =
        summary.kinds.iter().map(|(kind, tally)| (kind.name(), summary.distribution(tally))).collect();
    let below = |points: &[(f64, u64)]| -> Vec<(f64, f64)> {
        let points = points.iter().filter(|(percentile, _)| *percentile < 100.0);
        points.map(|(percentile, nanos)| (nines(*percentile), *nanos as f64)).collect()
    };
    let axis = nanos_axis(by_kind.iter().flat_map(|(_, points)| points.iter().map(|(_, nanos)| *nanos)));
    let lines: Vec<Line> = by_kind
        .iter()
        .map(|(name, points)| Line { name: (*name).to_owned(), points: below(points) })
        .collect();
    let places = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999];
    let furthest = lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x).fold(1.0, f64::max);
    let ticks = places.into_iter().filter(|place| nines(*place) <= furthest + 0.01);
    let ticks = ticks.map(|place| (nines(place), format!("{place} %"))).collect();
    let across = Axis::with_ticks("percentile", furthest, ticks);
    let drawing = chart("Latency by percentile, one line for each operation", &across, &axis, &lines);
    let rows = by_kind.iter().flat_map(|(name, points)| {
        points.iter().map(move |(percentile, nanos)| {
            vec![(*name).to_owned(), format!("{percentile}"), time_text(*nanos)]
        })
    });
    drawing + &details("by percentile", &table(&["operation", "percentile", "latency"], rows))
}

fn nodes_table(summary: &Summary) -> String {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let rows = summary.nodes.iter().map(|node| {
        let used = node.used();
        let used = used.as_ref();
        let resident = node.after.as_ref().and_then(|sample| sample.resident_bytes);
        vec![
            node.id.to_string(),
            node.address.clone(),
            if node.leads() { "leader" } else { "" }.to_owned(),
            number(used.and_then(|used| summary.cpu_micros_per_operation(used.cpu_seconds?)), 1),
            number(used.and_then(|used| summary.per_write(used.log_syncs)), 3),
            number(used.and_then(|used| summary.per_payload_byte(used.log_written_bytes)), 2),
            number(used.and_then(|used| summary.per_payload_byte(used.disk_written_bytes?)), 2),
            number(resident.map(|bytes| bytes as f64 / f64::from(1 << 20)), 1),
        ]
    });
    let header = [
        "node",
        "address",
        "role",
        "CPU µs an operation",
        "log syncs a write",
        "log bytes a payload byte",
        "disk bytes a payload byte",
        "memory MiB",
    ];
    table(&header, rows)
}

fn details(what: &str, content: &str) -> String {
    format!("<details><summary>The same as a table, {what}</summary>\n{content}</details>\n")
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = "<div class=\"wide\"><table>\n<thead><tr>".to_owned();
    for name in header {
        write!(table, "<th scope=\"col\">{}</th>", escape(name)).expect("writing to a string does not fail");
    }
    table.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        table.push_str("<tr>");
        for cell in row {
            write!(table, "<td>{}</td>", escape(&cell)).expect("writing to a string does not fail");
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</tbody></table></div>\n");
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::summary;

    /// Reads tags as a strict parser would: every one that opens is closed, in order, attributes are quoted.
    fn tags(page: &str) -> Vec<String> {
        let (mut open, mut seen) = (Vec::new(), Vec::new());
        let mut rest = page.strip_prefix("<!doctype html>").unwrap();
        while let Some(at) = rest.find('<') {
            assert!(!rest[..at].contains('>'), "a stray > in {:?}", &rest[..at]);
            let end = rest.find('>').unwrap();
            let tag = &rest[at + 1..end];
            rest = &rest[end + 1..];
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "closed in another order");
            } else {
                let name = tag.split([' ', '/']).next().unwrap().to_owned();
                seen.push(name.clone());
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
        }
        assert!(open.is_empty(), "never closed: {open:?}");
        seen
    }

    #[test]
    fn page_is_well_formed_contains_the_figures_and_needs_no_network() {
        let page = page(&summary());
        let tags = tags(&page);
        let count = |name: &str| tags.iter().filter(|tag| *tag == name).count();
        assert_eq!((count("svg"), count("details"), count("script")), (3, 2, 0));
        assert!(count("polyline") == 4, "throughput, p50, p99, and one distribution");
        for figure in ["500", "1000", "1.00 ms", "10.0 ms", "100 ms", "0.250", "1.30", "busy"] {
            assert!(page.contains(&format!("<td>{figure}</td>")), "no {figure}");
        }
        assert!(page.contains("too &lt;much&gt;"), "what nodes say is text");
        assert!(!page.contains("http") && !page.contains("src=") && !page.contains("href="));
        assert!(page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn page_of_a_run_in_which_nothing_happened_is_still_a_page() {
        let mut summary = summary();
        summary.kinds.clear();
        summary.windows.clear();
        summary.nodes.clear();
        summary.all = crate::record::Tally::new();
        let page = page(&summary);
        tags(&page);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
