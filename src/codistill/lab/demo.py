"""The demo: train its arms, grouped so that few jobs have to start."""

from collections.abc import Sequence
from dataclasses import replace

from codistill.lab import methods
from codistill.lab.folder import RunFolder
from codistill.lab.launch import LaunchOptions, OnProgress, launch
from codistill.lab.recipe import Recipe


def train_demo(folder: RunFolder, *, device: str = "auto", on_progress: OnProgress | None = None) -> None:
    """Train every arm of a results folder with each of its seeds; what is there already is kept.

    Arms of the same number of peers and ranks follow one another in the same processes: starting PyTorch
    takes longer than a run. Of each arm the peers' store is kept for the first seed only.

    Args:
        folder: Made by `codistill.lab.folder.create`, with `codistill.lab.recipes.demo.arms` or others.
        device: As for `LaunchOptions`.
        on_progress: Called with the label of an arm, its updates done, and its updates in all.

    Raises:
        JobError: If a job fails.
    """
    options = LaunchOptions(device=device, keep_exchange="first")
    for arms in _by_shape(folder.arms):
        recipes = [replace(arm, seed=seed) for arm in arms for seed in folder.seeds]
        launch(folder, recipes, options=options, on_progress=on_progress)


def _by_shape(arms: Sequence[Recipe]) -> list[list[Recipe]]:
    groups: dict[tuple[int, int], list[Recipe]] = {}
    for arm in arms:
        plan = methods.method(arm.method).plan(arm)
        groups.setdefault((len(plan.peers), plan.ranks), []).append(arm)
    return list(groups.values())
