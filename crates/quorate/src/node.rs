//! `Node`: one process of a cluster. Owns the threads, the transport and the data directory.
//!
//! ```text
//!   Node ── owns ──► host, log, apply and read threads, transport tasks, data directory
//!     │
//!     └─ open_group ──► Raft, a handle: answers `Stopped` once the node has ended
//! ```
//!
//! * What a node started, it joins: with `shutdown`, or when it is dropped.
//! * A log that cannot be written ends the node (see [`Node::failure`]); the process may go on.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use quorate_core::{EventLabel, GroupId, LogIndex, Member, Membership, NodeId, ReplicaId};
use quorate_host::{
    GroupConfig, LogFetcher, LogTask, LogWriter, Snapshotter, StateMachine, bootstrap_batch, join_batch,
    recover_group,
};
use quorate_storage::{
    Damage, DataDir, GroupState, GroupWrite, LogBatch, LogError, LogReader, LogStats, SnapshotError,
    SnapshotStore,
};
use tokio::sync::{oneshot, watch};

use crate::builder::NodeBuilder;
use crate::config::{ClusterId, ConfigError, NodeConfig};
use crate::raft::Raft;
use crate::runtime::apply_pool::{ApplyPool, apply_loop};
use crate::runtime::clock::{Clock, unix_nanos};
use crate::runtime::disk_space::SpaceGuard;
use crate::runtime::event_log::EventLog;
use crate::runtime::gauge::Gauge;
use crate::runtime::host_thread::{HostInput, HostThread, Lanes, LogFigures, Shared};
use crate::runtime::log_lane::LogLane;
use crate::runtime::mailbox::Mailbox;
use crate::runtime::workers::{LogInput, ReadInput, ThreadGuard, WorkPlace, log_loop, read_loop};
use crate::stores::{StoreChoice, StoreError, Stores};
#[cfg(feature = "tls")]
use crate::transport::PeerTls;
use crate::transport::{Identity, Inbound, PeerStatus, TcpTransport, Transport, TransportStats};

/// How a group begins on this node. A group that is on disk already goes on from there, so that an
/// identical repeat after a crash just continues.
#[derive(Clone, Debug)]
pub enum Start {
    /// With what is on disk; an error if there is nothing.
    Resume,
    /// As one of the first members: the same list, in the same order, on every one of them.
    Bootstrap {
        /// The first members; they get the replica ids 1, 2, … in this order.
        members: Vec<Member>,
    },
    /// As a replica that was added to an existing group.
    Join {
        /// The id the membership change gave to this replica.
        replica: ReplicaId,
        /// Replicas to answer to until the first membership arrives: id, node, peer address.
        seeds: Vec<(ReplicaId, NodeId, String)>,
    },
}

