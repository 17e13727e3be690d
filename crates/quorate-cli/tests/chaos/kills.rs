//! SIGKILL: one node after the other, and all at once.

use std::time::{Duration, Instant};

use crate::harness::ELECTION_TIMEOUT;
use crate::scene::{Scene, rounds};

/// Kill any node at any moment, often the leader, sometimes all of them, and start it again: no acknowledged write
/// is lost, and what concurrent clients saw can be explained by one order of their operations.
#[test]
fn kill_storm_loses_nothing_that_was_acknowledged() {
    let mut scene = Scene::new("kill storm");
    let (mut single, mut all_at_once) = (0, 0);
    let mut replaced: Vec<Duration> = Vec::new();
    for round in 0..rounds(8) {
        let answers = 60 + scene.dice.throw(200);
        scene.clients_go_on(answers, "all is well");
        if round % 4 == 3 {
            for node in 1..=3 {
                scene.cluster.take(node).kill();
            }
            for node in 1..=3 {
                scene.cluster.restart(node);
            }
            all_at_once += 1;
            scene.is_writable_again("all were killed at once");
            continue;
        }
        let leader = scene.leader();
        let victim = if scene.dice.throw(3) < 2 { leader } else { 1 + scene.dice.throw(3) };
        let begun = Instant::now();
        scene.cluster.take(victim).kill();
        if victim == leader {
            scene.cluster.wait_for_leader(Some(victim));
            replaced.push(begun.elapsed());
        }
        // Sometimes at once, sometimes when the others have gone on without it.
        if scene.dice.throw(2) == 0 {
            scene.clients_go_on(100, "one node is gone");
        }
        scene.cluster.restart(victim);
        single += 1;
    }
    assert!(single >= 6 && all_at_once >= 2, "{single} nodes killed alone, {all_at_once} times all");
    replaced.sort();
    eprintln!(
        "{}: {single} kills of one, {all_at_once} of all; leaders replaced after {replaced:?}",
        scene.story
    );
    // A timeout is drawn from T to 2T; a split vote costs another one, and a busy machine some more.
    let late = replaced.iter().filter(|time| **time > 6 * ELECTION_TIMEOUT).count();
    assert!(
        late * 4 <= replaced.len(),
        "{late} of {} leaders were replaced late: {replaced:?}",
        replaced.len()
    );
    scene.end();
}
