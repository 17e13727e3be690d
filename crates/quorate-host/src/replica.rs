//! One replica of one group. Step 4 of the write path: it gives proposals to the core, remembers
//! who asked by position, hands the core's work to the lanes, and answers.
//!
//! Previous: `quorate/src/raft.rs`. Next: `quorate-core/src/leader.rs`.
//!
//! ```text
//!   requests ──► admission.rs ──► core ──► drain ──► log_lane.rs, reads.rs, snapshots.rs, streams.rs
//!   answers  ◄── waiting.rs, reads.rs ◄── applied
//! ```
//!
//! * Every ticket is answered exactly once. A request whose fate is open when leadership is lost is answered
//!   `OutcomeUnknown` after a bounded wait.
//! * Only this file looks at the core's `Ready`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{
    Entry, Fetch, GroupId, LogId, LogIndex, MonoTime, NodeId, RawNode, Ready, ReplicaId, RoleName, Term,
};
use quorate_storage::SnapshotInfo;

use crate::config::GroupConfig;
use crate::event::{Applied, ApplyTask, FetchTask, LogTask, Now, Outbound, SnapshotTask, Work};
use crate::forwarding::Forwarding;
use crate::latency::{Sample, StageLatencies};
use crate::peer::{PeerBody, PeerMessage};
use crate::reads::Reads;
use crate::request::{Answer, LeaderHint, RequestError, Ticket};
use crate::session_limits::SessionLimits;
use crate::snapshots::SnapshotState;
use crate::streams::Streaming;
use crate::versions::Versions;
use crate::waiting::Waiting;

/// The most replicas outside the membership whose node is remembered.
const STRANGERS_MAX: usize = 64;

/// Who waits for another leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transferring {
    pub(crate) ticket: Ticket,
    /// The one that was asked for.
    pub(crate) to: Option<ReplicaId>,
    pub(crate) until: MonoTime,
}

pub(crate) struct Replica {
    pub(crate) group: GroupId,
    pub(crate) id: ReplicaId,
    pub(crate) core: RawNode,
    /// Shared by groups that behave alike: `core.id` is not in it.
    pub(crate) config: Arc<GroupConfig>,
    pub(crate) durable_machine: bool,
    /// Replies to replicas that the membership does not know (yet) go here.
    pub(crate) seeds: BTreeMap<ReplicaId, (NodeId, String)>,
    /// Nodes that messages came from.
    heard_on: BTreeMap<ReplicaId, NodeId>,
    /// Ascending by index.
    pub(crate) waiting: VecDeque<(LogId, Waiting)>,
    pub(crate) reads: Reads,
    pub(crate) forwarding: Forwarding,
    pub(crate) versions: Versions,
    pub(crate) session_limits: SessionLimits,
    pub(crate) transferring: Option<Transferring>,
    /// The term this replica leads in.
    pub(crate) leading: Option<Term>,
    /// When the leader it follows was heard last.
    pub(crate) heard_leader: Option<MonoTime>,
    /// Leadership was lost then, with requests open.
    pub(crate) lost_at: Option<MonoTime>,
    /// The last entry given to the applier, and the last one it reported.
    pub(crate) handed: LogIndex,
    pub(crate) applied: LogIndex,
    pub(crate) stamp_millis: u64,
    // The log lane.
    pub(crate) in_flight: VecDeque<(MonoTime, LogTask)>,
    /// Writes handed out and not answered.
    pub(crate) outstanding: usize,
    /// A write found no space: all that is in flight is handed out again by a later tick.
    pub(crate) blocked: Option<MonoTime>,
    /// The last write found no space.
    pub(crate) is_disk_full: bool,
    /// When a write came back last, with whatever result, or all were handed out again.
    pub(crate) disk_moved: MonoTime,
    /// A leader with a hung disk acts again then.
    pub(crate) disk_checked_next: Option<MonoTime>,
    // Snapshots.
    pub(crate) snapshot: Option<SnapshotInfo>,
    pub(crate) snapshot_state: SnapshotState,
    pub(crate) snapshot_tickets: Vec<Ticket>,
    pub(crate) entries_since: u64,
    pub(crate) bytes_since: u64,
    /// When the first entry was applied that no snapshot covers.
    pub(crate) uncovered_since: Option<MonoTime>,
    /// The command that is followed through its stages, and what was measured so far.
    pub(crate) sample: Option<Sample>,
    pub(crate) latencies: Arc<StageLatencies>,
    pub(crate) streams: BTreeMap<ReplicaId, Streaming>,
    /// How long one piece of every stream of the host may take.
    pub(crate) stream_turn: Duration,
    /// Snapshots from leaders that the core may switch to.
    pub(crate) staged: BTreeMap<LogIndex, SnapshotInfo>,
    pub(crate) flushing: bool,
}

