//! The core beside a model that is figure 2 of the paper and nothing else. A cluster of cores lives through elections,
//! proposals, restarts and a wire that loses, doubles and reorders; beside each core a model is told the same. After
//! every step both must be in the same role and term, with the same vote, log and commit index, and have
//! given the same answer.

#![expect(clippy::unwrap_used, reason = "in a test's helpers, as in its body")]

mod model;

use std::sync::Arc;

use bytes::Bytes;
use model::{Answer, Model, View};
use proptest::prelude::*;
use quorate_core::{
    AppendReply, Config, Entry, EntryPayload, HardState, LogId, LogIndex, Member, MemberRole, Membership,
    Message, MessageBody, MonoTime, NodeId, RaftEvent, RawNode, ReplicaId, Restored, Term,
};

/// One step of a schedule. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Deliver(usize),
    Duplicate(usize),
    Lose(usize),
    Campaign(u64),
    Propose(u64),
    /// Mostly a heartbeat of a leader.
    Tick(u64),
    Restart(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (0_usize..64).prop_map(Step::Deliver),
        3 => (0_usize..64).prop_map(Step::Duplicate),
        4 => (0_usize..64).prop_map(Step::Lose),
        4 => (0_u64..5).prop_map(Step::Campaign),
        8 => (0_u64..5).prop_map(Step::Propose),
        4 => (0_u64..5).prop_map(Step::Tick),
        2 => (0_u64..5).prop_map(Step::Restart),
    ]
}

/// A core whose writes are durable at once, and its model.
struct Pair {
    core: RawNode,
    model: Model,
    config: Config,
    hard: HardState,
    entries: Vec<Entry>,
    membership: Arc<Membership>,
    now: MonoTime,
    /// Followers whose logs the core has just taken for lost.
    doubted: Vec<u64>,
}

impl Pair {
    fn new(id: u64, voters: u64) -> Self {
        let member = |node| Member {
            node: NodeId(node),
            role: MemberRole::Voter,
            peer_address: String::new(),
            client_address: String::new(),
        };
        let membership = Arc::new(Membership::initial((1..=voters).map(member).collect()).unwrap());
        let config = Config {
            pre_vote: false,
            check_quorum: false,
            append_bytes_max: 60,
            ..Config::new(ReplicaId(id))
        };
        let now = MonoTime::from_millis(1);
        let restored = Restored {
            memberships: vec![(LogId::default(), Arc::clone(&membership))],
            ..Restored::default()
        };
        let core = RawNode::new(config.clone(), restored, now).unwrap();
        let (hard, entries) = (HardState::default(), Vec::new());
        let (model, doubted) = (Model::new(id, voters), Vec::new());
        Self { core, model, config, hard, entries, membership, now, doubted }
    }

    fn restart(&mut self) {
        let mut term_runs: Vec<LogId> = Vec::new();
        for entry in &self.entries {
            if term_runs.last().is_none_or(|run| run.term < entry.term()) {
                term_runs.push(entry.id);
            }
        }
        let restored = Restored {
            hard_state: self.hard,
            term_runs,
            last: LogIndex(self.entries.len() as u64),
            memberships: vec![(LogId::default(), Arc::clone(&self.membership))],
            ..Restored::default()
        };
        self.core = RawNode::new(self.config.clone(), restored, self.now).unwrap();
        self.model.restart(usize::try_from(self.hard.commit.0).unwrap());
    }

    /// Takes everything out; what is said.
    fn drain(&mut self) -> Vec<Message> {
        let mut said = Vec::new();
        while self.core.has_ready() {
            let ready = self.core.ready();
            said.extend(ready.send);
            for event in ready.events {
                if let RaftEvent::FollowerLostLog { replica, .. } = event {
                    self.doubted.push(replica.0);
                }
            }
            if let Some(persist) = ready.persist {
                if let Some(from) = persist.truncate_from {
                    self.entries.retain(|entry| entry.index() < from);
                }
                self.entries.extend(persist.entries.iter().cloned());
                self.hard = persist.hard_state.unwrap_or(self.hard);
                self.core.on_persisted(self.now, persist.token);
            }
            if let Some(last) = ready.apply.last() {
                self.core.on_applied(self.now, last.index());
            }
            for fetch in ready.fetch {
                if let quorate_core::Fetch::Entries { from, to, .. } = fetch {
                    let all = self.entries.iter();
                    let wanted = all.filter(|entry| from <= entry.index() && entry.index() < to);
                    self.core.on_fetched(self.now, from, wanted.cloned().collect());
                }
            }
        }
        said
    }

    fn view(&self) -> View {
        let status = self.core.status();
        let term_at = |index| self.core.term_at(LogIndex(index)).unwrap_or(Term(0)).0;
        View {
            role: status.role,
            term: status.term.0,
            vote: status.vote.map(|vote| vote.0),
            leader: status.leader.map(|leader| leader.0),
            log: (1..=status.last.index.0).map(term_at).collect(),
            commit: usize::try_from(status.commit.0).unwrap(),
        }
    }

