//! Room for the message that a stream is in the middle of.
//!
//! ```text
//!   body of a stream   │5│ small │5│ small │5│ large……………………│5│ …
//!   passed on          ├──────────────────┤ └ waits for room, then piece by piece ──► whole: the stream's task takes the room over
//! ```
//!
//! * A message of more than `SMALL_BYTES` that is not there as a whole is not read on before there is room
//!   for all of it. What is half read on any number of streams never takes more than the node's budget.
//! * The pieces before it are passed on first, so that nothing that is whole waits behind it.
//! * A stream that holds room, does not finish within `PATIENCE`, and keeps others from theirs, ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::OwnedSemaphorePermit;

use crate::room::Room;

/// Compressed or not, then the length.
const HEADER_BYTES: usize = 5;
/// Of this size a message needs no room while it is read: the connection has a buffer as large.
const SMALL_BYTES: usize = 16 << 10;
/// How long a stream may hold room while others want it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The room that a stream holds for the message that came last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arriving {
    permit: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Arriving {
    /// Takes it over: the message is whole.
    pub(crate) fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }

    fn is_held(&self) -> bool {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// The stream took too long, and others want the room it holds.
#[derive(Debug, thiserror::Error)]
#[error("the message took too long while others waited for room")]
struct Slow;

/// Has the body of a stream take room for what is half read.
pub(crate) fn measured(request: Request, room: &Arc<Room>) -> Request {
    let arriving = Arriving::default();
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(arriving.clone());
    let stream = Measured {
        body: body.into_data_stream(),
        room: Arc::clone(room),
        arriving,
        framing: Framing::default(),
        rest: Bytes::new(),
    };
    let pieces = futures_util::stream::unfold(stream, async |mut stream| {
        let piece = stream.next().await?;
        Some((piece, stream))
    });
    Request::from_parts(parts, Body::from_stream(pieces))
}

struct Measured {
    body: BodyDataStream,
    room: Arc<Room>,
    arriving: Arriving,
    framing: Framing,
    /// Read, and not passed on yet.
    rest: Bytes,
}

impl Measured {
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        if self.rest.is_empty() {
            match self.read().await? {
                Ok(piece) => self.rest = piece,
                Err(error) => return Some(Err(error)),
            }
        }
        let (whole, large) = self.framing.scan(&self.rest);
        let Some(bytes) = large.filter(|_| whole == 0) else { return Some(Ok(self.rest.split_to(whole))) };
        // Nothing waits while it holds what others wait for.
        drop(self.arriving.take());
        self.arriving.put(self.room.wait(bytes).await);
        self.framing.begin(bytes, self.rest.len());
        Some(Ok(std::mem::take(&mut self.rest)))
    }

    /// The next piece of the body; of a stream that holds room, only while nobody else wants it.
    async fn read(&mut self) -> Option<Result<Bytes, axum::Error>> {
        let mut reading = std::pin::pin!(self.body.next());
        loop {
            let refused = self.room.refused();
            match tokio::time::timeout(PATIENCE, &mut reading).await {
                Ok(piece) => return piece,
                Err(_late) if self.arriving.is_held() && self.room.is_wanted_since(refused) => {
                    drop(self.arriving.take());
                    return Some(Err(axum::Error::new(Slow)));
                }
                Err(_late) => {}
            }
        }
    }
}

/// Where in the messages of a stream its bytes stand.
#[derive(Debug, Default)]
struct Framing {
    header: Vec<u8>,
    /// Of the message that was begun.
    left: usize,
}

impl Framing {
    /// How many bytes of `piece` can be passed on, and, if a large message that is not whole begins behind
    /// them, how long it is.
    fn scan(&mut self, piece: &[u8]) -> (usize, Option<usize>) {
        let mut at = 0;
        while at < piece.len() {
            let rest = &piece[at..];
            if self.left > 0 {
                let count = self.left.min(rest.len());
                self.left -= count;
                at += count;
                continue;
            }
            let missing = HEADER_BYTES - self.header.len();
            let Some((header, content)) = rest.split_at_checked(missing) else {
                self.header.extend_from_slice(rest);
                break;
            };
            let bytes = length(&self.header, header);
            if bytes > SMALL_BYTES && bytes > content.len() {
                return (at, Some(bytes));
            }
            self.header.clear();
            self.left = bytes;
            at += missing;
        }
        (piece.len(), None)
    }

    /// There is room for the large message of `bytes`, whose header ends in a piece of which nothing was passed on.
    fn begin(&mut self, bytes: usize, piece_bytes: usize) {
        let of_header = HEADER_BYTES - self.header.len();
        self.header.clear();
        self.left = bytes - (piece_bytes - of_header);
    }
}

