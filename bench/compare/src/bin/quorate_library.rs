//! Three Quorate nodes and their clients in one process: with the WAL over TCP, or in memory with function calls
//! for a network.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use quorate::{
    BatchEnd, BytesSnapshot, Command, GroupId, MachineError, Member, Node, NodeConfig, NodeId, Raft,
    SnapshotSource, Start, StateMachine,
};
use quorate_compare::closed_loop;

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// The WAL, synced, over TCP.
    Durable,
    /// A log in memory, and function calls.
    Memory,
}

#[derive(Parser)]
struct Args {
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long)]
    clients: usize,
    #[arg(long, default_value_t = 1)]
    groups: u64,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value_t = 128)]
    command_bytes: usize,
    /// Where the nodes keep their data: a disk that is really synced.
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Counts what it is given.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
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
    fn restore(&mut self, content: &mut dyn std::io::Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        let text = std::io::read_to_string(content)?;
        self.0 = text.parse().map_err(|_| MachineError::new("not a number"))?;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(args.threads).enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in(&args.dir)?;
    let network = quorate::MemoryNetwork::new(1);
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let node = match args.kind {
            Kind::Durable => {
                let home = dir.path().join(id.to_string());
                Node::start(NodeConfig::durable(NodeId(id), "127.0.0.1:0", home)).await?
            }
            Kind::Memory => {
                let config = NodeConfig { node: NodeId(id), ..NodeConfig::default() };
                Node::start_on(config, Arc::new(network.transport(NodeId(id)))).await?
            }
        };
        nodes.push(node);
    }
    let members: Vec<Member> =
        nodes.iter().map(|node| Member::voter(node.id(), node.peer_advertise())).collect();
    let mut leaders = Vec::new();
    for group in 1..=args.groups {
        let mut replicas = Vec::new();
        for node in &nodes {
            let start = Start::Bootstrap { members: members.clone() };
            replicas.push(node.open_group(GroupId(group), start, Counter::default()).await?);
        }
        leaders.push(leader(replicas).await?);
    }
    let payload = Bytes::from(vec![b'x'; args.command_bytes]);
    let leaders = Arc::new(leaders);
    let operation = move |client: usize, _| {
        let (leaders, payload) = (Arc::clone(&leaders), payload.clone());
        async move { leaders[client % leaders.len()].apply(payload).await.is_ok() }
    };
    let before = nodes[0].stats().log;
    let outcome = closed_loop(args.clients, Duration::from_secs_f64(args.seconds), operation).await;
    let after = nodes[0].stats().log;
    outcome.print();
    eprintln!(
        "node 1: {} syncs, {} batches, {} bytes",
        after.syncs - before.syncs,
        after.batches - before.batches,
        after.bytes_written - before.bytes_written
    );
    for node in &nodes {
        node.shutdown().await;
    }
    Ok(())
}

/// The replica that leads, once one does and is ready to serve.
async fn leader(replicas: Vec<Raft>) -> Result<Raft, Box<dyn std::error::Error>> {
    let within = Duration::from_secs(20);
    let status = replicas[0].wait_for(|status| status.leader.is_some(), within).await?;
    let leads = |raft: &&Raft| Some(raft.status().replica) == status.leader;
    let leader = replicas.iter().find(leads).cloned().ok_or("the leader is none of the replicas")?;
    leader.wait_leader_ready(within).await?;
    Ok(leader)
}
