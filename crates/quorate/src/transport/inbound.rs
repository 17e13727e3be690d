//! The accepting side: one task per connection reads frames and hands messages over.
//!
//! Nothing is read or allocated beyond a small handshake frame before a peer has said who it is. Any
//! byte that makes no sense ends its connection, is counted, and harms nothing else.

use std::convert::Infallible;
use std::sync::Arc;

use quorate_core::NodeId;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::transport::frame::{
    Channel, Frame, FrameError, HANDSHAKE_BYTES_MAX, read_frame, write_refused, write_welcome,
};
use crate::transport::handshake::{Admission, Refusal};
use crate::transport::link::{LinkContext, tune};

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
                            Ok(_held) => serve(stream, number, &context).await,
                            Err(_full) => refuse(stream, &Refusal::TooManyConnections, &context).await,
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

async fn refuse(mut stream: TcpStream, refusal: &Refusal, context: &LinkContext) -> Result<(), FrameError> {
    context.counters.handshakes_refused.add(1);
    let mut frame = Vec::new();
    write_refused(refusal, &mut frame);
    tokio::time::timeout(context.config.connect_timeout, stream.write_all(&frame))
        .await
        .unwrap_or_else(|elapsed| Err(elapsed.into()))?;
    Ok(())
}

/// Shakes hands, then reads until the connection ends.
async fn serve(mut stream: TcpStream, number: u64, context: &LinkContext) -> Result<(), FrameError> {
    tune(&stream, &context.config, Channel::Bulk)?;
    let hello =
        tokio::time::timeout(context.config.connect_timeout, read_frame(&mut stream, HANDSHAKE_BYTES_MAX))
            .await
            .map_err(|elapsed| FrameError::Io(elapsed.into()))?;
    let hello = match hello {
        Ok(Some((Frame::Hello(hello), _))) => hello,
        Ok(Some((Frame::Welcome(_) | Frame::Refused(_) | Frame::Message(_), _))) => {
            context.counters.malformed.add(1);
            return Err(FrameError::Magic);
        }
        Ok(None) => return Ok(()),
        Err(error) => {
            context.counters.malformed.add(1);
            return Err(error);
        }
    };
    let from = hello.speaker.node;
    match context.acquaintances.admit(number, &hello) {
        Ok(Admission { welcome, number, replaced }) => {
            let _admitted = Admitted { context, node: from, channel: hello.channel, number };
            let mut frame = Vec::new();
            write_welcome(&welcome, &mut frame);
            stream.write_all(&frame).await?;
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
            refuse(stream, &refusal, context).await
        }
    }
}

async fn read_loop(stream: TcpStream, from: NodeId, context: &LinkContext) -> Result<(), FrameError> {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
    loop {
        match read_frame(&mut reader, context.config.frame_bytes_max).await {
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