/// A node cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory, the log or the snapshots cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificates for TLS between nodes cannot be used.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] crate::transport::TlsLoadError),
    /// The peer address cannot be listened on.
    #[error("cannot listen for peers on {address}: {source}; is another process using it?")]
    Listen {
        /// The address.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The system refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A group cannot be opened on a node. Nothing of it runs; other groups are not affected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// `Start::Resume`, and nothing is on disk.
    #[error("group {0} is not on this node: bootstrap it or join it")]
    NotFound(GroupId),
    /// The members cannot form a group, or this node is not one of them.
    #[error("group {group}: {reason}")]
    Members {
        /// The group.
        group: GroupId,
        /// What is wrong.
        reason: String,
    },
    /// Another replica of the group is on disk: remove it first (`Node::remove_group`).
    #[error("group {group}: replica {on_disk} is on this node, not {asked}: remove it before joining again")]
    OtherReplica {
        /// The group.
        group: GroupId,
        /// The replica on disk.
        on_disk: ReplicaId,
        /// The replica asked for.
        asked: ReplicaId,
    },
    /// The group's configuration cannot work on this node.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What is on disk cannot be used.
    #[error(transparent)]
    Recover(#[from] quorate_host::RecoverError),
    /// The log could not be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The host refused it.
    #[error(transparent)]
    Host(#[from] quorate_host::OpenError),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// A group cannot be removed from a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// The log could not be written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log has forgotten the group, but its snapshots could not be deleted.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Figures of a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeStats {
    /// Of the log.
    pub log: LogStats,
    /// How much of the disk is free, where the least is, if that is known and asked for
    /// (`HostConfig::disk_free_bytes_min`), in bytes. Looked at ten times a second at most and once at least.
    pub disk_free_bytes: Option<u64>,
    /// Of the transport.
    pub transport: TransportStats,
}

/// One process of a cluster: see the crate's front page for an example.
///
/// Dropping a node stops it: its threads are joined, which waits for a write or an apply that is
/// under way. [`Node::shutdown`] does the same without blocking the caller's thread.
pub struct Node {
    config: NodeConfig,
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<PeerTls>>,
    /// None: the host thread writes the log.
    log: Option<Arc<Mailbox<LogInput>>>,
    apply: Arc<ApplyPool>,
    read: Arc<Mailbox<ReadInput>>,
    reader: Arc<dyn LogReader>,
    snapshots: Arc<dyn SnapshotStore>,
    groups_at_start: Vec<GroupId>,
    /// Groups are opened, closed and removed one at a time. Inside is what the one opened last behaves by: the
    /// handles of groups that behave alike share it.
    opening: tokio::sync::Mutex<Arc<GroupConfig>>,
    /// Chance for the groups.
    seed: u64,
    running: tokio::sync::Mutex<Option<Running>>,
}

/// Makes a transport for the node that `Identity` says, once its data directory is taken.
pub(crate) type MakeTransport = Box<dyn FnOnce(Identity) -> std::io::Result<Arc<dyn Transport>> + Send>;

/// What ends with the node.
struct Running {
    shared: Arc<Shared>,
    log: Option<Arc<Mailbox<LogInput>>>,
    apply: Arc<ApplyPool>,
    read: Arc<Mailbox<ReadInput>>,
    threads: Vec<JoinHandle<()>>,
    directory: Option<DataDir>,
}

impl Node {
    /// Starts a node: opens its data directory and listens for its peers. Opens no group.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start(config: NodeConfig) -> Result<Self, StartError> {
        Self::builder(config).start().await
    }

    /// Starts a node on a transport of the caller's, for example a [`crate::MemoryTransport`].
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start_on(config: NodeConfig, transport: Arc<dyn Transport>) -> Result<Self, StartError> {
        Self::builder(config).transport(transport).start().await
    }

    /// A node whose parts can be chosen one by one: see [`NodeBuilder`].
    #[must_use]
    pub fn builder(config: NodeConfig) -> NodeBuilder {
        NodeBuilder::new(config)
    }

    /// Starts what a builder has put together.
    pub(crate) async fn start_with(
        config: NodeConfig,
        stores: StoreChoice,
        transport: Option<MakeTransport>,
    ) -> Result<Self, StartError> {
        config.validate()?;
        if transport.is_none() {
            config.validate_addresses()?;
        }
        let plan = stores.resolve(&config)?;
        #[cfg(feature = "tls")]
        let tls = match transport {
            Some(_) => None,
            None => Self::load_tls(&config).await?,
        };
        let opened = tokio::task::spawn_blocking(move || plan.open()).await;
        let stores = opened.map_err(|error| StartError::Thread(error.into()))??;
        let identity = Identity {
            cluster: config.cluster,
            node: config.node,
            incarnation: stores.incarnation,
            started: unix_nanos(),
        };
        let listen = config.peer_listen.clone();
        let transport = match transport {
            Some(make) => make(identity),
            #[cfg(feature = "tls")]
            None => Self::bind(&config, identity, tls.clone()).await,
            #[cfg(not(feature = "tls"))]
            None => Self::bind(&config, identity).await,
        };
        let transport = transport.map_err(|source| StartError::Listen { address: listen, source })?;
        #[cfg_attr(not(feature = "tls"), expect(unused_mut, reason = "only TLS is added"))]
        let mut node = Self::run(config, stores, transport)?;
        #[cfg(feature = "tls")]
        {
            node.tls = tls;
        }
        Ok(node)
    }

    #[cfg(feature = "tls")]
    async fn load_tls(config: &NodeConfig) -> Result<Option<Arc<PeerTls>>, StartError> {
        let (Some(tls), node) = (config.peer_tls.clone(), config.node) else { return Ok(None) };
        let loaded = tokio::task::spawn_blocking(move || PeerTls::load(tls, node)).await;
        Ok(Some(Arc::new(loaded.map_err(|error| StartError::Thread(error.into()))??)))
    }

    async fn bind(
        config: &NodeConfig,
        identity: Identity,
        #[cfg(feature = "tls")] tls: Option<Arc<PeerTls>>,
    ) -> std::io::Result<Arc<dyn Transport>> {
        let (listen, advertise) = (&config.peer_listen, config.peer_advertise.as_deref());
        let limits = config.transport.clone();
        #[cfg(feature = "tls")]
        if let Some(tls) = tls {
            return Ok(Arc::new(TcpTransport::bind_tls(listen, advertise, identity, limits, tls).await?));
        }
        Ok(Arc::new(TcpTransport::bind(listen, advertise, identity, limits).await?))
    }

    fn run(config: NodeConfig, stores: Stores, transport: Arc<dyn Transport>) -> Result<Self, StartError> {
        let Stores { log: log_store, snapshots, known_peers, directory, .. } = stores;
        let reader = log_store.reader();
        let groups_at_start = log_store.groups().iter().map(|state| state.group).collect();
        let queues = &config.queues;
        let shared = Arc::new(Shared {
            node: config.node,
            clock: Clock::new(),
            frame_bytes_max: config.transport.frame_bytes_max,
            mailbox: Arc::new(Mailbox::new()),
            requests: Gauge::new(queues.requests_max, queues.request_bytes_max),
            inbound: Gauge::new(usize::MAX, queues.inbound_bytes_max),
            backlog: Gauge::new(usize::MAX, queues.backlog_bytes_max),
            log_figures: Mutex::new(LogFigures { stats: log_store.stats(), ..LogFigures::default() }),
            snapshots: Arc::clone(&snapshots),
            event_log: EventLog::default(),
            failure: watch::Sender::new(None),
            host: Mutex::new(None),
        });
        let apply = Arc::new(ApplyPool::new(config.apply_threads));
        let read = Arc::new(Mailbox::new());
        let space = SpaceGuard::new(&directory, config.host.disk_free_bytes_min);
        let (log_lane, log_thread) = LogLane::new(LogWriter::new(log_store), space);
        let log = log_lane.mailbox();
        let lanes = Lanes {
            log: log_lane,
            apply: Arc::clone(&apply),
            read: Arc::clone(&read),
            transport: Arc::clone(&transport),
        };
        // From here on an early return stops what runs already, because `running` is dropped.
        let mut running = Running {
            shared: Arc::clone(&shared),
            log: log.clone(),
            apply: Arc::clone(&apply),
            read: Arc::clone(&read),
            threads: Vec::new(),
            directory: Some(directory),
        };
        let host = HostThread::new(Arc::clone(&shared), config.host.clone(), lanes);
        running.spawn("host", &shared.mailbox, move |_, shared| host.run(shared))?;
        if let (Some(mailbox), Some(thread)) = (&log, log_thread) {
            running.spawn("log", mailbox, move |mailbox, shared| log_loop(thread, mailbox, shared))?;
        }
        running.spawn_apply(config.apply_threads, &snapshots)?;
        let fetcher = LogFetcher::new(Arc::clone(&reader));
        let snapshotter = Snapshotter::new(&config.host, Arc::clone(&snapshots));
        running
            .spawn("read", &read, move |mailbox, shared| read_loop(fetcher, snapshotter, mailbox, shared))?;
        if let Some(known_peers) = known_peers {
            transport.remember(known_peers);
        }
        transport.start(Arc::clone(&shared) as Arc<dyn Inbound>);
        Ok(Self {
            config,
            shared,
            transport,
            #[cfg(feature = "tls")]
            tls: None,
            log,
            apply,
            read,
            reader,
            snapshots,
            groups_at_start,
            opening: tokio::sync::Mutex::default(),
            seed: getrandom::u64().unwrap_or_else(|_| unix_nanos()),
            running: tokio::sync::Mutex::new(Some(running)),
        })
    }

    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.config.node
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.config.cluster
    }

    /// This node as a voter, reached where its peers are told to reach it: for the list of a group's first members.
    #[must_use]
    pub fn member(&self) -> Member {
        Member::voter(self.id(), self.peer_advertise())
    }

    /// Where this node listens for peers.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.transport.address()
    }

    /// Where peers are told to reach it.
    #[must_use]
    pub fn peer_advertise(&self) -> String {
        self.transport.advertised()
    }

    /// The groups that were on disk when the node started, ascending.
    #[must_use]
    pub fn groups_on_disk(&self) -> Vec<GroupId> {
        self.groups_at_start.clone()
    }

    /// Whether `group` is on disk now, open or not.
    #[must_use]
    pub fn has_group(&self, group: GroupId) -> bool {
        self.reader.state(group).is_some()
    }

    /// Opens a group with the node's group configuration.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[doc(alias = "bootstrap_cluster")]
    pub async fn open_group(
        &self,
        group: GroupId,
        start: Start,
        machine: impl StateMachine + 'static,
    ) -> Result<Raft, OpenError> {
        self.open_group_with(group, start, self.config.group.clone(), Box::new(machine)).await
    }

    /// Opens a group with a configuration of its own.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_group_with(
        &self,
        group: GroupId,
        start: Start,
        config: GroupConfig,
        machine: Box<dyn StateMachine>,
    ) -> Result<Raft, OpenError> {
        self.config.validate_group(&config)?;
        let mut opened_last = self.opening.lock().await;
        let seeds = match &start {
            Start::Join { seeds, .. } => seeds.clone(),
            Start::Resume | Start::Bootstrap { .. } => Vec::new(),
        };
        self.reserve(group).await?;
        let state = self.find_or_create(group, start).await?;
        let snapshots = Arc::clone(&self.snapshots);
        let recovered = tokio::task::spawn_blocking(move || recover_group(&state, &*snapshots, machine));
        // The only error of the join is a panic of the machine's, which is the caller's to see.
        let mut recovered = match recovered.await {
            Ok(recovered) => recovered?,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_cancelled) => return Err(OpenError::Stopped),
            },
        };
        if let Some(damaged) = &recovered.damaged {
            let lost = recovered.restored.lost_until;
            let then = if lost > recovered.restored.last {
                format!(
                    "everything from there to {lost} is given up; no vote before it is back from the leader"
                )
            } else {
                "a snapshot has them, the log begins behind them".to_owned()
            };
            tracing::error!(node = %self.id(), "{damaged}: {then}");
        }
        if let Some(task) = recovered.log_fix.take() {
            self.write_log(task).await.ok_or(OpenError::Stopped)??;
        }
        let mut config = config;
        config.core.id = recovered.replica;
        // The host draws a seed for each of its groups from this.
        config.core.seed = self.seed;
        if **opened_last != config {
            *opened_last = Arc::new(config.clone());
        }
        let kept = Arc::clone(&opened_last);
        let (setup, machine) = recovered.into_setup(config, seeds);
        self.apply.add(Box::new(machine)).map_err(|_| OpenError::Stopped)?;
        let (reply, opened) = oneshot::channel();
        let open = self.shared.mailbox.push(HostInput::Open { setup: Box::new(setup), reply });
        open.map_err(|_| OpenError::Stopped)?;
        let feed = opened.await.map_err(|_| OpenError::Stopped)??;
        Ok(Raft::new(group, Arc::clone(&self.shared), feed, kept))
    }

    /// Waits until nothing here writes for the group, or applies: what is recovered while something does is out of date
    /// when it starts, and may have forgotten a vote.
    async fn reserve(&self, group: GroupId) -> Result<(), OpenError> {
        let (reply, reserved) = oneshot::channel();
        let reserve = self.shared.mailbox.push(HostInput::Reserve { group, reply });
        reserve.map_err(|_| OpenError::Stopped)?;
        Ok(reserved.await.map_err(|_| OpenError::Stopped)??)
    }

    /// What the log knows of the group, after writing its beginning if that is asked for.
    async fn find_or_create(&self, group: GroupId, start: Start) -> Result<GroupState, OpenError> {
        let on_disk = self.reader.state(group);
        let members = |reason: String| OpenError::Members { group, reason };
        let batch = match (on_disk, start) {
            (Some(state), Start::Join { replica: asked, .. }) if state.replica != asked => {
                return Err(OpenError::OtherReplica { group, on_disk: state.replica, asked });
            }
            (Some(state), _) => return Ok(state),
            (None, Start::Resume) => return Err(OpenError::NotFound(group)),
            (None, Start::Bootstrap { members: list }) => {
                let membership = Membership::initial(list).map_err(|error| members(error.to_string()))?;
                let (replica, _) = membership
                    .on_node(self.id())
                    .ok_or_else(|| members(format!("node {} is not one of the members", self.id())))?;
                bootstrap_batch(group, replica, &Arc::new(membership))
            }
            (None, Start::Join { replica, .. }) => join_batch(group, replica),
        };
        let LogBatch { groups } = batch;
        for write in groups {
            let task = LogTask { write, token: None, must_sync: true };
            self.write_log(task).await.ok_or(OpenError::Stopped)??;
        }
        self.reader.state(group).ok_or(OpenError::NotFound(group))
    }

    /// Writes to the log for a group that is not open; `None` when the node has stopped.
    async fn write_log(&self, task: LogTask) -> Option<Result<(), LogError>> {
        let (reply, written) = oneshot::channel();
        match &self.log {
            Some(log) => log.push(LogInput::Asked { task, reply }).ok()?,
            None => {
                self.shared.mailbox.push(HostInput::WriteLog { task: Box::new(task), reply }).ok()?;
            }
        }
        written.await.ok()
    }

    /// Stops a group on this node and answers all its requests; its data stays. Nothing happens if it is not
    /// open. Its state machine is dropped when it is done with what it is doing, at the latest when the group
    /// is opened again.
    pub async fn close_group(&self, group: GroupId) {
        let _one_at_a_time = self.opening.lock().await;
        self.close(group).await;
    }

    async fn close(&self, group: GroupId) {
        let (reply, closed) = oneshot::channel();
        if self.shared.mailbox.push(HostInput::Close { group, reply }).is_ok() {
            // Resolves when the host thread has dropped its end, having closed the group or stopped.
            drop(closed.await);
        }
    }

    /// Stops a group on this node and deletes its log and snapshots. Only for a replica that has been
    /// removed from the membership: a replica that forgets what it promised must never come back.
    ///
    /// # Errors
    /// See [`RemoveError`]; may be repeated.
    pub async fn remove_group(&self, group: GroupId) -> Result<(), RemoveError> {
        let _one_at_a_time = self.opening.lock().await;
        self.close(group).await;
        if self.has_group(group) {
            let write = GroupWrite { group, remove: true, ..GroupWrite::default() };
            let task = LogTask { write, token: None, must_sync: true };
            self.write_log(task).await.ok_or(RemoveError::Stopped)??;
        }
        let (reply, forgotten) = oneshot::channel();
        self.read.push(ReadInput::Forget { group, reply }).map_err(|_| RemoveError::Stopped)?;
        Ok(forgotten.await.map_err(|_| RemoveError::Stopped)??)
    }

    /// Reads the snapshots of `group` to their ends and returns what is damaged; blocks no thread of the node's.
    /// A damaged snapshot is not used any more: [`Raft::take_snapshot`] makes a new one.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub async fn verify_snapshots(&self, group: GroupId) -> Result<Vec<Damage>, SnapshotError> {
        let snapshots = Arc::clone(&self.snapshots);
        let verified = tokio::task::spawn_blocking(move || snapshots.verify(group)).await;
        // Only a runtime that is shutting down ends the reading before its end.
        verified.unwrap_or_else(|_| Ok(Vec::new()))
    }

    /// The last entry of each group's log on disk, for diagnosis.
    #[must_use]
    pub fn last_on_disk(&self, group: GroupId) -> Option<LogIndex> {
        self.reader.state(group).map(|state| state.last)
    }

    /// Resolves when the node has stopped by itself (its log cannot be written), with the reason.
    pub async fn failure(&self) -> String {
        let mut failure = self.shared.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await;
        // The sender lives as long as `self`.
        failed.ok().and_then(|reason| reason.clone()).unwrap_or_default()
    }

    /// Figures for metrics.
    #[must_use]
    pub fn stats(&self) -> NodeStats {
        let LogFigures { stats, disk_free_bytes } = self.shared.log_figures();
        NodeStats { log: stats, disk_free_bytes, transport: self.transport.stats() }
    }

    /// How often what happened to the replicas here, since the node started: changes of role with
    /// their reasons, votes, refused messages, snapshots, … (everything but the steps of ordinary work).
    #[must_use]
    pub fn event_counts(&self) -> Vec<(EventLabel, u64)> {
        self.shared.event_log.counts()
    }

    /// The peers this node talks to, ascending.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.transport.peers()
    }

    /// Reads the certificates for TLS between nodes again, without a restart: connections made from now on use
    /// them. Returns whether anything had changed; `false` on a node without TLS.
    ///
    /// # Errors
    /// See [`TlsLoadError`](crate::TlsLoadError); the certificates from before stay in use.
    #[cfg(feature = "tls")]
    pub async fn reload_tls(&self) -> Result<bool, crate::transport::TlsLoadError> {
        let Some(tls) = self.tls.clone() else { return Ok(false) };
        // A panic there has been printed; nothing was changed then.
        tokio::task::spawn_blocking(move || tls.reload()).await.unwrap_or(Ok(false))
    }

    /// Stops the node without haste: for what it leads of `groups`, lets what was asked for until now come to
    /// its end and hands over, and then does as [`Node::shutdown`], at the latest after `within`. Returns the
    /// groups for which that was not enough: nobody took over, or something was still on its way. Nothing
    /// acknowledged is lost either way.
    ///
    /// Dropping the call before its end stops nothing that has not stopped yet.
    pub async fn shutdown_gracefully(&self, groups: &[Raft], within: Duration) -> Vec<GroupId> {
        let deadline = tokio::time::Instant::now() + within;
        let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
        let mut unfinished = Vec::new();
        for raft in groups.iter().filter(|raft| raft.is_leader()) {
            // Behind everything that was asked for before it.
            let drained = raft.within(left()).barrier().await;
            let others = raft.status().membership.voters().count() > 1;
            // Alone it leads until the end.
            let handed_over = match others {
                true => raft.within(left()).transfer_leadership(None).await.map(drop),
                false => Ok(()),
            };
            if drained.is_err() || handed_over.is_err() {
                unfinished.push(raft.group());
            }
        }
        self.shutdown().await;
        unfinished
    }

    /// Stops the node at once: answers every pending request, joins every thread and task, and gives the
    /// data directory free. May be called more than once.
    pub async fn shutdown(&self) {
        let mut running = self.running.lock().await;
        self.transport.stop().await;
        if let Some(running) = running.take() {
            // A panic on one of the threads has been reported through `failure`.
            drop(tokio::task::spawn_blocking(move || drop(running)).await);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.transport.abort();
        drop(self.running.get_mut().take());
    }
}

