//! What a handle says about its replica: who leads, in which state it is, in numbers.
//!
//! * Everything here is read from the status that the host thread publishes: nothing waits, nothing asks.
//! * A leader is *ready* once it has applied what was committed before it led: from then on its state machine
//!   shows everything that was acknowledged.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{LogId, LogIndex, NodeId, ProgressStatus, ReplicaId, RoleName, Term};
use quorate_host::{DiskHealth, GroupStatus, LatencyHistogram, StageLatencies};

use crate::feed::StatusWatch;
use crate::raft::{Raft, Timeout};
use crate::transport::PROTOCOL_VERSIONS;

/// What a replica is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RaftState {
    /// Votes, and follows a leader or waits for one.
    Follower,
    /// Follows without a vote.
    Learner,
    /// Asks whether an election would succeed.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Has stopped.
    Shutdown,
}

impl fmt::Display for RaftState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The leader that a replica knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderInfo {
    /// The leader.
    pub replica: ReplicaId,
    /// The term it leads in.
    pub term: Term,
    /// Its node.
    pub node: NodeId,
    /// Where peers reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
}

/// Who leads, as this replica sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: Term,
    /// Its leader, if known.
    pub leader: Option<ReplicaId>,
    /// Whether that is this replica.
    pub is_here: bool,
    /// Whether it is this replica and has applied everything that was committed before it led.
    pub is_ready: bool,
}

impl Leadership {
    fn of(status: &GroupStatus) -> Self {
        Self {
            term: status.term,
            leader: status.leader,
            is_here: status.role == RoleName::Leader,
            is_ready: status.leader_ready,
        }
    }
}

/// Follows who leads. Any number may; none of them can hold the replica up.
pub struct LeaderChanges {
    status: StatusWatch,
    seen: Option<Leadership>,
}

impl LeaderChanges {
    /// Who leads now, the first time; then the newest state after each change. States that were over before
    /// anybody looked are skipped. `None` when the replica has stopped. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Leadership> {
        let seen = self.seen;
        let changed = |status: &GroupStatus| Some(Leadership::of(status)) != seen;
        let now = Leadership::of(&self.status.wait_for(changed).await.ok()?);
        self.seen = Some(now);
        Some(now)
    }
}

/// Figures of a replica.
#[derive(Clone, Debug)]
pub struct RaftStats {
    /// What it is.
    pub state: RaftState,
    /// This replica.
    pub replica: ReplicaId,
    /// Its node.
    pub node: NodeId,
    /// Its term.
    pub term: Term,
    /// The leader it knows.
    pub leader: Option<ReplicaId>,
    /// The last entry of its log.
    pub last_log: LogId,
    /// The highest index it knows to be committed.
    pub commit: LogIndex,
    /// The highest index its state machine has applied.
    pub applied: LogIndex,
    /// How many committed entries are not applied yet.
    pub apply_lag: u64,
    /// The newest snapshot.
    pub last_snapshot: LogId,
    /// The members in effect, in words.
    pub membership: String,
    /// The position of their entry.
    pub membership_id: LogId,
    /// How many other members vote; 0 if this one does not.
    pub peers: usize,
    /// How long ago the leader was heard: zero on a leader, `None` when none was heard since the start.
    pub last_contact: Option<Duration>,
    /// On a leader: how far each member is.
    pub progress: Vec<(ReplicaId, ProgressStatus)>,
    /// What the disk of its log does.
    pub disk: DiskHealth,
    /// How long requests waited for the thread that drives the groups, one of eight measured.
    pub queued: LatencyHistogram,
    /// Where the time of commands went while this replica led, from then on. One command at a time is followed.
    pub latencies: Arc<StageLatencies>,
}

impl RaftStats {
    /// The figures as text, under the names that HashiCorp Raft uses for them.
    #[must_use]
    pub fn to_map(&self) -> BTreeMap<&'static str, String> {
        let contact = match (self.state, self.last_contact) {
            (RaftState::Leader, _) => "0".to_owned(),
            (_, Some(ago)) => format!("{ago:?}"),
            (_, None) => "never".to_owned(),
        };
        let versions = PROTOCOL_VERSIONS;
        BTreeMap::from([
            ("state", self.state.to_string()),
            ("term", self.term.to_string()),
            ("last_log_index", self.last_log.index.to_string()),
            ("last_log_term", self.last_log.term.to_string()),
            ("commit_index", self.commit.to_string()),
            ("applied_index", self.applied.to_string()),
            ("fsm_pending", self.apply_lag.to_string()),
            ("last_snapshot_index", self.last_snapshot.index.to_string()),
            ("last_snapshot_term", self.last_snapshot.term.to_string()),
            ("protocol_version", versions.end().to_string()),
            ("protocol_version_min", versions.start().to_string()),
            ("protocol_version_max", versions.end().to_string()),
            ("snapshot_version_min", SNAPSHOT_VERSION.to_owned()),
            ("snapshot_version_max", SNAPSHOT_VERSION.to_owned()),
            ("latest_configuration_index", self.membership_id.index.to_string()),
            ("latest_configuration", self.membership.clone()),
            ("num_peers", self.peers.to_string()),
            ("last_contact", contact),
        ])
    }
}

