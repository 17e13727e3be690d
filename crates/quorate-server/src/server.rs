//! Starting and stopping a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use quorate::NodeId;

use crate::config::ServerConfig;

/// A running server. Dropping it stops it at once; [`Server::shutdown`] does so with grace.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
}

/// A server could not start. Each says in one line what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A flag's value makes no sense.
    #[error("{flag}: {problem}")]
    InvalidConfig {
        /// The command line's name for it.
        flag: &'static str,
        /// What is wrong and what to write.
        problem: String,
    },
    /// An address cannot be listened on.
    #[error("{flag} {address}: {source}; choose another address or stop what uses it")]
    Listen {
        /// Which flag gave the address.
        flag: &'static str,
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The directory is used by a running process.
    #[error("--dir {}: another process is using this directory; stop it first", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory belongs to another cluster or node.
    #[error("--dir {}: {problem}", dir.display())]
    WrongDirectory {
        /// The directory.
        dir: PathBuf,
        /// Whose it is and what to do.
        problem: String,
    },
    /// The directory is empty and the start mode is `Resume`.
    #[error("--dir {}: nothing to continue; say --bootstrap, --initial-cluster or --join", dir.display())]
    NothingToResume {
        /// The directory.
        dir: PathBuf,
    },
    /// No cluster took the node.
    #[error("--join {endpoints}: {problem}")]
    Join {
        /// Who was asked.
        endpoints: String,
        /// What they said and what to do.
        problem: String,
    },
    /// The data cannot be opened.
    #[error("--dir {}: {problem}", dir.display())]
    Storage {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Why a running server cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerFailure {
    /// The node was removed from its cluster.
    #[error("node {0} was removed from its cluster: delete its directory and join with a new node id")]
    Removed(NodeId),
    /// The replica stopped (disk failure, damaged data).
    #[error("the replica stopped: {0}")]
    ReplicaStopped(String),
    /// The client port failed.
    #[error("the client port failed: {0}")]
    ClientPort(String),
}

impl Server {
    /// Starts a node and returns when its ports are open and its data is recovered (not yet
    /// necessarily when there is a leader: ask `/readyz`). Must be called within a multi-threaded
    /// tokio runtime.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        Ok(Self { config })
    }
    /// Where the server listens for clients.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        unimplemented!("{:?}", self.config)
    }
    /// Where the server listens for other nodes.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        unimplemented!()
    }
    /// Waits until the server cannot go on, and says why. The caller should then shut it down and
    /// end with an error.
    pub async fn wait_failure(&self) -> ServerFailure {
        unimplemented!()
    }
    /// Stops: not ready any more, leadership handed over, requests drained (up to
    /// `Timings::drain_timeout`), storage closed.
    pub async fn shutdown(self) {}
}
