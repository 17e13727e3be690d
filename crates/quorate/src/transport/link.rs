//! One outbound connection: connects when there is something to say, or a node to meet for the first time,
//! says it, and connects again when that fails.
//!
//! ```text
//!   idle ──(queue filled)──► connect + handshake ──► write loop ──(error, closed, idle)──┐
//!    ▲                            │ failed                                               │
//!    │                            ▼                                                      │
//!    └───────────── report unreachable, drop what waits, pause with jitter ◄─────────────┘
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_core::NodeId;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

use crate::config::TransportConfig;
use crate::transport::Inbound;
use crate::transport::complaints::Complaints;
use crate::transport::frame::{
    Channel, Frame, HANDSHAKE_BYTES_MAX, read_frame, write_hello, write_message, write_refused,
};
use crate::transport::handshake::{Acquaintances, HandshakeError};
use crate::transport::link_queue::LinkQueue;
use crate::transport::reading_room::ReadingRoom;
use crate::transport::stream::{PeerStream, Protection};
use crate::transport::tcp::{Counter, Counters};

/// How many bytes of appends go into one write: what a heartbeat may have to wait for, unless one
/// message alone is larger.
const WRITE_BYTES: usize = 64 << 10;
/// A connection that had nothing to say for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The longest pause between two attempts to meet a node that there is nothing to say to.
const MEETING_PAUSE_MAX: Duration = Duration::from_secs(30);

/// One of the two outbound connections to a peer.
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) channel: Channel,
    pub(crate) queue: LinkQueue,
    pub(crate) connected: AtomicBool,
    /// The node is to be met even if there is nothing to say.
    meeting: AtomicBool,
    /// Where the membership says the peer is; shared by both links.
    pub(crate) address: Arc<Mutex<String>>,
    /// Why the last attempt failed.
    pub(crate) error: Mutex<Option<String>>,
    /// Attempts that one side refused.
    pub(crate) refused: Counter,
}

/// What every link needs.
#[derive(Clone)]
pub(crate) struct LinkContext {
    pub(crate) config: TransportConfig,
    pub(crate) acquaintances: Arc<Acquaintances>,
    pub(crate) inbound: Arc<dyn Inbound>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) protection: Protection,
    pub(crate) complaints: Arc<Complaints>,
    /// For messages that are arriving.
    pub(crate) room: Arc<ReadingRoom>,
}

impl Link {
    pub(crate) fn new(
        node: NodeId,
        channel: Channel,
        address: Arc<Mutex<String>>,
        queue_bytes_max: usize,
    ) -> Self {
        Self {
            node,
            channel,
            queue: LinkQueue::new(queue_bytes_max),
            connected: AtomicBool::new(false),
            meeting: AtomicBool::new(false),
            address,
            error: Mutex::new(None),
            refused: Counter::default(),
        }
    }

    /// Meets the node, once, as soon as it can be reached.
    pub(crate) fn meet(&self) {
        self.meeting.store(true, Ordering::Relaxed);
        self.queue.wake();
    }

    /// Runs until the task is aborted.
    pub(crate) async fn run(self: Arc<Self>, context: LinkContext) {
        let mut jitter = Jitter::new(self.node);
        let (backoff_min, backoff_max) = (context.config.backoff_min, context.config.backoff_max);
        let (mut pause, mut meeting_pause) = (backoff_min, backoff_min);
        loop {
            let first = self.queue.take(WRITE_BYTES);
            let is_meeting = first.is_empty();
            let has_to_meet =
                self.meeting.load(Ordering::Relaxed) && !context.acquaintances.has_met(self.node);
            if is_meeting && !has_to_meet {
                self.queue.filled().await;
                continue;
            }
            let lost = first.len() as u64;
            match tokio::time::timeout(context.config.connect_timeout, self.connect(&context)).await {
                Ok(Ok(stream)) => {
                    pause = backoff_min;
                    self.converse(stream, first, &context).await;
                }
                Ok(Err(error)) => self.failed(&error, lost, &context),
                Err(_elapsed) => {
                    let error = HandshakeError::TimedOut { address: self.target(&context) };
                    self.failed(&error, lost, &context);
                }
            }
            // Whatever ended, the peer was lost: do not hammer it.
            if is_meeting {
                // Over when there is something to say, too.
                drop(tokio::time::timeout(jitter.around(meeting_pause), self.queue.filled()).await);
                meeting_pause = (meeting_pause * 2).min(MEETING_PAUSE_MAX);
            } else {
                #[expect(clippy::disallowed_methods, reason = "the pause between two attempts to connect")]
                tokio::time::sleep(jitter.around(pause)).await;
                pause = (pause * 2).min(backoff_max);
            }
        }
    }

