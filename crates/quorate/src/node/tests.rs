//! What a node does when its disk stops working.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::MemberRole;
use quorate_host::{BatchEnd, Command, MachineError, RequestError, SnapshotSource};
use quorate_storage::{LogStore, MemLogStore, MemSnapshotStore, WriteDone};

use super::*;
use crate::bytes_snapshot::BytesSnapshot;
use crate::transport::MemoryNetwork;

const PATIENCE: Duration = Duration::from_secs(10);

/// A log in memory whose disk can be broken.
struct BreakableLog {
    log: MemLogStore,
    broken: Arc<AtomicBool>,
    waiting: Vec<WriteDone>,
}

impl LogStore for BreakableLog {
    fn groups(&self) -> Vec<GroupState> {
        self.log.groups()
    }
    fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
        if self.broken.load(Ordering::Relaxed) {
            self.waiting.push(done);
        } else {
            self.log.write(batch, must_sync, done);
        }
    }
    fn flush(&mut self) -> Result<(), LogError> {
        if !self.broken.load(Ordering::Relaxed) {
            return self.log.flush();
        }
        let failed = LogError::Failed {
            context: "syncing wal/1".to_owned(),
            source: Arc::new(std::io::Error::other("broken")),
        };
        self.waiting.drain(..).for_each(|done| done(Err(failed.clone())));
        Err(failed)
    }
    fn reader(&self) -> Arc<dyn LogReader> {
        self.log.reader()
    }
    fn stats(&self) -> LogStats {
        self.log.stats()
    }
}

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _: Command<'_>) -> Result<Bytes, MachineError> {
        Ok(Bytes::new())
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(Bytes::new())
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Ok(Box::new(BytesSnapshot::default()))
    }
    fn restore(&mut self, _: &mut dyn Read, _: BatchEnd<'_>) -> Result<(), MachineError> {
        Ok(())
    }
}

/// Nothing may be acknowledged after a failed sync, nobody may be left waiting, and whoever runs the
/// node must be told.
#[tokio::test]
async fn a_log_that_cannot_be_written_ends_the_node_and_answers_everybody() {
    let broken = Arc::new(AtomicBool::new(false));
    let log =
        Box::new(BreakableLog { log: MemLogStore::new(), broken: Arc::clone(&broken), waiting: Vec::new() });
    let snapshots = Arc::new(MemSnapshotStore::new());
    let stores = Stores { log, snapshots, incarnation: 1, known_peers: None, directory: None };
    let config = NodeConfig { node: NodeId(1), ..NodeConfig::default() };
    let network = MemoryNetwork::new(1);
    let node = Node::run(config, stores, Arc::new(network.transport(NodeId(1)))).unwrap();
    let member = Member {
        node: NodeId(1),
        role: MemberRole::Voter,
        peer_address: "memory:1".to_owned(),
        client_address: String::new(),
    };
    let start = Start::Bootstrap { members: vec![member] };
    let raft = node.open_group(GroupId(1), start, Nothing).await.unwrap();
    raft.campaign().await.unwrap();
    let leads = |status: &quorate_host::GroupStatus| status.role == quorate_core::RoleName::Leader;
    raft.wait_for(leads, PATIENCE).await.unwrap();
    raft.apply("before").await.unwrap();
    broken.store(true, Ordering::Relaxed);
    let answer = tokio::time::timeout(PATIENCE, raft.apply("after")).await.unwrap();
    assert!(matches!(answer, Err(RequestError::OutcomeUnknown)), "{answer:?}");
    let reason = tokio::time::timeout(PATIENCE, node.failure()).await.unwrap();
    assert!(reason.contains("stop this node, check the disk"), "{reason}");
    let late = tokio::time::timeout(PATIENCE, raft.apply("late")).await.unwrap();
    assert!(matches!(late, Err(RequestError::Stopped { .. })), "{late:?}");
    node.shutdown().await;
}
