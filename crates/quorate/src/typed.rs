//! A typed face over bytes: what a state machine is asked and answers, as types of its users.
//!
//! ```text
//!   P::Command ──encode──► Raft::apply ──► bytes ──decode──► P::Response
//!   P::Query   ──encode──► Raft::query ──► bytes ──decode──► P::Answer
//! ```
//!
//! The state machine itself takes and gives bytes: it decodes what its replicas of all versions wrote.

use std::marker::PhantomData;

use bytes::Bytes;
use quorate_core::{LogId, LogIndex};
use quorate_host::{Consistency, Dedupe, MachineError, RequestError};

use crate::raft::Raft;

/// What a state machine's commands and questions are, and what it answers.
pub trait Protocol {
    /// What changes the state.
    type Command;
    /// What the machine answers to a command.
    type Response;
    /// A question about the state.
    type Query;
    /// The answer to it.
    type Answer;

    /// The bytes that go into the log.
    fn encode_command(command: &Self::Command) -> Bytes;
    /// What the bytes of a response say.
    ///
    /// # Errors
    /// They are none.
    fn decode_response(bytes: &[u8]) -> Result<Self::Response, MachineError>;
    /// The bytes of a question.
    fn encode_query(query: &Self::Query) -> Bytes;
    /// What the bytes of an answer say.
    ///
    /// # Errors
    /// They are none.
    fn decode_answer(bytes: &[u8]) -> Result<Self::Answer, MachineError>;
}

/// A typed request failed.
#[derive(Debug, thiserror::Error)]
pub enum TypedError {
    /// It was not answered: see there whether it had an effect.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It was carried out, but its answer was not understood: the replica is of another version.
    #[error("carried out, but the answer was not understood: {0}")]
    NotUnderstood(#[source] MachineError),
}

/// A [`Raft`] whose state machine speaks `P`. Everything else is on [`TypedRaft::raft`].
pub struct TypedRaft<P> {
    raft: Raft,
    protocol: PhantomData<fn() -> P>,
}

impl<P> Clone for TypedRaft<P> {
    fn clone(&self) -> Self {
        Self { raft: self.raft.clone(), protocol: PhantomData }
    }
}

impl<P: Protocol> TypedRaft<P> {
    /// A typed face of `raft`.
    #[must_use]
    pub const fn new(raft: Raft) -> Self {
        Self { raft, protocol: PhantomData }
    }

    /// The handle underneath.
    #[must_use]
    pub const fn raft(&self) -> &Raft {
        &self.raft
    }

    /// As [`Raft::apply`]: where the command stands, and the response to it.
    ///
    /// # Errors
    /// See [`TypedError`].
    pub async fn apply(&self, command: &P::Command) -> Result<(LogId, P::Response), TypedError> {
        self.apply_with(command, Dedupe::None).await
    }

    /// As [`Raft::apply_with`].
    ///
    /// # Errors
    /// See [`TypedError`].
    pub async fn apply_with(
        &self,
        command: &P::Command,
        dedupe: Dedupe,
    ) -> Result<(LogId, P::Response), TypedError> {
        let applied = self.raft.apply_with(P::encode_command(command), dedupe).await?;
        let response = P::decode_response(&applied.response).map_err(TypedError::NotUnderstood)?;
        Ok((applied.id, response))
    }

    /// As [`Raft::query`]: up to where the state was applied, and the answer.
    ///
    /// # Errors
    /// See [`TypedError`].
    pub async fn query(
        &self,
        query: &P::Query,
        consistency: Consistency,
    ) -> Result<(LogIndex, P::Answer), TypedError> {
        let queried = self.raft.query(P::encode_query(query), consistency).await?;
        let answer = P::decode_answer(&queried.response).map_err(TypedError::NotUnderstood)?;
        Ok((queried.applied, answer))
    }
}
