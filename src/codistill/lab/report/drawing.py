"""What all figures have in common: colours, axes and how they become SVG; without pyplot and its state."""

import io
import math
from collections.abc import Iterable
from typing import Any

from codistill.extras import require

# Okabe and Ito's palette, which most colour-blind readers can tell apart, without its yellow, which is too
# pale for a line on white. Dashes and markers tell arms apart in grey print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 2, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

GREY = "#59636d"

_WIDTH, _HEIGHT = 6.0, 3.7
_LEGEND_COLUMNS = 3
_LEGEND_LINE = 0.19
"""Inches that a line of the legend takes."""


def colour(index: int) -> str:
    """Return the colour of the arm of that number."""
    return _COLOURS[index % len(_COLOURS)]


def dashes(index: int) -> Any:
    """Return the dashes of its line."""
    return _DASHES[index % len(_DASHES)]


def marker(index: int) -> str:
    """Return the shape of its points."""
    return _MARKERS[index % len(_MARKERS)]


def new_axes(*, legend: Iterable[str] = (), height: float = _HEIGHT) -> tuple[Any, Any]:
    """Return a figure and its axes.

    Args:
        legend: The labels that the legend will hold, which makes the figure higher.
        height: Of the figure without its legend, in inches.

    Raises:
        ExtraMissingError: If matplotlib is not installed.
    """
    figures: Any = require("matplotlib.figure", "lab")
    lines = math.ceil(len(list(legend)) / _LEGEND_COLUMNS)
    figure = figures.Figure(figsize=(_WIDTH, height + _LEGEND_LINE * lines), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def add_legend(figure: Any) -> None:
    """Put the legend below the axes."""
    figure.legend(loc="outside lower center", ncols=_LEGEND_COLUMNS, frameon=False, fontsize=8.5)


def add_grid(axes: Any, *, along: str) -> None:
    """Draw pale lines across an axis.

    Args:
        axes: Where.
        along: "x" or "y": the axis whose values they mark.
    """
    axes.grid(axis=along, color="#d8d8d8", linewidth=0.6)


def as_svg(figure: Any, *, salt: str) -> str:
    """Return a figure as an ``<svg>`` element.

    Args:
        figure: What was drawn.
        salt: Differs between the figures of a page, so that their ids do; the same gives the same file.
    """
    matplotlib: Any = require("matplotlib", "lab")
    target = io.StringIO()
    # Text stays text, so that readers can select and search it.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}):
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    document = target.getvalue()
    return document[document.index("<svg") :]
