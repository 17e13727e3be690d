//! Majority arithmetic, in one place: everything that counts voters counts them here.

/// How many of `voters` are a majority.
pub(crate) const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest value that a majority has reached, given one value per voter: the commit rule's
/// index, the newest confirmed read round, the moment a quorum was last heard. Zero without voters.
pub(crate) fn reached_by_majority<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    if values.is_empty() {
        return T::default();
    }
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[majority(values.len()) - 1]
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    Won,
    Lost,
    Open,
}

/// Counts one answer per voter (`None`: not answered yet).
pub(crate) fn tally(answers: impl Iterator<Item = Option<bool>>) -> Tally {
    let (mut voters, mut granted, mut refused) = (0, 0, 0);
    for answer in answers {
        voters += 1;
        match answer {
            Some(true) => granted += 1,
            Some(false) => refused += 1,
            None => {}
        }
    }
    if voters == 0 || refused > voters - majority(voters) {
        Tally::Lost
    } else if granted >= majority(voters) {
        Tally::Won
    } else {
        Tally::Open
    }
}
