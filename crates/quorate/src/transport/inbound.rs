//! The accepting side: one task per connection reads frames and hands messages over.
//!
//! * Nothing is read or allocated beyond a small handshake frame before a peer has said who it is.
//!   Any byte that makes no sense ends its connection, is counted, and harms nothing else.
//! * Connections of peers are bounded, and so are, apart from them, those of whoever has not said
//!   who it is (`strangers`).
//! * Without file descriptors the connections that are there go on, and new ones wait.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::NodeId;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::config::TransportConfig;
use crate::transport::frame::{
    Channel, Frame, FrameError, HANDSHAKE_BYTES_MAX, Hello, read_frame, read_frame_in, write_refused,
    write_welcome,
};
use crate::transport::handshake::{Admission, Refusal};
use crate::transport::link::{LinkContext, tune, write_whole};
use crate::transport::strangers::{Stranger, Strangers};
use crate::transport::stream::{PeerStream, Unprotected, linger};

const READ_BUFFER_BYTES: usize = 64 << 10;

/// How long to wait when a connection cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until `stop` resolves, then ends them all and waits for that. When the task is
/// aborted instead, its connections end soon after.
pub(crate) async fn accept_loop(
    listener: TcpListener,
    context: LinkContext,
    mut stop: oneshot::Receiver<Infallible>,
) {
    let TransportConfig { handshakes_max, handshakes_per_address_max, connections_max, .. } = context.config;
    let strangers = Arc::new(Strangers::new(handshakes_max, handshakes_per_address_max));
    let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let mut number = 0_u64;
    let mut fails = false;
    loop {
        tokio::select! {
            // Whoever stops this drops the sender.
            _ = &mut stop => break,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    number += 1;
                    fails = false;
                    let stranger = strangers.enter(from.ip(), number);
                    let (places, context) = (Arc::clone(&places), context.clone());
                    connections.spawn(async move {
                        if let Err(error) = serve(stream, (from.ip(), number), stranger, &places, &context).await {
                            tracing::debug!(%from, "inbound connection ended: {error}");
                        }
                    });
                }
                Err(error) if is_of_one_connection(&error) => {}
                // Out of file descriptors, most likely: it passes when connections end.
                Err(error) => {
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!("cannot accept connections of peers, and tries again: {error}");
                    }
                    #[expect(clippy::disallowed_methods, reason = "nothing signals free descriptors")]
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    connections.shutdown().await;
}

/// Whoever connected has gone already. The next one can be accepted at once.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Says why, then closes.
async fn refuse(stream: &mut PeerStream, refusal: &Refusal, context: &LinkContext) -> Result<(), FrameError> {
    context.counters.handshakes_refused.add(1);
    let mut frame = Vec::new();
    write_refused(refusal, &mut frame);
    tokio::time::timeout(context.config.connect_timeout, write_whole(stream, &frame))
        .await
        .unwrap_or_else(|elapsed| Err(elapsed.into()))?;
    Ok(())
}

/// Shakes hands, then reads until the connection ends.
async fn serve(
    stream: TcpStream,
    (from, number): (IpAddr, u64),
    stranger: Stranger,
    places: &Arc<Semaphore>,
    context: &LinkContext,
) -> Result<(), FrameError> {
    tune(&stream, &context.config, Channel::Bulk)?;
    let Some(met) = stranger.wait(shake_hands(stream, (from, number), places, context)).await else {
        context.counters.handshakes_refused.add(1);
        context.complaints.warn(from, "too many connections on which nobody says who is there");
        return Ok(());
    };
    let Some(Met { mut stream, hello, admission, _place }) = met? else { return Ok(()) };
    let (Admission { welcome, number, replaced }, from) = (admission, hello.speaker.node);
    let _admitted = Admitted { context, node: from, channel: hello.channel, number };
    let mut frame = Vec::new();
    write_welcome(&welcome, &mut frame);
    write_whole(&mut stream, &frame).await?;
    tokio::select! {
        read = read_loop(stream, from, context) => read,
        _ = replaced => Ok(()),
    }
}

/// A peer that has said who it is and was admitted.
struct Met {
    stream: PeerStream,
    hello: Hello,
    admission: Admission,
    _place: OwnedSemaphorePermit,
}

/// Learns who is there. `None`: nobody to talk to, and what there was to say about it has been
/// said.
async fn shake_hands(
    stream: TcpStream,
    (from, number): (IpAddr, u64),
    places: &Arc<Semaphore>,
    context: &LinkContext,
) -> Result<Option<Met>, FrameError> {
    let limit = context.config.connect_timeout;
    let listening = tokio::time::timeout(limit, listen(stream, from, context)).await;
    let Some((mut stream, hello)) = listening.map_err(|elapsed| FrameError::Io(elapsed.into()))?? else {
        return Ok(None);
    };
    let place = Arc::clone(places).try_acquire_owned().map_err(|_full| Refusal::TooManyConnections);
    // What the certificate does not say must change nothing that is remembered of the node.
    let checked = context.protection.check(&stream, hello.speaker.node).and(place);
    let admitted = match checked {
        Ok(place) => context.acquaintances.admit(number, &hello).await.map(|admission| (admission, place)),
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok((admission, _place)) => Ok(Some(Met { stream, hello, admission, _place })),
        Err(refusal) => {
            tracing::warn!(
                peer = %hello.speaker.node, cluster = %hello.speaker.cluster, wanted = %hello.to,
                address = %hello.speaker.address, "refused a peer, telling it: {refusal}"
            );
            refuse(&mut stream, &refusal, context).await?;
            Ok(None)
        }
    }
}

/// Protects the connection and reads who is there. `None`: nobody to talk to, and what there was to say about
/// it has been said. The caller bounds the time.
async fn listen(
    stream: TcpStream,
    from: IpAddr,
    context: &LinkContext,
) -> Result<Option<(PeerStream, Hello)>, FrameError> {
    let mut stream = match context.protection.inbound(stream).await {
        Ok(stream) => stream,
        Err(Unprotected::Io(error)) => return Err(error.into()),
        #[cfg(feature = "tls")]
        Err(Unprotected::Plain(stream)) => {
            context.complaints.warn(from, Unprotected::PLAIN);
            let mut stream = PeerStream::Plain(stream);
            refuse(&mut stream, &Refusal::TlsRequired, context).await?;
            linger(stream).await;
            return Ok(None);
        }
        #[cfg(feature = "tls")]
        Err(Unprotected::Tls(stream, problem)) => {
            context.counters.handshakes_refused.add(1);
            context.complaints.warn(from, &problem.to_string());
            linger(stream).await;
            return Ok(None);
        }
    };
    match read_frame(&mut stream, HANDSHAKE_BYTES_MAX).await {
        Ok(Some((Frame::Hello(hello), _))) => Ok(Some((stream, hello))),
        Ok(Some((Frame::Welcome(_) | Frame::Refused(_) | Frame::Message(_), _))) => {
            context.counters.malformed.add(1);
            Err(FrameError::Magic)
        }
        Ok(None) => Ok(None),
        Err(FrameError::Tls) => {
            context.complaints.warn(from, &FrameError::Tls.to_string());
            refuse(&mut stream, &Refusal::PlainOnly, context).await?;
            linger(stream).await;
            Ok(None)
        }
        Err(error) => {
            context.counters.malformed.add(1);
            Err(error)
        }
    }
}

async fn read_loop(stream: PeerStream, from: NodeId, context: &LinkContext) -> Result<(), FrameError> {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
    loop {
        match read_frame_in(&mut reader, context.config.frame_bytes_max, Some(&context.room)).await {
            Ok(Some((Frame::Message(message), bytes))) => {
                context.counters.messages_received.add(1);
                context.counters.bytes_received.add(bytes as u64);
                if !context.inbound.received(from, message) {
                    context.counters.inbound_dropped.add(1);
                }
            }
            Ok(Some((Frame::Refused(refusal), _))) => {
                context.counters.handshakes_refused.add(1);
                tracing::warn!(peer = %from, "a peer refused this node: {refusal}");
                return Ok(());
            }
            Ok(Some((Frame::Hello(_) | Frame::Welcome(_), _))) => {
                context.counters.malformed.add(1);
                return Err(FrameError::Magic);
            }
            Ok(None) => return Ok(()),
            Err(FrameError::Io(error)) => return Err(FrameError::Io(error)),
            Err(error @ FrameError::Slow { .. }) => {
                tracing::warn!(peer = %from, "the connection ends: {error}");
                return Err(error);
            }
            Err(error) => {
                context.counters.malformed.add(1);
                tracing::warn!(peer = %from, "a peer sent bytes that make no sense: {error}");
                return Err(error);
            }
        }
    }
}

/// Forgets the connection when it ends, also when its task is aborted.
struct Admitted<'a> {
    context: &'a LinkContext,
    node: NodeId,
    channel: Channel,
    number: u64,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.context.acquaintances.ended(self.node, self.channel, self.number);
    }
}
