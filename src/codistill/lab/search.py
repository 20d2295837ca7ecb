"""The search behind the demo: one grid of learning rate and weight decay, the same for every arm.

Every arm gets the same points, the same seeds and the same number of updates a run. The seeds are not those
of the demo, and the test set is never read. Chosen is the point with the highest validation accuracy,
averaged over peers and seeds; among equals the one with the lowest validation NLL, averaged alike. If a
chosen point lies at the edge of the grid, this is said, and the grid is to be widened for all arms.

The arms of all_reduce are searched with one rank in place of two: the same samples make up every update, and
without normalisation over the batch the gradients differ in rounding only.

::

    python -m codistill.lab.search --out runs/grid

goes on where an interrupted search stopped, and writes ``demo_grid.json``, which is committed beside the
demo's recipes once it has been looked at.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codistill.lab import documents, folder, provenance, recipe
from codistill.lab.launch import LaunchOptions, OnProgress, launch
from codistill.lab.recipe import Recipe
from codistill.lab.recipes import demo
from codistill.lab.results import PeerResult

RULE = (
    "highest validation accuracy, averaged over peers and seeds; "
    "among equals the lowest validation NLL, averaged alike"
)
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
WEIGHT_DECAYS = (0.0, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (100, 101, 102)
FORMAT = 1

# One process computes what all_reduce computes on two, in a third of the time: see above.
_RANKS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of the grid, and how an arm did there."""

    learning_rate: float
    """Learning rate at the start."""
    weight_decay: float
    """Weight decay at the start."""
    validation_accuracy: float
    """Mean over seeds of the mean over peers."""
    validation_accuracy_sd: float
    """Standard deviation over seeds."""
    validation_nll: float
    """Mean over seeds of the mean over peers, in nats; NaN if a run diverged."""
    validation_nll_sd: float
    """Standard deviation over seeds."""


def search(
    arm: Recipe,
    *,
    out: Path,
    seeds: Sequence[int],
    learning_rates: Sequence[float],
    weight_decays: Sequence[float],
    on_progress: OnProgress | None = None,
) -> list[Point]:
    """Train one arm at every point of the grid, and return how it did.

    Args:
        arm: The recipe to tune; its learning rate, weight decay and ranks are ignored.
        out: Folder for the runs; what an interrupted search left there is used.
        seeds: Of the runs at every point.
        learning_rates: One side of the grid.
        weight_decays: The other side.
        on_progress: Called with the arm's label, updates done, and updates in all.

    Raises:
        JobError: If a run fails.
    """
    grid = {
        f"lr{learning_rate:g}-wd{weight_decay:g}": (learning_rate, weight_decay)
        for learning_rate in learning_rates
        for weight_decay in weight_decays
    }
    arms = [
        replace(arm, arm=label, ranks=_RANKS, learning_rate=learning_rate, weight_decay=weight_decay)
        for label, (learning_rate, weight_decay) in grid.items()
    ]
    runs = folder.create(out, arms=arms, seeds=seeds, command=sys.argv, if_exists="resume")
    launched = launch(
        runs,
        [replace(one, seed=seed) for one in arms for seed in seeds],
        options=LaunchOptions(read_test=False, keep_exchange="none"),
        on_progress=None if on_progress is None else _over_points(on_progress, arm.label, len(grid)),
    )
    return [
        _summarise([result for result in launched if result.arm == label], learning_rate, weight_decay)
        for label, (learning_rate, weight_decay) in grid.items()
    ]


def choose(points: Sequence[Point]) -> Point:
    """Return the best point: see `RULE`.

    Raises:
        ValueError: If there are no points.
    """
    if not points:
        raise ValueError("points must hold at least one point, got none. Pass what search returned.")
    # Sums in another order may differ in the last bits; accuracies of real runs differ by far more.
    return min(
        points,
        key=lambda point: (
            -round(point.validation_accuracy, 9),
            math.inf if math.isnan(point.validation_nll) else point.validation_nll,
        ),
    )


