"""Does a weak peer drag a strong one below training alone?

The strong peer, ``a``, is the same in every arm: 32 samples an update, and the learning rate and weight
decay that a search chose for training alone, so that what it is held against is at its best. It trains
alone, beside a peer like itself, and beside weak ones: with a learning rate that is too low or far too high,
or with hidden layers of 8 or 4 units in place of 128. Peers run free, all guards as they come. A model alone
with strong label smoothing shows how much of an effect is that of any smoothing.

On the demo's digits, a fifth of whose labels is wrong, the settings are those of the demo's search. On
``digits_clean``, whose labels are true, a search of its own comes first, in a folder beside ``--out``.

::

    python -m codistill.lab.weak_peer --out runs/weak_peer
    python -m codistill.lab.weak_peer --task digits_clean --out runs/weak_peer_clean

go on where an interrupted run stopped, and write ``weak_peer.json``.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codistill.lab import documents, folder, intervals, provenance, recipe, search
from codistill.lab.compare import FIRST_PEER
from codistill.lab.demo import train_demo
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.recipes import demo
from codistill.lab.results import PeerResult
from codistill.lab.search_space import SearchSpace
from codistill.lab.tasks.images.digits import WIDTH

RULE = (
    "a weak peer drags the strong one down if the two-sided 95% t interval of the strong peer's test "
    "accuracy, beside the weak peer minus alone, paired over seeds, lies below 0; it helps if the interval "
    "lies above 0"
)
SEEDS = (0, 1, 2, 3, 4)
TASKS = ("digits", "digits_clean")
"""The first is the demo's: there the demo's search has chosen the strong peer's settings."""
LEARNING_RATES = (0.01, 0.03, 0.1, 0.3)
"""One side of the grid for the other tasks."""
WEIGHT_DECAYS = (0.0, 1e-4, 1e-3, 3e-3)
"""The other side."""
ALONE = "alone"
FORMAT = 1
DOCUMENT = "weak_peer.json"


def strong_alone() -> Recipe:
    """Return the strong peer alone on the demo's digits, with the settings that the demo's search chose."""
    tuned = next(arm for arm in demo.arms() if arm.label == "alone_2")
    return replace(
        tuned,
        name="weak_peer",
        arm=ALONE,
        peers=1,
        batch_size=tuned.batch_size // tuned.peers,
        lockstep=False,
        summary="the strong peer without another",
    )


def tune(alone: Recipe, *, out: Path) -> tuple[Recipe, dict[str, Any]]:
    """Choose learning rate and weight decay of the strong peer alone, on validation data.

    Args:
        alone: The strong peer alone; its learning rate and weight decay are ignored.
        out: Folder for the runs; what an interrupted search left there is used.

    Returns:
        ``alone`` with the settings chosen by `codistill.lab.search.RULE`, and the record of the search.

    Raises:
        JobError: If a run fails.
    """
    points = search.search(
        alone,
        SearchSpace(learning_rates=LEARNING_RATES, weight_decays=WEIGHT_DECAYS, seeds=search.SEEDS),
        out=out,
    )
    chosen = search.choose(points)
    tuned = replace(alone, learning_rate=chosen.learning_rate, weight_decay=chosen.weight_decay)
    record = search.to_document([tuned], [points], search.SEEDS)
    return tuned, {"rule": record["rule"], "seeds": record["seeds"], **record["arms"][0]}


def arms(alone: Recipe) -> tuple[Recipe, ...]:
    """Return the arms: the strong peer alone, beside its like, and beside weak peers.

    Args:
        alone: The strong peer alone: `strong_alone`, or what `tune` made of it for another task.
    """
    strong = alone.learning_rate
    pair = replace(alone, method="codistillation", peers=2, batch_size=2 * alone.batch_size)
    return (
        alone,
        replace(
            alone,
            arm="smoothed",
            label_smoothing=0.5,
            summary="alone with label smoothing 0.5: what a peer teaches that finds all classes alike",
        ),
        replace(pair, arm="strong", summary="beside a peer like itself, for scale"),
        *(
            replace(
                pair,
                arm=f"slow_{factor}",
                peer_learning_rates=(strong, strong / factor),
                summary=f"beside a peer with its learning rate divided by {factor}",
            )
            for factor in (10, 30, 1000)
        ),
        replace(
            pair,
            arm="fast_30",
            peer_learning_rates=(strong, 30 * strong),
            summary="beside a peer with 30 times its learning rate, which diverges",
        ),
        *(
            replace(
                pair,
                arm=f"narrow_{width}",
                peer_widths=(WIDTH, width),
                summary=f"beside a peer with hidden layers of {width} units, not {WIDTH}",
            )
            for width in (8, 4)
        ),
    )


