//! Where the world looks at what a node has just done: feeds the [`crate::invariants`] and the trace.

use std::sync::Arc;

use quorate_core::{GroupId, LogId, Membership, Message, NodeId, ReplicaId, RoleName, Term};
use quorate_host::{
    Applied, ApplyTask, Event, LogTask, LogWritten, PeerBody, SnapshotEvent, SnapshotTask, Work,
};
use quorate_storage::{LogError, SnapshotError, SnapshotInfo, SnapshotStore};

use crate::disk::INJECTED;
use crate::invariants::{Checked, Durable, Violation, holds, promised, require};
use crate::rng::{hash, hash_on};
use crate::world::{Name, World, note};

impl World {
    /// Checks what a host wants done, before it is done.
    pub(crate) fn check_work(&mut self, id: NodeId, work: &Work) -> Checked {
        let itself = self.nodes.get(&id).filter(|node| node.is_itself());
        let Some(running) = itself.and_then(|node| node.running.as_ref()) else {
            return Ok(());
        };
        let replica_of = |group: GroupId| running.replicas.get(&group).copied().unwrap_or_default();
        for task in &work.log {
            if let Some(status) = running.host.core_status(task.write.group) {
                self.invariants.on_members_written(&status, &task.write)?;
            }
            self.invariants.on_log_write(replica_of(task.write.group), &task.write)?;
        }
        for task in &work.apply {
            match task {
                ApplyTask::Apply { group, entries } => {
                    let status = running.host.core_status(*group);
                    let term = status.map_or(Term(u64::MAX), |status| status.term);
                    self.invariants.on_apply(*group, replica_of(*group), term, entries)?;
                }
                ApplyTask::Restore { group, snapshot } => {
                    self.coverage.count("snapshots from a leader restored");
                    note!(self, Name(id), "restore {}", snapshot.meta.last);
                    self.invariants.on_restore(*group, replica_of(*group), snapshot.meta.last)?;
                }
                ApplyTask::Query { .. }
                | ApplyTask::Capture { .. }
                | ApplyTask::Flush { .. }
                | ApplyTask::Remove { .. } => {}
            }
        }
        for task in &work.snapshots {
            if let SnapshotTask::Send { .. } = task {
                self.coverage.count("snapshot streams started");
            }
        }
        self.check_promises(id, work)
    }

    fn check_promises(&mut self, id: NodeId, work: &Work) -> Checked {
        let messages = work.send.iter().filter_map(|outbound| match &outbound.message.body {
            PeerBody::Raft(message) => Some((outbound.message.group, message)),
            PeerBody::SnapshotChunk(_)
            | PeerBody::SnapshotAck(_)
            | PeerBody::Forward(_)
            | PeerBody::ForwardReply(_)
            | PeerBody::Version(_)
            | PeerBody::Beat(_) => None,
        });
        let messages: Vec<(GroupId, &Message)> = messages.collect();
        let mut known: Option<(GroupId, Durable)> = None;
        let now = self.agenda.now();
        for (group, message) in &messages {
            self.invariants.on_round(*group, message, now);
            if known.as_ref().is_none_or(|(of, _)| of != group) {
                let node = self.nodes.get(&id);
                let running = node.and_then(|node| node.running.as_ref());
                known = running.map(|running| (*group, running.durable(*group)));
            }
            if let Some((_, durable)) = &known {
                self.invariants.on_send(*group, message, durable)?;
            }
        }
        if messages.is_empty() || !self.sampled() {
            return Ok(());
        }
        self.coverage.count("promises checked against the recovered disk");
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        let recovered = node.recovered(self.agenda.now(), &self.swarm)?;
        for (group, message) in messages {
            promised(message, &recovered.of(group))?;
        }
        Ok(())
    }

    /// Checks what the cores of a node look like after a turn.
    pub(crate) fn check_cores(&mut self, id: NodeId) -> Checked {
        let itself = self.nodes.get(&id).filter(|node| node.is_itself());
        let Some(running) = itself.and_then(|node| node.running.as_ref()) else {
            return Ok(());
        };
        let mut committed = Vec::new();
        let mut elected = Vec::new();
        for group in running.replicas.keys() {
            let Some(status) = running.host.core_status(*group) else { continue };
            if let Some(at) = self.invariants.newly_committed(*group, &status)? {
                committed.push((*group, at, Arc::clone(status.membership)));
            }
            self.invariants.on_members_in_effect(*group, &status)?;
            if self.invariants.on_status(*group, &status)? {
                self.coverage.count("leaders elected");
                elected.push((*group, status.id));
            }
        }
        for (group, at, membership) in committed {
            self.check_held_by_majorities(group, at, &membership)?;
        }
        for (group, replica) in elected {
            self.check_leases_are_over(group, replica)?;
        }
        Ok(())
    }

