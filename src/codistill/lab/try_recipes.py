"""Whether every recipe of a laptop's scale still trains: a few updates of each, in a temporary folder.

::

    python -m codistill.lab.try_recipes --data-root DATA

prints a line a recipe, and ends with code 1 if any fails. Recipes whose data are not there are named and left
out. Those of the same peers and ranks share their processes, and those that come to the same in so few
updates are trained once.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from codistill.errors import DataMissingError, JobError
from codistill.lab import recipes, results, tasks
from codistill.lab.data_root import data_root
from codistill.lab.experiment import train, with_earlier
from codistill.lab.folder import RunFolder, create
from codistill.lab.launch import LaunchOptions, launch
from codistill.lab.recipe import Recipe

UPDATES = 4
"""Of each recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """How a recipe did."""

    name: str
    """Of the recipe."""
    seconds: float | None = None
    """In its updates, of the slowest peer; None if it was not trained to the end."""
    said: str
    """What came of it."""
    has_failed: bool = False
    """Whether it cannot be trained, or a loss is not finite."""

    def line(self) -> str:
        """Return a line for people."""
        seconds = "-" if self.seconds is None else f"{self.seconds:.1f} s"
        return f"{self.name:<32} {seconds:>7}  {self.said}"


def shortened(recipe: Recipe) -> Recipe:
    """Return a recipe with a few small updates, in which peers exchange and teach from the first on.

    Small, as teachers of a few updates have running statistics that lag behind their weights: what they
    say would be far off after large ones.
    """
    return replace(
        recipe,
        arm=recipe.name,
        updates=UPDATES,
        teacher_updates=None if recipe.teacher_updates is None else UPDATES,
        learning_rate=recipe.learning_rate / 100,
        warmup_steps=min(recipe.warmup_steps, UPDATES),
        burn_in_steps=0,
        interval_steps=1,
        evaluate_every=UPDATES,
        checkpoint_every=None,
        seed=0,
    )


def try_recipes(asked: Sequence[Recipe], *, out: Path, options: LaunchOptions) -> list[Tried]:
    """Train recipes for a few updates.

    Args:
        asked: The recipes.
        out: New folder for the runs.
        options: Where and how.

    Returns:
        How each did, in order.

    **Blocks**: until all have finished or failed.
    """
    missing = _missing({recipe.task for recipe in asked}, options)
    firsts: dict[Recipe, Recipe] = {}
    for recipe in asked:
        if recipe.task not in missing:
            firsts.setdefault(_what_is_trained(recipe), shortened(recipe))
    problems: Mapping[str, str] = {}
    folder = None
    if firsts:
        arms = with_earlier(list(firsts.values()))
        folder = create(out, arms=arms, seeds=[0], command=sys.argv)
        problems = _train(folder, options)
    tried = []
    for recipe in asked:
        if recipe.task in missing:
            tried.append(Tried(name=recipe.name, said=f"skipped: {missing[recipe.task]}"))
            continue
        assert folder is not None
        first = firsts[_what_is_trained(recipe)]
        tried.append(_outcome(recipe, first, folder, problems))
    return tried


def main(arguments: Sequence[str] | None = None) -> int:
    """Try every recipe of a laptop's scale; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m codistill.lab.try_recipes", description=__doc__)
    parser.add_argument(
        "--data-root", type=Path, help="folder of the data sets' folders, else $CODISTILL_DATA"
    )
    words = parser.parse_args(arguments)
    asked = [entry.recipe for entry in recipes.entries() if entry.scale == "lab"]
    options = LaunchOptions(data_root=words.data_root, device="cpu", read_test=False, keep_exchange="none")
    with tempfile.TemporaryDirectory() as out:
        tried = try_recipes(asked, out=Path(out) / "runs", options=options)
    for one in tried:
        sys.stdout.write(f"{one.line()}\n")
    return int(any(one.has_failed for one in tried))


def _what_is_trained(recipe: Recipe) -> Recipe:
    """Return a shortened recipe without what tells it apart in name only."""
    return replace(shortened(recipe), name="tried", arm="tried", summary="")


def _missing(names: Iterable[str], options: LaunchOptions) -> dict[str, str]:
    """Return the tasks without their data, and what is missing."""
    found = {}
    for name in sorted(names):
        try:
            tasks.task_class(name).prepare(data_root(options.data_root))
        except DataMissingError as e:
            found[name] = str(e)
    return found


def _train(folder: RunFolder, options: LaunchOptions) -> dict[str, str]:
    """Train all arms and return those that failed, and why."""
    try:
        train(folder, options=options)
    except JobError:
        # What failed is somewhere among those that shared its processes: the rest, one at a time.
        return _train_apart(folder, options)
    return {}


def _train_apart(folder: RunFolder, options: LaunchOptions) -> dict[str, str]:
    problems = {}
    for arm in folder.arms:
        try:
            launch(folder, [arm], options=options)
        except JobError as e:
            problems[arm.label] = str(e).strip().splitlines()[-1]
    return problems


def _outcome(recipe: Recipe, first: Recipe, folder: RunFolder, problems: Mapping[str, str]) -> Tried:
    """Return how a recipe did that was trained as ``first``."""
    for arm in with_earlier([first]):
        if arm.label in problems:
            return Tried(name=recipe.name, said=f"failed: {problems[arm.label]}", has_failed=True)
    paths = [folder.peer_path(first.label, 0, peer) for peer in folder.peers(first.label, 0)]
    done = [results.load_result(path / results.RESULT) for path in paths]
    losses = [loss for path in paths for loss in _losses(path)]
    is_finite = bool(losses) and all(map(math.isfinite, losses))
    said = "losses finite" if is_finite else "failed: a loss is not finite"
    if recipe.name != first.name:
        said += f", as {first.name}"
    seconds = max(one.seconds for one in done)
    return Tried(name=recipe.name, seconds=seconds, said=said, has_failed=not is_finite)


def _losses(path: Path) -> list[float]:
    """Return all losses of a peer, those of its teachers among them."""
    rows = results.load_evaluations(path / results.METRICS)
    found = [loss for row in rows for loss in (row.train_loss, row.validation_nll)]
    return found + [row.distillation_loss for row in rows if row.distillation_loss is not None]


if __name__ == "__main__":
    sys.exit(main())
