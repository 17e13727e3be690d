//! Requests that a follower passes on to its leader, and the leader's side of it.
//!
//! ```text
//!   follower                                              leader
//!   AtLeader ──► number it, remember who asked ──Forward──► seen before? leads in that term?
//!                                                              │ as if asked there
//!   answer  ◄── forget it ◄──────────────────ForwardReply── its answer
//! ```
//!
//! * A request is sent once and carried out at most once, however often the network repeats it: only the
//!   leader of its term does, and that one remembers the highest number of each follower. Numbers grow, also
//!   over restarts of the follower, by its clock: one whose clock has gone back is taken for a repeat, and
//!   not answered, for the rest of the term at most. Those of one start differ from those of another also within a
//!   millisecond, by a number drawn at the start: the answer to a question of before is no answer to one of now.
//! * "Not applied" is only said by a leader that can rule out an earlier copy. One that was started in the term of the
//!   request, or later, may have forgotten one and says nothing.
//! * No answer within `GroupConfig::forward_within`, a peer that cannot be reached, or another leader: the outcome is
//!   unknown. Nothing is sent a second time from here; who has a session or a key may ask again.
//! * What waits for an answer is bounded in bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_core::{MonoTime, NodeId, ReplicaId, RoleName, Term};

use crate::event::{Now, Outbound, Work};
use crate::peer::{Forward, ForwardReply, ForwardVerdict, PeerBody, PeerMessage};
use crate::replica::Replica;
use crate::request::{Answer, Dedupe, LeaderRequest, RequestError, Ticket};
use crate::resting::splitmix64;

/// Tickets from here on are the host's own.
pub(crate) const OWN_TICKETS: u64 = 1 << 63;
/// How much of a number is drawn; the rest is the clock, in milliseconds.
const DRAWN_BITS: u32 = 20;
/// What a waiting request costs besides its bytes.
const REQUEST_BYTES: u64 = 192;

/// A request whose answer goes to another node.
#[derive(Clone, Debug)]
pub(crate) struct Behalf {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) reply: ForwardReply,
    pub(crate) group: quorate_core::GroupId,
}

impl Behalf {
    /// The message that carries the answer.
    pub(crate) fn answer(self, result: Result<Answer, RequestError>) -> Outbound {
        let reply = ForwardReply { verdict: ForwardVerdict::of(result), ..self.reply };
        let message = PeerMessage { group: self.group, body: PeerBody::ForwardReply(reply) };
        Outbound { to: self.node, address: self.address, lane: message.lane(), message }
    }
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    to: ReplicaId,
    node: NodeId,
    term: Term,
    until: MonoTime,
    bytes: u64,
}

/// Both sides of a replica's forwarding.
#[derive(Debug)]
pub(crate) struct Forwarding {
    next_number: u64,
    /// Drawn at the start, of `DRAWN_BITS`.
    drawn: u64,
    waiting: BTreeMap<u64, Waiting>,
    bytes: u64,
    /// The highest number seen of each replica, and the term it was for.
    seen: BTreeMap<ReplicaId, (Term, u64)>,
    /// The term in which this replica was started: of requests for later terms it has forgotten nothing.
    opened_in: Term,
}

impl Forwarding {
    /// `seed`: of this start alone.
    pub(crate) const fn new(opened_in: Term, seed: u64) -> Self {
        let drawn = splitmix64(seed) >> (u64::BITS - DRAWN_BITS);
        Self { next_number: 0, drawn, waiting: BTreeMap::new(), bytes: 0, seen: BTreeMap::new(), opened_in }
    }

    /// A number above every one of an earlier start of this replica, by its clock.
    fn number(&mut self, unix_millis: u64) -> u64 {
        let number = self.next_number.max(unix_millis << DRAWN_BITS | self.drawn);
        self.next_number = number + 1;
        number
    }

