//! Golden scripts: stories about small clusters, and exactly what every replica says in them.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p quorate-core --test golden` writes what happened into the
//! scripts; then read the difference.

#![expect(clippy::unwrap_used, reason = "in a test's helpers, as in its body")]

mod cluster;
mod commands;
mod disk;
mod trace;

use commands::Script;

macro_rules! scripts {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let path = format!("tests/golden/scripts/{}", stringify!($name));
                goldenscript::run(&mut Script::default(), path).unwrap();
            }
        )*

        #[test]
        fn every_script_is_run() {
            let listed = [$(stringify!($name)),*];
            for file in std::fs::read_dir("tests/golden/scripts").unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                assert!(listed.contains(&name.as_str()), "{name} is not in the list of scripts");
            }
        }
    };
}

scripts! {
    a_barrier_is_an_empty_entry
    a_candidate_asks_first_then_wins
    a_candidate_of_a_later_term_frees_itself
    a_divergent_tail_is_skipped_by_terms
    a_follower_asks_for_a_snapshot
    a_follower_behind_the_log_gets_a_snapshot
    a_follower_forgets_its_leader
    a_follower_passes_its_read_on
    a_follower_that_lost_its_log_is_noticed
    a_forced_recovery_that_makes_no_sense_is_refused
    a_full_window_waits_for_answers
    a_group_goes_on_after_its_quorum_is_lost
    a_group_shrinks_to_one
    a_high_term_with_a_short_log_does_not_block
    a_joint_state_is_left_only_when_it_is_committed
    a_joint_state_lasts_until_somebody_leaves_it
    a_lagging_follower_is_probed_once
    a_lagging_member_keeps_the_group_awake
    a_large_backlog_travels_in_pieces
    a_late_answer_does_not_carry_the_lease
    a_late_wish_to_rest_is_taken_back_by_a_heartbeat
    a_leader_demotes_itself_and_hands_over
    a_leader_is_replaced_in_one_step
    a_leader_removes_itself_and_hands_over
    a_leader_that_was_replaced_while_it_rested_steps_down
    a_leader_without_a_quorum_steps_down
    a_learner_behind_the_log_gets_a_snapshot
    a_learner_joins_catches_up_and_is_promoted
    a_learner_never_campaigns
    a_learner_reads_through_the_leader
    a_learner_that_cannot_keep_up_is_not_promoted
    a_learner_that_is_behind_is_not_promoted
    a_learner_that_joins_is_promoted_once_it_has_caught_up
    a_lease_dies_with_a_transfer
    a_lease_is_over_before_anybody_else_can_lead
    a_lease_needs_a_commit_of_its_own_term
    a_lease_serves_reads_without_a_round
    a_lost_append_is_sent_again
    a_new_leader_leaves_the_joint_state_it_inherits
    a_new_leader_reads_only_after_its_own_commit
    a_new_replica_of_a_recovered_group_starts_again_half_way
    a_partial_partition_of_five_finds_the_connected_one
    a_partial_partition_of_three_keeps_one_leader
    a_paused_leader_serves_no_read
    a_pre_vote_of_an_older_term_is_answered
    a_preferred_replica_with_a_short_log_silences_nobody
    a_promised_follower_neither_campaigns_nor_forgets
    a_proposal_is_committed_by_a_quorum
    a_read_that_nobody_confirms_fails_in_time
    a_read_waits_for_the_voters_of_now
    a_removed_replica_is_told_and_keeps_quiet
    a_removed_witness_is_told
    a_replica_of_an_older_term_completes_an_election
    a_replica_removed_while_away_cannot_depose_the_leader
    a_replica_that_lost_its_log_gives_no_vote
    a_reset_is_durable_before_the_snapshot_is_restored
    a_restarted_follower_learns_what_is_committed
    a_restarted_replica_applies_from_its_disk
    a_restarted_learner_wakes_a_resting_group
    a_restarted_replica_wakes_a_resting_group
    a_restarted_voter_keeps_its_promise
    a_resting_group_whose_leader_is_gone_is_woken
    a_shorter_log_gets_no_vote
    a_silent_group_elects_somebody
    a_single_voter_leads_once_its_vote_is_durable
    a_single_voter_reads_after_its_own_commit
    a_slow_follower_is_fed_from_the_disk
    a_slow_target_catches_up_first
    a_snapshot_carries_the_joint_state
    a_snapshot_of_what_is_there_commits_and_keeps_the_rest
    a_snapshot_stream_that_never_ends_is_offered_again
    a_snapshot_that_does_not_arrive_is_offered_again
    a_split_vote_is_resolved_by_the_next_timeout
    a_stale_leader_steps_down_when_it_is_answered
    a_target_behind_the_log_gets_a_snapshot_first
    a_transfer_can_be_called_off
    a_transfer_comes_before_the_end_of_a_joint_state
    a_transfer_that_fails_is_given_up
    a_vote_of_a_later_term_ends_a_transfer
    a_vote_waits_for_the_disk
    a_voter_is_demoted_and_a_learner_promoted_in_one_step
    a_witness_behind_the_log_is_told_where_it_begins
    a_witness_elects_but_never_leads
    a_witness_gets_only_what_its_leader_has_on_disk
    a_witness_gives_no_vote_to_who_lacks_what_it_saw
    a_witness_learns_of_an_entry_after_two_replicas_with_data
    a_witness_votes_and_keeps_no_data
    an_acceptance_waits_for_the_disk
    an_idle_group_comes_to_rest
    an_isolated_follower_returns_and_disturbs_nobody
    an_id_of_a_lost_change_is_not_given_again
    an_old_answer_confirms_no_new_read
    an_old_terms_entry_is_not_committed_by_counting
    an_uncommitted_change_is_rolled_back
    an_uncommitted_joint_state_is_rolled_back
    appends_leave_before_the_leaders_own_write
    apply_is_bounded
    changes_follow_the_rules
    entries_may_be_applied_before_they_are_durable_here
    every_event_is_told
    every_leader_knows_who_is_to_be_promoted
    half_of_an_even_group_is_no_quorum
    leadership_is_handed_over_at_once
    members_do_not_change_during_a_transfer
    news_of_commits_can_wait_for_the_next_heartbeat
    no_snapshot_is_offered_to_the_dead
    one_of_each_side_is_enough_where_they_overlap
    proposals_are_bounded
    proposals_made_together_travel_together
    proposals_wait_for_a_slow_state_machine
    reads_fail_with_the_leadership
    reads_share_rounds
    several_voters_are_added_in_one_step
    six_voters_with_a_later_term_against_a_longer_log_elect_somebody
    the_end_of_a_joint_state_is_rolled_back
    the_last_voter_stays
    the_new_majority_is_needed_in_the_joint_state
    the_old_majority_is_needed_in_the_joint_state
    the_preferred_replica_campaigns_first
    the_write_of_an_old_term_does_not_vouch_for_a_new_one
    there_is_no_lease_while_members_change
    too_many_reads_are_refused
    voters_stay_with_a_leader_they_hear
    what_was_not_persisted_is_gone_after_a_crash
    whoever_is_left_out_of_a_forced_recovery_cannot_come_back
    whoever_votes_on_the_old_side_may_lead_in_the_joint_state
    without_pre_vote_the_term_rises_at_once
}
