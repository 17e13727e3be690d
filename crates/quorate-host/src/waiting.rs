//! Who waits for an entry to be applied, and what they are told.
//!
//! ```text
//!   index  7: t2 command 31          applied 7@t2 ──► 31: the response
//!          8: t2 command 32          applied 8@t3 ──► 32: not the leader (its entry is gone)
//!             t3 barrier 40                           40: applied at 8@t3
//!          9: t2 command 33          leadership lost, long ago ──► 33: nobody knows
//! ```
//!
//! * Several may wait at one index: this replica led, lost its entry, and led again.
//! * "Not applied" is said only when another entry is committed at the position.

use quorate_core::planted::planted;
use quorate_core::{LogId, LogIndex, ReplicaId, RoleName};

use crate::event::{Now, Work};
use crate::replica::Replica;
use crate::request::{Answer, RequestError, Ticket};

/// Who waits for a position of the log.
#[derive(Clone, Debug)]
pub(crate) enum Waiting {
    Command(Ticket),
    Barrier(Ticket),
    Membership { ticket: Ticket, replicas: Vec<ReplicaId> },
}

impl Waiting {
    pub(crate) const fn ticket(&self) -> Ticket {
        match self {
            Self::Command(ticket) | Self::Barrier(ticket) | Self::Membership { ticket, .. } => *ticket,
        }
    }
}

impl Replica {
    pub(crate) fn wait(&mut self, id: LogId, waiting: Waiting) {
        // Nearly always at the end: only who led, lost its entries and leads again goes back.
        let place = self.waiting.partition_point(|(earlier, _)| earlier.index <= id.index);
        self.waiting.insert(place, (id, waiting));
    }

    /// Open requests of a leader that leads no more are answered after a while, even if it leads
    /// again by then: nothing may ever be committed where its lost entries stood.
    pub(crate) fn note_leadership(&mut self, now: Now) {
        let status = self.core.status();
        let leading = (status.role == RoleName::Leader).then_some(status.term);
        if leading != self.leading {
            if self.leading.is_some() && !self.waiting.is_empty() && self.lost_at.is_none() {
                self.lost_at = Some(now.mono);
            }
            self.leading = leading;
            self.propose_session_limits(now);
        }
    }

    /// Whoever waits for an entry of a term in which this replica does not lead is told that
    /// nobody knows.
    pub(crate) fn give_up_lost(&mut self, now: Now, work: &mut Work) {
        let patience = self.config.core.election_timeout;
        if self.lost_at.is_none_or(|lost| now.mono.since(lost) < patience) {
            return;
        }
        self.lost_at = None;
        for (id, waiting) in self.take_waiting(LogIndex::MAX) {
            if Some(id.term) == self.leading {
                self.wait(id, waiting);
            } else {
                work.replies.push((waiting.ticket(), Err(RequestError::OutcomeUnknown)));
            }
        }
    }

    /// Those who wait for positions up to `through`, in the order of the positions.
    pub(crate) fn take_waiting(&mut self, through: LogIndex) -> Vec<(LogId, Waiting)> {
        let decided = self.waiting.partition_point(|(id, _)| id.index <= through);
        self.waiting.drain(..decided).collect()
    }

    /// Tells everyone who waited for a position up to `through` what stands there.
    pub(crate) fn answer(
        &mut self,
        through: LogIndex,
        responses: Vec<(LogId, Result<Answer, RequestError>)>,
        work: &mut Work,
    ) {
        debug_assert!(responses.is_sorted_by_key(|(id, _)| id.index), "responses come in log order");
        for (id, waiting) in self.take_waiting(through) {
            // Several may wait at one index: this replica led, lost its entry, and led again.
            let found = responses.binary_search_by_key(&id.index, |(applied, _)| applied.index);
            let response = found.ok().and_then(|place| responses.get(place));
            let stands = response.map(|(applied, _)| applied.term).or_else(|| self.core.term_at(id.index));
            let ticket = waiting.ticket();
            let reply = match (stands, waiting, response) {
                // The log was reset behind the applier: nobody here knows any more what stood there.
                (None, _, _) => Err(RequestError::OutcomeUnknown),
                // Another entry was committed there: this one never will be.
                (Some(term), _, _) if term != id.term && !planted("answers_by_index") => {
                    Err(self.not_leader())
                }
                (Some(_), Waiting::Command(_), Some((_, response))) => response.clone(),
                // It was applied before this process started.
                (Some(_), Waiting::Command(_), None) => Err(RequestError::OutcomeUnknown),
                (Some(_), Waiting::Barrier(_), _) => {
                    Ok(Answer::Applied { id, response: bytes::Bytes::new() })
                }
                (Some(_), Waiting::Membership { replicas, .. }, _) => {
                    Ok(Answer::MembershipChanged { id, replicas })
                }
            };
            work.replies.push((ticket, reply));
        }
    }
}
