//! How a command fails: one line on standard error that says what happened and what to do, and an
//! exit code that scripts may rely on. The table is published in `docs/operations.md` and tested.

use std::fmt;

/// What the process exits with. The numbers never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something that has no number of its own.
    Error = 1,
    /// The command line, the environment or the configuration file is wrong.
    Usage = 2,
    /// There is no such key.
    NotFound = 3,
    /// The condition of a conditional write does not hold; nothing was changed.
    ConditionFailed = 4,
    /// The cluster could not be reached or is not ready. Nothing was applied: repeating is safe.
    Unavailable = 5,
    /// The write may or may not have been applied.
    OutcomeUnknown = 6,
    /// The cluster answered, and refused.
    Refused = 7,
    /// A listen address cannot be used.
    Listen = 8,
    /// The data directory is in use, or belongs to another node or cluster.
    Directory = 9,
    /// Files in the data directory are damaged.
    Damaged = 10,
    /// The disk failed while the node was running.
    Disk = 11,
    /// The node was removed from its cluster.
    Removed = 12,
    /// Stopped by a second signal before the clean stop was over, or by the end of its parent.
    Interrupted = 130,
}

/// Every exit code with what it means, for the documentation and its test.
#[cfg(test)]
pub(crate) const EXITS: [(Exit, &str); 13] = [
    (Exit::Error, "error"),
    (Exit::Usage, "usage"),
    (Exit::NotFound, "not found"),
    (Exit::ConditionFailed, "condition failed"),
    (Exit::Unavailable, "unavailable"),
    (Exit::OutcomeUnknown, "outcome unknown"),
    (Exit::Refused, "refused"),
    (Exit::Listen, "cannot listen"),
    (Exit::Directory, "data directory"),
    (Exit::Damaged, "damaged"),
    (Exit::Disk, "disk failed"),
    (Exit::Removed, "removed"),
    (Exit::Interrupted, "interrupted"),
];

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// One line: what happened, and what to do.
    pub(crate) line: String,
}

impl Failure {
    /// A failure; line breaks in `line` (from causes that are not ours) become spaces.
    pub(crate) fn new(exit: Exit, line: impl fmt::Display) -> Self {
        let line = line.to_string().split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        Self { exit, line }
    }

    /// A mistake in the command line, the environment or the configuration file.
    pub(crate) fn usage(line: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, line)
    }

    /// A failure without an exit code of its own.
    pub(crate) fn error(line: impl fmt::Display) -> Self {
        Self::new(Exit::Error, line)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}
impl std::error::Error for Failure {}

/// An error with all its causes on one line: "cannot open d1: permission denied".
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        cause = inner.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_table_names_every_exit_code() {
        let page = include_str!("../../../docs/operations.md");
        for (exit, meaning) in EXITS {
            let row = format!("| {} | {meaning}", exit as u8);
            assert!(page.contains(&row), "docs/operations.md has no row {row:?}");
        }
    }

    #[test]
    fn failure_is_always_one_line() {
        assert_eq!(Failure::error("one\n  two").line, "one two");
    }
}