    /// What a leader commits is on the disks of a majority, of both sides in a joint state. Of a node that is down
    /// nothing is said here.
    fn check_held_by_majorities(&self, group: GroupId, at: LogId, membership: &Membership) -> Checked {
        let lacks = |replica: &ReplicaId| {
            let node = membership.get(*replica).and_then(|member| self.nodes.get(&member.node));
            // What a damaged node once had, others count on, rightly.
            let node = node.filter(|node| node.is_itself() && !node.was_damaged);
            let running = node.and_then(|node| node.running.as_ref());
            running.is_some_and(|running| {
                running.replicas.get(&group) == Some(replica) && !holds(&running.durable(group), at)
            })
        };
        let outgoing: Vec<ReplicaId> =
            membership.joint().map(|joint| joint.outgoing_voters().collect()).unwrap_or_default();
        let incoming: Vec<ReplicaId> = membership.incoming_voters().collect();
        for side in [incoming, outgoing] {
            let lacking = side.iter().filter(|replica| lacks(replica)).count();
            require!(
                side.is_empty() || lacking * 2 < side.len(),
                "committed is durable on a majority",
                "{at} was committed, but {lacking} of the voters {side:?} do not have it on disk"
            );
        }
        Ok(())
    }

    /// A new leader exists only when nobody of an earlier term can still serve reads from a lease. (One whose
    /// votes come late, when a later term has its leader, gets nobody to commit anything.)
    fn check_leases_are_over(&self, group: GroupId, elected: ReplicaId) -> Checked {
        let now = self.agenda.now();
        let statuses = || {
            self.nodes
                .values()
                .filter_map(|node| Some((node, node.running.as_ref()?.host.core_status(group)?)))
        };
        let term = statuses().find(|(_, status)| status.id == elected).map(|(_, status)| status.term);
        for (node, status) in
            statuses().filter(|(_, status)| status.id != elected && Some(status.term) < term)
        {
            require!(
                status.lease_until().is_none_or(|until| until <= node.clock.read(now).mono),
                "one lease at a time",
                "{elected:?} was elected in g{} while {:?}, which leads in {:?}, holds a lease until {:?}",
                group.0,
                status.id,
                status.term,
                status.lease_until()
            );
        }
        Ok(())
    }

    /// Checks what a step function says when it has ended.
    pub(crate) fn check_ended(&mut self, id: NodeId, event: &Event) -> Checked {
        match event {
            Event::LogWritten(written) => {
                self.note_log_written(id, written);
                Ok(())
            }
            Event::Applied(Applied::Entries { group, responses, .. }) => {
                for (at, response) in responses {
                    self.invariants.on_response(*group, at.index, &format!("{response:?}"))?;
                }
                Ok(())
            }
            // The host stops the replica.
            Event::Applied(Applied::Failed { reason, .. }) if self.is_excuse(id, reason) => Ok(()),
            Event::Applied(Applied::Failed { group, reason }) => {
                Err(Violation::new("no replica gives up", format!("{id:?} {group:?} applier: {reason}")))
            }
            Event::Snapshot(SnapshotEvent::Saved { snapshot, .. }) => {
                self.coverage.count("snapshots saved");
                note!(self, Name(id), "snapshot saved {}", snapshot.meta.last);
                self.check_snapshot(id, snapshot)
            }
            Event::Snapshot(SnapshotEvent::Staged { snapshot, .. }) => {
                self.coverage.count("snapshots received whole");
                note!(self, Name(id), "snapshot received {}", snapshot.meta.last);
                self.check_snapshot(id, snapshot)
            }
            Event::Applied(
                Applied::Restored { .. }
                | Applied::Query { .. }
                | Applied::Captured { .. }
                | Applied::Removed { .. }
                | Applied::Flushed { .. },
            )
            | Event::Snapshot(
                SnapshotEvent::SaveFailed { .. }
                | SnapshotEvent::Send { .. }
                | SnapshotEvent::SendStarted { .. }
                | SnapshotEvent::WantsBytes { .. }
                | SnapshotEvent::SendEnded { .. },
            )
            | Event::Tick
            | Event::Received { .. }
            | Event::Request { .. }
            | Event::Unreachable { .. }
            | Event::Fetched(_) => Ok(()),
        }
    }

