//! Bytes handed to the kernel per payload byte: three durable nodes in this process, on TCP.
//!
//! Counted by the log itself (records with their frames, marks included; zeros written ahead excluded).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate::{
    Bytes, BytesSnapshot, ClusterId, Command, GroupId, MachineError, Member, Node, NodeConfig, NodeId, Raft,
    SnapshotSource, Start, StateMachine,
};

use crate::{Failure, Flags};

/// Counts commands.
#[derive(Default)]
pub struct Tally(u64);

impl StateMachine for Tally {
    fn apply(&mut self, _: Command<'_>) -> Result<Bytes, MachineError> {
        self.0 += 1;
        Ok(Bytes::new())
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(Bytes::copy_from_slice(&self.0.to_le_bytes()))
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(BytesSnapshot::new(self.0.to_string())))
    }
    fn restore(
        &mut self,
        content: &mut dyn std::io::Read,
        _: quorate::BatchEnd<'_>,
    ) -> Result<(), MachineError> {
        let text = std::io::read_to_string(content)?;
        self.0 = text.parse().map_err(|error| MachineError::with("a count", error))?;
        Ok(())
    }
}

/// Nodes in this process, durable, on TCP, with one group.
pub async fn nodes(dir: &std::path::Path, count: u64) -> Result<(Vec<Node>, Vec<Raft>), Failure> {
    let mut nodes = Vec::new();
    for id in 1..=count {
        let config = NodeConfig {
            cluster: ClusterId(7),
            ..NodeConfig::durable(NodeId(id), "127.0.0.1:0", dir.join(id.to_string()))
        };
        nodes.push(Node::start(config).await?);
    }
    let members: Vec<Member> = nodes.iter().map(Node::member).collect();
    let mut rafts = Vec::new();
    for node in &nodes {
        let start = Start::Bootstrap { members: members.clone() };
        rafts.push(node.open_group(GroupId(1), start, Tally::default()).await?);
    }
    rafts[0].campaign().await?;
    rafts[0].wait_leader_ready(Duration::from_secs(20)).await?;
    Ok((nodes, rafts))
}

pub async fn run(flags: &Flags) -> Result<(), Failure> {
    let scratch = flags.scratch()?;
    let (writers, value_bytes): (u64, usize) = (flags.get("--writers", 64), flags.get("--value-bytes", 128));
    let total: u64 = flags.get("--writes", 200_000);
    let (nodes, rafts) = nodes(scratch.path(), 3).await?;
    let before: Vec<_> = nodes.iter().map(|node| node.stats().log).collect();
    let (next, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let (raft, next) = (rafts[0].clone(), Arc::clone(&next));
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < total {
                raft.apply(vec![b'x'; value_bytes]).await?;
            }
            Ok::<(), quorate::RequestError>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("{total} writes of {value_bytes} B by {writers} writers in {seconds:.1} s");
    println!("| node | bytes per payload byte | records per write | syncs per write |\n|---|---|---|---|");
    for (node, before) in nodes.iter().zip(before) {
        let now = node.stats().log;
        let payload = (total * value_bytes as u64) as f64;
        println!(
            "| {} | {:.3} | {:.3} | {:.4} |",
            node.id(),
            (now.bytes_written - before.bytes_written) as f64 / payload,
            (now.batches - before.batches) as f64 / total as f64,
            (now.syncs - before.syncs) as f64 / total as f64,
        );
    }
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}
