//! Where a search begins, and what may happen in it.

use quorate_core::{Message, MessageBody, ReplicaId};

use crate::replica::{Fault, Input, Settings};
use crate::world::{Action, State, World};

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Allowance {
    pub(crate) campaigns: u8,
    pub(crate) proposals: u8,
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
    pub(crate) duplicates: u8,
    pub(crate) ticks: u8,
    pub(crate) forgets: u8,
    pub(crate) reads: u8,
    pub(crate) compactions: u8,
    pub(crate) transfers: u8,
    pub(crate) changes: u8,
    pub(crate) joint_changes: u8,
}

/// What happens before the search begins: everybody hears everything at once, but for those cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Before {
    /// This replica campaigns.
    Campaign(u64),
    /// It proposes.
    Propose(u64),
    /// The first of these asks that the second be a learner, or a voter again.
    Demote(u64, u64),
    Promote(u64, u64),
    /// It takes a snapshot and drops its log.
    Compact(u64),
    /// Nothing that this replica says or is told arrives any more.
    Cut(u64),
    /// Its next deadline comes.
    Tick(u64),
    /// The disk of this replica hangs: its writes stay on their way, also when the search begins.
    Stall(u64),
    /// The power of this replica fails; its disk works again.
    Crash(u64),
    /// Only votes arrive.
    VotesOnly,
    /// Everybody is connected again.
    Heal,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) voters: usize,
    pub(crate) settings: Settings,
    pub(crate) before: &'static [Before],
    pub(crate) allowed: Allowance,
    /// How many steps at most.
    pub(crate) steps_max: usize,
}

impl Scenario {
    pub(crate) const fn plain(name: &'static str, voters: usize) -> Self {
        let settings = Settings {
            pre_vote: false,
            check_quorum: false,
            writes_at_once: false,
            small_appends: false,
            rests: false,
            fault: Fault::None,
        };
        let allowed = Allowance {
            campaigns: 0,
            proposals: 0,
            crashes: 0,
            losses: 0,
            duplicates: 0,
            ticks: 0,
            forgets: 0,
            reads: 0,
            compactions: 0,
            transfers: 0,
            changes: 0,
            joint_changes: 0,
        };
        Self { name, voters, settings, before: &[], allowed, steps_max: usize::MAX }
    }

    pub(crate) fn members_change(&self) -> bool {
        let before = self.before.iter().any(|before| matches!(before, Before::Demote(..)));
        before || self.allowed.changes > 0 || self.allowed.joint_changes > 0
    }

    /// The state in which the search begins.
    pub(crate) fn start(&self, world: &mut World) -> Result<State, String> {
        let mut state = world.start();
        let mut lost = Lost::default();
        for before in self.before {
            let (id, input) = match *before {
                Before::Campaign(id) => (id, Input::Campaign),
                Before::Propose(id) => (id, Input::Propose),
                Before::Demote(id, other) => (id, Input::Demote(other)),
                Before::Promote(id, other) => (id, Input::Promote(other)),
                Before::Tick(id) => (id, Input::Tick),
                Before::Compact(id) => (id, Input::Compact),
                Before::Crash(id) => {
                    lost.stalled.retain(|stalled| *stalled != id);
                    (id, Input::Crash)
                }
                Before::Cut(id) => {
                    lost.cut.push(id);
                    continue;
                }
                Before::VotesOnly => {
                    lost.votes_only = true;
                    continue;
                }
                Before::Stall(id) => {
                    lost.stalled.push(id);
                    continue;
                }
                Before::Heal => {
                    lost = Lost { stalled: lost.stalled, ..Lost::default() };
                    continue;
                }
            };
            state = world.step(&state, Action::Local(id, input))?;
            state = settle(world, state, &lost)?;
        }
        state.left = self.allowed;
        Ok(state)
    }
}

/// What does not arrive before the search.
#[derive(Default)]
struct Lost {
    cut: Vec<u64>,
    votes_only: bool,
    stalled: Vec<u64>,
}

impl Lost {
    fn loses(&self, message: &Message) -> bool {
        let vote = matches!(message.body, MessageBody::Vote(_) | MessageBody::VoteReply { .. });
        let cut = |id: ReplicaId| self.cut.contains(&id.0);
        cut(message.from) || cut(message.to) || (self.votes_only && !vote)
    }
}

/// Delivers and writes everything until nothing is left.
fn settle(world: &mut World, mut state: State, lost: &Lost) -> Result<State, String> {
    loop {
        let mut disks = world.ids().filter(|id| !lost.stalled.contains(id));
        let writes = disks.find(|id| world.replica(&state, *id).may(Input::Persist));
        let action = match (writes, state.wire.first()) {
            (Some(id), _) => Action::Local(id, Input::Persist),
            (None, Some(parcel)) => {
                if lost.loses(&world.parcel(*parcel).message) {
                    Action::Lose(*parcel)
                } else {
                    Action::Deliver(*parcel)
                }
            }
            (None, None) => return Ok(state),
        };
        state = world.step(&state, action)?;
    }
}

impl World {
    /// Everything that may happen next, with what is then left.
    pub(crate) fn actions(&self, state: &State) -> Vec<(Action, Allowance)> {
        let mut found = Vec::new();
        let left = state.left;
        let mut previous = None;
        for parcel in &state.wire {
            // Two equal parcels are one choice.
            if previous.replace(*parcel) == Some(*parcel) {
                continue;
            }
            found.push((Action::Deliver(*parcel), left));
            spend(left, |left| &mut left.duplicates, Action::Duplicate(*parcel), &mut found);
            spend(left, |left| &mut left.losses, Action::Lose(*parcel), &mut found);
        }
        for id in self.ids() {
            let replica = self.replica(state, id);
            let mut offer = |input: Input, which: fn(&mut Allowance) -> &mut u8| {
                if replica.may(input) {
                    spend(left, which, Action::Local(id, input), &mut found);
                }
            };
            offer(Input::Campaign, |left| &mut left.campaigns);
            offer(Input::Propose, |left| &mut left.proposals);
            offer(Input::Crash, |left| &mut left.crashes);
            offer(Input::Tick, |left| &mut left.ticks);
            offer(Input::ForgetLeader, |left| &mut left.forgets);
            offer(Input::Read, |left| &mut left.reads);
            offer(Input::Compact, |left| &mut left.compactions);
            offer(Input::DemoteOthers, |left| &mut left.joint_changes);
            for other in self.ids() {
                if other != id {
                    offer(Input::Transfer(other), |left| &mut left.transfers);
                }
                offer(Input::Remove(other), |left| &mut left.changes);
                offer(Input::Demote(other), |left| &mut left.changes);
                offer(Input::Promote(other), |left| &mut left.changes);
            }
            if replica.may(Input::Persist) {
                found.push((Action::Local(id, Input::Persist), left));
            }
        }
        found
    }
}

/// Offers `action` if there is some of it left.
fn spend(
    mut left: Allowance,
    which: impl Fn(&mut Allowance) -> &mut u8,
    action: Action,
    found: &mut Vec<(Action, Allowance)>,
) {
    let count = which(&mut left);
    if *count > 0 {
        *count -= 1;
        found.push((action, left));
    }
}
