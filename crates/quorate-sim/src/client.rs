//! A user of the store: one thing at a time, with a session, retrying what it may retry.
//!
//! ```text
//!   idle ──► choose ──► ask a node ──► answer ──► idle
//!                        ▲     │ no answer, not the leader, outcome unknown
//!                        └─────┘ the same command with the same number, elsewhere
//! ```
//!
//! * A write without an answer is retried with the same sequence number (or key), or given up: then its
//!   outcome is unknown, and the client goes on with a new session, like a restarted process.
//! * A client without protection never sends a command twice once it may have been applied.
//! * What it saw goes into the history that is checked for linearizability at the end of the run.

use std::time::Duration;

use bytes::Bytes;
use quorate_core::{GroupId, LogId, LogIndex, NodeId};
use quorate_host::{Answer, Consistency, Dedupe, LeaderRequest, Proposal, Request, RequestError, SessionId};
use quorate_kv::{Condition, KvAnswer, KvCommand, KvQuery, KvResponse};

use crate::invariants::Violation;
use crate::linearizability::{History, OpId, Operation, Outcome};
use crate::node::NEW_BUILD;
use crate::rng::{Rng, hash};
use crate::workload::Workload;

/// How a client protects its writes from being applied twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    Session,
    Key,
    /// None: never sends a write twice.
    Fragile,
}

/// What a client wants to know or to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Put {
        key: Bytes,
        value: Bytes,
    },
    Delete {
        key: Bytes,
    },
    /// Sets the value if the key holds `expected` (`None`: is absent).
    Swap {
        key: Bytes,
        expected: Option<Bytes>,
        value: Bytes,
    },
    Get {
        key: Bytes,
        /// From the leader's lease, where there is one.
        lease: bool,
    },
    /// A past state will do: any, or one that is not older than so many milliseconds.
    GetStale {
        key: Bytes,
        age_millis_max: Option<u64>,
    },
}

/// What a client does next.
#[derive(Debug)]
pub(crate) enum Move {
    /// Ask this node.
    Ask { node: NodeId, request: Request },
    /// Nothing any more.
    Rest,
}

/// What an answer meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Try again after about this many nanoseconds.
    Again(u64),
    /// The wish is settled.
    Settled { outcome: Outcome, acknowledged: Option<LogId> },
    /// A stale read was served.
    Stale { key: Bytes, applied: LogIndex, answer: Bytes },
    /// A session is open.
    Opened,
}

#[derive(Debug)]
struct Pending {
    wish: Wish,
    /// Where it stands in the history (stale reads are not in it).
    record: Option<OpId>,
    sequence: u64,
    attempts: u64,
    /// A command that older machines do not understand.
    is_new: bool,
    /// An attempt may have taken effect, or may yet.
    in_doubt: bool,
}

/// A user.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) group: GroupId,
    protection: Protection,
    /// Whoever is asked has the leader do it.
    forwards: bool,
    nodes: Vec<NodeId>,
    keys: u64,
    value_bytes_max: u64,
    target: NodeId,
    session: Option<SessionId>,
    sequence: u64,
    serial: u64,
    /// The last value seen, for swaps that have a chance.
    seen: Option<Bytes>,
    pending: Option<Pending>,
    wishes_left: u64,
    workload: Option<Workload>,
    /// Some of its commands are new.
    upgrades: bool,
    /// When the newest attempt was made.
    asked_at: u64,
    /// The number of the newest attempt: answers to others are too late.
    pub(crate) attempt: u64,
    /// An answer is awaited: the client does nothing else meanwhile.
    pub(crate) awaits: bool,
    rng: Rng,
}

/// The key `number` of a group.
pub(crate) fn key(group: GroupId, number: u64) -> Bytes {
    Bytes::from(format!("g{group}k{number}"))
}

/// What a new client needs.
pub(crate) struct ClientSetup {
    pub(crate) id: u64,
    pub(crate) group: GroupId,
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) keys: u64,
    pub(crate) value_bytes_max: u64,
    pub(crate) wishes: u64,
    pub(crate) workload: Option<Workload>,
    pub(crate) upgrades: bool,
}

impl Client {
    pub(crate) fn new(setup: ClientSetup, mut rng: Rng) -> Self {
        let protection = match rng.below(10) {
            0 => Protection::Fragile,
            1 | 2 => Protection::Key,
            _ => Protection::Session,
        };
        let target = setup.nodes.first().copied().unwrap_or_default();
        Self {
            id: setup.id,
            group: setup.group,
            protection,
            forwards: rng.chance(300),
            nodes: setup.nodes,
            keys: setup.keys,
            value_bytes_max: setup.value_bytes_max,
            target,
            session: None,
            sequence: 0,
            serial: 0,
            seen: None,
            pending: None,
            wishes_left: setup.wishes,
            workload: setup.workload,
            upgrades: setup.upgrades,
            asked_at: 0,
            attempt: 0,
            awaits: false,
            rng,
        }
    }

