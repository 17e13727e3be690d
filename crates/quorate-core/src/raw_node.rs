//! `RawNode`: one replica of one group, inputs in, one [`Ready`] out.
//!
//! Every input carries the time, and deadlines that have expired run before the input itself: a
//! leader that was suspended steps down before it could serve anything.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::change::{MembershipChange, MembershipTransition};
use crate::config::{Config, ConfigError, DELAY_TIMEOUTS_MAX};
use crate::entry::Entry;
pub use crate::error::{
    ChangeError, ProposeError, ReadError, Rejected, RestoreError, SnapshotOutcome, SnapshotRequestError,
    TransferError,
};
use crate::event::{RaftEvent, RoleName, RoleReason};
use crate::follower::Follower;
use crate::gate;
use crate::membership::Membership;
use crate::message::{Message, SnapshotMeta};
use crate::ready::{PersistToken, ReadTicket, Ready, exchange};
use crate::receiving::without_entries;
use crate::rng::SplitMix64;
use crate::role::{Role, Transition};
use crate::shared::Shared;
use crate::status::{Core, ProgressStatus, Status};
use crate::types::{HardState, LogId, LogIndex, MonoTime, ReplicaId, Term};

/// What a replica knew when it stopped, as read back from its log and snapshot.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The last durable hard state.
    pub hard_state: HardState,
    /// The log starts after this (0 for a log from the beginning).
    pub compacted: LogId,
    /// Runs of equal terms after `compacted`: the first position of each, ascending.
    pub term_runs: Vec<LogId>,
    /// The last index in the log (`compacted.index` when it is empty).
    pub last: LogIndex,
    /// The memberships in effect from `compacted` on, ascending by position: the one of the
    /// snapshot first (at or before `compacted`), then every membership entry in the log.
    pub memberships: Vec<(LogId, Arc<Membership>)>,
    /// What the state machine has applied.
    pub applied: LogIndex,
    /// Entries up to here were acknowledged and are lost: no vote and no campaign before they are back. Default 0.
    pub lost_until: LogIndex,
}

/// One replica of one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RawNode {
    pub(crate) shared: Shared,
    pub(crate) role: Role,
}

impl RawNode {
    /// Builds a replica from what it knew when it stopped. Starts as a follower without a leader.
    ///
    /// # Errors
    /// An invalid configuration, or a `restored` that contradicts itself.
    pub fn new(config: Config, restored: Restored, now: MonoTime) -> Result<Self, RestoreError> {
        let (id, seed) = (config.id, config.seed);
        Self::with_shared_config(Arc::new(config), id, seed, restored, now)
    }

