//! Snapshots that arrive from leaders, piece by piece, one a group.
//!
//! * A snapshot that is here already is taken only when all of it can be read; otherwise it comes again, and
//!   replaces it.
//! * A snapshot that arrived exists only when it is complete, verified and durable.
//! * Every piece is answered with the offset wanted next: a lost or repeated piece costs one round.
//! * What has arrived is kept while the same replica leads, in whatever term, so that a stream that
//!   was interrupted goes on. Another leader's snapshot may be other bytes: it starts anew.

use std::collections::BTreeMap;

use quorate_core::planted::planted;
use quorate_core::{GroupId, LogId, NodeId, ReplicaId, SnapshotMeta, Term};
use quorate_storage::{SnapshotInfo, SnapshotStore, SnapshotWriter, read_to_end};

use crate::event::SnapshotEvent;
use crate::peer::{PeerBody, PeerMessage, SnapshotAck, SnapshotChunk, SnapshotVerdict};

struct Receiving {
    from: ReplicaId,
    term: Term,
    meta: SnapshotMeta,
    bytes: u64,
    writer: Box<dyn SnapshotWriter>,
}

/// A snapshot that has arrived.
#[derive(PartialEq, Eq)]
struct Arrived {
    from: ReplicaId,
    last: LogId,
    bytes: u64,
}

/// All snapshots that are arriving at a host.
#[derive(Default)]
pub(crate) struct Receives {
    groups: BTreeMap<GroupId, Receiving>,
    /// The one that arrived last. Its sender asks again while it is being made durable: that is answered, and not
    /// another reason to read it.
    arrived: BTreeMap<GroupId, Arrived>,
}

/// What became of a piece, the offset wanted next, and the snapshot when it is complete.
struct Staging {
    verdict: SnapshotVerdict,
    next_offset: u64,
    staged: Option<SnapshotInfo>,
}

impl Staging {
    const fn new(verdict: SnapshotVerdict, next_offset: u64) -> Self {
        Self { verdict, next_offset, staged: None }
    }
}

impl Receives {
    pub(crate) fn close(&mut self, group: GroupId) {
        self.groups.remove(&group);
        self.arrived.remove(&group);
    }

    /// The group has a snapshot of its own at `last`: what arrives below is of no more use.
    pub(crate) fn on_saved(&mut self, group: GroupId, last: LogId) {
        if self.groups.get(&group).is_some_and(|receiving| receiving.meta.last.index <= last.index) {
            self.groups.remove(&group);
        }
    }

    pub(crate) fn receive(
        &mut self,
        group: GroupId,
        node: NodeId,
        chunk: &SnapshotChunk,
        store: &dyn SnapshotStore,
    ) -> Vec<SnapshotEvent> {
        let staging = self.stage(group, chunk, store).unwrap_or_else(|| {
            let last = chunk.meta.last;
            // A late piece of an old leader ends nothing.
            let is_ours = |now: &Receiving| now.meta.last == last && now.term <= chunk.term;
            if self.groups.get(&group).is_some_and(is_ours) {
                self.groups.remove(&group);
            }
            Staging::new(SnapshotVerdict::Refused, 0)
        });
        let Staging { verdict, next_offset, staged } = staging;
        let ack = SnapshotAck { from: chunk.to, to: chunk.from, last: chunk.meta.last, next_offset, verdict };
        let message = PeerMessage { group, body: PeerBody::SnapshotAck(ack) };
        let mut events = vec![SnapshotEvent::Send { to: node, address: String::new(), message }];
        events.extend(staged.map(|snapshot| SnapshotEvent::Staged {
            group,
            node,
            from: chunk.from,
            term: chunk.term,
            epoch: chunk.epoch,
            snapshot,
        }));
        events
    }

    /// Writes a piece that is the next one. `None`: this snapshot cannot be taken.
    fn stage(&mut self, group: GroupId, chunk: &SnapshotChunk, store: &dyn SnapshotStore) -> Option<Staging> {
        let current = self.groups.get_mut(&group);
        if current.as_ref().is_some_and(|receiving| receiving.term > chunk.term) {
            return None;
        }
        let same = current.filter(|receiving| {
            receiving.from == chunk.from && receiving.meta == chunk.meta && receiving.bytes == chunk.bytes
        });
        if let Some(receiving) = same {
            receiving.term = chunk.term;
        } else {
            // A stream that begins is empty at 0: then somebody needs it again, and it may be damaged.
            let arrived = Arrived { from: chunk.from, last: chunk.meta.last, bytes: chunk.bytes };
            if chunk.offset > 0 && self.arrived.get(&group) == Some(&arrived) {
                return Some(Staging::new(SnapshotVerdict::Taken, chunk.bytes));
            }
            if let Some(info) = stored(store, group, chunk) {
                let taken = Staging::new(SnapshotVerdict::Taken, chunk.bytes);
                return Some(Staging { staged: Some(info), ..taken });
            }
            if chunk.offset != 0 {
                return Some(Staging::new(SnapshotVerdict::Gap, 0));
            }
            self.groups.remove(&group);
            self.arrived.remove(&group);
            let writer = store.create(group, &chunk.meta).ok()?;
            let SnapshotChunk { from, term, meta, bytes, .. } = chunk.clone();
            self.groups.insert(group, Receiving { from, term, meta, bytes, writer });
        }
        self.write(group, chunk)
    }

