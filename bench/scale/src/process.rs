//! Processes from outside: what `/proc` says of them, and `quorate serve` as a child.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use quorate_client::{Client, ClientOptions, proto};

use crate::Failure;

fn number_after(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(label))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The proportional set size of a process in KiB.
pub fn pss_kib(pid: u32) -> Option<u64> {
    number_after(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss:")
}

/// Memory of its own that no file backs, in KiB.
pub fn anonymous_kib(pid: u32) -> Option<u64> {
    number_after(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Anonymous:")
}

/// The most memory a process ever had in KiB.
pub fn peak_kib(pid: u32) -> Option<u64> {
    number_after(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:")
}

/// From here on `peak_kib` counts anew.
pub fn reset_peak(pid: u32) {
    // Refused for processes of others only.
    drop(std::fs::write(format!("/proc/{pid}/clear_refs"), "5"));
}

/// The name and the processor time of every thread of a process, in nanoseconds.
pub fn thread_times(pid: u32) -> Vec<(String, u64)> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_task = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let schedstat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        let spent: u64 = schedstat.split_whitespace().next()?.parse().ok()?;
        Some((name.trim().to_owned(), spent))
    };
    tasks.flatten().filter_map(of_task).collect()
}

/// The processor time of a process in nanoseconds; threads that are gone are not in it.
pub fn cpu_nanos(pid: u32) -> u64 {
    thread_times(pid).iter().map(|(_, spent)| spent).sum()
}

/// The processes whose parent is `pid`.
pub fn children_of(pid: u32) -> Vec<u32> {
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |child: &u32| {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{child}/status")) else { return false };
        number_after(&status, "PPid:") == Some(u64::from(pid))
    };
    let mut children: Vec<u32> = pids.filter(is_child).collect();
    children.sort_unstable();
    children
}

/// A child that is killed when it is dropped.
pub struct Owned {
    child: Child,
    input: Option<ChildStdin>,
}

impl Owned {
    /// Starts a command; its standard input stays open, what it says goes to the end of `log`.
    pub fn start(
        command: &mut Command,
        log: &Path,
    ) -> Result<(Self, BufReader<std::process::ChildStdout>), Failure> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let output = child.stdout.take().ok_or("no standard output")?;
        let input = child.stdin.take();
        Ok((Self { child, input }, BufReader::new(output)))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a line to its standard input.
    pub fn go_on(&mut self) -> Result<(), Failure> {
        Ok(self.input.as_mut().ok_or("no standard input")?.write_all(b"\n")?)
    }

    /// SIGKILL, at once; collected later.
    pub fn kill(&mut self) -> Result<(), Failure> {
        Ok(self.child.kill()?)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Some `quorate serve` on this machine, with their directories.
pub struct Servers {
    binary: PathBuf,
    dir: PathBuf,
    port_base: u16,
    flags: Vec<String>,
    running: Vec<Option<Owned>>,
}

impl Servers {
    pub fn new(binary: &Path, dir: &Path, nodes: usize, flags: &[&str]) -> Self {
        // Not those of a demo, and not the same for two runs at a time.
        let port_base = 20_000 + u16::try_from(std::process::id() % 400).unwrap_or(0) * 20;
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let running = (0..nodes).map(|_| None).collect();
        Self { binary: binary.to_owned(), dir: dir.to_owned(), port_base, flags, running }
    }

    fn peer(&self, node: usize) -> String {
        format!("127.0.0.1:{}", usize::from(self.port_base) + 10 + node)
    }

    /// Where clients reach a node.
    pub fn client(&self, node: usize) -> String {
        format!("127.0.0.1:{}", usize::from(self.port_base) + node)
    }

    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.dir.join(format!("d{node}"))
    }

    pub fn endpoints(&self) -> Vec<String> {
        (1..=self.running.len()).map(|node| self.client(node)).collect()
    }

    pub fn pid(&self, node: usize) -> Result<u32, Failure> {
        Ok(self.running[node - 1].as_ref().ok_or("the node does not run")?.pid())
    }

    pub fn pids(&self) -> Vec<u32> {
        self.running.iter().flatten().map(Owned::pid).collect()
    }

    /// Starts a node (from 1 on), without waiting for it to be ready.
    pub fn spawn(&mut self, node: usize) -> Result<BufReader<std::process::ChildStdout>, Failure> {
        let members: Vec<String> =
            (1..=self.running.len()).map(|node| format!("{node}={}", self.peer(node))).collect();
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--exit-with-parent", "--id", &node.to_string()]);
        command.arg("--dir").arg(self.data_dir(node));
        command.args(["--peer-listen", &self.peer(node), "--client-listen", &self.client(node)]);
        command.args(["--initial-cluster", &members.join(",")]).args(&self.flags);
        let (child, output) = Owned::start(&mut command, &self.dir.join(format!("n{node}.log")))?;
        self.running[node - 1] = Some(child);
        Ok(output)
    }

    /// Starts a node that joins the others, and waits until it is ready.
    pub fn join(&mut self, flags: &[&str]) -> Result<usize, Failure> {
        let node = self.running.len() + 1;
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--exit-with-parent", "--id", &node.to_string()]);
        command.arg("--dir").arg(self.data_dir(node));
        command.args(["--peer-listen", &self.peer(node), "--client-listen", &self.client(node)]);
        command.args(["--join", &self.endpoints().join(",")]).args(&self.flags).args(flags);
        let (child, mut output) = Owned::start(&mut command, &self.dir.join(format!("n{node}.log")))?;
        self.running.push(Some(child));
        wait_ready(&mut output)?;
        Ok(node)
    }

    /// Starts a node and waits until it is ready.
    pub fn start(&mut self, node: usize) -> Result<(), Failure> {
        wait_ready(&mut self.spawn(node)?)
    }

    /// Starts them all and waits until they are ready.
    pub fn start_all(&mut self) -> Result<(), Failure> {
        let mut outputs =
            (1..=self.running.len()).map(|node| self.spawn(node)).collect::<Result<Vec<_>, _>>()?;
        outputs.iter_mut().try_for_each(wait_ready)
    }

    pub fn kill(&mut self, node: usize) -> Result<Owned, Failure> {
        let mut child = self.running[node - 1].take().ok_or("the node does not run")?;
        child.kill()?;
        Ok(child)
    }

    pub fn kill_all(&mut self) {
        self.running.iter_mut().for_each(|slot| drop(slot.take()));
    }

    /// The node that leads, asked at all of them.
    pub async fn leader(&self) -> Result<usize, Failure> {
        let options = ClientOptions { deadline: Duration::from_millis(500), ..ClientOptions::default() };
        let client = Client::connect(self.endpoints(), options)?;
        for _ in 0..200 {
            for node in 1..=self.running.len() {
                let address = self.client(node);
                let asked = tokio::time::timeout(Duration::from_millis(500), client.status_of(&address));
                if let Ok(Ok(status)) = asked.await
                    && status.role() == proto::Role::Leader
                {
                    return Ok(node);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("no leader in time".into())
    }
}

fn wait_ready(output: &mut BufReader<std::process::ChildStdout>) -> Result<(), Failure> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    if line.is_empty() { Err("a node ended before it was ready: see its log".into()) } else { Ok(()) }
}
