//! What must be true of leaders: what they take for committed, how they change the members, and their leases.

use std::sync::Arc;

use quorate_core::{
    Append, EntryPayload, GroupId, LogId, LogIndex, Membership, Message, MessageBody, ReplicaId, RoleName,
    SnapshotMeta, Status, Term,
};
use quorate_storage::GroupWrite;

use crate::invariants::{Checked, Invariants, Violation, require};

impl Invariants {
    /// What a leader has just committed that has to be on the disks of a majority: the new commit index, if it moved in
    /// a step in which the replica led before and its members stayed the same.
    pub(crate) fn newly_committed(
        &mut self,
        group: GroupId,
        status: &Status<'_>,
    ) -> Result<Option<LogId>, Violation> {
        let facts = self.group(group).replicas.entry(status.id).or_default();
        let same_members = facts.members_at == status.membership_id;
        facts.members_at = status.membership_id;
        let led = status.role == RoleName::Leader && facts.was_leader_in == Some(status.term);
        if !led || status.commit <= facts.commit {
            return Ok(None);
        }
        let term = facts.terms.get(&status.commit).copied();
        require!(
            term.is_none_or(|term| term == status.term),
            "commits count in the own term",
            "{:?} leads in {:?} and commits {:?}, an entry of {term:?}, by itself",
            status.id,
            status.term,
            status.commit
        );
        let id = term.map(|term| LogId { term, index: status.commit });
        Ok(id.filter(|_| same_members))
    }

    /// A leader changes the members one step at a time, and not before it has committed an entry of its own.
    pub(crate) fn on_members_written(&mut self, status: &Status<'_>, write: &GroupWrite) -> Checked {
        let facts = self.group(write.group).replicas.entry(status.id).or_default();
        if let Some((_, members_at, _)) = &write.reset_to {
            facts.member_entries = [members_at.index].into();
        }
        if let Some(from) = write.truncate_from {
            facts.member_entries.split_off(&from);
        }
        let mut first_of_term = true;
        for entry in &write.entries {
            let before = facts.member_entries.last().copied().unwrap_or(LogIndex(0));
            if !matches!(entry.payload, EntryPayload::Membership(_)) {
                continue;
            }
            // A write that found no space is handed out again, maybe after others have made a majority.
            let is_new = entry.id.index > status.commit;
            let own = is_new && status.role == RoleName::Leader && entry.id.term == status.term;
            require!(
                !own || before <= status.commit || before >= entry.id.index,
                "one change of members at a time",
                "{:?} appends members at {} while those at {before:?} are not committed ({:?})",
                status.id,
                entry.id,
                status.commit
            );
            let committed = facts.terms.get(&status.commit).copied().unwrap_or(facts.base.term);
            require!(
                !own || !first_of_term || committed == status.term,
                "no change of members before an own commit",
                "{:?} appends members at {} in {:?}, its newest committed entry is of {committed:?}",
                status.id,
                entry.id,
                status.term
            );
            first_of_term = false;
            facts.member_entries.insert(entry.id.index);
        }
        Ok(())
    }

    /// Members were committed with the entry `id`.
    pub(crate) fn on_members_committed(&mut self, group: GroupId, id: LogId, members: &Arc<Membership>) {
        self.group(group).members.insert(id.index, (id, Arc::clone(members)));
    }

    /// A replica acts by the newest members that it knows to be committed, or by newer ones.
    pub(crate) fn on_members_in_effect(&mut self, group: GroupId, status: &Status<'_>) -> Checked {
        let newest = self.group(group).members.range(..=status.commit).next_back();
        let Some((_, (id, members))) = newest else { return Ok(()) };
        let same = Arc::ptr_eq(status.membership, members) || status.membership == members;
        require!(
            status.membership_id > *id || (status.membership_id == *id && same),
            "members as the log says",
            "{:?} acts by the members of {}, but those of {id} are committed",
            status.id,
            status.membership_id
        );
        Ok(())
    }

    /// A snapshot carries the members in effect where it was taken.
    pub(crate) fn on_snapshot_members(&mut self, group: GroupId, meta: &SnapshotMeta) -> Checked {
        let newest = self.group(group).members.range(..=meta.last.index).next_back();
        let Some((_, (id, members))) = newest else { return Ok(()) };
        require!(
            *id == meta.membership_id && *members == meta.membership,
            "members as the log says",
            "the snapshot at {} carries the members of {}, in effect there were those of {id}",
            meta.last,
            meta.membership_id
        );
        Ok(())
    }

    /// Up to where the replica's log, as it was given to its log writer, agrees with `index`.
    pub(crate) fn term_in_log(
        &self,
        group: GroupId,
        replica: quorate_core::ReplicaId,
        index: LogIndex,
    ) -> Option<Term> {
        self.groups.get(&group)?.replicas.get(&replica)?.terms.get(&index).copied()
    }
}

impl Invariants {
    /// A leader asks whether it still leads: every round has a number of its own.
    pub(crate) fn on_round(&mut self, group: GroupId, message: &Message, now: u64) {
        let (MessageBody::Append(Append { read_round: round, .. })
        | MessageBody::Heartbeat { read_round: round, .. }) = &message.body
        else {
            return;
        };
        let newest = self.group(group).rounds.entry((message.from, message.term)).or_insert((0, 0));
        if *round > newest.0 {
            *newest = (*round, now);
        }
    }

    /// A linearizable read that was asked of a leader at `asked_at` was answered by it, still leading in the same term.
    pub(crate) fn on_read_confirmed(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        term: Term,
        asked_at: u64,
    ) -> Checked {
        let (round, begun_at) = self.group(group).rounds.get(&(replica, term)).copied().unwrap_or_default();
        require!(
            begun_at >= asked_at,
            "a read has a round of its own",
            "{replica:?} answers in {term:?} what it was asked at {asked_at} ns; its newest round {round} was first sent at \
             {begun_at} ns"
        );
        Ok(())
    }
}
