//! Entries of a log rot. The replica that acknowledged them gives no false witness: until its leader has filled
//! it up again it votes for nobody, and nobody gets elected who lacks what it had promised to keep.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::Path;
use std::time::Duration;

use quorate_core::{LogIndex, NodeId, RoleName};
use quorate_host::{Answer, Lane, RecoverError, Request, recover_group};
use quorate_storage::{Disk as _, LogStore as _, MemSnapshotStore};

use support::{Cluster, GROUP, Journal, propose, query, text};

/// A command with a text that is found in the log.
fn command(n: usize) -> String {
    format!("<command number {n}>")
}

/// Flips a bit in the text of a command in the log of a node.
fn rot(cluster: &Cluster, node: NodeId, n: usize) {
    let disk = cluster.nodes[&node].data.disk.clone().unwrap();
    let text = command(n);
    for name in disk.list(Path::new("wal")).unwrap() {
        let path = Path::new("wal").join(name);
        let mut contents = disk.contents(&path).unwrap();
        if let Some(at) = contents.windows(text.len()).position(|bytes| bytes == text.as_bytes()) {
            contents[at + 5] ^= 1;
            disk.overwrite(&path, contents);
            return;
        }
    }
    panic!("{text} is in no segment of {node:?}");
}

fn on_wals(nodes: u64, change: impl FnOnce(&mut Cluster)) -> Cluster {
    Cluster::with(nodes, |cluster| {
        cluster.wal = true;
        change(cluster);
    })
}

/// Proposes commands and waits for them.
fn write(cluster: &mut Cluster, numbers: std::ops::RangeInclusive<usize>) {
    for n in numbers {
        let leader = cluster.leader();
        cluster.request(leader, propose(&command(n))).unwrap();
    }
}

fn count(cluster: &mut Cluster, node: NodeId) -> String {
    let answer = cluster.request(node, query());
    text(answer)
}

fn others(cluster: &Cluster, leader: NodeId) -> [NodeId; 2] {
    let found: Vec<NodeId> = cluster.nodes.keys().copied().filter(|node| *node != leader).collect();
    [found[0], found[1]]
}

fn nobody_leads(cluster: &mut Cluster, millis: u64, among: &[NodeId]) {
    for _ in 0..millis / 50 {
        cluster.pass(50);
        for node in among {
            assert_ne!(cluster.status(*node).role, RoleName::Leader, "{node:?} leads");
        }
    }
}

/// One of the two that acknowledged a command loses it; the other one is away; the third never had it. If the one
/// that lost it voted, the third would lead, and the command would be gone.
#[test]
fn replica_that_lost_an_entry_gives_no_vote_to_one_that_never_had_it() {
    let mut cluster = on_wals(3, |_| {});
    write(&mut cluster, 0..=2);
    let leader = cluster.leader();
    let [loser, laggard] = others(&cluster, leader);
    cluster.cut = vec![laggard];
    write(&mut cluster, 3..=3);
    cluster.cut = vec![leader];
    rot(&cluster, loser, 3);
    cluster.restart(loser);
    let last = cluster.status(loser).last.index;
    assert_eq!(
        last,
        cluster.status(laggard).last.index,
        "what is left of it is no longer than the laggard's log"
    );
    nobody_leads(&mut cluster, 15_000, &[loser, laggard]);
    // It does not remember less after another restart, with the cut behind it.
    cluster.restart(loser);
    assert_eq!(cluster.status(loser).last.index, last);
    nobody_leads(&mut cluster, 15_000, &[loser, laggard]);

    // With one that has it all, it is filled up, and is a voter like any other.
    cluster.cut.clear();
    write(&mut cluster, 4..=4);
    cluster.pass(2000);
    let leader = cluster.leader();
    assert_eq!(cluster.status(loser).last, cluster.status(leader).last);
    cluster.cut = vec![if leader == laggard { others(&cluster, laggard)[0] } else { leader }];
    let leader = cluster.leader();
    assert_eq!(count(&mut cluster, leader), "5", "nothing that was acknowledged is gone");
    assert!(cluster.stopped.is_empty(), "{:?}", cluster.stopped);
}

