//! Every node in a network namespace of its own, where packets are really lost.
//!
//! ```text
//!   the test, clients          10.77.0.254
//!        └──── bridge ─────┬────────────┬────────────┬──────────── hole
//!                      10.77.0.1    10.77.0.2    10.77.0.3         swallows what is sent to its address
//!                       node 1       node 2       node 3
//! ```
//!
//! To cut one direction, the sender is told that the receiver lives at the address of the hole: its packets
//! vanish without a word, what comes back still arrives, and clients notice nothing.

use std::process::Command;

use crate::harness::{Cluster, Ports};
use crate::optional::{is_alone, skipped, system};
use crate::partitions::{Cuttable, cut_and_mend};
use crate::scene::{Scene, rounds};

const HOLE: &str = "02:00:00:00:00:ff";

/// The network of three nodes, all in the namespace of this process.
struct Namespaces;

impl Namespaces {
    fn new() -> Result<Self, String> {
        let mut lines = vec![
            "mount -t tmpfs none /run".to_owned(),
            "ip link set lo up".to_owned(),
            "ip link add bridge0 type bridge".to_owned(),
            "ip addr add 10.77.0.254/24 dev bridge0".to_owned(),
            "ip link set bridge0 up".to_owned(),
            "ip link add hole type veth peer name hole0".to_owned(),
            format!("ip link set hole0 address {HOLE} up"),
            "ip link set hole master bridge0 up".to_owned(),
            format!("bridge fdb replace {HOLE} dev hole master static"),
        ];
        for node in 1..=3 {
            lines.extend([
                format!("ip netns add node{node}"),
                format!("ip link add port{node} type veth peer name eth0 netns node{node}"),
                format!("ip link set port{node} master bridge0 up"),
                format!("ip -n node{node} addr add 10.77.0.{node}/24 dev eth0"),
                format!("ip -n node{node} link set eth0 up"),
                format!("ip -n node{node} link set lo up"),
            ]);
        }
        lines.iter().try_for_each(|line| system(line))?;
        Ok(Self)
    }
}

impl Cuttable for Namespaces {
    fn cut(&self, directions: &[(u64, u64)]) {
        for (from, to) in directions {
            let line =
                format!("ip -n node{from} neigh replace 10.77.0.{to} lladdr {HOLE} nud permanent dev eth0");
            system(&line).unwrap();
        }
    }

    fn mend(&self) {
        for (from, to) in (1..=3).flat_map(|from| (1..=3).map(move |to| (from, to))) {
            // Only where it was cut there is something to remove.
            let known = system(&format!("ip -n node{from} neigh del 10.77.0.{to} dev eth0"));
            drop(known);
        }
    }

    /// Packets that vanished.
    fn held(&self) -> u64 {
        let output = Command::new("ip").args(["-s", "-j", "link", "show", "hole0"]).output().unwrap();
        let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
    }
}

/// The story of the cut wires, with packets that are lost instead of proxies that wait.
#[test]
fn lost_packets_lose_nothing_and_show_nothing_stale() {
    const NAME: &str = "namespaces::lost_packets_lose_nothing_and_show_nothing_stale";
    if !is_alone(NAME) {
        return;
    }
    let network = match Namespaces::new() {
        Ok(network) => network,
        Err(why) => return skipped(NAME, &why),
    };
    let mut cluster = Cluster::at(Ports::of_hosts(|node| format!("10.77.0.{node}")));
    for node in 1..=3 {
        cluster.set_before(node, &["ip", "netns", "exec", &format!("node{node}")]);
    }
    let addresses = (1..=3).map(|node| (node, cluster.ports.peer(node))).collect();
    let mut scene = Scene::of("lost packets", cluster, &addresses);
    cut_and_mend(&mut scene, &network, rounds(9));
    scene.end();
}
