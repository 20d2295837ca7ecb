"""What came of an experiment: the JSON that is committed, and shown to whoever does not run it anew."""

import importlib.resources
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codistill.lab import comparison as comparisons
from codistill.lab import documents, methods, provenance, results
from codistill.lab.compare import FIRST_PEER, compare
from codistill.lab.comparison import Comparison
from codistill.lab.experiments.base import Experiment
from codistill.lab.experiments.reproduction import RUNS, SEARCH
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.report.curves import Curve, curve
from codistill.lab.search import RECORD, metric_of

FORMAT = 1
KIND = "codistill finding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An experiment that has been run."""

    comparison: Comparison
    """Table and verdicts."""
    search: Mapping[str, Any]
    """The record of the search: points, chosen settings, rule."""
    curves: tuple[Curve, ...]
    """The task's metric on the validation set, of the first model of each arm, against updates."""
    settings: Mapping[str, Mapping[str, float]]
    """Learning rate and weight decay of each arm, by label."""
    cpu_hours: float
    """Seconds in training loops times processes, of search and runs, in hours."""
    versions: Mapping[str, Any]
    """Of Python and packages."""
    machine: Mapping[str, Any]
    """What it ran on."""
    command: str
    """What runs it anew."""


def find(experiment: Experiment, out: Path) -> Finding:
    """Return what came of an experiment that `codistill.lab.experiments.reproduction.reproduce` has run.

    Args:
        experiment: The experiment.
        out: Its folder.

    Raises:
        RunExistsError: If there are no runs of it in the folder.
        DataMissingError: If no arm has a finished seed.
        ValueError: If a result cannot be read.
    """
    runs = RunFolder(out / RUNS)
    record = documents.read_json(out / SEARCH / RECORD)
    searches = [RunFolder(out / SEARCH / arm["arm"]) for arm in record["arms"]]
    return Finding(
        comparison=_weighed(compare(runs, declared=experiment.claims), experiment),
        curves=tuple(_curve(runs, arm) for arm in runs.arms),
        search=record,
        settings={
            arm.label: {"learning_rate": arm.learning_rate, "weight_decay": arm.weight_decay}
            for arm in runs.arms
        },
        cpu_hours=math.fsum(_cpu_s(folder) for folder in (runs, *searches)) / 3600,
        versions=provenance.versions(),
        machine=provenance.machine(),
        command=f"codistill reproduce {experiment.name} --anew",
    )


def to_document(finding: Finding, *, name: str) -> dict[str, Any]:
    """Return a finding as JSON can hold it."""
    return {
        "format": FORMAT,
        "kind": KIND,
        "experiment": name,
        "command": finding.command,
        "versions": dict(finding.versions),
        "machine": dict(finding.machine),
        "cpu_hours": round(finding.cpu_hours, 2),
        "settings": {label: dict(values) for label, values in finding.settings.items()},
        "curves": [documents.to_document(curve) for curve in finding.curves],
        "search": dict(finding.search),
        "comparison": comparisons.to_document(finding.comparison),
    }


def committed(experiment: Experiment) -> Finding | None:
    """Return the finding that comes with this package; None if the experiment has not been run.

    Args:
        experiment: The experiment.

    Raises:
        ValueError: If it cannot be read.
    """
    source = importlib.resources.files(__package__) / "results" / f"{experiment.name}.json"
    if not source.is_file():
        return None
    document = json.loads(source.read_text(encoding="utf-8"))
    if document.get("kind") != KIND or document.get("format") != FORMAT:
        raise ValueError(f"{source} must be a {KIND} of format {FORMAT}, and it is not.")
    return Finding(
        comparison=_weighed(comparisons.from_document(document["comparison"], where=str(source)), experiment),
        curves=tuple(
            documents.from_document(Curve, curve, where=f"{source}: curves") for curve in document["curves"]
        ),
        search=document["search"],
        settings=document["settings"],
        cpu_hours=document["cpu_hours"],
        versions=document["versions"],
        machine=document["machine"],
        command=document["command"],
    )


def _weighed(comparison: Comparison, experiment: Experiment) -> Comparison:
    """Take the verdict from claims of which the runs say nothing, whatever the rule makes of the numbers."""
    verdicts = tuple(
        replace(verdict, holds="no evidence: an arm diverged")
        if verdict.name in experiment.no_evidence
        else verdict
        for verdict in comparison.verdicts
    )
    return replace(comparison, verdicts=verdicts)


def _curve(runs: RunFolder, arm: Recipe) -> Curve:
    by_nll = metric_of(arm) == "nll"
    paths = [runs.peer_path(arm.label, seed, FIRST_PEER) / results.METRICS for seed in runs.seeds]
    return curve(
        arm.label,
        [results.load_evaluations(path) for path in paths if path.exists()],
        lambda row: row.validation_nll if by_nll else row.validation_accuracy,
    )


def _cpu_s(folder: RunFolder) -> float:
    ranks = {arm.label: methods.method(arm.method).plan(arm).ranks for arm in folder.arms}
    return math.fsum(one.seconds * ranks[one.arm] for one in folder.results())