/// It crashes again when some of what it lost has come back, and the leader is gone.
#[test]
fn replica_that_was_filled_up_half_way_still_knows_what_it_lost() {
    let mut cluster = on_wals(3, |cluster| {
        // One entry at a time.
        cluster.config.core.append_bytes_max = 1;
        cluster.config.core.inflight_messages_max = 1;
    });
    let leader = cluster.leader();
    let [loser, laggard] = others(&cluster, leader);
    cluster.cut = vec![laggard];
    write(&mut cluster, 0..=9);
    cluster.pass(1000);
    let end = cluster.status(loser).last.index;
    rot(&cluster, loser, 2);
    cluster.restart(loser);
    let cut_at = cluster.status(loser).last.index;
    // Some entries get through, then nothing any more.
    let mut appends = 0;
    cluster.loses = Some(Box::new(move |outbound| {
        appends += u32::from(outbound.lane == Lane::Append && outbound.to == loser);
        appends > 4 && outbound.to == loser
    }));
    cluster.pass(3000);
    cluster.loses = None;
    cluster.cut = vec![leader];
    cluster.restart(loser);
    let state = cluster.log(loser).groups().remove(0);
    assert!(cut_at < state.last && state.last < end, "half way: {} < {} < {end}", cut_at, state.last);
    assert_eq!(state.lost_until, end);
    nobody_leads(&mut cluster, 10_000, &[loser, laggard]);
}

/// Its group is at rest when it starts again. It may not campaign, which is how others wake their
/// leader: it is filled up without anybody having written.
#[test]
fn replica_that_lost_entries_of_a_group_at_rest_wakes_its_leader() {
    let mut cluster =
        on_wals(3, |cluster| cluster.config.core.quiesce_after = Some(Duration::from_millis(500)));
    write(&mut cluster, 0..=9);
    let leader = cluster.leader();
    let [loser, _] = others(&cluster, leader);
    cluster.pass(5000);
    let end = cluster.status(leader).last;
    let rests = |cluster: &Cluster| cluster.nodes[&leader].host.core_status(GROUP).unwrap().quiescent;
    assert!(rests(&cluster));
    rot(&cluster, loser, 7);
    cluster.restart(loser);
    assert!(cluster.status(loser).last < end, "it lost entries");
    cluster.pass(10_000);
    assert_eq!((cluster.status(loser).last, cluster.status(loser).applied), (end, end.index));
    assert!(rests(&cluster), "and the group rests again");
}

/// A snapshot covers the damage: nothing is lost, and the replica votes at once.
#[test]
fn damage_below_a_snapshot_costs_nothing() {
    let mut cluster = on_wals(3, |cluster| cluster.config.snapshots.trailing_entries = 15);
    write(&mut cluster, 0..=24);
    cluster.pass(1000);
    let leader = cluster.leader();
    let [loser, other] = others(&cluster, leader);
    let (before, snapshot) = (cluster.status(loser), cluster.status(loser).snapshot.index);
    assert!(before.compacted.index < LogIndex(12) && snapshot > LogIndex(15), "{before:?}");
    rot(&cluster, loser, 12);
    cluster.restart(loser);
    let after = cluster.status(loser);
    assert_eq!((after.compacted.index, after.last), (snapshot, before.last));
    cluster.cut = vec![leader];
    let leader = cluster.leader();
    assert!([loser, other].contains(&leader), "two of three, one of them with a damaged log");
    assert_eq!(count(&mut cluster, leader), "25");
}

/// Nobody else has it: the replica does not start, and says where the damage is and what to do.
#[test]
fn only_voter_with_a_damaged_log_does_not_start() {
    let mut cluster = on_wals(1, |_| {});
    write(&mut cluster, 0..=5);
    let node = NodeId(1);
    rot(&cluster, node, 3);
    let data = cluster.nodes.remove(&node).unwrap().data;
    cluster.nodes.clear();
    let before = data.disk.as_ref().unwrap().copy();
    let store = quorate_storage::Wal::open(
        std::sync::Arc::new(before),
        Path::new("wal"),
        quorate_storage::WalConfig { segment_bytes: 16 << 10, ..Default::default() },
    )
    .unwrap();
    let state = store.groups().remove(0);
    let machine = Box::new(Journal::default());
    let error = recover_group(&state, &MemSnapshotStore::new(), machine).unwrap_err();
    let RecoverError::Damaged(damaged) = &error else { panic!("{error}") };
    assert_eq!((damaged.group, damaged.first), (GROUP, damaged.last));
    let said = error.to_string();
    for part in ["wal/0000000000000001.wal: damaged at byte", "only voter", "backup"] {
        assert!(said.contains(part), "{said}");
    }
}

