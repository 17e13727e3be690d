//! A node from parts: other stores, other disks, other transports; and all of them after a restart.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate::{
    Consistency, Dedupe, DiskHealth, LogStoreKind, MemDisk, MemoryNetwork, Node, NodeBuilder, NodeConfig,
    NodeId, Offline, Raft, RequestError, RoleName, SnapshotStoreKind, StartError, Storage, StoreError,
};
use quorate_storage::{
    DataDirError, Disk, GroupState, LogBatch, LogError, LogReader, LogStats, LogStore, MemLogStore,
    MemSnapshotStore, SnapshotStore, WriteDone,
};

use crate::harness::{ELECTION_TIMEOUT, Lines, PATIENCE};

fn config(storage: Storage) -> NodeConfig {
    let mut config = NodeConfig { node: NodeId(1), storage, ..NodeConfig::default() };
    config.wal.segment_bytes = 1 << 20;
    config.group.core.election_timeout = ELECTION_TIMEOUT;
    config.group.core.heartbeat_interval = ELECTION_TIMEOUT / 5;
    config
}

/// A log that somebody else wrote. It is in memory, and outlives the node because the test holds it, too.
#[derive(Clone, Default)]
pub(crate) struct TheirLog(Arc<Mutex<MemLogStore>>);

impl TheirLog {
    fn with<T>(&self, work: impl FnOnce(&mut MemLogStore) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn kind(&self) -> LogStoreKind {
        let log = self.clone();
        LogStoreKind::custom("theirs", move |place| {
            assert_eq!(place.directory(), std::path::Path::new("log"));
            // A data directory that has lost its log is refused: this is where this one is.
            let note = place.directory().join("elsewhere");
            let found = place.disk().exists(&note).and_then(|is_there| match is_there {
                true => Ok(()),
                false => place.disk().create(&note).map(drop),
            });
            let context = "noting where the log is".to_owned();
            found.map_err(|source| LogError::Failed { context, source: Arc::new(source) })?;
            Ok(Box::new(log.clone()))
        })
    }
}

impl LogStore for TheirLog {
    fn groups(&self) -> Vec<GroupState> {
        self.with(|log| log.groups())
    }
    fn write(&mut self, batch: LogBatch, must_sync: bool, done: WriteDone) {
        self.with(|log| log.write(batch, must_sync, done));
    }
    fn flush(&mut self) -> Result<(), LogError> {
        self.with(MemLogStore::flush)
    }
    fn reader(&self) -> Arc<dyn LogReader> {
        self.with(|log| log.reader())
    }
    fn stats(&self) -> LogStats {
        self.with(|log| log.stats())
    }
}

async fn start(builder: NodeBuilder) -> (Node, Raft) {
    let (node, raft) = builder.start_alone(Lines::default()).await.unwrap();
    raft.wait_for(|status| status.role == RoleName::Leader, PATIENCE).await.unwrap();
    (node, raft)
}

async fn content(raft: &Raft) -> String {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match raft.query("", Consistency::Linearizable).await {
            Ok(answer) => return String::from_utf8(answer.response.to_vec()).unwrap(),
            // A disk may take longer for the first entry of a term than an election does.
            Err(RequestError::Busy { .. }) if tokio::time::Instant::now() < until => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Starts what `build` builds three times in this process; each finds what the ones before it have written. Whoever
/// still holds a node that was stopped, or a handle of it, is in nobody's way.
async fn survives_restarts(build: impl Fn() -> NodeBuilder) {
    let mut expected = String::new();
    let mut stopped = Vec::new();
    for command in ["first", "second", "third"] {
        let (node, raft) = start(build()).await;
        assert_eq!(content(&raft).await, expected);
        raft.apply(command).await.unwrap();
        if command == "second" {
            raft.take_snapshot().await.unwrap();
        }
        expected = format!("{expected}{command}\n");
        node.shutdown().await;
        stopped.push((node, raft));
    }
    for (node, raft) in stopped {
        let late = raft.apply("late").await.unwrap_err();
        assert!(matches!(late, RequestError::Stopped { .. }), "{late}");
        assert_eq!(node.id(), NodeId(1));
    }
}

#[tokio::test]
async fn a_node_in_a_directory_survives_a_restart_in_the_same_process() {
    let directory = tempfile::tempdir().unwrap();
    survives_restarts(|| Node::builder(config(Storage::Directory(directory.path().join("data"))))).await;
}

/// The machine is in memory, there is no snapshot yet, and somebody deletes the only file of the log. The
/// node must not start: empty, it would vote again in terms it has voted in.
#[tokio::test]
async fn a_node_whose_log_was_deleted_does_not_start_as_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let build = || Node::builder(config(Storage::Directory(data.clone())));
    let (node, raft) = start(build()).await;
    raft.apply("promised").await.unwrap();
    node.shutdown().await;
    let segment = data.join("wal/0000000000000001.wal");
    let aside = directory.path().join("aside");
    std::fs::rename(&segment, &aside).unwrap();
    for _ in 0..2 {
        let refused = build().start_alone(Lines::default()).await.map(drop).unwrap_err();
        assert!(refused.to_string().contains("has lost its log"), "{refused}");
    }
    std::fs::rename(&aside, &segment).unwrap();
    let (node, raft) = start(build()).await;
    assert_eq!(content(&raft).await, "promised\n");
    node.shutdown().await;
}

/// The disk is nearly full: there is still room in the newest file of the log, and the engine of a server
/// would run out of space first, which stops it. So the log stops first, and goes on by itself.
#[tokio::test]
async fn a_disk_that_runs_low_is_read_only_until_there_is_space() {
    let disk = Arc::new(MemDisk::new());
    disk.set_capacity(Some(1 << 30));
    let mut config = config(Storage::Memory);
    config.host.disk_free_bytes_min = Some(1 << 20);
    let (node, raft) = start(Node::builder(config).disk(disk.clone())).await;
    raft.apply("before").await.unwrap();
    let free_bytes = disk.space(Path::new("")).unwrap().unwrap().free_bytes;
    disk.set_capacity(Some((1 << 30) - free_bytes + (1 << 19)));
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    let until = tokio::time::Instant::now() + PATIENCE;
    // Nobody writes, and it is noticed.
    while !node.stats().log.is_full {
        assert!(tokio::time::Instant::now() < until, "{:?}", node.stats());
        pause.tick().await;
    }
    assert_eq!(node.stats().disk_free_bytes, Some(1 << 19));
    // What was taken before the replica knew waits for space, everything else is refused.
    let waiting = raft.submit("waiting", Dedupe::None);
    raft.wait_for(|status| status.disk == DiskHealth::Full, PATIENCE).await.unwrap();
    let refused = raft.apply("refused").await.unwrap_err();
    assert!(matches!(refused, RequestError::DiskFull), "{refused}");
    assert_eq!(content(&raft).await, "before\n");
    disk.set_capacity(Some(1 << 30));
    waiting.await.unwrap();
    raft.wait_for(|status| status.disk == DiskHealth::Works, PATIENCE).await.unwrap();
    raft.apply("after").await.unwrap();
    assert_eq!(content(&raft).await, "before\nwaiting\nafter\n");
    assert!(!node.stats().log.is_full);
    node.shutdown().await;
}

#[tokio::test]
async fn a_node_on_a_disk_in_memory_survives_a_restart() {
    let disk = Arc::new(MemDisk::new());
    survives_restarts(|| Node::builder(config(Storage::Memory)).disk(disk.clone())).await;
    let found = Offline::on(disk).inspect().unwrap();
    assert_eq!((found.node, found.groups.len(), found.groups[0].snapshots.len()), (NodeId(1), 1, 1));
}

#[tokio::test]
async fn a_node_with_somebody_elses_stores_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (log, snapshots) = (TheirLog::default(), Arc::new(MemSnapshotStore::new()));
    let network = MemoryNetwork::new(1);
    let incarnations = Arc::new(Mutex::new(Vec::new()));
    let build = || {
        let (snapshots, network) = (Arc::clone(&snapshots), network.clone());
        let incarnations = Arc::clone(&incarnations);
        Node::builder(config(Storage::Directory(directory.path().join("data"))))
            .log_store(log.kind())
            .snapshot_store(SnapshotStoreKind::custom("theirs", move |_| {
                Ok(Arc::clone(&snapshots) as Arc<dyn SnapshotStore>)
            }))
            .transport_with(move |identity| {
                let mut incarnations = incarnations.lock().unwrap_or_else(PoisonError::into_inner);
                incarnations.push(identity.incarnation);
                Ok(Arc::new(network.transport(identity.node)))
            })
    };
    survives_restarts(build).await;
    let incarnations = incarnations.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(incarnations, [incarnations[0]; 3], "the directory's");
}

#[cfg(feature = "redb")]
#[tokio::test]
async fn a_node_with_its_log_in_a_redb_file_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let redb = || LogStoreKind::redb(quorate::RedbConfig::default());
    let build = || Node::builder(config(Storage::Directory(data.clone())));
    survives_restarts(|| build().log_store(redb())).await;
    assert!(data.join("log/log.redb").exists() && !data.join("wal").exists());
    let error = build().start().await.err().unwrap().to_string();
    assert!(error.contains("keeps its log as `redb`, not as `wal`: start with `redb`"), "{error}");
}

