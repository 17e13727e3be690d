//! The demo's wires: everything that nodes say to each other runs through these proxies, so that a
//! partition or a slow link is real for the processes at its ends.
//!
//! ```text
//!   node 1 ──► proxy of node 2 ──────────────────────────────────────► node 2
//!              reads the hello: "this is node 1"
//!              then, per direction, chunk by chunk:
//!                read ──► bounded queue (chunk, due) ──► wait until due and connected ──► write
//! ```
//!
//! * Each node advertises the address of its proxy; only the proxy knows where it really listens, which
//!   changes with every start.
//! * A cut link swallows nothing: bytes wait in place, like in a network that drops packets, where TCP
//!   sends them again. New connections wait as well. The ends find out by their own timeouts.
//! * At most [`CONNECTIONS_MAX`] connections per proxy, each holding at most two queues of chunks;
//!   beyond it new connections are closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::hello::{self, Hello};
use super::network::Network;

/// The most connections through one proxy.
const CONNECTIONS_MAX: usize = 64;
/// The most bytes read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// The most chunks on their way in one direction of one connection.
const CHUNKS_MAX: usize = 16;
/// How long a new connection may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a proxy forwards to, and under which conditions.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// The node behind the proxy.
    pub(crate) target: u64,
    /// Where it listens; `None` while it does not run.
    pub(crate) upstream: watch::Receiver<Option<SocketAddr>>,
    /// The network.
    pub(crate) network: watch::Receiver<Network>,
}

/// Forwards connections until it is dropped.
pub(crate) async fn run(listener: TcpListener, wire: Wire) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A failed accept (out of descriptors) ends this connection, not the proxy.
                let Ok((stream, _)) = accepted else { continue };
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let wire = wire.clone();
                connections.spawn(async move {
                    // However a connection ends, both sides see it closed; there is nobody to tell.
                    let _closed = forward(stream, wire).await;
                    drop(place);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(mut source: TcpStream, mut wire: Wire) -> std::io::Result<()> {
    source.set_nodelay(true)?;
    let Ok(greeting) = timeout(HELLO_TIMEOUT, read_hello(&mut source)).await else { return Ok(()) };
    let (from, greeting) = greeting?;
    if !link_opens(&source, from, &mut wire).await {
        return Ok(());
    }
    let Some(address) = *wire.upstream.borrow() else { return Ok(()) };
    let mut target = TcpStream::connect(address).await?;
    target.set_nodelay(true)?;
    target.write_all(&greeting).await?;
    let (source_read, source_write) = source.into_split();
    let (target_read, target_write) = target.into_split();
    let to = wire.target;
    tokio::try_join!(
        pump(source_read, target_write, (from, to), wire.network.clone()),
        pump(target_read, source_write, (to, from), wire.network),
    )?;
    Ok(())
}

/// Reads until the hello says which node connects.
async fn read_hello(source: &mut TcpStream) -> std::io::Result<(u64, Bytes)> {
    let mut read = BytesMut::with_capacity(hello::BYTES_MAX);
    loop {
        match hello::parse(&read) {
            Hello::From(node) => return Ok((node, read.freeze())),
            Hello::Incomplete if read.len() < hello::BYTES_MAX => {}
            Hello::Incomplete | Hello::Unknown => {
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "not the hello of a node"));
            }
        }
        if source.read_buf(&mut read).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Waits until the link to the target is up; `false` when the source gave up before.
async fn link_opens(source: &TcpStream, from: u64, wire: &mut Wire) -> bool {
    let target = wire.target;
    let opened =
        wire.network.wait_for(|network| network.connects(from, target) && network.connects(target, from));
    let closed = async {
        match source.peek(&mut [0]).await {
            Ok(0) | Err(_) => {}
            // It is still there and has more to say: later.
            Ok(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        open = opened => open.is_ok(),
        () = closed => false,
    }
}

/// Moves bytes in one direction until the end, then closes that direction.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (source, target): (u64, u64),
    network: watch::Receiver<Network>,
) -> std::io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    let delays = network.clone();
    let read = async move {
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            if from.read_buf(&mut chunk).await? == 0 {
                return Ok::<_, std::io::Error>(());
            }
            let due = Instant::now() + delays.borrow().delay(source, target);
            if queue.send((due, chunk.freeze())).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        let mut network = network;
        while let Some((due, chunk)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            if network.wait_for(|network| network.connects(source, target)).await.is_err() {
                return Ok(());
            }
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
