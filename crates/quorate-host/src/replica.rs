//! One replica of one group. Step 4 of the write path: it gives proposals to the core, remembers
//! who asked by position, hands the core's work to the lanes, and answers.
//!
//! Previous: `quorate/src/raft.rs`. Next: `quorate-core/src/leader.rs`.
//!
//! * Every ticket is answered exactly once.
//! * "Not applied" is said only when another entry is committed at the position; a request whose
//!   fate is open when leadership is lost is answered `OutcomeUnknown` after a bounded wait.
//! * Writes of the log are handed out in order; one that found no space is handed out again before any later one counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{
    Entry, Fetch, GroupId, LogId, LogIndex, Message, MonoTime, NodeId, Persist, PersistToken, RawNode,
    ReplicaId, RoleName, SnapshotMeta, Term,
};
use quorate_storage::{GroupWrite, LogError, SnapshotInfo};

use crate::config::GroupConfig;
use crate::event::{Applied, ApplyTask, FetchTask, LogTask, Now, Outbound, SnapshotTask, Work};
use crate::peer::{PeerBody, PeerMessage, SnapshotChunk};
use crate::reads::Reads;
use crate::request::{Answer, LeaderHint, RequestError, Ticket};
use crate::streams::Streaming;

/// The most snapshots from leaders that wait for the core to switch to one of them.
const STAGED_MAX: usize = 4;
/// The most replicas outside the membership whose node is remembered.
const STRANGERS_MAX: usize = 64;

/// Who waits for a position of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiting {
    Command(Ticket),
    Barrier(Ticket),
    Membership { ticket: Ticket, replica: ReplicaId },
}

impl Waiting {
    pub(crate) const fn ticket(self) -> Ticket {
        match self {
            Self::Command(ticket) | Self::Barrier(ticket) | Self::Membership { ticket, .. } => ticket,
        }
    }
}

/// Who waits for another leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transferring {
    pub(crate) ticket: Ticket,
    pub(crate) until: MonoTime,
}

/// How far taking a snapshot has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotState {
    Idle,
    Capturing,
    Saving,
}

pub(crate) struct Replica {
    pub(crate) group: GroupId,
    pub(crate) id: ReplicaId,
    pub(crate) core: RawNode,
    pub(crate) config: GroupConfig,
    pub(crate) durable_machine: bool,
    /// Replies to replicas that the membership does not know (yet) go here.
    pub(crate) seeds: BTreeMap<ReplicaId, (NodeId, String)>,
    /// Nodes that messages came from.
    heard_on: BTreeMap<ReplicaId, NodeId>,
    pub(crate) waiting: BTreeMap<LogIndex, Vec<(Term, Waiting)>>,
    pub(crate) waiting_count: usize,
    pub(crate) reads: Reads,
    pub(crate) transferring: Option<Transferring>,
    /// The term this replica leads in.
    leading: Option<Term>,
    /// Leadership was lost then, with requests open.
    lost_at: Option<MonoTime>,
    /// The last entry given to the applier, and the last one it reported.
    pub(crate) handed: LogIndex,
    pub(crate) applied: LogIndex,
    pub(crate) stamp_millis: u64,
    // The log lane.
    in_flight: VecDeque<(MonoTime, LogTask)>,
    /// Writes handed out and not answered.
    outstanding: usize,
    /// A write found no space: all that is in flight is handed out again by a later tick.
    blocked: Option<MonoTime>,
    /// A leader with a hung disk acts again then.
    disk_checked_next: Option<MonoTime>,
    // Snapshots.
    pub(crate) snapshot: Option<SnapshotInfo>,
    pub(crate) snapshot_state: SnapshotState,
    pub(crate) snapshot_tickets: Vec<Ticket>,
    pub(crate) entries_since: u64,
    pub(crate) bytes_since: u64,
    pub(crate) streams: BTreeMap<ReplicaId, Streaming>,
    /// How long one piece of every stream of the host may take.
    pub(crate) stream_turn: Duration,
    /// Snapshots from leaders that the core may switch to.
    staged: BTreeMap<LogIndex, SnapshotInfo>,
    pub(crate) flushing: bool,
}

