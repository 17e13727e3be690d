//! Looking at a log without opening it, and cutting a damaged one by consent.
//!
//! ```text
//!   walk ──► every segment, record by record, beyond damage too
//!    ├── dump        each of them, as it comes
//!    ├── verify      what is damaged, and where; whether the end is torn
//!    ├── statistics  what is live, per segment and per group
//!    └── repair      plan: what a cut at the first damage would lose ──► consent ──► cut
//! ```
//!
//! * Only [`repair`] writes, and it wants the [`crate::DataDir`] that proves that no node runs there. The
//!   others never write, need no lock, and work beside a running node ([`crate::OsDisk::read_only`] opens
//!   nothing for writing). What a node writes meanwhile is not damage: a damaged log is looked at until
//!   it looks the same twice.
//! * `verify` finds damage exactly where [`crate::Wal::open`] would; it goes on behind it, opening only where
//!   no more than entries of one group are damaged.

mod contents;
mod dump;
mod repair;
mod statistics;
mod verify;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::dump::{DumpItem, DumpedEntry, DumpedGroup, DumpedKind, DumpedRecord, dump};
pub use self::repair::{
    GroupLoss, NoConsent, RepairConsent, RepairError, RepairPlan, Repaired, plan_repair, repair,
};
pub use self::statistics::{GroupStatistics, SegmentStatistics, WalStatistics, statistics};
pub use self::verify::{GivenUp, TornTail, Verification, verify};

use crate::error::LogError;

/// A log cannot be looked at.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalToolError {
    /// The disk does not let it be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// There is no segment in the directory.
    #[error("{}: there is no log here", .0.display())]
    NoLog(PathBuf),
    /// Segments of a version this build does not know, or that change while they are read.
    #[error(transparent)]
    Log(LogError),
}

impl WalToolError {
    /// An error of the log's own code, while it reads.
    fn of(error: LogError) -> Self {
        if let LogError::Failed { context, source } = error {
            Self::Unreadable { path: PathBuf::from(context), source }
        } else {
            Self::Log(error)
        }
    }

    fn unreadable(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Unreadable { path: path.to_owned(), source: Arc::new(source) }
    }
}

/// Repeats a look until what it finds is clean, or is the same twice: a node that runs may change the log meanwhile.
fn settled<T: PartialEq>(
    mut look: impl FnMut() -> Result<T, WalToolError>,
    is_clean: impl Fn(&T) -> bool,
) -> Result<T, WalToolError> {
    const LOOKS_MAX: usize = 8;
    let mut before = look();
    for _ in 1..LOOKS_MAX {
        if before.as_ref().is_ok_and(&is_clean) {
            break;
        }
        let now = look();
        if let (Ok(before), Ok(now)) = (&before, &now)
            && before == now
        {
            break;
        }
        before = now;
    }
    before
}
