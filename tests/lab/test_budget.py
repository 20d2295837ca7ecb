from dataclasses import replace

import pytest

from codistill.lab import budget, experiment
from codistill.lab.budget import allot
from codistill.lab.launch import LaunchOptions
from codistill.lab.recipe import Recipe
from codistill.lab.results import Evaluation

OPTIONS = LaunchOptions(device="cpu")


@pytest.fixture
def arms(tiny: Recipe) -> tuple[Recipe, ...]:
    recipe = replace(tiny, updates=120, warmup_steps=12, burn_in_steps=6, evaluate_every=30)
    return experiment.arms_of(recipe, ["all_reduce", "codistillation", "mutual", "two_phase"])


def updates(allotment: budget.Allotment) -> dict[str, int]:
    return {arm.label: arm.updates for arm in allotment.arms}


def test_by_default_all_make_the_same_updates(arms: tuple[Recipe, ...]) -> None:
    allotment = allot(arms, "updates", options=OPTIONS)
    assert allotment.arms == arms
    assert "Not equal" in allotment.says


def test_compute_counts_teachers_and_what_was_trained_before(arms: tuple[Recipe, ...]) -> None:
    # Of 16 samples an update: 48 passes; 16 more with a teacher each; none in mutual learning. The student of
    # two phases has two teachers, 32 more, and its teachers took 48 an update themselves.
    allotment = allot(arms, "compute", options=OPTIONS)
    assert allotment.costs == {"all_reduce": 48.0, "codistillation": 64.0, "mutual": 48.0, "two_phase": 128.0}
    assert updates(allotment) == {
        "all_reduce": 120,
        "codistillation": 90,
        "mutual": 120,
        "two_phase-teachers": 45,
        "two_phase": 45,
    }
    codistilled = next(arm for arm in allotment.arms if arm.label == "codistillation")
    assert (codistilled.warmup_steps, codistilled.burn_in_steps, codistilled.evaluate_every) == (9, 4, 22)


def test_samples_differ_only_with_two_phases_or_other_batches(arms: tuple[Recipe, ...]) -> None:
    larger = (*arms, replace(arms[0], arm="larger", batch_size=32))
    found = updates(allot(larger, "samples", options=OPTIONS))
    assert (found["codistillation"], found["two_phase"], found["larger"]) == (120, 60, 60)


def test_a_course_keeps_its_form(tiny: Recipe) -> None:
    arms = (tiny, replace(tiny, arm="large", batch_size=1600, warmup_steps=10, burn_in_steps=0))
    large = allot(arms, "samples", options=OPTIONS).arms[1]
    assert (large.updates, large.warmup_steps, large.burn_in_steps, large.evaluate_every) == (1, 1, 0, 1)


def test_bytes_are_measured_over_all_ranks_without_what_is_sent_once_a_run(
    tiny: Recipe, trained_here: list[str]
) -> None:
    arms = experiment.arms_of(replace(tiny, updates=120), ["codistillation", "alone"])
    often = replace(arms[0], arm="often", interval_steps=1)
    allotment = allot((*arms, often), "bytes", options=OPTIONS)
    # A snapshot every 5 updates, or every one; the one at the start is not counted.
    assert allotment.costs["often"] == pytest.approx(5 * allotment.costs["codistillation"], rel=0.01)
    assert updates(allotment) == {"codistillation": 120, "alone": 120, "often": 24}
    assert allotment.costs["alone"] == 0.0
    assert "with the recipe's updates: alone." in allotment.says
    assert trained_here == ["codistillation", "alone", "often"]


def test_where_the_first_arm_sends_nothing_it_is_said_that_nothing_is_equal(arms: tuple[Recipe, ...]) -> None:
    costs = {"all_reduce": 0.0, "codistillation": 7.0, "mutual": 0.0, "two_phase": 0.0}
    allotment = allot(arms, "bytes", options=OPTIONS, measured=costs)
    assert {arm.updates for arm in allotment.arms} == {120}
    assert allotment.says.startswith("Nothing is equal but the recipe's updates: all_reduce, whose bytes")


def test_what_was_measured_before_is_not_measured_again(
    tiny: Recipe, trained_here: list[str], arms: tuple[Recipe, ...]
) -> None:
    costs = {"all_reduce": 2.0, "codistillation": 3.0, "mutual": 1.0, "two_phase": 4.0}
    allotment = allot(arms, "seconds", options=OPTIONS, measured=costs)
    assert allotment.costs == costs
    assert updates(allotment)["codistillation"] == 80
    assert trained_here == []


def test_what_a_rank_sends_counts_for_every_rank(tiny: Recipe) -> None:
    row = Evaluation(
        step=1,
        samples=1,
        train_loss=1.0,
        distillation_loss=None,
        validation_accuracy=1.0,
        validation_nll=1.0,
        distance=1.0,
        learning_rate=0.1,
        weight_decay=0.0,
        teacher_share=None,
        bytes_published=10,
        bytes_all_reduced=100,
    )
    assert budget._spent(row, "bytes", ranks=2, is_shared=True) == 210
    assert budget._spent(row, "bytes", ranks=2, is_shared=False) == 220


def test_what_is_trained_before_is_named(arms: tuple[Recipe, ...]) -> None:
    assert (
        "Trained before and not counted: two_phase-teachers." in allot(arms, "updates", options=OPTIONS).says
    )
    assert "Trained before and counted: two_phase-teachers." in allot(arms, "compute", options=OPTIONS).says


def test_arms_of_other_updates_are_not_called_equal(tiny: Recipe) -> None:
    arms = (tiny, replace(tiny, arm="longer", updates=80))
    assert allot(arms, "updates", options=OPTIONS).says == (
        "Each arm makes its own updates, from 40 to 80: nothing is equal."
    )


def test_seconds_are_measured(tiny: Recipe, trained_here: list[str]) -> None:
    arms = experiment.arms_of(replace(tiny, updates=120, teacher_updates=60), ["alone", "two_phase"])
    allotment = allot(arms, "seconds", options=OPTIONS)
    expected = max(1, round(120 * allotment.costs["alone"] / allotment.costs["two_phase"]))
    assert (updates(allotment)["alone"], updates(allotment)["two_phase"]) == (120, expected)
    assert trained_here == ["alone", "two_phase-teachers", "two_phase"]
    assert allotment.to_document()["kind"] == "seconds"
