import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from codistill.lab import methods, rank, search
from codistill.lab.folder import RunFolder
from codistill.lab.job import Job
from codistill.lab.launch import LaunchOptions, OnProgress
from codistill.lab.recipe import Recipe
from codistill.lab.recipes import demo
from codistill.lab.results import PeerResult
from codistill.lab.search import Point


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


def train_here(
    out: RunFolder, recipes: Sequence[Recipe], *, options: LaunchOptions, on_progress: OnProgress | None
) -> list[PeerResult]:
    """Stand in for `launch`, without its processes."""
    assert not options.read_test
    assert options.keep_exchange == "none"
    there = {(one.arm, one.seed) for one in out.results()}
    left = tuple(one for one in recipes if (one.label, one.seed) not in there)
    for peer in methods.method(recipes[0].method).plan(recipes[0]).peers:
        job = Job(
            peer=peer,
            recipes=left,
            out=out.path,
            logs=out.path,
            data_root=out.path,
            device="cpu",
            read_test=False,
        )
        rank.run(job, rank=0, ranks=1)
    assert on_progress is not None
    for recipe in recipes:
        on_progress(recipe.label, recipe.updates, 2 * recipe.updates)
    asked = {(one.label, one.seed) for one in recipes}
    return [one for one in out.results() if (one.arm, one.seed) in asked]


def test_a_search_trains_every_point_and_may_be_widened(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = (replace(tiny, method="all_reduce", arm="one"), replace(tiny, method="alone", arm="two"))
    monkeypatch.setattr(demo, "SEARCHED", arms)
    monkeypatch.setattr(search, "launch", train_here)
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
