//! What is asked for: which operations, on which keys, how many at a time or how many a second.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::keys::Distribution;

/// The most requests in flight, and so the most connections.
pub const IN_FLIGHT_MAX: usize = 4096;
/// The most keys.
pub const KEYS_MAX: u64 = 1_000_000_000;
/// The largest value; a cluster's own limit is usually lower.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// The most operations a second that a schedule can hold.
pub const RATE_MAX: f64 = 10_000_000.0;

/// One kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Sets a key.
    Write,
    /// Reads a key, linearizably.
    Linearizable,
    /// Reads a key as freshly, from the leader's lease where it has one.
    Lease,
    /// Reads a key from whatever the asked node has applied.
    Stale,
}

impl Kind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Write, Self::Linearizable, Self::Lease, Self::Stale];

    /// Its name on the command line and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Linearizable => "linearizable",
            Self::Lease => "lease",
            Self::Stale => "stale",
        }
    }

    /// Its place in [`Kind::ALL`].
    pub(crate) const fn position(self) -> usize {
        self as usize
    }
}

/// How often each kind occurs among the operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    weights: [u32; Kind::ALL.len()],
}

impl Mix {
    /// Nothing but one kind.
    #[must_use]
    pub const fn only(kind: Kind) -> Self {
        let mut weights = [0; Kind::ALL.len()];
        weights[kind.position()] = 1;
        Self { weights }
    }

    /// The kinds that occur, with their weights.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, u32)> + '_ {
        Kind::ALL.into_iter().zip(self.weights).filter(|(_, weight)| *weight > 0)
    }

    /// Whether anything is read.
    #[must_use]
    pub fn reads(&self) -> bool {
        self.kinds().any(|(kind, _)| kind != Kind::Write)
    }

    /// Whether this kind occurs.
    #[must_use]
    pub const fn has(&self, kind: Kind) -> bool {
        self.weights[kind.position()] > 0
    }

    /// The kind that a random number stands for.
    pub(crate) fn pick(&self, random: u64) -> Kind {
        let total: u64 = self.weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut left = random % total.max(1);
        for (kind, weight) in self.kinds() {
            match left.checked_sub(u64::from(weight)) {
                Some(rest) => left = rest,
                None => return kind,
            }
        }
        Kind::Write
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.kinds().map(|(kind, weight)| format!("{}={weight}", kind.name())).collect();
        f.write_str(&parts.join(","))
    }
}

impl FromStr for Mix {
    type Err = String;

    /// `read=90,write=10`; `read` is the linearizable one. A kind without a number counts once.
    fn from_str(text: &str) -> Result<Self, String> {
        const EXAMPLE: &str =
            "write for example read=90,write=10 (kinds: write, read or linearizable, lease, stale)";
        let mut weights = [0; Kind::ALL.len()];
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let kind = match name.trim() {
                "read" => Kind::Linearizable,
                name => Kind::ALL
                    .into_iter()
                    .find(|kind| kind.name() == name)
                    .ok_or_else(|| format!("there is no operation {name:?}: {EXAMPLE}"))?,
            };
            let weight: u32 = weight
                .trim()
                .parse()
                .map_err(|_| format!("{weight:?} is not a share of {}: {EXAMPLE}", kind.name()))?;
            if weights[kind.position()] > 0 {
                return Err(format!("{} is there twice: {EXAMPLE}", kind.name()));
            }
            weights[kind.position()] = weight;
        }
        if weights.iter().all(|weight| *weight == 0) {
            return Err(format!("nothing has a share: {EXAMPLE}"));
        }
        Ok(Self { weights })
    }
}

/// When an operation begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the one before it, in the same place, has been answered.
    Closed,
    /// At its time, whatever happened to the ones before it. Latency counts from that time.
    Open {
        /// How many a second, evenly spread.
        per_second: f64,
    },
}

