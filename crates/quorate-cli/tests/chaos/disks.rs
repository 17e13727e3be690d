//! Disks that are full, that fail to sync, and that take their time: real ones, as the kernel tells it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::harness::{Cluster, Ports, eventually, let_pass, signal, wait};
use crate::optional::{is_alone, is_wanted, skipped, system};
use crate::scene::{Scene, long_enough, rounds};

/// How large a node's disk is. A log and an engine that begin need about a third of it.
const DISK_MEGABYTES: u64 = 256;
/// The program's exit code when its disk failed.
const DISK_FAILED: i32 = 11;

/// Takes all the space there is, until it is dropped.
struct Filler {
    path: PathBuf,
    bytes: u64,
}

impl Filler {
    /// Fills the disk on which `directory` is, to the last byte.
    fn fill(directory: &Path) -> Self {
        let path = directory.join("filler");
        let mut file = File::create(&path).unwrap();
        let (mut bytes, mut size) = (0, 1 << 20);
        while size > 0 {
            match file.write(&vec![0; size]) {
                Ok(written) => bytes += u64::try_from(written).unwrap(),
                Err(_) => size /= 2,
            }
        }
        Self { path, bytes }
    }

    /// Takes what became free meanwhile.
    fn fill_up(&mut self) {
        let mut file = File::options().append(true).open(&self.path).unwrap();
        while let Ok(written) = file.write(&[0; 4096]) {
            self.bytes += u64::try_from(written).unwrap();
        }
    }
}

impl Filler {
    /// Fills the disk until so much is left.
    fn leave(directory: &Path, bytes: u64) -> Self {
        let path = directory.join("filler");
        let mut file = File::create(&path).unwrap();
        let mut filled = 0;
        while free_bytes(directory) > bytes + (1 << 20) {
            file.write_all(&vec![0; 1 << 20]).unwrap();
            filled += 1 << 20;
        }
        Self { path, bytes: filled }
    }
}

fn free_bytes(directory: &Path) -> u64 {
    let found = rustix::fs::statvfs(directory).unwrap();
    found.f_bavail * found.f_frsize
}

