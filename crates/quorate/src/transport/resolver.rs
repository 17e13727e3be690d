//! From the address that a membership records to the one that is dialled.
//!
//! ```text
//!   node 2 at "db-2.example:7001" ──resolver──► 10.1.7.3:7001, 10.1.7.4:7001 ──► tried in this order
//!         (membership, or the peer's own word)        asked again for every attempt to connect
//! ```
//!
//! Without a resolver the system looks names up, also for every attempt. Whom the connection reaches is checked by
//! the handshake (and by TLS) either way: a wrong answer cannot do more harm than an unreachable peer.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use quorate_core::NodeId;

type Resolving = Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>>;
type Resolve = dyn Fn(NodeId, String) -> Resolving + Send + Sync;

/// Where to dial a node: asked with the node and the recorded address (empty: none is known) at every attempt to
/// connect, within `TransportConfig::connect_timeout`. For nodes that move while their membership stays as it is.
///
/// ```
/// use quorate::{AddressResolver, TransportConfig};
///
/// let resolver = AddressResolver::new(|node, recorded: String| async move {
///     // Ask your orchestrator about `node` here; this one only adds a port.
///     let found = tokio::net::lookup_host((recorded.as_str(), 7000 + node.0 as u16)).await?;
///     Ok(found.collect())
/// });
/// let config = TransportConfig { resolver: Some(resolver), ..TransportConfig::default() };
/// # assert!(config.resolver.is_some());
/// ```
#[derive(Clone)]
pub struct AddressResolver(Arc<Resolve>);

impl AddressResolver {
    /// A resolver that asks `resolve`. An error, or no address, is an attempt that failed: it is asked again after
    /// the usual pause.
    pub fn new<F>(resolve: impl Fn(NodeId, String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |node, recorded| Box::pin(resolve(node, recorded))))
    }

    pub(crate) async fn resolve(&self, node: NodeId, recorded: &str) -> std::io::Result<Vec<SocketAddr>> {
        let found = (self.0)(node, recorded.to_owned()).await?;
        if found.is_empty() {
            let reason = format!("the resolver knows no address for node {node} ({recorded:?})");
            return Err(std::io::Error::new(std::io::ErrorKind::NotFound, reason));
        }
        Ok(found)
    }
}

impl fmt::Debug for AddressResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressResolver")
    }
}

/// Two are the same if they are clones of each other.
impl PartialEq for AddressResolver {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for AddressResolver {}
