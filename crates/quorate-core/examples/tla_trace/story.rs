//! What happens to a cluster in a run, decided by a seed.

use std::time::Duration;

use quorate_core::{Config, EventDetail, ReplicaId};

use crate::cluster::Cluster;

/// A run of `steps` steps that tells `events`: proposals, elections, handovers, partitions, restarts and time.
pub(crate) fn run(seed: u64, voters: u64, steps: u64, events: EventDetail) -> Cluster {
    let config = Config {
        election_timeout: Duration::from_millis(1_000),
        heartbeat_interval: Duration::from_millis(300),
        // A term that spreads by a refused pre-vote is not in the specification.
        pre_vote: seed.is_multiple_of(3),
        // One entry per append, or all of them.
        append_bytes_max: if seed.is_multiple_of(2) { 1 } else { 1 << 20 },
        seed,
        events,
        ..Config::new(ReplicaId(1))
    };
    let mut cluster = Cluster::new(voters, config);
    let mut chance = Chance(seed);
    cluster.campaign(ReplicaId(1 + chance.below(voters)));
    for _ in 0..steps {
        let replica = ReplicaId(1 + chance.below(voters));
        match chance.below(12) {
            0..=4 => cluster.propose(1 + chance.below(3)),
            5 => cluster.campaign(replica),
            6 => cluster.transfer(replica),
            7 if cluster.is_healed() => cluster.cut_off(replica),
            8 | 9 => cluster.heal(),
            10 if cluster.is_healed() => {
                // Everybody learns what is committed, so that nothing is forgotten with the process.
                cluster.pass(600);
                cluster.restart(replica);
            }
            _ => cluster.pass(50 * (1 + chance.below(30))),
        }
    }
    cluster.heal();
    cluster.pass(3_000);
    cluster
}

/// A sequence of numbers that a seed decides (SplitMix64).
struct Chance(u64);

impl Chance {
    const fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
