"""The figures of a report: which there are for a run, and what stands below each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from codistill.lab import claims, intervals, methods, results
from codistill.lab.comparison import Comparison
from codistill.lab.folder import RunFolder
from codistill.lab.recipe import Recipe
from codistill.lab.report import bars, curves, scatter, sweeps
from codistill.lab.results import Evaluation

_OVER_SEEDS = "Mean over seeds; the band is one standard deviation."
_BARS = "The lines are 95% intervals over seeds."


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure and what it shows."""

    title: str
    """What it shows, for those who do not see it too."""
    note: str
    """How it was made."""
    svg: str
    """An ``<svg>`` element; labels in it are escaped."""


def make_figures(run: RunFolder, comparison: Comparison) -> dict[str, list[Figure]]:
    """Return the figures that there are numbers for, by heading.

    Args:
        run: The results.
        comparison: What they come to.

    Raises:
        ExtraMissingError: If matplotlib is not installed.
        ValueError: If a row of metrics cannot be read; file, line and field are named.
    """
    shown = {row.arm for row in comparison.rows}
    arms = [arm for arm in run.arms if arm.label in shown]
    found = {
        "Learning curves": _learning(run, arms, comparison.metric),
        "Models and their teachers": _teachers(run, arms),
        "What is reached, and what it takes": [
            *_against_bytes([arm.label for arm in arms], comparison),
            *_churn(comparison),
        ],
        "Settings": _sweeps(arms, comparison),
    }
    return {heading: figures for heading, figures in found.items() if figures}


def _learning(run: RunFolder, arms: Sequence[Recipe], metric: str) -> list[Figure]:
    rows = [_evaluations(run, arm, _peers(arm)[0]) for arm in arms]

    def draw(value: Callable[[Evaluation], float], quantity: str, *, percent: bool = False) -> str:
        return _draw_courses(arms, rows, value, quantity, percent=percent)

    validation = (
        Figure(
            title="Validation NLL of the first model against updates",
            note=_OVER_SEEDS,
            svg=draw(lambda row: row.validation_nll, "validation NLL, nats"),
        )
        if metric == "nll"
        else Figure(
            title="Validation accuracy of the first model against updates",
            note=_OVER_SEEDS,
            svg=draw(lambda row: row.validation_accuracy, "validation accuracy, %", percent=True),
        )
    )
    return [
        validation,
        Figure(
            title="Training loss of the first model against updates, without the distillation loss; with "
            "label smoothing where the arm has it",
            note=_OVER_SEEDS,
            svg=draw(lambda row: row.train_loss, "training loss, nats"),
        ),
        Figure(
            title="Distance of the first model's weights from their initial values against updates",
            note=_OVER_SEEDS,
            svg=draw(lambda row: row.distance, "distance from initialisation (L2)"),
        ),
    ]


def _teachers(run: RunFolder, arms: Sequence[Recipe]) -> list[Figure]:
    taught = [(arm, _taught(run, arm)) for arm in arms]
    pupils = [number for number, (_, rows) in enumerate(taught) if any(rows)]
    if not pupils:
        return []
    students, rows = [arms[number] for number in pupils], [taught[number][1] for number in pupils]
    note = f"On the last batch before each evaluation, mean over teachers. {_OVER_SEEDS}"
    return [
        Figure(
            title="Share of a batch on which model and teacher find the same class likeliest, against "
            "updates",
            note=note,
            svg=_draw_courses(
                students,
                rows,
                lambda row: _mean(row.agreements),
                "agreement with teachers, %",
                percent=True,
                numbers=pupils,
            ),
        ),
        Figure(
            title="Distillation loss D between model and teacher, unweighted, against updates",
            note=note,
            svg=_draw_courses(
                students, rows, lambda row: _mean(row.teacher_losses), "D with teachers", numbers=pupils
            ),
        ),
    ]


def _draw_courses(
    arms: Sequence[Recipe],
    rows: Sequence[Sequence[Sequence[Evaluation]]],
    value: Callable[[Evaluation], float],
    quantity: str,
    *,
    percent: bool = False,
    numbers: Sequence[int] | None = None,
) -> str:
    """Draw one quantity of some arms; `numbers` keeps an arm's colour where not all are shown."""
    numbers = range(len(arms)) if numbers is None else numbers
    there = [
        (number, curves.curve(arm.label, seeds, value))
        for number, arm, seeds in zip(numbers, arms, rows, strict=True)
        if seeds
    ]
    return curves.draw(
        [course for _, course in there],
        quantity=quantity,
        percent=percent,
        numbers=[number for number, _ in there],
    )


