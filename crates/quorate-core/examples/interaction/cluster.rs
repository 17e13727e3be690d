//! The directives, run on our core.
//!
//! | directive | here |
//! |---|---|
//! | add-nodes | the next replicas; with `index` their log begins after a snapshot there |
//! | campaign, transfer-leadership, report-unreachable | the input of that name |
//! | propose, propose-conf-change | the input of that name; a replica that does not lead names the leader, and that one is asked (etcd passes the proposal on) |
//! | forget-leader | the input of that name at followers (etcd's leaders and candidates ignore it, ours step down) |
//! | tick-heartbeat | half an election timeout passes in one jump: after that our leader asks again for what was not answered, as etcd's does at every heartbeat |
//! | tick-election | three thirds of an election timeout pass |
//! | process-ready, process-append-thread, process-apply-thread | see `node.rs` |
//! | deliver-msgs, stabilize | in etcd's order: all ready, all messages, all append threads, all apply threads |
//! | compact, send-snapshot | the same |
//! | log-level, set-randomized-election-timeout | nothing: only the printing, or the chance of another core |
//!
//! A snapshot that `add-nodes` begins with stands in term 0 here and in term 1 with etcd, whose nodes
//! nevertheless start in term 0: our core takes no log that is newer than its term. It is printed as 1.

use std::collections::BTreeMap;

use quorate_core::{
    ChangeError, Config, LogId, LogIndex, Member, MemberRole, Membership, Message, NodeId, ProposeError,
    RawNode, ReplicaId, RoleName,
};

use crate::facts::Way;
use crate::format::Step;
use crate::node::{Node, TIMEOUT};
use crate::said::{self, Story};
use crate::trace;
use crate::wish::Wish;

/// See the module.
#[derive(Default)]
pub(crate) struct Cluster {
    nodes: BTreeMap<u64, Node>,
    wire: Vec<Message>,
    /// Membership changes that came too early, with whom to ask.
    wishes: Vec<(u64, Wish)>,
    story: Story,
}

impl Cluster {
    /// Runs one directive.
    ///
    /// # Errors
    /// What in the directive cannot be understood or done.
    pub(crate) fn run(&mut self, step: &Step) -> Result<Story, String> {
        let first = step.replicas().first().copied();
        match step.directive.as_str() {
            "log-level" | "set-randomized-election-timeout" | "_breakpoint" => {}
            "add-nodes" => self.add_nodes(step)?,
            "stabilize" => self.stabilize(&step.replicas())?,
            "process-ready" => self.each(step, Self::handle_ready)?,
            "process-append-thread" => self.each(step, Self::append_thread)?,
            "process-apply-thread" => self.each(step, Self::apply_thread)?,
            "deliver-msgs" => self.deliver_all(step)?,
            "status" => self.story.progress(find(&mut self.nodes, first)?),
            "raft-log" => self.story.log(find(&mut self.nodes, first)?),
            "raft-state" => {
                for node in self.nodes.values() {
                    self.story.state(node);
                }
            }
            "compact" => {
                let index = step.replicas().get(1).copied().ok_or("compact: up to where?")?;
                self.node(first)?.compact(LogIndex(index))?;
                self.story.log(find(&mut self.nodes, first)?);
            }
            _ => self.input(step)?,
        }
        for node in self.nodes.values_mut() {
            self.story.now(node);
        }
        Ok(std::mem::take(&mut self.story))
    }

    fn node(&mut self, id: Option<u64>) -> Result<&mut Node, String> {
        find(&mut self.nodes, id)
    }

    fn each(
        &mut self,
        step: &Step,
        run: impl Fn(&mut Self, u64) -> Result<(), String>,
    ) -> Result<(), String> {
        step.replicas().into_iter().try_for_each(|id| run(self, id))
    }

