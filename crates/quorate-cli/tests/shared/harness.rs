//! What stories about real processes need: ports that are free, processes that never outlive their test, and
//! waiting for conditions with a deadline.
//!
//! Two test targets share this file: `process` (one story per thing that may happen) and `chaos` (everything that
//! may happen, while clients write down what they see).

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use quorate_client::{Client, ClientOptions, proto};
use serde_json::Value;
use tempfile::TempDir;

/// The election timeout of the stories' nodes.
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(600);
/// Longer than anything takes on a machine that does other things as well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `probe` has something to say.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        let_pass(Duration::from_millis(15));
    }
}

/// Does nothing for a while: between two looks at a condition, or for as long as a fault lasts.
pub(crate) fn let_pass(time: Duration) {
    // Nobody ever sends.
    let (_nobody, silence) = mpsc::channel::<()>();
    silence.recv_timeout(time).unwrap_err();
}

/// A range of ports for one story, below those that the kernel gives to outgoing connections. The
/// first one is held as a lease, so that stories in other processes take other ranges.
pub(crate) struct Ports {
    pub(crate) base: u16,
    host: fn(u64) -> String,
    _lease: Option<TcpListener>,
}

impl Ports {
    const RANGE: u16 = 128;

    pub(crate) fn lease() -> Self {
        let ranges = (32_000 - 16_000) / Self::RANGE;
        let first = u16::try_from(std::process::id() % u32::from(ranges)).unwrap();
        let bases = (0..ranges).map(|n| 16_000 + (first + n) % ranges * Self::RANGE);
        let mut free = bases.filter_map(|base| {
            let lease = TcpListener::bind(("127.0.0.1", base)).ok()?;
            let all = [1, 2, 3, 4, 101, 102, 103, 104];
            let free = all.iter().all(|offset| TcpListener::bind(("127.0.0.1", base + offset)).is_ok());
            free.then_some(Self { base, host: |_| "127.0.0.1".to_owned(), _lease: Some(lease) })
        });
        free.next().expect("there are 125 ranges of ports")
    }

    /// Where every node has an address of its own and nobody else uses ports.
    pub(crate) fn of_hosts(host: fn(u64) -> String) -> Self {
        Self { base: 7000, host, _lease: None }
    }

    pub(crate) fn client(&self, node: u64) -> String {
        format!("{}:{}", (self.host)(node), self.base + u16::try_from(node).unwrap())
    }

    pub(crate) fn peer(&self, node: u64) -> String {
        format!("{}:{}", (self.host)(node), self.base + 100 + u16::try_from(node).unwrap())
    }
}

/// The program, without the settings of whoever runs the tests.
pub(crate) fn program() -> Command {
    program_after(&[])
}

/// The program as the last word of a command that becomes it (`ip netns exec NAME`), which keeps its process id.
fn program_after(words: &[String]) -> Command {
    let program = env!("CARGO_BIN_EXE_quorate").to_owned();
    let mut words = words.iter().chain([&program]);
    let mut command = Command::new(words.next().expect("the program at least"));
    command.args(words);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("QUORATE_") {
            command.env_remove(name);
        }
    }
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Finished {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn expect_ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// The one line that a failure with this exit code says.
    pub(crate) fn expect_failure(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        let line = self.stderr.trim_end();
        assert!(line.starts_with("quorate: ") && !line.contains('\n'), "not one line: {line:?}");
        line.trim_start_matches("quorate: ")
    }
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command, input: &[u8]) -> Finished {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command that does not want its input closes it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = read_in_background(child.stdout.take().unwrap());
    let stderr = read_in_background(child.stderr.take().unwrap());
    let status = wait(&mut child);
    writer.join().unwrap();
    let stderr = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
    Finished { code: status.code(), stdout: stdout.join().unwrap(), stderr }
}

/// Runs the program with these arguments.
pub(crate) fn quorate(arguments: &[&str]) -> Finished {
    let mut command = program();
    command.args(arguments);
    finish(command, b"")
}

fn read_in_background(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Waits for the end of a process; kills it when that takes too long.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    eventually("the process ends", || {
        if begun.elapsed() > PATIENCE - Duration::from_secs(2) {
            drop(child.kill());
        }
        child.try_wait().unwrap()
    })
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Whether a process is there. One that has ended and was not collected by its parent is not.
pub(crate) fn is_alive(pid: u32) -> bool {
    // Linux only; elsewhere the first process collects orphans at once.
    if std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z ")) {
        return false;
    }
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::test_kill_process(pid).is_ok()
}