impl Replica {
    pub(crate) fn new(setup: crate::host::GroupSetup, core: RawNode) -> Self {
        let applied = setup.restored.applied.max(setup.restored.compacted.index);
        Self {
            group: setup.group,
            id: setup.replica,
            core,
            config: setup.config,
            durable_machine: setup.durable_machine,
            seeds: setup.seeds.into_iter().map(|(id, node, address)| (id, (node, address))).collect(),
            heard_on: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            reads: Reads::new(),
            transferring: None,
            leading: None,
            lost_at: None,
            handed: applied,
            applied,
            stamp_millis: 0,
            in_flight: VecDeque::new(),
            outstanding: 0,
            blocked: None,
            disk_checked_next: None,
            snapshot: setup.snapshot,
            snapshot_state: SnapshotState::Idle,
            snapshot_tickets: Vec::new(),
            entries_since: 0,
            bytes_since: 0,
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
        self.waiting_count + self.reads.count() + self.snapshot_tickets.len()
    }

    pub(crate) fn wait(&mut self, id: LogId, waiting: Waiting) {
        self.waiting.entry(id.index).or_default().push((id.term, waiting));
        self.waiting_count += 1;
    }

    // ---- the core's work ------------------------------------------------------------------------

    /// Moves everything the core wants done into the lanes.
    pub(crate) fn drain(&mut self, now: Now, work: &mut Work) {
        while self.core.has_ready() {
            let ready = self.core.ready();
            if let Some(persist) = ready.persist {
                self.persist(now, persist, work);
            }
            for message in ready.send {
                if let Some((to, address)) = self.locate(message.to) {
                    let message = PeerMessage { group: self.group, body: PeerBody::Raft(message) };
                    work.send.push(Outbound { to, address, lane: message.lane(), message });
                }
            }
            if let Some(meta) = ready.restore {
                self.restore(&meta, work);
            }
            if let Some(last) = ready.apply.last().map(Entry::index) {
                self.handed = last;
                work.apply.push(ApplyTask::Apply { group: self.group, entries: ready.apply });
            }
            for read in ready.reads {
                self.on_read(read, work);
            }
            for fetch in ready.fetch {
                self.on_fetch(now, fetch, work);
            }
            work.events.extend(ready.events.into_iter().map(|event| (self.group, event)));
            self.note_leadership(now);
        }
        self.release_reads(work);
        self.watch_transfer(now, work);
    }

    fn persist(&mut self, now: Now, persist: Persist, work: &mut Work) {
        let task = LogTask::persist(self.group, persist);
        self.in_flight.push_back((now.mono, task.clone()));
        if self.blocked.is_none() {
            self.outstanding += 1;
            work.log.push(task);
        }
    }

    fn restore(&mut self, meta: &SnapshotMeta, work: &mut Work) {
        let later = self.staged.split_off(&meta.last.index.next());
        let staged = std::mem::replace(&mut self.staged, later).remove(&meta.last.index);
        let known = staged.or_else(|| self.snapshot.clone());
        let Some(snapshot) = known.filter(|known| known.meta.last == meta.last) else {
            work.stopped.push((self.group, format!("the staged snapshot at {} is gone", meta.last)));
            return;
        };
        self.handed = meta.last.index;
        self.snapshot = Some(snapshot.clone());
        (self.entries_since, self.bytes_since) = (0, 0);
        work.apply.push(ApplyTask::Restore { group: self.group, snapshot });
    }

    /// Open requests of a leader that leads no more are answered after a while, even if it leads
    /// again by then: nothing may ever be committed where its lost entries stood.
    fn note_leadership(&mut self, now: Now) {
        let status = self.core.status();
        let leading = (status.role == RoleName::Leader).then_some(status.term);
        if leading != self.leading {
            if self.leading.is_some() && self.waiting_count > 0 && self.lost_at.is_none() {
                self.lost_at = Some(now.mono);
            }
            self.leading = leading;
        }
    }

    /// Whoever waits for an entry of a term in which this replica does not lead is told that
    /// nobody knows.
    fn give_up_lost(&mut self, now: Now, work: &mut Work) {
        let patience = self.config.core.election_timeout;
        if self.lost_at.is_none_or(|lost| now.mono.since(lost) < patience) {
            return;
        }
        self.lost_at = None;
        for (id, waiting) in self.take_waiting(LogIndex::MAX) {
            if Some(id.term) == self.leading {
                self.wait(id, waiting);
            } else {
                work.replies.push((waiting.ticket(), Err(RequestError::OutcomeUnknown)));
            }
        }
    }

    // ---- completions ----------------------------------------------------------------------------

    /// A write is done. `Err`: the log has failed for good (`Failed`), or cannot be trusted for this group.
    pub(crate) fn on_log_written(
        &mut self,
        now: Now,
        token: Option<PersistToken>,
        result: Result<(), LogError>,
    ) -> Result<(), LogError> {
        let Some(token) = token else {
            return match result {
                Err(error @ (LogError::Failed { .. } | LogError::Damaged(_))) => Err(error),
                // Compaction that found no space is asked for again by the next snapshot.
                Ok(()) | Err(_) => Ok(()),
            };
        };
        self.outstanding = self.outstanding.saturating_sub(1);
        match result {
            Ok(()) if self.blocked.is_none() => {
                while self
                    .in_flight
                    .front()
                    .is_some_and(|(_, task)| task.token.is_some_and(|front| front <= token))
                {
                    self.in_flight.pop_front();
                }
                self.core.on_persisted(now.mono, token);
            }
            // Writes behind one that found no space do not count: they are handed out again, too.
            Ok(()) | Err(LogError::NoSpace { .. }) => {
                self.blocked = Some(now.mono + self.config.core.heartbeat_interval);
            }
            Err(LogError::Invalid { .. }) if self.blocked.is_some() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes handed out whose completions are still to come.
    pub(crate) const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Hands out again what found no space, once all of it has come back.
    fn retry_writes(&mut self, now: Now, work: &mut Work) {
        if self.blocked.is_none_or(|retry_at| now.mono < retry_at) {
            return;
        }
        if self.outstanding > 0 {
            self.blocked = Some(now.mono + self.config.core.heartbeat_interval);
            return;
        }
        self.blocked = None;
        self.outstanding = self.in_flight.len();
        work.log.extend(self.in_flight.iter().map(|(_, task)| task.clone()));
    }

    pub(crate) const fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    pub(crate) fn on_applied(&mut self, now: Now, applied: Applied, work: &mut Work) {
        match applied {
            Applied::Entries { through, responses, bytes, .. } => {
                self.entries_since += through.0.saturating_sub(self.applied.0);
                self.bytes_since += bytes;
                self.applied = self.applied.max(through);
                self.answer(through, responses, work);
                self.core.on_applied(now.mono, through);
                self.maybe_snapshot(work);
            }
            Applied::Restored { last, .. } => {
                self.applied = self.applied.max(last.index);
                self.core.on_applied(now.mono, last.index);
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
        }
    }

    fn take_waiting(&mut self, through: LogIndex) -> Vec<(LogId, Waiting)> {
        let later = self.waiting.split_off(&through.next());
        let decided = std::mem::replace(&mut self.waiting, later);
        let mut all = Vec::new();
        for (index, list) in decided {
            all.extend(list.into_iter().map(|(term, waiting)| (LogId { term, index }, waiting)));
        }
        self.waiting_count -= all.len();
        all
    }

    /// Tells everyone who waited for a position up to `through` what stands there.
    fn answer(
        &mut self,
        through: LogIndex,
        responses: Vec<(LogId, Result<Answer, RequestError>)>,
        work: &mut Work,
    ) {
        if self.waiting_count == 0 {
            return;
        }
        let responses: BTreeMap<LogIndex, (LogId, Result<Answer, RequestError>)> =
            responses.into_iter().map(|(id, response)| (id.index, (id, response))).collect();
        for (id, waiting) in self.take_waiting(through) {
            // Several may wait at one index: this replica led, lost its entry, and led again.
            let response = responses.get(&id.index);
            let stands = response.map(|(applied, _)| applied.term).or_else(|| self.core.term_at(id.index));
            let reply = match (stands, waiting, response) {
                // The log was reset behind the applier: nobody here knows any more what stood there.
                (None, _, _) => Err(RequestError::OutcomeUnknown),
                // Another entry was committed there: this one never will be.
                (Some(term), _, _) if term != id.term => Err(self.not_leader()),
                (Some(_), Waiting::Command(_), Some((_, response))) => response.clone(),
                // It was applied before this process started.
                (Some(_), Waiting::Command(_), None) => Err(RequestError::OutcomeUnknown),
                (Some(_), Waiting::Barrier(_), _) => {
                    Ok(Answer::Applied { id, response: bytes::Bytes::new() })
                }
                (Some(_), Waiting::Membership { replica, .. }, _) => {
                    Ok(Answer::MembershipChanged { id, replica })
                }
            };
            work.replies.push((waiting.ticket(), reply));
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
        self.watch_disk(now);
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
            .fold(self.core.next_deadline(), MonoTime::min)
    }

    fn watch_transfer(&mut self, now: Now, work: &mut Work) {
        let Some(transfer) = self.transferring else { return };
        let status = self.core.status();
        let other = status.leader.filter(|leader| *leader != self.id);
        let reply = match other {
            Some(leader) => Ok(Answer::Transferred { leader }),
            None if now.mono >= transfer.until => {
                Err(RequestError::Transfer { what: "no other replica took over in time" })
            }
            None => return,
        };
        self.transferring = None;
        work.replies.push((transfer.ticket, reply));
    }

    /// A leader whose disk does not answer hands over, or steps down: a hung disk is a failed leader.
    fn watch_disk(&mut self, now: Now) {
        let oldest = self.in_flight.front().map(|(since, _)| *since);
        let stalled = oldest.is_some_and(|since| now.mono.since(since) >= self.config.stalled_write_max);
        if !stalled || self.core.status().role != RoleName::Leader {
            self.disk_checked_next = None;
            return;
        }
        match self.disk_checked_next {
            Some(next) if next > now.mono => return,
            // Nobody took over.
            Some(_) => self.core.forget_leader(now.mono),
            None if self.core.transfer_leadership(now.mono, None).is_err() => {
                self.core.forget_leader(now.mono);
            }
            None => {}
        }
        self.disk_checked_next = Some(now.mono + self.config.core.election_timeout);
    }

    // ---- snapshots ------------------------------------------------------------------------------

    fn maybe_snapshot(&mut self, work: &mut Work) {
        let policy = &self.config.snapshots;
        let due = (policy.entries > 0 && self.entries_since >= policy.entries)
            || (policy.bytes > 0 && self.bytes_since >= policy.bytes);
        if !due {
            return;
        }
        if self.durable_machine {
            // The machine keeps its own state: making it durable is enough to drop log entries.
            if !self.flushing {
                self.flushing = true;
                (self.entries_since, self.bytes_since) = (0, 0);
                work.apply.push(ApplyTask::Flush { group: self.group });
            }
        } else {
            self.capture(work);
        }
    }

    /// Starts taking a snapshot of everything given to the applier so far.
    pub(crate) fn capture(&mut self, work: &mut Work) {
        if self.snapshot_state != SnapshotState::Idle {
            return;
        }
        if let Some(meta) = self.core.snapshot_meta(self.handed) {
            self.snapshot_state = SnapshotState::Capturing;
            (self.entries_since, self.bytes_since) = (0, 0);
            work.apply.push(ApplyTask::Capture { group: self.group, meta });
        }
    }

    pub(crate) fn on_saved(&mut self, now: Now, snapshot: SnapshotInfo, work: &mut Work) {
        self.snapshot_state = SnapshotState::Idle;
        let last = snapshot.meta.last;
        for ticket in std::mem::take(&mut self.snapshot_tickets) {
            work.replies.push((ticket, Ok(Answer::SnapshotTaken { last })));
        }
        if self.snapshot.as_ref().is_none_or(|newest| newest.meta.last.index < last.index) {
            self.snapshot = Some(snapshot);
        }
        work.snapshots.push(SnapshotTask::Retain { group: self.group, keep: self.config.snapshots.keep });
        if !self.durable_machine {
            self.compact(last.index, work);
        }
        self.start_waiting_streams(now, work);
    }

    pub(crate) fn on_save_failed(&mut self, now: Now, reason: &str, work: &mut Work) {
        self.snapshot_state = SnapshotState::Idle;
        for ticket in std::mem::take(&mut self.snapshot_tickets) {
            work.replies.push((ticket, Err(RequestError::Snapshot { what: reason.to_owned() })));
        }
        self.fail_waiting_streams(now);
    }

    /// Drops log entries that are durable elsewhere, but for a few that laggards may want.
    fn compact(&mut self, durable: LogIndex, work: &mut Work) {
        let trailing = self.config.snapshots.trailing_entries;
        let through = LogIndex(durable.0.min(self.applied.0).saturating_sub(trailing));
        let compacted = self.core.status().compacted.index;
        if through <= compacted {
            return;
        }
        let Some(SnapshotMeta { last, membership, membership_id }) = self.core.snapshot_meta(through) else {
            return;
        };
        self.core.on_compacted(last);
        let compact_to = Some((last, membership_id, Arc::clone(&membership)));
        let write = GroupWrite { group: self.group, compact_to, ..GroupWrite::default() };
        work.log.push(LogTask { write, token: None, must_sync: false });
    }

    // ---- streams --------------------------------------------------------------------------------

    fn on_fetch(&mut self, now: Now, fetch: Fetch, work: &mut Work) {
        match fetch {
            Fetch::Entries { from, to, bytes_max } => {
                work.fetch.push(FetchTask { group: self.group, from, to, bytes_max });
            }
            Fetch::SendSnapshot { to, at_least } => self.stream(now, to, at_least, work),
        }
    }

    /// Whether a piece may be looked at: what the core would refuse is not even written.
    pub(crate) fn is_wanted(&self, chunk: &SnapshotChunk) -> bool {
        let status = self.core.status();
        let (epoch, meta) = (status.membership.epoch(), &chunk.meta);
        let knows_nobody = status.membership.is_empty();
        chunk.to == self.id
            && (status.term..=Term::MAX).contains(&chunk.term)
            && (chunk.epoch == epoch || (knows_nobody && chunk.epoch > epoch))
            && (LogIndex(1)..=LogIndex::MAX).contains(&meta.last.index)
            && meta.last.term <= chunk.term
            && meta.membership_id <= meta.last
            && meta.membership.validate().is_ok()
    }

    /// A snapshot from a leader is complete here: the core decides whether to switch to it.
    pub(crate) fn on_staged(&mut self, now: Now, message: Message, snapshot: SnapshotInfo) {
        let useful = snapshot.meta.last.index > self.applied;
        self.staged.insert(snapshot.meta.last.index, snapshot);
        while self.staged.len() > STAGED_MAX {
            self.staged.pop_first();
        }
        let from = message.from;
        // What is refused appears among the core's events.
        let taken = self.core.step(now.mono, from, message).is_ok();
        if !(taken && useful) {
            let applied = self.applied;
            self.staged.retain(|index, _| *index > applied);
        }
    }

    /// Answers everything that waits: nothing will come any more.
    pub(crate) fn stop(&mut self, reason: &str, work: &mut Work) {
        for (_, waiting) in self.take_waiting(LogIndex::MAX) {
            work.replies.push((waiting.ticket(), Err(RequestError::OutcomeUnknown)));
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
