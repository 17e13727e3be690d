//! Data directories without their nodes.

use std::collections::{BTreeMap, BTreeSet};

use quorate::{
    ClusterId, ForcedRecovery, NodeId, OfflineError, RecoverOptions, RecoveryRefused, ReplicaId,
    RequestError, RoleName, Start, has_existing_state, inspect, recover_cluster,
};

use crate::harness::{Cluster, GROUP, PATIENCE, Wire, lines, numbers};

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
    assert!(has_existing_state(&directory).unwrap());
    let found = inspect(&directory).unwrap();
    assert_eq!((found.cluster, found.node, found.groups.len()), (ClusterId(77), NodeId(1), 1));
    let group = &found.groups[0];
    assert_eq!((group.group, group.replica, group.last), (GROUP, ReplicaId(1), last));
    assert_eq!(group.membership.voters().collect::<Vec<_>>(), [ReplicaId(1)]);
    assert_eq!(group.snapshots.iter().map(|found| found.meta.last).collect::<Vec<_>>(), [snapshot]);
    // Looking has changed nothing.
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
    let asked = ForcedRecovery {
        survivor: ReplicaId(1),
        lost: BTreeSet::from([ReplicaId(2), ReplicaId(3)]),
        left_out: BTreeMap::new(),
        accept_more_loss: false,
    };
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

    assert_eq!(recover(&asked, for_good.clone()).unwrap(), planned);
    assert!(backup.read_dir().unwrap().count() > 0);
    let twice = recover(&asked, for_good).unwrap_err();
    assert!(matches!(twice, OfflineError::Backup { .. }), "an older backup is not overwritten: {twice}");

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
