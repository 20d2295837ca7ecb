from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codistill.errors import RunExistsError
from codistill.lab import folder, worker
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


def test_a_worker_trains_the_recipes_of_its_job_in_turn(tiny: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny, method="alone")
    made = folder.create(tmp_path, arms=[recipe], seeds=[3, 4], command=[])
    worker.run(make_job(tmp_path, recipe), rank=0, ranks=1)
    assert [(one.seed, one.peer) for one in made.results()] == [(3, "a"), (4, "a")]


def test_a_failure_leaves_its_traceback(tiny: Recipe, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny)
    save_job(job)
    with pytest.raises(RunExistsError):
        worker.main([str(job.path)])
    text = job.traceback_path(0).read_text()
    assert text.startswith("Traceback")
    assert "has no run.json" in text


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert worker.resolve_device("auto", rank=1) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert worker.resolve_device("auto", rank=3) == torch.device("cuda", 1)
    assert worker.resolve_device("meta", rank=3) == torch.device("meta")
