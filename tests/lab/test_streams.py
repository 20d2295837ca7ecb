import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from codistill.errors import JobError
from codistill.lab import folder, streams
from codistill.lab.folder import RunFolder
from codistill.lab.launch import LaunchOptions, OnProgress
from codistill.lab.recipe import Recipe


@pytest.fixture
def recipes(tiny: Recipe) -> list[Recipe]:
    alone = replace(tiny, method="alone", peers=1, arm="alone")
    return [replace(alone, seed=seed) for seed in range(4)]


@pytest.fixture
def run(recipes: list[Recipe], tmp_path: Path) -> RunFolder:
    return folder.create(tmp_path / "out", arms=[recipes[0]], seeds=range(4), command=[])


def test_as_many_streams_run_at_once_as_there_are_cores_for(
    recipes: list[Recipe], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2)
    dealt: dict[str, tuple[list[int], int | None]] = {}

    def launch(
        run: RunFolder, recipes: Sequence[Recipe], *, options: LaunchOptions, on_progress: OnProgress
    ) -> None:
        together.wait(timeout=30)
        dealt[options.logs] = [recipe.seed for recipe in recipes], options.cores
        for recipe in recipes:
            on_progress(recipe.label, recipe.updates, 2 * recipe.updates)

    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(streams, "launch", launch)
    streams.launch_streams(
        run, recipes, options=LaunchOptions(cores=2), on_progress=lambda *progress: told.append(progress)
    )
    assert dealt == {"stream-0": ([0, 2], 1), "stream-1": ([1, 3], 1)}
    assert told[-1] == ("alone", 80, 160)


def test_runs_that_need_all_cores_follow_one_another(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dealt = []
    monkeypatch.setattr(
        streams, "launch", lambda run, recipes, *, options, on_progress: dealt.append((len(recipes), options))
    )
    run = folder.create(tmp_path / "out", arms=[tiny], seeds=[0, 1], command=[])
    pair = [replace(tiny, seed=seed) for seed in (0, 1)]
    streams.launch_streams(run, pair, options=LaunchOptions(cores=2))
    assert [(count, options.cores, options.logs) for count, options in dealt] == [(2, 2, "")]


def test_a_stream_that_fails_ends_the_others(
    recipes: list[Recipe], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    def launch(
        run: RunFolder, recipes: Sequence[Recipe], *, options: LaunchOptions, on_progress: OnProgress
    ) -> None:
        if options.logs == "stream-1":
            raise JobError("it died")
        try:
            while True:
                on_progress("alone", 1, 40)
        except streams.StreamEnded:
            ended.append(options.logs)
            raise

    monkeypatch.setattr(streams, "launch", launch)
    with pytest.raises(JobError, match="it died"):
        streams.launch_streams(run, recipes, options=LaunchOptions(cores=2))
    assert ended == ["stream-0"]


def test_an_interruption_ends_all_streams_and_leaves_no_thread(
    recipes: list[Recipe], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(3)
    ended = []

    def launch(
        run: RunFolder, recipes: Sequence[Recipe], *, options: LaunchOptions, on_progress: OnProgress
    ) -> None:
        together.wait(timeout=30)
        try:
            while True:
                on_progress("alone", 1, 40)
        except streams.StreamEnded:
            ended.append(options.logs)
            raise

    def interrupt(futures: object, **kwargs: object) -> None:
        together.wait(timeout=30)
        raise KeyboardInterrupt

    monkeypatch.setattr(streams, "launch", launch)
    monkeypatch.setattr(streams, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        streams.launch_streams(run, recipes, options=LaunchOptions(cores=2))
    assert sorted(ended) == ["stream-0", "stream-1"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stream")]


@pytest.mark.spawn
def test_real_streams_keep_their_logs_apart(recipes: list[Recipe], run: RunFolder) -> None:
    options = LaunchOptions(cores=2, device="cpu", read_test=False)
    streams.launch_streams(run, recipes, options=options)
    assert [one.seed for one in run.results()] == [0, 1, 2, 3]
    logs = run.logs_path("alone")
    assert sorted(path.parent.name for path in logs.rglob("a.job.json")) == ["stream-0", "stream-1"]
