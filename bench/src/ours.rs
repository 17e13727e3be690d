//! A group of `quorate_core::RawNode`s.

use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    Config, Entry, LogId, LogIndex, Member, MemberRole, Membership, Message, MonoTime, NodeId, RawNode,
    Ready, Restored, RoleName,
};

use crate::{COMPACT_EVERY, Group};

struct Replica {
    core: RawNode,
    disk: Vec<Entry>,
    applied: LogIndex,
    ready: Ready,
}

/// See the module.
pub struct Ours {
    now: MonoTime,
    replicas: Vec<Replica>,
    wire: Vec<Message>,
    arriving: Vec<Message>,
    messages: u64,
    last: LogIndex,
}

impl Replica {
    /// Does everything there is to do, and puts what it says on the wire.
    fn drain(&mut self, now: MonoTime, wire: &mut Vec<Message>) {
        while self.core.ready_into(&mut self.ready) {
            let ready = &mut self.ready;
            wire.append(&mut ready.send);
            if let Some(persist) = ready.persist.take() {
                self.disk.extend_from_slice(&persist.entries);
                self.core.on_persisted(now, persist.token);
            }
            if let Some(last) = ready.apply.last() {
                self.applied = last.index();
                self.core.on_applied(now, self.applied);
            }
            if self.disk.len() as u64 > COMPACT_EVERY * 2 {
                let through = self.disk.drain(..usize::try_from(COMPACT_EVERY).expect("small")).next_back();
                let through = through.map_or(LogId::default(), |entry| entry.id);
                self.core.on_compacted(through);
            }
        }
    }
}

impl Ours {
    fn propose(&mut self, command: &Bytes, batch: u64) {
        self.now = MonoTime(self.now.0 + 1_000);
        for _ in 0..batch {
            let id = self.replicas[0].core.propose(self.now, command.clone()).expect("it leads and has room");
            self.last = id.index;
        }
    }

    fn deliver(&mut self) {
        std::mem::swap(&mut self.wire, &mut self.arriving);
        for message in self.arriving.drain(..) {
            self.messages += 1;
            let to = usize::try_from(message.to.0 - 1).expect("small");
            let from = message.from;
            self.replicas[to].core.step(self.now, from, message).expect("it is in order");
        }
    }
}

impl Group for Ours {
    const NAME: &'static str = "quorate";

    fn new(voters: u64) -> Self {
        let member = |node| Member {
            node: NodeId(node),
            role: MemberRole::Voter,
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = Membership::initial((1..=voters).map(member).collect()).expect("voters, all different");
        let members = Arc::new(members);
        let now = MonoTime::from_millis(10_000);
        let replica = |id| {
            let memberships = vec![(LogId::default(), Arc::clone(&members))];
            let restored = Restored { memberships, ..Restored::default() };
            let core =
                RawNode::new(Config::new(id), restored, now).expect("nothing is wrong with an empty log");
            Replica { core, disk: Vec::new(), applied: LogIndex(0), ready: Ready::default() }
        };
        let replicas = members.voters().map(replica).collect();
        let mut group =
            Self { now, replicas, wire: Vec::new(), arriving: Vec::new(), messages: 0, last: LogIndex(1) };
        group.replicas[0].core.campaign(now);
        group.settle();
        assert_eq!(group.replicas[0].core.status().role, RoleName::Leader);
        group
    }

    fn round(&mut self, command: &Bytes, batch: u64) {
        self.propose(command, batch);
        self.settle();
    }

    fn messages(&self) -> u64 {
        self.messages
    }

    fn prepare_append(&mut self, command: &Bytes, batch: u64) {
        self.propose(command, batch);
        self.replicas[0].drain(self.now, &mut self.wire);
        self.wire.sort_by_key(|message| message.to.0 != 2);
    }

    fn handle_append(&mut self) -> u64 {
        let message = self.wire.swap_remove(0);
        let from = message.from;
        let before = self.wire.len();
        self.replicas[1].core.step(self.now, from, message).expect("it is in order");
        self.replicas[1].drain(self.now, &mut self.wire);
        (self.wire.len() - before) as u64
    }

    fn settle(&mut self) {
        loop {
            for replica in &mut self.replicas {
                replica.drain(self.now, &mut self.wire);
            }
            if self.wire.is_empty() {
                break;
            }
            self.deliver();
        }
        assert!(self.replicas.iter().all(|replica| replica.applied == self.last), "all have applied all");
    }

    fn quorum_index(&mut self) -> u64 {
        self.replicas[0].core.quorum_index().map_or(0, |index| index.0)
    }

    fn status(&self) -> u64 {
        std::hint::black_box(self.replicas[0].core.status()).commit.0
    }
}
