"""What is promised on failure, and the tests that do it."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One row of the table."""

    what: str
    """What happens."""
    seen: str
    """What the others see."""
    tests: tuple[str, ...]
    """``file::test``, under ``tests``."""


def _in(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{file}::test_{name}" for name in names)


_KILLS: Final = "faults/test_kills.py"
_DAMAGE: Final = "faults/test_damage.py"
_TROUBLE: Final = "faults/test_store_trouble.py"
_REPLAYS: Final = "faults/test_replays.py"
_NAMES: Final = "faults/test_names.py"
_REST: Final = "faults/test_promises.py"
_RANKS: Final = "exchange/checkpoint/test_ranks.py"
_SHARDED: Final = "exchange/checkpoint/test_sharded.py"
_SWAPS: Final = "exchange/prediction/test_exchange.py"
_SERVED: Final = "exchange/served/test_exchange.py"

PROMISES: Final = (
    Promise(
        what="a peer dies, at any instruction",
        seen="nothing waits; its last snapshot serves until its age passes `max_age_steps` (20 "
        "intervals), then its share goes from 1 to 0 over as many again, said once (or it is "
        "dropped at once, or kept); the term goes down with it; a snapshot marked as finished "
        "never ages",
        tests=(
            *_in(_KILLS, "of_three_peers_one_is_killed_and_comes_back_and_the_others_just_go_on"),
            *_in(
                _REST,
                "a_silent_peer_serves_then_fades_and_counts_no_more",
                "a_silent_peer_may_be_dropped_or_kept",
                "a_peer_that_has_finished_never_ages",
                "a_ring_closes_over_a_peer_that_has_faded_out",
            ),
        ),
    ),
    Promise(
        what="it comes back, or a new one joins",
        seen="it publishes as a new incarnation; the others take that up at their next look; nobody "
        "restarts; nobody takes more than `max_teachers`",
        tests=(
            *_in(_KILLS, "of_three_peers_one_is_killed_and_comes_back_and_the_others_just_go_on"),
            *_in(
                _REST,
                "a_peer_that_joins_late_is_taken_up_without_a_restart",
                "nobody_takes_more_teachers_than_allowed",
            ),
        ),
    ),
    Promise(
        what="a peer ends before its first interval is over (`start_with_peers`)",
        seen="what it began with counts as no peer at another's start, and teaches nobody once it has left, "
        "or its heartbeat has stood still for 15 s",
        tests=_in(
            _REST,
            "what_a_job_left_that_had_not_trained_is_no_peer_to_start_with",
            "a_peer_that_ends_before_its_first_interval_teaches_nobody_any_more",
            "a_peer_that_is_killed_before_its_first_interval_teaches_nobody_any_more",
        ),
    ),
    Promise(
        what="killed while publishing",
        seen="no pointer, so no snapshot; the previous one serves; what is left is deleted when the "
        "peer comes back, or by `codistill doctor --prune`",
        tests=_in(
            _KILLS,
            "after_each_of_twenty_kills_readers_find_a_whole_snapshot_and_later_no_leftovers",
            "what_a_killed_peer_left_is_deleted_as_soon_as_it_begins_again",
            "a_torn_snapshot_would_be_noticed",
        ),
    ),
    Promise(
        what="a snapshot is truncated, altered, or of another model",
        seen="refused with peer and key in the message, said once; the last good teacher stays",
        tests=_in(
            _DAMAGE,
            "a_flipped_bit_is_refused_and_the_last_good_teacher_stays",
            "sixty_random_bits_are_all_refused_or_harmless",
            "a_truncated_file_is_refused_and_the_last_good_teacher_stays",
            "a_deleted_file_leaves_the_last_good_teacher",
            "a_snapshot_of_another_model_is_refused_and_the_last_good_teacher_stays",
            "what_is_damaged_is_found_by_an_inspection",
        ),
    ),
    Promise(
        what="NaN in a snapshot or in a teacher's logits; a teacher whose task loss is over twice the "
        "student's for three intervals",
        seen="quarantined, said once, taken again with a good snapshot; -inf at masked classes is no error",
        tests=_in(
            _REST,
            "nan_in_a_snapshot_quarantines_its_peer_until_a_good_one",
            "nan_in_a_teachers_logits_counts_nothing_and_quarantines_it",
            "a_teacher_that_is_far_worse_for_three_intervals_is_put_apart_until_it_is_better",
            "a_masked_class_at_minus_infinity_is_no_error",
        ),
    ),
    Promise(
        what="the student's own distillation term diverges",
        seen="its weight is halved until it does not, said once, and in every report",
        tests=_in(_REST, "a_term_that_diverges_is_halved_and_said_once"),
    ),
    Promise(
        what="peers start or stay identical",
        seen="said once, with the cure",
        tests=_in(_REST, "identical_peers_are_told_so_once"),
    ),
    Promise(
        what="a job starts at step 0 on top of its own old snapshots",
        seen="`RunExistsError`, unless `rejoin=True` or state was loaded",
        tests=_in(_NAMES, "a_new_job_on_top_of_an_old_run_is_refused_unless_it_rejoins_or_has_its_state"),
    ),
    Promise(
        what="two live jobs claim one name",
        seen="the second watches three heartbeats (5 s each) and is refused if they move; an owner "
        "that finds itself followed stops and says so",
        tests=_in(
            _NAMES,
            "a_second_job_under_a_name_that_lives_is_refused_and_the_first_goes_on",
            "a_name_whose_owner_is_dead_is_taken_over_after_three_heartbeats",
            "an_owner_that_was_only_asleep_stops_when_its_name_is_taken_over",
            "a_name_that_was_closed_is_free_at_once",
            "of_two_that_claim_a_life_at_once_each_gets_its_own",
        ),
    ),
    Promise(
        what="the store is slow, full, or away",
        seen="training goes on and never waits; it is tried again, less and less often; one warning an "
        "outage",
        tests=_in(
            _TROUBLE,
            "no_step_waits_for_a_store_that_hangs",
            "closing_gives_a_store_that_hangs_up_in_time",
            "a_full_disk_is_said_once_leaves_nothing_torn_and_is_survived",
            "a_disk_that_gets_full_in_the_middle_of_a_snapshot_is_survived",
            "a_process_that_may_write_no_large_files_any_more_trains_on",
            "a_store_that_is_away_is_said_once_an_outage",
            "a_folder_that_is_away_is_said_once_and_found_again",
            "another_empty_folder_in_its_place_leaves_the_teachers",
            "a_store_that_answers_every_other_call_only_is_survived",
            "answers_that_get_lost_are_survived",
            "a_snapshot_that_is_cut_short_by_the_store_is_refused",
        ),
    ),
    Promise(
        what="somebody without the key writes to the store",
        seen="with a signing key: refused; with or without one, a reader never goes back to an older "
        "snapshot than it has seen",
        tests=_in(
            _REPLAYS,
            "without_the_key_nothing_is_accepted_and_with_it_everything_is",
            "a_replayed_pointer_never_takes_a_reader_back",
            "what_was_published_before_a_snapshot_that_was_refused_is_not_taken_either",
            "a_manifest_under_the_name_of_another_peer_is_refused",
            "a_manifest_that_was_moved_under_the_pointer_is_refused",
            "a_shard_of_an_older_snapshot_in_place_of_a_newer_one_is_refused",
            "snapshots_of_another_run_are_refused",
        ),
    ),
    Promise(
        what="the student itself restarts",
        seen="its `state_dict` brings back step and teachers: in lockstep to the bit; else the same "
        "teacher if it is still stored, or the newest, said once",
        tests=_in(
            _REST,
            "a_student_that_restarts_has_its_step_and_its_teacher_again",
            "a_student_whose_teacher_is_gone_takes_the_newest_and_says_so",
            "a_lockstep_run_that_was_interrupted_comes_out_the_same_to_the_bit",
        ),
    ),
    Promise(
        what="a peer is missing in lockstep",
        seen="`PeerMissingError` with its name and the step, after the timeout",
        tests=_in(_REST, "a_missing_peer_in_lockstep_is_named_after_the_timeout"),
    ),
    Promise(
        what="a background thread fails",
        seen="the error reaches the caller at the next `step()`, on all ranks, never swallowed",
        tests=(
            *_in(
                _REST,
                "an_error_in_the_background_reaches_the_caller_at_the_next_step",
                "an_error_in_the_heart_reaches_the_caller_at_the_next_step",
            ),
            *_in(_RANKS, "a_mistake_in_rank_0s_background_is_raised_on_all_at_the_same_step"),
        ),
    ),
    Promise(
        what="the store fails one rank of several that divide a model among them",
        seen="a shard that cannot be written makes all ranks give up that snapshot, said once on rank 0, and "
        "the next is tried; a part that one rank cannot read or use is refused by all; the last good teacher "
        "stays",
        tests=_in(
            _SHARDED,
            "a_store_that_fails_a_write_on_one_rank_costs_all_one_snapshot",
            "a_store_that_fails_reads_on_one_rank_is_said_once_and_asked_again",
            "a_chunk_that_is_damaged_for_one_rank_is_refused_by_all",
            "nan_in_one_ranks_part_quarantines_on_all_until_there_is_a_better_snapshot",
            "a_mistake_in_the_background_of_one_rank_is_raised_on_all_at_the_same_step",
        ),
    ),
    Promise(
        what="not all ranks that divide a model are closed within `timeout_s`",
        seen="there is no last snapshot, said once; the last one that is complete goes on serving",
        tests=_in(
            _SHARDED,
            "a_rank_that_does_not_come_keeps_no_other_and_there_is_no_last_snapshot",
            "a_store_that_hangs_on_one_rank_at_the_end_is_given_up_by_all",
        ),
    ),
    Promise(
        what="peers swap predictions, and one dies",
        seen="`ExchangeTimeout` in all others, on gloo at once or after the timeout of the group; with "
        "NCCL, in the middle of a swap, torch ends the process",
        tests=_in(
            _SWAPS,
            "a_peer_that_has_ended_is_an_exchange_timeout",
            "a_process_that_dies_is_an_exchange_timeout_of_all_others",
        ),
    ),
    Promise(
        what="peers swap predictions, and differ in settings, step, batch or shape",
        seen="`PeerMismatchError` in all, naming who differs; batches are compared at the first swap and "
        "every 100",
        tests=_in(
            _SWAPS,
            "different_losses_are_refused_by_all_at_the_first_loss_of_burn_in",
            "different_batches_are_refused_by_all_at_the_first_swap",
            "batches_are_compared_again_once_in_a_while",
            "a_rank_with_another_batch_is_an_error_of_it_and_its_counterparts",
        ),
    ),
    Promise(
        what="the prediction server is away, slow, or answers what cannot be used",
        seen="training goes on with a distillation loss of 0; one warning an outage; it is asked again ever "
        "less often, at least every 256 steps; it teaches again when it is back",
        tests=_in(
            _SERVED,
            "without_a_server_training_goes_on_and_one_warning_says_so",
            "an_absent_server_is_asked_ever_less_often",
            "an_answer_that_cannot_be_used_is_as_none",
            "a_server_that_returns_teaches_again_and_the_next_outage_is_said_again",
            "a_later_refusal_only_costs_the_teachers",
            "a_server_that_goes_back_is_not_listened_to_even_after_a_restart",
            "an_old_version_fades_and_is_then_no_more_asked_for",
            "a_server_that_ends_and_comes_back_at_its_address_teaches_on",
        ),
    ),
)
