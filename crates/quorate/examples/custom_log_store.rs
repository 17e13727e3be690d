//! A log store of one's own: it passes the conformance suite, and a node runs on it.
//! `cargo run -p quorate --example custom_log_store`
//!
//! ```text
//!   write(batch) ─► queue ─► flush ─► MemLogStore: rules, readers
//!                                 └─► journal: length, checksum, batch │ length, checksum, batch │ …
//!   open: every whole record of the journal ─► MemLogStore
//! ```
//!
//! * Everything is in memory, and each batch is in the journal before it is reported durable.
//! * A batch is one record, so after a crash all of it is there or nothing.
//! * What a crash has left behind the last whole record is cut off before anything is written there.
//!
//! Left out: the journal only grows, and damage in its middle looks like its end. The WAL does better.

use std::error::Error;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate::{
    BatchEnd, Bytes, BytesSnapshot, Command, Disk, LogError, LogStats, LogStore, LogStoreKind, MachineError,
    MemDisk, Node, NodeConfig, NodeId, SnapshotSource, StateMachine,
};
use quorate_storage::conformance::{LogStoreUnderTest, log_store};
use quorate_storage::{DiskFile, GroupState, LogBatch, LogReader, MemLogStore, WriteDone, write_now};

struct Journal {
    file: Box<dyn DiskFile>,
    bytes: u64,
    log: MemLogStore,
    queue: Vec<(LogBatch, bool, WriteDone)>,
    /// Set by the first write or sync that fails: after it nothing is known about the file.
    failed: Option<LogError>,
}

fn failed(source: io::Error) -> LogError {
    LogError::Failed { context: "journal".to_owned(), source: Arc::new(source) }
}

impl Journal {
    fn open(disk: &dyn Disk, directory: &Path) -> Result<Self, LogError> {
        let path = directory.join("journal");
        if !disk.exists(&path).map_err(failed)? {
            disk.create(&path).and_then(|_| disk.sync_dir(directory)).map_err(failed)?;
        }
        let file = disk.open(&path).map_err(failed)?;
        let size = usize::try_from(file.size().map_err(failed)?).unwrap_or(usize::MAX);
        let mut content = vec![0; size];
        file.read_at(&mut content, 0).map_err(failed)?;
        let (content, mut at, mut log) = (Bytes::from(content), 0, MemLogStore::new());
        while let Some(batch) = record(&content.slice(at..)) {
            at += 8 + batch.len();
            let Ok(batch) = LogBatch::decode(&batch) else { break };
            write_now(&mut log, batch, true)?;
        }
        let bytes = at as u64;
        file.set_size(bytes).and_then(|()| file.sync_data()).map_err(failed)?;
        Ok(Self { file, bytes, log, queue: Vec::new(), failed: None })
    }

    /// Takes a batch into memory and adds its record to `records`. One that breaks a rule changes neither.
    fn take(&mut self, batch: LogBatch, records: &mut Vec<u8>) -> Result<(), LogError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let too_large = || LogError::NoSpace { context: "a batch of 4 GiB or more".to_owned() };
        let bytes = batch.encode().ok_or_else(too_large)?;
        let length = u32::try_from(bytes.len()).map_err(|_| too_large())?;
        write_now(&mut self.log, batch, true)?;
        records.extend(length.to_le_bytes());
        records.extend(crc32c::crc32c(&bytes).to_le_bytes());
        records.extend(bytes);
        Ok(())
    }

    fn append(&mut self, records: &[u8], sync: bool) -> io::Result<()> {
        self.file.write_at(records, self.bytes)?;
        self.bytes += records.len() as u64;
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

/// The record that `content` begins with, if it is whole.
fn record(content: &Bytes) -> Option<Bytes> {
    let number = |at: usize| Some(u32::from_le_bytes(content.get(at..at + 4)?.try_into().ok()?));
    let length = usize::try_from(number(0)?).ok()?;
    let crc = number(4)?;
    let batch = content.get(8..8 + length)?;
    (length > 0 && crc32c::crc32c(batch) == crc).then(|| content.slice(8..8 + length))
}

impl LogStore for Journal {
    fn groups(&self) -> Vec<GroupState> {
        self.log.groups()
    }
    fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
        self.queue.push((batch, must_sync, done));
    }
    fn flush(&mut self) -> Result<(), LogError> {
        let (mut records, mut sync, mut outcomes) = (Vec::new(), false, Vec::new());
        for (batch, must_sync, done) in std::mem::take(&mut self.queue) {
            let outcome = self.take(batch, &mut records);
            sync |= must_sync && outcome.is_ok();
            outcomes.push((outcome, done));
        }
        if !records.is_empty() {
            self.failed = self.append(&records, sync).map_err(failed).err();
        }
        for (outcome, done) in outcomes {
            done(self.failed.clone().map_or(outcome, Err));
        }
        self.failed.clone().map_or(Ok(()), Err)
    }
    fn reader(&self) -> Arc<dyn LogReader> {
        self.log.reader()
    }
    fn stats(&self) -> LogStats {
        LogStats { bytes_on_disk: self.bytes, segments: 1, ..self.log.stats() }
    }
}

/// For the suite: a journal on a disk that forgets what was not synced.
struct UnderTest {
    disk: MemDisk,
    journal: Journal,
}

impl UnderTest {
    fn new() -> Self {
        let disk = MemDisk::new();
        let journal = Journal::open(&disk, Path::new("")).expect("a disk in memory has room");
        Self { disk, journal }
    }
}

impl LogStoreUnderTest for UnderTest {
    fn store(&mut self) -> &mut dyn LogStore {
        &mut self.journal
    }
    fn reopen(&mut self) {
        self.journal = Journal::open(&self.disk, Path::new("")).expect("it was opened before");
    }
    fn crash(&mut self, seed: u64) {
        self.disk.crash(seed);
        self.reopen();
    }
}

/// Counts its commands.
#[derive(Default)]
struct Count(u64);

impl StateMachine for Count {
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
        let text = io::read_to_string(content)?;
        self.0 = text.parse().map_err(|error| MachineError::with("a count is a number", error))?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    log_store::run(&mut || Box::new(UnderTest::new()));

    // The name is noted in the data directory: a start with another kind of log is refused.
    let kind = LogStoreKind::custom("journal", |place| {
        Ok(Box::new(Journal::open(&*place.disk(), place.directory())?))
    });
    let directory = tempfile::tempdir()?;
    for expected in ["1", "2", "3"] {
        let config = NodeConfig::durable(NodeId(1), "127.0.0.1:0", directory.path());
        let (node, raft) =
            Node::builder(config).log_store(kind.clone()).start_alone(Count::default()).await?;
        raft.campaign().await?;
        raft.wait_leader_ready(Duration::from_secs(10)).await?;
        assert_eq!(raft.apply("one more").await?.response, expected);
        node.shutdown().await;
    }
    let without = Node::start(NodeConfig::durable(NodeId(1), "127.0.0.1:0", directory.path())).await;
    eprintln!("three starts, one count; without the store: {}", without.err().ok_or("it started")?);
    Ok(())
}
