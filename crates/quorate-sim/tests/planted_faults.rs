//! The simulator can fail: each of these puts one classic bug between the product and the world, and the
//! bug must be found within a few seeds. Were one of these tests to pass everything, the checks would be asleep.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quorate_core::{GroupId, LogId};
use quorate_host::{BatchEnd, Command, MachineError, PeerMessage, Recovered, SnapshotSource, StateMachine};
use quorate_sim::{Options, Seams, Violation, run_seed};
use quorate_storage::{
    Disk, DiskFile, DiskLock, GroupState, LogBatch, LogError, LogReader, LogStats, LogStore, WriteDone,
};

/// Runs seeds until one finds the bug, and says how.
fn found_within(seeds: u64, seams: &Seams) -> Violation {
    let options = Options { seams: seams.clone(), ..Options::default() };
    let found = (0..seeds).find_map(|seed| run_seed(seed, &options).violation);
    found.unwrap_or_else(|| panic!("{seeds} seeds did not find the planted bug"))
}

/// A log that says "durable" one flush too early, like a file system without barriers or a
/// program that forgets the `fsync`.
struct EarlyStore {
    inner: Box<dyn LogStore>,
    waiting: Vec<WriteDone>,
    rounds: u64,
}

impl LogStore for EarlyStore {
    fn groups(&self) -> Vec<GroupState> {
        self.inner.groups()
    }
    fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
        self.inner.write(batch, must_sync, Box::new(|_| ()));
        self.waiting.push(done);
    }
    fn flush(&mut self) -> Result<(), LogError> {
        for done in self.waiting.drain(..) {
            done(Ok(()));
        }
        self.rounds += 1;
        // The first rounds set the groups up.
        if self.rounds < 5 || self.rounds.is_multiple_of(3) { self.inner.flush() } else { Ok(()) }
    }
    fn reader(&self) -> Arc<dyn LogReader> {
        self.inner.reader()
    }
    fn stats(&self) -> LogStats {
        self.inner.stats()
    }
}

#[test]
fn a_log_that_completes_before_it_flushes_is_found() {
    let store = |inner| Box::new(EarlyStore { inner, waiting: Vec::new(), rounds: 0 }) as Box<dyn LogStore>;
    let seams = Seams { store: Some(Arc::new(store)), ..Seams::default() };
    let violation = found_within(10, &seams);
    // Whichever is looked at first.
    let right = ["promised before durable", "committed is durable on a majority"];
    assert!(right.contains(&violation.invariant), "{violation}");
}

/// A log that loses the vote: the term survives a restart, whom the replica voted for does not.
struct ForgetsVotes(Box<dyn LogStore>);

impl LogStore for ForgetsVotes {
    fn groups(&self) -> Vec<GroupState> {
        self.0.groups()
    }
    fn write(&mut self, mut batch: LogBatch, must_sync: bool, done: WriteDone) {
        for write in &mut batch.groups {
            if let Some(hard) = &mut write.hard_state {
                hard.vote = None;
            }
        }
        self.0.write(batch, must_sync, done);
    }
    fn flush(&mut self) -> Result<(), LogError> {
        self.0.flush()
    }
    fn reader(&self) -> Arc<dyn LogReader> {
        self.0.reader()
    }
    fn stats(&self) -> LogStats {
        self.0.stats()
    }
}

#[test]
fn a_log_that_forgets_votes_is_found() {
    let store = |inner| Box::new(ForgetsVotes(inner)) as Box<dyn LogStore>;
    let seams = Seams { store: Some(Arc::new(store)), ..Seams::default() };
    let violation = found_within(10, &seams);
    assert_eq!(violation.invariant, "promised before durable", "{violation}");
}

/// A disk whose `sync_data` says yes and does nothing.
struct LyingDisk(Arc<dyn Disk>);
struct LyingFile(Box<dyn DiskFile>);

impl Disk for LyingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(LyingFile(self.0.create(path)?)))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(LyingFile(self.0.open(path)?)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.list(directory)
    }
    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.0.create_dir_all(directory)
    }
    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.0.sync_dir(directory)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.0.lock(path)
    }
}

