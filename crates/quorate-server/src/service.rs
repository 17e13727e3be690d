//! What the client port does, whichever way it was asked: finds out who leads, proposes here or passes
//! on, and says what became of it.
//!
//! Write path, file 2 of 8. Before: `quorate-client/src/client.rs`. Next: `quorate/src/raft.rs`.
//!
//! ```text
//!   http.rs ─┐                    ┌─ this node leads ──► Raft::apply_with
//!            ├─► Service ─ route ─┤
//!   grpc.rs ─┘       ▲            └─ another does ─────► forward.rs, one hop
//!                    └── not applied, or resendable: again, until the deadline
//! ```
//!
//! * A write that may have been applied is sent again only within a session or with a key; otherwise its
//!   outcome is unknown and we say so. Once it may have been applied, only an answer changes that.
//! * A linearizable read is answered here, whoever leads: the library asks the leader how far to apply first.
//! * One group holds all keys for now; a region's group will be looked up where `raft` is used.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate::{Consistency, Dedupe, NodeId, Raft, RequestError, RoleName};
use quorate_client::{ErrorCode, proto};
use quorate_kv::{Item, KvAnswer, KvCommand, KvLimits, KvQuery, KvResponse};
use tokio::time::{Instant, timeout_at};

use crate::config::{Limits, Timings};
use crate::convert;
use crate::error::{ApiError, Leader, no_leader, not_leader};
use crate::forward::Forwarder;
use crate::gate::Stopping;

/// The node as its clients see it.
pub(crate) struct Service {
    pub(crate) raft: Raft,
    pub(crate) node: NodeId,
    pub(crate) cluster_id: u64,
    pub(crate) limits: Limits,
    pub(crate) timings: Timings,
    pub(crate) peer_address: String,
    pub(crate) client_address: String,
    pub(crate) forwarder: Forwarder,
    pub(crate) stopping: Arc<Stopping>,
}

/// What a request brings along apart from what it asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) deadline: Instant,
    /// It was forwarded, or its sender wants to know who leads.
    pub(crate) no_forward: bool,
}

/// A write that was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) index: u64,
    pub(crate) version: u64,
    pub(crate) existed: bool,
}

/// A read's answer and the position in the log that it reflects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answered<T> {
    pub(crate) index: u64,
    pub(crate) value: T,
}

/// A part of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) items: Vec<Item>,
    pub(crate) next: Option<Bytes>,
}

/// Which part of a range is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Range {
    pub(crate) start: Bytes,
    /// Empty: to the end.
    pub(crate) end: Bytes,
    /// 0: as many as allowed.
    pub(crate) limit: u32,
}

/// Who acts on a request.
enum Route {
    Here,
    There { address: String },
}

