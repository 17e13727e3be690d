//! Starting and stopping a server.
//!
//! ```text
//!   check flags ─► origin (startup.rs) ─► node: directory, log, peer port ─► engine ─► group
//!                                                                                       │
//!   shutdown: not ready ─► hand over ─► drain ─► close   ◄── client port, watchers ◄────┘
//! ```
//!
//! * Whatever fails on the way up is closed again before the error is returned.
//! * One group, number 1, holds all keys for now.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use quorate::{
    ClusterId, CoreConfig, DataDirError, GroupConfig, GroupId, GroupStatus, LogIndex, Node, NodeConfig,
    NodeId, Raft, ReplicaId, RequestError, RoleName, Storage, StoreError, TlsLoadError, TransportConfig,
    WalConfig,
};
use quorate_client::proto::cluster_server::ClusterServer;
use quorate_client::proto::kv_server::KvServer;
use quorate_kv::{Engine, KvStateMachine, MemEngine};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::announce::Announcer;
use crate::certificates;
use crate::config::{EngineKind, ServerConfig, StartMode};
use crate::connections;
use crate::descriptors::Shares;
use crate::engine_fjall::{FjallDatabase, FjallSettings};
use crate::forward::Forwarder;
use crate::gate::{Gate, Stopping};
use crate::grpc::Grpc;
use crate::http::{self, Http};
use crate::listener::{BoundedListener, Places};
use crate::metrics::{Metrics, Sources};
use crate::origin::Origin;
use crate::port::Port;
use crate::service::Service;
use crate::startup::{self, Advertised};

/// The group that holds all keys.
pub(crate) const GROUP: GroupId = GroupId(1);
/// How often snapshots are read to see whether they still can be.
const SNAPSHOT_CHECK_INTERVAL: Duration = Duration::from_hours(6);

/// A running server. Dropping it stops it at once; [`Server::shutdown`] does so with grace.
pub struct Server {
    node: Arc<Node>,
    service: Arc<Service>,
    gate: Arc<Gate>,
    client_address: SocketAddr,
    failure: watch::Sender<Option<ServerFailure>>,
    /// Serves the client port until told to stop.
    port: JoinSet<()>,
    /// Look after membership, replica and log.
    watchers: JoinSet<()>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("node", &self.service.node)
            .field("client_address", &self.client_address)
            .finish_non_exhaustive()
    }
}

