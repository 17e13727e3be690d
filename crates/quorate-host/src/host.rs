//! `Host`: all replicas of a process, driven by events. Synchronous; see [`crate::event`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_core::planted::planted;
use quorate_core::{
    ConfigError, GroupId, LogId, Membership, Message, MessageBody, MonoTime, NodeId, ProgressStatus, RawNode,
    Ready, ReplicaId, Restored, Status,
};
use quorate_storage::{LogError, SnapshotInfo};

use crate::config::{GroupConfig, HostConfig, SessionConfig};
use crate::deadlines::Deadlines;
use crate::event::{
    Applied, ApplyTask, Event, Fetched, LogWritten, Now, Outbound, SnapshotEvent, SnapshotTask, Work,
};
use crate::forwarding::{Behalf, OWN_TICKETS};
use crate::latency::StageLatencies;
use crate::pace::Pace;
use crate::peer::{PeerBody, PeerMessage};
use crate::reconfiguring::with_envelope;
use crate::replica::Replica;
use crate::request::{Request, RequestError, Ticket};
use crate::resting::{Resting, reaches_a_quorum};
use crate::snapshotter::drop_view;
use crate::versions::MachineVersions;

/// What a host needs to run a replica; made by [`crate::recover_group`].
pub struct GroupSetup {
    /// The group.
    pub group: GroupId,
    /// This node's replica in it.
    pub replica: ReplicaId,
    /// How it behaves.
    pub config: GroupConfig,
    /// What it knew when it stopped.
    pub restored: Restored,
    /// The newest snapshot on disk.
    pub snapshot: Option<SnapshotInfo>,
    /// Whether the machine keeps its own state (`StateMachine::is_durable`).
    pub durable_machine: bool,
    /// Which versions of commands its machine understands, and its group uses.
    pub versions: MachineVersions,
    /// The limits of its session table.
    pub session_limits: SessionConfig,
    /// Replicas known before the first membership arrives (a joining learner): where to answer to.
    pub seeds: Vec<(ReplicaId, NodeId, String)>,
}

/// A group could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is open already.
    #[error("group {0} is open already")]
    AlreadyOpen(GroupId),
    /// Its configuration cannot work.
    #[error("group {group} cannot be opened: {} must be {}", error.field, error.must)]
    Config {
        /// The group.
        group: GroupId,
        /// What must change.
        error: ConfigError,
    },
    /// What was recovered contradicts itself.
    #[error("group {group} cannot be opened: {reason}")]
    Inconsistent {
        /// The group.
        group: GroupId,
        /// What is wrong.
        reason: String,
    },
}

/// What the disk of the log does, as far as the writes of a replica tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskHealth {
    /// Writes come back.
    #[default]
    Works,
    /// The oldest write has not come back for [`crate::GroupConfig::stalled_write_max`]. A leader hands over,
    /// or steps down.
    Stalled,
    /// There is no space for entries: they are refused with [`crate::RequestError::DiskFull`] until there is.
    /// Reads go on.
    Full,
}

/// What a host says about one of its replicas.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Role, term, leader, commit and applied index, ….
    pub role: quorate_core::RoleName,
    /// This replica.
    pub replica: ReplicaId,
    /// Its term.
    pub term: quorate_core::Term,
    /// The leader it knows.
    pub leader: Option<ReplicaId>,
    /// Whether it leads and has applied everything that was committed before it did.
    pub leader_ready: bool,
    /// Whether nothing happens in the group and nobody says so (`Config::quiesce_after`).
    pub rests: bool,
    /// When the leader it follows was heard last, by the clock that the host is given; at rest, its node. Not
    /// followed by `watch`es.
    pub heard_leader: Option<MonoTime>,
    /// The leader's node and client address, if known.
    pub leader_hint: Option<crate::request::LeaderHint>,
    /// The last entry.
    pub last: LogId,
    /// The highest committed index.
    pub commit: quorate_core::LogIndex,
    /// The highest applied index.
    pub applied: quorate_core::LogIndex,
    /// The log starts after this.
    pub compacted: LogId,
    /// The newest snapshot.
    pub snapshot: LogId,
    /// The members.
    pub membership: Arc<Membership>,
    /// Where that was appended.
    pub membership_id: LogId,
    /// On a leader: how far each member is.
    pub progress: Vec<(ReplicaId, ProgressStatus)>,
    /// The newest version that commands of the group may have, as far as applied here.
    pub active_version: u32,
    /// On a leader: the newest version that the machines of all members understand, as far as they have said so.
    /// Elsewhere the active one.
    pub supported_version: u32,
    /// What the disk of its log does.
    pub disk: DiskHealth,
    /// Where the time of commands went while it led. Not followed by `watch`es.
    pub latencies: Arc<StageLatencies>,
}

