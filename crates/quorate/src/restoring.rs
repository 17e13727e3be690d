//! Replacing a group's state by one from outside: a backup, or the content of a
//! [`StoredSnapshot`](crate::StoredSnapshot).
//!
//! ```text
//!   read ──► staged on this disk ──► length, checksum, trial ──► piece, piece, … through the log ──► install: one entry
//!   └────── nothing has changed on any replica; each stages what comes ─────────────────────┘    └─ all, at the same position
//! ```
//!
//! * What is committed before the entry that installs it is replaced, what comes after builds on it. The log
//!   has no hole, members stay, clients keep their sessions.
//! * One piece is in memory, here and on every replica, however large the state is.
//! * A crash, a lost leader, another restore or a dropped future in the middle leaves the old state
//!   everywhere. What was staged goes: here at once or at the next start, elsewhere with the entry that says
//!   so, the next restore, or after [`SessionConfig::idle_max`](crate::SessionConfig::idle_max).
//! * Not as a snapshot beside the log: what one node claims to be the state at some position could contradict
//!   what a quorum has there. Replicas that were away get it from the log, or with the next snapshot.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quorate_core::{GroupId, LogId, RoleName};
use quorate_host::{Answer, BatchEnd, LeaderHint, MachineError, Request, RequestError, StateMachine};
use quorate_storage::{SnapshotError, SnapshotStore, Staging};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::raft::{Raft, unexpected};

/// The largest piece that goes into one entry, or is in memory.
const PIECE_BYTES_MAX: u64 = 256 << 10;
/// Names of what is staged here; below are those of what comes through the log.
const OWN_NAMES: u64 = 1 << 63;
/// How long a busy leader is asked again, with pauses that double up to the longest one.
const BUSY_PAUSES: u32 = 60;
const BUSY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A state from outside.
pub struct ExternalState {
    content: Box<dyn Read + Send>,
    bytes: Option<u64>,
    crc32c: Option<u32>,
    trial: Option<Box<dyn StateMachine>>,
}

/// The state of the group was not replaced, except where the variant says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// This replica does not lead, or does no more: ask the leader. Nothing has changed.
    #[error("not the leader{}", hint_text(leader))]
    NotLeader {
        /// Who it is, as far as known.
        leader: Option<LeaderHint>,
    },
    /// The content cannot be read.
    #[error("the state cannot be read: {0}")]
    Read(#[source] io::Error),
    /// The content cannot be staged on this disk.
    #[error("the state cannot be staged: {0}")]
    Stage(#[from] SnapshotError),
    /// The content is larger than `SessionConfig::restore_bytes_max`.
    #[error("the state has more than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// It is shorter or longer than expected.
    #[error("the state has {found} bytes, not {expected}")]
    Length {
        /// The length that was expected.
        expected: u64,
        /// That of the content, as far as it was read.
        found: u64,
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
    /// It did not get into the log as a whole: try again later.
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
    /// A state whose content `content` gives: as a snapshot of the machine would. It is read on a thread
    /// where it may block.
    pub fn new(content: impl Read + Send + 'static) -> Self {
        Self { content: Box::new(content), bytes: None, crc32c: None, trial: None }
    }

    /// A state whose content comes from an asynchronous reader of this runtime.
    pub fn from_async(content: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::new(Awaited(content))
    }

    /// A state that is in memory already.
    pub fn from_bytes(content: impl Into<Bytes>) -> Self {
        Self::new(io::Cursor::new(content.into()))
    }

    /// It must have this many bytes.
    #[must_use]
    pub fn with_length(self, bytes: u64) -> Self {
        Self { bytes: Some(bytes), ..self }
    }

    /// Its CRC-32C must be this.
    #[must_use]
    pub fn with_crc32c(self, crc32c: u32) -> Self {
        Self { crc32c: Some(crc32c), ..self }
    }

    /// `machine` must take it first: a machine of the same kind that nobody uses, dropped afterwards.
    /// Recommended: a state that the machines of the replicas cannot read stops all of them, at the same
    /// entry.
    #[must_use]
    pub fn tried_on(self, machine: impl StateMachine + 'static) -> Self {
        Self { trial: Some(Box::new(machine)), ..self }
    }

    /// Copies all of it to the disk and checks it there.
    fn stage(mut self, place: &StagingPlace) -> Result<Staged, RestoreError> {
        let staging = place.store.stage(place.group, place.name)?;
        let mut staged = Staged { staging, bytes: 0, crc: 0 };
        let mut piece = vec![0; place.piece_bytes];
        loop {
            if place.is_cancelled.load(Ordering::Acquire) {
                return Err(RestoreError::Stopped);
            }
            let count = match self.content.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(RestoreError::Read(error)),
            };
            staged.staging.write_at(staged.bytes, &piece[..count])?;
            staged.bytes += count as u64;
            if staged.bytes > place.bytes_max {
                return Err(RestoreError::TooLarge { bytes_max: place.bytes_max });
            }
            if let Some(expected) = self.bytes.filter(|expected| staged.bytes > *expected) {
                return Err(RestoreError::Length { expected, found: staged.bytes });
            }
            staged.crc = crc32c::crc32c_append(staged.crc, &piece[..count]);
        }
        staged.check(self.bytes, self.crc32c, self.trial)?;
        Ok(staged)
    }
}

/// An asynchronous reader, read on a thread that may block.
struct Awaited<R>(R);

impl<R: AsyncRead + Unpin> Read for Awaited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        tokio::runtime::Handle::current().block_on(self.0.read(buffer))
    }
}

