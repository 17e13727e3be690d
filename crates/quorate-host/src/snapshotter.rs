//! The snapshotter: saves, sends and receives snapshots, one piece a step, taking turns.
//!
//! ```text
//!   save      view ──pieces──► store ──► Saved
//!   send      store ──pieces──► follower ──answers──► SendEnded         (sending.rs)
//!   receive   leader ──pieces in order──► store ──► Staged             (receiving.rs)
//! ```
//!
//! * No kind of work can starve another one.
//! * A view that fails or panics fails its snapshot only.
//! * Pieces received and answers wait in a queue bounded in bytes; what is dropped is sent again.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use quorate_core::{GroupId, LogId};
use quorate_storage::{SnapshotError, SnapshotStore, SnapshotWriter};

use crate::applier::{describe, panic_text};
use crate::config::HostConfig;
use crate::event::{Event, SnapshotEvent, SnapshotTask};
use crate::receiving::Receives;
use crate::sending::Sends;
use crate::state_machine::SnapshotSource;

/// What a task costs in the queue besides the bytes it carries.
const TASK_BYTES: usize = 256;

struct Save {
    group: GroupId,
    last: LogId,
    source: Box<dyn SnapshotSource>,
    writer: Box<dyn SnapshotWriter>,
    chunk_bytes: usize,
}

/// Saves, sends and receives snapshots piece by piece, taking turns between them.
pub struct Snapshotter {
    store: Arc<dyn SnapshotStore>,
    saves: VecDeque<Save>,
    sends: Sends,
    receives: Receives,
    tasks: VecDeque<SnapshotTask>,
    /// Bytes of the tasks that may be dropped.
    backlog_bytes: usize,
    backlog_bytes_max: usize,
    last_turn: Turn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Task,
    Send,
    Save,
}

impl Snapshotter {
    /// A snapshotter on `store`.
    #[must_use]
    pub fn new(config: &HostConfig, store: Arc<dyn SnapshotStore>) -> Self {
        Self {
            store,
            saves: VecDeque::new(),
            sends: Sends::new(config),
            receives: Receives::default(),
            tasks: VecDeque::new(),
            backlog_bytes: 0,
            backlog_bytes_max: config.snapshot_backlog_bytes_max,
            last_turn: Turn::Save,
        }
    }

    /// Takes a task.
    pub fn submit(&mut self, task: SnapshotTask) {
        let bytes = droppable_bytes(&task);
        // A piece that is larger than the whole queue must get through, too.
        if bytes > 0 && self.backlog_bytes > 0 && self.backlog_bytes + bytes > self.backlog_bytes_max {
            return;
        }
        self.backlog_bytes += bytes;
        self.tasks.push_back(task);
    }

