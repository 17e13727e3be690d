//! The fault injector: breaks nodes, disks and the network while users work, and stops when the world is to
//! come to rest.

use quorate_core::{GroupId, NodeId};
use quorate_host::Event;

use crate::disk::DiskProfile;
use crate::disk_image::Crash;
use crate::fault_kinds::FaultKind;
use crate::invariants::Checked;
use crate::network::NetworkProfile;
use crate::node::{BootError, Clock, Surroundings};
use crate::report::Fault;
use crate::world::{MILLISECOND, NEEDS_NEWER_BUILD, Name, Step, World, note};

impl World {
    pub(crate) fn on_fault_injector_moves(&mut self) -> Checked {
        if self.calm {
            return Ok(());
        }
        let pause_max = self.swarm.fault_pause_millis_max;
        self.agenda.plan_within(10 * MILLISECOND, pause_max * MILLISECOND, Step::FaultInjectorMoves);
        let number = self.moves;
        self.moves += 1;
        if self.only_faults.as_ref().is_some_and(|only| !only.contains(&number)) {
            return Ok(());
        }
        let own = self.fault_rng.fork(&format!("fault {number}"));
        let others = std::mem::replace(&mut self.rng, own);
        let at_millis = self.agenda.now() / MILLISECOND;
        self.trace.remember_fault();
        self.inflict();
        let what = self.trace.remembered_fault();
        self.faults.push(Fault { number, at_millis, what });
        self.rng = others;
        self.check_swaps()
    }

    fn inflict(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let Some(victim) = self.rng.pick(&ids).copied() else { return };
        let kind = self.swarm.faults.pick(&mut self.rng);
        match kind {
            FaultKind::PowerCut => self.stop_node(victim, Crash::Power, "power cut"),
            FaultKind::Kill => self.stop_node(victim, Crash::Process, "killed"),
            FaultKind::LeaderPowerCut => self.stop_leader(),
            FaultKind::PowerCutEverywhere => {
                for id in ids {
                    self.stop_node(id, Crash::Power, "power cut everywhere");
                }
            }
            FaultKind::Pause => self.pause(victim),
            FaultKind::Split => self.split(&ids),
            FaultKind::Isolate => self.isolate(victim, &ids),
            FaultKind::OneWayCut => self.cut_one_way(&ids),
            FaultKind::SlowDisk => self.slow_disk(victim),
            FaultKind::Bridge => self.bridge(&ids),
            FaultKind::PairCut => self.cut_a_pair(&ids),
            FaultKind::SlowLinks => self.slow_links(&ids),
            FaultKind::Resets => self.reset_connections(&ids),
            FaultKind::Clock => self.disturb_clock(victim),
            FaultKind::ReadOnly => self.read_only_disk(victim),
            FaultKind::BitRot if self.rots => self.bit_rot(victim),
            FaultKind::Misreads if self.rots => self.misreads(victim),
            FaultKind::OldBackup if self.rots => self.back_up(victim),
            FaultKind::BitRot | FaultKind::Misreads | FaultKind::OldBackup => {}
            FaultKind::WipedDisk => self.wipe_disk(victim),
            FaultKind::SwappedDisks => {
                if let Some(other) = self.rng.pick(&ids).copied() {
                    self.swap_disks(victim, other);
                }
            }
            FaultKind::Heal => self.on_heal(),
        }
    }

    /// Ends a node's process; it starts again after a while.
    pub(crate) fn stop_node(&mut self, id: NodeId, crash: Crash, why: &str) {
        let now = self.agenda.now();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.running.is_none() {
            return;
        }
        let damage = node.crash(crash, now, &mut self.rng);
        note!(self, "!!", "n{id} {why}: {damage:?}");
        self.coverage.count(match crash {
            Crash::Process => "processes killed",
            Crash::Power => "power cuts",
        });
        self.coverage.add("torn writes", damage.torn_writes);
        self.coverage.add("lost writes", damage.lost_writes);
        self.coverage.add("lost names", damage.lost_names);
        self.coverage.add("writes in flight undone", damage.undone_operations);
        let down_max = if self.calm { 50 } else { *self.rng.pick(&[20, 300, 1_500]).unwrap_or(&300) };
        self.agenda.plan_within(MILLISECOND, down_max * MILLISECOND, Step::Boot(id));
    }

    fn stop_leader(&mut self) {
        let group = GroupId(1 + self.rng.below(self.swarm.groups));
        if let Some((leader, _)) = self.a_leader(group) {
            self.coverage.count("leaders stopped on purpose");
            self.stop_node(leader, Crash::Power, "power cut of a leader");
        }
    }

