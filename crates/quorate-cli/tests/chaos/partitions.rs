//! Wires that are cut: in both directions and in one, around leaders and followers, and all of them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::harness::{eventually, let_pass};
use crate::probes::{Answers, Asked, Probes};
use crate::scene::{Scene, long_enough, rounds};
use crate::wires::{Condition, Wires};

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cut {
    /// Nobody hears the leader, and it hears nobody.
    LeaderAlone,
    /// It hears the others, who do not hear it.
    LeaderMute,
    /// The others hear it, and it does not hear them.
    LeaderDeaf,
    FollowerAlone,
    FollowerMute,
    FollowerDeaf,
    /// The leader reaches both, they do not reach each other.
    BetweenFollowers,
    /// A follower reaches only the other one.
    LeaderToOneFollower,
    /// Nobody reaches anybody: no leader, no answers.
    Everybody,
}

const CUTS: [Cut; 9] = [
    Cut::LeaderAlone,
    Cut::LeaderMute,
    Cut::LeaderDeaf,
    Cut::FollowerAlone,
    Cut::FollowerMute,
    Cut::FollowerDeaf,
    Cut::BetweenFollowers,
    Cut::LeaderToOneFollower,
    Cut::Everybody,
];

impl Cut {
    /// The directions that are cut, with this leader.
    fn directions(self, leader: u64, [one, other]: [u64; 2]) -> Vec<(u64, u64)> {
        let mute = |node: u64| (1..=3).filter(move |to| *to != node).map(move |to| (node, to));
        let deaf = |node: u64| (1..=3).filter(move |from| *from != node).map(move |from| (from, node));
        match self {
            Self::LeaderAlone => mute(leader).chain(deaf(leader)).collect(),
            Self::LeaderMute => mute(leader).collect(),
            Self::LeaderDeaf => deaf(leader).collect(),
            Self::FollowerAlone => mute(one).chain(deaf(one)).collect(),
            Self::FollowerMute => mute(one).collect(),
            Self::FollowerDeaf => deaf(one).collect(),
            Self::BetweenFollowers => vec![(one, other), (other, one)],
            Self::LeaderToOneFollower => vec![(leader, one), (one, leader)],
            Self::Everybody => (1..=3).flat_map(mute).collect(),
        }
    }

    fn leaves_a_leader_possible(self) -> bool {
        self != Self::Everybody
    }

    fn cuts_off_the_leader(self) -> bool {
        matches!(self, Self::LeaderAlone | Self::LeaderMute | Self::LeaderDeaf)
    }
}

/// A network whose directions can be cut.
pub(crate) trait Cuttable {
    fn cut(&self, directions: &[(u64, u64)]);
    /// Undoes all cuts.
    fn mend(&self);
    /// How much did not get through so far.
    fn held(&self) -> u64;
}

impl Cuttable for Wires {
    fn cut(&self, directions: &[(u64, u64)]) {
        self.set(directions.iter().copied(), Condition { cut: true, ..Condition::default() });
    }

    fn mend(&self) {
        self.heal();
    }

    fn held(&self) -> u64 {
        self.counts.held.load(Ordering::Relaxed)
    }
}

/// However the wires are cut, clients are answered as long as a majority hears each other, nobody serves a stale
/// read, nothing acknowledged is lost, and all is well soon after the wires are mended.
#[test]
fn cut_wires_lose_nothing_and_show_nothing_stale() {
    let (mut scene, wires) = Scene::with_wires("cut wires");
    cut_and_mend(&mut scene, &wires, rounds(9));
    scene.end();
}

/// Cuts in every way, one after the other, in any order.
pub(crate) fn cut_and_mend(scene: &mut Scene, network: &dyn Cuttable, rounds: u64) {
    let mut done: BTreeMap<Cut, u64> = BTreeMap::new();
    let mut answers = Answers::default();
    let mut cuts = Vec::new();
    for round in 0..rounds {
        if cuts.is_empty() {
            cuts = CUTS.to_vec();
        }
        let cut = cuts.remove(scene.dice.index(cuts.len()));
        let probes = Probes::write_old(scene, round);
        let leader = scene.leader();
        let mut followers = scene.followers(leader);
        followers.rotate_left(scene.dice.index(2));
        let held = network.held();
        network.cut(&cut.directions(leader, [followers[0], followers[1]]));
        if cut == Cut::BetweenFollowers {
            // They have nothing to say to each other, until one of them leads.
            let client = scene.cluster.client();
            eventually("a follower leads", || {
                scene.cluster.runtime.block_on(client.transfer_leadership(Some(followers[0]))).ok()
            });
        }
        if cut.leaves_a_leader_possible() {
            scene.clients_go_on(100, &format!("{cut:?}"));
        } else {
            let_pass(long_enough());
        }
        if cut.cuts_off_the_leader() {
            probes.write(scene, "new");
            let mut asked = probes.connect(scene, leader);
            asked.iter_mut().for_each(Asked::ask);
            network.mend();
            for asked in asked {
                answers += asked.answer(&scene.story);
            }
        }
        assert!(network.held() > held, "{}: {cut:?} held nothing back", scene.story);
        network.mend();
        scene.is_writable_again(&format!("{cut:?}"));
        *done.entry(cut).or_default() += 1;
    }
    eprintln!("{}: {done:?}, reads at leaders that were cut off: {answers:?}", scene.story);
    assert_eq!(done.len(), CUTS.len(), "each happened: {done:?}");
    assert!(answers.fresh + answers.refused >= 3 * u64::try_from(Probes::COUNT).unwrap(), "{answers:?}");
}
