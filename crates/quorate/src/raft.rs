//! `Raft`: what a user holds of one group on this node. Bytes in, bytes out.
//!
//! Write path, file 3 of 8: a command becomes a request with a reply channel in the host thread's mailbox.
//! Before: `quorate-server/src/service.rs`. Next: `quorate-host/src/replica.rs`.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{
    ChangeError, GroupId, LogId, LogIndex, MembershipChange, MembershipTransition, MonoTime, NodeId,
    RaftEvent, ReplicaId, RoleName,
};
use quorate_host::{
    Answer, Consistency, Dedupe, GroupConfig, GroupStatus, LeaderRequest, Proposal, Request, RequestError,
    SessionId,
};
use tokio::sync::{broadcast, oneshot};
use tokio::time::{Instant, Sleep};

use crate::config::{FrameLimit, fits_in_frames};
use crate::feed::{GroupFeed, StatusWatch};
use crate::gathering::{Gathering, stopped};
use crate::runtime::host_thread::{HostInput, Shared};

/// A command that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its position in the log. For a repeated command, that of the first time.
    pub id: LogId,
    /// The state machine's response.
    pub response: Bytes,
}

/// A question that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queried {
    /// Everything up to here had been applied.
    pub applied: LogIndex,
    /// The state machine's answer.
    pub response: Bytes,
}

/// A membership change that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its position in the log.
    pub id: LogId,
    /// The replica concerned (for an added learner, its new id).
    pub replica: ReplicaId,
}

/// The condition did not come true in time, or never will because the replica has stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the condition did not come true within {within:?}; last seen: {last:?}")]
pub struct Timeout {
    /// How long was waited at most.
    pub within: Duration,
    /// The last status seen.
    pub last: Box<GroupStatus>,
}

/// One group on this node. Cheap to clone; does not keep the node running.
///
/// Every request is answered: with its result, with an error that says that it had no effect, or with one
/// that says that nobody knows ([`RequestError::outcome`]). Dropping the future of a request does **not**
/// withdraw it: a command that has been submitted may still be applied.
#[derive(Clone)]
pub struct Raft {
    group: GroupId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) feed: GroupFeed,
    /// What the replica behaves by; locked while it is being changed.
    pub(crate) config: Arc<tokio::sync::Mutex<Arc<GroupConfig>>>,
    /// How long a request through this handle may take.
    pub(crate) within: Option<Duration>,
    /// What is said of every command through this handle.
    extension: Bytes,
    /// Whether commands through this handle are passed on to the leader.
    pub(crate) forwards: bool,
    /// Changes of the members through this handle are for the membership at this position.
    pub(crate) expected: Option<LogId>,
    /// Requests through this handle are handed over with others'.
    pub(crate) gathering: Option<Arc<Gathering>>,
}

/// A command that has been submitted: await it for the outcome. Dropping it does not withdraw the
/// command.
#[must_use = "the outcome tells whether the command was applied"]
pub struct Pending {
    answer: PendingAnswer,
}

pub(crate) struct PendingAnswer {
    state: AnswerState,
    deadline: Option<Deadline>,
}

struct Deadline {
    within: Duration,
    until: Instant,
    /// Made when somebody waits: a request may be submitted outside of the runtime.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// `None`: so far away that it never comes.
    fn after(within: Duration) -> Option<Self> {
        Some(Self { within, until: Instant::now().checked_add(within)?, sleep: None })
    }

    fn has_passed(&mut self, context: &mut Context<'_>) -> bool {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.until)));
        sleep.as_mut().poll(context).is_ready()
    }
}

enum AnswerState {
    Refused(Option<RequestError>),
    Waiting(oneshot::Receiver<Result<Answer, RequestError>>),
}

impl PendingAnswer {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, RequestError>> {
        let answer = match &mut self.state {
            AnswerState::Refused(error) => {
                return Poll::Ready(Err(error.take().unwrap_or(RequestError::OutcomeUnknown)));
            }
            // The host thread has ended without an answer: it may have got as far as the log.
            AnswerState::Waiting(receiver) => Pin::new(receiver)
                .poll(context)
                .map(|answer| answer.unwrap_or(Err(RequestError::OutcomeUnknown))),
        };
        // An answer that is there counts, however late it is looked at.
        if answer.is_pending()
            && let Some(deadline) = &mut self.deadline
            && deadline.has_passed(context)
        {
            return Poll::Ready(Err(RequestError::DeadlinePassed { within: deadline.within }));
        }
        answer
    }
}

