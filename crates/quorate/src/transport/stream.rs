//! A connection to a peer, plain or inside TLS, and what happens before the first frame.
//!
//! ```text
//!                         this node has certificates            it has none
//!   peer speaks TLS       verified, both ways                   Refused: PlainOnly, then closed
//!   peer speaks plainly   Refused: TlsRequired, then closed     the frames begin
//! ```
//!
//! A side that closes a connection with unread bytes in it resets it, and the other side may lose the reason
//! that was just sent. So whoever refuses early goes on reading for a moment: [`linger`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use quorate_core::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

#[cfg(feature = "tls")]
use crate::transport::PeerTls;
use crate::transport::handshake::{HandshakeError, Refusal};
#[cfg(feature = "tls")]
use crate::transport::tls_error::TlsError;

/// How the connections of this node are protected.
#[derive(Clone, Default)]
pub(crate) enum Protection {
    /// Not at all.
    #[default]
    Plain,
    /// By TLS with certificates on both sides.
    #[cfg(feature = "tls")]
    Tls(std::sync::Arc<PeerTls>),
}

/// A connection, ready for frames.
pub(crate) enum PeerStream {
    /// As TCP carries it.
    Plain(TcpStream),
    /// Inside TLS.
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

/// Why an inbound connection got no further than its first bytes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unprotected {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[cfg(feature = "tls")]
    #[error("{1}")]
    Tls(TcpStream, TlsError),
    #[cfg(feature = "tls")]
    #[error("{}", Self::PLAIN)]
    Plain(TcpStream),
}

#[cfg(feature = "tls")]
impl Unprotected {
    /// In words, what is wrong with a peer that does not speak TLS.
    pub(crate) const PLAIN: &str = "the peer does not speak TLS: give both nodes certificates, or neither";
}

/// What every TLS connection begins with; a plain one begins with the length of a small frame.
#[cfg(feature = "tls")]
const TLS_HANDSHAKE_RECORD: u8 = 0x16;

impl Protection {
    /// Protects a connection that this node opened to `node`.
    pub(crate) async fn outbound(
        &self,
        stream: TcpStream,
        node: NodeId,
        address: &str,
    ) -> Result<PeerStream, HandshakeError> {
        #[cfg(not(feature = "tls"))]
        let _ = (node, address);
        match self {
            Self::Plain => Ok(PeerStream::Plain(stream)),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => {
                let address = || address.to_owned();
                match tls.connect(stream, node).await {
                    Ok(Ok(stream)) => Ok(PeerStream::Tls(Box::new(stream))),
                    Ok(Err(source)) => Err(HandshakeError::Tls { address: address(), source }),
                    Err(source) => Err(HandshakeError::Unreachable { address: address(), source }),
                }
            }
        }
    }

    /// Protects a connection that was accepted.
    pub(crate) async fn inbound(&self, stream: TcpStream) -> Result<PeerStream, Unprotected> {
        match self {
            Self::Plain => Ok(PeerStream::Plain(stream)),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => {
                let mut first = [0_u8; 1];
                let seen = stream.peek(&mut first).await?;
                if seen == 1 && first != [TLS_HANDSHAKE_RECORD] {
                    return Err(Unprotected::Plain(stream));
                }
                match tls.accept(stream).await {
                    Ok(stream) => Ok(PeerStream::Tls(Box::new(stream))),
                    Err((Ok(problem), stream)) => Err(Unprotected::Tls(stream, problem)),
                    Err((Err(error), _)) => Err(Unprotected::Io(error)),
                }
            }
        }
    }

    /// Whether the other end of `stream` has shown that it is `node`.
    pub(crate) fn check(&self, stream: &PeerStream, node: NodeId) -> Result<(), Refusal> {
        match (self, stream) {
            (Self::Plain, PeerStream::Plain(_)) => {
                let _ = node;
                Ok(())
            }
            #[cfg(feature = "tls")]
            (Self::Tls(tls), PeerStream::Tls(stream)) => tls.check(stream, node).map_err(|problem| {
                tracing::debug!(peer = %node, "its Hello and its certificate differ: {problem}");
                Refusal::Certificate
            }),
            #[cfg(feature = "tls")]
            (Self::Plain, PeerStream::Tls(_)) => Err(Refusal::PlainOnly),
            #[cfg(feature = "tls")]
            (Self::Tls(_), PeerStream::Plain(_)) => Err(Refusal::TlsRequired),
        }
    }
}

/// How much a peer that was refused may still say.
const LINGER_BYTES: u64 = 64 << 10;

/// Ends a connection whose peer may have said more than was read, so that it gets what was last written.
/// The caller bounds the time.
pub(crate) async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    if stream.shutdown().await.is_ok() {
        // However it ends, it has ended.
        drop(tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await);
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
