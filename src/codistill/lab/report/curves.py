"""Learning curves as SVG, drawn without pyplot and so without a state of its own."""

import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from codistill.extras import require
from codistill.lab.results import Evaluation

# Okabe and Ito's palette, which most colour-blind readers can tell apart, without its yellow, which is too
# pale for a line on white. The dashes tell curves apart in grey print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 2, 2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The course of one quantity in one arm."""

    label: str
    """Label of the arm."""
    steps: tuple[int, ...]
    """Updates at which it was measured."""
    means: tuple[float, ...]
    """Mean over seeds."""
    sds: tuple[float, ...]
    """Standard deviation over seeds; 0 with one seed."""


def curve(label: str, seeds: Sequence[Sequence[Evaluation]], value: Callable[[Evaluation], float]) -> Curve:
    """Return the mean course over seeds, at the steps that all seeds have.

    Args:
        label: Label of the arm.
        seeds: The rows of one peer, one sequence a seed.
        value: What to take of a row.
    """
    by_step = [{row.step: value(row) for row in rows} for rows in seeds]
    steps = sorted(set.intersection(*(set(rows) for rows in by_step))) if by_step else []
    columns = [[rows[step] for rows in by_step] for step in steps]
    return Curve(
        label=label,
        steps=tuple(steps),
        means=tuple(statistics.fmean(values) for values in columns),
        sds=tuple(statistics.stdev(values) if len(values) > 1 else 0.0 for values in columns),
    )


def draw(curves: Sequence[Curve], *, quantity: str, percent: bool = False) -> str:
    """Return the curves as an ``<svg>`` element: a line an arm, with a band of one standard deviation.

    The axis leaves out the first tenth of the course, in which values change most and say least.

    Args:
        curves: One an arm, in the order of their colours.
        quantity: Label of the vertical axis.
        percent: Whether values are shares, to be shown times 100.

    Raises:
        ExtraMissingError: If matplotlib is not installed.
    """
    matplotlib: Any = require("matplotlib", "lab")
    figures: Any = require("matplotlib.figure", "lab")
    figure = figures.Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    scale = 100.0 if percent else 1.0
    for index, course in enumerate(curves):
        colour = _COLOURS[index % len(_COLOURS)]
        means = [scale * mean for mean in course.means]
        band = [scale * sd for sd in course.sds]
        low = [mean - sd for mean, sd in zip(means, band, strict=True)]
        high = [mean + sd for mean, sd in zip(means, band, strict=True)]
        axes.fill_between(course.steps, low, high, color=colour, alpha=0.13, linewidth=0)
        dashes = _DASHES[index % len(_DASHES)]
        marker = "o" if len(means) == 1 else None
        axes.plot(
            course.steps,
            means,
            color=colour,
            linestyle=dashes,
            marker=marker,
            linewidth=1.5,
            label=course.label,
        )
    _set_limits(axes, curves, scale)
    axes.set_xlabel("updates")
    axes.set_ylabel(quantity)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#d8d8d8", linewidth=0.6)
    axes.set_axisbelow(True)
    if curves:
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    target = io.StringIO()
    # Text stays text, so that readers can select and search it; the salt makes the same numbers give the
    # same file.
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": quantity, "font.family": "sans-serif"}
    ):
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    document = target.getvalue()
    return document[document.index("<svg") :]


def _set_limits(axes: Any, curves: Sequence[Curve], scale: float) -> None:
    last = max((course.steps[-1] for course in curves if course.steps), default=0)
    shown = [
        scale * end
        for course in curves
        for step, mean, sd in zip(course.steps, course.means, course.sds, strict=True)
        if step > last / 10
        for end in (mean - sd, mean + sd)
    ]
    if shown and max(shown) > min(shown):
        margin = 0.04 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    if last:
        axes.set_xlim(0, last)
