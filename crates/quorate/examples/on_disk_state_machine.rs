//! A state machine that keeps its own state in a file, and knows how far it has come.
//! `cargo run -p quorate --example on_disk_state_machine`
//!
//! ```text
//!   log      … ─┬──────────────┬───────────────────────┬──►
//!           compacted      in the file              applied
//!               │              └─ applied again after a restart ─┘
//!               └─ never beyond what the machine has reported durable (`flush`)
//! ```
//!
//! * The file is written whole, under another name first: it is always the state after some entry, and says after which.
//! * With the words it keeps the records of the host (`BatchEnd`), or repeats of commands could not be told any more.
//! * No snapshot is needed to drop log entries, only `flush`. One is made for a replica that is too far behind.
//!
//! A machine with a database stages writes in `apply`, and commits them together with the position in `commit`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate::{
    BatchEnd, Bytes, BytesSnapshot, Command, Consistency, LogId, MachineError, Node, NodeConfig, NodeId,
    Raft, Recovered, SnapshotSource, StateMachine, inspect,
};

/// Commands are `word=meaning`, questions are words.
struct Dictionary {
    path: PathBuf,
    /// Everything up to here is in the maps.
    applied: LogId,
    /// Everything up to here is in the file.
    durable: LogId,
    words: BTreeMap<Bytes, Bytes>,
    /// The host's.
    records: BTreeMap<Bytes, Bytes>,
    /// How many commands were applied since the start; for this example only.
    commands: Arc<AtomicU64>,
}

impl Dictionary {
    fn open(path: &Path, commands: Arc<AtomicU64>) -> io::Result<Self> {
        let mut new = Self {
            path: path.to_owned(),
            applied: LogId::default(),
            durable: LogId::default(),
            words: BTreeMap::new(),
            records: BTreeMap::new(),
            commands,
        };
        match fs::read(path) {
            Ok(content) => new.parse(&content.into()).ok_or(io::ErrorKind::InvalidData)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        new.durable = new.applied;
        Ok(new)
    }

    /// `crc u32, term u64, index u64`, then the two maps.
    fn parse(&mut self, content: &Bytes) -> Option<()> {
        let mut rest = content.slice(content.len().min(4)..);
        let crc = u32::from_le_bytes(content.get(..4)?.try_into().ok()?);
        if crc != crc32c::crc32c(&rest) {
            return None;
        }
        self.applied = LogId::new(take_number(&mut rest)?, take_number(&mut rest)?);
        self.words = take_map(&mut rest)?;
        self.records = take_map(&mut rest)?;
        Some(())
    }

    fn save(&mut self) -> io::Result<()> {
        let mut bytes = self.applied.term.0.to_le_bytes().to_vec();
        bytes.extend(self.applied.index.0.to_le_bytes());
        put_map(&mut bytes, &self.words);
        put_map(&mut bytes, &self.records);
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&crc32c::crc32c(&bytes).to_le_bytes())?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        self.durable = self.applied;
        Ok(())
    }
}

impl StateMachine for Dictionary {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        self.commands.fetch_add(1, Ordering::Relaxed);
        let equals = command.data.iter().position(|byte| *byte == b'=').unwrap_or(command.data.len());
        let (word, meaning) = (command.data.slice(..equals), command.data.slice(equals..));
        Ok(self.words.insert(word, meaning).unwrap_or_default())
    }
    fn commit(&mut self, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        for (key, value) in batch.records {
            match value {
                Some(value) => drop(self.records.insert(key.clone(), value.clone())),
                None => drop(self.records.remove(key)),
            }
        }
        self.applied = batch.applied;
        Ok(())
    }
    fn query(&self, word: &[u8]) -> Result<Bytes, MachineError> {
        Ok(self.words.get(word).cloned().unwrap_or_default())
    }
    fn is_durable(&self) -> bool {
        true
    }
    fn recovered(&mut self) -> Result<Recovered, MachineError> {
        Ok(Recovered { applied: self.applied, records: self.records.clone().into_iter().collect() })
    }
    /// The log may forget what is in the file.
    fn flush(&mut self) -> Result<LogId, MachineError> {
        self.save()?;
        Ok(self.durable)
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        let mut bytes = Vec::new();
        put_map(&mut bytes, &self.words);
        Ok(Box::new(BytesSnapshot::new(bytes)))
    }
    fn restore(&mut self, content: &mut dyn Read, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        self.words = take_map(&mut bytes.into()).ok_or_else(|| MachineError::new("a damaged snapshot"))?;
        self.records.clear();
        self.commit(batch)?;
        Ok(self.save()?)
    }
}

fn take_number(rest: &mut Bytes) -> Option<u64> {
    let number = u64::from_le_bytes(rest.get(..8)?.try_into().ok()?);
    *rest = rest.slice(8..);
    Some(number)
}

fn take_bytes(rest: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    rest.get(..length)?;
    Some(rest.split_to(length))
}

fn take_map(rest: &mut Bytes) -> Option<BTreeMap<Bytes, Bytes>> {
    (0..take_number(rest)?).map(|_| Some((take_bytes(rest)?, take_bytes(rest)?))).collect()
}

fn put_map(bytes: &mut Vec<u8>, map: &BTreeMap<Bytes, Bytes>) {
    bytes.extend((map.len() as u64).to_le_bytes());
    for part in map.iter().flat_map(|(key, value)| [key, value]) {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
}

async fn start(data: &Path, machine: Dictionary) -> Result<(Node, Raft), Box<dyn Error>> {
    let mut config = NodeConfig::durable(NodeId(1), "127.0.0.1:0", data);
    // The machine is flushed after this many entries, and none of those below are kept.
    config.group.snapshots.entries = 10;
    config.group.snapshots.trailing_entries = 0;
    let (node, raft) = Node::builder(config).start_alone(machine).await?;
    raft.campaign().await?;
    raft.wait_leader_ready(Duration::from_secs(10)).await?;
    Ok((node, raft))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let (data, file) = (directory.path().join("data"), directory.path().join("dictionary"));

    let (node, raft) = start(&data, Dictionary::open(&file, Arc::default())?).await?;
    for number in 1..=25 {
        raft.apply(format!("word-{number}=meaning {number}")).await?;
    }
    raft.wait_for(|status| status.compacted.index.0 >= 10, Duration::from_secs(10)).await?;
    node.shutdown().await;

    // What the log has dropped is in the file; what is not in the file is in the log.
    let commands = Arc::new(AtomicU64::new(0));
    let machine = Dictionary::open(&file, Arc::clone(&commands))?;
    let (durable, found) = (machine.durable.index, machine.words.len() as u64);
    let log = inspect(&data)?.groups.remove(0);
    assert!(log.compacted.index <= durable && durable < log.last.index, "{log:?}, in the file {durable}");
    assert!(log.snapshots.is_empty(), "none was needed");

    let (node, raft) = start(&data, machine).await?;
    let meaning = raft.query("word-25", Consistency::Linearizable).await?.response;
    assert_eq!(meaning, "=meaning 25");
    assert_eq!(commands.load(Ordering::Relaxed), 25 - found, "only what the file did not have");
    eprintln!("{found} words were in the file, {} came from the log", 25 - found);
    node.shutdown().await;
    Ok(())
}