/// A server could not start. Each says in one line what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A flag's value makes no sense.
    #[error("{flag}: {problem}")]
    InvalidConfig {
        /// The command line's name for it.
        flag: &'static str,
        /// What is wrong and what to write.
        problem: String,
    },
    /// An address cannot be listened on.
    #[error("{flag} {address}: {source}; choose another address or stop what uses it")]
    Listen {
        /// Which flag gave the address.
        flag: &'static str,
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The directory is used by a running process.
    #[error("--dir {}: another process is using this directory; stop it first", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory belongs to another cluster or node.
    #[error("--dir {}: {problem}", dir.display())]
    WrongDirectory {
        /// The directory.
        dir: PathBuf,
        /// Whose it is and what to do.
        problem: String,
    },
    /// The directory is empty and the start mode is `Resume`.
    #[error("--dir {}: nothing to continue; say --bootstrap, --initial-cluster or --join", dir.display())]
    NothingToResume {
        /// The directory.
        dir: PathBuf,
    },
    /// No cluster took the node.
    #[error("--join {endpoints}: {problem}")]
    Join {
        /// Who was asked.
        endpoints: String,
        /// What they said and what to do.
        problem: String,
    },
    /// The data cannot be opened.
    #[error("--dir {}: {problem}", dir.display())]
    Storage {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Why a running server cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerFailure {
    /// The node was removed from its cluster.
    #[error("node {0} was removed from its cluster: delete its directory and join with a new node id")]
    Removed(NodeId),
    /// The replica stopped (disk failure, damaged data).
    #[error("the replica stopped: {0}")]
    ReplicaStopped(String),
}

impl Server {
    /// Starts a node and returns when its ports are open and its data is recovered (not yet
    /// necessarily when there is a leader: ask `/readyz`). Must be called within a multi-threaded
    /// tokio runtime.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        let mut config = config;
        startup::check(&config)?;
        let shares = Shares::new(&config)?;
        let mut listener = None;
        let origin = match startup::load(&config.data_dir)? {
            Some(origin) => {
                startup::check_origin(&config, &origin).await?;
                origin
            }
            None => {
                // A new member tells others its addresses before it is one, so they must be known now.
                let bound = listen(&config).await?;
                config.peer_listen = startup::settle_port("--peer-listen", &config.peer_listen)?;
                let advertised = Advertised {
                    peer: startup::peer_advertise(&config, &config.peer_listen)?,
                    client: startup::client_advertise(&config, local_address(&config, &bound)?)?,
                };
                listener = Some(bound);
                let origin = startup::begin(&config, &advertised).await?;
                origin.save(&config.data_dir).map_err(|error| StartError::Storage {
                    dir: config.data_dir.clone(),
                    problem: format!("{}: {error}", crate::origin::FILE),
                })?;
                origin
            }
        };
        // A directory in use is a better answer than a port in use.
        let node = Arc::new(start_node(&config, &origin, shares).await?);
        let started = async {
            let raft = open_group(&config, &node, &origin).await?;
            let listener = match listener {
                Some(listener) => listener,
                None => listen(&config).await?,
            };
            let port = (listener, Arc::new(Places::new(shares.clients)));
            Self::serve(&config, &origin, Arc::clone(&node), raft, port)
        };
        match started.await {
            Ok(server) => Ok(server),
            Err(error) => {
                node.shutdown().await;
                Err(error)
            }
        }
    }

    fn serve(
        config: &ServerConfig,
        origin: &Origin,
        node: Arc<Node>,
        raft: Raft,
        (listener, places): (TcpListener, Arc<Places>),
    ) -> Result<Self, StartError> {
        let client_address = local_address(config, &listener)?;
        let peer_listening = node.peer_address().to_string();
        let stopping = Arc::new(Stopping::default());
        let cluster_id = origin.cluster_id().unwrap_or_default();
        // A page, or a value on the way to the leader, with room for what is around it.
        let message_bytes_max = message_bytes_max(config);
        let service = Arc::new(Service {
            // Many connections have something to ask in one turn of the runtime.
            raft: raft.gathering(),
            node: config.node,
            cluster_id,
            limits: config.limits.clone(),
            timings: config.timings.clone(),
            peer_address: startup::peer_advertise(config, &peer_listening)?,
            client_address: startup::client_advertise(config, client_address)?,
            forwarder: Forwarder::new(cluster_id, config.timings.election_timeout, message_bytes_max),
            stopping: Arc::clone(&stopping),
        });
        let metrics = Metrics::new(Sources {
            node: Arc::downgrade(&node),
            raft: raft.clone(),
            places: Arc::clone(&places),
            log_lines_dropped: config.log_lines_dropped,
        });
        let gate = Arc::new(Gate::new(&config.limits, message_bytes_max, Arc::clone(&stopping), metrics));
        let failure = watch::Sender::new(None);

        let grpc = Grpc { service: Arc::clone(&service), gate: Arc::clone(&gate) };
        let http =
            Http { service: Arc::clone(&service), gate: Arc::clone(&gate), failed: failure.subscribe() };
        let routes = Port {
            gate: Arc::clone(&gate),
            kv: KvServer::new(grpc.clone()).max_decoding_message_size(message_bytes_max),
            cluster: ClusterServer::new(grpc),
            http: http::router(http).fallback(http::no_such_path),
        };
        let listener = BoundedListener::new(listener, places);
        let mut port = JoinSet::new();
        port.spawn(connections::serve(listener, Arc::new(routes), stopping));

        let mut watchers = JoinSet::new();
        let (endpoints, promote) = match &config.start {
            StartMode::Join { endpoints, learner } => (endpoints.clone(), !learner),
            StartMode::Bootstrap | StartMode::InitialCluster(_) | StartMode::Resume => (Vec::new(), false),
        };
        let (service_of, failure_of) = (Arc::clone(&service), failure.clone());
        let announcer = Announcer { service: service_of, promote, endpoints, failure: failure_of };
        watchers.spawn(announcer.run());
        if origin.is_first_of_new_cluster() {
            watchers.spawn(elect_the_first_leader(raft.clone(), config.timings.heartbeat_interval));
        }
        watchers.spawn(watch_snapshots(Arc::downgrade(&node), raft.clone()));
        if config.peer_tls.is_some() {
            watchers.spawn(certificates::watch(Arc::downgrade(&node)));
        }
        watchers.spawn(watch_replica(raft, failure.clone()));
        Ok(Self { node, service, gate, client_address, failure, port, watchers })
    }

    /// Where the server listens for clients.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where the server listens for other nodes.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.node.peer_address()
    }

    /// Reads the certificates for TLS between nodes again; otherwise that happens once a minute. Returns whether
    /// anything had changed.
    ///
    /// # Errors
    /// See [`TlsLoadError`]; the certificates from before stay in use.
    pub async fn reload_tls(&self) -> Result<bool, TlsLoadError> {
        certificates::reload(&self.node).await
    }

    /// Waits until the server cannot go on, and says why. The caller should then shut it down and
    /// end with an error.
    pub async fn wait_failure(&self) -> ServerFailure {
        let mut failure = self.failure.subscribe();
        loop {
            if let Some(failure) = failure.borrow_and_update().clone() {
                return failure;
            }
            // The sender lives as long as `self`.
            if failure.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops: not ready any more, leadership handed over, requests drained (up to
    /// `Timings::drain_timeout`), storage closed.
    pub async fn shutdown(self) {
        let Self { node, service, gate, mut port, mut watchers, .. } = self;
        let deadline = Instant::now() + service.timings.drain_timeout;
        service.stopping.set();
        watchers.shutdown().await;
        if service.raft.status().role == RoleName::Leader {
            let most = deadline.min(Instant::now() + service.timings.election_timeout);
            match timeout_at(most, service.raft.transfer_leadership(None)).await {
                Ok(Ok(leader)) => tracing::info!(%leader, "handed leadership over"),
                // The last voter, or nobody else is up to date: the others will elect when we are gone.
                Ok(Err(error)) => tracing::info!(%error, "leadership was not handed over"),
                Err(_) => tracing::info!("leadership was not handed over in time"),
            }
        }
        if timeout_at(deadline, port.join_next()).await.is_err() {
            tracing::warn!("some requests were still unanswered at the end of the drain time");
            port.shutdown().await;
        }
        gate.end_streams().await;
        node.shutdown().await;
    }
}

async fn start_node(config: &ServerConfig, origin: &Origin, shares: Shares) -> Result<Node, StartError> {
    let defaults = CoreConfig::new(ReplicaId(0));
    let core = CoreConfig {
        election_timeout: config.timings.election_timeout,
        heartbeat_interval: config.timings.heartbeat_interval,
        leader_lease: config.timings.lease_drift_max.is_some(),
        lease_drift_max: config.timings.lease_drift_max.unwrap_or(defaults.lease_drift_max),
        command_bytes_max: defaults.command_bytes_max.max(message_bytes_max(config) as u64),
        ..defaults
    };
    let node = NodeConfig {
        node: config.node,
        cluster: ClusterId(origin.cluster_id().unwrap_or_default().into()),
        storage: Storage::Directory(config.data_dir.clone()),
        peer_listen: config.peer_listen.clone(),
        peer_advertise: config.peer_advertise.clone(),
        peer_tls: config.peer_tls.clone(),
        group: GroupConfig {
            core,
            snapshots: config.snapshots.clone(),
            stalled_write_max: config.timings.stalled_write_max,
            ..GroupConfig::default()
        },
        wal: WalConfig { reserve_bytes: config.wal_reserve_bytes, ..WalConfig::default() },
        host: config.host.clone(),
        transport: transport(shares),
        ..NodeConfig::default()
    };
    Node::start(node).await.map_err(|error| node_failure(config, error))
}

/// The limits of connections at the peer port.
fn transport(shares: Shares) -> TransportConfig {
    let defaults = TransportConfig::default();
    TransportConfig {
        connections_max: shares.peers,
        handshakes_max: shares.strangers,
        handshakes_per_address_max: defaults.handshakes_per_address_max.min(shares.strangers),
        ..defaults
    }
}

fn node_failure(config: &ServerConfig, error: quorate::StartError) -> StartError {
    let dir = config.data_dir.clone();
    match error {
        quorate::StartError::Listen { address, source } => {
            StartError::Listen { flag: "--peer-listen", address, source }
        }
        quorate::StartError::Tls(error) => certificates::unusable(&error),
        quorate::StartError::Config(error) => {
            StartError::InvalidConfig { flag: error.field, problem: format!("must be {}", error.must) }
        }
        quorate::StartError::Store(StoreError::Directory { source, .. }) => match source {
            DataDirError::InUse { .. } => StartError::Locked { dir },
            DataDirError::NotADirectory
            | DataDirError::OtherCluster { .. }
            | DataDirError::OtherNode { .. }
            | DataDirError::OtherLog { .. }
            | DataDirError::OtherSnapshots { .. } => {
                StartError::WrongDirectory { dir, problem: source.to_string() }
            }
            DataDirError::Version { .. }
            | DataDirError::Damaged { .. }
            | DataDirError::PeersDamaged { .. }
            | DataDirError::NoIdentity { .. }
            | DataDirError::LostLog { .. }
            | DataDirError::Io { .. }
            | _ => StartError::Storage { dir, problem: source.to_string() },
        },
        quorate::StartError::Store(_) | quorate::StartError::Thread(_) | _ => {
            let problem = with_causes(&error);
            // The directory is named once, by this error.
            let problem = problem.trim_start_matches(&format!("{}: ", dir.display())).to_owned();
            StartError::Storage { dir, problem }
        }
    }
}

async fn open_group(config: &ServerConfig, node: &Node, origin: &Origin) -> Result<Raft, StartError> {
    let failed = |problem: String| StartError::Storage { dir: config.data_dir.clone(), problem };
    let engine: Box<dyn Engine> = match config.engine {
        EngineKind::Memory => Box::new(MemEngine::volatile()),
        EngineKind::Fjall => {
            let dir = config.data_dir.join("engine");
            let opened = tokio::task::spawn_blocking(move || {
                FjallDatabase::open(&dir, FjallSettings::default())?.engine(GROUP)
            });
            let opened = opened.await.map_err(|error| failed(error.to_string()))?;
            Box::new(opened.map_err(|error| failed(with_causes(&error)))?)
        }
    };
    let machine = KvStateMachine::new(engine);
    match node.open_group(GROUP, origin.start(), machine).await {
        Ok(raft) => Ok(raft),
        Err(error) => Err(failed(with_damage(node, with_causes(&error)).await)),
    }
}

/// The problem, and which snapshots are damaged if it does not say so itself.
async fn with_damage(node: &Node, problem: String) -> String {
    let damaged = node.verify_snapshots(GROUP).await.unwrap_or_default();
    let unsaid = damaged.iter().map(ToString::to_string).filter(|damage| !problem.contains(damage));
    std::iter::once(problem.clone()).chain(unsaid).collect::<Vec<_>>().join(": ")
}

async fn listen(config: &ServerConfig) -> Result<TcpListener, StartError> {
    TcpListener::bind(&config.client_listen).await.map_err(|source| listen_failure(config, source))
}

fn local_address(config: &ServerConfig, listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| listen_failure(config, source))
}

fn listen_failure(config: &ServerConfig, source: std::io::Error) -> StartError {
    StartError::Listen { flag: "--client-listen", address: config.client_listen.clone(), source }
}

/// The largest message between clients and nodes: a value and one it is compared with, or a page of a scan
/// with a value on top, and what is around them.
fn message_bytes_max(config: &ServerConfig) -> usize {
    let page = usize::try_from(config.limits.scan_bytes_max).unwrap_or(usize::MAX);
    let value = config.limits.value_bytes_max;
    page.max(value).saturating_add(value).saturating_add(config.limits.key_bytes_max).saturating_add(64 << 10)
}

/// A new cluster need not wait for an election timeout: its first member stands for election until somebody has
/// been elected for the first time. It asks before it campaigns (PreVote), so it disturbs nobody.
async fn elect_the_first_leader(raft: Raft, pause: Duration) {
    // The first entry names the members; whoever is elected appends the second.
    let elected = |status: &GroupStatus| status.last.index > LogIndex(1);
    while !elected(&raft.status()) && raft.campaign().await.is_ok() {
        // Until the others are there, again and again.
        if raft.wait_for(elected, pause).await.is_ok() {
            return;
        }
    }
}

/// Reports when the replica, or the whole node, stops by itself.
async fn watch_replica(raft: Raft, failure: watch::Sender<Option<ServerFailure>>) {
    let reason = raft.stopped().await;
    report(&failure, ServerFailure::ReplicaStopped(reason));
}

/// Reads the snapshots from time to time, because otherwise nobody does until one is needed. The node has the data
/// itself, so a damaged snapshot is replaced by a new one.
async fn watch_snapshots(node: Weak<Node>, raft: Raft) {
    loop {
        let Some(node) = node.upgrade() else { return };
        let verified = node.verify_snapshots(GROUP).await;
        drop(node);
        match verified {
            Ok(damaged) => {
                for damage in &damaged {
                    tracing::error!(%damage, "a snapshot is damaged: it is not used, and a new one is taken");
                }
                if !damaged.is_empty()
                    && let Err(error) = replace_snapshot(&raft).await
                {
                    tracing::warn!(%error, "no new snapshot could be taken");
                }
            }
            Err(error) => tracing::warn!(%error, "the snapshots cannot be read"),
        }
        tokio::time::sleep_until(Instant::now() + SNAPSHOT_CHECK_INTERVAL).await;
    }
}

/// Takes a snapshot beyond the newest one, which is damaged: one of the same position would be taken for it.
async fn replace_snapshot(raft: &Raft) -> Result<(), RequestError> {
    // Only the leader can; elsewhere the next write or election brings a new entry.
    drop(raft.barrier().await);
    let has_more = |status: &GroupStatus| status.applied > status.snapshot.index;
    if raft.watch().wait_for(has_more).await.is_ok() {
        raft.take_snapshot().await?;
    }
    Ok(())
}

/// The first failure is the one that counts.
fn report(failure: &watch::Sender<Option<ServerFailure>>, what: ServerFailure) {
    tracing::error!(failure = %what, "this node cannot go on");
    failure.send_if_modified(|known| {
        let first = known.is_none();
        if first {
            *known = Some(what);
        }
        first
    });
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Many errors name their cause themselves.
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
