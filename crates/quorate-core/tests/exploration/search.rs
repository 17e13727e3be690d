//! Breadth first through all states, so that what is found has a shortest story. States are kept as 128 bits, and
//! for each where it came from, to tell that story.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::fingerprint::fingerprint;
use crate::scenario::Scenario;
use crate::world::{Action, State, World};

/// What a search saw.
#[derive(Debug)]
pub(crate) struct Report {
    /// Clusters that differ in a replica or in what is on its way.
    pub(crate) states: usize,
    pub(crate) transitions: usize,
    pub(crate) replica_states: usize,
    /// The length of the longest shortest way.
    pub(crate) steps: usize,
}

/// Where a state came from.
struct Origin {
    before: u32,
    action: Action,
}

/// Visits every state of `scenario`. States that differ in what is still allowed or in what has happened before
/// are visited apart, but counted once.
///
/// # Errors
/// The shortest story in which something breaks.
pub(crate) fn explore(scenario: &Scenario) -> Result<Report, String> {
    let mut world = World::new(scenario.settings.clone(), scenario.voters, scenario.members_change());
    let start =
        scenario.start(&mut world).map_err(|what| format!("{}: before the search: {what}", scenario.name))?;
    let mut seen = BTreeSet::from([fingerprint(&start)]);
    let mut clusters = BTreeSet::from([fingerprint(&start.cluster())]);
    let mut origins: Vec<Origin> = Vec::new();
    let mut layer = vec![(0, start.clone())];
    let (mut transitions, mut steps) = (0, 0);
    while !layer.is_empty() && steps < scenario.steps_max {
        let mut next_layer = Vec::new();
        for (number, state) in &layer {
            for (action, left) in world.actions(state) {
                transitions += 1;
                let origin = Origin { before: *number, action };
                match world.step(state, action) {
                    Ok(mut next) => {
                        next.left = left;
                        if seen.insert(fingerprint(&next)) {
                            clusters.insert(fingerprint(&next.cluster()));
                            origins.push(origin);
                            next_layer.push((u32::try_from(origins.len()).unwrap(), next));
                        }
                    }
                    Err(what) => {
                        origins.push(origin);
                        return Err(story(scenario, &mut world, &start, &origins, &what));
                    }
                }
            }
        }
        steps += usize::from(!next_layer.is_empty());
        layer = next_layer;
    }
    Ok(Report { states: clusters.len(), transitions, replica_states: world.replica_states(), steps })
}

/// The way to the last of `origins`, told step by step.
fn story(scenario: &Scenario, world: &mut World, start: &State, origins: &[Origin], what: &str) -> String {
    let mut way = Vec::new();
    let mut at = origins.len();
    while let Some(origin) = at.checked_sub(1).map(|at| &origins[at]) {
        way.push(origin.action);
        at = origin.before as usize;
    }
    way.reverse();
    let mut told = format!("{}: {what}\n", scenario.name);
    writeln!(told, "  before: {:?}", scenario.before).unwrap();
    for id in world.ids() {
        writeln!(told, "          {}", world.replica(start, id).line()).unwrap();
    }
    let mut state = start.clone();
    for (number, action) in way.into_iter().enumerate() {
        let (who, line) = match action {
            Action::Deliver(parcel) => {
                (world.parcel(parcel).message.to.0, format!("{} arrives", world.parcel(parcel)))
            }
            Action::Duplicate(parcel) => (
                world.parcel(parcel).message.to.0,
                format!("{} arrives, and will again", world.parcel(parcel)),
            ),
            Action::Lose(parcel) => (0, format!("{} is lost", world.parcel(parcel))),
            Action::Local(id, input) => (id, format!("{id}: {input:?}")),
        };
        writeln!(told, "  {:>2}. {line}", number + 1).unwrap();
        let Ok(next) = world.step(&state, action) else { break };
        if who > 0 {
            writeln!(told, "          {}", world.replica(&next, who).line()).unwrap();
        }
        let new: Vec<_> = next.wire.iter().filter(|parcel| !state.wire.contains(parcel)).copied().collect();
        for parcel in new {
            writeln!(told, "          says {}", world.parcel(parcel)).unwrap();
        }
        state = next;
    }
    writeln!(told, "  then: {what}").unwrap();
    told
}
