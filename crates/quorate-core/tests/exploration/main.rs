//! Every state of small clusters. Replicas, disks and a wire on which parcels arrive in any order, twice, or never;
//! crashes that lose what was not written; and in every state that can come of it the promises of Raft.
//!
//! The other tests of the core follow stories that somebody thought of. This one follows all there are, up to a
//! number of elections, proposals, crashes and so on. It stops at the first broken promise and prints
//! the shortest way there.

#![expect(clippy::unwrap_used, reason = "in a test's helpers, as in its body")]

mod disk;
mod facts;
mod fingerprint;
mod parcel;
mod past;
mod replica;
mod scenario;
mod search;
mod world;

use replica::{Fault, Settings};
use scenario::{Allowance, Before, Scenario};
use search::{Report, explore};

const NONE: Allowance = Scenario::plain("", 0).allowed;
const PLAIN: Settings = Scenario::plain("", 0).settings;
const AT_ONCE: Settings = Settings { writes_at_once: true, ..PLAIN };

/// Explores `scenario`, and insists that there were about as many states as last time somebody looked:
/// a search that finds nothing to do finds nothing wrong either.
fn every_state_of(scenario: &Scenario, states_min: usize) {
    let report = explore(scenario).unwrap_or_else(|story| panic!("{story}"));
    let Report { states, transitions, replica_states, steps } = report;
    eprintln!(
        "{}: {states} states by {transitions} transitions in {steps} steps; {replica_states} states of replicas",
        scenario.name
    );
    assert!(states >= states_min, "{}: {states} states, expected {states_min}", scenario.name);
    assert_eq!(steps, scenario.steps_max, "{}: it came to an end early", scenario.name);
}

macro_rules! searches {
    ($($name:ident sees $states_min:literal in $scenario:expr;)*) => {
        $(
            #[test]
            fn $name() {
                every_state_of(&Scenario { name: stringify!($name), ..$scenario }, $states_min);
            }
        )*

        #[test]
        fn together_the_searches_see_half_a_million_states() {
            let together: usize = [$($states_min),*].into_iter().sum();
            assert!(together >= 500_000, "{together}");
        }
    };
}