impl Replica {
    /// `seed`: of this start alone.
    pub(crate) fn new(
        setup: crate::host::GroupSetup,
        config: Arc<GroupConfig>,
        core: RawNode,
        seed: u64,
    ) -> Self {
        let applied = setup.restored.applied.max(setup.restored.compacted.index);
        let core_term = core.status().term;
        Self {
            group: setup.group,
            id: setup.replica,
            core,
            config,
            durable_machine: setup.durable_machine,
            seeds: setup.seeds.into_iter().map(|(id, node, address)| (id, (node, address))).collect(),
            heard_on: BTreeMap::new(),
            waiting: VecDeque::new(),
            reads: Reads::new(),
            forwarding: Forwarding::new(core_term, seed),
            versions: Versions::new(setup.versions),
            session_limits: SessionLimits::new(setup.session_limits),
            transferring: None,
            leading: None,
            heard_leader: None,
            lost_at: None,
            handed: applied,
            applied,
            stamp_millis: 0,
            in_flight: VecDeque::new(),
            outstanding: 0,
            blocked: None,
            is_disk_full: false,
            disk_moved: MonoTime::default(),
            disk_checked_next: None,
            snapshot: setup.snapshot,
            snapshot_state: SnapshotState::Idle,
            snapshot_tickets: Vec::new(),
            entries_since: 0,
            bytes_since: 0,
            uncovered_since: None,
            sample: None,
            latencies: StageLatencies::none(),
            streams: BTreeMap::new(),
            stream_turn: Duration::ZERO,
            staged: BTreeMap::new(),
            flushing: false,
        }
    }

    // ---- who is where ---------------------------------------------------------------------------

    /// The node that hosts a replica, and its peer address (empty: not known).
    pub(crate) fn locate(&self, id: ReplicaId) -> Option<(NodeId, String)> {
        if let Some(member) = self.core.status().membership.get(id) {
            return Some((member.node, member.peer_address.clone()));
        }
        let seed = self.seeds.get(&id).cloned();
        seed.or_else(|| self.heard_on.get(&id).map(|node| (*node, String::new())))
    }

    /// Whether `node` may speak for `id`: the membership decides where it knows the replica.
    pub(crate) fn vouches(&self, node: NodeId, id: ReplicaId) -> bool {
        self.core.status().membership.get(id).is_none_or(|member| member.node == node)
    }

    /// Remembers where a replica that the membership does not know can be answered.
    pub(crate) fn hear(&mut self, node: NodeId, id: ReplicaId) {
        if self.core.status().membership.get(id).is_some() {
            self.heard_on.remove(&id);
        } else if self.heard_on.len() < STRANGERS_MAX || self.heard_on.contains_key(&id) {
            self.heard_on.insert(id, node);
        }
    }

    /// Whether it leads and has applied everything that was committed before it did.
    pub(crate) fn is_ready_leader(&self) -> bool {
        let status = self.core.status();
        status.role == RoleName::Leader && self.core.term_at(self.applied) == Some(status.term)
    }

