from dataclasses import replace

from codistill.lab import methods, search
from codistill.lab.recipe import Recipe, from_document
from codistill.lab.recipes import demo
from codistill.lab.search import Point


def total_batch(arm: Recipe) -> int:
    plan = methods.method(arm.method).plan(arm)
    return plan.batch_size * len(plan.peers) * plan.ranks


def test_the_arms_are_trained_for_as_many_updates_on_as_many_samples() -> None:
    assert [arm.label for arm in demo.ARMS] == [
        "all_reduce",
        "all_reduce_smoothing",
        "codistillation_2",
        "codistillation_2_free",
        "codistillation_4",
        "half_alone",
        "codistillation_halves",
        "alone_2",
    ]
    assert {arm.updates for arm in demo.ARMS} == {1500}
    assert {arm.label: total_batch(arm) for arm in demo.ARMS if total_batch(arm) != 64} == {"half_alone": 32}
    assert all(arm.summary and arm.task == "digits" and arm.interval_steps == 10 for arm in demo.ARMS)


def test_the_chosen_settings_come_from_the_search() -> None:
    grid = demo.grid()
    assert [arm["arm"] for arm in grid["arms"]] == [arm.label for arm in demo.SEARCHED]
    tuned = {arm.label: arm for arm in demo.arms()}
    for record in grid["arms"]:
        arm = tuned[record["arm"]]
        points = [Point(**point) for point in record["points"]]
        best = search.choose(points)
        assert (arm.learning_rate, arm.weight_decay) == (best.learning_rate, best.weight_decay)
        assert record["at_edge"] == search.edges(best, points) == []


def test_every_arm_was_searched_with_the_same_grid_and_with_seeds_the_demo_does_not_use() -> None:
    grid = demo.grid()
    grids = {
        tuple((point["learning_rate"], point["weight_decay"]) for point in record["points"])
        for record in grid["arms"]
    }
    assert len(grids) == 1
    assert min(grid["seeds"]) >= 100


def test_what_was_searched_is_what_the_demo_trains() -> None:
    for arm, record in zip(demo.SEARCHED, demo.grid()["arms"], strict=True):
        # Fields that recipes had not yet when it was searched have their defaults.
        searched = from_document(record["recipe"], where=demo.GRID)
        assert replace(searched, summary=arm.summary) == arm


def test_the_free_running_arm_differs_from_its_counterpart_in_nothing_but_the_waiting() -> None:
    tuned = {arm.label: arm for arm in demo.arms()}
    lockstep, free = tuned["codistillation_2"], tuned["codistillation_2_free"]
    assert lockstep.lockstep
    assert replace(free, arm=lockstep.arm, summary=lockstep.summary, lockstep=True) == lockstep
    assert "settings of codistillation_2, not tuned itself" in free.summary