def to_document(runs: RunFolder, searched: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what came out, as JSON can hold it.

    Args:
        runs: All arms of `arms`, finished for all of its seeds.
        searched: The record of the search, if there was one.

    Raises:
        OSError: If a run has not finished.
    """
    alone = {seed: _accuracy(runs.result(ALONE, seed, FIRST_PEER)) for seed in runs.seeds}
    document = {
        "format": FORMAT,
        "kind": "codistill weak peer",
        "rule": RULE,
        "command": ["python", "-m", "codistill.lab.weak_peer", *sys.argv[1:]],
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "seeds": list(runs.seeds),
        "arms": [_arm_document(runs, arm, alone) for arm in runs.arms],
    }
    return document if searched is None else document | {"search": searched}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all arms and write ``weak_peer.json``."""
    parser = argparse.ArgumentParser(prog="python -m codistill.lab.weak_peer", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help=f"folder for runs and {DOCUMENT}")
    parser.add_argument("--task", choices=TASKS, default=TASKS[0], help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args(arguments)
    alone, searched = replace(strong_alone(), task=options.task), None
    if options.task != TASKS[0]:
        alone, searched = tune(alone, out=options.out.with_name(f"{options.out.name}_grid"))
    runs = folder.create(
        options.out, arms=arms(alone), seeds=options.seeds, command=sys.argv, if_exists="resume"
    )
    train_demo(runs)
    document = to_document(runs, searched)
    documents.write_json(options.out / DOCUMENT, document)
    for arm in document["arms"]:
        _print(arm)


def _arm_document(runs: RunFolder, arm: Recipe, alone: dict[int, float]) -> dict[str, Any]:
    seeds = [_seed_document(runs, arm, seed) for seed in runs.seeds]
    document = {
        "arm": arm.label,
        "summary": arm.summary,
        "recipe": recipe.to_document(arm),
        "test_accuracy": statistics.fmean(seed["test_accuracy"] for seed in seeds),
        "runs": seeds,
    }
    if arm.label != ALONE:
        document["against_alone"] = _against([seed["test_accuracy"] - alone[seed["seed"]] for seed in seeds])
    return document


def _seed_document(runs: RunFolder, arm: Recipe, seed: int) -> dict[str, Any]:
    strong = runs.result(arm.label, seed, FIRST_PEER)
    document: dict[str, Any] = {"seed": seed, "test_accuracy": _accuracy(strong)}
    if strong.teacher_share is not None:
        document |= {
            "other_test_accuracy": _accuracy(runs.result(arm.label, seed, "b")),
            "updates": strong.updates,
            "taught_updates": round(strong.teacher_share * strong.updates),
            "first_quarantine": strong.first_quarantine,
            "quarantined_updates": strong.quarantined_updates,
            "is_quarantined_at_end": bool(strong.quarantined),
            "weight_factor": strong.weight_factor,
            "publishes_skipped": strong.publishes_skipped,
        }
    return document


def _against(differences: Sequence[float]) -> dict[str, Any]:
    low, high = intervals.interval(differences)
    if low is None or high is None:
        outcome = "too few seeds"
    else:
        outcome = "drags it down" if high < 0 else "helps" if low > 0 else "no difference at 95%"
    return {
        "differences": list(differences),
        "mean": statistics.fmean(differences),
        "low": low,
        "high": high,
        "outcome": outcome,
    }


def _accuracy(result: PeerResult) -> float:
    assert result.test_accuracy is not None, "the test set is read at the end of each run"
    return result.test_accuracy


def _print(arm: dict[str, Any]) -> None:
    line = f"{arm['arm']}: {100 * arm['test_accuracy']:.1f}%"
    if "against_alone" in arm:
        against = arm["against_alone"]
        reach = (
            ""
            if against["low"] is None
            else f" ({100 * against['low']:+.2f} to {100 * against['high']:+.2f})"
        )
        line += f", {100 * against['mean']:+.2f} points{reach} against alone: {against['outcome']}"
    if "taught_updates" in arm["runs"][0]:
        taught = [run["taught_updates"] for run in arm["runs"]]
        quarantines = [run["first_quarantine"] for run in arm["runs"]]
        line += f"; updates taught {taught}, first quarantined after {quarantines}"
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
