//! What a caller chooses.

use std::time::Duration;

use bytes::Bytes;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How long one call may take, retries included. Default 10 s.
    pub deadline: Duration,
    /// How long one node may take to answer before another is asked. Default 3 s.
    pub attempt_timeout: Duration,
    /// How long connecting to one node may take. Default 1 s.
    pub connect_timeout: Duration,
    /// The first pause between retries; doubles, with jitter. Default 10 ms.
    pub backoff_min: Duration,
    /// The longest pause between retries. Default 500 ms.
    pub backoff_max: Duration,
    /// The most requests in flight; more wait their turn. Default 1,024.
    pub in_flight_max: usize,
    /// Refuse to talk to nodes of another cluster.
    pub cluster_id: Option<u64>,
    /// Send every request as a call of its own instead of over the pipelined stream: slower, and what
    /// programs without this library do. Default false.
    pub unary: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(500),
            in_flight_max: 1024,
            cluster_id: None,
            unary: false,
        }
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// As fresh as any answer or acknowledgement given before the question was asked.
    #[default]
    Linearizable,
    /// The same without asking anybody, at a leader that holds a lease; elsewhere, and on servers whose leases are
    /// switched off (the default), a majority is asked. Trusts the clocks of the servers.
    Lease,
    /// At least as fresh as a linearizable answer of this long ago: 1 ms to 49 days, in whole milliseconds, rounded
    /// down.
    Recent(Duration),
    /// Whatever the answering node has applied, at once.
    Stale,
}

/// Which keys to scan.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    /// From this key on.
    pub start: Bytes,
    /// Up to and without this key; empty: to the end.
    pub end: Bytes,
    /// At most this many; 0: as many as the server gives at once.
    pub limit: u32,
    /// How fresh.
    pub consistency: Consistency,
}
