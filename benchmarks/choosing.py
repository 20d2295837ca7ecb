"""What each choice changes: one setting at a time around the recipe `digits`, judged on validation data.

    python benchmarks/choosing.py [--out runs/choosing] [--seeds 0 1 2 3 4] [--json FILE] [--page FILE]

Every setting is trained with the same seeds, and each is held against the recipe's own with those seeds in
pairs. The test set is not read. A run that was interrupted goes on where it stopped; more seeds may be added.
``--page`` writes the tables between the markers of that page.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codistill.lab import documents, experiment, folder, provenance
from codistill.lab.folder import RunFolder
from codistill.lab.intervals import interval
from codistill.lab.launch import LaunchOptions
from codistill.lab.recipe import Recipe
from codistill.lab.recipes.digits import RECIPE

SEEDS = (0, 1, 2, 3, 4)
AS_IT_IS = "as_it_is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of a table."""

    arm: str
    """Label of the recipe that it is trained as."""
    says: str
    """What stands in the first column."""
    against: str = AS_IT_IS
    """Label of the arm that it is held against."""


def _named(field: str, value: object) -> str:
    return f"{field}-{value}".replace(".", "_")


def plan() -> tuple[tuple[Recipe, ...], dict[str, tuple[Setting, ...]]]:
    """Return the arms to train, and the rows of each table."""
    arms = {AS_IT_IS: replace(RECIPE, arm=AS_IT_IS)}
    tables: dict[str, tuple[Setting, ...]] = {}

    def arm(label: str, **changes: Any) -> str:
        arms[label] = replace(RECIPE, arm=label, **changes)
        return label

    def sweep(table: str, field: str, values: Sequence[Any]) -> None:
        rows = []
        for value in values:
            is_own = value == getattr(RECIPE, field)
            label = AS_IT_IS if is_own else arm(_named(field, value), **{field: value})
            rows.append(Setting(arm=label, says=f"`{value}`" + (" (the recipe)" if is_own else "")))
        tables[table] = tuple(rows)

    alone = arm("alone", method="alone")
    sweep(
        "loss",
        "distillation_loss",
        ("kl", "reverse_kl", "symmetric_kl", "jensen_shannon", "soft_cross_entropy", "centred_logit_mse"),
    )
    sweep("weight", "distillation_weight", (0.25, 0.5, 1.0, 2.0, 4.0))
    tables["weight"] = (Setting(arm=alone, says="no peers"), *tables["weight"])
    sweep("interval", "interval_steps", (2, 5, 10, 20, 50, 150, 500))
    sweep("burn-in", "burn_in_steps", (0, 50, 150, 375, 750))
    halves = arm("alone-disjoint", method="alone", regime="disjoint")
    peers = arm("regime-disjoint", regime="disjoint")
    tables["partition"] = (
        Setting(arm=AS_IT_IS, says="all data for everyone, in an order of its own (the recipe)"),
        Setting(arm=arm("regime-same_batches", regime="same_batches"), says="the same batches for everyone"),
        Setting(arm=peers, says="disjoint halves"),
        Setting(arm=halves, says="disjoint halves, no peers"),
        Setting(arm=peers, says="disjoint halves, held against them without peers", against=halves),
    )
    rows = []
    for decay in (0.0, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2):
        is_own = decay == RECIPE.weight_decay
        mark = " (the recipe)" if is_own else ""
        label = _named("weight_decay", f"{decay:g}")
        peers = AS_IT_IS if is_own else arm(label, weight_decay=decay)
        single = alone if is_own else arm(f"alone-{label}", method="alone", weight_decay=decay)
        rows.append(Setting(arm=single, says=f"`{decay:g}`, no peers", against=single))
        rows.append(Setting(arm=peers, says=f"`{decay:g}`, two peers{mark}", against=single))
    peers, single = (
        arm("weight_decay-falling", weight_decay_factor=0.1),
        arm("alone-weight_decay-falling", method="alone", weight_decay_factor=0.1),
    )
    rows.append(Setting(arm=single, says="`0.003`, a tenth at each drop, no peers", against=single))
    rows.append(Setting(arm=peers, says="`0.003`, a tenth at each drop, two peers", against=single))
    tables["weight-decay"] = tuple(rows)
    return tuple(arms.values()), tables


