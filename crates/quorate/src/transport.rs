//! How nodes exchange messages: the seam, and what both sides of it promise.
//!
//! ```text
//!   host thread ── send(messages) ──► Transport ──► network ──► Transport ── received ──► host thread
//!                                        └── unreachable(node) ──► host thread of the sender
//! ```
//!
//! Submit and complete: nothing here waits for the network. Losing, delaying and repeating messages
//! is allowed, altering or inventing them is not: the receiver trusts `from`.
//!
//! Not here: what the messages mean (`quorate-core`), which of them may leave (`quorate-host`).

mod complaints;
mod frame;
mod handshake;
mod inbound;
mod link;
mod link_queue;
mod memory;
mod reading_room;
mod resolver;
mod strangers;
mod stream;
mod tcp;
#[cfg(test)]
mod tcp_tests;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_error;
#[cfg(feature = "tls")]
#[cfg(test)]
mod tls_tests;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use quorate_core::{EntryPayload, NodeId};
use quorate_host::{LeaderRequest, Outbound, PeerBody, PeerMessage};
use quorate_storage::KnownPeers;

pub(crate) use frame::PROTOCOL_VERSIONS;
pub use handshake::{HandshakeError, Identity, Refusal};
pub use memory::{MemoryNetwork, MemoryTransport};
pub use resolver::AddressResolver;
pub use tcp::TcpTransport;
#[cfg(feature = "tls")]
pub use tls::{PeerTls, PemSource, TlsConfig};
#[cfg(feature = "tls")]
pub use tls_error::{CertificateProblem, TlsError, TlsLoadError, TlsPart};

/// Carries messages between nodes.
///
/// # Contract
/// * `send` never blocks and may be called from any thread. Messages of one lane to one node arrive
///   in order, or not at all.
/// * What arrives was sent by the node that `received` names, unchanged.
/// * Queues are bounded in bytes; what does not fit is dropped and counted.
/// * A node that cannot be reached is reported through `unreachable`, at the latest when a message
///   to it is dropped for that reason.
/// * After `stop` has resolved nothing is delivered any more, and every task and thread has ended.
pub trait Transport: Send + Sync {
    /// Notes every peer's incarnation in `known_peers` before the peer is heard, and refuses what does not
    /// fit. Called at most once, before `start`. A transport without a handshake has no use for it.
    fn remember(&self, known_peers: KnownPeers) {
        drop(known_peers);
    }
    /// Shakes hands with each of these nodes as soon as it can be reached, even with nothing to say to it: only who has
    /// met a node notices that it comes back with another directory. Costs little for nodes that were met. A
    /// transport without a handshake has no use for it.
    fn meet(&self, nodes: Vec<(NodeId, String)>) {
        drop(nodes);
    }
    /// Starts delivering to `inbound`. Called once, before the first `send`.
    fn start(&self, inbound: Arc<dyn Inbound>);
    /// Sends messages.
    fn send(&self, messages: Vec<Outbound>);
    /// Where this transport listens.
    fn address(&self) -> SocketAddr;
    /// Where peers are told to reach it.
    fn advertised(&self) -> String;
    /// Running totals.
    fn stats(&self) -> TransportStats;
    /// The peers known to this transport, ascending.
    fn peers(&self) -> Vec<PeerStatus>;
    /// Ends every task at once, without waiting for more than a write under way. `stop` may follow.
    fn abort(&self);
    /// Ends every task and waits for them.
    fn stop(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Where a transport delivers. Never blocks; drops what does not fit.
pub trait Inbound: Send + Sync {
    /// A message arrived. Returns whether it was taken (`false`: a queue is full or the node stops).
    fn received(&self, from: NodeId, message: PeerMessage) -> bool;
    /// Like `received`, but what the message leads to on this node may be done before this returns,
    /// on the thread of the caller, if the thread that does it otherwise sleeps. That may send
    /// messages: hold no lock that sending takes. For transports within one process: waking a
    /// thread costs more than most messages.
    fn received_here(&self, from: NodeId, message: PeerMessage) -> bool {
        self.received(from, message)
    }
    /// A node could not be reached.
    fn unreachable(&self, node: NodeId);
}

/// Running totals of a transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Messages handed to the network.
    pub messages_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes handed to the network.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Messages that were not sent: a queue was full, or the peer could not be reached.
    pub outbound_dropped: u64,
    /// Bytes of messages that are arriving now, as far as they share room
    /// ([`TransportConfig::reading_bytes_max`](crate::TransportConfig::reading_bytes_max)).
    pub reading_bytes: u64,
    /// Messages received and not taken by the node, because its queues were full.
    pub inbound_dropped: u64,
    /// Connections ended because of bytes that make no sense.
    pub malformed: u64,
    /// Established outbound connections now.
    pub connections: u64,
    /// Handshakes refused, by either side, for a certificate or for what was said.
    pub handshakes_refused: u64,
}

/// What a transport knows of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// Where it is reached.
    pub address: String,
    /// Whether the consensus connection to it is established.
    pub connected: bool,
    /// Why the last attempt to connect failed, if it did.
    pub error: Option<String>,
    /// Attempts to connect that either side refused, for a certificate or for what was said.
    pub refused: u64,
}

/// About how many bytes `message` occupies, in memory and on the wire.
pub(crate) fn message_bytes(message: &PeerMessage) -> usize {
    const HEADER: usize = 96;
    let body = match &message.body {
        PeerBody::Raft(raft) => raft.entries().iter().map(entry_bytes).sum(),
        PeerBody::SnapshotChunk(chunk) => chunk.data.len(),
        PeerBody::SnapshotAck(_) | PeerBody::Version(_) | PeerBody::Beat(_) => 0,
        PeerBody::Forward(forward) => match &forward.request {
            LeaderRequest::Propose(proposal) | LeaderRequest::ProposeVersion { proposal, .. } => {
                proposal.bytes()
            }
            LeaderRequest::OpenSession | LeaderRequest::Barrier => 0,
        },
        PeerBody::ForwardReply(reply) => reply.verdict.response().len(),
    };
    HEADER + body
}

/// About how many bytes `entry` occupies.
pub(crate) fn entry_bytes(entry: &quorate_core::Entry) -> usize {
    const HEADER: usize = 32;
    HEADER
        + match &entry.payload {
            EntryPayload::Noop | EntryPayload::Withheld => 0,
            EntryPayload::Command(bytes) => bytes.len(),
            EntryPayload::Membership(membership) => 128 * membership.members().count(),
        }
}
