//! etcd's raftexample rebuilt on [`quorate`]: an HTTP key-value store in one small program, with
//! the same flags and verbs. What differs is on purpose: a PUT is answered after its commit, keys
//! and values are bytes, and no error of a write is ignored.

pub mod api;
pub mod store;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate::{
    ClusterId, GroupConfig, GroupId, Member, MemberRole, MembershipChange, Node, NodeConfig, NodeId, Raft,
    ReplicaId, RoleName, Start,
};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// Every node of the example belongs to this cluster; a node of another one is refused.
const CLUSTER: ClusterId = ClusterId(0x1000);
/// The one group.
const GROUP: GroupId = GroupId(1);

/// What the flags say.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's number: its position in `cluster`, from 1.
    pub id: u64,
    /// The peer URLs of nodes 1, 2, ….
    pub cluster: Vec<String>,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// Whether the node joins a running cluster that knows it already (`POST /id`).
    pub join: bool,
    /// Where the node keeps its log and snapshots.
    pub directory: PathBuf,
    /// Timings and snapshot policy; a snapshot every 10,000 entries by default.
    pub group: GroupConfig,
}

/// Why the example could not start.
#[derive(Debug, thiserror::Error)]
pub enum ExampleError {
    /// The flags contradict each other.
    #[error("{0}")]
    Usage(String),
    /// The HTTP address is taken.
    #[error("cannot listen on {address}: {source}; choose another --port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// The node could not start.
    #[error(transparent)]
    Start(#[from] quorate::StartError),
    /// The replica could not start.
    #[error(transparent)]
    Open(#[from] quorate::OpenError),
}

/// A running node.
pub struct Example {
    node: Node,
    raft: Raft,
    http: SocketAddr,
    stop: Arc<Notify>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// `host:port` of a peer URL.
#[must_use]
pub fn peer_address(url: &str) -> Option<String> {
    let address = url.trim().trim_end_matches('/');
    let address = address.strip_prefix("http://").unwrap_or(address);
    let (host, port) = address.rsplit_once(':')?;
    (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| address.to_owned())
}

impl Example {
    /// Starts the node, or continues where its directory left off.
    ///
    /// # Errors
    /// See [`ExampleError`].
    pub async fn start(options: Options) -> Result<Self, ExampleError> {
        let mut members = Vec::new();
        for (position, url) in options.cluster.iter().enumerate() {
            let peer_address = peer_address(url)
                .ok_or_else(|| ExampleError::Usage(format!("--cluster: not a URL: {url}")))?;
            members.push(Member::voter(NodeId(position as u64 + 1), peer_address));
        }
        let own = members.iter().find(|member| member.node == NodeId(options.id)).ok_or_else(|| {
            ExampleError::Usage(format!("--id {}: --cluster lists no such node", options.id))
        })?;
        let listener = TcpListener::bind(options.http)
            .await
            .map_err(|source| ExampleError::Listen { address: options.http, source })?;
        let http = listener.local_addr().unwrap_or(options.http);
        let config = NodeConfig {
            cluster: CLUSTER,
            group: options.group,
            ..NodeConfig::durable(own.node, &own.peer_address, options.directory)
        };
        let node = Node::start(config).await?;
        let start = if options.join {
            let others = members.iter().filter(|member| member.node != node.id());
            let seeds =
                others.map(|member| (ReplicaId(member.node.0), member.node, member.peer_address.clone()));
            Start::Join { replica: ReplicaId(options.id), seeds: seeds.collect() }
        } else {
            Start::Bootstrap { members }
        };
        let raft = node.open_group(GROUP, start, store::Store::default()).await?;
        let stop = Arc::new(Notify::new());
        let stopping = Arc::clone(&stop);
        let router = api::router(raft.clone());
        let serving =
            axum::serve(listener, router).with_graceful_shutdown(async move { stopping.notified().await });
        let tasks = vec![
            tokio::spawn(async move { drop(serving.await) }),
            tokio::spawn(tend_membership(raft.clone(), http)),
        ];
        Ok(Self { node, raft, http, stop, tasks })
    }

    /// Where HTTP listens.
    #[must_use]
    pub const fn http(&self) -> SocketAddr {
        self.http
    }

    /// The replica.
    #[must_use]
    pub const fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Resolves with the reason when the node cannot go on.
    pub async fn failure(&self) -> String {
        tokio::select! {
            reason = self.node.failure() => reason,
            reason = self.raft.stopped() => reason,
        }
    }

    /// Stops: pending requests are answered, then every task ends.
    pub async fn shutdown(mut self) {
        self.stop.notify_waiters();
        self.stop.notify_one();
        self.node.shutdown().await;
        let [serving, tending] = [self.tasks.remove(0), self.tasks.remove(0)];
        tending.abort();
        // A client that keeps its connection open must not keep the program.
        drop(tokio::time::timeout(Duration::from_secs(1), serving).await);
    }
}

/// What the leader does about the membership: it says where its own HTTP is, so that the others can
/// redirect to it, and makes voters of the nodes that were added, as soon as they have caught up.
async fn tend_membership(raft: Raft, http: SocketAddr) {
    let mut status = raft.watch();
    loop {
        let now = status.status();
        let leads = now.role == RoleName::Leader;
        if let Some(change) = next_change(&now, http).filter(|_| leads) {
            // Refused (the learner is behind, another change is under way): the next round tries again.
            drop(raft.change_membership(change, None).await);
        }
        let changed = tokio::time::timeout(Duration::from_millis(200), status.changed());
        if matches!(changed.await, Ok(Err(_))) {
            return;
        }
    }
}

fn next_change(status: &quorate::GroupStatus, http: SocketAddr) -> Option<MembershipChange> {
    let client_address = http.to_string();
    let own = status.membership.get(status.replica)?;
    if own.client_address != client_address {
        let peer_address = own.peer_address.clone();
        return Some(MembershipChange::SetAddresses {
            replica: status.replica,
            peer_address,
            client_address,
        });
    }
    let learner = |(id, member): (ReplicaId, &Member)| (member.role == MemberRole::Learner).then_some(id);
    status.membership.members().find_map(learner).map(MembershipChange::Promote)
}

#[cfg(test)]
mod tests {
    use super::peer_address;

    #[test]
    fn peer_urls_give_host_and_port() {
        assert_eq!(peer_address("http://127.0.0.1:9021").as_deref(), Some("127.0.0.1:9021"));
        assert_eq!(peer_address("127.0.0.1:9021/").as_deref(), Some("127.0.0.1:9021"));
        assert_eq!(peer_address("http://127.0.0.1"), None);
        assert_eq!(peer_address(""), None);
    }
}