    /// What `said` answers to `message`, in the words of the model.
    fn answer(message: &Message, said: &[Message]) -> Option<Answer> {
        said.iter().filter(|answer| answer.to == message.from).find_map(|answer| {
            match (&message.body, &answer.body) {
                (MessageBody::Vote(_), MessageBody::VoteReply { granted }) => Some(Answer::Vote(*granted)),
                (MessageBody::Append(_), MessageBody::AppendReply(AppendReply::Accepted { matched, .. })) => {
                    Some(Answer::Accepted(usize::try_from(matched.0).unwrap()))
                }
                (MessageBody::Append(_), MessageBody::AppendReply(AppendReply::Rejected { .. })) => {
                    Some(Answer::Rejected)
                }
                (_, _) => None,
            }
        })
    }
}

struct Cluster {
    pairs: Vec<Pair>,
    wire: Vec<Message>,
    committed: Vec<u64>,
}

impl Cluster {
    fn new(voters: u64) -> Self {
        let pairs = (1..=voters).map(|id| Pair::new(id, voters)).collect();
        Self { pairs, wire: Vec::new(), committed: Vec::new() }
    }

    fn pair(&mut self, number: u64) -> &mut Pair {
        let at = usize::try_from(number).unwrap() % self.pairs.len();
        &mut self.pairs[at]
    }

    fn take(&mut self, number: usize, keeps: bool) -> Option<Message> {
        let at = number.checked_rem(self.wire.len())?;
        Some(if keeps { self.wire[at].clone() } else { self.wire.swap_remove(at) })
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let message = match step {
            Step::Deliver(number) => self.take(number, false),
            Step::Duplicate(number) => self.take(number, true),
            Step::Lose(number) => {
                self.take(number, false);
                return Ok(());
            }
            Step::Campaign(_) | Step::Propose(_) | Step::Tick(_) | Step::Restart(_) => None,
        };
        let said = match step {
            Step::Deliver(_) | Step::Duplicate(_) | Step::Lose(_) => match message {
                Some(message) => self.deliver(message)?,
                None => return Ok(()),
            },
            Step::Campaign(number) => {
                let pair = self.pair(number);
                pair.core.campaign(pair.now);
                pair.model.campaign();
                pair.drain()
            }
            Step::Propose(number) => {
                let pair = self.pair(number);
                drop(pair.core.propose(pair.now, Bytes::from_static(b"x")));
                pair.model.propose();
                pair.drain()
            }
            Step::Tick(number) => {
                let pair = self.pair(number);
                // Only what a leader does: elections are steps of their own here.
                if pair.view().leader == Some(pair.config.id.0) {
                    pair.now = pair.now + pair.config.heartbeat_interval;
                    pair.core.tick(pair.now);
                }
                pair.drain()
            }
            Step::Restart(number) => {
                let pair = self.pair(number);
                pair.restart();
                pair.drain()
            }
        };
        self.wire.extend(said);
        self.compare(step)
    }

    fn deliver(&mut self, message: Message) -> Result<Vec<Message>, TestCaseError> {
        let pair = self.pair(message.to.0 - 1);
        pair.core.step(pair.now, message.from, message.clone()).ok();
        let said = pair.drain();
        let expected = pair.model.hear(&message);
        pair.doubted.drain(..).for_each(|follower| pair.model.doubt(follower));
        prop_assert_eq!(Pair::answer(&message, &said), expected, "{:?}", message);
        Ok(said)
    }

    fn compare(&mut self, step: Step) -> Result<(), TestCaseError> {
        for pair in &self.pairs {
            prop_assert_eq!(pair.view(), pair.model.view(), "after {:?}", step);
            // And the models agree on what is committed.
            let view = pair.view();
            let known = self.committed.len().min(view.commit);
            prop_assert_eq!(&view.log[..known], &self.committed[..known], "after {:?}", step);
            self.committed.extend_from_slice(&view.log[known..view.commit]);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_core_does_what_figure_2_does(voters in 1_u64..=5, steps in prop::collection::vec(step(), 0..400)) {
        let mut cluster = Cluster::new(voters);
        cluster.step(Step::Campaign(0))?;
        for step in steps {
            cluster.step(step)?;
        }
    }
}

/// The comparison is worth nothing if the schedules never come to anything.
#[test]
fn schedules_commit_across_terms() {
    let mut cluster = Cluster::new(3);
    for round in 0..6_u64 {
        cluster.step(Step::Campaign(round)).unwrap();
        for number in 0..200 {
            cluster.step(Step::Deliver(number)).unwrap();
        }
        cluster.step(Step::Propose(round)).unwrap();
    }
    let terms: std::collections::BTreeSet<u64> = cluster.committed.iter().copied().collect();
    assert!(cluster.committed.len() > 4 && terms.len() > 2, "{:?}", cluster.committed);
    assert!(cluster.pairs.iter().any(|pair| pair.entries.iter().any(|e| e.payload != EntryPayload::Noop)));
}