    /// As [`new`](Self::new), with a configuration that any number of replicas share; its own `id` and `seed` are
    /// not looked at. A replica that is given other timings, limits or another delay has its own from then on.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_shared_config(
        config: Arc<Config>,
        id: ReplicaId,
        seed: u64,
        restored: Restored,
        now: MonoTime,
    ) -> Result<Self, RestoreError> {
        config.validate_as(id).map_err(RestoreError::Config)?;
        let mut shared = Shared::new(config, (id, seed), restored, now)?;
        let role = Role::Follower(Follower::new(&mut shared));
        shared.role_event(RoleName::Follower, RoleReason::Started);
        Ok(Self { shared, role })
    }

    // ---- time -----------------------------------------------------------------------------------

    /// Time has passed: timeouts, heartbeats, retries. Call at or after [`next_deadline`](Self::next_deadline).
    #[inline]
    pub fn tick(&mut self, now: MonoTime) {
        *self.shared.nothing_new = false;
        // Every deadline is set into the future: at one moment nothing expires twice.
        if now > self.shared.now {
            self.shared.now = now;
            self.expire();
        }
    }

    /// Never inlined: many inputs come at one moment, and only the first of them has anything to do here.
    #[inline(never)]
    fn expire(&mut self) {
        let shared = &mut self.shared;
        let now = shared.now;
        shared.writes.on_time(now);
        if shared.fetches.on_time(now)
            && let Role::Leader(leader) = &mut self.role
        {
            leader.replicate = true;
        }
        let next = match &mut self.role {
            Role::Follower(follower) => follower.tick(&mut self.shared),
            Role::Candidate(candidate) => candidate.tick(&self.shared),
            Role::Leader(leader) => leader.tick(&mut self.shared),
        };
        self.become_next(next);
    }

    /// When `tick` has something to do next, if nothing else happens.
    pub fn next_deadline(&self) -> MonoTime {
        let role = match &self.role {
            Role::Follower(follower) => follower.next_deadline(),
            Role::Candidate(candidate) => candidate.deadline,
            Role::Leader(leader) => leader.next_deadline(&self.shared),
        };
        let queues = [self.shared.writes.hint_deadline(), self.shared.fetches.deadline()];
        queues.into_iter().flatten().fold(role, MonoTime::min)
    }

    /// Starts the stream of chance again from `seed`. For checkers that compare replicas: two that differ only in
    /// how often they drew a timeout are then the same.
    pub const fn reseed(&mut self, seed: u64) {
        self.shared.rng = SplitMix64::new(seed);
    }

    // ---- peers ----------------------------------------------------------------------------------

    /// A message arrived; the transport vouches that `from` sent it.
    ///
    /// # Errors
    /// Why it was refused. Nothing changed, except that a later term may have been taken over.
    pub fn step(&mut self, now: MonoTime, from: ReplicaId, message: Message) -> Result<(), Rejected> {
        self.tick(now);
        let taken = match gate::check(&self.shared, from, &message) {
            Ok(()) => self.dispatch(&message),
            Err(reason) => Err(reason),
        };
        if let Err(reason) = taken {
            self.tell_rejected(reason, &message);
        }
        taken
    }

    #[cold]
    fn tell_rejected(&mut self, reason: Rejected, message: &Message) {
        let message = Box::new(without_entries(message));
        self.shared.event(RaftEvent::MessageRejected { reason, message });
    }

    // ---- users ----------------------------------------------------------------------------------

    fn not_leader(&self) -> ProposeError {
        ProposeError::NotLeader { leader: self.shared.leader }
    }

    fn propose_payload(&mut self, now: MonoTime, command: Option<Bytes>) -> Result<LogId, ProposeError> {
        self.tick(now);
        match &mut self.role {
            Role::Leader(leader) => leader.propose(&mut self.shared, command),
            Role::Follower(follower) => {
                follower.wake(&mut self.shared);
                Err(self.not_leader())
            }
            Role::Candidate(_) => Err(self.not_leader()),
        }
    }

    /// Appends a command on the leader and starts replicating it. It is committed when an entry
    /// with exactly this position comes out of `Ready::apply`; another entry at the index means it never will be.
    ///
    /// # Errors
    /// Why it was not appended.
    pub fn propose(&mut self, now: MonoTime, command: Bytes) -> Result<LogId, ProposeError> {
        self.propose_payload(now, Some(command))
    }

    /// Appends an empty entry: once it is applied, so is everything before.
    ///
    /// # Errors
    /// Why it was not appended.
    pub fn propose_barrier(&mut self, now: MonoTime) -> Result<LogId, ProposeError> {
        self.propose_payload(now, None)
    }

    /// Appends a membership one change away from the current one. With `expected`, only if the
    /// membership in effect is still the one at that position. On success: the position, and the
    /// replica concerned: the new id, for a change that adds one. No id is given twice, also where
    /// the change is rolled back.
    ///
    /// # Errors
    /// A typed refusal, never a silent no-op.
    pub fn propose_membership(
        &mut self,
        now: MonoTime,
        change: MembershipChange,
        expected: Option<LogId>,
    ) -> Result<(LogId, ReplicaId), ChangeError> {
        let (id, concerned) =
            self.propose_changes(now, vec![change], MembershipTransition::Automatic, expected)?;
        Ok((id, concerned.first().copied().unwrap_or_default()))
    }

    /// As [`propose_membership`](Self::propose_membership), with any number of changes in one step,
    /// in their order: through a joint state where more than one voter differs or `transition` asks
    /// for it. On success also the replicas concerned, one for each change.
    ///
    /// # Errors
    /// A typed refusal, never a silent no-op; one change that is refused refuses all.
    pub fn propose_changes(
        &mut self,
        now: MonoTime,
        changes: Vec<MembershipChange>,
        transition: MembershipTransition,
        expected: Option<LogId>,
    ) -> Result<(LogId, Vec<ReplicaId>), ChangeError> {
        self.tick(now);
        match &mut self.role {
            Role::Leader(leader) => leader.propose_changes(&mut self.shared, changes, transition, expected),
            Role::Follower(_) | Role::Candidate(_) => Err(ChangeError::Propose(self.not_leader())),
        }
    }

    /// Appends the membership that ends the joint state, once that is committed: from then on the new
    /// voters decide alone.
    ///
    /// # Errors
    /// A typed refusal, never a silent no-op.
    pub fn leave_joint(&mut self, now: MonoTime, expected: Option<LogId>) -> Result<LogId, ChangeError> {
        self.tick(now);
        match &mut self.role {
            Role::Leader(leader) => leader.leave_joint(&mut self.shared, expected),
            Role::Follower(_) | Role::Candidate(_) => Err(ChangeError::Propose(self.not_leader())),
        }
    }

    /// Asks for an index at which a linearizable read may be served; the outcome is in a later
    /// `Ready::reads`, always. Works on followers too.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn read(&mut self, now: MonoTime, ticket: ReadTicket) -> Result<(), ReadError> {
        self.tick(now);
        match &mut self.role {
            Role::Leader(leader) => leader.read(&mut self.shared, ticket),
            Role::Follower(follower) => follower.read(&mut self.shared, ticket),
            Role::Candidate(_) => Err(ReadError::NoLeader),
        }
    }

    /// As [`read`](Self::read), but a leader that holds a lease answers at its commit index without asking
    /// anybody; one without a lease, and a follower, need a round. `now` must have been read after
    /// the read was asked for.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn read_lease(&mut self, now: MonoTime, ticket: ReadTicket) -> Result<(), ReadError> {
        self.tick(now);
        match &mut self.role {
            Role::Leader(leader) => leader.read_lease(&mut self.shared, ticket),
            Role::Follower(follower) => follower.read(&mut self.shared, ticket),
            Role::Candidate(_) => Err(ReadError::NoLeader),
        }
    }

    /// Hands leadership to `to`, or to the reachable voter with the longest log. Proposals are
    /// refused until it is over, an election timeout at most.
    ///
    /// # Errors
    /// Why nothing was started.
    pub fn transfer_leadership(
        &mut self,
        now: MonoTime,
        to: Option<ReplicaId>,
    ) -> Result<ReplicaId, TransferError> {
        self.tick(now);
        match &mut self.role {
            Role::Leader(leader) => leader.transfer(&mut self.shared, to),
            Role::Follower(_) | Role::Candidate(_) => {
                Err(TransferError::NotLeader { leader: self.shared.leader })
            }
        }
    }

    /// Calls off the leadership transfer under way: proposals are taken again at once. Returns its
    /// target; `None` when there was none. A target that was told to campaign already may still do so.
    pub fn abort_transfer(&mut self, now: MonoTime) -> Option<ReplicaId> {
        self.tick(now);
        match &mut self.role {
            Role::Leader(leader) => leader.abort_transfer(&mut self.shared),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// Makes this replica wait `delay` longer than others before it campaigns, from its next
    /// deadline on (see `Config::election_delay`; cut to ten election timeouts).
    #[doc(alias = "set_priority")]
    pub fn set_election_delay(&mut self, delay: Duration) {
        let config = Arc::make_mut(&mut self.shared.config);
        config.election_delay = delay.min(config.election_timeout * DELAY_TIMEOUTS_MAX);
    }

    /// Makes this replica act by other timings: shorter ones at once, longer ones from the next deadline on.
    /// Change all replicas of the group soon after each other. With `Config::leader_lease` the election
    /// timeout stays: voters have promised to keep quiet for that long.
    ///
    /// # Errors
    /// The timings cannot work; nothing has changed.
    pub fn set_timings(
        &mut self,
        election_timeout: Duration,
        heartbeat_interval: Duration,
    ) -> Result<(), ConfigError> {
        let before = &self.shared.config;
        if before.leader_lease && election_timeout != before.election_timeout {
            return Err(ConfigError {
                field: "election_timeout",
                must: "as it was while leader_lease is on",
            });
        }
        let after = Config { election_timeout, heartbeat_interval, ..Config::clone(before) };
        after.validate_as(self.shared.id)?;
        self.shared.config = Arc::new(after);
        // Whoever waits already waits no longer than by the new timings.
        let (now, latest) = (self.shared.now, self.shared.election_deadline());
        match &mut self.role {
            Role::Follower(follower) => follower.deadline = follower.deadline.map(|old| old.min(latest)),
            Role::Candidate(candidate) => candidate.deadline = candidate.deadline.min(latest),
            Role::Leader(leader) => {
                leader.heartbeat_deadline = leader.heartbeat_deadline.min(now + heartbeat_interval);
                *leader.quorum_until = now;
            }
        }
        Ok(())
    }

    /// Makes this replica keep to the limits of `limits` from now on: every `.._bytes_max`, `inflight_messages_max`,
    /// `reads_max` and `snapshot_timeout`; its other fields are not looked at. What waits already stays.
    ///
    /// # Errors
    /// The limits cannot work; nothing has changed.
    pub fn set_limits(&mut self, limits: &Config) -> Result<(), ConfigError> {
        let after = Config {
            append_bytes_max: limits.append_bytes_max,
            inflight_messages_max: limits.inflight_messages_max,
            inflight_bytes_max: limits.inflight_bytes_max,
            uncommitted_bytes_max: limits.uncommitted_bytes_max,
            unapplied_bytes_max: limits.unapplied_bytes_max,
            snapshot_timeout: limits.snapshot_timeout,
            apply_bytes_max: limits.apply_bytes_max,
            window_bytes_max: limits.window_bytes_max,
            reads_max: limits.reads_max,
            command_bytes_max: limits.command_bytes_max,
            ..Config::clone(&self.shared.config)
        };
        after.validate_as(self.shared.id)?;
        *self.shared.nothing_new = false;
        self.shared.log.set_window_bytes_max(after.window_bytes_max);
        self.shared.apply.set_bytes_max(after.apply_bytes_max);
        self.shared.config = Arc::new(after);
        Ok(())
    }

    /// Starts an election now (with a pre-vote when configured). No effect on leaders, on replicas that
    /// may not vote, and, with `Config::leader_lease`, within T of hearing a leader or of a restart.
    pub fn campaign(&mut self, now: MonoTime) {
        self.tick(now);
        if !matches!(self.role, Role::Leader(_)) && !self.shared.keeps_promise() {
            self.become_next(Transition::Campaign { transfer: false, reason: RoleReason::Asked });
        }
    }

    /// A follower stops believing in its leader, so that it may grant votes at once; it does not
    /// campaign earlier, and follows again when that leader speaks. No effect with `Config::leader_lease`, under
    /// which it has promised not to, and on candidates. A leader steps down.
    pub fn forget_leader(&mut self, now: MonoTime) {
        self.tick(now);
        match &mut self.role {
            Role::Leader(_) => {
                self.become_next(Transition::Follow { leader: None, reason: RoleReason::Forgot });
            }
            Role::Follower(follower) if self.shared.leader.is_some() && !self.shared.config.leader_lease => {
                follower.fail_reads(&mut self.shared);
                self.shared.leader = None;
                self.shared.role_event(RoleName::Follower, RoleReason::Forgot);
            }
            Role::Follower(_) | Role::Candidate(_) => {}
        }
    }

    // ---- reports --------------------------------------------------------------------------------

    /// Ends this replica's rest (`Config::quiesce_after`): a leader speaks at once, a follower waits for its
    /// leader as usual. For the caller who knows that the leader's node may be lost. No effect on
    /// replicas that do not rest.
    pub fn wake(&mut self, now: MonoTime) {
        self.tick(now);
        match &mut self.role {
            Role::Leader(leader) if leader.is_resting() => leader.stir(&mut self.shared),
            Role::Follower(follower) => follower.wake(&mut self.shared),
            Role::Leader(_) | Role::Candidate(_) => {}
        }
    }

    /// Gives back what is kept so that a busy core allocates nothing: room in lists, and entries of the log that are
    /// durable and applied, which are asked for through `Ready::fetch` if anybody wants them again. For replicas to
    /// which nothing happens, as at rest; changes nothing of what they do.
    pub fn release_memory(&mut self) {
        self.shared.release_memory();
        match &mut self.role {
            Role::Follower(follower) => follower.release_memory(),
            Role::Leader(leader) => leader.release_memory(),
            Role::Candidate(_) => {}
        }
    }

    /// The transport could not deliver to `replica`: stop streaming, probe; a transfer to it is given up.
    pub fn report_unreachable(&mut self, replica: ReplicaId) {
        *self.shared.nothing_new = false;
        if let Role::Leader(leader) = &mut self.role {
            leader.on_unreachable(&mut self.shared, replica);
        }
    }

    /// The state machine has lost or damaged its state: nothing more is handed out for apply until a snapshot from
    /// the leader comes, at or after what was handed out, through `Ready::restore`. Meanwhile this
    /// replica votes and acknowledges, but does not campaign. Asked again until it comes; forgotten by a restart.
    ///
    /// # Errors
    /// Why none was asked for.
    pub fn request_snapshot(&mut self, now: MonoTime) -> Result<(), SnapshotRequestError> {
        self.tick(now);
        if matches!(self.role, Role::Leader(_)) {
            return Err(SnapshotRequestError::Leads);
        }
        self.shared.wish_for_snapshot()?;
        if let (Role::Follower(follower), Some(leader)) = (&mut self.role, self.shared.leader) {
            follower.wake(&mut self.shared);
            Follower::maybe_ask_for_snapshot(&mut self.shared, leader);
        }
        Ok(())
    }

    /// Streaming the snapshot asked for by `Fetch::SendSnapshot` has ended.
    pub fn report_snapshot(&mut self, now: MonoTime, to: ReplicaId, outcome: SnapshotOutcome) {
        self.tick(now);
        if let Role::Leader(leader) = &mut self.role {
            leader.on_snapshot_outcome(&mut self.shared, to, outcome);
        }
    }

    /// Everything up to and including the write `token` is durable.
    pub fn on_persisted(&mut self, now: MonoTime, token: PersistToken) {
        self.tick(now);
        self.shared.on_persisted(token);
        let next = match &mut self.role {
            Role::Follower(_) => Transition::Stay,
            Role::Candidate(candidate) => candidate.on_persisted(&mut self.shared),
            Role::Leader(leader) => {
                leader.replicate |= leader.witnesses;
                leader.forget_applied(&self.shared);
                leader.maybe_commit(&mut self.shared)
            }
        };
        self.become_next(next);
    }

    /// The state machine has applied everything up to `index`.
    pub fn on_applied(&mut self, now: MonoTime, index: LogIndex) {
        self.tick(now);
        self.shared.apply.on_applied(index);
        if let Role::Leader(leader) = &mut self.role {
            leader.forget_applied(&self.shared);
        }
    }

    /// Entries asked for by `Fetch::Entries` (contiguous from the asked `from`), or an empty list
    /// when they could not be read; the core asks again while it needs them.
    pub fn on_fetched(&mut self, now: MonoTime, from: LogIndex, entries: Vec<Entry>) {
        self.tick(now);
        let shared = &mut self.shared;
        let pause = (shared.now, shared.config.heartbeat_interval);
        let entries = shared.fetches.arrived(&shared.log, from, entries, pause);
        shared.apply.on_fetched(&shared.log, &entries);
        if let Role::Leader(leader) = &mut self.role {
            leader.on_fetched(shared, &entries);
        }
    }

    /// The log's entries up to `through` are going to be dropped (a durable snapshot covers them).
    /// Ignored beyond what is applied and durable here. The write itself is the caller's.
    pub fn on_compacted(&mut self, through: LogId) {
        *self.shared.nothing_new = false;
        let applied = self.shared.apply.applied();
        let log = &mut self.shared.log;
        let most = applied.min(log.persisted());
        if through.index > log.compacted().index && through.index <= most && log.contains(through) {
            log.compact(through);
            self.shared.event(RaftEvent::Compacted { through });
        }
    }

    // ---- output ---------------------------------------------------------------------------------

    /// Whether `ready` would return anything.
    #[inline]
    pub fn has_ready(&self) -> bool {
        !*self.shared.nothing_new && self.has_output()
    }

    fn has_output(&self) -> bool {
        let replicate = matches!(&self.role, Role::Leader(leader) if leader.replicate);
        replicate || self.shared.has_output()
    }

    /// Takes everything there is to do now. May be called again before earlier lanes completed.
    pub fn ready(&mut self) -> Ready {
        let mut ready = Ready::default();
        self.take_into(&mut ready);
        ready
    }

    /// As [`ready`](Self::ready), into one whose lanes were drained (`ready.send.drain(..)`): its lists are
    /// used again, so that a busy core allocates nothing; what is still in it is forgotten. Says whether
    /// there was anything; if not, `ready` is left alone.
    pub fn ready_into(&mut self, ready: &mut Ready) -> bool {
        let anything = self.has_ready();
        if anything {
            self.take_into(ready);
        }
        anything
    }

    fn take_into(&mut self, ready: &mut Ready) {
        if let Role::Leader(leader) = &mut self.role {
            leader.replicate(&mut self.shared);
        }
        let shared = &mut self.shared;
        shared.event(RaftEvent::ReadyTaken);
        ready.persist = None;
        let hard_state = shared.hard_state();
        if shared.writes.is_waiting(hard_state, &shared.log) {
            ready.persist = Some(shared.writes.take(hard_state, &mut shared.log));
        }
        ready.restore = shared.take_restore();
        ready.apply = shared.take_apply();
        shared.outbox.take_into(&mut ready.send);
        exchange(&mut shared.reads, &mut ready.reads);
        shared.fetches.take_into(&mut ready.fetch);
        exchange(&mut shared.events, &mut ready.events);
        debug_assert!(!shared.has_output(), "a `Ready` takes everything there is to do");
        *shared.nothing_new = !matches!(&self.role, Role::Leader(leader) if leader.replicate);
    }

    /// A view of the replica.
    pub fn status(&self) -> Status<'_> {
        let shared = &self.shared;
        let (membership_id, membership) = shared.log.membership();
        let leading = match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        let reads_waiting = match &self.role {
            Role::Leader(leader) => leader.rounds.len(),
            Role::Follower(follower) => follower.reads_waiting(),
            Role::Candidate(_) => 0,
        };
        Status {
            id: shared.id,
            role: self.role.name(),
            term: shared.term,
            vote: shared.vote,
            leader: shared.leader,
            compacted: shared.log.compacted(),
            last: shared.log.last(),
            persisted: shared.log.persisted(),
            commit: shared.log.commit(),
            handed: shared.apply.handed(),
            applied: shared.apply.applied(),
            membership,
            membership_id: *membership_id,
            transfer_to: leading.and_then(|leader| leader.transfer.map(|transfer| transfer.to)),
            quiescent: self.is_quiescent(),
            uncommitted_bytes: leading.map_or(0, |leader| leader.uncommitted_bytes),
            reads_waiting,
            read_round: leading.map_or(0, |leader| leader.rounds.newest()),
            unapplied_bytes: leading.map_or(0, |leader| leader.unapplied_bytes),
            core: Core(self),
        }
    }

    fn is_quiescent(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.is_resting(),
            Role::Follower(follower) => follower.is_resting(),
            Role::Candidate(_) => false,
        }
    }

    /// On a leader: what it knows of every other member.
    pub fn progress(&self) -> impl Iterator<Item = (ReplicaId, ProgressStatus)> + '_ {
        let leading = match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower(_) | Role::Candidate(_) => None,
        };
        let (now, config) = (self.shared.now, &self.shared.config);
        leading.into_iter().flat_map(move |leader| {
            leader.progress.iter().map(move |(id, progress)| (id, progress.status(now, config)))
        })
    }

    /// On a leader: up to where a quorum of the voters has the log durably. The commit index follows
    /// it as soon as it reaches an entry of the leader's own term (Raft §5.4.2).
    pub fn quorum_index(&self) -> Option<LogIndex> {
        match &self.role {
            Role::Leader(leader) => Some(leader.quorum_index(&self.shared)),
            Role::Follower(_) | Role::Candidate(_) => None,
        }
    }

    /// The term of the entry at `index`, from the compacted position to the last.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.shared.log.term_at(index)
    }

    /// What a snapshot taken at `index` must carry: the membership that was in effect there (`index`
    /// at or after the compacted position, at most the last, and durable here: no snapshot may outlive its log).
    pub fn snapshot_meta(&self, index: LogIndex) -> Option<SnapshotMeta> {
        let log = &self.shared.log;
        if index > log.persisted() && index > log.compacted().index {
            return None;
        }
        let last = self.shared.log.id_at(index)?;
        let (membership_id, membership) = self.shared.log.membership_at(index).clone();
        if membership.is_empty() {
            return None;
        }
        Some(SnapshotMeta { last, membership, membership_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand groups of a process behave by one configuration: each is somebody, has timeouts of its own, and
    /// is changed alone.
    #[test]
    fn replicas_that_share_a_configuration_do_not_share_what_becomes_of_them() {
        let config = Arc::new(Config::new(ReplicaId(0)));
        let replica = |id, seed| {
            let now = MonoTime(0);
            RawNode::with_shared_config(Arc::clone(&config), ReplicaId(id), seed, Restored::default(), now)
        };
        let [mut one, other, again] = [(1, 5), (2, 6), (1, 5)].map(|(id, seed)| replica(id, seed).unwrap());
        assert_eq!((one.status().id, other.status().id), (ReplicaId(1), ReplicaId(2)));
        assert_ne!(one.next_deadline(), other.next_deadline(), "they would campaign together");
        assert_eq!(one, again);
        let before = other.clone();
        one.set_timings(Duration::from_secs(9), Duration::from_secs(3)).unwrap();
        one.set_election_delay(Duration::from_secs(1));
        one.set_limits(&Config { reads_max: 1, ..Config::new(ReplicaId(0)) }).unwrap();
        assert_eq!(one.shared.config.election_timeout, Duration::from_secs(9));
        assert_eq!((one.shared.config.reads_max, one.shared.config.election_delay.as_secs()), (1, 1));
        assert_eq!(other, before);
        assert_eq!(*config, Config::new(ReplicaId(0)));
        // Nobody is nobody.
        let nobody = replica(0, 5).unwrap_err();
        assert!(matches!(nobody, RestoreError::Config(ConfigError { field: "id", .. })));
    }
}