/// An entry rots under a running leader, which finds it when a laggard needs it: the replica stops and says why,
/// another one leads. Opened again, without a restart of the process, it is filled up.
#[test]
fn damage_found_by_a_running_replica_stops_it_until_it_is_opened_again() {
    let mut cluster = on_wals(3, |cluster| {
        cluster.config.core.window_bytes_max = 1;
        cluster.config.snapshots.entries = 0;
    });
    write(&mut cluster, 0..=2);
    let leader = cluster.leader();
    let [other, laggard] = others(&cluster, leader);
    cluster.cut = vec![laggard];
    write(&mut cluster, 3..=9);
    rot(&cluster, leader, 5);
    cluster.cut.clear();
    for _ in 0..200 {
        cluster.pass(50);
        if !cluster.stopped.is_empty() {
            break;
        }
    }
    let (node, _, reason) = cluster.stopped.remove(0);
    assert!(node == leader && reason.contains("damaged at byte"), "{reason}");
    let next = cluster.leader();
    assert_eq!(next, other, "the laggard has not got it all");
    cluster.open_group_again(leader).unwrap();
    write(&mut cluster, 10..=10);
    cluster.pass(3000);
    assert_eq!(cluster.status(leader).last, cluster.status(next).last);
    cluster.cut = vec![next];
    let last = cluster.leader();
    assert_eq!(count(&mut cluster, last), "11");
    assert!(cluster.stopped.is_empty(), "{:?}", cluster.stopped);
}

/// A machine on disk has applied what its log has lost: it comes again, is passed over, and everything goes on,
/// snapshots too.
#[test]
fn machine_on_disk_that_is_ahead_of_its_damaged_log_applies_nothing_twice() {
    let mut cluster = on_wals(3, |cluster| cluster.durable = true);
    write(&mut cluster, 0..=9);
    cluster.pass(1000);
    let leader = cluster.leader();
    let [loser, _] = others(&cluster, leader);
    rot(&cluster, loser, 4);
    cluster.restart(loser);
    cluster.pass(50);
    cluster.ask(loser, Request::TakeSnapshot);
    cluster.pass(2000);
    write(&mut cluster, 10..=11);
    cluster.pass(1000);
    let stored = cluster.nodes[&loser].data.journal.clone().unwrap().lock().unwrap().commands.clone();
    assert_eq!(stored, (0..=11).map(command).collect::<Vec<_>>());
    let taken = cluster.request(loser, Request::TakeSnapshot);
    assert!(matches!(taken, Ok(Answer::SnapshotTaken { .. })), "{taken:?}");
    assert!(cluster.stopped.is_empty(), "{:?}", cluster.stopped);
}

/// Two of three lose entries, each another one, and nobody can know what was acknowledged: nobody leads, and nothing is
/// given out. The disk of one of them comes back from its backup, and everything is there again.
#[test]
fn majority_that_lost_different_entries_waits_for_one_that_is_whole_again() {
    let mut cluster = on_wals(3, |_| {});
    write(&mut cluster, 0..=5);
    cluster.pass(1000);
    let leader = cluster.leader();
    let [one, other] = others(&cluster, leader);
    let backup = cluster.nodes[&one].data.disk.as_ref().unwrap().copy();
    rot(&cluster, one, 2);
    rot(&cluster, other, 4);
    for node in [one, other, leader] {
        cluster.restart(node);
    }
    let all = [one, other, leader];
    nobody_leads(&mut cluster, 15_000, &all);
    assert!(cluster.status(one).last.index < cluster.status(other).last.index, "each lost what it lost");
    let asked = cluster.ask(leader, query());
    cluster.pass(5_000);
    assert!(cluster.reply(asked).is_err(), "nobody can say what was acknowledged");

    cluster.nodes.get_mut(&one).unwrap().data.disk = Some(backup);
    cluster.restart(one);
    write(&mut cluster, 6..=6);
    cluster.pass(2_000);
    for node in all {
        assert_eq!(cluster.status(node).last, cluster.status(leader).last);
    }
    let leader = cluster.leader();
    assert_eq!(count(&mut cluster, leader), "7", "nothing that was acknowledged is gone");
    assert!(cluster.stopped.is_empty(), "{:?}", cluster.stopped);
}
