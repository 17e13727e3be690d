//! A group's state replaced by one from outside.

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quorate::{Dedupe, ExternalState, LogId, NodeConfig, NodeId, RestoreError, Start};

use crate::harness::{Cluster, GROUP, Lines, PATIENCE, Wire, lines, memory, numbers};
use crate::traps::Fragile;

/// The files in which a node stages something: its own, and what comes through the log.
fn staged(cluster: &Cluster, id: u64) -> Vec<u64> {
    fn find(directory: &Path, found: &mut Vec<u64>) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                find(&path, found);
            } else if let Some(name) = entry.file_name().to_str().unwrap().strip_suffix(".staged") {
                found.push(name.split_once('-').unwrap().1.parse().unwrap());
            }
        }
    }
    let mut found = Vec::new();
    find(&cluster.directory(id), &mut found);
    found
}

/// Waits until this holds.
async fn until(what: impl Fn() -> bool) {
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !what() {
        assert!(tokio::time::Instant::now() < deadline, "it did not come true");
        pause.tick().await;
    }
}

async fn until_nothing_is_staged(cluster: &Cluster) {
    until(|| (1..=3).all(|id| staged(cluster, id).is_empty())).await;
}

/// Restores at whoever leads, and again if that changes meanwhile.
async fn restored(cluster: &Cluster, state: impl Fn() -> ExternalState) -> Result<LogId, RestoreError> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let leader = cluster.leader().await;
        let outcome = cluster.rafts[&leader].within(PATIENCE).restore(state()).await;
        let again = match &outcome {
            Err(RestoreError::NotLeader { .. } | RestoreError::NotBroughtIn(_)) => true,
            Err(RestoreError::Install(error)) => error.not_applied(),
            Ok(_) | Err(_) => false,
        };
        if !again || tokio::time::Instant::now() > deadline {
            return outcome;
        }
    }
}

/// Small pieces, and a leader that stays although the disks are slow.
fn slowly(config: &mut NodeConfig) {
    config.group.core.command_bytes_max = 100;
    config.group.core.election_timeout = Duration::from_secs(1);
    config.group.core.heartbeat_interval = Duration::from_millis(100);
}

/// `lines` numbers of seven digits each, and what they are as a state.
fn large(lines: usize) -> String {
    (0..lines).map(|number| format!("{number:07}\n")).collect()
}