    /// Whether it has nothing left to do.
    pub(crate) const fn is_done(&self) -> bool {
        self.pending.is_none() && self.wishes_left == 0
    }

    /// From here on: one more write, then a read of every key. For the end of a run.
    pub(crate) const fn finish(&mut self) {
        self.wishes_left = self.keys + 1;
    }

    /// The next question. `finish`: after `Client::finish`.
    pub(crate) fn next_move(&mut self, now: u64, finish: bool, history: &mut History) -> Move {
        self.asked_at = now;
        if self.pending.is_none() {
            if self.wishes_left == 0 {
                return Move::Rest;
            }
            let needs_session = self.protection == Protection::Session && self.session.is_none();
            let only_reads = finish && self.wishes_left <= self.keys;
            if needs_session && !only_reads {
                self.attempt += 1;
                let request = if self.forwards {
                    Request::AtLeader(LeaderRequest::OpenSession)
                } else {
                    Request::OpenSession
                };
                return Move::Ask { node: self.target, request };
            }
            self.wishes_left -= 1;
            let wish = if only_reads { self.read_next() } else { self.choose() };
            let known = wish.operation().filter(|_| self.workload.is_none());
            let record = known.map(|operation| history.invoke(self.id, operation, now));
            self.sequence += 1;
            let is_new = self.upgrades && self.rng.chance(400);
            let sequence = self.sequence;
            self.pending = Some(Pending { wish, record, sequence, attempts: 0, is_new, in_doubt: false });
        }
        self.attempt += 1;
        let Some(pending) = &mut self.pending else { return Move::Rest };
        pending.attempts += 1;
        let pending_sequence = pending.sequence;
        let wish = pending.wish.clone();
        Move::Ask { node: self.target, request: self.request(&wish, pending_sequence) }
    }

    fn choose(&mut self) -> Wish {
        let key = key(self.group, self.rng.below(self.keys));
        self.serial += 1;
        let mut value = format!("c{}-{}", self.id, self.serial);
        let padding = self.rng.below(self.value_bytes_max);
        value.extend((0..padding).map(|_| '.'));
        let value = Bytes::from(value);
        match self.rng.below(20) {
            0..6 => Wish::Put { key, value },
            6 => Wish::Delete { key },
            7..11 => Wish::Swap { key, expected: self.seen.clone(), value },
            11..15 => Wish::Get { key, lease: false },
            15..17 => Wish::Get { key, lease: true },
            17 => Wish::GetStale { key, age_millis_max: None },
            _ => Wish::GetStale { key, age_millis_max: Some(self.rng.below(500)) },
        }
    }

    fn read_next(&self) -> Wish {
        Wish::Get { key: key(self.group, self.wishes_left % self.keys.max(1)), lease: false }
    }

    fn request(&self, wish: &Wish, sequence: u64) -> Request {
        let command = match wish.clone() {
            Wish::Put { key, value } => KvCommand::Put { key, value, condition: Condition::Any },
            Wish::Delete { key } => KvCommand::Delete { key, condition: Condition::Any },
            Wish::Swap { key, expected, value } => {
                let condition = expected.map_or(Condition::Absent, Condition::Value);
                KvCommand::Put { key, value, condition }
            }
            Wish::Get { key, lease } => {
                let consistency = if lease { Consistency::Lease } else { Consistency::Linearizable };
                return Request::Query { request: self.question(key, sequence), consistency };
            }
            Wish::GetStale { key, age_millis_max } => {
                let consistency = age_millis_max.map_or(Consistency::Stale, |millis| Consistency::Recent {
                    age_max: Duration::from_millis(millis),
                });
                return Request::Query { request: self.question(key, sequence), consistency };
            }
        };
        let command = match &self.workload {
            Some(workload) => workload.command(&mut self.drawn(sequence)),
            None => command.encode(),
        };
        let dedupe = match (self.protection, self.session) {
            (Protection::Session, Some(session)) => {
                Dedupe::Session { session, sequence, acked_below: sequence }
            }
            (Protection::Key, _) => Dedupe::Key {
                key: Bytes::from(format!("client {} write {sequence}", self.id)),
                fingerprint: hash(&command),
            },
            (Protection::Session, None) | (Protection::Fragile, _) => Dedupe::None,
        };
        let proposal = Proposal::new(command, dedupe);
        if self.pending.as_ref().is_some_and(|pending| pending.is_new) {
            let version = NEW_BUILD;
            if self.forwards {
                Request::AtLeader(LeaderRequest::ProposeVersion { version, proposal })
            } else {
                Request::ProposeVersion { version, proposal }
            }
        } else if self.forwards {
            Request::AtLeader(LeaderRequest::Propose(proposal))
        } else {
            Request::Propose(proposal)
        }
    }

