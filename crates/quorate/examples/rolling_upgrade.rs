//! A new build with new commands is rolled out, one node at a time, while the group serves.
//!
//! ```text
//!   builds      1 1 1      2 1 1      2 2 1      2 2 2
//!   command     refused    refused    refused    applied      never in a log where a member cannot read it
//! ```
//!
//! Run it: `cargo run -p quorate --example rolling_upgrade`

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use quorate::{
    BatchEnd, Bytes, BytesSnapshot, Command, Consistency, Dedupe, GroupId, MachineError, Member, MemberRole,
    MemoryNetwork, Node, NodeConfig, NodeId, Raft, RequestError, SnapshotSource, Start, StateMachine,
    Storage,
};

type AnyError = Box<dyn std::error::Error>;

const GROUP: GroupId = GroupId(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// Adds numbers. Build 2 can also multiply.
struct Calculator {
    build: u32,
    value: i64,
}

impl StateMachine for Calculator {
    fn supported_version(&self) -> u32 {
        self.build
    }
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        let text = String::from_utf8_lossy(command.data);
        let (operator, number) = text.split_at(1.min(text.len()));
        let number: i64 = number.parse().unwrap_or(0);
        match (operator, self.build) {
            ("+", _) => self.value += number,
            ("*", 2..) => self.value *= number,
            // Without the gate this is where the old nodes would die, or worse, differ.
            _ => return Err(MachineError::new(format!("build {} cannot read {text:?}", self.build))),
        }
        Ok(self.value.to_string().into())
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.value.to_string().into())
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(BytesSnapshot::new(self.value.to_string())))
    }
    fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        let mut text = String::new();
        content.read_to_string(&mut text)?;
        self.value = text.parse().map_err(|error| MachineError::with("reading a snapshot", error))?;
        Ok(())
    }
}

struct Cluster {
    network: MemoryNetwork,
    directory: tempfile::TempDir,
    nodes: BTreeMap<u64, (Node, Raft)>,
}

impl Cluster {
    /// Starts `id` with this build, or starts it again with another one.
    async fn start(&mut self, id: u64, build: u32) -> Result<(), AnyError> {
        if let Some((old, _)) = self.nodes.remove(&id) {
            old.shutdown().await;
        }
        let storage = Storage::Directory(self.directory.path().join(id.to_string()));
        let mut config = NodeConfig { node: NodeId(id), storage, ..NodeConfig::default() };
        config.group.core.election_timeout = Duration::from_millis(300);
        config.group.core.heartbeat_interval = Duration::from_millis(40);
        let node = Node::start_on(config, Arc::new(self.network.transport(NodeId(id)))).await?;
        let member = |id| Member {
            node: NodeId(id),
            role: MemberRole::Voter,
            peer_address: format!("memory:{id}"),
            client_address: String::new(),
        };
        let start = Start::Bootstrap { members: (1..=3).map(member).collect() };
        let raft = node.open_group(GROUP, start, Calculator { build, value: 0 }).await?;
        self.nodes.insert(id, (node, raft));
        Ok(())
    }

    /// The handle of the leader, once it has heard of all members what they understand, if they do.
    async fn leader(&self, understood: u32) -> Result<Raft, AnyError> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        while tokio::time::Instant::now() < deadline {
            for (_, raft) in self.nodes.values() {
                let status = raft.status();
                if status.leader_ready && status.supported_version >= understood {
                    return Ok(raft.clone());
                }
            }
            pause.tick().await;
        }
        Err("no leader of that version".into())
    }
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let (network, directory) = (MemoryNetwork::new(1), tempfile::tempdir()?);
    let mut cluster = Cluster { network, directory, nodes: BTreeMap::new() };
    for id in 1..=3 {
        cluster.start(id, 1).await?;
    }
    cluster.leader(1).await?.forwarding().apply("+5").await?;
    for id in 1..=3 {
        let refused = cluster.leader(1).await?.apply_version(2, "*4", Dedupe::None).await;
        assert!(matches!(refused, Err(RequestError::Unsupported { .. } | RequestError::NotLeader { .. })));
        cluster.start(id, 2).await?;
        // Old commands go on all the time, whoever leads.
        let any = cluster.nodes[&id].1.forwarding().within(PATIENCE);
        let applied = any.apply("+1").await?;
        eprintln!("node {id} runs build 2, value {}", String::from_utf8_lossy(&applied.response));
    }
    let leader = cluster.leader(2).await?;
    let applied = leader.apply_version(2, "*4", Dedupe::None).await?;
    eprintln!("every node runs build 2, value {}", String::from_utf8_lossy(&applied.response));
    for (_, raft) in cluster.nodes.values() {
        let answer = raft.query("", Consistency::Linearizable).await?;
        assert_eq!(answer.response, "32", "(5 + 1 + 1 + 1) * 4 on every node");
    }
    // The gate stays open: a node with the old build is told so, instead of reading what it cannot.
    let reason = match cluster.start(1, 1).await {
        Ok(()) => tokio::time::timeout(PATIENCE, cluster.nodes[&1].1.stopped()).await?,
        Err(error) => error.to_string(),
    };
    assert!(reason.contains("start a newer build"), "{reason}");
    eprintln!("node 1 with build 1 again: {reason}");
    for (node, _) in cluster.nodes.values() {
        node.shutdown().await;
    }
    Ok(())
}
