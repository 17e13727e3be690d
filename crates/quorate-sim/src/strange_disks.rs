//! Disks that are not what they were: a flipped bit, a write or a read in the wrong place, an empty disk or
//! an old copy in place of the one there was, two disks in each other's machine.
//!
//! | fault | the product promises |
//! |---|---|
//! | bit rot, a write in the wrong place | a start names the damage, or gives up the entries of one group and is filled up by its peers |
//! | a read from the wrong place | it is noticed: what was read is neither believed nor applied |
//! | two disks swapped | neither node starts |
//! | an empty disk | nobody listens to the node that uses it, because its directory is another one |
//! | an old copy of the disk | its leader notices, and fills it up; it gives no vote before |
//!
//! * One node at a time: against damage of a majority nothing is promised.
//! * Reads go wrong under a running node, not while it starts: what is read then decides what is kept.
//! * Nothing vouches for what was written last until the mark behind it is: damage there is a torn tail to
//!   whoever starts, and is not tried (README, "What it guarantees").
//! * Bits rot while the node is down. One that refuses to start gets the bit back, as from a backup.
//! * An empty disk is taken out again after a while, and the old one put back.
//! * An old copy cannot be told from the disk by itself: whatever only this node had is lost. So it is put in when
//!   everybody has everything, and there is a leader to notice it.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_core::{GroupId, LogId, NodeId, ReplicaId};
use quorate_host::GroupStatus;
use quorate_storage::{DataDir, DataDirError};

use crate::disk::{DiskProfile, SimDisk};
use crate::disk_image::{Crash, Image};
use crate::invariants::{Checked, holds, require};
use crate::world::{MILLISECOND, Name, Step, World, note};

/// Bytes that have changed by themselves.
#[derive(Clone, Debug)]
pub(crate) struct Rot {
    pub(crate) path: String,
    pub(crate) inode: u64,
    pub(crate) offset: usize,
    pub(crate) was: Vec<u8>,
    pub(crate) is: Vec<u8>,
}

/// A copy of a disk, as it was when it was made.
pub(crate) struct Backup {
    image: Image,
    /// What the node was then, and which members it acted by: another one since, and the copy is of no use.
    replicas: BTreeMap<GroupId, (ReplicaId, LogId)>,
}

impl World {
    /// Whether this node may lose something: only ever one of a world's nodes, and not one of few.
    fn may_be_damaged(&mut self, id: NodeId) -> bool {
        if self.swarm.voters < 3 {
            return false;
        }
        *self.damaged_node.get_or_insert(id) == id
    }

