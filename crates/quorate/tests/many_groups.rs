//! Nodes with many groups start again: every group has a leader soon, leaders are spread, and
//! nobody asks for terms that nobody needs.
//!
//! Ten thousand groups, and how long they take, are measured elsewhere (docs/bench); what does not
//! depend on the machine is here: how many elections there are, and that all groups serve in the
//! end.

#![expect(clippy::unwrap_used, reason = "a test; a failure names the line")]

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use quorate::{
    BatchEnd, Bytes, BytesSnapshot, Command, Consistency, GroupId, LogStoreKind, MachineError, MemDisk,
    MemoryNetwork, Node, NodeConfig, NodeId, Raft, RequestError, SnapshotSource, Start, StateMachine, Term,
    WalConfig,
};

const GROUPS: u64 = 150;
const NODES: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(120);

/// Counts commands.
#[derive(Default)]
struct Tally(u64);

impl StateMachine for Tally {
    fn apply(&mut self, _: Command<'_>) -> Result<Bytes, MachineError> {
        self.0 += 1;
        Ok(Bytes::new())
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.0.to_string().into())
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(BytesSnapshot::new(self.0.to_string())))
    }
    fn restore(&mut self, _: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        Ok(())
    }
}

/// What a node finds when it starts.
type Home = (Arc<MemoryNetwork>, Arc<MemDisk>, u64);

/// A node and the handles of its groups, in their order.
struct Running {
    node: Node,
    rafts: Vec<Raft>,
}

async fn start((network, disk, id): Home) -> Node {
    let mut config = NodeConfig { node: NodeId(id), ..NodeConfig::default() };
    config.group.core.election_timeout = Duration::from_millis(1500);
    config.group.core.heartbeat_interval = Duration::from_millis(300);
    config.group.core.quiesce_after = Some(Duration::from_millis(300));
    let bytes = 4 << 20;
    let wal = WalConfig { segment_bytes: bytes, fill_ahead_bytes: bytes, ..WalConfig::default() };
    let builder = Node::builder(config).disk(disk).log_store(LogStoreKind::wal(wal));
    builder.transport(Arc::new(network.transport(NodeId(id)))).start().await.unwrap()
}

async fn open(node: Node, start: Start) -> Running {
    let mut rafts = Vec::new();
    for group in 1..=GROUPS {
        rafts.push(node.open_group(GroupId(group), start.clone(), Tally::default()).await.unwrap());
    }
    Running { node, rafts }
}

async fn resume(home: Home) -> Running {
    open(start(home).await, Start::Resume).await
}

/// Asks the leader of every group for one command more, until it is done, and says who leads in
/// which term.
async fn serve(nodes: &[Running]) -> BTreeMap<GroupId, (NodeId, Term)> {
    let mut leaders = BTreeMap::new();
    for group in 0..usize::try_from(GROUPS).unwrap() {
        let served = async {
            for running in nodes.iter().cycle() {
                let raft = &running.rafts[group];
                raft.wait_for(|status| status.leader.is_some(), PATIENCE).await.unwrap();
                match raft.apply("one more").await {
                    Ok(applied) => return (raft.group(), (raft.node(), applied.id.term)),
                    Err(RequestError::NotLeader { .. } | RequestError::Busy { .. }) => {
                        tokio::task::yield_now().await;
                    }
                    // Somebody else leads by then: once more does no harm.
                    Err(RequestError::OutcomeUnknown) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            unreachable!("it goes on for ever")
        };
        leaders.extend([tokio::time::timeout(PATIENCE, served).await.expect("an answer in time")]);
    }
    leaders
}

/// How many terms there were in each group between the two.
fn elections(
    before: &BTreeMap<GroupId, (NodeId, Term)>,
    after: &BTreeMap<GroupId, (NodeId, Term)>,
) -> BTreeMap<GroupId, u64> {
    after.iter().map(|(group, (_, term))| (*group, term.0 - before[group].1.0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_many_groups_start_again_without_a_storm_of_elections() {
    let network = Arc::new(MemoryNetwork::new(1));
    let homes: Vec<Home> = (1..=NODES).map(|id| (network.clone(), Arc::new(MemDisk::new()), id)).collect();
    let mut nodes = Vec::new();
    for home in &homes {
        nodes.push(start(home.clone()).await);
    }
    let members: Vec<_> = nodes.iter().map(Node::member).collect();
    let bootstrap = Start::Bootstrap { members };
    let mut nodes = join_all(nodes.into_iter().map(|node| open(node, bootstrap.clone()))).await;
    let first = serve(&nodes).await;

    // One of them goes and comes back: whoever it led has another leader; the others do not notice.
    let gone = nodes.remove(0);
    let gone_id = gone.node.id();
    gone.node.shutdown().await;
    drop(gone);
    let without = serve(&nodes).await;
    nodes.insert(0, resume(homes[0].clone()).await);
    for raft in &nodes[0].rafts {
        raft.wait_for(|status| status.leader.is_some(), PATIENCE).await.unwrap();
    }
    let again = serve(&nodes).await;
    let mut disturbed = 0;
    for (group, more) in elections(&first, &without) {
        disturbed += u64::from(first[&group].0 != gone_id && more > 0);
    }
    let after_its_return: u64 = elections(&without, &again).values().sum();
    assert!(disturbed <= GROUPS / 10, "{disturbed} groups that it did not lead had an election");
    assert!(after_its_return <= GROUPS / 10, "{after_its_return} elections when it came back");

    // All of them at once.
    for running in nodes {
        running.node.shutdown().await;
    }
    nodes = join_all(homes.into_iter().map(resume)).await;
    let restarted = serve(&nodes).await;
    let elections = elections(&again, &restarted);
    let (most, sum) = (elections.values().max().unwrap(), elections.values().sum::<u64>());
    assert!(sum <= 2 * GROUPS, "{sum} elections in {GROUPS} groups");
    assert!(*most <= 5, "{most} elections in one group");
    for running in &nodes {
        let led = restarted.values().filter(|(node, _)| *node == running.node.id()).count();
        assert!(led as u64 >= GROUPS / 20, "{} leads {led} of {GROUPS} groups", running.node.id());
    }
    // Nothing is lost: a command each time, to every group.
    for raft in &nodes[0].rafts {
        let said = raft.query("", Consistency::Linearizable).await.unwrap().response;
        assert!(std::str::from_utf8(&said).unwrap().parse::<u64>().unwrap() >= 4);
    }
    for running in nodes {
        running.node.shutdown().await;
    }
}

/// All at the same time.
async fn join_all<F: Future<Output = Running> + Send + 'static>(
    opening: impl Iterator<Item = F>,
) -> Vec<Running> {
    let opening: Vec<_> = opening.map(tokio::spawn).collect();
    let mut opened = Vec::new();
    for running in opening {
        opened.push(running.await.unwrap());
    }
    opened
}