    fn write(&mut self, group: GroupId, chunk: &SnapshotChunk) -> Option<Staging> {
        let receiving = self.groups.get_mut(&group)?;
        let wanted = receiving.writer.written();
        if chunk.offset != wanted && !planted("pieces_in_any_order") {
            let is_early = chunk.offset > wanted;
            let verdict = if is_early { SnapshotVerdict::Gap } else { SnapshotVerdict::Taken };
            return Some(Staging::new(verdict, wanted));
        }
        if chunk.data.len() as u64 > receiving.bytes - wanted {
            return None;
        }
        receiving.writer.write(&chunk.data).ok()?;
        let next_offset = receiving.writer.written();
        let taken = Staging::new(SnapshotVerdict::Taken, next_offset);
        if next_offset < receiving.bytes {
            return Some(taken);
        }
        let Receiving { from, meta, bytes, writer, .. } = self.groups.remove(&group)?;
        let staged = writer.finish().ok()?;
        self.arrived.insert(group, Arrived { from, last: meta.last, bytes });
        Some(Staging { staged: Some(staged), ..taken })
    }
}

/// The snapshot that is announced, if it is here, and whole: whoever believes a damaged one needs it again
/// and again, and stops every time.
fn stored(store: &dyn SnapshotStore, group: GroupId, chunk: &SnapshotChunk) -> Option<SnapshotInfo> {
    let listed = store.list(group).ok()?;
    let here =
        listed.into_iter().find(|info| info.meta.last == chunk.meta.last && info.bytes == chunk.bytes)?;
    read_to_end(store.open(&here).ok()?).ok()?;
    Some(here)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use quorate_storage::MemSnapshotStore;

    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn piece(from: u64, term: u64, offset: u64, data: &'static [u8]) -> SnapshotChunk {
        let last = LogId::new(1, 9);
        let meta = SnapshotMeta { last, membership: Arc::default(), membership_id: LogId::new(1, 1) };
        let (from, to, term) = (ReplicaId(from), ReplicaId(2), Term(term));
        SnapshotChunk { from, to, term, epoch: 0, meta, bytes: 8, offset, data: Bytes::from_static(data) }
    }

    /// The answer to a piece, and whether the snapshot is there with it.
    fn receive(
        receives: &mut Receives,
        chunk: &SnapshotChunk,
        store: &MemSnapshotStore,
    ) -> (SnapshotVerdict, u64, bool) {
        let events = receives.receive(GROUP, NodeId(chunk.from.0), chunk, store);
        let SnapshotEvent::Send { message, .. } = &events[0] else { panic!("the answer comes first") };
        let PeerBody::SnapshotAck(ack) = message.body else { panic!("an answer") };
        (ack.verdict, ack.next_offset, events.len() > 1)
    }

    /// Two leaders' snapshots of one position need not be the same bytes: half of each is neither.
    #[test]
    fn pieces_of_two_leaders_are_never_put_together() {
        let (store, mut receives) = (MemSnapshotStore::new(), Receives::default());
        let mut answer = |chunk: &SnapshotChunk| {
            let (verdict, next_offset, _) = receive(&mut receives, chunk, &store);
            (verdict, next_offset)
        };
        assert_eq!(answer(&piece(1, 2, 0, b"abcd")), (SnapshotVerdict::Taken, 4));
        assert_eq!(answer(&piece(3, 3, 4, b"5678")), (SnapshotVerdict::Gap, 0));
        assert_eq!(answer(&piece(3, 3, 0, b"1234")), (SnapshotVerdict::Taken, 4));
        // The old leader is not heard any more, and undoes nothing.
        assert_eq!(answer(&piece(1, 2, 4, b"efgh")), (SnapshotVerdict::Refused, 0));
        assert_eq!(answer(&piece(3, 3, 4, b"5678")), (SnapshotVerdict::Taken, 8));
        let stored = store.list(GROUP).unwrap().remove(0);
        let mut content = [0; 8];
        assert_eq!(store.open(&stored).unwrap().read_at(0, &mut content).unwrap(), 8);
        assert_eq!(&content, b"12345678");
    }

    /// The last piece is answered when all of it is durable; its sender has asked again by then. Each time a gigabyte
    /// was read again, to see whether it was whole.
    #[test]
    fn a_late_piece_of_a_snapshot_that_has_arrived_is_answered_and_no_more() {
        let (store, mut receives) = (MemSnapshotStore::new(), Receives::default());
        let mut answer = |chunk: &SnapshotChunk| receive(&mut receives, chunk, &store);
        assert_eq!(answer(&piece(1, 2, 0, b"abcd")), (SnapshotVerdict::Taken, 4, false));
        assert_eq!(answer(&piece(1, 2, 4, b"efgh")), (SnapshotVerdict::Taken, 8, true), "it has arrived");
        assert_eq!(answer(&piece(1, 2, 4, b"efgh")), (SnapshotVerdict::Taken, 8, false), "once");
        // Who begins again does so for a reason: it is read, and staged again.
        assert_eq!(answer(&piece(1, 2, 0, b"")), (SnapshotVerdict::Taken, 8, true));
        // A piece of another one's is not taken for a late one: where that begins it is looked at.
        assert_eq!(answer(&piece(3, 3, 4, b"5678")), (SnapshotVerdict::Taken, 8, true));
        // It is gone, and comes again: what of it comes too early is not what had arrived.
        store.retain(GROUP, 0).unwrap();
        assert_eq!(answer(&piece(1, 2, 0, b"ab")), (SnapshotVerdict::Taken, 2, false));
        receives.on_saved(GROUP, LogId::new(1, 9));
        assert_eq!(
            receive(&mut receives, &piece(1, 2, 4, b"efgh"), &store),
            (SnapshotVerdict::Gap, 0, false)
        );
    }
}