    /// A node stops; while it is down, a bit of its log or of a snapshot changes.
    pub(crate) fn bit_rot(&mut self, id: NodeId) {
        let idle = self.nodes.get(&id).is_some_and(|node| node.rot.is_none() && node.kept_disk.is_none());
        if !idle || !self.may_be_damaged(id) {
            return;
        }
        self.stop_node(id, Crash::Process, "killed");
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.running.is_none()) else { return };
        let is_sector = self.rng.chance(300);
        node.rot = if is_sector { node.disk.misplace(&mut self.rng) } else { node.disk.rot(&mut self.rng) };
        node.was_damaged |= node.rot.is_some();
        if let Some(Rot { path, offset, is, was, .. }) = node.rot.clone() {
            if is_sector {
                note!(self, "!!", "n{id}: byte {offset} of {path} and on are overwritten by another sector");
                self.coverage.count("sectors overwritten by others");
            } else {
                note!(self, "!!", "n{id}: byte {offset} of {path} is {is:02x?} instead of {was:02x?}");
                self.coverage.count("bits rotten");
            }
        }
    }

    /// A node stops, somebody copies its disk, and it goes on with its own. The copy is put in its place later.
    pub(crate) fn back_up(&mut self, id: NodeId) {
        let now = self.agenda.now();
        // A start that is undone may be the one that made the directory.
        let idle = self.nodes.get(&id).is_some_and(|node| {
            node.rot.is_none() && node.kept_disk.is_none() && node.backup.is_none() && node.is_up(now)
        });
        if !idle || !self.may_be_damaged(id) {
            return;
        }
        let replicas = self.replicas_with_members(id);
        self.stop_node(id, Crash::Process, "killed");
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.running.is_none()) else { return };
        node.backup = Some(Backup { image: node.disk.image(), replicas });
        note!(self, "!!", "n{id}: its disk is copied");
        self.agenda.plan_within(300 * MILLISECOND, 3_000 * MILLISECOND, Step::BackupIsPutIn(id));
    }

    fn replicas_with_members(&self, id: NodeId) -> BTreeMap<GroupId, (ReplicaId, LogId)> {
        let running = self.nodes.get(&id).and_then(|node| node.running.as_ref());
        let groups =
            running.into_iter().flat_map(|running| running.replicas.iter().map(move |at| (running, at)));
        groups
            .filter_map(|(running, (group, replica))| {
                Some((*group, (*replica, running.host.core_status(*group)?.membership_id)))
            })
            .collect()
    }

    /// The copy of a node's disk takes the place of the disk, once everybody else has all that the node has.
    pub(crate) fn on_backup_is_put_in(&mut self, id: NodeId) {
        let Some(backup) = self.nodes.get_mut(&id).and_then(|node| node.backup.take()) else { return };
        let own = self.nodes.get(&id).is_some_and(|node| node.rot.is_none() && node.kept_disk.is_none());
        if self.calm || !own {
            return;
        }
        if self.replicas_with_members(id) != backup.replicas || !self.others_have_everything(id) {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.backup = Some(backup);
            }
            self.agenda.plan_within(20 * MILLISECOND, 50 * MILLISECOND, Step::BackupIsPutIn(id));
            return;
        }
        self.stop_node(id, Crash::Process, "killed");
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.running.is_none()) else { return };
        node.put_in(backup.image);
        node.was_damaged = true;
        for (group, (replica, _)) in backup.replicas {
            self.invariants.on_old_backup(group, replica);
        }
        note!(self, "!!", "n{id}: the copy of its disk takes the place of the disk");
        self.coverage.count("old backups put in");
    }

    /// Whether every group of the node has a leader elsewhere, three voters, and nothing that only this node
    /// has: no entry, no vote that still counts.
    fn others_have_everything(&self, id: NodeId) -> bool {
        let now = self.agenda.now();
        let Some(running) = self.nodes.get(&id).and_then(|node| node.running.as_ref()) else { return false };
        !running.replicas.is_empty()
            && running.replicas.keys().all(|group| {
                let own = running.host.status(*group);
                let Some((leader, status)) = self.a_leader(*group).filter(|(leader, _)| *leader != id) else {
                    return false;
                };
                let leads = |of: &GroupStatus| of.term == status.term && of.leader == status.leader;
                own.is_some_and(|own| leads(&own))
                    && status.commit == status.last.index
                    && status.membership.joint().is_none()
                    && status.membership.voters().count() >= 3
                    && status.membership.members().filter(|(_, member)| member.node != id).all(
                        |(_, member)| {
                            let node = self.nodes.get(&member.node).filter(|node| node.is_up(now));
                            let there = node.and_then(|node| node.running.as_ref());
                            // What its log counts as written may still be on its way to the disk.
                            let there = there.filter(|there| {
                                let own = there.host.core_status(*group);
                                own.is_some_and(|own| own.persisted >= status.last.index)
                            });
                            there.is_some_and(|there| {
                                there.host.status(*group).is_some_and(|other| leads(&other))
                                    && holds(&there.durable(*group), status.last)
                            })
                        },
                    )
                    && self.nodes.get(&leader).is_some_and(|node| node.is_up(now))
            })
    }

    /// Reads of a node's disk return, sometimes, what stands elsewhere in the file.
    pub(crate) fn misreads(&mut self, id: NodeId) {
        if !self.may_be_damaged(id) {
            return;
        }
        let profile = DiskProfile { misread_per_100k: 15_000, ..self.swarm.disk };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk.set_profile(profile);
            node.was_damaged = true;
        }
        note!(self, "!!", "n{id} reads from wrong places");
        self.heal_later();
    }

    /// A start has failed. Whether that is because of the bit that has changed; it is changed back then.
    pub(crate) fn restore_rotten_bit(&mut self, id: NodeId, why: &str) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let Some(rot) = node.rot.take() else { return false };
        node.disk.mend(&rot);
        note!(self, Name(id), "does not start with its damage: {why}");
        self.coverage.count("starts refused because of damage");
        true
    }

    /// A start with an old copy of the disk has failed: where machines are on disk, and were not copied, it may.
    pub(crate) fn take_backup_out(&mut self, id: NodeId, why: &str) -> bool {
        let allowed = self.swarm.durable_machines;
        let Some(node) = self.nodes.get_mut(&id).filter(|_| allowed) else { return false };
        if !node.take_out() {
            return false;
        }
        note!(self, Name(id), "does not start with an old copy of its disk: {why}");
        self.coverage.count("old backups refused");
        true
    }

    /// Two nodes are down and get each other's disks. Neither may start with it.
    pub(crate) fn swap_disks(&mut self, one: NodeId, other: NodeId) {
        if one == other {
            return;
        }
        self.stop_node(one, Crash::Power, "power cut");
        self.stop_node(other, Crash::Power, "power cut");
        let disk_of = |world: &Self, id: NodeId| world.nodes.get(&id).map(|node| node.disk.clone());
        let (Some(ones), Some(others)) = (disk_of(self, one), disk_of(self, other)) else { return };
        for (id, disk) in [(one, others), (other, ones)] {
            let outcome = open_as(id, &disk);
            note!(self, "!!", "n{id} finds the disk of another: {outcome}");
            self.swaps.push(outcome);
        }
    }

    /// What happened to disks in the wrong machine.
    pub(crate) fn check_swaps(&mut self) -> Checked {
        for outcome in std::mem::take(&mut self.swaps) {
            require!(
                outcome != SWALLOWED,
                "a node knows its own disk",
                "a node starts with the disk of another"
            );
            if outcome == REFUSED {
                self.coverage.count("disks of other nodes refused");
            }
        }
        Ok(())
    }

    /// A node finds an empty disk in place of its own.
    pub(crate) fn wipe_disk(&mut self, id: NodeId) {
        let idle = self.nodes.get(&id).is_some_and(|node| node.rot.is_none() && node.kept_disk.is_none());
        if !idle || !self.may_be_damaged(id) {
            return;
        }
        if !self.has_met_everybody(id) {
            return;
        }
        self.stop_node(id, Crash::Power, "power cut");
        let empty = SimDisk::new(self.swarm.disk, self.rng.fork("an empty disk"));
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.running.is_none()) else { return };
        node.take_disk(empty);
        note!(self, "!!", "n{id} gets an empty disk");
        self.coverage.count("disks replaced by empty ones");
        let back = self.rng.between(500, 3_000) * MILLISECOND;
        self.agenda.plan_within(back, back, Step::DiskComesBack(id));
    }

    /// Whoever is met for the first time is believed: what is tried here is a node that was met before.
    fn has_met_everybody(&mut self, id: NodeId) -> bool {
        let directories: Vec<(NodeId, u64)> =
            self.nodes.values().map(|node| (node.id, node.incarnation)).collect();
        let now = self.agenda.now();
        if self.nodes.values().any(|node| node.up_at > now) {
            // What a start that goes on has made may still be undone.
            return false;
        }
        let own = directories.iter().find(|(node, _)| *node == id).map_or(0, |(_, own)| *own);
        if directories.iter().any(|(_, incarnation)| *incarnation == 0) {
            return false;
        }
        for (node, incarnation) in directories {
            self.known_directories.entry((node, id, incarnation)).or_insert(own);
        }
        true
    }

    /// The old disk is put back.
    pub(crate) fn on_disk_comes_back(&mut self, id: NodeId) {
        if self.nodes.get(&id).is_none_or(|node| node.kept_disk.is_none()) {
            return;
        }
        self.stop_node(id, Crash::Power, "power cut");
        if let Some(node) = self.nodes.get_mut(&id) {
            node.bring_disk_back();
            node.disk.set_profile(if self.calm { DiskProfile::GOOD } else { self.swarm.disk });
        }
        note!(self, "!!", "n{id} has its own disk again");
    }

    /// Whether two nodes, when they connect, find each other's directories to be those they know. `ones` is
    /// the sender's when it sent.
    pub(crate) fn know_each_other(&mut self, from: NodeId, ones: u64, to: NodeId) -> bool {
        let Some(others) = self.nodes.get(&to).map(|node| node.incarnation) else { return true };
        let mut knows = |by, by_directory, whom, directory| {
            *self.known_directories.entry((by, whom, by_directory)).or_insert(directory) == directory
        };
        let both = knows(to, others, from, ones) & knows(from, ones, to, others);
        if !both {
            self.coverage.count("connections refused: another directory");
        }
        both
    }
}

const REFUSED: &str = "refused";
const NOT_TOLD: &str = "nothing to tell it by";
const SWALLOWED: &str = "accepted";

/// What a node does with a disk, as it starts.
fn open_as(id: NodeId, disk: &SimDisk) -> &'static str {
    let disk = Arc::new(disk.sound_copy());
    match DataDir::inspect(&*disk) {
        Ok(Some(_)) => {}
        Ok(None) | Err(_) => return NOT_TOLD,
    }
    match DataDir::open(disk, crate::node::identity(id, 0)) {
        Err(DataDirError::OtherNode { .. }) => REFUSED,
        Err(_) => NOT_TOLD,
        Ok(_) => SWALLOWED,
    }
}