/// All replicas of a process.
pub struct Host {
    node: NodeId,
    /// In boxes: the leaves of a tree are half empty, and a replica is large.
    replicas: BTreeMap<GroupId, Box<Replica>>,
    /// Filled by one core after the other.
    ready: Ready,
    /// What the group that was opened last behaves by, and its core. Those that behave alike share it.
    group_config: Arc<GroupConfig>,
    core_config: Arc<quorate_core::Config>,
    /// When each replica is to be ticked. Set anew when it is drained, after whatever happened to it.
    deadlines: Deadlines,
    /// Groups in which nothing happens.
    resting: Resting,
    work: Work,
    /// Something happened to these since work was taken: what they have to do is collected once for all of it,
    /// so that a hundred requests become one write and one message.
    touched: BTreeSet<GroupId>,
    /// When the last event happened.
    now: Now,
    config: HostConfig,
    pace: Pace,
    /// Writes that are still under way for replicas that are gone: what was recovered before they are
    /// done is not what the log holds.
    late_writes: BTreeMap<GroupId, usize>,
    /// State machines of replicas that are gone which may still be at work: another one would find their
    /// files in use, and be told what they have applied.
    late_machines: BTreeMap<GroupId, usize>,
    /// Replicas that could not go on, and why.
    broken: BTreeMap<GroupId, String>,
    stopped: Option<String>,
    /// Requests that other nodes have passed on, by the tickets they have here.
    on_behalf: BTreeMap<Ticket, Behalf>,
    next_own_ticket: u64,
}

