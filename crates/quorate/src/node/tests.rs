//! What a node does when its disk stops working, or takes its time.

use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_host::{BatchEnd, Command, Dedupe, MachineError, Outbound, RequestError, SnapshotSource};
use quorate_storage::{LogStore, MemLogStore, WriteDone};

use super::*;
use crate::bytes_snapshot::BytesSnapshot;
use crate::stores::LogStoreKind;
use crate::transport::{MemoryNetwork, MemoryTransport};

const PATIENCE: Duration = Duration::from_secs(10);

/// A log in memory whose disk can be broken or held up.
struct BreakableLog {
    log: MemLogStore,
    disk: Arc<Disk>,
    waiting: Vec<WriteDone>,
}

#[derive(Default)]
struct Disk {
    broken: AtomicBool,
    /// While somebody else has it, writes wait.
    held: tokio::sync::Mutex<()>,
}

impl LogStore for BreakableLog {
    fn groups(&self) -> Vec<GroupState> {
        self.log.groups()
    }
    fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
        drop(self.disk.held.blocking_lock());
        if self.disk.broken.load(Ordering::Relaxed) {
            self.waiting.push(done);
        } else {
            self.log.write(batch, must_sync, done);
        }
    }
    fn flush(&mut self) -> Result<(), LogError> {
        if !self.disk.broken.load(Ordering::Relaxed) {
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

const GROUP: GroupId = GroupId(1);

/// A node on a disk that can be broken or held up, and its only replica, which leads.
async fn lone_leader(disk: &Arc<Disk>) -> (Node, Raft) {
    lone_leader_on(disk, Arc::new(MemoryNetwork::new(1).transport(NodeId(1)))).await
}

async fn lone_leader_on(disk: &Arc<Disk>, transport: Arc<dyn Transport>) -> (Node, Raft) {
    let disk = Arc::clone(disk);
    let log = LogStoreKind::custom("breakable", move |_| {
        let (log, disk) = (MemLogStore::new(), Arc::clone(&disk));
        Ok(Box::new(BreakableLog { log, disk, waiting: Vec::new() }))
    });
    let config = NodeConfig { node: NodeId(1), ..NodeConfig::default() };
    let node = Node::builder(config).log_store(log).transport(transport).start().await.unwrap();
    let start = Start::Bootstrap { members: vec![Member::voter(NodeId(1), "memory:1")] };
    let raft = node.open_group(GROUP, start, Nothing).await.unwrap();
    raft.campaign().await.unwrap();
    raft.wait_leader_ready(PATIENCE).await.unwrap();
    (node, raft)
}

/// Nothing may be acknowledged after a failed sync, nobody may be left waiting, and whoever runs the
/// node must be told.
#[tokio::test]
async fn a_log_that_cannot_be_written_ends_the_node_and_answers_everybody() {
    let disk = Arc::default();
    let (node, raft) = lone_leader(&disk).await;
    raft.apply("before").await.unwrap();
    disk.broken.store(true, Ordering::Relaxed);
    let answer = tokio::time::timeout(PATIENCE, raft.apply("after")).await.unwrap();
    assert!(matches!(answer, Err(RequestError::OutcomeUnknown)), "{answer:?}");
    let reason = tokio::time::timeout(PATIENCE, node.failure()).await.unwrap();
    assert!(reason.contains("stop this node, check the disk"), "{reason}");
    let late = tokio::time::timeout(PATIENCE, raft.apply("late")).await.unwrap();
    assert!(matches!(late, Err(RequestError::Stopped { .. })), "{late:?}");
    node.shutdown().await;
}

/// A replica was closed while its disk was slow, and opened again: what it had promised reached the log after it
/// had been read for the new one.
#[tokio::test]
async fn a_group_is_recovered_only_when_the_last_write_of_its_old_replica_is_done() {
    let disk = Arc::default();
    let (node, raft) = lone_leader(&disk).await;
    let before = raft.apply("before").await.unwrap().id.index;
    let held = disk.held.lock().await;
    let under_way = raft.submit("under way", Dedupe::None);
    node.close_group(GROUP).await;
    assert!(matches!(under_way.await, Err(RequestError::OutcomeUnknown)));
    {
        let mut opening = std::pin::pin!(node.open_group(GROUP, Start::Resume, Nothing));
        let (reply, seen) = oneshot::channel();
        let behind = async {
            assert!(node.shared.mailbox.push(HostInput::Close { group: GroupId(2), reply }).is_ok());
            seen.await.unwrap_err()
        };
        tokio::select! {
            biased;
            opened = &mut opening => panic!("{:?}", opened.err()),
            _ = behind => {}
        }
        drop(held);
        let raft = tokio::time::timeout(PATIENCE, opening).await.unwrap().unwrap();
        assert_eq!(raft.status().last.index, before.next());
    }
    node.shutdown().await;
}

/// The machine of a group that was refused stayed, with its files open, until the node ended.
#[tokio::test]
async fn the_machine_of_a_group_that_is_refused_is_dropped() {
    struct KeepsItsState {
        _dropped: oneshot::Sender<()>,
    }
    impl StateMachine for KeepsItsState {
        fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
            Nothing.apply(command)
        }
        fn query(&self, request: &[u8]) -> Result<Bytes, MachineError> {
            Nothing.query(request)
        }
        fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
            Nothing.snapshot()
        }
        fn restore(&mut self, content: &mut dyn Read, batch: BatchEnd<'_>) -> Result<(), MachineError> {
            Nothing.restore(content, batch)
        }
        fn is_durable(&self) -> bool {
            true
        }
    }
    let (node, _raft) = lone_leader(&Arc::default()).await;
    let mut config = GroupConfig::default();
    config.core.apply_unpersisted = true;
    let (_dropped, dropped) = oneshot::channel();
    let start = Start::Bootstrap { members: vec![Member::voter(NodeId(1), "memory:1")] };
    let machine = Box::new(KeepsItsState { _dropped });
    let refused = node.open_group_with(GroupId(2), start, config, machine).await.err().unwrap();
    assert!(refused.to_string().contains("core.apply_unpersisted"), "{refused}");
    tokio::time::timeout(PATIENCE, dropped).await.unwrap().unwrap_err();
    node.shutdown().await;
}