searches! {
    two_replicas_and_their_disks sees 65_000 in Scenario {
        allowed: Allowance { campaigns: 2, proposals: 2, crashes: 2, ..NONE },
        steps_max: 17,
        ..Scenario::plain("", 2)
    };
    two_replicas_on_a_bad_wire sees 80_000 in Scenario {
        allowed: Allowance { campaigns: 2, proposals: 1, crashes: 1, duplicates: 1, losses: 1, ticks: 1, ..NONE },
        steps_max: 11,
        ..Scenario::plain("", 2)
    };
    three_replicas_elect_and_crash sees 55_000 in Scenario {
        allowed: Allowance { campaigns: 2, crashes: 1, ..NONE },
        steps_max: 12,
        ..Scenario::plain("", 3)
    };
    a_leader_is_replaced sees 55_000 in Scenario {
        before: &[Before::Campaign(1)],
        allowed: Allowance { campaigns: 2, proposals: 1, crashes: 1, ..NONE },
        steps_max: 10,
        ..Scenario::plain("", 3)
    };
    // Raft's figure 8, after (b): 1 has an entry of term 1 that nobody else has, 2 leads term 2 and nobody has its
    // entry.
    the_old_entry_of_figure_8 sees 150_000 in Scenario {
        before: &[
            Before::Campaign(1),
            Before::Cut(1),
            Before::Propose(1),
            Before::VotesOnly,
            Before::Campaign(2),
            Before::Heal,
        ],
        allowed: Allowance { campaigns: 3, ..NONE },
        settings: Settings { small_appends: true, ..AT_ONCE },
        steps_max: 14,
        ..Scenario::plain("", 3)
    };
    // 1 has two entries of term 1 that nobody else has; in term 2 an entry was committed in their place.
    a_longer_log_of_an_older_term sees 20_000 in Scenario {
        before: &[
            Before::Campaign(1),
            Before::Cut(1),
            Before::Propose(1),
            Before::Propose(1),
            Before::Campaign(2),
            Before::Heal,
        ],
        allowed: Allowance { campaigns: 3, crashes: 1, ..NONE },
        settings: AT_ONCE,
        steps_max: 8,
        ..Scenario::plain("", 3)
    };
    // The disk of 3 still works on 2@t1 when 2@t2 takes its place: what is then durable is not what is there.
    a_write_of_an_old_term_is_on_its_way sees 25_000 in Scenario {
        before: &[
            Before::Campaign(1),
            Before::Stall(1),
            Before::Stall(3),
            Before::Cut(2),
            Before::Propose(1),
            Before::Crash(1),
            Before::Heal,
            Before::Campaign(2),
        ],
        allowed: Allowance { campaigns: 1, proposals: 1, crashes: 1, duplicates: 1, ticks: 1, ..NONE },
        steps_max: 7,
        ..Scenario::plain("", 3)
    };
    a_follower_needs_a_snapshot sees 40_000 in Scenario {
        before: &[
            Before::Campaign(1),
            Before::Cut(3),
            Before::Propose(1),
            Before::Propose(1),
            Before::Compact(1),
            Before::Heal,
        ],
        allowed: Allowance { campaigns: 2, proposals: 1, crashes: 1, ..NONE },
        settings: AT_ONCE,
        steps_max: 8,
        ..Scenario::plain("", 3)
    };
    voters_ask_first_and_stay_with_their_leader sees 10_000 in Scenario {
        before: &[Before::Campaign(1)],
        settings: Settings { pre_vote: true, check_quorum: true, ..PLAIN },
        allowed: Allowance { campaigns: 2, forgets: 2, crashes: 1, ticks: 1, ..NONE },
        steps_max: 6,
        ..Scenario::plain("", 3)
    };
    a_read_while_leadership_moves sees 40_000 in Scenario {
        before: &[Before::Campaign(1)],
        allowed: Allowance { campaigns: 1, proposals: 1, reads: 1, transfers: 1, ..NONE },
        settings: AT_ONCE,
        steps_max: 8,
        ..Scenario::plain("", 3)
    };
    a_group_at_rest_wakes sees 10_000 in Scenario {
        before: &[Before::Campaign(1), Before::Tick(1), Before::Tick(1), Before::Tick(1)],
        allowed: Allowance { campaigns: 1, proposals: 1, crashes: 1, ticks: 2, ..NONE },
        settings: Settings { rests: true, ..AT_ONCE },
        steps_max: 6,
        ..Scenario::plain("", 3)
    };
    a_pre_vote_is_no_vote sees 60_000 in Scenario {
        allowed: Allowance { campaigns: 2, ..NONE },
        settings: Settings { pre_vote: true, ..AT_ONCE },
        steps_max: 11,
        ..Scenario::plain("", 3)
    };
    members_change sees 45_000 in Scenario {
        before: &[Before::Campaign(1)],
        allowed: Allowance { campaigns: 2, changes: 2, ..NONE },
        settings: AT_ONCE,
        steps_max: 8,
        ..Scenario::plain("", 3)
    };
    // Ongaro's bug of 2015: 1 made 3 a voter, lost that in a crash, and voted for 2; 3 has it and may win with 1.
    two_leaders_change_the_members sees 250 in Scenario {
        before: &[
            Before::Campaign(1),
            Before::Demote(1, 3),
            Before::Stall(1),
            Before::Cut(2),
            Before::Promote(1, 3),
            Before::Crash(1),
            Before::Heal,
            Before::VotesOnly,
            Before::Campaign(2),
            Before::Heal,
        ],
        allowed: Allowance { campaigns: 2, changes: 1, ..NONE },
        settings: PLAIN,
        steps_max: 9,
        ..Scenario::plain("", 3)
    };
    members_change_through_a_joint_state sees 15_000 in Scenario {
        before: &[Before::Campaign(1)],
        allowed: Allowance { campaigns: 1, crashes: 1, joint_changes: 1, ..NONE },
        settings: AT_ONCE,
        steps_max: 9,
        ..Scenario::plain("", 3)
    };
}

/// The shortest story in which `fault` breaks something.
fn story_of(fault: Fault, scenario: Scenario) -> String {
    let settings = Settings { fault, ..scenario.settings.clone() };
    explore(&Scenario { settings, ..scenario }).expect_err("the fault was not found")
}

#[test]
fn a_disk_that_forgets_votes_is_found() {
    let told = story_of(
        Fault::ForgetsVotes,
        Scenario {
            allowed: Allowance { campaigns: 2, crashes: 1, ..NONE },
            settings: AT_ONCE,
            ..Scenario::plain("votes are forgotten", 3)
        },
    );
    assert!(told.contains("votes for"), "{told}");
}

#[test]
fn a_disk_that_loses_what_it_called_durable_is_found() {
    let told = story_of(
        Fault::LosesEntries,
        Scenario {
            allowed: Allowance { campaigns: 2, proposals: 1, crashes: 1, ..NONE },
            settings: AT_ONCE,
            ..Scenario::plain("writes are lost", 2)
        },
    );
    assert!(told.contains("disks only"), "{told}");
}

#[test]
fn a_replica_that_takes_its_whole_log_for_committed_is_found() {
    let told = story_of(
        Fault::TrustsItsLog,
        Scenario {
            before: &[Before::Campaign(1), Before::Cut(1), Before::Propose(1), Before::Heal],
            allowed: Allowance { campaigns: 1, crashes: 1, ..NONE },
            settings: AT_ONCE,
            ..Scenario::plain("an own log is trusted", 3)
        },
    );
    assert!(told.contains("is on 1 disks only"), "{told}");
}
