//! A group's state replaced by one from outside.

use std::io::Read as _;

use quorate::{Dedupe, ExternalState, NodeId, RequestError, RestoreError};

use crate::harness::{Cluster, Lines, PATIENCE, Wire, lines, memory, numbers};

/// A backup of this morning, brought back in the evening: all replicas have it, also one that was away, and after restarts.
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
    let leader = cluster.leader().await;
    let raft = cluster.rafts[&leader].within(PATIENCE);
    let text = || std::io::Cursor::new(b"from outside, in several pieces\n".to_vec());
    let wrong = raft.restore(ExternalState::new(text()).with_crc32c(1)).await.unwrap_err();
    assert!(matches!(wrong, RestoreError::Checksum { expected: 1, .. }), "{wrong:?}");
    let large = raft.restore(ExternalState::new(std::io::repeat(b'x'))).await.unwrap_err();
    assert!(matches!(large, RestoreError::TooLarge { bytes_max: 100 }), "{large:?}");
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let elsewhere = cluster.rafts[&follower].restore(ExternalState::new(text())).await.unwrap_err();
    assert!(matches!(elsewhere, RestoreError::NotBroughtIn(RequestError::NotLeader { .. })), "{elsewhere:?}");
    // The leader is cut off in the middle: it cannot tell, but nothing of it is in effect.
    let Wire::Memory(network) = &cluster.wire else { unreachable!() };
    network.isolate(NodeId(leader));
    let lost = raft.within(ELECTION).restore(ExternalState::new(text())).await.unwrap_err();
    assert!(matches!(lost, RestoreError::NotBroughtIn(_)), "{lost:?}");
    network.heal();
    for id in 1..=3 {
        assert_eq!(cluster.caught_up(id).await, lines(0..3));
    }
    let now = cluster.leader().await;
    let state = ExternalState::new(std::io::empty()).tried_on(Lines::default());
    let emptied = cluster.rafts[&now].restore(state).await;
    assert!(emptied.as_ref().is_ok_and(|at| at.index.0 > 3), "{emptied:?}");
    assert_eq!(cluster.content(now).await, "");
    cluster.shutdown().await;
}

const ELECTION: std::time::Duration = std::time::Duration::from_millis(200);
