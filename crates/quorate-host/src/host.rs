//! `Host`: all replicas of a process, driven by events. Synchronous; see [`crate::event`].

use std::sync::Arc;

use quorate_core::{
    GroupId, LogId, Membership, MonoTime, NodeId, ProgressStatus, ReplicaId, Restored, Status,
};
use quorate_storage::SnapshotInfo;

use crate::config::GroupConfig;
use crate::event::{Event, Now, Work};

/// What a host needs to run a replica; made by [`crate::recover_group`].
pub struct GroupSetup {
    /// The group.
    pub group: GroupId,
    /// This node's replica in it.
    pub replica: ReplicaId,
    /// How it behaves.
    pub config: GroupConfig,
    /// What it knew when it stopped.
    pub restored: Restored,
    /// The newest snapshot on disk.
    pub snapshot: Option<SnapshotInfo>,
    /// Whether the machine keeps its own state (`StateMachine::is_durable`).
    pub durable_machine: bool,
    /// Replicas known before the first membership arrives (a joining learner): where to answer to.
    pub seeds: Vec<(ReplicaId, NodeId, String)>,
}

/// A group could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is open already.
    #[error("group {0} is open already")]
    AlreadyOpen(GroupId),
    /// What was recovered contradicts itself.
    #[error("group {group} cannot be opened: {reason}")]
    Inconsistent {
        /// The group.
        group: GroupId,
        /// What is wrong.
        reason: String,
    },
}

/// What a host says about one of its replicas.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Role, term, leader, commit and applied index, ….
    pub role: quorate_core::RoleName,
    /// This replica.
    pub replica: ReplicaId,
    /// Its term.
    pub term: quorate_core::Term,
    /// The leader it knows.
    pub leader: Option<ReplicaId>,
    /// The leader's node and client address, if known.
    pub leader_hint: Option<crate::request::LeaderHint>,
    /// The last entry.
    pub last: LogId,
    /// The highest committed index.
    pub commit: quorate_core::LogIndex,
    /// The highest applied index.
    pub applied: quorate_core::LogIndex,
    /// The log starts after this.
    pub compacted: LogId,
    /// The newest snapshot.
    pub snapshot: LogId,
    /// The members.
    pub membership: Arc<Membership>,
    /// Where that was appended.
    pub membership_id: LogId,
    /// On a leader: how far each member is.
    pub progress: Vec<(ReplicaId, ProgressStatus)>,
}

/// All replicas of a process.
pub struct Host {}

impl Host {
    /// A host without groups for `node`.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        unimplemented!("{node:?}")
    }
    /// Starts a replica. Its work appears in `take_work`.
    ///
    /// # Errors
    /// See [`OpenError`]. The other groups are not affected.
    pub fn open_group(&mut self, now: Now, setup: GroupSetup) -> Result<(), OpenError> {
        unimplemented!("{now:?}{}", setup.group)
    }
    /// Stops a replica and answers all its requests; its data stays.
    pub fn close_group(&mut self, group: GroupId) {
        unimplemented!("{group:?}")
    }
    /// Something happened.
    pub fn on_event(&mut self, now: Now, event: Event) {
        let (_, Event::Tick) = (now, event) else { unimplemented!() };
    }
    /// Takes everything there is to do now. Call after each batch of events.
    pub fn take_work(&mut self) -> Work {
        unimplemented!()
    }
    /// When `Event::Tick` has something to do next, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonoTime> {
        unimplemented!()
    }
    /// The groups, ascending.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        std::iter::empty()
    }
    /// What a replica looks like now (owned, for another thread).
    #[must_use]
    pub fn status(&self, group: GroupId) -> Option<GroupStatus> {
        unimplemented!("{group:?}")
    }
    /// What a replica's core looks like now, without allocation.
    #[must_use]
    pub fn core_status(&self, group: GroupId) -> Option<Status<'_>> {
        unimplemented!("{group:?}")
    }
    /// Answers everything that waits with `Stopped` or `OutcomeUnknown` and takes no more.
    pub fn stop(&mut self, reason: &str) {
        unimplemented!("{reason}")
    }
}
