import json
from dataclasses import replace
from pathlib import Path

import pytest

from codistill.errors import RecipeError, RunExistsError
from codistill.lab.contest import Contest, hold
from codistill.lab.launch import LaunchOptions
from codistill.lab.recipe import Recipe

OPTIONS = LaunchOptions(device="cpu")


@pytest.fixture
def contest(tiny: Recipe) -> Contest:
    return Contest(
        recipe=replace(tiny, updates=10),
        methods=("alone", "codistillation"),
        seeds=(0, 1),
        learning_rates=(0.1, 0.01),
        weight_decays=(0.0,),
    )


def test_methods_are_tuned_trained_and_compared(
    contest: Contest, tmp_path: Path, trained_here: list[str]
) -> None:
    run = hold(contest, out=tmp_path / "out", options=OPTIONS, command=["compare"])
    assert [(one.arm, one.seed, one.peer) for one in run.results()] == [
        (arm, seed, peer) for arm in ("alone", "codistillation") for seed in (0, 1) for peer in "ab"
    ]
    assert all(one.test_accuracy is not None for one in run.results())
    assert json.loads((run.path / "budget.json").read_text())["kind"] == "updates"
    record = json.loads((run.path / "search.json").read_text())
    assert [arm["trials"] for arm in record["arms"]] == [2, 2]
    chosen = {arm["arm"]: arm["chosen"]["learning_rate"] for arm in record["arms"]}
    assert {arm.label: arm.learning_rate for arm in run.arms} == chosen


def test_a_comparison_that_was_stopped_goes_on(
    contest: Contest, tmp_path: Path, trained_here: list[str]
) -> None:
    run = hold(contest, out=tmp_path / "out", options=OPTIONS, command=[])
    (run.peer_path("alone", 1, "b") / "result.json").unlink()
    trained_here.clear()
    hold(contest, out=tmp_path / "out", options=OPTIONS, command=[], if_exists="resume")
    assert trained_here == ["alone"]
    with pytest.raises(RunExistsError, match="--resume to finish it"):
        hold(contest, out=tmp_path / "out", options=OPTIONS, command=[])
    trained_here.clear()
    hold(contest, out=tmp_path / "out", options=OPTIONS, command=[], if_exists="overwrite")
    assert len(trained_here) == 4 + 4


def test_a_sweep_trains_each_method_with_each_value_at_its_own_settings(
    contest: Contest, tmp_path: Path, trained_here: list[str]
) -> None:
    swept = replace(contest, sweep=("interval_steps", "2", "5"), seeds=(0,))
    run = hold(swept, out=tmp_path / "out", options=OPTIONS, command=[])
    assert [(arm.label, arm.interval_steps) for arm in run.arms] == [
        (f"{method}-interval_steps-{value}", value)
        for method in ("alone", "codistillation")
        for value in (2, 5)
    ]
    assert len({arm.learning_rate for arm in run.arms if arm.method == "codistillation"}) == 1
    assert json.loads((run.path / "search.json").read_text())["sweep"]["values"] == ["2", "5"]
    # The search is made once a method.
    assert sum(label.startswith("lr") for label in trained_here) == 4


def test_a_word_may_be_swept(contest: Contest) -> None:
    arms = replace(contest, sweep=("topology", "all", "ring")).swept(contest.recipe)
    assert [arm.topology for arm in arms] == ["all", "ring"]


def test_what_was_measured_holds_for_a_comparison_that_goes_on(
    contest: Contest, tmp_path: Path, trained_here: list[str]
) -> None:
    measured = replace(contest, budget="seconds", searches=False)
    run = hold(measured, out=tmp_path / "out", options=OPTIONS, command=[])
    first = (run.path / "budget.json").read_bytes()
    (run.peer_path("alone", 1, "b") / "result.json").unlink()
    trained_here.clear()
    hold(measured, out=tmp_path / "out", options=OPTIONS, command=[], if_exists="resume")
    assert trained_here == ["alone"]
    assert (run.path / "budget.json").read_bytes() == first


def test_neither_a_search_nor_anything_else_is_deleted_unasked(contest: Contest, tmp_path: Path) -> None:
    neighbour = tmp_path / "out-search"
    (neighbour / "alone").mkdir(parents=True)
    (neighbour / "alone" / "run.json").write_text("{}")
    with pytest.raises(RunExistsError, match="Pass --resume to go on from it"):
        hold(contest, out=tmp_path / "out", options=OPTIONS, command=[])
    (neighbour / "mine.txt").write_text("")
    for if_exists in ("refuse", "overwrite"):
        with pytest.raises(RunExistsError, match="holds something else"):
            hold(contest, out=tmp_path / "out", options=OPTIONS, command=[], if_exists=if_exists)
    assert (neighbour / "mine.txt").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (("interval_steps",), "sweep must be a field and one or more values"),
        (("nonsense", "1"), "sweep must be of a field that holds a number or a word"),
        (("interval_steps", "often"), "sweep must have values of interval_steps"),
        (("interval_steps", "0"), "interval_steps must be >= 1"),
        (("interval_steps", "2", "2"), "sweep must have different values of interval_steps"),
        (("peer_widths", "16"), "sweep must be of a field that holds a number or a word"),
        (("arm", "mine"), "sweep must be of a field that holds a number or a word"),
        (("seed", "1", "2"), "sweep must be of a field that holds a number or a word"),
    ],
)
def test_sweeps_that_make_no_sense_are_refused(
    contest: Contest, sweep: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(contest, sweep=sweep)


def test_nothing_is_made_for_a_comparison_that_cannot_be_held(contest: Contest, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="batch_size must be a multiple"):
        hold(
            replace(contest, recipe=replace(contest.recipe, batch_size=15)),
            out=tmp_path / "out",
            options=OPTIONS,
            command=[],
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused_before_the_search(
    contest: Contest, tmp_path: Path, trained_here: list[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(RunExistsError, match=r"has no run\.json"):
        hold(contest, out=tmp_path / "out", options=OPTIONS, command=[], if_exists="resume")
    assert trained_here == []
