//! Reads that wait: first for the core to say from which index on they may be answered, then for
//! the applier to be given everything up to there.
//!
//! ```text
//!   ask ──► pending ──ReadOutcome::At──► decided ──given to apply──► answering ──► answer
//!              └──── ReadOutcome::Failed ──► not the leader, or busy
//! ```
//!
//! * A query goes to the applier behind everything it must see; the applier works in order.
//! * Queries are bounded in bytes, wherever they wait.
//! * Each decided read says of a moment, by the clock here, what was committed before it. A read that may be a
//!   little old is answered from the newest such fact; no clock of another node is believed.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_core::planted::planted;
use quorate_core::{LogIndex, MonoTime, ReadError, ReadFailure, ReadOutcome, ReadTicket, RoleName, Term};

use crate::event::{ApplyTask, Now, Work};
use crate::replica::Replica;
use crate::request::{Answer, Consistency, RequestError, Ticket};

/// What a query costs besides its bytes.
const QUERY_BYTES: u64 = 128;

/// What a decided read does.
#[derive(Clone, Debug)]
pub(crate) enum Reading {
    Query(Bytes),
    ReadIndex,
    /// Whether this replica leads in this term.
    Verify(Term),
}

/// A read that the core has.
#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    reading: Reading,
    asked: MonoTime,
}

#[derive(Debug)]
pub(crate) struct Reads {
    /// By the name the core knows them by.
    pending: BTreeMap<u64, Pending>,
    next: u64,
    /// Everything committed before that moment is at most at that index: the newest such fact.
    known: Option<(MonoTime, LogIndex)>,
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
            Self::ReadIndex | Self::Verify(_) => 0,
        }
    }
}

impl Reads {
    pub(crate) const fn new() -> Self {
        Self {
            pending: BTreeMap::new(),
            next: 1,
            known: None,
            decided: BTreeMap::new(),
            answering: BTreeMap::new(),
            query_bytes: 0,
            count: 0,
        }
    }

    pub(crate) fn release_memory(&mut self) {
        // Trees that were used once keep a leaf.
        if self.count == 0 {
            (self.pending, self.decided) = (BTreeMap::new(), BTreeMap::new());
            self.answering = BTreeMap::new();
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
        let pending = pending.into_values().map(|pending| pending.ticket);
        let waiting = pending.chain(decided.map(|(ticket, _)| ticket));
        answering.into_keys().chain(waiting).collect()
    }

    /// From which index on a read may be answered that may be `age_max` old.
    fn recent(&self, now: MonoTime, age_max: Duration) -> Option<LogIndex> {
        let (at, index) = self.known?;
        (now.since(at) <= age_max || planted("recent_of_any_age")).then_some(index)
    }
}

impl Replica {
    /// Takes a read: it waits for as much as `consistency` asks for.
    pub(crate) fn read(
        &mut self,
        now: Now,
        ticket: Ticket,
        reading: Reading,
        consistency: Consistency,
    ) -> Result<(), RequestError> {
        self.reads.admit(&reading, self.config.query_bytes_max)?;
        let at = match consistency {
            Consistency::Linearizable | Consistency::Lease if planted("reads_are_stale") => {
                Some(self.applied)
            }
            Consistency::Linearizable | Consistency::Lease => None,
            Consistency::Recent { age_max } => self.reads.recent(now.mono, age_max),
            // Whatever has been applied: a query goes to the applier at once.
            Consistency::Stale => Some(self.applied),
        };
        if let Some(index) = at {
            self.reads.decided.entry(index).or_default().push((ticket, reading));
            return Ok(());
        }
        self.ask_core(now, ticket, reading, consistency == Consistency::Lease)
    }

    /// Takes a question whether this replica leads: a round of its own term, whose voters answer.
    pub(crate) fn verify_leader(&mut self, now: Now, ticket: Ticket) -> Result<(), RequestError> {
        let status = self.core.status();
        if status.role != RoleName::Leader {
            return Err(self.not_leader());
        }
        let reading = Reading::Verify(status.term);
        self.reads.admit(&reading, self.config.query_bytes_max)?;
        self.ask_core(now, ticket, reading, false)
    }

    /// Asks the core from which index on an admitted read may be answered.
    fn ask_core(
        &mut self,
        now: Now,
        ticket: Ticket,
        reading: Reading,
        lease: bool,
    ) -> Result<(), RequestError> {
        let read = self.reads.next;
        self.reads.next += 1;
        let asked = if lease {
            self.core.read_lease(now.mono, ReadTicket(read))
        } else {
            self.core.read(now.mono, ReadTicket(read))
        };
        if let Err(error) = asked {
            self.reads.leave(reading.query_bytes());
            return Err(match error {
                ReadError::NoLeader => RequestError::NotLeader { leader: None },
                ReadError::Busy | _ => RequestError::Busy { what: "too many reads are waiting" },
            });
        }
        self.reads.pending.insert(read, Pending { ticket, reading, asked: now.mono });
        Ok(())
    }

    /// The core has decided.
    pub(crate) fn on_read(&mut self, outcome: ReadOutcome, work: &mut Work) {
        let (ReadOutcome::At { ticket: ReadTicket(read), .. }
        | ReadOutcome::Failed { ticket: ReadTicket(read), .. }) = outcome;
        let Some(Pending { ticket, reading, asked }) = self.reads.pending.remove(&read) else { return };
        match outcome {
            ReadOutcome::At { index, .. } => {
                self.reads.known = self.reads.known.max(Some((asked, index)));
                self.decide(index, ticket, reading, work);
            }
            ReadOutcome::Failed { reason, .. } => {
                self.reads.leave(reading.query_bytes());
                let leads = self.core.status().role == RoleName::Leader;
                let error = match reason {
                    // Its own disk may be what is slow.
                    ReadFailure::TimedOut if leads => RequestError::Busy {
                        what: "no majority confirmed this leader within an election timeout",
                    },
                    ReadFailure::TimedOut
                    | ReadFailure::LeadershipLost
                    | ReadFailure::LeaderChanged
                    | ReadFailure::Refused => self.not_leader(),
                };
                work.replies.push((ticket, Err(error)));
            }
        }
    }

    fn decide(&mut self, index: LogIndex, ticket: Ticket, reading: Reading, work: &mut Work) {
        let Reading::Verify(term) = reading else {
            self.reads.decided.entry(index).or_default().push((ticket, reading));
            return;
        };
        self.reads.leave(0);
        // A later term's round says nothing of the one that was asked about.
        let status = self.core.status();
        let leads = status.role == RoleName::Leader && status.term == term;
        let answer = if leads { Ok(Answer::LeaderVerified { term }) } else { Err(self.not_leader()) };
        work.replies.push((ticket, answer));
    }

    /// Gives the applier the queries that may be answered behind what it has been given.
    pub(crate) fn release_reads(&mut self, work: &mut Work) {
        while let Some(first) = self.reads.decided.first_entry() {
            let index = *first.key();
            if index > self.handed && !planted("read_before_applied") {
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
                    waiting @ (Reading::ReadIndex | Reading::Verify(_)) => kept.push((ticket, waiting)),
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
