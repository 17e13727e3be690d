//! Three replicas that are driven until one leads, to have one of every role at hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    Config, Entry, LogId, Member, MemberRole, Membership, Message, MonoTime, NodeId, RawNode, ReplicaId,
    Restored, encode_membership,
};

pub(crate) fn membership(voters: u64) -> Membership {
    let member = |node| Member {
        node: NodeId(node),
        role: MemberRole::Voter,
        peer_address: format!("n{node}:1"),
        client_address: String::new(),
    };
    Membership::initial((1..=voters).map(member).collect()).unwrap()
}

/// The bytes of a membership with one member for each of `roles`, and with `joint` in the count of members.
pub(crate) fn membership_bytes(joint: u8, roles: &[u8]) -> Bytes {
    const HEAD_BYTES: usize = 18;
    const MEMBER_BYTES: usize = 25;
    let mut bytes = Vec::new();
    encode_membership(&membership(roles.len() as u64), &mut bytes);
    bytes[HEAD_BYTES - 1] |= joint;
    for (position, role) in roles.iter().enumerate() {
        bytes[HEAD_BYTES + position * MEMBER_BYTES + 16] = *role;
    }
    Bytes::from(bytes)
}

pub(crate) fn fresh(id: u64, membership: Membership) -> RawNode {
    let restored =
        Restored { memberships: vec![(LogId::default(), Arc::new(membership))], ..Restored::default() };
    RawNode::new(Config::new(ReplicaId(id)), restored, MonoTime(0)).unwrap()
}

/// Takes everything out of `node`, all writes durable and all entries applied at once.
pub(crate) fn drain(node: &mut RawNode, now: MonoTime) -> Vec<Message> {
    let mut said = Vec::new();
    for _ in 0..1_000 {
        if !node.has_ready() {
            return said;
        }
        let ready = node.ready();
        said.extend(ready.send);
        if let Some(persist) = ready.persist {
            node.on_persisted(now, persist.token);
        }
        if let Some(meta) = ready.restore {
            node.on_applied(now, meta.last.index);
        }
        if let Some(last) = ready.apply.last().map(Entry::index) {
            node.on_applied(now, last);
        }
    }
    panic!("the replica does not come to rest: {:?}", node.status());
}

/// Replica 1 leads, 2 and 3 follow; three entries are committed and applied everywhere.
pub(crate) fn group() -> BTreeMap<ReplicaId, RawNode> {
    let now = MonoTime::from_millis(10);
    let mut nodes: BTreeMap<ReplicaId, RawNode> =
        (1..=3).map(|id| (ReplicaId(id), fresh(id, membership(3)))).collect();
    nodes.get_mut(&ReplicaId(1)).unwrap().campaign(now);
    pump(&mut nodes, now);
    for command in ["a", "b"] {
        nodes.get_mut(&ReplicaId(1)).unwrap().propose(now, Bytes::from_static(command.as_bytes())).unwrap();
        pump(&mut nodes, now);
    }
    nodes
}

pub(crate) fn pump(nodes: &mut BTreeMap<ReplicaId, RawNode>, now: MonoTime) {
    loop {
        let wire: Vec<Message> = nodes.values_mut().flat_map(|node| drain(node, now)).collect();
        if wire.is_empty() {
            return;
        }
        for message in wire {
            let from = message.from;
            nodes.get_mut(&message.to).unwrap().step(now, from, message).unwrap();
        }
    }
}
