//! The writes of the log that a replica has handed out.
//!
//! ```text
//!   Persist ──► in flight ──► LogTask ──► LogWritten Ok ──► told to the core
//!                   ▲                        │ NoSpace
//!                   └── all handed out again, a heartbeat interval later
//! ```
//!
//! * Writes are handed out in order; one that found no space is handed out again before any later one counts.
//! * A leader whose oldest write does not come back hands over: a hung disk is a failed leader. One whose disk is full
//!   hands over as well, but goes on without writes if nobody can take over.

use quorate_core::{Persist, PersistToken, RoleName};
use quorate_storage::LogError;

use crate::event::{LogTask, Now, Work};
use crate::host::DiskHealth;
use crate::replica::Replica;

impl Replica {
    pub(crate) fn persist(&mut self, now: Now, persist: Persist, work: &mut Work) {
        let task = LogTask::persist(self.group, persist);
        self.in_flight.push_back((now.mono, task.clone()));
        if self.blocked.is_none() {
            self.outstanding += 1;
            work.log.push(task);
        }
    }

    /// A write is done. `Err`: the log has failed for good (`Failed`), or cannot be trusted for this group.
    pub(crate) fn on_log_written(
        &mut self,
        now: Now,
        token: Option<PersistToken>,
        result: Result<(), LogError>,
    ) -> Result<(), LogError> {
        let Some(token) = token else {
            return match result {
                Err(error @ (LogError::Failed { .. } | LogError::Damaged(_))) => Err(error),
                // Compaction that found no space is asked for again by the next snapshot.
                Ok(()) | Err(_) => Ok(()),
            };
        };
        self.outstanding = self.outstanding.saturating_sub(1);
        self.disk_moved = now.mono;
        match result {
            Ok(()) if self.blocked.is_none() => {
                while self
                    .in_flight
                    .front()
                    .is_some_and(|(_, task)| task.token.is_some_and(|front| front <= token))
                {
                    self.in_flight.pop_front();
                }
                self.is_disk_full = false;
                self.core.on_persisted(now.mono, token);
            }
            // Writes behind one that found no space do not count: they are handed out again, too.
            Ok(()) | Err(LogError::NoSpace { .. }) => {
                self.is_disk_full = true;
                self.blocked = Some(now.mono + self.config.core.heartbeat_interval);
            }
            Err(LogError::Invalid { .. }) if self.blocked.is_some() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes handed out whose completions are still to come.
    pub(crate) const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Hands out again what found no space, once all of it has come back.
    pub(crate) fn retry_writes(&mut self, now: Now, work: &mut Work) {
        if self.blocked.is_none_or(|retry_at| now.mono < retry_at) {
            return;
        }
        if self.outstanding > 0 {
            self.blocked = Some(now.mono + self.config.core.heartbeat_interval);
            return;
        }
        self.blocked = None;
        self.disk_moved = now.mono;
        self.outstanding = self.in_flight.len();
        work.log.extend(self.in_flight.iter().map(|(_, task)| task.clone()));
    }

    /// What the log's disk does, as far as this replica's writes tell.
    pub(crate) fn disk_health(&self, now: Now) -> DiskHealth {
        // A full disk says so at every retry; one that does not even do that hangs.
        let silent_for = now.mono.since(self.disk_moved);
        let answers = self.outstanding == 0 || silent_for < self.config.stalled_write_max;
        if self.is_disk_full && answers {
            DiskHealth::Full
        } else if self.oldest_write_is_late(now) {
            DiskHealth::Stalled
        } else {
            DiskHealth::Works
        }
    }

    fn oldest_write_is_late(&self, now: Now) -> bool {
        self.in_flight
            .front()
            .is_some_and(|(since, _)| now.mono.since(*since) >= self.config.stalled_write_max)
    }

    /// A leader whose disk does not answer hands over, or steps down; one whose disk is full only hands over.
    pub(crate) fn watch_disk(&mut self, now: Now) {
        if !self.oldest_write_is_late(now) || self.core.status().role != RoleName::Leader {
            self.disk_checked_next = None;
            return;
        }
        match self.disk_checked_next {
            Some(next) if next > now.mono => return,
            // Reads and heartbeats need no space: it goes on with them if nobody can take over.
            Some(_) | None if self.disk_health(now) == DiskHealth::Full => {
                self.core.transfer_leadership(now.mono, None).ok();
            }
            // Nobody took over.
            Some(_) => self.core.forget_leader(now.mono),
            None if self.core.transfer_leadership(now.mono, None).is_err() => {
                self.core.forget_leader(now.mono);
            }
            None => {}
        }
        self.disk_checked_next = Some(now.mono + self.config.core.election_timeout);
    }
}
