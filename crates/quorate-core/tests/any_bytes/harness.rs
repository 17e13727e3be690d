//! What a fuzzer drives, in a form that an ordinary test can drive too (`fuzz/` includes this file).
//!
//! * `decode`: whatever can be decoded encodes to the same bytes again; nothing panics.
//! * `live`: bytes are a program: the life of one replica among peers that say anything. Nothing panics, what is
//!   refused changes nothing, and positions stay in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    Append, AppendReply, Config, Entry, EntryPayload, Fetch, LogId, LogIndex, Member, MemberRole, Membership,
    MembershipChange, MembershipTransition, Message, MessageBody, MonoTime, NodeId, PersistToken, RawNode,
    ReadTicket, Rejected, ReplicaId, Restored, SnapshotMeta, SnapshotOutcome, Term, VoteRequest,
    decode_entry, decode_membership, decode_message, decode_snapshot_meta, encode_entry, encode_membership,
    encode_message, encode_snapshot_meta, encoded_entry_len,
};

/// Decodes `data` as everything there is.
pub(crate) fn decode(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let mut again = Vec::new();
    if let Ok(entry) = decode_entry(&bytes) {
        encode_entry(&entry, &mut again);
        assert_eq!(again, data, "an entry with two encodings");
        assert_eq!(encoded_entry_len(&entry), data.len(), "the length of an entry");
    }
    if let Ok(membership) = decode_membership(&bytes) {
        again.clear();
        encode_membership(&membership, &mut again);
        assert_eq!(again, data, "a membership with two encodings");
        membership.validate().ok();
    }
    if let Ok(meta) = decode_snapshot_meta(&bytes) {
        again.clear();
        encode_snapshot_meta(&meta, &mut again);
        assert_eq!(again, data, "a snapshot with two encodings");
    }
    if let Ok(message) = decode_message(&bytes) {
        again.clear();
        encode_message(&message, &mut again);
        assert_eq!(again, data, "a message with two encodings");
        // A replica can be told whatever can be decoded.
        let mut life = Life::new(0);
        life.told(Message { to: ReplicaId(1), ..message });
    }
}

/// Lives the life that `data` describes.
pub(crate) fn live(data: &[u8]) {
    let mut source = Source(data);
    let mut life = Life::new(source.byte());
    while !source.0.is_empty() {
        life.step(&mut source);
    }
}

/// Bytes read as numbers; zeros when they are over.
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Mostly small, sometimes absurd.
    fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=199 => u64::from(small % 12),
            200..=219 => u64::MAX,
            220..=229 => u64::MAX / 2,
            230..=239 => u64::MAX / 2 + 1,
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte())),
        }
    }

    fn position(&mut self) -> LogId {
        LogId { term: Term(self.number()), index: LogIndex(self.number()) }
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn membership(&mut self) -> Arc<Membership> {
        Arc::new(match self.byte() % 6 {
            0 => Membership::default(),
            voters => members(u64::from(voters)),
        })
    }

    fn payload(&mut self) -> EntryPayload {
        match self.byte() % 4 {
            0 => EntryPayload::Noop,
            1 => EntryPayload::Membership(self.membership()),
            _ => EntryPayload::Command(Bytes::from(vec![7; usize::from(self.byte() % 40)])),
        }
    }

    /// Entries after `prev`, mostly as they should be.
    fn entries(&mut self, prev: LogId) -> Vec<Entry> {
        let mut last = prev;
        let count = self.byte() % 5;
        (0..count)
            .map(|_| {
                last.index = LogIndex(last.index.0.saturating_add(1));
                match self.byte() {
                    0..=199 => {}
                    200..=239 => last.term = Term(last.term.0.saturating_add(1)),
                    _ => last = self.position(),
                }
                Entry { id: last, payload: self.payload() }
            })
            .collect()
    }

    fn body(&mut self) -> MessageBody {
        let request = |source: &mut Self| VoteRequest { last: source.position(), transfer: source.flag() };
        match self.byte() % 20 {
            0 => MessageBody::PreVote(request(self)),
            1 => MessageBody::PreVoteReply { granted: self.flag() },
            2 => MessageBody::Vote(request(self)),
            3 => MessageBody::VoteReply { granted: self.flag() },
            4 => MessageBody::AppendReply(AppendReply::Accepted {
                matched: LogIndex(self.number()),
                read_round: self.number(),
            }),
            5 => MessageBody::AppendReply(AppendReply::Rejected {
                prev: LogIndex(self.number()),
                hint: self.position(),
                last: LogIndex(self.number()),
            }),
            6 => MessageBody::Heartbeat { commit: LogIndex(self.number()), read_round: self.number() },
            7 => MessageBody::HeartbeatReply { read_round: self.number(), last: self.position() },
            8 => MessageBody::InstallSnapshot(SnapshotMeta {
                last: self.position(),
                membership: self.membership(),
                membership_id: self.position(),
            }),
            9 => MessageBody::TimeoutNow,
            10 => MessageBody::ReadIndex { request: self.number() },
            11 => {
                let (request, some) = (self.number(), self.flag());
                MessageBody::ReadIndexReply { request, index: some.then(|| LogIndex(self.number())) }
            }
            12 => MessageBody::Quiesce { last: self.position(), round: self.number() },
            13 => MessageBody::RequestSnapshot { at_least: LogIndex(self.number()) },
            _ => {
                let prev = self.position();
                let entries = self.entries(prev);
                let (commit, read_round) = (LogIndex(self.number()), self.number());
                MessageBody::Append(Append { prev, entries: entries.into(), commit, read_round })
            }
        }
    }

    fn message(&mut self) -> Message {
        let from = ReplicaId(self.number() % 6);
        let epoch = if self.byte() < 250 { 0 } else { self.number() };
        Message { from, to: ReplicaId(1), term: Term(self.number()), epoch, body: self.body() }
    }
}

