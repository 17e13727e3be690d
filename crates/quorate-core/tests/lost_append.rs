//! The last append to a follower is lost and nobody says so: no error from the transport, no later append that
//! would be refused. With the window full, or with no new proposal, the follower stayed behind for ever although
//! it answered every heartbeat.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    Config, LogId, LogIndex, Member, MemberRole, Membership, Message, MessageBody, MonoTime, NodeId, RawNode,
    ReplicaId, Restored,
};

fn node(id: u64, membership: &Arc<Membership>) -> RawNode {
    let config = Config { inflight_messages_max: 1, ..Config::new(ReplicaId(id)) };
    let restored =
        Restored { memberships: vec![(LogId::default(), Arc::clone(membership))], ..Restored::default() };
    RawNode::new(config, restored, MonoTime(0)).unwrap()
}

/// What `node` has to say now; all its writes are durable at once.
fn said_by(node: &mut RawNode, now: MonoTime) -> Vec<Message> {
    let mut said = Vec::new();
    while node.has_ready() {
        let ready = node.ready();
        said.extend(ready.send);
        if let Some(persist) = ready.persist {
            node.on_persisted(now, persist.token);
        }
        if let Some(last) = ready.apply.last() {
            node.on_applied(now, last.index());
        }
    }
    said
}

#[test]
fn a_lost_append_is_sent_again_when_the_follower_is_heard() {
    let members = (1..=2).map(|id| Member {
        node: NodeId(id),
        role: MemberRole::Voter,
        peer_address: String::new(),
        client_address: String::new(),
    });
    let membership = Arc::new(Membership::initial(members.collect()).unwrap());
    let (mut leader, mut follower) = (node(1, &membership), node(2, &membership));
    let mut millis = 1;
    leader.campaign(MonoTime::from_millis(millis));
    let mut lost = 0;
    for _ in 0..200 {
        millis += 10;
        let now = MonoTime::from_millis(millis);
        leader.tick(now);
        follower.tick(now);
        if millis == 501 {
            leader.propose(now, Bytes::from_static(b"x")).unwrap();
        }
        for message in said_by(&mut leader, now) {
            let carries = matches!(&message.body, MessageBody::Append(append) if !append.entries.is_empty());
            if carries && millis >= 501 && lost == 0 {
                lost += 1;
                continue;
            }
            // A refusal is no failure of this test: the leader copes.
            follower.step(now, ReplicaId(1), message).ok();
        }
        for message in said_by(&mut follower, now) {
            leader.step(now, ReplicaId(2), message).ok();
        }
    }
    assert_eq!(lost, 1);
    assert_eq!(leader.status().last.index, LogIndex(2));
    assert_eq!(leader.status().commit, LogIndex(2), "the entry never reached the follower");
}
