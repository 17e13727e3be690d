//! The wires between the nodes: everything they say to each other runs through here, and each direction between
//! two nodes can be cut, slowed, thinned out, garbled and torn.
//!
//! ```text
//!   node 1 ──► proxy of node 2 ──────────────────────────────────────────────────────► node 2
//!              reads the hello: "this is node 1"
//!              then, per direction, chunk by chunk:
//!                read ──► fate? ──► queue (chunk, due) ──► wait until due and not cut ──► write
//!                          └─ dropped: never arrives, though what follows does; garbled: one byte is another;
//!                             torn: the connection is reset, often in the middle of a frame
//! ```
//!
//! * A cut direction swallows nothing: bytes wait in place, as in a network that drops packets, where TCP sends
//!   them again. New connections wait as well, as long as either direction is cut.
//! * TCP itself never loses or garbles bytes; broken middle boxes, memory and checksums do. A node must notice.
//! * Every fate is counted, so that a story can insist that it happened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::dice::Dice;
use crate::hello::{self, Hello};

/// The most bytes that have one fate.
const CHUNK_BYTES: usize = 16 << 10;
/// The most chunks on their way in one direction of one connection.
const CHUNKS_MAX: usize = 64;

/// What one direction between two nodes is like. The default is perfect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) cut: bool,
    /// Each chunk takes up to this long, and never overtakes another.
    pub(crate) delay_max: Duration,
    /// Of a thousand chunks, how many are left out, have one byte changed, and tear the connection.
    pub(crate) dropped: u64,
    pub(crate) garbled: u64,
    pub(crate) torn: u64,
}

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Chunks that found their direction cut.
    pub(crate) held: AtomicU64,
    pub(crate) delayed: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) garbled: AtomicU64,
    pub(crate) torn: AtomicU64,
}

impl Counts {
    /// Chunks that did not arrive as they were sent.
    pub(crate) fn broken(&self) -> u64 {
        [&self.dropped, &self.garbled, &self.torn].map(|count| count.load(Ordering::Relaxed)).iter().sum()
    }
}

type Direction = (u64, u64);
type Conditions = BTreeMap<Direction, Condition>;

/// All wires of a cluster.
pub(crate) struct Wires {
    /// Where each node's proxy listens.
    pub(crate) addresses: BTreeMap<u64, String>,
    pub(crate) counts: Arc<Counts>,
    conditions: watch::Sender<Conditions>,
}

impl Wires {
    /// A proxy before each of these nodes.
    pub(crate) fn new(runtime: &tokio::runtime::Runtime, nodes: &BTreeMap<u64, String>, seed: u64) -> Self {
        let (conditions, counts) = (watch::Sender::new(Conditions::new()), Arc::new(Counts::default()));
        let mut addresses = BTreeMap::new();
        for (node, address) in nodes {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            addresses.insert(*node, listener.local_addr().unwrap().to_string());
            let wire = Wire {
                target: *node,
                upstream: address.parse().unwrap(),
                conditions: conditions.subscribe(),
                counts: counts.clone(),
            };
            runtime.spawn(serve(listener, wire, seed.wrapping_mul(31) + node));
        }
        Self { addresses, counts, conditions }
    }

    /// What these directions are like from now on; the others stay as they are.
    pub(crate) fn set(&self, directions: impl IntoIterator<Item = Direction>, condition: Condition) {
        self.conditions.send_modify(|conditions| {
            conditions.extend(directions.into_iter().map(|direction| (direction, condition)));
        });
    }

    pub(crate) fn heal(&self) {
        self.conditions.send_replace(Conditions::new());
    }
}

#[derive(Clone)]
struct Wire {
    target: u64,
    upstream: SocketAddr,
    conditions: watch::Receiver<Conditions>,
    counts: Arc<Counts>,
}

impl Wire {
    fn condition(&self, direction: Direction) -> Condition {
        self.conditions.borrow().get(&direction).copied().unwrap_or_default()
    }