    fn question(&self, key: Bytes, sequence: u64) -> Bytes {
        match &self.workload {
            Some(workload) => workload.question(&mut self.drawn(sequence)),
            None => KvQuery::Get { key }.encode(),
        }
    }

    /// Chance for what a user's own machine is asked: the same for every attempt.
    fn drawn(&self, sequence: u64) -> Rng {
        let session = self.session.map_or(0, |session| session.0);
        Rng::new(hash(format!("client {} session {session} number {sequence}", self.id).as_bytes()))
    }

    /// The question that waits for an answer, if it is one to a user's own machine.
    pub(crate) fn pending_question(&self) -> Option<Bytes> {
        self.workload.as_ref()?;
        let pending = self.pending.as_ref()?;
        let request = self.request(&pending.wish, pending.sequence);
        if let Request::Query { request, .. } = request { Some(request) } else { None }
    }

    /// No answer came in time.
    pub(crate) fn on_timeout(&mut self, may_give_up: bool) -> Reaction {
        self.look_elsewhere();
        self.doubt(may_give_up)
    }

    fn look_elsewhere(&mut self) {
        if let Some(node) = self.rng.pick(&self.nodes) {
            self.target = *node;
        }
    }

    /// The newest attempt may have taken effect.
    fn doubt(&mut self, may_give_up: bool) -> Reaction {
        let wait = self.rng.between(1_000_000, 30_000_000);
        let Some(pending) = &mut self.pending else { return Reaction::Again(wait) };
        if matches!(pending.wish, Wish::Get { .. } | Wish::GetStale { .. }) {
            return Reaction::Again(wait);
        }
        pending.in_doubt = true;
        let tired = may_give_up && pending.attempts > 3 && self.rng.chance(200);
        if tired || self.protection == Protection::Fragile {
            self.session = None;
            return self.settle(Outcome::Unknown, None);
        }
        Reaction::Again(wait)
    }

    fn settle(&mut self, outcome: Outcome, acknowledged: Option<LogId>) -> Reaction {
        if let Outcome::Found(value) = &outcome {
            self.seen.clone_from(value);
        }
        Reaction::Settled { outcome, acknowledged }
    }

    /// Forgets the settled wish; returns its place in the history.
    pub(crate) fn take_record(&mut self) -> Option<OpId> {
        self.pending.take().and_then(|pending| pending.record)
    }

    /// Everything that was acknowledged by this moment must show in an answer to the question that waits. `None`: it
    /// may be as old as it likes.
    pub(crate) fn shows_all_until(&self) -> Option<u64> {
        match &self.pending.as_ref()?.wish {
            Wish::Get { .. } => Some(self.asked_at),
            // The replica's clock may be a little faster than the world's.
            Wish::GetStale { age_millis_max: Some(millis), .. } => {
                Some(self.asked_at.saturating_sub(millis * 1_050_000 + 1_000_000))
            }
            Wish::GetStale { age_millis_max: None, .. }
            | Wish::Put { .. }
            | Wish::Delete { .. }
            | Wish::Swap { .. } => None,
        }
    }

    /// The command that waits for an answer, if it is a write.
    pub(crate) fn pending_command(&self) -> Option<Bytes> {
        let pending = self.pending.as_ref()?;
        let request = self.request(&pending.wish, pending.sequence);
        if let Request::Propose(proposal)
        | Request::ProposeVersion { proposal, .. }
        | Request::AtLeader(
            LeaderRequest::Propose(proposal) | LeaderRequest::ProposeVersion { proposal, .. },
        ) = request
        {
            Some(proposal.command)
        } else {
            None
        }
    }

