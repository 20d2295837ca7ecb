"""A search of learning rate and weight decay: one grid, the same for every arm.

Every arm gets the same points, the same seeds and the same number of updates a run. The seeds are not those
of the comparison, and the test set is never read. Chosen is the point that is best on the validation set by
the task's metric, averaged over peers and seeds: the highest accuracy, and among equals the lowest NLL; or
the lowest NLL. If a chosen point lies at the edge of the grid, this is said, and the grid is to be widened
for all arms.

The search behind the demo::

    python -m codistill.lab.search --out runs/grid

goes on where an interrupted search stopped, and writes ``demo_grid.json``, which is committed beside the
demo's recipes once it has been looked at. There the arms of all_reduce are searched with one rank in place of
two: the same samples make up every update, and without normalisation over the batch the gradients differ in
rounding only.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codistill.lab import documents, experiment, folder, provenance, recipe, tasks
from codistill.lab.launch import LaunchOptions, OnProgress
from codistill.lab.recipe import Recipe
from codistill.lab.recipes import demo
from codistill.lab.results import PeerResult
from codistill.lab.search_space import SearchSpace

RULE = (
    "highest validation accuracy, averaged over peers and seeds; "
    "among equals the lowest validation NLL, averaged alike"
)
RULE_BY_NLL = "lowest validation NLL, averaged over peers and seeds"
RECORD = "search.json"
# The demo's.
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
WEIGHT_DECAYS = (0.0, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (100, 101, 102)
FORMAT = 1

# One process computes what the demo's all_reduce computes on two, in a third of the time: see above.
_DEMO_RANKS = 1


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
    space: SearchSpace,
    *,
    out: Path,
    options: LaunchOptions | None = None,
    on_progress: OnProgress | None = None,
) -> list[Point]:
    """Train one arm at every point of a grid, and return how it did.

    What has to be trained before it is trained at each point too, with the same settings.

    Args:
        arm: The recipe to tune; its learning rate and weight decay are ignored.
        space: The points.
        out: Folder for the runs; what an interrupted search left there is used.
        options: As for `codistill.lab.launch`; the test set is not read, stores are not kept.
        on_progress: Called with the arm's label, updates done, and updates in all.

    Raises:
        JobError: If a run fails.
    """
    grid = {
        f"lr{learning_rate:g}-wd{weight_decay:g}": (learning_rate, weight_decay)
        for learning_rate in space.learning_rates
        for weight_decay in space.weight_decays
    }
    points = [_at(arm, label, *settings) for label, settings in grid.items()]
    arms = experiment.with_earlier(points)
    runs = folder.create(out, arms=arms, seeds=space.seeds, command=sys.argv, if_exists="resume")
    experiment.train(
        runs,
        options=replace(options or LaunchOptions(), read_test=False, keep_exchange="none", trackers=()),
        on_progress=None if on_progress is None else _over_points(on_progress, arm.label, runs),
    )
    # An earlier call may have had more seeds; every arm is judged by the same ones.
    found = [one for one in runs.results() if one.seed in space.seeds]
    return [
        _summarise([one for one in found if one.arm == label], *settings) for label, settings in grid.items()
    ]


def search_arms(
    arms: Sequence[Recipe],
    space: SearchSpace,
    *,
    out: Path,
    options: LaunchOptions | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[tuple[Recipe, ...], dict[str, Any]]:
    """Tune arms one after another on the same points.

    Args:
        arms: Each with a label of its own.
        space: The points.
        out: Folder for the runs of all arms and for ``search.json``.
        options: As for `search`.
        on_progress: As for `search`, but with "search of" before the label: the arm is yet to be trained.

    Returns:
        The arms with the settings that were chosen, and the record of the search, as JSON can hold it.

    Raises:
        JobError: If a run fails.
    """
    searched = [
        search(
            arm,
            space,
            out=out / arm.label,
            options=options,
            on_progress=None if on_progress is None else _of_search(on_progress),
        )
        for arm in arms
    ]
    tuned = tuple(
        _tuned(arm, choose(points, metric_of(arm))) for arm, points in zip(arms, searched, strict=True)
    )
    record = {
        **to_document(arms, searched, space.seeds),
        "learning_rates": list(space.learning_rates),
        "weight_decays": list(space.weight_decays),
    }
    documents.write_json(out / RECORD, record)
    return tuned, record


def metric_of(arm: Recipe) -> str:
    """Return what an arm is tuned by: the metric of its task."""
    return tasks.task_class(arm.task).metric


def _at(arm: Recipe, label: str, learning_rate: float, weight_decay: float) -> Recipe:
    # What it falls to at the drops falls in proportion.
    scale = weight_decay / arm.weight_decay if arm.weight_decay else 0.0
    return replace(
        arm,
        arm=label,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        weight_decays=tuple(scale * value for value in arm.weight_decays) if scale else (),
    )


def _tuned(arm: Recipe, point: Point) -> Recipe:
    return _at(arm, arm.label, point.learning_rate, point.weight_decay)


def choose(points: Sequence[Point], metric: str = "accuracy") -> Point:
    """Return the best point.

    Args:
        points: What `search` returned.
        metric: "accuracy", see `RULE`, or "nll", see `RULE_BY_NLL`.

    Raises:
        ValueError: If there are no points.
    """
    if not points:
        raise ValueError("points must hold at least one point, got none. Pass what search returned.")
    if metric == "nll":
        return min(points, key=_nll)
    # Sums in another order may differ in the last bits; accuracies of real runs differ by far more.
    return min(
        points,
        key=lambda point: (
            -round(point.validation_accuracy, 9),
            _nll(point),
        ),
    )


def _nll(point: Point) -> float:
    return math.inf if math.isnan(point.validation_nll) else point.validation_nll


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
        "rule": RULE_BY_NLL if {metric_of(arm) for arm in arms} == {"nll"} else RULE,
        "command": sys.argv,
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
    space = SearchSpace(
        learning_rates=tuple(options.learning_rates),
        weight_decays=tuple(options.weight_decays),
        seeds=tuple(options.seeds),
    )
    searched = []
    for arm in demo.SEARCHED:
        points = search(
            replace(arm, ranks=_DEMO_RANKS),
            space,
            out=options.out / arm.label,
            on_progress=_print_progress,
        )
        searched.append(points)
        _print_choice(arm, points)
    record = to_document(demo.SEARCHED, searched, options.seeds)
    documents.write_json(options.out / demo.GRID, {**record, "ranks": _DEMO_RANKS})


def _over_points(on_progress: OnProgress, label: str, runs: folder.RunFolder) -> OnProgress:
    """Turn the progress of single points into that of the arm."""
    done_by_point: dict[str, int] = {}
    # Not all points have told theirs, and what is trained before may take other updates.
    total = len(runs.seeds) * sum(arm.updates for arm in runs.arms)

    def report(point: str, done: int, _: int) -> None:
        done_by_point[point] = done
        on_progress(label, sum(done_by_point.values()), total)

    return report


def _of_search(on_progress: OnProgress) -> OnProgress:
    return lambda label, done, total: on_progress(search_label(label), done, total)


def search_label(arm: str) -> str:
    """Return what the progress of the search of an arm is told under."""
    return f"search of {arm}"


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
    chosen = choose(points, metric_of(arm))
    return {
        "arm": arm.label,
        "trials": len(points),
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
