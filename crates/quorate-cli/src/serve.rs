//! `quorate serve`: one node, from its first start to a clean stop.
//!
//! ```text
//!   start ──► ready line ──► signal ──► shutdown ──► exit 0
//!     │                        └─ second signal ───► exit 130
//!     └─ failure: one line, and an exit code that says what kind
//!                   failure while running ─────────► the same
//! ```
//!
//! The ready line is the only thing on standard output: supervisors wait for it, and learn from it
//! which ports were really taken. Everything else is on standard error. The node waits for nobody
//! who reads either.

use std::net::SocketAddr;

use quorate_server::{
    HostConfig, InitialMember, Limits, NodeId, Server, ServerConfig, ServerFailure, SnapshotPolicy,
    StartError, StartMode, Timings, TlsConfig,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{ServeConfig, Start, TextFormat};
use crate::failure::{Exit, Failure, with_causes};
use crate::log_output::{LogOutput, dropped_lines};
use crate::{output, parent};

/// What the ready line says with `--ready-format json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Always true: a line that can be told from others.
    pub(crate) ready: bool,
    /// The node.
    pub(crate) node: u64,
    /// The process.
    pub(crate) pid: u32,
    /// Where it really listens for nodes.
    pub(crate) peer_listen: SocketAddr,
    /// Where it really listens for clients.
    pub(crate) client_listen: SocketAddr,
}

/// Runs a node until a signal or a failure.
pub(crate) fn run(config: &ServeConfig) -> Result<(), Failure> {
    let log = log_to_standard_error(config)?;
    raise_open_files_max();
    if config.exit_with_parent {
        parent::exit_with_parent()
            .map_err(|error| Failure::error(format!("cannot watch the parent: {error}")))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("quorate")
        .build()
        .map_err(|error| Failure::error(format!("cannot start: {error}")))?;
    let result = runtime.block_on(serve(config));
    // Whatever is still running must not keep a stopped node from exiting.
    runtime.shutdown_background();
    log.finish();
    result
}

/// More than this many files a node never has open.
const OPEN_FILES_MAX: u64 = 1 << 16;

/// Lets this process open as many files as it may, as servers do: shells begin programs with a low
/// limit, for those that use `select`. What it is in the end, the server looks up.
fn raise_open_files_max() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX);
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
    {
        tracing::warn!("this process cannot be allowed to open {wanted} files: {error}");
    }
}

async fn serve(config: &ServeConfig) -> Result<(), Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::error(format!("cannot listen for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut stop = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let started = tokio::select! {
        started = Server::start(server_config(config)) => started,
        () = stop() => return Ok(()),
    };
    let server = started.map_err(|error| start_failure(&error))?;
    let ready = ready_line(config, &server)?;
    let failure = tokio::select! {
        failure = say_ready(ready) => Some(failure),
        failure = server.wait_failure() => Some(server_failure(&failure)),
        failure = reload_on_hangup(config, &server) => Some(failure),
        () = stop() => None,
    };
    tokio::select! {
        () = server.shutdown() => failure.map_or(Ok(()), Err),
        () = stop() => Err(Failure::new(Exit::Interrupted, "stopped at once by a second signal")),
    }
}

/// Reads the certificates again at every SIGHUP. A node without certificates ends by that signal, as ever.
async fn reload_on_hangup(config: &ServeConfig, server: &Server) -> Failure {
    if config.peer_tls.is_none() {
        return std::future::pending().await;
    }
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => return Failure::error(format!("cannot listen for signals: {error}")),
    };
    while hangup.recv().await.is_some() {
        // What came of it is in the log.
        drop(server.reload_tls().await);
    }
    std::future::pending().await
}

/// Ends only if the line cannot be written.
async fn say_ready(line: String) -> Failure {
    match tokio::task::spawn_blocking(|| output::line(line)).await {
        Ok(Err(failure)) => failure,
        Ok(Ok(())) | Err(_) => std::future::pending().await,
    }
}

