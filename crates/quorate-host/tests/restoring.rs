//! The pieces of a state from outside are replicated state: they outlive snapshots and restarts, and are installed as a whole.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use quorate_core::NodeId;
use quorate_host::{Answer, Request, RequestError};
use support::{Cluster, propose, query, text};

const CONTENT: &[u8] = b"one\ntwo\nthree\n";

fn piece(restore: u64, range: std::ops::Range<usize>) -> Request {
    let (offset, data) = (range.start as u64, Bytes::from_static(&CONTENT[range]));
    Request::RestorePiece { restore, offset, data }
}

fn install(restore: u64) -> Request {
    // The CRC-32C of CONTENT.
    Request::RestoreInstall { restore, bytes: CONTENT.len() as u64, crc: crc32c::crc32c(CONTENT) }
}

fn applied(answer: &Result<Answer, RequestError>) -> bool {
    matches!(answer, Ok(Answer::Applied { .. }))
}

/// Half of it is there when everybody is restarted, one from a snapshot that was taken in between.
#[test]
fn pieces_outlive_snapshots_and_restarts_and_are_installed_everywhere() {
    for durable in [false, true] {
        let mut cluster = Cluster::with(3, |cluster| cluster.durable = durable);
        let leader = cluster.leader();
        cluster.request(leader, propose("old")).unwrap();
        assert!(applied(&cluster.request(leader, piece(7, 0..4))));
        for n in 0..50 {
            cluster.request(leader, propose(&n.to_string())).unwrap();
        }
        cluster.pass(500);
        for n in 1..=3 {
            cluster.restart(NodeId(n));
        }
        let leader = cluster.leader();
        for range in [4..9, 4..9, 0..4, 9..14] {
            let taken = cluster.request(leader, piece(7, range.clone()));
            assert!(applied(&taken), "{range:?}: {taken:?}");
        }
        assert_eq!(text(cluster.request(leader, query())), "51");
        assert!(applied(&cluster.request(leader, install(7))));
        assert_eq!(text(cluster.request(leader, query())), "3");
        cluster.pass(500);
        let again = cluster.request(leader, install(7));
        assert!(matches!(again, Err(RequestError::Snapshot { .. })), "{again:?}");
        for n in 1..=3 {
            cluster.restart(NodeId(n));
        }
        cluster.leader();
        cluster.pass(500);
        for n in 1..=3 {
            assert_eq!(text(cluster.request(NodeId(n), query())), "3", "node {n}, durable: {durable}");
        }
        assert!(cluster.stopped.is_empty(), "{:?}", cluster.stopped);
    }
}

/// The entry that installs a state is the last of its batch, and moves the clock.
#[test]
fn a_machine_on_disk_starts_again_right_after_a_state_was_installed() {
    let mut cluster = Cluster::with(1, |cluster| cluster.durable = true);
    let leader = cluster.leader();
    assert!(applied(&cluster.request(leader, piece(7, 0..14))));
    cluster.pass(500);
    assert!(applied(&cluster.request(leader, install(7))));
    cluster.restart(leader);
    assert_eq!(cluster.leader(), leader);
    assert_eq!(text(cluster.request(leader, query())), "3");
    assert!(cluster.stopped.is_empty(), "{:?}", cluster.stopped);
}

#[test]
fn a_gap_another_state_and_a_long_silence_end_it_and_nothing_changes() {
    let mut cluster = Cluster::with(1, |cluster| {
        cluster.config.sessions.idle_max = Duration::from_secs(60);
        cluster.config.sessions.restore_bytes_max = 20;
    });
    let leader = cluster.leader();
    cluster.request(leader, propose("old")).unwrap();
    let refused = |answer: Result<Answer, RequestError>| {
        assert!(matches!(answer, Err(RequestError::Snapshot { .. })), "{answer:?}");
    };
    refused(cluster.request(leader, piece(1, 4..9)));
    assert!(applied(&cluster.request(leader, piece(1, 0..4))));
    refused(cluster.request(leader, piece(1, 9..14)));
    refused(cluster.request(leader, install(1)));
    assert!(applied(&cluster.request(leader, piece(2, 0..14))));
    refused(cluster.request(leader, piece(1, 4..9)));
    let beyond = Request::RestorePiece { restore: 2, offset: 14, data: Bytes::from_static(b"seven b") };
    let large = cluster.request(leader, beyond);
    assert_eq!(large, Err(RequestError::TooLarge { bytes: 21, bytes_max: 20 }));
    cluster.pass(70_000);
    cluster.request(leader, propose("a while later")).unwrap();
    refused(cluster.request(leader, install(2)));
    assert_eq!(text(cluster.request(leader, query())), "2");
}