struct StagingPlace {
    store: Arc<dyn SnapshotStore>,
    group: GroupId,
    name: u64,
    bytes_max: u64,
    piece_bytes: usize,
    /// Nobody waits for it any more.
    is_cancelled: Arc<AtomicBool>,
}

/// A state on this disk; dropping it removes it.
struct Staged {
    staging: Arc<dyn Staging>,
    bytes: u64,
    crc: u32,
}

impl Staged {
    fn check(
        &self,
        bytes: Option<u64>,
        crc32c: Option<u32>,
        trial: Option<Box<dyn StateMachine>>,
    ) -> Result<(), RestoreError> {
        let found = self.bytes;
        if let Some(expected) = bytes.filter(|expected| *expected != found) {
            return Err(RestoreError::Length { expected, found });
        }
        let found = self.crc;
        if let Some(expected) = crc32c.filter(|expected| *expected != found) {
            return Err(RestoreError::Checksum { expected, found });
        }
        let Some(mut machine) = trial else { return Ok(()) };
        // The machine is dropped afterwards, whatever it has become.
        let tried = catch_unwind(AssertUnwindSafe(move || {
            let mut content = io::BufReader::new(StagedReader { staged: self, offset: 0 });
            machine.restore(&mut content, BatchEnd { applied: LogId::default(), records: &[] })
        }));
        tried.unwrap_or_else(|_panic| Err(MachineError::new("it panicked"))).map_err(RestoreError::Trial)
    }

    fn piece(&self, offset: u64, piece_bytes: usize) -> Result<Bytes, RestoreError> {
        let left = usize::try_from(self.bytes - offset).unwrap_or(usize::MAX);
        let mut piece = vec![0; left.min(piece_bytes)];
        let found = self.staging.read_at(offset, &mut piece)?;
        if found < piece.len() {
            return Err(RestoreError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(piece.into())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.staging.discard();
    }
}

struct StagedReader<'a> {
    staged: &'a Staged,
    offset: u64,
}

impl Read for StagedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.staged.staging.read_at(self.offset, buffer).map_err(io::Error::other)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Tells whoever stages, if its caller goes.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Has the replicas forget what came, unless it was installed.
struct AbandonOnDrop<'a> {
    raft: &'a Raft,
    restore: u64,
    is_over: bool,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // Whoever leads now may be another: then it goes when it is idle.
            drop(self.raft.send(Request::RestoreAbandon { restore: self.restore }));
        }
    }
}

