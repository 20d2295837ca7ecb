"""A recipe as the planner sees it."""

from dataclasses import replace
from pathlib import Path

import torch

from codistill.lab import methods, tasks
from codistill.lab.recipe import Recipe
from codistill.lab.tasks.base import Task
from codistill.planner import Job, Model
from codistill.topologies import Directed


def job_of(recipe: Recipe, *, data_root: Path) -> Job:
    """Return what a recipe trains, whatever its method, with parameters and outputs counted.

    Args:
        recipe: The recipe; of peers that differ in width, the widest.
        data_root: Folder that holds the data sets' folders.

    Raises:
        RecipeError: If it cannot be codistilled.
        DataMissingError: If its data are not under ``data_root``.
        ExtraMissingError: If a package that reads them is not installed.
    """
    planned = methods.method("codistillation").plan(replace(recipe, method="codistillation"))
    task = tasks.load(recipe.task, data_root=data_root)
    # Weights are drawn from torch's global generator, which is the caller's.
    with torch.random.fork_rng(devices=[]):
        model = task.model(recipe.model, width=max(recipe.peer_widths, default=None))
    return Job(
        model=Model.of(model),
        peers=len(planned.peers),
        ranks_per_peer=planned.ranks,
        batch_per_peer=planned.batch_size * planned.ranks,
        positions=_positions(task),
        outputs=task.classes,
        optimizer=_optimizer(recipe),
        interval_steps=recipe.interval_steps,
        topology=_by_number(recipe, planned.peers) if recipe.topology == "directed" else recipe.topology,
    )


def _positions(task: Task) -> int:
    """Return the predictions of a sample: those of the first one that is trained on."""
    _, targets = task.train.batch(torch.zeros(1, dtype=torch.int64))
    return targets[0].numel()


def _optimizer(recipe: Recipe) -> str:
    """Return what the planner calls an optimizer that keeps as much."""
    if recipe.optimizer in ("adam", "adamw", "adagrad"):
        return recipe.optimizer
    return "sgd_momentum" if recipe.momentum else "sgd"


def _by_number(recipe: Recipe, peers: tuple[str, ...]) -> Directed:
    """Return who teaches whom, under the names that a `Job` gives to peers."""
    number = {peer: str(index) for index, peer in enumerate(peers)}
    return Directed((number[teacher], number[student]) for teacher, student in recipe.teacher_pairs())
