//! Going on after a majority of the voters is gone for good: an offline operation on the disk of one
//! survivor, asked for by a person and written down.
//!
//! ```text
//!   members 1 2 3, epoch 0          2 and 3 are lost                members 1, epoch 1
//!   1: ──a──b──c──┤ last            1 alone is no quorum     1: ──a──b──c──■ last + 1, in a later term
//!                                   (force_recovery on 1)                  the new membership, an entry of the log
//! ```
//!
//! * It breaks the promise of Raft knowingly: what only the lost replicas had is lost, also where it was
//!   acknowledged; what the survivor holds is committed, also where it never was. The [`RecoveryAudit`] says which.
//! * One replica goes on, as the only voter. Everybody else is left out and joins again under a new id: two logs that
//!   were recovered apart could each believe to be the longer one.
//! * The new membership has the next recovery epoch. A message of another epoch is refused (`gate.rs`), so
//!   that whoever was left out cannot come back, whatever its term and log.
//! * Terms, and with them ids, leap by a million: a replica that the lost ones had just added does not know itself as a
//!   member, and so follows a later epoch. Nothing that it was told by leaders nobody heard of can be taken for
//!   what the recovered group writes, and nobody else gets its id.
//! * Every member must be accounted for, and what makes no sense is refused: while the survivors are a
//!   quorum there is nothing to recover.
//!
//! Not here: reading and writing the disk. The caller makes `persist` durable before the replica starts again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::entry::{Entry, EntryPayload};
use crate::error::RestoreError;
use crate::log::Log;
use crate::membership::{MemberRole, Membership};
use crate::raw_node::Restored;
use crate::ready::{Persist, PersistToken};
use crate::types::{HardState, LogId, LogIndex, ReplicaId, Term};

/// How far the terms leap, and with them the ids: leaders that the survivor never heard of, because it was cut off from
/// those that are lost now, have used fewer.
const TERMS_LEAPT: u64 = 1_000_000;

/// What somebody asks for when a group has lost its quorum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForcedRecovery {
    /// The replica that goes on: the one with the longest log.
    pub survivor: ReplicaId,
    /// The members that are gone for good.
    pub lost: BTreeSet<ReplicaId>,
    /// The members that are still there and are left out, with the last entry of the log of each. They join again
    /// under new ids.
    pub left_out: BTreeMap<ReplicaId, LogId>,
    /// Go on although a left-out replica has a longer log, the survivor is a learner, or those that are left are
    /// a quorum: one with a witness may know of an entry that none of them has, and elect nobody.
    pub accept_more_loss: bool,
}

/// What a forced recovery writes, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Make this durable in the survivor's log, then start the replica.
    pub persist: Persist,
    /// Keep this.
    pub audit: RecoveryAudit,
}

/// What a forced recovery did: for the log of whoever is responsible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryAudit {
    /// What was asked for.
    pub asked: ForcedRecovery,
    /// The members before, and the position of their entry.
    pub before: (LogId, Arc<Membership>),
    /// The members after, and the position of their entry.
    pub after: (LogId, Arc<Membership>),
    /// The last entry known to be committed. What follows up to `last` becomes committed, although it may
    /// never have been.
    pub committed: LogIndex,
    /// The last entry of the survivor. What the group had after it, or has in another term, is lost.
    pub last: LogId,
}

/// Why nothing was recovered. Nothing is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryRefused {
    /// What was read back from the survivor's disk contradicts itself.
    Restore(RestoreError),
    /// The survivor, or somebody who is lost or left out, is no member.
    NotMember {
        /// The replica.
        replica: ReplicaId,
    },
    /// A member is named twice, or not at all: each is the survivor, lost, or left out.
    NotAccountedFor {
        /// The replica.
        replica: ReplicaId,
    },
    /// The members that are not lost can elect a leader: start them.
    QuorumIsLeft,
    /// A replica that is left out has a longer log: recover that one.
    LongerLog {
        /// The replica.
        replica: ReplicaId,
        /// Its last entry.
        last: LogId,
    },
    /// The survivor never voted: it may lack anything. Recover a voter if there is one.
    Learner,
    /// The survivor is a witness: it has no data.
    Witness,
    /// There is no later term or epoch.
    OutOfRange,
}

