//! Whether our core meant what etcd's tests expect, step by step; and the list of reviewed deviations.
//!
//! A difference is one line: `file step N: subject: etcd says a, we say b`. `deviations.txt` holds the
//! lines that are deliberate, each under a comment that says why. A file passes when its differences
//! are exactly its lines in that list: a deviation that has gone must leave the list too.
//!
//! A line `file steps A..B` there says that the two sides do the same in another order from step A on, and
//! are together again after step B. Such a stretch is compared as one step: how far every replica has
//! applied, and its last role, term, vote, commit index and members; not the single messages and writes.

use crate::cluster::Cluster;
use crate::expected;
use crate::facts::{Facts, Kind};
use crate::format;

/// The reviewed deviations of all files.
pub(crate) const REVIEWED: &str = include_str!("deviations.txt");

/// What came of a file.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Our own output, after each directive.
    pub(crate) text: String,
    /// Differences that are not in the reviewed list.
    pub(crate) new: Vec<String>,
    /// Lines of the reviewed list that did not come up.
    pub(crate) gone: Vec<String>,
    /// Differences that are in the reviewed list.
    pub(crate) reviewed: Vec<String>,
    /// How many stretches were compared as one step.
    pub(crate) stretches: usize,
}

impl Outcome {
    pub(crate) fn passes(&self) -> bool {
        self.new.is_empty() && self.gone.is_empty()
    }
}

/// Runs the file `name` with this `text`, and compares where its output is not switched off.
///
/// # Errors
/// A line that cannot be read, or a directive that cannot be run.
pub(crate) fn run(name: &str, text: &str, reviewed: &str) -> Result<Outcome, String> {
    let mut cluster = Cluster::default();
    let mut outcome = Outcome::default();
    let mut differences = Vec::new();
    let mut muted = false;
    let listed: Vec<&str> = lines_of(name, reviewed).collect();
    let stretches: Vec<(usize, usize)> = listed.iter().filter_map(|line| stretch(line)).collect();
    let mut stretched = (Facts::default(), Facts::default());
    let mut together = Facts::default();
    for (number, step) in (1..).zip(format::parse(text)?) {
        let story = cluster.run(&step).map_err(|what| format!("line {}: {what}", step.line))?;
        outcome
            .text
            .push_str(&format!("step {number}, line {}: {}\n{}", step.line, step.directive, story.text));
        if step.directive == "log-level" {
            muted = step.plain().next().is_some_and(is_none);
        }
        let muted = muted || step.value("log-level").is_some_and(is_none);
        together.add(story.facts);
        if step.goes_on {
            continue;
        }
        let (wanted, ours) = (expected::read(&step), std::mem::take(&mut together));
        let found = match stretches.iter().find(|(first, last)| (*first..=*last).contains(&number)) {
            None => difference(&wanted, &ours, muted),
            Some((_, last)) => {
                stretched.0.add(wanted);
                stretched.1.add(ours);
                if *last > number {
                    continue;
                }
                let (etcd, ours) = std::mem::take(&mut stretched);
                difference(&etcd.outcome(), &ours.outcome(), false)
            }
        };
        differences.extend(found.into_iter().map(|what| format!("{name} step {number}: {what}")));
    }
    for line in listed.iter().filter(|line| stretch(line).is_none()) {
        if !differences.iter().any(|found| found == line) {
            outcome.gone.push((*line).to_owned());
        }
    }
    (outcome.reviewed, outcome.new) =
        differences.into_iter().partition(|found| listed.contains(&found.as_str()));
    outcome.stretches = stretches.len();
    Ok(outcome)
}

fn is_none(level: &str) -> bool {
    level.eq_ignore_ascii_case("none")
}

/// The lines of the list that are about the file `name`.
fn lines_of<'a>(name: &'a str, reviewed: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = reviewed.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter(move |line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))
}

