//! Owns the nodes of a running demo and carries out orders, one at a time.
//!
//! ```text
//!   prompt ──┐                       ┌─► processes    (start, SIGKILL, SIGTERM)
//!            ├──► Call ──► Supervisor┼─► proxies      (where each node listens now)
//!   ctl  ────┘              ▲        └─► Network      (who reaches whom)
//!                           └── exits ── processes that ended by themselves
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use quorate_client::proto::StatusResponse;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::command::Order;
use super::control::Call;
use super::layout::{Layout, NODES_MAX};
use super::network::Network;
use super::process::{Exited, Process, Program, Signal};
use super::proxy::{self, Wire};
use crate::admin::{ask_all, ask_for_leader, role_name};
use crate::failure::{Exit, Failure};
use crate::output;

/// The election timeout of the demo's nodes: on one machine news travels fast, and so should elections.
const ELECTION_TIMEOUT_MS: u64 = 400;
/// How often their leader speaks.
const HEARTBEAT_INTERVAL_MS: u64 = 50;
/// How long to wait for a first leader before showing the table without one.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node may take to say how it is.
const ASK_TIMEOUT: Duration = Duration::from_millis(1000);

/// One node.
#[derive(Debug)]
struct Node {
    upstream: watch::Sender<Option<SocketAddr>>,
    process: Option<Process>,
}

/// The running demo.
#[derive(Debug)]
pub(crate) struct Supervisor {
    layout: Layout,
    executable: PathBuf,
    network: watch::Sender<Network>,
    nodes: BTreeMap<u64, Node>,
    proxies: JoinSet<()>,
    exits: mpsc::Sender<Exited>,
    exited: mpsc::Receiver<Exited>,
}

impl Supervisor {
    /// Starts every node of the layout and waits until they have a leader. Processes are started from
    /// the thread that polls this: it must live as long as the demo (see `parent.rs`).
    pub(crate) async fn start(layout: Layout) -> Result<Self, Failure> {
        let executable = std::env::current_exe()
            .map_err(|error| Failure::error(format!("cannot find this program's own file: {error}")))?;
        let (exits, exited) = mpsc::channel(64);
        let mut supervisor = Self {
            layout,
            executable,
            network: watch::Sender::new(Network::default()),
            nodes: BTreeMap::new(),
            proxies: JoinSet::new(),
            exits,
            exited,
        };
        let all: Vec<u64> = supervisor.layout.state.nodes().collect();
        for node in &all {
            supervisor.wire(*node).await?;
        }
        let mut starting = JoinSet::new();
        for node in all {
            let (program, exits) = (supervisor.program(node), supervisor.exits.clone());
            starting.spawn(async move { (node, Process::start(&program, exits).await) });
        }
        while let Some(started) = starting.join_next().await {
            let (node, process) = started.map_err(Failure::error)?;
            supervisor.running(node, process?);
        }
        supervisor.wait_for_leader().await;
        Ok(supervisor)
    }

    /// The directory and ports.
    pub(crate) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Carries out orders until it is dropped; tells `notice` about processes that end by themselves.
    pub(crate) async fn run(
        &mut self,
        calls: &mut mpsc::Receiver<Call>,
        notice: &mut (dyn FnMut(String) + Send),
    ) {
        loop {
            tokio::select! {
                Some(exited) = self.exited.recv() => {
                    if let Some(line) = self.on_exit(&exited) {
                        notice(line);
                    }
                }
                Some(call) = calls.recv() => {
                    let result = self.execute(call.order).await.map_err(|failure| failure.line);
                    // Whoever asked may have left.
                    let _told = call.answer.send(result);
                }
            }
        }
    }