    /// Snapshots of one position have the same bytes everywhere.
    fn check_snapshot(&mut self, id: NodeId, snapshot: &SnapshotInfo) -> Checked {
        self.invariants.on_snapshot_members(snapshot.group, &snapshot.meta)?;
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        let Some(running) = &node.running else { return Ok(()) };
        // Who looks here is not the product: reads do not go wrong for it.
        let read = node.disk.reading_right(|| fingerprint_of(&*running.snapshots, snapshot));
        let Some(fingerprint) = read
            .map_err(|error| Violation::new("a durable snapshot can be read", format!("{id:?}: {error}")))?
        else {
            return Ok(());
        };
        self.invariants.on_snapshot(snapshot.group, snapshot.meta.last, fingerprint)
    }

    /// An acknowledged entry is on the disks of a majority, whatever happens to the machines now.
    pub(crate) fn check_durable_on_a_quorum(&mut self, asked: NodeId, group: GroupId, at: LogId) -> Checked {
        let running = self.nodes.get(&asked).and_then(|node| node.running.as_ref());
        let status = running.and_then(|running| running.host.status(group));
        // Who only passed the command on need not know the members that it was committed by.
        let Some(status) = status.filter(|status| status.role == RoleName::Leader) else { return Ok(()) };
        self.coverage.count("acknowledgements checked against the recovered disks");
        let (mut voters, mut holders) = (0_u64, 0_u64);
        let membership = &status.membership;
        for (replica, member) in membership.members() {
            // A joint state may just have been entered: then the entry was committed by the old voters.
            let counts = match membership.joint() {
                Some(joint) => joint.outgoing_voters().any(|voter| voter == replica),
                None => member.role.votes(),
            };
            if counts && let Some(node) = self.nodes.get(&member.node) {
                voters += 1;
                let excused = node.was_damaged || !node.is_itself();
                holders += u64::from(
                    excused || holds(&node.recovered(self.agenda.now(), &self.swarm)?.of(group), at),
                );
            }
        }
        // One voter may just be on its way in: then the entry was committed by the smaller set.
        let needed = voters.saturating_sub(1) / 2 + 1;
        require!(
            holders >= needed,
            "acknowledged is durable on a quorum",
            "{at} was acknowledged, but only {holders} of {voters} voters would still have it after a power cut"
        );
        Ok(())
    }

    pub(crate) fn note_log_task(&mut self, id: NodeId, task: &LogTask) {
        let write = &task.write;
        let mut what = String::new();
        if let Some((to, _, _)) = &write.reset_to {
            what += &format!(" reset to {to}");
            self.coverage.count("logs reset to a snapshot");
        }
        if let Some(from) = write.truncate_from {
            what += &format!(" cut from {from}");
            self.coverage.count("conflicting suffixes cut off");
        }
        if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
            what += &format!(" +{}..={}", first.id, last.id);
        }
        if let Some(hard) = &write.hard_state {
            what += &format!(" {:?} vote {:?} commit {}", hard.term, hard.vote, hard.commit);
        }
        if let Some((to, _, _)) = &write.compact_to {
            what += &format!(" compact to {to}");
            self.coverage.count("logs compacted");
        }
        if write.remove {
            what += " remove";
        }
        let group = write.group;
        let sync = if task.must_sync { "" } else { " (no sync)" };
        note!(self, Name(id), "log: {group:?}{what}{sync}");
    }

    fn note_log_written(&mut self, id: NodeId, written: &LogWritten) {
        match &written.result {
            Ok(()) => note!(self, Name(id), "log: (written {:?})", written.token.map(|token| token.0)),
            Err(error) => {
                note!(self, Name(id), "log: (not written: {error})");
                if let LogError::NoSpace { .. } = error {
                    let running = self.nodes.get(&id).and_then(|node| node.running.as_ref());
                    if let Some(replica) = running.and_then(|running| running.replicas.get(&written.group)) {
                        self.invariants.on_no_space(written.group, *replica);
                    }
                    self.coverage.count("log writes without space");
                } else {
                    self.coverage.count("log writes failed by the disk");
                }
            }
        }
    }
}

/// Of all bytes of a snapshot. `None`: it has been superseded and dropped, or its disk fails on purpose.
fn fingerprint_of(
    snapshots: &dyn SnapshotStore,
    snapshot: &SnapshotInfo,
) -> Result<Option<u64>, SnapshotError> {
    let Ok(mut reader) = snapshots.open(snapshot) else { return Ok(None) };
    let mut fingerprint = hash(b"");
    let (mut offset, mut buffer) = (0, [0; 4096]);
    loop {
        match reader.read_at(offset, &mut buffer) {
            Ok(0) => return Ok(Some(fingerprint)),
            Ok(read) => {
                fingerprint = hash_on(fingerprint, &buffer[..read]);
                offset += read as u64;
            }
            Err(error) if error.to_string().contains(INJECTED) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
