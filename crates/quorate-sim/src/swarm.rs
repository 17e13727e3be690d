//! What kind of world a seed lives in.
//!
//! Every seed draws its own sizes, limits and faults ("swarm testing"): a run with tiny snapshots
//! and no loss finds other bugs than one with large windows and a torn network. Drawn once, before anything runs.

use std::time::Duration;

use quorate_core::{Config, ReplicaId};
use quorate_host::{GroupConfig, HostConfig, SessionConfig, SnapshotPolicy};

use crate::disk::DiskProfile;
use crate::fault_kinds::FaultKinds;
use crate::network::NetworkProfile;
use crate::rng::Rng;
use crate::run::Without;

/// One kind of world.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    /// Voters at the start.
    pub(crate) voters: u64,
    /// Nodes without a replica at the start.
    pub(crate) spares: u64,
    pub(crate) groups: u64,
    pub(crate) clients: u64,
    pub(crate) keys: u64,
    pub(crate) value_bytes_max: u64,
    /// Whether machines keep their state across crashes.
    pub(crate) durable_machines: bool,
    pub(crate) group: GroupConfig,
    pub(crate) host: HostConfig,
    pub(crate) segment_bytes: u64,
    pub(crate) network: NetworkProfile,
    pub(crate) disk: DiskProfile,
    /// The longest pause between two faults, and between two moves of the operator.
    pub(crate) fault_pause_millis_max: u64,
    pub(crate) operator_pause_millis_max: u64,
    /// Clocks of nodes run up to this much fast or slow, in parts per million.
    pub(crate) drift_ppm_max: u64,
    /// Monotonic clocks may jump ahead. Not where leases are served: they trust the clocks.
    pub(crate) clock_jumps: bool,
    /// What else goes wrong, and how often.
    pub(crate) faults: FaultKinds,
    /// Nobody changes anything.
    pub(crate) operator_rests: bool,
    /// Nodes begin with an older build and get a newer one, one by one; clients use what is new as soon as they may.
    pub(crate) upgrades: bool,
}

/// T of the election timeouts.
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);

impl Swarm {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let group = draw_group(rng);
        let voters = *rng.pick(&[1, 3, 3, 3, 3, 3, 3, 5, 5]).unwrap_or(&3);
        Self {
            voters,
            spares: rng.between(1, 2),
            groups: *rng.pick(&[1, 1, 1, 1, 1, 1, 2, 2, 3, 6]).unwrap_or(&1),
            clients: rng.between(2, 5),
            keys: rng.between(1, 4),
            value_bytes_max: *rng.pick(&[8, 60, 700]).unwrap_or(&8),
            durable_machines: rng.chance(400),
            operator_rests: false,
            upgrades: rng.chance(300),
            faults: FaultKinds::draw(rng),
            clock_jumps: !group.core.leader_lease,
            group,
            segment_bytes: *rng.pick(&[8 << 10, 16 << 10, 64 << 10]).unwrap_or(&(16 << 10)),
            network: draw_network(rng),
            disk: draw_disk(rng),
            fault_pause_millis_max: *rng.pick(&[200, 800, 800, 2_000]).unwrap_or(&800),
            operator_pause_millis_max: *rng.pick(&[300, 1_000, 4_000]).unwrap_or(&1_000),
            drift_ppm_max: *rng.pick(&[0, 0, 1_000, 20_000]).unwrap_or(&0),
            host: HostConfig {
                snapshot_sends_max: *rng.pick(&[1, 4]).unwrap_or(&4),
                snapshot_bytes_per_second: *rng.pick(&[None, None, Some(100_000)]).unwrap_or(&None),
                snapshot_backlog_bytes_max: *rng.pick(&[1_000, 16 << 20]).unwrap_or(&1_000),
                disk_free_bytes_min: None,
            },
        }
    }
}

impl Swarm {
    /// The same world without some of its troubles.
    pub(crate) fn spare(&mut self, without: Without) {
        if without.network_noise {
            let NetworkProfile { delay_nanos_min, delay_nanos_max, .. } = self.network;
            self.network = NetworkProfile { delay_nanos_min, delay_nanos_max, ..NetworkProfile::GOOD };
        }
        if without.disk_noise {
            let DiskProfile { write_nanos_max, sync_nanos_max, .. } = self.disk;
            self.disk = DiskProfile { write_nanos_max, sync_nanos_max, ..DiskProfile::GOOD };
        }
        self.operator_rests = without.operator;
    }
}

