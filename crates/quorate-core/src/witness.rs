//! Witnesses: voters without data. A group of two replicas and a witness survives the loss of any one of the three, and
//! keeps its data twice.
//!
//! ```text
//!   leader's log    1·  2=put a  3=put b  4={1 2 [3]}  5=put c
//!   what 3 gets     1·  2 ░      3 ░      4={1 2 [3]}  5 ░        positions, terms and members; no commands
//! ```
//!
//! * A witness votes by the same rule as everybody: its log says who may win, though it can feed nobody. It never
//!   campaigns, is handed no leadership, serves no reads, applies nothing; where its log begins too late it is told
//!   the position and the members of what was compacted, without a snapshot.
//! * Witnesses are fewer than a majority of the voters, on each side of a joint state: every quorum holds a replica
//!   with the data, so whatever is committed is on one, and on the leader that follows.
//! * A replica is a witness for life, and knows it from its configuration before it knows any member: no change makes
//!   one of a data replica or the other way round, so that no log ever has holes where somebody expects
//!   data. The gate refuses commands on a witness, and withheld ones everywhere else.
//! * It gets an entry once two voters with data have it on their disks, or one where no other keeps up: a witness that
//!   knew more than any of those that are left would refuse its vote to all of them. The leader counts as one
//!   only if it stays a voter.
//! * The price: where the only data replica with a committed entry is gone, a witness still knows that the entry was there and refuses
//!   its vote to those that lack it. The group stops rather than forget.

use std::sync::Arc;

use crate::entry::{Entry, EntryPayload};
use crate::leader::Leader;
use crate::membership::{MemberRole, Membership};
use crate::message::{MessageBody, SnapshotMeta};
use crate::progress::{Progress, SnapshotPhase, State};
use crate::quorum::majority;
use crate::shared::Shared;
use crate::types::{LogIndex, ReplicaId};

impl Membership {
    /// Whether `id` is a witness.
    #[must_use]
    pub fn is_witness(&self, id: ReplicaId) -> bool {
        self.get(id).is_some_and(|member| member.role == MemberRole::Witness)
    }

    /// Whether `id` is a member that is a witness and must not be, or the other way round.
    pub(crate) fn says_otherwise(&self, id: ReplicaId, witness: bool) -> bool {
        self.get(id).is_some() && self.is_witness(id) != witness
    }

    /// Whether every quorum holds a replica with the data.
    pub(crate) fn quorums_have_data(&self) -> bool {
        let has = |voters: Vec<ReplicaId>| {
            voters.iter().filter(|id| self.is_witness(**id)).count() < majority(voters.len())
        };
        has(self.incoming_voters().collect())
            && self.joint().is_none_or(|joint| has(joint.outgoing_voters().collect()))
    }
}

impl Leader {
    /// Up to where a witness may know the log: see the module.
    pub(crate) fn may_be_witnessed(&self, shared: &Shared) -> LogIndex {
        if !self.witnesses {
            return LogIndex(0);
        }
        let (membership, last, timeout) =
            (shared.membership(), shared.log.last_index(), shared.config.election_timeout);
        let own = membership.may_lead(shared.id()).then(|| shared.log.persisted());
        let others = self.progress.iter().filter(|(id, progress)| {
            membership.may_lead(*id) && progress.keeps_up(shared.now, timeout, last)
        });
        let (mut first, mut second) = (None, None);
        for has in own.into_iter().chain(others.map(|(_, progress)| progress.matched)) {
            if Some(has) > first {
                (first, second) = (Some(has), first);
            } else {
                second = second.max(Some(has));
            }
        }
        second.or(first).unwrap_or_default()
    }
}

/// `entry` as a witness gets it.
pub(crate) fn withheld(entry: &Entry) -> Entry {
    let payload = match &entry.payload {
        EntryPayload::Command(_) | EntryPayload::Withheld => EntryPayload::Withheld,
        EntryPayload::Noop => EntryPayload::Noop,
        EntryPayload::Membership(membership) => EntryPayload::Membership(Arc::clone(membership)),
    };
    Entry { id: entry.id, payload }
}

/// Tells the witness `id`, who needs compacted entries, what is committed. There is nothing to
/// stream: this is all it would keep.
pub(crate) fn place_witness(shared: &mut Shared, id: ReplicaId, progress: &mut Progress) {
    let Some(last) = shared.log.id_at(shared.log.commit()) else { return };
    let (membership_id, membership) = shared.log.membership_at(last.index).clone();
    let phase = SnapshotPhase::Installing { until: shared.one_timeout() };
    progress.state = State::Snapshot { at_least: last.index, phase };
    shared.send(id, MessageBody::InstallSnapshot(SnapshotMeta { last, membership, membership_id }));
}
