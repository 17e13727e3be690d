//! The configuration of a node: what it is, where its data lives, how it talks to its peers.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use quorate_core::{ADDRESS_BYTES_MAX, NodeId};
use quorate_host::{GroupConfig, HostConfig};
use quorate_storage::WalConfig;

/// Which cluster a node belongs to. Written into the data directory and exchanged in every
/// handshake, so that nodes of two clusters never talk to each other by accident.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{self}")
    }
}
impl FromStr for ClusterId {
    type Err = std::num::ParseIntError;
    /// Parses what `Display` prints: hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// Where a node keeps its logs and snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In this directory, created if missing and locked while the node runs.
    Directory(PathBuf),
    /// In memory: gone when the node stops. For tests and demonstrations.
    Memory,
}

/// Everything a [`Node`](crate::Node) needs to start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This process. Not 0, different for every node of the cluster, and the same after a restart.
    pub node: NodeId,
    /// The cluster. The same on every node.
    pub cluster: ClusterId,
    /// Where data is kept. Default: in memory.
    pub storage: Storage,
    /// Where to listen for peers, `host:port`; port 0 takes a free one. Default `127.0.0.1:0`.
    pub peer_listen: String,
    /// Where peers reach this node, if that is not the address it listens on.
    pub peer_advertise: Option<String>,
    /// How to talk to peers.
    pub transport: TransportConfig,
    /// The certificates for TLS between nodes. Default: none, plain TCP. All nodes have them, or none.
    #[cfg(feature = "tls")]
    pub peer_tls: Option<crate::transport::TlsConfig>,
    /// How the log uses the disk (its `salt` is filled in).
    pub wal: WalConfig,
    /// Limits that all groups share, like how many snapshots are sent at a time.
    pub host: HostConfig,
    /// What a group gets that is opened without a configuration of its own. Unlike `GroupConfig::default()` it rests
    /// after 10 s in which nothing happens (`core.quiesce_after`).
    pub group: GroupConfig,
    /// Limits of the queues between the threads of this node.
    pub queues: QueueConfig,
    /// How many threads run the state machines, 1 to 1,024. A group is on one of them at a time;
    /// groups do not wait for each other unless all threads are busy. A machine that stands still
    /// keeps its thread: as many may as there are threads but one. Threads with nothing to do cost
    /// some kilobytes. Default: as many as there are processors, at least 4 and at most 16.
    pub apply_threads: usize,
}

/// A state machine that waits for something (a disk, a lock, somebody's service) needs no
/// processor.
const APPLY_THREADS: RangeInclusive<usize> = 4..=16;

fn apply_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    processors.clamp(*APPLY_THREADS.start(), *APPLY_THREADS.end())
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            node: NodeId(0),
            cluster: ClusterId(0),
            storage: Storage::Memory,
            peer_listen: "127.0.0.1:0".to_owned(),
            peer_advertise: None,
            transport: TransportConfig::default(),
            #[cfg(feature = "tls")]
            peer_tls: None,
            wal: WalConfig::default(),
            host: HostConfig::default(),
            group: restful_group(),
            queues: QueueConfig::default(),
            apply_threads: apply_threads(),
        }
    }
}

/// Of many groups most are idle: they cost nothing after a while.
fn restful_group() -> GroupConfig {
    let mut group = GroupConfig::default();
    group.core.quiesce_after = Some(Duration::from_secs(10));
    group
}

/// Limits of the TCP transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportConfig {
    /// The largest frame that is sent or accepted. Default 64 MiB.
    pub frame_bytes_max: usize,
    /// The most bytes of frames that are still arriving, over all connections (but those of up to 64 KiB, of
    /// which each connection may have one). Beyond it the next waits for its turn; whoever is slower than
    /// half of `write_timeout` while others wait loses its connection. At least one frame. Default 128 MiB.
    pub reading_bytes_max: usize,
    /// The most bytes waiting for one peer, per connection; beyond it the newest appends and
    /// snapshot pieces, and the oldest control messages, are dropped and counted. Default 32 MiB.
    pub queue_bytes_max: usize,
    /// The most unsent bytes in the socket of a consensus connection, so that heartbeats never wait
    /// behind megabytes. Default 128 KiB.
    pub unsent_bytes_max: u32,
    /// How long connecting and the handshake may take together. Default 3 s.
    pub connect_timeout: Duration,
    /// The first pause after a failed connection; doubled up to `backoff_max`. Default 20 ms.
    pub backoff_min: Duration,
    /// The longest pause between two attempts. Default 1 s.
    pub backoff_max: Duration,
    /// A write that makes no progress for this long ends the connection. Default 10 s.
    pub write_timeout: Duration,
    /// The most inbound connections of peers; each node has two. Default 1,024.
    pub connections_max: usize,
    /// The most inbound connections besides, on which nobody has said yet who is there. Beyond it
    /// the oldest one from the address that has the most of them ends. Default 256.
    pub handshakes_max: usize,
    /// How many of those may be from one address (of IPv6: one network of 64 bits). Default 64.
    pub handshakes_per_address_max: usize,
    /// Where to dial a node, if not at the address that the membership records. Default: there.
    pub resolver: Option<crate::transport::AddressResolver>,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            frame_bytes_max: 64 << 20,
            reading_bytes_max: 128 << 20,
            queue_bytes_max: 32 << 20,
            unsent_bytes_max: 128 << 10,
            connect_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            write_timeout: Duration::from_secs(10),
            connections_max: 1024,
            handshakes_max: 256,
            handshakes_per_address_max: 64,
            resolver: None,
        }
    }
}

