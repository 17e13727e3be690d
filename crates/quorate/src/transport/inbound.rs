//! The accepting side: one task per connection reads frames and hands messages over.
//!
//! Nothing is read or allocated beyond a small handshake frame before a peer has said who it is. Any
//! byte that makes no sense ends its connection, is counted, and harms nothing else.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use quorate_core::NodeId;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::transport::frame::{
    Channel, Frame, FrameError, HANDSHAKE_BYTES_MAX, Hello, read_frame, read_frame_in, write_refused,
    write_welcome,
};
use crate::transport::handshake::{Admission, Refusal};
use crate::transport::link::{LinkContext, tune, write_whole};
use crate::transport::stream::{PeerStream, Protection, Unprotected, linger};

const READ_BUFFER_BYTES: usize = 64 << 10;

/// Accepts connections until `stop` resolves, then ends them all and waits for that. When the task is
/// aborted instead, its connections end soon after.
pub(crate) async fn accept_loop(
    listener: TcpListener,
    context: LinkContext,
    mut stop: oneshot::Receiver<Infallible>,
) {
    let room = Arc::new(Semaphore::new(context.config.connections_max));
    let mut connections = JoinSet::new();
    let mut number = 0_u64;
    loop {
        tokio::select! {
            // Whoever stops this drops the sender.
            _ = &mut stop => break,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    number += 1;
                    let permit = Arc::clone(&room).try_acquire_owned();
                    let context = context.clone();
                    connections.spawn(async move {
                        let served = match permit {
                            Ok(_held) => serve(stream, from.ip(), number, &context).await,
                            Err(_full) => refuse_for_want_of_room(stream, &context).await,
                        };
                        if let Err(error) = served {
                            tracing::debug!(%from, "inbound connection ended: {error}");
                        }
                    });
                }
                // Out of file descriptors, most likely: it passes when connections end.
                Err(error) => {
                    tracing::warn!("cannot accept a peer connection: {error}");
                    #[expect(clippy::disallowed_methods, reason = "nothing signals free descriptors")]
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }
    connections.shutdown().await;
}

/// Says so where that costs one write; a TLS handshake is what there is no room for.
async fn refuse_for_want_of_room(stream: TcpStream, context: &LinkContext) -> Result<(), FrameError> {
    match context.protection {
        Protection::Plain => {
            refuse(&mut PeerStream::Plain(stream), &Refusal::TooManyConnections, context).await
        }
        #[cfg(feature = "tls")]
        Protection::Tls(_) => {
            context.counters.handshakes_refused.add(1);
            Ok(())
        }
    }
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
    from: IpAddr,
    number: u64,
    context: &LinkContext,
) -> Result<(), FrameError> {
    tune(&stream, &context.config, Channel::Bulk)?;
    let limit = context.config.connect_timeout;
    let listening = tokio::time::timeout(limit, listen(stream, from, context)).await;
    let Some((mut stream, hello)) = listening.map_err(|elapsed| FrameError::Io(elapsed.into()))?? else {
        return Ok(());
    };
    let from = hello.speaker.node;
    // What the certificate does not say must change nothing that is remembered of the node.
    let admitted = match context.protection.check(&stream, from) {
        Ok(()) => context.acquaintances.admit(number, &hello).await,
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok(Admission { welcome, number, replaced }) => {
            let _admitted = Admitted { context, node: from, channel: hello.channel, number };
            let mut frame = Vec::new();
            write_welcome(&welcome, &mut frame);
            write_whole(&mut stream, &frame).await?;
            tokio::select! {
                read = read_loop(stream, from, context) => read,
                _ = replaced => Ok(()),
            }
        }
        Err(refusal) => {
            tracing::warn!(
                peer = %from, cluster = %hello.speaker.cluster, wanted = %hello.to,
                address = %hello.speaker.address, "refused a peer, telling it: {refusal}"
            );
            refuse(&mut stream, &refusal, context).await
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
