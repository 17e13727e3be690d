//! The demo's own little language, the same at its prompt and after `quorate demo ctl`.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::{duration, node_id};

/// What there is to say, for `help` and for `demo ctl --help`.
pub(crate) const HELP: &str = "\
Commands:
  status              every node and its role
  kill N              kill -9 the process of node N
  restart N           start node N again (after a kill, or stopping it first)
  add                 start one more node and let it join
  partition A | B     cut the network between groups of nodes: partition 1 | 2,3
                      (in a shell, a space will do: partition 1 2,3);
                      nodes that are not named stay together
  slow N TIME         delay everything to and from node N: slow 2 100ms
  heal                undo partition and slow
  help, quit          only at the prompt";

/// Something to do to the running demo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Show the nodes.
    Status,
    /// SIGKILL.
    Kill(u64),
    /// Start again.
    Restart(u64),
    /// One more node.
    Add,
    /// Only nodes in the same group reach each other.
    Partition(Vec<BTreeSet<u64>>),
    /// Delay a node's links, in both directions.
    Slow(u64, Duration),
    /// A perfect network again.
    Heal,
}

impl Order {
    /// Understands one line.
    ///
    /// # Errors
    /// One line that says what would have been understood.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let line = line.trim();
        let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (verb, words.as_slice()) {
            ("status", []) => Ok(Self::Status),
            ("add", []) => Ok(Self::Add),
            ("heal", []) => Ok(Self::Heal),
            ("kill", [node]) => Ok(Self::Kill(node_number(node)?)),
            ("restart", [node]) => Ok(Self::Restart(node_number(node)?)),
            ("slow", [node, time]) => {
                let delay = duration(time).map_err(|must| format!("{time:?} is not a time: {must}"))?;
                if delay > Duration::from_secs(60) {
                    return Err("that is slower than anybody will wait: at most 60s".to_owned());
                }
                Ok(Self::Slow(node_number(node)?, delay))
            }
            ("partition", [_, ..]) => partition(rest),
            ("kill" | "restart", _) => Err(format!("which node? For example: {verb} 2")),
            ("slow", _) => Err("which node, and how slow? For example: slow 2 100ms".to_owned()),
            ("partition", []) => Err("which groups? For example: partition 1 | 2,3".to_owned()),
            ("status" | "add" | "heal", _) => Err(format!("{verb} stands alone")),
            _ => Err(format!(
                "unknown command {verb:?}: there are status, kill, restart, add, partition, slow and heal"
            )),
        }
    }
}

fn node_number(word: &str) -> Result<u64, String> {
    node_id(word).map_err(|_| format!("{word:?} is not the number of a node"))
}

/// `1 | 2,3`, `1|2,3` and `1 2,3` are the same: a pipe sign needs quotes in a shell.
fn partition(rest: &str) -> Result<Order, String> {
    let spaced = rest.replace(',', " , ").replace('|', " | ");
    let mut groups: Vec<BTreeSet<u64>> = Vec::new();
    let mut joins_previous = false;
    let mut seen = BTreeSet::new();
    for word in spaced.split_whitespace() {
        match word {
            "," => joins_previous = true,
            "|" => joins_previous = false,
            number => {
                let node = node_number(number)?;
                if !seen.insert(node) {
                    return Err(format!("node {node} can be in one group only"));
                }
                match groups.last_mut() {
                    Some(group) if joins_previous => {
                        group.insert(node);
                    }
                    Some(_) | None => groups.push(BTreeSet::from([node])),
                }
                joins_previous = false;
            }
        }
    }
    if groups.is_empty() {
        return Err("which groups? For example: partition 1 | 2,3".to_owned());
    }
    Ok(Order::Partition(groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(line: &str) -> Vec<Vec<u64>> {
        match Order::parse(line) {
            Ok(Order::Partition(groups)) => groups.into_iter().map(|g| g.into_iter().collect()).collect(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn partition_may_be_written_for_a_prompt_or_for_a_shell() {
        let expected = vec![vec![1], vec![2, 3]];
        for line in ["partition 1|2,3", "partition 1 | 2,3", "partition 1 2,3", "partition 1 | 2 , 3"] {
            assert_eq!(groups(line), expected, "{line}");
        }
        assert_eq!(groups("partition 2"), [[2]]);
        assert_eq!(Order::parse("partition 1 | 1,2"), Err("node 1 can be in one group only".to_owned()));
    }

    #[test]
    fn orders_are_understood() {
        assert_eq!(Order::parse(" kill 2 "), Ok(Order::Kill(2)));
        assert_eq!(Order::parse("slow 2 100ms"), Ok(Order::Slow(2, Duration::from_millis(100))));
        assert_eq!(Order::parse("heal"), Ok(Order::Heal));
    }

    #[test]
    fn mistakes_are_told_what_would_be_understood() {
        for (line, told) in [
            ("kill", "which node? For example: kill 2"),
            ("kill all", "\"all\" is not the number of a node"),
            ("slow 2 fast", "\"fast\" is not a time"),
            ("partition |", "which groups?"),
            ("explode", "unknown command \"explode\""),
            ("add 4", "add stands alone"),
        ] {
            let error = Order::parse(line).unwrap_err();
            assert!(error.starts_with(told), "{line}: {error}");
        }
    }
}
