//! SIGSTOP: a leader that stands still, does not know it, and is asked the moment it goes on.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{eventually, let_pass, signal};
use crate::probes::{Answers, Asked, Probes};
use crate::scene::{Scene, rounds};

/// How long a leader stands still. Long after the others have replaced it and forgotten that it was slow.
const PAUSE: Duration = Duration::from_secs(30);

/// A leader is stopped for half a minute. The others replace it and overwrite what it knows; reads are waiting in its
/// sockets when it goes on, on old connections and new ones, and more follow. It answers none of them with what
/// was true when it was stopped.
#[test]
fn leader_that_stood_still_gives_no_stale_answers() {
    let mut scene = Scene::new("paused leader");
    let (mut pauses, mut answers) = (0, Answers::default());
    for round in 0..rounds(1) {
        let probes = Probes::write_old(&scene, round);
        let leader = scene.leader();
        let mut asked = probes.connect(&scene, leader);
        let pid = scene.cluster.node(leader).pid();
        signal(pid, Signal::STOP);
        let stopped = Instant::now();
        eventually("the kernel has stopped it", || is_stopped(pid).then_some(()));
        scene.cluster.wait_for_leader(Some(leader));
        probes.write(&scene, "new");
        scene.clients_go_on(500, "one node stands still");
        let_pass(PAUSE.saturating_sub(stopped.elapsed()));
        asked.extend(probes.connect(&scene, leader));
        asked.iter_mut().for_each(Asked::ask);
        assert!(is_stopped(pid), "{}: it went on by itself", scene.story);
        signal(pid, Signal::CONT);
        pauses += 1;
        let mut later = probes.connect(&scene, leader);
        for asked in asked {
            answers += asked.answer(&scene.story);
        }
        later.iter_mut().for_each(Asked::ask);
        for asked in later {
            answers += asked.answer(&scene.story);
        }
        scene.is_writable_again("a leader stood still");
    }
    eprintln!("{}: {pauses} pauses of {PAUSE:?}, reads at once: {answers:?}", scene.story);
    assert!(pauses > 0);
    scene.end();
}

/// The kernel says so. Linux only; elsewhere the signal is trusted.
fn is_stopped(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") T "))
}