def collect(runs: RunFolder, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the document: for each arm, what came out with each seed, averaged over peers."""
    arms = {}
    for arm in runs.arms:
        by_seed = [[runs.result(arm.label, seed, peer) for peer in "ab"] for seed in seeds]
        arms[arm.label] = {
            "accuracy": [statistics.fmean(one.validation_accuracy for one in peers) for peers in by_seed],
            "nll": [statistics.fmean(one.validation_nll for one in peers) for peers in by_seed],
            "seconds": statistics.fmean(one.seconds for peers in by_seed for one in peers),
        }
    return {
        "format": 1,
        "kind": "codistill choosing",
        "says": "validation set; mean over the two models; one number a seed",
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "recipe": RECIPE.name,
        "seeds": list(seeds),
        "arms": arms,
    }


def _cell(values: Sequence[float], *, scale: float, digits: int) -> str:
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    return f"{scale * mean:.{digits}f} +- {scale * spread:.{digits}f}"


def _difference(ours: Sequence[float], theirs: Sequence[float], *, scale: float, digits: int) -> str:
    differences = [scale * (a - b) for a, b in zip(ours, theirs, strict=True)]
    if not any(differences):
        return "none"
    low, high = interval(differences)
    if low is None or high is None:
        return f"{statistics.fmean(differences):+.{digits}f}"
    return f"{statistics.fmean(differences):+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def table(document: Mapping[str, Any], rows: Sequence[Setting]) -> str:
    """Return one table as Markdown, without a line break at the end."""
    lines = [
        "| | accuracy % | difference (95%) | NLL | difference (95%) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        own, other = document["arms"][row.arm], document["arms"][row.against]
        cells = [row.says]
        for metric, scale, digits in (("accuracy", 100, 1), ("nll", 1, 3)):
            cells.append(_cell(own[metric], scale=scale, digits=digits))
            difference = _difference(own[metric], other[metric], scale=scale, digits=digits)
            cells.append("-" if row.arm == row.against else difference)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_page(text: str, document: Mapping[str, Any]) -> str:
    """Return a page with its tables, and with what machine made them, as they came out.

    Raises:
        ValueError: If the markers of a table are missing.
    """
    machine, versions = document["machine"], document["versions"]
    blocks = {name: table(document, rows) for name, rows in plan()[1].items()}
    blocks["machine"] = (
        f"{len(document['seeds'])} seeds, two models each; {machine['cores']} cores of a shared "
        f"{machine['architecture']} machine, torch {versions['torch'].partition('+')[0]}."
    )
    for name, block in blocks.items():
        begin, end = f"<!-- choosing {name}: begin -->", f"<!-- choosing {name}: end -->"
        if begin not in text or end not in text:
            raise ValueError(f"page must have the markers {begin} and {end}, got none. Put them in.")
        between = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        text = between.sub(lambda _, block=block, b=begin, e=end: f"{b}\n{block}\n{e}", text)
    return text


def main() -> None:
    """Train what is missing, print the tables, and write them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/choosing"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--updates", type=int, default=RECIPE.updates, help="fewer, to try it out")
    parser.add_argument("--arms", nargs="+", help="train these only, and print nothing; to try it out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="also write the tables into this page")
    options = parser.parse_args()
    arms = [replace(arm, updates=options.updates) for arm in plan()[0]]
    if options.arms:
        arms = [arm for arm in arms if arm.arm in options.arms]
    runs = folder.create(options.out, arms=arms, seeds=options.seeds, command=sys.argv, if_exists="resume")
    experiment.train(runs, options=LaunchOptions(device="cpu", read_test=False, keep_exchange="none"))
    if options.arms:
        return
    document = collect(runs, options.seeds)
    for name, rows in plan()[1].items():
        print(f"{name}\n\n{table(document, rows)}\n")
    if options.json is not None:
        documents.write_json(options.json, document)
    if options.page is not None:
        options.page.write_text(write_page(options.page.read_text(), json.loads(json.dumps(document))))


if __name__ == "__main__":
    main()