impl Drop for Filler {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

/// The disk of one node is full, then that of another, then all. What was acknowledged stays; the others go on as long
/// as they are a majority; and once there is space, everybody does, started again if it had to stop.
#[test]
fn full_disks_lose_nothing_and_go_on_when_there_is_space() {
    const NAME: &str = "disks::full_disks_lose_nothing_and_go_on_when_there_is_space";
    if !is_alone(NAME) {
        return;
    }
    let Some((mut scene, disks)) = small_disks(NAME, "full disks") else { return };
    let (mut filled, mut stopped, mut all_full) = (0, 0, 0);
    for round in 0..rounds(6) {
        let victims = victims(&mut scene, round);
        scene.clients_go_on(100, "there is space");
        let mut fillers: Vec<Filler> =
            victims.iter().map(|node| Filler::fill(&disks[usize::try_from(*node - 1).unwrap()])).collect();
        filled += fillers.len();
        if victims.len() < 3 {
            scene.clients_go_on(150, "one disk is full");
        } else {
            let_pass(long_enough());
            all_full += 1;
        }
        for filler in &mut fillers {
            filler.fill_up();
            assert!(filler.bytes > 1 << 20, "the disk had {} bytes left", filler.bytes);
        }
        drop(fillers);
        for node in victims {
            if scene.cluster.node(node).ended().is_some() {
                drop(scene.cluster.take(node));
                scene.cluster.restart(node);
                stopped += 1;
            }
        }
        scene.is_writable_again("a full disk");
    }
    eprintln!("{}: {filled} disks filled, {all_full} times all; {stopped} nodes stopped", scene.story);
    assert!(filled >= 10 && all_full >= 2, "{filled} {all_full}");
    scene.end();
}

/// A cluster whose nodes have small disks of their own.
fn small_disks(name: &str, story: &str) -> Option<(Scene, Vec<PathBuf>)> {
    let cluster = Cluster::at(Ports::of_hosts(|_| "127.0.0.1".to_owned()));
    let disk = |node: u64| cluster.scratch.path().join(format!("d{node}"));
    let disks: Vec<PathBuf> = (1..=3).map(disk).collect();
    for disk in &disks {
        std::fs::create_dir(disk).unwrap();
        let mounted = system(&format!("mount -t tmpfs -o size={DISK_MEGABYTES}m none {}", disk.display()));
        if let Err(why) = mounted {
            skipped(name, &why);
            return None;
        }
    }
    system("ip link set lo up").unwrap();
    let addresses = (1..=3).map(|node| (node, cluster.ports.peer(node))).collect();
    Some((Scene::of(story, cluster, &addresses), disks))
}

/// Disks run low, and something is left: of one node, then of all. Nobody stops, nobody has to be started
/// again, and once there is space writes are taken by themselves.
#[test]
fn disks_that_run_low_stop_nobody_and_go_on_by_themselves() {
    const NAME: &str = "disks::disks_that_run_low_stop_nobody_and_go_on_by_themselves";
    if !is_alone(NAME) {
        return;
    }
    // By default a sixteenth of such a disk is left.
    const LEFT_BYTES: u64 = (DISK_MEGABYTES << 20) / 16 / 2;
    let Some((mut scene, disks)) = small_disks(NAME, "disks run low") else { return };
    let mut all_low = 0;
    for round in 0..rounds(3) {
        let victims = victims(&mut scene, round);
        scene.clients_go_on(100, "there is space");
        let disk = |node: &u64| &disks[usize::try_from(*node - 1).unwrap()];
        let fillers: Vec<Filler> = victims.iter().map(|node| Filler::leave(disk(node), LEFT_BYTES)).collect();
        if victims.len() < 3 {
            scene.clients_go_on(150, "one disk is low");
        } else {
            // Clients see refusals; what was taken before is applied everywhere.
            eventually("every node says that its disk is full", || {
                (1..=3).all(|node| says_full(&scene, node)).then_some(())
            });
            let answered = scene.answered();
            let_pass(long_enough());
            eprintln!("{}: {} answers with all disks low", scene.story, scene.answered() - answered);
            all_low += 1;
        }
        for node in &victims {
            assert_eq!(scene.cluster.node(*node).ended(), None, "{}: node {node} goes on", scene.story);
        }
        drop(fillers);
        scene.is_writable_again("a disk that was low");
    }
    assert!(all_low >= 1);
    scene.end();
}

/// What a node's metrics say of the disk of its log.
fn says_full(scene: &Scene, node: u64) -> bool {
    let url = format!("http://{}/metrics", scene.cluster.ports.client(node));
    let text = ureq::get(&url).call().ok().and_then(|mut answer| answer.body_mut().read_to_string().ok());
    text.is_some_and(|text| text.contains("quorate_log_disk{state=\"full\"} 1"))
}

/// `strace`, which makes system calls of a running node fail or wait.
struct Interference {
    strace: Child,
    log: PathBuf,
}

impl Interference {
    /// Attaches to a process. `what` is said to be done with every sync of a file.
    fn attach(pid: u32, what: &str, log: PathBuf) -> Self {
        drop(std::fs::remove_file(&log));
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range", "-e"])
            .arg(format!("inject=fsync,fdatasync,sync_file_range:{what}"))
            .arg("-o")
            .arg(&log)
            .args(["-p", &pid.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { strace, log }
    }

    /// How many calls were interfered with so far.
    fn count(&self) -> usize {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter(|line| line.contains("INJECTED") || line.contains("DELAYED")).count()
    }

    /// Lets the process go on undisturbed.
    fn detach(mut self) {
        signal(self.strace.id(), Signal::INT);
        wait(&mut self.strace);
    }
}

impl Drop for Interference {
    fn drop(&mut self) {
        drop(self.strace.kill());
        drop(self.strace.wait());
    }
}

/// Whether `strace` is there and may attach to processes.
fn can_interfere() -> bool {
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    let log = std::env::temp_dir().join(format!("quorate-strace-{}", std::process::id()));
    let strace = Command::new("strace")
        .args(["-qq", "-o", &log.display().to_string(), "-p", &sleeper.id().to_string()])
        .stderr(Stdio::null())
        .spawn();
    let mut can = false;
    if let Ok(mut strace) = strace {
        can = eventually("strace attaches, or ends", || {
            let status =
                std::fs::read_to_string(format!("/proc/{}/status", sleeper.id())).unwrap_or_default();
            let attached =
                status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
            let ended = strace.try_wait().unwrap().is_some();
            (attached || ended).then_some(attached)
        });
        drop(strace.kill());
        drop(strace.wait());
    }
    drop(sleeper.kill());
    drop(sleeper.wait());
    drop(std::fs::remove_file(log));
    can
}

/// A sync fails: the node stops and does not try again, for it cannot know what is on the disk. A sync that
/// takes its time stops nobody. Whoever stopped is started again, and nothing that was acknowledged is
/// missing.
#[test]
fn failing_and_slow_syncs_stop_who_cannot_promise_and_lose_nothing() {
    const NAME: &str = "disks::failing_and_slow_syncs_stop_who_cannot_promise_and_lose_nothing";
    if !is_wanted(NAME) {
        return;
    }
    if !can_interfere() {
        return skipped(NAME, "there is no strace here that may attach to processes");
    }
    let mut scene = Scene::new("failing syncs");
    let (mut failures, mut stops, mut delays) = (0, 0, 0);
    for round in 0..rounds(6) {
        let victims = victims(&mut scene, round);
        for node in &victims {
            delays += slow_down(&mut scene, *node);
        }
        let (failed, stopped) = fail(&mut scene, &victims, if round % 6 < 3 { "" } else { "+" });
        failures += failed;
        stops += stopped;
        if victims.len() == 1 {
            scene.clients_go_on(100, "one node has stopped");
        }
        for node in victims {
            scene.cluster.restart(node);
        }
        scene.is_writable_again("failed syncs");
    }
    eprintln!("{}: {failures} syncs failed, {stops} nodes stopped, {delays} syncs were slow", scene.story);
    assert!(failures >= stops && stops >= 8 && delays >= 30, "{failures} {stops} {delays}");
    scene.end();
}

/// The leader, a follower, all.
fn victims(scene: &mut Scene, round: u64) -> Vec<u64> {
    let leader = scene.leader();
    let followers = scene.followers(leader);
    match round % 3 {
        0 => vec![leader],
        1 => vec![scene.dice.choose(&followers)],
        _ => vec![1, 2, 3],
    }
}

fn syncs_log(scene: &Scene, node: u64) -> PathBuf {
    scene.cluster.scratch.path().join(format!("syncs{node}"))
}

/// Some syncs of `node` take their time, which stops nobody. Says how many.
fn slow_down(scene: &mut Scene, node: u64) -> usize {
    let log = syncs_log(scene, node);
    let slow = Interference::attach(scene.cluster.node(node).pid(), "delay_enter=50000", log);
    eventually("syncs are slow", || (slow.count() >= 3).then_some(()));
    assert_eq!(scene.cluster.node(node).ended(), None, "{}: slow is not failed", scene.story);
    let count = slow.count();
    slow.detach();
    count
}

/// Syncs of all these nodes fail, until they stop: one of every thread, or all from some on. Who tried a
/// failed one again might succeed, and would not know what is on the disk. Says how many syncs failed, and
/// how many nodes stopped.
fn fail(scene: &mut Scene, victims: &[u64], and_later: &str) -> (usize, usize) {
    let first = 1 + scene.dice.throw(30);
    let mut failing = BTreeMap::new();
    for node in victims {
        let (pid, log) = (scene.cluster.node(*node).pid(), syncs_log(scene, *node));
        failing.insert(*node, Interference::attach(pid, &format!("error=EIO:when={first}{and_later}"), log));
    }
    // When two have stopped, the third has nothing to sync any more.
    let mut ended = BTreeMap::new();
    eventually("nodes stop", || {
        for node in victims {
            ended.extend(scene.cluster.node(*node).ended().map(|status| (*node, status)));
        }
        (ended.len() >= victims.len().min(2)).then_some(())
    });
    for (node, status) in &ended {
        assert_eq!(status.code(), Some(DISK_FAILED), "{}: node {node}: {status}", scene.story);
        eventually("the failure was noted", || (failing[node].count() > 0).then_some(()));
    }
    let failures = failing.values().map(Interference::count).sum();
    drop(failing);
    for node in victims {
        scene.cluster.take(*node).kill();
    }
    (failures, ended.len())
}
