"""A scatter of arms: what they reach against what they send."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codistill.extras import require
from codistill.lab.report import drawing
from codistill.lab.report.quantities import in_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One arm."""

    label: str
    """Label of the arm."""
    bytes_a_step: float
    """What a model exchanges an update; 0 for nothing."""
    value: float
    """What the arm reaches, in the unit of the axis."""
    reach: float | None
    """Half the width of its 95% interval; None for none."""


def draw(points: Sequence[Point], *, quantity: str, numbers: Sequence[int] | None = None) -> str:
    """Return the arms as an ``<svg>`` element; those that send nothing stand at the left edge, hollow.

    Args:
        points: One an arm.
        quantity: Label of the vertical axis.
        numbers: Number of each arm, which gives its colour and marker; in order if not given.

    Raises:
        ExtraMissingError: If matplotlib is not installed.
    """
    figure, axes = drawing.new_axes(legend=[point.label for point in points])
    sent = [point.bytes_a_step for point in points if point.bytes_a_step > 0]
    least, most = min(sent, default=1.0), max(sent, default=1.0)
    # Nothing has no place on a logarithmic axis: it stands apart, to the left of a line.
    silent = [point for point in points if point.bytes_a_step == 0]
    nothing = least / 6
    axes.set_xscale("log")
    numbers = range(len(points)) if numbers is None else numbers
    for number, point in zip(numbers, points, strict=True):
        is_silent = point.bytes_a_step == 0
        # Side by side, as their error bars would hide one another.
        place = nothing * 1.15 ** silent.index(point) if is_silent else point.bytes_a_step
        axes.errorbar(
            place,
            point.value,
            yerr=point.reach,
            color=drawing.colour(number),
            marker=drawing.marker(number),
            markerfacecolor="white" if is_silent else None,
            markersize=6,
            linestyle="none",
            capsize=2.5,
            linewidth=1.1,
            label=point.label,
        )
    edge = nothing * 1.15 ** len(silent)
    if silent and sent:
        axes.axvline((edge * least) ** 0.5, color=drawing.GREY, linewidth=0.8, linestyle=(0, (2, 3)))
    left = nothing / 1.4 if silent else least / 1.6
    axes.set_xlim(left, most * 1.6)
    _mark_bytes(axes, nothing=(nothing * edge / 1.15) ** 0.5 if silent else None, least=least)
    axes.set_xlabel("bytes an update")
    axes.set_ylabel(quantity)
    drawing.add_grid(axes, along="y")
    if points:
        drawing.add_legend(figure)
    return drawing.as_svg(figure, salt=f"{quantity} against bytes")


def _mark_bytes(axes: Any, *, nothing: float | None, least: float) -> None:
    """Mark 1, 2 and 5 of every power of ten that is in view, and where nothing stands."""
    ticker: Any = require("matplotlib.ticker", "lab")
    low, high = axes.get_xlim()
    steps = (1, 2, 5) if high / least < 50 else (1,) if high / least > 5000 else (1, 3)
    marks = [
        step * 10**power for power in range(12) for step in steps if least / 1.6 <= step * 10**power <= high
    ]
    labels = [in_bytes(mark).replace(".0", "") for mark in marks]
    if nothing is not None:
        marks, labels = [nothing, *marks], ["none", *labels]
    axes.set_xticks(marks, labels)
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlim(low, high)