/// A replica was closed while its machine was at work, and opened again: two machines had the same files, and what the
/// old one said it had applied brought the node down, because the new one had not been given it.
#[tokio::test]
async fn a_group_is_opened_again_only_when_its_old_state_machine_is_gone() {
    struct Slow {
        begins: Option<oneshot::Sender<()>>,
        held: Arc<tokio::sync::Mutex<()>>,
    }
    impl StateMachine for Slow {
        fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
            if let Some(begins) = self.begins.take() {
                begins.send(()).unwrap();
                drop(self.held.blocking_lock());
            }
            Nothing.apply(command)
        }
        fn query(&self, request: &[u8]) -> Result<Bytes, MachineError> {
            Nothing.query(request)
        }
        fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
            Nothing.snapshot()
        }
        fn restore(&mut self, content: &mut dyn Read, batch: BatchEnd<'_>) -> Result<(), MachineError> {
            Nothing.restore(content, batch)
        }
    }
    let (node, _raft) = lone_leader(&Arc::default()).await;
    let held = Arc::<tokio::sync::Mutex<()>>::default();
    let working = held.lock().await;
    let (begins, began) = oneshot::channel();
    let start = Start::Bootstrap { members: vec![Member::voter(NodeId(1), "memory:1")] };
    let machine = Slow { begins: Some(begins), held: Arc::clone(&held) };
    let raft = node.open_group(GroupId(2), start, machine).await.unwrap();
    raft.campaign().await.unwrap();
    raft.wait_leader_ready(PATIENCE).await.unwrap();
    let under_way = raft.submit("under way", Dedupe::None);
    began.await.unwrap();
    node.close_group(GroupId(2)).await;
    assert!(matches!(under_way.await, Err(RequestError::OutcomeUnknown)));
    let mut opening = std::pin::pin!(node.open_group(GroupId(2), Start::Resume, Nothing));
    let early = tokio::time::timeout(Duration::from_millis(100), &mut opening).await;
    drop(working);
    assert!(early.is_err(), "it was opened beside the old one");
    let raft = tokio::time::timeout(PATIENCE, opening).await.unwrap().unwrap();
    raft.campaign().await.unwrap();
    raft.wait_leader_ready(PATIENCE).await.unwrap();
    raft.apply("after").await.unwrap();
    node.shutdown().await;
}

/// Does not survive to meet anybody.
struct Panics(MemoryTransport);

impl Transport for Panics {
    fn meet(&self, nodes: Vec<(NodeId, String)>) {
        assert!(nodes.is_empty(), "as asked for");
    }
    fn start(&self, inbound: Arc<dyn Inbound>) {
        self.0.start(inbound);
    }
    fn send(&self, messages: Vec<Outbound>) {
        self.0.send(messages);
    }
    fn address(&self) -> SocketAddr {
        self.0.address()
    }
    fn advertised(&self) -> String {
        self.0.advertised()
    }
    fn stats(&self) -> TransportStats {
        self.0.stats()
    }
    fn peers(&self) -> Vec<PeerStatus> {
        self.0.peers()
    }
    fn abort(&self) {
        self.0.abort();
    }
    fn stop(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.stop()
    }
}

/// A transport of the user's panics on the thread that drives everything. Whoever asked before or asks later waited for
/// an answer that nobody was left to give.
#[tokio::test]
async fn a_panic_of_the_transport_ends_the_node_and_answers_everybody() {
    let transport = Panics(MemoryNetwork::new(1).transport(NodeId(1)));
    let (node, raft) = lone_leader_on(&Arc::default(), Arc::new(transport)).await;
    let added = tokio::time::timeout(PATIENCE, raft.add_learner(NodeId(2), "memory:2", "")).await.unwrap();
    assert!(matches!(added, Err(RequestError::OutcomeUnknown)), "{added:?}");
    let reason = tokio::time::timeout(PATIENCE, node.failure()).await.unwrap();
    assert!(reason.contains("the host thread has panicked"), "{reason}");
    let late = tokio::time::timeout(PATIENCE, raft.apply("late")).await.unwrap();
    assert!(late.is_err(), "{late:?}");
    let opened = tokio::time::timeout(PATIENCE, node.open_group(GroupId(2), Start::Resume, Nothing)).await;
    assert!(matches!(opened.unwrap(), Err(OpenError::Stopped)));
    node.shutdown().await;
}
