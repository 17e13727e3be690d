//! Processor time per write as data and replicas grow, the engine's part apart.
//!
//! Nodes in this process, durable, on TCP, the key-value store on its disk engine. The engine's part is what
//! its calls take of the apply threads and what its own threads take; the rest is Raft, the log, the network
//! and the clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::{
    BatchEnd, ClusterId, GroupId, LogId, MachineError, Member, Node, NodeConfig, NodeId, Raft, Recovered,
    Start,
};
use quorate_kv::{
    Changes, Condition, Engine, EngineView, Item, KeyRange, KvCommand, KvStateMachine, Stored, Visit,
};
use quorate_server::engine_fjall::{FjallDatabase, FjallSettings};

use crate::process::thread_times;
use crate::{Failure, Flags};

/// Processor time of this thread in nanoseconds.
fn thread_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// An engine whose calls are timed.
struct Timed<E> {
    engine: E,
    nanos: Arc<AtomicU64>,
}

impl<E> Timed<E> {
    fn time<T>(&self, begun: u64, result: T) -> T {
        self.nanos.fetch_add(thread_nanos() - begun, Ordering::Relaxed);
        result
    }
}

impl<E: EngineView> EngineView for Timed<E> {
    fn get(&self, key: &[u8]) -> Result<Option<Stored>, MachineError> {
        self.time(thread_nanos(), self.engine.get(key))
    }
    fn scan(&self, range: &KeyRange, visit: Visit<'_>) -> Result<(), MachineError> {
        self.engine.scan(range, visit)
    }
}

impl<E: Engine> Engine for Timed<E> {
    fn recovered(&self) -> Result<Recovered, MachineError> {
        self.engine.recovered()
    }
    fn write(&mut self, changes: &Changes, end: BatchEnd<'_>) -> Result<(), MachineError> {
        let begun = thread_nanos();
        let result = self.engine.write(changes, end);
        self.time(begun, result)
    }
    fn view(&self) -> Result<Box<dyn EngineView>, MachineError> {
        self.engine.view()
    }
    fn replace_all(
        &mut self,
        items: &mut dyn Iterator<Item = Result<Item, MachineError>>,
        end: BatchEnd<'_>,
    ) -> Result<(), MachineError> {
        self.engine.replace_all(items, end)
    }
    fn is_durable(&self) -> bool {
        self.engine.is_durable()
    }
    fn flush(&mut self) -> Result<LogId, MachineError> {
        let begun = thread_nanos();
        let result = self.engine.flush();
        self.time(begun, result)
    }
}

struct Group {
    nodes: Vec<Node>,
    leader: Raft,
    engine_nanos: Arc<AtomicU64>,
}

impl Group {
    async fn start(dir: &std::path::Path, count: u64) -> Result<Self, Failure> {
        let engine_nanos = Arc::<AtomicU64>::default();
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
            let path = dir.join(format!("engine-{}", node.id()));
            let engine = FjallDatabase::open(&path, FjallSettings::default())?.engine(GroupId(1))?;
            let machine = KvStateMachine::new(Box::new(Timed { engine, nanos: Arc::clone(&engine_nanos) }));
            let start = Start::Bootstrap { members: members.clone() };
            rafts.push(node.open_group(GroupId(1), start, machine).await?);
        }
        let leader = rafts.swap_remove(0);
        leader.campaign().await?;
        leader.wait_leader_ready(Duration::from_secs(20)).await?;
        Ok(Self { nodes, leader, engine_nanos })
    }

    /// Writes keys `from..to`, or `count` of the keys below `to` at random.
    async fn write(&self, range: std::ops::Range<u64>, random: Option<u64>) -> Result<f64, Failure> {
        let total = random.unwrap_or(range.end - range.start);
        let (next, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let (raft, next, range) = (self.leader.clone(), Arc::clone(&next), range.clone());
            writers.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return Ok::<(), quorate::RequestError>(());
                    }
                    let spread = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
                    let key = if random.is_some() { spread % range.end } else { range.start + number };
                    let mut value = vec![0; 1024];
                    value.chunks_exact_mut(8).fold(spread, |state, chunk| {
                        let state = (state ^ (state >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9) ^ number;
                        chunk.copy_from_slice(&state.to_le_bytes());
                        state
                    });
                    let key = Bytes::from(format!("key-{key:012}"));
                    let command = KvCommand::Put { key, value: value.into(), condition: Condition::Any };
                    raft.apply(command.encode()).await?;
                }
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended??;
        }
        Ok(total as f64 / begun.elapsed().as_secs_f64())
    }

    /// Processor time so far: everything, and of it the engine's. Threads of ours have the names of the runtime.
    fn spent(&self) -> (u64, u64) {
        let threads = thread_times(std::process::id());
        let is_ours = |name: &str| {
            ["host", "log", "apply", "read", "tokio", "quorate", "scale"].iter().any(|own| name.contains(own))
        };
        let own: u64 = threads.iter().filter(|(name, _)| !is_ours(name)).map(|(_, spent)| spent).sum();
        let all = threads.iter().map(|(_, spent)| spent).sum();
        (all, own + self.engine_nanos.load(Ordering::Relaxed))
    }

    async fn measure(&self, label: &str, keys: u64, writes: u64) -> Result<f64, Failure> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = self.spent();
        let rate = self.write(0..keys, Some(writes)).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = self.spent();
        let per_write = |nanos: u64| nanos as f64 / writes as f64 / 1000.0;
        let (all, engine) = (per_write(after.0 - before.0), per_write(after.1 - before.1));
        println!(
            "| {label} | {:.1} | {engine:.1} | {:.0} % | {rate:.0} |",
            all - engine,
            engine / all * 100.0
        );
        Ok(all - engine)
    }

    async fn stop(self) {
        for node in self.nodes {
            node.shutdown().await;
        }
    }
}

pub async fn run(flags: &Flags) -> Result<(), Failure> {
    let scratch = flags.scratch()?;
    let (most, writes): (u64, u64) = (flags.get("--mib", 1024), flags.get("--writes", 30_000));
    println!("{writes} writes of 1 KiB to random keys by 64 writers, three durable replicas in one process");
    println!(
        "| data | µs of processor per write outside the engine | in the engine | engine's share | writes/s |\n|---|---|---|---|---|"
    );
    let group = Group::start(&scratch.path().join("growth"), 3).await?;
    let (mut keys, mut outside) = (0, Vec::new());
    for mib in [1, 16, 256, 1024, 4096].into_iter().filter(|mib| *mib <= most) {
        group.write(keys..mib << 10, None).await?;
        keys = mib << 10;
        outside.push(group.measure(&format!("{mib} MiB"), keys, writes).await?);
    }
    let least = outside.iter().copied().fold(f64::MAX, f64::min);
    let highest = outside.iter().copied().fold(0.0, f64::max);
    println!("spread: {:.0} % above the least", (highest / least - 1.0) * 100.0);
    group.stop().await;
    println!(
        "\n| replicas, 1 MiB | µs of processor per write outside the engine | in the engine | engine's share | writes/s |\n|---|---|---|---|---|"
    );
    for replicas in [3, 5, 7] {
        let group = Group::start(&scratch.path().join(format!("of-{replicas}")), replicas).await?;
        group.write(0..1024, None).await?;
        let outside = group.measure(&replicas.to_string(), 1024, writes).await?;
        eprintln!("{replicas} replicas: {:.2} µs each", outside / replicas as f64);
        group.stop().await;
    }
    Ok(())
}
