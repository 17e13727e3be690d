//! Clusters of three real server processes on loopback.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    Quorate,
    Etcd,
}

/// Three servers, which end with this value.
pub(crate) struct Cluster {
    servers: Vec<Child>,
    endpoints: Vec<String>,
}

type Failure = Box<dyn std::error::Error>;

impl Cluster {
    /// Starts three servers whose data is in `dir`, and waits until they answer.
    pub(crate) fn start(product: Product, here: &Path, dir: &Path) -> Result<Self, Failure> {
        let ports = free_ports(6)?;
        let (client, peer) = ports.split_at(3);
        let address = |port: &u16| format!("127.0.0.1:{port}");
        let mut cluster = Self { servers: Vec::new(), endpoints: client.iter().map(address).collect() };
        let peers: Vec<String> = peer.iter().map(address).collect();
        for number in 0..3 {
            let mut command = match product {
                Product::Quorate => quorate(here, dir, number, &cluster.endpoints, &peers)?,
                Product::Etcd => etcd(dir, number, &cluster.endpoints, &peers),
            };
            let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            cluster.servers.push(server);
        }
        cluster.wait()?;
        Ok(cluster)
    }

    /// Waits until every server answers, and for a leader.
    #[expect(clippy::disallowed_methods, reason = "other people's processes tell nobody when they are ready")]
    fn wait(&self) -> Result<(), Failure> {
        let until = Instant::now() + Duration::from_secs(20);
        while self.endpoints.iter().any(|address| std::net::TcpStream::connect(address).is_err()) {
            if Instant::now() > until {
                return Err("the servers do not answer".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // Listening is not leading yet: three election timeouts of either.
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.kill().ok();
            server.wait().ok();
        }
    }
}

fn quorate(
    here: &Path,
    dir: &Path,
    number: usize,
    clients: &[String],
    peers: &[String],
) -> Result<Command, Failure> {
    let root = here.join("../..");
    if number == 0 {
        let built = Command::new("cargo")
            .args(["build", "--release", "-p", "quorate-cli"])
            .current_dir(&root)
            .status()?;
        if !built.success() {
            return Err("the quorate program could not be built".into());
        }
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let ids = peers.iter().enumerate().map(|(other, peer)| format!("{}={peer}", other + 1));
    let mut command = Command::new(target.join("release/quorate"));
    command
        .args(["serve", "--id", &(number + 1).to_string()])
        .arg("--dir")
        .arg(dir.join(format!("quorate-{number}")))
        .args(["--peer-listen", &peers[number], "--client-listen", &clients[number]])
        .args(["--initial-cluster", &ids.collect::<Vec<_>>().join(",")]);
    Ok(command)
}

fn etcd(dir: &Path, number: usize, clients: &[String], peers: &[String]) -> Command {
    let url = |address: &String| format!("http://{address}");
    let all = peers.iter().enumerate().map(|(other, peer)| format!("n{other}={}", url(peer)));
    let mut command = Command::new("etcd");
    command
        .args(["--name", &format!("n{number}"), "--log-level", "error"])
        .arg("--data-dir")
        .arg(dir.join(format!("etcd-{number}")))
        .args([
            "--listen-client-urls",
            &url(&clients[number]),
            "--advertise-client-urls",
            &url(&clients[number]),
        ])
        .args([
            "--listen-peer-urls",
            &url(&peers[number]),
            "--initial-advertise-peer-urls",
            &url(&peers[number]),
        ])
        .args(["--initial-cluster", &all.collect::<Vec<_>>().join(","), "--initial-cluster-state", "new"]);
    command
}

/// Ports that nobody has at the moment.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let held: Result<Vec<_>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    held?.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
