//! What a leader's replica knows of the snapshots it streams: who gets one, and when to ask again or give up.
//! The bytes are moved by the snapshotter (`sending.rs`), which has no clock.
//!
//! ```text
//!   core wants one ──► Capturing ──saved──► Queued ──its turn──► Sending ──► told to the core
//!                      (none is new enough)                        │ no answer: ask again, ever slower
//!                                                                  │ no progress: give up
//! ```

use std::ops::Range;
use std::time::Duration;

use quorate_core::{LogId, LogIndex, MonoTime, RaftEvent, ReplicaId, RoleName, SnapshotOutcome, Term};

use crate::event::{Now, SendOutcome, SnapshotSend, SnapshotTask, Work};
use crate::peer::{SnapshotAck, SnapshotChunk};
use crate::replica::Replica;
use crate::snapshots::SnapshotState;

/// A stream that makes no progress for this many election timeouts is given up.
const PATIENCE: u32 = 10;

/// A stream to a follower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streaming {
    term: Term,
    /// The length of the snapshot, once it is known which.
    bytes: u64,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// A snapshot is being taken.
    Capturing { at_least: LogIndex },
    /// Others come first.
    Queued,
    /// The follower is asked, and gets what it wants.
    Sending {
        /// How far the follower is.
        reached: u64,
        /// When it is given up, unless it gets further.
        until: MonoTime,
        /// It is asked again then, unless it answers.
        ask_at: MonoTime,
        /// How long the next answer may take.
        pause: Duration,
    },
}

/// What is told when a piece gets a stream into its next tenth.
fn progress_of(
    peer: ReplicaId,
    sends: bool,
    last: LogId,
    piece: &Range<u64>,
    bytes_total: u64,
) -> Option<RaftEvent> {
    let tenth = |offset: u64| u128::from(offset) * 10 / u128::from(bytes_total.max(1));
    let bytes = piece.end;
    (tenth(bytes) > tenth(piece.start)).then_some(RaftEvent::SnapshotProgress {
        peer,
        sends,
        last,
        bytes,
        bytes_total,
    })
}

impl Replica {
    /// Streams the newest snapshot to a follower, taking one first if none is new enough.
    pub(crate) fn stream(&mut self, now: Now, to: ReplicaId, at_least: LogIndex, work: &mut Work) {
        let status = self.core.status();
        let (term, epoch) = (status.term, status.membership.epoch());
        let newest = self.snapshot.clone().filter(|snapshot| snapshot.meta.last.index >= at_least);
        let Some((node, address)) = self.locate(to) else {
            self.core.report_snapshot(now.mono, to, SnapshotOutcome::Failed);
            return;
        };
        let Some(snapshot) = newest else {
            self.streams.insert(to, Streaming { term, bytes: 0, phase: Phase::Capturing { at_least } });
            self.capture(work);
            if self.snapshot_state == SnapshotState::Idle {
                self.end_stream(now, to, SnapshotOutcome::Failed);
            }
            return;
        };
        self.streams.insert(to, Streaming { term, bytes: snapshot.bytes, phase: Phase::Queued });
        let (group, from, policy) = (self.group, self.id, &self.config.snapshots);
        let (chunk_bytes, window_bytes) = (policy.chunk_bytes, policy.window_bytes);
        let send =
            SnapshotSend { group, snapshot, from, to, node, address, term, epoch, chunk_bytes, window_bytes };
        work.snapshots.push(SnapshotTask::Send(send));
    }

    /// A snapshot was taken: it may be what streams wait for.
    pub(crate) fn start_waiting_streams(&mut self, now: Now, work: &mut Work) {
        for (to, at_least) in self.waiting_streams() {
            self.stream(now, to, at_least, work);
        }
    }

    /// None could be taken.
    pub(crate) fn fail_waiting_streams(&mut self, now: Now) {
        for (to, _) in self.waiting_streams() {
            self.end_stream(now, to, SnapshotOutcome::Failed);
        }
    }

    fn waiting_streams(&self) -> Vec<(ReplicaId, LogIndex)> {
        let waiting = self.streams.iter().filter_map(|(to, stream)| match stream.phase {
            Phase::Capturing { at_least } => Some((*to, at_least)),
            Phase::Queued | Phase::Sending { .. } => None,
        });
        waiting.collect()
    }