fn draw_group(rng: &mut Rng) -> GroupConfig {
    let core = Config {
        election_timeout: ELECTION_TIMEOUT,
        heartbeat_interval: Duration::from_millis(60),
        append_bytes_max: *rng.pick(&[1, 300, 1 << 20]).unwrap_or(&300),
        inflight_messages_max: *rng.pick(&[1, 3, 256]).unwrap_or(&256),
        inflight_bytes_max: *rng.pick(&[500, 8 << 20]).unwrap_or(&500),
        window_bytes_max: *rng.pick(&[0, 500, 16 << 20]).unwrap_or(&500),
        apply_bytes_max: *rng.pick(&[100, 2_000, 16 << 20]).unwrap_or(&2_000),
        command_bytes_max: 4_000,
        uncommitted_bytes_max: *rng.pick(&[4_000, 64 << 20]).unwrap_or(&4_000),
        quiesce_after: *rng.pick(&[None, None, None, Some(Duration::from_millis(400))]).unwrap_or(&None),
        pre_vote: rng.chance(900),
        leader_lease: rng.chance(300),
        lazy_commit_news: rng.chance(200),
        ..Config::new(ReplicaId(0))
    };
    let snapshots = SnapshotPolicy {
        entries: *rng.pick(&[7, 20, 60, 1_000]).unwrap_or(&20),
        bytes: 0,
        trailing_entries: *rng.pick(&[0, 3, 20]).unwrap_or(&3),
        keep: usize::try_from(rng.between(1, 3)).unwrap_or(1),
        chunk_bytes: usize::try_from(rng.between(40, 2_000)).unwrap_or(40),
        window_bytes: rng.between(100, 8_000),
        ..SnapshotPolicy::default()
    };
    // An hour, or so short that sessions of slow clients expire under them.
    let idle_max = Duration::from_millis(*rng.pick(&[3_600_000, 3_600_000, 3_600_000, 700]).unwrap_or(&700));
    // Wall clocks jump by a year: a key that is forgotten by then would let its command be applied again, rightly.
    let key_retention = Duration::from_hours(24 * 36_500);
    // So that machines on disk fold their journals of it every few dozen commands. No key is evicted.
    let bytes_max = 256 << 10;
    let sessions = SessionConfig { bytes_max, idle_max, key_retention, ..SessionConfig::default() };
    let stalled_write_max = Duration::from_millis(*rng.pick(&[150, 5_000]).unwrap_or(&5_000));
    GroupConfig { core, snapshots, sessions, stalled_write_max, ..GroupConfig::default() }
}

fn draw_network(rng: &mut Rng) -> NetworkProfile {
    let noisy = rng.chance(600);
    NetworkProfile {
        delay_nanos_min: 100_000,
        delay_nanos_max: *rng.pick(&[1_000_000, 5_000_000, 30_000_000]).unwrap_or(&1_000_000),
        lost_permille: if noisy { rng.between(0, 100) } else { 0 },
        doubled_permille: if noisy { rng.between(0, 50) } else { 0 },
        late_permille: if noisy { rng.between(0, 50) } else { 0 },
    }
}

fn draw_disk(rng: &mut Rng) -> DiskProfile {
    DiskProfile {
        write_nanos_max: 50_000,
        sync_nanos_max: *rng.pick(&[500_000, 3_000_000, 15_000_000]).unwrap_or(&3_000_000),
        slow_sync_permille: rng.between(0, 10),
        failed_sync_per_100k: *rng.pick(&[0, 0, 50, 2_000]).unwrap_or(&0),
        failed_write_per_100k: *rng.pick(&[0, 0, 30, 1_000]).unwrap_or(&0),
        misread_per_100k: 0,
        failed_read_per_100k: *rng.pick(&[0, 0, 0, 300]).unwrap_or(&0),
        no_space_permille: *rng.pick(&[0, 0, 50]).unwrap_or(&0),
        read_only: false,
    }
}
