//! Wires that lie: slow, lossy, garbling, torn.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::harness::eventually;
use crate::scene::{Scene, rounds};
use crate::wires::Condition;

/// Bytes between nodes come late, are left out, are changed, and connections are torn in the middle of a
/// frame. Every node lives through it: it ends the connection and takes nothing for what it is not.
#[test]
fn noise_on_the_wires_is_noticed_and_survived() {
    let (mut scene, wires) = Scene::with_wires("noisy wires");
    for round in 0..rounds(6) {
        for from in 1..=3 {
            for to in (1..=3).filter(|to| *to != from) {
                let dice = &mut scene.dice;
                let condition = Condition {
                    cut: false,
                    delay_max: Duration::from_millis(dice.choose(&[0, 5, 20, 60])),
                    dropped: dice.choose(&[1, 4, 10]),
                    garbled: dice.choose(&[1, 4, 10]),
                    torn: dice.choose(&[1, 4, 10]),
                };
                wires.set([(from, to)], condition);
            }
        }
        // Every other round has everything everywhere.
        if round % 2 == 1 {
            let all = (1..=3).flat_map(|from| (1..=3).map(move |to| (from, to)));
            let delay_max = Duration::from_millis(20);
            wires.set(all, Condition { cut: false, delay_max, dropped: 5, garbled: 5, torn: 5 });
        }
        // How much is answered meanwhile depends on luck and the machine; that there was noise does not.
        let before = wires.counts.broken();
        eventually("the wires break things", || (wires.counts.broken() >= before + 6).then_some(()));
        wires.heal();
        scene.is_writable_again("noise");
        scene.clients_go_on(200, "the wires are silent");
        for node in 1..=3 {
            assert_eq!(scene.cluster.node(node).ended(), None, "{}: node {node} ended", scene.story);
        }
    }
    let counts = &wires.counts;
    eprintln!("{}: {counts:?}", scene.story);
    for (what, count) in [
        ("delayed", &counts.delayed),
        ("dropped", &counts.dropped),
        ("garbled", &counts.garbled),
        ("torn", &counts.torn),
    ] {
        assert!(count.load(Ordering::Relaxed) > 0, "{}: nothing was {what}: {counts:?}", scene.story);
    }
    scene.end();
}
