//! Chance that is the same for the same seed, and what the environment says about it.

use std::time::Duration;

/// Small: xorshift64*.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbours are to have nothing in common, and nothing comes of zero.
        let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    /// From 0 up to and without `sides`.
    pub(crate) fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        // The upper bits are the better ones.
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % sides
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.throw(u64::try_from(length).unwrap())).unwrap()
    }

    pub(crate) fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    pub(crate) fn up_to(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(f64::from(u32::try_from(self.throw(1001)).unwrap()) / 1000.0)
    }
}

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn neighbouring_seeds_have_nothing_in_common() {
    let throws = |seed| {
        let mut dice = Dice::new(seed);
        (0..8).map(|_| dice.throw(1000)).collect::<Vec<_>>()
    };
    assert_eq!(throws(5), throws(5));
    let same = throws(5).iter().zip(throws(6)).filter(|(one, other)| **one == *other).count();
    assert!(same < 3, "{:?} {:?}", throws(5), throws(6));
}
