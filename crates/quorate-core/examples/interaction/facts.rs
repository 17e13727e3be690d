//! What one step showed, in words that etcd's output and our core both have: the meaning that is
//! compared.
//!
//! A fact is a subject with a value, such as `2 commit` = `12` or `sent 1→2 offers` = `1/12..14`.
//! Two kinds differ in what it means that one side is silent:
//!
//! * *States* (role, leader, term, vote, commit, progress, members, news of the commit index): etcd prints
//!   them when they change, we know them always. What etcd printed must hold with us.
//! * *Deeds* (entries written and applied, votes asked and given, entries offered, refusals,
//!   snapshots): each must be on both sides.

use std::collections::{BTreeMap, BTreeSet};

/// Whether silence means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Must hold where etcd says it.
    State,
    /// Must be said by both or by none.
    Deed,
}

/// The facts of one step. A later value of a subject replaces an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    said: BTreeMap<String, (Kind, String)>,
    /// Deeds that are done to entries, by subject.
    entries: BTreeMap<String, BTreeSet<Position>>,
    /// What the entries that were named hold.
    contents: BTreeMap<Position, String>,
}

/// An entry's index and term.
pub(crate) type Position = (u64, u64);

impl Facts {
    pub(crate) fn state(&mut self, subject: String, value: impl ToString) {
        self.said.insert(subject, (Kind::State, value.to_string()));
    }

    pub(crate) fn deed(&mut self, subject: String, value: impl ToString) {
        self.said.insert(subject, (Kind::Deed, value.to_string()));
    }

    /// Something was done to the entry at `position`, which holds `content`.
    pub(crate) fn entry(&mut self, subject: String, position: Position, content: String) {
        self.entries.entry(subject).or_default().insert(position);
        self.contents.insert(position, content);
    }

    /// Notes the larger of the values said.
    pub(crate) fn at_least(&mut self, subject: String, value: u64) {
        let before = self.said.get(&subject).and_then(|(_, before)| before.parse().ok()).unwrap_or(0);
        self.state(subject, before.max(value));
    }

    /// Everything said, by subject.
    pub(crate) fn all(&self) -> BTreeMap<&str, (Kind, String)> {
        let said = self.said.iter().map(|(subject, said)| (subject.as_str(), said.clone()));
        let entries = self.entries.iter().map(|(subject, list)| (subject.as_str(), (Kind::Deed, runs(list))));
        said.chain(entries).collect()
    }

    /// Adds what a later step says.
    pub(crate) fn add(&mut self, later: Self) {
        self.said.extend(later.said);
        self.contents.extend(later.contents);
        for (subject, entries) in later.entries {
            self.entries.entry(subject).or_default().extend(entries);
        }
    }

    /// What several steps led to: no messages and no writes, and of what was applied only how far.
    pub(crate) fn outcome(self) -> Self {
        let mut outcome = Self { contents: self.contents, ..Self::default() };
        for (subject, list) in self.entries {
            if let (Some(id), Some((index, _))) = (subject.strip_suffix(" applies"), list.last()) {
                outcome.at_least(format!("{id} has applied"), *index);
            }
        }
        for (subject, (kind, value)) in self.said {
            if let (Some(id), Ok(index)) = (subject.strip_suffix(" restores"), value.parse()) {
                outcome.at_least(format!("{id} has applied"), index);
            } else if !Way::ALL.iter().any(|way| subject.starts_with(way.name())) {
                outcome.said.insert(subject, (kind, value));
            }
        }
        outcome
    }

    pub(crate) const fn contents(&self) -> &BTreeMap<Position, String> {
        &self.contents
    }
}

/// `1/12..14 2/15`: entries of one term without a gap are written as one.
fn runs(entries: &BTreeSet<Position>) -> String {
    let mut runs: Vec<(u64, u64, u64)> = Vec::new();
    for (index, term) in entries {
        match runs.last_mut() {
            Some((of, _, last)) if of == term && *last + 1 == *index => *last = *index,
            _ => runs.push((*term, *index, *index)),
        }
    }
    let written = runs.into_iter().map(|(term, first, last)| {
        if first == last { format!("{term}/{first}") } else { format!("{term}/{first}..{last}") }
    });
    written.collect::<Vec<_>>().join(" ")
}

/// Which end of a message's way a step showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Sent,
    Received,
    Dropped,
}

impl Way {
    const ALL: [Self; 3] = [Self::Sent, Self::Received, Self::Dropped];

    const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
            Self::Dropped => "dropped",
        }
    }

    /// The beginning of a subject.
    pub(crate) fn subject(self, from: u64, to: u64, what: &str) -> String {
        format!("{} {from}→{to} {what}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_written_in_runs() {
        let entries = [(12, 1), (13, 1), (14, 2), (16, 2), (17, 2)];
        assert_eq!(runs(&entries.into()), "1/12..13 2/14 2/16..17");
        assert_eq!(runs(&[(11, 1), (12, 1)].into()), "1/11..12");
    }

    #[test]
    fn of_two_acknowledgements_the_larger_counts() {
        let mut facts = Facts::default();
        facts.at_least("sent 2→1 acknowledges".to_owned(), 13);
        facts.at_least("sent 2→1 acknowledges".to_owned(), 12);
        assert_eq!(facts.all()["sent 2→1 acknowledges"], (Kind::State, "13".to_owned()));
    }
}
