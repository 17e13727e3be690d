//! Clusters of real servers in this process, and an HTTP client that sends exactly what it is told.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use quorate_client::{Client, ClientOptions};
use quorate_server::{
    EngineKind, InitialMember, NodeId, Server, ServerConfig, StartError, StartMode, Timings,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, timeout_at};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is there.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        if let Ok(Some(answer)) = timeout_at(deadline, ask()).await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long until {what}");
    }
}

/// An address that is free now, below those that the kernel gives to outgoing connections and those
/// of other tests; no other caller in this process gets it.
pub(crate) fn free_address() -> String {
    const PORTS: u32 = 6_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97) % PORTS;
    let ports = (0..PORTS).map(|_| 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS);
    let mut addresses = ports.map(|port| format!("127.0.0.1:{port}"));
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("there are thousands of ports")
}

/// Nodes in a directory of their own.
pub(crate) struct Cluster {
    dir: TempDir,
    configs: BTreeMap<u64, ServerConfig>,
    servers: BTreeMap<u64, Server>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, configs: BTreeMap::new(), servers: BTreeMap::new() }
    }

    /// One node that is a cluster of its own, and leads.
    pub(crate) async fn of_one() -> Self {
        let mut cluster = Self::new();
        cluster.start(cluster.config(1, StartMode::Bootstrap)).await.unwrap();
        cluster.leader().await;
        cluster
    }

    /// Three nodes with a leader, all of which know where clients reach the others.
    pub(crate) async fn of_three() -> Self {
        let cluster = Self::beginning_of_three(|_| {}).await;
        cluster.settled(3).await;
        cluster
    }

    /// Three nodes, configured as `adjust` says, that have just been started.
    pub(crate) async fn beginning_of_three(adjust: impl Fn(&mut ServerConfig)) -> Self {
        let mut cluster = Self::new();
        let addresses: Vec<String> = (0..3).map(|_| free_address()).collect();
        let members: Vec<InitialMember> = (1..=3)
            .zip(&addresses)
            .map(|(node, address)| InitialMember {
                node: NodeId(node),
                peer_address: address.clone(),
                client_address: None,
            })
            .collect();
        for (node, address) in (1..=3).zip(addresses) {
            let mut config = cluster.config(node, StartMode::InitialCluster(members.clone()));
            config.peer_listen = address;
            adjust(&mut config);
            cluster.start(config).await.unwrap();
        }
        cluster
    }

    /// A configuration with short times and fixed ports, so that a restart is the same command.
    pub(crate) fn config(&self, node: u64, start: StartMode) -> ServerConfig {
        let mut config = ServerConfig::new(NodeId(node), self.data_dir(node), start);
        config.client_listen = free_address();
        config.peer_listen = free_address();
        config.timings = Timings {
            election_timeout: Duration::from_millis(400),
            heartbeat_interval: Duration::from_millis(40),
            drain_timeout: Duration::from_secs(2),
            ..Timings::default()
        };
        config.engine = EngineKind::Fjall;
        config
    }

    pub(crate) fn data_dir(&self, node: u64) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }

    pub(crate) async fn start(&mut self, config: ServerConfig) -> Result<(), StartError> {
        let node = config.node.0;
        self.configs.insert(node, config.clone());
        let server = Server::start(config).await?;
        self.servers.insert(node, server);
        Ok(())
    }

    pub(crate) async fn restart(&mut self, node: u64) {
        let config = self.configs[&node].clone();
        // A node that was killed gives its ports free a moment later.
        let server = eventually("its ports are free", async || match Server::start(config.clone()).await {
            Ok(server) => Some(server),
            Err(StartError::Listen { .. }) => None,
            Err(error) => panic!("{error}"),
        });
        let server = server.await;
        self.servers.insert(node, server);
    }

    pub(crate) async fn stop(&mut self, node: u64) {
        self.servers.remove(&node).expect("it runs").shutdown().await;
    }

    /// Ends a node without its farewells.
    pub(crate) fn kill(&mut self, node: u64) {
        drop(self.servers.remove(&node).expect("it runs"));
    }

    pub(crate) fn server(&self, node: u64) -> &Server {
        &self.servers[&node]
    }

    pub(crate) fn address(&self, node: u64) -> SocketAddr {
        self.servers[&node].client_address()
    }

    pub(crate) fn nodes(&self) -> Vec<u64> {
        self.servers.keys().copied().collect()
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.servers.values().map(|server| server.client_address().to_string()).collect()
    }

    pub(crate) fn client(&self) -> Client {
        let options = ClientOptions { deadline: PATIENCE, ..ClientOptions::default() };
        Client::connect(self.endpoints(), options).unwrap()
    }

    /// The node that leads, once one does.
    pub(crate) async fn leader(&self) -> u64 {
        eventually("a node leads", async || {
            for node in self.nodes() {
                let status = get(self.address(node), "/v1/status").await.json();
                if status["role"] == "leader" && status["ready"] == true {
                    return Some(node);
                }
            }
            None
        })
        .await
    }

    /// A running node that does not lead.
    pub(crate) async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.nodes().into_iter().find(|node| *node != leader).unwrap()
    }

    /// Waits until every node knows this many voters and where clients reach each.
    pub(crate) async fn settled(&self, voters: usize) {
        eventually("all members are known everywhere", async || {
            for node in self.nodes() {
                let status = get(self.address(node), "/v1/status").await.json();
                let members = status["members"].as_array().unwrap().clone();
                let complete = |member: &&Value| member["voter"] == true && member["client_address"] != "";
                if status["ready"] != true || members.iter().filter(complete).count() != voters {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or_else(|| panic!("no header {name} in {self:?}"), |(_, value)| value)
    }

    pub(crate) fn has_header(&self, name: &str) -> bool {
        self.headers.iter().any(|(known, _)| known == name)
    }

    pub(crate) fn index(&self) -> u64 {
        self.header("quorate-index").parse().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The error's code, after checking that header and body agree.
    pub(crate) fn code(&self) -> String {
        let json = self.json();
        let code = json["error"]["code"].as_str().unwrap_or_else(|| panic!("no error in {self:?}"));
        assert_eq!(self.header("quorate-code"), code);
        assert!(!json["error"]["message"].as_str().unwrap().is_empty());
        code.to_owned()
    }
}

/// Sends a request of exactly these bytes and reads until the node ends the connection.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut bytes = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let (mut reading, mut writing) = stream.split();
    let write = async {
        // A node that refuses a large body may stop reading it.
        drop(writing.write_all(request).await);
    };
    let read = async {
        // A reset after the answer is the end, too.
        drop(reading.read_to_end(&mut bytes).await);
    };
    let both = async { tokio::join!(write, read) };
    timeout_at(deadline, both).await.expect("the node answers in time");
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Reply {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    Reply { status, headers: lines.map(header).collect(), body: bytes[end + 4..].to_vec() }
}

pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "PUT" || method == "POST" {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(body);
    exchange(address, &request).await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Reply {
    send(address, "GET", path, &[], b"").await
}

pub(crate) async fn put(address: SocketAddr, path: &str, value: &[u8]) -> Reply {
    send(address, "PUT", path, &[], value).await
}

pub(crate) async fn delete(address: SocketAddr, path: &str) -> Reply {
    send(address, "DELETE", path, &[], b"").await
}

pub(crate) async fn post(address: SocketAddr, path: &str, json: &Value) -> Reply {
    send(address, "POST", path, &[("Content-Type", "application/json")], json.to_string().as_bytes()).await
}