    /// Directives that are one input of one replica.
    fn input(&mut self, step: &Step) -> Result<(), String> {
        let ids = step.replicas();
        let (first, second) = (ids.first().copied(), ids.get(1).copied().map(ReplicaId));
        let named = |key: &str| step.numbers(key).first().copied();
        let refused = match step.directive.as_str() {
            "campaign" => {
                self.node(first)?.input(RawNode::campaign);
                None
            }
            "forget-leader" => {
                let node = self.node(first)?;
                if node.core.status().role == RoleName::Follower {
                    node.input(RawNode::forget_leader);
                }
                None
            }
            "propose" => self.propose(first, step.plain().nth(1).unwrap_or_default())?,
            "propose-conf-change" => self.propose_change(step)?,
            "tick-heartbeat" => {
                self.node(first)?.pass(TIMEOUT / 2);
                None
            }
            "tick-election" => {
                (0..3).try_for_each(|_| self.node(first).map(|node| node.pass(TIMEOUT / 3)))?;
                None
            }
            "report-unreachable" => {
                let to = second.ok_or("report-unreachable: who?")?;
                self.node(first)?.input(|core, _| core.report_unreachable(to));
                None
            }
            "send-snapshot" => {
                let to = second.ok_or("send-snapshot: to whom?")?;
                let snapshot = self.node(first)?.snapshot_for(to);
                self.send(snapshot.into_iter().collect());
                None
            }
            "transfer-leadership" => {
                let to = named("to").map(ReplicaId);
                let from = self.node(named("from"))?;
                let outcome = from.input(|core, now| core.transfer_leadership(now, to));
                outcome.err().map(|error| format!("{error:?}"))
            }
            unknown => return Err(format!("unknown directive {unknown}")),
        };
        if let Some(why) = refused {
            self.story.refused(&why);
        }
        Ok(())
    }

    /// Proposes `data`; a replica that does not lead names the one to ask, as it does to clients.
    fn propose(&mut self, at: Option<u64>, data: &str) -> Result<Option<String>, String> {
        let proposal = |core: &mut RawNode, now| core.propose(now, data.to_owned().into());
        let mut outcome = self.node(at)?.input(proposal);
        if let Err(ProposeError::NotLeader { leader: Some(leader) }) = outcome {
            outcome = self.node(Some(leader.0))?.input(proposal);
        }
        Ok(outcome.err().map(|error| error.to_string()))
    }

    // ---- members --------------------------------------------------------------------------------

    fn add_nodes(&mut self, step: &Step) -> Result<(), String> {
        let count = step.replicas().first().copied().ok_or("add-nodes: how many?")?;
        let number = |key: &str| step.numbers(key).first().copied();
        let (voters, learners) = (step.numbers("voters"), step.numbers("learners"));
        let start = LogId::new(0, number("index").unwrap_or(0));
        for id in (self.nodes.len() as u64 + 1..).take(usize::try_from(count).unwrap_or(0)) {
            let members = members(&voters, &learners)?;
            let mut config = Config::new(ReplicaId(id));
            config.election_timeout = TIMEOUT;
            config.heartbeat_interval = TIMEOUT / 3;
            config.pre_vote = step.is_on("prevote");
            config.check_quorum = step.is_on("checkquorum");
            config.leader_lease = step.value("read-only") == Some("lease-based");
            config.inflight_messages_max =
                number("inflight").map_or(1 << 20, |count| usize::try_from(count).unwrap_or(1));
            config.apply_bytes_max = number("max-committed-size-per-ready").unwrap_or(config.apply_bytes_max);
            let node = Node::new(config, start, members, step.is_on("async-storage-writes"))?;
            self.nodes.insert(id, node);
        }
        Ok(())
    }

    fn propose_change(&mut self, step: &Step) -> Result<Option<String>, String> {
        let id = step.replicas().first().copied().ok_or("propose-conf-change: where?")?;
        let wish = Wish::read(step)?;
        let (mut at, mut outcome) = (id, wish.propose(self.node(Some(id))?));
        if let Err(ChangeError::Propose(ProposeError::NotLeader { leader: Some(leader) })) = outcome {
            (at, outcome) = (leader.0, wish.propose(self.node(Some(leader.0))?));
        }
        match outcome {
            Ok(()) => Ok(None),
            // Not before its leader has committed in its term: that comes by itself.
            Err(ChangeError::NotReady) => {
                self.wishes.push((at, wish));
                Ok(None)
            }
            Err(refused) => Ok(Some(format!("{refused:?}"))),
        }
    }

    /// Asks again for changes that came too early.
    fn ask_again(&mut self) -> Result<(), String> {
        for (id, wish) in std::mem::take(&mut self.wishes) {
            match wish.propose(self.node(Some(id))?) {
                Ok(()) => {}
                Err(ChangeError::NotReady) => self.wishes.push((id, wish)),
                Err(refused) => self.story.refused(&format!("{refused:?}")),
            }
        }
        Ok(())
    }

