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

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::Request;
use futures_util::StreamExt as _;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyStream, StreamBody};
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
pub(crate) struct Held {
    permits: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    was_full: Arc<AtomicBool>,
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
    pub(crate) fn admit(self: &Arc<Self>, request: Request) -> Result<(Request, Held), Full> {
        let held = Held::default();
        if let Some(bytes) = declared_bytes(&request) {
            // One that is too large is refused as such, by whoever knows that limit, and not read.
            held.take(self, usize::try_from(bytes).unwrap_or(usize::MAX).min(self.each_bytes_max))?;
            return Ok((request, held));
        }
        let (room, holds) = (Arc::clone(self), held.clone());
        let request = request.map(|body| {
            let pieces = BodyStream::new(body).map(move |piece| {
                let piece = piece?;
                holds.take(&room, piece.data_ref().map_or(0, bytes::Bytes::len)).map_err(axum::Error::new)?;
                Ok::<_, axum::Error>(piece)
            });
            Body::new(StreamBody::new(pieces))
        });
        Ok((request, held))
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
        self.was_full.load(Ordering::Relaxed)
    }

    fn take(&self, room: &Room, bytes: usize) -> Result<(), Full> {
        let permits = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| Arc::clone(&room.free).try_acquire_many_owned(bytes).ok());
        let Some(more) = permits else {
            self.was_full.store(true, Ordering::Relaxed);
            room.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Full);
        };
        let mut held = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *held {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// What the request says of its length.
pub(crate) fn declared_bytes(request: &Request) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