    /// Where to connect to: the membership's word first, then the peer's own.
    fn target(&self, context: &LinkContext) -> String {
        let address = self.address.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if address.is_empty() {
            context.acquaintances.address_of(self.node).unwrap_or_default()
        } else {
            address
        }
    }

    async fn connect(&self, context: &LinkContext) -> Result<PeerStream, HandshakeError> {
        let address = self.target(context);
        let unreachable = |source| HandshakeError::Unreachable { address: address.clone(), source };
        let stream = match &context.config.resolver {
            Some(resolver) => {
                let found = resolver.resolve(self.node, &address).await.map_err(unreachable)?;
                TcpStream::connect(&*found).await.map_err(unreachable)?
            }
            None if address.is_empty() => return Err(HandshakeError::NoAddress(self.node)),
            None => TcpStream::connect(&address).await.map_err(unreachable)?,
        };
        tune(&stream, &context.config, self.channel).map_err(unreachable)?;
        let mut stream = context.protection.outbound(stream, self.node, &address).await?;
        let mut frame = Vec::new();
        write_hello(&context.acquaintances.hello(self.node, self.channel), &mut frame);
        let said = write_whole(&mut stream, &frame).await;
        said.map_err(|error| HandshakeError::from_io(address.clone(), error))?;
        let answer = read_frame(&mut stream, HANDSHAKE_BYTES_MAX).await;
        match answer.map_err(|error| HandshakeError::from_frame(&address, error))? {
            Some((Frame::Welcome(welcome), _)) => {
                if let Err(refusal) = context.acquaintances.accept(self.node, &welcome).await {
                    frame.clear();
                    write_refused(&refusal, &mut frame);
                    write_whole(&mut stream, &frame).await.map_err(unreachable)?;
                    return Err(HandshakeError::Refused(refusal));
                }
                Ok(stream)
            }
            Some((Frame::Refused(refusal), _)) => Err(HandshakeError::RefusedByPeer(refusal)),
            Some((Frame::Hello(_) | Frame::Message(_), _)) => Err(HandshakeError::Malformed {
                address,
                reason: "it did not answer the handshake".to_owned(),
            }),
            None => Err(HandshakeError::Malformed { address, reason: "it closed the connection".to_owned() }),
        }
    }

    /// An attempt to connect has failed: what waits is stale by the time of the next one.
    fn failed(&self, error: &HandshakeError, taken: u64, context: &LinkContext) {
        if error.is_refusal() {
            context.counters.handshakes_refused.add(1);
            self.refused.add(1);
        }
        let dropped = taken + self.queue.clear();
        context.counters.outbound_dropped.add(dropped);
        let text = error.to_string();
        let mut last = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        // Said once per reason, not once per attempt.
        if last.as_ref() != Some(&text) {
            tracing::warn!(peer = %self.node, channel = ?self.channel, "no connection: {text}");
            *last = Some(text);
        }
        drop(last);
        if dropped > 0 {
            context.inbound.unreachable(self.node);
        }
    }

    /// Writes what is queued until the connection ends.
    async fn converse(
        &self,
        stream: PeerStream,
        first: Vec<quorate_host::PeerMessage>,
        context: &LinkContext,
    ) {
        self.connected.store(true, Ordering::Relaxed);
        context.counters.connections.add(1);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::debug!(peer = %self.node, channel = ?self.channel, "connected");
        let (reader, writer) = tokio::io::split(stream);
        let guard = Connected { link: self, context };
        let why = tokio::select! {
            why = self.write_loop(writer, first, context) => why,
            why = self.watch_peer(reader) => why,
        };
        drop(guard);
        tracing::debug!(peer = %self.node, channel = ?self.channel, "connection ended: {why}");
        if why != IDLE {
            context.inbound.unreachable(self.node);
        }
    }

