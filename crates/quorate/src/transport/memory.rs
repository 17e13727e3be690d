//! A network in memory, with faults on demand: for tests and demonstrations of whole clusters in
//! one process.
//!
//! ```text
//!   MemoryTransport ──send──► MemoryNetwork ──(blocked? lost? delayed?)──► Inbound of the receiver, whose turn it is
//!                                   └── a thread for what is delayed, while there is any network
//! ```

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_core::NodeId;
use quorate_host::{Outbound, PeerMessage};

use crate::transport::tcp::Counters;
use crate::transport::{Inbound, PeerStatus, Transport, TransportStats, message_bytes};

/// The most bytes that may be delayed at a time; beyond it messages are lost.
const DELAYED_BYTES_MAX: usize = 256 << 20;

/// Connects the [`MemoryTransport`]s made from it. Cheap to clone.
#[derive(Clone)]
pub struct MemoryNetwork {
    wire: Arc<Wire>,
    _timer: Arc<Timer>,
}

struct Wire {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, (u64, Arc<dyn Inbound>)>,
    blocked: BTreeSet<(NodeId, NodeId)>,
    isolated: BTreeSet<NodeId>,
    /// Of a thousand messages, how many are lost.
    loss_per_mille: u64,
    delay_millis: Option<RangeInclusive<u64>>,
    random: u64,
    delayed: BinaryHeap<Delayed>,
    delayed_bytes: usize,
    /// Numbers transports and delayed messages.
    next_number: u64,
    closed: bool,
}

/// A message on its way. Ordered so that the heap gives the earliest first.
struct Delayed {
    due: Instant,
    number: u64,
    from: NodeId,
    to: NodeId,
    message: PeerMessage,
    counters: Arc<Counters>,
}