def _taught(run: RunFolder, arm: Recipe) -> list[list[Evaluation]]:
    """Return the rows with teachers of the first model that had any, one sequence a seed."""
    for peer in _peers(arm):
        seeds = [
            [row for row in rows if row.agreements and row.teacher_losses]
            for rows in _evaluations(run, arm, peer)
        ]
        if any(seeds):
            return [rows for rows in seeds if rows]
    return []


def _against_bytes(arms: Sequence[str], comparison: Comparison) -> list[Figure]:
    name, unit, reached = _reached(comparison)
    # Arms keep the colours of their curves; ensembles, which have none, come after them.
    order = [*arms, *(row.arm for row in comparison.rows if row.arm not in arms)]
    points = [
        scatter.Point(
            label=row.arm,
            bytes_a_step=row.exchanged_bytes,
            value=reached[row.arm][0],
            reach=reached[row.arm][1],
        )
        for row in comparison.rows
        if row.arm in reached and row.exchanged_bytes is not None
    ]
    if len(points) < 2:
        return []
    return [
        Figure(
            title=f"{_sentence(name)} against bytes sent an update",
            note=f"{_BARS} Hollow, at the left: arms that send nothing.",
            svg=scatter.draw(
                points,
                quantity=f"{name}, {unit}",
                numbers=[order.index(point.label) for point in points],
            ),
        )
    ]


def _churn(comparison: Comparison) -> list[Figure]:
    found = [
        bars.Bar(
            label=row.arm,
            value=100 * row.churn,
            low=None if row.churn_low is None else 100 * row.churn_low,
            high=None if row.churn_high is None else 100 * row.churn_high,
        )
        for row in comparison.rows
        if row.churn is not None
    ]
    if not found:
        return []
    return [
        Figure(
            title="Churn: share of the test set on which two retrainings give different labels",
            note="The lines are 95% intervals, by jackknife over seeds.",
            svg=bars.draw(found, quantity="churn, %"),
        )
    ]


def _sweeps(arms: Sequence[Recipe], comparison: Comparison) -> list[Figure]:
    name, unit, reached = _reached(comparison)
    figures = []
    for field, lines in sweeps.find_sweeps([arm for arm in arms if arm.label in reached]).items():
        figures.append(
            Figure(
                title=f"{_sentence(name)} against {sweeps.FIELDS[field]}",
                note=f"All else but learning rate and weight decay is the same along a line. {_BARS}",
                svg=sweeps.draw(
                    lines,
                    field=field,
                    quantity=f"{name}, {unit}",
                    values=reached,
                    level=_level(arms, reached, field),
                ),
            )
        )
    return figures


def _level(
    arms: Sequence[Recipe], reached: Mapping[str, tuple[float, float | None]], field: str
) -> tuple[str, float] | None:
    """Return what the first all_reduce arm reaches where it has no such setting."""
    if field not in ("interval_steps", "distillation_weight"):
        return None
    plain = [arm.label for arm in arms if arm.method == "all_reduce" and arm.label in reached]
    return (plain[0], reached[plain[0]][0]) if plain else None


def _reached(comparison: Comparison) -> tuple[str, str, dict[str, tuple[float, float | None]]]:
    """Return what the arms are judged by, its unit, and its value and half its 95% interval by arm."""
    name = f"test_{comparison.metric}"
    metric = claims.METRICS[name]
    scale, unit = (100.0, "%") if comparison.metric == "accuracy" else (metric.scale, metric.unit)
    values = {row.arm: (row, getattr(row, name), getattr(row, f"{name}_sd")) for row in comparison.rows}
    return (
        metric.label,
        unit,
        {
            arm: (scale * mean, None if sd is None else scale * intervals.reach(sd, row.seeds))
            for arm, (row, mean, sd) in values.items()
            if mean is not None
        },
    )


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _peers(arm: Recipe) -> tuple[str, ...]:
    return methods.method(arm.method).plan(arm).peers


def _evaluations(run: RunFolder, arm: Recipe, peer: str) -> list[list[Evaluation]]:
    paths = [run.peer_path(arm.label, seed, peer) for seed in run.seeds]
    return [
        results.load_evaluations(path / results.METRICS)
        for path in paths
        if (path / results.RESULT).exists() and (path / results.METRICS).exists()
    ]


def _mean(of_teachers: Mapping[str, float]) -> float:
    return sum(of_teachers.values()) / len(of_teachers)
