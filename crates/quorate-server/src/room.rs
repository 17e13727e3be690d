//! How many bytes of requests a node holds: one budget for all that are being read or worked on.
//!
//! ```text
//!   says its length ─► room for all of it, or busy ──────────┐
//!   does not say it ─► room for each piece as it comes, or busy ─► worked on ─► answered, room again
//!   of a stream ─────► waits for room before it is read to its end (`stream_room`), if it is small once it is read
//! ```
//!
//! * Nothing waits for room while it holds some that others wait for: pieces never wait, and permits are
//!   waited for by those who have room.
//! * A request that finds no room has no effect: what is not read whole is not acted on.
//!
//! Not here: how many requests there may be (`gate`), and how long one may be (`http`, `grpc`).

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::BoxError;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Room {
    /// One permit is a byte.
    free: Arc<Semaphore>,
    /// The largest request that is read to its end.
    each_bytes_max: usize,
    /// How many wait for room now, and how many were refused so far.
    waiting: AtomicUsize,
    refused: AtomicU64,
}

/// Counts somebody who waits, also one that stops waiting.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one request holds, until this is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held(Arc<Holding>);

#[derive(Debug, Default)]
struct Holding {
    permits: Mutex<Option<OwnedSemaphorePermit>>,
    was_full: AtomicBool,
}

/// A body of which each piece has room before it is passed on.
#[derive(Debug)]
pub(crate) struct Roomy<B> {
    body: B,
    room: Arc<Room>,
    held: Held,
    /// The request said how long it is, and has room for all of it.
    is_whole: bool,
}

/// There was no room.
#[derive(Debug, thiserror::Error)]
#[error("this node holds as many bytes of requests as it may")]
pub(crate) struct Full;

impl Room {
    /// Room for `bytes_max` in all, and at least for one request of `each_bytes_max`.
    pub(crate) fn new(bytes_max: usize, each_bytes_max: usize) -> Self {
        let bytes_max = bytes_max.max(each_bytes_max).clamp(1, Semaphore::MAX_PERMITS);
        let (waiting, refused) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { free: Arc::new(Semaphore::new(bytes_max)), each_bytes_max, waiting, refused }
    }

    /// Takes the room a request needs: at once if it says how much, otherwise while it is read.
    pub(crate) fn admit<B>(
        self: &Arc<Self>,
        request: http::Request<B>,
    ) -> Result<(http::Request<Roomy<B>>, Held), Full> {
        let held = Held::default();
        let declared = declared_bytes(request.headers());
        if let Some(bytes) = declared {
            // One that is too large is refused as such, by whoever knows that limit, and not read.
            held.take(self, usize::try_from(bytes).unwrap_or(usize::MAX).min(self.each_bytes_max))?;
        }
        let (room, holds, is_whole) = (Arc::clone(self), held.clone(), declared.is_some());
        Ok((request.map(|body| Roomy { body, room, held: holds, is_whole }), held))
    }

    /// Waits for room.
    pub(crate) async fn wait(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(self.each_bytes_max)).unwrap_or(u32::MAX);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        Arc::clone(&self.free).acquire_many_owned(bytes).await.ok()
    }

    /// How many requests found no room so far.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for room, or was refused some since there were `refused` of those.
    pub(crate) fn is_wanted_since(&self, refused: u64) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 || self.refused() != refused
    }
}

impl Held {
    /// Whether the request was broken off because there was no room.
    pub(crate) fn was_full(&self) -> bool {
        self.0.was_full.load(Ordering::Relaxed)
    }

    fn take(&self, room: &Room, bytes: usize) -> Result<(), Full> {
        let permits = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| Arc::clone(&room.free).try_acquire_many_owned(bytes).ok());
        let Some(more) = permits else {
            self.0.was_full.store(true, Ordering::Relaxed);
            room.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Full);
        };
        let mut held = self.0.permits.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *held {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

impl<B> Body for Roomy<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(piece))) => piece,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        let bytes = piece.data_ref().map_or(0, Bytes::len);
        if bytes > 0
            && !self.is_whole
            && let Err(full) = self.held.take(&self.room, bytes)
        {
            return Poll::Ready(Some(Err(full.into())));
        }
        Poll::Ready(Some(Ok(piece)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a request with these headers says of its length.
pub(crate) fn declared_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