impl Host {
    /// A host without groups for `node`, with the default limits.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self::with_config(node, HostConfig::default())
    }

    /// A host without groups for `node`. Its snapshotter needs the same configuration.
    #[must_use]
    pub fn with_config(node: NodeId, config: HostConfig) -> Self {
        Self {
            node,
            replicas: BTreeMap::new(),
            ready: Ready::default(),
            group_config: Arc::default(),
            core_config: Arc::new(quorate_core::Config::new(ReplicaId(0))),
            deadlines: Deadlines::default(),
            resting: Resting::default(),
            work: Work::default(),
            touched: BTreeSet::new(),
            now: Now::default(),
            pace: Pace::new(&config),
            config,
            late_writes: BTreeMap::new(),
            late_machines: BTreeMap::new(),
            broken: BTreeMap::new(),
            stopped: None,
            on_behalf: BTreeMap::new(),
            next_own_ticket: OWN_TICKETS,
        }
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Starts a replica. Its work appears in `take_work`.
    ///
    /// # Errors
    /// See [`OpenError`]. The other groups are not affected.
    pub fn open_group(&mut self, now: Now, setup: GroupSetup) -> Result<(), OpenError> {
        let group = setup.group;
        if self.is_open(group) {
            return Err(OpenError::AlreadyOpen(group));
        }
        if let Some(writes) = self.late_writes.get(&group) {
            let reason = format!("{writes} of its writes are still under way; recover it when they are done");
            return Err(OpenError::Inconsistent { group, reason });
        }
        if self.late_machines.contains_key(&group) {
            let reason = "its last state machine is still at work; recover it when that is gone".to_owned();
            return Err(OpenError::Inconsistent { group, reason });
        }
        setup.config.snapshots.validate().map_err(|error| OpenError::Config { group, error })?;
        setup.config.sessions.validate().map_err(|error| OpenError::Config { group, error })?;
        if setup.config.core.apply_unpersisted && setup.durable_machine {
            // It would be ahead of its log after a crash, and never start again.
            let must = "off for a machine that keeps its own state";
            return Err(OpenError::Config {
                group,
                error: ConfigError { field: "core.apply_unpersisted", must },
            });
        }
        if setup.config.core.witness {
            let error = ConfigError { field: "core.witness", must: "off: a host keeps data" };
            return Err(OpenError::Config { group, error });
        }
        let turn_bytes = setup.config.snapshots.chunk_bytes.saturating_mul(self.config.snapshot_sends_max);
        let (config, core_config) = self.share_config(&setup.config);
        let seed = config.core.seed ^ (setup.replica.0 << 32) ^ group.0 ^ now.mono.0 ^ now.unix_millis;
        let restored = setup.restored.clone();
        let core = RawNode::with_shared_config(core_config, setup.replica, seed, restored, now.mono)
            .map_err(|error| OpenError::Inconsistent { group, reason: error.to_string() })?;
        self.broken.remove(&group);
        let mut replica = Box::new(Replica::new(setup, config, core, seed));
        replica.stream_turn = self.pace.time_for(turn_bytes as u64);
        self.replicas.insert(group, replica);
        self.now = now;
        self.drain(group);
        Ok(())
    }

    /// The configuration and that of the core, kept once for all groups that behave alike.
    fn share_config(&mut self, config: &GroupConfig) -> (Arc<GroupConfig>, Arc<quorate_core::Config>) {
        let config = config.of_many();
        let core = with_envelope(config.core.clone());
        if *self.group_config != config {
            self.group_config = Arc::new(config);
        }
        if *self.core_config != core {
            self.core_config = Arc::new(core);
        }
        (Arc::clone(&self.group_config), Arc::clone(&self.core_config))
    }

    /// Whether `group` is open.
    #[must_use]
    pub fn is_open(&self, group: GroupId) -> bool {
        self.replicas.contains_key(&group)
    }

    /// Whether a replica that is gone still has writes under way, or its state machine at work. Whoever recovers the
    /// group before may miss a promise that is about to be on disk, or find the machine's files in use.
    #[must_use]
    pub fn is_leaving(&self, group: GroupId) -> bool {
        self.late_writes.contains_key(&group) || self.late_machines.contains_key(&group)
    }

    /// Stops a replica and answers all its requests; its data stays.
    pub fn close_group(&mut self, group: GroupId) {
        self.broken.remove(&group);
        if let Some(replica) = self.replicas.get_mut(&group) {
            // Nobody shall rest under a leader that is gone.
            replica.core.wake(self.now.mono);
        }
        self.drain(group);
        self.take_out(group, "the group was closed");
    }

    /// Something happened. What is to be done about it is in the next [`Host::take_work`].
    pub fn on_event(&mut self, now: Now, event: Event) {
        self.now = now;
        match event {
            Event::Tick => {
                self.allow_bytes(now);
                self.resting.tick(now.mono);
                self.wake_lost(now);
                for group in self.deadlines.due(now.mono) {
                    if let Some(replica) = self.replicas.get_mut(&group) {
                        replica.tick(now, &mut self.work);
                    }
                    self.touched.insert(group);
                }
            }
            Event::Received { from, mut message } => {
                if planted("messages_to_the_wrong_group") && self.replicas.len() > 1 {
                    message.group = GroupId(1);
                }
                self.on_received(now, from, message);
            }
            Event::Request { group, ticket, request } => self.on_request(now, group, ticket, request),
            Event::Unreachable { node } => {
                self.resting.on_unreachable(now.mono, node);
                // To members of a group at rest nothing is under way that could be lost.
                let on_node = |replica: &Replica| {
                    let status = replica.core.status();
                    let member = status.membership.on_node(node).map(|(id, _)| id);
                    member.filter(|_| !status.quiescent)
                };
                let affected =
                    self.replicas.iter().filter_map(|(group, replica)| Some((*group, on_node(replica)?)));
                for (group, id) in affected.collect::<Vec<_>>() {
                    if let Some(replica) = self.replicas.get_mut(&group) {
                        replica.core.report_unreachable(id);
                        replica.on_forward_unreachable(node, &mut self.work);
                    }
                    self.touched.insert(group);
                }
            }
            Event::LogWritten(written) => self.on_log_written(now, written),
            Event::Applied(Applied::Removed { group }) => {
                count_off(&mut self.late_machines, group);
            }
            Event::Applied(applied) => {
                let group = applied.group();
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_applied(now, applied, &mut self.work);
                } else if let Applied::Captured { source, .. } = applied {
                    drop_view(source);
                }
                self.touched.insert(group);
            }
            Event::Fetched(Fetched { group, from, result }) => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    match result {
                        Ok(entries) => replica.core.on_fetched(now.mono, from, entries),
                        // Dropped meanwhile: the core knows, and goes another way.
                        Err(LogError::Compacted { .. } | LogError::OutOfRange { .. }) => {
                            replica.core.on_fetched(now.mono, from, Vec::new());
                        }
                        // It promised entries that it no longer has: it must not vote with them.
                        Err(error) => self.work.stopped.push((group, error.to_string())),
                    }
                }
                self.touched.insert(group);
            }
            Event::Snapshot(event) => self.on_snapshot(now, event),
        }
        self.close_stopped();
    }

    /// Collects what a replica has to do.
    fn drain(&mut self, group: GroupId) {
        self.touched.remove(&group);
        if let Some(replica) = self.replicas.get_mut(&group) {
            replica.drain(self.now, &mut self.ready, &mut self.work);
            self.deadlines.set(group, replica.next_deadline());
            if self.resting.watch(self.now.mono, group, replica) {
                // Also after the little that happens to it at rest, as the write of a commit index.
                replica.release_memory();
            }
        }
    }

    /// Wakes groups that rest under a leader that may be lost, and leaders that may have lost their quorum.
    fn wake_lost(&mut self, now: Now) {
        for group in self.resting.take_waking() {
            let Some(replica) = self.replicas.get_mut(&group) else { continue };
            let leads = replica.core.status().role == quorate_core::RoleName::Leader;
            if !leads || !reaches_a_quorum(replica, |node| self.resting.is_silent(node)) {
                replica.core.wake(now.mono);
                self.touched.insert(group);
            }
        }
    }

    /// Replicas that cannot go on answer what waits, and leave.
    fn close_stopped(&mut self) {
        let stopped: Vec<(GroupId, String)> = self.work.stopped.clone();
        for (group, reason) in stopped {
            if self.take_out(group, &reason) {
                self.broken.insert(group, reason);
            }
        }
    }

    /// Takes a replica out of service; says whether there was one.
    fn take_out(&mut self, group: GroupId, reason: &str) -> bool {
        let Some(mut replica) = self.replicas.remove(&group) else { return false };
        self.deadlines.remove(group);
        self.resting.forget(group);
        replica.stop(reason, &mut self.work);
        self.work.apply.push(ApplyTask::Remove { group });
        *self.late_machines.entry(group).or_default() += 1;
        self.work.snapshots.push(SnapshotTask::Close { group });
        if replica.outstanding() > 0 {
            *self.late_writes.entry(group).or_default() += replica.outstanding();
        }
        true
    }

    fn on_log_written(&mut self, now: Now, written: LogWritten) {
        let LogWritten { group, token, result } = written;
        let late = token.is_some() && count_off(&mut self.late_writes, group);
        let outcome = match self.replicas.get_mut(&group) {
            Some(replica) if !late => replica.on_log_written(now, token, result),
            Some(_) | None => result,
        };
        match outcome {
            // Nothing is known about what is on disk, of any group.
            Err(error @ LogError::Failed { .. }) => self.stop(&error.to_string()),
            Err(error) if !late && self.replicas.contains_key(&group) => {
                self.work.stopped.push((group, error.to_string()));
            }
            Ok(()) | Err(_) => {}
        }
        self.touched.insert(group);
    }

    fn on_received(&mut self, now: Now, from: NodeId, message: PeerMessage) {
        let group = message.group;
        if let PeerBody::Beat(beat) = &message.body {
            self.resting.on_beat(now.mono, from, beat);
            return self.wake_lost(now);
        }
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        match message.body {
            PeerBody::Beat(_) => {}
            PeerBody::Raft(message) => {
                // A snapshot is switched to only when this node itself staged it.
                let staged_only = matches!(message.body, MessageBody::InstallSnapshot(_));
                if staged_only || !replica.vouches(from, message.from) {
                    return;
                }
                replica.hear(from, message.from);
                let sender = message.from;
                // What is refused appears among the core's events.
                replica.core.step(now.mono, sender, message).ok();
                if replica.core.status().leader == Some(sender) {
                    replica.heard_leader = Some(now.mono);
                }
            }
            PeerBody::SnapshotChunk(chunk) => {
                if replica.is_wanted(&chunk) && replica.vouches(from, chunk.from) {
                    replica.hear(from, chunk.from);
                    replica.note_piece(&chunk, &mut self.work);
                    self.work.snapshots.push(SnapshotTask::Receive { group, node: from, chunk });
                }
            }
            PeerBody::Forward(forward) => {
                let request = forward.request.clone();
                match replica.take_forward(from, &forward) {
                    Ok(behalf) => {
                        let ticket = Ticket(self.next_own_ticket);
                        self.next_own_ticket += 1;
                        self.on_behalf.insert(ticket, behalf);
                        self.on_request(now, group, ticket, request.into());
                    }
                    Err(refused) => {
                        let error = RequestError::NotLeader { leader: None };
                        self.work.send.extend(refused.map(|behalf| behalf.answer(Err(error))));
                    }
                }
            }
            PeerBody::ForwardReply(reply) => {
                if replica.vouches(from, reply.from) {
                    replica.on_forward_reply(reply, &mut self.work);
                }
            }
            PeerBody::Version(note) => {
                if replica.vouches(from, note.from) {
                    replica.on_version_note(from, note, &mut self.work);
                }
            }
            PeerBody::SnapshotAck(ack) => {
                if ack.to == replica.id && replica.vouches(from, ack.from) {
                    replica.on_stream_ack(now, &ack, &mut self.work);
                    self.work.snapshots.push(SnapshotTask::Acked { group, ack });
                }
            }
        }
        self.touched.insert(group);
    }

    fn on_snapshot(&mut self, now: Now, event: SnapshotEvent) {
        let group = match event {
            SnapshotEvent::Send { to, address, message } => {
                let lane = message.lane();
                self.work.send.push(Outbound { to, address, lane, message });
                return;
            }
            SnapshotEvent::Saved { group, snapshot } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_saved(now, snapshot, &mut self.work);
                }
                group
            }
            SnapshotEvent::SaveFailed { group, reason } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_save_failed(now, &reason, &mut self.work);
                }
                group
            }
            SnapshotEvent::SendStarted { group, to } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_send_started(now, to);
                }
                group
            }
            SnapshotEvent::SendEnded { group, to, last, outcome } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    replica.on_send_ended(now, to, last, outcome, &mut self.work);
                }
                group
            }
            SnapshotEvent::WantsBytes { bytes } => {
                self.pace.want(bytes);
                self.allow_bytes(now);
                return;
            }
            SnapshotEvent::Staged { group, from, term, epoch, snapshot, .. } => {
                if let Some(replica) = self.replicas.get_mut(&group) {
                    let body = MessageBody::InstallSnapshot(snapshot.meta.clone());
                    let message = Message { from, to: replica.id, term, epoch, body };
                    replica.on_staged(now, message, snapshot);
                }
                group
            }
        };
        self.touched.insert(group);
    }

    /// Tells the snapshotter what it may send by now.
    fn allow_bytes(&mut self, now: Now) {
        let allowed = self.pace.take(now.mono);
        self.work.snapshots.extend(allowed.map(|bytes| SnapshotTask::Allow { bytes }));
    }

    // ---- users ----------------------------------------------------------------------------------

    fn on_request(&mut self, now: Now, group: GroupId, ticket: Ticket, request: Request) {
        if let Some(reason) = &self.stopped {
            let reason = reason.clone();
            self.work.replies.push((ticket, Err(RequestError::Stopped { reason })));
            return;
        }
        let Some(replica) = self.replicas.get_mut(&group) else {
            let broken = self.broken.get(&group).cloned();
            let error = broken.map_or(RequestError::NoGroup, |reason| RequestError::Stopped { reason });
            self.work.replies.push((ticket, Err(error)));
            return;
        };
        if let Err(error) = replica.on_request(now, ticket, request, &mut self.work) {
            self.work.replies.push((ticket, Err(error)));
        }
        self.touched.insert(group);
    }

    // ---- output ---------------------------------------------------------------------------------

    /// What was asked by users of other nodes is answered there.
    fn answer_on_behalf(&mut self) {
        let Work { replies, send, .. } = &mut self.work;
        let own = replies.extract_if(.., |(ticket, _)| ticket.0 >= OWN_TICKETS);
        for (ticket, result) in own {
            send.extend(self.on_behalf.remove(&ticket).map(|behalf| behalf.answer(result)));
        }
    }

    /// Takes everything there is to do now. Call after each batch of events: the larger the batch, the fewer
    /// writes and messages.
    pub fn take_work(&mut self) -> Work {
        while let Some(group) = self.touched.first().copied() {
            self.drain(group);
        }
        self.close_stopped();
        if !self.on_behalf.is_empty() {
            self.answer_on_behalf();
        }
        // Behind whatever the leaders of this node have said.
        self.resting.beat(self.now.mono, &mut self.work.send);
        std::mem::take(&mut self.work)
    }

    /// When `Event::Tick` has something to do next, if nothing else happens. As of the last [`Host::take_work`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonoTime> {
        let others = self.pace.deadline().into_iter().chain(self.resting.deadline());
        self.deadlines.first().into_iter().chain(others).min()
    }

    /// The groups, ascending.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.replicas.keys().copied()
    }

    /// What a replica looks like now (owned, for another thread).
    #[must_use]
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        let replica = self.replicas.get(&group)?;
        let status = replica.core.status();
        Some(GroupStatus {
            role: status.role,
            replica: status.id,
            term: status.term,
            leader: status.leader,
            leader_ready: replica.is_ready_leader(),
            rests: status.quiescent,
            heard_leader: replica.heard_leader.max(self.resting.heard(group)),
            leader_hint: replica.leader_hint(),
            last: status.last,
            commit: status.commit,
            applied: replica.applied,
            compacted: status.compacted,
            snapshot: replica.snapshot.as_ref().map(|snapshot| snapshot.meta.last).unwrap_or_default(),
            membership: Arc::clone(status.membership),
            membership_id: status.membership_id,
            progress: replica.core.progress().collect(),
            active_version: replica.versions.active(),
            supported_version: replica.supported_version(),
            disk: replica.disk_health(self.now),
            latencies: Arc::clone(&replica.latencies),
        })
    }

    /// What a replica's core looks like now, without allocation.
    #[must_use]
    pub fn core_status(&self, group: GroupId) -> Option<Status<'_>> {
        self.replicas.get(&group).map(|replica| replica.core.status())
    }

    /// Answers everything that waits with `Stopped` or `OutcomeUnknown` and takes no more.
    pub fn stop(&mut self, reason: &str) {
        if self.stopped.is_none() {
            self.stopped = Some(reason.to_owned());
        }
        self.deadlines.clear();
        self.resting.clear();
        for (group, mut replica) in std::mem::take(&mut self.replicas) {
            replica.stop(reason, &mut self.work);
            self.work.stopped.push((group, reason.to_owned()));
        }
    }
}

