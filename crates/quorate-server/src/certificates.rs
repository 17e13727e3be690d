//! The certificates of the peer port: checked before a node does anything, and read again when they change.

use std::sync::Weak;
use std::time::Duration;

use quorate::{Node, PeerTls, TlsLoadError, TlsPart};
use tokio::time::Instant;

use crate::config::ServerConfig;
use crate::server::StartError;

/// How often the files are read to see whether they are new.
const RELOAD_INTERVAL: Duration = Duration::from_mins(1);

/// A node must not join a cluster whose nodes will not talk to it.
pub(crate) fn check(config: &ServerConfig) -> Result<(), StartError> {
    let Some(tls) = config.peer_tls.clone() else { return Ok(()) };
    PeerTls::load(tls, config.node).map(drop).map_err(|error| unusable(&error))
}

/// Says which flag is to blame.
pub(crate) fn unusable(error: &TlsLoadError) -> StartError {
    let flag = match error {
        TlsLoadError::Read { part, .. }
        | TlsLoadError::Pem { part, .. }
        | TlsLoadError::Unusable { part, .. } => match part {
            TlsPart::Authority => "--peer-tls-ca",
            TlsPart::Certificate => "--peer-tls-cert",
            TlsPart::Key => "--peer-tls-key",
        },
        TlsLoadError::Domain { .. } => "--peer-tls-domain",
        TlsLoadError::Own(_) | _ => "--peer-tls-cert",
    };
    StartError::InvalidConfig { flag, problem: error.to_string() }
}

/// Reads the certificates again from time to time.
pub(crate) async fn watch(node: Weak<Node>) {
    loop {
        tokio::time::sleep_until(Instant::now() + RELOAD_INTERVAL).await;
        let Some(node) = node.upgrade() else { return };
        drop(reload(&node).await);
    }
}

/// Reads the certificates again, and says what came of it.
pub(crate) async fn reload(node: &Node) -> Result<bool, TlsLoadError> {
    let reloaded = node.reload_tls().await;
    match &reloaded {
        Ok(true) => tracing::info!("new certificates: new connections between nodes use them"),
        Ok(false) => tracing::debug!("the certificates are as before"),
        Err(error) => tracing::error!(%error, "the new certificates are not used: those from before go on"),
    }
    reloaded
}
