//! Reads what etcd's interaction tests expect into facts.
//!
//! ```text
//! > 2 handling Ready                          whose Ready follows (or is named by the directive)
//!   Lead:1 State:StateFollower                2 leader, 2 role
//!   HardState Term:1 Vote:1 Commit:12         2 term, 2 vote, 2 commit
//!   Entries: / CommittedEntries:              2 writes, 2 applies: the entries
//!   Messages:                                 sent …
//! > 1 receiving messages                      received …
//!   2->1 MsgAppResp Term:1 Log:0/12
//! INFO 2 became follower at term 1            2 role now, 2 term now
//! INFO 2 switched to configuration voters=(1 2)    2 members now
//! 2: StateReplicate match=11 next=12          progress of 2
//! ```
//!
//! Empty appends, and acceptances of them, are news of the commit index: etcd sends them where our
//! core sends heartbeats. What they achieve is compared (the commit index of the receiver), and how
//! much was acknowledged; that they were sent is not.

use crate::facts::{Facts, Position, Way};
use crate::format::Step;

/// Which list the lines belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    None,
    Entries,
    Committed,
}

/// A message whose list goes on over the next lines.
#[derive(Clone, Copy)]
enum Open {
    /// The entries of an append between replicas.
    Append { from: u64, to: u64, way: Way },
    /// What is for a storage thread: it happens when the thread runs.
    Other,
}

struct Reader {
    facts: Facts,
    /// Whose output is being read.
    who: u64,
    way: Way,
    list: List,
    open: Option<Open>,
}

