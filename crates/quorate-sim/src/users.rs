//! The clients' side of the world: questions on their way to nodes, answers on their way back.

use quorate_core::NodeId;
use quorate_host::{Answer, Dedupe, LeaderRequest, Proposal, Request, RequestError};

use crate::client::{Move, Reaction};
use crate::invariants::{Checked, require};
use crate::linearizability::Outcome;
use crate::node::Asker;
use crate::world::{MILLISECOND, Step, World, note};

/// How a client is called in the trace.
struct ClientName(u64);
impl std::fmt::Display for ClientName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("c{}", self.0))
    }
}

impl World {
    pub(crate) fn on_client_moves(&mut self, number: usize) {
        let now = self.agenda.now();
        let calm = self.calm;
        let Some(client) = self.clients.get_mut(number) else { return };
        // Woken twice (by the end of the faults, and by its own pause), it still asks once.
        if client.awaits {
            return;
        }
        let (id, group) = (client.id, client.group);
        match client.next_move(now, calm, &mut self.history) {
            Move::Rest => {}
            Move::Ask { node, request } => {
                let attempt = client.attempt;
                client.awaits = true;
                note!(self, ClientName(id), "? n{node} {}", in_words(&request));
                let waits = self.rng.between(200, 1_500) * MILLISECOND;
                self.agenda.plan(now + waits, Step::ClientWaitedLongEnough { client: number, attempt });
                self.ask(node, Asker::Client { client: number, attempt }, group, request);
            }
        }
    }

    /// Sends a question to a node; it may be lost or doubled.
    pub(crate) fn ask(&mut self, node: NodeId, asker: Asker, group: quorate_core::GroupId, request: Request) {
        if !self.calm && self.rng.chance(20) {
            self.coverage.count("questions lost on the way to a node");
            return;
        }
        let fragile_write = matches!(
            &request,
            Request::Propose(Proposal { dedupe: Dedupe::None, .. })
                | Request::ProposeVersion { proposal: Proposal { dedupe: Dedupe::None, .. }, .. }
                | Request::OpenSession
                | Request::AtLeader(
                    LeaderRequest::Propose(Proposal { dedupe: Dedupe::None, .. })
                        | LeaderRequest::ProposeVersion {
                            proposal: Proposal { dedupe: Dedupe::None, .. },
                            ..
                        }
                        | LeaderRequest::OpenSession
                )
        );
        if let Request::ProposeVersion { proposal, .. }
        | Request::AtLeader(LeaderRequest::ProposeVersion { proposal, .. }) = &request
        {
            self.coverage.count("commands of a newer version");
            if let Some(witness) = self.witnesses.get(&group) {
                witness.note_newer(&proposal.command);
            }
        }
        if let Request::AtLeader(_) = &request {
            self.coverage.count("questions that whoever is asked passes on");
        }
        if !self.calm && !fragile_write && self.rng.chance(20) {
            self.coverage.count("questions doubled");
            if let Asker::Client { client, .. } = asker
                && let Some(client) = self.clients.get_mut(client)
            {
                client.is_asked_twice();
            }
            let again = Step::Asked { node, asker, group, request: request.clone() };
            self.agenda.plan_within(MILLISECOND, 100 * MILLISECOND, again);
        }
        self.agenda.plan_within(50_000, 2_000_000, Step::Asked { node, asker, group, request });
    }

    pub(crate) fn on_client_waited(&mut self, number: usize, attempt: u64) {
        let calm = self.calm;
        let Some(client) = self.clients.get_mut(number) else { return };
        if client.attempt != attempt {
            return;
        }
        self.coverage.count("client timeouts");
        // The attempt is over: its answer would come too late.
        client.attempt += 1;
        client.awaits = false;
        let reaction = client.on_timeout(!calm);
        self.react(number, reaction);
    }

    pub(crate) fn on_client_answer(
        &mut self,
        number: usize,
        attempt: u64,
        answer: Result<Answer, RequestError>,
    ) -> Checked {
        let calm = self.calm;
        let Some(client) = self.clients.get_mut(number) else { return Ok(()) };
        if client.attempt != attempt {
            self.coverage.count("answers that came too late");
            return Ok(());
        }
        client.attempt += 1;
        client.awaits = false;
        note!(self, ClientName(client.id), "= {}", short(&answer));
        let Some(client) = self.clients.get_mut(number) else { return Ok(()) };
        let command = client.pending_command();
        let group = client.group;
        if let (Some(until), Ok(Answer::Queried { applied, .. })) = (client.shows_all_until(), &answer) {
            self.invariants.on_read(group, until, *applied)?;
        }
        self.coverage.count(kind_of(&answer));
        let Some(client) = self.clients.get_mut(number) else { return Ok(()) };
        let witness = self.witnesses.get(&group);
        if let (Some(witness), Some(question)) = (witness, client.pending_question())
            && let Ok(Answer::Queried { applied, response }) = &answer
        {
            witness.on_answer(*applied, question, response.clone());
        }
        let was_new = client.is_new();
        let reaction = client.on_answer(answer, !calm)?;
        if let (true, false, Some(witness), Some(command)) = (was_new, client.is_new(), witness, &command) {
            witness.forget_newer(command);
        }
        match &reaction {
            Reaction::Stale { key, applied, answer } => {
                self.coverage.count("stale reads checked");
                if let Some(witness) = witness {
                    witness.check_stale_read(key, *applied, answer)?;
                }
            }
            Reaction::Settled { outcome: Outcome::Done, acknowledged: Some(at) }
                if self.workload.is_none() =>
            {
                let place = command.and_then(|command| witness.and_then(|witness| witness.place(&command)));
                require!(
                    place.is_none_or(|place| place == at.index),
                    "exactly once",
                    "acknowledged at {at}, applied at {place:?}"
                );
            }
            Reaction::Settled { .. } | Reaction::Again(_) | Reaction::Opened => {}
        }
        self.react(number, reaction);
        Ok(())
    }

