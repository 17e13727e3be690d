//! Room for messages that are still arriving, shared by all connections.
//!
//! ```text
//!   length read ──► enter: waits its turn ──► bytes ──► handed over ──► room for the next
//!                                               └── slow, and others wait: the connection ends
//! ```
//!
//! * What is claimed is held before memory is, so that no number of half-sent messages takes more than `bytes_max`.
//! * First come, first served. Whoever holds room for longer than `patience` while others wait loses it with its
//!   connection, so nobody waits for ever: not even for peers that never finish.
//! * Small messages need none: each connection has a buffer of its own for them. Heartbeats wait for nobody.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Up to this many bytes a message needs no room.
const SMALL_BYTES: usize = 64 << 10;

/// The room of one transport.
pub(crate) struct ReadingRoom {
    free: Semaphore,
    bytes_max: usize,
    patience: Duration,
    waiting: AtomicUsize,
}

/// Counts somebody who waits, also one that stops waiting.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ReadingRoom {
    pub(crate) fn new(bytes_max: usize, patience: Duration) -> Self {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS);
        Self { free: Semaphore::new(bytes_max), bytes_max, patience, waiting: AtomicUsize::new(0) }
    }

    /// Waits for room for a message; it is given back when the result is dropped.
    pub(crate) async fn enter(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        if bytes <= SMALL_BYTES {
            return None;
        }
        // One that is larger than the room is alone in it.
        let bytes = u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        // It is never closed.
        self.free.acquire_many(bytes).await.ok()
    }

    /// `reading`, for as long as nobody else wants the room; `None`: it took too long, and somebody does.
    pub(crate) async fn read<T>(&self, reading: impl Future<Output = T>) -> Option<T> {
        let mut reading = std::pin::pin!(reading);
        loop {
            if let Ok(read) = tokio::time::timeout(self.patience, &mut reading).await {
                return Some(read);
            }
            if self.waiting.load(Ordering::Relaxed) > 0 {
                return None;
            }
        }
    }

    /// How much is held now, in bytes.
    pub(crate) fn held(&self) -> usize {
        self.bytes_max - self.free.available_permits()
    }
}
