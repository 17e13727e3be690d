//! Data directories without their nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use quorate::wal_tools::{self, DumpItem, DumpedKind};
use quorate::{
    ClusterId, ForcedRecovery, LogKind, Member, Node, NodeId, Offline, OfflineError, OsDisk, RecoverOptions,
    RecoveryRefused, ReplicaId, RequestError, RoleName, Start, SurvivorError, has_existing_state, inspect,
    members_from_json, members_from_toml, recover_cluster, recovery_with,
};

use crate::harness::{Cluster, GROUP, Lines, PATIENCE, Wire, lines, numbers};
use crate::parts::TheirLog;

/// Every file below `directory` with its content.
fn everything(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut everything(&path));
        } else {
            let content = std::fs::read(&path).unwrap();
            found.insert(path, content);
        }
    }
    found
}

/// Takes the mark from the end of the log, as if the power had failed before it was on the disk.
/// What is written without a sync has none.
fn lose_last_mark(directory: &Path) {
    let mut last = None;
    let mut see = |item| {
        if let DumpItem::Record(record) = item {
            last = Some(record);
        }
        true
    };
    wal_tools::dump(&OsDisk::new(directory), Path::new("wal"), &mut see).unwrap();
    let last = last.unwrap();
    if last.kind == DumpedKind::Mark {
        let segment = directory.join(&last.path);
        let mut content = std::fs::read(&segment).unwrap();
        let (from, bytes) = (usize::try_from(last.offset).unwrap(), usize::try_from(last.bytes).unwrap());
        content[from..from + bytes].fill(0);
        std::fs::write(&segment, content).unwrap();
    }
}

/// Number 1 of three goes on, because the others are lost.
fn two_of_three_are_lost() -> ForcedRecovery {
    ForcedRecovery {
        survivor: ReplicaId(1),
        lost: BTreeSet::from([ReplicaId(2), ReplicaId(3)]),
        left_out: BTreeMap::new(),
        accept_more_loss: false,
    }
}

#[tokio::test]
async fn a_directory_says_what_is_in_it_without_its_node() {
    let mut cluster = Cluster::start(1, Wire::Tcp, |_| {}).await;
    cluster.apply_all(numbers(0..10)).await;
    let snapshot = cluster.rafts[&1].take_snapshot().await.unwrap();
    cluster.apply_all(numbers(10..12)).await;
    let last = cluster.status(1).last;
    let directory = cluster.directory(1);
    let in_use = inspect(&directory).unwrap_err();
    assert!(matches!(in_use, OfflineError::Directory(_)), "{in_use}");
    cluster.kill(1);
    // A start would remove the one and write the other again.
    std::fs::write(directory.join("snapshots/interrupted.tmp"), "half").unwrap();
    lose_last_mark(&directory);
    let before = everything(&directory);
    assert!(has_existing_state(&directory).unwrap());
    let found = inspect(&directory).unwrap();
    assert!(everything(&directory) == before, "looking changes nothing");
    assert_eq!(found.log_kind, LogKind::default());
    assert_eq!((found.cluster, found.node, found.groups.len()), (ClusterId(77), NodeId(1), 1));
    let group = &found.groups[0];
    assert_eq!((group.group, group.replica, group.last), (GROUP, ReplicaId(1), last));
    assert_eq!(group.membership.voters().collect::<Vec<_>>(), [ReplicaId(1)]);
    assert_eq!(group.snapshots.iter().map(|found| found.meta.last).collect::<Vec<_>>(), [snapshot]);
    cluster.restart(1).await;
    assert_eq!(cluster.caught_up(1).await, lines(0..12));
    let empty = cluster.directory(2);
    assert!(!has_existing_state(&empty).unwrap());
    assert!(matches!(inspect(&empty), Err(OfflineError::Nobodys(_))));
    assert!(!empty.exists(), "looking makes nothing");
    cluster.shutdown().await;
}