/// The facts that `step` should show.
pub(crate) fn read(step: &Step) -> Facts {
    let delivers = step.directive == "deliver-msgs";
    let mut reader = Reader {
        facts: Facts::default(),
        who: step.replicas().first().copied().unwrap_or(0),
        way: if delivers { Way::Received } else { Way::Sent },
        list: List::None,
        open: None,
    };
    for line in &step.expected {
        match step.directive.as_str() {
            "status" => reader.progress(line),
            "raft-state" => reader.now(line),
            "raft-log" | "compact" => reader.log(line),
            _ => reader.line(line.trim()),
        }
    }
    reader.facts
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some(open) = self.open {
            self.continued(open, line);
            return;
        }
        if let Some(heading) = line.strip_prefix("> ") {
            self.heading(heading);
        } else if let Some(dropped) = line.strip_prefix("dropped: ") {
            self.message(dropped, Way::Dropped);
        } else if self.log_line(line) || self.ready_line(line) {
        } else if let Some((position, what)) = entry(line) {
            let verb = match self.list {
                List::Entries => "writes",
                List::Committed => "applies",
                List::None => return,
            };
            self.facts.entry(format!("{} {verb}", self.who), position, what);
        } else if line.contains("->") {
            self.message(line, self.way);
        } else if line.contains("proposal dropped") {
            self.facts.deed("refused".to_owned(), "yes");
        }
    }

    /// A line of a list that began on an earlier one; `]` ends it, or begins the next.
    fn continued(&mut self, open: Open, line: &str) {
        if line.starts_with(']') {
            self.open = line.ends_with('[').then_some(Open::Other);
        } else if let (Open::Append { from, to, way }, Some((position, what))) = (open, entry(line)) {
            self.facts.entry(way.subject(from, to, "offers"), position, what);
        }
    }

    fn heading(&mut self, heading: &str) {
        self.list = List::None;
        let mut words = heading.split(' ');
        self.who = words.next().and_then(|id| id.parse().ok()).unwrap_or(0);
        self.way = if words.next() == Some("receiving") { Way::Received } else { Way::Sent };
    }

    /// `INFO`, `DEBUG` and `WARN`: what a log line tells of a state.
    fn log_line(&mut self, line: &str) -> bool {
        let Some((level, said)) = line.split_once(' ') else { return false };
        if !["DEBUG", "INFO", "WARN", "ERROR"].contains(&level) {
            return false;
        }
        let words: Vec<&str> = said.split(' ').collect();
        match words.as_slice() {
            [id, "became", role, "at", "term", term] => {
                self.facts.state(format!("{id} role now"), role_of(role));
                self.facts.state(format!("{id} term now"), term);
            }
            [id, "switched", "to", "configuration", members @ ..] => {
                self.facts.state(format!("{id} members now"), members.join(" "));
            }
            _ => {}
        }
        true
    }

    fn ready_line(&mut self, line: &str) -> bool {
        let who = self.who;
        let list = match line {
            "Entries:" => List::Entries,
            "CommittedEntries:" => List::Committed,
            "Messages:" | "Responses:" | "Processing:" => List::None,
            _ => {
                if let Some(hard) = line.strip_prefix("HardState ") {
                    for (field, name) in [("Term:", "term"), ("Vote:", "vote"), ("Commit:", "commit")] {
                        let value = number(hard, field).unwrap_or(0);
                        self.facts.state(format!("{who} {name}"), value);
                    }
                } else if let (true, Some((lead, state))) = (line.starts_with("Lead:"), line.split_once(' '))
                {
                    self.facts.state(format!("{who} leader"), number(lead, "Lead:").unwrap_or(0));
                    let role = role_of(state.trim_start_matches("State:State"));
                    self.facts.state(format!("{who} role"), role);
                } else if let Some(snapshot) = line.strip_prefix("Snapshot Index:") {
                    let index = snapshot.split(' ').next().unwrap_or_default();
                    self.facts.deed(format!("{who} restores"), index);
                } else {
                    return line.starts_with("Ready MustSync") || line.starts_with("Snapshot:");
                }
                List::None
            }
        };
        self.list = list;
        true
    }

    /// `1->2 MsgApp Term:1 Log:1/11 Commit:11 Entries:[1/12 EntryNormal "a"]` and the like.
    fn message(&mut self, line: &str, way: Way) {
        let Some((route, rest)) = line.split_once(' ') else { return };
        let Some((from, to)) = route.split_once("->") else { return };
        self.open = line.ends_with('[').then_some(Open::Other);
        let (Ok(from), Ok(to)) = (from.parse::<u64>(), to.parse::<u64>()) else { return };
        if from == to {
            // A replica's own vote or acknowledgement: in our core, its own business.
            return;
        }
        let kind = rest.split(' ').next().unwrap_or_default();
        let term = number(rest, "Term:").unwrap_or(0);
        let position = text(rest, "Log:").unwrap_or("0/0");
        let index = position.split('/').nth(1).and_then(|index| index.parse().ok()).unwrap_or(0);
        let refused = rest.contains("Rejected");
        let yes = if refused { "no" } else { "yes" };
        let subject = |what: &str| way.subject(from, to, what);
        match kind {
            "MsgVote" => self.facts.deed(subject("asks for a vote"), format!("t{term} {position}")),
            "MsgPreVote" => self.facts.deed(subject("asks for a pre-vote"), format!("t{term} {position}")),
            "MsgVoteResp" => self.facts.deed(subject("votes"), format!("t{term} {yes}")),
            "MsgPreVoteResp" => self.facts.deed(subject("pre-votes"), format!("t{term} {yes}")),
            "MsgAppResp" if refused => {
                let hint = number(rest, "Hint: ").unwrap_or(0);
                self.facts.deed(subject(&format!("refuses {index}")), format!("hint {hint}"));
            }
            "MsgAppResp" => self.facts.at_least(subject("acknowledges"), index),
            "MsgHeartbeat" => self.facts.state(subject("heartbeat"), "yes"),
            "MsgHeartbeatResp" => self.facts.state(subject("answers a heartbeat"), "yes"),
            "MsgTimeoutNow" => self.facts.deed(subject("timeout now"), format!("t{term}")),
            "MsgSnap" => self.facts.deed(subject("snapshot"), "yes"),
            "MsgApp" => self.append(rest, (from, to, way)),
            _ => {}
        }
    }

    fn append(&mut self, rest: &str, (from, to, way): (u64, u64, Way)) {
        let Some((_, list)) = rest.split_once("Entries:[") else { return };
        if list.is_empty() {
            self.open = Some(Open::Append { from, to, way });
            return;
        }
        for said in list.trim_end_matches(']').split(", ") {
            if let Some((position, what)) = entry(said) {
                self.facts.entry(way.subject(from, to, "offers"), position, what);
            }
        }
    }

    /// `2: StateReplicate match=11 next=12 paused inflight=3[full]`.
    fn progress(&mut self, line: &str) {
        let Some((id, rest)) = line.split_once(": State") else { return };
        let mut words = rest.split(' ');
        let state = words.next().unwrap_or_default();
        let matched = number(rest, "match=").unwrap_or(0);
        self.facts.deed(format!("progress of {id}"), format!("{state} match={matched}"));
        // What a leader would send to itself next is nobody's business.
        if state != "Snapshot" && id != self.who.to_string() {
            self.facts.state(format!("next of {id}"), number(rest, "next=").unwrap_or(0));
        }
        self.facts.state(format!("paused {id}"), rest.contains(" paused"));
        self.facts.state(format!("silent {id}"), rest.contains(" inactive"));
    }

    /// `1: StateLeader (Voter) Term:1 Lead:1`.
    fn now(&mut self, line: &str) {
        let Some((id, rest)) = line.split_once(": State") else { return };
        let role = rest.split(' ').next().unwrap_or_default();
        self.facts.state(format!("{id} role now"), role_of(role));
        self.facts.state(format!("{id} term now"), number(rest, "Term:").unwrap_or(0));
        self.facts.state(format!("{id} leader now"), number(rest, "Lead:").unwrap_or(0));
        self.facts.state(format!("{id} votes now"), rest.contains("(Voter)"));
    }

    fn log(&mut self, line: &str) {
        if let Some((position, what)) = entry(line.trim()) {
            self.facts.entry("the log holds".to_owned(), position, what);
        } else if let Some(last) = number(line, "last index=") {
            self.facts.state("log ends".to_owned(), last);
        }
    }
}

