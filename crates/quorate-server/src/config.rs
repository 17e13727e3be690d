//! What a server needs to know to start. Parsed at the edge (the CLI); valid types from here on.

use std::path::PathBuf;
use std::time::Duration;

use quorate::{HostConfig, NodeId, SnapshotPolicy, TlsConfig};

/// How a node starts and behaves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// This node. Its own number in the cluster, at least 1; never give it to another directory.
    pub node: NodeId,
    /// Where everything durable lives. Created if missing.
    pub data_dir: PathBuf,
    /// Where to listen for other nodes (`host:port`; port 0 takes any).
    pub peer_listen: String,
    /// Where other nodes reach this one. Default: where it listens.
    pub peer_advertise: Option<String>,
    /// The certificates for TLS between nodes. Default: none, plain TCP. All nodes have them, or none.
    pub peer_tls: Option<TlsConfig>,
    /// Where to listen for clients (`host:port`; port 0 takes any).
    pub client_listen: String,
    /// Where clients reach this node. Default: where it listens.
    pub client_advertise: Option<String>,
    /// What to do when the data directory is empty.
    pub start: StartMode,
    /// Where the data lives.
    pub engine: EngineKind,
    /// What is too much.
    pub limits: Limits,
    /// How long things take.
    pub timings: Timings,
    /// When to take snapshots and drop log entries.
    pub snapshots: SnapshotPolicy,
    /// How many snapshots are sent at once, and how fast.
    pub host: HostConfig,
    /// Space put by for a full disk, in bytes; 0: none. Brought up to the length of a segment of the log. Default 64 MiB.
    pub wal_reserve_bytes: u64,
    /// How many lines of its log the program has dropped so far, for `/metrics`. Default: not said.
    pub log_lines_dropped: Option<fn() -> u64>,
}

/// What to do with an empty data directory. One that is not empty just continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// Be the first node of a new cluster.
    Bootstrap,
    /// Be one of the first nodes of a new cluster; all of them are started with the same list.
    InitialCluster(Vec<InitialMember>),
    /// Join a running cluster.
    Join {
        /// Client addresses (`host:port`) of some of its nodes.
        endpoints: Vec<String>,
        /// Stay a learner instead of asking for promotion once caught up.
        learner: bool,
    },
    /// Refuse: there should be data.
    Resume,
}

/// One of the first nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// The node.
    pub node: NodeId,
    /// Where other nodes reach it.
    pub peer_address: String,
    /// Where clients reach it. Nodes announce their own once they run, so this may be missing.
    pub client_address: Option<String>,
}

/// Where the data lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// On disk.
    #[default]
    Fjall,
    /// In memory; rebuilt from snapshot and log at each start.
    Memory,
}

/// What is too much. Everything a client can make the server hold is bounded here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest value in bytes. Default 1 MiB, at most 16 MiB.
    pub value_bytes_max: usize,
    /// The largest key in bytes. Default 4 KiB.
    pub key_bytes_max: usize,
    /// The most items of one scan. Default 1,000.
    pub scan_items_max: u32,
    /// A scan stops after this many bytes. Default 1 MiB.
    pub scan_bytes_max: u64,
    /// The most requests worked on at once; more are `busy`. Default 1,024.
    pub requests_max: usize,
    /// The most bytes of requests that are read or worked on at once; more are `busy`. Default 64 MiB.
    pub request_bytes_max: usize,
    /// The most unanswered requests of one stream; more wait unread. Default 256.
    pub stream_requests_max: usize,
    /// The most connections of clients; more are `busy`. Default: 4,096, or fewer if the process
    /// may not open as many files.
    pub connections_max: Option<usize>,
}

/// How long things take. All nodes of a cluster should agree on the first three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timings {
    /// A follower that hears nothing for this long, up to twice this, campaigns. Default 1 s.
    pub election_timeout: Duration,
    /// How often a leader speaks. Default 100 ms.
    pub heartbeat_interval: Duration,
    /// Serves reads that ask for it from the leader's lease, and trusts that two nodes' clocks differ by no more than
    /// this over one election timeout. Below the election timeout. Default: none, such reads ask a majority.
    /// Switch it on on every node before anybody asks for such reads (docs/operations.md).
    pub lease_drift_max: Option<Duration>,
    /// A leader whose disk does not finish a write for this long hands over, or steps down. Default 5 s.
    pub stalled_write_max: Duration,
    /// The longest a request may take. Default 10 s.
    pub request_timeout: Duration,
    /// How long a stopping server waits for requests to finish. Default 5 s.
    pub drain_timeout: Duration,
    /// How long a joining node looks for a cluster that takes it. Default 30 s.
    pub join_timeout: Duration,
}

impl ServerConfig {
    /// The defaults for `node`, listening on any free ports of the loopback interface.
    #[must_use]
    pub fn new(node: NodeId, data_dir: impl Into<PathBuf>, start: StartMode) -> Self {
        Self {
            node,
            data_dir: data_dir.into(),
            peer_listen: "127.0.0.1:0".to_owned(),
            peer_advertise: None,
            peer_tls: None,
            client_listen: "127.0.0.1:0".to_owned(),
            client_advertise: None,
            start,
            engine: EngineKind::default(),
            limits: Limits::default(),
            timings: Timings::default(),
            snapshots: SnapshotPolicy::default(),
            host: HostConfig::default(),
            wal_reserve_bytes: 64 << 20,
            log_lines_dropped: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            value_bytes_max: 1 << 20,
            key_bytes_max: 4 << 10,
            scan_items_max: 1_000,
            scan_bytes_max: 1 << 20,
            requests_max: 1_024,
            request_bytes_max: 64 << 20,
            stream_requests_max: 256,
            connections_max: None,
        }
    }
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            election_timeout: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(100),
            lease_drift_max: None,
            stalled_write_max: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
            join_timeout: Duration::from_secs(30),
        }
    }
}
