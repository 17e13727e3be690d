//! Every byte of a log that counts, checked.

use std::path::{Path, PathBuf};

use quorate_core::{GroupId, LogIndex};

use super::contents::Contents;
use super::walk::{Step, walk};
use super::{WalToolError, settled};
use crate::disk::Disk;
use crate::error::Damage;

/// What verifying has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Segments read.
    pub segments: u64,
    /// Whole records in their places.
    pub records: u64,
    /// Everything that is not as it was written, in the order of the log. Opening stops at the first.
    pub damages: Vec<Damage>,
    /// Damaged entries that nobody needs any more, by ascending group: no damage.
    pub given_up: Vec<GivenUp>,
    /// The end of the log was never acknowledged, and is not whole. Opening drops it: no damage.
    pub torn_tail: Option<TornTail>,
}

/// Records at the end of the log whose sync never returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The last segment.
    pub path: PathBuf,
    /// Where the log ends, in bytes.
    pub offset: u64,
    /// How much behind it can still be recognised, in bytes.
    pub bytes: u64,
}

/// Damaged entries of a group that it has given up, has written again or has compacted since. They stay in
/// their segment until that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// The group.
    pub group: GroupId,
    /// How many entries.
    pub entries: u64,
    /// The first and the last of them, as far as it can be told which they were.
    pub range: Option<(LogIndex, LogIndex)>,
    /// The first place.
    pub damage: Damage,
}

impl GivenUp {
    fn of(group: GroupId, index: Option<LogIndex>, damage: &Damage) -> Self {
        Self { group, entries: 1, range: index.map(|index| (index, index)), damage: damage.clone() }
    }

    fn add(&mut self, index: Option<LogIndex>) {
        self.entries += 1;
        let Some(index) = index else { return };
        let (first, last) = self.range.unwrap_or((index, index));
        self.range = Some((first.min(index), last.max(index)));
    }
}

impl Verification {
    /// Nothing is damaged. A torn tail is no damage, nor is what was given up.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damages.is_empty()
    }
}

/// Checks the log in `directory`.
///
/// # Errors
/// It cannot be read, there is none, or it is of another version. Damage is no error: it is what is found.
pub fn verify(disk: &dyn Disk, directory: &Path) -> Result<Verification, WalToolError> {
    settled(|| look(disk, directory), Verification::is_clean)
}

fn look(disk: &dyn Disk, directory: &Path) -> Result<Verification, WalToolError> {
    let mut found = Verification::default();
    let mut contents = Contents::default();
    walk(disk, directory, &mut |step| {
        match &step {
            Step::Segment(_) => found.segments += 1,
            Step::Record { .. } => found.records += 1,
            Step::Broken { opened, broken } if broken.damage.is_none() => {
                found.torn_tail = Some(TornTail {
                    path: opened.segment.path.clone(),
                    offset: broken.offset,
                    bytes: broken.until - broken.offset,
                });
            }
            Step::Broken { .. } | Step::Unreadable(_) | Step::End { .. } => {}
        }
        contents.take(&step);
        true
    })?;
    contents.finish(directory);
    found.damages = contents.damages();
    for (entry, damage) in contents.given_up() {
        match found.given_up.iter_mut().find(|given_up| given_up.group == entry.group) {
            Some(given_up) => given_up.add(entry.index),
            None => found.given_up.push(GivenUp::of(entry.group, entry.index, damage)),
        }
    }
    found.given_up.sort_by_key(|given_up| given_up.group);
    Ok(found)
}
