//! Nodes vouch for groups that rest: who leads such groups says so, all of them at once, and whose leader's node
//! falls silent wakes them.
//!
//! ```text
//!   node 1 leads 2, 5, 8 at rest                    node 2 follows 2, 5, 8 at rest
//!     five beats in T ────────────────────────────►   the same digest: all is well
//!     (node 1 is gone, or cut off)       silence T    all three wake, and campaign in time
//!     (node 1 leads 5 no more, lost it)  another ──►  the difference stays the same for T: 5 wakes
//!   cut off from a quorum of 5: it wakes, and steps down in time
//! ```
//!
//! * The core promises nothing to a group at rest, so nothing here can break more than a wait: a beat too few wakes
//!   groups that need not have woken, and their leader answers them.
//! * A beat names no groups: its size does not depend on how many rest. Beats travel behind what the leader said to
//!   its followers, so that both sides agree whenever nothing is under way.
//! * Among many groups something is always under way: one is asked to rest, and has not answered; another one wakes. So
//!   it counts only if the same is different for T. Which groups that are, the difference says if they are one or two;
//!   otherwise their sixteenth of all groups wakes.
//! * A leader rests on when the node of a minority is gone. It is told of that node when it has something to say.
//!
//! Not here: when a group goes to rest (`quorate-core/src/quiescence.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_core::{GroupId, Membership, MonoTime, NodeId, ReplicaId, RoleName, Term};

use crate::event::Outbound;
use crate::peer::{Beat, Lane, PARTS, PeerBody, PeerMessage};
use crate::replica::Replica;

/// How many beats a node has to be heard; no more than heartbeats, though, in the same time. They are all that groups
/// at rest cost, and whoever wakes in error only loses time.
const BEATS_IN_PATIENCE: u32 = 5;

/// For each part, what the marks of its groups come to.
type Digest = [u64; PARTS];

fn part_of(group: GroupId) -> usize {
    usize::try_from(group.0 % PARTS as u64).unwrap_or(0)
}

/// A number for a group that rests in a term, unlike that of others.
fn mark_of(group: GroupId, term: Term) -> u64 {
    splitmix64(group.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ term.0.rotate_left(32))
}

/// The finisher of splitmix64: numbers that are near each other become ones that are not.
pub(crate) const fn splitmix64(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// What was noted of a replica when it went to rest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Note {
    mark: u64,
    side: Side,
}

#[derive(Debug, PartialEq, Eq)]
enum Side {
    /// It leads; these nodes have the other members.
    Leads(Box<[NodeId]>),
    /// Its leader is on this node.
    Follows(NodeId),
}

/// Something in which what a node tells of a part of the groups differs from what is known here.
#[derive(Clone, Copy, Debug)]
struct Difference {
    /// The marks of the groups that one side knows at rest and the other one does not, taken together.
    marks: u64,
    since: MonoTime,
    /// When it was seen last; others may have been seen meanwhile.
    seen: MonoTime,
}

/// Another node, as far as groups at rest are concerned.
#[derive(Debug, Default)]
struct Neighbour {
    address: String,
    /// Groups at rest that are led here and have a member there.
    led: BTreeSet<GroupId>,
    /// Groups at rest that are led there.
    followed: BTreeSet<GroupId>,
    /// Of those that are led here: what the other node is told.
    told: Digest,
    /// Of those that are led there: what the other node should tell.
    expected: Digest,
    /// When it was heard last.
    heard: MonoTime,
    /// Where it tells something else.
    differences: [Option<Difference>; PARTS],
    /// Its silence was noted.
    is_silent: bool,
}

/// All groups of a host that rest, by the nodes they depend on.
#[derive(Debug, Default)]
pub(crate) struct Resting {
    nodes: BTreeMap<NodeId, Neighbour>,
    notes: BTreeMap<GroupId, Note>,
    /// The shortest of the groups that rest or did since last nobody rested.
    beat_interval: Option<Duration>,
    patience: Option<Duration>,
    beat_next: MonoTime,
    /// Groups whose followers (or whose leader) must not wait any longer.
    waking: BTreeSet<GroupId>,
}

