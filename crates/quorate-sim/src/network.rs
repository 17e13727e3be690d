//! A virtual network: who can talk to whom, and what becomes of a message.
//!
//! ```text
//!   n1 ──────► n2     open: after a delay, in order, once
//!   n1 ──────✗ n3     cut in this direction (the other may be open)
//!   n1 ──►──►► n2     noisy: lost, doubled, overtaking
//!   n1 ──►       n2   slow: so many bytes a second, one message behind the other
//!   n1 ──►─╳     n2   reset: what was under way is lost, a frame in the middle
//! ```
//!
//! Cuts are set by pairs and directions, so a partition may be of any shape: two sides, one node alone, a ring
//! without one link, two sides with a bridge that both see.

use std::collections::{BTreeMap, BTreeSet};

use quorate_core::NodeId;
use quorate_host::Lane;

use crate::rng::Rng;

/// How much may be queued for a slow link, in the time that it takes: as the transport's queues, it is bounded.
const QUEUED_NANOS_MAX: u64 = 3_000_000_000;

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
pub struct NetworkProfile {
    /// The shortest delay of a message in nanoseconds.
    pub delay_nanos_min: u64,
    /// The longest delay of a message in nanoseconds.
    pub delay_nanos_max: u64,
    /// How many messages in a thousand are lost.
    pub lost_permille: u64,
    /// How many messages in a thousand arrive twice.
    pub doubled_permille: u64,
    /// How many messages in a thousand may be overtaken by later ones, far behind.
    pub late_permille: u64,
}

impl NetworkProfile {
    /// Quick and without faults.
    pub const GOOD: Self = Self {
        delay_nanos_min: 100_000,
        delay_nanos_max: 1_000_000,
        lost_permille: 0,
        doubled_permille: 0,
        late_permille: 0,
    };
}

/// What becomes of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The link is cut.
    Cut,
    /// Lost on the way.
    Lost,
    /// It arrives at these times (more than one: doubled).
    Arrives(Vec<u64>),
}

/// The links between nodes.
#[derive(Debug)]
pub(crate) struct Network {
    profile: NetworkProfile,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Bytes per second of slow links; the time until which they are busy.
    slow: BTreeMap<(NodeId, NodeId), (u64, u64)>,
    /// How often the connections of a pair were reset.
    resets: BTreeMap<(NodeId, NodeId), u64>,
    last_arrival: BTreeMap<(NodeId, NodeId, Lane), u64>,
    rng: Rng,
}

impl Network {
    pub(crate) const fn new(profile: NetworkProfile, rng: Rng) -> Self {
        Self {
            profile,
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            resets: BTreeMap::new(),
            last_arrival: BTreeMap::new(),
            rng,
        }
    }

    pub(crate) const fn set_profile(&mut self, profile: NetworkProfile) {
        self.profile = profile;
    }

    /// Cuts the link in this direction.
    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    /// The link in this direction carries so many bytes a second.
    pub(crate) fn slow_down(&mut self, from: NodeId, to: NodeId, bytes_per_second: u64) {
        self.slow.insert((from, to), (bytes_per_second.max(1), 0));
    }

    /// The connections between two nodes break, in both directions: what is under way is lost.
    pub(crate) fn reset(&mut self, a: NodeId, b: NodeId) {
        *self.resets.entry((a, b)).or_default() += 1;
        *self.resets.entry((b, a)).or_default() += 1;
    }

    /// Which connection, counted from 0, carries what is sent from here to there now.
    pub(crate) fn connection(&self, from: NodeId, to: NodeId) -> u64 {
        self.resets.get(&(from, to)).copied().unwrap_or(0)
    }

    /// Opens all links, and makes them quick.
    pub(crate) fn heal(&mut self) {
        self.cut.clear();
        self.slow.clear();
    }

    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// Decides what becomes of a message sent now.
    pub(crate) fn send(&mut self, now: u64, from: NodeId, to: NodeId, lane: Lane, bytes: u64) -> Fate {
        if self.is_cut(from, to) {
            return Fate::Cut;
        }
        if self.rng.chance(self.profile.lost_permille) {
            return Fate::Lost;
        }
        let late = self.rng.chance(self.profile.late_permille);
        let Some(transmission) = self.transmission(now, from, to, bytes) else { return Fate::Lost };
        let mut at = now + self.delay() + transmission;
        if late {
            at += self.delay() * 20;
        } else {
            let last = self.last_arrival.entry((from, to, lane)).or_default();
            at = at.max(*last + 1);
            *last = at;
        }
        let mut arrivals = vec![at];
        if self.rng.chance(self.profile.doubled_permille) {
            arrivals.push(at + self.delay() * self.rng.between(1, 20));
        }
        Fate::Arrives(arrivals)
    }

