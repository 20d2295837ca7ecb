import dataclasses

import pytest

from codistill.errors import RecipeError
from codistill.lab import recipes, tasks
from codistill.lab.methods.codistillation import Codistillation
from codistill.lab.planning import job_of
from codistill.planner import Model


@pytest.mark.parametrize("method", ["codistillation", "alone"])
def test_a_recipe_is_planned_as_it_would_be_codistilled(tmp_path, method):
    recipe = dataclasses.replace(recipes.recipe("digits"), peers=4, method=method, interval_steps=25)
    job = job_of(recipe, data_root=tmp_path)
    plan = Codistillation.plan(dataclasses.replace(recipe, method="codistillation"))
    assert (job.peers, job.batch_per_peer) == (len(plan.peers), plan.batch_size * plan.ranks) == (4, 16)
    assert (job.interval_steps, job.teachers, job.outputs) == (25, 3, 10)


def test_of_peers_that_differ_the_widest_is_counted(tmp_path):
    recipe = dataclasses.replace(recipes.recipe("digits"), peer_widths=(16, 32))
    widest = tasks.load("digits", data_root=tmp_path).model(width=32)
    assert job_of(recipe, data_root=tmp_path).model == Model.of(widest)


def test_who_teaches_whom_is_told(tmp_path):
    recipe = dataclasses.replace(
        recipes.recipe("digits"), peers=4, topology="directed", edges=("a:b", "a:c", "d:c")
    )
    job = job_of(recipe, data_root=tmp_path)
    assert (job.teachers, job.reads) == (2, 3)


def test_what_has_no_momentum_keeps_nothing_a_weight(tmp_path):
    recipe = dataclasses.replace(recipes.recipe("digits"), momentum=0.0)
    assert job_of(recipe, data_root=tmp_path).optimizer == "sgd"


def test_a_single_peer_is_refused(tmp_path):
    recipe = dataclasses.replace(recipes.recipe("digits"), peers=1, method="alone")
    with pytest.raises(RecipeError, match=r"^peers must be >= 2 to codistill, got 1"):
        job_of(recipe, data_root=tmp_path)


@pytest.mark.data
def test_a_language_model_predicts_at_every_position(data_root):
    recipe = dataclasses.replace(recipes.recipe("digits"), task="shakespeare", optimizer="adamw")
    job = job_of(recipe, data_root=data_root)
    assert (job.positions, job.outputs, job.optimizer) == (64, 66, "adamw")