/// The way to go on with one replica after a majority is lost. Pure: says what to write.
///
/// # Errors
/// Why it would make no sense.
#[doc(alias = "recover_cluster")]
#[doc(alias = "force_new_cluster")]
pub fn force_recovery(restored: &Restored, asked: ForcedRecovery) -> Result<Recovered, RecoveryRefused> {
    let log = Log::restore(restored.clone(), 0).map_err(RecoveryRefused::Restore)?;
    let (before_id, before) = log.membership().clone();
    check(&before, log.last(), &asked)?;
    let epoch = before.epoch.checked_add(1).ok_or(RecoveryRefused::OutOfRange)?;
    let term = later_term(restored.hard_state.term, &asked)?;
    let id = LogId { term, index: log.last_index().next() };
    if id.index > LogIndex::MAX {
        return Err(RecoveryRefused::OutOfRange);
    }
    let after = Arc::new(alone(&before.continued_in(before_id, term), asked.survivor, epoch)?);
    let audit = RecoveryAudit {
        asked,
        before: (before_id, before),
        after: (id, Arc::clone(&after)),
        committed: log.commit(),
        last: log.last(),
    };
    let persist = Persist {
        token: PersistToken(0),
        reset_to: None,
        reset_membership: None,
        truncate_from: None,
        entries: vec![Entry { id, payload: EntryPayload::Membership(after) }].into(),
        // No commit beyond the log: nobody is left to give that back, and it would keep the survivor from leading.
        hard_state: Some(HardState { term, vote: None, commit: log.commit() }),
        must_sync: true,
    };
    Ok(Recovered { persist, audit })
}

fn check(members: &Membership, last: LogId, asked: &ForcedRecovery) -> Result<(), RecoveryRefused> {
    let left_out = asked.left_out.keys().copied();
    let named: Vec<ReplicaId> =
        [asked.survivor].into_iter().chain(asked.lost.iter().copied()).chain(left_out).collect();
    if let Some(replica) = named.iter().copied().find(|id| members.get(*id).is_none()) {
        return Err(RecoveryRefused::NotMember { replica });
    }
    let times = |id: ReplicaId| named.iter().filter(|named| **named == id).count();
    if let Some((replica, _)) = members.members().find(|(id, _)| times(*id) != 1) {
        return Err(RecoveryRefused::NotAccountedFor { replica });
    }
    if members.is_witness(asked.survivor) {
        return Err(RecoveryRefused::Witness);
    }
    if asked.accept_more_loss {
        return Ok(());
    }
    let is_left = |id: ReplicaId| u8::from(!asked.lost.contains(&id));
    if members.reached_by_quorum(is_left) == Some(1) {
        return Err(RecoveryRefused::QuorumIsLeft);
    }
    if !members.is_voter(asked.survivor) {
        return Err(RecoveryRefused::Learner);
    }
    match asked.left_out.iter().find(|(_, theirs)| **theirs > last) {
        Some((replica, last)) => Err(RecoveryRefused::LongerLog { replica: *replica, last: *last }),
        None => Ok(()),
    }
}

/// A term after all that were, heard of or not: nobody's older entry could be taken for the recovered one.
fn later_term(own: Term, asked: &ForcedRecovery) -> Result<Term, RecoveryRefused> {
    let newest = asked.left_out.values().map(|last| last.term).fold(own, Term::max);
    let term = newest.0.checked_add(TERMS_LEAPT).map(Term);
    term.filter(|term| *term < Term::MAX).ok_or(RecoveryRefused::OutOfRange)
}

/// `survivor` as the only member, in the next epoch.
fn alone(before: &Membership, survivor: ReplicaId, epoch: u64) -> Result<Membership, RecoveryRefused> {
    let mut member = before.get(survivor).cloned().ok_or(RecoveryRefused::NotMember { replica: survivor })?;
    member.role = MemberRole::Voter;
    let members = BTreeMap::from([(survivor, member)]);
    Ok(Membership { members, next_replica: before.next_replica, epoch, ..Membership::default() })
}

impl fmt::Display for RecoveryAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |ids: Vec<ReplicaId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let (survivor, epoch) = (self.asked.survivor, self.after.1.epoch);
        let before = list(self.before.1.members().map(|(id, _)| id).collect());
        writeln!(
            f,
            "forced recovery: replica {survivor} goes on alone, in epoch {epoch}, from {}",
            self.after.0
        )?;
        writeln!(f, "members before (of {}): {before}", self.before.0)?;
        writeln!(f, "lost: {}", list(self.asked.lost.iter().copied().collect()))?;
        for (replica, last) in &self.asked.left_out {
            writeln!(f, "left out, must join again under a new id: {replica} (last entry {last})")?;
        }
        let (committed, last) = (self.committed, self.last);
        if committed < last.index {
            let first = committed.next();
            writeln!(f, "committed by this, though perhaps never before: {first} to {}", last.index)?;
        }
        write!(f, "lost, though perhaps acknowledged: whatever the group had after {last}")
    }
}

