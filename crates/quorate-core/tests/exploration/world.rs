//! A cluster in a handful of numbers, and the steps from one to the next.
//!
//! ```text
//!   State { replicas: [12, 7, 7], past: 3, left: {campaigns 1, …}, wire: [4, 9, 9] }
//!                       │          │                                  │ parcels on their way, in no order
//!                       └──────────┴──► tables of everything ever met ┘
//! ```
//!
//! * Replica states, parcels and pasts are kept once and named by number; one replica's step is computed once
//!   per (replica, input). A step of the cluster is then mostly a look-up.
//! * Parcels have no order: any of them may arrive next, or never.

use std::collections::BTreeMap;
use std::rc::Rc;

use quorate_core::{LogIndex, Member, MemberRole, Membership, NodeId};

use crate::facts::{Chains, Facts};
use crate::fingerprint::fingerprint;
use crate::parcel::Parcel;
use crate::past::Past;
use crate::replica::{Input, Replica, Said, Settings};
use crate::scenario::Allowance;

pub(crate) const REPLICAS_MAX: usize = 3;

/// See the module's picture.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    replicas: [u32; REPLICAS_MAX],
    past: u32,
    pub(crate) left: Allowance,
    pub(crate) wire: Vec<u32>,
}

/// One step of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A parcel arrives.
    Deliver(u32),
    /// A parcel arrives, and will once more.
    Duplicate(u32),
    Lose(u32),
    /// A replica gets an input of its own.
    Local(u64, Input),
}

/// What a step of one replica leads to, in numbers.
struct Outcome {
    replica: u32,
    parcels: Vec<u32>,
    read: Option<LogIndex>,
}

/// Everything ever met.
pub(crate) struct World {
    settings: Settings,
    voters: usize,
    /// How many disks a committed entry must be on; `None` where members change.
    quorum: Option<usize>,
    replicas: Vec<(Replica, Facts)>,
    replica_numbers: BTreeMap<u128, u32>,
    parcels: Vec<Parcel>,
    parcel_numbers: BTreeMap<u128, u32>,
    pasts: Vec<Past>,
    past_numbers: BTreeMap<Past, u32>,
    chains: Chains,
    outcomes: BTreeMap<(u32, Input), Rc<Result<Outcome, String>>>,
}

fn number(length: usize) -> u32 {
    u32::try_from(length).expect("a search meets less than 2^32 of anything")
}