    pub(crate) fn release_memory(&mut self) {
        // A tree that was used once keeps a leaf.
        if self.waiting.is_empty() {
            self.waiting = BTreeMap::new();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn deadline(&self) -> Option<MonoTime> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        self.bytes -= waiting.bytes;
        Some(waiting)
    }

    fn take_where(&mut self, what: impl Fn(&Waiting) -> bool) -> Vec<Ticket> {
        let numbers: Vec<u64> =
            self.waiting.iter().filter(|(_, waiting)| what(waiting)).map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).map(|waiting| waiting.ticket).collect()
    }

    /// Everybody who waits; nobody does any more.
    pub(crate) fn take_all(&mut self) -> Vec<Ticket> {
        self.take_where(|_| true)
    }
}

impl LeaderRequest {
    fn bytes(&self) -> u64 {
        REQUEST_BYTES
            + self.proposal().map_or(0, |proposal| {
                let key = if let Dedupe::Key { key, .. } = &proposal.dedupe { key.len() } else { 0 };
                (proposal.bytes() + key) as u64
            })
    }
}

impl Replica {
    /// Sends a request on to the leader.
    pub(crate) fn forward(
        &mut self,
        now: Now,
        ticket: Ticket,
        request: LeaderRequest,
        work: &mut Work,
    ) -> Result<(), RequestError> {
        if let Some(proposal) = request.proposal() {
            self.check_sizes(proposal)?;
        }
        let status = self.core.status();
        let (leader, term) = (status.leader.filter(|leader| *leader != self.id), status.term);
        let located = leader.and_then(|leader| Some((leader, self.locate(leader)?)));
        let Some((to, (node, address))) = located else {
            return Err(RequestError::NotLeader { leader: None });
        };
        let (bytes, bytes_max) = (request.bytes(), self.config.forward_bytes_max);
        if self.forwarding.bytes + bytes > bytes_max {
            return Err(RequestError::Busy { what: "too many bytes wait for the leader's answer" });
        }
        let number = self.forwarding.number(now.unix_millis);
        self.forwarding.bytes += bytes;
        let until = now.mono + self.config.forward_within;
        self.forwarding.waiting.insert(number, Waiting { ticket, to, node, term, until, bytes });
        let forward = Forward { from: self.id, to, term, number, request };
        let message = PeerMessage { group: self.group, body: PeerBody::Forward(forward) };
        work.send.push(Outbound { to: node, address, lane: message.lane(), message });
        Ok(())
    }

    /// Whether a request that arrived is to be carried out here; `Err`: its sender is told so, if anything.
    pub(crate) fn take_forward(&mut self, node: NodeId, forward: &Forward) -> Result<Behalf, Option<Behalf>> {
        let status = self.core.status();
        let member = status.membership.get(forward.from).filter(|member| member.node == node);
        let Some(member) = member.filter(|_| forward.to == self.id) else { return Err(None) };
        let behalf = Behalf {
            node,
            address: member.peer_address.clone(),
            reply: ForwardReply {
                from: self.id,
                to: forward.from,
                number: forward.number,
                verdict: ForwardVerdict::NotLeader,
            },
            group: self.group,
        };
        let leads = status.role == RoleName::Leader && status.term == forward.term;
        let this = (forward.term, forward.number);
        let is_new = self.forwarding.seen.get(&forward.from).is_none_or(|seen| *seen < this);
        if !is_new || forward.term <= self.forwarding.opened_in {
            // Perhaps a repeat of what was carried out: whatever is said now could be wrong.
            return Err(None);
        }
        self.forwarding.seen.retain(|id, _| status.membership.get(*id).is_some());
        self.forwarding.seen.insert(forward.from, this);
        if leads { Ok(behalf) } else { Err(Some(behalf)) }
    }

    /// The leader has answered.
    pub(crate) fn on_forward_reply(&mut self, reply: ForwardReply, work: &mut Work) {
        let asked = self.forwarding.waiting.get(&reply.number);
        if reply.to != self.id || asked.is_none_or(|asked| asked.to != reply.from) {
            return;
        }
        let Some(Waiting { ticket, .. }) = self.forwarding.remove(reply.number) else { return };
        let hint = self.leader_hint().filter(|hint| hint.replica != reply.from);
        work.replies.push((ticket, reply.verdict.into_result(hint)));
    }