    pub(crate) fn leader_hint(&self) -> Option<LeaderHint> {
        let status = self.core.status();
        let replica = status.leader.filter(|leader| *leader != self.id)?;
        let member = status.membership.get(replica)?;
        Some(LeaderHint { replica, node: member.node, client_address: member.client_address.clone() })
    }

    pub(crate) fn not_leader(&self) -> RequestError {
        RequestError::NotLeader { leader: self.leader_hint() }
    }

    pub(crate) fn requests_open(&self) -> usize {
        self.waiting.len() + self.reads.count() + self.forwarding.count() + self.snapshot_tickets.len()
    }

    // ---- the core's work ------------------------------------------------------------------------

    /// Moves everything the core wants done into the lanes. The lists of `ready` are used again.
    pub(crate) fn drain(&mut self, now: Now, ready: &mut Ready, work: &mut Work) {
        while self.core.ready_into(ready) {
            if let Some(persist) = ready.persist.take() {
                self.persist(now, persist, work);
            }
            for message in ready.send.drain(..) {
                if let Some((to, address)) = self.locate(message.to) {
                    let message = PeerMessage { group: self.group, body: PeerBody::Raft(message) };
                    work.send.push(Outbound { to, address, lane: message.lane(), message });
                }
            }
            if let Some(meta) = ready.restore.take() {
                self.restore(&meta, work);
            }
            if let Some(last) = ready.apply.last().map(Entry::index) {
                self.handed = last;
                let entries = std::mem::take(&mut ready.apply);
                work.apply.push(ApplyTask::Apply { group: self.group, entries });
            }
            for read in ready.reads.drain(..) {
                self.on_read(read, work);
            }
            for fetch in ready.fetch.drain(..) {
                self.on_fetch(now, fetch, work);
            }
            work.events.extend(ready.events.drain(..).map(|event| (self.group, event)));
            self.note_leadership(now);
        }
        self.release_reads(work);
        self.watch_transfer(now, work);
        self.watch_forwarded(now, work);
        self.watch_sample(now);
        self.watch_versions(now, work);
    }

    /// The group has gone to rest: what was room for its work is room for others.
    pub(crate) fn release_memory(&mut self) {
        self.core.release_memory();
        self.in_flight.shrink_to_fit();
        self.snapshot_tickets.shrink_to_fit();
        self.reads.release_memory();
        self.forwarding.release_memory();
        self.waiting.shrink_to_fit();
        // A tree that was used once keeps a leaf.
        if self.heard_on.is_empty() {
            self.heard_on = BTreeMap::new();
        }
        if self.staged.is_empty() {
            self.staged = BTreeMap::new();
        }
        if self.streams.is_empty() {
            self.streams = BTreeMap::new();
        }
    }

    // ---- completions ----------------------------------------------------------------------------

    pub(crate) fn on_applied(&mut self, now: Now, applied: Applied, work: &mut Work) {
        match applied {
            Applied::Entries { through, responses, bytes, active_version, limits, .. } => {
                self.versions.on_active(active_version);
                self.entries_since += through.0.saturating_sub(self.applied.0);
                self.bytes_since += bytes;
                self.applied = self.applied.max(through);
                self.answer(through, responses, work);
                self.core.on_applied(now.mono, through);
                self.on_session_limits(now, limits);
                self.uncovered_since = self.uncovered_since.or(Some(now.mono));
                self.maybe_snapshot(now, work);
            }
            Applied::Restored { last, active_version, limits, .. } => {
                self.versions.on_active(active_version);
                self.applied = self.applied.max(last.index);
                self.core.on_applied(now.mono, last.index);
                self.on_session_limits(now, limits);
                // What waited for a position that the snapshot covers was decided somewhere else.
                for (_, waiting) in self.take_waiting(last.index) {
                    work.replies.push((waiting.ticket(), Err(RequestError::OutcomeUnknown)));
                }
                let keep = self.config.snapshots.keep;
                work.snapshots.push(SnapshotTask::Retain { group: self.group, keep });
            }
            Applied::Query { ticket, answer, .. } => self.on_queried(ticket, answer, work),
            Applied::Captured { group, meta, source } => {
                self.snapshot_state = SnapshotState::Saving;
                let chunk_bytes = self.config.snapshots.chunk_bytes;
                work.snapshots.push(SnapshotTask::Save { group, meta, source, chunk_bytes });
            }
            Applied::Flushed { durable, .. } => {
                self.flushing = false;
                self.compact(durable.index, work);
            }
            Applied::Failed { group, reason } => work.stopped.push((group, reason)),
            // Not of this one, whose machine stays as long as it does.
            Applied::Removed { .. } => {}
        }
    }