    /// Stops every process, all at once, and removes a temporary directory.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let mut stopping = JoinSet::new();
        for process in self.nodes.values_mut().filter_map(|node| node.process.take()) {
            stopping.spawn(async move { process.stop(Signal::Terminate).await });
        }
        while stopping.join_next().await.is_some() {}
        let dir = self.layout.dir.display();
        self.layout
            .clean_up()
            .map_err(|error| Failure::error(format!("cannot remove {dir}: {error}; remove it by hand")))
    }

    async fn execute(&mut self, order: Order) -> Result<String, Failure> {
        match order {
            Order::Status => Ok(self.describe().await),
            Order::Kill(node) => self.kill(node).await,
            Order::Restart(node) => self.restart(node).await,
            Order::Add => self.add().await,
            Order::Partition(groups) => {
                for node in groups.iter().flatten() {
                    self.known(*node)?;
                }
                Ok(self.change_network(|network| network.partition(groups)))
            }
            Order::Slow(node, delay) => {
                self.known(node)?;
                Ok(self.change_network(|network| network.slow(node, delay)))
            }
            Order::Heal => Ok(self.change_network(Network::heal)),
        }
    }

    fn change_network(&self, change: impl FnOnce(&mut Network)) -> String {
        self.network.send_modify(change);
        format!("The network is {}.", self.network.borrow().describe())
    }

    async fn kill(&mut self, node: u64) -> Result<String, Failure> {
        let Some(process) = self.known(node)?.process.take() else {
            return Err(refused(format!("node {node} is not running: restart {node} starts it")));
        };
        process.stop(Signal::Kill).await;
        self.known(node)?.upstream.send_replace(None);
        Ok(format!("Killed node {node} (process {}) with SIGKILL.", process.pid))
    }

    async fn restart(&mut self, node: u64) -> Result<String, Failure> {
        if let Some(process) = self.known(node)?.process.take() {
            process.stop(Signal::Terminate).await;
            self.known(node)?.upstream.send_replace(None);
        }
        let process = Process::start(&self.program(node), self.exits.clone()).await?;
        let line = format!("Node {node} runs again (process {}).", process.pid);
        self.running(node, process);
        Ok(line)
    }

    async fn add(&mut self) -> Result<String, Failure> {
        let node = self.layout.state.nodes().count() as u64 + 1;
        if node > NODES_MAX {
            return Err(refused(format!("a demo has at most {NODES_MAX} nodes")));
        }
        let running = self.nodes.iter().filter(|(_, node)| node.process.is_some());
        let addresses = running.map(|(id, _)| self.layout.client_address(*id).to_string()).collect();
        if ask_for_leader(addresses, ASK_TIMEOUT).await.is_none() {
            let line = "nobody leads, so nobody can add a node: a majority must run and reach each other \
                        (see status; try restart or heal)";
            return Err(refused(line.to_owned()));
        }
        // Its number is used up before anybody can hear of it, whatever happens next.
        self.layout.state.added_nodes += 1;
        self.layout.save()?;
        self.wire(node).await?;
        let process = Process::start(&self.program(node), self.exits.clone()).await?;
        let line = format!(
            "Node {node} runs (process {}, clients at {}) and is joining.",
            process.pid,
            self.layout.client_address(node)
        );
        self.running(node, process);
        Ok(line)
    }

    /// Every node and its role as a table, and the state of the network.
    pub(crate) async fn describe(&self) -> String {
        let answers = self.ask().await;
        let mut table =
            output::table(["NODE", "ROLE", "PROCESS", "PEERS AT", "CLIENTS AT", "DATA DIRECTORY"]);
        for (id, node) in &self.nodes {
            let role = match (&node.process, answers.get(id)) {
                (None, _) => "not running",
                (Some(_), None) => "starting",
                (Some(_), Some(status)) => role_name(status),
            };
            table.add_row([
                id.to_string(),
                role.to_owned(),
                node.process.as_ref().map_or("-".to_owned(), |process| process.pid.to_string()),
                self.layout.peer_address(*id).to_string(),
                self.layout.client_address(*id).to_string(),
                self.layout.data_dir(*id).display().to_string(),
            ]);
        }
        format!("{}\n\nThe network is {}.", output::render(&table), self.network.borrow().describe())
    }

    async fn ask(&self) -> BTreeMap<u64, StatusResponse> {
        let running = self.nodes.iter().filter(|(_, node)| node.process.is_some());
        let addresses = running.map(|(id, _)| self.layout.client_address(*id).to_string()).collect();
        ask_all(addresses, ASK_TIMEOUT).await
    }

    async fn wait_for_leader(&self) {
        let deadline = Instant::now() + LEADER_TIMEOUT;
        let mut ticks = interval(Duration::from_millis(25));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let all: Vec<String> =
            self.nodes.keys().map(|id| self.layout.client_address(*id).to_string()).collect();
        while Instant::now() < deadline && ask_for_leader(all.clone(), ASK_TIMEOUT).await.is_none() {
            ticks.tick().await;
        }
    }

    /// Makes a node's proxy.
    async fn wire(&mut self, node: u64) -> Result<(), Failure> {
        let address = self.layout.peer_address(node);
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let line = format!("cannot listen on {address}: {error}; stop the program that uses it");
            Failure::new(Exit::Listen, line)
        })?;
        let upstream = watch::Sender::new(None);
        let wire = Wire { target: node, upstream: upstream.subscribe(), network: self.network.subscribe() };
        self.proxies.spawn(proxy::run(listener, wire));
        self.nodes.insert(node, Node { upstream, process: None });
        Ok(())
    }

    fn running(&mut self, node: u64, process: Process) {
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.upstream.send_replace(Some(process.peer_address));
            entry.process = Some(process);
        }
    }

    fn known(&mut self, node: u64) -> Result<&mut Node, Failure> {
        let last = self.nodes.len();
        self.nodes
            .get_mut(&node)
            .ok_or_else(|| refused(format!("there is no node {node}: there are 1 to {last}")))
    }

    fn on_exit(&mut self, exited: &Exited) -> Option<String> {
        let node = self.nodes.get_mut(&exited.node)?;
        // Processes that were stopped on purpose are not there any more.
        node.process.take_if(|process| process.pid == exited.pid)?;
        node.upstream.send_replace(None);
        let how = match &exited.status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let log = self.layout.log_file(exited.node);
        Some(format!("Node {} has ended by itself ({how}); its log: {}", exited.node, log.display()))
    }

    fn program(&self, node: u64) -> Program {
        let state = &self.layout.state;
        let mut arguments: Vec<OsString> = vec!["serve".into()];
        let mut flag =
            |name: &str, value: OsString| arguments.extend([OsString::from(format!("--{name}")), value]);
        flag("id", node.to_string().into());
        flag("dir", self.layout.data_dir(node).into());
        flag("peer-listen", "127.0.0.1:0".into());
        flag("peer-advertise", self.layout.peer_address(node).to_string().into());
        flag("client-listen", self.layout.client_address(node).to_string().into());
        if node <= state.initial_nodes {
            let member = |node: u64| format!("{node}={}", self.layout.peer_address(node));
            let members: Vec<String> = (1..=state.initial_nodes).map(member).collect();
            flag("initial-cluster", members.join(",").into());
        } else {
            let others = state.nodes().filter(|other| *other != node);
            let addresses: Vec<String> =
                others.map(|node| self.layout.client_address(node).to_string()).collect();
            flag("join", addresses.join(",").into());
        }
        flag("election-timeout-ms", ELECTION_TIMEOUT_MS.to_string().into());
        flag("heartbeat-interval-ms", HEARTBEAT_INTERVAL_MS.to_string().into());
        flag("ready-format", "json".into());
        arguments.push("--exit-with-parent".into());
        Program { executable: self.executable.clone(), node, arguments, log: self.layout.log_file(node) }
    }
}

fn refused(line: String) -> Failure {
    Failure::new(Exit::Refused, line)
}
