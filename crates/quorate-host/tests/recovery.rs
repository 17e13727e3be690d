//! Stopped nodes start again with what they have on disk.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_core::{Entry, EntryPayload, GroupId, LogId, LogIndex, Membership, NodeId, SnapshotMeta, Term};
use quorate_host::{
    Answer, Applied, Applier, ApplyTask, BatchEnd, Command, Dedupe, Event, MachineError, Proposal,
    RecoverError, Recovered, RecoveredGroup, Request, RequestError, SnapshotSource, StateMachine,
    recover_group,
};
use quorate_storage::{
    Damage, GroupState, MemSnapshotStore, SnapshotError, SnapshotInfo, SnapshotReader, SnapshotStore,
    SnapshotWriter,
};
use support::{Cluster, propose, query, text};

fn restart_all(cluster: &mut Cluster) {
    for node in [1, 2, 3].map(NodeId) {
        cluster.restart(node);
    }
}

fn numbered(session: quorate_host::SessionId, sequence: u64, command: &str) -> Request {
    let dedupe = Dedupe::Session { session, sequence, acked_below: 1 };
    Request::Propose(Proposal::new(command.to_owned(), dedupe))
}

/// Writes with a session, restarts everything, repeats the last write.
fn writes_survive_a_restart(cluster: &mut Cluster, writes: u64) {
    let leader = cluster.leader();
    let opened = cluster.request(leader, Request::OpenSession);
    let Ok(Answer::SessionOpened { session }) = opened else { panic!("{opened:?}") };
    let mut last = None;
    for n in 1..=writes {
        last = Some(cluster.request(leader, numbered(session, n, &n.to_string())));
    }
    restart_all(cluster);
    let leader = cluster.leader();
    assert_eq!(text(cluster.request(leader, query())), writes.to_string());
    let repeat = cluster.request(leader, numbered(session, writes, &writes.to_string()));
    assert_eq!(Some(repeat), last, "the table is back, too");
    assert_eq!(text(cluster.request(leader, query())), writes.to_string());
}

#[test]
fn restart_from_the_log_alone() {
    let mut cluster = Cluster::new(3);
    writes_survive_a_restart(&mut cluster, 5);
    assert_eq!(cluster.status(NodeId(1)).snapshot, LogId::default());
}

#[test]
fn restart_from_a_snapshot_and_the_log_behind_it() {
    let mut cluster = Cluster::new(3);
    writes_survive_a_restart(&mut cluster, 50);
    for node in [1, 2, 3].map(NodeId) {
        let status = cluster.status(node);
        assert!(status.compacted.index.0 > 10 && status.snapshot.index.0 > 20, "{status:?}");
    }
}

#[test]
fn restart_of_a_machine_that_keeps_its_own_state() {
    let mut cluster = Cluster::with(3, |cluster| cluster.durable = true);
    writes_survive_a_restart(&mut cluster, 50);
    for node in [1, 2, 3].map(NodeId) {
        let status = cluster.status(node);
        assert!(status.compacted.index.0 > 10, "what is durable in the machine leaves the log: {status:?}");
        assert_eq!(status.snapshot, LogId::default(), "without a snapshot");
    }
}

/// A learner of an on-disk machine gets a snapshot that is taken because it asks.
#[test]
fn snapshot_of_an_on_disk_machine_is_taken_when_a_follower_needs_one() {
    let mut cluster = Cluster::with(3, |cluster| cluster.durable = true);
    let leader = cluster.leader();
    cluster.request(leader, propose("first")).unwrap();
    let behind = NodeId(leader.0 % 3 + 1);
    cluster.cut = vec![behind];
    for n in 0..60 {
        cluster.request(leader, propose(&n.to_string())).unwrap();
    }
    cluster.cut.clear();
    cluster.pass(1000);
    assert_eq!(text(cluster.request(behind, query())), "61");
    assert!(cluster.status(behind).snapshot.index.0 > 20);
    cluster.restart(behind);
    cluster.pass(1000);
    assert_eq!(text(cluster.request(behind, query())), "61");
}

// ---- one group, put together by hand ------------------------------------------------------------

/// Holds a number: how much it was given.
#[derive(Default)]
struct Sum {
    value: u8,
    disk: Option<Arc<Mutex<(u8, LogId)>>>,
}

impl StateMachine for Sum {
    fn apply(&mut self, _: Command<'_>) -> Result<Bytes, MachineError> {
        Err(MachineError::new("not used here"))
    }
    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(vec![self.value].into())
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, MachineError> {
        Err(MachineError::new("not used here"))
    }
    fn restore(&mut self, content: &mut dyn Read, batch: BatchEnd<'_>) -> Result<(), MachineError> {
        let mut byte = [0];
        content.read_exact(&mut byte).unwrap();
        [self.value] = byte;
        if let Some(disk) = &self.disk {
            *disk.lock().unwrap() = (self.value, batch.applied);
        }
        Ok(())
    }
    fn recovered(&mut self) -> Result<Recovered, MachineError> {
        let Some(disk) = &self.disk else { return Ok(Recovered::default()) };
        let (value, applied) = *disk.lock().unwrap();
        self.value = value;
        Ok(Recovered { applied, records: Vec::new() })
    }
    fn is_durable(&self) -> bool {
        self.disk.is_some()
    }
}

