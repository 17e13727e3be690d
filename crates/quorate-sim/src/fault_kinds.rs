//! What the fault injector can do, and how often it does which in one world.
//!
//! Every seed leaves out about a third of the kinds and prefers some of the others ("swarm testing", Groce and others
//! 2012): a world in which nothing ever cuts a link finds bugs that one with everything at once hides.

use crate::rng::Rng;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    PowerCut,
    Kill,
    LeaderPowerCut,
    PowerCutEverywhere,
    Pause,
    Split,
    Isolate,
    OneWayCut,
    SlowDisk,
    Bridge,
    PairCut,
    SlowLinks,
    Resets,
    Clock,
    ReadOnly,
    BitRot,
    Misreads,
    SwappedDisks,
    WipedDisk,
    OldBackup,
    Heal,
}

/// All kinds, with their usual weights.
const KINDS: [(FaultKind, u64); 21] = [
    (FaultKind::PowerCut, 8),
    (FaultKind::Kill, 4),
    (FaultKind::LeaderPowerCut, 2),
    (FaultKind::PowerCutEverywhere, 1),
    (FaultKind::Pause, 3),
    (FaultKind::Split, 4),
    (FaultKind::Isolate, 2),
    (FaultKind::OneWayCut, 4),
    (FaultKind::SlowDisk, 2),
    (FaultKind::Bridge, 2),
    (FaultKind::PairCut, 2),
    (FaultKind::SlowLinks, 2),
    (FaultKind::Resets, 4),
    (FaultKind::Clock, 2),
    (FaultKind::ReadOnly, 2),
    (FaultKind::BitRot, 4),
    (FaultKind::Misreads, 1),
    (FaultKind::SwappedDisks, 1),
    (FaultKind::WipedDisk, 1),
    (FaultKind::OldBackup, 1),
    (FaultKind::Heal, 4),
];

/// The kinds of one world, with their weights.
#[derive(Clone, Debug)]
pub(crate) struct FaultKinds(Vec<(FaultKind, u64)>);

impl FaultKinds {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut drawn = Vec::new();
        for (kind, usual) in KINDS {
            let factor = *rng.pick(&[0, 0, 0, 2, 2, 2, 2, 1, 8]).unwrap_or(&2);
            // What was broken is mended in every world.
            let factor = if kind == FaultKind::Heal { 2 } else { factor };
            if factor > 0 {
                drawn.push((kind, usual * factor));
            }
        }
        Self(drawn)
    }

    /// What happens now.
    pub(crate) fn pick(&self, rng: &mut Rng) -> FaultKind {
        let mut left = rng.below(self.0.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in &self.0 {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return *kind,
            }
        }
        FaultKind::Heal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_differ_in_what_goes_wrong() {
        let mut rng = Rng::new(1);
        let mut missing = 0;
        for _ in 0..100 {
            let kinds = FaultKinds::draw(&mut rng);
            missing += KINDS.len() - kinds.0.len();
            let picked = kinds.pick(&mut rng);
            assert!(kinds.0.iter().any(|(kind, _)| *kind == picked));
        }
        assert!((400..800).contains(&missing), "{missing} of 2100 are left out");
    }
}