impl Running {
    fn spawn_apply(&mut self, threads: usize, snapshots: &Arc<dyn SnapshotStore>) -> Result<(), StartError> {
        let pool = Arc::clone(&self.apply);
        for thread in 0..threads {
            let snapshots = Arc::clone(snapshots);
            self.spawn("apply", &pool, move |pool, shared| {
                apply_loop(thread, pool, &*snapshots, |events, is_idle| shared.bring_events(events, is_idle));
            })?;
        }
        Ok(())
    }

    fn spawn<T: WorkPlace>(
        &mut self,
        name: &'static str,
        place: &Arc<T>,
        body: impl FnOnce(&T, &Shared) + Send + 'static,
    ) -> Result<(), StartError> {
        let (shared, place) = (Arc::clone(&self.shared), Arc::clone(place));
        let thread = std::thread::Builder::new().name(format!("quorate-{name}"));
        let thread = thread.spawn(move || {
            let guard = ThreadGuard { shared, name, place };
            body(&guard.place, &guard.shared);
        });
        self.threads.push(thread.map_err(StartError::Thread)?);
        Ok(())
    }
}

impl Drop for Running {
    /// The host first, so that what it still hands out is done before the others end.
    fn drop(&mut self) {
        drop(self.shared.mailbox.push(HostInput::Stop { reason: "the node was shut down".to_owned() }));
        let mut threads = std::mem::take(&mut self.threads).into_iter();
        join(threads.next());
        if let Some(log) = &self.log {
            log.close();
        }
        self.apply.close();
        self.read.close();
        for thread in threads {
            join(Some(thread));
        }
        // Only now may another process take the directory.
        drop(self.directory.take());
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    // A state machine that owns its node and is dropped by its thread: it cannot wait for itself.
    if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
        // A panic has been reported by the thread's guard.
        drop(thread.join());
    }
}

#[cfg(test)]
mod tests;
