//! The words of the scripts.
//!
//! ```text
//! cluster voters=3 [learners=1] [pre-vote=off] [check-quorum=off] [lease=on drift=100] [quiesce=1000] [window=N] [append=N] [inflight=N] …
//! auto deliver=off persist=off apply=off fetch=off    the script does these itself
//! slow-disk 3                                         the script makes its writes durable: persist 3
//! campaign 1 · propose 1 a b · barrier 1 · read 1 7 · lease-read 1 7 · lease · transfer 1 2 · abort-transfer 1 · delay 1 1000 · forget 1 · wake 1 · request-snapshot 1 · tick 500 · sleep 500
//! add-learner 1 4 · add-voter 1 4 · add-witness 1 4 · join 1 4 · promote-later 1 4 · promote 1 4 · demote 1 4 · remove 1 4 · move 1 4 host:1
//! change 1 remove=1 add-voter=4 promote=5 [joint=automatic|implicit|explicit] [expected=2] · leave-joint 1
//! deliver [from=1] [to=2] · drop [from=1] [to=2] · duplicate from=1 to=2 · persist 1 · apply 1 · fetch 1
//! partition 1-2 3 · cut 1-2 (both ways) · mute 1-2 (what 1 says to 2 is lost) · heal · unreachable 1 3
//! snapshot 1 2 (1 sends 2 a snapshot of what it has applied, asked for or not)
//! events all (shows every event, not only what the messages do not say) · heartbeats on
//! recover 1 lost=2-3 [left-out=4-5] [accept-more-loss=on] (1 is down; goes on alone)
//! crash 1 · restart 1 · wipe 1 · compact 1 [5] · status · deadlines · log 1 · progress 1 · wire
//! ```

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use goldenscript::{Argument, ArgumentConsumer, Block, Command, Context, Runner};
use quorate_core::{
    Config, ForcedRecovery, LogId, LogIndex, Membership, MembershipChange, MembershipTransition, Message,
    MonoTime, NodeId, ReadTicket, ReplicaId, force_recovery,
};

use crate::cluster::{Auto, Cluster, Node};
use crate::disk::Disk;
use crate::trace;

type Outcome = Result<(), Box<dyn Error>>;

#[derive(Default)]
pub(crate) struct Script {
    cluster: Cluster,
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        self.execute(&command.name, &mut args)?;
        args.reject_next()?;
        self.cluster.settle();
        Ok(std::mem::take(&mut self.cluster.out))
    }

    fn end_block(&mut self, _: &Block) -> Result<String, Box<dyn Error>> {
        Ok(std::mem::take(&mut self.cluster.out))
    }
}

fn replica(args: &mut ArgumentConsumer<'_>) -> Result<ReplicaId, Box<dyn Error>> {
    Ok(ReplicaId(args.next_pos().ok_or("which replica?")?.parse()?))
}

/// The replicas in `key=1-2-3`.
fn ids(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<Vec<ReplicaId>, Box<dyn Error>> {
    let named = args.take_key(key).map_or(Vec::new(), |ids| ids.split('-').collect());
    named.into_iter().map(|id| Ok(ReplicaId(id.parse()?))).collect()
}

fn number(args: &mut ArgumentConsumer<'_>, key: &str, otherwise: u64) -> Result<u64, Box<dyn Error>> {
    Ok(args.take_key(key).map_or(Ok(otherwise), str::parse)?)
}

fn on(args: &mut ArgumentConsumer<'_>, key: &str, otherwise: bool) -> bool {
    args.take_key(key).map_or(otherwise, |value| value == "on")
}

fn change(name: &str, about: ReplicaId) -> Result<MembershipChange, Box<dyn Error>> {
    let (node, peer_address, client_address) = (NodeId(about.0), format!("n{about}:1"), String::new());
    Ok(match name {
        "add-learner" => MembershipChange::AddLearner { node, peer_address, client_address },
        "add-voter" => MembershipChange::AddVoter { node, peer_address, client_address },
        "add-witness" => MembershipChange::AddWitness { node, peer_address, client_address },
        "join" => MembershipChange::Join { node, peer_address, client_address },
        "promote" => MembershipChange::Promote(about),
        "promote-later" => MembershipChange::PromoteOnceCaughtUp(about),
        "demote" => MembershipChange::Demote(about),
        "remove" => MembershipChange::Remove(about),
        _ => return Err(format!("no such change: {name}").into()),
    })
}

/// What kind of replica a change adds, if it adds one.
const fn added(change: &MembershipChange) -> Option<&'static str> {
    match change {
        MembershipChange::AddLearner { .. } | MembershipChange::Join { .. } => Some("learner"),
        MembershipChange::AddVoter { .. } => Some("voter"),
        MembershipChange::AddWitness { .. } => Some("witness"),
        MembershipChange::Promote(_)
        | MembershipChange::PromoteOnceCaughtUp(_)
        | MembershipChange::Demote(_)
        | MembershipChange::Remove(_)
        | MembershipChange::SetAddresses { .. } => None,
    }
}

