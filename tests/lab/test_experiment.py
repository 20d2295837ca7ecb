from dataclasses import replace
from pathlib import Path

import pytest

from codistill.errors import RecipeError
from codistill.lab import experiment, folder
from codistill.lab.launch import LaunchOptions
from codistill.lab.recipe import Recipe


def test_each_method_gives_an_arm_after_what_it_needs(tiny: Recipe) -> None:
    arms = experiment.arms_of(replace(tiny, regime="disjoint"), ["all_reduce", "two_phase", "mutual"])
    assert [(arm.label, arm.method) for arm in arms] == [
        ("all_reduce", "all_reduce"),
        ("two_phase-teachers", "teachers"),
        ("two_phase", "two_phase"),
        ("mutual", "mutual"),
    ]
    assert [arm.regime for arm in arms if arm.label in ("all_reduce", "mutual")] == [
        "all_data",
        "same_batches",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "methods must be one or more different ones"),
        (["mutual", "mutual"], "methods must be one or more different ones.*Choose among all_reduce, alone"),
        (["magic"], "method must be one of"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused(tiny: Recipe, names: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        experiment.arms_of(tiny, names)


def test_what_has_finished_is_left_alone(tiny: Recipe, tmp_path: Path, trained_here: list[str]) -> None:
    arms = experiment.with_earlier(
        [replace(tiny, method="two_phase", arm="student"), replace(tiny, method="alone", arm="plain")]
    )
    run = folder.create(tmp_path / "out", arms=arms, seeds=[1, 2], command=[])
    told: list[tuple[str, int, int]] = []
    experiment.train(
        run, options=LaunchOptions(read_test=False), on_progress=lambda *progress: told.append(progress)
    )
    assert sorted(trained_here) == sorted([arm.label for arm in arms] * 2)
    # Teachers before their students.
    assert trained_here.index("student") > len(trained_here) - 3
    assert ("student", 80, 80) in told
    trained_here.clear()
    experiment.train(run, options=LaunchOptions(read_test=False))
    assert trained_here == []
