import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from codistill.errors import RecipeError
from codistill.lab import search
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.recipes import demo
from codistill.lab.search import Point
from codistill.lab.search_space import SearchSpace


def point(learning_rate: float, weight_decay: float, accuracy: float, nll: float) -> Point:
    return Point(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        validation_accuracy=accuracy,
        validation_accuracy_sd=0.0,
        validation_nll=nll,
        validation_nll_sd=0.0,
    )


def test_the_highest_accuracy_is_chosen_and_among_equals_the_lowest_nll() -> None:
    best = point(0.1, 0.01, 0.8, 1.0)
    others = [
        point(0.1, 0.001, 0.79, 0.5),
        point(0.3, 0.01, 0.8 - 1e-15, 1.1),
        point(0.3, 0.03, 0.8 + 1e-15, math.nan),
    ]
    assert search.choose([*others, best]) == best
    with pytest.raises(ValueError, match="at least one point"):
        search.choose([])


def test_a_point_at_an_end_of_the_grid_is_noticed() -> None:
    points = [point(rate, decay, 0.5, 1.0) for rate in (0.1, 0.2, 0.3) for decay in (1e-3, 1e-2, 1e-1)]
    assert search.edges(points[4], points) == []
    assert search.edges(points[3], points) == ["weight_decay"]
    assert search.edges(points[0], points) == ["learning_rate", "weight_decay"]


def test_no_weight_decay_is_an_end_with_nothing_beyond() -> None:
    points = [point(rate, decay, 0.5, 1.0) for rate in (0.1, 0.2, 0.3) for decay in (0.0, 1e-2)]
    assert search.edges(points[2], points) == []
    assert search.edges(points[3], points) == ["weight_decay"]


def test_a_task_that_is_judged_by_its_nll_is_tuned_by_it() -> None:
    points = [point(0.1, 0.0, 0.9, 1.1), point(0.2, 0.0, 0.5, 1.0), point(0.3, 0.0, 0.99, math.nan)]
    assert search.choose(points, "nll") == points[1]
    assert search.choose(points, "accuracy") == points[2]


def test_nine_points_lie_around_a_recipe(tiny: Recipe) -> None:
    space = SearchSpace.around(replace(tiny, learning_rate=0.3, weight_decay=1e-3))
    assert space.learning_rates == pytest.approx((0.1, 0.3, 0.9))
    assert space.weight_decays == pytest.approx((0.0, 1e-3, 1e-2))
    assert space.trials == 9
    assert SearchSpace.around(replace(tiny, weight_decay=0.0)).weight_decays == (0.0, 1e-4, 1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rates": (0.0,)},
        {"learning_rates": (math.inf,)},
        {"learning_rates": (0.1, 0.1)},
        {"learning_rates": ()},
        {"weight_decays": (-1.0,)},
        {"weight_decays": (math.nan,)},
        {"seeds": ()},
    ],
)
def test_points_that_cannot_be_tried_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=f"{next(iter(changes))} to search must be one or more different"):
        SearchSpace(**{"learning_rates": (0.1,), "weight_decays": (0.0,), **changes})


def test_arms_are_tuned_on_the_same_points_and_the_record_says_how(
    tiny: Recipe, tmp_path: Path, trained_here: list[str]
) -> None:
    arms = (
        replace(tiny, method="alone", arm="one", peers=1, weight_decays=(1e-4, 0.0)),
        replace(tiny, method="two_phase", arm="two"),
    )
    space = SearchSpace(learning_rates=(0.1, 1e-4), weight_decays=(0.0, 1e-3), seeds=(100,))
    told: list[tuple[str, int, int]] = []
    tuned, record = search.search_arms(
        arms, space, out=tmp_path, on_progress=lambda *progress: told.append(progress)
    )
    # Arms of these labels are yet to be trained.
    assert {label for label, *_ in told} == {"search of one", "search of two"}
    assert {done for label, done, total in told if done == total} == {4 * 40, 8 * 40}
    assert [arm.label for arm in tuned] == ["one", "two"]
    assert [arm.learning_rate for arm in tuned] == [0.1, 0.1]
    assert json.loads((tmp_path / "search.json").read_text()) == record
    assert [(arm["arm"], arm["trials"], len(arm["points"])) for arm in record["arms"]] == [
        ("one", 4, 4),
        ("two", 4, 4),
    ]
    # The teachers of the second were tried at each of its points.
    assert sum(label.endswith("-teachers") for label in trained_here) == 4
    trained_here.clear()
    assert search.search_arms(arms, space, out=tmp_path)[0] == tuned
    assert trained_here == []


def test_only_the_seeds_that_are_asked_for_are_judged(
    tiny: Recipe, tmp_path: Path, trained_here: list[str]
) -> None:
    arm = replace(tiny, method="alone", peers=1, updates=10, arm="one")
    space = SearchSpace(learning_rates=(0.1,), weight_decays=(0.0,), seeds=(100,))
    first = search.search(arm, space, out=tmp_path)
    two = search.search(arm, replace(space, seeds=(100, 101)), out=tmp_path)
    assert two[0].validation_nll != first[0].validation_nll
    assert search.search(arm, space, out=tmp_path) == first


def test_a_search_trains_every_point_and_may_be_widened(
    tiny: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trained_here: list[str],
) -> None:
    arms = (replace(tiny, method="all_reduce", arm="one"), replace(tiny, method="alone", arm="two"))
    monkeypatch.setattr(demo, "SEARCHED", arms)
    common = ["--out", str(tmp_path), "--seeds", "7", "8", "--weight-decays", "0.001"]
    search.main([*common, "--learning-rates", "0.1"])
    first = json.loads((tmp_path / "demo_grid.json").read_text())
    search.main([*common, "--learning-rates", "0.1", "0.001"])
    document = json.loads((tmp_path / "demo_grid.json").read_text())
    assert [arm["arm"] for arm in document["arms"]] == ["one", "two"]
    assert document["seeds"] == [7, 8]
    assert document["rule"] == search.RULE
    for before, arm in zip(first["arms"], document["arms"], strict=True):
        assert [p["learning_rate"] for p in arm["points"]] == [0.1, 0.001]
        assert arm["points"][0] == before["points"][0]
        assert arm["chosen"] == arm["points"][0]
        assert arm["at_edge"] == ["learning_rate", "weight_decay"]
    runs = RunFolder(tmp_path / "two").results()
    assert len(runs) == 2 * 2 * 2
    assert all(run.test_accuracy is None for run in runs)
    mean = sum(run.validation_accuracy for run in runs if run.arm == "lr0.1-wd0.001") / 4
    assert document["arms"][1]["points"][0]["validation_accuracy"] == pytest.approx(mean)
    assert "two: learning rate 0.1, weight decay 0.001" in capsys.readouterr().out