    /// A node could not be reached: what was sent there may have arrived.
    pub(crate) fn on_forward_unreachable(&mut self, node: NodeId, work: &mut Work) {
        let lost = self.forwarding.take_where(|waiting| waiting.node == node);
        work.replies.extend(lost.into_iter().map(|ticket| (ticket, Err(RequestError::OutcomeUnknown))));
    }

    /// Whoever waits for a leader of the past is answered soon, everybody in time.
    pub(crate) fn watch_forwarded(&mut self, now: Now, work: &mut Work) {
        if self.forwarding.waiting.is_empty() {
            return;
        }
        let (term, patience) = (self.core.status().term, self.config.core.election_timeout);
        for waiting in self.forwarding.waiting.values_mut().filter(|waiting| waiting.term < term) {
            waiting.until = waiting.until.min(now.mono + patience);
            waiting.term = term;
        }
        let late = self.forwarding.take_where(|waiting| waiting.until <= now.mono);
        work.replies.extend(late.into_iter().map(|ticket| (ticket, Err(RequestError::OutcomeUnknown))));
    }
}

/// How long a leader's answer is waited for by default.
pub(crate) const WITHIN: Duration = Duration::from_secs(10);

impl ForwardVerdict {
    fn of(result: Result<Answer, RequestError>) -> Self {
        match result {
            Ok(Answer::Applied { id, response }) => Self::Applied { id, response },
            Ok(Answer::SessionOpened { session }) => Self::SessionOpened { session },
            Err(RequestError::Busy { .. } | RequestError::DiskFull) => Self::Busy,
            Err(RequestError::TooLarge { bytes, bytes_max }) => Self::TooLarge { bytes, bytes_max },
            Err(RequestError::SessionExpired) => Self::SessionExpired,
            Err(RequestError::AlreadyAcknowledged) => Self::AlreadyAcknowledged,
            Err(RequestError::KeyReused) => Self::KeyReused,
            Err(RequestError::Malformed) => Self::Malformed,
            Err(RequestError::Unsupported { version, supported }) => Self::Unsupported { version, supported },
            Err(error) if error.not_applied() => Self::NotLeader,
            // No request that is forwarded is answered otherwise.
            Err(_) | Ok(_) => Self::OutcomeUnknown,
        }
    }

    fn into_result(self, leader: Option<crate::request::LeaderHint>) -> Result<Answer, RequestError> {
        Err(match self {
            Self::Applied { id, response } => return Ok(Answer::Applied { id, response }),
            Self::SessionOpened { session } => return Ok(Answer::SessionOpened { session }),
            Self::NotLeader => RequestError::NotLeader { leader },
            Self::Busy => RequestError::Busy { what: "the leader is busy" },
            Self::TooLarge { bytes, bytes_max } => RequestError::TooLarge { bytes, bytes_max },
            Self::OutcomeUnknown => RequestError::OutcomeUnknown,
            Self::SessionExpired => RequestError::SessionExpired,
            Self::AlreadyAcknowledged => RequestError::AlreadyAcknowledged,
            Self::KeyReused => RequestError::KeyReused,
            Self::Malformed => RequestError::Malformed,
            Self::Unsupported { version, supported } => RequestError::Unsupported { version, supported },
        })
    }

    /// In words.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Applied { .. } => "applied",
            Self::SessionOpened { .. } => "session opened",
            Self::NotLeader => "not the leader",
            Self::Busy => "busy",
            Self::TooLarge { .. } => "too large",
            Self::OutcomeUnknown => "outcome unknown",
            Self::SessionExpired => "session expired",
            Self::AlreadyAcknowledged => "acknowledged",
            Self::KeyReused => "key reused",
            Self::Malformed => "malformed",
            Self::Unsupported { .. } => "unsupported version",
        }
    }

    /// The bytes that a response takes.
    #[must_use]
    pub fn response(&self) -> &[u8] {
        if let Self::Applied { response, .. } = self { response } else { &[] }
    }
}