impl MemoryNetwork {
    /// A network without faults; `seed` decides which messages are lost and how long others take.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State { random: seed | 1, ..State::default() };
        let wire = Arc::new(Wire { state: Mutex::new(state), changed: Condvar::new() });
        let timer = Timer { wire: Arc::clone(&wire), thread: Mutex::new(None) };
        Self { wire, _timer: Arc::new(timer) }
    }

    /// A transport for `node`. A later one for the same node replaces it when it is started.
    #[must_use]
    pub fn transport(&self, node: NodeId) -> MemoryTransport {
        let number = {
            let mut state = self.wire.lock();
            state.next_number += 1;
            state.next_number
        };
        MemoryTransport { network: self.clone(), node, number, counters: Arc::default() }
    }

    /// Loses what `from` sends to `to` from now on. One direction only.
    pub fn block(&self, from: NodeId, to: NodeId) {
        self.wire.lock().blocked.insert((from, to));
    }

    /// Cuts `node` off from all others, in both directions.
    pub fn isolate(&self, node: NodeId) {
        self.wire.lock().isolated.insert(node);
    }

    /// Ends all blocks. Loss and delay stay as they are.
    pub fn heal(&self) {
        let mut state = self.wire.lock();
        state.blocked.clear();
        state.isolated.clear();
    }

    /// Loses this many of a thousand messages, by chance.
    pub fn lose(&self, per_mille: u64) {
        self.wire.lock().loss_per_mille = per_mille;
    }

    /// Delays every message by a time in `range`, by chance, so that they also overtake each other; `None`
    /// delivers at once.
    pub fn delay(&self, range: Option<RangeInclusive<Duration>>) {
        let millis = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let is_delayed = range.is_some();
        self.wire.lock().delay_millis = range.map(|range| millis(range.start())..=millis(range.end()));
        if is_delayed {
            self._timer.run();
        }
    }
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one message; `false` when the receiver cannot be reached.
    fn send(&self, sender: &MemoryTransport, outbound: Outbound) -> bool {
        let Outbound { to, message, .. } = outbound;
        let (from, counters) = (sender.node, &sender.counters);
        let mut state = self.lock();
        if state.nodes.get(&from).is_none_or(|(number, _)| *number != sender.number) {
            return true; // Stopped, or replaced by a restart: it may not speak any more.
        }
        if !state.nodes.contains_key(&to) {
            counters.outbound_dropped.add(1);
            return false;
        }
        counters.messages_sent.add(1);
        counters.bytes_sent.add(message_bytes(&message) as u64);
        if state.cuts(from, to) || state.loses() {
            return true;
        }
        let Some(delay) = state.delay() else {
            let receiver = state.nodes.get(&to).map(|(_, inbound)| Arc::clone(inbound));
            drop(state);
            deliver(receiver, from, message, counters, true);
            return true;
        };
        let bytes = message_bytes(&message);
        if state.delayed_bytes + bytes > DELAYED_BYTES_MAX {
            counters.outbound_dropped.add(1);
            return true;
        }
        state.delayed_bytes += bytes;
        state.next_number += 1;
        let number = state.next_number;
        let (due, counters) = (Instant::now() + delay, Arc::clone(counters));
        state.delayed.push(Delayed { due, number, from, to, message, counters });
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Delivers what was delayed, when it is due, until the network is gone.
    fn deliver_delayed(&self) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            let wait = match state.delayed.peek() {
                Some(next) if next.due <= now => {
                    if let Some(due) = state.delayed.pop() {
                        state.delayed_bytes -= message_bytes(&due.message);
                        let cut = state.cuts(due.from, due.to);
                        let receiver = state.nodes.get(&due.to).map(|(_, inbound)| Arc::clone(inbound));
                        drop(state);
                        if !cut {
                            deliver(receiver, due.from, due.message, &due.counters, false);
                        }
                        state = self.lock();
                    }
                    continue;
                }
                Some(next) => next.due.saturating_duration_since(now),
                None => Duration::from_secs(3600),
            };
            let waited = self.changed.wait_timeout(state, wait);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// `here`: by the sender, which may do what there is to do for the receiver as well.
fn deliver(
    receiver: Option<Arc<dyn Inbound>>,
    from: NodeId,
    message: PeerMessage,
    counters: &Counters,
    here: bool,
) {
    let taken = receiver.is_some_and(|receiver| match here {
        true => receiver.received_here(from, message),
        false => receiver.received(from, message),
    });
    if !taken {
        counters.outbound_dropped.add(1);
    }
}

impl State {
    fn chance(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below.max(1)
    }
    fn cuts(&self, from: NodeId, to: NodeId) -> bool {
        self.blocked.contains(&(from, to)) || self.isolated.contains(&from) || self.isolated.contains(&to)
    }
    fn loses(&mut self) -> bool {
        let per_mille = self.loss_per_mille;
        per_mille > 0 && self.chance(1000) < per_mille
    }
    fn delay(&mut self) -> Option<Duration> {
        let range = self.delay_millis.clone()?;
        let spread = range.end().saturating_sub(*range.start()).saturating_add(1);
        Some(Duration::from_millis(range.start() + self.chance(spread)))
    }
}

/// The thread for delayed messages: started when first needed, joined when the network is dropped.
struct Timer {
    wire: Arc<Wire>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Timer {
    fn run(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let wire = Arc::clone(&self.wire);
            *thread = Some(std::thread::spawn(move || wire.deliver_delayed()));
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.wire.lock().closed = true;
        self.wire.changed.notify_all();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // If it has panicked, there is nothing left to deliver.
            drop(thread.join());
        }
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Delayed {}
impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

/// One node's end of a [`MemoryNetwork`].
pub struct MemoryTransport {
    network: MemoryNetwork,
    node: NodeId,
    number: u64,
    counters: Arc<Counters>,
}

impl MemoryTransport {
    fn leave(&self) {
        let mut state = self.network.wire.lock();
        if state.nodes.get(&self.node).is_some_and(|(number, _)| *number == self.number) {
            state.nodes.remove(&self.node);
        }
    }
}

impl Transport for MemoryTransport {
    fn start(&self, inbound: Arc<dyn Inbound>) {
        let counting = Arc::new(Counting { inbound, counters: Arc::clone(&self.counters) });
        self.network.wire.lock().nodes.insert(self.node, (self.number, counting));
    }

    fn send(&self, messages: Vec<Outbound>) {
        let mut lost = BTreeSet::new();
        for outbound in messages {
            let to = outbound.to;
            if !self.network.wire.send(self, outbound) {
                lost.insert(to);
            }
        }
        if lost.is_empty() {
            return;
        }
        let me = self.network.wire.lock().nodes.get(&self.node).map(|(_, inbound)| Arc::clone(inbound));
        if let Some(me) = me {
            lost.into_iter().for_each(|node| me.unreachable(node));
        }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), u16::try_from(self.node.0).unwrap_or(0))
    }

    fn advertised(&self) -> String {
        format!("memory:{}", self.node)
    }

    fn stats(&self) -> TransportStats {
        self.counters.read()
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let state = self.network.wire.lock();
        let others = state.nodes.keys().filter(|node| **node != self.node);
        let status = |node: &NodeId| PeerStatus {
            node: *node,
            address: format!("memory:{node}"),
            connected: !state.cuts(self.node, *node),
            error: None,
            refused: 0,
        };
        others.map(status).collect()
    }

    fn abort(&self) {
        self.leave();
    }

    fn stop(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.leave();
        Box::pin(std::future::ready(()))
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Counts what arrives.
struct Counting {
    inbound: Arc<dyn Inbound>,
    counters: Arc<Counters>,
}

impl Counting {
    fn arrived(&self, message: &PeerMessage) {
        self.counters.messages_received.add(1);
        self.counters.bytes_received.add(message_bytes(message) as u64);
    }
    fn noted(&self, taken: bool) -> bool {
        if !taken {
            self.counters.inbound_dropped.add(1);
        }
        taken
    }
}

impl Inbound for Counting {
    fn received(&self, from: NodeId, message: PeerMessage) -> bool {
        self.arrived(&message);
        self.noted(self.inbound.received(from, message))
    }
    fn received_here(&self, from: NodeId, message: PeerMessage) -> bool {
        self.arrived(&message);
        self.noted(self.inbound.received_here(from, message))
    }
    fn unreachable(&self, node: NodeId) {
        self.inbound.unreachable(node);
    }
}
