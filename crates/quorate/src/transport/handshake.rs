//! Who may talk to whom: both sides of a new connection say who they are before anything else, and
//! either may refuse, with a reason that both get to see.
//!
//! ```text
//!   connecting side                      accepting side
//!     Hello { versions, to, speaker } ──►  checks cluster, node ids, versions, directory
//!                                     ◄──  Welcome { version, speaker }   or   Refused { reason }
//!     checks the same of the speaker
//! ```
//!
//! * A node id belongs to one data directory, by its incarnation: a wiped directory could have forgotten a
//!   vote, so it must come back as a new node. The first contact is noted in the own data directory before
//!   anything the peer says counts, so that this also holds after all have been restarted. A node that keeps
//!   nothing on disk (and a transport that was given no [`KnownPeers`]) remembers for as long as its process
//!   runs, and so believes whoever comes first. Members meet as soon as they can, without waiting for
//!   something to say ([`Transport::meet`](super::Transport::meet)). Only a node that could never reach the
//!   old directory cannot know.
//! * What cannot be noted is refused: the peer tries again, and nothing else is harmed. Noting waits for the disk, once
//!   in the life of each pair of nodes; whoever is known already does not wait behind it.
//! * Of two live processes with one node id and one directory (a copy), the one started later is believed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use quorate_core::NodeId;
use quorate_storage::{KnownPeers, RecogniseError};
use tokio::sync::oneshot;

use crate::config::ClusterId;
use crate::transport::frame::{Channel, FrameError, Hello, PROTOCOL_VERSIONS, Speaker, Welcome};

/// Who this process is, as its peers get to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The data directory, by a random number it got when it was created.
    pub incarnation: u64,
    /// When this process started, in nanoseconds since 1970.
    pub started: u64,
}

/// Why one node will not talk to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It belongs to another cluster.
    #[error("it belongs to cluster {theirs}: check the address, or the data directory's cluster")]
    OtherCluster {
        /// The cluster of the side that refused.
        theirs: ClusterId,
    },
    /// Another node answers at that address.
    #[error("node {theirs} answers at this address: check the addresses in the membership")]
    OtherNode {
        /// The node that answers.
        theirs: NodeId,
    },
    /// The node id is known with another data directory.
    #[error(
        "this node id is known with another data directory: a wiped node must be removed and come back with a \
         new id"
    )]
    OtherDirectory,
    /// A process that started later with the same directory is connected.
    #[error("a later process with the same data directory is running: stop one of the two copies")]
    Superseded,
    /// No protocol version in common.
    #[error("it speaks protocol versions {min} to {max} only: upgrade the older node")]
    Version {
        /// The oldest it speaks.
        min: u16,
        /// The newest it speaks.
        max: u16,
    },
    /// Both sides say they are the same node.
    #[error("both sides have the same node id: give every node its own")]
    SameNodeId,
    /// The other side has no room for another connection.
    #[error("it has too many connections: try again later")]
    TooManyConnections,
    /// The certificate shown is not that of the node.
    #[error("the certificate is not that of the node which shows it: give each node its own")]
    Certificate,
    /// Plain bytes, where only TLS is spoken.
    #[error("only TLS is spoken there: give both nodes certificates, or neither")]
    TlsRequired,
    /// TLS, where only plain bytes are spoken.
    #[error("TLS is not spoken there: give both nodes certificates, or neither")]
    PlainOnly,
    /// The other side cannot write down whom it has met.
    #[error("it cannot note this node in its data directory: check the disk of the node that refused")]
    NotNoted,
    /// A reason that this build does not know.
    #[error("for a reason unknown to this build (code {code}): upgrade this node")]
    Other {
        /// The reason's number.
        code: u16,
    },
}

/// Why there is no conversation with a peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// It cannot be reached.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// Where.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// It did not answer in time.
    #[error("{address} did not answer in time")]
    TimedOut {
        /// Where.
        address: String,
    },
    /// Nobody knows where it is.
    #[error("no address is known for node {0}: it has not connected yet")]
    NoAddress(NodeId),
    /// It said no.
    #[error("the peer refused: {0}")]
    RefusedByPeer(Refusal),
    /// This side said no.
    #[error("refused the peer: {0}")]
    Refused(Refusal),
    /// Its certificate or this node's is not accepted, or it does not speak TLS.
    #[cfg(feature = "tls")]
    #[error("{address}: {source}")]
    Tls {
        /// Where.
        address: String,
        /// What is wrong.
        source: crate::transport::TlsError,
    },
    /// It does not speak the protocol.
    #[error("{address} does not speak the peer protocol: {reason}")]
    Malformed {
        /// Where.
        address: String,
        /// What is wrong.
        reason: String,
    },
}

