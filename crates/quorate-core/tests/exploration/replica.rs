//! One replica as the search sees it: the core, its disk, the writes on their way. An input leads to
//! exactly one next replica and to what it says, so that the search computes each step only once.
//!
//! Here is checked what one replica can break alone: it promises only what is on its disk, hands out
//! for apply only what is committed and durable, never shortens its log while it leads, never
//! calls an honest message malformed, and does not panic.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use quorate_core::{
    AppendReply, Config, Entry, Fetch, LogIndex, Membership, MembershipChange, MembershipTransition, Message,
    MessageBody, MonoTime, RawNode, ReadOutcome, ReadTicket, Ready, Rejected, ReplicaId, RoleName,
    SnapshotOutcome,
};

use crate::disk::{Disk, Write};
use crate::parcel::Parcel;

/// How replicas behave in a scenario, and what is deliberately broken about their disks.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) pre_vote: bool,
    pub(crate) check_quorum: bool,
    /// Writes are durable at once; otherwise their completion is a step of its own.
    pub(crate) writes_at_once: bool,
    /// Appends carry one entry each.
    pub(crate) small_appends: bool,
    /// The group rests after a while in which nothing happened.
    pub(crate) rests: bool,
    pub(crate) fault: Fault,
}

/// A planted fault: the search must find that it breaks something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The disk does not write votes.
    ForgetsVotes,
    /// The disk loses the last entry in a crash.
    LosesEntries,
    /// A restarted replica takes the whole log for applied and committed.
    TrustsItsLog,
}

/// What one replica is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Input {
    /// The parcel with this number arrives.
    Deliver(u32),
    /// The oldest write on its way is durable.
    Persist,
    /// The power fails; what was not durable is gone; it starts again.
    Crash,
    Campaign,
    /// Time passes until its next deadline.
    Tick,
    ForgetLeader,
    Propose,
    Read,
    /// Takes a snapshot of all it has applied, and drops that from its log.
    Compact,
    Transfer(u64),
    Remove(u64),
    Demote(u64),
    Promote(u64),
    /// All other voters become learners in one step, through a joint state.
    DemoteOthers,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    pub(crate) core: RawNode,
    pub(crate) disk: Disk,
    writing: VecDeque<Write>,
    /// The content of the snapshot that arrived last.
    staged: Vec<Entry>,
    applied: LogIndex,
    now: MonoTime,
}

/// What came of an input, besides the replica.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) parcels: Vec<Parcel>,
    /// The index at which a read may be served.
    pub(crate) read: Option<LogIndex>,
}

const TICKET: ReadTicket = ReadTicket(1);

impl Replica {
    pub(crate) fn new(id: u64, membership: Membership, settings: &Settings) -> Self {
        let disk = Disk::new(Arc::new(membership));
        let now = MonoTime::from_millis(10);
        let core = RawNode::new(config(id, settings), disk.restored(), now).unwrap();
        let (applied, staged, writing) = (LogIndex(0), Vec::new(), VecDeque::new());
        let mut replica = Self { core, disk, writing, staged, applied, now };
        replica.drain(settings, &mut Said::default()).unwrap();
        replica.settle();
        replica
    }