    async fn write_loop(
        &self,
        mut writer: WriteHalf<PeerStream>,
        first: Vec<quorate_host::PeerMessage>,
        context: &LinkContext,
    ) -> String {
        let mut messages = first;
        let mut out = Vec::new();
        loop {
            out.clear();
            let mut sent = 0;
            for message in messages.drain(..) {
                if write_message(&message, context.config.frame_bytes_max, &mut out) {
                    sent += 1;
                } else {
                    tracing::error!(peer = %self.node, "a message is larger than frame_bytes_max: dropped");
                    context.counters.outbound_dropped.add(1);
                }
            }
            if let Err(why) = write_all(&mut writer, &out, context.config.write_timeout).await {
                context.counters.outbound_dropped.add(sent);
                return why;
            }
            context.counters.messages_sent.add(sent);
            context.counters.bytes_sent.add(out.len() as u64);
            out.shrink_to(1 << 20);
            messages = self.queue.take(WRITE_BYTES);
            while messages.is_empty() {
                if tokio::time::timeout(IDLE_MAX, self.queue.filled()).await.is_err() {
                    return IDLE.to_owned();
                }
                messages = self.queue.take(WRITE_BYTES);
            }
        }
    }

    /// Peers do not answer on this connection: anything that arrives ends it.
    async fn watch_peer(&self, mut reader: ReadHalf<PeerStream>) -> String {
        let mut byte = [0_u8; 1];
        match reader.read(&mut byte).await {
            Ok(0) => "the peer closed it".to_owned(),
            Ok(_) => "the peer spoke out of turn".to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

const IDLE: &str = "nothing to say";

/// Takes the figures back when a conversation ends, also when its task is aborted.
struct Connected<'a> {
    link: &'a Link,
    context: &'a LinkContext,
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.link.connected.store(false, Ordering::Relaxed);
        self.context.counters.connections.sub(1);
    }
}

/// Writes `bytes`; an error when the peer takes nothing at all for `timeout`.
async fn write_all(
    writer: &mut WriteHalf<PeerStream>,
    mut bytes: &[u8],
    timeout: Duration,
) -> Result<(), String> {
    let stuck = || format!("the peer took nothing for {timeout:?}");
    while !bytes.is_empty() {
        match tokio::time::timeout(timeout, writer.write(bytes)).await {
            Ok(Ok(0)) => return Err("the connection is closed".to_owned()),
            Ok(Ok(written)) => bytes = bytes.get(written..).unwrap_or_default(),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_elapsed) => return Err(stuck()),
        }
    }
    // TLS may still hold the last record.
    let flushed = tokio::time::timeout(timeout, writer.flush()).await;
    flushed.map_err(|_elapsed| stuck())?.map_err(|error| error.to_string())
}

/// Writes one frame of a handshake; the caller bounds the time.
pub(crate) async fn write_whole(stream: &mut PeerStream, frame: &[u8]) -> std::io::Result<()> {
    stream.write_all(frame).await?;
    stream.flush().await
}

/// Sets the options of a peer socket.
pub(crate) fn tune(stream: &TcpStream, config: &TransportConfig, channel: Channel) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // The system counts whole seconds, and refuses none.
    let keepalive = TcpKeepalive::new().with_time(config.write_timeout.max(Duration::from_secs(1)));
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    let keepalive = keepalive.with_interval((config.write_timeout / 3).max(Duration::from_secs(1)));
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(config.write_timeout))?;
        if channel == Channel::Consensus {
            socket.set_tcp_notsent_lowat(config.unsent_bytes_max)?;
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = channel;
    }
    Ok(())
}

/// Pauses that differ between nodes, so that they do not reconnect in step.
struct Jitter(u64);

impl Jitter {
    fn new(node: NodeId) -> Self {
        // Without randomness from the system the node id alone must do.
        Self(getrandom::u64().unwrap_or(node.0) | 1)
    }
    /// Between half of `pause` and all of it.
    fn around(&mut self, pause: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let part = u32::try_from(self.0 % 512).unwrap_or(0);
        pause / 2 + pause * part / 1024
    }
}
