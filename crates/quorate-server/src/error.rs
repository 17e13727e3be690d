//! One error for both faces of the client port: a stable code, a sentence for people, and whether
//! the request may have had an effect.
//!
//! ```text
//!   RequestError (library) ─┐              ┌─► HTTP status + JSON
//!   LimitError (kv)         ├─► ApiError ──┤
//!   proto::Error (leader) ──┘              └─► gRPC status + metadata, or an answer on a stream
//! ```

use http::StatusCode;
use prost::Message as _;
use quorate::{ChangeError, LeaderHint, RequestError};
use quorate_client::{ERROR_METADATA, ErrorCode, proto};
use quorate_kv::LimitError;
use tonic::metadata::{MetadataMap, MetadataValue};

/// The header and metadata key of the code's name.
pub(crate) const CODE_HEADER: &str = "quorate-code";

/// Why a request failed. See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// Where the leader is, if that helps.
    pub(crate) leader: Option<Leader>,
    /// `ConditionFailed`: the version the key has.
    pub(crate) current_version: Option<u64>,
    /// `MembershipRefused`: why, as a stable word.
    pub(crate) reason: &'static str,
}

/// Where the leader is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) node: u64,
    /// May be empty: not known yet.
    pub(crate) client_address: String,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), leader: None, current_version: None, reason: "" }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    pub(crate) fn outcome_unknown(what: &str) -> Self {
        Self::new(
            ErrorCode::OutcomeUnknown,
            format!(
                "{what}: the write may or may not have been applied, or may yet be; read before doing it again, or use \
                 a session or an idempotency key"
            ),
        )
    }

    pub(crate) fn refused_change(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, ..Self::new(ErrorCode::MembershipRefused, message) }
    }

    /// Whether the request may have had an effect.
    pub(crate) const fn is_outcome_unknown(&self) -> bool {
        matches!(self.code, ErrorCode::OutcomeUnknown | ErrorCode::Unspecified)
    }

    pub(crate) const fn http_status(&self) -> StatusCode {
        match self.code {
            ErrorCode::InvalidArgument => StatusCode::BAD_REQUEST,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::ConditionFailed => StatusCode::PRECONDITION_FAILED,
            ErrorCode::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorCode::SessionExpired
            | ErrorCode::AlreadyAcknowledged
            | ErrorCode::MembershipRefused
            | ErrorCode::TransferFailed
            | ErrorCode::ClusterMismatch => StatusCode::CONFLICT,
            ErrorCode::Busy => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::NotLeader => StatusCode::MISDIRECTED_REQUEST,
            ErrorCode::NoLeader | ErrorCode::Unavailable | ErrorCode::ShuttingDown => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ErrorCode::Timeout | ErrorCode::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
            ErrorCode::Unspecified => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    const fn grpc_code(&self) -> tonic::Code {
        match self.code {
            ErrorCode::InvalidArgument => tonic::Code::InvalidArgument,
            ErrorCode::NotFound => tonic::Code::NotFound,
            ErrorCode::MethodNotAllowed => tonic::Code::Unimplemented,
            ErrorCode::TooLarge => tonic::Code::OutOfRange,
            ErrorCode::ConditionFailed
            | ErrorCode::SessionExpired
            | ErrorCode::AlreadyAcknowledged
            | ErrorCode::MembershipRefused
            | ErrorCode::TransferFailed
            | ErrorCode::ClusterMismatch
            | ErrorCode::NotLeader => tonic::Code::FailedPrecondition,
            ErrorCode::KeyReused => tonic::Code::AlreadyExists,
            ErrorCode::Busy => tonic::Code::ResourceExhausted,
            ErrorCode::NoLeader | ErrorCode::Unavailable | ErrorCode::ShuttingDown => {
                tonic::Code::Unavailable
            }
            ErrorCode::Timeout => tonic::Code::DeadlineExceeded,
            ErrorCode::OutcomeUnknown | ErrorCode::Unspecified => tonic::Code::Unknown,
        }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        let mut error = serde_json::json!({
            "code": self.code.name(),
            "message": self.message,
            "applied": if self.is_outcome_unknown() { "unknown" } else { "no" },
        });
        if let Some(leader) = &self.leader {
            error["leader"] =
                serde_json::json!({ "node_id": leader.node, "client_address": leader.client_address });
        }
        if self.code == ErrorCode::ConditionFailed {
            error["current_version"] = self.current_version.into();
        }
        if !self.reason.is_empty() {
            error["reason"] = self.reason.into();
        }
        serde_json::json!({ "error": error })
    }

    pub(crate) fn into_proto(self) -> proto::Error {
        proto::Error {
            code: self.code.into(),
            outcome_unknown: self.is_outcome_unknown(),
            message: self.message,
            leader: self.leader.map(|leader| proto::LeaderHint {
                node_id: leader.node,
                client_address: leader.client_address,
            }),
            current_version: self.current_version.unwrap_or_default(),
            reason: self.reason.to_owned(),
        }
    }

    pub(crate) fn into_status(self) -> tonic::Status {
        let (code, name, message) = (self.grpc_code(), self.code.name(), self.message.clone());
        let mut metadata = MetadataMap::new();
        metadata.insert(CODE_HEADER, MetadataValue::from_static(name));
        metadata.insert_bin(ERROR_METADATA, MetadataValue::from_bytes(&self.into_proto().encode_to_vec()));
        tonic::Status::with_metadata(code, message, metadata)
    }
}

impl From<proto::Error> for ApiError {
    fn from(error: proto::Error) -> Self {
        Self {
            code: error.code(),
            leader: error
                .leader
                .map(|leader| Leader { node: leader.node_id, client_address: leader.client_address }),
            current_version: Some(error.current_version).filter(|version| *version > 0),
            reason: REASONS.iter().find(|reason| **reason == error.reason).copied().unwrap_or(""),
            message: error.message,
        }
    }
}

impl From<LimitError> for ApiError {
    fn from(error: LimitError) -> Self {
        let code = match error {
            LimitError::KeyEmpty => ErrorCode::InvalidArgument,
            LimitError::KeyTooLong { .. } | LimitError::ValueTooLarge { .. } => ErrorCode::TooLarge,
        };
        Self::new(code, error.to_string())
    }
}

impl From<LeaderHint> for Leader {
    fn from(hint: LeaderHint) -> Self {
        Self { node: hint.node.0, client_address: hint.client_address }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        let code = match error {
            RequestError::NotLeader { leader } => {
                return leader.map_or_else(no_leader, |hint| not_leader(hint.into()));
            }
            RequestError::OutcomeUnknown => return Self::outcome_unknown("the leader or the node was lost"),
            RequestError::Change(change) => return change_refused(change),
            RequestError::Busy { .. } | RequestError::DiskFull => ErrorCode::Busy,
            RequestError::TooLarge { .. } => ErrorCode::TooLarge,
            RequestError::SessionExpired => ErrorCode::SessionExpired,
            RequestError::AlreadyAcknowledged => ErrorCode::AlreadyAcknowledged,
            RequestError::KeyReused => ErrorCode::KeyReused,
            RequestError::Transfer { .. } => ErrorCode::TransferFailed,
            RequestError::Snapshot { .. } | RequestError::NoGroup | RequestError::Stopped { .. } => {
                ErrorCode::Unavailable
            }
            RequestError::Malformed | RequestError::Unsupported { .. } | RequestError::Config { .. } => {
                ErrorCode::InvalidArgument
            }
            RequestError::DeadlinePassed { .. } | _ => return Self::outcome_unknown(&message),
        };
        Self::new(code, message)
    }
}

pub(crate) fn not_leader(leader: Leader) -> ApiError {
    let message = format!("this node does not lead: ask node {} at {}", leader.node, leader.client_address);
    ApiError { leader: Some(leader), ..ApiError::new(ErrorCode::NotLeader, message) }
}

pub(crate) fn no_leader() -> ApiError {
    ApiError::new(
        ErrorCode::NoLeader,
        "no leader is known at the moment: retry; if it stays so, check that most voters run and reach each other",
    )
}

/// All reasons of `MembershipRefused`. Stable.
const REASONS: &[&str] = &[
    "in_progress",
    "not_ready",
    "changed",
    "already_member",
    "nothing_to_do",
    "learner_behind",
    "last_voter",
    "invalid",
    "busy",
];

fn change_refused(error: ChangeError) -> ApiError {
    match error {
        ChangeError::Propose(_) => {
            ApiError::refused_change("busy", "the leader cannot take the change now: retry")
        }
        ChangeError::InProgress { pending } => ApiError::refused_change(
            "in_progress",
            format!("an earlier change at {pending} is not committed yet: retry when it is"),
        ),
        ChangeError::NotReady => ApiError::refused_change(
            "not_ready",
            "the leader was elected a moment ago and has committed nothing yet: retry at once",
        ),
        ChangeError::Changed { membership_id } => ApiError::refused_change(
            "changed",
            format!("the members changed meanwhile, at {membership_id}: look again"),
        ),
        ChangeError::AlreadyMember { replica } => ApiError::refused_change(
            "already_member",
            format!(
                "the node is a member already, as replica {replica}: if it lost its data, remove it and join with a new node id"
            ),
        ),
        ChangeError::NotMember => ApiError::new(ErrorCode::NotFound, "no such member: see the member list"),
        ChangeError::NothingToDo => ApiError::refused_change("nothing_to_do", "it is that already"),
        ChangeError::LearnerBehind { missing } => ApiError::refused_change(
            "learner_behind",
            format!("the learner is {missing} entries behind: retry when it has caught up"),
        ),
        ChangeError::LastVoter => ApiError::refused_change(
            "last_voter",
            "the last voter cannot leave: add and promote another one first",
        ),
        ChangeError::Invalid { what } => ApiError::refused_change("invalid", what),
        ChangeError::Joint { membership_id } => ApiError::refused_change(
            "in_progress",
            format!("a change of several voters at {membership_id} is under way: retry when it is over"),
        ),
        other @ (ChangeError::NotJoint | _) => {
            ApiError::refused_change("invalid", format!("the leader refused it: {other:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_way_through_grpc() {
        let error = ApiError {
            leader: Some(Leader { node: 2, client_address: "b:1".to_owned() }),
            current_version: Some(7),
            reason: "learner_behind",
            ..ApiError::new(ErrorCode::MembershipRefused, "behind")
        };
        let status = error.clone().into_status();
        assert_eq!(status.metadata().get(CODE_HEADER).unwrap(), "membership_refused");
        assert_eq!(ApiError::from(quorate_client::error_of(&status).unwrap()), error);
    }

    #[test]
    fn only_an_unknown_outcome_says_that_it_may_have_been_applied() {
        let unknown = ApiError::from(RequestError::OutcomeUnknown);
        assert_eq!(unknown.to_json()["error"]["applied"], "unknown");
        let busy = ApiError::from(RequestError::Busy { what: "the queue" });
        assert_eq!(busy.to_json()["error"]["applied"], "no");
        assert_eq!(
            (busy.http_status(), busy.grpc_code()),
            (StatusCode::TOO_MANY_REQUESTS, tonic::Code::ResourceExhausted)
        );
    }
}
