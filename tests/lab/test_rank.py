from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codistill.errors import RunExistsError
from codistill.lab import folder, rank, results
from codistill.lab.job import Job, save_job
from codistill.lab.recipe import Recipe


def make_job(out: Path, recipe: Recipe) -> Job:
    return Job(
        peer="a",
        recipes=(recipe, replace(recipe, seed=recipe.seed + 1)),
        out=out,
        logs=out,
        data_root=out,
        device="cpu",
        read_test=False,
    )


def test_a_rank_trains_the_recipes_of_its_job_in_turn(tiny: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny, method="alone")
    made = folder.create(tmp_path, arms=[recipe], seeds=[3, 4], command=[])
    rank.run(make_job(tmp_path, recipe), rank=0, ranks=1)
    assert [(one.seed, one.peer) for one in made.results()] == [(3, "a"), (4, "a")]


def test_what_an_earlier_life_has_finished_is_left_alone(tiny: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny, method="alone")
    made = folder.create(tmp_path, arms=[recipe], seeds=[3, 4], command=[])
    rank.run(replace(make_job(tmp_path, recipe), recipes=(recipe,)), rank=0, ranks=1)
    written = (made.peer_path("alone", 3, "a") / "result.json").stat().st_mtime_ns
    rank.run(make_job(tmp_path, recipe), rank=0, ranks=1)
    assert (made.peer_path("alone", 3, "a") / "result.json").stat().st_mtime_ns == written
    assert [(one.seed, one.peer) for one in made.results()] == [(3, "a"), (4, "a")]


def test_a_job_that_was_cut_off_comes_back_to_what_it_had_begun_only(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(tiny, method="alone")
    made = folder.create(tmp_path, arms=[recipe], seeds=[3, 4], command=[])
    job = make_job(tmp_path, recipe)
    came_back: list[list[bool]] = []

    class Trainer(rank.Trainer):
        def train(self, *, read_test: bool) -> None:
            came_back[-1].append(self._place.comes_back)

    monkeypatch.setattr(rank, "Trainer", Trainer)

    def run() -> list[bool]:
        came_back.append([])
        rank.run(job, rank=0, ranks=1)
        return came_back[-1]

    assert run() == [False, False]
    path = made.peer_path("alone", 3, "a")
    path.mkdir(parents=True)
    assert run() == [True, False]
    # It was refused: what it met under its name may be another run's.
    job.error_path(0).write_text("said")
    assert run() == [False, False]
    job.error_path(0).unlink()
    # Its state says whose name it has.
    (path / "checkpoint.pt").touch()
    assert run() == [False, False]


def test_rows_of_a_life_that_was_cut_off_before_its_first_checkpoint_are_dropped(
    tiny: Recipe, tmp_path: Path
) -> None:
    recipe = replace(tiny, method="alone")
    made = folder.create(tmp_path, arms=[recipe], seeds=[3], command=[])
    path = made.peer_path("alone", 3, "a") / results.METRICS
    job = replace(make_job(tmp_path, recipe), recipes=(recipe,))
    rank.run(job, rank=0, ranks=1)
    rows = [row.step for row in results.load_evaluations(path)]
    (path.parent / results.RESULT).unlink()
    rank.run(job, rank=0, ranks=1)
    assert [row.step for row in results.load_evaluations(path)] == rows == [10, 20, 30, 40]


def test_a_process_group_that_is_there_is_used_and_left(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[str] = []
    monkeypatch.setattr(rank.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(rank.dist, "init_process_group", lambda *words: began.append("made"))
    monkeypatch.setattr(rank.dist, "destroy_process_group", lambda: began.append("ended"))
    folder.create(tmp_path, arms=[tiny], seeds=[3], command=[])
    rank.run(replace(make_job(tmp_path, tiny), recipes=()), rank=1, ranks=2)
    assert began == []


def test_a_failure_leaves_its_traceback(tiny: Recipe, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny)
    save_job(job)
    with pytest.raises(RunExistsError):
        rank.main([str(job.path)])
    text = job.traceback_path(0).read_text()
    assert text.startswith("Traceback")
    assert "has no run.json" in text
    assert job.error_path(0).read_text() == text.strip().splitlines()[-1].partition(": ")[2]


def test_of_a_mistake_of_ours_nothing_is_left_but_the_traceback(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, tiny)
    save_job(job)
    monkeypatch.setattr(rank, "run", lambda *arguments, **named: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        rank.main([str(job.path)])
    assert job.traceback_path(0).exists()
    assert not job.error_path(0).exists()


@pytest.mark.parametrize("store", [None, "s3://bucket/run"])
def test_peers_meet_in_the_results_folder_unless_the_job_names_a_store(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str | None
) -> None:
    places = []

    class NoTrainer:
        def __init__(self, recipe: Recipe, *, place: object, **named: object) -> None:
            places.append(place)

        def train(self, *, read_test: bool) -> None:
            pass

    made = folder.create(tmp_path, arms=[tiny], seeds=[3, 4], command=[])
    monkeypatch.setattr(rank, "Trainer", NoTrainer)
    rank.run(replace(make_job(tmp_path, tiny), store=store), rank=0, ranks=1)
    there = [made.exchange_path("codistillation", seed) for seed in (3, 4)]
    assert [place.exchange for place in places] == ([store, store] if store else there)


@pytest.mark.parametrize(
    ("device", "ranks", "devices", "backend"),
    [
        ("cpu", 2, 8, "gloo"),
        ("cuda:1", 2, 2, "cpu:gloo,cuda:nccl"),
        # Two ranks on one device.
        ("cuda:0", 2, 1, "gloo"),
    ],
)
def test_ranks_that_have_a_device_each_speak_over_nccl(
    tiny: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    ranks: int,
    devices: int,
    backend: str,
) -> None:
    chosen, began = [], []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(rank.dist, "init_process_group", began.append)
    monkeypatch.setattr(rank.dist, "destroy_process_group", lambda: None)
    folder.create(tmp_path, arms=[tiny], seeds=[3], command=[])
    rank.run(replace(make_job(tmp_path, tiny), recipes=(), device=device), rank=1, ranks=ranks)
    assert began == [backend]
    assert chosen == ([torch.device(device)] if "nccl" in backend else [])
