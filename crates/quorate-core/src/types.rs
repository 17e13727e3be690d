//! Identifiers and positions. Every number that could be mixed up with another has its own type.

use std::fmt;
use std::time::Duration;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number!(
    /// A Raft term. 0 is "before any election"; the first real term is 1.
    Term, "t"
);
number!(
    /// A position in one group's log. 0 is "before the log"; the first entry has index 1.
    LogIndex, "i"
);
number!(
    /// One consensus group.
    GroupId, "g"
);
number!(
    /// One member of one group. Comes from the counter in the membership and is never used twice.
    ReplicaId, "r"
);
number!(
    /// One process with one data directory. Hosts at most one replica of a group.
    NodeId, "n"
);

impl Term {
    /// The largest term that is accepted from a peer: half of the range, so that adding one can
    /// never wrap however long a cluster lives.
    pub const MAX: Self = Self(u64::MAX / 2);
    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LogIndex {
    /// The largest index that is accepted from a peer (see [`Term::MAX`]).
    pub const MAX: Self = Self(u64::MAX / 2);
    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
    /// The index before this one; 0 stays 0.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// The position of an entry together with the term that wrote it: two logs that hold the same
/// `LogId` are identical up to there (Raft §5.3, Log Matching). Ordered by term, then by index:
/// the order in which voters compare logs.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The term in which a leader created the entry.
    pub term: Term,
    /// Its position.
    pub index: LogIndex,
}

impl LogId {
    /// A position from plain numbers, mostly for tests.
    #[must_use]
    pub const fn new(term: u64, index: u64) -> Self {
        Self { term: Term(term), index: LogIndex(index) }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@t{}", self.index, self.term)
    }
}
impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What a replica must never forget (Raft figure 2, "persistent state"). The commit index is a
/// hint that saves work after a restart; it never causes a sync by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The newest term seen.
    pub term: Term,
    /// Who got this replica's vote in `term`.
    pub vote: Option<ReplicaId>,
    /// The highest index known to be committed.
    pub commit: LogIndex,
}

/// A moment on a monotonic clock that counts suspension, in nanoseconds since an origin of the
/// caller's choice. Time is an input everywhere below the shells: nothing there reads a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoTime(pub u64);

impl MonoTime {
    /// Later than any moment: a deadline that does not come.
    pub const NEVER: Self = Self(u64::MAX);
    /// A moment this many milliseconds after the origin.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }
    /// Time passed since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for MonoTime {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

/// The nanoseconds of `duration`, at most those of 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
