//! Reads that wait: first for the core to say from which index on they may be answered, then for
//! the applier to be given everything up to there.
//!
//! ```text
//!   ask ──► pending ──ReadOutcome::At──► decided ──given to apply──► answering ──► answer
//!              └──── ReadOutcome::Failed ──► not the leader
//! ```
//!
//! * A query goes to the applier behind everything it must see; the applier works in order.
//! * Queries are bounded in bytes, wherever they wait.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_core::{LogIndex, ReadError, ReadOutcome, ReadTicket};

use crate::event::{ApplyTask, Now, Work};
use crate::replica::Replica;
use crate::request::{Answer, RequestError, Ticket};

/// What a query costs besides its bytes.
const QUERY_BYTES: u64 = 128;

/// What a decided read does.
#[derive(Clone, Debug)]
pub(crate) enum Reading {
    Query(Bytes),
    ReadIndex,
}

#[derive(Debug)]
pub(crate) struct Reads {
    /// By the name the core knows them by.
    pending: BTreeMap<u64, (Ticket, Reading)>,
    next: u64,
    /// Decided reads that wait for the applier to be given everything up to an index.
    decided: BTreeMap<LogIndex, Vec<(Ticket, Reading)>>,
    /// Queries that the applier has, and what they cost.
    answering: BTreeMap<Ticket, u64>,
    /// What all queries cost.
    query_bytes: u64,
    count: usize,
}

impl Reading {
    fn query_bytes(&self) -> u64 {
        match self {
            Self::Query(request) => QUERY_BYTES + request.len() as u64,
            Self::ReadIndex => 0,
        }
    }
}

impl Reads {
    pub(crate) const fn new() -> Self {
        Self {
            pending: BTreeMap::new(),
            next: 1,
            decided: BTreeMap::new(),
            answering: BTreeMap::new(),
            query_bytes: 0,
            count: 0,
        }
    }

    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Counts a read in, if there is room for it.
    fn admit(&mut self, reading: &Reading, bytes_max: u64) -> Result<(), RequestError> {
        let bytes = reading.query_bytes();
        if bytes > bytes_max {
            return Err(RequestError::TooLarge { bytes, bytes_max });
        }
        if self.query_bytes + bytes > bytes_max {
            return Err(RequestError::Busy { what: "too many bytes of queries are waiting" });
        }
        self.query_bytes += bytes;
        self.count += 1;
        Ok(())
    }

    /// Counts a read out that is, or will be, answered.
    const fn leave(&mut self, query_bytes: u64) {
        self.query_bytes -= query_bytes;
        self.count -= 1;
    }

    /// Everybody who waits; nobody does any more.
    pub(crate) fn take_all(&mut self) -> Vec<Ticket> {
        let Self { pending, decided, answering, .. } = std::mem::replace(self, Self::new());
        let decided = decided.into_values().flatten();
        let waiting = pending.into_values().chain(decided).map(|(ticket, _)| ticket);
        answering.into_keys().chain(waiting).collect()
    }
}

impl Replica {
    /// Asks the core from which index on this may be answered.
    pub(crate) fn read(&mut self, now: Now, ticket: Ticket, reading: Reading) -> Result<(), RequestError> {
        self.reads.admit(&reading, self.config.query_bytes_max)?;
        let read = self.reads.next;
        self.reads.next += 1;
        if let Err(error) = self.core.read(now.mono, ReadTicket(read)) {
            self.reads.leave(reading.query_bytes());
            return Err(match error {
                ReadError::NoLeader => RequestError::NotLeader { leader: None },
                ReadError::Busy | _ => RequestError::Busy { what: "too many reads are waiting" },
            });
        }
        self.reads.pending.insert(read, (ticket, reading));
        Ok(())
    }

    /// Asks the applier at once, whatever it has applied.
    pub(crate) fn read_stale(
        &mut self,
        ticket: Ticket,
        request: Bytes,
        work: &mut Work,
    ) -> Result<(), RequestError> {
        let reading = Reading::Query(request.clone());
        self.reads.admit(&reading, self.config.query_bytes_max)?;
        self.ask_applier(ticket, request, work);
        Ok(())
    }

    /// The core has decided.
    pub(crate) fn on_read(&mut self, outcome: ReadOutcome, work: &mut Work) {
        let (ReadOutcome::At { ticket: ReadTicket(read), .. }
        | ReadOutcome::Failed { ticket: ReadTicket(read) }) = outcome;
        let Some((ticket, reading)) = self.reads.pending.remove(&read) else { return };
        match outcome {
            ReadOutcome::At { index, .. } => {
                self.reads.decided.entry(index).or_default().push((ticket, reading));
            }
            ReadOutcome::Failed { .. } => {
                self.reads.leave(reading.query_bytes());
                work.replies.push((ticket, Err(self.not_leader())));
            }
        }
    }

    /// Gives the applier the queries that may be answered behind what it has been given.
    pub(crate) fn release_reads(&mut self, work: &mut Work) {
        while let Some(first) = self.reads.decided.first_entry() {
            let index = *first.key();
            if index > self.handed {
                break;
            }
            let mut kept = Vec::new();
            for (ticket, reading) in first.remove() {
                match reading {
                    Reading::Query(request) => self.ask_applier(ticket, request, work),
                    Reading::ReadIndex if self.applied >= index => {
                        self.reads.leave(0);
                        work.replies.push((ticket, Ok(Answer::ReadIndex { index })));
                    }
                    Reading::ReadIndex => kept.push((ticket, Reading::ReadIndex)),
                }
            }
            if !kept.is_empty() {
                self.reads.decided.insert(index, kept);
                break;
            }
        }
    }

    fn ask_applier(&mut self, ticket: Ticket, request: Bytes, work: &mut Work) {
        self.reads.answering.insert(ticket, QUERY_BYTES + request.len() as u64);
        work.apply.push(ApplyTask::Query { group: self.group, ticket, request });
    }

    /// The applier has answered.
    pub(crate) fn on_queried(&mut self, ticket: Ticket, answer: Answer, work: &mut Work) {
        if let Some(bytes) = self.reads.answering.remove(&ticket) {
            self.reads.leave(bytes);
            work.replies.push((ticket, Ok(answer)));
        }
    }
}
