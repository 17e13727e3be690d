//! The TCP transport: two outbound connections per peer, one listener.
//!
//! ```text
//!   send ──► Peer ─┬─ consensus link: control, then appends ──► socket with a small unsent limit
//!                  └─ bulk link: snapshot pieces ─────────────► socket
//!   listener ──► one task per inbound connection ──► Inbound::received
//! ```
//!
//! Each node speaks on the connections it opened and listens on those it accepted, so that two nodes
//! that connect to each other at the same time need not agree on whose connection wins.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quorate_core::NodeId;
use quorate_host::{Lane, Outbound};
use quorate_storage::KnownPeers;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::TransportConfig;
use crate::transport::complaints::Complaints;
use crate::transport::frame::Channel;
use crate::transport::handshake::{Acquaintances, Identity};
use crate::transport::inbound::accept_loop;
use crate::transport::link::{Link, LinkContext};
use crate::transport::link_queue::Pushed;
use crate::transport::reading_room::ReadingRoom;
use crate::transport::stream::Protection;
use crate::transport::{Inbound, PeerStatus, Transport, TransportStats};

/// Carries messages over TCP.
pub struct TcpTransport {
    config: TransportConfig,
    room: Arc<ReadingRoom>,
    address: SocketAddr,
    runtime: Handle,
    acquaintances: Arc<Acquaintances>,
    counters: Arc<Counters>,
    protection: Protection,
    context: OnceLock<LinkContext>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listener: Option<TcpListener>,
    accepting: Option<Accepting>,
    peers: BTreeMap<NodeId, Peer>,
    links: Vec<JoinHandle<()>>,
    stopped: bool,
}

/// The task that accepts connections; it stops when the sender is dropped.
struct Accepting {
    task: JoinHandle<()>,
    stop: oneshot::Sender<Infallible>,
}

struct Peer {
    address: Arc<Mutex<String>>,
    consensus: Arc<Link>,
    bulk: Arc<Link>,
}