/// The first and the last step of a line `file steps 4..7`.
fn stretch(line: &str) -> Option<(usize, usize)> {
    let (_, steps) = line.split_once(" steps ")?;
    let (first, last) = steps.split_once("..")?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Every subject on which the two sides do not mean the same. Of muted output only a refusal is left.
fn difference(etcd: &Facts, ours: &Facts, muted: bool) -> Vec<String> {
    let mut found = Vec::new();
    let (theirs, own) = (etcd.all(), ours.all());
    for (subject, (_, value)) in &theirs {
        match own.get(subject) {
            Some((_, same)) if same == value => {}
            Some((_, other)) => found.push(format!("{subject}: etcd says {value}, we say {other}")),
            None => found.push(format!("{subject}: etcd says {value}, we say nothing")),
        }
    }
    for (subject, (kind, value)) in &own {
        let speaks = *kind == Kind::Deed && (!muted || *subject == "refused");
        if speaks && !theirs.contains_key(subject) {
            found.push(format!("{subject}: etcd says nothing, we say {value}"));
        }
    }
    for (position, content) in etcd.contents() {
        if let Some(other) = ours.contents().get(position).filter(|other| *other != content) {
            let (index, term) = position;
            found.push(format!("entry {term}/{index}: etcd says {content}, we say {other}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORY: &str = include_str!("samples/a_lost_append.txt");

    fn outcome(text: &str, reviewed: &str) -> Outcome {
        run("story.txt", text, reviewed).unwrap()
    }

    #[test]
    fn our_core_means_what_the_samples_say() {
        for text in [STORY, include_str!("samples/threads.txt")] {
            let outcome = outcome(text, "");
            assert!(outcome.passes(), "{}\n{:#?}", outcome.text, outcome.new);
        }
    }

    #[test]
    fn members_are_compared_where_everything_is_applied() {
        let outcome = run("members.txt", include_str!("samples/members.txt"), REVIEWED).unwrap();
        assert!(outcome.passes(), "{}\n{:#?}", outcome.text, outcome.new);
    }

    #[test]
    fn what_is_not_meant_is_found_and_may_be_reviewed() {
        let wrong = STORY.replacen("HardState Term:1 Vote:1 Commit:6", "HardState Term:1 Vote:1 Commit:5", 1);
        let found = outcome(&wrong, "");
        let line = "story.txt step 17: 3 commit: etcd says 5, we say 6";
        assert_eq!(found.new, [line]);
        let reviewed = outcome(&wrong, &format!("# why\n{line}\nanother.txt step 1: a: b"));
        assert!(reviewed.passes());
        assert_eq!(reviewed.reviewed, [line]);
    }

    #[test]
    fn a_stretch_is_compared_as_one_step() {
        let later = STORY.replacen("  3->1 MsgVoteResp Term:1 Log:0/0\n", "", 1);
        assert!(!outcome(&later, "").passes());
        assert!(outcome(&later, "story.txt steps 3..6").passes());
        let wrong = later.replacen("INFO 1 became leader at term 1", "INFO 1 became follower at term 2", 1);
        let found = outcome(&wrong, "story.txt steps 3..6").new;
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("1 role now: etcd says Follower, we say Leader"));
    }

    #[test]
    fn a_reviewed_deviation_that_is_gone_is_found() {
        let line = "story.txt step 3: 1 term: etcd says 9, we say 1";
        assert_eq!(outcome(STORY, line).gone, [line]);
    }

    #[test]
    fn deeds_count_on_both_sides() {
        let silent = STORY.replacen("  3->1 MsgVoteResp Term:1 Log:0/0\n", "", 1);
        assert_eq!(
            outcome(&silent, "").new,
            ["story.txt step 5: sent 3→1 votes: etcd says nothing, we say t1 yes"]
        );
        let other = STORY.replace("1/6 EntryNormal \"ab\"", "1/6 EntryNormal \"z\"");
        assert!(outcome(&other, "").new.iter().any(|line| line.contains("entry 1/6")));
    }

    #[test]
    fn what_cannot_be_run_is_said_with_its_line() {
        assert!(
            run("story.txt", "\nfly 1\n----\n", "").unwrap_err().contains("line 2: unknown directive fly")
        );
        assert!(run("story.txt", "campaign 1\n----\n", "").unwrap_err().contains("no replica 1"));
        assert!(run("story.txt", "stabilize\nv2\n----\n", "").unwrap_err().contains("unknown directive v2"));
        let change = "add-nodes 1 voters=(1)\n----\n\npropose-conf-change 1\nx2\n----\n";
        assert!(run("story.txt", change, "").unwrap_err().contains("v1 l2 r3 u4"));
    }
}
