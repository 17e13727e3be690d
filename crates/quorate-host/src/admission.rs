//! How a replica takes what users ask: the core is asked at once, the answer waits.

use bytes::Bytes;
use quorate_core::{
    ChangeError, LogId, MembershipChange, MembershipTransition, ProposeError, ReplicaId, RoleName,
    TransferError,
};

use crate::command::{KEY_BYTES_MAX, LoggedCommand, LoggedKind};
use crate::event::{Now, Work};
use crate::reads::Reading;
use crate::replica::{Replica, Transferring};
use crate::request::{Answer, Dedupe, Proposal, Request, RequestError, Ticket};
use crate::snapshots::SnapshotState;
use crate::waiting::Waiting;

impl Replica {
    /// Takes a request; on `Ok` its ticket will be (or was) answered.
    pub(crate) fn on_request(
        &mut self,
        now: Now,
        ticket: Ticket,
        request: Request,
        work: &mut Work,
    ) -> Result<(), RequestError> {
        if self.requests_open() >= self.config.requests_max {
            return Err(RequestError::Busy { what: "too many requests are waiting" });
        }
        match request {
            Request::Propose(proposal) => {
                self.check_sizes(&proposal)?;
                self.propose(now, ticket, LoggedKind::Command(proposal))?;
            }
            Request::OpenSession => self.propose(now, ticket, LoggedKind::Open)?,
            Request::ProposeVersion { version, proposal } => {
                self.check_sizes(&proposal)?;
                self.check_space()?;
                self.admit_version(now, version)?;
                self.propose(now, ticket, LoggedKind::Command(proposal))?;
            }
            Request::RestorePiece { restore, offset, data } => {
                self.check_bytes(data.len())?;
                self.propose(now, ticket, LoggedKind::Piece { restore, offset, data })?;
            }
            Request::RestoreAbandon { restore } => {
                self.propose(now, ticket, LoggedKind::Abandon { restore })?
            }
            Request::RestoreInstall { restore, bytes, crc } => {
                self.propose(now, ticket, LoggedKind::Install { restore, bytes, crc })?;
            }
            Request::AtLeader(request) if self.core.status().role == RoleName::Leader => {
                return self.on_request(now, ticket, request.into(), work);
            }
            Request::AtLeader(request) => self.forward(now, ticket, request, work)?,
            Request::Query { request, consistency } => {
                self.read(now, ticket, Reading::Query(request), consistency)?;
            }
            Request::ReadIndex { consistency } => {
                self.read(now, ticket, Reading::ReadIndex, consistency)?;
            }
            Request::VerifyLeader => self.verify_leader(now, ticket)?,
            Request::Barrier => {
                self.check_space()?;
                let proposed = self.core.propose_barrier(now.mono);
                let id = proposed.map_err(|error| self.refused(error))?;
                self.wait(id, Waiting::Barrier(ticket));
            }
            Request::ChangeMembership { change, expected } => {
                self.change_members(now, ticket, vec![change], MembershipTransition::Automatic, expected)?;
            }
            Request::ChangeMembers { changes, transition, expected } => {
                self.change_members(now, ticket, changes, transition, expected)?;
            }
            Request::LeaveJoint { expected } => {
                self.check_space()?;
                let left = self.core.leave_joint(now.mono, expected);
                let id = left.map_err(|error| self.change_refused(error))?;
                self.wait(id, Waiting::Membership { ticket, replicas: Vec::new() });
            }
            Request::TransferLeadership { to } => self.transfer(now, ticket, to, work)?,
            Request::AbortTransfer => self.abort_transfer(now, ticket, work),
            Request::Reconfigure { config } => {
                self.reconfigure(now, *config)?;
                work.replies.push((ticket, Ok(Answer::Reconfigured)));
            }
            Request::Campaign => {
                self.core.campaign(now.mono);
                work.replies.push((ticket, Ok(Answer::Campaigned)));
            }
            Request::TakeSnapshot => self.take_snapshot(ticket, work)?,
        }
        Ok(())
    }

    pub(crate) fn check_sizes(&self, proposal: &Proposal) -> Result<(), RequestError> {
        let key_bytes = if let Dedupe::Key { key, .. } = &proposal.dedupe { key.len() } else { 0 };
        if key_bytes > KEY_BYTES_MAX {
            return Err(RequestError::TooLarge { bytes: key_bytes as u64, bytes_max: KEY_BYTES_MAX as u64 });
        }
        self.check_bytes(proposal.bytes())
    }

    fn check_bytes(&self, bytes: usize) -> Result<(), RequestError> {
        let (bytes, bytes_max) = (bytes as u64, self.config.core.command_bytes_max);
        if bytes > bytes_max { Err(RequestError::TooLarge { bytes, bytes_max }) } else { Ok(()) }
    }