    fn react(&mut self, number: usize, reaction: Reaction) {
        let now = self.agenda.now();
        let thinks_max = if self.calm { 5 * MILLISECOND } else { 150 * MILLISECOND };
        let Some(client) = self.clients.get_mut(number) else { return };
        let pause = match reaction {
            Reaction::Again(pause) => {
                self.coverage.count("client retries");
                pause
            }
            Reaction::Opened => MILLISECOND,
            Reaction::Stale { .. } => {
                client.take_record();
                self.rng.below(thinks_max)
            }
            Reaction::Settled { outcome, .. } => {
                let record = client.take_record();
                let what = match &outcome {
                    Outcome::Unknown => "client operations given up",
                    Outcome::NotApplied => "client operations refused for good",
                    Outcome::Done | Outcome::Refused => "client writes answered",
                    Outcome::Found(_) => "client reads answered",
                };
                self.coverage.count(what);
                if outcome == Outcome::Unknown {
                    note!(self, ClientName(client.id), "… gave up");
                }
                if let Some(record) = record {
                    self.history.complete(record, outcome, now);
                }
                self.rng.below(thinks_max)
            }
        };
        self.agenda.plan(now + pause, Step::ClientMoves(number));
    }
}

/// What a client hears, for the coverage.
const fn kind_of(answer: &Result<Answer, RequestError>) -> &'static str {
    match answer {
        Ok(Answer::Applied { .. }) => "answers: applied",
        Ok(Answer::SessionOpened { .. }) => "answers: session opened",
        Ok(Answer::Queried { .. }) => "answers: queried",
        Ok(_) => "answers: others",
        Err(RequestError::NotLeader { .. }) => "answers: not the leader",
        Err(RequestError::NoGroup) => "answers: no such group",
        Err(RequestError::Busy { .. }) => "answers: busy",
        Err(RequestError::DiskFull) => "answers: disk full",
        Err(RequestError::OutcomeUnknown) => "answers: outcome unknown",
        Err(RequestError::SessionExpired) => "answers: session expired",
        Err(RequestError::Stopped { .. }) => "answers: stopped",
        Err(RequestError::Unsupported { .. }) => "answers: too new for some members",
        Err(_) => "answers: other errors",
    }
}

fn in_words(request: &Request) -> String {
    match request {
        Request::Propose(Proposal { command, dedupe, .. })
        | Request::ProposeVersion { proposal: Proposal { command, dedupe, .. }, .. }
        | Request::AtLeader(
            LeaderRequest::Propose(Proposal { command, dedupe, .. })
            | LeaderRequest::ProposeVersion { proposal: Proposal { command, dedupe, .. }, .. },
        ) => {
            let wish = quorate_kv::KvCommand::decode(command);
            let dedupe = match dedupe {
                quorate_host::Dedupe::None => "without protection".to_owned(),
                quorate_host::Dedupe::Session { session, sequence, .. } => {
                    format!("session {} number {sequence}", session.0)
                }
                quorate_host::Dedupe::Key { .. } => "with a key".to_owned(),
            };
            match wish {
                Ok(quorate_kv::KvCommand::Put { key, value, condition }) => {
                    format!("put {key:?} = {} if {}, {dedupe}", brief(&value), short_condition(&condition))
                }
                Ok(quorate_kv::KvCommand::Delete { key, .. }) => format!("delete {key:?}, {dedupe}"),
                Err(error) => error.to_string(),
            }
        }
        Request::Query { request, consistency } => match quorate_kv::KvQuery::decode(request) {
            Ok(quorate_kv::KvQuery::Get { key }) => format!("get {key:?} {consistency:?}"),
            Ok(quorate_kv::KvQuery::Scan { .. }) => "scan".to_owned(),
            Err(error) => error.to_string(),
        },
        Request::OpenSession
        | Request::AtLeader(_)
        | Request::RestorePiece { .. }
        | Request::RestoreAbandon { .. }
        | Request::RestoreInstall { .. }
        | Request::ReadIndex { .. }
        | Request::VerifyLeader
        | Request::Barrier
        | Request::ChangeMembership { .. }
        | Request::ChangeMembers { .. }
        | Request::LeaveJoint { .. }
        | Request::TransferLeadership { .. }
        | Request::AbortTransfer
        | Request::Reconfigure { .. }
        | Request::Campaign
        | Request::TakeSnapshot => format!("{request:?}"),
    }
}

fn short_condition(condition: &quorate_kv::Condition) -> String {
    match condition {
        quorate_kv::Condition::Value(value) => format!("it is {}", brief(value)),
        quorate_kv::Condition::Any => "anything".to_owned(),
        quorate_kv::Condition::Absent => "absent".to_owned(),
        quorate_kv::Condition::Present => "present".to_owned(),
        quorate_kv::Condition::Version(version) => format!("version {version}"),
    }
}

/// A value without its padding.
fn brief(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('.').to_owned()
}

fn short(answer: &Result<Answer, RequestError>) -> String {
    match answer {
        Ok(Answer::Applied { id, response }) => {
            format!("{id} {:?}", quorate_kv::KvResponse::decode(response))
        }
        Ok(Answer::Queried { applied, response }) => match quorate_kv::KvAnswer::decode(response) {
            Ok(quorate_kv::KvAnswer::Value(Some(item))) => {
                format!("{} of version {} at {applied}", brief(&item.value), item.version)
            }
            Ok(quorate_kv::KvAnswer::Value(None)) => format!("absent at {applied}"),
            other => format!("{other:?}"),
        },
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    }
}
