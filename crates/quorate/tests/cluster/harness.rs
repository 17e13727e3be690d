//! A cluster whose nodes can be killed, restarted and cut off.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use quorate::{
    BatchEnd, Bytes, BytesSnapshot, ClusterId, Command, Consistency, GroupId, GroupStatus, LogIndex,
    MachineError, Member, MemberRole, MemoryNetwork, Node, NodeConfig, NodeId, Raft, ReplicaId, RoleName,
    SnapshotSource, Start, StateMachine, Storage,
};
use tempfile::TempDir;

pub(crate) const GROUP: GroupId = GroupId(1);
/// How long a condition may take that has no deadline of its own: generous, for busy machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);

/// Remembers its commands, one per line; answers with how many there are.
#[derive(Default)]
pub(crate) struct Lines(Vec<u8>);

impl Lines {
    fn count(&self) -> usize {
        self.0.iter().filter(|byte| **byte == b'\n').count()
    }
}

impl StateMachine for Lines {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        assert_ne!(&command.data[..], b"panic", "asked to");
        self.0.extend_from_slice(command.data);
        if !command.extension.is_empty() {
            self.0.extend_from_slice(b" / ");
            self.0.extend_from_slice(command.extension);
        }
        self.0.push(b'\n');
        Ok(self.count().to_string().into())
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.0.clone().into())
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(BytesSnapshot::new(self.0.clone())))
    }
    fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        self.0.clear();
        content.read_to_end(&mut self.0).map_err(|error| MachineError::with("reading", error))?;
        Ok(())
    }
}

/// What carries the cluster's messages.
pub(crate) enum Wire {
    Memory(MemoryNetwork),
    Tcp,
}

pub(crate) struct Cluster {
    pub(crate) wire: Wire,
    directory: TempDir,
    /// Where each node listens, once it has been started.
    addresses: BTreeMap<u64, String>,
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) rafts: BTreeMap<u64, Raft>,
    adjust: fn(&mut NodeConfig),
}

impl Cluster {
    pub(crate) fn empty(wire: Wire, adjust: fn(&mut NodeConfig)) -> Self {
        Self {
            wire,
            directory: tempfile::tempdir().unwrap(),
            addresses: BTreeMap::new(),
            nodes: BTreeMap::new(),
            rafts: BTreeMap::new(),
            adjust,
        }
    }

    /// Nodes 1 to `count`, bootstrapped.
    pub(crate) async fn start(count: u64, wire: Wire, adjust: fn(&mut NodeConfig)) -> Self {
        let mut cluster = Self::empty(wire, adjust);
        for id in 1..=count {
            cluster.start_node(id).await;
        }
        for id in 1..=count {
            cluster.open(id, cluster.bootstrap(count)).await;
        }
        cluster
    }

    pub(crate) fn bootstrap(&self, count: u64) -> Start {
        let member = |id| Member {
            node: NodeId(id),
            role: MemberRole::Voter,
            peer_address: self.addresses[&id].clone(),
            client_address: format!("client-{id}"),
        };
        Start::Bootstrap { members: (1..=count).map(member).collect() }
    }

    pub(crate) fn config(&self, id: u64) -> NodeConfig {
        let mut config = NodeConfig {
            node: NodeId(id),
            cluster: ClusterId(77),
            storage: Storage::Directory(self.directory(id)),
            peer_listen: self.addresses.get(&id).cloned().unwrap_or_else(|| "127.0.0.1:0".to_owned()),
            ..NodeConfig::default()
        };
        config.wal.segment_bytes = 1 << 20;
        config.group.core.election_timeout = ELECTION_TIMEOUT;
        config.group.core.heartbeat_interval = Duration::from_millis(40);
        (self.adjust)(&mut config);
        config
    }

    /// Where node `id` keeps its data.
    pub(crate) fn directory(&self, id: u64) -> std::path::PathBuf {
        self.directory.path().join(id.to_string())
    }

    pub(crate) async fn start_node(&mut self, id: u64) {
        let config = match self.wire {
            Wire::Memory(_) => NodeConfig { peer_listen: "unused".to_owned(), ..self.config(id) },
            Wire::Tcp => self.config(id),
        };
        let node = match &self.wire {
            Wire::Memory(network) => {
                Node::start_on(config, Arc::new(network.transport(NodeId(id)))).await.unwrap()
            }
            Wire::Tcp => Node::start(config).await.unwrap(),
        };
        self.addresses.insert(id, node.peer_advertise());
        self.nodes.insert(id, node);
    }

    pub(crate) async fn open(&mut self, id: u64, start: Start) {
        let raft = self.nodes[&id].open_group(GROUP, start, Lines::default()).await.unwrap();
        self.rafts.insert(id, raft);
    }

    /// Ends a node without telling anybody.
    pub(crate) fn kill(&mut self, id: u64) {
        self.rafts.remove(&id);
        self.nodes.remove(&id);
    }

    pub(crate) async fn restart(&mut self, id: u64) {
        self.start_node(id).await;
        self.open(id, Start::Resume).await;
    }

    pub(crate) fn address(&self, id: u64) -> String {
        self.addresses[&id].clone()
    }

    /// The node that leads, once it has committed something in its term.
    pub(crate) async fn leader(&self) -> u64 {
        self.leader_among(self.rafts.keys().copied()).await
    }

    pub(crate) async fn leader_among(&self, ids: impl IntoIterator<Item = u64>) -> u64 {
        let ids: Vec<u64> = ids.into_iter().collect();
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let leading = ids.iter().find(|id| self.status(**id).role == RoleName::Leader);
            if let Some(id) = leading {
                return *id;
            }
            let seen: Vec<_> = ids.iter().map(|id| self.status(*id)).collect();
            assert!(tokio::time::Instant::now() < deadline, "no leader: {seen:#?}");
            pause.tick().await;
        }
    }

    pub(crate) fn status(&self, id: u64) -> GroupStatus {
        self.rafts[&id].status()
    }

    pub(crate) fn replica(&self, id: u64) -> ReplicaId {
        self.status(id).replica
    }

    /// Applies commands `names` on the leader, in order.
    pub(crate) async fn apply_all<T: AsRef<str>>(&self, names: impl IntoIterator<Item = T>) {
        let leader = self.leader().await;
        for name in names {
            self.rafts[&leader].apply(name.as_ref().to_owned()).await.unwrap();
        }
    }

    /// Waits until `id` has applied what the leader has, and returns its state.
    pub(crate) async fn caught_up(&self, id: u64) -> String {
        let applied = self.barrier().await;
        self.rafts[&id].wait_for(|status| status.applied >= applied, PATIENCE).await.unwrap();
        self.content(id).await
    }

    /// The index of a barrier. On a busy machine who leads may change at any time.
    async fn barrier(&self) -> LogIndex {
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let leader = self.leader().await;
            match self.rafts[&leader].barrier().await {
                Ok(id) => return id.index,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "no barrier: {error}"),
            }
            pause.tick().await;
        }
    }

    pub(crate) async fn content(&self, id: u64) -> String {
        let answer = self.rafts[&id].query("", Consistency::Stale).await.unwrap();
        String::from_utf8(answer.response.to_vec()).unwrap()
    }

    pub(crate) async fn shutdown(self) {
        for node in self.nodes.values() {
            node.shutdown().await;
        }
    }
}

pub(crate) fn memory() -> Wire {
    Wire::Memory(MemoryNetwork::new(7))
}

pub(crate) fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

pub(crate) fn lines(range: std::ops::Range<u64>) -> String {
    range.map(|number| format!("{number}\n")).collect()
}
