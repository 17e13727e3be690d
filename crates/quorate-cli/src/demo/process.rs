//! One node of the demo: a real `quorate serve` process of this same program.
//!
//! ```text
//!   start ──► spawn ──► ready line on its standard output ──► running ──► exited
//!                 └──────────── exits before ───────────────► failure with the last line of its log
//! ```
//!
//! The child is owned by one task, which alone signals and reaps it, so that a signal can never hit
//! another process that got the same number. Its standard input is a pipe that we never write to: it
//! closes when this process is gone, and the child exits (`--exit-with-parent`). It has a process group
//! of its own, so that Ctrl-C in the terminal reaches the demo only, which then stops it in order.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::failure::{Exit, Failure};
use crate::serve::Ready;
use crate::settings::SETTINGS;

/// How long a process may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a process may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of the log is read to find its last line.
const LOG_TAIL_BYTES: u64 = 4096;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The executable.
    pub(crate) executable: PathBuf,
    /// The node.
    pub(crate) node: u64,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// What it says on standard error goes to the end of this file.
    pub(crate) log: PathBuf,
}

/// How to stop a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGKILL.
    Kill,
    /// SIGTERM, and SIGKILL when that takes too long.
    Terminate,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Exited {
    /// The node.
    pub(crate) node: u64,
    /// The process.
    pub(crate) pid: u32,
    /// How it ended.
    pub(crate) status: std::io::Result<ExitStatus>,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: u32,
    /// Where it listens for other nodes.
    pub(crate) peer_address: SocketAddr,
    stop: mpsc::Sender<(Signal, oneshot::Sender<()>)>,
}

impl Process {
    /// Starts a process and waits until it is ready. Its end is told to `exits`.
    pub(crate) async fn start(program: &Program, exits: mpsc::Sender<Exited>) -> Result<Self, Failure> {
        let mut child = spawn(program)?;
        let pid = child.id().ok_or_else(|| Failure::error("a process ended before it could be watched"))?;
        // Held until the child is gone: its end is how the child learns that we are.
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| Failure::error("a process has no standard output"))?;
        let mut lines = BufReader::new(output.take(LOG_TAIL_BYTES)).lines();
        let (line, why) = match timeout(READY_TIMEOUT, lines.next_line()).await {
            Ok(Ok(line)) => (line, "did not start"),
            Ok(Err(_)) => (None, "did not start"),
            Err(_) => (None, "was not ready in time (does the cluster have a leader?)"),
        };
        let Some(ready) = line.and_then(|line| serde_json::from_str::<Ready>(&line).ok()) else {
            // It is being given up; whether it was still there does not matter.
            let _gone = child.kill().await;
            let said = last_line(&program.log);
            let line = format!("node {} {why}: {said} (its log: {})", program.node, program.log.display());
            return Err(Failure::new(Exit::Error, line));
        };
        let (stop, stops) = mpsc::channel(4);
        tokio::spawn(own(Owned { child, _input: input, node: program.node, pid }, stops, exits));
        Ok(Self { pid, peer_address: ready.peer_listen, stop })
    }

    /// Stops the process and waits until it is gone.
    pub(crate) async fn stop(&self, signal: Signal) {
        let (gone, wait) = oneshot::channel();
        if self.stop.send((signal, gone)).await.is_ok() {
            // An error says that the process ended by itself: gone as well.
            let _gone = wait.await;
        }
    }
}

struct Owned {
    child: Child,
    _input: Option<ChildStdin>,
    node: u64,
    pid: u32,
}

/// Owns a child until its end.
async fn own(
    mut owned: Owned,
    mut stops: mpsc::Receiver<(Signal, oneshot::Sender<()>)>,
    exits: mpsc::Sender<Exited>,
) {
    let mut gone = None;
    let status = tokio::select! {
        status = owned.child.wait() => status,
        Some((signal, tell)) = stops.recv() => {
            gone = Some(tell);
            end(&mut owned.child, signal).await
        }
    };
    // The demo may be stopping and not listen any more.
    let _told = exits.send(Exited { node: owned.node, pid: owned.pid, status }).await;
    if let Some(gone) = gone {
        let _told = gone.send(());
    }
}

async fn end(child: &mut Child, signal: Signal) -> std::io::Result<ExitStatus> {
    if signal == Signal::Terminate
        && let Some(pid) =
            child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
    {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        if let Ok(status) = timeout(STOP_TIMEOUT, child.wait()).await {
            return status;
        }
    }
    child.start_kill()?;
    child.wait().await
}

fn spawn(program: &Program) -> Result<Child, Failure> {
    let cannot = |what: &Path, error: &std::io::Error| {
        Failure::error(format!("cannot start node {}: {}: {error}", program.node, what.display()))
    };
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&program.log);
    let log = log.map_err(|error| cannot(&program.log, &error))?;
    let mut command = Command::new(&program.executable);
    // The user's own variables are about other nodes; only what is logged is theirs to say.
    for setting in SETTINGS.iter().filter(|setting| setting.name != "log") {
        command.env_remove(setting.variable());
    }
    command
        .args(&program.arguments)
        .env_remove("QUORATE_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot(&program.executable, &error))
}

/// The last thing a process said, without the name it begins its messages with.
fn last_line(log: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).into_owned())
    };
    let tail = read().unwrap_or_default();
    let line = tail.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.trim_start_matches("quorate: ").to_owned()
}
