//! Which key comes next, and a source of chance that is the same for the same seed.
//!
//! ```text
//!   uniform      ▁▁▁▁▁▁▁▁▁▁   every key as often as any other
//!   zipf[:E]     █▄▃▂▁▁▁▁▁▁   key n as often as 1 / n^E
//!   hot[:P]      █▁▁▁▁▁▁▁▁▁   P percent of the keys take 90 percent of the operations
//!   sequential   0 1 2 3 …    one after the other, and again from the start
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much of all operations goes to the hot keys, in percent.
const HOT_OPERATIONS_PERCENT: u64 = 90;

/// How often each key is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// The n-th as often as `1 / n^exponent`.
    Zipf {
        /// More than 0; the higher, the more uneven.
        exponent: f64,
    },
    /// A few take nine tenths.
    Hot {
        /// How many of the keys are hot, 1 to 99.
        percent: u8,
    },
    /// One after the other.
    Sequential,
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf { exponent } => write!(f, "zipf:{exponent}"),
            Self::Hot { percent } => write!(f, "hot:{percent}"),
            Self::Sequential => f.write_str("sequential"),
        }
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "write uniform, zipf or zipf:0.99 (above 0, up to 5), hot or hot:10 (1 to 99 percent of the keys), or sequential"
                .to_owned()
        };
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number)),
            None => (text, None),
        };
        match (name, number) {
            ("uniform", None) => Ok(Self::Uniform),
            ("sequential", None) => Ok(Self::Sequential),
            ("zipf", number) => {
                let exponent: f64 = number.unwrap_or("0.99").parse().map_err(|_| wrong())?;
                let possible = exponent > 0.0 && exponent <= 5.0;
                possible.then_some(Self::Zipf { exponent }).ok_or_else(wrong)
            }
            ("hot", number) => {
                let percent: u8 = number.unwrap_or("10").parse().map_err(|_| wrong())?;
                (1..=99).contains(&percent).then_some(Self::Hot { percent }).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

/// SplitMix64: small, quick, and good enough to choose keys with.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Less than `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound.max(1));
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// From 0 to 1, without 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Chooses keys, by number from 0 on. Shared by all that use the same plan.
#[derive(Debug)]
pub(crate) struct Chooser {
    keys: u64,
    how: How,
}

#[derive(Debug)]
enum How {
    Uniform,
    Zipf(Zipf),
    Hot { hot: u64 },
    Sequential { next: AtomicU64 },
}

impl Chooser {
    pub(crate) fn new(distribution: Distribution, keys: u64) -> Self {
        let how = match distribution {
            Distribution::Uniform => How::Uniform,
            Distribution::Zipf { exponent } => How::Zipf(Zipf::new(keys, exponent)),
            Distribution::Hot { percent } => {
                How::Hot { hot: (keys.saturating_mul(u64::from(percent)) / 100).max(1) }
            }
            Distribution::Sequential => How::Sequential { next: AtomicU64::new(0) },
        };
        Self { keys, how }
    }

    pub(crate) fn choose(&self, random: &mut Random) -> u64 {
        match &self.how {
            How::Uniform => random.below(self.keys),
            How::Zipf(zipf) => zipf.choose(random),
            How::Hot { hot } if *hot == self.keys || random.below(100) < HOT_OPERATIONS_PERCENT => {
                random.below(*hot)
            }
            How::Hot { hot } => hot + random.below(self.keys - hot),
            How::Sequential { next } => next.fetch_add(1, Ordering::Relaxed) % self.keys,
        }
    }
}

/// Zipf's distribution by rejection-inversion (Hörmann and Derflinger 1996): no table, whatever the number
/// of keys.
#[derive(Debug)]
struct Zipf {
    keys: f64,
    exponent: f64,
    integral_first: f64,
    integral_last: f64,
    shortcut: f64,
}

impl Zipf {
    fn new(keys: u64, exponent: f64) -> Self {
        let mut zipf =
            Self { keys: keys as f64, exponent, integral_first: 0.0, integral_last: 0.0, shortcut: 0.0 };
        zipf.integral_first = zipf.integral(1.5) - 1.0;
        zipf.integral_last = zipf.integral(zipf.keys + 0.5);
        zipf.shortcut = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    #[expect(clippy::cast_possible_truncation, reason = "a whole number from 0 to the number of keys")]
    fn choose(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.integral_last + random.fraction() * (self.integral_first - self.integral_last);
            let x = self.integral_inverse(area);
            let rank = x.round().clamp(1.0, self.keys);
            if rank - x <= self.shortcut || area >= self.integral(rank + 0.5) - self.density(rank) {
                return rank as u64 - 1;
            }
        }
    }

    fn density(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.exponent) * log;
        // (e^t - 1) / t, and its series where that would be 0 / 0.
        let ratio = if t.abs() > 1e-8 { t.exp_m1() / t } else { 1.0 + t / 2.0 * (1.0 + t / 3.0) };
        ratio * log
    }

    fn integral_inverse(&self, area: f64) -> f64 {
        let t = (area * (1.0 - self.exponent)).max(-1.0);
        let ratio = if t.abs() > 1e-8 { t.ln_1p() / t } else { 1.0 - t * (0.5 - t / 3.0) };
        (ratio * area).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(distribution: Distribution, keys: u64, draws: usize) -> Vec<u32> {
        let chooser = Chooser::new(distribution, keys);
        let mut random = Random::new(7);
        let mut counts = vec![0; usize::try_from(keys).unwrap()];
        for _ in 0..draws {
            counts[usize::try_from(chooser.choose(&mut random)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn every_key_is_as_likely_as_asked() {
        let uniform = counts(Distribution::Uniform, 10, 100_000);
        assert!(uniform.iter().all(|count| (9_500..10_500).contains(count)), "{uniform:?}");
        let hot = counts(Distribution::Hot { percent: 20 }, 10, 100_000);
        assert!((88_000..92_000).contains(&(hot[0] + hot[1])), "{hot:?}");
        assert_eq!(counts(Distribution::Sequential, 4, 6), [2, 2, 1, 1]);
        assert_eq!(counts(Distribution::Hot { percent: 1 }, 1, 5), [5]);
    }

    #[test]
    fn zipf_follows_its_law_for_exponents_around_one() {
        for exponent in [0.5, 0.99, 1.0, 1.5] {
            let drawn = counts(Distribution::Zipf { exponent }, 100, 200_000);
            let norm: f64 = (1..=100).map(|n| f64::from(n).powf(-exponent)).sum();
            for rank in [1, 2, 10, 100] {
                let expected = 200_000.0 * f64::from(rank).powf(-exponent) / norm;
                let got = f64::from(drawn[usize::try_from(rank).unwrap() - 1]);
                let close = (got - expected).abs() < 5.0 * expected.sqrt() + 5.0;
                assert!(close, "exponent {exponent}, rank {rank}: {got} instead of {expected}");
            }
        }
        assert_eq!(counts(Distribution::Zipf { exponent: 1.0 }, 1, 3), [3]);
    }

    #[test]
    fn distributions_are_written_as_they_are_read() {
        for text in ["uniform", "zipf:1.2", "hot:5", "sequential"] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        assert_eq!("zipf".parse(), Ok(Distribution::Zipf { exponent: 0.99 }));
        for wrong in ["", "zipf:0", "zipf:x", "hot:0", "hot:100", "gauss", "uniform:1"] {
            assert!(wrong.parse::<Distribution>().unwrap_err().contains("sequential"), "{wrong}");
        }
    }
}
