"""Curves against updates: how arms came where they are."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from codistill.lab.report import drawing
from codistill.lab.results import Evaluation


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


def draw(
    curves: Sequence[Curve], *, quantity: str, percent: bool = False, numbers: Sequence[int] | None = None
) -> str:
    """Return the curves as an ``<svg>`` element: a line an arm, with a band of one standard deviation.

    The axis leaves out the first tenth of the course, in which values change most and say least.

    Args:
        curves: One an arm.
        quantity: Label of the vertical axis.
        percent: Whether values are shares, to be shown times 100.
        numbers: Number of each arm, which gives its colour and dashes; in order if not given.

    Raises:
        ExtraMissingError: If matplotlib is not installed.
    """
    figure, axes = drawing.new_axes(legend=[course.label for course in curves])
    scale = 100.0 if percent else 1.0
    numbers = range(len(curves)) if numbers is None else numbers
    for number, course in zip(numbers, curves, strict=True):
        means = [scale * mean for mean in course.means]
        band = [scale * sd for sd in course.sds]
        low = [mean - sd for mean, sd in zip(means, band, strict=True)]
        high = [mean + sd for mean, sd in zip(means, band, strict=True)]
        colour = drawing.colour(number)
        axes.fill_between(course.steps, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(
            course.steps,
            means,
            color=colour,
            linestyle=drawing.dashes(number),
            marker="o" if len(means) == 1 else None,
            linewidth=1.5,
            label=course.label,
        )
    _set_limits(axes, curves, scale)
    axes.set_xlabel("updates")
    axes.set_ylabel(quantity)
    drawing.add_grid(axes, along="y")
    if curves:
        drawing.add_legend(figure)
    return drawing.as_svg(figure, salt=quantity)


def _set_limits(axes: Any, curves: Sequence[Curve], scale: float) -> None:
    last = max((course.steps[-1] for course in curves if course.steps), default=0)
    ends = [
        scale * end
        for course in curves
        for step, mean, sd in zip(course.steps, course.means, course.sds, strict=True)
        if step > last / 10
        for end in (mean - sd, mean + sd)
    ]
    shown = [end for end in ends if math.isfinite(end)]
    if shown and max(shown) > min(shown):
        margin = 0.04 * (max(shown) - min(shown))
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
    if last:
        axes.set_xlim(0, last)
