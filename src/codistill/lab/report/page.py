"""The report: one HTML file that needs nothing else, neither network nor script."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codistill.extras import require
from codistill.lab import methods
from codistill.lab.compare import compare
from codistill.lab.comparison import COMPARISON, Comparison, write_comparison
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.report.columns import details, footnotes, headlines
from codistill.lab.report.fairness import describe_budget
from codistill.lab.report.figures import make_figures
from codistill.lab.report.tuning import tuning_of

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
        ValueError: If a file in the folder cannot be read as what it should be; file and field are named.
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
            columns=headlines(comparison),
            details=details(comparison),
            are_expected=any(verdict.expects is not None for verdict in comparison.verdicts),
            budget=describe_budget(run.path, shown, comparison),
            notes=footnotes(comparison),
            seeds=len(run.seeds),
            unfinished=_unfinished(run, comparison),
            # Drawn here from numbers and labels that matplotlib escapes, so they may go in as they are.
            figures=make_figures(run, comparison),
            as_it_is=jinja2.utils.markupsafe.Markup,
            settings=[_settings(arm) for arm in shown],
            tuning=tuning_of(run.path, shown),
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


def _settings(arm: Recipe) -> dict[str, Any]:
    """Return what an arm was trained with: its name, what it shows, and values by heading."""
    has_interval = methods.method(arm.method).has_interval
    values = {
        "method": arm.method,
        "models": str(len(methods.method(arm.method).plan(arm).peers)),
        "samples/step": str(arm.batch_size),
        "updates": str(arm.updates),
        "learning rate": f"{arm.learning_rate:g}",
        "weight decay": f"{arm.weight_decay:g}",
        "smoothing": f"{arm.label_smoothing:g}",
        "interval": str(arm.interval_steps) if has_interval else "-",
        "lockstep": ("yes" if arm.lockstep else "no") if has_interval else "-",
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