    /// The newest attempt reaches a node twice: what one of them is answered says nothing of the other.
    pub(crate) const fn is_asked_twice(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.in_doubt = true;
        }
    }

    /// Whether what waits for an answer is for newer machines only.
    pub(crate) fn is_new(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.is_new)
    }

    /// The newest attempt was answered.
    pub(crate) fn on_answer(
        &mut self,
        answer: Result<Answer, RequestError>,
        may_give_up: bool,
    ) -> Result<Reaction, Violation> {
        match answer {
            Ok(answer) => self.on_good_answer(answer),
            Err(error) => self.on_error(error, may_give_up),
        }
    }

    fn on_good_answer(&mut self, answer: Answer) -> Result<Reaction, Violation> {
        let wish = self.pending.as_ref().map(|pending| pending.wish.clone());
        if self.workload.is_some() && wish.is_some() {
            if let Answer::Applied { id, .. } = answer {
                return Ok(self.settle(Outcome::Done, Some(id)));
            }
            if let Answer::Queried { .. } = answer {
                return Ok(self.settle(Outcome::Found(None), None));
            }
        }
        match (answer, wish) {
            (Answer::SessionOpened { session }, None) => {
                self.session = Some(session);
                self.sequence = 0;
                Ok(Reaction::Opened)
            }
            (
                Answer::Applied { id, response },
                Some(wish @ (Wish::Put { .. } | Wish::Delete { .. } | Wish::Swap { .. })),
            ) => {
                let outcome = match (KvResponse::decode(&response), &wish) {
                    (Ok(KvResponse::Done { .. }), _) => Outcome::Done,
                    (Ok(KvResponse::ConditionFailed { .. }), Wish::Swap { .. }) => Outcome::Refused,
                    (response, wish) => return Err(unexpected(&format!("{response:?} to {wish:?}"))),
                };
                if let (Outcome::Done, Wish::Put { value, .. } | Wish::Swap { value, .. }) = (&outcome, wish)
                {
                    self.seen = Some(value);
                }
                Ok(self.settle(outcome, Some(id)))
            }
            (Answer::Queried { response, .. }, Some(Wish::Get { .. })) => match KvAnswer::decode(&response) {
                Ok(KvAnswer::Value(item)) => {
                    Ok(self.settle(Outcome::Found(item.map(|item| item.value)), None))
                }
                other => Err(unexpected(&format!("{other:?} to a get"))),
            },
            (Answer::Queried { response, applied }, Some(Wish::GetStale { key, .. })) => {
                Ok(Reaction::Stale { key, applied, answer: response })
            }
            (answer, wish) => Err(unexpected(&format!("{answer:?} to {wish:?}"))),
        }
    }

    fn on_error(&mut self, error: RequestError, may_give_up: bool) -> Result<Reaction, Violation> {
        let wait = self.rng.between(1_000_000, 30_000_000);
        match error {
            RequestError::NotLeader { leader: Some(hint) } if self.rng.chance(900) => {
                self.target = hint.node;
                Ok(Reaction::Again(wait / 10))
            }
            RequestError::NotLeader { .. } | RequestError::NoGroup | RequestError::Stopped { .. } => {
                self.look_elsewhere();
                Ok(Reaction::Again(wait))
            }
            // Not in the log. An attempt before it may be, and then only newer machines may be given the command.
            RequestError::Unsupported { .. } => {
                if let Some(pending) = self.pending.as_mut().filter(|pending| !pending.in_doubt) {
                    pending.is_new = false;
                }
                Ok(Reaction::Again(wait))
            }
            RequestError::Busy { .. } | RequestError::DiskFull => Ok(Reaction::Again(wait)),
            RequestError::OutcomeUnknown => Ok(self.doubt(may_give_up)),
            RequestError::SessionExpired => {
                self.session = None;
                match &self.pending {
                    Some(pending) if pending.in_doubt => Ok(self.settle(Outcome::Unknown, None)),
                    Some(_) => Ok(self.settle(Outcome::NotApplied, None)),
                    None => Ok(Reaction::Again(wait)),
                }
            }
            RequestError::TooLarge { .. }
            | RequestError::AlreadyAcknowledged
            | RequestError::KeyReused
            | RequestError::Change(_)
            | RequestError::Transfer { .. }
            | RequestError::Snapshot { .. }
            | _ => Err(unexpected(&format!("{error:?} to {:?}", self.pending))),
        }
    }
}

fn unexpected(what: &str) -> Violation {
    Violation::new("answers make sense", what)
}

impl Wish {
    /// What it is in the history of all clients.
    fn operation(&self) -> Option<Operation> {
        match self.clone() {
            Self::Put { key, value } => Some(Operation::Put { key, value }),
            Self::Delete { key } => Some(Operation::Delete { key }),
            Self::Swap { key, expected, value } => {
                Some(Operation::Swap { key, expected, value: Some(value) })
            }
            Self::Get { key, .. } => Some(Operation::Get { key }),
            Self::GetStale { .. } => None,
        }
    }
}