    fn propose(&mut self, now: Now, ticket: Ticket, kind: LoggedKind) -> Result<(), RequestError> {
        self.check_space()?;
        // The leaders' clock never falls along the log, whatever their own clocks do.
        self.stamp_millis = self.stamp_millis.max(now.unix_millis);
        let command: Bytes = LoggedCommand { unix_millis: self.stamp_millis, kind }.encode();
        let proposed = self.core.propose(now.mono, command);
        let id = proposed.map_err(|error| self.refused(error))?;
        self.wait(id, Waiting::Command(ticket));
        self.maybe_sample(now, id);
        Ok(())
    }

    fn transfer(
        &mut self,
        now: Now,
        ticket: Ticket,
        to: Option<ReplicaId>,
        work: &mut Work,
    ) -> Result<(), RequestError> {
        self.core.transfer_leadership(now.mono, to).map_err(|error| self.transfer_refused(&error))?;
        let until = now.mono + self.config.core.election_timeout * 3;
        let earlier = self.transferring.replace(Transferring { ticket, to, until });
        // The core had given the earlier one up.
        let superseded = Err(RequestError::Transfer { what: "another transfer was asked for" });
        work.replies.extend(earlier.map(|earlier| (earlier.ticket, superseded)));
        Ok(())
    }

    fn abort_transfer(&mut self, now: Now, ticket: Ticket, work: &mut Work) {
        let to = self.core.abort_transfer(now.mono);
        if to.is_some() {
            let ended = Err(RequestError::Transfer { what: "it was called off" });
            let earlier = self.transferring.take();
            work.replies.extend(earlier.map(|earlier| (earlier.ticket, ended)));
        }
        work.replies.push((ticket, Ok(Answer::TransferAborted { to })));
    }

    fn change_members(
        &mut self,
        now: Now,
        ticket: Ticket,
        changes: Vec<MembershipChange>,
        transition: MembershipTransition,
        expected: Option<LogId>,
    ) -> Result<(), RequestError> {
        self.check_space()?;
        let proposed = self.core.propose_changes(now.mono, changes, transition, expected);
        let (id, replicas) = proposed.map_err(|error| self.change_refused(error))?;
        self.wait(id, Waiting::Membership { ticket, replicas });
        Ok(())
    }

    fn change_refused(&self, error: ChangeError) -> RequestError {
        if let ChangeError::Propose(error) = error {
            self.refused(error)
        } else {
            RequestError::Change(error)
        }
    }

    fn check_space(&self) -> Result<(), RequestError> {
        if self.is_disk_full {
            return Err(RequestError::DiskFull);
        }
        Ok(())
    }

    fn take_snapshot(&mut self, ticket: Ticket, work: &mut Work) -> Result<(), RequestError> {
        if self.snapshot_state == SnapshotState::Idle {
            let newest = self.snapshot.as_ref().map(|snapshot| snapshot.meta.last);
            // It holds all there is: writing it again would change nothing.
            if let Some(last) = newest.filter(|last| last.index == self.handed) {
                work.replies.push((ticket, Ok(Answer::SnapshotTaken { last })));
                return Ok(());
            }
            self.capture(work);
            if self.snapshot_state == SnapshotState::Idle {
                return Err(RequestError::Snapshot { what: "nothing has been applied yet".to_owned() });
            }
        }
        self.snapshot_tickets.push(ticket);
        Ok(())
    }

    pub(crate) fn refused(&self, error: ProposeError) -> RequestError {
        match error {
            ProposeError::NotLeader { .. } => self.not_leader(),
            ProposeError::Transferring { .. } => {
                RequestError::Busy { what: "leadership is being handed over" }
            }
            ProposeError::TooLarge { bytes, bytes_max } => RequestError::TooLarge { bytes, bytes_max },
            ProposeError::ApplyBehind { .. } => {
                RequestError::Busy { what: "the leader's state machine or disk is behind" }
            }
            ProposeError::Busy { .. } | _ => {
                RequestError::Busy { what: "too many bytes are waiting to be committed" }
            }
        }
    }

    fn transfer_refused(&self, error: &TransferError) -> RequestError {
        let what = match error {
            TransferError::NotLeader { .. } => return self.not_leader(),
            TransferError::NotVoter => "the target is not a voter",
            TransferError::AlreadyLeader => "the target leads already",
            TransferError::InProgress { .. } => "another transfer is under way",
            TransferError::Unreachable | _ => "no voter that could take over was heard lately",
        };
        RequestError::Transfer { what }
    }
}
