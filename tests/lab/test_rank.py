from dataclasses import replace
from pathlib import Path

import pytest

from codistill.errors import RunExistsError
from codistill.lab import folder, rank
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


def test_a_failure_leaves_its_traceback(tiny: Recipe, tmp_path: Path) -> None:
    job = make_job(tmp_path, tiny)
    save_job(job)
    with pytest.raises(RunExistsError):
        rank.main([str(job.path)])
    text = job.traceback_path(0).read_text()
    assert text.startswith("Traceback")
    assert "has no run.json" in text