/// A running total.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
    pub(crate) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The figures behind [`TransportStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) messages_sent: Counter,
    pub(crate) messages_received: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) outbound_dropped: Counter,
    pub(crate) inbound_dropped: Counter,
    pub(crate) malformed: Counter,
    pub(crate) connections: Counter,
    pub(crate) handshakes_refused: Counter,
}

impl Counters {
    pub(crate) fn read(&self) -> TransportStats {
        TransportStats {
            messages_sent: self.messages_sent.get(),
            messages_received: self.messages_received.get(),
            bytes_sent: self.bytes_sent.get(),
            bytes_received: self.bytes_received.get(),
            outbound_dropped: self.outbound_dropped.get(),
            inbound_dropped: self.inbound_dropped.get(),
            malformed: self.malformed.get(),
            connections: self.connections.get(),
            handshakes_refused: self.handshakes_refused.get(),
            reading_bytes: 0,
        }
    }
}

impl TcpTransport {
    /// Listens on `listen`; peers are told `advertise`, or the address listened on. Must be called
    /// within a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(
        listen: &str,
        advertise: Option<&str>,
        identity: Identity,
        config: TransportConfig,
    ) -> std::io::Result<Self> {
        Self::bind_protected(listen, advertise, identity, config, Protection::Plain).await
    }

    /// As [`TcpTransport::bind`], with TLS on every connection and certificates on both sides. `tls` must have
    /// been loaded for the node that `identity` names; see [`PeerTls::reload`](crate::PeerTls::reload).
    ///
    /// # Errors
    /// When the address cannot be listened on.
    #[cfg(feature = "tls")]
    pub async fn bind_tls(
        listen: &str,
        advertise: Option<&str>,
        identity: Identity,
        config: TransportConfig,
        tls: Arc<crate::transport::PeerTls>,
    ) -> std::io::Result<Self> {
        Self::bind_protected(listen, advertise, identity, config, Protection::Tls(tls)).await
    }

    async fn bind_protected(
        listen: &str,
        advertise: Option<&str>,
        identity: Identity,
        config: TransportConfig,
        protection: Protection,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let advertised = advertise.map_or_else(|| address.to_string(), str::to_owned);
        // Whoever waits for room must not run out of its own time to write.
        let room = Arc::new(ReadingRoom::new(config.reading_bytes_max, config.write_timeout / 2));
        Ok(Self {
            config,
            room,
            address,
            runtime: Handle::current(),
            acquaintances: Arc::new(Acquaintances::new(identity, advertised)),
            counters: Arc::default(),
            protection,
            context: OnceLock::new(),
            state: Mutex::new(State { listener: Some(listener), ..State::default() }),
        })
    }

    /// Whether `node` would be noticed if it came back with another directory.
    #[cfg(test)]
    pub(crate) fn has_met(&self, node: NodeId) -> bool {
        self.acquaintances.has_met(node)
    }

    /// How many inbound connections `node` has.
    #[cfg(test)]
    pub(crate) fn acquaintances_live(&self, node: NodeId) -> usize {
        self.acquaintances.live(node)
    }

    /// The links to a node, started when they are first needed.
    fn peer<'a>(
        &self,
        state: &'a mut State,
        context: &LinkContext,
        node: NodeId,
        membership_address: String,
    ) -> &'a Peer {
        let State { peers, links, .. } = state;
        let peer = peers.entry(node).or_insert_with(|| {
            let address = Arc::default();
            let mut open = |channel| {
                let bytes_max = self.config.queue_bytes_max;
                let link = Arc::new(Link::new(node, channel, Arc::clone(&address), bytes_max));
                links.push(self.runtime.spawn(Arc::clone(&link).run(context.clone())));
                link
            };
            let (consensus, bulk) = (open(Channel::Consensus), open(Channel::Bulk));
            Peer { address, consensus, bulk }
        });
        if !membership_address.is_empty() {
            *peer.address.lock().unwrap_or_else(PoisonError::into_inner) = membership_address;
        }
        peer
    }

    /// Queues one message; returns whether its sender must be told that it was lost.
    fn queue(&self, state: &mut State, context: &LinkContext, outbound: Outbound) -> bool {
        let peer = self.peer(state, context, outbound.to, outbound.address);
        let link = match outbound.lane {
            Lane::Control | Lane::Append => &peer.consensus,
            Lane::Bulk => &peer.bulk,
        };
        match link.queue.push(outbound.lane, outbound.message) {
            Pushed::Queued => false,
            Pushed::Displaced(count) => {
                self.counters.outbound_dropped.add(count);
                false
            }
            Pushed::Dropped => {
                self.counters.outbound_dropped.add(1);
                true
            }
        }
    }

    /// Takes all tasks out, the links aborted, and lets nothing start any more.
    fn end(&self) -> (Option<Accepting>, Vec<JoinHandle<()>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.stopped = true;
        state.listener = None;
        let links = std::mem::take(&mut state.links);
        links.iter().for_each(JoinHandle::abort);
        (state.accepting.take(), links)
    }
}

impl Transport for TcpTransport {
    fn remember(&self, known_peers: KnownPeers) {
        self.acquaintances.remember(known_peers);
    }

    fn meet(&self, nodes: Vec<(NodeId, String)>) {
        let Some(context) = self.context.get() else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return;
        }
        for (node, address) in nodes {
            if !self.acquaintances.has_met(node) {
                self.peer(&mut state, context, node, address).consensus.meet();
            }
        }
    }

    fn start(&self, inbound: Arc<dyn Inbound>) {
        let context = LinkContext {
            config: self.config.clone(),
            acquaintances: Arc::clone(&self.acquaintances),
            inbound,
            counters: Arc::clone(&self.counters),
            protection: self.protection.clone(),
            complaints: Arc::new(Complaints::default()),
            room: Arc::clone(&self.room),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = state.listener.take() {
            let (stop, stopped) = oneshot::channel();
            let task = self.runtime.spawn(accept_loop(listener, context.clone(), stopped));
            state.accepting = Some(Accepting { task, stop });
        }
        // A second start has no listener left and changes nothing.
        self.context.get_or_init(|| context);
    }

    fn send(&self, messages: Vec<Outbound>) {
        let Some(context) = self.context.get() else { return };
        let mut lost = Vec::new();
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.stopped {
                return;
            }
            for outbound in messages {
                let to = outbound.to;
                if self.queue(&mut state, context, outbound) && !lost.contains(&to) {
                    lost.push(to);
                }
            }
        }
        for node in lost {
            context.inbound.unreachable(node);
        }
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn advertised(&self) -> String {
        self.acquaintances.advertised().to_owned()
    }

    fn stats(&self) -> TransportStats {
        TransportStats { reading_bytes: self.room.held() as u64, ..self.counters.read() }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |(node, peer): (&NodeId, &Peer)| PeerStatus {
            node: *node,
            address: peer.address.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            connected: peer.consensus.connected.load(Ordering::Relaxed),
            error: peer.consensus.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            refused: peer.consensus.refused.get() + peer.bulk.refused.get(),
        };
        state.peers.iter().map(status).collect()
    }

    fn abort(&self) {
        if let (Some(accepting), _) = self.end() {
            accepting.task.abort();
        }
        self.acquaintances.forget();
    }

    fn stop(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let (accepting, links) = self.end();
            if let Some(Accepting { task, stop }) = accepting {
                drop(stop);
                // A panic of the task has ended it as well.
                drop(task.await);
            }
            for link in links {
                // An aborted task ends with an error that says just that.
                drop(link.await);
            }
            let acquaintances = Arc::clone(&self.acquaintances);
            // Only a runtime that is shutting down does not run it, and then `abort` does.
            drop(tokio::task::spawn_blocking(move || acquaintances.forget()).await);
        })
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.abort();
    }
}
