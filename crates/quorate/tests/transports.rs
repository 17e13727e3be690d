//! Both transports pass the conformance suite.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate::conformance::transport::{Fabric, run};
use quorate::{ClusterId, Identity, MemoryNetwork, NodeId, TcpTransport, Transport, TransportConfig};

impl Fabric for Memory {
    async fn transport(&mut self, node: NodeId) -> Arc<dyn Transport> {
        Arc::new(self.0.transport(node))
    }
}
struct Memory(MemoryNetwork);

/// Nodes on loopback; a restarted one listens where it did before.
#[derive(Default)]
struct Tcp {
    addresses: BTreeMap<NodeId, String>,
    started: u64,
}

impl Fabric for Tcp {
    async fn transport(&mut self, node: NodeId) -> Arc<dyn Transport> {
        self.started += 1;
        let identity = Identity { cluster: ClusterId(9), node, incarnation: node.0, started: self.started };
        let listen = self.addresses.get(&node).cloned().unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let transport =
            TcpTransport::bind(&listen, None, identity, TransportConfig::default()).await.unwrap();
        self.addresses.insert(node, transport.address().to_string());
        Arc::new(transport)
    }
}

#[tokio::test]
async fn the_network_in_memory_conforms() {
    run(|| Memory(MemoryNetwork::new(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_conforms() {
    run(Tcp::default).await;
}
