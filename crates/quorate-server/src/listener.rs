//! The client port's connections: at most so many, and none that says nothing for long.
//!
//! ```text
//!   accepted ─► a place? ─► served
//!                 └─ none: told so (`busy`), then closed; gRPC's is just closed
//! ```
//!
//! * The limit leaves file descriptors for the log, the engine and the other nodes (`descriptors`).
//! * A connection beyond it is told at once: one that waited in the system's queue would look like
//!   a node that hangs.
//! * A connection on which nothing moves in either direction for [`IDLE_MAX`] is ended, so that
//!   clients that vanished do not use up the limit.
//! * Without file descriptors the connections that are there go on, and new ones wait.
//! * Before a connection writes, every task that is ready has its turn once: the answers of a batch
//!   share a call of the system.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use quorate_client::ErrorCode;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, timeout};

use crate::error::{ApiError, CODE_HEADER};

/// How long nothing may happen on a connection.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// How long to wait when a connection cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How many are told at a time that there is no place, and how long that may take.
pub(crate) const TOLD_MAX: usize = 16;
const TELLING_MAX: Duration = Duration::from_secs(1);
/// How HTTP/2 begins.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";

/// The places for connections of clients.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    free: Arc<Semaphore>,
    refused: AtomicU64,
}

impl Places {
    pub(crate) fn new(max: usize) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        Self { max, free: Arc::new(Semaphore::new(max)), refused: AtomicU64::new(0) }
    }

    /// How many connections there may be.
    pub(crate) const fn max(&self) -> usize {
        self.max
    }

    /// How many there are.
    pub(crate) fn taken(&self) -> usize {
        self.max - self.free.available_permits()
    }

    /// How many found no place so far.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// A listener that refuses connections beyond a limit.
pub(crate) struct BoundedListener {
    listener: TcpListener,
    places: Arc<Places>,
    told: JoinSet<()>,
}

impl BoundedListener {
    pub(crate) fn new(listener: TcpListener, places: Arc<Places>) -> Self {
        Self { listener, places, told: JoinSet::new() }
    }

    /// The next connection that has a place. May be dropped while it waits: nothing is lost.
    pub(crate) async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        loop {
            let (stream, address) = self.accept_any().await;
            let Ok(permit) = Arc::clone(&self.places.free).try_acquire_owned() else {
                self.refuse(stream, address);
                continue;
            };
            // Without it answers are only slower.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%address, %error, "no TCP_NODELAY");
            }
            let idle = Box::pin(tokio::time::sleep_until(Instant::now() + IDLE_MAX));
            return (BoundedStream { stream, idle, has_yielded: false, _permit: permit }, address);
        }
    }

    /// The next connection, with a place or without.
    async fn accept_any(&self) -> (TcpStream, SocketAddr) {
        let mut fails = false;
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_one_connection(&error) => {}
                // Out of file descriptors, most likely: it passes when connections end.
                Err(error) => {
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!("cannot accept connections of clients, and tries again: {error}");
                    }
                    #[expect(clippy::disallowed_methods, reason = "nothing signals free descriptors")]
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Tells a client that there is no place, unless too many are being told already.
    fn refuse(&mut self, stream: TcpStream, address: SocketAddr) {
        if self.places.refused.fetch_add(1, Ordering::Relaxed) == 0 {
            let max = self.places.max;
            tracing::warn!(%address, max, "refused a client: there are as many connections as there may be");
        }
        while self.told.try_join_next().is_some() {}
        if self.told.len() < TOLD_MAX {
            self.told.spawn(async move {
                // Whoever does not listen is not told.
                let _told = timeout(TELLING_MAX, tell_busy(stream)).await;
            });
        }
    }
}

/// Whoever connected has gone already. The next one can be accepted at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Answers whatever is asked on a connection that has no place.
async fn tell_busy(mut stream: TcpStream) -> io::Result<()> {
    let mut asked = [0; 1024];
    let count = stream.read(&mut asked).await?;
    if asked[..count].starts_with(HTTP2) {
        return Ok(());
    }
    let error = ApiError::new(
        ErrorCode::Busy,
        "this node has as many connections as it may: close some, ask another node, or raise \
         --client-connections-max",
    );
    let (status, body) = (error.http_status(), format!("{}\n", error.to_json()));
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{CODE_HEADER}: {}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        error.code.name(),
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closed with something unread, the connection would be reset, and the answer be lost.
    tokio::io::copy(&mut stream.take(64 << 10), &mut tokio::io::sink()).await.map(|_| ())
}

/// A connection with its place in the limit.
pub(crate) struct BoundedStream {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    /// Whether everybody else had their turn since there was something to write.
    has_yielded: bool,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    fn moved(&mut self) {
        self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
    }

    /// Whether the tasks that are ready have their turn first: they may have more to write here, and
    /// the call of the system costs the same.
    fn yields(&mut self, context: &Context<'_>) -> bool {
        self.has_yielded = !self.has_yielded;
        if self.has_yielded {
            context.waker().wake_by_ref();
        }
        self.has_yielded
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.moved();
            return read;
        }
        if self.idle.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.yields(context) {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_ready() {
            self.moved();
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.yields(context) {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        if written.is_ready() {
            self.moved();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Several answers of one batch go out in one call of the system, because the first one waits
    /// until the others have been made.
    #[tokio::test(flavor = "current_thread")]
    async fn whoever_is_ready_has_a_turn_before_an_answer_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = BoundedListener::new(listener, Arc::new(Places::new(1)));
        let (mut client, (mut served, _)) =
            tokio::join!(async { TcpStream::connect(address).await.unwrap() }, listener.accept());
        let order = Arc::new(Mutex::new(Vec::new()));
        let of_writer = Arc::clone(&order);
        let writer = tokio::spawn(async move {
            served.write_all(b"one").await.unwrap();
            of_writer.lock().unwrap().push("written");
            served.write_all(b"two").await.unwrap();
        });
        let of_other = Arc::clone(&order);
        let other = tokio::spawn(async move { of_other.lock().unwrap().push("other") });
        tokio::try_join!(writer, other).unwrap();
        assert_eq!(*order.lock().unwrap(), ["other", "written"]);
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "onetwo");
    }
}
