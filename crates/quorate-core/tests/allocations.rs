//! A busy core allocates nothing: entries are shared by the disk, the followers and the state
//! machine, and their memory is used again; the lists of a `Ready` are given back.
//!
//! The allocator of this test program counts. A group runs until everything has its size; then rounds of
//! propose, persist, commit and apply on every replica must not ask for memory. The payload is made before.

#![expect(clippy::unwrap_used, reason = "a test; a failure names the line")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quorate_core::{
    Config, LogId, LogIndex, Member, MemberRole, Membership, Message, MonoTime, NodeId, RawNode, Ready,
    Restored,
};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: every call is the system allocator's; counting changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(place, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Replicas in one process, and the messages between them.
struct Group {
    now: MonoTime,
    replicas: Vec<RawNode>,
    applied: Vec<LogIndex>,
    ready: Ready,
    wire: Vec<Message>,
    arriving: Vec<Message>,
}

impl Group {
    fn new(voters: u64) -> Self {
        let member = |node| Member {
            node: NodeId(node),
            role: MemberRole::Voter,
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = Arc::new(Membership::initial((1..=voters).map(member).collect()).unwrap());
        let now = MonoTime::from_millis(10_000);
        let replica = |id| {
            let memberships = vec![(LogId::default(), Arc::clone(&members))];
            // A small window, so that entries leave it as they do in a long life.
            let config = Config { window_bytes_max: 64 << 10, ..Config::new(id) };
            RawNode::new(config, Restored { memberships, ..Restored::default() }, now).unwrap()
        };
        let replicas: Vec<RawNode> = members.voters().map(replica).collect();
        let applied = vec![LogIndex(0); replicas.len()];
        let mut group =
            Self { now, replicas, applied, ready: Ready::default(), wire: Vec::new(), arriving: Vec::new() };
        group.replicas[0].campaign(now);
        group.settle();
        group
    }

    /// Every replica does what it has to do, then every message arrives, until there is none.
    fn settle(&mut self) {
        loop {
            for (replica, applied) in self.replicas.iter_mut().zip(&mut self.applied) {
                while replica.ready_into(&mut self.ready) {
                    let ready = &mut self.ready;
                    self.wire.append(&mut ready.send);
                    if let Some(persist) = ready.persist.take() {
                        replica.on_persisted(self.now, persist.token);
                    }
                    if let Some(last) = ready.apply.last() {
                        *applied = last.index();
                        replica.on_applied(self.now, *applied);
                    }
                }
            }
            if self.wire.is_empty() {
                return;
            }
            std::mem::swap(&mut self.wire, &mut self.arriving);
            for message in self.arriving.drain(..) {
                let to = usize::try_from(message.to.0 - 1).unwrap();
                self.replicas[to].step(self.now, message.from, message).unwrap();
            }
        }
    }

    fn round(&mut self, payload: &Bytes, batch: usize) {
        self.now = MonoTime(self.now.0 + 1_000);
        for _ in 0..batch {
            self.replicas[0].propose(self.now, payload.clone()).unwrap();
        }
        self.settle();
    }
}

/// One test, because the counter is one for the whole program.
#[test]
fn a_busy_group_allocates_nothing_per_entry() {
    let shared = Bytes::from(vec![7; 256]);
    drop(shared.clone());
    for voters in [1, 3, 5, 7] {
        for batch in [1, 64] {
            for payload in [&Bytes::from_static(b"abc"), &shared] {
                let mut group = Group::new(voters);
                for _ in 0..2_000 / batch + 100 {
                    group.round(payload, batch);
                }
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                let rounds = 640 / batch;
                for _ in 0..rounds {
                    group.round(payload, batch);
                }
                let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
                assert_eq!(allocations, 0, "{voters} voters, {rounds} batches of {batch}");
                let last = group.replicas[0].status().last.index;
                assert!(group.applied.iter().all(|applied| *applied == last), "all have applied all");
            }
        }
    }
}
