//! What the demo's network is like right now: who reaches whom, and how slowly. A pure value; the
//! proxies watch it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The state of all links. The default is a perfect network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Network {
    groups: Vec<BTreeSet<u64>>,
    delays: BTreeMap<u64, Duration>,
}

impl Network {
    /// Cuts the network between `groups`; nodes in none of them stay together.
    pub(crate) fn partition(&mut self, groups: Vec<BTreeSet<u64>>) {
        self.groups = groups;
    }

    /// Delays everything to and from `node`.
    pub(crate) fn slow(&mut self, node: u64, delay: Duration) {
        self.delays.insert(node, delay);
    }

    /// Undoes everything.
    pub(crate) fn heal(&mut self) {
        *self = Self::default();
    }

    /// Whether bytes get from one node to the other.
    pub(crate) fn connects(&self, from: u64, to: u64) -> bool {
        let group_of = |node| self.groups.iter().position(|group| group.contains(&node));
        group_of(from) == group_of(to)
    }

    /// How long bytes are on their way between two nodes.
    pub(crate) fn delay(&self, from: u64, to: u64) -> Duration {
        let of = |node| self.delays.get(&node).copied().unwrap_or_default();
        of(from) + of(to)
    }

    /// What is wrong with the network, in words.
    pub(crate) fn describe(&self) -> String {
        let mut parts = Vec::new();
        if !self.groups.is_empty() {
            let group = |g: &BTreeSet<u64>| g.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            let groups: Vec<String> = self.groups.iter().map(group).collect();
            let rest = if groups.len() == 1 { " | the others" } else { "" };
            parts.push(format!("partitioned {}{rest}", groups.join(" | ")));
        }
        parts.extend(self.delays.iter().map(|(node, delay)| format!("node {node} slowed by {delay:?}")));
        if parts.is_empty() { "healthy".to_owned() } else { parts.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_cuts_between_groups_and_leaves_the_others_together() {
        let mut network = Network::default();
        network.partition(vec![BTreeSet::from([1])]);
        assert!(!network.connects(1, 2) && !network.connects(3, 1));
        assert!(network.connects(2, 3));
        network.partition(vec![BTreeSet::from([1, 4]), BTreeSet::from([2])]);
        assert!(network.connects(1, 4) && network.connects(3, 5));
        assert!(!network.connects(2, 3) && !network.connects(1, 2));
        assert_eq!(network.describe(), "partitioned 1,4 | 2");
        network.heal();
        assert!(network.connects(1, 2));
        assert_eq!(network.describe(), "healthy");
    }

    #[test]
    fn slow_node_is_slow_in_both_directions() {
        let mut network = Network::default();
        network.slow(2, Duration::from_millis(100));
        assert_eq!(network.delay(1, 2), Duration::from_millis(100));
        assert_eq!(network.delay(2, 1), Duration::from_millis(100));
        assert_eq!(network.delay(1, 3), Duration::ZERO);
    }
}
