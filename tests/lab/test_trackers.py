import csv
import sys
import types
from pathlib import Path

import pytest

from codistill.errors import ExtraMissingError, RecipeError
from codistill.lab import folder, trackers
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.results import Evaluation


def row(step: int, **changes: object) -> Evaluation:
    fields: dict[str, object] = {
        "step": step,
        "samples": 8 * step,
        "train_loss": 1.0,
        "distillation_loss": None,
        "validation_accuracy": 0.5,
        "validation_nll": 0.7,
        "distance": 1.5,
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "teacher_share": None,
    }
    return Evaluation(**{**fields, **changes})


@pytest.fixture
def run(tiny: Recipe, tmp_path: Path) -> RunFolder:
    return folder.create(tmp_path / "out", arms=[tiny], seeds=[3], command=[])


def show(names: tuple[str, ...], recipe: Recipe, run: RunFolder, *rows: Evaluation, rank: int = 0) -> None:
    with trackers.open_trackers(names, recipe, run, rank=rank) as track:
        for one in rows:
            track("a", one)


def test_a_csv_file_has_a_line_a_row_and_grows_columns(tiny: Recipe, run: RunFolder) -> None:
    show(("csv",), tiny, run, row(10), row(20, agreements={"b": 0.75}))
    # Resumed from update 10: the row of update 20 is made again.
    show(("csv",), tiny, run, row(20, agreements={"b": 0.5}))
    path = run.peer_path("codistillation", 3, "a") / "metrics.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(float(one["step"]), one["agreements/b"]) for one in rows] == [(10, ""), (20, "0.5")]
    assert float(rows[0]["validation_nll"]) == 0.7


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_shown(tiny: Recipe, run: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    show(("tensorboard",), tiny, run, row(10), row(20, train_loss=0.25))
    found = EventAccumulator(str(run.path / "tensorboard" / "codistillation" / "seed-3" / "a"))
    found.Reload()
    assert [(one.step, one.value) for one in found.Scalars("train_loss")] == [(10, 1.0), (20, 0.25)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_is_told_the_recipe_and_every_row(
    tiny: Recipe, run: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    told: list[object] = []

    class Run:
        def log(self, numbers: dict[str, float], step: int) -> None:
            told.append((step, numbers["distance"]))

        def finish(self) -> None:
            told.append("finished")

    service = types.ModuleType(name)
    service.init = lambda **settings: told.append(settings["config"]["updates"]) or Run()  # type: ignore[attr-defined]
    service.__spec__ = types.SimpleNamespace(loader=None)  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, name, service)
    trackers.check([name])
    show((name,), tiny, run, row(10), row(20))
    assert told == [40, (10, 1.5), (20, 1.5), "finished"]


def test_only_rank_0_shows_anything(tiny: Recipe, run: RunFolder) -> None:
    show(("csv",), tiny, run, row(10), rank=1)
    assert not list(run.path.rglob("metrics.csv"))


def test_unknown_and_missing_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        RecipeError, match="trackers must be of csv, tensorboard, trackio, wandb, got 'paper'"
    ):
        trackers.check(["paper"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ExtraMissingError, match=r"wandb must be installed .* 'codistill\[wandb\]'"):
        trackers.check(["wandb"])