fn members(voters: u64) -> Membership {
    let member = |node| Member {
        node: NodeId(node),
        role: MemberRole::Voter,
        peer_address: String::new(),
        client_address: String::new(),
    };
    Membership::initial((1..=voters).map(member).collect()).expect("a group of a few voters can be")
}

/// One replica and what its caller owes it.
struct Life {
    node: RawNode,
    now: MonoTime,
    writing: VecDeque<PersistToken>,
    applied: LogIndex,
    fetches: Vec<Fetch>,
}

impl Life {
    fn new(kind: u8) -> Self {
        let membership = if kind % 5 == 4 { Membership::default() } else { members(u64::from(kind % 5) + 1) };
        let restored =
            Restored { memberships: vec![(LogId::default(), Arc::new(membership))], ..Restored::default() };
        let config = Config {
            pre_vote: kind & 0x10 == 0,
            check_quorum: kind & 0x20 == 0,
            leader_lease: kind & 0x60 == 0x40,
            quiesce_after: (kind & 0x80 != 0).then_some(Duration::from_millis(300)),
            append_bytes_max: 40,
            window_bytes_max: 100,
            inflight_messages_max: 2,
            apply_bytes_max: 60,
            reads_max: 3,
            ..Config::new(ReplicaId(1))
        };
        let now = MonoTime::from_millis(1);
        let node = RawNode::new(config, restored, now).expect("a first start with nothing");
        Self { node, now, writing: VecDeque::new(), applied: LogIndex(0), fetches: Vec::new() }
    }

    fn step(&mut self, source: &mut Source<'_>) {
        match source.byte() % 28 {
            0..=9 => {
                let message = source.message();
                self.told(message);
            }
            10 => {
                self.now = self.now + Duration::from_millis(source.number() % 3_000);
                self.node.tick(self.now);
            }
            11 => {
                self.now = self.now.max(self.node.next_deadline());
                self.node.tick(self.now);
            }
            12 => self.node.campaign(self.now),
            13 => self.node.forget_leader(self.now),
            14 => drop(self.node.propose(self.now, Bytes::from(vec![1; usize::from(source.byte() % 50)]))),
            15 => drop(self.node.read(self.now, ReadTicket(source.number()))),
            16 => drop(self.node.transfer_leadership(self.now, Some(ReplicaId(source.number() % 5)))),
            17 => self.node.report_unreachable(ReplicaId(source.number())),
            18 => {
                let outcome = if source.flag() { SnapshotOutcome::Sent } else { SnapshotOutcome::Failed };
                self.node.report_snapshot(self.now, ReplicaId(source.number() % 6), outcome);
            }
            19 => self.change(source),
            20 => self.compact(),
            21 => self.fetched(source),
            22 => drop(self.node.read_lease(self.now, ReadTicket(source.number()))),
            23 => {
                self.node.abort_transfer(self.now);
            }
            24 => self.change_through_joint(source),
            25 => drop(self.node.leave_joint(self.now, None)),
            26 => self.node.wake(self.now),
            _ => {}
        }
        let (writes, applies) = (source.byte() % 4, source.flag());
        self.drain(writes, applies);
        self.check();
    }

