//! How `quorate demo ctl`, in a second terminal, finds a running demo and talks to it.
//!
//! ```text
//!   demo  ── makes ──► TMP/quorate-demo-UID/PID.json  { dir, temporary }
//!                      TMP/quorate-demo-UID/PID.sock  ◄── one line ── ctl
//!                                                     ── one JSON ──►
//! ```
//!
//! * The sockets live in a short directory of our own (a socket's path may have about 100 bytes only),
//!   which nobody else may enter.
//! * A socket that nobody answers belongs to a demo that was killed: whoever finds it removes it, and
//!   the temporary data directory of that demo.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::command::Order;
use crate::failure::{Exit, Failure};

/// The longest command line.
const LINE_BYTES_MAX: u64 = 4096;
/// How long a client may take to say what it wants.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most clients at a time.
const CLIENTS_MAX: usize = 16;
/// How long `ctl` waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// An order, and whom to tell how it went.
#[derive(Debug)]
pub(crate) struct Call {
    /// What to do.
    pub(crate) order: Order,
    /// The text to show, or why it did not work.
    pub(crate) answer: oneshot::Sender<Result<String, String>>,
}

/// What goes over the socket.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    ok: bool,
    text: String,
}

/// What a demo leaves for others to find.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    dir: PathBuf,
    temporary: bool,
}

/// This demo's entry in the register; removed when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    socket: PathBuf,
    entry: PathBuf,
    listener: Option<UnixListener>,
}

impl Registration {
    /// Makes this demo known. Call within a tokio runtime.
    pub(crate) fn new(dir: &Path, temporary: bool) -> Result<Self, Failure> {
        let register = register_dir()?;
        clean(&register);
        let pid = std::process::id();
        let (socket, entry) = (register.join(format!("{pid}.sock")), register.join(format!("{pid}.json")));
        let cannot = |path: &Path, error: &dyn std::fmt::Display| {
            Failure::error(format!("cannot make {} for demo ctl: {error}", path.display()))
        };
        if let Err(error) = std::fs::remove_file(&socket)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(cannot(&socket, &error));
        }
        let listener = UnixListener::bind(&socket).map_err(|error| cannot(&socket, &error))?;
        let registration = Self { socket, entry, listener: Some(listener) };
        let text =
            serde_json::to_string(&Entry { dir: dir.to_path_buf(), temporary }).map_err(Failure::error)?;
        std::fs::write(&registration.entry, text).map_err(|error| cannot(&registration.entry, &error))?;
        Ok(registration)
    }

    /// The socket; can be taken once.
    pub(crate) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Whoever looks next removes what we could not.
        let _removed = (std::fs::remove_file(&self.entry), std::fs::remove_file(&self.socket));
    }
}

/// Passes on what clients ask until it is dropped.
pub(crate) async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS_MAX => {
                if let Ok((stream, _)) = accepted {
                    let calls = calls.clone();
                    clients.spawn(async move {
                        // A client that went away does not want its answer any more.
                        let _left = client(stream, calls).await;
                    });
                }
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn client(mut stream: UnixStream, calls: mpsc::Sender<Call>) -> std::io::Result<()> {
    let (reading, mut writing) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reading.take(LINE_BYTES_MAX));
    match timeout(LINE_TIMEOUT, reader.read_line(&mut line)).await {
        Ok(read) => read?,
        Err(_) => return Ok(()),
    };
    let result = match Order::parse(&line) {
        Ok(order) => call(&calls, order).await,
        Err(error) => Err(error),
    };
    let (ok, text) = match result {
        Ok(text) => (true, text),
        Err(text) => (false, text),
    };
    let answer = serde_json::to_string(&Answer { ok, text })?;
    writing.write_all(answer.as_bytes()).await?;
    writing.shutdown().await
}