    pub(crate) fn on_boot(&mut self, id: NodeId) -> Checked {
        let now = self.agenda.now();
        let (offset, drift_max) = (self.rng.below(1 << 40), self.swarm.drift_ppm_max);
        let drift = i64::try_from(self.rng.below(2 * drift_max + 1)).unwrap_or(0)
            - i64::try_from(drift_max).unwrap_or(0);
        let skew_millis = self.rng.below(500);
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.running.is_some() {
            return Ok(());
        }
        node.life += 1;
        let unix_millis = 1_700_000_000_000 + now / MILLISECOND + skew_millis;
        node.clock = Clock::starting(now, offset, drift, unix_millis);
        let mut around = Surroundings {
            swarm: &self.swarm,
            seams: &self.seams,
            workload: self.workload.as_ref(),
            witnesses: &self.witnesses,
            invariants: &mut self.invariants,
        };
        match node.boot(now, &mut around) {
            Ok(()) => {
                let up_at = node.disk.end();
                let life = node.life;
                let replicas: Vec<_> = node.running.iter().flat_map(|running| &running.replicas).collect();
                let replicas = format!("{replicas:?}");
                let was_rotten = node.rot.is_some();
                node.replaced = None;
                let gave_up = node.running.as_ref().is_some_and(|running| running.gave_up_entries);
                note!(self, Name(id), "starts, is {replicas}");
                self.coverage.count("starts");
                self.coverage.add("starts with damaged entries, which are given up", u64::from(gave_up));
                self.coverage.add("starts with harmless damage", u64::from(was_rotten && !gave_up));
                if let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.running.as_mut()) {
                    running.inbox.push_back(Event::Tick);
                    running.turn_planned = true;
                }
                self.agenda.plan(up_at, Step::Turn(id, life));
                Ok(())
            }
            Err(BootError::Injected) => {
                node.crash(Crash::Process, now, &mut self.rng);
                note!(self, Name(id), "does not start: its disk failed");
                self.coverage.count("starts failed by the disk");
                self.agenda.plan_within(MILLISECOND, 100 * MILLISECOND, Step::Boot(id));
                Ok(())
            }
            Err(BootError::Violation(violation)) => {
                if violation.detail.contains(NEEDS_NEWER_BUILD) && self.upgrade(id) {
                    self.coverage.count("replicas stopped because their build is too old");
                    if let Some(node) = self.nodes.get_mut(&id) {
                        node.crash(Crash::Process, now, &mut self.rng);
                    }
                    self.agenda.plan_within(MILLISECOND, 300 * MILLISECOND, Step::Boot(id));
                    return Ok(());
                }
                if self.restore_rotten_bit(id, &violation.detail)
                    || self.take_backup_out(id, &violation.detail)
                {
                    if let Some(node) = self.nodes.get_mut(&id) {
                        node.crash(Crash::Process, now, &mut self.rng);
                    }
                    self.agenda.plan_within(MILLISECOND, 300 * MILLISECOND, Step::Boot(id));
                    return Ok(());
                }
                Err(violation)
            }
        }
    }

    fn pause(&mut self, id: NodeId) {
        let now = self.agenda.now();
        let millis = *self.rng.pick(&[20, 400, 1_500]).unwrap_or(&400);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.paused_until = now + millis * MILLISECOND;
        }
        note!(self, "!!", "n{id} stands still for {millis} ms");
        self.coverage.count("pauses");
    }

    fn split(&mut self, ids: &[NodeId]) {
        let sides: Vec<(NodeId, bool)> = ids.iter().map(|id| (*id, self.rng.chance(500))).collect();
        for (a, left) in &sides {
            for (b, right) in &sides {
                if left != right {
                    self.network.cut(*a, *b);
                }
            }
        }
        note!(self, "!!", "the network splits: {sides:?}");
        self.coverage.count("partitions");
        self.heal_later();
    }

    fn isolate(&mut self, victim: NodeId, ids: &[NodeId]) {
        for id in ids {
            self.network.cut(victim, *id);
            self.network.cut(*id, victim);
        }
        note!(self, "!!", "n{victim} is cut off");
        self.coverage.count("partitions");
        self.heal_later();
    }

    fn cut_one_way(&mut self, ids: &[NodeId]) {
        for _ in 0..self.rng.between(1, 3) {
            if let (Some(from), Some(to)) = (self.rng.pick(ids).copied(), self.rng.pick(ids).copied()) {
                self.network.cut(from, to);
                note!(self, "!!", "n{from} no longer reaches n{to}");
            }
        }
        self.coverage.count("one-way partitions");
        self.heal_later();
    }

    /// Two sides that do not see each other, and one node that both see.
    fn bridge(&mut self, ids: &[NodeId]) {
        let Some(bridge) = self.rng.pick(ids).copied() else { return };
        let others = ids.iter().copied().filter(|id| *id != bridge);
        let sides: Vec<(NodeId, bool)> = others.map(|id| (id, self.rng.chance(500))).collect();
        for (a, left) in &sides {
            for (b, right) in &sides {
                if left != right {
                    self.network.cut(*a, *b);
                }
            }
        }
        note!(self, "!!", "the network splits: {sides:?}, but all reach n{bridge}");
        self.coverage.count("partitions with a bridge");
        self.heal_later();
    }

    /// Two nodes that do not see each other, while everybody else sees both.
    fn cut_a_pair(&mut self, ids: &[NodeId]) {
        if let (Some(a), Some(b)) = (self.rng.pick(ids).copied(), self.rng.pick(ids).copied())
            && a != b
        {
            self.network.cut(a, b);
            self.network.cut(b, a);
            note!(self, "!!", "n{a} and n{b} no longer see each other");
            self.coverage.count("pairs cut");
            self.heal_later();
        }
    }

    fn slow_links(&mut self, ids: &[NodeId]) {
        let bytes_per_second = *self.rng.pick(&[2_000, 20_000, 200_000]).unwrap_or(&20_000);
        for _ in 0..self.rng.between(1, 4) {
            if let (Some(from), Some(to)) = (self.rng.pick(ids).copied(), self.rng.pick(ids).copied()) {
                self.network.slow_down(from, to, bytes_per_second);
                note!(self, "!!", "n{from} reaches n{to} with {bytes_per_second} bytes a second");
            }
        }
        self.coverage.count("slow links");
        self.heal_later();
    }

    fn reset_connections(&mut self, ids: &[NodeId]) {
        for _ in 0..self.rng.between(1, 3) {
            if let (Some(a), Some(b)) = (self.rng.pick(ids).copied(), self.rng.pick(ids).copied()) {
                self.network.reset(a, b);
                note!(self, "!!", "the connections between n{a} and n{b} are reset");
            }
        }
        self.coverage.count("connections reset");
    }

    /// A wall clock is set, a monotonic clock goes at another speed, or a machine was suspended.
    fn disturb_clock(&mut self, id: NodeId) {
        let now = self.agenda.now();
        let jumps = self.swarm.clock_jumps;
        let choice = self.rng.below(3);
        let millis = *self.rng.pick(&[1_000_i64, 3_600_000, 31_536_000_000]).unwrap_or(&1_000);
        let millis = if self.rng.chance(500) { millis } else { -millis };
        let ahead = self.rng.between(10, 5_000) * MILLISECOND;
        let drift_ppm = i64::try_from(self.rng.below(2 * self.swarm.drift_ppm_max + 1)).unwrap_or(0)
            - i64::try_from(self.swarm.drift_ppm_max).unwrap_or(0);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        match choice {
            0 => {
                node.clock.set_wall(millis);
                note!(self, "!!", "the wall clock of n{id} is set by {millis} ms");
                self.coverage.count(if millis > 0 {
                    "wall clocks set ahead"
                } else {
                    "wall clocks set back"
                });
            }
            1 if jumps => {
                node.clock.jump(ahead);
                note!(self, "!!", "the monotonic clock of n{id} jumps by {ahead} ns");
                self.coverage.count("monotonic clocks jumped ahead");
            }
            _ => {
                node.clock.set_drift(now, drift_ppm);
                note!(self, "!!", "the monotonic clock of n{id} now drifts by {drift_ppm} ppm");
                self.coverage.count("clocks changed speed");
            }
        }
    }

    fn read_only_disk(&mut self, id: NodeId) {
        let profile = DiskProfile { read_only: true, ..self.swarm.disk };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk.set_profile(profile);
        }
        note!(self, "!!", "the disk of n{id} becomes read-only");
        self.coverage.count("disks mounted read-only");
        self.heal_later();
    }

    pub(crate) fn heal_later(&mut self) {
        let millis = *self.rng.pick(&[100, 600, 2_000]).unwrap_or(&600);
        self.agenda.plan_within(MILLISECOND, millis * MILLISECOND, Step::Heal);
    }

    fn slow_disk(&mut self, id: NodeId) {
        let sync_millis_max = *self.rng.pick(&[400, 400, 400, 6_000]).unwrap_or(&400);
        let profile = DiskProfile {
            sync_nanos_max: sync_millis_max * MILLISECOND,
            slow_sync_permille: 0,
            ..self.swarm.disk
        };
        if let Some(node) = self.nodes.get_mut(&id) {
            node.disk.set_profile(profile);
        }
        note!(self, "!!", "the disk of n{id} becomes slow: up to {sync_millis_max} ms a sync");
        self.coverage.count("slow disks");
        self.heal_later();
    }

    pub(crate) fn on_heal(&mut self) {
        self.network.heal();
        for node in self.nodes.values() {
            node.disk.set_profile(if self.calm { DiskProfile::GOOD } else { self.swarm.disk });
        }
        note!(self, "!!", "the network and the disks are whole");
    }

    /// The faults end: from here on everything must come to rest.
    pub(crate) fn calm_down(&mut self) {
        self.calm = true;
        note!(self, "--", "the faults are over");
        self.network.set_profile(NetworkProfile::GOOD);
        self.on_heal();
        for node in self.nodes.values_mut() {
            node.paused_until = 0;
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.on_disk_comes_back(id);
            if self.swarm.upgrades {
                // Whoever still has an old build gets the new one: what is new must be accepted then.
                self.upgrade(id);
            }
        }
        for number in 0..self.clients.len() {
            if let Some(client) = self.clients.get_mut(number) {
                // One that is waiting goes on by itself; one that is at rest is woken.
                let at_rest = client.is_done();
                client.finish();
                if at_rest {
                    self.agenda.plan_within(0, MILLISECOND, Step::ClientMoves(number));
                }
            }
        }
        self.agenda.plan_within(0, MILLISECOND, Step::Look);
    }
}
