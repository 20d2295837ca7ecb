"""Bars: one number of every arm side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from codistill.lab.report import drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One number of one arm."""

    label: str
    """Label of the arm."""
    value: float
    """How long it is; >= 0."""
    low: float | None
    """Lower end of its 95% interval; None for none."""
    high: float | None
    """Upper end of its 95% interval."""


def draw(bars: Sequence[Bar], *, quantity: str) -> str:
    """Return the bars as an ``<svg>`` element, the first at the top, with a line for each interval.

    Args:
        bars: One an arm.
        quantity: Label of the axis of values.

    Raises:
        ExtraMissingError: If matplotlib is not installed.
    """
    figure, axes = drawing.new_axes(height=0.9 + 0.3 * len(bars))
    for place, bar in enumerate(bars):
        axes.barh(place, bar.value, height=0.6, color=drawing.colour(0), alpha=0.75)
        if bar.low is not None and bar.high is not None:
            # An interval of a share may reach below 0, where there is nothing.
            reach = [[bar.value - max(bar.low, 0.0)], [bar.high - bar.value]]
            axes.errorbar(bar.value, place, xerr=reach, color="black", capsize=3, linewidth=1.1)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(quantity)
    drawing.add_grid(axes, along="x")
    return drawing.as_svg(figure, salt=quantity)
