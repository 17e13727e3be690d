//! Limits that an operator changes while the replica runs (`RawNode::set_limits`).

use bytes::Bytes;
use quorate_core::{Config, Ready, ReplicaId};

use crate::group::Group;

const COMMAND_BYTES: usize = 1000;

/// Proposes `commands` on the only voter, whose disk is quick and whose state machine has not answered yet.
/// Returns how many it gets to apply.
fn handed_out(group: &mut Group, commands: usize) -> usize {
    let now = group.now();
    let core = group.core(1);
    for _ in 0..commands {
        core.propose(now, Bytes::from(vec![7; COMMAND_BYTES])).unwrap();
    }
    let (mut ready, mut handed) = (Ready::default(), 0);
    while core.ready_into(&mut ready) {
        if let Some(persist) = ready.persist.take() {
            core.on_persisted(now, persist.token);
        }
        handed += ready.apply.len();
    }
    handed
}

/// `apply_bytes_max` was read when the replica started and never again: an operator whose state machine
/// fell behind could lower it, was told that it was done, and nothing changed.
#[test]
fn a_lower_limit_of_what_is_to_apply_holds_at_once() {
    let mut group = Group::new(1);
    group.elect();
    let lower = Config { apply_bytes_max: 2 * COMMAND_BYTES as u64, ..Config::new(ReplicaId(1)) };
    group.core(1).set_limits(&lower).unwrap();
    assert_eq!(handed_out(&mut group, 5), 1);
}

#[test]
fn a_higher_limit_of_what_is_to_apply_lets_out_what_waits() {
    let limit = |commands: usize| Config {
        apply_bytes_max: (commands * 2 * COMMAND_BYTES) as u64,
        ..Config::new(ReplicaId(1))
    };
    let mut group = Group::with(1, |config| config.apply_bytes_max = limit(1).apply_bytes_max);
    group.elect();
    assert_eq!(handed_out(&mut group, 5), 1);
    group.core(1).set_limits(&limit(5)).unwrap();
    assert!(group.core(1).has_ready());
    assert_eq!(handed_out(&mut group, 0), 4);
}