/// Limits of the queues between the threads of a node. All groups share them; none may hold more of
/// the requests or of the backlog than it leaves free, so that one alone fills half, and there is
/// room for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// The most requests waiting for the host thread; beyond it `Busy`. Default 65,536.
    pub requests_max: usize,
    /// The most bytes of requests waiting for the host thread; beyond it `Busy`. Default 64 MiB.
    pub request_bytes_max: usize,
    /// The most bytes received from peers and not yet seen by the host thread; beyond it messages
    /// are dropped and counted (Raft sends again). Default 64 MiB.
    pub inbound_bytes_max: usize,
    /// The most bytes waiting for the disk or the state machines; beyond it requests are `Busy` and
    /// appends from peers are dropped. Default 256 MiB.
    pub backlog_bytes_max: usize,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            requests_max: 65_536,
            request_bytes_max: 64 << 20,
            inbound_bytes_max: 64 << 20,
            backlog_bytes_max: 256 << 20,
        }
    }
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {field} must be {must}")]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// What it must be.
    pub must: String,
}

impl From<quorate_core::ConfigError> for ConfigError {
    fn from(error: quorate_core::ConfigError) -> Self {
        Self { field: error.field, must: error.must.to_owned() }
    }
}

impl NodeConfig {
    /// A node that keeps its data in `directory` and listens for its peers on `peer_listen`; everything else
    /// as by default.
    pub fn durable(node: NodeId, peer_listen: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        let (storage, peer_listen) = (Storage::Directory(directory.into()), peer_listen.into());
        Self { node, storage, peer_listen, ..Self::default() }
    }