    /// How long a slow link needs until the message is through, those before it included; `None` when too much is
    /// queued for it already.
    fn transmission(&mut self, now: u64, from: NodeId, to: NodeId, bytes: u64) -> Option<u64> {
        let Some((bytes_per_second, busy_until)) = self.slow.get_mut(&(from, to)) else { return Some(0) };
        let starts = (*busy_until).max(now);
        if starts - now > QUEUED_NANOS_MAX {
            return None;
        }
        *busy_until = starts + bytes.saturating_mul(1_000_000_000) / *bytes_per_second;
        Some(*busy_until - now)
    }

    const fn delay(&mut self) -> u64 {
        self.rng.between(self.profile.delay_nanos_min, self.profile.delay_nanos_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOISY: NetworkProfile = NetworkProfile {
        lost_permille: 200,
        doubled_permille: 200,
        late_permille: 200,
        ..NetworkProfile::GOOD
    };

    #[test]
    fn a_cut_is_one_way_until_healed() {
        let mut network = Network::new(NetworkProfile::GOOD, Rng::new(1));
        network.cut(NodeId(1), NodeId(2));
        assert_eq!(network.send(0, NodeId(1), NodeId(2), Lane::Control, 10), Fate::Cut);
        assert!(matches!(network.send(0, NodeId(2), NodeId(1), Lane::Control, 10), Fate::Arrives(_)));
        network.heal();
        assert!(matches!(network.send(0, NodeId(1), NodeId(2), Lane::Control, 10), Fate::Arrives(_)));
    }

    #[test]
    fn a_good_link_keeps_the_order_within_a_lane() {
        let mut network = Network::new(NetworkProfile::GOOD, Rng::new(2));
        let mut last = 0;
        for now in 0..100 {
            let Fate::Arrives(at) = network.send(now, NodeId(1), NodeId(2), Lane::Append, 10) else {
                panic!("a good link loses nothing");
            };
            assert!(at.len() == 1 && at[0] > last);
            last = at[0];
        }
    }

    #[test]
    fn a_slow_link_takes_a_second_for_so_many_bytes_and_a_reset_makes_a_new_connection() {
        let mut network = Network::new(NetworkProfile::GOOD, Rng::new(2));
        let (one, two) = (NodeId(1), NodeId(2));
        network.slow_down(one, two, 1_000);
        for second in 1..4 {
            let Fate::Arrives(at) = network.send(0, one, two, Lane::Control, 1_000) else {
                panic!("a slow link loses nothing");
            };
            assert!(at[0] > second * 1_000_000_000 && at[0] < second * 1_010_000_000, "{at:?}");
        }
        assert!(matches!(network.send(0, one, two, Lane::Control, 1_000), Fate::Arrives(_)));
        assert_eq!(network.send(0, one, two, Lane::Control, 1_000), Fate::Lost, "its queue is full");
        assert_eq!((network.connection(one, two), network.connection(two, one)), (0, 0));
        network.reset(two, one);
        assert_eq!((network.connection(one, two), network.connection(two, one)), (1, 1));
    }

    #[test]
    fn a_noisy_link_loses_doubles_and_reorders() {
        let mut network = Network::new(NOISY, Rng::new(3));
        let (mut lost, mut doubled, mut overtaken, mut newest) = (0, 0, 0, 0);
        for now in 0..1000 {
            match network.send(now * 1_000_000, NodeId(1), NodeId(2), Lane::Control, 10) {
                Fate::Cut => panic!("nothing is cut"),
                Fate::Lost => lost += 1,
                Fate::Arrives(at) => {
                    doubled += usize::from(at.len() > 1);
                    overtaken += usize::from(at[0] < newest);
                    newest = newest.max(at[0]);
                }
            }
        }
        assert!(lost > 100 && doubled > 100 && overtaken > 100, "{lost} {doubled} {overtaken}");
    }
}