    /// It is a stream's turn.
    pub(crate) fn on_send_started(&mut self, now: Now, to: ReplicaId) {
        let pause = self.config.core.heartbeat_interval;
        let (until, ask_at) = (now.mono + self.stream_patience(), now.mono + pause);
        if let Some(stream) = self.streams.get_mut(&to) {
            stream.phase = Phase::Sending { reached: 0, until, ask_at, pause };
        }
    }

    /// An answer came: the stream lives, and if it got further it makes progress.
    pub(crate) fn on_stream_ack(&mut self, now: Now, ack: &SnapshotAck, work: &mut Work) {
        let interval = self.config.core.heartbeat_interval;
        let patience = self.stream_patience();
        if let Some(Streaming { phase: Phase::Sending { reached, until, ask_at, pause }, bytes, .. }) =
            self.streams.get_mut(&ack.from)
        {
            let piece = *reached..ack.next_offset.min(*bytes);
            let progress = progress_of(ack.from, true, ack.last, &piece, *bytes);
            work.events.extend(progress.map(|event| (self.group, event)));
            if ack.next_offset > *reached {
                *until = now.mono + patience;
            }
            *reached = ack.next_offset;
            (*pause, *ask_at) = (interval, now.mono + interval);
        }
    }

    /// A piece came from a leader.
    pub(crate) fn note_piece(&self, chunk: &SnapshotChunk, work: &mut Work) {
        let piece = chunk.offset..chunk.offset.saturating_add(chunk.data.len() as u64).min(chunk.bytes);
        let progress = progress_of(chunk.from, false, chunk.meta.last, &piece, chunk.bytes);
        work.events.extend(progress.map(|event| (self.group, event)));
    }

    /// The snapshotter is done with a stream.
    pub(crate) fn on_send_ended(
        &mut self,
        now: Now,
        to: ReplicaId,
        last: quorate_core::LogId,
        outcome: SendOutcome,
        work: &mut Work,
    ) {
        let outcome = match outcome {
            SendOutcome::Complete => SnapshotOutcome::Sent,
            SendOutcome::Refused => SnapshotOutcome::Failed,
            SendOutcome::Unreadable { .. } => {
                // The newest one is damaged: another is needed, and soon.
                if self.snapshot.as_ref().is_some_and(|newest| newest.meta.last == last) {
                    self.snapshot = None;
                    self.capture(work);
                }
                SnapshotOutcome::Failed
            }
        };
        self.end_stream(now, to, outcome);
    }

    fn end_stream(&mut self, now: Now, to: ReplicaId, outcome: SnapshotOutcome) {
        if self.streams.remove(&to).is_some() {
            self.core.report_snapshot(now.mono, to, outcome);
        }
    }

    /// Asks again where nothing was heard; gives up streams that stand still or were started in another term.
    pub(crate) fn watch_streams(&mut self, now: Now, work: &mut Work) {
        let status = self.core.status();
        let (group, term, leads) = (self.group, status.term, status.role == RoleName::Leader);
        let pause_max = self.config.core.election_timeout;
        let mut over = Vec::new();
        for (to, stream) in &mut self.streams {
            let is_over = match &mut stream.phase {
                Phase::Capturing { .. } | Phase::Queued => false,
                Phase::Sending { until, ask_at, pause, .. } => {
                    if now.mono >= *ask_at {
                        *pause = (*pause * 2).min(pause_max);
                        *ask_at = now.mono + *pause;
                        work.snapshots.push(SnapshotTask::AskAgain { group, to: *to });
                    }
                    now.mono >= *until
                }
            };
            if is_over || stream.term != term || !leads {
                over.push(*to);
            }
        }
        for to in over {
            work.snapshots.push(SnapshotTask::CancelSend { group, to });
            self.end_stream(now, to, SnapshotOutcome::Failed);
        }
    }

    pub(crate) fn streams_deadline(&self) -> Option<MonoTime> {
        let deadlines = self.streams.values().filter_map(|stream| match stream.phase {
            Phase::Capturing { .. } | Phase::Queued => None,
            Phase::Sending { until, ask_at, .. } => Some(until.min(ask_at)),
        });
        deadlines.min()
    }

    fn stream_patience(&self) -> Duration {
        self.config.core.election_timeout * PATIENCE + self.stream_turn
    }
}