impl Raft {
    /// Replaces the state of the group by one from outside, on every replica at the same entry, whose
    /// position is the result. Commands that are acknowledged before that position are replaced with the
    /// rest.
    ///
    /// On the leader, also with a handle made by [`Raft::forwarding`]: the content would go through the
    /// network twice. It is first staged beside this node's snapshots and checked there, then goes through
    /// the log in pieces, which every replica stages; until the last entry, which installs them, nothing
    /// changes. One piece (256 KiB at most) is in memory. A busy leader is asked again for about a minute.
    ///
    /// Cancellation: dropping the future leaves the old state, and what was staged is removed (from a reader
    /// that blocks, when it returns), or lets the last step go on. A node that is stopped in the middle
    /// removes it when the group is opened again. [`Raft::within`] is for all of it.
    ///
    /// # Errors
    /// See [`RestoreError`].
    #[doc(alias = "Restore")]
    pub async fn restore(&self, state: ExternalState) -> Result<LogId, RestoreError> {
        let status = self.status();
        if status.role != RoleName::Leader {
            return Err(RestoreError::NotLeader { leader: status.leader_hint });
        }
        let Some(within) = self.within else { return self.restore_staged(state).await };
        let late = RestoreError::NotBroughtIn(RequestError::DeadlinePassed { within });
        tokio::time::timeout(within, self.restore_staged(state)).await.unwrap_or(Err(late))
    }

    async fn restore_staged(&self, state: ExternalState) -> Result<LogId, RestoreError> {
        let restore = getrandom::u64().unwrap_or_else(|_| crate::runtime::clock::unix_nanos());
        let cancel = CancelOnDrop(Arc::new(AtomicBool::new(false)));
        let place = {
            let config = self.config.lock().await;
            let piece_bytes = config.core.command_bytes_max.clamp(1, PIECE_BYTES_MAX);
            StagingPlace {
                store: Arc::clone(&self.shared.snapshots),
                group: self.group(),
                name: restore | OWN_NAMES,
                bytes_max: config.sessions.restore_bytes_max,
                piece_bytes: usize::try_from(piece_bytes).unwrap_or(usize::MAX),
                is_cancelled: Arc::clone(&cancel.0),
            }
        };
        let piece_bytes = place.piece_bytes;
        let staging = tokio::task::spawn_blocking(move || state.stage(&place));
        let staged = Arc::new(staging.await.map_err(|_panic| RestoreError::Stopped)??);
        let mut abandon = AbandonOnDrop { raft: self, restore, is_over: false };
        self.bring_in(restore, &staged, piece_bytes).await?;
        let install = Request::RestoreInstall { restore, bytes: staged.bytes, crc: staged.crc };
        match self.ask(install).await {
            Ok(Answer::Applied { id, .. }) => {
                abandon.is_over = true;
                Ok(id)
            }
            Ok(_other) => Err(RestoreError::Install(unexpected())),
            Err(RequestError::NotLeader { leader }) => Err(RestoreError::NotLeader { leader }),
            Err(error) => Err(RestoreError::Install(error)),
        }
    }

    async fn bring_in(
        &self,
        restore: u64,
        staged: &Arc<Staged>,
        piece_bytes: usize,
    ) -> Result<(), RestoreError> {
        let mut offset = 0;
        loop {
            let reading = Arc::clone(staged);
            let piece = tokio::task::spawn_blocking(move || reading.piece(offset, piece_bytes));
            let data = piece.await.map_err(|_panic| RestoreError::Stopped)??;
            let next = offset + data.len() as u64;
            self.bring_piece(Request::RestorePiece { restore, offset, data }).await?;
            offset = next;
            if offset == staged.bytes {
                return Ok(());
            }
        }
    }

    /// A repeat of a piece changes nothing, so a busy leader is asked again.
    async fn bring_piece(&self, piece: Request) -> Result<(), RestoreError> {
        let mut pause = Duration::from_millis(10);
        for _ in 0..BUSY_PAUSES {
            match self.ask(piece.clone()).await {
                Ok(Answer::Applied { .. }) => return Ok(()),
                Ok(_other) => return Err(RestoreError::NotBroughtIn(unexpected())),
                Err(RequestError::Busy { .. }) => {}
                Err(RequestError::NotLeader { leader }) => return Err(RestoreError::NotLeader { leader }),
                Err(error) => return Err(RestoreError::NotBroughtIn(error)),
            }
            #[expect(clippy::disallowed_methods, reason = "nothing signals room in the leader's queues")]
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BUSY_PAUSE_MAX);
        }
        Err(RestoreError::NotBroughtIn(RequestError::Busy { what: "the leader, for a long time" }))
    }
}

fn hint_text(leader: &Option<LeaderHint>) -> String {
    match leader {
        Some(hint) => format!(": ask node {}", hint.node),
        None => ": no leader is known, retry".to_owned(),
    }
}