/// A backup of this morning, brought back in the evening: all replicas have it, also one that was away, and
/// after restarts.
#[tokio::test]
async fn a_backup_replaces_the_state_of_every_replica_at_one_entry() {
    let mut cluster = Cluster::start(3, memory(), |config| config.group.core.command_bytes_max = 10).await;
    cluster.apply_all(numbers(0..20)).await;
    let leader = cluster.leader().await;
    let raft = cluster.rafts[&leader].clone();
    let session = raft.open_session().await.unwrap();
    let mut backup = Vec::new();
    raft.snapshot().await.unwrap().open().unwrap().read_to_end(&mut backup).unwrap();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(away);
    let dedupe = Dedupe::Session { session, sequence: 1, acked_below: 1 };
    let first = raft.apply_with("gone", dedupe.clone()).await.unwrap();
    let crc = crc32c::crc32c(&backup);
    let state = ExternalState::new(std::io::Cursor::new(backup)).with_crc32c(crc).tried_on(Lines::default());
    let at = raft.restore(state).await.unwrap();
    assert!(at > first.id);
    assert_eq!(cluster.content(leader).await, lines(0..20));
    // Sessions are those of the clients, not of the backup: what was answered is not done again.
    assert_eq!(raft.apply_with("gone", dedupe).await.unwrap(), first);
    cluster.apply_all(numbers(20..25)).await;
    cluster.restart(away).await;
    assert_eq!(cluster.caught_up(away).await, lines(0..25));
    for id in 1..=3 {
        cluster.kill(id);
        cluster.restart(id).await;
    }
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..25));
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn what_is_not_the_whole_state_changes_nothing() {
    let cluster = Cluster::start(3, memory(), |config| {
        config.group.core.command_bytes_max = 10;
        config.group.sessions.restore_bytes_max = 100;
    })
    .await;
    cluster.apply_all(numbers(0..3)).await;
    let text = || Cursor::new(b"from outside, in several pieces\n".to_vec());
    let refused = async |state: &dyn Fn() -> ExternalState| restored(&cluster, state).await.unwrap_err();
    let wrong = refused(&|| ExternalState::new(text()).with_crc32c(1)).await;
    assert!(matches!(wrong, RestoreError::Checksum { expected: 1, .. }), "{wrong:?}");
    let large = refused(&|| ExternalState::new(std::io::repeat(b'x'))).await;
    assert!(matches!(large, RestoreError::TooLarge { bytes_max: 100 }), "{large:?}");
    for (length, read) in [(33, 32), (5, 10)] {
        let wrong = refused(&|| ExternalState::new(text()).with_length(length)).await;
        let RestoreError::Length { expected, found } = wrong else { panic!("{wrong:?}") };
        assert_eq!((expected, found), (length, read));
    }
    let unreadable = refused(&|| ExternalState::new(Unreadable(text()))).await;
    assert!(matches!(unreadable, RestoreError::Read(_)), "{unreadable:?}");
    let senseless = refused(&|| ExternalState::new(text()).tried_on(Fragile(Arc::default()))).await;
    assert!(matches!(senseless, RestoreError::Trial(_)), "{senseless:?}");
    let leader = cluster.leader().await;
    let raft = cluster.rafts[&leader].within(PATIENCE);
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    for at in [cluster.rafts[&follower].clone(), cluster.rafts[&follower].forwarding()] {
        let elsewhere = at.restore(ExternalState::new(text())).await.unwrap_err();
        let RestoreError::NotLeader { leader: Some(hint) } = elsewhere else { panic!("{elsewhere:?}") };
        assert_ne!(hint.node, NodeId(follower));
    }
    until_nothing_is_staged(&cluster).await;
    // The leader is cut off in the middle: it cannot tell, but nothing of it is in effect.
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.isolate(NodeId(leader));
    let lost = raft.within(ELECTION).restore(ExternalState::new(text())).await.unwrap_err();
    assert!(matches!(lost, RestoreError::NotBroughtIn(_) | RestoreError::NotLeader { .. }), "{lost:?}");
    network.heal();
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..3));
    }
    let emptied =
        restored(&cluster, || ExternalState::new(std::io::empty()).tried_on(Lines::default())).await;
    assert!(emptied.as_ref().is_ok_and(|at| at.index.0 > 3), "{emptied:?}");
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, "");
    }
    cluster.shutdown().await;
}

const ELECTION: Duration = Duration::from_millis(200);

/// Fails at its end.
struct Unreadable<R>(R);

impl<R: Read> Read for Unreadable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(std::io::Error::other("the cable was pulled")),
            count => Ok(count),
        }
    }
}

/// Far more than any queue of requests takes at a time, from a reader that is awaited; one replica is away and gets it
/// later. The old leader had more in its log, which nobody acknowledged.
#[tokio::test]
async fn a_state_larger_than_every_queue_reaches_all_piece_by_piece() {
    let mut cluster = Cluster::start(3, memory(), |config| {
        config.queues.request_bytes_max = 20_000;
        config.group.core.command_bytes_max = 8_000;
        config.group.snapshots.entries = 20;
        config.group.snapshots.trailing_entries = 0;
    })
    .await;
    cluster.apply_all(numbers(0..5)).await;
    let old = cluster.leader().await;
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.isolate(NodeId(old));
    let unheard: Vec<_> =
        (0..9).map(|n| cluster.rafts[&old].submit(format!("unheard {n}"), Dedupe::None)).collect();
    let leader = cluster.leader_among((1..=3).filter(|id| *id != old)).await;
    let content = large(30_000);
    let state = ExternalState::from_async(Cursor::new(content.clone())).with_length(content.len() as u64);
    cluster.rafts[&leader].restore(state.tried_on(Lines::default())).await.unwrap();
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.heal();
    for pending in unheard {
        assert!(pending.await.is_err());
    }
    for id in 1..=3 {
        assert!(cluster.caught_up(id).await == content, "node {id}");
    }
    until_nothing_is_staged(&cluster).await;
    cluster.kill(old);
    cluster.restart(old).await;
    assert!(cluster.caught_up(old).await == content);
    cluster.shutdown().await;
}

/// Gives some lines, then more only when it is told to.
struct Slow(std::sync::mpsc::Receiver<Vec<u8>>, Cursor<Vec<u8>>);

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.1.read(buffer)?;
        if count > 0 {
            return Ok(count);
        }
        let Ok(more) = self.0.recv() else { return Ok(0) };
        self.1 = Cursor::new(more);
        self.1.read(buffer)
    }
}