/// The load to put on a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Which operations.
    pub mix: Mix,
    /// How many different keys.
    pub keys: u64,
    /// How often each of them.
    pub distribution: Distribution,
    /// What every key begins with.
    pub prefix: String,
    /// How long values are; evenly spread within the range. They cannot be compressed.
    pub value_bytes: RangeInclusive<usize>,
    /// How many clients, each with a connection and a session of its own.
    pub connections: usize,
    /// How many operations at a time, spread over the connections.
    pub in_flight: usize,
    /// When operations begin.
    pub pace: Pace,
    /// For how long the same load goes on before anything is measured.
    pub warmup: Duration,
    /// For how long operations begin that are measured.
    pub length: Duration,
    /// Whether every key is written once at first, so that reads find something.
    pub fill: bool,
    /// Where chance begins.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            mix: Mix::only(Kind::Write),
            keys: 10_000,
            distribution: Distribution::Uniform,
            prefix: "bench/".to_owned(),
            value_bytes: 128..=128,
            connections: 4,
            in_flight: 64,
            pace: Pace::Closed,
            warmup: Duration::from_secs(2),
            length: Duration::from_secs(10),
            fill: true,
            seed: 1,
        }
    }
}

/// A plan that makes no sense. Each says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Requests in flight.
    #[error("{0} requests in flight are not possible: say 1 to {IN_FLIGHT_MAX}")]
    InFlight(usize),
    /// Connections.
    #[error(
        "{connections} connections for {in_flight} requests in flight are not possible: say 1 to {in_flight}, or more in flight"
    )]
    Connections {
        /// As asked.
        connections: usize,
        /// As asked.
        in_flight: usize,
    },
    /// Keys.
    #[error("{0} keys are not possible: say 1 to {KEYS_MAX}")]
    Keys(u64),
    /// Value sizes.
    #[error(
        "values of {from} to {to} bytes are not possible: say one size or FROM..TO, up to {VALUE_BYTES_MAX} bytes"
    )]
    ValueBytes {
        /// As asked.
        from: usize,
        /// As asked.
        to: usize,
    },
    /// The rate.
    #[error("that rate is not possible: say how many operations a second, more than 0 and up to 10 million")]
    Rate,
    /// The length.
    #[error("there is nothing to measure in no time: say how many seconds, more than 0")]
    Length,
}

impl Plan {
    /// Whether it can be carried out.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn check(&self) -> Result<(), PlanError> {
        let (connections, in_flight) = (self.connections, self.in_flight);
        if !(1..=IN_FLIGHT_MAX).contains(&in_flight) {
            return Err(PlanError::InFlight(in_flight));
        }
        if !(1..=in_flight).contains(&connections) {
            return Err(PlanError::Connections { connections, in_flight });
        }
        if !(1..=KEYS_MAX).contains(&self.keys) {
            return Err(PlanError::Keys(self.keys));
        }
        let (from, to) = (*self.value_bytes.start(), *self.value_bytes.end());
        if from > to || to > VALUE_BYTES_MAX {
            return Err(PlanError::ValueBytes { from, to });
        }
        if let Pace::Open { per_second } = self.pace
            && !(per_second > 0.0 && per_second <= RATE_MAX)
        {
            return Err(PlanError::Rate);
        }
        if self.length.is_zero() {
            return Err(PlanError::Length);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_shares_by_name() {
        let mix: Mix = "read=90,write=10".parse().unwrap();
        assert_eq!(mix.to_string(), "write=10,linearizable=90");
        assert!(mix.reads() && !Mix::only(Kind::Write).reads());
        let writes = (0..1000).filter(|random| mix.pick(*random) == Kind::Write).count();
        assert_eq!(writes, 100);
        for wrong in ["", "reed=1", "read=x", "read=0", "read=1,linearizable=1", "read=-1"] {
            let error = wrong.parse::<Mix>().unwrap_err();
            assert!(error.contains("read=90,write=10"), "{wrong}: {error}");
        }
    }

    #[test]
    fn impossible_plans_say_what_is_possible() {
        let plan = Plan::default();
        plan.check().unwrap();
        let wrong = [
            (Plan { in_flight: 0, ..plan.clone() }, "1 to 4096"),
            (Plan { in_flight: 5000, ..plan.clone() }, "1 to 4096"),
            (Plan { connections: 65, ..plan.clone() }, "1 to 64"),
            (Plan { keys: 0, ..plan.clone() }, "1 to 1000000000"),
            (Plan { value_bytes: RangeInclusive::new(9, 8), ..plan.clone() }, "FROM..TO"),
            (Plan { pace: Pace::Open { per_second: f64::NAN }, ..plan.clone() }, "a second"),
            (Plan { pace: Pace::Open { per_second: 0.0 }, ..plan.clone() }, "a second"),
            (Plan { length: Duration::ZERO, ..plan }, "seconds"),
        ];
        for (plan, says) in wrong {
            let error = plan.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
