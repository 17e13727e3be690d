//! Reading: what each way promises, and what it does when the leader is cut off. `cargo run -p quorate --example
//! linearizable_reads`
//!
//! ```text
//!                    whom it asks       shows at least                    while the leader is cut off, there
//!   Linearizable     a quorum           all that was acknowledged         fails
//!   Lease            nobody             the same, if clocks are right     answers until the lease ends, then fails
//!   Recent           now and then       all of age_max ago                answers until that is too long ago
//!   Stale            nobody             something of the past             answers
//! ```
//!
//! Every replica answers each of them: a follower asks its leader how far to apply first, and reads its own state.

use std::error::Error;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use quorate::{
    BatchEnd, Bytes, BytesSnapshot, Command, Consistency, GroupId, MachineError, Member, MemoryNetwork, Node,
    NodeConfig, NodeId, Raft, RequestError, SnapshotSource, Start, StateMachine,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Holds the last thing it was told.
#[derive(Default)]
struct Register(Bytes);

impl StateMachine for Register {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        self.0 = command.data.clone();
        Ok(Bytes::new())
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.0.clone())
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(BytesSnapshot::new(self.0.clone())))
    }
    fn restore(&mut self, content: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        let mut stored = Vec::new();
        content.read_to_end(&mut stored)?;
        self.0 = stored.into();
        Ok(())
    }
}

async fn start(network: &MemoryNetwork) -> Result<(Vec<Node>, Vec<Raft>), Box<dyn Error>> {
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let mut config = NodeConfig { node: NodeId(id), ..NodeConfig::default() };
        config.group.core.election_timeout = Duration::from_millis(300);
        config.group.core.heartbeat_interval = Duration::from_millis(40);
        // Off by default, because it trusts clocks: they may differ by a tenth over a timeout.
        config.group.core.leader_lease = true;
        config.group.core.lease_drift_max = Duration::from_millis(30);
        nodes.push(Node::start_on(config, Arc::new(network.transport(NodeId(id)))).await?);
    }
    let members: Vec<Member> =
        nodes.iter().map(|node| Member::voter(node.id(), node.peer_advertise())).collect();
    let mut rafts = Vec::new();
    for node in &nodes {
        let start = Start::Bootstrap { members: members.clone() };
        rafts.push(node.open_group(GroupId(1), start, Register::default()).await?);
    }
    Ok((nodes, rafts))
}

/// The first of `rafts` that leads and is ready to serve.
async fn leader<'a>(rafts: impl IntoIterator<Item = &'a Raft>) -> Result<Raft, Box<dyn Error>> {
    let mut waiting = tokio::task::JoinSet::new();
    for raft in rafts.into_iter().cloned() {
        waiting.spawn(async move { raft.wait_leader_ready(PATIENCE).await.map(|_| raft) });
    }
    Ok(waiting.join_next().await.ok_or("nobody to lead")???)
}

async fn read(raft: &Raft, consistency: Consistency) -> Result<String, RequestError> {
    let answer = raft.query("", consistency).await?;
    Ok(String::from_utf8_lossy(&answer.response).into_owned())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let network = MemoryNetwork::new(1);
    let (nodes, rafts) = start(&network).await?;
    let old = leader(&rafts).await?;
    let followers = || rafts.iter().filter(|raft| raft.node() != old.node());
    let written = old.apply("one").await?.id.index;

    let recent = Consistency::Recent { age_max: Duration::from_secs(60) };
    for raft in &rafts {
        // What was acknowledged is seen on every replica, at once.
        for consistency in [Consistency::Linearizable, Consistency::Lease] {
            assert_eq!(read(raft, consistency).await?, "one", "{raft}, {consistency:?}");
        }
        assert_eq!(read(raft, recent).await?, "one");
        // The same in two steps, for a state machine that you read yourself: wait, then look.
        assert!(raft.read_index().await? >= written);
        // Stale shows what happens to be there; with the index of a write, it can be waited for.
        raft.wait_applied(written, PATIENCE).await?;
        assert_eq!(read(raft, Consistency::Stale).await?, "one");
    }

    // The leader is cut off and does not know it; the others go on without it.
    network.isolate(old.node());
    let new = leader(followers()).await?;
    let rewritten = new.apply("two").await?.id.index;
    for raft in followers() {
        assert_eq!(read(raft, Consistency::Linearizable).await?, "two");
    }
    // Whoever was the leader never shows "one" as if it were the newest …
    for consistency in
        [Consistency::Linearizable, Consistency::Lease, Consistency::Recent { age_max: Duration::ZERO }]
    {
        let answer = read(&old, consistency).await;
        assert!(matches!(answer, Err(RequestError::NotLeader { .. })), "{consistency:?}: {answer:?}");
    }
    // … but to those who ask for something of the past.
    assert_eq!(read(&old, Consistency::Stale).await?, "one");

    network.heal();
    old.wait_applied(rewritten, PATIENCE).await?;
    assert_eq!(read(&old, Consistency::Linearizable).await?, "two");
    eprintln!("{old} and its followers never showed an old value as the newest");
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}
