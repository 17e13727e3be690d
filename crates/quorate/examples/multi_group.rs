//! Many groups in one process: one log, one set of threads and two connections per peer for all of them.
//! `cargo run -p quorate --example multi_group`
//!
//! ```text
//!   node 1            node 2            node 3
//!   group 1 leads     group 1           group 1           30 groups, led by different nodes,
//!   group 2           group 2 leads     group 2           in one log per node: one sync makes the
//!   …                 …                 …                 entries of all groups durable together
//! ```

use std::error::Error;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use quorate::{
    BatchEnd, Bytes, BytesSnapshot, ClusterId, Command, Consistency, GroupId, MachineError, Member,
    MemoryNetwork, Node, NodeConfig, NodeId, Raft, SnapshotSource, Start, StateMachine, Storage,
};

const NODES: u64 = 3;
const GROUPS: u64 = 30;
const COMMANDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts the commands of its group, and only those.
#[derive(Default)]
struct Tally(u64);

impl StateMachine for Tally {
    fn apply(&mut self, _: Command<'_>) -> Result<Bytes, MachineError> {
        self.0 += 1;
        Ok(self.0.to_string().into())
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.0.to_string().into())
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(BytesSnapshot::new(self.0.to_string())))
    }
    fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        let text = std::io::read_to_string(content)?;
        self.0 = text.parse().map_err(|error| MachineError::with("a count", error))?;
        Ok(())
    }
}

async fn start(network: &MemoryNetwork, directory: &std::path::Path) -> Result<Vec<Node>, Box<dyn Error>> {
    let mut nodes = Vec::new();
    for id in 1..=NODES {
        let mut config = NodeConfig {
            node: NodeId(id),
            cluster: ClusterId(1),
            storage: Storage::Directory(directory.join(id.to_string())),
            ..NodeConfig::default()
        };
        // An idle group says nothing at all: thousands of them cost what the busy ones cost.
        config.group.core.quiesce_after = Some(Duration::from_secs(2));
        // On one machine, a network in memory. Between machines it is `Node::start`, on TCP.
        nodes.push(Node::start_on(config, Arc::new(network.transport(NodeId(id)))).await?);
    }
    Ok(nodes)
}

/// Opens `group` everywhere, and has one node lead it: another one for every group.
async fn open(nodes: &[Node], group: GroupId) -> Result<Raft, Box<dyn Error>> {
    let members: Vec<Member> =
        nodes.iter().map(|node| Member::voter(node.id(), node.peer_advertise())).collect();
    let mut rafts = Vec::new();
    for node in nodes {
        let start = Start::Bootstrap { members: members.clone() };
        rafts.push(node.open_group(group, start, Tally::default()).await?);
    }
    let leader = rafts.swap_remove(usize::try_from(group.0 % NODES)?);
    leader.campaign().await?;
    Ok(leader)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let network = MemoryNetwork::new(1);
    let nodes = start(&network, directory.path()).await?;
    let mut leaders = Vec::new();
    for group in 1..=GROUPS {
        leaders.push(open(&nodes, GroupId(group)).await?);
    }
    for leader in &leaders {
        leader.wait_leader_ready(PATIENCE).await?;
    }

    let before: u64 = nodes.iter().map(|node| node.stats().log.syncs).sum();
    // Every group is written to at the same time, each for itself.
    let writes: Vec<_> = leaders
        .iter()
        .cloned()
        .map(|leader| tokio::spawn(async move { leader.apply_all(["x"; COMMANDS]).await }))
        .collect();
    for write in writes {
        for outcome in write.await? {
            outcome?;
        }
    }
    let syncs = nodes.iter().map(|node| node.stats().log.syncs).sum::<u64>() - before;

    for leader in &leaders {
        let count = leader.query("", Consistency::Linearizable).await?.response;
        assert_eq!(count, COMMANDS.to_string(), "{leader} has seen its own commands and no others");
    }
    let led: Vec<usize> = nodes
        .iter()
        .map(|node| leaders.iter().filter(|leader| leader.node() == node.id() && leader.is_leader()).count())
        .collect();
    let batches = GROUPS * NODES;
    assert!(syncs < batches, "{syncs} syncs: {batches} batches of commands have shared them");
    eprintln!("{GROUPS} groups, led by nodes {led:?}; {batches} batches on three disks in {syncs} syncs");

    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}
