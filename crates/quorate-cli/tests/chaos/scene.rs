//! What every story has: three nodes, clients, a seed, and an end at which everything must be right again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_client::{Client, ClientError, ClientOptions, Consistency, ScanOptions};

use crate::clients::Crowd;
use crate::dice::{Dice, setting};
use crate::harness::{Cluster, ELECTION_TIMEOUT, let_pass};
use crate::wires::Wires;

/// Once everything that was broken is whole, a write succeeds within this: connecting again with its pauses, an
/// election that is split a few times, on a disk that takes its time.
pub(crate) const RECOVERY_BOUND: Duration = Duration::from_secs(15);
/// Clients are answered in the meantime, or the story has failed. Longer than any client tries.
const PROGRESS_BOUND: Duration = Duration::from_secs(60);
/// Small enough that logs are compacted and snapshots are sent while things go wrong. With leases, so that
/// reads may ask for them: those that do not must not care.
const FLAGS: [&str; 7] =
    ["--snapshot-entries", "300", "--snapshot-trailing-entries", "30", "--log", "warn", "--leader-lease"];

pub(crate) struct Scene {
    pub(crate) story: String,
    /// Gone before the nodes are, however the story ends.
    crowd: Option<Crowd>,
    pub(crate) cluster: Cluster,
    pub(crate) dice: Dice,
    begun: Instant,
    slowest_recovery: Duration,
}

impl Scene {
    /// Nodes that reach each other directly.
    pub(crate) fn new(story: &str) -> Self {
        let cluster = Cluster::new();
        let addresses = (1..=3).map(|node| (node, cluster.ports.peer(node))).collect();
        Self::of(story, cluster, &addresses)
    }

    /// Nodes that reach each other through wires that can be cut, slowed and made lossy.
    pub(crate) fn with_wires(story: &str) -> (Self, Wires) {
        let cluster = Cluster::new();
        let nodes = (1..=3).map(|node| (node, cluster.ports.peer(node))).collect();
        let wires = Wires::new(&cluster.runtime, &nodes, seed());
        (Self::of(story, cluster, &wires.addresses), wires)
    }

    /// Starts the nodes of a cluster that was prepared, and the clients.
    pub(crate) fn of(story: &str, mut cluster: Cluster, addresses: &BTreeMap<u64, String>) -> Self {
        let seed = seed();
        let story = format!("{story}, seed {seed}");
        eprintln!("{story}: begins");
        cluster.start_all(addresses, &FLAGS);
        let endpoints: Vec<String> = addresses.keys().map(|node| cluster.ports.client(*node)).collect();
        let crowd = Crowd::start(&cluster.runtime, &endpoints, seed);
        Self {
            story,
            cluster,
            dice: Dice::new(seed),
            crowd: Some(crowd),
            begun: Instant::now(),
            slowest_recovery: Duration::ZERO,
        }
    }

    pub(crate) fn answered(&self) -> u64 {
        self.crowd.as_ref().map_or(0, |crowd| crowd.book.answered())
    }

    /// Waits until clients got so many more answers.
    pub(crate) fn clients_go_on(&self, answers: u64, meanwhile: &str) {
        let (before, begun) = (self.answered(), Instant::now());
        while self.answered() < before + answers {
            let took = begun.elapsed();
            assert!(
                took < PROGRESS_BOUND,
                "{}: {} of {answers} answers in {took:?} while {meanwhile}",
                self.story,
                self.answered() - before
            );
            let_pass(Duration::from_millis(20));
        }
    }

    /// Whoever leads, as the nodes say.
    pub(crate) fn leader(&self) -> u64 {
        self.cluster.wait_for_leader(None)
    }

    pub(crate) fn followers(&self, leader: u64) -> Vec<u64> {
        (1..=3).filter(|node| *node != leader).collect()
    }

    /// Nothing is broken any more: a new client writes, within the bound.
    pub(crate) fn is_writable_again(&mut self, after: &str) {
        let begun = Instant::now();
        let client = self.cluster.client();
        let written = self.cluster.runtime.block_on(client.put("written-after", after.to_owned()));
        let took = begun.elapsed();
        assert!(
            written.is_ok() && took < RECOVERY_BOUND,
            "{}: not writable within {RECOVERY_BOUND:?} after {after}: {written:?} after {took:?}",
            self.story
        );
        self.slowest_recovery = self.slowest_recovery.max(took);
    }

    /// The end: everything is whole, and nothing that was acknowledged is missing.
    pub(crate) fn end(mut self) {
        self.is_writable_again("everything");
        let wanted = setting("QUORATE_CHAOS_OPERATIONS", 5_000);
        let missing = wanted.saturating_sub(self.answered());
        if missing > 0 {
            // Quick, unless the machine is very slow: the faults are over.
            for step in 0..missing.div_ceil(100) {
                self.clients_go_on(missing.saturating_sub(step * 100).min(100), "nothing is broken");
            }
        }
        let mut crowd = self.crowd.take().expect("the clients are there until the end");
        crowd.stop(&self.cluster.runtime);
        let (answered, unanswered) = (crowd.book.answered(), crowd.book.unanswered());
        assert!(answered >= wanted, "{}: {answered} operations", self.story);
        let kept = crowd.book.kept();
        assert!(kept.len() > 100, "{}: {} keys were kept", self.story, kept.len());
        for node in self.cluster.running() {
            self.holds_all(node, &kept);
        }
        crowd.book.check(&self.story);
        eprintln!(
            "{}: {answered} operations answered, {unanswered} not, {} writes kept on every node; writable after \
             {:?} at most; {:.1?} in all",
            self.story,
            kept.len(),
            self.slowest_recovery,
            self.begun.elapsed()
        );
    }

    /// Every acknowledged write is in what `node` itself has applied, if not at once then soon.
    fn holds_all(&self, node: u64, kept: &BTreeMap<Bytes, Bytes>) {
        let address = self.cluster.ports.client(node);
        let mut missing = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < RECOVERY_BOUND {
            let Ok(there) = self.cluster.runtime.block_on(everything(&address)) else { continue };
            missing = kept.iter().filter(|(key, value)| there.get(*key) != Some(*value)).collect();
            if missing.is_empty() {
                return;
            }
            let_pass(Duration::from_millis(100));
        }
        missing.truncate(5);
        panic!("{}: node {node} lacks what was acknowledged: {missing:?}", self.story);
    }
}

/// All that is under "kept-", as one node has applied it.
async fn everything(address: &str) -> Result<BTreeMap<Bytes, Bytes>, ClientError> {
    let client = Client::connect([address], ClientOptions::default()).unwrap();
    let mut there = BTreeMap::new();
    let mut start = Bytes::from_static(b"kept-");
    loop {
        let (end, consistency) = (Bytes::from_static(b"kept."), Consistency::Stale);
        let page = client.scan(ScanOptions { start, end, limit: 0, consistency }).await?.value;
        there.extend(page.items.into_iter().map(|item| (item.key, item.value)));
        let Some(next) = page.next_start else { return Ok(there) };
        start = next;
    }
}

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    setting("QUORATE_CHAOS_SEED", u64::from(std::process::id()))
}

/// How many rounds a story has: as many as it says, unless the environment says how many times that.
pub(crate) fn rounds(usual: u64) -> u64 {
    usual * setting("QUORATE_CHAOS_ROUNDS", 1)
}

/// Longer than a leader needs to notice that it is alone, or a follower that it has no leader.
pub(crate) fn long_enough() -> Duration {
    3 * ELECTION_TIMEOUT
}