impl HandshakeError {
    /// A connection inside TLS reports what the peer thinks of this node's certificate as an I/O error.
    pub(crate) fn from_io(address: String, source: std::io::Error) -> Self {
        #[cfg(feature = "tls")]
        let source = match crate::transport::TlsError::from_io(source) {
            Ok(source) => return Self::Tls { address, source },
            Err(source) => source,
        };
        Self::Unreachable { address, source }
    }

    /// Whether one side decided against the other, as opposed to not reaching it.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::RefusedByPeer(_) | Self::Refused(_) => true,
            #[cfg(feature = "tls")]
            Self::Tls { .. } => true,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::NoAddress(_)
            | Self::Malformed { .. } => false,
        }
    }

    pub(crate) fn from_frame(address: &str, error: FrameError) -> Self {
        let address = address.to_owned();
        match error {
            FrameError::Io(source) => Self::from_io(address, source),
            FrameError::TooLarge { .. }
            | FrameError::Slow { .. }
            | FrameError::TooShort { .. }
            | FrameError::Checksum
            | FrameError::Version(_)
            | FrameError::Kind(_)
            | FrameError::Magic
            | FrameError::Tls
            | FrameError::Body(_) => Self::Malformed { address, reason: error.to_string() },
        }
    }
}

/// What this process remembers of everyone it has shaken hands with.
pub(crate) struct Acquaintances {
    me: Identity,
    address: String,
    known: Mutex<BTreeMap<NodeId, Known>>,
    /// Whom earlier processes with the same directory have met.
    met_before: OnceLock<BTreeSet<NodeId>>,
    /// What survives this process; taken out when the transport ends, so that nothing is noted any more.
    durable: OnceLock<Arc<Mutex<Option<KnownPeers>>>>,
}

struct Known {
    incarnation: u64,
    started: u64,
    address: String,
    live: BTreeMap<Channel, Live>,
}

/// An inbound connection; dropping it tells the connection's task to end.
struct Live {
    number: u64,
    _end: oneshot::Sender<()>,
}

/// A connection that has been admitted.
pub(crate) struct Admission {
    pub(crate) welcome: Welcome,
    pub(crate) number: u64,
    /// Resolves when the connection has been replaced by a newer one.
    pub(crate) replaced: oneshot::Receiver<()>,
}

/// The most nodes remembered; one more is refused as a connection too many.
const KNOWN_MAX: usize = 4096;

impl Acquaintances {
    pub(crate) fn new(me: Identity, address: String) -> Self {
        Self {
            me,
            address,
            known: Mutex::new(BTreeMap::new()),
            met_before: OnceLock::new(),
            durable: OnceLock::new(),
        }
    }

    /// From now on every first contact is checked against `known_peers` and noted there.
    pub(crate) fn remember(&self, known_peers: KnownPeers) {
        // A second call would be one transport for two directories: the first one stays.
        self.met_before.get_or_init(|| known_peers.nodes().collect());
        self.durable.get_or_init(|| Arc::new(Mutex::new(Some(known_peers))));
    }

    /// Notes nobody any more, and waits for a note that is being made. Blocks on the disk.
    pub(crate) fn forget(&self) {
        if let Some(durable) = self.durable.get() {
            durable.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    pub(crate) fn me(&self) -> Speaker {
        Speaker {
            cluster: self.me.cluster,
            node: self.me.node,
            incarnation: self.me.incarnation,
            started: self.me.started,
            address: self.address.clone(),
        }
    }

    pub(crate) fn advertised(&self) -> &str {
        &self.address
    }

    #[cfg(test)]
    pub(crate) fn live(&self, node: NodeId) -> usize {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&node).map_or(0, |known| known.live.len())
    }

    /// Whether this node would notice that `node` has another directory than at first.
    pub(crate) fn has_met(&self, node: NodeId) -> bool {
        let met_before = self.met_before.get().is_some_and(|met| met.contains(&node));
        met_before || self.known.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&node)
    }

