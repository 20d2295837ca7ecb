"""Train the arms of a results folder, each after what it needs, and on as many cores as there are."""

from collections.abc import Sequence
from dataclasses import replace

from codistill.errors import RecipeError
from codistill.lab import methods
from codistill.lab.folder import RunFolder
from codistill.lab.launch import LaunchOptions, OnProgress, check
from codistill.lab.recipe import Recipe
from codistill.lab.streams import launch_streams


def arms_of(recipe: Recipe, names: Sequence[str]) -> tuple[Recipe, ...]:
    """Return an arm for each method, and before it what has to be trained first.

    Args:
        recipe: What all have in common; each method changes what it has to.
        names: Methods; each gives an arm of its name.

    Raises:
        RecipeError: If a method does not exist, is named twice, or cannot train the recipe.
    """
    if not names or len(set(names)) != len(names):
        raise RecipeError(
            f"methods must be one or more different ones, got {list(names)}. "
            f"Choose among {', '.join(methods.names())}."
        )
    arms: list[Recipe] = []
    for name in names:
        method = methods.method(name)
        arm = method.adapt(replace(recipe, method=name, arm=name))
        method.plan(arm)
        arms += with_earlier([arm])
    return tuple(arms)


def with_earlier(arms: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """Return arms, each after the one that has to be trained before it."""
    found: dict[str, Recipe] = {}
    for arm in arms:
        earlier = methods.method(arm.method).earlier(arm)
        if earlier is not None:
            found.setdefault(earlier.label, earlier)
        found[arm.label] = arm
    return tuple(found.values())


def train(
    folder: RunFolder, *, options: LaunchOptions | None = None, on_progress: OnProgress | None = None
) -> None:
    """Train every arm of a results folder with each of its seeds; what is there already is kept.

    Arms of the same number of peers and ranks follow one another in the same processes: starting PyTorch
    takes longer than many a run.

    Args:
        folder: Made by `codistill.lab.folder.create`; it holds the arms that others need.
        options: As for `launch`.
        on_progress: Called with the label of an arm, its updates done, and its updates in all.

    Raises:
        RecipeError, StoreError, DataMissingError, ExtraMissingError: As for `check`.
        JobError: If a job fails.

    **Blocks**: until all have finished.

    **On failure**: what has finished stays; a second call goes on from it.
    """
    options = options or LaunchOptions()
    check(folder.arms, options=options)
    for level in _levels(folder.arms):
        for arms in _by_shape(level):
            recipes = [replace(arm, seed=seed) for arm in arms for seed in folder.seeds]
            launch_streams(folder, recipes, options=options, on_progress=on_progress)


def _levels(arms: Sequence[Recipe]) -> list[list[Recipe]]:
    """Return the arms that need no other, then those that need these."""
    needed = [methods.method(arm.method).earlier(arm) for arm in arms]
    first = [arm for arm, earlier in zip(arms, needed, strict=True) if earlier is None]
    then = [arm for arm, earlier in zip(arms, needed, strict=True) if earlier is not None]
    return [first, then]


def _by_shape(arms: Sequence[Recipe]) -> list[list[Recipe]]:
    groups: dict[object, list[Recipe]] = {}
    for arm in arms:
        groups.setdefault(methods.method(arm.method).plan(arm).shape, []).append(arm)
    return list(groups.values())