    /// What comes of `input`: the next replica and what it says, or what it broke.
    pub(crate) fn after(
        &self,
        input: Input,
        parcel: Option<&Parcel>,
        settings: &Settings,
    ) -> Result<(Self, Said), String> {
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            let mut next = self.clone();
            let mut said = Said::default();
            next.take(input, parcel, settings)?;
            next.drain(settings, &mut said)?;
            next.settle();
            self.compare(&next, input)?;
            Ok((next, said))
        }));
        attempt.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("it panicked: {}", text.unwrap_or("without a word")))
        })
    }

    /// Whether `input` could do anything here.
    pub(crate) fn may(&self, input: Input) -> bool {
        let status = self.core.status();
        let leads = status.role == RoleName::Leader;
        match input {
            Input::Persist => !self.writing.is_empty(),
            Input::Campaign => !leads,
            Input::Propose
            | Input::Transfer(_)
            | Input::Remove(_)
            | Input::Demote(_)
            | Input::Promote(_)
            | Input::DemoteOthers => leads,
            Input::ForgetLeader => status.leader.is_some(),
            Input::Compact => self.applied > status.compacted.index,
            Input::Deliver(_) | Input::Crash | Input::Tick | Input::Read => true,
        }
    }

    fn take(&mut self, input: Input, parcel: Option<&Parcel>, settings: &Settings) -> Result<(), String> {
        let now = self.now;
        match input {
            Input::Deliver(_) => return self.deliver(parcel.expect("a delivery has a parcel")),
            Input::Persist => return self.persist(settings),
            Input::Crash => return self.crash(settings),
            Input::Compact => return self.compact(),
            Input::Campaign => self.core.campaign(now),
            Input::ForgetLeader => self.core.forget_leader(now),
            Input::Tick => {
                self.now = self.core.next_deadline().max(now);
                self.core.tick(self.now);
            }
            // These may be refused, for example while leadership is handed over.
            Input::Propose => {
                let id = u8::try_from(self.core.status().id.0).unwrap();
                drop(self.core.propose(now, Bytes::from(vec![id])));
            }
            Input::Read => drop(self.core.read(now, TICKET)),
            Input::Transfer(to) => drop(self.core.transfer_leadership(now, Some(ReplicaId(to)))),
            Input::Remove(id) => self.change(MembershipChange::Remove(ReplicaId(id))),
            Input::Demote(id) => self.change(MembershipChange::Demote(ReplicaId(id))),
            Input::Promote(id) => self.change(MembershipChange::Promote(ReplicaId(id))),
            Input::DemoteOthers => self.demote_others(),
        }
        Ok(())
    }

    fn change(&mut self, change: MembershipChange) {
        drop(self.core.propose_membership(self.now, change, None));
    }

    fn demote_others(&mut self) {
        let status = self.core.status();
        let others = status.membership.voters().filter(|voter| *voter != status.id);
        let changes = others.map(MembershipChange::Demote).collect();
        drop(self.core.propose_changes(self.now, changes, MembershipTransition::JointImplicit, None));
    }

    fn deliver(&mut self, parcel: &Parcel) -> Result<(), String> {
        if matches!(parcel.message.body, MessageBody::InstallSnapshot(_)) {
            self.staged.clone_from(&parcel.snapshot);
        }
        match self.core.step(self.now, parcel.message.from, parcel.message.clone()) {
            Ok(())
            | Err(
                Rejected::OldTerm
                | Rejected::Unexpected
                | Rejected::UnknownSender
                | Rejected::NotFromLeader
                | Rejected::Busy,
            ) => Ok(()),
            Err(reason) => Err(format!("it refused an honest message: {reason}")),
        }
    }

    fn persist(&mut self, settings: &Settings) -> Result<(), String> {
        let Some(mut write) = self.writing.pop_front() else { return Ok(()) };
        let token = write.token;
        if settings.fault == Fault::ForgetsVotes {
            write.forget_vote();
        }
        self.disk.write(write);
        self.core.on_persisted(self.now, token);
        Ok(())
    }

    fn crash(&mut self, settings: &Settings) -> Result<(), String> {
        self.writing.clear();
        self.staged.clear();
        if settings.fault == Fault::LosesEntries {
            self.disk.lose_last();
        }
        self.applied = self.disk.compacted().index;
        let mut restored = self.disk.restored();
        if settings.fault == Fault::TrustsItsLog {
            restored.hard_state.commit = restored.last;
        }
        let config = config(self.core.status().id.0, settings);
        self.core = RawNode::new(config, restored, self.now).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn compact(&mut self) -> Result<(), String> {
        let through = self.applied;
        let Some(meta) = self.core.snapshot_meta(through) else { return Ok(()) };
        if through > self.disk.last() {
            return Err("it applied what is not on its disk".to_owned());
        }
        self.disk.compact(through, (meta.membership_id, Arc::clone(&meta.membership)));
        self.core.on_compacted(meta.last);
        Ok(())
    }

    /// Chance and the order of draws are no part of the search: replicas that differ in nothing else are one.
    const fn settle(&mut self) {
        self.core.reseed(1);
    }

    fn drain(&mut self, settings: &Settings, said: &mut Said) -> Result<(), String> {
        while self.core.has_ready() {
            let Ready { persist, send, restore, apply, reads, fetch, events: _ } = self.core.ready();
            for message in send {
                if settings.fault == Fault::None {
                    self.check_promise(&message)?;
                }
                said.parcels.push(Parcel { message, snapshot: Vec::new() });
            }
            if let Some(persist) = persist {
                self.writing.push_back(Write::new(persist, &self.staged));
                if settings.writes_at_once {
                    self.persist(settings)?;
                }
            }
            if let Some(meta) = restore {
                self.applied = meta.last.index;
                self.core.on_applied(self.now, self.applied);
            }
            self.apply(&apply)?;
            for read in reads {
                match read {
                    ReadOutcome::At { index, .. } => said.read = Some(index),
                    ReadOutcome::Failed { .. } => {}
                }
            }
            for fetch in fetch {
                self.fetch(&fetch, said)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, entries: &[Entry]) -> Result<(), String> {
        let durable = self.disk.history();
        for entry in entries {
            if entry.index() != self.applied.next() {
                return Err(format!("it applies {} after {}", entry.id, self.applied));
            }
            let at = usize::try_from(entry.index().0).unwrap() - 1;
            if durable.get(at) != Some(entry) {
                return Err(format!("it applies {}, which is not on its disk", entry.id));
            }
            if entry.index() > self.core.status().commit {
                return Err(format!("it applies {}, which is not committed", entry.id));
            }
            self.applied = entry.index();
        }
        self.core.on_applied(self.now, self.applied);
        Ok(())
    }

    fn fetch(&mut self, fetch: &Fetch, said: &mut Said) -> Result<(), String> {
        match *fetch {
            Fetch::Entries { from, to, .. } => {
                let entries = self.disk.history().into_iter();
                let wanted = entries.filter(|entry| from <= entry.index() && entry.index() < to).collect();
                self.core.on_fetched(self.now, from, wanted);
            }
            Fetch::SendSnapshot { to, at_least } => {
                let (term, from) = (self.core.status().term, self.core.status().id);
                let meta = self.core.snapshot_meta(self.applied).ok_or("it has no snapshot to send")?;
                if meta.last.index < at_least {
                    return Err("it wants a snapshot that nobody has".to_owned());
                }
                let length = usize::try_from(meta.last.index.0).unwrap();
                let snapshot = self.disk.history().into_iter().take(length).collect();
                let body = MessageBody::InstallSnapshot(meta);
                said.parcels.push(Parcel { message: Message { from, to, term, epoch: 0, body }, snapshot });
                self.core.report_snapshot(self.now, to, SnapshotOutcome::Sent);
            }
        }
        Ok(())
    }

    /// Nothing is said that the disk could still forget.
    fn check_promise(&self, message: &Message) -> Result<(), String> {
        let (disk, term) = (&self.disk, message.term);
        let kept = match &message.body {
            MessageBody::PreVote(_) | MessageBody::PreVoteReply { .. } => true,
            MessageBody::Vote(_) => {
                disk.hard_state.term == term && disk.hard_state.vote == Some(message.from)
            }
            MessageBody::VoteReply { granted: true } => {
                disk.hard_state.term == term && disk.hard_state.vote == Some(message.to)
            }
            MessageBody::AppendReply(AppendReply::Accepted { matched, .. }) => {
                term <= disk.hard_state.term && *matched <= disk.last()
            }
            MessageBody::HeartbeatReply { last, .. } => {
                let at = usize::try_from(last.index.0).unwrap();
                let there = at == 0 || disk.history().get(at - 1).is_some_and(|entry| entry.id == *last);
                term <= disk.hard_state.term && there
            }
            MessageBody::VoteReply { granted: false }
            | MessageBody::Append(_)
            | MessageBody::AppendReply(AppendReply::Rejected { .. })
            | MessageBody::Heartbeat { .. }
            | MessageBody::InstallSnapshot(_)
            | MessageBody::Quiesce { .. }
            | MessageBody::RequestSnapshot { .. }
            | MessageBody::TimeoutNow
            | MessageBody::ReadIndex { .. }
            | MessageBody::ReadIndexReply { .. } => term <= disk.hard_state.term,
        };
        let parcel = Parcel { message: message.clone(), snapshot: Vec::new() };
        if kept { Ok(()) } else { Err(format!("it promises what is not on its disk: {parcel}")) }
    }

    /// The log from index 1 on as the replica sees it: its disk with all writes on their way.
    pub(crate) fn history(&self) -> Vec<Entry> {
        let mut disk = self.disk.clone();
        for write in &self.writing {
            disk.write(write.clone());
        }
        disk.history()
    }

    /// What may never happen from one moment to the next.
    fn compare(&self, next: &Self, input: Input) -> Result<(), String> {
        let (before, after) = (self.core.status(), next.core.status());
        if !(after.compacted.index <= after.applied
            && after.applied <= after.commit
            && after.commit <= after.last.index
            && after.persisted <= after.last.index)
        {
            return Err(format!("positions out of order: {after:?}"));
        }
        let history = next.history();
        let terms = (after.compacted.index.0.max(1)..=after.last.index.0).map(LogIndex);
        let on_disk = |index: LogIndex| history.get(usize::try_from(index.0).ok()? - 1).map(Entry::term);
        if history.len() as u64 != after.last.index.0
            || terms.into_iter().any(|index| next.core.term_at(index) != on_disk(index))
        {
            return Err("its log is not what it wrote".to_owned());
        }
        if input == Input::Crash {
            return Ok(());
        }
        if after.term < before.term || (after.term == before.term && after.commit < before.commit) {
            return Err(format!("term or commit fell: {before:?} {after:?}"));
        }
        if after.term == before.term && before.vote.is_some() && after.vote != before.vote {
            return Err("it changed its vote".to_owned());
        }
        let leads = before.role == RoleName::Leader && after.role == RoleName::Leader;
        if leads && after.term == before.term && !history.starts_with(&self.history()) {
            return Err("a leader changed its own log".to_owned());
        }
        Ok(())
    }

    /// One line for a story.
    pub(crate) fn line(&self) -> String {
        let status = self.core.status();
        let log: Vec<String> = self.history().iter().map(|entry| entry.id.to_string()).collect();
        let vote = status.vote.map_or_else(|| "nobody".to_owned(), |vote| vote.to_string());
        let unwritten = if self.writing.is_empty() {
            String::new()
        } else {
            format!(", {} writes out", self.writing.len())
        };
        format!(
            "{} {} in t{}, voted for {vote}, log [{}], on disk t{} to {}, commit {}, applied {}{unwritten}",
            status.id,
            status.role,
            status.term,
            log.join(" "),
            self.disk.hard_state.term,
            self.disk.last(),
            status.commit,
            self.applied,
        )
    }
}

fn config(id: u64, settings: &Settings) -> Config {
    let defaults = Config::new(ReplicaId(id));
    Config {
        pre_vote: settings.pre_vote,
        check_quorum: settings.check_quorum,
        append_bytes_max: if settings.small_appends { 1 } else { defaults.append_bytes_max },
        quiesce_after: settings.rests.then_some(defaults.heartbeat_interval * 2),
        ..defaults
    }
}
