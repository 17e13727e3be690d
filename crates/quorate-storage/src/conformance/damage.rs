//! A byte of a log is not what was written: what may come of it.
//!
//! | the log | is right when |
//! |---|---|
//! | opens as if nothing had happened | it holds what was written, all of it |
//! | opens, and knows that an entry is damaged | everything else is what was written; the damage is named, and the entry, whose term nobody knows, never handed out |
//! | is refused | the error names the file, and a place at or before the byte |

use std::path::Path;

use quorate_core::{Entry, LogIndex, Term};

use super::LogModel;
use crate::error::{Damage, LogError};
use crate::log_store::{GroupState, LogStore};

/// What came of a damaged byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DamageOutcome {
    /// Nobody needs it, or it was mended.
    Harmless,
    /// One entry of one group is known to be damaged.
    OneEntry,
    /// The log does not open.
    Refused,
}

/// Whether a log whose byte `at` of `path` was flipped, after `model` had been acknowledged, is opened as it should be.
///
/// # Errors
/// What is wrong, in words.
pub fn judge_damage(
    opened: Result<&dyn LogStore, &LogError>,
    model: &LogModel,
    path: &Path,
    at: u64,
) -> Result<DamageOutcome, String> {
    match opened {
        Ok(store) if store.groups().iter().any(|state| state.damaged.is_some()) => {
            compare_but_for_an_entry(store, model, path, at).map(|()| DamageOutcome::OneEntry)
        }
        Ok(store) => model.compare(store).map(|()| DamageOutcome::Harmless),
        Err(LogError::Damaged(damage)) => names_the_place(damage, path, at).map(|()| DamageOutcome::Refused),
        Err(LogError::Version { path: named, .. }) if named == path => Ok(DamageOutcome::Refused),
        Err(error) => Err(error.to_string()),
    }
}

fn names_the_place(damage: &Damage, path: &Path, at: u64) -> Result<(), String> {
    if damage.path == path && damage.offset <= at {
        Ok(())
    } else {
        Err(format!("another place is named: {damage}"))
    }
}

fn compare_but_for_an_entry(
    store: &dyn LogStore,
    model: &LogModel,
    path: &Path,
    at: u64,
) -> Result<(), String> {
    let reader = store.reader();
    let (expected, found) = (model.states(), store.groups());
    if expected.len() != found.len() {
        return Err(format!("{} groups instead of {}", found.len(), expected.len()));
    }
    for (expected, found) in expected.into_iter().zip(found) {
        if let Some(damaged) = &found.damaged {
            names_the_place(&damaged.damage, path, at)?;
            if (damaged.group, damaged.first) != (found.group, damaged.last) {
                return Err(format!("more than one entry is damaged: {damaged}"));
            }
        }
        let nothing = Vec::new;
        let known = GroupState { damaged: None, term_runs: nothing(), ..found.clone() };
        if known != (GroupState { term_runs: nothing(), ..expected.clone() }) {
            return Err(format!("{known:?} instead of {expected:?}"));
        }
        for index in (expected.compacted.index.0 + 1..=expected.last.0).map(LogIndex) {
            let is_damaged = found.damaged.as_ref().is_some_and(|damaged| damaged.first == index);
            match reader.read(expected.group, index..index.next(), 1 << 20) {
                Ok(entries)
                    if !is_damaged
                        && entries.first() == model.entry(expected.group, index)
                        && entries.first().map(Entry::term) == term_at(&found, index) => {}
                Err(LogError::DamagedEntries(_)) if is_damaged => {}
                other => return Err(format!("entry {index}: {other:?}")),
            }
        }
    }
    Ok(())
}

fn term_at(state: &GroupState, index: LogIndex) -> Option<Term> {
    state.term_runs.iter().rev().find(|run| run.index <= index).map(|run| run.term)
}