    /// Whether `step` has something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.tasks.is_empty() || self.sends.has_work() || !self.saves.is_empty()
    }

    /// Does one piece of work.
    pub fn step(&mut self) -> Vec<Event> {
        let order = match self.last_turn {
            Turn::Task => [Turn::Send, Turn::Save, Turn::Task],
            Turn::Send => [Turn::Save, Turn::Task, Turn::Send],
            Turn::Save => [Turn::Task, Turn::Send, Turn::Save],
        };
        let Some(turn) = order.into_iter().find(|turn| self.is_due(*turn)) else { return Vec::new() };
        self.last_turn = turn;
        let events = match turn {
            Turn::Task => self.tasks.pop_front().map(|task| self.take(task)).unwrap_or_default(),
            Turn::Send => self.sends.step(&*self.store),
            Turn::Save => self.save_piece(),
        };
        events.into_iter().map(Event::Snapshot).collect()
    }

    fn is_due(&self, turn: Turn) -> bool {
        match turn {
            Turn::Task => !self.tasks.is_empty(),
            Turn::Send => self.sends.has_work(),
            Turn::Save => !self.saves.is_empty(),
        }
    }

    fn take(&mut self, task: SnapshotTask) -> Vec<SnapshotEvent> {
        self.backlog_bytes -= droppable_bytes(&task);
        let store = &*self.store;
        match task {
            SnapshotTask::Save { group, meta, source, chunk_bytes } => match store.create(group, &meta) {
                Ok(writer) => {
                    self.saves.push_back(Save { group, last: meta.last, source, writer, chunk_bytes });
                    Vec::new()
                }
                Err(error) => vec![SnapshotEvent::SaveFailed { group, reason: describe(&error) }],
            },
            SnapshotTask::Send(send) => self.sends.submit(send, store),
            SnapshotTask::Acked { group, ack } => self.sends.on_ack(group, &ack, store),
            SnapshotTask::AskAgain { group, to } => {
                self.sends.ask_again(group, to);
                Vec::new()
            }
            SnapshotTask::Allow { bytes } => {
                self.sends.allow(bytes);
                Vec::new()
            }
            SnapshotTask::CancelSend { group, to } => self.sends.cancel(group, to, store),
            SnapshotTask::Receive { group, node, chunk } => self.receives.receive(group, node, &chunk, store),
            SnapshotTask::Retain { group, keep } => {
                // Failing to remove an old snapshot costs space only; the next one tries again.
                drop(store.retain(group, keep));
                Vec::new()
            }
            SnapshotTask::Close { group } => self.close(group),
        }
    }

    fn close(&mut self, group: GroupId) -> Vec<SnapshotEvent> {
        self.receives.close(group);
        let (closed, others): (VecDeque<Save>, _) =
            std::mem::take(&mut self.saves).into_iter().partition(|save| save.group == group);
        self.saves = others;
        closed.into_iter().for_each(|save| drop_view(save.source));
        self.sends.close(group, &*self.store)
    }

    /// Removes everything of a closed group that was removed from this node, at once: nothing that still
    /// waits here can bring a snapshot back. Returns what that gives the others to do.
    ///
    /// # Errors
    /// A snapshot could not be removed; may be repeated.
    pub fn forget(&mut self, group: GroupId) -> Result<Vec<Event>, SnapshotError> {
        let (gone, kept): (VecDeque<SnapshotTask>, _) =
            std::mem::take(&mut self.tasks).into_iter().partition(|task| task.group() == Some(group));
        self.tasks = kept;
        for task in gone {
            self.backlog_bytes -= droppable_bytes(&task);
            if let SnapshotTask::Save { source, .. } = task {
                drop_view(source);
            }
        }
        let events = self.close(group);
        self.store.retain(group, 0)?;
        Ok(events.into_iter().map(Event::Snapshot).collect())
    }

    fn save_piece(&mut self) -> Vec<SnapshotEvent> {
        let Some(mut save) = self.saves.pop_front() else { return Vec::new() };
        let (group, last) = (save.group, save.last);
        match save.piece() {
            Ok(true) => {
                self.saves.push_back(save);
                return Vec::new();
            }
            Ok(false) => {}
            Err(reason) => {
                drop_view(save.source);
                return vec![SnapshotEvent::SaveFailed { group, reason }];
            }
        }
        drop_view(save.source);
        vec![match save.writer.finish() {
            Ok(snapshot) => {
                self.receives.on_saved(group, last);
                SnapshotEvent::Saved { group, snapshot }
            }
            Err(error) => SnapshotEvent::SaveFailed { group, reason: describe(&error) },
        }]
    }
}

impl SnapshotTask {
    const fn group(&self) -> Option<GroupId> {
        match self {
            Self::Save { group, .. }
            | Self::AskAgain { group, .. }
            | Self::Acked { group, .. }
            | Self::CancelSend { group, .. }
            | Self::Receive { group, .. }
            | Self::Retain { group, .. }
            | Self::Close { group } => Some(*group),
            Self::Send(send) => Some(send.group),
            Self::Allow { .. } => None,
        }
    }
}

impl Save {
    /// Writes one piece; says whether there was one.
    fn piece(&mut self) -> Result<bool, String> {
        // The view is not used again after a panic.
        let piece = catch_unwind(AssertUnwindSafe(|| self.source.next_chunk(self.chunk_bytes)));
        let piece = piece.map_err(|panic| format!("reading the view panicked: {}", panic_text(&*panic)))?;
        match piece.map_err(|error| describe(&error))? {
            Some(piece) => self.writer.write(&piece).map(|()| true).map_err(|error| describe(&error)),
            None => Ok(false),
        }
    }
}

/// Even dropping may panic in a view that is already broken; the others go on.
pub(crate) fn drop_view(view: Box<dyn SnapshotSource>) {
    drop(catch_unwind(AssertUnwindSafe(|| drop(view))));
}

/// The bytes of a task that may be lost: its sender sends it again. 0 for the others, of which there are
/// only a few a group.
fn droppable_bytes(task: &SnapshotTask) -> usize {
    match task {
        SnapshotTask::Receive { chunk, .. } => TASK_BYTES + chunk.data.len(),
        SnapshotTask::Acked { .. } => TASK_BYTES,
        SnapshotTask::Save { .. }
        | SnapshotTask::Send(_)
        | SnapshotTask::AskAgain { .. }
        | SnapshotTask::Allow { .. }
        | SnapshotTask::CancelSend { .. }
        | SnapshotTask::Retain { .. }
        | SnapshotTask::Close { .. } => 0,
    }
}