impl DiskFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_size(size)
    }
    fn allocate(&self, size: u64) -> io::Result<()> {
        self.0.allocate(size)
    }
}

#[test]
fn a_disk_whose_sync_lies_is_found() {
    let disk = |inner| Arc::new(LyingDisk(inner)) as Arc<dyn Disk>;
    let seams = Seams { disk: Some(Arc::new(disk)), ..Seams::default() };
    found_within(10, &seams);
}

/// A demultiplexer that mixes up groups now and then.
#[test]
fn a_network_that_delivers_to_the_wrong_group_is_found() {
    let sent = AtomicU64::new(0);
    let message = move |mut message: PeerMessage| {
        if sent.fetch_add(1, Ordering::Relaxed) % 40 == 39 {
            message.group = GroupId(3 - message.group.0);
        }
        message
    };
    let seams = Seams { message: Some(Arc::new(message)), ..Seams::default() };
    found_within(30, &seams);
}

/// What a machine under test gets wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// It stores the data of a batch, but not the host's records (the sessions) that belong to it.
    ForgetsSessions,
    /// It takes the sessions of a snapshot and not its data.
    RestoresNothing,
    /// Its response depends on how often this process has applied.
    CountsForItself,
    /// It says that more is durable than it has made durable.
    NeverFlushes,
}

struct WrongMachine {
    inner: Box<dyn StateMachine>,
    mistake: Mistake,
    applied: u64,
    last: LogId,
}

impl StateMachine for WrongMachine {
    fn apply(&mut self, command: Command<'_>) -> Result<Bytes, MachineError> {
        self.applied += 1;
        self.last = command.id;
        let response = self.inner.apply(command)?;
        if self.mistake == Mistake::CountsForItself && self.applied.is_multiple_of(20) {
            return Ok(quorate_kv::KvResponse::Done { version: self.applied, previous: None }.encode());
        }
        Ok(response)
    }
    fn commit(&mut self, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        self.last = batch.applied;
        if self.mistake == Mistake::ForgetsSessions {
            return self.inner.commit(BatchEnd { records: &[], ..batch });
        }
        self.inner.commit(batch)
    }
    fn query(&self, request: &[u8]) -> Result<Bytes, MachineError> {
        self.inner.query(request)
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        self.inner.snapshot()
    }
    fn restore(&mut self, content: &mut dyn Read, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        if self.mistake == Mistake::RestoresNothing {
            io::copy(content, &mut io::sink()).unwrap();
            return self.inner.commit(batch);
        }
        self.inner.restore(content, batch)
    }
    fn recovered(&mut self) -> Result<Recovered, MachineError> {
        self.inner.recovered()
    }
    fn is_durable(&self) -> bool {
        self.inner.is_durable()
    }
    fn flush(&mut self) -> Result<LogId, MachineError> {
        if self.mistake == Mistake::NeverFlushes {
            return Ok(self.last);
        }
        self.inner.flush()
    }
}

fn machine_with(mistake: Mistake) -> Seams {
    let machine = move |inner| {
        Box::new(WrongMachine { inner, mistake, applied: 0, last: LogId::default() }) as Box<dyn StateMachine>
    };
    Seams { machine: Some(Arc::new(machine)), ..Seams::default() }
}

#[test]
fn a_machine_that_forgets_sessions_is_found() {
    found_within(30, &machine_with(Mistake::ForgetsSessions));
}

#[test]
fn a_machine_that_restores_nothing_is_found() {
    found_within(10, &machine_with(Mistake::RestoresNothing));
}

#[test]
fn a_machine_that_depends_on_its_process_is_found() {
    let violation = found_within(10, &machine_with(Mistake::CountsForItself));
    // A group of one has nobody to compare with: there the clients notice.
    assert!(["state machine safety", "linearizability"].contains(&violation.invariant), "{violation}");
}

#[test]
fn a_machine_that_never_flushes_is_found() {
    found_within(30, &machine_with(Mistake::NeverFlushes));
}
