//! Many idle groups: what each costs in memory, and what all of them cost while nothing happens.
//!
//! Three processes of this program are the nodes. Whoever is first leads a group, every group has had one
//! write, and the parent looks at the processes from outside.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command};
use std::time::Duration;

use quorate::{ClusterId, GroupId, Member, Node, NodeConfig, NodeId, Raft, Start};

use crate::process::{Owned, anonymous_kib, cpu_nanos, pss_kib, thread_times};
use crate::wal_bytes::Tally;
use crate::{Failure, Flags};

const NODES: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(300);

/// One of the nodes: says `started`, opens the groups when a line comes, and says `idle` when each that it
/// leads has had a write.
pub async fn node(flags: &Flags) -> Result<(), Failure> {
    let (id, groups): (u64, u64) = (flags.get("--id", 1), flags.get("--groups", 10_000));
    let (port, rest): (u16, f64) = (flags.get("--port", 24_000), flags.get("--rest-seconds", -1.0));
    let dir: std::path::PathBuf = flags.get("--dir", std::env::temp_dir());
    let address = |id: u64| format!("127.0.0.1:{}", u64::from(port) + id);
    let mut config = NodeConfig {
        cluster: ClusterId(9),
        ..NodeConfig::durable(NodeId(id), address(id), dir.join(id.to_string()))
    };
    if rest >= 0.0 {
        config.group.core.quiesce_after = (rest > 0.0).then(|| Duration::from_secs_f64(rest));
    }
    let node = Node::start(config).await?;
    println!("started");
    let wait = || {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(drop)
    };
    tokio::task::block_in_place(wait)?;
    let members: Vec<Member> = (1..=NODES).map(|id| Member::voter(NodeId(id), address(id))).collect();
    let mut rafts: Vec<Raft> = Vec::new();
    for group in 1..=groups {
        let start = Start::Bootstrap { members: members.clone() };
        rafts.push(node.open_group(GroupId(group), start, Tally::default()).await?);
    }
    println!("open");
    tokio::task::block_in_place(wait)?;
    let mut leading = tokio::task::JoinSet::new();
    for raft in &rafts {
        // Many at a time share a sync.
        if leading.len() >= 200
            && let Some(led) = leading.join_next().await
        {
            led??;
        }
        leading.spawn(write_once(raft.clone()));
    }
    while let Some(led) = leading.join_next().await {
        led??;
    }
    println!("idle");
    tokio::task::block_in_place(wait)?;
    Ok(())
}

/// Writes once, on the node that leads the group by then.
async fn write_once(raft: Raft) -> Result<(), Failure> {
    let written = tokio::time::timeout(PATIENCE, async {
        loop {
            let status = raft.wait_for(|status| status.leader.is_some(), PATIENCE).await?;
            if status.leader != Some(status.replica) || raft.apply("x").await.is_ok() {
                return Ok::<(), quorate::Timeout>(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    Ok(written.await??)
}

struct Child {
    owned: Owned,
    output: BufReader<ChildStdout>,
}

impl Child {
    fn hear(&mut self, expected: &str) -> Result<(), Failure> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.trim() == expected {
            Ok(())
        } else {
            Err(format!("a node said {line:?}, not {expected:?}").into())
        }
    }
}

pub fn run(flags: &Flags) -> Result<(), Failure> {
    let scratch = flags.scratch()?;
    let (groups, rest): (u64, f64) = (flags.get("--groups", 10_000), flags.get("--rest-seconds", -1.0));
    let settle: u64 = flags.get("--settle-seconds", 30);
    let port = (24_000 + std::process::id() % 400 * 8).to_string();
    let mut children = Vec::new();
    for id in 1..=NODES {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["groups-node", "--id", &id.to_string(), "--groups", &groups.to_string()]);
        command.args(["--rest-seconds", &rest.to_string(), "--port", &port]).arg("--dir").arg(scratch.path());
        let (owned, output) = Owned::start(&mut command, &scratch.path().join(format!("{id}.log")))?;
        children.push(Child { owned, output });
    }
    children.iter_mut().try_for_each(|child| child.hear("started"))?;
    let memory = |child: &Child| {
        let pid = child.owned.pid();
        (anonymous_kib(pid).unwrap_or_default(), pss_kib(pid).unwrap_or_default())
    };
    let before: Vec<_> = children.iter().map(memory).collect();
    for word in ["open", "idle"] {
        let begun = std::time::Instant::now();
        children.iter_mut().try_for_each(|child| child.owned.go_on())?;
        children.iter_mut().try_for_each(|child| child.hear(word))?;
        eprintln!("{word} after {:.1} s", begun.elapsed().as_secs_f64());
    }
    std::thread::sleep(Duration::from_secs(settle));
    let pids: Vec<u32> = children.iter().map(|child| child.owned.pid()).collect();
    let threads: Vec<_> = pids.iter().map(|pid| thread_times(*pid)).collect();
    let cpu: Vec<u64> = pids.iter().map(|pid| cpu_nanos(*pid)).collect();
    std::thread::sleep(Duration::from_secs(20));
    println!("{groups} groups on each of {NODES} nodes, rest after {rest} s (negative: as by default)");
    println!(
        "| node | processor, % of a core | memory a group, KiB | of it anonymous, KiB | PSS, MiB |\n|---|---|---|---|---|"
    );
    for (at, child) in children.iter().enumerate() {
        let busy = (cpu_nanos(pids[at]) - cpu[at]) as f64 / 20e9 * 100.0;
        let (anonymous, pss) = memory(child);
        let per_group = |now: u64, before: u64| now.saturating_sub(before) as f64 / groups as f64;
        println!(
            "| {} | {busy:.2} | {:.2} | {:.2} | {:.0} |",
            at + 1,
            per_group(pss, before[at].1),
            per_group(anonymous, before[at].0),
            pss as f64 / 1024.0
        );
    }
    for (name, before) in &threads[0] {
        let now =
            thread_times(pids[0]).into_iter().find(|(other, _)| other == name).map_or(0, |(_, now)| now);
        eprintln!(
            "node 1, thread {name}: {:.3} % of a core",
            now.saturating_sub(*before) as f64 / 20e9 * 100.0
        );
    }
    Ok(())
}
