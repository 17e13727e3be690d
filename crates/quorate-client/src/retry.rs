//! One call over its attempts: the deadline, the pauses, and whether it may have been applied.
//!
//! ```text
//!   attempt ─► answer, or an error that will not go away ──────────────► done
//!      ▲  └──► could not be applied ──────────┐
//!      │  └──► may have been applied ─► maybe ─┤
//!      └────────────── pause ◄────────────────┘  until the deadline: NotApplied, or OutcomeUnknown
//! ```
//!
//! * Once an attempt may have been applied, only an answer can make that certain again.

use std::time::Duration;

use tokio::time::Instant;

use crate::connection::CallError;
use crate::error::{ClientError, ErrorCode};
use crate::options::ClientOptions;
use crate::proto;

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Attempts {
    deadline: Instant,
    attempt_timeout: Duration,
    backoff: Duration,
    backoff_max: Duration,
    maybe_applied: bool,
    last: String,
}

/// What to do after a failed attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Ask the node at this address (empty: not known), which is said to lead.
    FollowLeader(String),
    /// Try the same node again after a pause.
    Again,
    /// Try another node after a pause.
    Elsewhere,
    /// The session is gone.
    SessionExpired,
    /// It will not get better.
    Fail(ClientError),
}

impl Attempts {
    pub(crate) fn new(options: &ClientOptions) -> Self {
        Self {
            deadline: Instant::now() + options.deadline,
            attempt_timeout: options.attempt_timeout,
            backoff: options.backoff_min,
            backoff_max: options.backoff_max,
            maybe_applied: false,
            last: "no node was asked in time".to_owned(),
        }
    }

    /// When the attempt that starts now is over.
    pub(crate) fn attempt_deadline(&self) -> Instant {
        self.deadline.min(Instant::now() + self.attempt_timeout)
    }

    /// Judges a failed attempt.
    pub(crate) fn judge(&mut self, error: CallError) -> Verdict {
        match error {
            CallError::NotSent(message) => {
                self.last = message;
                Verdict::Elsewhere
            }
            CallError::Broken(message) => {
                self.last = message;
                self.maybe_applied = true;
                Verdict::Elsewhere
            }
            CallError::Refused(error) => self.judge_refusal(error),
        }
    }

    fn judge_refusal(&mut self, error: proto::Error) -> Verdict {
        let code = error.code();
        match code {
            ErrorCode::NotLeader => {
                let leader = error.leader.map(|leader| leader.client_address).unwrap_or_default();
                self.last = error.message;
                Verdict::FollowLeader(leader)
            }
            ErrorCode::NoLeader | ErrorCode::Unavailable | ErrorCode::ShuttingDown | ErrorCode::Timeout => {
                self.last = error.message;
                Verdict::Elsewhere
            }
            ErrorCode::Busy => {
                self.last = error.message;
                Verdict::Again
            }
            ErrorCode::Unspecified | ErrorCode::OutcomeUnknown => {
                self.last = error.message;
                self.maybe_applied = true;
                Verdict::Elsewhere
            }
            ErrorCode::SessionExpired => {
                self.last = error.message;
                Verdict::SessionExpired
            }
            ErrorCode::ConditionFailed => Verdict::Fail(ClientError::ConditionFailed {
                current_version: Some(error.current_version).filter(|version| *version > 0),
            }),
            ErrorCode::InvalidArgument
            | ErrorCode::NotFound
            | ErrorCode::TooLarge
            | ErrorCode::KeyReused
            | ErrorCode::AlreadyAcknowledged
            | ErrorCode::MembershipRefused
            | ErrorCode::TransferFailed
            | ErrorCode::ClusterMismatch
            | ErrorCode::MethodNotAllowed => Verdict::Fail(ClientError::Rejected(error.into())),
        }
    }

    /// Whether an attempt may have been applied.
    pub(crate) const fn maybe_applied(&self) -> bool {
        self.maybe_applied
    }

    /// What was tried so far does not count as a write that may have been applied.
    pub(crate) const fn forget(&mut self) {
        self.maybe_applied = false;
    }

    /// What the last failed attempt said.
    pub(crate) fn last_message(&self) -> &str {
        &self.last
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// There is no time for one.
    pub(crate) async fn pause(&mut self) -> Result<(), ClientError> {
        let until = Instant::now() + jitter(self.backoff);
        if until >= self.deadline {
            return Err(self.give_up());
        }
        tokio::time::sleep_until(until).await;
        self.backoff = (self.backoff * 2).min(self.backoff_max);
        Ok(())
    }

    /// The call's last word when it was not answered.
    pub(crate) fn give_up(&self) -> ClientError {
        let message = self.last.clone();
        if self.maybe_applied {
            ClientError::OutcomeUnknown { message }
        } else {
            ClientError::NotApplied { message }
        }
    }
}

/// Between half of `pause` and all of it, so that clients that failed together do not come back
/// together.
fn jitter(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + pause / 2 * (random >> 16) / 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: ErrorCode) -> CallError {
        CallError::Refused(proto::Error { code: code.into(), ..proto::Error::default() })
    }

    #[test]
    fn only_what_cannot_have_been_applied_is_called_not_applied() {
        let mut attempts = Attempts::new(&ClientOptions::default());
        for error in [
            CallError::NotSent("refused".to_owned()),
            refused(ErrorCode::NoLeader),
            refused(ErrorCode::Busy),
            refused(ErrorCode::ShuttingDown),
            refused(ErrorCode::Unavailable),
            refused(ErrorCode::Timeout),
            refused(ErrorCode::NotLeader),
        ] {
            assert!(!matches!(attempts.judge(error), Verdict::Fail(_)));
            assert!(matches!(attempts.give_up(), ClientError::NotApplied { .. }));
        }
        assert!(matches!(attempts.judge(CallError::Broken("reset".to_owned())), Verdict::Elsewhere));
        // What was once possible stays possible.
        assert!(matches!(attempts.judge(refused(ErrorCode::Busy)), Verdict::Again));
        assert!(matches!(attempts.give_up(), ClientError::OutcomeUnknown { .. }));
    }

    #[test]
    fn a_code_from_a_newer_server_counts_as_perhaps_applied() {
        let mut attempts = Attempts::new(&ClientOptions::default());
        let error = proto::Error { code: 9_999, ..proto::Error::default() };
        assert!(matches!(attempts.judge(CallError::Refused(error)), Verdict::Elsewhere));
        assert!(matches!(attempts.give_up(), ClientError::OutcomeUnknown { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_end_at_the_deadline() {
        let options = ClientOptions { deadline: Duration::from_secs(2), ..ClientOptions::default() };
        let started = Instant::now();
        let mut attempts = Attempts::new(&options);
        while attempts.pause().await.is_ok() {}
        assert!(started.elapsed() <= options.deadline);
        assert!(started.elapsed() >= options.deadline - options.backoff_max);
    }
}