/// Two of three are gone. One goes on alone; one of the lost that turns up after all is not heard any more.
#[tokio::test]
async fn a_survivor_goes_on_alone_and_who_was_not_recovered_stays_out() {
    let mut cluster = Cluster::start(3, Wire::Tcp, |_| {}).await;
    cluster.apply_all(numbers(0..10)).await;
    for id in 1..=3 {
        cluster.caught_up(id).await;
    }
    for id in 1..=3 {
        cluster.kill(id);
    }
    let (directory, backup) = (cluster.directory(1), cluster.directory(1001));
    let asked = two_of_three_are_lost();
    // The same, said with a list of who is left.
    let inspection = inspect(&directory).unwrap();
    let listed = |list: Vec<Member>| recovery_with(&inspection.groups[0], &list);
    let (one, two) = (r#"{"id": 1, "address": "a:1"}"#, r#"{"id": 2, "address": "b:1"}"#);
    assert_eq!(
        listed(members_from_toml("[[member]]\nid = 1\naddress = \"a:1\"").unwrap()),
        Ok(asked.clone())
    );
    let both = listed(members_from_json(&format!("[{one}, {two}]")).unwrap());
    assert_eq!(both, Err(SurvivorError::NotAlone(NodeId(1))));
    let other = listed(members_from_json(&format!("[{two}]")).unwrap());
    assert_eq!(other, Err(SurvivorError::NotHere(NodeId(1))));
    let before = everything(&directory);
    let recover =
        |asked: &ForcedRecovery, options| recover_cluster(&directory, GROUP, asked.clone(), &options);
    let dry = RecoverOptions { dry_run: true, backup: Some(backup.clone()) };
    let planned = recover(&asked, dry.clone()).unwrap();
    assert!(!backup.exists());
    assert_eq!(recover(&asked, dry).unwrap(), planned, "a dry run changes nothing");
    let quorum = ForcedRecovery { lost: BTreeSet::from([ReplicaId(3)]), ..asked.clone() };
    let for_good = RecoverOptions { dry_run: false, backup: Some(backup.clone()) };
    let refused = recover(&quorum, for_good.clone()).unwrap_err();
    assert!(matches!(refused, OfflineError::Refused(RecoveryRefused::NotAccountedFor { .. })), "{refused}");
    let other = ForcedRecovery { survivor: ReplicaId(2), ..asked.clone() };
    let refused = recover(&other, RecoverOptions::default()).unwrap_err();
    assert!(matches!(refused, OfflineError::OtherReplica { found: ReplicaId(1), .. }), "{refused}");

    std::fs::create_dir(&backup).unwrap();
    let taken = recover(&asked, for_good.clone()).unwrap_err();
    assert!(matches!(taken, OfflineError::Backup { .. }), "an older backup is not overwritten: {taken}");
    std::fs::remove_dir(&backup).unwrap();
    assert!(everything(&directory) == before, "neither a dry run nor a refusal changes anything");

    assert_eq!(recover(&asked, for_good).unwrap(), planned);
    undo_and_recover_again(&directory, &backup, &before, &asked);

    cluster.restart(1).await;
    cluster.apply_all(numbers(10..20)).await;
    assert_eq!(cluster.caught_up(1).await, lines(0..20));
    assert_eq!(cluster.status(1).membership.epoch(), 1);
    // Number 2 was not lost after all. It belongs to the epoch before, whatever it tries.
    cluster.restart(2).await;
    cluster.rafts[&2].campaign().await.unwrap();
    cluster.apply_all(numbers(20..30)).await;
    assert_ne!(cluster.status(2).role, RoleName::Leader);
    let alone = cluster.rafts[&2].within(std::time::Duration::from_millis(100)).apply("x").await.unwrap_err();
    assert!(matches!(alone, RequestError::NotLeader { .. }), "{alone:?}");
    // It comes back with nothing, under a new id.
    cluster.nodes[&2].remove_group(GROUP).await.unwrap();
    cluster.rafts.remove(&2);
    let added = cluster.rafts[&1].add_voter(NodeId(2), cluster.address(2), "").await.unwrap();
    assert!(added.replica > ReplicaId(3), "{} is another one", added.replica);
    let seeds = vec![(ReplicaId(1), NodeId(1), cluster.address(1))];
    cluster.open(2, Start::Join { replica: added.replica, seeds }).await;
    cluster.rafts[&1].wait_voter(added.replica, PATIENCE).await.unwrap();
    assert_eq!(cluster.caught_up(2).await, lines(0..30));
    cluster.shutdown().await;
}

/// Whoever recovered the wrong replica puts the log back, and finds it as it was.
fn undo_and_recover_again(
    directory: &Path,
    backup: &Path,
    before: &BTreeMap<PathBuf, Vec<u8>>,
    asked: &ForcedRecovery,
) {
    let changed: Vec<_> =
        before.iter().filter(|(path, content)| std::fs::read(path).unwrap() != **content).collect();
    let in_log = |path: &Path| path.starts_with(directory.join("wal"));
    assert!(
        !changed.is_empty() && changed.iter().all(|(path, _)| in_log(path)),
        "a recovery changes the log only"
    );
    let again = recover_cluster(directory, GROUP, asked.clone(), &RecoverOptions::default());
    assert!(again.is_err(), "it is recovered");
    std::fs::remove_dir_all(directory.join("wal")).unwrap();
    std::fs::create_dir(directory.join("wal")).unwrap();
    for segment in std::fs::read_dir(backup.join("wal")).unwrap() {
        let segment = segment.unwrap();
        std::fs::copy(segment.path(), directory.join("wal").join(segment.file_name())).unwrap();
    }
    assert_eq!(std::fs::read(backup.join("NODE")).unwrap(), std::fs::read(directory.join("NODE")).unwrap());
    assert!(everything(directory) == *before, "as it was");
    recover_cluster(directory, GROUP, asked.clone(), &RecoverOptions::default()).unwrap();
}

/// The log is somebody else's: whoever wants to look at it or recover it must have it, and then everything works.
#[tokio::test]
async fn a_directory_with_somebody_elses_log_is_recovered_with_their_store() {
    let cluster = Cluster::empty(Wire::Tcp, |_| {});
    let log = TheirLog::default();
    let directory = cluster.directory(1);
    let node = Node::builder(cluster.config(1)).log_store(log.kind()).start().await.unwrap();
    let other = |id| quorate::Member::voter(NodeId(id), format!("127.0.0.1:{id}"));
    let start = Start::Bootstrap { members: vec![node.member(), other(2), other(3)] };
    node.open_group(GROUP, start, Lines::default()).await.unwrap();
    node.shutdown().await;

    let unknown = inspect(&directory).unwrap_err();
    assert!(matches!(&unknown, OfflineError::UnknownLog(kind) if kind.name() == "theirs"), "{unknown}");
    let offline = Offline::at(&directory).log_store(log.kind());
    let found = offline.inspect().unwrap();
    assert_eq!((found.log_kind.name(), found.groups[0].membership.voters().count()), ("theirs", 3));
    offline.recover_cluster(GROUP, two_of_three_are_lost(), &RecoverOptions::default()).unwrap();
    let node = Node::builder(cluster.config(1)).log_store(log.kind()).start().await.unwrap();
    let raft = node.open_group(GROUP, Start::Resume, Lines::default()).await.unwrap();
    raft.wait_leader_ready(PATIENCE).await.unwrap();
    raft.apply("alone").await.unwrap();
    node.shutdown().await;
    cluster.shutdown().await;
}

#[cfg(feature = "redb")]
#[tokio::test]
async fn a_directory_with_a_redb_file_is_looked_at_and_recovered_like_any_other() {
    let cluster = Cluster::empty(Wire::Tcp, |_| {});
    let (directory, backup) = (cluster.directory(1), cluster.directory(1001));
    let redb = quorate::LogStoreKind::redb(quorate::RedbConfig::default());
    let node = Node::builder(cluster.config(1)).log_store(redb).start().await.unwrap();
    let other = |id| quorate::Member::voter(NodeId(id), format!("127.0.0.1:{id}"));
    let start = Start::Bootstrap { members: vec![node.member(), other(2), other(3)] };
    node.open_group(GROUP, start, Lines::default()).await.unwrap();
    node.shutdown().await;
    let before = everything(&directory);
    let found = inspect(&directory).unwrap();
    assert_eq!((found.log_kind.name(), found.groups[0].membership.voters().count()), ("redb", 3));
    let options = RecoverOptions { dry_run: true, backup: Some(backup.clone()) };
    let planned = recover_cluster(&directory, GROUP, two_of_three_are_lost(), &options).unwrap();
    assert!(everything(&directory) == before && !backup.exists(), "looking changes nothing");
    let options = RecoverOptions { dry_run: false, ..options };
    assert_eq!(recover_cluster(&directory, GROUP, two_of_three_are_lost(), &options).unwrap(), planned);
    assert_eq!(std::fs::read(backup.join("log/log.redb")).unwrap(), before[&directory.join("log/log.redb")]);
    assert_eq!(inspect(&directory).unwrap().groups[0].membership.voters().count(), 1);
}

/// Flips a bit of the entry that says `text`, in the log of a directory.
fn damage(directory: &Path, text: &str) {
    for entry in std::fs::read_dir(directory.join("wal")).unwrap() {
        let path = entry.unwrap().path();
        let mut content = std::fs::read(&path).unwrap();
        let place = content.windows(text.len()).position(|bytes| bytes == text.as_bytes());
        if let Some(at) = place {
            content[at + 1] ^= 1;
            return std::fs::write(&path, content).unwrap();
        }
    }
    panic!("{text} is nowhere in {}", directory.display());
}

/// One entry is damaged on every node: nobody has it, and nobody may lead, because nobody knows what else was
/// acknowledged. Whoever consents to lose it, and what is behind it, goes on with everything before it.
#[tokio::test]
async fn an_entry_that_is_damaged_everywhere_is_given_up_by_consent_only() {
    let mut cluster = Cluster::start(3, Wire::Tcp, |_| {}).await;
    cluster.apply_all((0..10).map(|n| format!("<number {n}>"))).await;
    for id in 1..=3 {
        cluster.caught_up(id).await;
    }
    let acknowledged = cluster.status(1).last;
    for id in 1..=3 {
        cluster.kill(id);
        damage(&cluster.directory(id), "<number 6>");
    }
    for id in 1..=3 {
        cluster.restart(id).await;
    }
    for id in 1..=3 {
        let asked = cluster.rafts[&id].within(std::time::Duration::from_millis(300)).apply("x").await;
        assert!(asked.is_err(), "{id}: {asked:?}");
        assert_ne!(cluster.status(id).role, RoleName::Leader);
        assert!(
            cluster.status(id).last < acknowledged,
            "{id} gave up what is damaged, and what is behind it"
        );
    }
    for id in 1..=3 {
        cluster.kill(id);
    }
    let directory = cluster.directory(1);
    recover_cluster(&directory, GROUP, two_of_three_are_lost(), &RecoverOptions::default()).unwrap();
    cluster.restart(1).await;
    cluster.apply_all(["after"]).await;
    let kept: String = (0..6).map(|n| format!("<number {n}>\n")).collect();
    assert_eq!(cluster.caught_up(1).await, format!("{kept}after\n"));
    cluster.shutdown().await;
}