fn role_of(role: &str) -> String {
    match role.to_ascii_lowercase().as_str() {
        "pre-candidate" | "precandidate" => "PreCandidate",
        "candidate" => "Candidate",
        "leader" => "Leader",
        _ => "Follower",
    }
    .to_owned()
}

/// `1/12 EntryNormal "foo"`: the position, and what it is (a command, nothing, or members).
fn entry(line: &str) -> Option<(Position, String)> {
    let (id, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (term, index) = id.split_once('/')?;
    let position = (index.parse().ok()?, term.parse().ok()?);
    let (kind, what) = rest.split_once(' ').unwrap_or((rest, ""));
    let what = if kind.starts_with("EntryConfChange") { "members" } else { what };
    Some((position, what.to_owned()))
}

/// What stands after `field`, up to a blank.
fn text<'a>(line: &'a str, field: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(field)?;
    rest.split(' ').next()
}

fn number(line: &str, field: &str) -> Option<u64> {
    let rest = text(line, field)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format;

    fn facts(text: &str) -> Vec<String> {
        let steps = format::parse(text).unwrap();
        let facts = read(&steps[0]);
        facts.all().into_iter().map(|(subject, (_, value))| format!("{subject}={value}")).collect()
    }

    #[test]
    fn a_ready_says_what_a_replica_is_writes_and_sends() {
        let said = "process-ready 2\n----\nReady MustSync=true:\nLead:0 State:StatePreCandidate\n\
                    HardState Term:3 Commit:9\nEntries:\n2/9 EntryNormal \"a\"\n3/10 EntryConfChangeV2 v4\n\
                    CommittedEntries:\n2/9 EntryNormal \"a\"\nMessages:\n2->1 MsgPreVote Term:4 Log:3/10\n\
                    2->1 MsgAppResp Term:3 Log:2/7 Rejected (Hint: 5)\n2->2 MsgAppResp Term:3 Log:0/10\n";
        #[rustfmt::skip]
        let expected = [
            "2 applies=2/9", "2 commit=9", "2 leader=0", "2 role=PreCandidate", "2 term=3", "2 vote=0",
            "2 writes=2/9 3/10", "sent 2→1 asks for a pre-vote=t4 3/10", "sent 2→1 refuses 7=hint 5",
        ];
        assert_eq!(facts(said), expected);
    }

    #[test]
    fn what_a_storage_thread_is_to_do_is_not_done_yet() {
        let said = "stabilize\n----\n> 1 handling Ready\n  Messages:\n  1->AppendThread MsgStorageAppend Entries:[\n    \
                    1/5 EntryNormal \"a\"\n  ] Responses:[\n    1->2 MsgAppResp Term:1 Log:0/5\n  ]\n  \
                    1->2 MsgApp Term:1 Log:1/4 Commit:4 Entries:[\n    1/5 EntryNormal \"a\"\n    1/6 EntryNormal \"\"\n  ]\n\
                    > 2 receiving messages\n  1->2 MsgHeartbeat Term:1 Log:0/0 Commit:4\n  INFO 2 became follower at term 1\n";
        let expected =
            ["2 role now=Follower", "2 term now=1", "received 1→2 heartbeat=yes", "sent 1→2 offers=1/5..6"];
        assert_eq!(facts(said), expected);
    }

    #[test]
    fn progress_and_logs_are_read() {
        let status = "status 1\n----\n1: StateReplicate match=9 next=10\n2: StateSnapshot match=0 next=9 paused pendingSnap=8\n";
        #[rustfmt::skip]
        let expected = [
            "paused 1=false", "paused 2=true", "progress of 1=Replicate match=9", "progress of 2=Snapshot match=0",
            "silent 1=false", "silent 2=false",
        ];
        assert_eq!(facts(status), expected);
        assert_eq!(facts("raft-log 1\n----\nlog is empty: first index=6, last index=5\n"), ["log ends=5"]);
        assert_eq!(facts("propose 1 a\n----\nraft proposal dropped\n"), ["refused=yes"]);
    }
}