impl World {
    pub(crate) fn new(settings: Settings, voters: usize, members_change: bool) -> Self {
        Self {
            settings,
            voters,
            quorum: (!members_change).then_some(voters / 2 + 1),
            replicas: Vec::new(),
            replica_numbers: BTreeMap::new(),
            parcels: Vec::new(),
            parcel_numbers: BTreeMap::new(),
            pasts: Vec::new(),
            past_numbers: BTreeMap::new(),
            chains: Chains::default(),
            outcomes: BTreeMap::new(),
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.voters as u64
    }

    pub(crate) fn start(&mut self) -> State {
        let member = |node| Member {
            node: NodeId(node),
            role: MemberRole::Voter,
            peer_address: String::new(),
            client_address: String::new(),
        };
        let membership = Membership::initial(self.ids().map(member).collect()).unwrap();
        let mut replicas = [0; REPLICAS_MAX];
        for (slot, id) in replicas.iter_mut().zip(self.ids()) {
            *slot = self.keep_replica(Replica::new(id, membership.clone(), &self.settings));
        }
        let past = self.keep_past(Past::default());
        State { replicas, past, left: Allowance::default(), wire: Vec::new() }
    }

    fn keep_replica(&mut self, replica: Replica) -> u32 {
        let (next, chains) = (number(self.replicas.len()), &mut self.chains);
        *self.replica_numbers.entry(fingerprint(&replica)).or_insert_with(|| {
            let facts = chains.facts(&replica);
            self.replicas.push((replica, facts));
            next
        })
    }

    fn keep_parcel(&mut self, parcel: Parcel) -> u32 {
        let next = number(self.parcels.len());
        *self.parcel_numbers.entry(fingerprint(&parcel)).or_insert_with(|| {
            self.parcels.push(parcel);
            next
        })
    }

    fn keep_past(&mut self, past: Past) -> u32 {
        if let Some(known) = self.past_numbers.get(&past) {
            return *known;
        }
        let next = number(self.pasts.len());
        self.pasts.push(past.clone());
        self.past_numbers.insert(past, next);
        next
    }

    /// The number of replica states that were met.
    pub(crate) const fn replica_states(&self) -> usize {
        self.replicas.len()
    }

    pub(crate) fn replica(&self, state: &State, id: u64) -> &Replica {
        &self.replicas[state.replicas[slot(id)] as usize].0
    }

    pub(crate) fn parcel(&self, number: u32) -> &Parcel {
        &self.parcels[number as usize]
    }

    fn facts<'a>(&'a self, state: &State) -> Vec<&'a Facts> {
        state.replicas.iter().take(self.voters).map(|number| &self.replicas[*number as usize].1).collect()
    }

    /// The state after `action`, or what it broke.
    pub(crate) fn step(&mut self, state: &State, action: Action) -> Result<State, String> {
        let mut next = state.clone();
        let (id, input) = match action {
            Action::Lose(parcel) => {
                next.take_parcel(parcel);
                return Ok(next);
            }
            Action::Deliver(parcel) => {
                next.take_parcel(parcel);
                (self.parcel(parcel).message.to.0, Input::Deliver(parcel))
            }
            Action::Duplicate(parcel) => (self.parcel(parcel).message.to.0, Input::Deliver(parcel)),
            Action::Local(id, input) => (id, input),
        };
        if !self.ids().any(|known| known == id) {
            // To a replica that was added: it is not part of the search.
            return Ok(next);
        }
        let before = state.replicas[slot(id)];
        let outcome = self.outcome(before, input);
        let outcome = outcome.as_ref().as_ref().map_err(|what| format!("{id}: {what}"))?;
        next.replicas[slot(id)] = outcome.replica;
        for parcel in &outcome.parcels {
            let at = next.wire.partition_point(|other| other < parcel);
            next.wire.insert(at, *parcel);
        }
        if outcome.replica != before || !outcome.parcels.is_empty() {
            next.past = self.remember(&next, id, input, outcome)?;
            self.pasts[next.past as usize].check(&self.facts(&next), self.quorum)?;
        }
        Ok(next)
    }

    fn outcome(&mut self, replica: u32, input: Input) -> Rc<Result<Outcome, String>> {
        if let Some(known) = self.outcomes.get(&(replica, input)) {
            return Rc::clone(known);
        }
        let parcel = match input {
            Input::Deliver(number) => Some(self.parcel(number)),
            Input::Persist
            | Input::Crash
            | Input::Campaign
            | Input::Tick
            | Input::ForgetLeader
            | Input::Propose
            | Input::Read
            | Input::Compact
            | Input::Transfer(_)
            | Input::Remove(_)
            | Input::Demote(_)
            | Input::Promote(_)
            | Input::DemoteOthers => None,
        };
        let after = self.replicas[replica as usize].0.after(input, parcel, &self.settings);
        let outcome = after.map(|(replica, said)| self.keep(replica, said));
        let outcome = Rc::new(outcome);
        self.outcomes.insert((replica, input), Rc::clone(&outcome));
        outcome
    }

    fn keep(&mut self, replica: Replica, said: Said) -> Outcome {
        let parcels = said.parcels.into_iter().map(|parcel| self.keep_parcel(parcel)).collect();
        Outcome { replica: self.keep_replica(replica), parcels, read: said.read }
    }

    /// The past after replica `id` took `input` with this `outcome`.
    fn remember(&mut self, state: &State, id: u64, input: Input, outcome: &Outcome) -> Result<u32, String> {
        let mut past = self.pasts[state.past as usize].clone();
        if input == Input::Read && past.read_from.is_none() {
            past.read_from = Some(past.committed.len());
        }
        past.saw(id, &self.replicas[outcome.replica as usize].1)?;
        for parcel in &outcome.parcels {
            past.heard(self.parcel(*parcel))?;
        }
        if let (Some(index), Some(from)) = (outcome.read, past.read_from)
            && index.0 < from as u64
        {
            return Err(format!("{id}: a read is served at {index}, but {from} was committed when it began"));
        }
        Ok(self.keep_past(past))
    }
}

impl State {
    /// What there is, without what was before and what may still be.
    pub(crate) fn cluster(&self) -> ([u32; REPLICAS_MAX], &[u32]) {
        (self.replicas, &self.wire)
    }

    fn take_parcel(&mut self, parcel: u32) {
        let at = self.wire.binary_search(&parcel).expect("the parcel is on its way");
        self.wire.remove(at);
    }
}

fn slot(id: u64) -> usize {
    usize::try_from(id).unwrap() - 1
}