/// Of the files, see `docs/formats.md`.
const SNAPSHOT_VERSION: &str = "1";

impl Raft {
    /// The leader that this replica knows. May be out of date: to be sure, [`Raft::verify_leader`] there.
    #[must_use]
    #[doc(alias = "leader_with_id")]
    pub fn leader(&self) -> Option<LeaderInfo> {
        leader_of(&self.status())
    }

    /// Whether this replica believes that it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.state() == RaftState::Leader
    }

    /// What this replica is.
    #[must_use]
    pub fn state(&self) -> RaftState {
        if self.has_stopped() {
            return RaftState::Shutdown;
        }
        state_of(&self.status())
    }

    /// The figures of this replica.
    #[must_use]
    pub fn stats(&self) -> RaftStats {
        let status = self.status();
        let (id, members) = (status.replica, &status.membership);
        let others = members.voters().filter(|voter| *voter != id).count();
        let describe = |(id, member): (ReplicaId, &quorate_core::Member)| {
            let role = if members.is_voter(id) { "voter" } else { "learner" };
            format!("{id} {role} on node {} at {}", member.node, member.peer_address)
        };
        let now = self.shared.clock.now().mono;
        RaftStats {
            state: self.state(),
            replica: id,
            node: self.node(),
            term: status.term,
            leader: status.leader,
            last_log: status.last,
            commit: status.commit,
            applied: status.applied,
            apply_lag: status.commit.0.saturating_sub(status.applied.0),
            last_snapshot: status.snapshot,
            membership: members.members().map(describe).collect::<Vec<_>>().join(", "),
            membership_id: status.membership_id,
            peers: if members.is_voter(id) { others } else { 0 },
            last_contact: match status.role {
                RoleName::Leader => Some(Duration::ZERO),
                RoleName::Follower | RoleName::PreCandidate | RoleName::Candidate => {
                    status.heard_leader.map(|heard| now.since(heard))
                }
            },
            progress: status.progress,
            disk: status.disk,
            queued: self.feed.queued(),
            latencies: status.latencies,
        }
    }

    /// Follows who leads, and when this replica is ready to serve as leader.
    #[must_use]
    #[doc(alias = "leader_ch")]
    pub fn leader_changes(&self) -> LeaderChanges {
        LeaderChanges { status: self.watch(), seen: None }
    }

    /// Waits until this replica knows who leads, and returns that.
    ///
    /// # Errors
    /// It does not within the time given, or it has stopped.
    pub async fn wait_leader(&self, within: Duration) -> Result<LeaderInfo, Timeout> {
        let known = |status: &GroupStatus| leader_of(status).is_some();
        let status = self.wait_for(known, within).await?;
        leader_of(&status).ok_or_else(|| Timeout { within, last: Box::new(status) })
    }

    /// Waits until this replica leads and has applied everything that was committed before it did.
    ///
    /// # Errors
    /// It does not within the time given, or it has stopped.
    pub async fn wait_leader_ready(&self, within: Duration) -> Result<GroupStatus, Timeout> {
        self.wait_for(|status| status.leader_ready, within).await
    }
}

fn leader_of(status: &GroupStatus) -> Option<LeaderInfo> {
    let replica = status.leader?;
    let member = status.membership.get(replica)?;
    Some(LeaderInfo {
        replica,
        term: status.term,
        node: member.node,
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
    })
}

fn state_of(status: &GroupStatus) -> RaftState {
    match status.role {
        RoleName::Follower if status.membership.is_voter(status.replica) => RaftState::Follower,
        RoleName::Follower => RaftState::Learner,
        RoleName::PreCandidate => RaftState::PreCandidate,
        RoleName::Candidate => RaftState::Candidate,
        RoleName::Leader => RaftState::Leader,
    }
}

impl fmt::Display for Raft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node {} group {} [{}]", self.node(), self.group(), self.state())
    }
}
