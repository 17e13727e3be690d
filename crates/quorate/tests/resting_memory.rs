//! What a group costs that rests: the memory of a replica, all in all, on three nodes with a write-ahead log.
//!
//! The allocator of this test program counts what is live. Groups are opened, get a command each, and come to
//! rest; then as many again: what those have added is theirs, and not of queues and buffers of the nodes.
//! Handles are kept, as a server does. The disk is in memory, and has its size from the start.

#![expect(clippy::unwrap_used, reason = "a test; a failure names the line")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate::{
    BatchEnd, Bytes, BytesSnapshot, Command, GroupConfig, GroupId, LogStoreKind, MachineError, MemDisk,
    MemoryNetwork, Node, NodeConfig, NodeId, Raft, SnapshotSource, Start, StateMachine, WalConfig,
};

/// Measured: 3,960 to 4,060 bytes; what the nodes themselves still grow by is in there.
const BYTES_PER_GROUP_MAX: usize = 4096;
/// In each of the two steps.
const GROUPS: u64 = 150;
const PATIENCE: Duration = Duration::from_secs(120);

struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: every call is the system allocator's; counting changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed);
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(place, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

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

async fn start(network: &MemoryNetwork, id: u64) -> Node {
    let mut group = GroupConfig::default();
    // On a busy machine a node may seem lost for a moment: who wakes for that rests again soon.
    group.core.election_timeout = Duration::from_secs(3);
    group.core.heartbeat_interval = Duration::from_millis(300);
    group.core.quiesce_after = Some(Duration::from_millis(300));
    let config = NodeConfig { node: NodeId(id), group, ..NodeConfig::default() };
    let bytes = 8 << 20;
    let wal = WalConfig { segment_bytes: bytes, fill_ahead_bytes: bytes, ..WalConfig::default() };
    let builder = Node::builder(config).disk(Arc::new(MemDisk::new())).log_store(LogStoreKind::wal(wal));
    builder.transport(Arc::new(network.transport(NodeId(id)))).start().await.unwrap()
}

/// Opens groups on all nodes, led by one after the other, each with one command, and waits until all of them rest.
async fn come_to_rest(nodes: &[Node], groups: impl Iterator<Item = u64>, rafts: &mut Vec<Raft>) {
    let opened = rafts.len();
    for group in groups {
        let members: Vec<_> = nodes.iter().map(Node::member).collect();
        for node in nodes {
            let start = Start::Bootstrap { members: members.clone() };
            rafts.push(node.open_group(GroupId(group), start, Tally::default()).await.unwrap());
        }
        let leader = &rafts[rafts.len() - 1 - usize::try_from(group).unwrap() % nodes.len()];
        leader.campaign().await.unwrap();
    }
    for raft in &rafts[opened..] {
        raft.wait_for(|status| status.leader.is_some(), PATIENCE).await.unwrap();
        if raft.is_leader() {
            // Another one may lead by then: the group has what it has.
            raft.apply("a command of thirty-odd bytes!").await.ok();
        }
    }
    for raft in &rafts[opened..] {
        raft.wait_for(|status| status.rests, PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_at_rest_takes_little_memory() {
    let network = MemoryNetwork::new(1);
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(&network, id).await);
    }
    let mut rafts = Vec::with_capacity(usize::try_from(GROUPS).unwrap() * 2 * nodes.len());
    come_to_rest(&nodes, 1..=GROUPS, &mut rafts).await;
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    come_to_rest(&nodes, GROUPS + 1..=2 * GROUPS, &mut rafts).await;
    let added = LIVE_BYTES.load(Ordering::Relaxed) - before;
    let per_group = added / (rafts.len() / 2);
    assert!(per_group <= BYTES_PER_GROUP_MAX, "a group at rest takes {per_group} bytes on a node");
    // They rest, and are not gone.
    let leader = rafts.iter().find(|raft| raft.is_leader()).unwrap();
    assert!(leader.apply("another").await.unwrap().id.index.0 >= 4);
    for node in nodes {
        node.shutdown().await;
    }
}