/// Nothing is kept, so a restart is a new node; but it is one.
#[tokio::test]
async fn a_node_in_memory_begins_anew() {
    for _ in 0..2 {
        let (node, raft) = start(Node::builder(config(Storage::Memory))).await;
        assert_eq!(content(&raft).await, "");
        raft.apply("forgotten").await.unwrap();
        node.shutdown().await;
    }
}

/// The story of an operator who drops a setting: a log that is not found would be a vote that is given twice.
#[tokio::test]
async fn another_kind_of_log_is_refused_and_nothing_changes() {
    let directory = tempfile::tempdir().unwrap();
    let build = || Node::builder(config(Storage::Directory(directory.path().to_owned())));
    let log = TheirLog::default();
    let (node, raft) = start(build().log_store(log.kind())).await;
    raft.apply("kept").await.unwrap();
    node.shutdown().await;
    let refused = build().start().await.err().unwrap();
    let StartError::Store(StoreError::Directory { source: DataDirError::OtherLog { .. }, .. }) = &refused
    else {
        panic!("{refused}")
    };
    assert!(refused.to_string().contains("start with `theirs`"), "{refused}");
    let (_node, raft) = start(build().log_store(log.kind())).await;
    assert_eq!(content(&raft).await, "kept\n");
}

/// The same with the snapshots: the log has been compacted below one that the other store does not find.
#[tokio::test]
async fn another_kind_of_snapshot_store_is_refused_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let build = || Node::builder(config(Storage::Directory(directory.path().to_owned())));
    let (node, raft) = start(build()).await;
    raft.apply("kept").await.unwrap();
    raft.take_snapshot().await.unwrap();
    node.shutdown().await;
    let refused = build().snapshot_store(SnapshotStoreKind::discard()).start().await.err().unwrap();
    let StartError::Store(StoreError::Directory { source, .. }) = &refused else { panic!("{refused}") };
    assert!(matches!(source, DataDirError::OtherSnapshots { .. }), "{refused}");
    assert!(refused.to_string().contains("start with `files`"), "{refused}");
    let (_node, raft) = start(build()).await;
    assert_eq!(content(&raft).await, "kept\n");
}

#[tokio::test]
async fn stores_that_forget_are_refused_in_a_data_directory() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let build = || Node::builder(config(Storage::Directory(data.clone())));
    let refused = [
        (build().log_store(LogStoreKind::memory()), "the log store must be one that keeps its data"),
        (build().snapshot_store(SnapshotStoreKind::memory()), "the snapshot store must be one that keeps"),
        (
            build().log_store(LogStoreKind::custom("My Log", |_| Ok(Box::new(MemLogStore::new())))),
            "the name of the log store must be 1 to 32 lower-case letters",
        ),
    ];
    for (builder, why) in refused {
        let error = builder.start().await.err().unwrap().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(!data.exists(), "a refusal leaves nothing behind");
}
