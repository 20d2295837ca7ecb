"""The report: one HTML file that needs nothing else, neither network nor script."""

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codistill.extras import require
from codistill.lab import methods, results
from codistill.lab.compare import FIRST_PEER, compare
from codistill.lab.comparison import COMPARISON, Comparison, write_comparison
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.report import curves
from codistill.lab.report.columns import COLUMNS, footnotes, label
from codistill.lab.report.tuning import describe_tuning
from codistill.lab.results import Evaluation

REPORT = "report.html"
TEMPLATE = "report.html.j2"


def write_report(folder: str | Path) -> Path:
    """Compare the arms of a results folder and write ``comparison.json`` and ``report.html`` into it.

    Args:
        folder: The folder of a run, finished or not; arms without a finished seed are left out.

    Returns:
        Path of the report.

    Raises:
        RunExistsError: If the folder holds no run of codistill.
        DataMissingError: If no arm has a finished seed.
        ExtraMissingError: If jinja2 or matplotlib is not installed.
        OSError: If the files cannot be written.
    """
    run = RunFolder(folder)
    comparison = compare(run)
    page = _render(run, comparison)
    write_comparison(run.path / COMPARISON, comparison)
    return _write(run.path / REPORT, page)


def _render(run: RunFolder, comparison: Comparison) -> str:
    jinja2: Any = require("jinja2", "lab")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("codistill.lab.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = _typeset
    template = environment.get_template(TEMPLATE)
    shown = [arm for arm in run.arms if arm.label in {row.arm for row in comparison.rows}]
    return str(
        template.render(
            title=_title(run.arms),
            rows=comparison.rows,
            verdicts=comparison.verdicts,
            columns=COLUMNS,
            label=label,
            notes=footnotes(comparison),
            seeds=len(run.seeds),
            unfinished=_unfinished(run, comparison),
            # Drawn here from numbers and labels that matplotlib escapes, so it may go in as it is.
            figures=[(caption, jinja2.utils.markupsafe.Markup(svg)) for caption, svg in _figures(run, shown)],
            settings=[_settings(arm) for arm in shown],
            tuning=describe_tuning(shown),
            command=_command(run.document),
            resumed_with=[
                (_command(later), _mapping(later.get("versions"))) for later in run.document["resumed_with"]
            ],
            origin={**_mapping(run.document.get("versions")), **_mapping(run.document.get("machine"))},
        )
    )


def _title(arms: Sequence[Recipe]) -> str:
    names = ", ".join(dict.fromkeys(arm.name for arm in arms))
    tasks = ", ".join(dict.fromkeys(arm.task for arm in arms))
    return f"codistill {names} on {tasks}" if names != tasks else f"codistill on {tasks}"


def _unfinished(run: RunFolder, comparison: Comparison) -> list[str]:
    seeds = {row.arm: row.seeds for row in comparison.rows}
    return [
        f"{arm.label}: {seeds.get(arm.label, 0)} of {len(run.seeds)} seeds"
        for arm in run.arms
        if seeds.get(arm.label, 0) < len(run.seeds)
    ]


def _figures(run: RunFolder, arms: Sequence[Recipe]) -> list[tuple[str, str]]:
    """Return caption and SVG of each figure."""
    rows = {arm.label: _evaluations(run, arm.label) for arm in arms}

    def courses(value: Callable[[Evaluation], float]) -> list[curves.Curve]:
        return [curves.curve(arm, seeds, value) for arm, seeds in rows.items() if seeds]

    return [
        (
            "Validation accuracy of the first model against updates",
            curves.draw(
                courses(lambda row: row.validation_accuracy), quantity="validation accuracy, %", percent=True
            ),
        ),
        (
            "Training loss of the first model against updates, without the distillation loss; with label "
            "smoothing where the arm has it",
            curves.draw(courses(lambda row: row.train_loss), quantity="training loss, nats"),
        ),
    ]


def _evaluations(run: RunFolder, arm: str) -> list[list[Evaluation]]:
    paths = [run.peer_path(arm, seed, FIRST_PEER) for seed in run.seeds]
    return [
        results.load_evaluations(path / results.METRICS)
        for path in paths
        if (path / results.RESULT).exists() and (path / results.METRICS).exists()
    ]


def _settings(arm: Recipe) -> dict[str, Any]:
    """Return what an arm was trained with: its name, what it shows, and values by heading."""
    values = {
        "method": arm.method,
        "models": str(len(methods.method(arm.method).plan(arm).peers)),
        "samples/step": str(arm.batch_size),
        "updates": str(arm.updates),
        "learning rate": f"{arm.learning_rate:g}",
        "weight decay": f"{arm.weight_decay:g}",
        "smoothing": f"{arm.label_smoothing:g}",
        "interval": str(arm.interval_steps) if arm.method == "codistillation" else "-",
        "lockstep": ("yes" if arm.lockstep else "no") if arm.method == "codistillation" else "-",
    }
    return {"arm": arm.label, "summary": arm.summary, "values": values}


def _command(document: Mapping[str, Any]) -> str:
    return shlex.join(str(word) for word in document["command"])


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _typeset(text: str) -> str:
    return text.replace("+-", "\N{PLUS-MINUS SIGN}").replace(" x ", " \N{MULTIPLICATION SIGN} ")


def _write(path: Path, text: str) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path