/// Gives an order and waits for its answer.
pub(crate) async fn call(calls: &mpsc::Sender<Call>, order: Order) -> Result<String, String> {
    let stopping = || "the demo is stopping".to_owned();
    let (answer, answered) = oneshot::channel();
    calls.send(Call { order, answer }).await.map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())?
}

/// `quorate demo ctl`: sends one line to the running demo and returns its answer.
pub(crate) fn send(dir: Option<&Path>, line: &str) -> Result<String, Failure> {
    let usage = |text: String| Failure::usage(format!("demo ctl: {text}"));
    Order::parse(line).map_err(usage)?;
    let register = register_dir()?;
    clean(&register);
    let demos = demos(&register);
    let socket = match dir {
        Some(dir) => {
            let real = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
            let found = demos.into_iter().find(|(_, entry)| entry.dir == real).map(|(socket, _)| socket);
            found.ok_or_else(|| {
                let line =
                    format!("no demo is running in {}: start one with quorate demo --dir", dir.display());
                Failure::new(Exit::Unavailable, line)
            })?
        }
        None => match demos.as_slice() {
            [] => {
                let line = "no demo is running: start one with quorate demo, in another terminal";
                return Err(Failure::new(Exit::Unavailable, line));
            }
            [(socket, _)] => socket.clone(),
            several => {
                let dirs: Vec<String> =
                    several.iter().map(|(_, entry)| entry.dir.display().to_string()).collect();
                return Err(usage(format!(
                    "several demos are running: say --dir {}",
                    dirs.join(" or --dir ")
                )));
            }
        },
    };
    let answer = exchange(&socket, line).map_err(|error| {
        Failure::new(Exit::Unavailable, format!("the demo did not answer: {error}; is it stopping?"))
    })?;
    if answer.ok { Ok(answer.text) } else { Err(Failure::new(Exit::Refused, answer.text)) }
}

fn exchange(socket: &Path, line: &str) -> std::io::Result<Answer> {
    let mut stream = BlockingStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// The directory that only this user may enter.
fn register_dir() -> Result<PathBuf, Failure> {
    let uid = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!("quorate-demo-{uid}"));
    match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Failure::error(format!("cannot make {}: {error}", dir.display()))),
    }
    let ours = std::fs::symlink_metadata(&dir).is_ok_and(|found| found.is_dir() && found.uid() == uid);
    if ours {
        Ok(dir)
    } else {
        Err(Failure::error(format!(
            "{} belongs to somebody else: set TMPDIR to a directory of yours",
            dir.display()
        )))
    }
}

/// Every demo in the register: its socket and its entry.
fn demos(register: &Path) -> Vec<(PathBuf, Entry)> {
    let Ok(files) = std::fs::read_dir(register) else { return Vec::new() };
    let mut demos = Vec::new();
    for path in files.filter_map(|file| Some(file.ok()?.path())) {
        if path.extension().is_some_and(|extension| extension == "json")
            && let Ok(text) = std::fs::read_to_string(&path)
            && let Ok(entry) = serde_json::from_str(&text)
        {
            demos.push((path.with_extension("sock"), entry));
        }
    }
    demos.sort_by(|left, right| left.0.cmp(&right.0));
    demos
}

/// Removes what killed demos left behind.
fn clean(register: &Path) {
    for (socket, entry) in demos(register) {
        let gone = match BlockingStream::connect(&socket) {
            Ok(_) => false,
            Err(error) => {
                matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound)
            }
        };
        if gone {
            // Best effort: the next one tries again.
            let _removed =
                (std::fs::remove_file(&socket), std::fs::remove_file(socket.with_extension("json")));
            if entry.temporary && is_temporary_name(&entry.dir) {
                let _removed = std::fs::remove_dir_all(&entry.dir);
            }
        }
    }
}

/// Only directories that a demo has made itself are ever removed.
fn is_temporary_name(dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let parent = std::fs::canonicalize(std::env::temp_dir()).ok();
    name.starts_with("quorate-demo-") && dir.parent() == parent.as_deref() && name.matches('-').count() == 3
}
