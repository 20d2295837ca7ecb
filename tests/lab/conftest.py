import importlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from codistill.lab import methods, rank, results, streams
from codistill.lab.folder import RunFolder
from codistill.lab.job import Job
from codistill.lab.kept_scores import KeptScores
from codistill.lab.launch import LaunchOptions, OnProgress
from codistill.lab.recipe import Recipe
from codistill.testing.peers import run_peers


@pytest.fixture(scope="session", autouse=True)
def _scikit_learn_is_loaded() -> None:
    # Its first import sets environment variables, which would be blamed on the test that happens to be first.
    importlib.import_module("sklearn.datasets")


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A recipe that two peers finish in well under a second."""
    return Recipe(
        name="tiny",
        task="digits",
        peers=2,
        updates=40,
        batch_size=16,
        interval_steps=5,
        evaluate_every=10,
        seed=3,
    )


@pytest.fixture(scope="session")
def bits_of() -> Callable[[Path], list[object]]:
    """Return what must be the same to the bit in the folders of two peers that trained alike.

    That is all but time, and what a resumed exchange reads again.
    """
    costs = {"seconds": 0.0, "stall_s": 0.0, "bytes_published": 0, "bytes_fetched": 0, "teacher_ages": {}}

    def bits(path: Path) -> list[object]:
        rows = results.load_evaluations(path / results.METRICS)
        kept = KeptScores.load(path)
        timeless = [replace(row, **costs) for row in rows]
        return [timeless, None if kept is None else kept.whole.tobytes()]

    return bits


@pytest.fixture
def trained_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let launches train in this process; return the labels of what they train, in order."""
    labels: list[str] = []
    # Initial weights come from torch's global generator, which streams would draw from at once.
    one_at_a_time = threading.Lock()

    def launch(
        run: RunFolder,
        recipes: Sequence[Recipe],
        *,
        options: LaunchOptions,
        on_progress: OnProgress | None = None,
    ) -> None:
        for recipe in recipes:
            plan = methods.method(recipe.method).plan(recipe)
            if run.peers(recipe.label, recipe.seed) != plan.peers:
                labels.append(recipe.label)
                with one_at_a_time:
                    run_peers(lambda peer, recipe=recipe: _train_one(run, recipe, peer, options), plan.jobs)
            if on_progress is not None:
                on_progress(recipe.label, recipe.updates, recipe.updates)

    monkeypatch.setattr(streams, "launch", launch)
    return labels


def _train_one(run: RunFolder, recipe: Recipe, peers: tuple[str, ...], options: LaunchOptions) -> None:
    job = Job(
        peer=peers[0],
        others=peers[1:],
        # Ranks would need processes.
        recipes=(replace(recipe, ranks=1),),
        out=run.path,
        logs=run.path,
        data_root=run.path,
        device="cpu",
        read_test=options.read_test,
    )
    rank.run(job, rank=0, ranks=1)
