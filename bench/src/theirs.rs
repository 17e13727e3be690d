//! A group of `raft::RawNode<MemStorage>`s, driven as raft-rs's own example does.

use bytes::Bytes;
use raft::eraftpb::{ConfState, Message};
use raft::storage::MemStorage;
use raft::{RawNode, StateRole};

use crate::{COMPACT_EVERY, Group};

struct Replica {
    node: RawNode<MemStorage>,
    applied: u64,
    compacted: u64,
}

/// See the module.
pub struct Theirs {
    replicas: Vec<Replica>,
    wire: Vec<Message>,
    arriving: Vec<Message>,
    messages: u64,
    last: u64,
}

impl Replica {
    fn drain(&mut self, wire: &mut Vec<Message>) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            wire.extend(ready.take_messages());
            if let Some(last) = ready.take_committed_entries().last() {
                self.applied = last.index;
            }
            {
                let mut disk = self.node.store().wl();
                disk.append(ready.entries()).expect("entries follow each other");
                if let Some(hard_state) = ready.hs() {
                    disk.set_hardstate(hard_state.clone());
                }
            }
            wire.extend(ready.take_persisted_messages());
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.node.store().wl().mut_hard_state().commit = commit;
            }
            wire.extend(light.take_messages());
            if let Some(last) = light.take_committed_entries().last() {
                self.applied = last.index;
            }
            self.node.advance_apply();
            if self.applied > self.compacted + COMPACT_EVERY * 2 {
                self.compacted += COMPACT_EVERY;
                self.node.store().wl().compact(self.compacted + 1).expect("it is applied");
            }
        }
    }
}

impl Theirs {
    fn propose(&mut self, command: &Bytes, batch: u64) {
        for _ in 0..batch {
            self.replicas[0].node.propose(Vec::new(), command.to_vec()).expect("it leads and has room");
        }
        self.last += batch;
    }

    fn deliver(&mut self) {
        std::mem::swap(&mut self.wire, &mut self.arriving);
        for message in self.arriving.drain(..) {
            self.messages += 1;
            let to = usize::try_from(message.to - 1).expect("small");
            self.replicas[to].node.step(message).expect("it is in order");
        }
    }
}

impl Group for Theirs {
    const NAME: &'static str = "raft-rs";

    fn new(voters: u64) -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let ids: Vec<u64> = (1..=voters).collect();
        let replica = |id: &u64| {
            let config = raft::Config {
                id: *id,
                election_tick: 10,
                heartbeat_tick: 1,
                max_size_per_msg: 1 << 20,
                max_inflight_msgs: 256,
                check_quorum: true,
                pre_vote: true,
                batch_append: true,
                max_uncommitted_size: 64 << 20,
                max_committed_size_per_ready: 16 << 20,
                ..raft::Config::default()
            };
            let storage = MemStorage::new_with_conf_state(ConfState::from((ids.clone(), Vec::new())));
            let node = RawNode::new(&config, storage, &logger).expect("nothing is wrong with an empty log");
            Replica { node, applied: 0, compacted: 0 }
        };
        let replicas = ids.iter().map(replica).collect();
        let mut group = Self { replicas, wire: Vec::new(), arriving: Vec::new(), messages: 0, last: 1 };
        group.replicas[0].node.campaign().expect("it is a voter");
        group.settle();
        assert_eq!(group.replicas[0].node.raft.state, StateRole::Leader);
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
        self.replicas[0].drain(&mut self.wire);
        self.wire.sort_by_key(|message| message.to != 2);
    }

    fn handle_append(&mut self) -> u64 {
        let message = self.wire.swap_remove(0);
        let before = self.wire.len();
        self.replicas[1].node.step(message).expect("it is in order");
        self.replicas[1].drain(&mut self.wire);
        (self.wire.len() - before) as u64
    }

    fn settle(&mut self) {
        loop {
            for replica in &mut self.replicas {
                replica.drain(&mut self.wire);
            }
            if self.wire.is_empty() {
                break;
            }
            self.deliver();
        }
        assert!(self.replicas.iter().all(|replica| replica.applied == self.last), "all have applied all");
    }

    fn quorum_index(&mut self) -> u64 {
        self.replicas[0].node.raft.mut_prs().maximal_committed_index().0
    }

    fn status(&self) -> u64 {
        std::hint::black_box(self.replicas[0].node.status()).hs.commit
    }
}
