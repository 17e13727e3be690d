//! Linearizable reads without writing (Raft thesis §6.4): ask, confirm leadership, serve.
//!
//! ```text
//!   read ─► waiting ──(own term committed, no round out)──► in flight: round 7, index = commit
//!                                                             │ heartbeats and appends carry 7
//!   ReadOutcome::At { index } ◄──(a quorum answered 7)────────┘
//! ```
//!
//! * Rounds are numbered by the leader within its term; an answer of another term never counts.
//! * A round starts at once when none is out; reads that come meanwhile share the next one.
//! * A round's index is the commit index when it starts: at least that of any read in it.
//! * Every read is answered: when its time is over, or leadership is, with a failure.

use std::collections::BTreeMap;

use crate::planted::planted;
use crate::ready::ReadTicket;
use crate::types::{LogIndex, MonoTime, ReplicaId};

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Asker {
    /// The caller of this replica.
    Local(ReadTicket),
    /// A follower.
    Remote { from: ReplicaId, request: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    asker: Asker,
    until: MonoTime,
}

/// The leader's rounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rounds {
    newest: u64,
    /// The round that those in flight wait for.
    asked: u64,
    index: LogIndex,
    in_flight: Vec<Waiting>,
    waiting: Vec<Waiting>,
}

impl Rounds {
    pub(crate) const fn len(&self) -> usize {
        self.in_flight.len() + self.waiting.len()
    }
    pub(crate) fn release_memory(&mut self) {
        self.in_flight.shrink_to_fit();
        self.waiting.shrink_to_fit();
    }
    pub(crate) const fn newest(&self) -> u64 {
        self.newest
    }
    pub(crate) const fn is_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    pub(crate) fn ask(&mut self, asker: Asker, until: MonoTime) {
        self.waiting.push(Waiting { asker, until });
    }

    /// Whether a round has someone to serve and none is out.
    pub(crate) const fn can_start(&self) -> bool {
        self.in_flight.is_empty() && !self.waiting.is_empty()
    }

    /// Begins a round, for nobody yet.
    pub(crate) const fn begin(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// Starts a round for everybody who waits.
    pub(crate) fn start(&mut self, commit: LogIndex) -> u64 {
        let reuses = self.newest > 0 && planted("round_number_reused");
        self.asked = if reuses { self.newest } else { self.begin() };
        self.index = commit;
        self.in_flight = std::mem::take(&mut self.waiting);
        self.asked
    }

    /// A quorum answered round `number`. Returns who may read at which index.
    pub(crate) fn confirm(&mut self, number: u64) -> Vec<(Asker, LogIndex)> {
        if number < self.asked {
            return Vec::new();
        }
        let index = self.index;
        self.in_flight.drain(..).map(|waiting| (waiting.asker, index)).collect()
    }

    /// Who has waited too long.
    pub(crate) fn expire(&mut self, now: MonoTime) -> Vec<Asker> {
        let mut expired = Vec::new();
        if self.len() == 0 {
            return expired;
        }
        for list in [&mut self.in_flight, &mut self.waiting] {
            let over = list.partition_point(|waiting| waiting.until <= now);
            expired.extend(list.drain(..over).map(|waiting| waiting.asker));
        }
        expired
    }

    pub(crate) fn deadline(&self) -> Option<MonoTime> {
        let first = |list: &Vec<Waiting>| list.first().map(|waiting| waiting.until);
        first(&self.in_flight).or_else(|| first(&self.waiting))
    }

    pub(crate) fn abandon(self) -> impl Iterator<Item = Asker> {
        self.in_flight.into_iter().chain(self.waiting).map(|waiting| waiting.asker)
    }
}

/// Reads that a follower has passed on to its leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PassedOn {
    asked: BTreeMap<u64, (ReadTicket, MonoTime)>,
}

impl PassedOn {
    pub(crate) fn len(&self) -> usize {
        self.asked.len()
    }
    pub(crate) fn release_memory(&mut self) {
        // A tree that was used once keeps a leaf.
        if self.asked.is_empty() {
            self.asked = BTreeMap::new();
        }
    }
    pub(crate) fn ask(&mut self, request: u64, ticket: ReadTicket, until: MonoTime) {
        self.asked.insert(request, (ticket, until));
    }
    pub(crate) fn answered(&mut self, request: u64) -> Option<ReadTicket> {
        self.asked.remove(&request).map(|(ticket, _)| ticket)
    }
    pub(crate) fn deadline(&self) -> Option<MonoTime> {
        self.asked.first_key_value().map(|(_, (_, until))| *until)
    }
    pub(crate) fn expire(&mut self, now: MonoTime) -> Vec<ReadTicket> {
        let mut expired = Vec::new();
        while let Some(first) = self.asked.first_entry().filter(|first| first.get().1 <= now) {
            expired.push(first.remove().0);
        }
        expired
    }
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = ReadTicket> + use<> {
        std::mem::take(&mut self.asked).into_values().map(|(ticket, _)| ticket)
    }
}