def edges(point: Point, points: Sequence[Point]) -> list[str]:
    """Return which of the two settings of a point lie at an end of the grid that could be moved; 0 cannot."""
    found = []
    for setting in ("learning_rate", "weight_decay"):
        values = sorted({getattr(other, setting) for other in points})
        if getattr(point, setting) in (values[0], values[-1]) and getattr(point, setting) != 0:
            found.append(setting)
    return found


def to_document(
    arms: Sequence[Recipe], searched: Sequence[Sequence[Point]], seeds: Sequence[int]
) -> dict[str, Any]:
    """Return the record of a search as JSON can hold it.

    Args:
        arms: The arms, in order.
        searched: What `search` returned for each.
        seeds: What it was given.
    """
    return {
        "format": FORMAT,
        "kind": "codistill grid",
        "rule": RULE,
        "ranks": _RANKS,
        "command": ["python", "-m", "codistill.lab.search", *sys.argv[1:]],
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "seeds": list(seeds),
        "arms": [_arm_document(arm, points) for arm, points in zip(arms, searched, strict=True)],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Search for every arm of the demo that is to be tuned and write ``demo_grid.json``."""
    parser = argparse.ArgumentParser(prog="python -m codistill.lab.search", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and demo_grid.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--learning-rates", type=float, nargs="+", default=list(LEARNING_RATES))
    parser.add_argument("--weight-decays", type=float, nargs="+", default=list(WEIGHT_DECAYS))
    options = parser.parse_args(arguments)
    searched = []
    for arm in demo.SEARCHED:
        points = search(
            arm,
            out=options.out / arm.label,
            seeds=options.seeds,
            learning_rates=options.learning_rates,
            weight_decays=options.weight_decays,
            on_progress=_print_progress,
        )
        searched.append(points)
        _print_choice(arm, points)
    documents.write_json(options.out / demo.GRID, to_document(demo.SEARCHED, searched, options.seeds))


def _over_points(on_progress: OnProgress, label: str, points: int) -> OnProgress:
    """Turn the progress of single points into that of the arm."""
    done_by_point: dict[str, int] = {}

    def report(point: str, done: int, total: int) -> None:
        done_by_point[point] = done
        on_progress(label, sum(done_by_point.values()), total * points)

    return report


def _summarise(runs: Sequence[PeerResult], learning_rate: float, weight_decay: float) -> Point:
    accuracies, nlls = [], []
    for seed in sorted({run.seed for run in runs}):
        peers = [run for run in runs if run.seed == seed]
        accuracies.append(statistics.fmean(run.validation_accuracy for run in peers))
        nlls.append(statistics.fmean(run.validation_nll for run in peers))
    return Point(
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        validation_accuracy=statistics.fmean(accuracies),
        validation_accuracy_sd=_sd(accuracies),
        validation_nll=statistics.fmean(nlls),
        validation_nll_sd=_sd(nlls),
    )


def _sd(values: Sequence[float]) -> float:
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values)


def _arm_document(arm: Recipe, points: Sequence[Point]) -> dict[str, Any]:
    chosen = choose(points)
    return {
        "arm": arm.label,
        "recipe": recipe.to_document(arm),
        "chosen": documents.to_document(chosen),
        "at_edge": edges(chosen, points),
        "points": [documents.to_document(point) for point in points],
    }


def _print_progress(label: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{label}: {done} of {total} updates ")


def _print_choice(arm: Recipe, points: Sequence[Point]) -> None:
    chosen = choose(points)
    at_edge = edges(chosen, points)
    sys.stdout.write(
        f"{arm.label}: learning rate {chosen.learning_rate:g}, weight decay {chosen.weight_decay:g}: "
        f"validation accuracy {chosen.validation_accuracy:.4f}, NLL {chosen.validation_nll:.4f}"
        f"{'; at the edge in ' + ' and '.join(at_edge) if at_edge else ''}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