    // ---- turns ----------------------------------------------------------------------------------

    fn handle_ready(&mut self, id: u64) -> Result<(), String> {
        let done = self.node(Some(id))?.handle_ready();
        self.story.done(id, &done);
        self.send(done.messages);
        self.ask_again()
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            self.story.message(&message, Way::Sent);
            self.wire.push(message);
        }
    }

    fn append_thread(&mut self, id: u64) -> Result<(), String> {
        let node = self.node(Some(id))?;
        let Some(writes) = node.append_work.pop_front() else {
            self.story.line(&format!("{id} has nothing to write"));
            return Ok(());
        };
        let released = node.write(&writes);
        self.story.line(&format!("{id} has written what it had to"));
        self.send(released);
        self.ask_again()
    }

    fn apply_thread(&mut self, id: u64) -> Result<(), String> {
        let node = self.node(Some(id))?;
        if let Some(work) = node.apply_work.pop_front() {
            node.apply(&work);
            let said = trace::entries(&work.applies);
            self.story.line(&format!("{id} has applied {said}"));
        }
        Ok(())
    }

    /// Everything to the named replicas arrives, or is lost.
    fn deliver_all(&mut self, step: &Step) -> Result<(), String> {
        let kind = step.value("type");
        let dropped = step.numbers("drop").into_iter().map(|id| (id, Way::Dropped));
        let delivered = step.replicas().into_iter().map(|id| (id, Way::Received));
        let receivers: BTreeMap<u64, Way> = delivered.chain(dropped).collect();
        for (id, way) in receivers {
            self.deliver(id, way, kind)?;
        }
        Ok(())
    }

    fn deliver(&mut self, id: u64, way: Way, kind: Option<&str>) -> Result<(), String> {
        let wanted = |message: &Message| {
            message.to.0 == id && kind.is_none_or(|kind| said::etcd_kind(&message.body) == kind)
        };
        let (arriving, others) = std::mem::take(&mut self.wire).into_iter().partition(wanted);
        self.wire = others;
        let arriving: Vec<Message> = arriving;
        for message in arriving {
            self.story.message(&message, way);
            if way == Way::Received {
                let from = message.from;
                // A refusal is an event of the core, and printed with them.
                self.node(Some(id))?.input(|core, now| core.step(now, from, message)).ok();
                self.ask_again()?;
            }
        }
        Ok(())
    }

    fn stabilize(&mut self, only: &[u64]) -> Result<(), String> {
        let all = self.nodes.keys().copied();
        let ids: Vec<u64> = all.filter(|id| only.is_empty() || only.contains(id)).collect();
        for _ in 0..1000 {
            let mut quiet = true;
            for id in &ids {
                if self.node(Some(*id))?.has_ready() {
                    quiet = false;
                    self.handle_ready(*id)?;
                }
            }
            for id in &ids {
                if self.wire.iter().any(|message| message.to.0 == *id) {
                    quiet = false;
                    self.deliver(*id, Way::Received, None)?;
                }
            }
            for id in &ids {
                while !self.node(Some(*id))?.append_work.is_empty() {
                    quiet = false;
                    self.append_thread(*id)?;
                }
            }
            for id in &ids {
                while !self.node(Some(*id))?.apply_work.is_empty() {
                    quiet = false;
                    self.apply_thread(*id)?;
                }
            }
            if quiet {
                return Ok(());
            }
        }
        Err("the replicas do not come to rest".to_owned())
    }
}

fn find(nodes: &mut BTreeMap<u64, Node>, id: Option<u64>) -> Result<&mut Node, String> {
    let id = id.ok_or("which replica?")?;
    nodes.get_mut(&id).ok_or_else(|| format!("there is no replica {id}"))
}

/// The members that `add-nodes` names; nobody when it names nobody.
fn members(voters: &[u64], learners: &[u64]) -> Result<Membership, String> {
    if voters.is_empty() && learners.is_empty() {
        return Ok(Membership::default());
    }
    let ids = 1..=(voters.len() + learners.len()) as u64;
    let member = |id| {
        let role = if voters.contains(&id) { MemberRole::Voter } else { MemberRole::Learner };
        Member { node: NodeId(id), role, peer_address: String::new(), client_address: String::new() }
    };
    Membership::initial(ids.map(member).collect()).map_err(|error| error.to_string())
}