    /// Waits until nothing is cut. False: the story is over.
    async fn passes(&mut self, directions: &[Direction]) -> bool {
        let is_cut = |conditions: &Conditions| {
            directions.iter().any(|direction| conditions.get(direction).is_some_and(|it| it.cut))
        };
        if is_cut(&self.conditions.borrow()) {
            self.counts.held.fetch_add(1, Ordering::Relaxed);
        }
        self.conditions.wait_for(|conditions| !is_cut(conditions)).await.is_ok()
    }
}

async fn serve(listener: TcpListener, wire: Wire, seed: u64) {
    for connection in 1_u64.. {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let dice = Dice::new(seed.wrapping_mul(1_000_003) + connection);
        // However a connection ends, both sides see it closed; there is nobody to tell.
        tokio::spawn(forward(stream, wire.clone(), dice));
    }
}

async fn forward(mut source: TcpStream, mut wire: Wire, mut dice: Dice) -> std::io::Result<()> {
    source.set_nodelay(true)?;
    let mut greeting = BytesMut::with_capacity(hello::BYTES_MAX);
    let from = loop {
        match hello::parse(&greeting) {
            Hello::From(node) => break node,
            Hello::Incomplete if greeting.len() < hello::BYTES_MAX => {}
            Hello::Incomplete | Hello::Unknown => return Ok(()),
        }
        if source.read_buf(&mut greeting).await? == 0 {
            return Ok(());
        }
    };
    let to = wire.target;
    if !wire.passes(&[(from, to), (to, from)]).await {
        return Ok(());
    }
    let mut target = TcpStream::connect(wire.upstream).await?;
    target.set_nodelay(true)?;
    target.write_all(&greeting).await?;
    let (source_read, source_write) = source.into_split();
    let (target_read, target_write) = target.into_split();
    let back = Dice::new(dice.throw(u64::MAX));
    tokio::try_join!(
        pump(source_read, target_write, (from, to), wire.clone(), dice),
        pump(target_read, source_write, (to, from), wire, back),
    )?;
    Ok(())
}

/// Moves bytes in one direction until the end, then closes that direction. An error tears both.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut wire: Wire,
    mut dice: Dice,
) -> std::io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    let fates = wire.clone();
    let read = async move {
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            if from.read_buf(&mut chunk).await? == 0 {
                return Ok::<_, std::io::Error>(());
            }
            let delay_max = fates.condition(direction).delay_max;
            if !delay_max.is_zero() {
                fates.counts.delayed.fetch_add(1, Ordering::Relaxed);
            }
            let due = Instant::now() + dice.up_to(delay_max);
            let Some(chunk) = suffer(chunk, &fates, direction, &mut dice)? else { continue };
            if queue.send((due, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            if !wire.passes(&[direction]).await {
                return Ok(());
            }
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// The fate of one chunk: what is left of it, nothing, or the end of the connection.
fn suffer(
    mut chunk: BytesMut,
    wire: &Wire,
    direction: Direction,
    dice: &mut Dice,
) -> std::io::Result<Option<Bytes>> {
    let (condition, counts) = (wire.condition(direction), &wire.counts);
    let fate = dice.throw(1000);
    if fate < condition.dropped {
        counts.dropped.fetch_add(1, Ordering::Relaxed);
        return Ok(None);
    }
    if fate < condition.dropped + condition.garbled {
        counts.garbled.fetch_add(1, Ordering::Relaxed);
        let at = dice.index(chunk.len());
        chunk[at] ^= u8::try_from(1 + dice.throw(255)).unwrap();
        return Ok(Some(chunk.freeze()));
    }
    if fate < condition.dropped + condition.garbled + condition.torn {
        counts.torn.fetch_add(1, Ordering::Relaxed);
        return Err(std::io::ErrorKind::ConnectionReset.into());
    }
    Ok(Some(chunk.freeze()))
}