#[tokio::test]
async fn a_restore_that_nobody_waits_for_leaves_nothing_behind() {
    let cluster = Cluster::start(3, memory(), slowly).await;
    cluster.apply_all(numbers(0..3)).await;
    let leader = cluster.leader().await;
    let raft = cluster.rafts[&leader].clone();
    // While it is read.
    let (give, slow) = std::sync::mpsc::channel();
    let restore = tokio::spawn({
        let raft = raft.clone();
        async move { raft.restore(ExternalState::new(Slow(slow, Cursor::new(b"half\n".to_vec())))).await }
    });
    until(|| !staged(&cluster, leader).is_empty()).await;
    restore.abort();
    assert!(restore.await.unwrap_err().is_cancelled());
    give.send(b"the rest\n".to_vec()).ok();
    drop(give);
    until_nothing_is_staged(&cluster).await;
    // While it goes through the log: every replica has a part of it.
    let restore = tokio::spawn({
        let raft = raft.clone();
        async move { raft.restore(ExternalState::from_bytes(large(20_000))).await }
    });
    until(|| (1..=3).all(|id| staged(&cluster, id).iter().any(|name| *name < 1 << 63))).await;
    restore.abort();
    assert!(restore.await.unwrap_err().is_cancelled());
    raft.apply("3").await.unwrap();
    until_nothing_is_staged(&cluster).await;
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..4));
    }
    cluster.shutdown().await;
}

/// The power fails everywhere in the middle. The state is the old one, what the caller staged is gone, and the next
/// restore takes the place of what the log says of the first.
#[tokio::test]
async fn a_crash_in_the_middle_leaves_the_old_state_and_the_next_restore_works() {
    let mut cluster = Cluster::start(3, memory(), slowly).await;
    cluster.apply_all(numbers(0..3)).await;
    let leader = cluster.leader().await;
    let raft = cluster.rafts[&leader].clone();
    let restore = tokio::spawn(async move { raft.restore(ExternalState::from_bytes(large(20_000))).await });
    until(|| (1..=3).all(|id| staged(&cluster, id).iter().any(|name| *name < 1 << 63))).await;
    for id in 1..=3 {
        cluster.kill(id);
    }
    assert!(restore.await.unwrap().is_err());
    // The process did not get as far as tidying up.
    let own = cluster.directory(leader).join("snapshots").join(format!("{:020}-{:020}.staged", 1, u64::MAX));
    std::fs::write(&own, "from outside").unwrap();
    for id in 1..=3 {
        cluster.restart(id).await;
    }
    assert!(!own.exists());
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..3));
    }
    restored(&cluster, || ExternalState::from_bytes(lines(0..9))).await.unwrap();
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..9));
    }
    until_nothing_is_staged(&cluster).await;
    cluster.shutdown().await;
}

/// One replica's machine fails half-way through the state from outside: that replica stops and its machine is
/// asked nothing any more; the others go on with the new state. With a machine that works it comes back.
#[tokio::test]
async fn t8_nothing_is_applied_to_a_machine_that_failed_half_way_through_a_state_from_outside() {
    let mut cluster = Cluster::start(3, memory(), |_| {}).await;
    cluster.apply_all(numbers(0..3)).await;
    let leader = cluster.leader().await;
    let broken = (1..=3).find(|id| *id != leader).unwrap();
    cluster.nodes[&broken].close_group(GROUP).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let fragile = Fragile(Arc::clone(&asked));
    let raft = cluster.nodes[&broken].open_group(GROUP, Start::Resume, fragile).await.unwrap();
    cluster.rafts.insert(broken, raft.clone());
    let now = cluster.leader_among((1..=3).filter(|id| *id != broken)).await;
    cluster.rafts[&now].restore(ExternalState::from_bytes(lines(0..9))).await.unwrap();
    let reason = tokio::time::timeout(PATIENCE, raft.stopped()).await.unwrap();
    assert!(reason.contains("half of it is restored"), "{reason}");
    cluster.rafts[&now].apply("9").await.unwrap();
    assert_eq!(asked.lock().unwrap().last().map(String::as_str), Some("restore"));
    cluster.nodes[&broken].close_group(GROUP).await;
    cluster.open(broken, Start::Resume).await;
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..10));
    }
    cluster.shutdown().await;
}