impl Script {
    fn execute(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome {
        match name {
            "cluster" => self.start(args),
            "auto" => {
                let Auto { deliver, persist, apply, fetch } = self.cluster.auto;
                self.cluster.auto = Auto {
                    deliver: on(args, "deliver", deliver),
                    persist: on(args, "persist", persist),
                    apply: on(args, "apply", apply),
                    fetch: on(args, "fetch", fetch),
                };
                Ok(())
            }
            "slow-disk" => {
                self.cluster.slow_disks.insert(replica(args)?);
                Ok(())
            }
            "heartbeats" => {
                self.cluster.show_heartbeats = args.next_pos() == Some("on");
                Ok(())
            }
            "events" => {
                self.cluster.show_events = args.next_pos() == Some("all");
                Ok(())
            }
            "tick" => {
                self.cluster.pass(args.next_pos().ok_or("how long?")?.parse()?);
                Ok(())
            }
            "sleep" => {
                self.cluster.now_millis += args.next_pos().ok_or("how long?")?.parse::<u64>()?;
                Ok(())
            }
            "deliver" | "drop" | "duplicate" => self.carry(name, args),
            "persist" | "apply" | "fetch" => self.lane(name, args),
            "partition" | "cut" | "mute" | "heal" => self.network(name, args),
            "crash" | "restart" | "wipe" | "compact" => self.process(name, args),
            "recover" => self.recover(args),
            "snapshot" => {
                let (from, to) = (replica(args)?, replica(args)?);
                self.cluster.snapshot(from, to);
                Ok(())
            }
            "status" | "log" | "progress" | "wire" | "leader" => self.show(name, args),
            "lease" | "deadlines" => {
                self.show_times(name);
                Ok(())
            }
            "add-learner" | "add-voter" | "add-witness" | "join" | "promote" | "promote-later" | "demote"
            | "remove" | "move" => self.change_one(name, args),
            "change" => self.change_several(args),
            "leave-joint" => self.leave_joint(args),
            _ => self.ask(name, args),
        }
    }

    fn start(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        self.cluster = Cluster::default();
        let (voters, learners) = (number(args, "voters", 3)?, number(args, "learners", 0)?);
        let defaults = Config::new(ReplicaId(1));
        let config = Config {
            pre_vote: on(args, "pre-vote", true),
            check_quorum: on(args, "check-quorum", true),
            quiesce_after: args.take_key("quiesce").map(str::parse).transpose()?.map(Duration::from_millis),
            apply_unpersisted: on(args, "apply-unpersisted", false),
            lazy_commit_news: on(args, "lazy", false),
            unapplied_bytes_max: number(args, "unapplied", defaults.unapplied_bytes_max)?,
            snapshot_timeout: Duration::from_millis(number(args, "snapshot-timeout", 3_600_000)?),
            leader_lease: on(args, "lease", false),
            lease_drift_max: Duration::from_millis(number(args, "drift", 100)?),
            window_bytes_max: number(args, "window", defaults.window_bytes_max)?,
            append_bytes_max: number(args, "append", defaults.append_bytes_max)?,
            apply_bytes_max: number(args, "apply", defaults.apply_bytes_max)?,
            inflight_messages_max: usize::try_from(number(args, "inflight", 256)?)?,
            inflight_bytes_max: number(args, "inflight-bytes", defaults.inflight_bytes_max)?,
            uncommitted_bytes_max: number(args, "uncommitted", defaults.uncommitted_bytes_max)?,
            command_bytes_max: number(args, "command", defaults.command_bytes_max)?,
            reads_max: usize::try_from(number(args, "reads", 65_536)?)?,
            ..defaults
        };
        for id in (1..=voters + learners).map(ReplicaId) {
            let config = Config { id, seed: id.0, ..config.clone() };
            let disk = Disk::new(Cluster::initial(voters, learners));
            self.cluster.start(config, disk, LogIndex(0));
        }
        // What everybody says at the start is always the same.
        for node in self.cluster.nodes.values_mut() {
            node.core.ready();
        }
        Ok(())
    }

    fn ask(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let id = replica(args)?;
        let now = self.cluster.now();
        let core = &mut self.cluster.nodes.get_mut(&id).ok_or("it is down")?.core;
        let refused = match name {
            "campaign" => {
                core.campaign(now);
                None
            }
            "abort-transfer" => {
                let to = core.abort_transfer(now);
                to.is_none().then(|| "there is no transfer".to_owned())
            }
            "delay" => {
                let millis = args.next_pos().ok_or("how long?")?.parse()?;
                core.set_election_delay(Duration::from_millis(millis));
                None
            }
            "request-snapshot" => core.request_snapshot(now).err().map(|error| format!("{error:?}")),
            "wake" => {
                core.wake(now);
                None
            }
            "forget" => {
                core.forget_leader(now);
                None
            }
            "unreachable" => {
                core.report_unreachable(replica(args)?);
                None
            }
            "barrier" => core.propose_barrier(now).err().map(|error| format!("{error:?}")),
            "read" => {
                let ticket = ReadTicket(args.next_pos().ok_or("which ticket?")?.parse()?);
                core.read(now, ticket).err().map(|error| format!("{error:?}"))
            }
            "lease-read" => {
                let ticket = ReadTicket(args.next_pos().ok_or("which ticket?")?.parse()?);
                core.read_lease(now, ticket).err().map(|error| format!("{error:?}"))
            }
            "transfer" => {
                let to = args.next_pos().map(str::parse).transpose()?.map(ReplicaId);
                core.transfer_leadership(now, to).err().map(|error| format!("{error:?}"))
            }
            "propose" => {
                let mut refused = None;
                for argument in args.by_ref() {
                    let command = match argument {
                        Argument::Positional(value) => Bytes::copy_from_slice(value.as_bytes()),
                        Argument::KeyValue(_, bytes) => Bytes::from(vec![b'x'; bytes.parse()?]),
                        _ => return Err("a command, or bytes=N".into()),
                    };
                    refused = core.propose(now, command).err().map(|error| format!("{error:?}"));
                }
                refused
            }
            _ => return Err(format!("no such command: {name}").into()),
        };
        if let Some(refused) = refused {
            self.cluster.say(format!("{id} refuses: {refused}"));
        }
        Ok(())
    }

    fn change_one(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let (id, about) = (replica(args)?, replica(args)?);
        let expected = self.expected(id, args)?;
        let change = match name {
            "move" => MembershipChange::SetAddresses {
                replica: about,
                peer_address: args.next_pos().ok_or("which address?")?.to_owned(),
                client_address: String::new(),
            },
            _ => change(name, about)?,
        };
        self.propose_changes(id, vec![change], MembershipTransition::Automatic, expected)
    }

    fn change_several(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let id = replica(args)?;
        let expected = self.expected(id, args)?;
        let transition = match args.take_key("joint") {
            None | Some("automatic") => MembershipTransition::Automatic,
            Some("implicit") => MembershipTransition::JointImplicit,
            Some("explicit") => MembershipTransition::JointExplicit,
            Some(_) => return Err("joint is automatic, implicit or explicit".into()),
        };
        let mut changes = Vec::new();
        for argument in args.by_ref() {
            let Argument::KeyValue(name, about) = argument else { return Err("what=replica".into()) };
            changes.push(change(name, ReplicaId(about.parse()?))?);
        }
        self.propose_changes(id, changes, transition, expected)
    }

    fn leave_joint(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let id = replica(args)?;
        let now = self.cluster.now();
        let node = self.cluster.nodes.get_mut(&id).ok_or("it is down")?;
        if let Err(refused) = node.core.leave_joint(now, None) {
            self.cluster.say(format!("{id} refuses: {refused:?}"));
        }
        Ok(())
    }

    /// The position of the membership the script expects, as replica `id` knows it.
    fn expected(
        &self,
        id: ReplicaId,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<Option<LogId>, Box<dyn Error>> {
        let Some(index) = args.take_key("expected").map(str::parse).transpose()?.map(LogIndex) else {
            return Ok(None);
        };
        let node = self.cluster.nodes.get(&id).ok_or("it is down")?;
        Ok(node.core.term_at(index).map(|term| LogId { term, index }))
    }

    /// Proposes, and starts the replicas that are new.
    fn propose_changes(
        &mut self,
        id: ReplicaId,
        changes: Vec<MembershipChange>,
        transition: MembershipTransition,
        expected: Option<LogId>,
    ) -> Outcome {
        let now = self.cluster.now();
        let node = self.cluster.nodes.get_mut(&id).ok_or("it is down")?;
        let added: Vec<Option<&str>> = changes.iter().map(added).collect();
        let config = node.config.clone();
        match node.core.propose_changes(now, changes, transition, expected) {
            Ok((_, concerned)) => {
                for (kind, replica) in added.into_iter().zip(concerned) {
                    let Some(kind) = kind else { continue };
                    let witness = kind == "witness";
                    let config = Config { id: replica, seed: replica.0, witness, ..config.clone() };
                    self.cluster.start(config, Disk::new(Membership::default()), LogIndex(0));
                    self.cluster.nodes.get_mut(&replica).ok_or("it was started")?.core.ready();
                    self.cluster.say(format!("{id} names the {kind} {replica}"));
                }
            }
            Err(refused) => self.cluster.say(format!("{id} refuses: {refused:?}")),
        }
        Ok(())
    }

    fn carry(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let from = args.take_key("from").map(str::parse).transpose()?.map(ReplicaId);
        let to = args.take_key("to").map(str::parse).transpose()?.map(ReplicaId);
        let first = args.take_key("first").map_or(Ok(usize::MAX), str::parse)?;
        let chosen = |message: &Message| {
            from.is_none_or(|from| message.from == from) && to.is_none_or(|to| message.to == to)
        };
        let wire = std::mem::take(&mut self.cluster.wire);
        let mut taken = 0;
        for message in wire {
            if !chosen(&message) || taken == first {
                self.cluster.wire.push_back(message);
                continue;
            }
            taken += 1;
            match name {
                "deliver" => self.cluster.deliver(message),
                "duplicate" => {
                    self.cluster.wire.push_back(message.clone());
                    self.cluster.deliver(message);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn lane(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let id = replica(args)?;
        let did = match name {
            "persist" => self.cluster.persist(id),
            "apply" => self.cluster.apply(id),
            _ => self.cluster.fetch(id),
        };
        if did { Ok(()) } else { Err(format!("nothing to {name}").into()) }
    }

    fn network(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let all: Vec<ReplicaId> =
            self.cluster.nodes.keys().chain(self.cluster.down.keys()).copied().collect();
        match name {
            "heal" => self.cluster.cuts.clear(),
            "partition" => {
                let mut sides: Vec<Vec<ReplicaId>> = Vec::new();
                while let Some(side) = args.next_pos() {
                    let ids = side.split('-').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
                    sides.push(ids.into_iter().map(ReplicaId).collect());
                }
                // Whoever is not named is together on one more side.
                let side = |id| sides.iter().position(|side| side.contains(&id));
                let apart = all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b)));
                self.cluster.cuts = apart.filter(|(a, b)| side(*a) != side(*b)).collect();
            }
            _ => {
                while let Some(link) = args.next_pos() {
                    let (a, b) = link.split_once('-').ok_or("a link is 1-2")?;
                    let (a, b) = (ReplicaId(a.parse()?), ReplicaId(b.parse()?));
                    self.cluster.cuts.insert((a, b));
                    if name == "cut" {
                        self.cluster.cuts.insert((b, a));
                    }
                }
            }
        }
        Ok(())
    }

    fn process(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let id = replica(args)?;
        let cluster = &mut self.cluster;
        match name {
            "crash" => {
                let mut node = cluster.nodes.remove(&id).ok_or("it is down already")?;
                node.writing.clear();
                cluster.down.insert(id, node);
            }
            "wipe" => {
                let node = cluster.down.get_mut(&id).ok_or("crash it first")?;
                let membership = node.disk.membership.clone();
                node.disk = Disk { membership, hard_state: node.disk.hard_state, ..Disk::default() };
                node.disk.hard_state.commit = LogIndex(0);
            }
            "restart" => {
                let node = cluster.down.remove(&id).ok_or("it is not down")?;
                let applied = node.disk.compacted.index;
                cluster.start(node.config, node.disk, applied);
            }
            _ => {
                let node = cluster.nodes.get_mut(&id).ok_or("it is down")?;
                let applied = node.core.status().applied.0;
                let through = args.next_pos().map_or(Ok(applied), str::parse)?;
                let meta = node.core.snapshot_meta(LogIndex(through)).ok_or("no such index")?;
                node.core.on_compacted(meta.last);
                if node.core.status().compacted == meta.last {
                    node.disk.compact(&meta);
                }
            }
        }
        Ok(())
    }

    fn recover(&mut self, args: &mut ArgumentConsumer<'_>) -> Outcome {
        let survivor = replica(args)?;
        let (lost, left_out) = (ids(args, "lost")?, ids(args, "left-out")?);
        let accept_more_loss = on(args, "accept-more-loss", false);
        let cluster = &mut self.cluster;
        let last = |id: &ReplicaId| {
            let node = cluster.down.get(id).or_else(|| cluster.nodes.get(id)).ok_or("no such replica")?;
            Ok::<_, &str>((*id, node.disk.entries.last().map_or(node.disk.compacted, |entry| entry.id)))
        };
        let left_out = left_out.iter().map(last).collect::<Result<_, _>>()?;
        let asked = ForcedRecovery { survivor, lost: lost.into_iter().collect(), left_out, accept_more_loss };
        let node = cluster.down.get_mut(&survivor).ok_or("crash it first")?;
        match force_recovery(&node.disk.restored(node.disk.compacted.index), asked) {
            Ok(recovered) => {
                node.disk.write(&recovered.persist);
                cluster.agree_anew(&recovered.audit);
                cluster.say(recovered.audit.to_string());
            }
            Err(refused) => cluster.say(format!("refused: {refused}")),
        }
        Ok(())
    }

    fn show_times(&mut self, name: &str) {
        if name == "deadlines" {
            let now = self.cluster.now();
            let line = |node: &Node| match node.core.next_deadline() {
                MonoTime::NEVER => format!("{} waits for nothing", node.config.id),
                at => format!("{} acts in {} ms", node.config.id, at.since(now).as_millis()),
            };
            let lines: Vec<_> = self.cluster.nodes.values().map(line).collect();
            lines.iter().for_each(|line| self.cluster.say(line));
        } else {
            let now = self.cluster.now();
            let left = |node: &Node| Some((node.config.id, node.core.status().lease_until()?));
            let leases: Vec<_> = self.cluster.nodes.values().filter_map(left).collect();
            for (id, until) in &leases {
                self.cluster.say(format!("{id} has a lease for {} ms", until.since(now).as_millis()));
            }
            if leases.is_empty() {
                self.cluster.say("nobody has a lease");
            }
        }
    }

    fn show(&mut self, name: &str, args: &mut ArgumentConsumer<'_>) -> Outcome {
        match name {
            "status" => {
                let only = args.next_pos().map(str::parse).transpose()?.map(ReplicaId);
                let shown = |id: &ReplicaId| only.is_none_or(|only| only == *id);
                let lines: Vec<String> =
                    self.cluster.nodes.iter().filter(|(id, _)| shown(id)).map(line).collect();
                lines.iter().for_each(|line| self.cluster.say(line));
            }
            "leader" => {
                let leader = self.cluster.leader().map_or("nobody".to_owned(), |id| id.to_string());
                self.cluster.say(format!("{leader} leads"));
            }
            "log" => {
                let id = replica(args)?;
                let node = self.cluster.nodes.get(&id).ok_or("it is down")?;
                let disk = &node.disk;
                let text = format!("{id} after {}: {}", disk.compacted, trace::entries(&disk.entries));
                self.cluster.say(text);
            }
            "wire" => {
                let lines: Vec<String> = self
                    .cluster
                    .wire
                    .iter()
                    .map(|message| {
                        format!(
                            "{}→{} @t{} {}",
                            message.from,
                            message.to,
                            message.term,
                            trace::body(&message.body)
                        )
                    })
                    .collect();
                lines.iter().for_each(|line| self.cluster.say(line));
            }
            _ => {
                let id = replica(args)?;
                let node = self.cluster.nodes.get(&id).ok_or("it is down")?;
                let lines: Vec<String> = node
                    .core
                    .progress()
                    .map(|(id, progress)| {
                        let active = if progress.recently_active { "" } else { " silent" };
                        let round = progress.catch_up_round.map_or(String::new(), |n| format!(" round={n}"));
                        format!(
                            "{id} {:?} matched={} next={}{active}{round}",
                            progress.state, progress.matched, progress.next
                        )
                    })
                    .collect();
                lines.iter().for_each(|line| self.cluster.say(line));
            }
        }
        Ok(())
    }
}

fn line((id, node): (&ReplicaId, &crate::cluster::Node)) -> String {
    let status = node.core.status();
    format!(
        "{id} {} t{} leader={} last={} commit={} applied={} members={}{}",
        status.role,
        status.term,
        status.leader.map_or("none".to_owned(), |leader| leader.to_string()),
        status.last,
        status.commit,
        status.applied,
        trace::membership(status.membership),
        if status.quiescent { " resting" } else { "" },
    )
}