/// Snapshots of which some are damaged.
#[derive(Default)]
struct Snapshots {
    store: MemSnapshotStore,
    damaged: BTreeSet<LogIndex>,
}

struct Broken(SnapshotInfo);
impl SnapshotReader for Broken {
    fn read_at(&mut self, offset: u64, _: &mut [u8]) -> Result<usize, SnapshotError> {
        let path = PathBuf::from(format!("snapshots/{}", self.0.meta.last.index));
        Err(SnapshotError::Damaged(Damage { path, offset, what: "the checksum does not hold" }))
    }
    fn info(&self) -> &SnapshotInfo {
        &self.0
    }
}

impl SnapshotStore for Snapshots {
    fn create(&self, group: GroupId, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>, SnapshotError> {
        self.store.create(group, meta)
    }
    fn list(&self, group: GroupId) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        self.store.list(group)
    }
    fn open(&self, info: &SnapshotInfo) -> Result<Box<dyn SnapshotReader>, SnapshotError> {
        if self.damaged.contains(&info.meta.last.index) {
            return Ok(Box::new(Broken(info.clone())));
        }
        self.store.open(info)
    }
    fn retain(&self, group: GroupId, keep: usize) -> Result<(), SnapshotError> {
        self.store.retain(group, keep)
    }
}

const GROUP: GroupId = GroupId(9);

impl Snapshots {
    /// A snapshot at each position, whose machine content is the index.
    fn at(positions: &[(u64, u64)], damaged: &[u64]) -> Self {
        let store = MemSnapshotStore::default();
        for (term, index) in positions {
            let last = LogId::new(*term, *index);
            let membership = Arc::new(Membership::initial(vec![support::member(1)]).unwrap());
            let meta = SnapshotMeta { last, membership, membership_id: LogId::new(1, 1) };
            let mut writer = store.create(GROUP, &meta).unwrap();
            // An empty session table, then the content.
            let content = [&[1, 0, 0, 0, 0, 0, 0, 0, 0][..], &[u8::try_from(*index).unwrap()]].concat();
            writer.write(&content).unwrap();
            writer.finish().unwrap();
        }
        Self { store, damaged: damaged.iter().map(|index| LogIndex(*index)).collect() }
    }
}

/// A log of term 2 that holds `after + 1 ..= last`.
fn log(after: u64, last: u64) -> GroupState {
    let membership = Arc::new(Membership::initial(vec![support::member(1)]).unwrap());
    GroupState {
        group: GROUP,
        compacted: LogId::new(if after == 0 { 0 } else { 2 }, after),
        term_runs: if last > after { vec![LogId::new(2, after + 1)] } else { Vec::new() },
        last: LogIndex(last),
        memberships: vec![(LogId::new(1, 1), membership)],
        hard_state: quorate_core::HardState { term: Term(2), ..Default::default() },
        ..GroupState::default()
    }
}

fn recover(
    log: &GroupState,
    snapshots: &Snapshots,
    disk: Option<&Arc<Mutex<(u8, LogId)>>>,
) -> Result<RecoveredGroup, RecoverError> {
    let machine = Sum { value: 0, disk: disk.cloned() };
    recover_group(log, snapshots, Box::new(machine))
}

fn summary(recovered: &RecoveredGroup) -> String {
    let restored = &recovered.restored;
    format!(
        "applied {} log ({}, {}] commit {} snapshot {:?}{}",
        restored.applied,
        restored.compacted.index,
        restored.last,
        restored.hard_state.commit,
        recovered.snapshot.as_ref().map(|info| info.meta.last.index.0),
        if recovered.log_fix.is_some() { ", log reset" } else { "" },
    )
}

#[test]
fn machine_in_memory_starts_from_the_newest_snapshot() {
    let recovered = recover(&log(10, 30), &Snapshots::at(&[(2, 10), (2, 20)], &[]), None).unwrap();
    assert_eq!(summary(&recovered), "applied 20 log (10, 30] commit 20 snapshot Some(20)");
}

#[test]
fn damaged_snapshot_is_passed_over_for_an_older_one_that_the_log_continues() {
    let recovered = recover(&log(10, 30), &Snapshots::at(&[(2, 10), (2, 20)], &[20]), None).unwrap();
    assert_eq!(summary(&recovered), "applied 10 log (10, 30] commit 10 snapshot Some(10)");
    let from_the_start = recover(&log(0, 30), &Snapshots::at(&[(2, 20)], &[20]), None).unwrap();
    assert_eq!(summary(&from_the_start), "applied 0 log (0, 30] commit 0 snapshot None");
}