impl Resting {
    /// Sees whether a replica went to rest or woke. Says whether it rests.
    pub(crate) fn watch(&mut self, now: MonoTime, group: GroupId, replica: &Replica) -> bool {
        let rests = replica.core.status().quiescent;
        if !rests {
            if !self.notes.is_empty() {
                self.forget(group);
            }
            return false;
        }
        let Some(note) = note_of(replica) else {
            self.forget(group);
            return false;
        };
        if self.notes.get(&group) != Some(&note) {
            self.forget(group);
            self.note(now, group, replica, note);
        }
        true
    }

    fn note(&mut self, now: MonoTime, group: GroupId, replica: &Replica, note: Note) {
        let timings = &replica.config.core;
        let wanted = timings.heartbeat_interval.max(timings.election_timeout / BEATS_IN_PATIENCE);
        let interval = self.beat_interval.get_or_insert(wanted);
        *interval = wanted.min(*interval);
        let patience = self.patience.get_or_insert(timings.election_timeout);
        *patience = timings.election_timeout.min(*patience);
        let members = Arc::clone(replica.core.status().membership);
        let part = part_of(group);
        match &note.side {
            Side::Leads(others) => {
                for node in others {
                    let neighbour = self.agreed(now, *node, &members);
                    neighbour.led.insert(group);
                    neighbour.told[part] ^= note.mark;
                }
            }
            Side::Follows(node) => {
                let neighbour = self.agreed(now, *node, &members);
                neighbour.followed.insert(group);
                neighbour.expected[part] ^= note.mark;
            }
        }
        self.notes.insert(group, note);
    }

    /// A node that has just agreed that a group with these members rests.
    fn agreed(&mut self, now: MonoTime, node: NodeId, members: &Membership) -> &mut Neighbour {
        let neighbour = self.nodes.entry(node).or_default();
        if let Some((_, member)) = members.on_node(node)
            && neighbour.address != member.peer_address
        {
            neighbour.address.clone_from(&member.peer_address);
        }
        neighbour.heard = neighbour.heard.max(now);
        neighbour.is_silent = false;
        neighbour
    }