/// How long to wait for news about the leader before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Service {
    /// The context of a request as its header says, checked.
    pub(crate) fn context(&self, header: Option<proto::RequestHeader>) -> Result<Context, ApiError> {
        let header = header.unwrap_or_default();
        if header.cluster_id != 0 && header.cluster_id != self.cluster_id {
            let message = format!(
                "this node belongs to cluster {:016x}, not to {:016x}: check the endpoints",
                self.cluster_id, header.cluster_id
            );
            return Err(ApiError::new(ErrorCode::ClusterMismatch, message));
        }
        Ok(self.context_for(header.timeout_millis, header.no_forward))
    }

    /// A context with this much time (0: as much as allowed).
    pub(crate) fn context_for(&self, timeout_millis: u32, no_forward: bool) -> Context {
        let most = self.timings.request_timeout;
        let asked = Duration::from_millis(timeout_millis.into());
        let timeout = if timeout_millis == 0 { most } else { asked.min(most) };
        Context { deadline: Instant::now() + timeout, no_forward }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_set()
    }

    /// Changes a key.
    pub(crate) async fn write(
        &self,
        context: Context,
        command: KvCommand,
        dedupe: Dedupe,
    ) -> Result<Written, ApiError> {
        self.kv_limits().validate(&command)?;
        let encoded = command.encode();
        let resendable = dedupe != Dedupe::None;
        let (encoded, command, dedupe) = (&encoded, &command, &dedupe);
        self.on_leader(
            context,
            resendable,
            || self.propose(context, encoded.clone(), dedupe.clone()),
            |address| self.forward_write(context, address, command.clone(), dedupe.clone()),
        )
        .await
    }

    async fn propose(&self, context: Context, encoded: Bytes, dedupe: Dedupe) -> Result<Written, ApiError> {
        let applied = self.raft.apply_with(encoded, dedupe);
        let Ok(applied) = timeout_at(context.deadline, applied).await else {
            return Err(ApiError::outcome_unknown("the write was not committed in time"));
        };
        let applied = applied?;
        match KvResponse::decode(&applied.response) {
            Ok(KvResponse::Done { version, previous }) => {
                Ok(Written { index: applied.id.index.0, version, existed: previous.is_some() })
            }
            Ok(KvResponse::ConditionFailed { current }) => {
                let message = "the condition does not hold: read the key again and decide";
                let error = ApiError::new(ErrorCode::ConditionFailed, message);
                Err(ApiError { current_version: current, ..error })
            }
            Ok(KvResponse::Malformed) => Err(ApiError::invalid("the write is beyond what the store takes")),
            // A repeated write whose response was too large to keep; ours never are.
            Err(error) => {
                Err(ApiError::outcome_unknown(&format!("the store's answer is unreadable ({error})")))
            }
        }
    }

    async fn forward_write(
        &self,
        context: Context,
        address: String,
        command: KvCommand,
        dedupe: Dedupe,
    ) -> Result<Written, ApiError> {
        let header = Some(self.forwarder.header(context.deadline));
        let dedupe = convert::dedupe_to_proto(dedupe);
        match command {
            KvCommand::Put { key, value, condition } => {
                let condition = convert::condition_to_proto(condition);
                let request = proto::PutRequest { header, dedupe, key, value, condition };
                let send = |leads: crate::forward::Leads| async move { leads.kv().put(request).await };
                let put = self.forwarder.call(&address, context.deadline, send).await?;
                Ok(Written { index: put.index, version: put.version, existed: put.existed })
            }
            KvCommand::Delete { key, condition } => {
                let condition = convert::condition_to_proto(condition);
                let request = proto::DeleteRequest { header, dedupe, key, condition };
                let send = |leads: crate::forward::Leads| async move { leads.kv().delete(request).await };
                let delete = self.forwarder.call(&address, context.deadline, send).await?;
                Ok(Written { index: delete.index, version: delete.version, existed: delete.existed })
            }
        }
    }

    /// Opens a session.
    pub(crate) async fn open_session(&self, context: Context) -> Result<u64, ApiError> {
        // A session that nobody hears of does no harm, so opening may always be tried again.
        self.on_leader(
            context,
            true,
            || async move {
                match timeout_at(context.deadline, self.raft.open_session()).await {
                    Ok(session) => Ok(session?.0),
                    Err(_) => Err(ApiError::outcome_unknown("no session was opened in time")),
                }
            },
            |address| async move {
                let request =
                    proto::OpenSessionRequest { header: Some(self.forwarder.header(context.deadline)) };
                let send =
                    |leads: crate::forward::Leads| async move { leads.kv().open_session(request).await };
                Ok(self.forwarder.call(&address, context.deadline, send).await?.session)
            },
        )
        .await
    }

    /// Reads a key.
    pub(crate) async fn get(
        &self,
        context: Context,
        key: Bytes,
        consistency: Consistency,
    ) -> Result<Answered<Option<Item>>, ApiError> {
        self.kv_limits().validate_key(&key)?;
        let answered = self.query(context, &KvQuery::Get { key }, consistency).await?;
        match answered.value {
            KvAnswer::Value(item) => Ok(Answered { index: answered.index, value: item }),
            KvAnswer::Page { .. } | KvAnswer::Malformed => Err(ApiError::invalid("the key is impossible")),
        }
    }

    /// Reads a part of a range.
    pub(crate) async fn scan(
        &self,
        context: Context,
        range: Range,
        consistency: Consistency,
    ) -> Result<Answered<Page>, ApiError> {
        let most = self.limits.scan_items_max;
        let query = KvQuery::Scan {
            start: range.start,
            end: Some(range.end).filter(|end| !end.is_empty()),
            limit: if range.limit == 0 { most } else { range.limit.min(most) },
            bytes_max: self.limits.scan_bytes_max,
        };
        let answered = self.query(context, &query, consistency).await?;
        match answered.value {
            KvAnswer::Page { items, next } => {
                Ok(Answered { index: answered.index, value: Page { items, next } })
            }
            KvAnswer::Value(_) | KvAnswer::Malformed => Err(ApiError::invalid("the range is impossible")),
        }
    }

    async fn query(
        &self,
        context: Context,
        query: &KvQuery,
        consistency: Consistency,
    ) -> Result<Answered<KvAnswer>, ApiError> {
        let encoded = query.encode();
        loop {
            let answered = self.raft.query(encoded.clone(), consistency);
            let error = match timeout_at(context.deadline, answered).await {
                Ok(Ok(answered)) => {
                    let value = KvAnswer::decode(&answered.response).map_err(|error| {
                        ApiError::new(
                            ErrorCode::Unavailable,
                            format!("the store's answer is unreadable: {error}"),
                        )
                    })?;
                    return Ok(Answered { index: answered.applied.0, value });
                }
                Ok(Err(error)) => error,
                Err(_) => return Err(self.read_timeout()),
            };
            // Nobody leads at the moment, or the leader changed under the question.
            let again = matches!(error, RequestError::NotLeader { .. } | RequestError::OutcomeUnknown);
            if !again || !self.wait_for_news(context).await {
                return Err(if again { no_leader() } else { error.into() });
            }
        }
    }

    fn read_timeout(&self) -> ApiError {
        match self.raft.status().leader {
            None => no_leader(),
            Some(_) => ApiError::new(ErrorCode::Timeout, "the read was not confirmed in time: retry"),
        }
    }

    /// Runs `here` if this node leads and `there` with the leader's address if another one does; again
    /// after failures that allow it, until the deadline.
    pub(crate) async fn on_leader<T, H, F>(
        &self,
        context: Context,
        resendable: bool,
        here: impl Fn() -> H,
        there: impl Fn(String) -> F,
    ) -> Result<T, ApiError>
    where
        H: Future<Output = Result<T, ApiError>>,
        F: Future<Output = Result<T, ApiError>>,
    {
        let mut maybe_applied = false;
        // A leader that hands over takes no writes for a moment; longer than that it is really busy.
        let busy_until = Instant::now() + self.timings.election_timeout;
        loop {
            let (passed_on, outcome) = match self.route(context).await {
                Ok(Route::Here) => (false, here().await),
                Ok(Route::There { address }) => (true, there(address).await),
                Err(error) => return Err(settle(error, maybe_applied)),
            };
            let error = match outcome {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            maybe_applied |= error.is_outcome_unknown();
            let again = match error.code {
                ErrorCode::NotLeader | ErrorCode::NoLeader => !context.no_forward,
                ErrorCode::Unavailable | ErrorCode::ShuttingDown => passed_on,
                ErrorCode::OutcomeUnknown => resendable,
                ErrorCode::Busy => Instant::now() < busy_until,
                ErrorCode::Unspecified
                | ErrorCode::InvalidArgument
                | ErrorCode::NotFound
                | ErrorCode::TooLarge
                | ErrorCode::ConditionFailed
                | ErrorCode::SessionExpired
                | ErrorCode::KeyReused
                | ErrorCode::AlreadyAcknowledged
                | ErrorCode::Timeout
                | ErrorCode::MembershipRefused
                | ErrorCode::TransferFailed
                | ErrorCode::ClusterMismatch
                | ErrorCode::MethodNotAllowed => false,
            };
            if error.code == ErrorCode::Busy && again {
                tokio::time::sleep_until(context.deadline.min(Instant::now() + LOOK_AGAIN)).await;
            }
            if !again || !self.wait_for_news(context).await {
                return Err(settle(error, maybe_applied));
            }
        }
    }

    /// Who acts on a request. Waits until somebody leads.
    async fn route(&self, context: Context) -> Result<Route, ApiError> {
        loop {
            let leader = match self.leader() {
                Some(Leads::Here) => return Ok(Route::Here),
                Some(Leads::There(leader)) => Some(leader),
                None => None,
            };
            match leader {
                Some(leader) if context.no_forward => return Err(not_leader(leader)),
                Some(leader) if !leader.client_address.is_empty() => {
                    return Ok(Route::There { address: leader.client_address });
                }
                // It leads, and has not announced where clients reach it yet.
                Some(_) | None => {}
            }
            if context.no_forward || !self.wait_for_news(context).await {
                return Err(no_leader());
            }
        }
    }

    /// Who leads, as far as this node knows.
    pub(crate) fn leader(&self) -> Option<Leads> {
        self.raft.look(|status| match &status.leader_hint {
            _ if status.role == RoleName::Leader => Some(Leads::Here),
            Some(hint) => Some(Leads::There(hint.clone().into())),
            None => None,
        })
    }

    /// Waits a moment for the replica's status to change; false when the time is up.
    async fn wait_for_news(&self, context: Context) -> bool {
        let mut status = self.raft.watch();
        let until = context.deadline.min(Instant::now() + LOOK_AGAIN);
        // Either way it is time to look again; a stopped replica must not make this spin.
        if let Ok(Err(_stopped)) = timeout_at(until, status.changed()).await {
            tokio::time::sleep_until(until).await;
        }
        Instant::now() < context.deadline
    }

    fn kv_limits(&self) -> KvLimits {
        KvLimits { key_bytes_max: self.limits.key_bytes_max, value_bytes_max: self.limits.value_bytes_max }
    }
}

/// Who leads.
pub(crate) enum Leads {
    /// This node.
    Here,
    /// Another one.
    There(Leader),
}

/// The last word about a request: what may have been applied stays possible whatever failed later,
/// unless the failure is itself the request's answer.
fn settle(error: ApiError, maybe_applied: bool) -> ApiError {
    let conclusive = matches!(error.code, ErrorCode::ConditionFailed | ErrorCode::KeyReused);
    if maybe_applied && !conclusive && !error.is_outcome_unknown() {
        return ApiError::outcome_unknown(&format!("first the leader was lost, then: {}", error.message));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_applied_is_never_called_not_applied() {
        for code in [ErrorCode::NoLeader, ErrorCode::Busy, ErrorCode::SessionExpired, ErrorCode::ShuttingDown]
        {
            let error = ApiError::new(code, "later");
            assert_eq!(settle(error.clone(), false), error);
            assert_eq!(settle(error, true).code, ErrorCode::OutcomeUnknown);
        }
        // These are answers: the first attempt cannot have been applied, or was refused.
        let answer = ApiError::new(ErrorCode::ConditionFailed, "no");
        assert_eq!(settle(answer.clone(), true), answer);
    }
}