#[test]
fn damage_that_nothing_makes_up_for_names_the_file() {
    let error = recover(&log(20, 30), &Snapshots::at(&[(2, 10), (2, 20)], &[20]), None).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("snapshots/20: damaged at byte 0"), "{text}");
    let missing = recover(&log(20, 30), &Snapshots::at(&[(2, 10)], &[]), None).unwrap_err();
    assert!(missing.to_string().contains("no snapshot reaches"), "{missing}");
}

/// A leader's snapshot was staged, and the node stopped before its log was reset to it.
#[test]
fn staged_snapshot_beyond_the_log_becomes_its_start() {
    let recovered = recover(&log(10, 15), &Snapshots::at(&[(2, 10), (3, 40)], &[]), None).unwrap();
    assert_eq!(summary(&recovered), "applied 40 log (40, 40] commit 40 snapshot Some(40), log reset");
    let hard_state = recovered.restored.hard_state;
    assert_eq!((hard_state.term, hard_state.vote), (Term(3), None), "at least the term of its last entry");
    // One that contradicts the log wins, too: it is committed, what it contradicts is not.
    let recovered = recover(&log(10, 50), &Snapshots::at(&[(2, 10), (3, 40)], &[]), None).unwrap();
    assert_eq!(summary(&recovered), "applied 40 log (40, 40] commit 40 snapshot Some(40), log reset");
    // A damaged one never came.
    let recovered = recover(&log(10, 15), &Snapshots::at(&[(2, 10), (3, 40)], &[40]), None).unwrap();
    assert_eq!(summary(&recovered), "applied 10 log (10, 15] commit 10 snapshot Some(10)");
}

#[test]
fn machine_on_disk_uses_a_snapshot_only_when_the_log_begins_above_it() {
    let disk = Arc::new(Mutex::new((25, LogId::new(2, 25))));
    let recovered = recover(&log(20, 30), &Snapshots::at(&[(2, 28)], &[]), Some(&disk)).unwrap();
    assert_eq!(summary(&recovered), "applied 25 log (20, 30] commit 25 snapshot Some(28)");
    *disk.lock().unwrap() = (5, LogId::new(2, 5));
    let recovered = recover(&log(20, 30), &Snapshots::at(&[(2, 28)], &[]), Some(&disk)).unwrap();
    assert_eq!(summary(&recovered), "applied 28 log (20, 30] commit 28 snapshot Some(28)");
    assert_eq!(disk.lock().unwrap().0, 28);
}

/// The machine on disk took a staged snapshot during an earlier start that died before the log was reset.
#[test]
fn machine_that_has_the_staged_snapshot_already_still_gets_its_log_reset() {
    let disk = Arc::new(Mutex::new((40, LogId::new(3, 40))));
    let recovered = recover(&log(10, 15), &Snapshots::at(&[(3, 40)], &[]), Some(&disk)).unwrap();
    assert_eq!(summary(&recovered), "applied 40 log (40, 40] commit 40 snapshot Some(40), log reset");
}

#[test]
fn machine_that_is_ahead_of_the_log_is_refused() {
    let disk = Arc::new(Mutex::new((35, LogId::new(2, 35))));
    let error = recover(&log(10, 30), &Snapshots::default(), Some(&disk)).unwrap_err();
    assert!(matches!(error, RecoverError::LogBehind { .. }), "{error}");
    assert!(error.to_string().contains("remove this replica"), "{error}");
}

/// In a cluster whose leader is newer. Whoever passed over the entry would hold other data from there on.
#[test]
fn command_of_a_newer_version_stops_the_replica_and_garbage_does_not() {
    let apply = |payload: &'static [u8]| {
        let state = GroupState { group: GroupId(1), ..GroupState::default() };
        let machine = Box::new(support::Journal::default());
        let store = MemSnapshotStore::new();
        let recovered = recover_group(&state, &store, machine).unwrap();
        let mut applier = Applier::new(Arc::new(store));
        applier.add(recovered.machine);
        let payload = EntryPayload::Command(Bytes::from_static(payload));
        let entries = vec![Entry { id: LogId::new(1, 1), payload }];
        applier.step(ApplyTask::Apply { group: GroupId(1), entries: entries.into() }).pop()
    };
    let Some(Event::Applied(Applied::Failed { reason, .. })) = apply(b"\x05anything") else { panic!() };
    assert!(reason.contains("1@t1 is a command of version 5: this node needs a newer build"), "{reason}");
    for garbage in [&b""[..], b"\x00garbage", b"\x01\x09garbage", b"\x02\x01garbage", b"\x04\x08garbage"] {
        let Some(Event::Applied(Applied::Entries { responses, .. })) = apply(garbage) else { panic!() };
        assert_eq!(responses, [(LogId::new(1, 1), Err(RequestError::Malformed))]);
    }
}
