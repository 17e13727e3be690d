//! Replacing a group's state by one from outside: a backup, or the content of a [`StoredSnapshot`](crate::StoredSnapshot).
//!
//! ```text
//!   read ──► checksum, trial ──► piece, piece, … through the log ──► install: one entry
//!   └──────── nothing has changed on any replica ────────────────┘    └─ all replicas, at the same position
//! ```
//!
//! * What is committed before the entry that installs it is replaced, what comes after builds on it. The log has no hole,
//!   members stay, clients keep their sessions.
//! * A crash, a lost leader or another restore in the middle leaves the old state everywhere.

use std::io::Read;

use bytes::Bytes;
use quorate_core::LogId;
use quorate_host::{Answer, BatchEnd, MachineError, Request, RequestError, StateMachine};

use crate::raft::{Raft, unexpected};

/// The largest piece that goes into one entry.
const PIECE_BYTES_MAX: u64 = 256 << 10;

/// A state from outside.
pub struct ExternalState {
    content: Box<dyn Read + Send>,
    crc32c: Option<u32>,
    trial: Option<Box<dyn StateMachine>>,
}

/// The state of the group was not replaced, except where the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The content cannot be read.
    #[error("the state cannot be read: {0}")]
    Read(#[source] std::io::Error),
    /// The content is larger than `SessionConfig::restore_bytes_max`.
    #[error("the state has more than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// It is not what was expected.
    #[error("the state has checksum {found:08x}, not {expected:08x}")]
    Checksum {
        /// The CRC-32C that was expected.
        expected: u32,
        /// That of the content.
        found: u32,
    },
    /// The machine on trial did not take it.
    #[error("the state machine does not take it: {0}")]
    Trial(#[source] MachineError),
    /// It did not get into the log as a whole: ask the leader, or again later.
    #[error("it was not brought in: {0}")]
    NotBroughtIn(#[source] RequestError),
    /// All of it is in the log, and installing it failed: [`RequestError::outcome`] says whether it may be in effect.
    #[error("it was not installed: {0}")]
    Install(#[source] RequestError),
    /// The runtime ended.
    #[error("the runtime has ended")]
    Stopped,
}

impl ExternalState {
    /// A state whose content `content` gives: as a snapshot of the machine would.
    pub fn new(content: impl Read + Send + 'static) -> Self {
        Self { content: Box::new(content), crc32c: None, trial: None }
    }

    /// Its CRC-32C must be this.
    #[must_use]
    pub fn with_crc32c(self, crc32c: u32) -> Self {
        Self { crc32c: Some(crc32c), ..self }
    }

    /// `machine` must take it first: a machine of the same kind that nobody uses, dropped afterwards. Recommended: a state
    /// that the machines of the replicas cannot read stops all of them, at the same entry.
    #[must_use]
    pub fn tried_on(self, machine: impl StateMachine + 'static) -> Self {
        Self { trial: Some(Box::new(machine)), ..self }
    }

    /// Reads and checks all of it.
    fn stage(self, bytes_max: u64) -> Result<(Bytes, u32), RestoreError> {
        let mut content = Vec::new();
        self.content
            .take(bytes_max.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(RestoreError::Read)?;
        if content.len() as u64 > bytes_max {
            return Err(RestoreError::TooLarge { bytes_max });
        }
        let found = crc32c::crc32c(&content);
        if let Some(expected) = self.crc32c.filter(|expected| *expected != found) {
            return Err(RestoreError::Checksum { expected, found });
        }
        if let Some(mut machine) = self.trial {
            let batch = BatchEnd { applied: LogId::default(), records: &[] };
            machine.restore(&mut &content[..], batch).map_err(RestoreError::Trial)?;
        }
        Ok((content.into(), found))
    }
}

impl Raft {
    /// Replaces the state of the group by one from outside, on every replica at the same entry, whose position is the result.
    /// On the leader. It is read and checked before anything of it is sent, kept in memory meanwhile, and goes through the log in pieces; until the last
    /// one is committed nothing changes. Commands that are acknowledged before the returned position are replaced with the
    /// rest. Dropping the future leaves the old state, or lets the last step go on.
    ///
    /// # Errors
    /// See [`RestoreError`].
    #[doc(alias = "Restore")]
    pub async fn restore(&self, state: ExternalState) -> Result<LogId, RestoreError> {
        let (bytes_max, piece_bytes) = {
            let config = self.config.lock().await;
            let piece_bytes = config.core.command_bytes_max.clamp(1, PIECE_BYTES_MAX);
            (config.sessions.restore_bytes_max, usize::try_from(piece_bytes).unwrap_or(usize::MAX))
        };
        let staging = tokio::task::spawn_blocking(move || state.stage(bytes_max));
        let (content, crc) = match staging.await {
            Ok(staged) => staged?,
            Err(error) if error.is_panic() => {
                return Err(RestoreError::Trial(MachineError::new("it panicked")));
            }
            Err(_cancelled) => return Err(RestoreError::Stopped),
        };
        let restore = getrandom::u64().unwrap_or_else(|_| crate::runtime::clock::unix_nanos());
        let bytes = content.len() as u64;
        self.bounded(self.bring_in(restore, content, piece_bytes))
            .await
            .map_err(RestoreError::NotBroughtIn)?;
        let install = Request::RestoreInstall { restore, bytes, crc };
        let Answer::Applied { id, .. } = self.ask(install).await.map_err(RestoreError::Install)? else {
            return Err(RestoreError::Install(unexpected()));
        };
        Ok(id)
    }

    async fn bring_in(
        &self,
        restore: u64,
        mut content: Bytes,
        piece_bytes: usize,
    ) -> Result<(), RequestError> {
        let mut offset = 0;
        loop {
            let data = content.split_to(piece_bytes.min(content.len()));
            let next = offset + data.len() as u64;
            let Answer::Applied { .. } = self.ask(Request::RestorePiece { restore, offset, data }).await?
            else {
                return Err(unexpected());
            };
            offset = next;
            if content.is_empty() {
                return Ok(());
            }
        }
    }
}