impl fmt::Display for RecoveryRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restore(error) => error.fmt(f),
            Self::NotMember { replica } => write!(f, "replica {replica} is no member"),
            Self::NotAccountedFor { replica } => {
                write!(f, "say of replica {replica} once whether it goes on, is lost, or is left out")
            }
            Self::QuorumIsLeft => f.write_str(
                "the members that are not lost are a quorum: start them, nothing is to be recovered",
            ),
            Self::LongerLog { replica, last } => {
                write!(f, "replica {replica} has a longer log (up to {last}): recover that one")
            }
            Self::Learner => {
                f.write_str("the survivor never voted and may lack anything: recover a voter if there is one")
            }
            Self::Witness => f.write_str("the survivor is a witness and has no data: recover another one"),
            Self::OutOfRange => f.write_str("there is no later term, index or epoch"),
        }
    }
}
impl std::error::Error for RecoveryRefused {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::membership::Member;
    use crate::raw_node::RawNode;
    use crate::replica_ids::NEW_REPLICAS_PER_STEP_MAX;
    use crate::types::{MonoTime, NodeId};

    fn ids(ids: &[u64]) -> BTreeSet<ReplicaId> {
        ids.iter().copied().map(ReplicaId).collect()
    }

    /// A replica of {1 2 3 (4)} with three entries, the last of term 2.
    fn survivor() -> Restored {
        let member = |node: u64| Member {
            node: NodeId(node),
            role: if node < 4 { MemberRole::Voter } else { MemberRole::Learner },
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = Arc::new(Membership::initial((1..=4).map(member).collect()).unwrap());
        Restored {
            hard_state: HardState { term: Term(5), vote: Some(ReplicaId(2)), commit: LogIndex(2) },
            term_runs: vec![LogId::new(1, 1), LogId::new(2, 3)],
            last: LogIndex(3),
            memberships: vec![(LogId::default(), members)],
            ..Restored::default()
        }
    }

    fn asked(survivor: u64, lost: &[u64], left_out: &[(u64, LogId)]) -> ForcedRecovery {
        let left_out = left_out.iter().map(|(id, last)| (ReplicaId(*id), *last)).collect();
        ForcedRecovery { survivor: ReplicaId(survivor), lost: ids(lost), left_out, accept_more_loss: false }
    }

    #[test]
    fn the_survivor_goes_on_alone_in_a_later_term_and_epoch() {
        let recovered = force_recovery(&survivor(), asked(1, &[2, 3], &[(4, LogId::new(1, 2))])).unwrap();
        let (id, after) = &recovered.audit.after;
        assert_eq!(*id, LogId::new(1_000_005, 4));
        assert_eq!((after.voters().collect::<BTreeSet<_>>(), after.members().count()), (ids(&[1]), 1));
        assert_eq!((after.epoch(), after.validate()), (1, Ok(())));
        assert_eq!(
            after.next_replica(),
            ReplicaId(5 + 1_000_004 * 8),
            "leaders of all terms between may have given ids"
        );
        let hard_state = recovered.persist.hard_state.unwrap();
        assert_eq!(
            (hard_state.term, hard_state.vote, hard_state.commit),
            (Term(1_000_005), None, LogIndex(2))
        );
        assert!(recovered.persist.must_sync);
        assert_eq!(
            recovered.audit.to_string().lines().collect::<Vec<_>>(),
            [
                "forced recovery: replica 1 goes on alone, in epoch 1, from 4@t1000005",
                "members before (of 0@t0): 1 2 3 4",
                "lost: 2 3",
                "left out, must join again under a new id: 4 (last entry 2@t1)",
                "committed by this, though perhaps never before: 3 to 3",
                "lost, though perhaps acknowledged: whatever the group had after 3@t2",
            ]
        );
    }

    /// While 1 was cut off, the others led in later terms, gave ids, and wrote entries; then they were lost, but for a
    /// new replica that does not know itself as a member yet, and so follows a later epoch. Were a term used
    /// again, what it has could be taken for what the recovered group wrote; were an id, it could be asked.
    #[test]
    fn no_term_and_no_id_of_leaders_that_the_survivor_did_not_hear_of_is_used_again() {
        let (before_id, before) = survivor().memberships[0].clone();
        let given = |term| before.next_replica_in(before_id, term).0 + NEW_REPLICAS_PER_STEP_MAX;
        let recovered = force_recovery(&survivor(), asked(1, &[2, 3, 4], &[])).unwrap();
        let (id, after) = &recovered.audit.after;
        let unheard_of = Term(survivor().hard_state.term.0 + 1_000);
        assert!(id.term > unheard_of, "{id}");
        assert!(after.next_replica().0 > given(unheard_of), "{}", after.next_replica());
    }

    /// The survivor knows that more was committed than its damaged log still has. Nobody is left to give it back.
    #[test]
    fn a_survivor_that_lost_committed_entries_leads() {
        let commit = LogIndex(9);
        let broken = Restored { hard_state: HardState { commit, ..survivor().hard_state }, ..survivor() };
        let Persist { entries, hard_state, .. } =
            force_recovery(&broken, asked(1, &[2, 3, 4], &[])).unwrap().persist;
        let mut written = Restored { hard_state: hard_state.unwrap(), ..broken };
        for entry in &entries {
            let EntryPayload::Membership(members) = &entry.payload else { panic!("{entry:?}") };
            written.last = entry.index();
            written.term_runs.push(entry.id);
            written.memberships.push((entry.id, Arc::clone(members)));
        }
        let node = RawNode::new(Config::new(ReplicaId(1)), written, MonoTime(0)).unwrap();
        assert!(node.status().may_campaign());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let old = LogId::new(1, 2);
        let refused = |asked| force_recovery(&survivor(), asked).unwrap_err();
        let not_member = |id| RecoveryRefused::NotMember { replica: ReplicaId(id) };
        let not_accounted = |id| RecoveryRefused::NotAccountedFor { replica: ReplicaId(id) };
        assert_eq!(refused(asked(7, &[2, 3], &[])), not_member(7));
        assert_eq!(refused(asked(1, &[2, 3, 7], &[])), not_member(7));
        assert_eq!(refused(asked(1, &[2, 3], &[])), not_accounted(4));
        assert_eq!(refused(asked(1, &[1, 2, 3, 4], &[])), not_accounted(1));
        assert_eq!(refused(asked(1, &[2, 3, 4], &[(3, old)])), not_accounted(3));
        assert_eq!(refused(asked(1, &[3, 4], &[(2, old)])), RecoveryRefused::QuorumIsLeft);
        assert_eq!(refused(asked(4, &[1, 2, 3], &[])), RecoveryRefused::Learner);
        let longer = asked(1, &[2, 3], &[(4, LogId::new(3, 1))]);
        let last = LogId::new(3, 1);
        assert_eq!(refused(longer.clone()), RecoveryRefused::LongerLog { replica: ReplicaId(4), last });

        // Who insists gets it.
        for asked in [longer, asked(4, &[1, 2, 3], &[])] {
            let survivor_id = asked.survivor;
            let insisting = ForcedRecovery { accept_more_loss: true, ..asked };
            let recovered = force_recovery(&survivor(), insisting).unwrap();
            assert!(recovered.audit.after.1.is_voter(survivor_id));
        }
    }

    /// A replica of {1 2 [3]}: 1 is lost, and 3 knows of an entry that 2 has not.
    #[test]
    fn a_quorum_that_elects_nobody_can_be_given_up_but_a_witness_never_goes_on() {
        let member = |node: u64| Member {
            node: NodeId(node),
            role: if node < 3 { MemberRole::Voter } else { MemberRole::Witness },
            peer_address: String::new(),
            client_address: String::new(),
        };
        let members = Arc::new(Membership::initial((1..=3).map(member).collect()).unwrap());
        let restored = Restored { memberships: vec![(LogId::default(), members)], ..survivor() };
        let knows_more = asked(2, &[1], &[(3, LogId::new(2, 4))]);
        assert_eq!(force_recovery(&restored, knows_more.clone()), Err(RecoveryRefused::QuorumIsLeft));
        let insisting = ForcedRecovery { accept_more_loss: true, ..knows_more };
        assert!(force_recovery(&restored, insisting).is_ok());
        let witness = ForcedRecovery { accept_more_loss: true, ..asked(3, &[1, 2], &[]) };
        assert_eq!(force_recovery(&restored, witness), Err(RecoveryRefused::Witness));
    }

    #[test]
    fn a_disk_that_contradicts_itself_is_not_recovered() {
        let broken = Restored { term_runs: Vec::new(), ..survivor() };
        let refused = force_recovery(&broken, asked(1, &[2, 3, 4], &[])).unwrap_err();
        assert!(matches!(refused, RecoveryRefused::Restore(_)));
        let newest =
            Restored { hard_state: HardState { term: Term::MAX, ..survivor().hard_state }, ..survivor() };
        assert_eq!(force_recovery(&newest, asked(1, &[2, 3, 4], &[])), Err(RecoveryRefused::OutOfRange));
    }
}
