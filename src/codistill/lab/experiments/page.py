"""The page of findings, ``docs/reproduction.md``, and its figures, made of what is committed.

::

    python -m codistill.lab.experiments.page docs/reproduction.md
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from codistill.lab import experiments
from codistill.lab.experiments import finding as findings
from codistill.lab.experiments.base import Experiment
from codistill.lab.experiments.finding import Finding
from codistill.lab.report import curves
from codistill.lab.report.markdown import comparison_markdown

_HEAD = """# Do the papers' claims hold here?

At the scale of two cores: small networks, small data, minutes. Task, arms, search, claims and the rule of
each verdict were written down before anything ran ([code](../src/codistill/lab/experiments)); learning rate
and weight decay were searched on validation data, with the same points for every arm; the test set was read
once, at the end of each run. Seeds are paired over arms. A claim **holds** if the 95% interval of the paired
difference lies on its side of 0 (or, for parity, within the margin), it **does not hold here** if no effect
as large as the margin is compatible with the runs (for parity: if the interval lies wholly outside), and else
it is **too noisy to tell**. A claim that does not hold at this scale may hold at the paper's.

Each section is what its command prints, from the committed
[results](../src/codistill/lab/experiments/results); `--anew` runs it again. This page is made by
`make reproduction`.
"""


FIGURES = "figures"


def page() -> str:
    """Return the page, in Markdown."""
    found = _found()
    parts = [_HEAD, _summary(found)]
    parts += [_section(one, finding) for one, finding in found if finding is not None]
    return "\n".join(parts)


def figures() -> dict[str, str]:
    """Return the figures of the page as SVG, by the names of their files.

    Raises:
        ExtraMissingError: If matplotlib is not installed.
    """
    drawn = {}
    for experiment, finding in _found():
        if finding is not None:
            by_nll = finding.comparison.metric == "nll"
            quantity = "validation NLL, nats" if by_nll else "validation accuracy, %"
            drawn[_file_of(experiment)] = curves.draw(finding.curves, quantity=quantity, percent=not by_nll)
    return drawn


def _found() -> list[tuple[Experiment, Finding | None]]:
    own = [experiments.experiment(name) for name in experiments.names()]
    return [(one, findings.committed(one)) for one in own]


def _file_of(experiment: Experiment) -> str:
    return f"{experiment.name}.svg"


def describe(experiment: Experiment) -> list[str]:
    """Return what an experiment is about, a paragraph each."""
    rates = ", ".join(f"{value:g}" for value in experiment.space.learning_rates)
    decays = ", ".join(f"{value:g}" for value in experiment.space.weight_decays)
    untuned = [f"{label} has the settings of {other}." for label, other in experiment.settings_of.items()]
    return [
        f"Claimed: {experiment.says} ({experiment.paper})",
        f"Here: {experiment.regime}",
        f"Search, for every arm: learning rates {rates}; weight decays {decays}; "
        f"{len(experiment.space.seeds)} seed(s) at each point. {' '.join(untuned)}".strip(),
        f"Otherwise than in the paper: {'; '.join(experiment.deviations)}.",
    ]


def describe_finding(finding: Finding) -> str:
    """Return what was chosen, what it cost and on what it ran, in a paragraph."""
    chosen = "; ".join(
        f"{label}: {values['learning_rate']:g}, {values['weight_decay']:g}"
        for label, values in finding.settings.items()
    )
    at_edge = [arm["arm"] for arm in finding.search["arms"] if arm["at_edge"]]
    machine = ", ".join(f"{name} {value}" for name, value in finding.machine.items())
    versions = ", ".join(f"{name} {value}" for name, value in finding.versions.items())
    return (
        f"Chosen learning rate and weight decay: {chosen}. "
        f"At an edge of the grid: {', '.join(at_edge) or 'none'}. "
        f"{finding.cpu_hours:.1f} CPU-hours in training loops. {versions}; {machine}."
    )


def _summary(found: Sequence[tuple[Experiment, Finding | None]]) -> str:
    lines = ["| claim | says | difference (95% interval) | verdict |", "| --- | --- | ---: | --- |"]
    for experiment, finding in found:
        if finding is None:
            lines.append(f"| {experiment.name} | {experiment.says} | - | not run |")
            continue
        for verdict in finding.comparison.verdicts:
            lines.append(
                f"| {verdict.name} | {verdict.says}: `{verdict.arm}` against `{verdict.against}` on "
                f"{verdict.quantity()} | {verdict.change()} ({verdict.interval()}) | "
                f"{verdict.holds or verdict.outcome} |"
            )
    return "\n".join(lines) + "\n"


def _section(experiment: Experiment, finding: Finding) -> str:
    rows = {row.arm: row.summary for row in finding.comparison.rows}
    arms = [f"- `{arm}`: {summary}" for arm, summary in rows.items()]
    return "\n".join(
        [
            f"## {experiment.name}",
            "",
            *(f"{paragraph}\n" for paragraph in describe(experiment)),
            *arms,
            "",
            f"    codistill reproduce {experiment.name}",
            "",
            f"![Validation metric of the first model against updates]({FIGURES}/{_file_of(experiment)})",
            "",
            comparison_markdown(finding.comparison),
            describe_finding(finding),
            "",
        ]
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(page(), encoding="utf-8")
    (target.parent / FIGURES).mkdir(exist_ok=True)
    for name, svg in figures().items():
        (target.parent / FIGURES / name).write_text(svg, encoding="utf-8")
