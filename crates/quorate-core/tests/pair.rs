//! Two replicas and a link that loses what it is told to lose: stories of groups that stood still for ever.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    Config, LogId, LogIndex, Member, MemberRole, Membership, MembershipChange, Message, MessageBody,
    MonoTime, NodeId, ProgressName, RawNode, ReadTicket, ReplicaId, Restored, RoleName,
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

/// Two voters; `lost` says which messages never arrive. Each round both get what the other said.
struct Pair {
    leader: RawNode,
    follower: RawNode,
    millis: u64,
}

impl Pair {
    fn new() -> Self {
        let members = (1..=2).map(|id| Member {
            node: NodeId(id),
            role: MemberRole::Voter,
            peer_address: String::new(),
            client_address: String::new(),
        });
        let membership = Arc::new(Membership::initial(members.collect()).unwrap());
        let mut pair = Self { leader: node(1, &membership), follower: node(2, &membership), millis: 1 };
        pair.leader.campaign(pair.now());
        pair.run(20, |_| false);
        assert_eq!(pair.leader.status().role, RoleName::Leader);
        pair
    }

    const fn now(&self) -> MonoTime {
        MonoTime::from_millis(self.millis)
    }

    fn run(&mut self, rounds: u64, mut lost: impl FnMut(&Message) -> bool) {
        for _ in 0..rounds {
            self.millis += 10;
            let now = self.now();
            self.leader.tick(now);
            self.follower.tick(now);
            // Refusals are no failure of these tests: the replicas cope.
            for message in said_by(&mut self.leader, now).into_iter().filter(|message| !lost(message)) {
                self.follower.step(now, ReplicaId(1), message).ok();
            }
            for message in said_by(&mut self.follower, now).into_iter().filter(|message| !lost(message)) {
                self.leader.step(now, ReplicaId(2), message).ok();
            }
        }
    }
}

/// The last append to a follower was lost and nobody said so: no error from the transport, no later append that
/// would be refused. With the window full, or with no new proposal, the follower stayed behind for ever
/// although it answered every heartbeat.
#[test]
fn a_lost_append_is_sent_again_when_the_follower_is_heard() {
    let mut pair = Pair::new();
    let at = pair.now();
    pair.leader.propose(at, Bytes::from_static(b"x")).unwrap();
    let mut lost = 0;
    pair.run(200, |message| {
        let carries = matches!(&message.body, MessageBody::Append(append) if !append.entries.is_empty());
        lost += u64::from(carries);
        carries && lost == 1
    });
    assert!(lost >= 2, "it was never sent again");
    assert_eq!(pair.leader.status().last.index, LogIndex(2));
    assert_eq!(pair.leader.status().commit, LogIndex(2), "the entry never reached the follower");
}

/// A leader appended its own removal and lost its quorum before anybody else had the entry. In its own eyes it
/// was no voter any more and never campaigned; the other voter's log was shorter, so it refused it its vote. Nobody
/// could ever win.
#[test]
fn a_leader_whose_removal_nobody_has_yet_can_still_win() {
    let mut pair = Pair::new();
    let at = pair.now();
    pair.leader.propose_membership(at, MembershipChange::Remove(ReplicaId(1)), None).unwrap();
    pair.run(300, |_| true);
    assert_ne!(pair.leader.status().role, RoleName::Leader);
    pair.run(1_000, |_| false);
    assert_eq!(pair.follower.status().role, RoleName::Leader);
    assert!(pair.follower.status().membership.get(ReplicaId(1)).is_none());
    assert!(pair.follower.status().commit > LogIndex(2));
}

/// What etcd's `Status` shows of a leader is in ours: who is fed how, what is on its way, who waits.
#[test]
fn a_status_says_what_is_on_its_way_and_who_waits() {
    let mut pair = Pair::new();
    let at = pair.now();
    let progress = |pair: &Pair| pair.leader.progress().next().unwrap().1;
    let idle = progress(&pair);
    assert_eq!((idle.state, idle.paused, idle.inflight_messages), (ProgressName::Replicate, false, 0));
    assert_eq!((idle.matched, idle.next), (LogIndex(1), LogIndex(2)));

    pair.leader.propose(at, Bytes::from_static(b"abc")).unwrap();
    pair.leader.read(at, ReadTicket(1)).unwrap();
    pair.run(1, |_| true);
    let (busy, status) = (progress(&pair), pair.leader.status());
    assert_eq!((busy.matched, busy.next), (LogIndex(1), LogIndex(3)));
    assert_eq!((busy.paused, busy.inflight_messages, busy.pending_snapshot), (true, 1, None));
    assert!(busy.inflight_bytes > 3 && busy.recently_active && !busy.departing);
    assert_eq!((status.reads_waiting, status.read_round, status.commit), (1, 1, LogIndex(1)));
    assert!(status.uncommitted_bytes > 3 && status.may_campaign());
    assert!(status.patience_ends().is_some_and(|end| end > pair.now()), "it checks its quorum");

    pair.run(100, |_| false);
    assert_eq!((progress(&pair).inflight_messages, pair.leader.status().uncommitted_bytes), (0, 0));
    assert_eq!((pair.leader.status().handed, pair.leader.status().applied), (LogIndex(2), LogIndex(2)));
}
