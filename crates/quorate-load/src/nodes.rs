//! What the nodes say about themselves before and after: their `/metrics`, and the difference.
//!
//! ```text
//!   GET /metrics  ──► figures before ──┐
//!        (measured phase)              ├──► used: processor time, syncs, bytes
//!   GET /metrics  ──► figures after ───┘
//! ```
//!
//! * A node that does not answer, or started anew in between, has no difference; it is still listed.
//! * Nothing of the phase is under way when figures are read: they are of exactly its operations, and of what the
//!   nodes do by themselves meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// More than any node says.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// The figures of a node at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Whether it led.
    pub leads: bool,
    /// Its term.
    pub term: u64,
    /// Processor time, if it says so.
    pub cpu_seconds: Option<f64>,
    /// Memory that is resident, if it says so.
    pub resident_bytes: Option<u64>,
    /// Syncs of the log.
    pub log_syncs: u64,
    /// Bytes written to the log.
    pub log_written_bytes: u64,
    /// Bytes that went to disks, of the log and of everything else, if it says so.
    pub disk_written_bytes: Option<u64>,
    /// Requests that it answered with success, by operation (`put`, `get`, …).
    pub answered: BTreeMap<String, u64>,
}

impl Sample {
    /// Reads the text of `/metrics`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut sample = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let whole = whole(value);
            match name {
                "quorate_is_leader" => sample.leads = value > 0.0,
                "quorate_term" => sample.term = whole,
                "quorate_process_cpu_seconds_total" => sample.cpu_seconds = Some(value),
                "quorate_process_resident_bytes" => sample.resident_bytes = Some(whole),
                "quorate_process_disk_written_bytes_total" => sample.disk_written_bytes = Some(whole),
                "quorate_log_syncs_total" => sample.log_syncs = whole,
                "quorate_log_written_bytes_total" => sample.log_written_bytes = whole,
                _ => {
                    if let Some(operation) = answered_operation(name) {
                        *sample.answered.entry(operation.to_owned()).or_default() += whole;
                    }
                }
            }
        }
        sample
    }
}

/// The operation in `quorate_requests_total{operation="put",code="ok"}`. A read that finds nothing over HTTP has
/// another code; the client library's reads are `ok` either way.
fn answered_operation(name: &str) -> Option<&str> {
    let labels = name.strip_prefix("quorate_requests_total{")?.strip_suffix('}')?;
    let label = |wanted: &str| {
        labels.split(',').find_map(|label| label.strip_prefix(wanted)?.strip_prefix("=\"")?.strip_suffix('"'))
    };
    (label("code")? == "ok").then(|| label("operation"))?
}

#[expect(clippy::cast_possible_truncation, reason = "saturating, and of figures that are whole numbers")]
fn whole(value: f64) -> u64 {
    value as u64
}

/// What a node used between two samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// Processor time.
    pub cpu_seconds: Option<f64>,
    /// Syncs of the log.
    pub log_syncs: u64,
    /// Bytes written to the log.
    pub log_written_bytes: u64,
    /// Bytes that went to disks.
    pub disk_written_bytes: Option<u64>,
    /// Requests that it answered with success, by operation.
    pub answered: BTreeMap<String, u64>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its number; zero if it could not be asked for it.
    pub id: u64,
    /// Where clients reach it.
    pub address: String,
    /// Before the measured phase.
    pub before: Option<Sample>,
    /// After it.
    pub after: Option<Sample>,
}

impl Node {
    /// What it used, unless a sample is missing or it started anew in between.
    #[must_use]
    pub fn used(&self) -> Option<Used> {
        let (before, after) = (self.before.as_ref()?, self.after.as_ref()?);
        let difference = |before: Option<u64>, after: Option<u64>| after?.checked_sub(before?);
        let cpu_seconds = match (before.cpu_seconds, after.cpu_seconds) {
            (Some(before), Some(after)) if after >= before => Some(after - before),
            (Some(_), Some(_)) => return None,
            _ => None,
        };
        let answered = after.answered.iter().map(|(operation, count)| {
            let before = before.answered.get(operation).copied().unwrap_or(0);
            Some((operation.clone(), count.checked_sub(before)?))
        });
        Some(Used {
            cpu_seconds,
            log_syncs: after.log_syncs.checked_sub(before.log_syncs)?,
            log_written_bytes: after.log_written_bytes.checked_sub(before.log_written_bytes)?,
            disk_written_bytes: difference(before.disk_written_bytes, after.disk_written_bytes),
            answered: answered.collect::<Option<_>>()?,
        })
    }