    /// A message arrives. If it is refused in this term, nothing changed.
    fn told(&mut self, message: Message) {
        self.node.tick(self.now);
        self.drain(0, false);
        let mut before = self.node.clone();
        let (from, term) = (message.from, message.term);
        if let Err(reason) = self.node.step(self.now, from, message) {
            let answered = matches!(reason, Rejected::OldTerm | Rejected::Busy);
            let later = term > before.status().term && term <= Term::MAX;
            if !answered && !later {
                // The refusal itself is an event; take it out.
                drop(before.ready());
                drop(self.node.ready());
                assert!(before == self.node, "refused ({reason:?}), but something changed");
            }
        }
    }

    fn change(&mut self, source: &mut Source<'_>) {
        let replica = ReplicaId(source.number() % 6);
        let change = match source.byte() % 4 {
            0 => MembershipChange::Remove(replica),
            1 => MembershipChange::Demote(replica),
            2 => MembershipChange::Promote(replica),
            _ => MembershipChange::AddLearner {
                node: NodeId(10 + source.number() % 3),
                peer_address: String::new(),
                client_address: String::new(),
            },
        };
        drop(self.node.propose_membership(self.now, change, None));
    }

    fn change_through_joint(&mut self, source: &mut Source<'_>) {
        let changes = (0..source.byte() % 4).map(|_| {
            let replica = ReplicaId(source.number() % 6);
            if source.flag() { MembershipChange::Demote(replica) } else { MembershipChange::Promote(replica) }
        });
        let changes = changes.collect();
        let explicit = source.flag();
        let transition =
            if explicit { MembershipTransition::JointExplicit } else { MembershipTransition::JointImplicit };
        drop(self.node.propose_changes(self.now, changes, transition, None));
    }

    fn compact(&mut self) {
        // Only what was applied is in a snapshot, and only what is on the disk is dropped from it.
        let through = self.applied.min(self.node.status().persisted);
        if let Some(meta) = self.node.snapshot_meta(through).filter(|meta| meta.last.index > LogIndex(0)) {
            self.node.on_compacted(meta.last);
        }
    }

    /// The disk answers something that was asked, truthfully or not.
    fn fetched(&mut self, source: &mut Source<'_>) {
        let Some(fetch) = self.fetches.pop() else { return };
        match fetch {
            Fetch::Entries { from, .. } => {
                let prev = LogId { term: Term(source.number()), index: from.previous() };
                let entries = source.entries(prev);
                self.node.on_fetched(self.now, from, entries);
            }
            Fetch::SendSnapshot { to, .. } => {
                self.node.report_snapshot(self.now, to, SnapshotOutcome::Sent);
            }
        }
    }

    fn drain(&mut self, writes: u8, applies: bool) {
        for _ in 0..100 {
            if !self.node.has_ready() {
                break;
            }
            let ready = self.node.ready();
            self.writing.extend(ready.persist.map(|persist| persist.token));
            if let Some(meta) = ready.restore {
                self.applied = meta.last.index;
            }
            if let Some(last) = ready.apply.last() {
                self.applied = last.index();
            }
            self.fetches.extend(ready.fetch);
            self.fetches.truncate(10);
        }
        assert!(!self.node.has_ready(), "it does not come to rest: {:?}", self.node.status());
        for _ in 0..writes {
            if let Some(token) = self.writing.pop_front() {
                self.node.on_persisted(self.now, token);
            }
        }
        if applies {
            self.node.on_applied(self.now, self.applied);
        }
    }

    fn check(&self) {
        let status = self.node.status();
        assert!(status.compacted.index <= status.commit, "{status:?}");
        assert!(status.applied <= status.commit, "{status:?}");
        assert!(status.commit <= status.last.index, "{status:?}");
        assert!(status.persisted <= status.last.index, "{status:?}");
        assert!(status.term <= Term::MAX, "{status:?}");
        for (_, progress) in self.node.progress() {
            assert!(progress.matched < progress.next, "{progress:?}");
        }
    }
}