/// The next line of a stream that a thread reads, within the deadline.
pub(crate) fn lines_of(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (said, hear) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if said.send(line).is_err() {
                break;
            }
        }
    });
    hear
}

/// A running `quorate serve`. Killed when dropped, and when the test process is gone.
pub(crate) struct Node {
    child: Child,
    input: Option<ChildStdin>,
    pub(crate) client: String,
}

impl Node {
    /// Starts a node and waits until it is ready. What it logs goes to the end of `log`.
    fn start(before: &[String], arguments: &[String], log: &Path) -> Self {
        Self::try_start(before, arguments, log)
            .unwrap_or_else(|finished| panic!("{arguments:?} is not ready: {finished:?}"))
    }

    /// Starts a node, or says how it ended instead. What it logs goes to the end of `log`.
    fn try_start(before: &[String], arguments: &[String], log: &Path) -> Result<Self, Finished> {
        let logged_before = std::fs::read(log).map_or(0, |log| log.len());
        let log_file = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut child = program_after(before)
            .args(arguments)
            .args(["--ready-format", "json", "--exit-with-parent"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let Ok(line) = lines.recv_timeout(PATIENCE) else {
            let code = wait(&mut child).code();
            let stderr = std::fs::read(log).unwrap().split_off(logged_before);
            let stderr = String::from_utf8_lossy(&stderr).into_owned();
            return Err(Finished { code, stdout: Vec::new(), stderr });
        };
        let ready: Value = serde_json::from_str(&line).unwrap();
        let client = ready["client_listen"].as_str().unwrap().to_owned();
        Ok(Self { child, input: Some(input), client })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Closes its standard input, which it is to end with, and returns the exit code.
    pub(crate) fn let_go(mut self) -> Option<i32> {
        drop(self.input.take());
        wait(&mut self.child).code()
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        signal(self.pid(), rustix::process::Signal::TERM);
        wait(&mut self.child).code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a node says of itself, if it says it soon.
async fn ask(address: &str) -> Option<proto::StatusResponse> {
    let limit = 2 * ELECTION_TIMEOUT;
    let options = ClientOptions { deadline: limit, ..ClientOptions::default() };
    let client = Client::connect([address], options).unwrap();
    tokio::time::timeout(limit, client.status_of(address)).await.ok()?.ok()
}

/// Nodes with their directories and ports; a node is always started again with the same command.
pub(crate) struct Cluster {
    pub(crate) scratch: TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
    /// The words before the program in a node's command.
    before: BTreeMap<u64, Vec<String>>,
    commands: BTreeMap<u64, Vec<String>>,
    nodes: BTreeMap<u64, Node>,
    /// Given back when the nodes are gone.
    pub(crate) ports: Ports,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::at(Ports::lease())
    }

    pub(crate) fn at(ports: Ports) -> Self {
        Self {
            ports,
            scratch: tempfile::tempdir().unwrap(),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            before: BTreeMap::new(),
            commands: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// Three nodes started at once with the same list, and a leader. `more` are further flags.
    pub(crate) fn of_three(more: &[&str]) -> Self {
        let mut cluster = Self::new();
        let addresses = (1..=3).map(|node| (node, cluster.ports.peer(node))).collect();
        cluster.start_all(&addresses, more);
        cluster
    }

    /// Nodes started at once, which reach each other at these addresses, and a leader.
    pub(crate) fn start_all(&mut self, addresses: &BTreeMap<u64, String>, more: &[&str]) {
        let members: Vec<String> =
            addresses.iter().map(|(node, address)| format!("{node}={address}")).collect();
        let members = members.join(",");
        for (node, address) in addresses {
            let mut flags = vec!["--initial-cluster", &members, "--peer-advertise", address];
            flags.extend(more);
            self.start(*node, &flags);
        }
        self.wait_for_leader(None);
    }

    /// Puts words before the program in the command of `node`, which is not started yet.
    pub(crate) fn set_before(&mut self, node: u64, words: &[&str]) {
        self.before.insert(node, words.iter().map(|&word| word.to_owned()).collect());
    }

    fn before(&self, node: u64) -> &[String] {
        self.before.get(&node).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn dir(&self, node: u64) -> PathBuf {
        self.scratch.path().join(format!("d{node}"))
    }

    pub(crate) fn log(&self, node: u64) -> PathBuf {
        self.scratch.path().join(format!("n{node}.log"))
    }

    /// The whole command of a node.
    pub(crate) fn arguments(&self, node: u64, flags: &[&str]) -> Vec<String> {
        let (id, dir) = (node.to_string(), self.dir(node).display().to_string());
        let timeout = ELECTION_TIMEOUT.as_millis().to_string();
        let (peer, client) = (self.ports.peer(node), self.ports.client(node));
        let mut all = vec!["serve", "--id", &id, "--dir", &dir, "--peer-listen", &peer];
        all.extend([
            "--client-listen",
            &client,
            "--election-timeout-ms",
            &timeout,
            "--heartbeat-interval-ms",
            "100",
        ]);
        all.extend(flags);
        all.into_iter().map(str::to_owned).collect()
    }

    /// Starts a node for the first time.
    pub(crate) fn start(&mut self, node: u64, flags: &[&str]) {
        self.commands.insert(node, self.arguments(node, flags));
        self.restart(node);
    }

    /// The identical command again.
    pub(crate) fn restart(&mut self, node: u64) {
        let started = Node::start(self.before(node), &self.commands[&node], &self.log(node));
        assert!(self.nodes.insert(node, started).is_none(), "node {node} runs already");
    }

    /// The command again, with more flags.
    pub(crate) fn restart_with(&mut self, node: u64, flags: &[&str]) {
        let command = self.commands.get_mut(&node).expect("the node was started before");
        for flag in flags.chunks(2) {
            match command.iter().position(|known| known == flag[0]) {
                Some(at) => command[at + 1] = flag[1].to_owned(),
                None => command.extend(flag.iter().map(|&word| word.to_owned())),
            }
        }
        self.restart(node);
    }

    /// The identical command again, which may fail.
    pub(crate) fn try_restart(&mut self, node: u64) -> Result<(), Finished> {
        let started = Node::try_start(self.before(node), &self.commands[&node], &self.log(node))?;
        assert!(self.nodes.insert(node, started).is_none(), "node {node} runs already");
        Ok(())
    }

    /// Runs the command of a node that is expected to fail.
    pub(crate) fn restart_in_vain(&self, node: u64) -> Finished {
        let mut command = program();
        command.args(&self.commands[&node]);
        finish(command, b"")
    }

    pub(crate) fn take(&mut self, node: u64) -> Node {
        self.nodes.remove(&node).expect("the node runs")
    }

    pub(crate) fn node(&mut self, node: u64) -> &mut Node {
        self.nodes.get_mut(&node).expect("the node runs")
    }

    pub(crate) fn running(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// Where clients reach the nodes that run.
    pub(crate) fn endpoints(&self) -> String {
        self.nodes.values().map(|node| node.client.clone()).collect::<Vec<_>>().join(",")
    }

    /// The command line, as a user of this cluster would type it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).env("QUORATE_ENDPOINTS", self.endpoints());
        command
    }

    pub(crate) fn quorate(&self, arguments: &[&str]) -> Finished {
        finish(self.command(arguments), b"")
    }

    pub(crate) fn client(&self) -> Client {
        let all: Vec<String> = self.commands.keys().map(|node| self.ports.client(*node)).collect();
        self.runtime.block_on(async { Client::connect(all, ClientOptions::default()).unwrap() })
    }

    pub(crate) fn status(&self, node: u64) -> Option<proto::StatusResponse> {
        self.runtime.block_on(ask(&self.ports.client(node)))
    }

    /// The first running node that says it leads, unless that is `except`. Asks all at once: a node
    /// without a leader takes its time to answer.
    pub(crate) fn leader(&self, except: Option<u64>) -> Option<u64> {
        self.runtime.block_on(async {
            let mut asking = tokio::task::JoinSet::new();
            for (id, node) in self.nodes.iter().filter(|(id, _)| Some(**id) != except) {
                let (id, address) = (*id, node.client.clone());
                asking.spawn(async move { (id, ask(&address).await) });
            }
            while let Some(answer) = asking.join_next().await {
                let (id, status) = answer.unwrap();
                if status.is_some_and(|status| status.role() == proto::Role::Leader) {
                    return Some(id);
                }
            }
            None
        })
    }

    pub(crate) fn wait_for_leader(&self, except: Option<u64>) -> u64 {
        eventually("a leader", || self.leader(except))
    }

    /// Waits until these nodes, and no others, vote.
    pub(crate) fn wait_for_voters(&self, nodes: &[u64]) {
        eventually(&format!("{nodes:?} vote"), || {
            let members = self.quorate(&["member", "list", "-o", "json"]);
            if members.code != Some(0) {
                return None;
            }
            let members = members.json();
            let voters = members["members"].as_array()?.iter().filter(|member| member["voter"] == true);
            let voters: Vec<u64> = voters.filter_map(|member| member["id"].as_u64()).collect();
            (voters == nodes).then_some(())
        });
    }
}