    /// The group does not rest, or is gone.
    pub(crate) fn forget(&mut self, group: GroupId) {
        let Some(note) = self.notes.remove(&group) else { return };
        self.waking.remove(&group);
        let part = part_of(group);
        let (nodes, leads) = match &note.side {
            Side::Leads(others) => (&**others, true),
            Side::Follows(node) => (std::slice::from_ref(node), false),
        };
        for node in nodes {
            let Some(neighbour) = self.nodes.get_mut(node) else { continue };
            let (groups, digest) = match leads {
                true => (&mut neighbour.led, &mut neighbour.told),
                false => (&mut neighbour.followed, &mut neighbour.expected),
            };
            groups.remove(&group);
            digest[part] ^= note.mark;
            if neighbour.led.is_empty() && neighbour.followed.is_empty() {
                self.nodes.remove(node);
            }
        }
        if self.notes.is_empty() {
            *self = Self { waking: std::mem::take(&mut self.waking), ..Self::default() };
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn patience(&self) -> Duration {
        self.patience.unwrap_or_default()
    }

    /// A node says which groups it leads at rest.
    pub(crate) fn on_beat(&mut self, now: MonoTime, from: NodeId, beat: &Beat) {
        let patience = self.patience();
        let Some(neighbour) = self.nodes.get_mut(&from) else { return };
        neighbour.heard = now;
        neighbour.is_silent = false;
        let mut lasting = Vec::new();
        for (part, slot) in neighbour.differences.iter_mut().enumerate() {
            let marks = neighbour.expected[part] ^ beat.digest[part];
            if marks == 0 {
                *slot = None;
                continue;
            }
            match slot {
                Some(known) if known.marks == marks => {
                    known.seen = now;
                    if now.since(known.since) >= patience {
                        lasting.push((part, marks));
                        *slot = None;
                    }
                }
                // Of what is seen in between it is not known yet whether it stays.
                Some(known) if now.since(known.seen) < patience => {}
                Some(_) | None => *slot = Some(Difference { marks, since: now, seen: now }),
            }
        }
        for (part, marks) in lasting {
            self.wake_difference(from, part, marks);
        }
    }

    /// Wakes the groups that make a difference, as far as they wait for that node.
    fn wake_difference(&mut self, node: NodeId, part: usize, marks: u64) {
        let Some(neighbour) = self.nodes.get(&node) else { return };
        let in_part = neighbour.followed.iter().copied().filter(|group| part_of(*group) == part);
        let mark = |group: GroupId| Some((self.notes.get(&group)?.mark, group));
        let by_mark: BTreeMap<u64, GroupId> = in_part.filter_map(mark).collect();
        if let Some(group) = by_mark.get(&marks) {
            self.waking.insert(*group);
            return;
        }
        let mut pairs =
            by_mark.iter().filter_map(|(one, group)| Some([*group, *by_mark.get(&(one ^ marks))?]));
        match pairs.next() {
            Some(pair) => self.waking.extend(pair),
            None => self.waking.extend(by_mark.into_values()),
        }
    }

    /// A message could not be delivered to a node: it has a few beats to show that it is there.
    pub(crate) fn on_unreachable(&mut self, now: MonoTime, node: NodeId) {
        let (patience, interval) = (self.patience(), self.beat_interval.unwrap_or_default());
        if let Some(neighbour) = self.nodes.get_mut(&node) {
            let grace = (interval * 3).min(patience);
            let as_if = MonoTime((now + grace).0.saturating_sub((MonoTime(0) + patience).0));
            neighbour.heard = neighbour.heard.min(as_if);
        }
    }

    /// Notes who has been silent for too long. The groups to wake are in `take_waking` then.
    pub(crate) fn tick(&mut self, now: MonoTime) {
        let patience = self.patience();
        let mut lost = Vec::new();
        for neighbour in self.nodes.values_mut() {
            if !neighbour.is_silent && neighbour.heard + patience <= now {
                neighbour.is_silent = true;
                neighbour.differences = Default::default();
                self.waking.extend(&neighbour.followed);
                lost.extend(neighbour.led.iter().copied());
            }
        }
        self.waking.extend(lost);
    }

    /// Groups that may have to wake: those whose leader is not vouched for, and those led here that have a member on
    /// a node that fell silent (see [`Self::is_silent`]).
    pub(crate) fn take_waking(&mut self) -> BTreeSet<GroupId> {
        std::mem::take(&mut self.waking)
    }

    pub(crate) fn is_silent(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|neighbour| neighbour.is_silent)
    }

    /// When the node of the leader of a group at rest was heard.
    pub(crate) fn heard(&self, group: GroupId) -> Option<MonoTime> {
        match self.notes.get(&group)?.side {
            Side::Follows(node) => self.nodes.get(&node).map(|neighbour| neighbour.heard),
            Side::Leads(_) => None,
        }
    }

    /// The beats that are due.
    pub(crate) fn beat(&mut self, now: MonoTime, send: &mut Vec<Outbound>) {
        let Some(interval) = self.beat_interval.filter(|_| self.beat_next <= now) else { return };
        self.beat_next = now + interval;
        for (node, neighbour) in &self.nodes {
            let beat = Beat { digest: neighbour.told };
            let message = PeerMessage { group: GroupId(0), body: PeerBody::Beat(beat) };
            send.push(Outbound {
                to: *node,
                address: neighbour.address.clone(),
                lane: Lane::Control,
                message,
            });
        }
    }

    /// When there is something to do, if nothing happens.
    pub(crate) fn deadline(&self) -> Option<MonoTime> {
        let patience = self.patience();
        let speaking = self.nodes.values().filter(|neighbour| !neighbour.is_silent);
        let silence = speaking.map(|neighbour| neighbour.heard + patience).min();
        let beat = (!self.nodes.is_empty()).then_some(self.beat_next);
        silence.into_iter().chain(beat).min()
    }
}

/// What there is to note of a replica at rest; `None` if nobody else is there, or the leader is not a member.
fn note_of(replica: &Replica) -> Option<Note> {
    let status = replica.core.status();
    let mark = mark_of(replica.group, status.term);
    if status.role == RoleName::Leader {
        let others = status.membership.members().filter(|(id, _)| *id != replica.id);
        let others: Box<[NodeId]> = others.map(|(_, member)| member.node).collect();
        return (!others.is_empty()).then_some(Note { mark, side: Side::Leads(others) });
    }
    let leader = status.membership.get(status.leader?)?;
    Some(Note { mark, side: Side::Follows(leader.node) })
}

/// Whether a leader at rest would be heard by a quorum if these nodes cannot be reached. (No group rests in the joint
/// state.)
pub(crate) fn reaches_a_quorum(replica: &Replica, is_silent: impl Fn(NodeId) -> bool) -> bool {
    let membership = replica.core.status().membership;
    let answers = |id: &ReplicaId| {
        *id == replica.id || membership.get(*id).is_some_and(|member| !is_silent(member.node))
    };
    let (voters, answering) = (membership.voters().count(), membership.voters().filter(answers).count());
    answering * 2 > voters
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: NodeId = NodeId(2);
    const T: Duration = Duration::from_secs(1);
    /// All in one part.
    const GROUPS: std::ops::Range<u64> = 1..101;

    fn group(number: u64) -> GroupId {
        GroupId(number * PARTS as u64)
    }

    fn mark(number: u64) -> u64 {
        mark_of(group(number), Term(3))
    }

    /// A hundred groups of one part rest here, led there.
    fn resting() -> Resting {
        let mut resting = Resting { patience: Some(T), ..Resting::default() };
        let mut neighbour = Neighbour::default();
        for number in GROUPS {
            neighbour.followed.insert(group(number));
            neighbour.expected[0] ^= mark(number);
            let note = Note { mark: mark(number), side: Side::Follows(THERE) };
            resting.notes.insert(group(number), note);
        }
        resting.nodes.insert(THERE, neighbour);
        resting
    }

    /// Ten beats a second, each without some groups; what wakes at which of them.
    fn beats(count: u64, lacking: impl Fn(u64) -> Vec<u64>) -> Vec<(u64, Vec<GroupId>)> {
        let mut resting = resting();
        let all: u64 = GROUPS.map(mark).fold(0, |all, mark| all ^ mark);
        let mut woken = Vec::new();
        for beat in 0..count {
            let mut digest = [0; PARTS];
            digest[0] = lacking(beat).into_iter().fold(all, |all, number| all ^ mark(number));
            resting.on_beat(MonoTime(0) + Duration::from_millis(100 * beat), THERE, &Beat { digest });
            let waking = resting.take_waking();
            if !waking.is_empty() {
                woken.push((beat, waking.into_iter().collect()));
            }
        }
        woken
    }

    /// Ten thousand groups that come to rest one after the other: at every beat some are asked and have not answered.
    /// That woke hundreds, which came to rest one after the other.
    #[test]
    fn groups_that_come_to_rest_one_after_the_other_wake_nobody() {
        assert_eq!(beats(100, |beat| vec![1 + beat]), []);
        assert_eq!(beats(100, |beat| vec![1 + beat, 1 + (beat + 50) % 100, 1 + (beat * 7) % 100]), []);
    }

    #[test]
    fn what_stays_different_wakes_alone() {
        assert_eq!(beats(11, |_| vec![5]), [(10, vec![group(5)])]);
        // Also where something else is under way most of the time.
        let busy = |beat: u64| if beat.is_multiple_of(3) { vec![5] } else { vec![5, 6 + beat] };
        assert_eq!(beats(13, busy), [(12, vec![group(5)])]);
        // A beat that agrees: it was under way.
        assert_eq!(beats(20, |beat| if beat == 9 { vec![] } else { vec![5] }), []);
        assert_eq!(beats(11, |_| vec![5, 9]), [(10, vec![group(5), group(9)])], "two");
    }

    /// Which they are cannot be told from one number: all of the part.
    #[test]
    fn many_that_stay_different_wake_with_their_part() {
        let all: Vec<_> = GROUPS.map(group).collect();
        assert_eq!(beats(11, |_| vec![5, 9, 40]), [(10, all.clone())]);
        // The other side knows one at rest that does not rest here: nothing here waits for it alone.
        assert_eq!(beats(11, |_| vec![1000]), [(10, all)]);
    }
}
