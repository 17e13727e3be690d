//! Which versions of commands a group may use: the gate that opens when every member understands the next one.
//!
//! ```text
//!   member     Version{supported} ──► leader         once a term, until it is answered; only above 1
//!   proposer   command of version 3 ──► leader:  3 <= active ─────────────────────► into the log
//!                                                every member supports 3 ──► Gate(3), then the command
//!                                                otherwise ───────────────────────► refused, not in the log
//! ```
//!
//! * `active` is replicated state: it follows from the log, is in every snapshot, and only rises. A member that is down
//!   does not close a gate that is open, and a new leader need not ask anybody.
//! * No command of a version above `active` is in the log before the entry that opens the gate. A replica whose
//!   machine does not understand that entry's version stops there, and says which version it lacks: an older build
//!   that was put back, or a member added with one. The others go on.
//! * A member that has said nothing in the leader's term counts as one that understands version 1.

use std::collections::BTreeMap;

use quorate_core::planted::planted;
use quorate_core::{MonoTime, NodeId, ReplicaId, RoleName, Term};

use crate::command::{LoggedCommand, LoggedKind};
use crate::event::{Now, Outbound, Work};
use crate::peer::{PeerBody, PeerMessage, VersionNote};
use crate::replica::Replica;
use crate::request::RequestError;

/// Every machine understands it, and every group begins with it.
pub(crate) const FIRST_VERSION: u32 = 1;

/// What a state machine understands, and what its group uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineVersions {
    /// The newest version of commands that this replica's machine understands.
    pub supported: u32,
    /// The newest version that commands of the group may have.
    pub active: u32,
}

impl Default for MachineVersions {
    fn default() -> Self {
        Self { supported: FIRST_VERSION, active: FIRST_VERSION }
    }
}

/// What a replica knows of versions.
#[derive(Debug)]
pub(crate) struct Versions {
    here: MachineVersions,
    /// The leader that has heard of this replica's version.
    announced: Option<(Term, ReplicaId)>,
    announce_at: MonoTime,
    /// On a leader: what members have said in its term.
    term: Term,
    members: BTreeMap<ReplicaId, u32>,
    /// On a leader: the gate it has proposed to open in its term.
    opening: u32,
}

impl Versions {
    pub(crate) const fn new(here: MachineVersions) -> Self {
        Self {
            here,
            announced: None,
            announce_at: MonoTime(0),
            term: Term(0),
            members: BTreeMap::new(),
            opening: FIRST_VERSION,
        }
    }

    pub(crate) const fn active(&self) -> u32 {
        self.here.active
    }

    pub(crate) fn on_active(&mut self, active: u32) {
        self.here.active = self.here.active.max(active);
    }

    /// What others said in an earlier term says nothing of this one.
    fn enter(&mut self, term: Term) {
        if self.term != term {
            self.term = term;
            self.members.clear();
            self.opening = FIRST_VERSION;
        }
    }
}

impl Replica {
    /// The newest version that all members understand, as a leader knows; elsewhere the active one.
    pub(crate) fn supported_version(&self) -> u32 {
        let (status, versions) = (self.core.status(), &self.versions);
        if status.role != RoleName::Leader {
            return versions.active();
        }
        let said = |id: ReplicaId| match versions.members.get(&id) {
            _ if id == self.id => versions.here.supported,
            Some(supported) if versions.term == status.term => *supported,
            Some(_) | None => FIRST_VERSION,
        };
        let all = status.membership.members().map(|(id, _)| said(id)).min();
        all.unwrap_or(FIRST_VERSION).max(versions.active())
    }

    /// Whether a command of `version` may go into the log now; opens the gate for it if that can be done.
    pub(crate) fn admit_version(&mut self, now: Now, version: u32) -> Result<(), RequestError> {
        let status = self.core.status();
        if status.role != RoleName::Leader {
            return Err(self.not_leader());
        }
        self.versions.enter(status.term);
        if version <= self.versions.active().max(self.versions.opening) || planted("version_gate_left_open") {
            return Ok(());
        }
        let supported = self.supported_version();
        if version > supported {
            return Err(RequestError::Unsupported { version, supported });
        }
        self.stamp_millis = self.stamp_millis.max(now.unix_millis);
        let gate = LoggedCommand { unix_millis: self.stamp_millis, kind: LoggedKind::Gate { version } };
        let proposed = self.core.propose(now.mono, gate.encode());
        proposed.map_err(|error| self.refused(error))?;
        self.versions.opening = version;
        Ok(())
    }

    /// Tells the leader what this replica's machine understands, until the leader has heard it.
    pub(crate) fn watch_versions(&mut self, now: Now, work: &mut Work) {
        if let Some((to, term)) = self.unannounced()
            && now.mono >= self.versions.announce_at
            && let Some((node, address)) = self.locate(to)
        {
            self.versions.announce_at = now.mono + self.config.core.election_timeout;
            self.send_version(term, to, node, address, false, work);
        }
    }

    pub(crate) fn versions_deadline(&self) -> Option<MonoTime> {
        self.unannounced().map(|_| self.versions.announce_at)
    }

    fn unannounced(&self) -> Option<(ReplicaId, Term)> {
        let status = self.core.status();
        let leader = status.leader.filter(|leader| *leader != self.id)?;
        let is_news = self.versions.here.supported > FIRST_VERSION
            && self.versions.announced != Some((status.term, leader));
        is_news.then_some((leader, status.term))
    }

    /// A member says what it understands, or a leader that it has heard.
    pub(crate) fn on_version_note(&mut self, node: NodeId, note: VersionNote, work: &mut Work) {
        let status = self.core.status();
        if note.to != self.id || note.term != status.term {
            return;
        }
        if note.is_answer {
            if status.leader == Some(note.from) && note.supported == self.versions.here.supported {
                self.versions.announced = Some((note.term, note.from));
            }
        } else if status.role == RoleName::Leader && status.membership.get(note.from).is_some() {
            self.versions.enter(note.term);
            self.versions.members.insert(note.from, note.supported);
            let address = self.locate(note.from).map(|(_, address)| address).unwrap_or_default();
            self.send_version(note.term, note.from, node, address, true, work);
        }
    }

    fn send_version(
        &self,
        term: Term,
        to: ReplicaId,
        node: NodeId,
        address: String,
        is_answer: bool,
        work: &mut Work,
    ) {
        let said = self.versions.members.get(&to).copied();
        let supported = if is_answer { said.unwrap_or(FIRST_VERSION) } else { self.versions.here.supported };
        let note = VersionNote { from: self.id, to, term, supported, is_answer };
        let message = PeerMessage { group: self.group, body: PeerBody::Version(note) };
        work.send.push(Outbound { to: node, address, lane: message.lane(), message });
    }
}