    /// Whether it led at the end.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.after.as_ref().is_some_and(|sample| sample.leads)
    }
}

/// Whether the leader was the same before and after, and its term.
pub(crate) fn leader_changed(nodes: &[Node]) -> bool {
    let leader = |sample: fn(&Node) -> Option<&Sample>| {
        let mut leading = nodes.iter().filter_map(|node| Some((node.id, sample(node)?)));
        leading.find(|(_, sample)| sample.leads).map(|(id, sample)| (id, sample.term))
    };
    leader(|node| node.before.as_ref()) != leader(|node| node.after.as_ref())
}

/// Asks all nodes at once. In the order of `addresses`.
pub(crate) async fn sample_all(addresses: &[String]) -> Vec<Option<Sample>> {
    let mut asking = tokio::task::JoinSet::new();
    for (place, address) in addresses.iter().enumerate() {
        let address = address.clone();
        asking.spawn(async move { (place, timeout(ANSWER_TIMEOUT, read_metrics(&address)).await) });
    }
    let mut samples = vec![None; addresses.len()];
    while let Some(Ok((place, answer))) = asking.join_next().await {
        samples[place] = answer.ok().and_then(Result::ok).flatten();
    }
    samples
}

async fn read_metrics(address: &str) -> std::io::Result<Option<Sample>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(TEXT_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Some(Sample::parse(body)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP quorate_term The current term.\n\
        quorate_requests_total{operation=\"put\",code=\"ok\"} 12\n\
        quorate_requests_total{operation=\"put\",code=\"busy\"} 5\n\
        quorate_requests_total{code=\"ok\",operation=\"get\"} 3\n\
        quorate_is_leader 1\nquorate_term 7\nquorate_log_syncs_total 40\n\
        quorate_log_written_bytes_total 4096\nquorate_process_cpu_seconds_total 1.25\n\
        quorate_process_resident_bytes 1048576\nnonsense\nmore nonsense here\n# EOF\n";

    fn node(before: &Sample, after: &Sample) -> Node {
        let address = "a:1".to_owned();
        Node { id: 1, address, before: Some(before.clone()), after: Some(after.clone()) }
    }

    #[test]
    fn figures_are_read_from_the_text_of_a_node() {
        let sample = Sample::parse(TEXT);
        assert!(sample.leads);
        assert_eq!((sample.term, sample.log_syncs, sample.log_written_bytes), (7, 40, 4096));
        assert_eq!((sample.cpu_seconds, sample.resident_bytes), (Some(1.25), Some(1 << 20)));
        assert_eq!(sample.disk_written_bytes, None);
        assert_eq!(sample.answered, BTreeMap::from([("put".to_owned(), 12), ("get".to_owned(), 3)]));
    }

    #[test]
    fn a_node_that_started_anew_has_no_difference() {
        let before = Sample::parse(TEXT);
        let mut after = before.clone();
        after.log_syncs += 10;
        after.cpu_seconds = Some(2.0);
        after.answered.insert("put".to_owned(), 20);
        let used = node(&before, &after).used().unwrap();
        assert_eq!((used.log_syncs, used.cpu_seconds, used.answered["put"]), (10, Some(0.75), 8));
        assert_eq!(node(&after, &before).used(), None);
        assert_eq!(Node { after: None, ..node(&before, &after) }.used(), None);
        assert!(!leader_changed(&[node(&before, &after)]));
        after.term += 1;
        assert!(leader_changed(&[node(&before, &after)]));
    }
}