/// Whether something is of a replica that is gone; counts it off.
fn count_off(late: &mut BTreeMap<GroupId, usize>, group: GroupId) -> bool {
    let Some(count) = late.get_mut(&group) else { return false };
    *count -= 1;
    if *count == 0 {
        late.remove(&group);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(group: u64) -> GroupSetup {
        GroupSetup {
            group: GroupId(group),
            replica: ReplicaId(2),
            config: GroupConfig::default(),
            restored: Restored::default(),
            snapshot: None,
            durable_machine: false,
            versions: MachineVersions::default(),
            session_limits: SessionConfig::default(),
            seeds: Vec::new(),
        }
    }

    /// One busy group among ten thousand that wait for a leader: a tick once looked at all of them.
    #[test]
    fn tick_looks_only_at_groups_whose_deadline_has_passed() {
        let mut host = Host::new(NodeId(1));
        let at = |millis| Now { mono: MonoTime::from_millis(millis), unix_millis: millis };
        for group in 1..=10_000 {
            host.open_group(at(0), sleeper(group)).unwrap();
        }
        let (mut looks, mut ticks) = (0, 0);
        let mut now = 0;
        while now < 10_000 {
            looks += host.deadlines.due(at(now).mono).len();
            host.on_event(at(now), Event::Tick);
            drop(host.take_work());
            let first = host.next_deadline().unwrap();
            assert_eq!(host.replicas.values().map(|replica| replica.next_deadline()).min(), Some(first));
            ticks += 1;
            now += 100;
        }
        // Each waits for one to two seconds, ten times at most.
        assert!((10_000 * 4..=10_000 * 10).contains(&looks), "{looks} looks in {ticks} ticks");
    }
}