fn ready_line(config: &ServeConfig, server: &Server) -> Result<String, Failure> {
    let ready = Ready {
        ready: true,
        node: config.id,
        pid: std::process::id(),
        peer_listen: server.peer_address(),
        client_listen: server.client_address(),
    };
    match config.ready_format {
        TextFormat::Text => Ok(format!(
            "node {} is ready: nodes at {}, clients at http://{}",
            ready.node, ready.peer_listen, ready.client_listen
        )),
        TextFormat::Json => serde_json::to_string(&ready).map_err(Failure::error),
    }
}

fn server_config(config: &ServeConfig) -> ServerConfig {
    let start = match &config.start {
        Start::Continue => StartMode::Resume,
        Start::Bootstrap => StartMode::Bootstrap,
        Start::Join { endpoints, learner } => {
            StartMode::Join { endpoints: endpoints.clone(), learner: *learner }
        }
        Start::InitialCluster(nodes) => {
            StartMode::InitialCluster(nodes.iter().map(|(id, peer)| initial_member(*id, peer)).collect())
        }
    };
    ServerConfig {
        peer_listen: config.peer_listen.clone(),
        peer_advertise: config.peer_advertise.clone(),
        peer_tls: config.peer_tls.as_ref().map(|files| TlsConfig {
            domain: files.domain.clone(),
            ..TlsConfig::files(&files.ca, &files.certificate, &files.key)
        }),
        client_listen: config.client_listen.clone(),
        client_advertise: config.client_advertise.clone(),
        limits: Limits {
            value_bytes_max: usize::try_from(config.value_bytes_max).unwrap_or(usize::MAX),
            connections_max: config.client_connections_max,
            ..Limits::default()
        },
        timings: Timings {
            election_timeout: config.election_timeout,
            heartbeat_interval: config.heartbeat_interval,
            lease_drift_max: config.lease_drift_max,
            stalled_write_max: config.stalled_write_max,
            ..Timings::default()
        },
        snapshots: SnapshotPolicy {
            entries: config.snapshot_entries,
            bytes: config.snapshot_bytes,
            trailing_entries: config.snapshot_trailing_entries,
            ..SnapshotPolicy::default()
        },
        host: HostConfig {
            snapshot_sends_max: config.snapshot_sends_max,
            snapshot_bytes_per_second: config.snapshot_bytes_per_second,
            disk_free_bytes_min: config.disk_free_bytes_min,
            ..HostConfig::default()
        },
        wal_reserve_bytes: config.wal_reserve_bytes,
        log_lines_dropped: Some(dropped_lines),
        ..ServerConfig::new(NodeId(config.id), &config.dir, start)
    }
}

fn initial_member(id: u64, peer: &str) -> InitialMember {
    InitialMember { node: NodeId(id), peer_address: peer.to_owned(), client_address: None }
}

fn start_failure(error: &StartError) -> Failure {
    let exit = match error {
        StartError::InvalidConfig { .. } | StartError::NothingToResume { .. } => Exit::Usage,
        StartError::Listen { .. } => Exit::Listen,
        StartError::Locked { .. } | StartError::WrongDirectory { .. } => Exit::Directory,
        StartError::Join { .. } => Exit::Unavailable,
        StartError::Storage { .. } => Exit::Damaged,
        _ => Exit::Error,
    };
    Failure::new(exit, with_causes(error))
}

fn server_failure(failure: &ServerFailure) -> Failure {
    let exit = match failure {
        ServerFailure::Removed(_) => Exit::Removed,
        ServerFailure::ReplicaStopped(_) => Exit::Disk,
        _ => Exit::Error,
    };
    Failure::new(exit, with_causes(failure))
}

fn log_to_standard_error(config: &ServeConfig) -> Result<LogOutput, Failure> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(&config.log).map_err(Failure::usage)?;
    let output = LogOutput::to_standard_error();
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(output.writer());
    let started = match config.log_format {
        TextFormat::Text => logger.with_ansi(false).try_init(),
        TextFormat::Json => logger.json().try_init(),
    };
    started.map(|()| output).map_err(|error| Failure::error(format!("cannot start logging: {error}")))
}
