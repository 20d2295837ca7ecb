"""Peers of several ranks, each rank a process, through a directory."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.spawn

PROGRAM = Path(__file__).with_name("ranks.py")


@pytest.fixture(scope="module")
def two_and_one(start_world, tmp_path_factory):
    """Results of the two ranks of one peer, and of the process that is the other peer."""
    folder = tmp_path_factory.mktemp("ranks")
    two, one = start_world(PROGRAM, "two", 2, folder), start_world(PROGRAM, "one", 1, folder)
    two.hear()
    one.hear()
    one.go_on()
    (alone,) = one.results()
    two.go_on()
    return two.results(), alone["beside_a_peer_of_two_ranks"]


@pytest.fixture(scope="module")
def two(two_and_one):
    """Results of both ranks of one peer, by scenario."""
    first, second = two_and_one[0]
    return {scenario: (first[scenario], second[scenario]) for scenario in first}


@pytest.fixture(scope="module")
def four(start_world, tmp_path_factory):
    """Results of four ranks that are two peers, by scenario."""
    results = start_world(PROGRAM, "four", 4, tmp_path_factory.mktemp("ranks")).results()
    return {scenario: [result[scenario] for result in results] for scenario in results[0]}


# One peer of two ranks


def test_ranks_hold_the_same_teachers_and_change_them_at_the_same_step(two):
    first, second = two["beside_a_peer_of_one_rank"]
    assert first["history"] == second["history"]
    assert first["parameters"] == second["parameters"]
    steps = [teachers["b"][2] for teachers in first["history"]]
    assert (steps[0], steps[-1]) == (0, 10)
    changes = [step for step in range(2, 61) if first["history"][step - 1] != first["history"][step - 2]]
    assert changes
    assert all(step % 10 == 0 for step in changes)


def test_a_peer_of_two_ranks_and_one_of_one_teach_each_other_the_very_weights(two_and_one, two):
    alone = two_and_one[1]
    first, _ = two["beside_a_peer_of_one_rank"]
    assert first["history"][-1]["b"][3] == alone["weights"]
    assert list(alone["found"]) == ["a"]


def test_only_rank_0_speaks_with_the_store_and_reads_a_snapshot_once(two):
    first, second = two["beside_a_peer_of_one_rank"]
    assert second["calls"] == []
    shards = [key for verb, key in first["calls"] if verb == "read" and "shard" in key]
    assert shards
    assert len(shards) == len(set(shards))
    assert all(key.startswith("b/") for key in shards)


def test_samples_are_those_of_all_ranks(two):
    assert [result["samples"] for result in two["beside_a_peer_of_one_rank"]] == [60 * 2 * 8] * 2


def test_nan_on_one_rank_quarantines_on_all_at_the_same_step(two):
    first, second = two["nan_on_one_rank"]
    assert first["quarantined"] == second["quarantined"]
    assert first["quarantined"][:10] == [False] * 9 + [True]
    # A good snapshot, which is published at step 21, ends it for both.
    assert first["quarantined"][21:25] == [True] * 4
    assert first["quarantined"][-1] is False
    assert all(term > 0.0 for term in first["terms"][:10])
    assert all(term == 0.0 for term in second["terms"][:10])
    assert first["terms"][10:20] == second["terms"][10:20] == [0.0] * 10
    assert first["terms"][-1] > 0.0
    assert second["terms"][-1] > 0.0


def test_a_quarantine_is_said_by_rank_0_alone(two):
    first, second = two["nan_on_one_rank"]
    assert [message.startswith("Peer 'b' is not learnt from since step 10") for message in first["said"]] == [
        True
    ]
    assert second["said"] == []


def test_a_mistake_in_rank_0s_background_is_raised_on_all_at_the_same_step(two):
    first, second = two["mistake_in_the_background"]
    assert first == [10, "ZeroDivisionError", "a mistake", []]
    assert second == [10, "RuntimeError", "Rank 0 of this peer failed with ZeroDivisionError: a mistake", []]


def test_a_name_that_is_taken_over_is_raised_on_all_with_a_note(two):
    first, second = two["name_that_is_taken_over"]
    assert first[:2] == second[:2] == [10, "PeerTakenError"]
    assert first[2] == second[2]
    assert (first[3], second[3]) == ([], ["raised on rank 0 of this peer"])


def test_what_hinders_the_start_is_raised_on_all(two):
    first, second = two["misfit_at_the_start"]
    assert first[:2] == second[:2] == [1, "RunExistsError"]
    assert second[3] == ["raised on rank 0 of this peer"]


def test_gradients_may_be_accumulated_in_autocast_and_one_rank_may_validate_alone(two):
    first, second = two["accumulation_autocast_and_validation"]
    assert first == second
    assert first["samples"] == 20 * 2 * 2 * 8
    assert first["dtypes"] == ["torch.bfloat16", "torch.float32"]
    assert first["ages"] == {"b": 20}


def test_wrapped_students_publish_the_names_of_the_users_model(two):
    names = [f"0.{name}" for name in ("bias", "weight")]
    names += [
        f"1.{name}" for name in ("bias", "num_batches_tracked", "running_mean", "running_var", "weight")
    ]
    names += [f"3.{name}" for name in ("bias", "weight")]
    for found in two["wrapped_students"]:
        assert found == {"ddp of compiled": names, "compiled ddp": names}


# Two peers of two ranks in one world


def test_peers_of_one_world_are_told_apart_by_their_groups(four):
    results = four["two_peers_in_one_world"]
    for first, second, other, name in ((0, 1, 2, "b"), (2, 3, 0, "a")):
        assert results[first]["history"] == results[second]["history"]
        assert results[first]["parameters"] == results[second]["parameters"]
        assert results[first]["calls"] > results[second]["calls"] == 0
        assert results[first]["samples"] == 50 * 2 * 8
        held = {
            step: weights
            for teachers in results[first]["history"]
            for _, _, step, weights in [teachers[name]]
        }
        assert max(held) >= 5
        published = results[other]["published"]
        assert all(published[str(step)] == weights for step, weights in held.items() if step > 0)


def test_lockstep_of_peers_of_two_ranks_is_reproduced_to_the_bit(four):
    results = four["lockstep_twice"]
    for first_run, second_run in results:
        assert first_run == second_run
    for first, second in ((0, 1), (2, 3)):
        ((one, _), (other, _)) = results[first], results[second]
        assert [entry[:2] for entry in one] == [entry[:2] for entry in other]
    # Each holds the other's weights of that very step.
    (a, _), (b, _) = results[0], results[2]
    for step in range(2, 13, 2):
        assert a[step - 1][0]["b"][2:] == [step, b[step - 1][2]]
        assert b[step - 1][0]["a"][2:] == [step, a[step - 1][2]]