impl Future for Pending {
    type Output = Result<Applied, RequestError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.poll(context).map(|answer| {
            let Answer::Applied { id, response } = answer? else { return Err(unexpected()) };
            Ok(Applied { id, response })
        })
    }
}

/// A bounded stream of what happened in a group, for logs and metrics.
pub struct RaftEvents {
    receiver: Option<broadcast::Receiver<RaftEvent>>,
    wanted: Box<dyn Fn(&RaftEvent) -> bool + Send>,
    missed: u64,
}

impl RaftEvents {
    /// The next event; `None` when the group is closed.
    pub async fn next(&mut self) -> Option<RaftEvent> {
        loop {
            match self.receiver.as_mut()?.recv().await {
                Ok(event) if (self.wanted)(&event) => return Some(event),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(count)) => self.missed += count,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Only those events that `wanted` says.
    #[must_use]
    pub fn filter(self, wanted: impl Fn(&RaftEvent) -> bool + Send + 'static) -> Self {
        let before = self.wanted;
        Self { wanted: Box::new(move |event| before(event) && wanted(event)), ..self }
    }

    /// How many events, wanted or not, this subscriber missed because it was too slow.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl Raft {
    pub(crate) fn new(
        group: GroupId,
        shared: Arc<Shared>,
        feed: GroupFeed,
        config: Arc<GroupConfig>,
    ) -> Self {
        Self {
            group,
            shared,
            feed,
            config: Arc::new(tokio::sync::Mutex::new(config)),
            within: None,
            forwards: false,
            extension: Bytes::new(),
            expected: None,
            gathering: None,
        }
    }

    /// The same handle, whose requests are answered within `within` of the call: with
    /// [`RequestError::DeadlinePassed`] if there is no other answer by then. The time is until *completion*, not
    /// until the request is queued. What is late is not withdrawn: a command may still be applied.
    #[must_use]
    pub fn within(&self, within: Duration) -> Self {
        Self { within: Some(within), ..self.clone() }
    }

    /// The same handle, whose changes of the members happen only if the membership in effect is still the one at
    /// `membership`, the position that [`Raft::membership`] says; otherwise they fail with
    /// `Change(ChangeError::Changed)`. So two operators who looked at the same list cannot both act on it.
    #[must_use]
    #[doc(alias = "prev_index")]
    pub fn expecting(&self, membership: LogId) -> Self {
        Self { expected: Some(membership), ..self.clone() }
    }

    /// The same handle, whose commands carry `extension`: bytes that are not part of the command, for a layer
    /// between the caller and the state machine (which part of a large command this is, how it was
    /// compressed, whose request it was). The state machine finds them next to the command, on every replica:
    /// [`Command::extension`](crate::Command::extension). Command and extension together have at most
    /// `Config::command_bytes_max` bytes.
    ///
    /// A replica of a build that does not know extensions stops at such a command: use them once all members are newer.
    #[must_use]
    #[doc(alias = "apply_log")]
    pub fn extended(&self, extension: impl Into<Bytes>) -> Self {
        Self { extension: extension.into(), ..self.clone() }
    }

    fn proposal(&self, command: Bytes, dedupe: Dedupe) -> Proposal {
        Proposal { command, dedupe, extension: self.extension.clone() }
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// Proposes `command` and waits until it is committed and applied here. Only the leader takes commands; a handle
    /// made by [`Raft::forwarding`] passes them on to it.
    ///
    /// # Errors
    /// `NotLeader`: ask the leader. `Busy`: back off and retry. `OutcomeUnknown`: it may have been
    /// applied, or may yet be; to retry safely use [`Raft::apply_with`].
    #[doc(alias = "propose")]
    pub async fn apply(&self, command: impl Into<Bytes>) -> Result<Applied, RequestError> {
        self.apply_with(command, Dedupe::None).await
    }

    /// [`Raft::apply`] for a command that may be sent again: it is applied once, and every repeat gets
    /// the first response.
    ///
    /// # Errors
    /// As for `apply`, and those of [`Dedupe`]: `SessionExpired`, `AlreadyAcknowledged`, `KeyReused`.
    pub async fn apply_with(
        &self,
        command: impl Into<Bytes>,
        dedupe: Dedupe,
    ) -> Result<Applied, RequestError> {
        if !self.forwards {
            return self.submit(command, dedupe).await;
        }
        let repeatable = dedupe != Dedupe::None;
        let request = LeaderRequest::Propose(self.proposal(command.into(), dedupe));
        self.apply_request_at_leader(request, repeatable).await
    }

    /// Submits `command` at once; await the result later. Commands submitted one after the other on a
    /// leader that stays leader are applied in that order.
    pub fn submit(&self, command: impl Into<Bytes>, dedupe: Dedupe) -> Pending {
        Pending { answer: self.send(self.propose(self.proposal(command.into(), dedupe))) }
    }

    /// Submits `commands` together and waits for all of them: as far as they fit they are one write of the
    /// log, and applied in their order. Each has an outcome of its own: the leader may refuse or lose any of them.
    /// When the queue of this node is full, none is sent after the first that does not fit.
    pub async fn apply_all<C: Into<Bytes>>(
        &self,
        commands: impl IntoIterator<Item = C>,
    ) -> Vec<Result<Applied, RequestError>> {
        let request = |command: C| self.propose(self.proposal(command.into(), Dedupe::None));
        let mut outcomes = Vec::new();
        for answer in self.send_together(commands.into_iter().map(request)) {
            outcomes.push(Pending { answer }.await);
        }
        outcomes
    }

    /// [`Raft::apply_with`] for a command that state machines understand from this version on
    /// ([`StateMachine::supported_version`](crate::StateMachine::supported_version)): while a newer build is
    /// rolled out, it is refused before it gets into the log. The first one that is taken opens the gate for
    /// good: from then on no older build can be a member. Ask a leader, or with a handle made by
    /// [`Raft::forwarding`] any replica; `GroupStatus::supported_version` of a leader tells what would be
    /// taken.
    ///
    /// # Errors
    /// `Unsupported`: not all members understand it, or they have not said so yet. Others as for `apply_with`.
    pub async fn apply_version(
        &self,
        version: u32,
        command: impl Into<Bytes>,
        dedupe: Dedupe,
    ) -> Result<Applied, RequestError> {
        let repeatable = dedupe != Dedupe::None;
        let proposal = self.proposal(command.into(), dedupe);
        if self.forwards {
            let request = LeaderRequest::ProposeVersion { version, proposal };
            return self.apply_request_at_leader(request, repeatable).await;
        }
        let request = Request::ProposeVersion { version, proposal };
        let Answer::Applied { id, response } = self.ask(request).await? else { return Err(unexpected()) };
        Ok(Applied { id, response })
    }

    /// Opens a client session for [`Dedupe::Session`]. With a handle made by [`Raft::forwarding`] the leader opens it.
    ///
    /// # Errors
    /// As for [`Raft::apply`].
    pub async fn open_session(&self) -> Result<SessionId, RequestError> {
        if self.forwards {
            return self.open_session_at_leader().await;
        }
        let Answer::SessionOpened { session } = self.ask(Request::OpenSession).await? else {
            return Err(unexpected());
        };
        Ok(session)
    }

    /// Asks the state machine. A linearizable question may be asked of any replica: a follower asks
    /// its leader how far it must have applied first.
    ///
    /// # Errors
    /// `NotLeader`: no leader is known or reachable; retry. `Busy`: back off and retry.
    pub async fn query(
        &self,
        request: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Queried, RequestError> {
        let Answer::Queried { applied, response } =
            self.ask(Request::Query { request: request.into(), consistency }).await?
        else {
            return Err(unexpected());
        };
        Ok(Queried { applied, response })
    }

    /// Waits until this replica has applied everything that was committed when it was asked, confirmed with a
    /// quorum. Afterwards a read of your own state machine is linearizable.
    ///
    /// # Errors
    /// As for [`Raft::query`].
    pub async fn read_index(&self) -> Result<LogIndex, RequestError> {
        self.read_index_with(Consistency::Linearizable).await
    }

    /// Commits an empty entry and waits until it, and so everything before it, is applied here. With a handle
    /// made by [`Raft::forwarding`] the leader commits it.
    ///
    /// # Errors
    /// As for [`Raft::apply`].
    pub async fn barrier(&self) -> Result<LogId, RequestError> {
        if self.forwards {
            return self.barrier_at_leader().await;
        }
        let Answer::Applied { id, .. } = self.ask(Request::Barrier).await? else { return Err(unexpected()) };
        Ok(id)
    }

    /// Changes the membership by one step and waits until it is committed. With `expected`, only if
    /// the membership in effect is still the one at that position ([`Raft::membership`], [`Raft::expecting`]).
    /// An earlier change that is not committed yet is waited for, as is a new leader's first entry; a
    /// leader that has no quorum gives both up within an election timeout.
    ///
    /// # Errors
    /// `Change`: it was refused, with the rule. Others as for [`Raft::apply`].
    pub async fn change_membership(
        &self,
        change: MembershipChange,
        expected: Option<LogId>,
    ) -> Result<Changed, RequestError> {
        let request = Request::ChangeMembership { change, expected: expected.or(self.expected) };
        let (id, replicas) = self.change(request).await?;
        let replica = replicas.first().copied().ok_or_else(unexpected)?;
        Ok(Changed { id, replica })
    }

    /// Changes any number of members in one step and waits until it is over: where more than one voter
    /// differs, old and new voters decide together in between. With `JointExplicit` that lasts until
    /// [`Raft::leave_joint`]. The ids of new replicas are in the result, in the order of the changes.
    ///
    /// # Errors
    /// As for [`Raft::change_membership`]; one change that is refused refuses all.
    pub async fn change_members(
        &self,
        changes: Vec<MembershipChange>,
        transition: MembershipTransition,
        expected: Option<LogId>,
    ) -> Result<(LogId, Vec<ReplicaId>), RequestError> {
        let expected = expected.or(self.expected);
        let request = Request::ChangeMembers { changes, transition, expected };
        let over = |status: &GroupStatus| {
            let waits = status.membership.joint().is_some_and(|joint| joint.leaves_automatically());
            !waits || status.role != RoleName::Leader
        };
        self.bounded(async {
            let done = self.change_in_turn(request).await?;
            // An error: the replica has stopped. The change is committed, and whoever leads next ends it.
            self.watch().wait_for(over).await.ok();
            Ok(done)
        })
        .await
    }

    /// Ends a joint state that was entered with `JointExplicit`, and waits until that is committed.
    ///
    /// # Errors
    /// As for [`Raft::change_membership`].
    pub async fn leave_joint(&self) -> Result<LogId, RequestError> {
        self.change(Request::LeaveJoint { expected: self.expected }).await.map(|(id, _)| id)
    }

    /// Asks for a change of the members until no other one is in the way.
    async fn change(&self, request: Request) -> Result<(LogId, Vec<ReplicaId>), RequestError> {
        self.bounded(self.change_in_turn(request)).await
    }

    async fn change_in_turn(&self, request: Request) -> Result<(LogId, Vec<ReplicaId>), RequestError> {
        loop {
            let first = match self.ask(request.clone()).await {
                Ok(Answer::MembershipChanged { id, replicas }) => return Ok((id, replicas)),
                Ok(_) => return Err(unexpected()),
                Err(RequestError::Change(ChangeError::InProgress { pending })) => pending.index,
                Err(RequestError::Change(ChangeError::NotReady)) => self.status().last.index,
                Err(error) => return Err(error),
            };
            let over = |status: &GroupStatus| status.commit >= first || status.role != RoleName::Leader;
            // An error: the replica has stopped, and says so when asked again.
            self.watch().wait_for(over).await.ok();
        }
    }

    /// Hands leadership to `to`, or to the best replica; returns the new leader, once it is known to lead in a
    /// later term.
    ///
    /// # Errors
    /// `Transfer`: it was refused, did not succeed in time, or another replica took over; the status says who
    /// leads.
    #[doc(alias = "leadership_transfer")]
    pub async fn transfer_leadership(&self, to: Option<ReplicaId>) -> Result<ReplicaId, RequestError> {
        let Answer::Transferred { leader } = self.ask(Request::TransferLeadership { to }).await? else {
            return Err(unexpected());
        };
        Ok(leader)
    }

    /// Calls off the leadership transfer under way and returns its target. A target that was told to campaign
    /// already may still do so.
    ///
    /// # Errors
    /// When the replica or the node has stopped.
    pub async fn abort_transfer(&self) -> Result<Option<ReplicaId>, RequestError> {
        let Answer::TransferAborted { to } = self.ask(Request::AbortTransfer).await? else {
            return Err(unexpected());
        };
        Ok(to)
    }

    /// Changes how this replica behaves while it runs: `core.election_timeout`, `core.heartbeat_interval`,
    /// `core.election_delay`, the core's limits, the snapshot policy (but for the size of pieces) and the
    /// limits of what waits. Limits of sessions as well: those of the leader become the group's, by an entry
    /// of the log. Returns what is in effect. Lasts until the group is closed; changes are made one after the
    /// other.
    ///
    /// # Errors
    /// `Config`: a field that cannot work, or that cannot change while the replica runs. Nothing has changed.
    #[doc(alias = "reload_config")]
    pub async fn update_config(
        &self,
        change: impl FnOnce(&mut GroupConfig) + Send,
    ) -> Result<GroupConfig, RequestError> {
        let mut kept = Arc::clone(&self.config).lock_owned().await;
        let mut config = GroupConfig::clone(&kept);
        change(&mut config);
        fits_in_frames(&config, self.shared.frame_bytes_max)
            .map_err(|FrameLimit { field, must }| RequestError::Config { field, must })?;
        let raft = Self { within: None, ..self.clone() };
        // On its own: what the replica takes is kept also when nobody waits for the answer any more.
        let asking = tokio::spawn(async move {
            let request = Request::Reconfigure { config: Box::new(config.clone()) };
            let Answer::Reconfigured = raft.ask(request).await? else { return Err(unexpected()) };
            *kept = Arc::new(config.clone());
            Ok(config)
        });
        // It ends without an answer only with the runtime.
        self.bounded(async { asking.await.unwrap_or(Err(RequestError::OutcomeUnknown)) }).await
    }

    /// Starts an election now, if this replica may. The status tells how it went.
    ///
    /// # Errors
    /// When the replica or the node has stopped.
    pub async fn campaign(&self) -> Result<(), RequestError> {
        let Answer::Campaigned = self.ask(Request::Campaign).await? else { return Err(unexpected()) };
        Ok(())
    }

    /// Takes a snapshot now and waits until it is durable; returns what it covers. [`Raft::snapshot`] returns the
    /// snapshot itself.
    ///
    /// # Errors
    /// `Snapshot`: with the reason. The replica goes on.
    pub async fn take_snapshot(&self) -> Result<LogId, RequestError> {
        let Answer::SnapshotTaken { last } = self.ask(Request::TakeSnapshot).await? else {
            return Err(unexpected());
        };
        Ok(last)
    }

    /// What the replica looks like now.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        self.feed.look(Clone::clone)
    }

    /// What `look` finds in the status. Cheaper than a copy of it; the replica waits meanwhile, so it must be quick, and
    /// ask nothing of this replica itself.
    pub fn look<T>(&self, look: impl FnOnce(&GroupStatus) -> T) -> T {
        self.feed.look(look)
    }

    /// Follows the status from now on. Intermediate states may be skipped.
    #[must_use]
    pub fn watch(&self) -> StatusWatch {
        self.feed.watch()
    }

    /// Follows what happens in the group.
    #[must_use]
    #[doc(alias = "register_observer")]
    pub fn events(&self) -> RaftEvents {
        RaftEvents { receiver: self.feed.subscribe(), wanted: Box::new(|_| true), missed: 0 }
    }

    /// Waits until `what` holds of the status.
    ///
    /// # Errors
    /// It did not within the time given, or the replica has stopped.
    pub async fn wait_for(
        &self,
        what: impl Fn(&GroupStatus) -> bool,
        within: Duration,
    ) -> Result<GroupStatus, Timeout> {
        let mut status = self.watch();
        let seen = tokio::time::timeout(within, status.wait_for(|status| what(status))).await;
        if let Ok(Ok(status)) = seen {
            return Ok(status);
        }
        Err(Timeout { within, last: Box::new(self.status()) })
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.feed.has_stopped()
    }

    /// Resolves with the reason when this replica has stopped: by itself, with its node, or because the group
    /// was closed.
    pub async fn stopped(&self) -> String {
        // An error: the group was closed.
        self.watch().wait_for(|_| self.feed.stop_reason().is_some()).await.ok();
        self.feed.stop_reason().cloned().unwrap_or_else(|| "the group was closed".to_owned())
    }

    /// Hands a request to the host thread.
    pub(crate) fn send(&self, request: Request) -> PendingAnswer {
        let state = match self.admit(request, self.shared.clock.mono()) {
            Ok((input, state)) => match &self.gathering {
                Some(gathering) => {
                    gathering.leave([input]);
                    state
                }
                None if self.shared.mailbox.push(input).is_ok() => state,
                None => AnswerState::Refused(Some(stopped())),
            },
            Err(what) => AnswerState::Refused(Some(RequestError::Busy { what })),
        };
        self.pending(state)
    }

    /// Hands requests to the host thread, which looks at all of them in one turn. One answer each.
    fn send_together(&self, requests: impl IntoIterator<Item = Request>) -> Vec<PendingAnswer> {
        let asked = self.shared.clock.mono();
        let mut states = Vec::new();
        let mut inputs = Vec::new();
        let mut full = None;
        for request in requests {
            let admitted = full.map_or_else(|| self.admit(request, asked), Err);
            states.push(match admitted {
                Ok((input, state)) => {
                    inputs.push(input);
                    state
                }
                Err(what) => {
                    full = Some(what);
                    AnswerState::Refused(Some(RequestError::Busy { what }))
                }
            });
        }
        if let Some(gathering) = &self.gathering {
            gathering.leave(inputs);
        } else if self.shared.mailbox.push_together(inputs).is_err() {
            states.fill_with(|| AnswerState::Refused(Some(stopped())));
        }
        states.into_iter().map(|state| self.pending(state)).collect()
    }

    /// Room for a request and a place for its answer, or what is full.
    fn admit(&self, request: Request, asked: MonoTime) -> Result<(HostInput, AnswerState), &'static str> {
        if self.feed.backlog().is_full() {
            return Err("the backlog of the disk or the state machine");
        }
        let permit = self.feed.requests().admit(request_bytes(&request)).ok_or("the queue of requests")?;
        let (reply, answer) = oneshot::channel();
        let input = HostInput::Request { group: self.group, request, asked, reply, permit };
        Ok((input, AnswerState::Waiting(answer)))
    }

    fn pending(&self, state: AnswerState) -> PendingAnswer {
        PendingAnswer { state, deadline: self.within.and_then(Deadline::after) }
    }

    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, RequestError> {
        let mut answer = self.send(request);
        std::future::poll_fn(|context| answer.poll(context)).await
    }

    /// `work`, which asks more than once, within the time that this handle gives.
    pub(crate) async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        match self.within {
            None => work.await,
            Some(within) => tokio::time::timeout(within, work)
                .await
                .unwrap_or(Err(RequestError::DeadlinePassed { within })),
        }
    }
}

/// About how many bytes a request occupies.
fn request_bytes(request: &Request) -> usize {
    const HEADER: usize = 128;
    HEADER
        + match request {
            Request::Propose(proposal)
            | Request::ProposeVersion { proposal, .. }
            | Request::AtLeader(
                LeaderRequest::Propose(proposal) | LeaderRequest::ProposeVersion { proposal, .. },
            ) => proposal.bytes(),
            Request::RestorePiece { data, .. } => data.len(),
            Request::Query { request, .. } => request.len(),
            Request::OpenSession
            | Request::RestoreAbandon { .. }
            | Request::RestoreInstall { .. }
            | Request::AtLeader(LeaderRequest::OpenSession | LeaderRequest::Barrier)
            | Request::ReadIndex { .. }
            | Request::VerifyLeader
            | Request::Barrier
            | Request::ChangeMembership { .. }
            | Request::ChangeMembers { .. }
            | Request::LeaveJoint { .. }
            | Request::TransferLeadership { .. }
            | Request::AbortTransfer
            | Request::Reconfigure { .. }
            | Request::Campaign
            | Request::TakeSnapshot => 0,
        }
}

/// The host answered something else than it was asked: a bug of ours, and nothing is known.
pub(crate) fn unexpected() -> RequestError {
    debug_assert!(false, "the host gave an answer of another kind than was asked for");
    RequestError::OutcomeUnknown
}