    // ---- time -----------------------------------------------------------------------------------

    pub(crate) fn tick(&mut self, now: Now, work: &mut Work) {
        self.core.tick(now.mono);
        self.retry_writes(now, work);
        self.note_leadership(now);
        self.give_up_lost(now, work);
        self.watch_transfer(now, work);
        self.watch_streams(now, work);
        self.watch_forwarded(now, work);
        self.watch_disk(now);
        self.maybe_snapshot(now, work);
    }

    pub(crate) fn next_deadline(&self) -> MonoTime {
        let lost = self.lost_at.map(|lost| lost + self.config.core.election_timeout);
        let transfer = self.transferring.map(|transfer| transfer.until);
        let stalled = self.in_flight.front().map(|(since, _)| *since + self.config.stalled_write_max);
        // Only a leader has something to do then, and not all the time.
        let checked = self.disk_checked_next.unwrap_or_default();
        let disk = stalled.filter(|_| self.leading.is_some()).map(|at| at.max(checked));
        lost.into_iter()
            .chain(transfer)
            .chain(self.streams_deadline())
            .chain(disk)
            .chain(self.blocked)
            .chain(self.forwarding.deadline())
            .chain(self.snapshot_deadline())
            .chain(self.versions_deadline())
            .fold(self.core.next_deadline(), MonoTime::min)
    }

    fn watch_transfer(&mut self, now: Now, work: &mut Work) {
        let Some(transfer) = self.transferring else { return };
        let status = self.core.status();
        let other = status.leader.filter(|leader| *leader != self.id);
        let reply = match other {
            Some(leader) if transfer.to.is_none_or(|to| to == leader) => Ok(Answer::Transferred { leader }),
            Some(_) => Err(RequestError::Transfer { what: "another replica took over than was asked for" }),
            None if now.mono >= transfer.until => {
                Err(RequestError::Transfer { what: "no other replica took over in time" })
            }
            None => return,
        };
        self.transferring = None;
        work.replies.push((transfer.ticket, reply));
    }

    fn on_fetch(&mut self, now: Now, fetch: Fetch, work: &mut Work) {
        match fetch {
            Fetch::Entries { from, to, bytes_max } => {
                work.fetch.push(FetchTask { group: self.group, from, to, bytes_max });
            }
            Fetch::SendSnapshot { to, at_least } => self.stream(now, to, at_least, work),
        }
    }

    /// Answers everything that waits: nothing will come any more.
    pub(crate) fn stop(&mut self, reason: &str, work: &mut Work) {
        for (_, waiting) in self.take_waiting(LogIndex::MAX) {
            work.replies.push((waiting.ticket(), Err(RequestError::OutcomeUnknown)));
        }
        for ticket in self.forwarding.take_all() {
            work.replies.push((ticket, Err(RequestError::OutcomeUnknown)));
        }
        let stopped = || RequestError::Stopped { reason: reason.to_owned() };
        let reads = self.reads.take_all();
        let snapshots = std::mem::take(&mut self.snapshot_tickets);
        let transfer = self.transferring.take().map(|transfer| transfer.ticket);
        for ticket in reads.into_iter().chain(snapshots).chain(transfer) {
            work.replies.push((ticket, Err(stopped())));
        }
    }
}
