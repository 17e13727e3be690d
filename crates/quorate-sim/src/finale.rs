//! The end of a run: the faults stop, everything must come to rest, and then the whole is judged.
//!
//! ```text
//!   faults … ──► calm ──► a leader, every client answered, every member caught up ──► judge
//!                 └──────── within LIVENESS_BOUND of virtual time ─────────┘
//! ```

use quorate_core::{GroupId, NodeId, ReplicaId};
use quorate_host::{Answer, Applied, ApplyTask, Event, GroupStatus, Ticket};
use quorate_kv::KvQuery;

use crate::invariants::{Checked, Violation, require};
use crate::world::{MILLISECOND, Step, World, note};

/// How long everything may take to come to rest once nothing is broken any more: about 60
/// election timeouts, for the longest stream of snapshots and the unluckiest elections.
pub(crate) const LIVENESS_BOUND: u64 = 20_000 * MILLISECOND;

impl World {
    pub(crate) fn on_look(&mut self) {
        let groups = self.swarm.groups;
        self.rested = self.clients.iter().all(crate::client::Client::is_done)
            && (1..=groups).all(|group| self.has_converged(GroupId(group)));
        if !self.rested {
            self.agenda.plan_within(20 * MILLISECOND, 20 * MILLISECOND, Step::Look);
        }
    }

    /// Runs until everything is at rest.
    pub(crate) fn come_to_rest(&mut self) -> Checked {
        self.calm_down();
        // A start on a disk that took seconds for every sync goes on until it is done.
        let busy_until = self.nodes.values().map(|node| node.disk.end()).max().unwrap_or(0);
        let deadline = self.agenda.now().max(busy_until) + LIVENESS_BOUND;
        while !self.rested {
            if self.agenda.now() >= deadline && self.is_stuck_by_damage() {
                self.coverage.count("groups of two that damage of one left without a leader");
                return Ok(());
            }
            require!(self.agenda.now() < deadline, "liveness", "{}", self.what_is_missing());
            if self.step()?.is_none() {
                return Err(Violation::new("liveness", "nothing happens any more"));
            }
        }
        note!(self, "--", "everything is at rest");
        Ok(())
    }

    /// Whether somebody who has lost entries, and votes for nobody before he has them back, is one of two voters: then
    /// nobody can become leader to bring them back. An operator has to help.
    fn is_stuck_by_damage(&self) -> bool {
        let Some(damaged) =
            self.damaged_node.filter(|id| self.nodes.get(id).is_some_and(|node| node.was_damaged))
        else {
            return false;
        };
        (1..=self.swarm.groups).map(GroupId).filter(|group| self.a_leader(*group).is_none()).any(|group| {
            let statuses = self.nodes.values().filter_map(|node| node.running.as_ref()?.host.status(group));
            let Some(newest) = statuses.max_by_key(|status| status.membership_id) else { return false };
            let of_two = |voters: Vec<ReplicaId>| {
                let nodes: Vec<_> = voters.iter().filter_map(|voter| newest.membership.get(*voter)).collect();
                nodes.len() <= 2 && nodes.iter().any(|member| member.node == damaged)
            };
            of_two(newest.membership.incoming_voters().collect())
                || newest.membership.joint().is_some_and(|joint| of_two(joint.outgoing_voters().collect()))
        })
    }

    fn what_is_missing(&self) -> String {
        let mut missing = Vec::new();
        for client in self.clients.iter().filter(|client| !client.is_done()) {
            missing.push(format!("client {} still waits", client.id));
        }
        for group in (1..=self.swarm.groups).map(GroupId) {
            if self.has_converged(group) {
                continue;
            }
            let leader = self.a_leader(group).map(|(node, _)| node);
            missing.push(format!("{group:?} has not converged (leader: {leader:?})"));
            for node in self.nodes.values() {
                let status = node.running.as_ref().and_then(|running| running.host.status(group));
                missing.push(match status {
                    Some(status) => in_a_line(node.id, &status),
                    None => format!("n{} has no replica", node.id),
                });
            }
        }
        missing.join("\n    ")
    }

    /// Judges the run as a whole.
    pub(crate) fn judge(&mut self) -> Checked {
        for group in (1..=self.swarm.groups).map(GroupId) {
            match (&self.workload, self.witnesses.get(&group)) {
                (Some(workload), Some(witness)) => witness.judge(workload.machine())?,
                (Some(_), None) | (None, _) => self.check_same_content(group)?,
            }
        }
        self.history.check().map_err(|violation| Violation::new("linearizability", violation.to_string()))
    }

    /// All members hold the same items.
    fn check_same_content(&mut self, group: GroupId) -> Checked {
        let Some((_, leader)) = self.a_leader(group) else { return Ok(()) };
        let mut first: Option<(NodeId, bytes::Bytes)> = None;
        for (_, member) in leader.membership.members() {
            let Some(running) = self.nodes.get_mut(&member.node).and_then(|node| node.running.as_mut())
            else {
                continue;
            };
            let everything =
                KvQuery::Scan { start: bytes::Bytes::new(), end: None, limit: u32::MAX, bytes_max: u64::MAX };
            let query = ApplyTask::Query { group, ticket: Ticket(0), request: everything.encode() };
            let events = running.applier.step(query);
            let content = events.into_iter().find_map(|event| {
                let Event::Applied(Applied::Query { answer, .. }) = event else { return None };
                let Answer::Queried { response, .. } = answer else { return None };
                Some(response)
            });
            let Some(content) = content else { continue };
            let (other, expected) = first.get_or_insert_with(|| (member.node, content.clone()));
            require!(
                *expected == content,
                "replicas converge",
                "n{other} and n{} differ at rest: {expected:?} {content:?}",
                member.node
            );
        }
        Ok(())
    }
}

fn in_a_line(node: NodeId, status: &GroupStatus) -> String {
    let GroupStatus { role, replica, term, leader, last, commit, applied, compacted, .. } = status;
    let members: Vec<String> = status
        .membership
        .members()
        .map(|(id, member)| format!("{id:?} n{} {:?}", member.node, member.role))
        .collect();
    let fed: Vec<String> = status
        .progress
        .iter()
        .map(|(id, progress)| format!("{id:?} {:?} {}..{}", progress.state, progress.matched, progress.next))
        .collect();
    format!(
        "n{node} {replica:?} {role} {term:?} of {leader:?}, last {last} commit {commit} applied {applied} compacted \
         {compacted}, members of {} {members:?}, feeds {fed:?}",
        status.membership_id
    )
}