    /// Where `node` said it is reached, if it has ever said so.
    pub(crate) fn address_of(&self, node: NodeId) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&node).map(|known| known.address.clone()).filter(|address| !address.is_empty())
    }

    /// The `Hello` to say to `to`.
    pub(crate) fn hello(&self, to: NodeId, channel: Channel) -> Hello {
        Hello {
            versions: (*PROTOCOL_VERSIONS.start(), *PROTOCOL_VERSIONS.end()),
            channel,
            to,
            speaker: self.me(),
        }
    }

    /// Decides about a `Hello`. `number` names the connection, larger for later ones.
    pub(crate) async fn admit(&self, number: u64, hello: &Hello) -> Result<Admission, Refusal> {
        let (mine_min, mine_max) = (*PROTOCOL_VERSIONS.start(), *PROTOCOL_VERSIONS.end());
        if hello.versions.0 > mine_max || hello.versions.1 < mine_min {
            return Err(Refusal::Version { min: mine_min, max: mine_max });
        }
        if hello.speaker.cluster != self.me.cluster {
            return Err(Refusal::OtherCluster { theirs: self.me.cluster });
        }
        if hello.to != self.me.node {
            return Err(Refusal::OtherNode { theirs: self.me.node });
        }
        if hello.speaker.node == self.me.node {
            return Err(Refusal::SameNodeId);
        }
        self.note(&hello.speaker).await?;
        let mut nodes = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.recognise(&mut nodes, &hello.speaker)?;
        let (end, replaced) = oneshot::channel();
        known.live.insert(hello.channel, Live { number, _end: end });
        let version = hello.versions.1.min(mine_max);
        Ok(Admission { welcome: Welcome { version, speaker: self.me() }, number, replaced })
    }

    /// Decides about the answer to a `Hello` that was meant for `to`.
    pub(crate) async fn accept(&self, to: NodeId, welcome: &Welcome) -> Result<(), Refusal> {
        if !PROTOCOL_VERSIONS.contains(&welcome.version) {
            return Err(Refusal::Version { min: welcome.version, max: welcome.version });
        }
        if welcome.speaker.cluster != self.me.cluster {
            return Err(Refusal::OtherCluster { theirs: welcome.speaker.cluster });
        }
        if welcome.speaker.node != to {
            return Err(Refusal::OtherNode { theirs: welcome.speaker.node });
        }
        self.note(&welcome.speaker).await?;
        let mut nodes = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.recognise(&mut nodes, &welcome.speaker).map(|_| ())
    }

    /// An admitted connection has ended.
    pub(crate) fn ended(&self, node: NodeId, channel: Channel, number: u64) {
        let mut nodes = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = nodes.get_mut(&node)
            && known.live.get(&channel).is_some_and(|live| live.number == number)
        {
            known.live.remove(&channel);
        }
    }

    /// Finds or adds what is known of the speaker, who has been noted, and brings it up to date.
    fn recognise<'a>(
        &self,
        nodes: &'a mut BTreeMap<NodeId, Known>,
        speaker: &Speaker,
    ) -> Result<&'a mut Known, Refusal> {
        let has_room = nodes.len() < KNOWN_MAX;
        let known = match nodes.entry(speaker.node) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(stranger) if has_room => stranger.insert(Known {
                incarnation: speaker.incarnation,
                started: speaker.started,
                address: speaker.address.clone(),
                live: BTreeMap::new(),
            }),
            Entry::Vacant(_) => return Err(Refusal::TooManyConnections),
        };
        if known.incarnation != speaker.incarnation {
            return Err(Refusal::OtherDirectory);
        }
        if known.started != speaker.started {
            // A clock that went back must not lock a restarted node out: only a live rival counts.
            if speaker.started < known.started && !known.live.is_empty() {
                return Err(Refusal::Superseded);
            }
            known.live.clear();
            known.started = speaker.started;
        }
        known.address.clone_from(&speaker.address);
        Ok(known)
    }

    /// Notes a node that this process meets for the first time. Waits for the disk, on a thread that may.
    async fn note(&self, speaker: &Speaker) -> Result<(), Refusal> {
        let (node, incarnation) = (speaker.node, speaker.incarnation);
        let is_known = {
            let nodes = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if nodes.len() >= KNOWN_MAX && !nodes.contains_key(&node) {
                return Err(Refusal::TooManyConnections);
            }
            nodes.contains_key(&node)
        };
        let Some(durable) = self.durable.get().filter(|_| !is_known).map(Arc::clone) else { return Ok(()) };
        let noted = tokio::task::spawn_blocking(move || {
            let mut durable = durable.lock().unwrap_or_else(PoisonError::into_inner);
            durable.as_mut().map(|durable| durable.recognise(node, incarnation))
        });
        match noted.await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(RecogniseError::OtherDirectory { .. }))) => Err(Refusal::OtherDirectory),
            Ok(Some(Err(error))) => {
                tracing::error!(peer = %node, "a peer cannot be noted and is refused: {error}");
                Err(Refusal::NotNoted)
            }
            // This node is ending.
            Ok(None) | Err(_) => Err(Refusal::NotNoted),
        }
    }
}