    /// Checks everything that can be checked without touching disk or network. (What an address looks like is
    /// checked by the start of a node that uses TCP.)
    ///
    /// # Errors
    /// The first field that cannot work, and what it must be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong = |field, must: &str| Err(ConfigError { field, must: must.to_owned() });
        if self.node == NodeId(0) {
            return wrong("node", "1 or more");
        }
        if self.peer_listen.is_empty() {
            return wrong("peer_listen", "an address like 127.0.0.1:7001");
        }
        let advertise = self.peer_advertise.as_ref();
        if advertise.is_some_and(|address| address.is_empty() || address.len() > ADDRESS_BYTES_MAX) {
            return wrong("peer_advertise", "host:port of at most 1024 bytes");
        }
        if is_unspecified(advertise.unwrap_or(&self.peer_listen)) {
            return wrong(
                "peer_advertise",
                "an address that others can dial: nobody can be dialled everywhere",
            );
        }
        if self.storage == Storage::Directory(PathBuf::new()) {
            return wrong("storage", "a directory with a name");
        }
        let transport = &self.transport;
        if transport.frame_bytes_max < 4 << 20 || transport.frame_bytes_max > 1 << 30 {
            return wrong("transport.frame_bytes_max", "between 4 MiB and 1 GiB");
        }
        if transport.reading_bytes_max < transport.frame_bytes_max {
            return wrong("transport.reading_bytes_max", "at least transport.frame_bytes_max");
        }
        if transport.queue_bytes_max < transport.frame_bytes_max / 2 {
            return wrong("transport.queue_bytes_max", "at least half of transport.frame_bytes_max");
        }
        if transport.backoff_min.is_zero() || transport.backoff_max < transport.backoff_min {
            return wrong("transport.backoff_max", "at least transport.backoff_min, and that above zero");
        }
        if transport.connect_timeout.is_zero() || transport.write_timeout.is_zero() {
            return wrong("transport.connect_timeout", "above zero, like transport.write_timeout");
        }
        if transport.connections_max == 0 || transport.unsent_bytes_max == 0 {
            return wrong("transport.connections_max", "1 or more, like transport.unsent_bytes_max");
        }
        if transport.handshakes_max == 0 || transport.handshakes_per_address_max == 0 {
            return wrong("transport.handshakes_max", "1 or more, like transport.handshakes_per_address_max");
        }
        if self.queues.requests_max == 0 || self.queues.request_bytes_max == 0 {
            return wrong("queues.requests_max", "1 or more, like queues.request_bytes_max");
        }
        if self.queues.backlog_bytes_max < 1 << 20 || self.queues.inbound_bytes_max < 1 << 20 {
            return wrong("queues.backlog_bytes_max", "1 MiB or more, like queues.inbound_bytes_max");
        }
        if !(1..=1024).contains(&self.apply_threads) {
            return wrong("apply_threads", "between 1 and 1024");
        }
        self.host.validate().map_err(ConfigError::from)?;
        self.validate_group(&self.group)
    }

    /// Checks a group's configuration against this node's.
    ///
    /// # Errors
    /// As for [`NodeConfig::validate`].
    pub fn validate_group(&self, group: &GroupConfig) -> Result<(), ConfigError> {
        group.validate()?;
        Ok(fits_in_frames(group, self.transport.frame_bytes_max)?)
    }

    /// Checks the addresses, which only TCP uses.
    pub(crate) fn validate_addresses(&self) -> Result<(), ConfigError> {
        let host_and_port = |field, text: &str| {
            let must = format!("host:port, for example 127.0.0.1:7001, and not {text:?}");
            port_of(text).ok_or(ConfigError { field, must })
        };
        host_and_port("peer_listen", &self.peer_listen)?;
        match &self.peer_advertise {
            Some(address) if host_and_port("peer_advertise", address)? == 0 => Err(ConfigError {
                field: "peer_advertise",
                must: format!("an address that others can dial, with a port, and not {address:?}"),
            }),
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether everything that a group says to its peers fits into frames of this size.
pub(crate) fn fits_in_frames(group: &GroupConfig, frame_bytes_max: usize) -> Result<(), FrameLimit> {
    let core = &group.core;
    // Four bytes stand before each entry of an append, and the smallest has seventeen.
    let append_bytes = core.append_bytes_max.saturating_add(core.append_bytes_max / 4);
    let message_bytes = core.command_bytes_max.saturating_add(append_bytes);
    if message_bytes.saturating_add(1 << 20) > frame_bytes_max as u64 {
        return Err(FrameLimit {
            field: "transport.frame_bytes_max",
            must: "at least 1 MiB above group.core.command_bytes_max + 5/4 of append_bytes_max",
        });
    }
    if group.snapshots.chunk_bytes.saturating_add(1 << 20) > frame_bytes_max {
        return Err(FrameLimit {
            field: "group.snapshots.chunk_bytes",
            must: "at most 1 MiB below transport.frame_bytes_max",
        });
    }
    Ok(())
}

/// A group whose messages are larger than frames may be.
pub(crate) struct FrameLimit {
    pub(crate) field: &'static str,
    pub(crate) must: &'static str,
}

impl From<FrameLimit> for ConfigError {
    fn from(limit: FrameLimit) -> Self {
        Self { field: limit.field, must: limit.must.to_owned() }
    }
}

/// The port of `host:port`. The name is looked up when it is used, not here.
fn port_of(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let is_odd = |c: char| c.is_whitespace() || c == '/';
    let is_host = !host.is_empty() && (is_bracketed || !host.contains(':')) && !host.contains(is_odd);
    port.parse().ok().filter(|_| is_host)
}

/// Whether this is `0.0.0.0` or `[::]`: good to listen on, and nowhere to go to.
fn is_unspecified(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use quorate_core::{
        Append, Entry, EntryPayload, GroupId, LogId, LogIndex, Message, MessageBody, ReplicaId, Term,
    };
    use quorate_host::{PeerBody, PeerMessage, encode_peer_message};

    use super::*;

    /// A follower lags behind by a great many entries that say nothing. A message that never fits would never arrive.
    #[test]
    fn an_append_of_the_smallest_entries_fits_into_a_frame() {
        let frame_bytes_max = 8 << 20;
        let fits = |append_bytes_max: &u64| {
            let mut group = GroupConfig::default();
            (group.core.command_bytes_max, group.core.append_bytes_max) = (1, *append_bytes_max);
            group.snapshots.chunk_bytes = 1;
            fits_in_frames(&group, frame_bytes_max).is_ok()
        };
        let largest = (0..8 << 20).rev().step_by(4096).find(fits).unwrap();
        let entries =
            (1..=largest / 17).map(|index| Entry { id: LogId::new(1, index), payload: EntryPayload::Noop });
        let (prev, commit, read_round) = (LogId::default(), LogIndex(0), 0);
        let body = MessageBody::Append(Append { prev, entries: entries.collect(), commit, read_round });
        let message = Message { from: ReplicaId(1), to: ReplicaId(2), term: Term(1), epoch: 0, body };
        let mut bytes = Vec::new();
        encode_peer_message(&PeerMessage { group: GroupId(1), body: PeerBody::Raft(message) }, &mut bytes);
        assert!(bytes.len() + 12 <= frame_bytes_max, "{} bytes", bytes.len());
    }

    fn refusal(change: impl FnOnce(&mut NodeConfig)) -> String {
        let mut config = NodeConfig { node: NodeId(1), ..NodeConfig::default() };
        change(&mut config);
        let checked = config.validate().and_then(|()| config.validate_addresses());
        checked.map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    }

    /// What a new user gets wrong is refused before anything is made, with the name of the field and what it must be.
    #[test]
    fn mistakes_are_named_before_anything_is_touched() {
        let second = Duration::from_secs(1);
        #[rustfmt::skip]
        let told = [
            (refusal(|_| {}), "fine"),
            (refusal(|config| config.node = NodeId(0)), "configuration: node must be 1 or more"),
            (refusal(|config| config.peer_listen = "nonsense".to_owned()),
                "configuration: peer_listen must be host:port, for example 127.0.0.1:7001, and not \"nonsense\""),
            (refusal(|config| config.peer_listen = "127.0.0.1".to_owned()), "not \"127.0.0.1\""),
            (refusal(|config| config.peer_listen = "127.0.0.1:70000".to_owned()), "not \"127.0.0.1:70000\""),
            (refusal(|config| config.peer_listen = "http://a:1".to_owned()), "not \"http://a:1\""),
            (refusal(|config| config.peer_listen = "[::1]:7001".to_owned()), "fine"),
            (refusal(|config| config.peer_advertise = Some("node-1".to_owned())), "peer_advertise must be host:port"),
            (refusal(|config| config.peer_advertise = Some("node-1:0".to_owned())), "others can dial, with a port"),
            (refusal(|config| config.storage = Storage::Directory("".into())), "storage must be a directory"),
            (refusal(|config| config.group.core.election_timeout = Duration::ZERO),
                "configuration: election_timeout must be at least three times heartbeat_interval"),
            (refusal(|config| config.group.core.heartbeat_interval = Duration::ZERO), "heartbeat_interval must be above 0"),
            (refusal(|config| config.group.core.heartbeat_interval = second), "at least three times heartbeat_interval"),
            (refusal(|config| (config.group.core.leader_lease, config.group.core.lease_drift_max) = (true, second)),
                "lease_drift_max must be below election_timeout"),
            (refusal(|config| config.group.snapshots.keep = 0), "snapshots.keep must be above 0"),
            (refusal(|config| config.group.requests_max = 0), "requests_max must be above 0"),
            (refusal(|config| config.group.stalled_write_max = Duration::ZERO), "stalled_write_max must be above 0"),
            (refusal(|config| config.host.snapshot_sends_max = 0), "snapshot_sends_max must be above 0"),
            (refusal(|config| config.queues.request_bytes_max = 0), "like queues.request_bytes_max"),
            (refusal(|config| config.apply_threads = 0), "apply_threads must be between 1 and 1024"),
            (refusal(|config| config.transport.connections_max = 0), "transport.connections_max must be 1 or more"),
            (refusal(|config| config.group.core.command_bytes_max = 64 << 20), "at least 1 MiB above"),
        ];
        for (found, expected) in told {
            assert!(found.contains(expected), "{found:?}, not {expected:?}");
        }
    }

    #[test]
    fn an_address_that_nobody_can_dial_is_refused() {
        let at = |listen: &str, advertise: Option<&str>| {
            let (peer_listen, peer_advertise) = (listen.to_owned(), advertise.map(str::to_owned));
            let config = NodeConfig { node: NodeId(1), peer_listen, peer_advertise, ..NodeConfig::default() };
            config.validate().map_err(|error| error.field)
        };
        assert_eq!(at("127.0.0.1:7001", None), Ok(()));
        assert_eq!(at("0.0.0.0:7001", None), Err("peer_advertise"));
        assert_eq!(at("[::]:7001", None), Err("peer_advertise"));
        assert_eq!(at("0.0.0.0:7001", Some("0.0.0.0:7001")), Err("peer_advertise"));
        assert_eq!(at("0.0.0.0:7001", Some("node-1:7001")), Ok(()));
    }
}