/// What a header in two parts says of the length.
fn length(first: &[u8], second: &[u8]) -> usize {
    let number = first.iter().chain(second).skip(1);
    number.fold(0, |length, byte| (length << 8) | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        let length = u32::try_from(bytes).unwrap().to_be_bytes();
        [&[0][..], &length, &vec![7; bytes]].concat()
    }

    /// A stream with these bytes in pieces, that then says nothing any more.
    fn stream_of(room: &Arc<Room>, pieces: Vec<Vec<u8>>) -> (BodyDataStream, Arriving) {
        let pieces = pieces.into_iter().map(|piece| Ok::<_, axum::Error>(Bytes::from(piece)));
        let body = Body::from_stream(stream::iter(pieces).chain(stream::pending()));
        let request = measured(Request::new(body), room);
        let arriving = request.extensions().get::<Arriving>().unwrap().clone();
        (request.into_body().into_data_stream(), arriving)
    }

    async fn read(stream: &mut BodyDataStream, bytes: usize) -> Result<Vec<u8>, axum::Error> {
        let mut found = Vec::new();
        while found.len() < bytes {
            found.extend_from_slice(&stream.next().await.unwrap()?);
        }
        Ok(found)
    }

    #[tokio::test]
    async fn however_it_is_cut_a_stream_passes_unchanged_and_large_messages_have_room() {
        let large = SMALL_BYTES * 2;
        let messages = [message(0), message(9), message(large), message(large), message(3)].concat();
        for cut in [1, 3, 4, 5, 7, 1000, SMALL_BYTES, messages.len()] {
            let room = Arc::new(Room::new(large + 10, large));
            let pieces = messages.chunks(cut).map(<[u8]>::to_vec).collect();
            let (mut stream, arriving) = stream_of(&room, pieces);
            let first = 5 + 5 + 9 + 5 + large;
            let mut found = read(&mut stream, 5 + 5 + 9 + 6).await.unwrap();
            assert!(arriving.is_held() || found.len() >= first, "cut at {cut}");
            if found.len() < first {
                let rest = read(&mut stream, first - found.len()).await.unwrap();
                found.extend_from_slice(&rest);
                // The message is whole: the next one must not wait for this one's room.
                drop(arriving.take());
            }
            let rest = read(&mut stream, messages.len() - found.len()).await.unwrap();
            assert!([found, rest].concat() == messages, "cut at {cut}");
        }
    }

    /// Ten streams begin a large message and never end it: two of them have room. One with a whole message
    /// waits for its turn, gets it when the slow ones are cut off, and meanwhile nothing takes more than the
    /// budget.
    #[tokio::test(start_paused = true)]
    async fn half_sent_messages_share_the_budget_and_starve_nobody() {
        let large = SMALL_BYTES * 2;
        let room = Arc::new(Room::new(2 * large, large));
        let half = || message(large)[..SMALL_BYTES].to_vec();
        let mut slow = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (mut stream, arriving) = stream_of(&room, vec![half()]);
            slow.spawn(async move {
                let begun = read(&mut stream, SMALL_BYTES).await;
                let cut = read(&mut stream, 1).await;
                (begun.is_ok() && cut.is_err(), arriving)
            });
        }
        tokio::task::yield_now().await;
        let (mut stream, arriving) = stream_of(&room, vec![half(), message(large)[SMALL_BYTES..].to_vec()]);
        let whole = tokio::time::timeout(PATIENCE * 20, read(&mut stream, 5 + large)).await;
        assert!(whole.unwrap().unwrap() == message(large));
        assert!(arriving.take().is_some());
        drop(stream);
        let mut cut = 0;
        while let Ok(Some(ended)) = tokio::time::timeout(PATIENCE * 3, slow.join_next()).await {
            assert!(ended.unwrap().0);
            cut += 1;
        }
        assert!(cut >= 8, "{cut}: only the last ones may keep nobody from anything");
    }

    /// The task of the stream has not come to the first message yet, so its room is still held when the second
    /// one wants as much: it is given up before anything is waited for.
    #[tokio::test(start_paused = true)]
    async fn a_stream_does_not_wait_for_room_while_it_holds_some() {
        let large = SMALL_BYTES * 2;
        let room = Arc::new(Room::new(large, large));
        let messages = message(large).repeat(2);
        let pieces = messages.chunks(SMALL_BYTES).map(<[u8]>::to_vec).collect();
        let (mut stream, arriving) = stream_of(&room, pieces);
        let both = tokio::time::timeout(PATIENCE * 20, read(&mut stream, 2 * (5 + large))).await;
        assert!(both.unwrap().unwrap() == messages && arriving.is_held());
    }
}
