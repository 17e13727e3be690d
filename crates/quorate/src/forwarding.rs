//! What a handle does for commands that another replica must take: passes them on, and asks again where that is safe.
//!
//! ```text
//!                     not applied: no leader, or one of the past       outcome unknown
//!   without a key     again, once another leader is seen               told to the caller
//!   session or key    again, once another leader is seen               again: applied once, whatever happened
//! ```

use std::time::Duration;

use quorate_core::{LogId, ReplicaId, Term};
use quorate_host::{Answer, GroupStatus, LeaderRequest, Proposal, Request, RequestError, SessionId};

use crate::raft::{Applied, Raft, unexpected};

/// How long a leader is waited for before the same one is asked again.
const PAUSE: Duration = Duration::from_millis(50);

impl Raft {
    /// The same handle, whose commands (also those of a version), new sessions and barriers are taken by the
    /// leader, wherever it is: a follower passes them on over the connection to its leader. They are applied
    /// at the leader when they are answered, and here a little later: [`Raft::wait_applied`] with the index
    /// of the answer waits for that.
    ///
    /// Without a leader they wait for one, for the time that the handle gives ([`Raft::within`]) or
    /// `GroupConfig::forward_within`. A command whose outcome is unknown is sent again only with a session or
    /// a key ([`Dedupe`](crate::Dedupe)); [`Raft::submit`] and [`Raft::apply_all`] send each command once.
    /// Reads need none of this: every replica answers them.
    ///
    /// Nothing else is passed on. Changes of members, transfers of leadership, [`Raft::restore`] and
    /// [`Raft::verify_leader`] are answered at a follower with `NotLeader`, which names the leader: an
    /// operator looks before acting, and a transfer or a check is about one replica.
    #[must_use]
    pub fn forwarding(&self) -> Self {
        let mut forwarding = self.clone();
        forwarding.forwards = true;
        forwarding
    }

    /// The request that proposes a command through this handle.
    pub(crate) fn propose(&self, proposal: Proposal) -> Request {
        if self.forwards {
            Request::AtLeader(LeaderRequest::Propose(proposal))
        } else {
            Request::Propose(proposal)
        }
    }

    pub(crate) async fn apply_request_at_leader(
        &self,
        request: LeaderRequest,
        repeatable: bool,
    ) -> Result<Applied, RequestError> {
        let Answer::Applied { id, response } = self.at_leader(request, repeatable).await? else {
            return Err(unexpected());
        };
        Ok(Applied { id, response })
    }

    /// Two empty entries do what one does.
    pub(crate) async fn barrier_at_leader(&self) -> Result<LogId, RequestError> {
        let within = match self.within {
            Some(within) => within,
            None => self.config.lock().await.forward_within,
        };
        let until = tokio::time::Instant::now() + within;
        let Applied { id, .. } = self.apply_request_at_leader(LeaderRequest::Barrier, true).await?;
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let applied = self.wait_applied(id.index, left).await;
        applied.map_err(|_late| RequestError::DeadlinePassed { within })?;
        Ok(id)
    }

    pub(crate) async fn open_session_at_leader(&self) -> Result<SessionId, RequestError> {
        // A session that nobody knows of expires.
        let Answer::SessionOpened { session } = self.at_leader(LeaderRequest::OpenSession, true).await?
        else {
            return Err(unexpected());
        };
        Ok(session)
    }

    /// Asks until there is an answer that asking again cannot better.
    async fn at_leader(&self, request: LeaderRequest, repeatable: bool) -> Result<Answer, RequestError> {
        let within = match self.within {
            Some(within) => within,
            None => self.config.lock().await.forward_within,
        };
        let mut once = self.clone();
        once.within = None;
        let mut last = None;
        let asking = once.ask_again(request, repeatable, &mut last);
        match (tokio::time::timeout(within, asking).await, self.within) {
            (Ok(answer), _) => answer,
            (Err(_elapsed), Some(within)) => Err(RequestError::DeadlinePassed { within }),
            // It waited for a leader, or had been sent to one.
            (Err(_elapsed), None) => Err(last.unwrap_or(RequestError::OutcomeUnknown)),
        }
    }

    /// Keeps in `last` what is known while it waits: `None` while a request is under way.
    async fn ask_again(
        &self,
        request: LeaderRequest,
        repeatable: bool,
        last: &mut Option<RequestError>,
    ) -> Result<Answer, RequestError> {
        let mut in_doubt = false;
        loop {
            let before = leadership(&self.status());
            *last = None;
            let error = match self.ask(Request::AtLeader(request.clone())).await {
                Ok(answer) => return Ok(answer),
                Err(error @ RequestError::NotLeader { .. }) => error,
                Err(error @ RequestError::OutcomeUnknown) if repeatable => error,
                Err(error) if in_doubt && says_nothing_of_earlier_attempts(&error) => {
                    return Err(RequestError::OutcomeUnknown);
                }
                Err(error) => return Err(error),
            };
            in_doubt |= error.outcome_unknown();
            *last = Some(if in_doubt { RequestError::OutcomeUnknown } else { error });
            let news = |now: &GroupStatus| now.leader.is_some() && leadership(now) != before;
            // Late, or the replica has stopped: it says so when it is asked again.
            tokio::time::timeout(PAUSE, self.watch().wait_for(news)).await.ok();
        }
    }
}

const fn says_nothing_of_earlier_attempts(error: &RequestError) -> bool {
    matches!(
        error,
        RequestError::Busy { .. }
            | RequestError::DiskFull
            | RequestError::Stopped { .. }
            | RequestError::NoGroup
            | RequestError::SessionExpired
            | RequestError::Unsupported { .. }
    )
}

/// Whom this replica takes for the leader.
fn leadership(status: &GroupStatus) -> (Term, Option<ReplicaId>) {
    (status.term, status.leader)
}
