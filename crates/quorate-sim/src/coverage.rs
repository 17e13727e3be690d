//! What happened how often: a fault that never happens proves nothing, so every kind of it is counted by name.

use std::collections::BTreeMap;
use std::fmt;

/// Everything that a large number of runs must have met; what never happened is named in the summary.
pub const POINTS: &[&str] = &[
    "a leader inherited an uncommitted membership",
    "a leader inherited uncommitted entries",
    "a leader was elected in a joint state",
    "a role changed while a snapshot was being written",
    "acknowledgements checked against the recovered disks",
    "allocations refused on purpose",
    "answers lost on the way to a client",
    "answers that came too late",
    "answers: applied",
    "answers: busy",
    "answers: no such group",
    "answers: not the leader",
    "answers: outcome unknown",
    "answers: queried",
    "answers: session expired",
    "answers: session opened",
    "answers: stopped",
    "answers: too new for some members",
    "appends rejected",
    "bits rotten",
    "changes refused by a read-only disk",
    "client operations given up",
    "client operations refused for good",
    "client reads answered",
    "client retries",
    "client timeouts",
    "client writes answered",
    "clocks changed speed",
    "commands applied",
    "commands of a newer version",
    "commands of the operator refused or in doubt",
    "conflicting suffixes cut off",
    "connections refused: another directory",
    "connections reset",
    "disks mounted read-only",
    "disks of other nodes refused",
    "disks replaced by empty ones",
    "elections by transfer",
    "elections lost",
    "elections started",
    "elections won",
    "followers probed",
    "followers streamed to",
    "followers that lost entries",
    "followers that need a snapshot",
    "leaders elected",
    "leaders stopped on purpose",
    "leaders that were removed",
    "leaders without a quorum stepped down",
    "leadership changed while the membership was changing",
    "leadership transferred",
    "leaderships handed over",
    "log writes failed by the disk",
    "log writes without space",
    "logs compacted",
    "logs replaced by snapshots",
    "logs reset to a snapshot",
    "logs truncated",
    "lost names",
    "lost writes",
    "memberships changed",
    "messages cut in the middle by a reset",
    "messages doubled",
    "messages into a cut link",
    "messages lost",
    "messages refused by a core",
    "messages sent",
    "messages to nobody",
    "monotonic clocks jumped ahead",
    "nodes upgraded",
    "old backups put in",
    "older entries fetched from the log",
    "one-way partitions",
    "pairs cut",
    "partitions",
    "partitions with a bridge",
    "pauses",
    "power cuts",
    "pre-elections started",
    "processes killed",
    "promises checked against the recovered disk",
    "questions doubled",
    "questions lost on the way to a node",
    "questions that whoever is asked passes on",
    "reads failed on purpose",
    "reads failed: leadership lost",
    "reads failed: no quorum in time",
    "reads failed: refused by the leader",
    "reads failed: the leader changed",
    "reads from the wrong place",
    "replicas added",
    "replicas gone to rest",
    "replicas overtaken by a higher term",
    "replicas stopped by a failed disk",
    "replicas that follow",
    "replicas woken up",
    "sectors overwritten by others",
    "slow disks",
    "slow links",
    "snapshot pieces received",
    "snapshot streams started",
    "snapshot streams that failed",
    "snapshots asked for",
    "snapshots from a leader restored",
    "snapshots not needed",
    "snapshots of what the log has",
    "snapshots received whole",
    "snapshots saved",
    "stale reads checked",
    "starts",
    "starts failed by the disk",
    "starts refused because of damage",
    "starts with damaged entries, which are given up",
    "starts with harmless damage",
    "steps",
    "syncs",
    "syncs failed on purpose",
    "torn writes",
    "transfers overtaken by another leader",
    "transfers started",
    "transfers that took too long",
    "transfers to nobody",
    "votes refused: given to another",
    "votes refused: the log is behind",
    "votes refused: the term is over",
    "votes refused: there is a leader",
    "wall clocks set ahead",
    "wall clocks set back",
    "writes cut short",
    "writes failed on purpose",
    "writes in flight undone",
];

/// How often the interesting things happened. A simulator that never loses a message proves nothing:
/// the numbers say whether the faults were really there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// One more of `what`.
    pub(crate) fn count(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// `times` more of `what`.
    pub(crate) fn add(&mut self, what: &'static str, times: u64) {
        if times > 0 {
            *self.counts.entry(what).or_default() += times;
        }
    }

    /// How often `what` happened.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// The [`POINTS`] that were never met.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        POINTS.iter().copied().filter(|point| self.of(point) == 0).collect()
    }

    /// Adds the numbers of another run.
    pub fn merge(&mut self, other: &Self) {
        for (what, times) in &other.counts {
            self.add(what, *times);
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, times) in &self.counts {
            writeln!(f, "  {times:>10}  {what}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_missing() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.missing().len(), POINTS.len());
        coverage.count(POINTS[0]);
        assert_eq!(coverage.missing(), POINTS[1..]);
        assert!(POINTS.is_sorted(), "sorted, so that a name stands in one place only");
    }
}
