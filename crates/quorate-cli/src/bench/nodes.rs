//! A cluster for one run: `serve` processes of this same program, with fsync on and real sockets, connected
//! to each other directly.
//!
//! * Data is in a directory of its own, which goes away at the end.
//! * The nodes die with this process, however it dies (`../demo/process.rs`, `../parent.rs`).
//! * Ports are free ones. One that somebody took in between makes the start fail, and other ones are tried.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use futures_util::future::try_join_all;
use tokio::sync::mpsc;

use crate::demo::process::{Exited, Process, Program, Signal};
use crate::failure::{Exit, Failure};

/// How many nodes when nobody says.
pub(crate) const COUNT: u64 = 3;
/// How often ports are chosen anew.
const STARTS_MAX: usize = 3;

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// How many nodes.
    pub(crate) count: u64,
    /// Whether leaders have leases.
    pub(crate) leases: bool,
}

/// The running nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    dir: Scratch,
    processes: Vec<Process>,
    clients: Vec<SocketAddr>,
    _exits: mpsc::Receiver<Exited>,
}

/// A directory that goes away.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Said by `Nodes::stop` when it matters; here something else went wrong already.
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

impl Nodes {
    /// Starts nodes under `parent` (nothing: the system's temporary directory). Poll this on the main thread:
    /// processes die with the thread that started them.
    pub(crate) async fn start(wish: Wish, parent: Option<&Path>) -> Result<Self, Failure> {
        let executable = std::env::current_exe()
            .map_err(|error| Failure::error(format!("cannot find this program's own file: {error}")))?;
        let mut last = None;
        for _ in 0..STARTS_MAX {
            let dir = scratch(parent)?;
            match Self::try_start(&executable, dir, wish).await {
                Ok(nodes) => return Ok(nodes),
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.unwrap_or_else(|| Failure::error("no node was started")))
    }

    async fn try_start(executable: &Path, dir: Scratch, wish: Wish) -> Result<Self, Failure> {
        let (peers, clients) = (free_ports(wish.count)?, free_ports(wish.count)?);
        let members: Vec<String> = (1..).zip(&peers).map(|(node, peer)| format!("{node}={peer}")).collect();
        let members = members.join(",");
        let room = usize::try_from(wish.count).unwrap_or(1).max(1);
        let (tell_exit, exits) = mpsc::channel(room);
        let starting = (1..).zip(peers.iter().zip(&clients)).map(|(node, (peer, client))| {
            let mut arguments = arguments(node, &dir.0, &members, (*peer, *client));
            if wish.leases {
                arguments.push("--leader-lease".into());
            }
            let program = Program {
                executable: executable.to_path_buf(),
                node,
                arguments,
                log: dir.0.join(format!("node-{node}.log")),
            };
            let tell_exit = tell_exit.clone();
            async move { Process::start(&program, tell_exit).await }
        });
        let processes = try_join_all(starting).await?;
        Ok(Self { dir, processes, clients, _exits: exits })
    }

    /// Where clients reach them.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.clients.iter().map(ToString::to_string).collect()
    }

    /// What was started, and what to know about its disk.
    pub(crate) fn describe(&self) -> String {
        let (count, dir) = (self.processes.len(), self.dir.0.display());
        let memory = if is_in_memory(&self.dir.0) {
            "; that is in memory, where a sync costs nothing: give --dir on a disk"
        } else {
            ""
        };
        format!("started {count} nodes in {dir}{memory}")
    }

    /// Stops the nodes and removes their data.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        // Nobody needs their data any more: SIGKILL is as good as any other end, and quicker.
        let stopping = self.processes.iter().map(|process| process.stop(Signal::Kill));
        futures_util::future::join_all(stopping).await;
        let dir = &self.dir.0;
        std::fs::remove_dir_all(dir).map_err(|error| {
            Failure::error(format!("cannot remove {}: {error}; remove it by hand", dir.display()))
        })
    }
}

fn arguments(
    node: u64,
    dir: &Path,
    members: &str,
    (peer, client): (SocketAddr, SocketAddr),
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["serve".into()];
    let mut flag =
        |name: &str, value: OsString| arguments.extend([OsString::from(format!("--{name}")), value]);
    flag("id", node.to_string().into());
    flag("dir", dir.join(format!("node-{node}")).into());
    flag("peer-listen", peer.to_string().into());
    flag("client-listen", client.to_string().into());
    flag("initial-cluster", members.into());
    flag("ready-format", "json".into());
    arguments.push("--exit-with-parent".into());
    arguments
}

fn scratch(parent: Option<&Path>) -> Result<Scratch, Failure> {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let cannot = |error: &std::io::Error| {
        let line = format!("cannot make a directory in {}: {error}; give another --dir", parent.display());
        Failure::new(Exit::Directory, line)
    };
    std::fs::create_dir_all(&parent).map_err(|error| cannot(&error))?;
    let parent = std::fs::canonicalize(&parent).map_err(|error| cannot(&error))?;
    for attempt in 0..100 {
        let dir = parent.join(format!("quorate-bench-{}-{attempt}", std::process::id()));
        match std::fs::create_dir(&dir) {
            Ok(()) => return Ok(Scratch(dir)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot(&error)),
        }
    }
    Err(cannot(&std::io::ErrorKind::AlreadyExists.into()))
}

/// Addresses on which nobody listens.
fn free_ports(count: u64) -> Result<Vec<SocketAddr>, Failure> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    // All are held until all are chosen, so that they differ.
    let held: std::io::Result<Vec<TcpListener>> = (0..count).map(|_| listen()).collect();
    let addresses = held.and_then(|held| held.iter().map(TcpListener::local_addr).collect());
    addresses.map_err(|error| Failure::new(Exit::Listen, format!("there is no free port: {error}")))
}

/// Whether a directory is on a file system in memory.
fn is_in_memory(dir: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        const TMPFS: u64 = 0x0102_1994;
        rustix::fs::statfs(dir).is_ok_and(|file_system| u64::try_from(file_system.f_type) == Ok(TMPFS))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _unknown = dir;
        false
    }
}
