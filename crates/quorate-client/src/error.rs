//! What can go wrong for a client, one variant per action of the caller.

use crate::proto;

pub use crate::proto::ErrorCode;

/// A request failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The request had and will have no effect: no node could take it before the deadline. Retry
    /// later, with a longer deadline or more endpoints.
    #[error("not applied: {message}")]
    NotApplied {
        /// What happened last.
        message: String,
    },
    /// A write may or may not have been applied, or may yet be. Read before doing it again.
    #[error("the outcome is unknown: {message}")]
    OutcomeUnknown {
        /// What happened last.
        message: String,
    },
    /// The write's condition does not hold: nothing was changed. Read again and decide.
    #[error("the condition does not hold: {}", current_text(*current_version))]
    ConditionFailed {
        /// The version that the key has, if it is there.
        current_version: Option<u64>,
    },
    /// The cluster refuses the request; sending the same again will not help.
    #[error("{}", .0.message)]
    Rejected(Rejection),
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The stable code.
    pub code: ErrorCode,
    /// What happened and what to do about it, for people.
    pub message: String,
    /// For `MembershipRefused`: why, as a stable word.
    pub reason: String,
}

/// A client could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no endpoint.
    #[error("no endpoints: give at least one host:port")]
    NoEndpoints,
    /// An endpoint is not an address.
    #[error("endpoint {endpoint:?} is malformed: {problem}; write host:port, e.g. 127.0.0.1:8001")]
    MalformedEndpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl ErrorCode {
    /// The code as HTTP and people see it, e.g. `not_leader`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::TooLarge => "too_large",
            Self::ConditionFailed => "condition_failed",
            Self::SessionExpired => "session_expired",
            Self::KeyReused => "key_reused",
            Self::AlreadyAcknowledged => "already_acknowledged",
            Self::NotLeader => "not_leader",
            Self::NoLeader => "no_leader",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::MembershipRefused => "membership_refused",
            Self::TransferFailed => "transfer_failed",
            Self::ShuttingDown => "shutting_down",
            Self::ClusterMismatch => "cluster_mismatch",
            Self::MethodNotAllowed => "method_not_allowed",
        }
    }

    /// The code with this [`name`](Self::name).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        // They are numbered without gaps (`quorate.proto`).
        (0..).map_while(|number| Self::try_from(number).ok()).find(|code| code.name() == name)
    }
}

/// The metadata key under which a unary call's `Error` travels, encoded.
pub const ERROR_METADATA: &str = "quorate-error-bin";

/// What a server said about a failed unary call; `None` if it did not come from a server at all.
#[must_use]
pub fn error_of(status: &tonic::Status) -> Option<proto::Error> {
    let encoded = status.metadata().get_bin(ERROR_METADATA)?.to_bytes().ok()?;
    <proto::Error as prost::Message>::decode(encoded).ok()
}

fn current_text(current_version: Option<u64>) -> String {
    match current_version {
        Some(version) => format!("the key has version {version}"),
        None => "the key is not there".to_owned(),
    }
}

impl From<proto::Error> for Rejection {
    fn from(error: proto::Error) -> Self {
        Self { code: error.code(), message: error.message, reason: error.reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_name() {
        let last: i32 = ErrorCode::MethodNotAllowed.into();
        for number in 0..=last {
            let code = ErrorCode::try_from(number).unwrap();
            assert_eq!(ErrorCode::named(code.name()), Some(code));
        }
        assert_eq!(ErrorCode::named("of a newer node"), None);
    }
}
